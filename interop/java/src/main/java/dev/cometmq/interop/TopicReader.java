package dev.cometmq.interop;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.function.Consumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Reads what a topic holds now, queue by queue from the first to the last offset, leaving no consumer offsets behind. */
final class TopicReader implements AutoCloseable {
    private static final int PULL_BATCH = 32;
    private static final long ROUTE_WAIT_MS = 10_000;

    private final DefaultMQPullConsumer consumer;

    TopicReader(String namesrv) throws MQClientException {
        consumer = Clients.separate(new DefaultMQPullConsumer(Clients.unique("reader")), namesrv);
        consumer.start();
    }

    /** The topic's queues on all brokers, in order; waits for the route of a topic that was only just created. */
    List<MessageQueue> queues(String topic) throws Exception {
        long deadline = System.currentTimeMillis() + ROUTE_WAIT_MS;
        while (true) {
            try {
                List<MessageQueue> queues = new ArrayList<>(consumer.fetchSubscribeMessageQueues(topic));
                queues.sort(Comparator.naturalOrder());
                return queues;
            } catch (MQClientException e) {
                if (System.currentTimeMillis() > deadline) {
                    throw e;
                }
                Thread.sleep(100);
            }
        }
    }

    /** Hands over every message of a queue in offset order, up to the maximum offset at the time of the call. */
    void read(MessageQueue queue, Consumer<MessageExt> each) throws Exception {
        read(queue, "*", each);
    }

    /** The same for the messages that the broker finds to match a tag expression. */
    void read(MessageQueue queue, String tags, Consumer<MessageExt> each) throws Exception {
        long offset = consumer.minOffset(queue);
        long end = consumer.maxOffset(queue);
        while (offset < end) {
            PullResult result = consumer.pull(queue, tags, offset, PULL_BATCH);
            if (result.getPullStatus() == PullStatus.NO_NEW_MSG) {
                throw new IllegalStateException(queue + " ends at " + offset + " but its maximum offset is " + end);
            }
            if (result.getPullStatus() == PullStatus.FOUND) {
                result.getMsgFoundList().forEach(each);
            }
            if (result.getNextBeginOffset() <= offset) {
                throw new IllegalStateException(queue + ": no progress at offset " + offset + ": " + result);
            }
            offset = result.getNextBeginOffset();
        }
    }

    /** Every message of a topic; offset order within a queue, queues one after the other. */
    List<MessageExt> readAll(String topic) throws Exception {
        List<MessageExt> messages = new ArrayList<>();
        for (MessageQueue queue : queues(topic)) {
            read(queue, messages::add);
        }
        return messages;
    }

    @Override
    public void close() {
        consumer.shutdown();
    }
}
