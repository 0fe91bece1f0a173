//! How fast old messages may be read while senders need the processors.

use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Bytes per second that are always allowed, so that every backlog gets on.
const FLOOR: u64 = 16 * MIB;
/// The first limit.
const FIRST: u64 = 64 * MIB;
/// Bytes per second from which on a limit is none.
const TOP: u64 = 512 * MIB;
/// What a limit grows by after one calm look, and twice as much after each further one: from floor to top takes six.
const STEP: u64 = 8 * MIB;
/// Bytes per second that are sent, from which on senders count.
const SENT_MIN: u64 = MIB;
/// Workers suffer when they wait for more than one in so many parts of the time in which they could run. With nobody else
/// about they wait for less than half of that, beside a reader at full speed for twice as much.
const SUFFERING: u32 = 4;
/// Pauses are no shorter, so that several pulls are answered at each waking, and no longer, so that a new limit is met.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(100)];
/// Time for which a budget that is not used grows.
const SAVED: Duration = Duration::from_millis(20);

/// What happened between two looks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub elapsed: Duration,
    /// Time for which workers had a processor, all together.
    pub ran: Duration,
    /// Time for which they could have run and had none.
    pub waited: Duration,
    /// Bytes that were sent.
    pub sent: u64,
}

/// Decides how many bytes of old messages may be read in a second: any number unless workers, while messages are sent,
/// have to wait for a processor. Then it is halved at each look down to a floor, and grows again when they do not.
#[derive(Clone, Debug, Default)]
pub(super) struct Governor {
    limit: Option<u64>,
    /// Looks since workers last suffered.
    calm: u32,
}

impl Governor {
    /// The limit from now on.
    pub(super) fn see(&mut self, seen: &Seen) -> Option<u64> {
        let are_sending =
            u128::from(seen.sent) * 1_000_000_000 >= u128::from(SENT_MIN) * seen.elapsed.as_nanos();
        let suffer = seen.waited * SUFFERING > seen.ran + seen.waited;
        self.limit = match self.limit {
            _ if !are_sending => None,
            None if suffer => Some(FIRST),
            Some(limit) if suffer => Some(FLOOR.max(limit / 2)),
            Some(limit) => Some(limit + (STEP << self.calm.min(6))).filter(|limit| *limit < TOP),
            None => None,
        };
        self.calm = if suffer { 0 } else { self.calm.saturating_add(1) };
        self.limit
    }
}

/// Bytes that may be read now. They grow with time; what is read may go beyond them, and is waited for afterwards.
#[derive(Debug, Default)]
pub(super) struct Budget {
    limit: Option<u64>,
    left: i64,
    at: Duration,
}

impl Budget {
    /// From `now` on, lets so many bytes be read in a second.
    pub(super) fn limit(&mut self, bytes_per_second: Option<u64>, now: Duration) {
        self.grow(now);
        self.limit = bytes_per_second;
    }

    /// Notes that so many bytes were read.
    pub(super) fn spend(&mut self, bytes: usize) {
        if self.limit.is_some() {
            self.left = self.left.saturating_sub_unsigned(bytes as u64);
        }
    }

    /// How long to wait before more is read. `None` when something may be read now.
    pub(super) fn pause(&mut self, now: Duration) -> Option<Duration> {
        self.grow(now);
        let limit = self.limit.filter(|_| self.left < 0)?;
        let owed = Duration::from_secs_f64(self.left.unsigned_abs() as f64 / limit as f64);
        Some(owed.clamp(PAUSES[0], PAUSES[1]))
    }

