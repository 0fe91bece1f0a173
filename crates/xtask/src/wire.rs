//! What we ourselves say to a broker: the few requests by which a tool finds out whether it lives and what it has.
//!
//! Raw requests instead of a client: nothing is retried, cached or decided behind the caller's back.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use cometmq_protocol::body::topic::permission;
use cometmq_protocol::headers::namesrv::GetRouteHeader;
use cometmq_protocol::headers::offset::UpdateConsumerOffsetHeader;
use cometmq_protocol::headers::pull::{PullMessageHeader, PullMessageReply, pull_flag};
use cometmq_protocol::headers::send::{SendMessageHeader, SendMessageReply};
use cometmq_protocol::headers::topic::CreateTopicHeader;
use cometmq_protocol::message::ids::parse_offset_id;
use cometmq_protocol::{Fields, LogOffset, Request, ResponseCode};
use cometmq_remoting::{ClientConnection, ClientOptions, RemotingError, Response};
use tokio::time::{sleep, timeout};

/// Longest wait for a reply. A broker that takes longer is broken, not slow.
const REPLY_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for the reply to an attempt at a server that starts: what it swallowed must not count as its start.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two attempts to reach a server that starts.
const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// Most messages that one pull asks for.
const PULL_MESSAGES: i32 = 1024;
const GROUP: &str = "xtask";

/// A connection to a broker or name server.
#[derive(Clone, Debug)]
pub(crate) struct Wire(ClientConnection);

/// What an accepted send was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Queue.
    pub(crate) queue: i32,
    /// Position in the queue.
    pub(crate) offset: i64,
    /// Position in the commit log, as the message id has it.
    pub(crate) log_offset: LogOffset,
}

/// How the broker answered a send.
pub(crate) enum Sent {
    /// The message is the broker's responsibility now.
    Stored(Stored),
    /// It is not, for this reason.
    Refused(String),
}

/// A page of a queue.
pub(crate) struct Page {
    /// Whether there is anything at the offset asked for.
    pub(crate) found: bool,
    /// The records, one behind the other.
    pub(crate) records: Bytes,
    /// End of the queue.
    pub(crate) end: i64,
}

/// Any reply.
pub(crate) struct Answer {
    /// Response code.
    pub(crate) code: i32,
    /// Remark, empty when there is none.
    pub(crate) remark: String,
    /// Body.
    pub(crate) body: Bytes,
}

impl Wire {
    /// Connects once.
    pub(crate) async fn connect(address: &str) -> Result<Wire, RemotingError> {
        ClientConnection::connect(address, &ClientOptions::default(), Arc::new(())).await.map(Wire)
    }

    /// Connects to a server that may still be starting.
    pub(crate) async fn connect_by(address: &str, deadline: Instant) -> Result<Wire> {
        loop {
            match Wire::connect(address).await {
                Ok(wire) => return Ok(wire),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).context("the server did not start");
                }
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Creates a topic with this many queues.
    pub(crate) async fn create_topic(&self, topic: &str, queues: i32) -> Result<()> {
        let header = CreateTopicHeader {
            topic: topic.into(),
            default_topic: "TBW102".into(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: permission::READ_WRITE,
            topic_filter_type: "SINGLE_TAG".into(),
            topic_sys_flag: 0,
            order: false,
            attributes: None,
            borrows: PhantomData,
        };
        let response = self.request(Request::CreateTopic(header), Bytes::new()).await?;
        expect_success(&response).with_context(|| format!("creating the topic {topic}"))
    }

    /// Whether the name server on this connection knows a way to the topic.
    pub(crate) async fn has_route(&self, topic: &str) -> Result<bool> {
        let header = GetRouteHeader {
            topic: Some(topic.into()),
            accept_standard_json_only: true,
            borrows: PhantomData,
        };
        let response = self.request(Request::GetRoute(header), Bytes::new()).await?;
        Ok(is(&response, ResponseCode::Success))
    }

    /// Sends one message to one queue.
    pub(crate) async fn send(&self, topic: &str, queue: i32, body: Bytes) -> Result<Sent, RemotingError> {
        self.send_with(topic, queue, body, "").await
    }

    /// Sends one message with these properties.
    pub(crate) async fn send_with(
        &self,
        topic: &str,
        queue: i32,
        body: Bytes,
        properties: &str,
    ) -> Result<Sent, RemotingError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let header = SendMessageHeader {
            producer_group: GROUP.into(),
            topic: topic.into(),
            default_topic: "TBW102".into(),
            default_topic_queue_nums: 4,
            queue_id: queue,
            sys_flag: 0,
            born_timestamp: i64::try_from(now).unwrap_or(i64::MAX),
            flag: 0,
            properties: Some(Cow::Borrowed(properties)),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(false),
            broker_name: None,
            borrows: PhantomData,
        };
        let response = self.request(Request::SendMessageV2(header), body).await?;
        if !is(&response, ResponseCode::Success) {
            return Ok(Sent::Refused(refusal(&response)));
        }
        let Ok(reply) = response.fields::<SendMessageReply<'_>>() else {
            return Ok(Sent::Refused("accepted, but the reply has no queue offset".to_owned()));
        };
        let Some((_, log_offset)) = parse_offset_id(&reply.msg_id) else {
            return Ok(Sent::Refused(format!("accepted, but `{}` is no message id", reply.msg_id)));
        };
        Ok(Sent::Stored(Stored { queue: reply.queue_id, offset: reply.queue_offset, log_offset }))
    }

