package dev.cometmq.interop;

import java.util.Arrays;
import java.util.Locale;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Load generator with the official client; prints one line of JSON. See README.md for its options. */
public final class Load {
    private static final Set<String> OPTIONS = Set.of("namesrv", "topic", "threads", "size", "count", "seconds", "async",
        "warmup", "server-pid", "group", "consume-batch");
    private static final int SEND_TIMEOUT_MS = 10_000;

    private final Options options;
    private final ServerUsage usage;

    private Load(Options options) {
        this.options = options;
        this.usage = options.has("server-pid") ? new ServerUsage(options.text("server-pid")) : null;
    }

    public static void main(String[] arguments) throws Exception {
        System.out.println(run(arguments));
        System.exit(0);
    }

    /** Runs one command to its end and returns the result line. */
    static String run(String... arguments) throws Exception {
        Options options = new Options(arguments, OPTIONS);
        Load load = new Load(options);
        return switch (options.command) {
            case "send" -> load.send();
            case "consume" -> load.consume();
            default -> throw new IllegalArgumentException("unknown command " + options.command + ": use send or consume");
        };
    }

    private String send() throws Exception {
        DefaultMQProducer producer = Clients.separate(new DefaultMQProducer(Clients.unique("load")), options.text("namesrv"));
        producer.setSendMsgTimeout(SEND_TIMEOUT_MS);
        // A retry would hide a failure inside a long latency.
        producer.setRetryTimesWhenSendFailed(0);
        producer.setRetryTimesWhenSendAsyncFailed(0);
        producer.start();
        try {
            long warmup = options.number("warmup", 0);
            if (warmup > 0) {
                sendPhase(producer, new Phase(warmup, Long.MAX_VALUE));
            }
            startUsage();
            Phase measured = new Phase(options.number("count", Long.MAX_VALUE), options.number("seconds", Long.MAX_VALUE));
            sendPhase(producer, measured);
            return measured.result("sent", usage);
        } finally {
            producer.shutdown();
        }
    }

    private void sendPhase(DefaultMQProducer producer, Phase phase) throws Exception {
        String topic = options.text("topic");
        byte[] body = new byte[(int) options.number("size", 1024)];
        Arrays.fill(body, (byte) 'x');
        int inflight = (int) options.number("async", 0);
        Semaphore permits = new Semaphore(inflight);
        Thread[] threads = new Thread[(int) options.number("threads", 1)];
        for (int i = 0; i < threads.length; i++) {
            threads[i] = new Thread(() -> {
                while (phase.claim()) {
                    if (inflight > 0) {
                        sendAsync(producer, new Message(topic, body), permits, phase);
                    } else {
                        sendSync(producer, new Message(topic, body), phase);
                    }
                }
            }, "load-" + i);
            threads[i].start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        permits.acquire(inflight);
        phase.end();
    }

    private static void sendSync(DefaultMQProducer producer, Message message, Phase phase) {
        long start = System.nanoTime();
        try {
            phase.done(start, producer.send(message));
        } catch (Exception e) {
            phase.failed();
        }
    }

    private static void sendAsync(DefaultMQProducer producer, Message message, Semaphore permits, Phase phase) {
        permits.acquireUninterruptibly();
        long start = System.nanoTime();
        AtomicBoolean finished = new AtomicBoolean();
        SendCallback callback = new SendCallback() {
            @Override
            public void onSuccess(SendResult result) {
                if (finished.compareAndSet(false, true)) {
                    phase.done(start, result);
                    permits.release();
                }
            }

            @Override
            public void onException(Throwable cause) {
                if (finished.compareAndSet(false, true)) {
                    phase.failed();
                    permits.release();
                }
            }
        };
        try {
            producer.send(message, callback);
        } catch (Exception e) {
            callback.onException(e);
        }
    }

    private String consume() throws Exception {
        int batch = (int) options.number("consume-batch", 32);
        long warmup = options.number("warmup", 0);
        AtomicLong received = new AtomicLong();
        CountDownLatch complete = new CountDownLatch(1);
        Phase phase = new Phase(options.number("count"), Long.MAX_VALUE);
        DefaultMQPushConsumer consumer =
            Clients.separate(new DefaultMQPushConsumer(options.text("group")), options.text("namesrv"));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setConsumeMessageBatchMaxSize(batch);
        consumer.setPullBatchSize(batch);
        consumer.subscribe(options.text("topic"), "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            long now = System.currentTimeMillis();
            for (MessageExt message : messages) {
                long number = received.incrementAndGet() - warmup;
                if (number == 1) {
                    // The clock runs from the first message after the warm-up, not from the client's start-up.
                    startUsage();
                    phase.begin();
                }
                if (number >= 1 && phase.received(now - message.getBornTimestamp())) {
                    complete.countDown();
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        try {
            complete.await();
            return phase.result("received", usage);
        } finally {
            consumer.shutdown();
        }
    }

    private void startUsage() {
        if (usage != null) {
            usage.start();
        }
    }

    /** One stretch of work with its own limits, clock and counts. */
    private static final class Phase {
        private volatile long start = System.nanoTime();
        private final AtomicLong claimed = new AtomicLong();
        private final AtomicLong failures = new AtomicLong();
        private final Histogram latency = new Histogram();
        private final long count;
        private final long deadline;
        private volatile long end;

        Phase(long count, long seconds) {
            this.count = count;
            this.deadline = seconds == Long.MAX_VALUE ? Long.MAX_VALUE : start + seconds * 1_000_000_000L;
            if (count == Long.MAX_VALUE && seconds == Long.MAX_VALUE) {
                throw new IllegalArgumentException("one of --count and --seconds is needed");
            }
        }

        boolean claim() {
            return claimed.incrementAndGet() <= count && System.nanoTime() < deadline;
        }

        void done(long sendStart, SendResult result) {
            if (result.getSendStatus() == SendStatus.SEND_OK) {
                latency.record((System.nanoTime() - sendStart) / 1000);
            } else {
                failed();
            }
        }

        void failed() {
            failures.incrementAndGet();
        }

        /** Counts a received message by its age; true once the count is complete. */
        boolean received(long ageMs) {
            if (!claim()) {
                return false;
            }
            latency.record(ageMs * 1000);
            if (latency.count() < count) {
                return false;
            }
            end();
            return true;
        }

        void begin() {
            start = System.nanoTime();
        }

        void end() {
            end = System.nanoTime();
        }

        String result(String counted, ServerUsage usage) {
            double seconds = (end - start) / 1e9;
            return String.format(Locale.ROOT,
                "{\"%s\":%d,\"seconds\":%.3f,\"rate\":%.0f,\"p50_us\":%d,\"p99_us\":%d,\"p999_us\":%d,\"max_us\":%d,\"failed\":%d%s}",
                counted, latency.count(), seconds, latency.count() / seconds, latency.percentile(0.5),
                latency.percentile(0.99), latency.percentile(0.999), latency.max(), failures.get(),
                usage == null ? "" : usage.report(latency.count()));
        }
    }
}
