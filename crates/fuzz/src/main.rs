//! The runner: runs targets for some seconds each and turns a failure into a regression file.
//!
//! `cargo xtask fuzz` builds it with checks of overflow and calls it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use cometmq_fuzz::allocation::Counting;
use cometmq_fuzz::golden::Golden;
use cometmq_fuzz::regression::{self, hex};
use cometmq_fuzz::run::{self, Until};
use cometmq_fuzz::{TARGETS, Target};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Runs fuzz targets; without names, all of them.
#[derive(Debug, Parser)]
struct Args {
    /// Targets
    targets: Vec<String>,
    /// Time for each target
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seed of the changes: the same seed changes the same inputs in the same way
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder `crates` of the repository, with the test data that inputs begin with
    #[arg(long, value_name = "DIR")]
    crates: PathBuf,
    /// Write the seeds of each target to files below this directory and run nothing
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let targets = chosen(&args.targets)?;
    let golden = Golden::load(&args.crates)?;
    if let Some(directory) = &args.export {
        return export(&targets, &golden, directory);
    }
    run::keep_panics();
    run::watch(|target, input| {
        eprintln!("{target} does not end for the input {}", hex(input));
        std::process::exit(1);
    });
    println!("{:<20} {:>12} {:>10} {:>6} {:>12}", "target", "executions", "per second", "kept", "peak bytes");
    let mut failed = 0;
    for target in targets {
        let report = run::run(target, &golden, args.seed, Until::Time(Duration::from_secs(args.seconds)));
        println!(
            "{:<20} {:>12} {:>10.0} {:>6} {:>12}",
            target.name,
            report.executions,
            report.executions as f64 / report.took.as_secs_f64(),
            report.kept,
            report.peak_bytes
        );
        if let Some(failure) = report.failure {
            failed += 1;
            let how = format!("seed {}, execution {}\n{}", args.seed, failure.execution, failure.message);
            let file =
                regression::write(&args.crates.join("fuzz/regressions"), target, &failure.input, &how)?;
            println!("  FAILED at {how}\n  input {}\n  kept in {}", hex(&failure.input), file.display());
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    let known = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
    let find = |name: &String| match Target::named(name) {
        Some(target) => Ok(target),
        None => bail!("no target is called {name}; there are {}", known()),
    };
    names.iter().map(find).collect()
}

/// Files as libFuzzer takes them for its corpus.
fn export(targets: &[&'static Target], golden: &Golden, directory: &std::path::Path) -> Result<ExitCode> {
    for target in targets {
        let folder = directory.join(target.name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (number, seed) in (target.seeds)(golden).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:05}")), seed)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
