//! `cargo xtask bench`: our server beside the Java server, and beside a server that stores nothing, in one run.
//!
//! A scenario is one file and can be run alone. Those that compare let the servers ([`contender`]) take turns, so that
//! what else the machine does meets all of them. Load comes from the official Java client ([`load`]) or, where that
//! would cost more than what it measures, from `cometmq bench` ([`generator`]). Medians and figures with their targets
//! ([`figure`]) go into tables ([`report`]) for `docs/benchmarks.md`.

mod contender;
mod figure;
mod generator;
mod load;
mod machine;
mod many;
mod report;
mod sparse_log;

mod backlog;
mod cold;
mod connections;
mod memory;
mod queues;
mod rate;
mod resources;
mod start;
mod sync;
mod sync_flush;
mod throughput;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use self::contender::{Contender, Flush, Programs, Software};
use self::generator::{Outcome, Running};
use self::load::{LoadGenerator, Sample};
use self::report::Report;
use crate::wire::Wire;
use crate::{java_server, process, tools, wire, workspace};

/// Longest that a server may take to accept its first message, recovery of a large log included.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Queues of each topic, unless the scenario is about their number.
const QUEUES: i32 = 8;
/// Servers that keep messages.
const BROKERS: [Software; 2] = [Software::Java, Software::Comet];

/// Flags of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Measure these scenarios only [default: all]
    #[arg(long, value_name = "NAME", value_enum, num_args = 1.., value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Tell which scenarios there are, and measure nothing
    #[arg(long)]
    list: bool,
    /// How often each load is measured with each server, in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of a measured stretch [default: 10, of memory 600]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Messages that a server holds: of resources 1 KiB each [default: 1000000], of backlog and cold 128 B [default:
    /// 10000000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1000..))]
    messages: Option<u64>,
    /// Heap of the Java broker, as -Xms and -Xmx have it
    #[arg(long, default_value = "1g")]
    heap: String,
    /// Measure this binary [default: a release build of the working tree]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Only tries whether everything works: one short round, numbers without meaning
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "messages"])]
    quick: bool,
}

impl BenchArgs {
    /// Small forms of all scenarios that need neither Java nor much time, for the gate.
    pub(crate) fn short() -> BenchArgs {
        let only = Scenario::value_variants().iter().copied().filter(|scenario| !scenario.needs_java());
        BenchArgs {
            only: only.collect(),
            list: false,
            rounds: 1,
            seconds: None,
            messages: None,
            heap: String::new(),
            binary: None,
            quick: true,
        }
    }
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Sends by 64 threads and by one, a backlog for a push consumer: beside Java and the null server
    Throughput,
    /// Sends of 64 threads of which each waits for the disk: beside Java
    #[value(alias = "sync_flush")]
    SyncFlush,
    /// Memory and start, with and without messages: beside Java
    Resources,
    /// A large backlog read from its oldest message, and the memory that this takes: beside Java
    Backlog,
    /// Latency of sends at nine tenths of the rate that Java reaches at its best: beside Java
    Rate,
    /// Sends and a reader of the newest while another reader drains an old backlog from the disk
    Cold,
    /// Sends that wait for the disk beside what the disk allows
    Sync,
    /// Start after kill -9 with 100,000 queues and 1 GB of log, then 50 GB
    Start,
    /// A million queues, each written once, then a thousand of them hot
    Queues,
    /// A fixed load for ten minutes in a memory control group of 256 MiB
    Memory,
    /// Memory of 10,000 idle connections
    Connections,
}

impl Scenario {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn help(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    fn needs_java(self) -> bool {
        use Scenario::{Backlog, Rate, Resources, SyncFlush, Throughput};
        matches!(self, Throughput | SyncFlush | Resources | Backlog | Rate)
    }

    fn run(self, bench: &Bench, report: &mut Report) -> Result<()> {
        match self {
            Scenario::Throughput => throughput::run(bench, report),
            Scenario::SyncFlush => sync_flush::run(bench, report),
            Scenario::Resources => resources::run(bench, report),
            Scenario::Backlog => backlog::run(bench, report),
            Scenario::Rate => rate::run(bench, report),
            Scenario::Cold => cold::run(bench, report),
            Scenario::Sync => sync::run(bench, report),
            Scenario::Start => start::run(bench, report),
            Scenario::Queues => queues::run(bench, report),
            Scenario::Memory => memory::run(bench, report),
            Scenario::Connections => connections::run(bench, report),
        }
    }
}

/// How much is measured.
struct Effort {
    quick: bool,
    rounds: u32,
    seconds: Option<u32>,
    messages: Option<u64>,
}

impl Effort {
    fn of(args: &BenchArgs) -> Effort {
        let rounds = if args.quick { 1 } else { args.rounds };
        Effort { quick: args.quick, rounds, seconds: args.seconds, messages: args.messages }
    }

    /// `full`, or `quick` of a trial.
    fn of_trial<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Length of a measured stretch, in seconds.
    fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(self.of_trial(10, 2))
    }

    /// Messages that a server holds, `full` unless chosen.
    fn messages(&self, full: u64) -> u64 {
        self.messages.unwrap_or(self.of_trial(full, 20_000))
    }
}

