//! Consuming in a group: brokers keep the messages, members share the queues, a callback handles each message.
//!
//! One control task shares out the queues (`rebalance`) and commits offsets; one task per queue pulls (`pull`);
//! a fixed number of workers call the listener. What each of them decides stands in [`process_queue`], `verdict` and
//! [`allocation`](crate::allocation) without any of these tasks.
//!
//! A message that the listener wants again later comes again after [`ConsumerOptions::retry_delay`] in this process,
//! as often as it takes; until then its offset is not committed and its queue's cache stays occupied. Messages come
//! at least once: after a crash or when a queue changes its owner some come twice.

pub mod process_queue;
mod pull;
mod rebalance;
mod verdict;
mod work;

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use cometmq_protocol::body::client::{ConsumerData, MessageQueue};
use cometmq_protocol::message::tags::TagExpressionError;
use cometmq_protocol::names::{GroupName, NameError, TopicName};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::received::ReceivedMessage;
use crate::session::{ClientError, Session, now};
use crate::subscription::Subscription;
use process_queue::{CacheLimits, ProcessQueue};
use work::Work;

/// Where a group begins that has no committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeFrom {
    /// At the first message that the queue still has.
    First,
    /// Behind the last one: only what comes from now on.
    Last,
}

/// What the listener made of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; it will not come again.
    Success,
    /// Not done; it is to come again later.
    RetryLater,
}

/// How a consumer behaves. The defaults are those of the Java client where it has them.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Where a new group begins.
    pub from: ConsumeFrom,
    /// Messages that are consumed at a time.
    pub workers: usize,
    /// Most messages of one pull; brokers give 32 at most by default.
    pub pull_messages_max: i32,
    /// How much of each queue may be in memory.
    pub cache: CacheLimits,
    /// How long brokers may hold a pull until there is a message.
    pub long_poll: Duration,
    /// How long a message waits that is to come again later.
    pub retry_delay: Duration,
    /// How often the queues are shared out anew; changes in the group are acted upon at once.
    pub rebalance_interval: Duration,
    /// How often offsets are committed.
    pub commit_interval: Duration,
    /// How long `shutdown` waits for listeners that are at work.
    pub stop_timeout: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> ConsumerOptions {
        ConsumerOptions {
            from: ConsumeFrom::Last,
            workers: 20,
            pull_messages_max: 32,
            cache: CacheLimits { messages_max: 1000, bytes_max: 100 * 1024 * 1024, span_max: 2000 },
            long_poll: Duration::from_secs(15),
            retry_delay: Duration::from_secs(5),
            rebalance_interval: Duration::from_secs(20),
            commit_interval: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(10),
        }
    }
}

/// Why a consumer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// A name is not legal.
    #[error("{0}; choose another name")]
    Name(#[from] NameError),
    /// The expression names no tag.
    #[error(transparent)]
    Expression(#[from] TagExpressionError),
    /// There is nothing to consume.
    #[error("group {0} subscribes to no topic; call subscribe first")]
    NothingSubscribed(GroupName),
    /// The client has a consumer of this group already.
    #[error(
        "this client already consumes in group {0}; subscribe to several topics in one consumer, or start another client"
    )]
    AlreadyConsuming(GroupName),
    /// The cluster does not answer.
    #[error(transparent)]
    Cluster(#[from] ClientError),
}

type Listening = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type Listener = Box<dyn Fn(ReceivedMessage) -> Listening + Send + Sync>;

/// Collects what a [`PushConsumer`] subscribes to.
pub struct PushConsumerBuilder {
    session: Arc<Session>,
    group: GroupName,
    options: ConsumerOptions,
    subscriptions: BTreeMap<TopicName, Subscription>,
}

impl PushConsumerBuilder {
    pub(crate) fn new(
        session: Arc<Session>,
        group: GroupName,
        options: ConsumerOptions,
    ) -> PushConsumerBuilder {
        PushConsumerBuilder { session, group, options, subscriptions: BTreeMap::new() }
    }

    /// Subscribes to the messages of `topic` with one of the tags in `expression`: `*`, or tags separated by `||`.
    /// All members of a group must subscribe to the same.
    pub fn subscribe(mut self, topic: &str, expression: &str) -> Result<PushConsumerBuilder, ConsumerError> {
        let topic = TopicName::parse(topic)?;
        let subscription = Subscription::new(topic.clone(), expression)?;
        self.subscriptions.insert(topic, subscription);
        Ok(self)
    }

