//! Sending: choose a queue, send, and on failure try another broker while time is left.

mod verdict;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cometmq_protocol::body::client::MessageQueue;
use cometmq_protocol::headers::HeaderFields;
use cometmq_protocol::headers::send::{SendMessageHeader, SendMessageReply};
use cometmq_protocol::message::batch::{self, BatchMessage};
use cometmq_protocol::message::properties::{self, key};
use cometmq_protocol::names::{AUTO_CREATE_TOPIC, GroupName, TopicName};
use cometmq_protocol::{QueueId, QueueOffset, RequestCode};
use cometmq_remoting::{RemotingError, Response};
use tokio::time::Instant;

use crate::message::{BODY_BYTES_MAX, Message};
use crate::route::{NEW_TOPIC_QUEUES, Route};
use crate::session::{ClientError, Session, now, remark_suffix};
pub use verdict::SendStatus;
use verdict::Verdict;

/// How a producer behaves. The defaults are those of the Java client.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// Time for a send with all its retries, once its route is known.
    pub send_timeout: Duration,
    /// Further attempts after a failed one, on other brokers where there are some.
    pub retries: u32,
}

impl Default for ProducerOptions {
    fn default() -> ProducerOptions {
        ProducerOptions { send_timeout: Duration::from_secs(3), retries: 2 }
    }
}

/// Where a message was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendResult {
    /// How far it got.
    pub status: SendStatus,
    /// The client's id of the message; of a batch all of them, joined by commas.
    pub msg_id: String,
    /// The broker's id, which says where it lies; of a batch all of them, joined by commas.
    pub offset_msg_id: String,
    /// Topic.
    pub topic: String,
    /// Broker that stored it.
    pub broker_name: String,
    /// Queue that took it.
    pub queue_id: QueueId,
    /// Position in that queue; of a batch the first.
    pub queue_offset: QueueOffset,
}

/// Why a message was not sent. Where the last reply is missing it may be stored all the same.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The topic's queues are not known.
    #[error(transparent)]
    Route(#[from] ClientError),
    /// No queue may be written to.
    #[error(
        "topic {topic} has no writable queue: its brokers have no master or its permission lacks W; look at \
         `topicRoute -t {topic}`"
    )]
    NoWritableQueue {
        /// Topic.
        topic: TopicName,
    },
    /// The broker does not take it.
    #[error("broker {broker_name} refuses the message with code {code}{}", remark_suffix(remark))]
    Refused {
        /// Broker asked last.
        broker_name: String,
        /// Response code.
        code: i32,
        /// What it says about it.
        remark: String,
    },
    /// The broker took it, but its reply cannot be read.
    #[error("broker {broker_name} answers the send with what this client cannot read: {detail}")]
    BadReply {
        /// Broker.
        broker_name: String,
        /// What is wrong.
        detail: String,
    },
    /// No reply came from any broker tried.
    #[error("no reply after {attempts} attempts, last from broker {broker_name}: {source}")]
    NoReply {
        /// Brokers asked, repeats included.
        attempts: u32,
        /// Broker asked last.
        broker_name: String,
        /// What happened there.
        #[source]
        source: RemotingError,
    },
    /// A batch that no broker would take.
    #[error(
        "a batch must have messages of one topic and at most {BODY_BYTES_MAX} bytes in all ({0}); split it"
    )]
    Batch(&'static str),
}

/// Sends messages. Cheap to share: all methods take `&self`, any number of sends may be under way.
pub struct Producer {
    session: Arc<Session>,
    group: GroupName,
    options: ProducerOptions,
    left: bool,
}

/// A send as every attempt repeats it.
struct Outgoing<'a> {
    topic: &'a TopicName,
    code: RequestCode,
    flag: i32,
    properties: String,
    body: Bytes,
    msg_id: String,
}

impl Producer {
    pub(crate) fn new(session: Arc<Session>, group: GroupName, options: ProducerOptions) -> Producer {
        session.members.enter_producer(group.as_str());
        Producer { session, group, options, left: false }
    }

    /// Sends a message and waits until a broker has stored it.
    pub async fn send(&self, message: &Message) -> Result<SendResult, SendError> {
        self.deliver(&self.outgoing(message)).await
    }

    /// Sends a message without waiting for any answer: it may be lost unnoticed.
    pub async fn send_oneway(&self, message: &Message) -> Result<(), SendError> {
        let outgoing = self.outgoing(message);
        let route = self.session.route_to_publish(message.topic()).await?;
        let (queue, address) = pick(&route, message.topic(), &[])?;
        let sent = async {
            let connection = self.session.broker(address).await?;
            connection.oneway(
                outgoing.code.code(),
                self.header(&outgoing, queue).encode(),
                outgoing.body.clone(),
            )
        };
        let broker_name = queue.broker_name.clone();
        sent.await.map_err(|source| SendError::NoReply { attempts: 1, broker_name, source })
    }