/// Measures what is wanted and prints the tables, also when something failed.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if args.list {
        for scenario in Scenario::value_variants() {
            println!("{:<12} {}", scenario.name(), scenario.help());
        }
        return Ok(());
    }
    let wanted = |scenario: &&Scenario| args.only.is_empty() || args.only.contains(scenario);
    let scenarios: Vec<Scenario> = Scenario::value_variants().iter().filter(wanted).copied().collect();
    let bench = Bench::prepare(args, scenarios.iter().any(|scenario| scenario.needs_java()))?;
    let mut report = Report::of(args.quick);
    let mut failures = Vec::new();
    for scenario in scenarios {
        eprintln!("== {}", scenario.name());
        if let Err(error) = scenario.run(&bench, &mut report) {
            eprintln!("** {}: {error:#}", scenario.name());
            failures.push(format!("{}: {error:#}", scenario.name()));
        }
        if process::interrupted() {
            break;
        }
    }
    println!("{}", report.markdown(&args.heap, bench.effort.rounds));
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

/// What all scenarios need.
struct Bench {
    /// The official client, when a scenario needs it.
    load: Option<LoadGenerator>,
    programs: Programs,
    effort: Effort,
    runtime: Runtime,
}

impl Bench {
    fn prepare(args: &BenchArgs, needs_java: bool) -> Result<Bench> {
        let comet = match &args.binary {
            Some(binary) => std::path::absolute(binary)?,
            None => workspace::release_binary()?,
        };
        let (mut java_lib, mut load) = (None, None);
        if needs_java {
            tools::require_java()?;
            java_lib = Some(java_server::fetch()?);
            load = Some(LoadGenerator::build()?);
        }
        Ok(Bench {
            load,
            programs: Programs { comet, java_lib, heap: args.heap.clone() },
            effort: Effort::of(args),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("no runtime")?,
        })
    }

    /// The official client.
    fn java_client(&self) -> Result<&LoadGenerator> {
        self.load.as_ref().context("the Java client was not built: a scenario is missing in needs_java")
    }

    /// Starts one server with a topic.
    fn start_one(&self, software: Software, flush: Flush, topic: &str) -> Result<Contender> {
        let mut contender = Contender::prepare(software, &self.programs, flush)?;
        self.start(&mut contender)?;
        self.create_topic(&contender, topic)?;
        Ok(contender)
    }

    /// Starts servers that then take turns.
    fn start_all(&self, softwares: &[Software], flush: Flush) -> Result<Vec<Contender>> {
        softwares.iter().map(|&software| self.start_one(software, flush, "sends")).collect()
    }

    /// Measures round by round, in each round every server once.
    fn in_turns(
        &self,
        contenders: &[Contender],
        mut measure: impl FnMut(&Contender, u32) -> Result<()>,
    ) -> Result<()> {
        for round in 1..=self.effort.rounds {
            for contender in contenders {
                measure(contender, round)
                    .with_context(|| format!("{}, round {round}", contender.software()))?;
            }
        }
        Ok(())
    }

    /// Starts the server; the time from the start of the broker until it accepted a message.
    fn start(&self, contender: &mut Contender) -> Result<Duration> {
        let address = contender.broker();
        let started = contender.start()?;
        let accepted = wire::first_accepted_send(&address, "first", started + START_LIMIT);
        let accepted = self.runtime.block_on(contender.needed_by(accepted));
        let accepted = accepted.and_then(|accepted| accepted).with_context(|| contender.log_tail())?;
        Ok(accepted - started)
    }

    /// Creates a topic and waits until the name server knows it.
    fn create_topic(&self, contender: &Contender, topic: &str) -> Result<String> {
        let deadline = Instant::now() + START_LIMIT;
        self.runtime.block_on(async {
            let broker = Wire::connect_by(&contender.broker(), deadline).await?;
            broker.create_topic(topic, QUEUES).await?;
            await_route(contender, topic, deadline).await
        })?;
        Ok(topic.to_owned())
    }

    /// Sends by threads of the official client.
    fn send_by_threads(
        &self,
        contender: &Contender,
        topic: &str,
        threads: u32,
        warmup: u64,
    ) -> Result<Sample> {
        let (threads, warmup) = (threads.to_string(), warmup.to_string());
        let seconds = self.effort.seconds().to_string();
        let flags = ["--threads", &threads, "--size", "128", "--seconds", &seconds, "--warmup", &warmup];
        self.java_client()?.send(contender, topic, &flags)
    }

    /// Runs `cometmq bench` to its end.
    fn generate(&self, contender: &Contender, what: &str, topic: &str, flags: &str) -> Result<Outcome> {
        let running = Running::start(&self.programs, contender, what, topic, flags)?;
        running.finish().with_context(|| contender.log_tail())
    }

    /// Starts `cometmq bench`.
    fn begin(&self, contender: &Contender, what: &str, topic: &str, flags: &str) -> Result<Running> {
        Running::start(&self.programs, contender, what, topic, flags)
    }
}

/// Waits until the name server knows a topic.
async fn await_route(contender: &Contender, topic: &str, deadline: Instant) -> Result<()> {
    let namesrv = Wire::connect_by(&contender.namesrv(), deadline).await?;
    while !namesrv.has_route(topic).await? {
        ensure!(Instant::now() < deadline, "the name server does not hear of topic {topic}");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
