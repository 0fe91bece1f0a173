package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.message.MessageExt;

/** Keeps every delivery of one or more push consumers, in order of arrival; always succeeds. */
final class Inbox implements MessageListenerConcurrently {
    private static final Duration DELIVERY_LIMIT = Duration.ofSeconds(30);
    private static final Duration EXTRAS_WAIT = Duration.ofSeconds(1);

    private final List<MessageExt> messages = new ArrayList<>();

    @Override
    public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> delivered, ConsumeConcurrentlyContext context) {
        add(delivered);
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
    }

    /** The same inbox as an orderly listener. */
    MessageListenerOrderly orderly() {
        return (List<MessageExt> delivered, ConsumeOrderlyContext context) -> {
            add(delivered);
            return ConsumeOrderlyStatus.SUCCESS;
        };
    }

    synchronized List<MessageExt> messages() {
        return List.copyOf(messages);
    }

    Set<String> ids() {
        return messages().stream().map(MessageExt::getMsgId).collect(Collectors.toSet());
    }

    /** Waits until each of these ids has arrived at least once. */
    void awaitAll(Collection<String> ids) {
        Await.until(DELIVERY_LIMIT, () -> {
            Set<String> missing = new TreeSet<>(ids);
            missing.removeAll(ids());
            return missing.isEmpty() ? null : missing.size() + " of " + ids.size() + " messages did not arrive: " + missing;
        });
    }

    /** Waits for these ids and a second longer: nothing else may arrive, and nothing twice. */
    void awaitExactly(Collection<String> ids) throws InterruptedException {
        awaitExactly(ids, EXTRAS_WAIT);
    }

    void awaitExactly(Collection<String> ids, Duration extrasWait) throws InterruptedException {
        awaitAll(ids);
        Thread.sleep(extrasWait.toMillis());
        List<String> delivered = messages().stream().map(MessageExt::getMsgId).sorted().toList();
        assertEquals(ids.stream().sorted().toList(), delivered, "deliveries must be exactly the messages sent");
    }

    private synchronized void add(List<MessageExt> delivered) {
        messages.addAll(delivered);
    }
}
