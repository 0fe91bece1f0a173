//! Pulling: messages of a queue from an offset on, or a wait for the next one.
//!
//! Reading order: here what is asked and what there is, [`chosen`] what the filter lets pass, [`reply`] the answer and
//! [`head`] its head, [`waiters`] the pulls that wait for a message, [`cold`] those that wait for the disk.

mod chosen;
mod cold;
mod head;
mod reply;
mod waiters;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;
use cometmq_protocol::body::client::SubscriptionGroupConfig;
use cometmq_protocol::body::topic::permission;
use cometmq_protocol::headers::pull::{PullMessageHeader, PullMessageReply, pull_flag};
use cometmq_protocol::message::tags::TagFilter;
use cometmq_protocol::names::{GroupName, TopicName};
use cometmq_protocol::{
    ConnectionId, Millis, Peer, QueueId, QueueOffset, Reply, ResponseCode, SerializeType,
};
use cometmq_store::{DiskError, Patience, Queue, Unit};

use crate::broker::Broker;
use crate::client::{Filter, NO_SQL, SubscriptionLookup};
use crate::effects::Effects;

use chosen::Chosen;
pub use cold::{ColdPull, ColdPulls};
use head::Shape;
pub use waiters::Waiters;

/// Most messages in one reply.
const MESSAGES_MAX: usize = 1024;
/// Entries looked at together, at least, when a filter may drop some.
const SCANNED_MIN: usize = 32;
/// Most entries looked at for one request when the filter drops most of them.
const SCANNED_MAX: usize = 4096;
/// Bytes of answers that are made together for pulls that waited for the same message. Those behind leave to the shell,
/// which makes one at a time: a large message for thousands that wait would not fit into memory once for each.
const WOKEN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest wait that a client may ask for.
const SUSPEND_MS_MAX: i64 = 60_000;

/// A pull as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PullAsked<'a> {
    pub now: Millis,
    pub peer: &'a Peer,
    pub opaque: i32,
    pub serialize_type: SerializeType,
    pub header: &'a PullMessageHeader<'a>,
}

/// A pull that was found to be in order.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    pub connection: ConnectionId,
    pub opaque: i32,
    pub serialize_type: SerializeType,
    pub topic: TopicName,
    pub queue_id: QueueId,
    offset: QueueOffset,
    count: usize,
    filter: Arc<Filter>,
    shape: Shape,
}

impl Pull {
    /// Memory that it takes; a filter that it brought along may be large, one of its group is not its own.
    fn bytes(&self) -> usize {
        let codes = match &*self.filter {
            Filter::Tags(TagFilter::Codes(codes)) if Arc::strong_count(&self.filter) == 1 => codes.capacity(),
            _ => 0,
        };
        size_of::<Pull>() + codes * size_of::<i64>()
    }
}

/// What a pull came to.
enum Outcome {
    Found {
        units: Vec<(QueueOffset, Unit)>,
        next: QueueOffset,
    },
    Nothing {
        code: ResponseCode,
        remark: &'static str,
        next: QueueOffset,
    },
    /// The queue's entries are not in memory.
    NotResident,
}

/// An answer needs bytes that are not in memory, and may not wait for the disk.
struct NotResident;

impl Broker {
    /// Codes 11 and 361: writes the reply to `out`, or keeps the request until a message comes.
    pub(crate) fn pull(&self, asked: &PullAsked<'_>, out: &mut BytesMut, effects: &mut Effects) {
        let pull = match self.check_pull(asked) {
            Ok(pull) => pull,
            Err(reply) => return reply.encode(asked.opaque, asked.serialize_type, out),
        };
        let header = asked.header;
        // Whatever becomes of the messages: a pull that is refused for now must not lose it.
        if header.sys_flag & pull_flag::COMMIT_OFFSET != 0 && header.commit_offset >= 0 {
            let offset = QueueOffset(header.commit_offset);
            self.offsets.advance(&header.consumer_group, &header.topic, pull.queue_id, offset);
        }
        let wait_ms = if header.sys_flag & pull_flag::SUSPEND == 0 {
            0
        } else if self.config.long_polling {
            header.suspend_timeout_millis.clamp(0, SUSPEND_MS_MAX)
        } else {
            self.config.short_polling_ms
        };
        let deadline = (wait_ms > 0).then_some(asked.now + wait_ms);
        self.answer_or_wait(pull, deadline, Patience::Resident, out, effects);
    }

