//! Row 4: a disk whose writes fail while its journal still works, in the real kernel.
//!
//! A sparse ext4 image lies on a memory file system that is too small for it; journal and metadata have room from the
//! start. Sooner or later writing data back fails with an I/O error, which the kernel reports to one sync only. What a
//! power cut would leave is the image without what the kernel still has in memory: a copy of the image file.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use cometmq_protocol::message::RecordView;
use cometmq_protocol::message::record::body_crc;

use super::body::Bodies;
use super::broker::{Broker, Setup};
use super::image::{Mounted, copy, make_ext4, mount_memory, run as system, text};
use super::job::{Flush, Job, Outcome, Server};
use super::latency::ms;
use super::ledger::{Acknowledged, Ledger};
use super::verify;
use crate::wire::{Sent, Wire};

const TOPIC: &str = "eio";
const QUEUES: i32 = 4;
const SENDS: u32 = 900;
const BODY_BYTES: usize = 65_400;
const IMAGE_BYTES: u64 = 512 << 20;
const MEMORY_BYTES: u64 = 48 << 20;
const JOURNAL_BYTES: u64 = 8 << 20;
/// Where ext4 keeps what it must be able to write for data to be found.
const METADATA_BYTES: u64 = 4 << 20;
const BLOCK_BYTES: u64 = 4096;
/// One segment for everything, so that making the next one is not what fails.
const SETTINGS: &str = "mappedFileSizeCommitLog=134217728\nmappedFileSizeConsumeQueue=60000\nmaxIndexNum=4000\n\
                        maxHashSlotNum=1000\ntimerWheelEnable=false\n";
/// From the first error of the disk to the refusal of a send.
const REFUSED_WITHIN: Duration = Duration::from_millis(100);

/// Sends until long after the first error, and looks for everything acknowledged on what a power cut would leave.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("sends");
    let memory = job.scratch.join("memory");
    let _memory = mount_memory(&memory, MEMORY_BYTES)?;
    let image = memory.join("image");
    make(&image)?;
    let mounted = Mounted::mount(&image, &job.scratch.join("disk"), "errors=continue")?;
    mounted.take_single_pages()?;
    let data = mounted.directory.join("store");
    let setup = Setup::new(job, &data, &format!("{}{SETTINGS}", Flush::Sync.setting()))?;
    let (mut broker, wire) = setup.start_with_topic(TOPIC, QUEUES).await?;
    let mut ledger = Ledger::default();
    let sent = broker.needed_by(send_all(&wire, job.seed, &mut ledger)).await??;
    outcome.times = SENDS.into();
    outcome.figure(format!("{} of {SENDS} acknowledged, {} refused", ledger.acknowledged(), sent.refused));
    if job.server == Server::Binary {
        check_refusals(&setup.log, &sent, &mut outcome)?;
        check_reads(&mut broker, &setup, &ledger, &mut outcome).await?;
    }
    let after = job.scratch.join("after-power-cut");
    copy(&image, &after)?;
    broker.kill()?;
    drop((broker, mounted));
    let mounted = Mounted::mount(&after, &job.scratch.join("disk"), "errors=continue")?;
    let log = mounted.directory.join("store/commitlog/00000000000000000000");
    let lost = lost(&log, &ledger)?;
    outcome.lost = lost;
    outcome.figure(format!("{} of them on the disk after a power cut", ledger.acknowledged() - lost));
    // What a recovery would change is kept to be looked at.
    if job.server == Server::Binary && lost == 0 {
        restart(&setup, &ledger, &mut outcome).await?;
    }
    Ok(outcome)
}

fn make(image: &Path) -> Result<()> {
    let flags = ["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-J", "size=8", "-N", "2048"];
    make_ext4(image, IMAGE_BYTES, &flags)?;
    let stat = system("debugfs", &["-R", "stat <8>", &text(image)])?;
    let stat = String::from_utf8_lossy(&stat.stdout);
    // (0-2047):FIRST-LAST
    let blocks = stat.lines().find_map(|line| line.strip_prefix("(0-")?.split_once("):"));
    let first: u64 = blocks
        .and_then(|(_, blocks)| blocks.split('-').next()?.parse().ok())
        .with_context(|| format!("debugfs does not tell where the journal is: {stat}"))?;
    for (at, bytes) in [(first * BLOCK_BYTES, JOURNAL_BYTES), (0, METADATA_BYTES)] {
        system("fallocate", &["-o", &at.to_string(), "-l", &bytes.to_string(), &text(image)])?;
    }
    Ok(())
}

#[derive(Default)]
struct SendsSeen {
    refused: u32,
    /// Acknowledged after the first refusal.
    acknowledged_late: u32,
    /// When the first refusal came, by the wall clock.
    first_refusal: Option<Duration>,
    reason: String,
    slowest_refusal: Duration,
}

/// One message after the other, all of them whatever the answers are.
async fn send_all(wire: &Wire, seed: u64, ledger: &mut Ledger) -> Result<SendsSeen> {
    let mut bodies = Bodies::new(1, 1, seed, 16);
    let mut seen = SendsSeen::default();
    for number in 0..SENDS {
        let body = padded(&bodies.next());
        let crc = body_crc(&body);
        let start = Instant::now();
        match wire.send(TOPIC, number.cast_signed() % QUEUES, body).await? {
            Sent::Stored(stored) => {
                seen.acknowledged_late += u32::from(seen.refused > 0);
                ledger.enter(Acknowledged { stored, bytes: BODY_BYTES, crc });
            }
            Sent::Refused(reason) => {
                if seen.refused == 0 {
                    seen.first_refusal = SystemTime::now().duration_since(UNIX_EPOCH).ok();
                    seen.reason = reason;
                } else {
                    seen.slowest_refusal = seen.slowest_refusal.max(start.elapsed());
                }
                seen.refused += 1;
            }
        }
    }
    Ok(seen)
}

