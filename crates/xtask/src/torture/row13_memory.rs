//! Rows 13 and 14: a fixed load in 256 MiB of memory, a great many topics in 1 GiB, and the kernel's kill when there is
//! less than a broker needs.
//!
//! Row 14 is row 1 with another killer: in the midst of the load the limit of the broker's control group is lowered
//! below what it holds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::broker::{START_LIMIT, Setup};
use super::cgroup::MemoryGroup;
use super::job::{Flush, Job, Outcome};
use super::latency::{Latencies, ms};
use super::ledger::Ledger;
use super::load::{Load, Positions, Tally};
use super::verify;
use super::vitals::mib;
use crate::wire::{Sent, Wire};

const TOPIC: &str = "memory";
const QUEUES: i32 = 8;
const LIMIT_BYTES: u64 = 256 << 20;
/// How long the load lasts in the two forms of row 13.
const SECONDS: (u64, u64) = (10, 600);
/// Pause of each sender and thus the rate: fixed, so that two runs do the same.
const PAUSE: Duration = Duration::from_millis(2);
/// Memory for many topics, how many are made in the two forms, by how many at a time, and how long that may take: then
/// those made by then have to do.
const TOPICS_LIMIT_BYTES: u64 = 1 << 30;
const TOPICS: (u32, u32) = (200, 1_000_000);
const MAKERS: u32 = 32;
const TOPICS_SECONDS: (u64, u64) = (10, 300);
const TOPIC_QUEUES: i32 = 4;
/// One of so many topics is read back.
const READ_BACK: usize = 97;
/// Kills in the two forms of row 14.
const KILLS: (u32, u32) = (3, 50);
/// How long the load lasts before memory is taken away, in ms.
const LOAD_MS: std::ops::Range<u64> = 100..400;
/// Steps in which memory is taken away, as large as the kernel can.
const LESS_BYTES: [u64; 4] = [16 << 20, 4 << 20, 1 << 20, 64 << 10];
/// How long the kernel may take to kill.
const KILL_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

/// Row 13.
pub(super) async fn bounded(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("messages");
    let group = MemoryGroup::create(LIMIT_BYTES)?;
    let flush = job.flush.unwrap_or(Flush::Async).setting();
    let mut setup = Setup::new(job, &job.scratch.join("data"), flush)?;
    setup.prefix = group.enter().to_vec();
    let (mut broker, _) = setup.start_with_topic(TOPIC, QUEUES).await?;
    let before = broker.vitals()?;
    let load = Load {
        senders: 8,
        consumers: 4,
        pause: PAUSE,
        seed: job.seed,
        ..Load::new(setup.address(), TOPIC, QUEUES)
    };
    let running = load.start(&Positions::new(QUEUES));
    let seconds = if job.short { SECONDS.0 } else { SECONDS.1 };
    broker.needed_by(sleep(Duration::from_secs(seconds))).await.context("under load")?;
    let after = broker.vitals()?;
    let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
    running.finish(&mut ledger, &mut tally).await?;
    outcome.times = ledger.acknowledged();
    outcome.figure(format!(
        "{} a second for {seconds} s, {} consumed; resident {}, at most {}; the group with its page cache at most {}",
        ledger.acknowledged() / seconds,
        tally.consumed,
        mib(after.rss_kib),
        mib(after.peak_kib),
        mib(group.peak_bytes()? / 1024)
    ));
    outcome.problems.extend(tally.problems.iter().take(3).cloned());
    outcome.check(tally.refused == 0, || format!("refused: {:?}", tally.refusals));
    let kills = group.oom_kills()?;
    outcome.check(kills == 0, || format!("the kernel killed for memory {kills} times"));
    outcome.problems.extend(before.leaks(broker.pid()).await?);
    let (mut findings, ends) = {
        let wire = Wire::connect(&setup.address()).await?;
        broker.needed_by(verify::read_back(&wire, TOPIC, QUEUES, &[], &ledger)).await??
    };
    findings.examples.truncate(3);
    outcome.read_back(&findings);
    outcome.check(ends.iter().sum::<i64>() >= 0, || "a queue has no end".to_owned());
    broker.kill()?;
    drop(group);
    many_topics(job, &mut outcome).await.context("with many topics")?;
    Ok(outcome)
}

