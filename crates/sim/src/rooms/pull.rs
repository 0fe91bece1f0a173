//! Pulling: consumers that wait for messages, read each queue from where their group stands, and commit.
//!
//! Laws: a reply begins at the offset that was asked for and has no hole; every body is one that was sent; nobody is
//! told that there is nothing when something was acknowledged before; who waits is woken; an offset is never beyond
//! what the queue has; in the end every group got everything.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cometmq_protocol::body::client::{ConsumerData, HeartbeatData, SubscriptionData};
use cometmq_protocol::body::json;
use cometmq_protocol::headers::offset::{QueryConsumerOffsetHeader, UpdateConsumerOffsetHeader};
use cometmq_protocol::headers::pull::{PullMessageHeader, pull_flag};
use cometmq_protocol::message::record;
use cometmq_protocol::{Fields, Frame, Header, RequestCode, ResponseCode};

use super::{Answer, Ask, Room};
use crate::ledger::QueueKey;
use crate::machine::{QUEUES, offset_of};
use crate::net::Server;
use crate::plan::SECOND;
use crate::world::{Core, fields};

/// Longest time from a message's acknowledgement to the reply of a pull that waits for it.
const WOKEN_WITHIN: u64 = SECOND;
/// Pause before a consumer that was refused or lost its connection looks again.
const PAUSE: u64 = SECOND / 4;
/// Time between two heartbeats.
const HEARTBEAT: u64 = 10 * SECOND;

#[derive(Debug)]
struct Consumer {
    client: usize,
    group: String,
    /// Commits ride on pulls instead of going by themselves.
    commits_by_pull: bool,
    suspend_ms: i64,
    queues: BTreeMap<QueueKey, Reading>,
    asked: BTreeMap<i32, (QueueKey, Asked)>,
}

/// How a consumer reads a queue.
#[derive(Debug, Default)]
struct Reading {
    /// Where it stands; `None` until the broker said so.
    next: Option<i64>,
    busy: bool,
    seen: BTreeSet<i64>,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Offset,
    Pull(i64),
    Commit,
}

#[derive(Debug)]
struct Pulling {
    number: usize,
    consumers: Vec<Consumer>,
}

/// The room.
pub(super) fn make(number: usize, core: &mut Core) -> Box<dyn Room> {
    let topics = core.ledger.topics.len();
    let consumers = (0..core.chance.within(1, 2)).map(|n| {
        let keys = (0..topics).flat_map(|topic| (0..QUEUES).map(move |queue| (topic, queue)));
        Consumer {
            client: core.session(number, format!("consumer {n}")),
            group: format!("group{n}"),
            commits_by_pull: core.chance.one_in(2),
            suspend_ms: core.chance.pick(&[0, 500, 5000, 15_000]),
            queues: keys.map(|key| (key, Reading::default())).collect(),
            asked: BTreeMap::new(),
        }
    });
    let consumers = consumers.collect();
    Box::new(Pulling { number, consumers })
}

/// The header of a pull.
pub(super) fn pull_fields(
    group: &str,
    topic: &str,
    queue: i32,
    from: i64,
    commit: Option<i64>,
    suspend_ms: i64,
) -> Fields<'static> {
    let suspend = if suspend_ms > 0 { pull_flag::SUSPEND } else { 0 };
    let commits = if commit.is_some() { pull_flag::COMMIT_OFFSET } else { 0 };
    fields(&PullMessageHeader {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: queue,
        queue_offset: from,
        max_msg_nums: 16,
        sys_flag: pull_flag::SUBSCRIPTION | suspend | commits,
        commit_offset: commit.unwrap_or(0),
        suspend_timeout_millis: suspend_ms,
        subscription: Some("*".into()),
        sub_version: 1,
        expression_type: Some("TAG".into()),
        max_msg_bytes: None,
        borrows: std::marker::PhantomData,
    })
}

/// The header of a question where a group stands.
pub(super) fn query_fields(group: &str, topic: &str, queue: i32) -> Fields<'static> {
    fields(&QueryConsumerOffsetHeader {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: queue,
        set_zero_if_not_found: Some(true),
        borrows: std::marker::PhantomData,
    })
}

/// The header of a commit.
pub(super) fn commit_fields(group: &str, topic: &str, queue: i32, offset: i64) -> Fields<'static> {
    fields(&UpdateConsumerOffsetHeader {
        consumer_group: group.into(),
        topic: topic.into(),
        queue_id: queue,
        commit_offset: offset,
        borrows: std::marker::PhantomData,
    })
}

/// What a pull came to.
#[derive(Debug)]
pub(super) enum Pulled {
    /// Messages: their offsets, and where to go on.
    Found(Vec<i64>, i64),
    /// Nothing yet.
    Nothing,
    /// The broker says to go on there.
    Moved(i64),
    /// A refusal.
    Refused,
}

