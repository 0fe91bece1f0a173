//! `cargo xtask kill`: a server that is killed under load, started again, and asked for all that it acknowledged.
//!
//! [`load`] sends until the server is gone and keeps what was acknowledged; [`ledger`] is the law: what must be found
//! afterwards. Each round continues on the directory that the kill before it left.

mod body;
mod ledger;
mod load;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use cometmq_protocol::message::record::records;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::ledger::{Findings, Ledger, ReadBack};
use self::load::{Round, Tally};
use crate::chance::Chance;
use crate::ports::Ports;
use crate::process::Process;
use crate::table::Table;
use crate::wire::Wire;
use crate::{process, workspace};

const TOPIC: &str = "kill";
const QUEUES: i32 = 8;
/// Rounds between two readings of everything.
const READ_EVERY: u32 = 10;
/// How long the load lasts after the first accepted send, in ms.
const LOAD_MS: std::ops::Range<u64> = 200..1000;
/// Longest that a start may take, recovery included.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest that the senders may take to notice that the server is gone.
const SENDERS_LIMIT: Duration = Duration::from_secs(30);
/// Lines of the server's log that a failure shows.
const TAIL_LINES: usize = 20;
/// Segment size of the short form: rolls happen all the time.
const SHORT_SEGMENT_BYTES: u64 = 1024 * 1024;

/// Flags of `cargo xtask kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// How often the server is killed
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Repeats the moments and messages of an earlier run [default: a new seed, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// When the server acknowledges: after writing, or after the disk confirmed
    #[arg(long, value_enum, default_value_t = Flush::Async)]
    flush: Flush,
    /// Size of a commit log file, small for many rolls [default: that of the server]
    #[arg(long, value_name = "BYTES")]
    segment: Option<u64>,
    /// Senders, each with one message in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    senders: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Flush {
    Async,
    Sync,
}

impl KillArgs {
    /// A few rounds, for the gate.
    pub(crate) fn short() -> KillArgs {
        KillArgs {
            rounds: 5,
            seed: None,
            flush: Flush::Async,
            segment: Some(SHORT_SEGMENT_BYTES),
            senders: 32,
        }
    }
}

/// Runs the rounds; an error when anything that was acknowledged is not there.
pub(crate) fn run(args: &KillArgs) -> Result<()> {
    let binary = workspace::release_binary()?;
    let seed = args.seed.unwrap_or_else(Chance::any_seed);
    println!("seed {seed}, {} rounds, {} senders, {:?} flush", args.rounds, args.senders, args.flush);
    let parent = workspace::target()?.join("kill");
    std::fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let directory = tempfile::Builder::new().prefix("run-").tempdir_in(&parent)?;
    let server = Server::prepare(binary, directory.path(), args)?;
    let mut campaign = Campaign::new(args, seed, server);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let outcome = runtime.block_on(campaign.run(args.rounds));
    print!("{}", campaign.table());
    let problem = match outcome {
        Ok(()) if campaign.findings.is_clean() => return Ok(()),
        Ok(()) => "the server broke its promise".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    for example in &campaign.findings.examples {
        println!("  {example}");
    }
    print!("{}", workspace::tail(&campaign.server.log, TAIL_LINES));
    if process::interrupted() {
        bail!("interrupted");
    }
    let kept = directory.keep();
    bail!("seed {seed}: {problem}; the server's directory and log are kept in {}", kept.display())
}

/// How the server is started, each time in the same way.
struct Server {
    binary: PathBuf,
    data: PathBuf,
    config: PathBuf,
    log: PathBuf,
    ports: Ports,
}

impl Server {
    fn prepare(binary: PathBuf, directory: &Path, args: &KillArgs) -> Result<Server> {
        let config = directory.join("broker.conf");
        let flush = match args.flush {
            Flush::Async => "ASYNC_FLUSH",
            Flush::Sync => "SYNC_FLUSH",
        };
        // A topic that was forgotten must not be made anew on the quiet.
        let mut settings = format!("flushDiskType={flush}\nautoCreateTopicEnable=false\n");
        if let Some(bytes) = args.segment {
            settings.push_str(&format!("mappedFileSizeCommitLog={bytes}\n"));
        }
        std::fs::write(&config, settings).with_context(|| format!("cannot write {}", config.display()))?;
        let (data, log) = (directory.join("data"), directory.join("server.log"));
        Ok(Server { binary, data, config, log, ports: Ports::find()? })
    }

    fn start(&self) -> Result<Process> {
        let mut command = Command::new(&self.binary);
        command
            .args(["serve", "--bind", "127.0.0.1"])
            .arg("--data")
            .arg(&self.data)
            .arg("-c")
            .arg(&self.config);
        command.args(["--namesrv-port", &self.ports.namesrv.to_string()]);
        command.args(["--broker-port", &self.ports.broker.to_string()]);
        workspace::log_to(&mut command, &self.log)?;
        Process::spawn("the server", &mut command)
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.broker)
    }
}

