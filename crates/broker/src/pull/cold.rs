//! Pulls that need what only the disk has. They must not keep a worker waiting: the shell takes them elsewhere.
//!
//! Every such pull is answered exactly once, by [`Broker::read_cold`] or at once when too many wait; one that is dropped
//! belonged to a connection that is gone.
//!
//! Once such a pull has made the kernel read ahead, the next ones find what they want in memory and are answered by
//! workers. While old messages are to give way ([`Broker::hold_old_pulls`]) these leave too, so that the shell can pace
//! all that a backlog costs.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::BytesMut;
use cometmq_protocol::{ConnectionId, LogOffset, Millis, Reply, ResponseCode};
use cometmq_store::Patience;

use super::{Outcome, Pull};
use crate::broker::Broker;
use crate::effects::Effects;
use crate::places::{Amount, Place, Places};

/// Most pulls that wait for the disk at a time; of one connection, half of them.
const COLD_MAX: usize = 4096;
/// Most memory that they take.
const COLD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What lies no further than this behind the log's end is never old: a consumer that is a little late catches up.
const RECENT_BYTES: i64 = 64 * 1024 * 1024;
/// How far behind what is known to be old a pull is still taken for one that comes from there.
const GAP_BYTES: i64 = 64 * 1024 * 1024;

/// How many pulls wait for the disk, and which others are to go the same way.
#[derive(Debug)]
pub struct ColdPulls {
    places: Places,
    /// The newest message for which a pull had to leave its worker: it and all before it are old.
    old_end: AtomicI64,
    holds_old: AtomicBool,
}

impl Default for ColdPulls {
    fn default() -> ColdPulls {
        let (places, holds_old) = (Places::default(), AtomicBool::default());
        ColdPulls { places, old_end: AtomicI64::new(i64::MIN), holds_old }
    }
}

/// A pull that waits for the disk. Give it to [`Broker::read_cold`] where waiting is allowed.
#[derive(Debug)]
pub struct ColdPull {
    pull: Pull,
    deadline: Option<Millis>,
    _place: Place,
}

impl ColdPull {
    /// Who waits for the answer.
    pub fn connection(&self) -> ConnectionId {
        self.pull.connection
    }
}

impl ColdPulls {
    /// Pulls that wait for the disk now.
    pub fn count(&self) -> usize {
        self.places.count()
    }

    /// Whether a pull that came to this leaves its worker although all is in memory.
    pub(super) fn holds(&self, outcome: &Outcome, log_end: LogOffset) -> bool {
        let Some(position) = oldest(outcome, log_end) else { return false };
        let old_end = self.old_end.load(Ordering::Relaxed);
        if position.saturating_sub(GAP_BYTES) > old_end {
            return false;
        }
        // Whoever comes out of what is old takes the border along, up to what is recent.
        if position > old_end {
            self.old_end.fetch_max(position, Ordering::Relaxed);
        }
        self.holds_old.load(Ordering::Relaxed)
    }

    /// Notes what a pull came to that had to leave its worker.
    pub(super) fn note(&self, outcome: &Outcome, log_end: LogOffset) {
        if let Some(position) = oldest(outcome, log_end) {
            self.old_end.fetch_max(position, Ordering::Relaxed);
        }
    }
}

/// Where the first message found lies in the log, unless that is near its end.
fn oldest(outcome: &Outcome, log_end: LogOffset) -> Option<i64> {
    let Outcome::Found { units, .. } = outcome else { return None };
    let oldest = units.first()?.1.log_offset;
    (log_end - oldest > RECENT_BYTES).then_some(oldest.0)
}

impl Broker {
    /// Hands a pull to the shell; refuses it when too many are there.
    pub(super) fn leave_to_shell(
        &self,
        pull: Pull,
        deadline: Option<Millis>,
        out: &mut BytesMut,
        effects: &mut Effects,
    ) {
        let most = Amount { count: COLD_MAX, bytes: COLD_BYTES_MAX };
        match self.cold.places.enter(pull.connection, pull.bytes(), most) {
            Some(place) => effects.cold.push(ColdPull { pull, deadline, _place: place }),
            None => {
                let remark = "too many pulls of old messages wait for the disk already; try again";
                let refusal = Reply::refuse(ResponseCode::FlowControl, remark);
                refusal.encode(pull.opaque, pull.serialize_type, out);
            }
        }
    }

    /// Answers a pull with what the disk has; may take as long as the disk does. The answer is a delivery.
    pub fn read_cold(&self, cold: ColdPull, effects: &mut Effects) {
        let ColdPull { pull, deadline, _place } = cold;
        let connection = pull.connection;
        let mut out = BytesMut::new();
        self.answer_or_wait(pull, deadline, Patience::Disk, &mut out, effects);
        effects.deliver(connection, out);
    }

    /// From now on, whether pulls of old messages leave their workers as those do that wait for the disk, even where
    /// what they want is in memory. Old is what lies before a message that had to be waited for, except near the end.
    pub fn hold_old_pulls(&self, hold: bool) {
        self.cold.holds_old.store(hold, Ordering::Relaxed);
    }

    /// Pulls that wait for the disk now.
    pub fn cold_pulls(&self) -> usize {
        self.cold.count()
    }
}

#[cfg(test)]
mod tests {
    use cometmq_protocol::QueueOffset;
    use cometmq_store::Unit;

    use super::*;

    const MIB: i64 = 1 << 20;

    /// A pull that found a message so many MiB into the log.
    fn found(mib: i64) -> Outcome {
        let unit = Unit { log_offset: LogOffset(mib * MIB), size: 200, tags_code: 0 };
        Outcome::Found { units: vec![(QueueOffset(0), unit)], next: QueueOffset(1) }
    }

    #[test]
    fn old_is_what_lies_before_a_message_that_was_waited_for_and_what_is_read_on_from_there() {
        let pulls = ColdPulls::default();
        let end = LogOffset(1000 * MIB);
        let holds = |mib| pulls.holds(&found(mib), end);
        pulls.holds_old.store(true, Ordering::Relaxed);
        assert!(!holds(0), "nobody had to wait yet");
        pulls.note(&found(990), end);
        pulls.note(&Outcome::NotResident, end);
        assert!(!holds(0), "the end of the log is never old");
        pulls.note(&found(100), end);
        assert_eq!([0, 100, 990].map(holds), [true, true, false]);
        assert_eq!([500, 170].map(holds), [false, false], "these may be readers that have always been there");
        // One that goes on from what is old, held or not, stays one of the old, up to the end.
        pulls.holds_old.store(false, Ordering::Relaxed);
        assert!((0..900).step_by(50).all(|mib| !holds(mib)));
        pulls.holds_old.store(true, Ordering::Relaxed);
        assert_eq!([500, 850, 910, 935, 937].map(holds), [true, true, true, true, false]);
        assert!(!pulls.holds(&Outcome::NotResident, end));
    }
}