    /// Answers a pull into `out` unless there is nothing yet and it may wait until `deadline`, or it needs what only
    /// the disk has and `patience` does not reach that far: then it is kept, or handed to the shell.
    fn answer_or_wait(
        &self,
        pull: Pull,
        deadline: Option<Millis>,
        patience: Patience,
        out: &mut BytesMut,
        effects: &mut Effects,
    ) {
        let Some(found) = self.store.queue_patiently(&pull.topic, pull.queue_id, patience) else {
            return self.leave_to_shell(pull, deadline, out, effects);
        };
        let queue = match found {
            Ok(queue) => queue,
            Err(error) => {
                let refusal = unreadable(&pull.topic, pull.queue_id, &error);
                return refusal.encode(pull.opaque, pull.serialize_type, out);
            }
        };
        let outcome = self.look(&pull, queue.as_deref(), patience);
        match patience {
            Patience::Disk => self.cold.note(&outcome, self.store.log().written()),
            Patience::Resident if self.cold.holds(&outcome, self.store.log().written()) => {
                return self.leave_to_shell(pull, deadline, out, effects);
            }
            Patience::Resident => {}
        }
        let nothing_yet = matches!(&outcome, Outcome::Nothing { code: ResponseCode::PullNotFound, .. });
        match deadline.filter(|_| nothing_yet) {
            None => {
                if let Err(NotResident) = self.write_reply(&pull, queue.as_deref(), outcome, patience, out) {
                    self.leave_to_shell(pull, deadline, out, effects);
                }
            }
            Some(deadline) => {
                let offset = pull.offset;
                // The queue may not exist yet: it must, to be awaited.
                let made = match (&queue, self.topics.get(pull.topic.as_str())) {
                    (None, Some(topic)) => self.store.queue_or_create(&topic.name, pull.queue_id).map(Some),
                    _ => Ok(queue.clone()),
                };
                let awaited = match made {
                    Ok(awaited) => awaited,
                    Err(error) => {
                        let refusal = unreadable(&pull.topic, pull.queue_id, &error);
                        return refusal.encode(pull.opaque, pull.serialize_type, out);
                    }
                };
                if let Some(refused) = self.waiters.park(pull, deadline) {
                    return reply::nothing(&refused, queue.as_deref(), &outcome, out);
                }
                if let Some(queue) = awaited {
                    queue.await_next();
                    // A message that came between looking and awaiting would wake nobody.
                    if queue.max() > offset {
                        self.wake(&queue, effects);
                    }
                }
            }
        }
    }

    /// Looks again at the pulls that wait for `queue`, which got a message.
    pub(crate) fn wake(&self, queue: &Queue, effects: &mut Effects) {
        for (pull, deadline) in self.waiters.take(queue.topic(), queue.id()) {
            let connection = pull.connection;
            let mut out = BytesMut::new();
            if effects.delivered_bytes > WOKEN_BYTES_MAX {
                self.leave_to_shell(pull, Some(deadline), &mut out, effects);
                effects.deliver(connection, out);
                continue;
            }
            let patience = Patience::Resident;
            let outcome = self.look(&pull, Some(queue), patience);
            match outcome {
                Outcome::Nothing { code: ResponseCode::PullNotFound, .. } => {
                    self.answer_or_wait(pull, Some(deadline), patience, &mut out, effects);
                }
                Outcome::Nothing { code: ResponseCode::PullRetryImmediately, next, .. } => {
                    // Messages that the filter dropped need not be looked at again.
                    let pull = Pull { offset: next, ..pull };
                    self.answer_or_wait(pull, Some(deadline), patience, &mut out, effects);
                }
                outcome => {
                    if let Err(NotResident) =
                        self.write_reply(&pull, Some(queue), outcome, patience, &mut out)
                    {
                        self.leave_to_shell(pull, Some(deadline), &mut out, effects);
                    }
                }
            }
            effects.deliver(connection, out);
        }
    }

