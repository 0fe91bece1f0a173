package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.AllocateMessageQueueStrategy;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** The consumers of a group share the queues, and the server tells them when one comes or goes. */
@ExtendWith(SharedServer.class)
class RebalanceTest {
    private static final Duration REBALANCE_LIMIT = Duration.ofSeconds(10);

    private final Server server;

    RebalanceTest(Server server) {
        this.server = server;
    }

    /**
     * Two consumers take two queues each and get everything once. A third joins and leaves again while messages flow:
     * the shares follow within ten seconds (the client by itself looks only every twenty), and no message is lost.
     */
    @Test
    void queuesAreSharedAsConsumersComeAndGo() throws Exception {
        ExecutorService background = Executors.newSingleThreadExecutor();
        try (Session session = new Session(server)) {
            String topic = session.newTopic(server, "rebalance");
            String group = Clients.unique("rebalance");
            DefaultMQProducer producer = session.producer();
            Inbox inbox = new Inbox();
            Member first = new Member(session, group, topic, inbox);
            Member second = new Member(session, group, topic, inbox);
            awaitShares(List.of(first, second), 2, 2);

            List<String> sent = new ArrayList<>();
            for (int i = 0; i < 200; i++) {
                sent.add(producer.send(new Message(topic, new byte[] {1})).getMsgId());
            }
            inbox.awaitExactly(sent);

            AtomicBoolean enough = new AtomicBoolean();
            Future<List<String>> flow = background.submit(() -> sendUntil(enough, producer, topic));
            Member third = new Member(session, group, topic, inbox);
            awaitShares(List.of(first, second, third), 1, 1, 2);
            third.consumer.shutdown();
            awaitShares(List.of(first, second), 2, 2);
            enough.set(true);
            inbox.awaitAll(flow.get());

            int deliveriesBefore = inbox.messages().size();
            List<String> last = new ArrayList<>();
            for (int i = 0; i < 100; i++) {
                last.add(producer.send(new Message(topic, new byte[] {2})).getMsgId());
            }
            inbox.awaitAll(last);
            assertEquals(100, inbox.messages().stream().filter(message -> message.getBody()[0] == 2).count(),
                "duplicates long after the rebalance; deliveries before: " + deliveriesBefore);
        } finally {
            background.shutdownNow();
        }
    }

    private static List<String> sendUntil(AtomicBoolean enough, DefaultMQProducer producer, String topic) throws Exception {
        List<String> sent = new ArrayList<>();
        while (!enough.get()) {
            sent.add(producer.send(new Message(topic, new byte[] {1})).getMsgId());
            Thread.sleep(5);
        }
        return sent;
    }

    /** Waits until the members hold all four queues between them, none twice, in shares of these sizes. */
    private static void awaitShares(List<Member> members, Integer... sizes) {
        Await.until(REBALANCE_LIMIT, () -> {
            List<List<MessageQueue>> shares = members.stream().map(member -> member.share).toList();
            boolean disjoint = shares.stream().flatMap(List::stream).distinct().count() == 4;
            boolean sized = shares.stream().map(List::size).sorted().toList().equals(Arrays.asList(sizes));
            return disjoint && sized ? null : "shares are " + shares;
        });
    }

    /** A push consumer that shows which queues of the topic it was last given. */
    private static final class Member {
        final DefaultMQPushConsumer consumer;
        volatile List<MessageQueue> share = List.of();

        Member(Session session, String group, String topic, Inbox inbox) throws Exception {
            consumer = session.newConsumer(group, topic, "*");
            consumer.registerMessageListener(inbox);
            AllocateMessageQueueStrategy averagely = new AllocateMessageQueueAveragely();
            consumer.setAllocateMessageQueueStrategy(new AllocateMessageQueueStrategy() {
                @Override
                public List<MessageQueue> allocate(String group, String self, List<MessageQueue> queues, List<String> all) {
                    List<MessageQueue> allocated = averagely.allocate(group, self, queues, all);
                    if (queues.get(0).getTopic().equals(topic)) {
                        share = List.copyOf(allocated);
                    }
                    return allocated;
                }

                @Override
                public String getName() {
                    return averagely.getName();
                }
            });
            session.start(consumer);
        }
    }
}
