//! `cometmq store`: looks at a store's directory without opening the store.

mod check;
mod dump;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

/// What to do with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Verifies everything stored against everything else, and changes nothing
    Check(check::CheckArgs),
    /// Prints records, queue entries, index and positions readably, and changes nothing
    Dump(dump::DumpArgs),
}

/// Runs the command.
pub(crate) fn run(command: &StoreCommand) -> Result<ExitCode> {
    match command {
        StoreCommand::Check(args) => check::run(args),
        StoreCommand::Dump(args) => dump::run(args),
    }
}

/// What every store has at least one of, wherever its log is.
const PARTS: [&str; 4] = ["commitlog", "consumequeue", "config", "checkpoint"];

/// Refuses what cannot be a store: nothing is damaged in a directory that is another one than was meant.
fn require_store(root: &Path) -> Result<()> {
    let what = match root.read_dir() {
        Err(error) => format!("cannot be read: {error}"),
        Ok(_) if PARTS.iter().any(|part| root.join(part).exists()) => return Ok(()),
        Ok(_) => "holds no store: there is neither commitlog nor consumequeue in it".to_owned(),
    };
    bail!("{} {what}; name the one that the broker has as storePathRootDir or --data", root.display())
}

/// How far through the bytes of files a command is; shown on a terminal only.
fn progress_bar() -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    Ok(ProgressBar::no_length().with_style(style.context("no progress bar")?))
}