    /// Answers the pulls whose time is over.
    pub(crate) fn expire_pulls(&self, now: Millis, effects: &mut Effects) {
        for pull in self.waiters.expire(now) {
            let mut out = BytesMut::new();
            let connection = pull.connection;
            self.answer_or_wait(pull, None, Patience::Resident, &mut out, effects);
            effects.deliver(connection, out);
        }
    }

    fn check_pull(&self, asked: &PullAsked<'_>) -> Result<Pull, Reply> {
        let PullAsked { now, peer, opaque, serialize_type, header } = *asked;
        let broker = &self.config.advertised;
        if self.config.permission & permission::READ == 0 {
            return Err(forbidden(1, format!("the broker[{broker}] pulling message is forbidden")));
        }
        let name = &*header.consumer_group;
        let group = match self.groups.get(name) {
            Some(group) => group,
            None => self.new_group(name, now)?,
        };
        if !group.consume_enable {
            return Err(forbidden(2, format!("subscription group no permission, {name}")));
        }
        let topic = self.topics.get(&header.topic).ok_or_else(|| {
            let remark = format!("topic[{}] not exist, apply first please!", header.topic);
            Reply::refuse(ResponseCode::TopicNotExist, remark)
        })?;
        if !topic.config.permits(permission::READ) {
            return Err(forbidden(3, format!("the topic[{}] pulling message is forbidden", topic.name)));
        }
        if !(0..topic.config.read_queue_nums).contains(&header.queue_id) {
            let remark = format!(
                "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}] consumer:[{}]",
                header.queue_id, topic.name, topic.config.read_queue_nums, peer.remote
            );
            return Err(Reply::refuse(ResponseCode::InvalidParameter, remark));
        }
        if let Some(remark) = topic.unserved() {
            return Err(Reply::refuse(ResponseCode::SystemError, remark));
        }
        let filter = self.pull_filter(header, group.consume_broadcast_enable)?;
        if *filter == Filter::Unsupported {
            return Err(Reply::refuse(ResponseCode::SystemError, NO_SQL));
        }
        Ok(Pull {
            connection: peer.connection,
            opaque,
            serialize_type,
            topic: topic.name.clone(),
            queue_id: QueueId(header.queue_id),
            offset: QueueOffset(header.queue_offset),
            count: (header.max_msg_nums.max(1) as usize).min(MESSAGES_MAX),
            filter,
            shape: Shape {
                topic_sys_flag: topic.config.topic_sys_flag,
                group_sys_flag: group.group_sys_flag,
                broker_id: group.broker_id,
            },
        })
    }

    /// The settings of a group that is not known yet.
    fn new_group(&self, name: &str, now: Millis) -> Result<Arc<SubscriptionGroupConfig>, Reply> {
        let name = GroupName::parse(name)
            .map_err(|error| Reply::refuse(ResponseCode::InvalidParameter, error.to_string()))?;
        self.groups.get_or_create(&name, now).ok_or_else(|| {
            let remark = format!(
                "subscription group [{name}] does not exist; create it, or set autoCreateSubscriptionGroup=true"
            );
            Reply::refuse(ResponseCode::SubscriptionGroupNotExist, remark)
        })
    }

    /// The filter that the request brings along, or that the group announced.
    fn pull_filter(
        &self,
        header: &PullMessageHeader<'_>,
        broadcast_enable: bool,
    ) -> Result<Arc<Filter>, Reply> {
        if header.sys_flag & pull_flag::SUBSCRIPTION != 0 {
            if header.expression_type.as_deref().is_some_and(|kind| !kind.is_empty() && kind != "TAG") {
                return Ok(Arc::new(Filter::Unsupported));
            }
            let filter = TagFilter::parse(header.subscription.as_deref().unwrap_or("*"))
                .map_err(|error| Reply::refuse(ResponseCode::SubscriptionParseFailed, error.to_string()))?;
            return Ok(Arc::new(Filter::Tags(filter)));
        }
        let not_exist = |remark: Cow<'static, str>| Reply::refuse(ResponseCode::SubscriptionNotExist, remark);
        match self.clients.subscription(&header.consumer_group, &header.topic) {
            SubscriptionLookup::GroupOffline => Err(not_exist("the consumer's group info not exist".into())),
            SubscriptionLookup::NotSubscribed => {
                Err(not_exist("the consumer's subscription not exist".into()))
            }
            SubscriptionLookup::Found { broadcasting: true, .. } if !broadcast_enable => {
                let remark =
                    format!("the consumer group[{}] can not consume by broadcast way", header.consumer_group);
                Err(forbidden(4, remark))
            }
            SubscriptionLookup::Found { subscription, .. } if subscription.version < header.sub_version => {
                Err(Reply::refuse(
                    ResponseCode::SubscriptionNotLatest,
                    "the consumer's subscription not latest",
                ))
            }
            SubscriptionLookup::Found { subscription, .. } => Ok(subscription.filter),
        }
    }

