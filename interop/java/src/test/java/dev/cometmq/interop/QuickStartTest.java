package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** The first thing every RocketMQ user runs: a thousand messages to a topic that does not exist yet, and back. */
@ExtendWith(SharedServer.class)
class QuickStartTest {
    private static final String TOPIC = "TopicTest";
    private static final int COUNT = 1000;
    /** The upper-case hex of an address, a process and a counter; longer when the host's address is IPv6. */
    private static final String MESSAGE_ID = "[0-9A-F]{32}|[0-9A-F]{56}";

    private final Server server;

    QuickStartTest(Server server) {
        this.server = server;
    }

    /** Every send is acknowledged with a sound result, and exactly these messages arrive, unchanged in every field. */
    @Test
    void aThousandMessagesArriveExactlyOnce() throws Exception {
        try (Session session = new Session(server)) {
            long sendStart = System.currentTimeMillis();
            Map<String, SendResult> sent = send(session.producer());
            Inbox inbox = new Inbox();
            session.consumer(Clients.unique("quickstart"), TOPIC, "*", inbox);
            inbox.awaitExactly(sent.keySet(), Duration.ofSeconds(2));
            for (MessageExt message : inbox.messages()) {
                checkDelivery(message, sent.get(message.getMsgId()), sendStart);
            }
        }
    }

    private Map<String, SendResult> send(DefaultMQProducer producer) throws Exception {
        Map<String, SendResult> results = new LinkedHashMap<>();
        Map<Integer, Long> nextOffset = new LinkedHashMap<>();
        Set<String> offsetIds = new HashSet<>();
        for (int i = 0; i < COUNT; i++) {
            Message message = new Message(TOPIC, "TagA", "key-" + i, ("Hello RocketMQ " + i).getBytes(StandardCharsets.UTF_8));
            message.putUserProperty("number", Integer.toString(i));
            SendResult result = producer.send(message);
            assertEquals(SendStatus.SEND_OK, result.getSendStatus());
            assertEquals(TOPIC, result.getMessageQueue().getTopic());
            assertEquals("broker-a", result.getMessageQueue().getBrokerName());
            int queue = result.getMessageQueue().getQueueId();
            assertTrue(queue >= 0 && queue < 4, "queue " + queue);
            assertEquals(nextOffset.getOrDefault(queue, 0L), result.getQueueOffset(), "offsets of queue " + queue + " are dense");
            nextOffset.put(queue, result.getQueueOffset() + 1);
            assertTrue(result.getMsgId().matches(MESSAGE_ID), result.getMsgId());
            assertTrue(result.getOffsetMsgId().matches(String.format("7F000001%08X[0-9A-F]{16}", server.brokerPort())),
                result.getOffsetMsgId());
            assertTrue(offsetIds.add(result.getOffsetMsgId()), "offset id given twice: " + result);
            assertEquals(null, results.put(result.getMsgId(), result), "id given twice");
        }
        assertEquals(Set.of(0, 1, 2, 3), nextOffset.keySet(), "all queues are used");
        return results;
    }

    private void checkDelivery(MessageExt message, SendResult result, long sendStart) {
        String number = message.getUserProperty("number");
        assertEquals(TOPIC, message.getTopic());
        assertEquals("TagA", message.getTags());
        assertEquals("key-" + number, message.getKeys());
        assertArrayEquals(("Hello RocketMQ " + number).getBytes(StandardCharsets.UTF_8), message.getBody());
        assertEquals(result.getMessageQueue().getQueueId(), message.getQueueId());
        assertEquals(result.getQueueOffset(), message.getQueueOffset());
        assertEquals(0, message.getReconsumeTimes());
        assertTrue(message.getBornTimestamp() >= sendStart, "born before the test");
        assertTrue(message.getStoreTimestamp() >= sendStart && message.getStoreTimestamp() <= System.currentTimeMillis(),
            "stored between the send and now");
        assertEquals("127.0.0.1", message.getBornHostString());
        assertEquals("/" + server.brokerAddress(), message.getStoreHost().toString());
    }
}