/// Reads the reply to a pull from offset `from` of a queue and holds it to the laws of delivery.
pub(super) fn read_pull(
    core: &mut Core,
    key: QueueKey,
    from: i64,
    frame: &Frame,
    sent_at: u64,
    arrived_at: u64,
) -> Pulled {
    let Ok(header) = Header::decode(frame) else { return Pulled::Refused };
    let number = |name: &str| header.field(name).and_then(|value| value.parse::<i64>().ok());
    let next = number("nextBeginOffset");
    match ResponseCode::from_code(header.code) {
        Some(ResponseCode::Success) => {}
        Some(ResponseCode::PullNotFound) => {
            let known = core.ledger.queue(key).and_then(|places| places.range(from..).next());
            if let Some((offset, place)) = known.filter(|(_, place)| place.known_at < sent_at) {
                let at = place.known_at;
                core.broken(format!(
                    "SAYS NOTHING: a pull from {from} of {key:?} was answered so at {sent_at} µs; offset {offset} was known at {at}"
                ));
            }
            return Pulled::Nothing;
        }
        Some(ResponseCode::PullOffsetMoved | ResponseCode::PullRetryImmediately) => {
            return next.map_or(Pulled::Refused, Pulled::Moved);
        }
        _ => return Pulled::Refused,
    }
    let known_at = core.ledger.queue(key).and_then(|places| places.get(&from)).map(|place| place.known_at);
    if let Some(known_at) = known_at.filter(|known_at| sent_at > arrived_at.max(*known_at) + WOKEN_WITHIN) {
        core.broken(format!(
            "NOT WOKEN: a pull from {from} of {key:?} arrived at {arrived_at} µs, the message was there at {known_at}, the \
             reply left at {sent_at}"
        ));
    }
    let mut offsets = Vec::new();
    for record in record::records(&frame.body) {
        let law = record.map_err(|error| format!("CORRUPT: delivered: {error}")).and_then(|record| {
            record.check_body().map_err(|error| format!("CORRUPT: delivered: {error}"))?;
            let id = core.ledger.identify(record.body, key.0).map_err(|what| format!("CORRUPT: {what}"))?;
            let (offset, due) = (record.queue_offset.0, from + offsets.len() as i64);
            if offset != due {
                return Err(format!("HOLE: offset {offset} of queue {key:?} delivered where {due} was due"));
            }
            core.ledger.delivered(key, offset, id, record.log_offset.0, core.now)?;
            offsets.push(offset);
            Ok(())
        });
        if core.hold(law).is_none() {
            return Pulled::Refused;
        }
    }
    let end = from + offsets.len() as i64;
    if offsets.is_empty() || next != Some(end) {
        core.broken(format!("PULL: {} messages from {from} of {key:?}, next {next:?}", offsets.len()));
    }
    Pulled::Found(offsets, end)
}

/// Reads where a group stands; it is never beyond what the queue is known to have.
pub(super) fn read_offset(core: &mut Core, key: QueueKey, frame: &Frame) -> Option<i64> {
    let offset = offset_of(frame)?;
    let end = core.ledger.queue(key).and_then(|places| places.keys().next_back()).map_or(0, |last| last + 1);
    if offset > end {
        core.broken(format!("BEYOND: a group stands at {offset} of {key:?}, whose end is {end}"));
    }
    Some(offset)
}

/// Tells the broker that a consumer lives.
pub(super) fn heartbeat(core: &mut Core, client: usize, group: &str) {
    let subscriptions = core.ledger.topics.iter().map(|topic| SubscriptionData {
        topic: topic.clone(),
        sub_string: "*".into(),
        sub_version: 1,
        ..SubscriptionData::default()
    });
    let consumer = ConsumerData {
        group_name: group.to_owned(),
        message_model: "CLUSTERING".into(),
        subscription_data_set: subscriptions.collect(),
        ..ConsumerData::default()
    };
    let client_id = core.sessions[client].name.clone();
    let data = HeartbeatData { client_id, consumer_data_set: vec![consumer], ..HeartbeatData::default() };
    let body = Bytes::from(json::to_vec(&data));
    core.ask(client, Server::Broker, Ask { body, ..Ask::plain(RequestCode::Heartbeat, Fields::default()) });
}

impl Consumer {
    fn look(&mut self, core: &mut Core, key: QueueKey) {
        let topic = core.ledger.topics[key.0].clone();
        let Some(reading) = self.queues.get_mut(&key).filter(|reading| !reading.busy) else { return };
        reading.busy = true;
        let (asked, ask) = match reading.next {
            None => {
                let fields = query_fields(&self.group, &topic, key.1);
                (Asked::Offset, Ask::plain(RequestCode::QueryConsumerOffset, fields))
            }
            Some(next) => {
                let commit = self.commits_by_pull.then_some(next);
                let fields = pull_fields(&self.group, &topic, key.1, next, commit, self.suspend_ms);
                let timeout_ms = Some(self.suspend_ms.unsigned_abs() + 3000);
                (Asked::Pull(next), Ask { timeout_ms, ..Ask::plain(RequestCode::PullMessage, fields) })
            }
        };
        let opaque = core.ask(self.client, Server::Broker, ask);
        self.asked.insert(opaque, (key, asked));
    }