/// All rounds and what they found.
struct Campaign {
    server: Server,
    senders: u32,
    chance: Chance,
    rounds_done: u32,
    ledger: Ledger,
    tally: Tally,
    restarts: Vec<Duration>,
    findings: Findings,
}

impl Campaign {
    fn new(args: &KillArgs, seed: u64, server: Server) -> Campaign {
        Campaign {
            server,
            senders: args.senders,
            chance: Chance::of(seed),
            rounds_done: 0,
            ledger: Ledger::default(),
            tally: Tally::default(),
            restarts: Vec::new(),
            findings: Findings::default(),
        }
    }

    async fn run(&mut self, rounds: u32) -> Result<()> {
        self.create_topic().await?;
        for round in 1..=rounds {
            self.round(round).await.with_context(|| format!("round {round}"))?;
            self.rounds_done = round;
            if round == rounds || round.is_multiple_of(READ_EVERY) {
                self.findings = self.read_back().await.context("reading back")?;
                println!(
                    "after round {round}: {} acknowledged, {}",
                    self.ledger.acknowledged(),
                    self.findings.summary()
                );
                if !self.findings.is_clean() {
                    break;
                }
            }
        }
        if let Some(problem) = self.tally.problems.first() {
            bail!("{} unexpected ends, the first: {problem}", self.tally.problems.len());
        }
        Ok(())
    }

    /// The topic must survive the kill right after its creation was acknowledged.
    async fn create_topic(&self) -> Result<()> {
        let mut process = self.server.start()?;
        let address = self.server.address();
        let create = async {
            let wire = Wire::connect_by(&address, Instant::now() + START_LIMIT).await?;
            wire.create_topic(TOPIC, QUEUES).await
        };
        process.needed_by(create).await??;
        process.kill()
    }

    /// One life of the server: start, load, kill.
    async fn round(&mut self, number: u32) -> Result<()> {
        let started = Instant::now();
        let mut process = self.server.start()?;
        let round = Round::new(self.server.address(), TOPIC, QUEUES);
        let mut senders = JoinSet::new();
        for sender in 0..self.senders {
            let bodies = body::Bodies::new(number, sender, self.chance.next());
            senders.spawn(load::send_until_killed(round.clone(), sender, bodies));
        }
        let accepted = process.needed_by(timeout(START_LIMIT, round.first_accepted())).await?;
        let accepted =
            accepted.with_context(|| format!("no send was accepted in {} s", START_LIMIT.as_secs()))?;
        self.restarts.push(accepted - started);
        let load = Duration::from_millis(self.chance.within(LOAD_MS));
        process.needed_by(sleep(load)).await.context("under load")?;
        round.announce_kill();
        process.kill()?;
        let join = async {
            while let Some(tally) = senders.join_next().await {
                self.tally.add(tally?, &mut self.ledger, number);
            }
            anyhow::Ok(())
        };
        timeout(SENDERS_LIMIT, join).await.context("senders still wait for a server that is gone")?
    }

    /// Starts the server, reads every queue from its beginning, kills it.
    async fn read_back(&mut self) -> Result<Findings> {
        let mut process = self.server.start()?;
        let address = self.server.address();
        let mut read_back = ReadBack::new(&self.ledger);
        let read = async {
            let wire = Wire::connect_by(&address, Instant::now() + START_LIMIT).await?;
            for queue in 0..QUEUES {
                read_queue(&wire, queue, &mut read_back).await?;
            }
            anyhow::Ok(())
        };
        process.needed_by(read).await??;
        process.kill()?;
        Ok(read_back.finish())
    }

    fn table(&mut self) -> Table {
        let mut table = Table::new([
            "rounds",
            "acknowledged",
            "lost",
            "corrupt",
            "holes",
            "duplicate",
            "refused",
            "restart p50",
            "p99",
            "max ms",
        ]);
        self.restarts.sort();
        let restart = |part: f64| {
            let index = ((self.restarts.len() as f64 * part).ceil() as usize).saturating_sub(1);
            self.restarts.get(index).map_or("-".to_owned(), |time| format!("{:.1}", time.as_secs_f64() * 1e3))
        };
        table.row([
            self.rounds_done.to_string(),
            self.ledger.acknowledged().to_string(),
            self.findings.lost.to_string(),
            self.findings.corrupt.to_string(),
            self.findings.holes.to_string(),
            self.findings.duplicates.to_string(),
            self.tally.refused.to_string(),
            restart(0.5),
            restart(0.99),
            restart(1.0),
        ]);
        table
    }
}

async fn read_queue(wire: &Wire, queue: i32, read_back: &mut ReadBack<'_>) -> Result<()> {
    let mut offset = 0;
    loop {
        let page = wire.pull(TOPIC, queue, offset).await?;
        let before = offset;
        if page.found {
            for record in records(&page.records) {
                match record {
                    Ok(record) => offset = read_back.record(queue, offset, &record),
                    Err(error) => read_back.unreadable(queue, offset, &error),
                }
            }
        }
        // A page without a readable record: what is behind it counts as missing, up to the queue's end.
        if !page.found || offset == before {
            read_back.queue_ends(queue, offset, page.end);
            return Ok(());
        }
    }
}
