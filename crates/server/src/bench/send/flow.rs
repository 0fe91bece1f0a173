//! The requests of one connection: which are open, what follows a reply, what is counted.
//!
//! No sockets and no clock: time comes in, frames go out into a buffer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use cometmq_protocol::Frame;
use cometmq_remoting::CloseReason;
use hdrhistogram::Histogram;

use super::super::head::{Head, refusal};
use super::super::report::histogram;
use super::super::window::Phase;
use super::schedule::Schedule;
use super::template::{OPAQUE_MAX, OPAQUE_MIN, Stamp, Templates};

/// Most requests in flight on a connection.
pub(super) const SLOTS_MAX: usize = 100_000;
/// How often a slot changes its opaque before it has the first one again.
const GENERATIONS: u32 = 10_000;

const _: () = assert!(OPAQUE_MIN as i64 + SLOTS_MAX as i64 * GENERATIONS as i64 - 1 <= OPAQUE_MAX as i64);

/// Messages that are still to be sent and answered in the measured time, over all connections.
#[derive(Debug)]
pub(super) struct Budget {
    unsent: AtomicI64,
    unanswered: AtomicI64,
}

impl Budget {
    /// For `count` messages, or without bound.
    pub(super) fn new(count: Option<u64>) -> Budget {
        let count = count.map_or(i64::MAX, |count| i64::try_from(count).unwrap_or(i64::MAX));
        Budget { unsent: count.into(), unanswered: count.into() }
    }

    /// Takes what one request needs; false when nothing is left.
    fn take(&self, messages: i64) -> bool {
        self.unsent.fetch_sub(messages, Ordering::Relaxed) > 0
    }

    /// Whether with `messages` more everything is answered.
    fn answer(&self, messages: i64) -> bool {
        messages > 0 && self.unanswered.fetch_sub(messages, Ordering::Relaxed) <= messages
    }
}

/// What was counted.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Messages that the server took.
    pub(super) messages: u64,
    /// Messages that it refused.
    pub(super) failed: u64,
    /// What it said about the first one.
    pub(super) first_failure: Option<String>,
    /// From sending, or from when sending was due, to the reply, µs.
    pub(super) latency: Histogram<u64>,
}

impl Tally {
    /// Nothing counted yet.
    pub(super) fn new() -> Tally {
        Tally { messages: 0, failed: 0, first_failure: None, latency: histogram() }
    }

    /// Adds what another connection counted.
    pub(super) fn add(&mut self, other: &Tally) {
        self.messages += other.messages;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or_else(|| other.first_failure.clone());
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
    }
}

/// A request that may be in flight.
#[derive(Debug)]
struct Slot {
    generation: u32,
    /// When it was sent or due; `None` when it is not in flight.
    since: Option<Instant>,
}

/// One connection's requests.
#[derive(Debug)]
pub(super) struct Flow {
    templates: Templates,
    schedule: Option<Schedule>,
    budget: Arc<Budget>,
    /// The budget had nothing left.
    spent: bool,
    /// Messages of one request.
    batch: u64,
    slots: Vec<Slot>,
    /// Slots that are not in flight.
    idle: Vec<usize>,
    phase: Phase,
    answered: u64,
    behind: u64,
    tally: Tally,
}

impl Flow {
    /// `in_flight` requests at a time of `batch` messages each.
    pub(super) fn new(templates: Templates, budget: Arc<Budget>, batch: u64, in_flight: usize) -> Flow {
        assert!(in_flight <= SLOTS_MAX, "the argument was checked");
        Flow {
            templates,
            schedule: None,
            budget,
            spent: false,
            batch,
            slots: (0..in_flight).map(|_| Slot { generation: 0, since: None }).collect(),
            idle: (0..in_flight).rev().collect(),
            phase: Phase::Warmup,
            answered: 0,
            behind: 0,
            tally: Tally::new(),
        }
    }

    /// Sends nothing before it is due.
    pub(super) fn follow(&mut self, schedule: Schedule) {
        self.schedule = Some(schedule);
    }

    /// From now on replies count, also to what is in flight.
    pub(super) fn open(&mut self) {
        self.phase = Phase::Measured;
        let open = (self.slots.len() - self.idle.len()) as i64;
        self.budget.take(open * self.batch as i64);
    }

