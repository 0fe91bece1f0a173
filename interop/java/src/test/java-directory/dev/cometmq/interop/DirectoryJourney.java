package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.store.ReadOffsetType;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * A store directory that brokers of different software open one after the other. At each stay the broker is asked for all
 * that those before it left, consumes on, gets new messages of every kind, and is stopped or killed.
 */
final class DirectoryJourney implements AutoCloseable {
    /** How a stay ends. */
    enum End { STOPPED, KILLED }

    /** The tag of every second message of {@link #GROUP}'s topic. */
    static final String TAG = "Even";

    private static final String BROKER = "broker-a";
    private static final String PLAIN = "Plain";
    private static final String TAGGED = "Tagged";
    private static final String BATCHES = "Batches";
    /** Loses and gains write queues at each stay. */
    private static final String RESIZED = "Resized";
    /** Holds messages, then becomes read-only. */
    private static final String CLOSED = "Closed";
    private static final int READ_ONLY = 4;
    /** Consumes {@link #TAGGED}, and never what was sent last before the end of a stay. */
    private static final String GROUP = "Group";
    /** Committed by hand somewhere in {@link #PLAIN}. */
    private static final String POSITIONS = "Positions";

    /** A record takes up to a third of a segment; a stay fills several. */
    private static final int SEGMENT_BYTES = 64 * 1024;
    private static final Duration PERSIST_LIMIT = Duration.ofSeconds(20);
    private static final Duration COMMIT_LIMIT = Duration.ofSeconds(5);

    private final Random random = new Random(7);
    private final Path directory = Files.createTempDirectory("cometmq-directory");
    private final int namesrvPort = Ports.namesrv();
    private final int brokerPort = Ports.broker();
    private final ServerProcess namesrv;
    private final Map<String, String> properties;
    private final Path configuration;
    private final TreeSet<String> topics = new TreeSet<>(List.of(PLAIN, TAGGED, BATCHES, RESIZED, CLOSED));
    private final Map<String, String> groups = Map.of(GROUP, TAGGED, POSITIONS, PLAIN);

    private int stays;
    private ServerProcess broker;
    /** What the broker before served last; null at the first stay. */
    private Snapshot last;
    /** Acknowledged after {@link #last} was taken: place, unique id, offset id, digest of the body. */
    private final TreeSet<String> acknowledged = new TreeSet<>();
    /** Unique ids that {@link #GROUP} has yet to consume. */
    private final List<String> waiting = new ArrayList<>();

    DirectoryJourney(Software namesrvSoftware) throws Exception {
        namesrv = namesrvSoftware.namesrv(Files.createDirectories(directory.resolve("namesrv")), namesrvPort, Software.Call.SUBCOMMAND);
        Path home = Files.createDirectories(directory.resolve("broker"));
        properties = new HashMap<>(ServerProcess.brokerProperties(home, BROKER, brokerPort));
        properties.putAll(Map.of("registerNameServerPeriod", "10000", "waitTimeMillsInSendQueue", "10000",
            "mappedFileSizeCommitLog", Integer.toString(SEGMENT_BYTES), "mappedFileSizeConsumeQueue", "1000",
            "maxHashSlotNum", "1000", "maxIndexNum", "10000", "flushConsumerOffsetInterval", "1000"));
        configuration = ServerProcess.writeProperties(home, "broker.conf", properties);
        ServerProcess.start(namesrv);
    }

    /** Lets the software open the directory, compares, adds, and ends it. */
    void stay(Software software, End end) throws Exception {
        stays++;
        String who = "stay " + stays + ", " + software.getClass().getSimpleName();
        TreeMap<String, String> settings = settings();
        broker = software.broker(configuration, BROKER, brokerPort, namesrvAddress());
        ServerProcess.start(broker);
        software.awaitUsable(namesrvAddress(), properties);
        try (Session session = new Session(namesrvAddress())) {
            if (last == null) {
                createTopics(session);
            } else {
                compare(Snapshot.take(session, brokerAddress(), topics, groups), who);
            }
            fill(session);
            consumeWhatWaits(session);
            commitSomewhere(session);
            resize(session);
            sendTagged(session);
            last = Snapshot.take(session, brokerAddress(), topics, groups);
            acknowledged.clear();
            if (end == End.KILLED) {
                awaitPersisted(last.committed());
                sendTagged(session);
                sendRolling(session);
                broker.kill();
            }
        }
        if (end == End.STOPPED) {
            assertEquals(software.exitCodeOfCleanStop(), broker.terminate(), () -> who + ": exit code; output:\n" + broker.output());
        }
        try (Stream<Path> segments = Files.list(store().resolve("commitlog"))) {
            long count = segments.count();
            assertTrue(count >= 3L * stays, () -> who + ": only " + count + " segments");
        }
        TreeMap<String, String> kept = settings();
        settings.keySet().removeIf(name -> name.equals("topic " + RESIZED));
        settings.forEach((name, value) -> assertEquals(value, kept.get(name), who + ": " + name));
    }