    fn commit(&mut self, core: &mut Core, key: QueueKey, offset: i64) {
        let topic = core.ledger.topics[key.0].clone();
        let fields = commit_fields(&self.group, &topic, key.1, offset);
        let oneway = core.chance.one_in(2);
        let timeout_ms = (!oneway).then_some(3000);
        let ask = Ask { timeout_ms, ..Ask::plain(RequestCode::UpdateConsumerOffset, fields) };
        let opaque = core.ask(self.client, Server::Broker, ask);
        if !oneway {
            self.asked.insert(opaque, (key, Asked::Commit));
        }
    }

    /// Returns how long to wait before the queue is looked at again.
    fn answered(&mut self, core: &mut Core, key: QueueKey, asked: Asked, answer: &Answer) -> Option<u64> {
        let Some((frame, sent_at)) = &answer.reply else {
            if let Asked::Commit = asked {
                return None;
            }
            // As after a restart of its own: the broker says where the group stands.
            let reading = self.queues.get_mut(&key)?;
            (reading.next, reading.busy) = (None, false);
            return Some(PAUSE);
        };
        match asked {
            Asked::Commit => None,
            Asked::Offset => {
                let offset = read_offset(core, key, frame);
                let reading = self.queues.get_mut(&key)?;
                (reading.next, reading.busy) = (offset, false);
                Some(if offset.is_some() { 0 } else { PAUSE })
            }
            Asked::Pull(from) => {
                let arrived_at = answer.arrived_at.unwrap_or(*sent_at);
                let pulled = read_pull(core, key, from, frame, *sent_at, arrived_at);
                let reading = self.queues.get_mut(&key)?;
                reading.busy = false;
                match pulled {
                    Pulled::Found(offsets, next) => {
                        reading.seen.extend(offsets);
                        reading.next = Some(next);
                        if !self.commits_by_pull {
                            self.commit(core, key, next);
                        }
                        Some(0)
                    }
                    Pulled::Moved(next) => {
                        reading.next = Some(next);
                        Some(PAUSE)
                    }
                    Pulled::Nothing if self.suspend_ms > 0 => Some(0),
                    Pulled::Nothing | Pulled::Refused => Some(PAUSE),
                }
            }
        }
    }
}

impl Pulling {
    /// A tag for a queue of a consumer.
    fn tag(consumer: usize, key: QueueKey) -> u64 {
        1 + ((consumer as u64) << 32 | (key.0 as u64) << 8 | u64::from(key.1.unsigned_abs()))
    }
}

impl Room for Pulling {
    fn name(&self) -> &'static str {
        "pull"
    }

    fn woken(&mut self, core: &mut Core, tag: u64) {
        if tag == 0 {
            for consumer in &self.consumers {
                heartbeat(core, consumer.client, &consumer.group);
            }
            let new = if core.now == 0 { &self.consumers[..] } else { &[] };
            for (number, consumer) in new.iter().enumerate() {
                for key in consumer.queues.keys() {
                    core.wake(self.number, Pulling::tag(number, *key), 5000);
                }
            }
            return core.wake(self.number, 0, HEARTBEAT);
        }
        let tag = tag - 1;
        let key = ((tag >> 8 & 0xFF_FFFF) as usize, (tag & 0xFF) as i32);
        self.consumers[(tag >> 32) as usize].look(core, key);
    }

    fn answered(&mut self, core: &mut Core, answer: Answer) {
        let found = self.consumers.iter_mut().enumerate().find(|(_, c)| c.client == answer.client);
        let Some((number, consumer)) = found else { return };
        let Some((key, asked)) = consumer.asked.remove(&answer.opaque) else { return };
        if let Some(pause) = consumer.answered(core, key, asked, &answer) {
            let after = pause + core.chance.within(1, 1000);
            core.wake(self.number, Pulling::tag(number, key), after);
        }
    }

    fn recovered(&mut self, core: &mut Core, _lossy: bool) {
        for (key, reading) in self.consumers.iter_mut().flat_map(|consumer| &mut consumer.queues) {
            // A consumer that comes back asks where its group stands.
            reading.next = None;
            let end = core
                .ledger
                .queue(*key)
                .and_then(|places| places.keys().next_back())
                .map_or(0, |last| last + 1);
            reading.seen.retain(|offset| *offset < end);
        }
    }

    fn unfinished(&self, core: &Core) -> Option<String> {
        self.consumers.iter().find_map(|consumer| {
            let missing = |(key, reading): (&QueueKey, &Reading)| {
                Some((*key, core.ledger.unseen(*key, &reading.seen)?))
            };
            let (key, offset) = consumer.queues.iter().find_map(missing)?;
            Some(format!("offset {offset} of {key:?}, which {} never got", consumer.group))
        })
    }
}
