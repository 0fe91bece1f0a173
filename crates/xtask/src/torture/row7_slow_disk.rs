//! Row 7: a disk that writes 1 MiB a second, by a throttle on its loop device.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use super::broker::Setup;
use super::cgroup::throttle_writes;
use super::image::{Mounted, make_ext4};
use super::job::{Flush, Job, Outcome};
use super::latency::{Latencies, ms};
use super::ledger::Ledger;
use super::load::{Load, Positions, Tally};
use super::verify;
use super::vitals::{Vitals, mib};
use crate::wire::Wire;

const TOPIC: &str = "slow";
const QUEUES: i32 = 8;
const DISK_BYTES: u64 = 512 << 20;
const BYTES_PER_SECOND: u64 = 1 << 20;
/// How long the load lasts in the two forms.
const SECONDS: (u64, u64) = (8, 150);
/// `syncFlushTimeout`, after which a send is answered whatever the disk does.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
const SETTINGS: &str = "syncFlushTimeout=5000\nmappedFileSizeCommitLog=67108864\n";
/// What a reply may take beyond the time-out: ten looks a second at what is overdue, and a busy machine.
const SLACK: Duration = Duration::from_secs(1);
/// Memory that the broker may take for messages that wait for the disk.
const GROWTH_KIB_MAX: u64 = 96 * 1024;
/// Reading the newest messages, which are in memory.
const READ_P99_MAX: Duration = Duration::from_millis(100);
const READ_PAUSE: Duration = Duration::from_millis(20);

/// More load than the disk can take, and readers of what was just stored.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("sends");
    let image = job.scratch.join("image");
    make_ext4(&image, DISK_BYTES, &["-E", "lazy_itable_init=0,lazy_journal_init=0"])?;
    let mounted = Mounted::mount(&image, &job.scratch.join("disk"), "defaults")?;
    let data = mounted.directory.join("store");
    let flush = job.flush.unwrap_or(Flush::Sync).setting();
    let setup = Setup::new(job, &data, &format!("{flush}{SETTINGS}"))?;
    let (mut broker, wire) = setup.start_with_topic(TOPIC, QUEUES).await?;
    let before = broker.vitals()?;
    let throttle = throttle_writes(&mounted.device, BYTES_PER_SECOND)?;
    let load = Load {
        senders: 32,
        fill_bytes_max: 64 << 10,
        seed: job.seed,
        ..Load::new(setup.address(), TOPIC, QUEUES)
    };
    let running = load.start(&Positions::new(QUEUES));
    let seconds = if job.short { SECONDS.0 } else { SECONDS.1 };
    let pid = broker.pid();
    let watching = watch(&wire, pid, Instant::now() + Duration::from_secs(seconds));
    let (reads, peak) = broker.needed_by(watching).await??;
    running.expect_end();
    drop(throttle);
    let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
    running.finish(&mut ledger, &mut tally).await?;
    outcome.problems.extend(before.leaks(pid).await?);
    outcome.problems.extend(tally.problems.iter().take(3).cloned());
    outcome.times = ledger.acknowledged() + tally.refused;
    outcome.figure(format!(
        "{} acknowledged, {} timed out; send p99 {}, max {}",
        ledger.acknowledged(),
        tally.refused,
        ms(tally.latencies.at(0.99)),
        ms(tally.latencies.at(1.0))
    ));
    let growth = peak.saturating_sub(before.rss_kib);
    outcome.figure(format!("memory grew by {}; reads of the newest p99 {}", mib(growth), ms(reads.at(0.99))));
    outcome.check(ledger.acknowledged() > 0, || "nothing was acknowledged".to_owned());
    outcome.check(tally.latencies.at(0.99) <= FLUSH_TIMEOUT + SLACK, || "a send took too long".to_owned());
    outcome.check(growth <= GROWTH_KIB_MAX, || format!("the limit of growth is {}", mib(GROWTH_KIB_MAX)));
    outcome.check(reads.at(0.99) <= READ_P99_MAX, || {
        format!("{} reads: a slow disk must not slow them, limit p99 {}", reads.len(), ms(READ_P99_MAX))
    });
    broker.kill()?;
    let (mut broker, findings) = verify::restart(&setup, TOPIC, QUEUES, &ledger).await?;
    outcome.read_back(&findings);
    broker.kill()?;
    Ok(outcome)
}

/// Reads the newest message of each queue in turn until `end`; the times, and the most memory seen.
async fn watch(wire: &Wire, pid: u32, end: Instant) -> Result<(Latencies, u64)> {
    let (mut reads, mut peak) = (Latencies::default(), 0);
    let mut ends = vec![0; QUEUES as usize];
    while Instant::now() < end {
        for queue in 0..QUEUES {
            let from: i64 = ends[queue as usize];
            let start = Instant::now();
            let page = wire.pull(TOPIC, queue, (from - 1).max(0)).await?;
            reads.push(start.elapsed());
            ends[queue as usize] = page.end;
            sleep(READ_PAUSE).await;
        }
        peak = peak.max(Vitals::of(pid)?.rss_kib);
    }
    Ok((reads, peak))
}
