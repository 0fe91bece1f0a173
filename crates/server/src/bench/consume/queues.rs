//! The queues that are pulled over one connection: what is asked next, what is counted.
//!
//! No sockets and no clock: time comes in, frames go out into a buffer.

use std::time::Instant;

use bytes::BytesMut;
use cometmq_protocol::headers::HeaderFields;
use cometmq_protocol::headers::pull::{PullMessageHeader, PullMessageReply, pull_flag};
use cometmq_protocol::message::record::records;
use cometmq_protocol::{Fields, Frame, Header, Millis, RequestCode, ResponseCode, SerializeType};
use hdrhistogram::Histogram;

use super::super::head::refusal;
use super::super::report::histogram;
use super::super::window::Phase;

/// Most bytes of a reply that a 5.x client asks for.
const REPLY_BYTES_MAX: i32 = 262_144;
/// How long the Java push consumer lets a pull wait, ms.
const SUSPEND_MILLIS: i64 = 15_000;

/// What all pulls of a run have in common.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    /// Consumer group.
    pub(super) group: String,
    /// Topic.
    pub(super) topic: String,
    /// When the subscription was announced.
    pub(super) version: Millis,
    /// Messages wanted at a time.
    pub(super) pull_batch: i32,
    /// Whether the end of a queue is waited at, and latency since birth counted.
    pub(super) follow: bool,
}

/// What was counted.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Messages received.
    pub(super) messages: u64,
    /// Bytes of their bodies.
    pub(super) body_bytes: u64,
    /// Replies to pulls.
    pub(super) pulls: u64,
    /// Places where a queue does not go on with the next offset.
    pub(super) gaps: u64,
    /// What the first of them is.
    pub(super) first_gap: Option<String>,
    /// From the pull to its reply, µs.
    pub(super) pull_latency: Histogram<u64>,
    /// From the birth of a message to its arrival, µs; the resolution of births is 1 ms.
    pub(super) end_to_end: Histogram<u64>,
}

impl Tally {
    /// Nothing counted yet.
    pub(super) fn new() -> Tally {
        Tally {
            messages: 0,
            body_bytes: 0,
            pulls: 0,
            gaps: 0,
            first_gap: None,
            pull_latency: histogram(),
            end_to_end: histogram(),
        }
    }

    /// Adds what another connection counted.
    pub(super) fn add(&mut self, other: &Tally) {
        self.messages += other.messages;
        self.body_bytes += other.body_bytes;
        self.pulls += other.pulls;
        self.gaps += other.gaps;
        self.first_gap = self.first_gap.take().or_else(|| other.first_gap.clone());
        self.pull_latency.add(&other.pull_latency).expect("all histograms have the same bounds");
        self.end_to_end.add(&other.end_to_end).expect("all histograms have the same bounds");
    }

    fn gap(&mut self, queue: i32, expected: i64, found: i64) {
        self.gaps += 1;
        self.first_gap
            .get_or_insert_with(|| format!("queue {queue} goes on with {found} where {expected} is next"));
    }
}

#[derive(Debug)]
struct Queue {
    id: i32,
    /// Offset of the next message.
    next: i64,
    /// When the open pull was made.
    asked: Option<Instant>,
    /// Everything in it was received.
    finished: bool,
}

/// The queues of one connection.
#[derive(Debug)]
pub(super) struct Queues {
    subscription: Subscription,
    queues: Vec<Queue>,
    phase: Phase,
    received: u64,
    tally: Tally,
}

impl Queues {
    /// Queues by number with the offsets to start from.
    pub(super) fn new(subscription: Subscription, starts: &[(i32, i64)]) -> Queues {
        let queue = |(id, next): &(i32, i64)| Queue { id: *id, next: *next, asked: None, finished: false };
        Queues {
            subscription,
            queues: starts.iter().map(queue).collect(),
            phase: Phase::Warmup,
            received: 0,
            tally: Tally::new(),
        }
    }

    /// From now on replies count.
    pub(super) fn open(&mut self) {
        self.phase = Phase::Measured;
    }

    /// From now on nothing counts and nothing is pulled.
    pub(super) fn close(&mut self) {
        self.phase = Phase::Closed;
    }

    /// Messages received since the start.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// What was counted.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether a reply is to come that the server must not delay.
    pub(super) fn waits(&self) -> bool {
        !self.subscription.follow && self.queues.iter().any(|queue| queue.asked.is_some())
    }

    /// Whether everything in all queues was received.
    pub(super) fn is_finished(&self) -> bool {
        self.queues.iter().all(|queue| queue.finished)
    }

    /// Makes the first pull of every queue.
    pub(super) fn start(&mut self, now: Instant, out: &mut BytesMut) {
        (0..self.queues.len()).for_each(|index| self.pull(index, now, out));
    }