/// Makes as many topics as there is time for, sends one message to each, and starts the broker again on them.
async fn many_topics(job: &Job, outcome: &mut Outcome) -> Result<()> {
    let group = MemoryGroup::create(TOPICS_LIMIT_BYTES)?;
    let mut setup = Setup::new(job, &job.scratch.join("topics"), Flush::Async.setting())?;
    setup.prefix = group.enter().to_vec();
    let (mut broker, wire) = setup.start_and_connect().await?;
    let start = Instant::now();
    let seconds = if job.short { TOPICS_SECONDS.0 } else { TOPICS_SECONDS.1 };
    let end = start + Duration::from_secs(seconds);
    let wanted = job.times(TOPICS.0, TOPICS.1);
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        let wire = Wire::connect(&setup.address()).await?;
        makers.spawn(make_topics(wire, maker, wanted, end));
    }
    let mut made = Vec::new();
    while let Some(mine) = broker.needed_by(makers.join_next()).await? {
        made.extend(mine??);
    }
    let (took, full) = (start.elapsed(), broker.vitals()?);
    drop(wire);
    broker.kill()?;
    let start = Instant::now();
    let (mut broker, wire) = setup.start_and_connect().await.context("again")?;
    let started = start.elapsed();
    let missing = broker.needed_by(missing(&wire, &made)).await??;
    outcome.lost += missing;
    outcome.check(missing == 0, || format!("{missing} topics have no message any more"));
    outcome.figure(format!(
        "{} topics of {TOPIC_QUEUES} queues with a message each made in {:.0} s, resident {}, at most {}; started again \
         on them in {}, resident {}",
        made.len(),
        took.as_secs_f64(),
        mib(full.rss_kib),
        mib(full.peak_kib),
        ms(started),
        mib(broker.vitals()?.rss_kib)
    ));
    outcome.check(group.oom_kills()? == 0, || "killed for memory with many topics".to_owned());
    broker.kill()
}

/// Makes each [`MAKERS`]th topic with one message; returns their numbers.
async fn make_topics(wire: Wire, maker: u32, wanted: u32, end: Instant) -> Result<Vec<u32>> {
    let mut made = Vec::new();
    for number in (maker..wanted).step_by(MAKERS as usize) {
        if Instant::now() >= end {
            break;
        }
        let topic = topic_name(number);
        wire.create_topic(&topic, TOPIC_QUEUES).await?;
        match wire.send(&topic, number.cast_signed() % TOPIC_QUEUES, Bytes::from_static(b"one")).await? {
            Sent::Stored(_) => made.push(number),
            Sent::Refused(reason) => bail!("topic {number}: {reason}"),
        }
    }
    Ok(made)
}

/// How many of some of the topics have lost their message.
async fn missing(wire: &Wire, made: &[u32]) -> Result<u64> {
    let mut missing = 0;
    for number in made.iter().step_by(READ_BACK) {
        let page = wire.pull(&topic_name(*number), number.cast_signed() % TOPIC_QUEUES, 0).await?;
        missing += u64::from(!page.found);
    }
    Ok(missing)
}

fn topic_name(number: u32) -> String {
    format!("topic-{number:07}")
}

/// Row 14.
pub(super) async fn killed(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("kills by the kernel");
    let flush = job.flush.unwrap_or(Flush::Async).setting();
    let mut setup = Setup::new(job, &job.scratch.join("data"), flush)?;
    let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
    let read = Positions::new(QUEUES);
    let mut restarts = Latencies::default();
    let (mut broker, _) = setup.start_with_topic(TOPIC, QUEUES).await?;
    broker.kill()?;
    let mut chance = job.chance();
    for round in 1..=job.times(KILLS.0, KILLS.1) {
        let group = MemoryGroup::create(LIMIT_BYTES)?;
        setup.prefix = group.enter().to_vec();
        let started = Instant::now();
        let mut broker = setup.start()?;
        let load =
            Load { round, consumers: 4, seed: chance.next(), ..Load::new(setup.address(), TOPIC, QUEUES) };
        let running = load.start(&read);
        let accepted = broker.needed_by(timeout(START_LIMIT, running.first_accepted())).await?;
        restarts.push(accepted.context("no send was accepted")? - started);
        broker.needed_by(sleep(Duration::from_millis(chance.within(LOAD_MS)))).await?;
        running.expect_kill();
        let deadline = Instant::now() + KILL_LIMIT;
        while broker.ended()?.is_none() {
            if Instant::now() >= deadline {
                bail!("round {round}: the kernel does not kill a broker in {} bytes", group.usage_bytes()?);
            }
            // The kernel refuses a limit that it cannot free enough for: what is used now is the least that it takes,
            // and the load asks for more.
            for less in LESS_BYTES {
                if group.limit(group.usage_bytes()?.saturating_sub(less)).is_ok() {
                    break;
                }
            }
            sleep(POLL).await;
        }
        running.finish(&mut ledger, &mut tally).await?;
        let kills = group.oom_kills()?;
        outcome.check(kills > 0, || format!("round {round}: the broker ended, but not for memory"));
        outcome.times += 1;
    }
    setup.prefix.clear();
    outcome.problems.extend(tally.problems.iter().take(3).cloned());
    outcome.figure(format!(
        "{} acknowledged, {} consumed; restart to first ack p50 {}, max {}",
        ledger.acknowledged(),
        tally.consumed,
        ms(restarts.at(0.5)),
        ms(restarts.at(1.0))
    ));
    let (mut broker, findings) = verify::restart(&setup, TOPIC, QUEUES, &ledger).await?;
    outcome.read_back(&findings);
    broker.kill()?;
    Ok(outcome)
}