    /// Reads what lies in a queue from `offset` on, without any state on the broker.
    pub(crate) async fn pull(&self, topic: &str, queue: i32, offset: i64) -> Result<Page> {
        let header = PullMessageHeader {
            consumer_group: GROUP.into(),
            topic: topic.into(),
            queue_id: queue,
            queue_offset: offset,
            max_msg_nums: PULL_MESSAGES,
            sys_flag: pull_flag::SUBSCRIPTION,
            commit_offset: 0,
            suspend_timeout_millis: 0,
            subscription: Some("*".into()),
            sub_version: 0,
            expression_type: Some("TAG".into()),
            max_msg_bytes: None,
            borrows: PhantomData,
        };
        let response = self.request(Request::PullMessage(header), Bytes::new()).await?;
        let found = is(&response, ResponseCode::Success);
        if !found
            && !is(&response, ResponseCode::PullNotFound)
            && !is(&response, ResponseCode::PullOffsetMoved)
        {
            bail!("pulling queue {queue} at {offset}: {}", refusal(&response));
        }
        let reply: PullMessageReply<'_> = response.fields()?;
        Ok(Page { found, records: response.body().clone(), end: reply.max_offset })
    }

    /// Commits where our group, made by a pull, stands in a queue.
    pub(crate) async fn commit_offset(&self, topic: &str, queue: i32, offset: i64) -> Result<()> {
        let header = UpdateConsumerOffsetHeader {
            consumer_group: GROUP.into(),
            topic: topic.into(),
            queue_id: queue,
            commit_offset: offset,
            borrows: PhantomData,
        };
        let response = self.request(Request::UpdateConsumerOffset(header), Bytes::new()).await?;
        expect_success(&response).context("committing an offset")
    }

    /// Sends any request at all, and gives back what came, success or not.
    pub(crate) async fn raw(&self, code: i32, fields: &[(&str, &str)], body: Bytes) -> Result<Answer> {
        let mut all = Fields::with_capacity(fields.len());
        fields.iter().for_each(|(name, value)| all.push(*name, *value));
        let response = self.0.request(code, all, body, REPLY_LIMIT).await?;
        let remark = response.remark();
        Ok(Answer { code: response.code, remark, body: response.body().clone() })
    }

    async fn request(&self, request: Request<'_>, body: Bytes) -> Result<Response, RemotingError> {
        self.0.request(request.code().code(), request.encode(), body, REPLY_LIMIT).await
    }
}

/// Waits until a broker that is starting has accepted a send, and returns that moment.
pub(crate) async fn first_accepted_send(address: &str, topic: &str, deadline: Instant) -> Result<Instant> {
    loop {
        let wire = Wire::connect_by(address, deadline).await?;
        let sent = timeout(ATTEMPT_LIMIT, wire.send(topic, 0, Bytes::from_static(b"first"))).await;
        let problem = match sent {
            Ok(Ok(Sent::Stored(_))) => return Ok(Instant::now()),
            Ok(Ok(Sent::Refused(reason))) => reason,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no reply".to_owned(),
        };
        if Instant::now() >= deadline {
            bail!("the broker at {address} accepts no message: {problem}");
        }
        sleep(RETRY_PAUSE).await;
    }
}

fn is(response: &Response, code: ResponseCode) -> bool {
    response.code == code.code()
}

fn expect_success(response: &Response) -> Result<()> {
    if is(response, ResponseCode::Success) { Ok(()) } else { bail!("{}", refusal(response)) }
}

fn refusal(response: &Response) -> String {
    let name = ResponseCode::from_code(response.code).map_or("unknown", ResponseCode::name);
    format!("code {} ({name}): {}", response.code, response.remark())
}
