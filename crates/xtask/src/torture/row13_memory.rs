//! Rows 13 and 14: a fixed load in 256 MiB of memory, and the kernel's kill when there is less than a broker needs.
//!
//! Row 14 is row 1 with another killer: in the midst of the load the limit of the broker's control group is lowered
//! below what it holds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::time::{sleep, timeout};

use super::broker::{START_LIMIT, Setup};
use super::cgroup::MemoryGroup;
use super::job::{Flush, Job, Outcome};
use super::latency::{Latencies, ms};
use super::ledger::Ledger;
use super::load::{Load, Positions, Tally};
use super::verify;
use super::vitals::mib;

const TOPIC: &str = "memory";
const QUEUES: i32 = 8;
const LIMIT_BYTES: u64 = 256 << 20;
/// How long the load lasts in the two forms of row 13.
const SECONDS: (u64, u64) = (10, 600);
/// Pause of each sender and thus the rate: fixed, so that two runs do the same.
const PAUSE: Duration = Duration::from_millis(2);
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
        let wire = crate::wire::Wire::connect(&setup.address()).await?;
        broker.needed_by(verify::read_back(&wire, TOPIC, QUEUES, &[], &ledger)).await??
    };
    findings.examples.truncate(3);
    outcome.read_back(&findings);
    outcome.check(ends.iter().sum::<i64>() >= 0, || "a queue has no end".to_owned());
    broker.kill()?;
    Ok(outcome)
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
    let (mut broker, wire) = setup.start_and_connect().await?;
    let (findings, _) = broker.needed_by(verify::read_back(&wire, TOPIC, QUEUES, &[], &ledger)).await??;
    outcome.read_back(&findings);
    broker.kill()?;
    Ok(outcome)
}
