package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** The plain pull consumer: offsets by position and by time, and each outcome of a pull. */
@ExtendWith(SharedServer.class)
class PullConsumerTest {
    private static final int COUNT = 50;

    private final Server server;
    private final Session session;
    private final String group = Clients.unique("pull");
    private DefaultMQPullConsumer consumer;
    private DefaultMQProducer producer;
    /** Holds fifty messages, even ones tagged Even, stored in distinct milliseconds. */
    private MessageQueue full;
    private MessageQueue empty;

    PullConsumerTest(Server server) {
        this.server = server;
        session = new Session(server);
    }

    @BeforeEach
    void fillOneQueue() throws Exception {
        String topic = session.newTopic(server, "pull");
        full = new MessageQueue(topic, "broker-a", 1);
        empty = new MessageQueue(topic, "broker-a", 2);
        producer = session.producer();
        consumer = session.pullConsumer(group);
        for (int i = 0; i < COUNT; i++) {
            SendResult result = producer.send(new Message(topic, i % 2 == 0 ? "Even" : "Odd", new byte[] {(byte) i}), full);
            assertEquals(i, result.getQueueOffset());
            Thread.sleep(2);
        }
    }

    @AfterEach
    void closeSession() {
        session.close();
    }

    /** The route shows four queues; minimum and maximum offsets tell full from empty. */
    @Test
    void queuesAndTheirBounds() throws Exception {
        assertEquals(4, consumer.fetchSubscribeMessageQueues(full.getTopic()).size());
        assertEquals(0, consumer.minOffset(full));
        assertEquals(COUNT, consumer.maxOffset(full));
        assertEquals(0, consumer.minOffset(empty));
        assertEquals(0, consumer.maxOffset(empty));
    }

    /** Found, not matched, nothing new, illegal: each with the offset to go on at. */
    @Test
    void outcomesOfAPull() throws Exception {
        PullResult found = consumer.pull(full, "*", 10, 20);
        check(found, PullStatus.FOUND, 30);
        assertEquals(0, found.getMinOffset());
        assertEquals(COUNT, found.getMaxOffset());
        assertEquals(20, found.getMsgFoundList().size());
        for (int i = 0; i < 20; i++) {
            MessageExt message = found.getMsgFoundList().get(i);
            assertEquals(10 + i, message.getQueueOffset());
            assertEquals(10 + i, message.getBody()[0]);
        }
        PullResult even = consumer.pull(full, "Even", 0, 32);
        assertEquals(PullStatus.FOUND, even.getPullStatus());
        assertTrue(even.getMsgFoundList().stream().allMatch(message -> message.getTags().equals("Even")));
        check(consumer.pull(full, "None", 0, 32), PullStatus.NO_MATCHED_MSG, COUNT);
        check(consumer.pull(full, "*", COUNT, 32), PullStatus.NO_NEW_MSG, COUNT);
        check(consumer.pull(full, "*", COUNT + 100, 32), PullStatus.OFFSET_ILLEGAL, COUNT);
        check(consumer.pull(empty, "*", 0, 32), PullStatus.NO_NEW_MSG, 0);
        check(consumer.pull(empty, "*", 7, 32), PullStatus.OFFSET_ILLEGAL, 0);
    }

    /** Searching by time finds the first message stored at or after it, also before the first and after the last. */
    @Test
    void searchByTime() throws Exception {
        List<MessageExt> messages = new ArrayList<>();
        session.reader().read(full, messages::add);
        for (int i : new int[] {0, 1, 20, COUNT - 1}) {
            assertEquals(i, consumer.searchOffset(full, messages.get(i).getStoreTimestamp()));
        }
        assertEquals(0, consumer.searchOffset(full, messages.get(0).getStoreTimestamp() - 60_000));
        assertEquals(COUNT, consumer.searchOffset(full, messages.get(COUNT - 1).getStoreTimestamp() + 60_000));
        assertEquals(0, consumer.searchOffset(empty, System.currentTimeMillis()));
    }

    /**
     * A committed offset is read back from the server by another consumer of the group. A group that never committed is
     * told 0, not "none", as long as the queue still has its first message in memory. The pull comes first because only
     * pulls and heartbeats make the group known; before that a commit is refused, and being oneway nobody hears of it.
     */
    @Test
    void committedOffset() throws Exception {
        consumer.pull(full, "*", 0, 1);
        assertEquals(0, consumer.fetchConsumeOffset(full, true));
        consumer.getDefaultMQPullConsumerImpl().updateConsumeOffset(full, 33);
        consumer.getOffsetStore().persist(full);
        DefaultMQPullConsumer other = session.pullConsumer(group);
        Await.until(Duration.ofSeconds(5), () -> {
            try {
                long offset = other.fetchConsumeOffset(full, true);
                return offset == 33 ? null : "offset " + offset;
            } catch (Exception e) {
                return e.toString();
            }
        });
    }

    /** A blocking pull at the end of a queue is held until a message comes, and then answered in less than a second. */
    @Test
    void blockingPullIsAnsweredByTheNextMessage() throws Exception {
        CompletableFuture<PullResult> pull = CompletableFuture.supplyAsync(() -> {
            try {
                return consumer.pullBlockIfNotFound(empty, "*", 0, 32);
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
        Thread.sleep(500);
        assertTrue(!pull.isDone(), "the pull is held");
        long start = System.nanoTime();
        producer.send(new Message(empty.getTopic(), new byte[] {9}), empty);
        PullResult result = pull.get(10, TimeUnit.SECONDS);
        long latencyMs = (System.nanoTime() - start) / 1_000_000;
        check(result, PullStatus.FOUND, 1);
        assertTrue(latencyMs < 1000, "took " + latencyMs + " ms");
    }

    /** A queue that the topic does not have is refused as an invalid parameter. */
    @Test
    void queueBeyondTheLast() throws Exception {
        MessageQueue beyond = new MessageQueue(full.getTopic(), "broker-a", 99);
        MQBrokerException refusal = assertThrows(MQBrokerException.class,
            () -> consumer.pull(beyond, "*", 0, 32));
        assertEquals(29, refusal.getResponseCode());
        assertTrue(refusal.getErrorMessage().contains("99"), refusal.getErrorMessage());
    }

    private static void check(PullResult result, PullStatus status, long next) {
        assertEquals(status, result.getPullStatus(), result.toString());
        assertEquals(next, result.getNextBeginOffset(), result.toString());
    }
}
