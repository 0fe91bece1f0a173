package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** Every way the client sends, each read back from the topic as it was stored. */
@ExtendWith(SharedServer.class)
class SendModesTest {
    private final Session session;
    private final String topic = Clients.unique("send");
    private DefaultMQProducer producer;

    SendModesTest(Server server) {
        session = new Session(server);
    }

    @BeforeEach
    void startProducer() throws Exception {
        producer = session.producer();
    }

    @AfterEach
    void closeSession() {
        session.close();
    }

    /** Each callback succeeds once, and the ids of the callbacks are the ids in the topic. */
    @Test
    void asynchronous() throws Exception {
        int count = 200;
        // One synchronous message first, so that the topic exists before two hundred requests want to create it.
        Set<String> ids = ConcurrentHashMap.newKeySet();
        ids.add(producer.send(new Message(topic, body("first"))).getMsgId());
        CountDownLatch open = new CountDownLatch(count);
        AtomicReference<Object> failure = new AtomicReference<>();
        for (int i = 0; i < count; i++) {
            producer.send(new Message(topic, body("async " + i)), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    if (result.getSendStatus() != SendStatus.SEND_OK || !ids.add(result.getMsgId())) {
                        failure.set(result);
                    }
                    open.countDown();
                }

                @Override
                public void onException(Throwable cause) {
                    failure.set(cause);
                    open.countDown();
                }
            });
        }
        assertTrue(open.await(20, TimeUnit.SECONDS), open.getCount() + " callbacks are missing");
        assertNull(failure.get());
        List<MessageExt> stored = session.reader().readAll(topic);
        assertEquals(count + 1, stored.size());
        assertEquals(ids, stored.stream().map(MessageExt::getMsgId).collect(Collectors.toSet()));
    }

    /** Requests without an answer are stored all the same. */
    @Test
    void oneway() throws Exception {
        int count = 100;
        producer.send(new Message(topic, body("first")));
        for (int i = 0; i < count; i++) {
            producer.sendOneway(new Message(topic, body("oneway " + i)));
        }
        TopicReader reader = session.reader();
        Await.until(Duration.ofSeconds(10), () -> {
            try {
                int stored = reader.readAll(topic).size();
                return stored == count + 1 ? null : stored + " messages instead of " + (count + 1);
            } catch (Exception e) {
                return e.toString();
            }
        });
    }

    /**
     * A batch lands in one queue at consecutive offsets, each message with its own tags, keys and properties. The result
     * lists an id for each; stored is either that id or, on all messages alike, the id of the batch as a whole.
     */
    @Test
    void batch() throws Exception {
        List<Message> batch = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            Message message = new Message(topic, "Tag" + i, "key" + i, body("batch " + i));
            message.putUserProperty("number", Integer.toString(i));
            batch.add(message);
        }
        SendResult result = producer.send(batch);
        assertEquals(SendStatus.SEND_OK, result.getSendStatus());
        String[] ids = result.getMsgId().split(",");
        assertEquals(50, Set.of(ids).size());
        assertEquals(50, Set.of(result.getOffsetMsgId().split(",")).size());
        List<MessageExt> stored = session.reader().readAll(topic);
        assertEquals(50, stored.size());
        List<String> storedIds = stored.stream().map(MessageExt::getMsgId).toList();
        assertTrue(storedIds.equals(List.of(ids)) || Set.copyOf(storedIds).size() == 1, "ids " + storedIds);
        for (int i = 0; i < 50; i++) {
            MessageExt message = stored.get(i);
            assertEquals(result.getMessageQueue().getQueueId(), message.getQueueId());
            assertEquals(result.getQueueOffset() + i, message.getQueueOffset());
            assertEquals("Tag" + i, message.getTags());
            assertEquals("key" + i, message.getKeys());
            assertEquals(Integer.toString(i), message.getUserProperty("number"));
            assertArrayEquals(body("batch " + i), message.getBody());
        }
    }

    /** The selector decides the queue, and within the queue the order of sending is the order of offsets. */
    @Test
    void queueSelectorKeepsOrder() throws Exception {
        int orders = 8;
        int steps = 25;
        for (int step = 0; step < steps; step++) {
            for (int order = 0; order < orders; order++) {
                SendResult result = producer.send(new Message(topic, body(order + " " + step)),
                    (queues, message, argument) -> queues.get((Integer) argument % queues.size()), order);
                assertEquals(order % 4, result.getMessageQueue().getQueueId());
            }
        }
        Map<String, Integer> nextStep = new HashMap<>();
        for (MessageExt message : session.reader().readAll(topic)) {
            String[] text = new String(message.getBody(), StandardCharsets.UTF_8).split(" ");
            assertEquals(Integer.parseInt(text[0]) % 4, message.getQueueId());
            assertEquals(nextStep.getOrDefault(text[0], 0), Integer.valueOf(text[1]), "order " + text[0]);
            nextStep.put(text[0], Integer.parseInt(text[1]) + 1);
        }
        assertEquals(orders, nextStep.size());
        nextStep.forEach((order, next) -> assertEquals(steps, next, "order " + order + " is complete"));
    }

    /** The client compresses a body over 4 KiB; the server stores the compressed bytes, the consumer gets the body. */
    @Test
    void largeBodyTravelsCompressed() throws Exception {
        byte[] body = body("all work and no play ".repeat(5000));
        assertEquals(SendStatus.SEND_OK, producer.send(new Message(topic, body)).getSendStatus());
        MessageExt stored = session.reader().readAll(topic).get(0);
        assertArrayEquals(body, stored.getBody());
        assertTrue(stored.getStoreSize() < body.length / 10, "stored in " + stored.getStoreSize() + " bytes");
    }

    /** Almost 4 MiB that do not compress go through both ways. */
    @Test
    void bodyOfNearlyTheMaximumSize() throws Exception {
        byte[] body = new byte[4 * 1024 * 1024 - 16 * 1024];
        new Random(1).nextBytes(body);
        assertEquals(SendStatus.SEND_OK, producer.send(new Message(topic, body)).getSendStatus());
        List<MessageExt> stored = session.reader().readAll(topic);
        assertEquals(1, stored.size());
        assertTrue(Arrays.equals(body, stored.get(0).getBody()), "the body is intact");
    }

    /** Text outside ASCII and bytes that look like separators survive in body, tags, keys and properties. */
    @Test
    void oddCharacters() throws Exception {
        Message chinese = new Message(topic, "标签", "订单-1 订单-2", body("你好，世界 🚀"));
        chinese.putUserProperty("城市", "北京");
        chinese.putUserProperty("quoted", "{\"a\": 'b', \\ = & %20 \t}");
        chinese.setFlag(0x7FFF_FFFF);
        byte[] separators = {0, 1, 2, -1, -128, 127, '\n', 0};
        producer.send(chinese, (queues, message, argument) -> queues.get(0), null);
        producer.send(new Message(topic, separators), (queues, message, argument) -> queues.get(1), null);
        List<MessageExt> stored = session.reader().readAll(topic);
        assertEquals(2, stored.size());
        assertArrayEquals(chinese.getBody(), stored.get(0).getBody());
        assertEquals("标签", stored.get(0).getTags());
        assertEquals("订单-1 订单-2", stored.get(0).getKeys());
        assertEquals("北京", stored.get(0).getUserProperty("城市"));
        assertEquals("{\"a\": 'b', \\ = & %20 \t}", stored.get(0).getUserProperty("quoted"));
        assertEquals(0x7FFF_FFFF, stored.get(0).getFlag());
        assertArrayEquals(separators, stored.get(1).getBody());
        assertNull(stored.get(1).getTags());
    }

    private static byte[] body(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
