//! `cometmq bench consume`: a consumer that takes all queues of a topic and does nothing with the messages.
//!
//! It announces its group by heartbeat and keeps one pull open for each queue, as the Java push consumer does; it
//! commits no offsets, so that a run can be repeated.

mod queues;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use cometmq_protocol::body::client::{ConsumerData, HeartbeatData, SubscriptionData};
use cometmq_protocol::body::json;
use cometmq_protocol::headers::offset::{OffsetReply, QueryConsumerOffsetHeader, QueueHeader};
use cometmq_protocol::names::GroupName;
use cometmq_protocol::{Fields, Frame, Header, RequestCode, ResponseCode, SerializeType};
use cometmq_remoting::{
    ClientConnection, ClientOptions, CloseReason, Connection, Handler, Out, Response, dial,
};

use super::args::LoadArgs;
use super::head::{Head, refusal, told};
use super::report::Report;
use super::route::{self, BrokerQueues};
use super::window::{Goal, Load, Window, measure};
use queues::{Queues, Subscription, Tally};

/// How often clients renew their heartbeat.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
/// Opaque of heartbeats; those of pulls are indices of queues.
const HEARTBEAT: i32 = i32::MAX;

/// Flags of `cometmq bench consume`.
#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Consumer group
    #[arg(short, long, default_value = "BenchConsumer", value_parser = GroupName::parse)]
    group: GroupName,
    /// Where to start
    #[arg(long, value_enum, default_value_t = From::Min)]
    from: From,
    /// Messages wanted by each pull; a Java broker gives 32 at most unless configured otherwise, CometMQ 1024
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(i32).range(1..))]
    pull_batch: i32,
    /// Do not stop at the end of the queues: wait for new messages, and report their age on arrival
    #[arg(long)]
    follow: bool,
}

/// Where a run starts in each queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// At the first message that exists
    Min,
    /// At the end
    Max,
    /// Where the group stands; at the first message if it never committed
    Committed,
}

