//! `cometmq bench send`: producers that keep requests in flight.
//!
//! Closed loop: every reply is followed by the next request. Open loop (`--rate`): requests are due at fixed times,
//! and latency counts from then, so that a server that stalls cannot hide the messages that it kept from being sent.

mod flow;
mod schedule;
mod template;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::BytesMut;
use clap::Args;
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{Frame, FrameLimits};
use cometmq_remoting::{ClientOptions, CloseReason, Connection, Handler, Out, dial};

use super::args::{Limits, LoadArgs, at_least_one};
use super::report::Report;
use super::route::{self, BrokerQueues};
use super::window::{Goal, Load, Window, measure};
use flow::{Budget, Flow, SLOTS_MAX, Tally};
use schedule::{Rate, Schedule};
use template::{Shape, Spread, TOPICS_MAX, Templates, numbered};

/// Load before the measured time, unless told otherwise.
const WARMUP: Duration = Duration::from_secs(2);
/// Longest sleep of the pacer: so soon it sees that the run has ended.
const PACER_SLEEP_MAX: Duration = Duration::from_millis(10);
/// Sleep of the pacer while everything is in flight: replies send what is due.
const PACER_SLEEP_FULL: Duration = Duration::from_micros(200);

/// Flags of `cometmq bench send`.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Connections to each broker
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    connections: usize,
    /// Requests in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = slots())]
    in_flight: usize,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = at_least_one())]
    size: usize,
    /// Messages of a request; more than one are sent as a batch (code 320)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    batch: usize,
    /// Messages per second over all connections, at fixed times; latency counts from those times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Spread the load over N topics, named TOPIC-000000 and so on, each with as many queues as the first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=TOPICS_MAX))]
    topics: Option<u64>,
    /// Use only the first N queues of a topic on each broker
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    queues: Option<usize>,
}

impl SendArgs {
    /// The queues of the topic on each broker that are used; of many topics, those of the first.
    async fn brokers(&self) -> Result<Vec<BrokerQueues>> {
        let topic = &self.load.topic;
        let mut brokers = match self.topics {
            None => route::writable(&self.load.namesrv, topic).await?,
            Some(_) => {
                let first = TopicName::parse(&numbered(topic.as_str(), 0))?;
                route::writable(&self.load.namesrv, &first).await?
            }
        };
        brokers.iter_mut().for_each(|broker| broker.queue_ids.truncate(self.queues.unwrap_or(usize::MAX)));
        Ok(brokers)
    }
}

fn slots() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=SLOTS_MAX as u64)
}