    /// From `now` on nothing counts and nothing is sent.
    pub(super) fn close(&mut self, now: Instant) {
        if self.phase != Phase::Closed {
            self.behind = self.schedule.as_ref().map_or(0, |schedule| schedule.behind(now)) * self.batch;
            self.phase = Phase::Closed;
        }
    }

    /// Messages answered since the start.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// Whether replies are still to come.
    pub(super) fn waits(&self) -> bool {
        self.idle.len() < self.slots.len()
    }

    /// What was counted.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Messages that should have been sent before the flow was closed, and were not.
    pub(super) fn behind(&self) -> u64 {
        self.behind
    }

    /// When [`Flow::send`] is next to be called, replies apart; `None` when never again. `later` is the answer while
    /// it could send nothing.
    pub(super) fn wake(&self, later: Instant) -> Option<Instant> {
        let due = self.schedule.as_ref().filter(|_| self.phase != Phase::Closed)?.due();
        Some(if self.idle.is_empty() || self.spent { later } else { due })
    }

    /// Takes the replies that came at `now` and sends what may follow them; true when with them everything is done.
    pub(super) fn replies(
        &mut self,
        frames: &mut Vec<Frame>,
        now: Instant,
        out: &mut BytesMut,
    ) -> Result<bool, CloseReason> {
        let before = self.answered;
        for frame in frames.drain(..) {
            self.reply(&frame, now)?;
        }
        let answered = self.answered - before;
        self.send(now, out);
        Ok(self.phase == Phase::Measured && self.budget.answer(answered as i64))
    }

    /// Sends as much as may be sent at `now`.
    pub(super) fn send(&mut self, now: Instant, out: &mut BytesMut) {
        if self.phase == Phase::Closed || self.spent || self.idle.is_empty() {
            return;
        }
        let born = crate::clock::now();
        while let Some(index) = self.idle.last().copied() {
            let Some(since) = self.next_start(now) else { return };
            self.idle.pop();
            let slot = &mut self.slots[index];
            slot.generation = (slot.generation + 1) % GENERATIONS;
            slot.since = Some(since);
            let opaque = opaque(index, slot.generation);
            self.templates.write(Stamp { opaque, born }, out);
        }
    }

    /// From when on the latency of the next request counts, if one may be sent.
    fn next_start(&mut self, now: Instant) -> Option<Instant> {
        if let Some(schedule) = &self.schedule
            && schedule.due() > now
        {
            return None;
        }
        if self.phase == Phase::Measured && !self.budget.take(self.batch as i64) {
            self.spent = true;
            return None;
        }
        // Due in the past: what waited for a slot waited because of the server, and that is its latency too.
        Some(self.schedule.as_mut().map_or(now, |schedule| schedule.take(now).unwrap_or(now)))
    }

    fn reply(&mut self, frame: &Frame, now: Instant) -> Result<(), CloseReason> {
        let head = Head::read(frame)?;
        if !head.is_response() {
            // A notification of the server.
            return Ok(());
        }
        let index = head.opaque.wrapping_sub(OPAQUE_MIN) as usize % SLOTS_MAX;
        let slot = self.slots.get_mut(index).filter(|slot| opaque(index, slot.generation) == head.opaque);
        let Some(since) = slot.and_then(|slot| slot.since.take()) else {
            return Err(CloseReason::Refused(format!("it answers request {} that is not open", head.opaque)));
        };
        self.idle.push(index);
        self.answered += self.batch;
        if self.phase != Phase::Measured {
            return Ok(());
        }
        let micros = now.saturating_duration_since(since).as_micros();
        self.tally.latency.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        if head.code == 0 {
            self.tally.messages += self.batch;
        } else {
            self.tally.failed += self.batch;
            self.tally.first_failure.get_or_insert_with(|| refusal(frame));
        }
        Ok(())
    }
}

fn opaque(index: usize, generation: u32) -> i32 {
    OPAQUE_MIN + (generation as usize * SLOTS_MAX + index) as i32
}

#[cfg(test)]
mod tests {
    use super::super::schedule::Rate;
    use super::super::template::Shape;
    use super::*;
    use cometmq_protocol::{FrameLimits, Header, SerializeType, frame};
    use std::time::Duration;

    fn flow(count: Option<u64>, schedule: Option<Schedule>, in_flight: usize) -> Flow {
        let shape = Shape { topic: "T", broker_name: "b", body_bytes: 1, batch: 1 };
        let templates = Templates::new(&shape, &[0], 0);
        let mut flow = Flow::new(templates, Arc::new(Budget::new(count)), 1, in_flight);
        flow.schedule = schedule;
        flow
    }

