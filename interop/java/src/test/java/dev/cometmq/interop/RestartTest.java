package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.store.ReadOffsetType;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.io.TempDir;

/** What a server still knows after it was stopped or killed, and started again on the same directory. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class RestartTest {
    private Server server;

    @BeforeAll
    void startServer() throws Exception {
        server = Server.start();
    }

    @AfterAll
    void closeServer() throws Exception {
        if (server != null) {
            server.close();
        }
    }

    /**
     * After a clean stop a group goes on exactly where it was. After a kill it may get again what it consumed in the
     * seconds before, but nothing older, and all that is new. A fresh group gets everything ever acknowledged.
     */
    @Test
    void offsetsAndMessagesSurviveStopAndKill() throws Exception {
        String topic = Clients.unique("restart");
        String group = Clients.unique("restart");
        List<String> before = send(topic, 120);
        consume(group, topic, before, Set.of());

        server.stop();
        server.restart();
        List<String> afterStop = send(topic, 80);
        consume(group, topic, afterStop, Set.of());

        server.kill();
        server.restart();
        List<String> afterKill = send(topic, 40);
        consume(group, topic, afterKill, Set.copyOf(afterStop));

        List<String> all = new ArrayList<>(before);
        all.addAll(afterStop);
        all.addAll(afterKill);
        try (Session session = new Session(server)) {
            Inbox inbox = new Inbox();
            session.consumer(Clients.unique("fresh"), topic, "*", inbox);
            inbox.awaitExactly(all);
        }
    }

    /** Killed in the middle of sending from several threads, the server has every message that it acknowledged. */
    @Test
    void acknowledgedMessagesSurviveAKillUnderLoad(@TempDir Path directory) throws Exception {
        String topic = Clients.unique("ledger");
        String file = directory.resolve("ledger").toString();
        String[] send = {"send", "--namesrv", server.namesrv(), "--topic", topic, "--threads", "4", "--file", file};
        Ledger ledger = new Ledger();
        CompletableFuture<Void> sender = CompletableFuture.runAsync(() -> {
            try {
                ledger.send(new Options(send, Ledger.OPTIONS));
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
        awaitLines(Path.of(file), 500);
        server.kill();
        long linesAtKill = lines(Path.of(file));
        server.restart();
        awaitLines(Path.of(file), linesAtKill + 500);
        ledger.stop();
        sender.get();
        String[] check = {"check", "--namesrv", server.namesrv(), "--topic", topic, "--file", file};
        assertEquals(0, Ledger.run(check), "all acknowledged messages are there");

        Files.writeString(Path.of(file), "7F00000100000000000000000000FFFF broker-a 0 99999999\n", StandardOpenOption.APPEND);
        assertEquals(1, Ledger.run(check), "the check finds a message that was never stored");
    }

    private List<String> send(String topic, int count) throws Exception {
        try (Session session = new Session(server)) {
            DefaultMQProducer producer = session.producer();
            List<String> ids = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                ids.add(producer.send(new Message(topic, new byte[] {1})).getMsgId());
            }
            return ids;
        }
    }

    /** Consumes what is wanted, and possibly again some of what may be redelivered; leaves its offsets on the server. */
    private void consume(String group, String topic, List<String> wanted, Set<String> redeliverable) throws Exception {
        try (Session session = new Session(server)) {
            Inbox inbox = new Inbox();
            DefaultMQPushConsumer consumer = session.consumer(group, topic, "*", inbox);
            if (redeliverable.isEmpty()) {
                inbox.awaitExactly(wanted);
            } else {
                inbox.awaitAll(wanted);
                Set<String> delivered = new HashSet<>(inbox.ids());
                delivered.removeAll(wanted);
                assertTrue(redeliverable.containsAll(delivered), "delivered what was consumed long before: " + delivered);
            }
            List<MessageQueue> queues = session.reader().queues(topic);
            long end = queues.stream().mapToLong(queue -> end(inbox, queue)).sum();
            Await.until(Duration.ofSeconds(5), () -> {
                long consumed = queues.stream()
                    .mapToLong(queue -> Math.max(0, consumer.getOffsetStore().readOffset(queue, ReadOffsetType.READ_FROM_MEMORY)))
                    .sum();
                return consumed == end ? null : "the client has offsets of " + consumed + " of " + end + " messages";
            });
            consumer.shutdown();
            session.awaitCommitted(server, group, topic, end);
        }
    }

    private static long end(Inbox inbox, MessageQueue queue) {
        return inbox.messages().stream().filter(message -> message.getQueueId() == queue.getQueueId())
            .mapToLong(MessageExt::getQueueOffset).max().orElse(-1) + 1;
    }

    private static void awaitLines(Path file, long count) {
        Await.until(Duration.ofSeconds(30), () -> {
            long lines = lines(file);
            return lines >= count ? null : lines + " lines instead of " + count;
        });
    }

    private static long lines(Path file) {
        try {
            return Files.exists(file) ? Files.readString(file).lines().count() : 0;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
