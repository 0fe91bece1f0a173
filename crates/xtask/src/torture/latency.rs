//! Times of many requests, and their percentiles.

use std::time::Duration;

/// Times, as many as were pushed: rows are bounded in what they send.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies(Vec<u32>);

impl Latencies {
    /// Adds one.
    pub(super) fn push(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds those of another.
    pub(super) fn extend(&mut self, other: &Latencies) {
        self.0.extend(&other.0);
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time below which `part` (0 to 1) of them are, the largest for 1; zero when there are none.
    pub(super) fn at(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let index = ((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1);
        Duration::from_micros(sorted.get(index).copied().unwrap_or(0).into())
    }
}

/// A time as text, in ms.
pub(super) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let mut latencies = Latencies::default();
        (1..=100).rev().for_each(|ms| latencies.push(Duration::from_millis(ms)));
        assert_eq!(latencies.at(0.5), Duration::from_millis(50));
        assert_eq!(latencies.at(0.99), Duration::from_millis(99));
        assert_eq!(latencies.at(1.0), Duration::from_millis(100));
        assert_eq!(Latencies::default().at(0.5), Duration::ZERO);
    }
}
