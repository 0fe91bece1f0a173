//! `cometmq consumer`: receives messages as a push consumer of a group.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use cometmq_client::{ConsumeFrom, ConsumerOptions, Outcome, ReceivedMessage};
use tokio::sync::mpsc;

use super::{ClusterArgs, connect, progress};

/// Messages that may wait to be printed.
const PRINT_QUEUE: usize = 1024;

/// Flags of `cometmq consumer`.
#[derive(Debug, Args)]
pub(crate) struct ConsumerArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Consumer group
    #[arg(short, long, default_value = "please_rename_unique_group_name_4")]
    group: String,
    /// Stop after so many messages [default: until interrupted]
    #[arg(short, long)]
    count: Option<u64>,
    /// Tags to receive, as in `TagA || TagB`
    #[arg(long, value_name = "EXPRESSION", default_value = "*")]
    tag: String,
    /// Where a new group begins
    #[arg(long, value_enum, default_value_t = From::First)]
    from: From,
    /// Stop when no message came for so many seconds
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// With the first message that there is
    First,
    /// With what comes from now on
    Last,
}

pub(super) async fn run(args: &ConsumerArgs) -> Result<ExitCode> {
    let client = connect(&args.cluster).await?;
    let (sender, mut received) = mpsc::channel::<ReceivedMessage>(PRINT_QUEUE);
    let options = ConsumerOptions {
        from: match args.from {
            From::First => ConsumeFrom::First,
            From::Last => ConsumeFrom::Last,
        },
        ..ConsumerOptions::default()
    };
    let consumer = client
        .push_consumer(&args.group, options)?
        .subscribe(&args.cluster.topic, &args.tag)?
        .start(move |message| {
            let sender = sender.clone();
            async move {
                // Closed when enough has come: what is left stays for the next member of the group.
                match sender.send(message).await {
                    Ok(()) => Outcome::Success,
                    Err(_) => Outcome::RetryLater,
                }
            }
        })
        .await?;
    let bar = progress(&args.cluster, args.count);
    let (start, mut count) = (Instant::now(), 0u64);
    let idle = args.idle.map_or(Duration::MAX, Duration::from_secs);
    while args.count.is_none_or(|limit| count < limit) {
        let message = tokio::select! {
            message = tokio::time::timeout(idle, received.recv()) => message,
            _ = tokio::signal::ctrl_c() => break,
        };
        let Ok(Some(message)) = message else { break };
        count += 1;
        bar.inc(1);
        if args.cluster.print {
            println!("{}", line(&message));
        }
    }
    drop(received);
    bar.finish_and_clear();
    consumer.shutdown().await;
    client.shutdown().await;
    let seconds = start.elapsed().as_secs_f64();
    println!("{count} messages received from {} in {seconds:.2} s", args.cluster.topic);
    Ok(if args.count.is_none_or(|limit| count >= limit) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One message on one line.
fn line(message: &ReceivedMessage) -> String {
    let body = match message.body() {
        Ok(body) => String::from_utf8_lossy(&body).into_owned(),
        Err(error) => format!("({error})"),
    };
    let keys: Vec<&str> = message.keys().collect();
    format!(
        "MessageExt [brokerName={}, queueId={}, queueOffset={}, bornTimestamp={}, bornHost={}, storeTimestamp={}, \
         storeHost={}, msgId={}, reconsumeTimes={}, topic={}, tags={}, keys={}, body={body}]",
        message.broker_name,
        message.queue_id,
        message.queue_offset,
        message.born_timestamp,
        message.born_host,
        message.store_timestamp,
        message.store_host,
        message.message_id(),
        message.reconsume_times,
        message.topic,
        message.tag().unwrap_or(""),
        keys.join(" "),
    )
}