    fn grow(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        self.at = now;
        self.left = match self.limit {
            None => 0,
            Some(limit) => {
                let most = SAVED.as_secs_f64() * limit as f64;
                (self.left as f64 + elapsed * limit as f64).min(most) as i64
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// A look after a tenth of a second: processor time and waiting in milliseconds, bytes sent in KiB.
    fn seen((ran, waited, sent_kib): (u64, u64, u64)) -> Seen {
        let [ran, waited] = [ran, waited].map(Duration::from_millis);
        Seen { elapsed: TICK, ran, waited, sent: sent_kib << 10 }
    }

    const SUFFERING: (u64, u64, u64) = (60, 90, 5000);
    const CALM: (u64, u64, u64) = (90, 10, 5000);
    /// Workers wait, for readers only.
    const NOBODY_SENDS: (u64, u64, u64) = (60, 90, 50);

    #[test]
    fn limits_follow_what_is_seen() {
        // What is seen, and the limits after each such look in MiB per second; 0 is none.
        let table: [(_, &[u64]); 8] = [
            (CALM, &[0, 0]),
            (NOBODY_SENDS, &[0, 0]),
            (SUFFERING, &[64, 32, 16, 16, 16]),
            (CALM, &[24, 40]),
            (SUFFERING, &[20, 16]),
            (CALM, &[24, 40, 72, 136, 264, 0, 0]),
            (SUFFERING, &[64, 32]),
            (NOBODY_SENDS, &[0, 0]),
        ];
        let mut governor = Governor::default();
        for (look, limits) in table {
            for limit in limits {
                assert_eq!(
                    governor.see(&seen(look)).unwrap_or(0) >> 20,
                    *limit,
                    "after {look:?} of {limits:?}"
                );
            }
        }
    }

    #[test]
    fn whatever_is_seen_it_is_never_below_the_floor_and_gone_within_a_second_of_calm() {
        let mut random = 1_u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        };
        let mut governor = Governor::default();
        for round in 0..10_000 {
            let limit = governor.see(&seen((next() % 200, next() % 400, next() % 10_000)));
            assert!(limit.is_none_or(|limit| (FLOOR..TOP).contains(&limit)), "{limit:?}");
            if round % 100 == 0 {
                let mut after = governor.clone();
                assert!((0..9).any(|_| after.see(&seen(CALM)).is_none()), "{governor:?}");
                let mut after = governor.clone();
                assert_eq!(after.see(&seen(NOBODY_SENDS)), None);
            }
        }
    }

    #[test]
    fn where_the_system_tells_no_times_there_is_no_limit() {
        assert_eq!(Governor::default().see(&seen((0, 0, 1_000_000))), None);
        assert_eq!(Governor::default().see(&Seen::default()), None);
    }

    /// Reads pieces of `bytes` as soon as each is allowed, for `seconds`; how much that was.
    fn read(budget: &mut Budget, from: Duration, seconds: u64, bytes: usize) -> u64 {
        let (mut now, mut read) = (from, 0);
        while now < from + Duration::from_secs(seconds) {
            match budget.pause(now) {
                Some(pause) => now += pause,
                None => {
                    budget.spend(bytes);
                    read += bytes as u64;
                }
            }
        }
        read
    }

    #[test]
    fn a_budget_gives_what_its_limit_says_for_small_and_for_large_answers() {
        for bytes in [100, 8 << 10, 256 << 10, 4 << 20] {
            for limit in [FLOOR, 100 * MIB] {
                let mut budget = Budget::default();
                budget.limit(Some(limit), Duration::from_secs(7));
                let share = read(&mut budget, Duration::from_secs(7), 4, bytes) as f64 / (4 * limit) as f64;
                assert!((0.97..1.07).contains(&share), "{share} of {limit} by {bytes}");
            }
        }
    }

    #[test]
    fn what_was_owed_or_saved_ends_with_its_limit() {
        let mut budget = Budget::default();
        let at = Duration::from_secs;
        budget.limit(Some(FLOOR), at(1));
        budget.spend(1 << 30);
        assert_eq!(budget.pause(at(2)), Some(PAUSES[1]));
        budget.limit(None, at(2));
        assert_eq!(budget.pause(at(2)), None);
        budget.spend(1 << 30);
        budget.limit(Some(FLOOR), at(3));
        assert_eq!(budget.pause(at(3)), None, "what was read without a limit is not owed");
        budget.spend(1);
        assert_eq!(budget.pause(at(3)), Some(PAUSES[0]));
        // An hour without reading is no reason for a burst of an hour.
        let _ = budget.pause(at(3600));
        budget.spend(FLOOR as usize / 10);
        assert!(budget.pause(at(3600)).is_some());
    }
}