    /** All that was there is there, and beyond it exactly what was acknowledged before a kill. */
    private void compare(Snapshot now, String who) {
        if (acknowledged.isEmpty()) {
            last.assertSame(now, who);
            return;
        }
        Map<String, StoredMessage> found = now.messages().stream().collect(Collectors.toMap(StoredMessage::place, message -> message));
        for (StoredMessage message : last.messages()) {
            assertEquals(message, found.remove(message.place()), who);
        }
        List<String> beyond = found.values().stream()
            .map(message -> line(message.place(), message.uniqueId(), message.offsetId(), message.bodyDigest())).sorted().toList();
        assertEquals(List.copyOf(acknowledged), beyond, who + ": acknowledged before the kill");
        assertEquals(last.routes(), now.routes(), who + ": topics");
        assertEquals(last.committed(), now.committed(), who + ": committed offsets");
    }

    private void createTopics(Session session) throws Exception {
        for (String topic : List.of(PLAIN, TAGGED, BATCHES, CLOSED)) {
            session.createTopic(brokerAddress(), topic, Session.READ_WRITE);
        }
        session.setTopic(brokerAddress(), new TopicConfig(RESIZED, 8, 8, Session.READ_WRITE));
        for (String topic : topics) {
            session.reader().queues(topic);
        }
        DefaultMQProducer producer = session.producer();
        for (int i = 0; i < 8; i++) {
            send(producer, new Message(CLOSED, body(200)), i);
            send(producer, new Message(RESIZED, body(200)), i);
        }
        session.createTopic(brokerAddress(), CLOSED, READ_ONLY);
        awaitRoute(session, CLOSED, "perm " + READ_ONLY + " ");
    }

    /** Plain, large, compressed, empty of text, keyed and batch messages, and a topic that the first send creates. */
    private void fill(Session session) throws Exception {
        DefaultMQProducer producer = session.producer();
        for (int i = 0; i < 60; i++) {
            Message message = new Message(PLAIN, body(100 + random.nextInt(1900)));
            message.setFlag(i);
            send(producer, message, i);
        }
        sendRolling(session);
        send(producer, new Message(PLAIN, "all work and no play ".repeat(1000).getBytes(StandardCharsets.UTF_8)), 1);
        Message odd = new Message(PLAIN, "标签", "订单-" + stays + " 订单-x", body(50));
        odd.putUserProperty("城市", "北京");
        odd.putUserProperty("quoted", "{\"a\": 'b', \\ = & %20 \t}");
        send(producer, odd, 2);
        send(producer, new Message(PLAIN, new byte[] {0, 1, 2, -1, -128}), 3);

        List<Message> batch = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            Message message = new Message(BATCHES, i % 2 == 0 ? TAG : "Odd", "batch-" + stays + "-" + i, body(300));
            message.putUserProperty("number", Integer.toString(i));
            batch.add(message);
        }
        assertEquals(SendStatus.SEND_OK, producer.send(batch).getSendStatus());