    /// Takes the reply to the pull with this index, and makes the next one. An error says why the run cannot go on.
    pub(super) fn reply(
        &mut self,
        index: usize,
        frame: &Frame,
        now: Instant,
        wall: Millis,
        out: &mut BytesMut,
    ) -> Result<(), String> {
        let queue = self.queues.get_mut(index).ok_or("it answers a pull that was never made")?;
        let asked = queue.asked.take().ok_or("it answers a pull twice")?;
        let (code, state) = state(frame)?;
        let mut next = state.next_begin_offset;
        match code {
            ResponseCode::Success => {
                let end = self.messages(index, frame, wall)?;
                if end != next {
                    return Err(format!("it sent messages up to offset {end} and then says {next} is next"));
                }
            }
            ResponseCode::PullNotFound => next = queue.next,
            // The offset was never valid or is no longer; or what was scanned is gone.
            _ if next != queue.next => self.tally.gap(queue.id, queue.next, next),
            _ => {}
        }
        if self.phase == Phase::Measured {
            self.tally.pulls += 1;
            let micros = now.saturating_duration_since(asked).as_micros();
            self.tally.pull_latency.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        }
        let queue = &mut self.queues[index];
        queue.next = next;
        queue.finished = !self.subscription.follow && next >= state.max_offset;
        if !queue.finished && self.phase != Phase::Closed {
            self.pull(index, now, out);
        }
        Ok(())
    }

    /// Counts the messages of a reply; returns the offset behind the last.
    fn messages(&mut self, index: usize, frame: &Frame, wall: Millis) -> Result<i64, String> {
        let queue = &self.queues[index];
        let mut next = queue.next;
        let measured = self.phase == Phase::Measured;
        for record in records(&frame.body) {
            let record = record.map_err(|error| format!("it sent a message that cannot be read: {error}"))?;
            if record.queue_id.0 != queue.id {
                return Err(format!("it sent a message of queue {} for queue {}", record.queue_id, queue.id));
            }
            if record.queue_offset.0 != next {
                self.tally.gap(queue.id, next, record.queue_offset.0);
            }
            next = record.queue_offset.0 + 1;
            self.received += 1;
            if !measured {
                continue;
            }
            self.tally.messages += 1;
            self.tally.body_bytes += record.body.len() as u64;
            if self.subscription.follow {
                let millis = u64::try_from(wall - record.born_timestamp).unwrap_or(0);
                self.tally.end_to_end.saturating_record(millis.saturating_mul(1000));
            }
        }
        Ok(next)
    }

    /// Appends the next pull of a queue to `out`. Its opaque is the queue's index.
    fn pull(&mut self, index: usize, now: Instant, out: &mut BytesMut) {
        let queue = &mut self.queues[index];
        queue.asked = Some(now);
        let subscription = &self.subscription;
        let fields = PullMessageHeader {
            consumer_group: subscription.group.as_str().into(),
            topic: subscription.topic.as_str().into(),
            queue_id: queue.id,
            queue_offset: queue.next,
            max_msg_nums: subscription.pull_batch,
            sys_flag: if subscription.follow { pull_flag::SUSPEND } else { 0 },
            commit_offset: 0,
            suspend_timeout_millis: SUSPEND_MILLIS,
            subscription: None,
            sub_version: subscription.version.0,
            expression_type: Some("TAG".into()),
            max_msg_bytes: Some(REPLY_BYTES_MAX),
            borrows: std::marker::PhantomData,
        };
        let header = Header::request(RequestCode::PullMessage.code(), index as i32, Fields::default());
        header.encode_typed(&fields, &[], SerializeType::Json, 0, out);
    }
}

