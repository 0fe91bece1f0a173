package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;

/** What a broker without automatic topics refuses, and how the client tells its user. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class RefusalTest {
    private static final int SEND_MESSAGE = 10;
    private static final int MESSAGE_ILLEGAL = 13;
    private static final int NO_PERMISSION = 16;
    private static final int TOPIC_NOT_EXIST = 17;
    private static final int INVALID_PARAMETER = 29;

    private Server server;
    private Session session;

    @BeforeAll
    void startServer() throws Exception {
        server = Server.start(Map.of("autoCreateTopicEnable", "false", "brokerIP1", "127.0.0.1"));
    }

    @AfterAll
    void closeServer() throws Exception {
        if (server != null) {
            server.close();
        }
    }

    @BeforeEach
    void openSession() {
        session = new Session(server);
    }

    @AfterEach
    void closeSession() {
        session.close();
    }

    /** The error of a send to a topic that nobody created names the topic and says that it has no route. */
    @Test
    void sendToUnknownTopic() throws Exception {
        String topic = Clients.unique("unknown");
        DefaultMQProducer producer = session.producer();
        MQClientException error = assertThrows(MQClientException.class, () -> producer.send(new Message(topic, new byte[] {1})));
        assertTrue(error.getMessage().contains("No route info of this topic"), error.getMessage());
        assertTrue(error.getMessage().contains(topic), error.getMessage());
    }

    /** A topic that was created by hand takes messages. */
    @Test
    void sendToCreatedTopic() throws Exception {
        String topic = session.newTopic(server, "created");
        String id = session.producer().send(new Message(topic, new byte[] {1})).getMsgId();
        assertEquals(List.of(id), session.reader().readAll(topic).stream().map(message -> message.getMsgId()).toList());
    }

    /** A body over the server's limit of 4 MiB is refused, even if the client's own limit lets it pass. */
    @Test
    void bodyOverTheLimit() throws Exception {
        String topic = session.newTopic(server, "large");
        DefaultMQProducer producer = session.newProducer();
        producer.setMaxMessageSize(8 * 1024 * 1024);
        session.start(producer);
        byte[] body = new byte[5 * 1024 * 1024];
        new Random(2).nextBytes(body);
        MQBrokerException refusal = assertThrows(MQBrokerException.class, () -> producer.send(new Message(topic, body)));
        assertEquals(MESSAGE_ILLEGAL, refusal.getResponseCode(), refusal.getMessage());
    }

    /** A write-only topic takes messages but does not give them out. */
    @Test
    void pullFromWriteOnlyTopic() throws Exception {
        String topic = Clients.unique("write-only");
        session.createTopic(server.brokerAddress(), topic, Session.WRITE_ONLY);
        DefaultMQProducer producer = session.producer();
        Await.until(Duration.ofSeconds(10), () -> {
            try {
                producer.send(new Message(topic, new byte[] {1}));
                return null;
            } catch (Exception e) {
                return e.toString();
            }
        });
        MQBrokerException refusal = pullRefused(new MessageQueue(topic, "broker-a", 0));
        assertEquals(NO_PERMISSION, refusal.getResponseCode(), refusal.getMessage());
    }

    /** Topic names that the client would not let pass are refused by the server itself, and so is an unknown topic. */
    @Test
    void topicNamesStraightToTheBroker() throws Exception {
        assertEquals(INVALID_PARAMETER, sendStraight("no blanks allowed").getCode());
        assertEquals(INVALID_PARAMETER, sendStraight("no/slash").getCode());
        assertEquals(INVALID_PARAMETER, sendStraight("x".repeat(256)).getCode());
        String unknown = Clients.unique("unknown");
        RemotingCommand reply = sendStraight(unknown);
        assertEquals(TOPIC_NOT_EXIST, reply.getCode());
        assertTrue(reply.getRemark().contains(unknown), reply.getRemark());
    }

    private MQBrokerException pullRefused(MessageQueue queue) throws Exception {
        DefaultMQPullConsumer consumer = session.pullConsumer(Clients.unique("pull"));
        return assertThrows(MQBrokerException.class, () -> consumer.pull(queue, "*", 0, 32));
    }

    /** A send request by hand, past the client's own checks. */
    private RemotingCommand sendStraight(String topic) throws Exception {
        HashMap<String, String> fields = new HashMap<>(Map.of("producerGroup", "straight", "topic", topic,
            "defaultTopic", "TBW102", "defaultTopicQueueNums", "4", "queueId", "0", "sysFlag", "0"));
        fields.putAll(Map.of("bornTimestamp", Long.toString(System.currentTimeMillis()), "flag", "0", "properties", "",
            "reconsumeTimes", "0", "unitMode", "false", "batch", "false"));
        RemotingCommand request = RemotingCommand.createRequestCommand(SEND_MESSAGE, null);
        request.setExtFields(fields);
        request.setBody(new byte[] {1});
        return Session.remote(session.producer()).getRemotingClient().invokeSync(server.brokerAddress(), request, 5000);
    }
}
