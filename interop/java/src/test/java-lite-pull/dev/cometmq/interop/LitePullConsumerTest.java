package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** The lite pull consumer, by subscription and by assignment. */
@ExtendWith(SharedServer.class)
class LitePullConsumerTest {
    private static final long POLL_LIMIT_MS = 30_000;

    private final Server server;
    private final Session session;
    private String topic;
    private DefaultMQProducer producer;

    LitePullConsumerTest(Server server) {
        this.server = server;
        session = new Session(server);
    }

    @BeforeEach
    void createTopic() throws Exception {
        topic = session.newTopic(server, "lite");
        producer = session.producer();
    }

    @AfterEach
    void closeSession() {
        session.close();
    }

    /** A subscriber gets everything once; after it has committed, its successor gets only what came later. */
    @Test
    void subscriptionGoesOnWhereItWasCommitted() throws Exception {
        String group = Clients.unique("lite");
        List<String> first = send(100);
        assertEquals(first, poll(group, 100));
        session.awaitCommitted(server, group, topic, 100);
        List<String> second = send(60);
        assertEquals(second, poll(group, 60));
    }

    /**
     * Assigned to one queue the consumer reads all of it; moved back to an offset it reads from exactly there to the end.
     * It is moved only when it has read everything: the client takes the answer of a pull that was on its way.
     */
    @Test
    void assignmentAndSeek() throws Exception {
        MessageQueue queue = new MessageQueue(topic, "broker-a", 3);
        for (int i = 0; i < 40; i++) {
            producer.send(new Message(topic, new byte[] {(byte) i}), queue);
        }
        DefaultLitePullConsumer consumer = newConsumer(Clients.unique("assign"));
        consumer.start();
        try {
            assertEquals(4, consumer.fetchMessageQueues(topic).size());
            consumer.assign(List.of(queue));
            pollCount(consumer, 40);
            consumer.seek(queue, 25);
            List<MessageExt> messages = pollCount(consumer, 15);
            for (int i = 0; i < 15; i++) {
                assertEquals(25 + i, messages.get(i).getQueueOffset());
                assertEquals(25 + i, messages.get(i).getBody()[0]);
            }
        } finally {
            consumer.shutdown();
        }
    }

    private List<String> send(int count) throws Exception {
        List<String> ids = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            ids.add(producer.send(new Message(topic, new byte[] {1})).getMsgId());
        }
        return ids.stream().sorted().toList();
    }

    private List<String> poll(String group, int count) throws Exception {
        DefaultLitePullConsumer consumer = newConsumer(group);
        consumer.setAutoCommit(false);
        consumer.subscribe(topic, "*");
        consumer.start();
        try {
            List<MessageExt> messages = pollCount(consumer, count);
            consumer.commitSync();
            return messages.stream().map(MessageExt::getMsgId).sorted().toList();
        } finally {
            consumer.shutdown();
        }
    }

    private DefaultLitePullConsumer newConsumer(String group) {
        DefaultLitePullConsumer consumer = Clients.separate(new DefaultLitePullConsumer(group), session.namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        return consumer;
    }

    /** Polls until there are this many, and once more to see that there are no others. */
    private static List<MessageExt> pollCount(DefaultLitePullConsumer consumer, int count) {
        List<MessageExt> messages = new ArrayList<>();
        long deadline = System.currentTimeMillis() + POLL_LIMIT_MS;
        while (messages.size() < count && System.currentTimeMillis() < deadline) {
            messages.addAll(consumer.poll(500));
        }
        messages.addAll(consumer.poll(1000));
        assertEquals(count, messages.size(), () -> "queue and offset of each: " + messages.stream()
            .map(message -> message.getQueueId() + "/" + message.getQueueOffset()).toList());
        return messages;
    }
}
