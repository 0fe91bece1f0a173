//! `cargo xtask sim`: the simulator of `crates/sim`, as a release build, one process per core.
//!
//! A failing seed is printed by the simulator with its last events; here the commit is added, without which a seed says
//! nothing. Rows 2 and 5 of [`crate::torture`] are played here as well.

use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::chance::Chance;
use crate::process::{self, Process};
use crate::workspace;

/// Longest that the build, or one run, may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// Crash states of the full form.
pub(crate) const CRASH_STATES: u64 = 100_000;

/// Flags of `cargo xtask sim`.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// The first seed [default: a new one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Explore at least 100,000 crash states of small workloads instead
    #[arg(long, conflicts_with = "every_call")]
    crash_states: bool,
    /// Fail every call to the disk of a scripted run, in five ways, instead
    #[arg(long)]
    every_call: bool,
}

impl SimArgs {
    /// What every commit is tried with: always the same seeds, so that a failure is the commit's.
    pub(crate) fn short() -> SimArgs {
        SimArgs { seed: Some(0), rounds: 1000, crash_states: false, every_call: false }
    }
}

/// What the simulator is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Play {
    /// Whole brokers, of so many seeds from the first one on.
    Seeds { first: u64, count: u64 },
    /// At least so many crash states, of workloads from the first one on.
    CrashStates { first: u64, states: u64 },
    /// Each call of the script failed in each way, or one of so many from the first one on.
    Calls { first: u64, of: u64 },
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Played {
    /// Seeds, states or calls.
    pub(crate) done: u64,
    /// Those that broke a law.
    pub(crate) failed: u64,
}

impl Play {
    /// The words for the process that does part `core` of `cores`.
    fn words(self, core: u64, cores: u64) -> Vec<String> {
        let (name, first, second) = match self {
            Play::Seeds { first, count } => {
                let (from, to) = (count * core / cores, count * (core + 1) / cores);
                ("seeds", first + from, to - from)
            }
            // Each process goes on for as long as it takes: their workloads must not meet.
            Play::CrashStates { first, states } => {
                ("crash-states", first + core * states, states.div_ceil(cores))
            }
            Play::Calls { first, of } => ("every-call", core + first % of * cores, cores * of),
        };
        vec![name.to_owned(), first.to_string(), second.to_string()]
    }
}

/// Runs the simulator; an error when a law was broken.
pub(crate) fn run(args: &SimArgs) -> Result<()> {
    let first = args.seed.unwrap_or_else(Chance::any_seed);
    let play = if args.every_call {
        Play::Calls { first: 0, of: 1 }
    } else if args.crash_states {
        Play::CrashStates { first, states: CRASH_STATES }
    } else {
        Play::Seeds { first, count: args.rounds }
    };
    let (commit, start) = (commit()?, Instant::now());
    println!("commit {commit}, first seed {first}");
    let logs = tempfile::tempdir().context("no temporary directory")?;
    let played = play_in(play, logs.path());
    for log in std::fs::read_dir(logs.path()).context("the simulator's logs")? {
        print!("{}", std::fs::read_to_string(log?.path()).context("a log of the simulator")?);
    }
    println!("{:.1} s", start.elapsed().as_secs_f64());
    if played?.failed > 0 {
        bail!("a law was broken at commit {commit}: run its seed alone with --seed N --rounds 1");
    }
    Ok(())
}

/// Builds the simulator and lets it play, one process per core, each with its log in `directory`.
pub(crate) fn play_in(play: Play, directory: &Path) -> Result<Played> {
    process::run(workspace::cargo("build")?.args(["--release", "--package", "cometmq-sim"]), LIMIT)?;
    let binary = workspace::target()?.join("release/cometmq-sim");
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let mut processes = Vec::new();
    for core in 0..cores {
        let (words, log) = (play.words(core, cores), directory.join(format!("simulator-{core}.log")));
        let mut command = Command::new(&binary);
        command.args(&words);
        workspace::log_to(&mut command, &log)?;
        processes.push((Process::spawn(format!("the simulator ({})", words.join(" ")), &mut command)?, log));
    }
    let mut played = Played::default();
    for (process, log) in &mut processes {
        let status = process.wait(LIMIT)?;
        let text = std::fs::read_to_string(log).context("a log of the simulator")?;
        let sum = text.lines().next_back().and_then(|line| line.split_once(' '));
        let numbers = sum.and_then(|(done, failed)| Some((done.parse().ok()?, failed.parse().ok()?)));
        let (done, failed): (u64, u64) = numbers.with_context(|| format!("it ended early ({status})"))?;
        played.done += done;
        played.failed += failed;
    }
    Ok(played)
}

/// The commit that is checked out, marked when something was changed since.
fn commit() -> Result<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(workspace::root()?);
    let output = git.output().context("git")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
