//! Row 10: a flood of connections: thousands that do nothing, a thousand a second that come and go, hundreds that send
//! one byte now and then, and more than are let in.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::broker::{Broker, Setup};
use super::flood::{self, Honest};
use super::job::{Flush, Job, Outcome};
use super::vitals::{Vitals, mib};
use crate::wire::Wire;

const TOPIC: &str = "honest";
const QUEUES: i32 = 4;
/// Idle connections in the two forms.
const IDLE: (u32, u32) = (2_000, 10_000);
/// How long the churn lasts in the two forms.
const SECONDS: (u64, u64) = (4, 60);
const CHURN_PER_SECOND: u32 = 1_000;
const DRIPPING: u32 = 200;
/// Time between two bytes of such a connection.
const DRIP: Duration = Duration::from_millis(200);
/// Room for honest clients, churn and our own requests beside the others.
const SPARE: u32 = 300;
/// Connections beyond the limit.
const BEYOND: u32 = 100;
/// How soon one of those must have been closed.
const REFUSE_LIMIT: Duration = Duration::from_secs(5);
/// Resident memory for each idle connection.
const IDLE_KIB_MAX: f64 = 20.0;
const QUIET: Duration = Duration::from_secs(2);
/// Files that this process opens beside the connections.
const OWN_FILES: u64 = 600;

/// Opens them all beside honest clients.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("idle connections");
    let idle = job.times(IDLE.0, IDLE.1);
    raise_open_files(u64::from(idle + DRIPPING + SPARE + BEYOND) + OWN_FILES)?;
    let limit = idle + DRIPPING + SPARE;
    let settings = format!("{}serverMaxConnections={limit}\n", Flush::Async.setting());
    let setup = Setup::new(job, &job.scratch.join("data"), &settings)?;
    let (mut broker, wire) = setup.start_with_topic(TOPIC, QUEUES).await?;
    let mut honest = Honest::new(setup.address(), TOPIC, QUEUES, job.seed);
    let quiet = honest.quiet(&mut broker, QUIET).await?;
    let port = setup.ports.broker;
    let before = broker.vitals()?;
    let held = broker.needed_by(open(port, idle)).await??;
    let opened = broker.vitals()?;
    outcome.times = held.len() as u64;
    let each = opened.rss_kib.saturating_sub(before.rss_kib) as f64 / f64::from(idle);
    outcome.figure(format!("{each:.1} KiB for each idle connection, {} in all", mib(opened.rss_kib)));
    outcome.check(each <= IDLE_KIB_MAX, || format!("the limit is {IDLE_KIB_MAX} KiB for each"));
    outcome.check(opened.sockets >= idle as usize, || format!("only {} sockets are open", opened.sockets));
    let running = honest.start();
    let seconds = if job.short { SECONDS.0 } else { SECONDS.1 };
    let end = Instant::now() + Duration::from_secs(seconds);
    let (churned, dripped) =
        broker.needed_by(async { tokio::join!(churn(port, end), drip(port, end)) }).await?;
    let flooded = honest.stop(running).await?;
    outcome.figure(format!("{} churned, {} of {DRIPPING} dripping kept", churned?, dripped?));
    honest.judge(&quiet, &flooded, &mut outcome);
    beyond(&mut broker, &setup, limit, &held, &mut outcome).await?;
    held.into_iter().for_each(flood::reset);
    // What was asked for before is still served, and nothing is kept of the rest.
    wire.has_route(TOPIC).await.context("an established client is not served any more")?;
    outcome.problems.extend(before.leaks(broker.pid()).await?);
    let after = Vitals::of(broker.pid())?;
    outcome.figure(format!("{} after all were gone", mib(after.rss_kib)));
    broker.kill()?;
    Ok(outcome)
}

/// Raises this process's limit of open files, which the broker inherits, as far as is needed.
fn raise_open_files(needed: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).with_context(|| {
        format!("this row needs {needed} open files: raise the limit (ulimit -n), or be root")
    })
}

async fn open(port: u16, count: u32) -> Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(count as usize);
    for number in 0..count {
        held.push(flood::connect(port, number, None).await.with_context(|| format!("connection {number}"))?);
    }
    // Accepted is later than connected.
    sleep(Duration::from_millis(500)).await;
    Ok(held)
}

/// Connections that come and go, at a fixed rate.
async fn churn(port: u16, end: Instant) -> Result<u32> {
    let (start, mut number) = (Instant::now(), 0);
    while Instant::now() < end {
        let due = start + Duration::from_secs(1) * number / CHURN_PER_SECOND;
        sleep_until(due.into()).await;
        flood::reset(flood::connect(port, number, None).await?);
        number += 1;
    }
    Ok(number)
}

/// Connections on which a frame comes byte by byte; how many the broker still has at the end.
async fn drip(port: u16, end: Instant) -> Result<usize> {
    let mut streams = open(port, DRIPPING).await?;
    let mut at = 0;
    // A frame that announces itself as large, and never gets there.
    let frame = [&[0, 0x10, 0, 0, 0, 0, 1, 0][..], &[b' '; 1024]].concat();
    while Instant::now() < end {
        for stream in &mut streams {
            // Fails for one that the broker gave up.
            let _ = stream.write_all(&frame[at % frame.len()..=at % frame.len()]).await;
        }
        at += 1;
        sleep(DRIP).await;
    }
    let mut kept = 0;
    for stream in &streams {
        let mut byte = [0];
        let idle =
            stream.try_read(&mut byte).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        kept += usize::from(idle);
    }
    streams.into_iter().for_each(flood::reset);
    Ok(kept)
}

/// Fills the broker to its limit; those beyond are closed at once, those within stay.
async fn beyond(
    broker: &mut Broker,
    setup: &Setup,
    limit: u32,
    held: &[TcpStream],
    outcome: &mut Outcome,
) -> Result<()> {
    let port = setup.ports.broker;
    sleep(Duration::from_millis(500)).await;
    let more = limit + BEYOND - u32::try_from(held.len()).unwrap_or(limit);
    let mut tasks = JoinSet::new();
    for stream in broker.needed_by(open(port, more)).await?? {
        tasks.spawn(async move {
            let mut stream = stream;
            let mut byte = [0];
            let closed = timeout(REFUSE_LIMIT, stream.read(&mut byte)).await.is_ok();
            flood::reset(stream);
            closed
        });
    }
    let mut refused = 0;
    while let Some(closed) = tasks.join_next().await {
        refused += u32::from(closed?);
    }
    outcome.figure(format!("{refused} refused beyond {limit}"));
    // Our own wire is one of those within.
    outcome.check((BEYOND..BEYOND + SPARE).contains(&refused), || {
        format!("{refused} of {more} more connections were closed, {BEYOND} are beyond the limit of {limit}")
    });
    broker.must_live()?;
    sleep(Duration::from_millis(200)).await;
    let again = Wire::connect(&setup.address()).await.context("after the flood nobody is let in")?;
    again.has_route(TOPIC).await.context("after the flood nobody is served")?;
    Ok(())
}
