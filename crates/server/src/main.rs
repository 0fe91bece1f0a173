//! `cometmq`: a message broker compatible with Apache RocketMQ, in one binary.
//!
//! Here: the command line, the roles (sockets, clock, threads around the machines of the other crates), settings.

mod bench;
mod cli;
mod clock;
mod config;
mod quickstart;
mod reference;
mod roles;
mod shutdown;
mod store_tool;

use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Small allocations of many threads, with less memory between them than the system's allocator needs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(log_filter())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cometmq: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Which lines are logged, as COMETMQ_LOG says.
fn log_filter() -> EnvFilter {
    const DEFAULT: &str = "info";
    let Ok(wanted) = std::env::var("COMETMQ_LOG") else { return EnvFilter::new(DEFAULT) };
    EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
        eprintln!(
            "cometmq: COMETMQ_LOG={wanted}: {error}; it is {DEFAULT} now: see \"Logs\" in docs/operations.md"
        );
        EnvFilter::new(DEFAULT)
    })
}

/// An error and its causes on one line, each said once: some errors quote their cause themselves.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            line = if line.is_empty() { cause } else { format!("{line}: {cause}") };
        }
    }
    line
}