    /// What there is for a pull now.
    fn look(&self, pull: &Pull, queue: Option<&Queue>, patience: Patience) -> Outcome {
        use ResponseCode::{PullNotFound, PullOffsetMoved, PullRetryImmediately};
        let nothing = |code, remark, next| Outcome::Nothing { code, remark, next };
        let empty = |remark| {
            let code = if pull.offset.0 == 0 { PullNotFound } else { PullOffsetMoved };
            nothing(code, remark, QueueOffset(0))
        };
        let Some(queue) = queue else { return empty("NO_MATCHED_LOGIC_QUEUE") };
        let (min, max) = (queue.min(), queue.max());
        if max.0 == 0 {
            return empty("NO_MESSAGE_IN_QUEUE");
        }
        if pull.offset < min {
            return nothing(PullOffsetMoved, "OFFSET_TOO_SMALL", min);
        }
        if pull.offset == max {
            return nothing(PullNotFound, "OFFSET_OVERFLOW_ONE", max);
        }
        if pull.offset > max {
            return nothing(PullOffsetMoved, "OFFSET_OVERFLOW_BADLY", max);
        }
        let step = if *pull.filter == Filter::Tags(TagFilter::All) {
            pull.count
        } else {
            pull.count.max(SCANNED_MIN)
        };
        let mut chosen = Chosen::new(pull.count);
        while !chosen.is_full && chosen.scanned < SCANNED_MAX {
            let next = pull.offset + chosen.scanned as i64;
            let before = chosen.units.len();
            match queue.read_patiently(next, step, patience, &mut chosen.units) {
                Ok(true) => {}
                // What was found is delivered; the next pull goes on from there.
                Ok(false) if before > 0 => break,
                Ok(false) => return Outcome::NotResident,
                Err(error) => {
                    tracing::error!(topic = %queue.topic(), queue = %queue.id(), %error, "queue not readable");
                }
            }
            let Some((_, first)) = chosen.units.get(before) else { break };
            if chosen.scanned == 0 && first.log_offset < self.store.log().start() {
                // Deleted a moment ago: the queue's beginning follows.
                if let Err(error) = self.store.expire(queue) {
                    tracing::error!(topic = %queue.topic(), queue = %queue.id(), %error, "queue not readable");
                }
                return nothing(PullRetryImmediately, "MESSAGE_WAS_REMOVING", queue.min().max(pull.offset));
            }
            chosen.choose(before, pull);
        }
        let next = pull.offset + chosen.scanned as i64;
        match (chosen.scanned, chosen.units) {
            (0, _) => nothing(PullRetryImmediately, "MESSAGE_WAS_REMOVING", pull.offset),
            (_, units) if units.is_empty() => nothing(PullRetryImmediately, "NO_MATCHED_MESSAGE", next),
            (_, units) => Outcome::Found { units, next },
        }
    }
}

/// A queue whose files cannot be read may have messages: its offsets must not be made up.
fn unreadable(topic: &TopicName, queue: QueueId, error: &DiskError) -> Reply {
    tracing::error!(%topic, %queue, %error, "queue not readable");
    Reply::refuse(ResponseCode::SystemError, format!("queue {queue} of {topic} not readable: {error}"))
}

fn forbidden(kind: i32, remark: String) -> Reply {
    let fields = PullMessageReply {
        suggest_which_broker_id: 0,
        next_begin_offset: 0,
        min_offset: 0,
        max_offset: 0,
        offset_delta: None,
        topic_sys_flag: None,
        group_sys_flag: None,
        forbidden_type: Some(kind),
        borrows: std::marker::PhantomData,
    };
    Reply::refuse(ResponseCode::NoPermission, remark).with_fields(&fields)
}
