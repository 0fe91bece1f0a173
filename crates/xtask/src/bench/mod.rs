//! `cargo xtask bench`: our server beside the Java server, and beside a server that stores nothing, in one run.
//!
//! All load comes from the official Java client ([`load`]); the servers ([`contender`]) take turns, so that what else
//! the machine does meets all of them. Medians go into a table ([`report`]) for `docs/benchmarks.md`.

mod contender;
mod load;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use self::contender::{Contender, Flush, Programs, Software};
use self::load::{LoadGenerator, Sample};
use self::report::{Measure, Report};
use crate::wire::Wire;
use crate::{java_server, tools, wire, workspace};

/// Longest that a server may take to accept its first message, recovery of a large log included.
const START_LIMIT: Duration = Duration::from_secs(180);
/// How long a server is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(15);
/// Queues of each topic.
const QUEUES: i32 = 8;
/// Servers that keep messages.
const BROKERS: [Software; 2] = [Software::Java, Software::Comet];

/// Flags of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// How often each scenario is measured with each server, in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of a measured stretch of sending
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Messages of 1 KiB that a server holds when its memory and its restart are measured
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// Heap of the Java broker, as -Xms and -Xmx have it
    #[arg(long, default_value = "1g")]
    heap: String,
    /// Only tries whether everything works: one short round, numbers without meaning
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "messages"])]
    quick: bool,
}

/// How much is measured.
struct Effort {
    rounds: u32,
    seconds: u32,
    messages: u64,
    backlog: u64,
    warmup: u64,
    settle: Duration,
}

impl Effort {
    fn of(args: &BenchArgs) -> Effort {
        if args.quick {
            let settle = Duration::from_secs(1);
            return Effort {
                rounds: 1,
                seconds: 2,
                messages: 20_000,
                backlog: 20_000,
                warmup: 2_000,
                settle,
            };
        }
        let BenchArgs { rounds, seconds, messages, .. } = *args;
        Effort { rounds, seconds, messages, backlog: 400_000, warmup: 100_000, settle: SETTLE }
    }
}

/// Measures everything and prints the table.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    tools::require_java()?;
    let comet = workspace::release_binary()?;
    let programs = Programs { comet, java_lib: java_server::fetch()?, heap: args.heap.clone() };
    let bench = Bench {
        load: LoadGenerator::build()?,
        programs,
        effort: Effort::of(args),
        runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?,
    };
    let mut report = Report::of(args.quick);
    bench.throughput(&mut report)?;
    bench.sync_flush(&mut report)?;
    bench.resources(&mut report)?;
    println!("{}", report.markdown(&args.heap, bench.effort.rounds));
    Ok(())
}

struct Bench {
    load: LoadGenerator,
    programs: Programs,
    effort: Effort,
    runtime: Runtime,
}

impl Bench {
    /// Sending from many threads and from one, and consuming what is there.
    fn throughput(&self, report: &mut Report) -> Result<()> {
        let contenders = self.start_all(&[Software::Java, Software::Comet, Software::Null], Flush::Async)?;
        for (scenario, threads) in [("send 128 B, 64 threads", 64), ("send 128 B, 1 thread", 1)] {
            self.in_turns(&contenders, |contender, _| {
                let warmup = if threads == 1 { self.effort.warmup / 10 } else { self.effort.warmup };
                let sample = self.send(contender, "sends", threads, warmup)?;
                report.add_sends(scenario, contender.software(), &sample);
                Ok(())
            })?;
        }
        let brokers: Vec<Contender> =
            contenders.into_iter().filter(|contender| BROKERS.contains(&contender.software())).collect();
        self.in_turns(&brokers, |contender, round| {
            let sample = self.consume(contender, round)?;
            report.add_received("consume a backlog of 128 B, 32 at a time", contender.software(), &sample);
            Ok(())
        })
    }

    /// Sending when every acknowledgement waits for the disk.
    fn sync_flush(&self, report: &mut Report) -> Result<()> {
        let contenders = self.start_all(&BROKERS, Flush::Sync)?;
        self.in_turns(&contenders, |contender, _| {
            let sample = self.send(contender, "sends", 64, self.effort.warmup / 20)?;
            report.add_sends("send 128 B, 64 threads, SYNC_FLUSH", contender.software(), &sample);
            Ok(())
        })
    }

    /// Memory and start, each time with a new server on an empty directory.
    fn resources(&self, report: &mut Report) -> Result<()> {
        for round in 1..=self.effort.rounds {
            for software in BROKERS {
                eprintln!("round {round}: memory and start of {software}");
                let mut add = |measure, value| report.add("memory and start", measure, software, value);
                let mut contender = Contender::prepare(software, &self.programs, Flush::Async)?;
                add(Measure::ColdStartMs, self.start(&mut contender)?.as_secs_f64() * 1e3);
                std::thread::sleep(self.effort.settle);
                add(Measure::IdleMib, contender.rss_mib()?);
                let topic = self.create_topic(&contender, "memory")?;
                let count = self.effort.messages.to_string();
                self.load.send(
                    &contender,
                    &topic,
                    &["--threads", "64", "--size", "1024", "--count", &count],
                )?;
                add(Measure::LoadedMib, contender.rss_mib()?);
                contender.kill()?;
                add(Measure::RestartMs, self.start(&mut contender)?.as_secs_f64() * 1e3);
            }
        }
        Ok(())
    }

    /// Starts servers that then take turns.
    fn start_all(&self, softwares: &[Software], flush: Flush) -> Result<Vec<Contender>> {
        let mut contenders = Vec::new();
        for &software in softwares {
            let mut contender = Contender::prepare(software, &self.programs, flush)?;
            self.start(&mut contender)?;
            self.create_topic(&contender, "sends")?;
            contenders.push(contender);
        }
        Ok(contenders)
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
            let namesrv = Wire::connect_by(&contender.namesrv(), deadline).await?;
            while !namesrv.has_route(topic).await? {
                anyhow::ensure!(Instant::now() < deadline, "the name server does not hear of topic {topic}");
                sleep(Duration::from_millis(50)).await;
            }
            Ok(topic.to_owned())
        })
    }

    fn send(&self, contender: &Contender, topic: &str, threads: u32, warmup: u64) -> Result<Sample> {
        let (threads, warmup) = (threads.to_string(), warmup.to_string());
        let seconds = self.effort.seconds.to_string();
        let flags = ["--threads", &threads, "--size", "128", "--seconds", &seconds, "--warmup", &warmup];
        self.load.send(contender, topic, &flags)
    }

    /// Fills a topic, then reads it with a new group.
    fn consume(&self, contender: &Contender, round: u32) -> Result<Sample> {
        let topic = self.create_topic(contender, &format!("backlog-{round}"))?;
        let (backlog, warmup) = (self.effort.backlog, self.effort.backlog / 4);
        let all = backlog.to_string();
        let filled =
            self.load.send(contender, &topic, &["--threads", "64", "--size", "128", "--count", &all])?;
        // A server may refuse some when it is busy: what it took is what can be read.
        anyhow::ensure!(
            filled.failed < backlog / 10,
            "{} messages of the backlog were refused",
            filled.failed
        );
        let (warmup, measured) = (warmup.to_string(), (backlog - filled.failed - warmup).to_string());
        let group = format!("readers-{round}");
        let flags = ["--group", &group, "--consume-batch", "32", "--warmup", &warmup, "--count", &measured];
        self.load.consume(contender, &topic, &flags)
    }
}
