package dev.cometmq.interop;

import java.io.BufferedWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Set;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;

/**
 * Writes down every acknowledged message and later proves that the server still holds each of them, whatever happened
 * to it in between. One ledger line per message: {@code id broker queue offset}.
 */
public final class Ledger {
    static final Set<String> OPTIONS = Set.of("namesrv", "topic", "threads", "file", "seconds", "size");
    private static final int PAUSE_AFTER_FAILURE_MS = 50;

    private final AtomicLong acknowledged = new AtomicLong();
    private final AtomicLong failed = new AtomicLong();
    private volatile boolean stopped;

    public static void main(String[] arguments) throws Exception {
        System.exit(run(arguments));
    }

    /** Runs one command and returns the exit code. */
    static int run(String... arguments) throws Exception {
        Options options = new Options(arguments, OPTIONS);
        switch (options.command) {
            case "send":
                new Ledger().send(options);
                return 0;
            case "check":
                LedgerCheck check = new LedgerCheck(Path.of(options.text("file")));
                check.run(options.text("namesrv"), options.text("topic"));
                System.out.println(check.report());
                return check.passed() ? 0 : 1;
            default:
                throw new IllegalArgumentException("unknown command " + options.command + ": use send or check");
        }
    }

    /** Sends from several threads until the time is over or {@link #stop} is called; failures are counted, not fatal. */
    void send(Options options) throws Exception {
        long seconds = options.number("seconds", Long.MAX_VALUE / 1_000_000_000L);
        long start = System.nanoTime();
        Path file = Path.of(options.text("file"));
        DefaultMQProducer producer = Clients.separate(new DefaultMQProducer(Clients.unique("ledger")), options.text("namesrv"));
        producer.start();
        try (BufferedWriter ledger = Files.newBufferedWriter(file, StandardOpenOption.CREATE, StandardOpenOption.APPEND)) {
            Thread[] threads = new Thread[(int) options.number("threads", 1)];
            for (int i = 0; i < threads.length; i++) {
                int size = (int) options.number("size", 256);
                threads[i] = new Thread(() -> {
                    while (!stopped && System.nanoTime() - start < seconds * 1_000_000_000L) {
                        sendOne(producer, new Message(options.text("topic"), CheckedBody.random(size)), ledger);
                    }
                }, "ledger-" + i);
                threads[i].start();
            }
            for (Thread thread : threads) {
                thread.join();
            }
        } finally {
            producer.shutdown();
        }
        System.out.println("{\"acknowledged\":" + acknowledged + ",\"failed\":" + failed + "}");
    }

    void stop() {
        stopped = true;
    }

    private void sendOne(DefaultMQProducer producer, Message message, BufferedWriter ledger) {
        SendResult result;
        try {
            result = producer.send(message);
        } catch (Exception e) {
            failed.incrementAndGet();
            pause();
            return;
        }
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            failed.incrementAndGet();
            return;
        }
        String line = result.getMsgId() + " " + result.getMessageQueue().getBrokerName() + " "
            + result.getMessageQueue().getQueueId() + " " + result.getQueueOffset() + "\n";
        synchronized (ledger) {
            try {
                ledger.write(line);
                ledger.flush();
            } catch (IOException e) {
                throw new IllegalStateException("cannot write the ledger", e);
            }
        }
        acknowledged.incrementAndGet();
    }

    private static void pause() {
        try {
            Thread.sleep(PAUSE_AFTER_FAILURE_MS);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }
}
