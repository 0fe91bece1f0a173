package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.fail;

import java.time.Duration;
import java.util.function.Supplier;

/** Polling with a deadline. */
final class Await {
    private Await() {
    }

    /** Polls until {@code obstacle} is null; at the deadline fails with the last obstacle as its text. */
    static void until(Duration limit, Supplier<String> obstacle) {
        long deadline = System.nanoTime() + limit.toNanos();
        String last = obstacle.get();
        while (last != null) {
            if (System.nanoTime() > deadline) {
                fail("after " + limit.toMillis() + " ms: " + last);
            }
            try {
                Thread.sleep(20);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                fail("interrupted: " + last);
            }
            last = obstacle.get();
        }
    }
}
