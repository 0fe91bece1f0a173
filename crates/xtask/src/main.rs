//! `cargo xtask`: everything that is done to this repository by a command, as Rust instead of scripts.
//!
//! Suggested reading order: [`test`] is the one gate and calls most others; [`tidy`] checks what the compiler does
//! not; [`interop`] runs the official Java clients against our server, [`fuzz`] the fuzz targets; [`torture`] does to a
//! server what disks, networks and people do; [`bench`] compares with the Java server. Beneath them: [`process`],
//! [`workspace`], [`wire`].

mod bench;
mod chance;
mod fuzz;
mod interop;
mod java_server;
mod ports;
mod preload;
mod process;
mod sim;
mod surefire;
mod table;
mod test;
mod tidy;
mod tools;
mod torture;
mod wire;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Checks and measures CometMQ.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The gate: everything that must hold before a commit, in order, up to the first failure
    Test(test::TestArgs),
    /// Checks layers, manifests and sources for what the compiler does not check
    Tidy,
    /// Runs the official Java clients, several versions, against our server
    Interop(interop::InteropArgs),
    /// Does faults to a server under load (kill -9, failing and full disks, floods), and looks for what it acknowledged
    Torture(torture::TortureArgs),
    /// Runs the fuzz targets: any bytes, no panic, bounded memory, what is read is written the same
    Fuzz(fuzz::FuzzArgs),
    /// Runs the simulator: whole brokers from seeds, or every crash state, or every failing call
    Sim(sim::SimArgs),
    /// Fetches the Java name server and broker, and tells how to run them
    JavaServer(java_server::JavaServerArgs),
    /// Measures our server beside the Java server and a null server
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    process::end_all_on_signals()?;
    match command {
        Command::Test(args) => return test::run(args),
        Command::Tidy => tidy::run()?,
        Command::Interop(args) => interop::run(args, &mut Vec::new())?,
        Command::Torture(args) => torture::run(args)?,
        Command::Fuzz(args) => fuzz::run(args)?,
        Command::Sim(args) => sim::run(args)?,
        Command::JavaServer(args) => java_server::run(args)?,
        Command::Bench(args) => bench::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
