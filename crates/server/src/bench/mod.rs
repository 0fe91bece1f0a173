//! `cometmq bench`: load on any server of the RocketMQ protocol, and a null server as the yardstick.

mod null;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// A server with the same framing and reply that stores nothing
    Null(null::NullArgs),
}

/// Runs the command.
pub(crate) fn run(command: &BenchCommand) -> Result<ExitCode> {
    match command {
        BenchCommand::Null(args) => null::run(args),
    }
}