    /// Joins the group and begins to consume: `listener` is called for each message, several at a time. When it
    /// panics the message comes again later.
    ///
    /// Returns when the brokers know the consumer. A topic that does not exist yet is consumed once it does.
    pub async fn start<F, L>(mut self, listener: L) -> Result<PushConsumer, ConsumerError>
    where
        L: Fn(ReceivedMessage) -> F + Send + Sync + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        if self.subscriptions.is_empty() {
            return Err(ConsumerError::NothingSubscribed(self.group));
        }
        for topic in self.subscriptions.keys() {
            match self.session.route(topic).await {
                Ok(_) => {}
                Err(error @ ClientError::TopicUnknown { .. }) => {
                    tracing::warn!(%error, "consuming begins when it exists")
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Members written in other languages send messages back to this topic and share it out among all.
        let retry = TopicName::retry(&self.group)?;
        let all = Subscription::new(retry.clone(), "*")?;
        self.subscriptions.insert(retry, all);
        let listener: Listener = Box::new(move |message| Box::pin(listener(message)));
        let shared = Arc::new(Shared {
            work: Work::new(self.options.retry_delay),
            session: self.session,
            group: self.group,
            options: self.options,
            version: now().0,
            subscriptions: self.subscriptions,
            queues: Mutex::default(),
            rebalance: Arc::default(),
            listener,
        });
        if !shared.session.members.enter_consumer(shared.consumer_data(), shared.rebalance.clone()) {
            return Err(ConsumerError::AlreadyConsuming(shared.group.clone()));
        }
        shared.session.heartbeat().await;
        Ok(PushConsumer::spawn(shared))
    }
}

/// A consumer at work. Dropping it stops it without committing what was consumed since the last commit; better call
/// [`PushConsumer::shutdown`].
pub struct PushConsumer {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    control: JoinSet<()>,
    workers: JoinSet<()>,
}

/// What all tasks of a consumer share.
struct Shared {
    session: Arc<Session>,
    group: GroupName,
    options: ConsumerOptions,
    /// Version of the subscriptions.
    version: i64,
    subscriptions: BTreeMap<TopicName, Subscription>,
    queues: Mutex<BTreeMap<MessageQueue, Arc<Assigned>>>,
    rebalance: Arc<Notify>,
    work: Work<Item>,
    listener: Listener,
}

/// A queue that this consumer was given.
struct Assigned {
    queue: MessageQueue,
    process: Mutex<ProcessQueue>,
    /// Something was done, so that there is room in the cache.
    room: Notify,
    /// The queue belongs to someone else now.
    given_up: Notify,
}

/// A message that waits for a worker.
struct Item {
    assigned: Arc<Assigned>,
    epoch: u32,
    message: ReceivedMessage,
}

impl Assigned {
    fn process(&self) -> MutexGuard<'_, ProcessQueue> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PushConsumer {
    fn spawn(shared: Arc<Shared>) -> PushConsumer {
        let (mut control, mut workers) = (JoinSet::new(), JoinSet::new());
        let stop = watch::Sender::new(false);
        control.spawn(rebalance::control(shared.clone(), stop.subscribe()));
        for _ in 0..shared.options.workers.max(1) {
            workers.spawn(consume(shared.clone()));
        }
        PushConsumer { shared, stop, control, workers }
    }

    /// The queues that this consumer has now.
    pub fn queues(&self) -> Vec<MessageQueue> {
        self.shared.queues().keys().cloned().collect()
    }

    /// Stops: pulls no more, waits for listeners that are at work (at most [`ConsumerOptions::stop_timeout`]),
    /// commits the offsets and leaves the group.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.control.join_next().await.is_some() {}
        self.shared.work.end();
        let stopped = async { while self.workers.join_next().await.is_some() {} };
        if timeout(self.shared.options.stop_timeout, stopped).await.is_err() {
            tracing::warn!(group = %self.shared.group, "listeners still at work are dropped, their messages come again");
            self.workers.shutdown().await;
        }
        rebalance::commit(&self.shared);
        let group = self.shared.group.as_str();
        self.shared.session.members.leave_consumer(group);
        self.shared.session.unregister(None, Some(group)).await;
    }
}

impl Drop for PushConsumer {
    fn drop(&mut self) {
        self.shared.session.members.leave_consumer(self.shared.group.as_str());
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, BTreeMap<MessageQueue, Arc<Assigned>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn consumer_data(&self) -> ConsumerData {
        let from = match self.options.from {
            ConsumeFrom::First => "CONSUME_FROM_FIRST_OFFSET",
            ConsumeFrom::Last => "CONSUME_FROM_LAST_OFFSET",
        };
        let version = cometmq_protocol::Millis(self.version);
        ConsumerData {
            consume_from_where: from.to_owned(),
            consume_type: "CONSUME_PASSIVELY".to_owned(),
            group_name: self.group.to_string(),
            message_model: "CLUSTERING".to_owned(),
            subscription_data_set: self
                .subscriptions
                .values()
                .map(|wanted| wanted.to_data(version))
                .collect(),
            unit_mode: false,
        }
    }
}

/// A worker: takes messages until the work ends.
async fn consume(shared: Arc<Shared>) {
    while let Some(mut item) = shared.work.next().await {
        if !item.assigned.process().counts(item.epoch) {
            continue;
        }
        let offset = item.message.queue_offset;
        match guarded((shared.listener)(item.message.clone())).await {
            Outcome::Success => {
                if item.assigned.process().consumed(item.epoch, offset) {
                    item.assigned.room.notify_one();
                }
            }
            Outcome::RetryLater => {
                item.message.reconsume_times = item.message.reconsume_times.saturating_add(1);
                shared.work.add_later(item);
            }
        }
    }
}

/// A listener that panics has not consumed its message; the worker goes on.
async fn guarded(mut listening: Listening) -> Outcome {
    let poll = std::future::poll_fn(move |cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| listening.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(Outcome::RetryLater))
    });
    poll.await
}