    /// Sends messages of one topic as one: they are stored together in one queue, or not at all.
    pub async fn send_batch(&self, messages: &[Message]) -> Result<SendResult, SendError> {
        let topic = messages.first().ok_or(SendError::Batch("it is empty"))?.topic();
        if messages.iter().any(|message| message.topic() != topic) {
            return Err(SendError::Batch("it has several topics"));
        }
        let mut ids = Vec::with_capacity(messages.len());
        let mut body = BytesMut::new();
        for message in messages {
            let id = self.session.unique_id();
            let properties = message.properties_with_id(&id);
            let part = BatchMessage {
                flag: message.flag(),
                body: message.body(),
                properties: properties.as_bytes(),
            };
            batch::encode(&part, &mut body);
            ids.push(id);
            if body.len() > BODY_BYTES_MAX {
                return Err(SendError::Batch("it is too large"));
            }
        }
        // Brokers append these to the properties of each message, and the last of two equal names wins: an id here
        // would replace the messages' own.
        let mut properties = String::new();
        properties::push(&mut properties, key::WAIT, "true");
        let code = RequestCode::SendBatchMessage;
        let outgoing =
            Outgoing { topic, code, flag: 0, properties, body: body.freeze(), msg_id: ids.join(",") };
        self.deliver(&outgoing).await
    }

    /// Leaves the group: brokers are told unless another producer of the client is in it.
    pub async fn shutdown(mut self) {
        self.left = true;
        if self.session.members.leave_producer(self.group.as_str()) {
            self.session.unregister(Some(self.group.as_str()), None).await;
        }
    }

    fn outgoing<'a>(&self, message: &'a Message) -> Outgoing<'a> {
        let msg_id = self.session.unique_id();
        Outgoing {
            topic: message.topic(),
            code: RequestCode::SendMessageV2,
            flag: message.flag(),
            properties: message.properties_with_id(&msg_id),
            body: message.body().clone(),
            msg_id,
        }
    }

    async fn deliver(&self, outgoing: &Outgoing<'_>) -> Result<SendResult, SendError> {
        let deadline = Instant::now() + self.options.send_timeout;
        let mut failed: Vec<String> = Vec::new();
        loop {
            let attempts = failed.len() as u32 + 1;
            let route = self.session.route_to_publish(outgoing.topic).await?;
            let (queue, address) = pick(&route, outgoing.topic, &failed)?;
            let (error, verdict) = match self.attempt(outgoing, queue, address, deadline).await {
                Ok(response) => match verdict::of_reply(response.code) {
                    Verdict::Stored(status) => return self.stored(outgoing, queue, status, &response),
                    verdict => (refused(queue, &response), verdict),
                },
                Err(error) => {
                    let verdict = verdict::of_failure(&error);
                    let broker_name = queue.broker_name.clone();
                    (SendError::NoReply { attempts, broker_name, source: error }, verdict)
                }
            };
            if verdict == Verdict::Fail || attempts > self.options.retries || Instant::now() >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, attempts, "send is tried again");
            failed.push(queue.broker_name.clone());
        }
    }

    async fn attempt(
        &self,
        outgoing: &Outgoing<'_>,
        queue: &MessageQueue,
        address: &str,
        deadline: Instant,
    ) -> Result<Response, RemotingError> {
        let connecting = tokio::time::timeout_at(deadline, self.session.broker(address));
        let connection = connecting.await.unwrap_or_else(|_| {
            Err(RemotingError::ConnectTimeout {
                address: address.to_owned(),
                after: self.options.send_timeout,
            })
        })?;
        let header = self.header(outgoing, queue);
        let left = deadline.saturating_duration_since(Instant::now());
        connection.request(outgoing.code.code(), header.encode(), outgoing.body.clone(), left).await
    }

    fn header<'a>(&'a self, outgoing: &'a Outgoing<'_>, queue: &'a MessageQueue) -> SendMessageHeader<'a> {
        SendMessageHeader {
            producer_group: self.group.as_str().into(),
            topic: outgoing.topic.as_str().into(),
            default_topic: AUTO_CREATE_TOPIC.into(),
            default_topic_queue_nums: NEW_TOPIC_QUEUES,
            queue_id: queue.queue_id,
            sys_flag: 0,
            born_timestamp: now().0,
            flag: outgoing.flag,
            properties: Some(outgoing.properties.as_str().into()),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(outgoing.code == RequestCode::SendBatchMessage),
            broker_name: Some(queue.broker_name.as_str().into()),
            borrows: std::marker::PhantomData,
        }
    }

    fn stored(
        &self,
        outgoing: &Outgoing<'_>,
        queue: &MessageQueue,
        status: SendStatus,
        response: &Response,
    ) -> Result<SendResult, SendError> {
        let reply: SendMessageReply<'_> = response.fields().map_err(|error| SendError::BadReply {
            broker_name: queue.broker_name.clone(),
            detail: error.to_string(),
        })?;
        Ok(SendResult {
            status,
            msg_id: outgoing.msg_id.clone(),
            offset_msg_id: reply.msg_id.into_owned(),
            topic: outgoing.topic.to_string(),
            broker_name: queue.broker_name.clone(),
            queue_id: QueueId(reply.queue_id),
            queue_offset: QueueOffset(reply.queue_offset),
        })
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if !self.left {
            self.session.members.leave_producer(self.group.as_str());
        }
    }
}

/// The next queue of the route, and the address of its broker.
fn pick<'a>(
    route: &'a Route,
    topic: &TopicName,
    failed: &[String],
) -> Result<(&'a MessageQueue, &'a str), SendError> {
    let queue = route.next_publish_queue(failed);
    let found = queue.and_then(|queue| Some((queue, route.master(&queue.broker_name)?)));
    found.ok_or_else(|| SendError::NoWritableQueue { topic: topic.clone() })
}

fn refused(queue: &MessageQueue, response: &Response) -> SendError {
    let broker_name = queue.broker_name.clone();
    SendError::Refused { broker_name, code: response.code, remark: response.remark() }
}
