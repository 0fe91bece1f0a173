//! `cometmq store`: looks at a store's directory without opening the store.

mod check;
mod dump;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

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
