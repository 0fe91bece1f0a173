//! `cometmq store`: looks at a store's directory without opening the store.

mod check;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// What to do with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Verifies everything stored against everything else, and changes nothing
    Check(check::CheckArgs),
}

/// Runs the command.
pub(crate) fn run(command: &StoreCommand) -> Result<ExitCode> {
    match command {
        StoreCommand::Check(args) => check::run(args),
    }
}