    /// The opaques of the requests in `out`.
    fn sent(out: &mut BytesMut) -> Vec<i32> {
        let mut opaques = Vec::new();
        while let Some(frame) = frame::cut(out, FrameLimits::default()).unwrap() {
            opaques.push(Header::decode(&frame).unwrap().opaque);
        }
        opaques
    }

    fn reply(opaque: i32, code: i32) -> Frame {
        let mut out = BytesMut::new();
        Header::response(code, opaque, Some("no".into()), None).encode(SerializeType::Json, 0, &mut out);
        frame::cut(&mut out, FrameLimits::default()).unwrap().unwrap()
    }

    #[test]
    fn a_slot_sends_again_when_its_reply_came() {
        let (mut flow, now, mut out) = (flow(None, None, 2), Instant::now(), BytesMut::new());
        flow.open();
        flow.send(now, &mut out);
        let first = sent(&mut out);
        assert_eq!(first.len(), 2);
        let later = now + Duration::from_millis(3);
        assert!(!flow.replies(&mut vec![reply(first[1], 0)], later, &mut out).unwrap());
        let second = sent(&mut out);
        assert_eq!(second.len(), 1);
        assert!(!first.contains(&second[0]));
        assert_eq!((flow.tally().messages, flow.tally().latency.min()), (1, 3000));
        let again = flow.replies(&mut vec![reply(first[1], 0)], later, &mut out);
        assert!(again.is_err(), "nobody waits for this reply");
    }

    #[test]
    fn exactly_the_count_is_sent_and_refusals_count_apart() {
        let (mut flow, now, mut out) = (flow(Some(3), None, 2), Instant::now(), BytesMut::new());
        flow.open();
        flow.send(now, &mut out);
        let first = sent(&mut out);
        let mut replies = vec![reply(first[0], 17), reply(first[1], 0)];
        assert!(!flow.replies(&mut replies, now, &mut out).unwrap());
        let last = sent(&mut out);
        assert_eq!(last.len(), 1);
        assert!(flow.replies(&mut vec![reply(last[0], 0)], now, &mut out).unwrap());
        assert_eq!((flow.tally().messages, flow.tally().failed), (2, 1));
        assert_eq!(flow.tally().first_failure.as_deref(), Some("code 17 TOPIC_NOT_EXIST no"));
        assert!(sent(&mut out).is_empty() && !flow.waits());
    }

    #[test]
    fn the_warm_up_counts_nothing_but_what_it_leaves_in_flight() {
        let (mut flow, now, mut out) = (flow(Some(1), None, 1), Instant::now(), BytesMut::new());
        flow.send(now, &mut out);
        let first = sent(&mut out);
        flow.replies(&mut vec![reply(first[0], 0)], now, &mut out).unwrap();
        let second = sent(&mut out);
        flow.open();
        assert!(flow.replies(&mut vec![reply(second[0], 0)], now, &mut out).unwrap());
        assert_eq!((flow.tally().messages, flow.answered()), (1, 2));
        assert!(sent(&mut out).is_empty());
    }

    #[test]
    fn at_a_fixed_rate_waiting_for_a_slot_is_latency() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let schedule = Schedule::new(Rate { messages_per_second: 1000, batch: 1 }, start, 0, 1);
        let (mut flow, mut out) = (flow(None, Some(schedule), 1), BytesMut::new());
        flow.open();
        flow.send(start, &mut out);
        let first = sent(&mut out);
        assert_eq!((first.len(), flow.wake(ms(99))), (1, Some(ms(99))));
        // Five more were due until the reply; the slot takes the earliest.
        flow.replies(&mut vec![reply(first[0], 0)], ms(5), &mut out).unwrap();
        let second = sent(&mut out);
        assert_eq!(second.len(), 1);
        flow.replies(&mut vec![reply(second[0], 0)], ms(6), &mut out).unwrap();
        let micros: Vec<_> = flow.tally().latency.iter_recorded().map(|v| v.value_iterated_to()).collect();
        assert_eq!(micros.iter().map(|micros| micros / 1000).collect::<Vec<_>>(), [5]);
        flow.close(ms(6));
        assert_eq!((flow.wake(ms(99)), flow.behind()), (None, 4));
    }
}
