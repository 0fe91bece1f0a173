package dev.cometmq.interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

/** The histogram's percentiles are never below the true ones and at most a bucket's width above. */
class HistogramTest {
    @Test
    void percentilesOfAKnownDistribution() {
        Histogram histogram = new Histogram();
        for (int value = 1; value <= 100_000; value++) {
            histogram.record(value);
        }
        for (double fraction : new double[] {0.0001, 0.5, 0.9, 0.99, 0.999}) {
            double exact = fraction * 100_000;
            double measured = histogram.percentile(fraction);
            assertTrue(measured >= exact && measured <= exact * 1.04, fraction + ": " + measured + " for " + exact);
        }
        assertEquals(100_000, histogram.percentile(1));
        assertEquals(100_000, histogram.max());
        assertEquals(100_000, histogram.count());
    }

    @Test
    void smallValuesAreExact() {
        Histogram histogram = new Histogram();
        for (int value = 0; value < 64; value++) {
            histogram.record(value);
        }
        assertEquals(0, histogram.percentile(0.01));
        assertEquals(31, histogram.percentile(0.5));
        assertEquals(63, histogram.percentile(0.99));
    }
}