/// Runs the command.
pub(crate) fn run(args: &ConsumeArgs) -> Result<ExitCode> {
    let runtime = super::runtime(args.load.threads)?;
    let (brokers, tally, window) = runtime.block_on(load(args))?;
    report(args, &brokers, &tally, &window).print(args.load.json);
    Ok(if tally.gaps > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn load(args: &ConsumeArgs) -> Result<(Vec<BrokerQueues>, Tally, Window)> {
    let limits = args.load.limits(Duration::ZERO, args.follow);
    let brokers = route::readable(&args.load.namesrv, &args.load.topic).await?;
    let subscription = Subscription {
        group: args.group.to_string(),
        topic: args.load.topic.to_string(),
        version: crate::clock::now(),
        pull_batch: args.pull_batch,
        follow: args.follow,
    };
    let run = Arc::new(Run {
        goal: Goal::new(),
        missing: limits.count.map_or(i64::MAX, |count| i64::try_from(count).unwrap_or(i64::MAX)).into(),
        unfinished: brokers.len().into(),
    });
    let heartbeat = heartbeat(&subscription);
    let mut links = Vec::with_capacity(brokers.len());
    for broker in &brokers {
        let queues = Queues::new(subscription.clone(), &starts(args, broker).await?);
        let consumer = Arc::new(Consumer {
            queues: Mutex::new(queues),
            introduced: AtomicBool::new(false),
            run: run.clone(),
        });
        let connection = dial(&broker.address, &ClientOptions::default(), consumer.clone()).await?;
        links.push(Link { connection, consumer });
    }
    let consumers = Consumers { links, heartbeat };
    let window = tokio::select! {
        window = measure(&args.load, limits, &consumers, &run.goal) => window?,
        () = consumers.keep_alive() => unreachable!("a consumer is kept alive as long as it is measured"),
    };
    let mut tally = Tally::new();
    consumers.links.iter().for_each(|link| tally.add(link.consumer.queues().tally()));
    Ok((brokers, tally, window))
}

/// The offset to start from in each queue of a broker.
async fn starts(args: &ConsumeArgs, broker: &BrokerQueues) -> Result<Vec<(i32, i64)>> {
    let connection = route::connect(&broker.address).await?;
    let mut starts = Vec::with_capacity(broker.queue_ids.len());
    for queue_id in &broker.queue_ids {
        let committed = match args.from {
            From::Committed => committed(args, &connection, *queue_id).await?,
            From::Min | From::Max => None,
        };
        let start = match committed {
            Some(offset) => offset,
            None => bound(args, &connection, *queue_id).await?,
        };
        starts.push((*queue_id, start));
    }
    Ok(starts)
}

/// Where the queue begins, or ends if that is asked for.
async fn bound(args: &ConsumeArgs, connection: &ClientConnection, queue_id: i32) -> Result<i64> {
    let code = if args.from == From::Max { RequestCode::GetMaxOffset } else { RequestCode::GetMinOffset };
    let header =
        QueueHeader { topic: args.load.topic.as_str().into(), queue_id, borrows: std::marker::PhantomData };
    let response = route::ask(connection, code, &header).await?;
    if response.code != ResponseCode::Success.code() {
        let refusal = told(response.code, &response.remark());
        bail!("the broker does not tell the offsets of queue {queue_id}: {refusal}");
    }
    offset(&response, queue_id)
}

/// Where the group stands in the queue, if it ever committed.
async fn committed(args: &ConsumeArgs, connection: &ClientConnection, queue_id: i32) -> Result<Option<i64>> {
    let header = QueryConsumerOffsetHeader {
        consumer_group: args.group.as_str().into(),
        topic: args.load.topic.as_str().into(),
        queue_id,
        set_zero_if_not_found: Some(false),
        borrows: std::marker::PhantomData,
    };
    let response = route::ask(connection, RequestCode::QueryConsumerOffset, &header).await?;
    match ResponseCode::from_code(response.code) {
        Some(ResponseCode::Success) => offset(&response, queue_id).map(Some),
        Some(ResponseCode::QueryNotFound) => Ok(None),
        _ => bail!(
            "the broker does not tell where the group stands in queue {queue_id}: {}",
            told(response.code, &response.remark())
        ),
    }
}

fn offset(response: &Response, queue_id: i32) -> Result<i64> {
    let reply = response.fields::<OffsetReply>();
    let reply =
        reply.with_context(|| format!("the broker answers for queue {queue_id} as no broker does"))?;
    Ok(reply.offset)
}

/// The frame that announces the group.
fn heartbeat(subscription: &Subscription) -> Bytes {
    let data = HeartbeatData {
        client_id: format!("127.0.0.1@{}#bench", std::process::id()),
        consumer_data_set: vec![ConsumerData {
            consume_from_where: "CONSUME_FROM_FIRST_OFFSET".to_owned(),
            consume_type: "CONSUME_PASSIVELY".to_owned(),
            group_name: subscription.group.clone(),
            message_model: "CLUSTERING".to_owned(),
            subscription_data_set: vec![SubscriptionData {
                expression_type: Some("TAG".to_owned()),
                sub_string: "*".to_owned(),
                sub_version: subscription.version.0,
                topic: subscription.topic.clone(),
                ..SubscriptionData::default()
            }],
            unit_mode: false,
        }],
        ..HeartbeatData::default()
    };
    let mut out = BytesMut::new();
    Header::request(RequestCode::Heartbeat.code(), HEARTBEAT, Fields::default()).encode_with_body(
        SerializeType::Json,
        &json::to_vec(&data),
        &mut out,
    );
    out.freeze()
}

/// What the connections of a run share.
struct Run {
    goal: Goal,
    /// Messages that are still to be counted.
    missing: AtomicI64,
    /// Connections whose queues are not finished.
    unfinished: AtomicUsize,
}

/// What the connection to one broker does with replies.
struct Consumer {
    queues: Mutex<Queues>,
    /// The broker knows the group, so that it can be pulled from.
    introduced: AtomicBool,
    run: Arc<Run>,
}

impl Consumer {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes replies; an error says why the run cannot go on.
    fn replies(&self, frames: &mut Vec<Frame>, out: &mut BytesMut) -> Result<(), String> {
        let (now, wall) = (Instant::now(), crate::clock::now());
        let mut queues = self.queues();
        let (counted, finished) = (queues.tally().messages, queues.is_finished());
        for frame in frames.drain(..) {
            let head = Head::read(&frame).map_err(|error| error.to_string())?;
            if !head.is_response() {
                // A notification, such as one of a change in the group.
                continue;
            }
            if head.opaque != HEARTBEAT {
                let index = usize::try_from(head.opaque).unwrap_or(usize::MAX);
                queues.reply(index, &frame, now, wall, out)?;
            } else if head.code != ResponseCode::Success.code() {
                return Err(format!("it refuses the heartbeat: {}", refusal(&frame)));
            } else if !self.introduced.swap(true, Ordering::Relaxed) {
                queues.start(now, out);
            }
        }
        let counted = (queues.tally().messages - counted) as i64;
        let finished = queues.is_finished() && !finished;
        drop(queues);
        let enough = counted > 0 && self.run.missing.fetch_sub(counted, Ordering::Relaxed) <= counted;
        let last = finished && self.run.unfinished.fetch_sub(1, Ordering::Relaxed) == 1;
        if enough || last {
            self.run.goal.reach();
        }
        Ok(())
    }
}

impl Handler for Consumer {
    fn frames(&self, _: &Connection, frames: &mut Vec<Frame>, out: &mut Out) -> Result<(), CloseReason> {
        self.replies(frames, out.buffer()).map_err(CloseReason::Refused)
    }

    fn disconnected(&self, connection: &Connection) {
        let reason = connection.close_reason().unwrap_or(CloseReason::PeerClosed);
        let server = connection.peer().remote;
        self.run.goal.fail(match reason {
            CloseReason::Refused(what) => format!("broker {server}: {what}"),
            reason => format!("the connection to broker {server} ended ({reason}); look at the broker's log"),
        });
    }
}

/// One connection.
struct Link {
    connection: Connection,
    consumer: Arc<Consumer>,
}

/// All connections.
struct Consumers {
    links: Vec<Link>,
    heartbeat: Bytes,
}

impl Consumers {
    /// Renews the heartbeats, for ever.
    async fn keep_alive(&self) {
        loop {
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            self.start();
        }
    }
}

impl Load for Consumers {
    /// Sends heartbeats; the reply to the first is followed by pulls.
    fn start(&self) {
        self.links.iter().for_each(|link| link.connection.push(self.heartbeat.clone()));
    }

    fn open(&self) {
        self.links.iter().for_each(|link| link.consumer.queues().open());
    }

    fn close(&self) {
        self.links.iter().for_each(|link| link.consumer.queues().close());
    }

    fn progress(&self) -> u64 {
        self.links.iter().map(|link| link.consumer.queues().received()).sum()
    }

    fn waits(&self) -> bool {
        self.links.iter().any(|link| link.consumer.queues().waits())
    }
}

fn report(args: &ConsumeArgs, brokers: &[BrokerQueues], tally: &Tally, window: &Window) -> Report {
    let queues: usize = brokers.iter().map(|broker| broker.queue_ids.len()).sum();
    let addresses: Vec<_> = brokers.iter().map(|broker| broker.address.as_str()).collect();
    let mut report = Report::new(format!(
        "consume from {} (topic {}, queues: {queues}), pull batch: {}{}",
        addresses.join(", "),
        args.load.topic,
        args.pull_batch,
        if args.follow { ", following" } else { "" },
    ));
    report.setting("command", "consume");
    report.setting("topic", args.load.topic.as_str());
    report.setting("queues", queues);
    report.setting("pull_batch_messages", args.pull_batch);
    report.setting("follow", args.follow);
    report.setting("generator_threads", args.load.threads);
    report.throughput(tally.messages, tally.body_bytes, window);
    report.count("pulls", "pulls", tally.pulls);
    report.latency("pull latency", "pull_latency", &tally.pull_latency);
    if args.follow {
        report.latency("end to end", "end_to_end_latency", &tally.end_to_end);
    }
    report.count("offset gaps", "offset_gaps", tally.gaps);
    if let Some(gap) = &tally.first_gap {
        report.text("first gap", "first_gap", gap);
    }
    report.usage(tally.messages, window);
    report
}
