//! `cometmq producer`: sends messages and prints what became of them.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use cometmq_client::{Message, Producer, ProducerOptions, SendError, SendResult, SendStatus};
use indicatif::ProgressBar;
use tokio::task::{JoinError, JoinSet};

use super::{ClusterArgs, connect, progress};

/// Flags of `cometmq producer`.
#[derive(Debug, Args)]
pub(crate) struct ProducerArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Producer group
    #[arg(short, long, default_value = "please_rename_unique_group_name")]
    group: String,
    /// Number of messages
    #[arg(short, long, default_value_t = 1000)]
    count: u64,
    /// Bytes of each body; without it the body is "Hello RocketMQ N"
    #[arg(short, long)]
    size: Option<usize>,
    /// Text of each body instead
    #[arg(short, long, conflicts_with = "size")]
    body: Option<String>,
    /// Tag of each message
    #[arg(long, default_value = "TagA")]
    tag: String,
    /// Key of each message; `{}` becomes its number
    #[arg(short, long)]
    key: Option<String>,
    /// Messages in flight at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    in_flight: u64,
    /// Send without waiting for answers
    #[arg(long, conflicts_with = "in_flight")]
    oneway: bool,
}

pub(super) async fn run(args: &ProducerArgs) -> Result<ExitCode> {
    let client = connect(&args.cluster).await?;
    let producer = Arc::new(client.producer(&args.group, ProducerOptions::default())?);
    let sent = send_all(args, &producer).await;
    if let Some(producer) = Arc::into_inner(producer) {
        producer.shutdown().await;
    }
    client.shutdown().await;
    sent
}

async fn send_all(args: &ProducerArgs, producer: &Arc<Producer>) -> Result<ExitCode> {
    let start = Instant::now();
    let mut tally = Tally { bar: progress(&args.cluster, Some(args.count)), stored: 0, failed: 0 };
    let mut in_flight = JoinSet::new();
    for number in 0..args.count {
        let message = message(args, number)?;
        if args.oneway {
            producer.send_oneway(&message).await?;
            tally.stored += 1;
            tally.bar.inc(1);
            continue;
        }
        while in_flight.len() as u64 >= args.in_flight {
            tally.take(args, in_flight.join_next().await)?;
        }
        let producer = Arc::clone(producer);
        in_flight.spawn(async move { producer.send(&message).await });
    }
    while !in_flight.is_empty() {
        tally.take(args, in_flight.join_next().await)?;
    }
    let Tally { bar, stored, failed } = tally;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let rate = stored as f64 / seconds.max(1e-9);
    println!(
        "{stored} messages sent to {} in {seconds:.2} s ({rate:.0}/s), {failed} failed",
        args.cluster.topic
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of the messages so far.
struct Tally {
    bar: ProgressBar,
    stored: u64,
    failed: u64,
}

impl Tally {
    fn take(
        &mut self,
        args: &ProducerArgs,
        joined: Option<Result<Result<SendResult, SendError>, JoinError>>,
    ) -> Result<()> {
        let Some(joined) = joined else { return Ok(()) };
        match joined? {
            Ok(result) => {
                self.stored += 1;
                if args.cluster.print {
                    println!("{}", line(&result));
                }
            }
            Err(error) if self.stored == 0 => bail!("the first message was not sent: {error}"),
            Err(error) => {
                self.failed += 1;
                self.bar.suspend(|| eprintln!("not sent: {error}"));
            }
        }
        self.bar.inc(1);
        Ok(())
    }
}

fn message(args: &ProducerArgs, number: u64) -> Result<Message> {
    let body = match (&args.body, args.size) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(size)) => vec![b'x'; size],
        (None, None) => format!("Hello RocketMQ {number}").into_bytes(),
    };
    let mut builder = Message::builder(&args.cluster.topic).body(body);
    if !args.tag.is_empty() {
        builder = builder.tag(&args.tag);
    }
    if let Some(key) = &args.key {
        builder = builder.key(key.replace("{}", &number.to_string()));
    }
    Ok(builder.build()?)
}

/// As the Java quick start prints a result.
fn line(result: &SendResult) -> String {
    let status = match result.status {
        SendStatus::Ok => "SEND_OK",
        SendStatus::FlushDiskTimeout => "FLUSH_DISK_TIMEOUT",
        SendStatus::FlushSlaveTimeout => "FLUSH_SLAVE_TIMEOUT",
        SendStatus::SlaveNotAvailable => "SLAVE_NOT_AVAILABLE",
    };
    format!(
        "SendResult [sendStatus={status}, msgId={}, offsetMsgId={}, messageQueue=MessageQueue [topic={}, \
         brokerName={}, queueId={}], queueOffset={}]",
        result.msg_id,
        result.offset_msg_id,
        result.topic,
        result.broker_name,
        result.queue_id,
        result.queue_offset
    )
}