/// The code of a reply that a consumer can go on with, and the state of the queue.
fn state(frame: &Frame) -> Result<(ResponseCode, PullMessageReply<'_>), String> {
    let header = Header::decode(frame).map_err(|error| error.to_string())?;
    let code = match ResponseCode::from_code(header.code) {
        Some(
            code @ (ResponseCode::Success
            | ResponseCode::PullNotFound
            | ResponseCode::PullRetryImmediately
            | ResponseCode::PullOffsetMoved),
        ) => code,
        _ => return Err(format!("it refuses to be pulled from: {}", refusal(frame))),
    };
    let mut fields = header.fields.unwrap_or_default();
    let state = PullMessageReply::decode(&mut fields)
        .map_err(|error| format!("it answers pulls with what no broker answers: {error}"))?;
    Ok((code, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cometmq_protocol::message::Record;
    use cometmq_protocol::{FrameLimits, LogOffset, QueueId, QueueOffset, frame};
    use std::time::Duration;

    const WALL: Millis = Millis(1_000_100);

    fn queues(follow: bool) -> Queues {
        let subscription = Subscription {
            group: "G".to_owned(),
            topic: "T".to_owned(),
            version: Millis(5),
            pull_batch: 32,
            follow,
        };
        let mut queues = Queues::new(subscription, &[(3, 10)]);
        queues.open();
        queues
    }

    fn cut(out: &mut BytesMut) -> Option<Frame> {
        frame::cut(out, FrameLimits::default()).unwrap()
    }

    /// The offset that the only pull in `out` asks for.
    fn pulled(out: &mut BytesMut) -> Option<i64> {
        let frame = cut(out)?;
        assert!(out.is_empty());
        let mut header = Header::decode(&frame).unwrap();
        let fields = PullMessageHeader::decode(header.fields.as_mut().unwrap()).unwrap();
        assert_eq!((header.code, fields.queue_id, fields.sub_version), (11, 3, 5));
        Some(fields.queue_offset)
    }

    fn reply(code: i32, next: i64, max: i64, offsets: &[i64]) -> Frame {
        let mut body = BytesMut::new();
        for offset in offsets {
            let record = Record {
                born_timestamp: Millis(1_000_000),
                body_crc: 0,
                ..Record::plain("T", QueueId(3), "10.1.2.3:1".parse().unwrap(), b"hello")
            };
            record.encode(QueueOffset(*offset), LogOffset(0), Millis(1), &mut body);
        }
        let mut fields = Fields::default();
        for (name, value) in [("nextBeginOffset", next), ("minOffset", 0), ("maxOffset", max)] {
            fields.push(name, value.to_string());
        }
        fields.push("suggestWhichBrokerId", "0");
        let mut out = BytesMut::new();
        Header::response(code, 0, None, Some(fields)).encode_with_body(SerializeType::Json, &body, &mut out);
        cut(&mut out).unwrap()
    }

    /// Runs one reply through; returns what is pulled next.
    fn step(queues: &mut Queues, now: Instant, frame: &Frame) -> Result<Option<i64>, String> {
        let mut out = BytesMut::new();
        queues.reply(0, frame, now, WALL, &mut out)?;
        Ok(pulled(&mut out))
    }

    #[test]
    fn a_backlog_is_pulled_to_its_end() {
        let (mut queues, now, mut out) = (queues(false), Instant::now(), BytesMut::new());
        queues.start(now, &mut out);
        assert_eq!(pulled(&mut out), Some(10));
        let later = now + Duration::from_millis(2);
        assert_eq!(step(&mut queues, later, &reply(0, 12, 13, &[10, 11])), Ok(Some(12)));
        assert!(queues.waits() && !queues.is_finished());
        assert_eq!(step(&mut queues, later, &reply(0, 13, 13, &[12])), Ok(None));
        assert!(queues.is_finished() && !queues.waits());
        let tally = queues.tally();
        assert_eq!((tally.messages, tally.body_bytes, tally.pulls, tally.gaps), (3, 15, 2, 0));
        assert_eq!((tally.pull_latency.max() / 1000, tally.end_to_end.len()), (2, 0));
        assert_eq!(step(&mut queues, later, &reply(19, 13, 13, &[])).unwrap_err(), "it answers a pull twice");
    }

    #[test]
    fn a_follower_waits_at_the_end_and_measures_since_birth() {
        let (mut queues, now) = (queues(true), Instant::now());
        queues.start(now, &mut BytesMut::new());
        assert_eq!(step(&mut queues, now, &reply(19, 10, 10, &[])), Ok(Some(10)));
        assert_eq!(step(&mut queues, now, &reply(0, 11, 11, &[10])), Ok(Some(11)));
        assert!(!queues.is_finished() && !queues.waits());
        assert_eq!(queues.tally().end_to_end.max() / 1000, 100);
    }

    #[test]
    fn gaps_are_counted_and_the_first_is_told() {
        let (mut queues, now) = (queues(false), Instant::now());
        queues.start(now, &mut BytesMut::new());
        assert_eq!(step(&mut queues, now, &reply(21, 20, 30, &[])), Ok(Some(20)));
        assert_eq!(step(&mut queues, now, &reply(0, 24, 30, &[20, 22, 23])), Ok(Some(24)));
        assert_eq!(step(&mut queues, now, &reply(0, 24, 30, &[23])), Ok(Some(24)));
        let tally = queues.tally();
        assert_eq!((tally.gaps, tally.messages), (3, 4));
        assert_eq!(tally.first_gap.as_deref(), Some("queue 3 goes on with 20 where 10 is next"));
    }

    #[test]
    fn what_a_consumer_cannot_go_on_with_ends_the_run() {
        let error = |frame: &Frame| {
            let mut queues = queues(false);
            queues.start(Instant::now(), &mut BytesMut::new());
            step(&mut queues, Instant::now(), frame).unwrap_err()
        };
        let refused = error(&reply(24, 10, 10, &[]));
        assert_eq!(refused, "it refuses to be pulled from: code 24 SUBSCRIPTION_NOT_EXIST");
        let lied = error(&reply(0, 13, 13, &[10, 11]));
        assert_eq!(lied, "it sent messages up to offset 12 and then says 13 is next");
    }
}
