//! `cometmq bench`: load on any server of the RocketMQ protocol, and a null server as the yardstick.
//!
//! Suggested reading order: [`args`] are the flags common to all load, [`route`] finds the brokers, [`send`] and
//! [`consume`] are the two kinds of load, [`window`] is the time in which they are measured, [`usage`] what the server
//! spends meanwhile, [`report`] what is told at the end. [`null`] is the server that does nothing.
//!
//! Not here: the client library. A generator must cost less than what it measures, so it writes frames itself and
//! answers replies with new requests right where they are read.

mod args;
mod consume;
mod head;
mod null;
mod report;
mod route;
mod send;
mod usage;
mod window;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use tokio::runtime::Runtime;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Sends messages, each as soon as an earlier one is answered, or at a fixed rate
    Send(send::SendArgs),
    /// Pulls the messages of a topic, as a consumer group would
    Consume(consume::ConsumeArgs),
    /// A server with the same framing and reply that stores nothing
    Null(null::NullArgs),
}

/// Runs the command.
pub(crate) fn run(command: &BenchCommand) -> Result<ExitCode> {
    match command {
        BenchCommand::Send(args) => send::run(args),
        BenchCommand::Consume(args) => consume::run(args),
        BenchCommand::Null(args) => null::run(args),
    }
}

/// The runtime of a load generator.
fn runtime(threads: usize) -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("no runtime; try fewer --threads")
}