/// Runs the command.
pub(crate) fn run(args: &SendArgs) -> Result<ExitCode> {
    let runtime = super::runtime(args.load.threads)?;
    let (brokers, tally, behind, window) = runtime.block_on(load(args))?;
    let report = report(args, &brokers, &tally, behind, &window);
    report.print(args.load.json);
    Ok(if tally.messages == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn load(args: &SendArgs) -> Result<(Vec<BrokerQueues>, Tally, u64, Window)> {
    let limits = args.load.limits(WARMUP, true);
    let brokers = args.brokers().await?;
    let goal = Arc::new(Goal::new());
    let producers = Producers {
        links: connect(args, limits, &brokers, &goal).await?.into(),
        rate: args.rate.map(|rate| Rate { messages_per_second: rate, batch: args.batch as u64 }),
        pacer: Mutex::default(),
    };
    let window = measure(&args.load, limits, &producers, &goal).await?;
    let mut tally = Tally::new();
    let mut behind = 0;
    for link in producers.links.iter() {
        let flow = link.producer.flow();
        tally.add(flow.tally());
        behind += flow.behind();
    }
    Ok((brokers, tally, behind, window))
}

/// Opens all connections; nothing is sent yet.
async fn connect(
    args: &SendArgs,
    limits: Limits,
    brokers: &[BrokerQueues],
    goal: &Arc<Goal>,
) -> Result<Vec<Link>> {
    let budget = Arc::new(Budget::new(limits.count));
    // What waits is bounded by the requests in flight.
    let options = ClientOptions { outbox_bytes_max: usize::MAX / 2, ..ClientOptions::default() };
    let mut links = Vec::with_capacity(brokers.len() * args.connections);
    // Connections of different brokers take turns.
    for broker in std::iter::repeat_n(brokers, args.connections).flatten() {
        let shape = Shape {
            topic: args.load.topic.as_str(),
            broker_name: &broker.broker_name,
            body_bytes: args.size,
            batch: args.batch,
        };
        let salt = links.len() as u32;
        let templates = match args.topics {
            None => Templates::new(&shape, &broker.queue_ids, salt),
            Some(topics) => {
                let queues = broker.queue_ids.len() as u64;
                let (first, stride) = (links.len() / brokers.len(), args.connections);
                let spread = Spread { topics, queues, first: first as u64, stride: stride as u64 };
                Templates::spread(&shape, spread, salt)
            }
        };
        let limit = FrameLimits::default().frame_bytes_max;
        if templates.request_bytes() > limit {
            bail!(
                "a request would have {} bytes, the protocol allows {limit}; lower --size or --batch",
                templates.request_bytes()
            );
        }
        let flow = Flow::new(templates, budget.clone(), args.batch as u64, args.in_flight);
        let producer = Arc::new(Producer { flow: Mutex::new(flow), goal: goal.clone() });
        let connection = dial(&broker.address, &options, producer.clone()).await?;
        links.push(Link { connection, producer });
    }
    Ok(links)
}

/// One connection.
struct Link {
    connection: Connection,
    producer: Arc<Producer>,
}

impl Link {
    /// Sends as much as may be sent at `now`.
    fn send(&self, now: Instant) {
        let mut out = BytesMut::new();
        self.producer.flow().send(now, &mut out);
        if !out.is_empty() {
            self.connection.push(out.freeze());
        }
    }
}

/// What a connection does with replies.
struct Producer {
    flow: Mutex<Flow>,
    goal: Arc<Goal>,
}

impl Producer {
    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for Producer {
    fn frames(&self, _: &Connection, frames: &mut Vec<Frame>, out: &mut Out) -> Result<(), CloseReason> {
        let done = self.flow().replies(frames, Instant::now(), out.buffer())?;
        if done {
            self.goal.reach();
        }
        Ok(())
    }

    fn disconnected(&self, connection: &Connection) {
        let reason = connection.close_reason().unwrap_or(CloseReason::PeerClosed);
        let server = connection.peer().remote;
        self.goal
            .fail(format!("the connection to broker {server} ended ({reason}); look at the broker's log"));
    }
}

/// All connections.
struct Producers {
    links: Arc<[Link]>,
    rate: Option<Rate>,
    pacer: Mutex<Option<JoinHandle<()>>>,
}

impl Producers {
    fn pacer(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load for Producers {
    fn start(&self) {
        let now = Instant::now();
        let Some(rate) = self.rate else {
            self.links.iter().for_each(|link| link.send(now));
            return;
        };
        for (index, link) in (0..).zip(self.links.iter()) {
            link.producer.flow().follow(Schedule::new(rate, now, index, self.links.len() as u64));
        }
        let links = self.links.clone();
        // A thread of its own: the runtime's timer has a resolution of 1 ms, which would be seen as latency.
        *self.pacer() = Some(thread::spawn(move || pace(&links)));
    }

    fn open(&self) {
        self.links.iter().for_each(|link| link.producer.flow().open());
    }

    fn close(&self) {
        let now = Instant::now();
        self.links.iter().for_each(|link| link.producer.flow().close(now));
        let pacer = self.pacer().take();
        if let Some(pacer) = pacer {
            pacer.join().expect("the pacer does not panic");
        }
    }

    fn progress(&self) -> u64 {
        self.links.iter().map(|link| link.producer.flow().answered()).sum()
    }

    fn waits(&self) -> bool {
        self.links.iter().any(|link| link.producer.flow().waits())
    }
}

/// Sends what is due, until all flows are closed.
fn pace(links: &[Link]) {
    loop {
        let now = Instant::now();
        links.iter().for_each(|link| link.send(now));
        let later = now + PACER_SLEEP_FULL;
        let wake = links.iter().filter_map(|link| link.producer.flow().wake(later)).min();
        let Some(wake) = wake else { return };
        thread::sleep(wake.saturating_duration_since(Instant::now()).min(PACER_SLEEP_MAX));
    }
}

fn report(args: &SendArgs, brokers: &[BrokerQueues], tally: &Tally, behind: u64, window: &Window) -> Report {
    let queues: usize = brokers.iter().map(|broker| broker.queue_ids.len()).sum();
    let addresses: Vec<_> = brokers.iter().map(|broker| broker.address.as_str()).collect();
    let many = args.topics.map_or(String::new(), |topics| format!(" and {} more", topics - 1));
    let pace = args.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} msg/s wanted"));
    let mut report = Report::new(format!(
        "send to {} (topic {}{many}, queues: {queues}), in flight: {} x {}, body: {} B, batch: {}, {pace}",
        addresses.join(", "),
        args.load.topic,
        brokers.len() * args.connections,
        args.in_flight,
        args.size,
        args.batch,
    ));
    report.setting("command", "send");
    report.setting("topic", args.load.topic.as_str());
    report.setting("topics", args.topics.unwrap_or(1));
    report.setting("queues", queues);
    report.setting("connections", brokers.len() * args.connections);
    report.setting("in_flight_per_connection", args.in_flight);
    report.setting("body_bytes", args.size);
    report.setting("batch_messages", args.batch);
    report.setting("wanted_messages_per_second", args.rate);
    report.setting("generator_threads", args.load.threads);
    report.throughput(tally.messages, tally.messages * args.size as u64, window);
    report.latency("latency", "latency", &tally.latency);
    report.count("failed", "failed_messages", tally.failed);
    if let Some(failure) = &tally.first_failure {
        report.text("first failure", "first_failure", failure);
    }
    if args.rate.is_some() {
        report.count("due but not sent", "unsent_messages", behind);
    }
    report.usage(tally.messages, window);
    report
}
