//! `cargo xtask fuzz`: builds the runner of the fuzz targets, with all checks of overflow, and calls it.
//!
//! The targets and the loop are in `crates/fuzz`; a failure becomes a file in `crates/fuzz/regressions`, which
//! `cargo test` replays from then on.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::chance::Chance;
use crate::{process, workspace};

/// Longest that the build may take on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
/// Seconds for each target in the gate.
const SHORT_SECONDS: u64 = 2;
/// Longest that a run may take beyond the time of its targets: loading, and making a failure small.
const REST_LIMIT: Duration = Duration::from_secs(10 * 60);
/// More targets than there are.
const TARGETS_MAX: u32 = 200;

/// Flags of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Targets [default: all]
    targets: Vec<String>,
    /// Time for each target
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Seed of the changes [default: any]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Write real inputs of each target below this directory, as libFuzzer takes them, and run nothing
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
}

impl FuzzArgs {
    /// Every target, briefly.
    pub(crate) fn short() -> FuzzArgs {
        FuzzArgs { targets: Vec::new(), seconds: SHORT_SECONDS, seed: None, export: None }
    }
}

/// Runs the targets; an error when one of them failed.
pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let build = ["--profile", "fuzz", "--package", "cometmq-fuzz"];
    process::run(workspace::cargo("build")?.args(build), BUILD_LIMIT)?;
    let seed = args.seed.unwrap_or_else(Chance::any_seed);
    let mut command = std::process::Command::new(workspace::target()?.join("fuzz/cometmq-fuzz"));
    command.arg("--crates").arg(workspace::root()?.join("crates"));
    command.args(["--seconds", &args.seconds.to_string(), "--seed", &seed.to_string()]).args(&args.targets);
    if let Some(directory) = &args.export {
        command.arg("--export").arg(directory);
    }
    println!("seed {seed}");
    let limit = Duration::from_secs(args.seconds) * TARGETS_MAX + REST_LIMIT;
    process::run(&mut command, limit).context("a target broke a law; its input is among the regressions now")
}