        String created = "Created" + stays;
        send(producer, new Message(created, body(10)), 0);
        topics.add(created);
        session.reader().queues(created);
    }

    /** More than a segment of bodies that do not compress. */
    private void sendRolling(Session session) throws Exception {
        DefaultMQProducer producer = session.producer();
        for (int i = 0; i < 4; i++) {
            send(producer, new Message(PLAIN, body(SEGMENT_BYTES / 3)), i);
        }
    }

    /** Tagged, keyed messages that wait for the group. */
    private void sendTagged(Session session) throws Exception {
        DefaultMQProducer producer = session.producer();
        for (int i = 0; i < 20; i++) {
            Message message = new Message(TAGGED, i % 2 == 0 ? TAG : "Odd", "order-" + stays + "-" + i + " buyer-" + i % 3, body(150));
            message.putUserProperty("stay", Integer.toString(stays));
            waiting.add(send(producer, message, i / 2).getMsgId());
        }
    }

    /** The group gets what was sent since it last consumed, nothing twice and nothing else, and commits it. */
    private void consumeWhatWaits(Session session) throws Exception {
        sendTagged(session);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = session.consumer(GROUP, TAGGED, "*", inbox);
        inbox.awaitExactly(waiting);
        waiting.clear();
        List<MessageQueue> queues = session.reader().queues(TAGGED);
        DefaultMQPullConsumer bounds = session.pullConsumer(Clients.unique("bounds"));
        long end = 0;
        for (MessageQueue queue : queues) {
            end += bounds.maxOffset(queue);
        }
        long total = end;
        // Committed while the consumer runs: what old clients send one-way as they shut down may be lost on a busy machine.
        Await.until(COMMIT_LIMIT, () -> {
            long consumed = queues.stream()
                .mapToLong(queue -> consumer.getOffsetStore().readOffset(queue, ReadOffsetType.READ_FROM_MEMORY)).sum();
            return consumed == total ? null : "the client has offsets of " + consumed + " of " + total + " messages";
        });
        consumer.getDefaultMQPushConsumerImpl().persistConsumerOffset();
        session.awaitCommitted(brokerAddress(), GROUP, TAGGED, total);
        consumer.shutdown();
    }

    private void commitSomewhere(Session session) throws Exception {
        DefaultMQPullConsumer consumer = session.pullConsumer(POSITIONS);
        long total = 0;
        for (MessageQueue queue : session.reader().queues(PLAIN)) {
            // The pull makes the group known.
            consumer.pull(queue, "*", 0, 1);
            long position = stays * 3L + queue.getQueueId();
            consumer.getDefaultMQPullConsumerImpl().updateConsumeOffset(queue, position);
            consumer.getOffsetStore().persist(queue);
            total += position;
        }
        session.awaitCommitted(brokerAddress(), POSITIONS, PLAIN, total);
    }

    /** Fewer or more write queues; all read queues stay. */
    private void resize(Session session) throws Exception {
        int writeQueues = 1 + stays % 4;
        session.setTopic(brokerAddress(), new TopicConfig(RESIZED, 8, writeQueues, Session.READ_WRITE));
        awaitRoute(session, RESIZED, "read 8 write " + writeQueues + " ");
        DefaultMQProducer producer = session.producer();
        for (int i = 0; i < writeQueues; i++) {
            SendResult result = send(producer, new Message(RESIZED, body(100)), i);
            assertEquals(i, result.getMessageQueue().getQueueId());
        }
    }

    private void awaitRoute(Session session, String topic, String part) {
        Await.until(Duration.ofSeconds(15), () -> {
            try {
                String route = Snapshot.route(session, topic);
                return route.contains(part) ? null : topic + ": " + route + " instead of " + part;
            } catch (Exception e) {
                return e.toString();
            }
        });
    }

    private SendResult send(DefaultMQProducer producer, Message message, int queue) throws Exception {
        SendResult result = producer.send(message, (queues, sent, number) -> queues.get((Integer) number % queues.size()), queue);
        assertEquals(SendStatus.SEND_OK, result.getSendStatus());
        MessageQueue place = result.getMessageQueue();
        acknowledged.add(line(place.getTopic() + " " + place.getQueueId() + " " + result.getQueueOffset(), result.getMsgId(),
            result.getOffsetMsgId(), StoredMessage.digest(message.getBody())));
        return result;
    }

    private static String line(String place, String uniqueId, String offsetId, String digest) {
        return place + " " + uniqueId + " " + offsetId + " " + digest;
    }

    private byte[] body(int size) {
        byte[] body = new byte[size];
        random.nextBytes(body);
        return body;
    }

    /** Brokers write offsets at intervals, Java for the first time ten seconds after its start: a kill before would lose them. */
    private void awaitPersisted(Map<String, Long> committed) {
        Await.until(PERSIST_LIMIT, () -> {
            try {
                Map<String, Object> table = ConfigFiles.table(store().resolve("config/consumerOffset.json"), "offsetTable");
                return committed.entrySet().stream().filter(entry -> {
                    String[] key = entry.getKey().split(" ");
                    Object offsets = table.get(key[0]);
                    return !(offsets instanceof Map<?, ?> map) || !entry.getValue().toString().equals(ConfigFiles.at(map, key[1]));
                }).map(entry -> entry + " is not in " + table).findFirst().orElse(null);
            } catch (IOException e) {
                return e.toString();
            }
        });
    }

    /** The settings of our topics and groups, as the files in config/ have them now. */
    private TreeMap<String, String> settings() throws IOException {
        TreeMap<String, String> settings = new TreeMap<>();
        if (Files.exists(store().resolve("config"))) {
            Map<String, Object> topicTable = ConfigFiles.table(store().resolve("config/topics.json"), "topicConfigTable");
            topics.forEach(topic -> settings.put("topic " + topic, ConfigFiles.common(topicTable.get(topic))));
            Map<String, Object> groupTable = ConfigFiles.table(store().resolve("config/subscriptionGroup.json"), "subscriptionGroupTable");
            groups.keySet().forEach(group -> settings.put("group " + group, ConfigFiles.common(groupTable.get(group))));
        }
        return settings;
    }

    private Path store() {
        return configuration.resolveSibling("store");
    }

    private String namesrvAddress() {
        return "127.0.0.1:" + namesrvPort;
    }

    private String brokerAddress() {
        return "127.0.0.1:" + brokerPort;
    }

    @Override
    public void close() throws Exception {
        if (broker != null) {
            broker.close();
        }
        namesrv.close();
        Server.delete(directory);
    }
}
