//! Row 6: a disk that fills up and gets room again, over and over.
//!
//! The broker lies on a small ext4 file system; a file that has nothing to do with it takes all the room, and goes
//! away. While the disk is full sends are refused with the reason; afterwards the broker goes on by itself.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tokio::time::sleep;

use super::broker::{Broker, Setup};
use super::image::{Mounted, make_ext4};
use super::job::{Flush, Job, Outcome, Server};
use super::latency::{Latencies, ms};
use super::ledger::Ledger;
use super::load::{Load, Positions, Running, Tally};
use super::{row6_ratios, verify, vitals};
use crate::wire::Wire;

const TOPIC: &str = "full";
const QUEUES: i32 = 4;
const DISK_BYTES: u64 = 64 << 20;
/// Cycles in the two forms.
const TIMES: (u32, u32) = (5, 100);
/// Segments so small that what is reserved of one is soon used up, and a Java broker's other files small enough for the disk.
const SETTINGS: &str = "mappedFileSizeCommitLog=65536\nmappedFileSizeConsumeQueue=60000\nmaxIndexNum=4000\n\
                        maxHashSlotNum=1000\ntimerWheelEnable=false\n";
/// Pause of each sender: the log itself must not fill the disk in all cycles together.
const PAUSE: Duration = Duration::from_millis(5);
/// Pieces in which room is taken, from large to small, to the last block.
const PIECES: [u64; 3] = [1 << 20, 64 << 10, 4 << 10];
/// How long a broker may take to notice, either way.
const NOTICE_LIMIT: Duration = Duration::from_secs(15);
/// How long the disk stays full.
const FULL: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(5);

/// Fills and frees the disk under load.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("fill and free cycles");
    let image = job.scratch.join("image");
    // Without blocks that only root may use, for the broker may be root.
    make_ext4(&image, DISK_BYTES, &["-m", "0"])?;
    let mounted = Mounted::mount(&image, &job.scratch.join("disk"), "errors=continue")?;
    let data = mounted.directory.join("store");
    let flush = job.flush.unwrap_or(Flush::Sync).setting();
    let setup = Setup::new(job, &data, &format!("{flush}{SETTINGS}"))?;
    let (mut broker, _) = setup.start_with_topic(TOPIC, QUEUES).await?;
    // Or the oldest messages would go while the disk is full.
    row6_ratios::consume_nothing(&Wire::connect(&setup.address()).await?, TOPIC, QUEUES).await?;
    let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
    let load = Load {
        senders: 2,
        fill_bytes_max: 256,
        pause: PAUSE,
        seed: job.seed,
        ..Load::new(setup.address(), TOPIC, QUEUES)
    };
    let running = load.start(&Positions::new(QUEUES));
    broker.needed_by(running.first_accepted()).await?;
    let before = broker.vitals()?;
    let filler = mounted.directory.join("filler");
    let mut recoveries = Latencies::default();
    let cycles = async {
        for cycle in 1..=job.times(TIMES.0, TIMES.1) {
            let recovered = cycle_once(&mut broker, &running, &filler).await;
            recoveries.push(recovered.with_context(|| format!("cycle {cycle}"))?);
            outcome.times += 1;
        }
        anyhow::Ok(())
    };
    let cycles = cycles.await;
    // Two senders hold a connection each, and they still do.
    let leaks = before.leaks(broker.pid()).await?;
    outcome.problems.extend(leaks);
    running.finish(&mut ledger, &mut tally).await?;
    outcome.problems.extend(cycles.err().map(|error| format!("{error:#}")));
    report(&tally, &recoveries, &ledger, &mut outcome, job.server);
    let _ = std::fs::remove_file(&filler);
    broker.kill()?;
    let (mut broker, findings) = verify::restart(&setup, TOPIC, QUEUES, &ledger).await?;
    outcome.read_back(&findings);
    let status = broker.stop()?;
    if job.server == Server::Binary {
        outcome.check(status.success(), || format!("the broker did not stop in order ({status})"));
        // What could not be saved on the full disk was saved since.
        let left = vitals::leftovers(&data)?;
        outcome.check(left.is_empty(), || format!("row 24: left over: {}", left.join(", ")));
        row6_ratios::run(job, &mut outcome).await.context("at the ratios")?;
    }
    Ok(outcome)
}

fn report(tally: &Tally, recoveries: &Latencies, ledger: &Ledger, outcome: &mut Outcome, server: Server) {
    outcome.figure(format!("{} acknowledged, {} refused", ledger.acknowledged(), tally.refused));
    outcome.figure(format!(
        "from room to the next ack p50 {}, max {}",
        ms(recoveries.at(0.5)),
        ms(recoveries.at(1.0))
    ));
    outcome.problems.extend(tally.problems.iter().take(3).cloned());
    for reason in tally.refusals.keys() {
        let names_it = ["full", "space", "room"].iter().any(|word| reason.to_lowercase().contains(word));
        outcome.check(names_it || server == Server::Java, || {
            format!("a refusal does not say that the disk is full: {reason}")
        });
    }
}

/// One filling and freeing; the time from there being room to the next acknowledged send.
async fn cycle_once(broker: &mut Broker, running: &Running, filler: &Path) -> Result<Duration> {
    let refused = running.refused();
    let start = Instant::now();
    while running.refused() == refused {
        // Again and again: the broker itself gives room back now and then.
        fill(filler)?;
        broker.must_live()?;
        if start.elapsed() > NOTICE_LIMIT {
            bail!("no send was refused within {} on a full disk", ms(NOTICE_LIMIT));
        }
        sleep(POLL).await;
    }
    broker.needed_by(sleep(FULL)).await?;
    std::fs::remove_file(filler).context("cannot free the disk")?;
    let (freed, acknowledged) = (Instant::now(), running.acknowledged());
    while running.acknowledged() == acknowledged {
        broker.must_live()?;
        if freed.elapsed() > NOTICE_LIMIT {
            bail!("no send was accepted within {} after there was room again", ms(NOTICE_LIMIT));
        }
        sleep(POLL).await;
    }
    Ok(freed.elapsed())
}

/// Takes all the room that there is.
fn fill(filler: &Path) -> Result<()> {
    let file = File::options().create(true).append(true).open(filler);
    let file = match file {
        // Not even room for a name: full enough.
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
        file => file.with_context(|| format!("cannot make {}", filler.display()))?,
    };
    for piece in PIECES {
        loop {
            let room = statvfs(filler).context("cannot measure the disk")?;
            if room.f_bavail * room.f_frsize < piece {
                break;
            }
            let length = file.metadata().context("cannot measure the filler")?.len();
            if fallocate(&file, FallocateFlags::empty(), length, piece).is_err() {
                break;
            }
        }
    }
    Ok(())
}
