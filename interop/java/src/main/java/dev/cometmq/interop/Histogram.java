package dev.cometmq.interop;

import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;

/**
 * Counts of non-negative values in log-linear buckets: exact below 64, above that 32 equal steps per power of two,
 * so a percentile is at most about 3 % too high. Safe for concurrent recording.
 */
final class Histogram {
    private static final int STEP_BITS = 5;
    private static final int STEPS = 1 << STEP_BITS;

    private final AtomicLongArray counts = new AtomicLongArray(bucket(Long.MAX_VALUE) + 1);
    private final AtomicLong total = new AtomicLong();
    private final AtomicLong max = new AtomicLong();

    void record(long value) {
        long recorded = Math.max(0, value);
        counts.incrementAndGet(bucket(recorded));
        total.incrementAndGet();
        if (recorded > max.get()) {
            max.accumulateAndGet(recorded, Math::max);
        }
    }

    long count() {
        return total.get();
    }

    long max() {
        return max.get();
    }

    /** The smallest bucket bound that at least {@code fraction} of the values do not exceed; 0 when empty. */
    long percentile(double fraction) {
        long wanted = Math.max(1, (long) Math.ceil(fraction * total.get()));
        long seen = 0;
        for (int bucket = 0; bucket < counts.length(); bucket++) {
            seen += counts.get(bucket);
            if (seen >= wanted) {
                return Math.min(highest(bucket), max.get());
            }
        }
        return max.get();
    }

    private static int bucket(long value) {
        if (value < 2 * STEPS) {
            return (int) value;
        }
        int shift = 63 - Long.numberOfLeadingZeros(value) - STEP_BITS;
        return shift * STEPS + (int) (value >>> shift);
    }

    private static long highest(int bucket) {
        if (bucket < 2 * STEPS) {
            return bucket;
        }
        int shift = bucket / STEPS - 1;
        long step = bucket - (long) shift * STEPS;
        return ((step + 1) << shift) - 1;
    }
}
