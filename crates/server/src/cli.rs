//! The command line: which command, reached under which name.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::{bench, quickstart, reference, roles, shutdown, store_tool};

/// A message broker compatible with Apache RocketMQ. Without a command: `serve`.
#[derive(Debug, Parser)]
#[command(
    name = "cometmq",
    version,
    args_conflicts_with_subcommands = true,
    override_usage = "cometmq [OPTIONS]\n       cometmq <COMMAND> [OPTIONS OF THE COMMAND]",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name server and broker in one process, without any configuration
    Serve(ServeArgs),
    /// A name server alone (also reached by a link named mqnamesrv)
    Namesrv(NamesrvArgs),
    /// A broker alone (also reached by a link named mqbroker)
    Broker(BrokerArgs),
    /// Asks all running brokers or name servers of this program on this machine to stop in order (also: mqshutdown)
    Shutdown(shutdown::ShutdownArgs),
    /// Sends messages: the quick start without Java
    Producer(quickstart::ProducerArgs),
    /// Receives messages: the quick start without Java
    Consumer(quickstart::ConsumerArgs),
    /// Lists every setting with its default and meaning, as Markdown
    Settings(reference::SettingsArgs),
    /// Looks at what a store's directory holds, without a broker
    #[command(subcommand)]
    Store(store_tool::StoreCommand),
    /// Measures servers of the RocketMQ protocol
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// Flags of `cometmq serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Directory of all data [default: storePathRootDir of the file of -c, then ./data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address to listen on [default: bindAddress of the file of -c, then 0.0.0.0: all of this machine]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) bind: Option<IpAddr>,
    /// Port of the name server [default: 9876]
    #[arg(long, value_name = "PORT")]
    pub(crate) namesrv_port: Option<u16>,
    /// Port of the broker; the port two below is used as well [default: 10911]
    #[arg(long, value_name = "PORT")]
    pub(crate) broker_port: Option<u16>,
    /// A broker.conf as RocketMQ writes it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Flags of `cometmq namesrv`, as `mqnamesrv` has them.
#[derive(Debug, Args)]
pub(crate) struct NamesrvArgs {
    /// A namesrv.conf as RocketMQ writes it
    #[arg(short, long = "configFile", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print all settings and exit
    #[arg(short, long = "printConfigItem")]
    pub(crate) print: bool,
}

/// Flags of `cometmq broker`, as `mqbroker` has them.
#[derive(Debug, Args)]
pub(crate) struct BrokerArgs {
    /// Name servers, separated by `;` [default: namesrvAddr of the file of -c, then NAMESRV_ADDR]
    #[arg(short, long = "namesrvAddr", value_name = "HOST:PORT;…")]
    pub(crate) name_servers: Option<String>,
    /// A broker.conf as RocketMQ writes it
    #[arg(short, long = "configFile", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of all data [default: storePathRootDir of the file of -c, then ./data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Print all settings and exit
    #[arg(short, long = "printConfigItem")]
    pub(crate) print: bool,
    /// Print the important settings and exit (here: all)
    #[arg(short = 'm', long = "printImportantConfig")]
    pub(crate) print_important: bool,
}

/// Runs the command of this process.
pub(crate) fn run() -> Result<ExitCode> {
    match Cli::parse_from(arguments(std::env::args_os().collect())) {
        Cli { command: None, serve } | Cli { command: Some(Command::Serve(serve)), .. } => {
            roles::serve(&serve)
        }
        Cli { command: Some(Command::Namesrv(args)), .. } => roles::namesrv(&args),
        Cli { command: Some(Command::Broker(args)), .. } => roles::broker(&args),
        Cli { command: Some(Command::Shutdown(args)), .. } => shutdown::run(&args),
        Cli { command: Some(Command::Producer(args)), .. } => quickstart::produce(&args),
        Cli { command: Some(Command::Consumer(args)), .. } => quickstart::consume(&args),
        Cli { command: Some(Command::Settings(args)), .. } => reference::run(&args),
        Cli { command: Some(Command::Store(command)), .. } => store_tool::run(&command),
        Cli { command: Some(Command::Bench(command)), .. } => bench::run(&command),
    }
}

/// The arguments with the command that a link's name stands for: `mqbroker -c F` is `cometmq broker -c F`.
fn arguments(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().and_then(|program| Path::new(program).file_name()).unwrap_or_default();
    if let Some(command) = command_of(&name.to_string_lossy()) {
        arguments.insert(1, command.into());
    }
    arguments
}

/// The command that a program name of RocketMQ stands for.
pub(crate) fn command_of(program: &str) -> Option<&'static str> {
    match program {
        "mqnamesrv" => Some("namesrv"),
        "mqbroker" => Some("broker"),
        "mqshutdown" => Some("shutdown"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_link_is_the_command_that_it_is_named_after() {
        let of = |words: &[&str]| arguments(words.iter().map(OsString::from).collect());
        assert_eq!(of(&["/opt/mqbroker", "-c", "f"]), ["/opt/mqbroker", "broker", "-c", "f"]);
        assert_eq!(of(&["cometmq", "serve"]), ["cometmq", "serve"]);
    }
}
