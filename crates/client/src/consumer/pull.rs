//! Pulling one queue: long polls one after the other, as far as the cache has room.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cometmq_protocol::headers::HeaderFields;
use cometmq_protocol::headers::pull::{PullMessageHeader, PullMessageReply, pull_flag};
use cometmq_protocol::{QueueOffset, RequestCode};
use cometmq_remoting::Response;
use tokio::time::{sleep, timeout};

use super::process_queue::Step;
use super::verdict::{self, Verdict};
use super::{Assigned, Item, Shared};
use crate::received::ReceivedMessage;
use crate::route::MASTER_ID;
use crate::session::{ClientError, bad_reply};
use crate::subscription::Subscription;

/// Most bytes of one pull, before its last message.
const PULL_BYTES_MAX: i32 = 256 * 1024;
/// How much longer than the long poll an answer may take.
const ANSWER_GRACE: Duration = Duration::from_secs(15);
/// A broker that answers "nothing" faster than this did not hold the pull: it is not asked in a tight loop.
const HELD_MIN: Duration = Duration::from_millis(10);
/// Pause then.
const NOT_HELD_PAUSE: Duration = Duration::from_millis(100);
/// A full cache is looked at anew after this long, should a wake-up be missed.
const FULL_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Pulls until the queue is given up.
pub(super) async fn pull(shared: Arc<Shared>, assigned: Arc<Assigned>, subscription: Subscription) {
    let mut puller = Puller { shared, assigned: assigned.clone(), subscription, broker_id: MASTER_ID };
    let pulling = async {
        loop {
            let step = puller.assigned.process().step();
            match step {
                Step::Dropped => return,
                Step::Full => {
                    let _ = timeout(FULL_PAUSE_MAX, puller.assigned.room.notified()).await;
                }
                Step::Pull { offset, done } => {
                    if let Some(pause) = puller.round(offset, done).await {
                        sleep(pause).await;
                    }
                }
            }
        }
    };
    // A long poll for someone else's queue is of no use to anybody.
    tokio::select! {
        () = pulling => {}
        () = assigned.given_up.notified() => {}
    }
}

struct Puller {
    shared: Arc<Shared>,
    assigned: Arc<Assigned>,
    subscription: Subscription,
    /// Which of the broker set the last answer suggested.
    broker_id: i64,
}

impl Puller {
    /// One pull; how long to pause after it, if at all.
    async fn round(&mut self, offset: QueueOffset, done: QueueOffset) -> Option<Duration> {
        let asked = Instant::now();
        let verdict = match self.ask(offset, done).await {
            Ok(response) => self.answered(&response),
            Err(error) => Err(error),
        };
        let verdict = verdict.unwrap_or_else(|error| {
            let queue = &self.assigned.queue;
            tracing::warn!(%error, topic = queue.topic, broker = queue.broker_name, queue = queue.queue_id, "pull failed");
            // The slave that was suggested may be the one that is gone.
            self.broker_id = MASTER_ID;
            verdict::OF_FAILURE
        });
        match verdict {
            Verdict::Pause(pause) => Some(pause),
            Verdict::Nothing if asked.elapsed() < HELD_MIN => Some(NOT_HELD_PAUSE),
            Verdict::Messages | Verdict::Nothing | Verdict::Moved => None,
        }
    }

    async fn ask(&self, offset: QueueOffset, done: QueueOffset) -> Result<Response, ClientError> {
        let (shared, queue) = (&self.shared, &self.assigned.queue);
        let options = &shared.options;
        let route = shared.session.route(self.subscription.topic()).await?;
        let address = route.broker(&queue.broker_name, self.broker_id).ok_or_else(|| {
            let detail = format!("no address of broker {}", queue.broker_name);
            bad_reply("the name server", RequestCode::GetRoute.name(), detail)
        })?;
        // Slaves keep no offsets.
        let commit = if self.broker_id == MASTER_ID && done.0 > 0 { pull_flag::COMMIT_OFFSET } else { 0 };
        let header = PullMessageHeader {
            consumer_group: shared.group.as_str().into(),
            topic: queue.topic.as_str().into(),
            queue_id: queue.queue_id,
            queue_offset: offset.0,
            max_msg_nums: options.pull_messages_max,
            sys_flag: pull_flag::SUSPEND | commit,
            commit_offset: done.0,
            suspend_timeout_millis: options.long_poll.as_millis() as i64,
            subscription: None,
            sub_version: shared.version,
            expression_type: Some("TAG".into()),
            max_msg_bytes: Some(PULL_BYTES_MAX),
            borrows: PhantomData,
        };
        let mut fields = header.encode();
        fields.push("bname", queue.broker_name.as_str());
        let connection = shared.session.broker(address).await?;
        let wait = options.long_poll + ANSWER_GRACE;
        Ok(connection.request(RequestCode::PullMessage.code(), fields, bytes::Bytes::new(), wait).await?)
    }

    fn answered(&mut self, response: &Response) -> Result<Verdict, ClientError> {
        let verdict = verdict::of_reply(response.code);
        let name = RequestCode::PullMessage.name();
        if let Verdict::Pause(_) = verdict {
            let (code, remark) = (response.code, response.remark());
            let broker = &self.assigned.queue.broker_name;
            tracing::debug!(code, remark, broker, "pull refused, tried again later");
            return Ok(verdict);
        }
        let broker_name = &self.assigned.queue.broker_name;
        let reply: PullMessageReply<'_> =
            response.fields().map_err(|error| bad_reply(broker_name, name, error))?;
        self.broker_id = reply.suggest_which_broker_id;
        let next = QueueOffset(reply.next_begin_offset);
        match verdict {
            Verdict::Moved => {
                let queue = &self.assigned.queue;
                tracing::info!(topic = queue.topic, queue = queue.queue_id, %next, "offset does not exist, the broker moves it");
                self.assigned.process().moved(next);
            }
            Verdict::Nothing => drop(self.assigned.process().pulled(&[], next)),
            Verdict::Messages => self.hand_out(response, next),
            Verdict::Pause(_) => {}
        }
        Ok(verdict)
    }

    /// Gives the messages to the workers.
    fn hand_out(&self, response: &Response, next: QueueOffset) {
        let queue = &self.assigned.queue;
        let mut messages = Vec::new();
        for message in ReceivedMessage::decode_all(&queue.broker_name, response.body()) {
            match message {
                Ok(message) if self.subscription.wants(message.tag()) => messages.push(message),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, topic = queue.topic, queue = queue.queue_id, "unreadable message skipped")
                }
            }
        }
        let sizes: Vec<_> = messages.iter().map(|message| (message.queue_offset, message.bytes())).collect();
        let (new, epoch) = {
            let mut process = self.assigned.process();
            (process.pulled(&sizes, next), process.epoch())
        };
        messages.retain(|message| new.binary_search(&message.queue_offset).is_ok());
        let assigned = &self.assigned;
        self.shared.work.add(messages.into_iter().map(|message| Item {
            assigned: assigned.clone(),
            epoch,
            message,
        }));
    }
}
