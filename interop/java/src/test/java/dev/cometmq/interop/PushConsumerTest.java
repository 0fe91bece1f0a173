package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** The push consumer's modes. */
@ExtendWith(SharedServer.class)
class PushConsumerTest {
    private final Server server;
    private final Session session;

    PushConsumerTest(Server server) {
        this.server = server;
        session = new Session(server);
    }

    @AfterEach
    void closeSession() {
        session.close();
    }

    /** A subscription to two of three tags delivers these two and nothing else. */
    @Test
    void tagFilter() throws Exception {
        String topic = session.newTopic(server, "tags");
        DefaultMQProducer producer = session.producer();
        List<String> wanted = new ArrayList<>();
        for (int i = 0; i < 90; i++) {
            String tag = "Tag" + (char) ('A' + i % 3);
            String id = producer.send(new Message(topic, tag, new byte[] {1})).getMsgId();
            if (!tag.equals("TagB")) {
                wanted.add(id);
            }
        }
        Inbox inbox = new Inbox();
        session.consumer(Clients.unique("tags"), topic, "TagA || TagC", inbox);
        inbox.awaitExactly(wanted);
    }

    /** An orderly listener sees every queue in offset order, without gaps, although the queues are consumed in parallel. */
    @Test
    void orderly() throws Exception {
        String topic = session.newTopic(server, "orderly");
        DefaultMQProducer producer = session.producer();
        List<String> sent = new ArrayList<>();
        for (int i = 0; i < 200; i++) {
            sent.add(producer.send(new Message(topic, new byte[] {1}),
                (queues, message, argument) -> queues.get((Integer) argument % queues.size()), i).getMsgId());
        }
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = session.newConsumer(Clients.unique("orderly"), topic, "*");
        consumer.registerMessageListener(inbox.orderly());
        session.start(consumer);
        inbox.awaitExactly(sent);
        Map<Integer, Long> next = new HashMap<>();
        for (MessageExt message : inbox.messages()) {
            assertEquals(next.getOrDefault(message.getQueueId(), 0L), message.getQueueOffset(), "queue " + message.getQueueId());
            next.put(message.getQueueId(), message.getQueueOffset() + 1);
        }
    }

    /** In broadcasting mode each of two consumers of a group gets everything. */
    @Test
    void broadcasting() throws Exception {
        String topic = session.newTopic(server, "broadcast");
        String group = Clients.unique("broadcast");
        Inbox[] inboxes = {new Inbox(), new Inbox()};
        for (Inbox inbox : inboxes) {
            DefaultMQPushConsumer consumer = session.newConsumer(group, topic, "*");
            Session.broadcast(consumer);
            consumer.registerMessageListener(inbox);
            session.start(consumer);
        }
        DefaultMQProducer producer = session.producer();
        List<String> sent = new ArrayList<>();
        for (int i = 0; i < 100; i++) {
            sent.add(producer.send(new Message(topic, new byte[] {1})).getMsgId());
        }
        inboxes[0].awaitExactly(sent);
        inboxes[1].awaitExactly(sent);
    }

    /** A message sent while all pulls are parked at the server arrives in less than a second. */
    @Test
    void longPollingDeliversAtOnce() throws Exception {
        String topic = session.newTopic(server, "latency");
        Map<String, Long> arrivals = new ConcurrentHashMap<>();
        DefaultMQPushConsumer consumer = session.newConsumer(Clients.unique("latency"), topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message ->
                arrivals.put(new String(message.getBody(), StandardCharsets.UTF_8), System.nanoTime()));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        session.start(consumer);
        DefaultMQProducer producer = session.producer();
        // One message to each queue: when they have arrived, every queue is assigned and its next pull is on the way.
        for (int queue = 0; queue < 4; queue++) {
            sendTo(producer, topic, queue, "first " + queue);
        }
        Await.until(Duration.ofSeconds(20), () -> arrivals.size() == 4 ? null : "only " + arrivals.keySet() + " arrived");
        for (int round = 0; round < 4; round++) {
            Thread.sleep(500);
            String text = "idle " + round;
            long start = System.nanoTime();
            sendTo(producer, topic, round, text);
            Await.until(Duration.ofSeconds(10), () -> arrivals.containsKey(text) ? null : text + " did not arrive");
            long latencyMs = (arrivals.get(text) - start) / 1_000_000;
            assertTrue(latencyMs < 1000, text + " took " + latencyMs + " ms");
        }
    }

    private static void sendTo(DefaultMQProducer producer, String topic, int queue, String text) throws Exception {
        producer.send(new Message(topic, text.getBytes(StandardCharsets.UTF_8)),
            (queues, message, argument) -> queues.get(queue), null);
    }
}
