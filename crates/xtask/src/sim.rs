//! `cargo xtask sim`: the simulator of `crates/sim`, as a release build, one process per core.
//!
//! A failing seed is printed by the simulator with its last events; here the commit is added, without which a seed says
//! nothing.

use std::num::NonZero;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::chance::Chance;
use crate::process::{self, Process};
use crate::workspace;

/// Longest that the build, or one run, may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(60 * 60);

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

/// Crash states of the full form.
const CRASH_STATES: u64 = 100_000;

/// Runs the simulator; an error when a law was broken.
pub(crate) fn run(args: &SimArgs) -> Result<()> {
    process::run(workspace::cargo("build")?.args(["--release", "--package", "cometmq-sim"]), LIMIT)?;
    let binary = workspace::target()?.join("release/cometmq-sim");
    let commit = commit()?;
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let seed = args.seed.unwrap_or_else(Chance::any_seed);
    println!("commit {commit}, first seed {seed}, {cores} processes");
    let start = Instant::now();
    let mut processes = Vec::new();
    for core in 0..cores {
        let words = if args.every_call {
            vec!["every-call".to_owned(), core.to_string(), cores.to_string()]
        } else if args.crash_states {
            let states = CRASH_STATES.div_ceil(cores);
            vec!["crash-states".to_owned(), (seed + core * CRASH_STATES).to_string(), states.to_string()]
        } else {
            let (from, to) = (args.rounds * core / cores, args.rounds * (core + 1) / cores);
            vec!["seeds".to_owned(), (seed + from).to_string(), (to - from).to_string()]
        };
        let mut command = Command::new(&binary);
        command.args(&words);
        processes.push(Process::spawn(format!("the simulator ({})", words.join(" ")), &mut command)?);
    }
    let mut failed = false;
    for process in &mut processes {
        failed |= !process.wait(LIMIT)?.success();
    }
    println!("{:.1} s", start.elapsed().as_secs_f64());
    if failed {
        bail!("a law was broken at commit {commit}: run its seed alone with --seed N --rounds 1");
    }
    Ok(())
}

/// The commit that is checked out, marked when something was changed since.
fn commit() -> Result<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(workspace::root()?);
    let output = git.output().context("git")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
