//! When the requests of a fixed rate are due.
//!
//! Pure arithmetic on the number of a request, so that no error adds up however long a run takes.

use std::time::{Duration, Instant};

/// How often all connections together send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Messages per second.
    pub(super) messages_per_second: u64,
    /// Messages of one request.
    pub(super) batch: u64,
}

/// The requests of one connection: every `stride`-th of all.
#[derive(Debug)]
pub(super) struct Schedule {
    rate: Rate,
    start: Instant,
    /// Number of the next request among all.
    next: u64,
    stride: u64,
}

impl Schedule {
    /// The schedule of the connection `index` of `stride`.
    pub(super) fn new(rate: Rate, start: Instant, index: u64, stride: u64) -> Schedule {
        assert!(rate.messages_per_second > 0 && index < stride, "the arguments were checked");
        Schedule { rate, start, next: index, stride }
    }

    /// When the next request is due.
    pub(super) fn due(&self) -> Instant {
        let nanos = u128::from(self.next) * u128::from(self.rate.batch) * 1_000_000_000
            / u128::from(self.rate.messages_per_second);
        // A u64 of nanoseconds lasts for 584 years.
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
    }

    /// Takes the next request if it is due at `now`; returns when it was due.
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due();
        (due <= now).then(|| {
            self.next += self.stride;
            due
        })
    }

    /// Requests that are due at `now` and were not taken.
    pub(super) fn behind(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        let per_second = u128::from(self.rate.messages_per_second);
        let due_of_all = elapsed * per_second / (u128::from(self.rate.batch) * 1_000_000_000) + 1;
        let due_of_all = u64::try_from(due_of_all).unwrap_or(u64::MAX);
        due_of_all.saturating_sub(self.next).div_ceil(self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(messages_per_second: u64, batch: u64, index: u64, stride: u64) -> (Schedule, Instant) {
        let start = Instant::now();
        (Schedule::new(Rate { messages_per_second, batch }, start, index, stride), start)
    }

    #[test]
    fn connections_take_turns() {
        let (mut second, start) = schedule(1000, 1, 1, 2);
        let ms = |ms| start + Duration::from_millis(ms);
        assert_eq!(second.take(start), None);
        assert_eq!(second.take(ms(1)), Some(ms(1)));
        assert_eq!((second.take(ms(2)), second.due()), (None, ms(3)));
    }

    #[test]
    fn a_batch_is_due_as_often_as_its_messages_need() {
        let (mut schedule, start) = schedule(1000, 10, 0, 1);
        assert_eq!(schedule.take(start), Some(start));
        assert_eq!(schedule.due(), start + Duration::from_millis(10));
    }

    #[test]
    fn odd_rates_do_not_drift() {
        let (mut schedule, start) = schedule(3, 1, 0, 1);
        for _ in 0..3_000_000 {
            schedule.take(start + Duration::from_secs(2_000_000)).unwrap();
        }
        assert_eq!(schedule.due(), start + Duration::from_secs(1_000_000));
    }

    #[test]
    fn what_was_due_and_not_taken_is_counted() {
        let (mut schedule, start) = schedule(1000, 1, 1, 2);
        assert_eq!(schedule.behind(start), 0);
        let later = start + Duration::from_millis(10);
        assert_eq!(schedule.behind(later), 5, "those of 1, 3, 5, 7 and 9 ms");
        schedule.take(later).unwrap();
        assert_eq!(schedule.behind(later), 4);
        while schedule.take(later).is_some() {}
        assert_eq!(schedule.behind(later), 0);
    }
}