/// A body of full size that tells who it is.
fn padded(identity: &Bytes) -> Bytes {
    let mut body = BytesMut::with_capacity(BODY_BYTES);
    body.put_u32(0);
    body.put_slice(&identity[4..]);
    // Bytes that do not compress, so that no layer makes them fewer.
    let mut chance = crate::chance::Chance::of(u64::from(body_crc(identity)));
    while body.len() + 8 <= BODY_BYTES {
        body.put_u64(chance.next());
    }
    body.resize(BODY_BYTES, 0);
    let crc = body_crc(&body[4..]);
    body[..4].copy_from_slice(&crc.to_be_bytes());
    body.freeze()
}

fn check_refusals(log: &Path, sent: &SendsSeen, outcome: &mut Outcome) -> Result<()> {
    outcome.check(sent.refused > 0, || "no send was refused: the disk did not fail".to_owned());
    outcome.check(sent.acknowledged_late == 0, || {
        format!("{} sends were acknowledged after the first error", sent.acknowledged_late)
    });
    let Some(refused_at) = sent.first_refusal else { return Ok(()) };
    outcome.check(names_cause(&sent.reason), || format!("the refusal says only: {}", sent.reason));
    let failed_at = first_error(log)?.context("the broker's log has no ERROR with a time")?;
    let day = Duration::from_secs(24 * 60 * 60).as_micros();
    let took = (refused_at.as_micros() % day + day - failed_at.as_micros()) % day;
    let took = Duration::from_micros(u64::try_from(took).unwrap_or(u64::MAX));
    outcome.figure(format!(
        "from the error to the first refusal {}, slowest later refusal {}",
        ms(took),
        ms(sent.slowest_refusal)
    ));
    outcome.check(took <= REFUSED_WITHIN, || {
        format!("the first refusal came {} after the error, limit {}", ms(took), ms(REFUSED_WITHIN))
    });
    Ok(())
}

/// Whether a refusal tells that the disk is the matter.
fn names_cause(reason: &str) -> bool {
    ["cannot sync", "cannot write", "read-only"].iter().any(|words| reason.contains(words))
}

/// Time of day at which the broker first logged an error: `2026-11-01T12:00:00.123456Z ERROR …`.
fn first_error(log: &Path) -> Result<Option<Duration>> {
    let file = File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
    for line in BufReader::new(file).lines() {
        let line = line?;
        // Terminals may get colours between the words.
        if line.contains("ERROR") {
            return Ok(time_of_day(&line));
        }
    }
    Ok(None)
}

fn time_of_day(line: &str) -> Option<Duration> {
    let (_, time) = line.split_once('T')?;
    let (time, _) = time.split_once('Z')?;
    let mut seconds = 0.0;
    for part in time.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(Duration::from_secs_f64(seconds))
}

/// The process goes on serving what it has.
async fn check_reads(
    broker: &mut Broker,
    setup: &Setup,
    ledger: &Ledger,
    outcome: &mut Outcome,
) -> Result<()> {
    broker.must_live()?;
    let wire = Wire::connect(&setup.address()).await.context("after the error nobody is let in")?;
    let reading = verify::read_back(&wire, TOPIC, QUEUES, &[], ledger);
    let (findings, _) = broker.needed_by(reading).await??;
    outcome.check(findings.is_clean(), || format!("reading after the error: {}", findings.summary()));
    Ok(())
}

/// How many acknowledged messages are not where they were said to be, in the bytes of the log itself.
fn lost(log: &Path, ledger: &Ledger) -> Result<u64> {
    let file = File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
    let mut lost = 0;
    let mut bytes = vec![0; BODY_BYTES + 4096];
    for entry in ledger.entries() {
        let at = u64::try_from(entry.stored.log_offset.0).unwrap_or(u64::MAX);
        let read = file.read_at(&mut bytes, at).unwrap_or(0);
        let whole = RecordView::decode(&bytes[..read]).is_ok_and(|record| {
            record.check_body().is_ok() && record.body_crc == entry.crc && record.body.len() == entry.bytes
        });
        lost += u64::from(!whole);
    }
    Ok(lost)
}

/// Our broker on what the power cut left: everything acknowledged is served.
async fn restart(setup: &Setup, ledger: &Ledger, outcome: &mut Outcome) -> Result<()> {
    let restarted = verify::restart(setup, TOPIC, QUEUES, ledger).await;
    let (mut broker, findings) = restarted.context("on what the power cut left")?;
    outcome.read_back(&findings);
    let status = broker.stop()?;
    ensure!(status.success(), "the broker on the good copy did not stop in order ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_log_line_is_read() {
        let line = "2026-11-01T01:00:02.500000Z ERROR cometmq_store: the commit log";
        assert_eq!(time_of_day(line), Some(Duration::from_millis(3_602_500)));
        assert_eq!(time_of_day("nothing"), None);
    }

    #[test]
    fn a_padded_body_still_tells_who_it_is() {
        let body = padded(&Bodies::new(1, 2, 3, 16).next());
        assert_eq!(body.len(), BODY_BYTES);
        assert_eq!(super::super::body::identity(&body), Some((1, 2, 0)));
    }
}
