//! The clock, read at the edge and handed inwards as a value.
//!
//! It shows the wall clock's time and runs at the pace of a clock that never jumps. When the wall clock is set by more
//! than a second it is followed slowly: time-outs of clients, brokers and waiting requests are counted in this time,
//! and a clock that is an hour wrong for a moment must not end them all. It never goes back.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use cometmq_protocol::Millis;
use rustix::time::{ClockId, clock_gettime};

/// Differences up to this are followed at once: the wall clock is kept right in steps of that size.
const STEP_MS: i64 = 1000;
/// Larger ones are followed by a millisecond in so many.
const FOLLOW_ONE_IN: i64 = 20;

static CLOCK: Mutex<Option<Clock>> = Mutex::new(None);

/// Milliseconds since 1970.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    // Unlike the monotonic clock this one goes on while the machine sleeps: waking up is no jump.
    let steady = clock_gettime(ClockId::Boottime);
    let steady = steady.tv_sec * 1000 + steady.tv_nsec / 1_000_000;
    let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    Millis(clock.get_or_insert_with(|| Clock::new(steady, wall)).read(steady, wall))
}

/// Where our time is, in relation to the steady clock.
#[derive(Debug)]
struct Clock {
    /// Our time minus the steady clock's.
    offset: i64,
    /// Steady time of the last step towards a wall clock that is far off.
    followed_at: i64,
    last: i64,
    far_off: bool,
}

impl Clock {
    fn new(steady: i64, wall: i64) -> Clock {
        Clock { offset: wall - steady, followed_at: steady, last: wall, far_off: false }
    }

    fn read(&mut self, steady: i64, wall: i64) -> i64 {
        let missing = wall.saturating_sub(steady).saturating_sub(self.offset);
        if missing.abs() <= STEP_MS {
            self.offset += missing;
            self.followed_at = steady;
            self.far_off = false;
        } else {
            if !self.far_off {
                tracing::warn!(
                    seconds = missing / 1000,
                    "the wall clock jumped; it is followed slowly, at once by a restart"
                );
                self.far_off = true;
            }
            let step = (steady - self.followed_at) / FOLLOW_ONE_IN;
            if step > 0 {
                self.offset += missing.clamp(-step, step);
                self.followed_at += step * FOLLOW_ONE_IN;
            }
        }
        self.last = self.last.max(steady + self.offset);
        self.last
    }
}

/// What local time is ahead of UTC now, ms; 0 where the machine has no time zone.
pub(crate) fn utc_offset_ms() -> i64 {
    i64::from(jiff::Zoned::now().offset().seconds()) * 1000
}

/// The hour of the day in local time.
pub(crate) fn local_hour() -> u8 {
    let local = now().0.saturating_add(utc_offset_ms());
    u8::try_from(local.div_euclid(3_600_000).rem_euclid(24)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our time after each second of a minute in which the wall clock is `jump` off from the tenth second on.
    fn minute(jump: i64) -> Vec<i64> {
        let mut clock = Clock::new(5_000, 1_000_000);
        let wall = |second: i64| 1_000_000 + second * 1000 + if second >= 10 { jump } else { 0 };
        (1..=60).map(|second| clock.read(5_000 + second * 1000, wall(second)) - 1_000_000).collect()
    }

    #[test]
    fn small_corrections_are_followed_at_once_and_never_backwards() {
        assert_eq!(minute(0)[59], 60_000);
        assert_eq!(minute(700)[59], 60_700);
        assert_eq!(minute(-700)[59], 59_300);
        assert!(minute(-1000).is_sorted());
    }

    #[test]
    fn jumps_are_followed_slowly_whichever_their_size_and_direction() {
        let (hour, years) = (3_600_000, 10 * 31_556_952_000);
        for (jump, after) in [(hour, 62_550), (-hour, 57_450), (years, 62_550), (-years, 57_450)] {
            let times = minute(jump);
            assert_eq!(times[59], after, "{jump}");
            assert!(times.is_sorted());
        }
        assert!(minute(i64::MAX / 2).is_sorted());
        assert!(minute(i64::MIN / 2).is_sorted());
    }

    #[test]
    fn a_clock_that_jumps_back_is_right_at_once() {
        let mut clock = Clock::new(0, 0);
        assert!(clock.read(1000, 3_601_000) < 1100);
        assert_eq!(clock.read(2000, 2000), 2000);
    }
}
