package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** Messages looked up by key, by the id that the producer gave them, and by the place that the broker gave them. */
@ExtendWith(SharedServer.class)
class QueryTest {
    /** The Java server indexes a little after it has answered. */
    private static final Duration INDEX_LIMIT = Duration.ofSeconds(10);

    private final Session session;
    private final String topic = Clients.unique("query");
    private DefaultMQProducer producer;

    QueryTest(Server server) {
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

    @Test
    void byKey() throws Exception {
        long before = System.currentTimeMillis() - 1000;
        List<SendResult> sent = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            sent.add(producer.send(new Message(topic, "Tag", "order-" + i % 2 + " n" + i, body(i))));
        }
        long after = System.currentTimeMillis() + 60_000;
        awaitFound("n19", before, after);
        Set<String> even = producer.queryMessage(topic, "order-0", 32, before, after).getMessageList().stream()
                .map(MessageExt::getMsgId)
                .collect(Collectors.toSet());
        Set<String> expected = new HashSet<>();
        for (int i = 0; i < 20; i += 2) {
            expected.add(sent.get(i).getMsgId());
        }
        assertEquals(expected, even);
        List<MessageExt> one = producer.queryMessage(topic, "n7", 32, before, after).getMessageList();
        assertEquals(1, one.size());
        assertArrayEquals(body(7), one.get(0).getBody());
        assertEquals(sent.get(7).getMsgId(), one.get(0).getMsgId());
        assertThrows(MQClientException.class, () -> producer.queryMessage(topic, "none", 32, before, after));
        assertThrows(MQClientException.class, () -> producer.queryMessage(topic, "n7", 32, 0, before));
    }

    /** The newest ones come when there are more than are wanted. */
    @Test
    void byKeyNoMoreThanWanted() throws Exception {
        long before = System.currentTimeMillis() - 1000;
        for (int i = 0; i < 10; i++) {
            producer.send(new Message(topic, "Tag", "many m" + i, body(i)));
        }
        long after = System.currentTimeMillis() + 60_000;
        awaitFound("m9", before, after);
        List<MessageExt> some = producer.queryMessage(topic, "many", 3, before, after).getMessageList();
        Set<String> keys = some.stream().map(MessageExt::getKeys).collect(Collectors.toSet());
        assertEquals(Set.of("many m7", "many m8", "many m9"), keys);
    }

    @Test
    void byTheIdOfTheProducerAndOfTheBroker() throws Exception {
        SendResult other = producer.send(new Message(topic, body(0)));
        SendResult result = producer.send(new Message(topic, body(1)));
        MessageExt byPlace = producer.viewMessage(topic, result.getOffsetMsgId());
        assertEquals(result.getMsgId(), byPlace.getMsgId());
        assertArrayEquals(body(1), byPlace.getBody());
        Await.until(INDEX_LIMIT, () -> {
            try {
                MessageExt byId = producer.viewMessage(topic, result.getMsgId());
                return byId != null && result.getMsgId().equals(byId.getMsgId()) ? null : "found " + byId;
            } catch (Exception e) {
                return e.toString();
            }
        });
        assertArrayEquals(body(0), producer.viewMessage(topic, other.getMsgId()).getBody());
    }

    private void awaitFound(String key, long before, long after) {
        Await.until(INDEX_LIMIT, () -> {
            try {
                producer.queryMessage(topic, key, 1, before, after);
                return null;
            } catch (Exception e) {
                return e.toString();
            }
        });
    }

    private static byte[] body(int number) {
        return ("query " + number).getBytes(StandardCharsets.UTF_8);
    }
}
