package dev.cometmq.interop;

import java.lang.reflect.Method;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.RemotingClient;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;

/**
 * The official clients of one test. All that it started are shut down when it closes, in the background: one client
 * takes up to three seconds for it, and no test needs to see it done.
 */
final class Session implements AutoCloseable {
    /** Topic permissions. */
    static final int READ_WRITE = 6;
    static final int WRITE_ONLY = 2;

    /**
     * Instead of 30 s. When two consumers of a group start together, a client may skip the heartbeat that announces its
     * newest subscription; until the next one the broker refuses its pulls as "not latest".
     */
    private static final int HEARTBEAT_MS = 2000;

    private static final Duration COMMIT_LIMIT = Duration.ofSeconds(5);
    private static final int QUERY_CONSUMER_OFFSET = 14;
    /** Instead of 3 s: on a busy machine the client must not send a message twice because the answer is late. */
    private static final int SEND_TIMEOUT_MS = 10_000;

    private static final String TEMPLATE_TOPIC = "TBW102";

    final String namesrv;
    private final Deque<Runnable> shutdowns = new ArrayDeque<>();

    Session(Server server) {
        this(server.namesrv());
    }

    Session(String namesrv) {
        this.namesrv = namesrv;
    }

    /** A producer that is not started yet, for tests that set it up. */
    DefaultMQProducer newProducer() {
        DefaultMQProducer producer = Clients.separate(new DefaultMQProducer(Clients.unique("producer")), namesrv);
        producer.setSendMsgTimeout(SEND_TIMEOUT_MS);
        return producer;
    }

    DefaultMQProducer start(DefaultMQProducer producer) throws MQClientException {
        producer.start();
        shutdowns.push(producer::shutdown);
        return producer;
    }

    DefaultMQProducer producer() throws MQClientException {
        return start(newProducer());
    }

    /** A push consumer that is not started yet; a new group begins at the first offset. */
    DefaultMQPushConsumer newConsumer(String group, String topic, String tags) throws MQClientException {
        DefaultMQPushConsumer consumer = Clients.separate(new DefaultMQPushConsumer(group), namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setHeartbeatBrokerInterval(HEARTBEAT_MS);
        consumer.subscribe(topic, tags);
        return consumer;
    }

    DefaultMQPushConsumer start(DefaultMQPushConsumer consumer) throws MQClientException {
        consumer.start();
        shutdowns.push(consumer::shutdown);
        return consumer;
    }

    /** A started push consumer that puts what it gets into the inbox. */
    DefaultMQPushConsumer consumer(String group, String topic, String tags, Inbox inbox) throws MQClientException {
        DefaultMQPushConsumer consumer = newConsumer(group, topic, tags);
        consumer.registerMessageListener(inbox);
        return start(consumer);
    }

    DefaultMQPullConsumer pullConsumer(String group) throws MQClientException {
        DefaultMQPullConsumer consumer = Clients.separate(new DefaultMQPullConsumer(group), namesrv);
        consumer.start();
        shutdowns.push(consumer::shutdown);
        return consumer;
    }

    TopicReader reader() throws MQClientException {
        TopicReader reader = new TopicReader(namesrv);
        shutdowns.push(reader::close);
        return reader;
    }

    /** The client's own remote calls, for requests that its public methods do not offer. */
    static MQClientAPIImpl remote(DefaultMQProducer producer) {
        return producer.getDefaultMQProducerImpl().getmQClientFactory().getMQClientAPIImpl();
    }

    /** Creates a topic with four queues on one broker, as the admin tools do. */
    void createTopic(String brokerAddress, String topic, int permission) throws Exception {
        setTopic(brokerAddress, new TopicConfig(topic, 4, 4, permission));
    }

    /** Creates a topic on one broker or changes it. */
    void setTopic(String brokerAddress, TopicConfig topic) throws Exception {
        remote(producer()).createTopic(brokerAddress, TEMPLATE_TOPIC, topic, 5000);
    }

    /** A new read-write topic of four queues that the name server already knows. */
    String newTopic(Server server, String prefix) throws Exception {
        String topic = Clients.unique(prefix);
        createTopic(server.brokerAddress(), topic, READ_WRITE);
        reader().queues(topic);
        return topic;
    }

    /**
     * Waits until the server holds a group's offsets for all of a topic's messages: clients commit with oneway requests.
     * Asks by hand, since a second consumer of the group would take part in its rebalance.
     */
    void awaitCommitted(Server server, String group, String topic, long total) throws Exception {
        awaitCommitted(server.brokerAddress(), group, topic, total);
    }

    void awaitCommitted(String brokerAddress, String group, String topic, long total) throws Exception {
        RemotingClient client = remote(producer()).getRemotingClient();
        List<MessageQueue> queues = reader().queues(topic);
        Await.until(COMMIT_LIMIT, () -> {
            long committed = 0;
            for (MessageQueue queue : queues) {
                try {
                    committed += Math.max(0, committed(client, brokerAddress, group, queue));
                } catch (Exception e) {
                    return e.toString();
                }
            }
            return committed == total ? null : "committed are " + committed + " of " + total + " messages";
        });
    }

    /** What a broker knows as a group's offset in a queue; -1 when it knows none. */
    static long committed(RemotingClient client, String brokerAddress, String group, MessageQueue queue) throws Exception {
        RemotingCommand request = RemotingCommand.createRequestCommand(QUERY_CONSUMER_OFFSET, null);
        request.setExtFields(new HashMap<>(Map.of("consumerGroup", group, "topic", queue.getTopic(),
            "queueId", Integer.toString(queue.getQueueId()))));
        RemotingCommand reply = client.invokeSync(brokerAddress, request, 3000);
        return reply.getCode() == 0 ? Long.parseLong(reply.getExtFields().get("offset")) : -1;
    }

    /** Broadcasting instead of clustering; the mode's type moved to another package between 4.x and 5.x. */
    static void broadcast(DefaultMQPushConsumer consumer) throws ReflectiveOperationException {
        Class<?> type = DefaultMQPushConsumer.class.getMethod("getMessageModel").getReturnType();
        Method setter = DefaultMQPushConsumer.class.getMethod("setMessageModel", type);
        setter.invoke(consumer, type.getField("BROADCASTING").get(null));
    }

    @Override
    public void close() {
        while (!shutdowns.isEmpty()) {
            Thread shutdown = new Thread(shutdowns.pop(), "client-shutdown");
            shutdown.setDaemon(true);
            shutdown.start();
        }
    }
}
