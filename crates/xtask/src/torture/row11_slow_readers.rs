//! Row 11: a thousand consumers that ask and never read.
//!
//! Each has a tiny receive buffer and asks for messages in one go, some that are there and some that are still to
//! come; nobody reads a byte. What the broker holds for all of them together has a bound, some of them lose their
//! connection for it, and neither producers nor consumers that do read notice.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use cometmq_protocol::headers::pull::pull_flag;
use cometmq_protocol::{Fields, Header, RequestCode, SerializeType};
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::broker::Setup;
use super::flood::{self, Honest};
use super::job::{Flush, Job, Outcome};
use super::vitals::{Vitals, mib};
use crate::wire::{Sent, Wire};

const TOPIC: &str = "slow-readers";
const QUEUES: i32 = 4;
/// Consumers in the two forms.
const CONSUMERS: (u32, u32) = (200, 1_000);
/// Requests of each.
const REQUESTS: i32 = 40;
const RECEIVE_BYTES: u32 = 4096;
/// What is there to read: bytes of a message, and messages.
const BODY_BYTES: usize = 16 << 10;
const MESSAGES: i32 = 200;
/// How long the load lasts in the two forms.
const SECONDS: (u64, u64) = (5, 60);
/// What the broker may hold for all of them together: the budget of 256 MiB, and as much again for what is being closed
/// and for what the allocator keeps a while.
const GROWTH_KIB_MAX: u64 = 512 * 1024;
/// Consumers that do read.
const READERS: u32 = 2;
const QUIET: Duration = Duration::from_secs(2);
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Lets them ask beside honest producers.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("consumers that never read");
    let setup = Setup::new(job, &job.scratch.join("data"), Flush::Async.setting())?;
    let (mut broker, wire) = setup.start_with_topic(TOPIC, QUEUES).await?;
    broker.needed_by(store_some(&wire)).await??;
    let mut honest = Honest::new(setup.address(), TOPIC, QUEUES, job.seed);
    honest.add_readers(READERS, i64::from(MESSAGES / QUEUES));
    let quiet = honest.quiet(&mut broker, QUIET).await?;
    let before = broker.vitals()?;
    let running = honest.start();
    let consumers = job.times(CONSUMERS.0, CONSUMERS.1);
    let mut streams = Vec::new();
    for number in 0..consumers {
        let mut stream = flood::connect(setup.ports.broker, number, Some(RECEIVE_BYTES)).await?;
        // What the broker does not take any more stays with us.
        let _ = timeout(WRITE_LIMIT, stream.write_all(&requests())).await;
        streams.push(stream);
    }
    let seconds = if job.short { SECONDS.0 } else { SECONDS.1 };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut peak = Vitals::default();
    while Instant::now() < end {
        broker.must_live()?;
        let now = Vitals::of(broker.pid())?;
        if now.rss_kib > peak.rss_kib {
            peak = now;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let flooded = honest.stop(running).await?;
    outcome.times = consumers.into();
    let growth = peak.rss_kib.saturating_sub(before.rss_kib);
    let left = broker.vitals()?.sockets.saturating_sub(before.sockets);
    outcome.figure(format!("memory grew by {}; {left} were still connected at the end", mib(growth)));
    honest.judge(&quiet, &flooded, &mut outcome);
    outcome.check(growth <= GROWTH_KIB_MAX, || format!("the limit is {}", mib(GROWTH_KIB_MAX)));
    streams.into_iter().for_each(flood::reset);
    outcome.problems.extend(before.leaks(broker.pid()).await?);
    let after = Vitals::of(broker.pid())?;
    outcome.figure(format!("{} after they were gone", mib(after.rss_kib)));
    broker.kill()?;
    Ok(outcome)
}

async fn store_some(wire: &Wire) -> Result<()> {
    let body = Bytes::from(vec![7; BODY_BYTES]);
    for number in 0..MESSAGES {
        match wire.send(TOPIC, number % QUEUES, body.clone()).await? {
            Sent::Stored(_) => {}
            Sent::Refused(reason) => anyhow::bail!("a message was refused: {reason}"),
        }
    }
    Ok(())
}

/// Pulls of what is there, each for as much as a pull gives, and long polls of what is to come.
fn requests() -> BytesMut {
    let mut out = BytesMut::new();
    for opaque in 0..REQUESTS {
        let offset = if opaque % 2 == 0 { "0" } else { "1000000" };
        let queue = (opaque % QUEUES).to_string();
        let flags = (pull_flag::SUBSCRIPTION | pull_flag::SUSPEND).to_string();
        let mut fields = Fields::with_capacity(12);
        for (name, value) in [
            ("consumerGroup", "slow"),
            ("topic", TOPIC),
            ("queueId", &queue),
            ("queueOffset", offset),
            ("maxMsgNums", "1024"),
            ("sysFlag", &flags),
            ("commitOffset", "0"),
            ("suspendTimeoutMillis", "20000"),
            ("subscription", "*"),
            ("subVersion", "0"),
            ("expressionType", "TAG"),
        ] {
            fields.push(name, value.to_owned());
        }
        let header = Header::request(RequestCode::PullMessage.code(), opaque, fields);
        header.encode_with_body(SerializeType::Json, b"", &mut out);
    }
    out
}
