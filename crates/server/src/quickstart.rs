//! `cometmq producer` and `cometmq consumer`: RocketMQ's quick start without Java, and a hand at the shell.

mod consumer;
mod producer;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use cometmq_client::{Client, ClientOptions};
use indicatif::{ProgressBar, ProgressStyle};

pub(crate) use consumer::ConsumerArgs;
pub(crate) use producer::ProducerArgs;

/// Flags of both commands.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Name servers, separated by `;`
    #[arg(short, long, value_name = "HOST:PORT;…", env = "NAMESRV_ADDR", default_value = "127.0.0.1:9876")]
    namesrv: String,
    /// Topic
    #[arg(short, long, default_value = "TopicTest")]
    topic: String,
    /// Print a line for each message instead of a progress bar
    #[arg(long)]
    print: bool,
}

/// Runs `cometmq producer`.
pub(crate) fn produce(args: &ProducerArgs) -> Result<ExitCode> {
    block_on(producer::run(args))
}

/// Runs `cometmq consumer`.
pub(crate) fn consume(args: &ConsumerArgs) -> Result<ExitCode> {
    block_on(consumer::run(args))
}

fn block_on(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(command)
}

async fn connect(cluster: &ClusterArgs) -> Result<Client> {
    Ok(Client::start(&cluster.namesrv, ClientOptions::default()).await?)
}

/// A bar towards `count` messages, or a counter where there is no end; hidden when each message is printed.
fn progress(cluster: &ClusterArgs, count: Option<u64>) -> ProgressBar {
    if cluster.print {
        return ProgressBar::hidden();
    }
    let (bar, template) = match count {
        Some(count) => {
            (ProgressBar::new(count), "{bar:40} {human_pos}/{human_len} messages, {per_sec}, {eta} left")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {human_pos} messages, {per_sec}, {elapsed}"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    bar.set_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
