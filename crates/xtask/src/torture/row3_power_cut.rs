//! Row 3: power cuts under a real ext4.
//!
//! The store lies on ext4, on a loop device, on a file that remembers every write and every flush. Afterwards the power
//! is cut at many moments of that past: everything flushed by then is on the disk, of what was not yet flushed some
//! is, in any combination. Each such image is mounted, which replays ext4's journal, and served by the broker; what was
//! acknowledged before the moment must be there.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cometmq_protocol::message::record::body_crc;

use super::body::Bodies;
use super::broker::Setup;
use super::image::{Mounted, make_ext4};
use super::job::{Flush, Job, Outcome};
use super::latency::ms;
use super::ledger::{Acknowledged, Ledger};
use super::recorder::Recorder;
use super::verify;
use crate::wire::{Sent, Wire};

const TOPIC: &str = "power";
const QUEUES: i32 = 4;
const DISK_BYTES: u64 = 64 << 20;
/// Small, so that every kind of file is made while it is recorded.
const SETTINGS: &str = "mappedFileSizeCommitLog=131072\nmappedFileSizeConsumeQueue=2000\n";
/// Images in the two forms.
const TIMES: (u32, u32) = (5, 200);
/// How long is recorded: queue files, positions and group offsets are written in between.
const RECORDED: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(12));
/// A send after each reply, at this distance: there is to be much to cut between.
const PAUSE: Duration = Duration::from_millis(3);

/// Records a while, then cuts.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("images mounted");
    let base = job.scratch.join("base");
    make_ext4(&base, DISK_BYTES, &["-E", "lazy_itable_init=0,lazy_journal_init=0"])?;
    let recorder = Recorder::mount(&base, &job.scratch.join("recorder"), &job.scratch)?;
    let disk = job.scratch.join("disk");
    let mounted = Mounted::mount(&recorder.file, &disk, "errors=remount-ro")?;
    let flush = job.flush.unwrap_or(Flush::Sync).setting();
    let setup = Setup::new(job, &disk.join("store"), &format!("{flush}{SETTINGS}"))?;
    let (mut broker, wire) = setup.start_with_topic(TOPIC, QUEUES).await?;
    let topic_at = recorder.steps();
    let lasts = if job.short { RECORDED.0 } else { RECORDED.1 };
    let past = broker.needed_by(record(&wire, &recorder, job.seed, lasts)).await??;
    broker.kill()?;
    drop((wire, mounted));
    let steps = recorder.steps();
    let (mut chance, mut slowest) = (job.chance(), Duration::ZERO);
    for number in 1..=job.times(TIMES.0, TIMES.1) {
        let moment = chance.within(topic_at as u64..steps as u64 + 1) as usize;
        let image = job.scratch.join("cut");
        recorder.image_after(moment, &mut chance, &image)?;
        let cut = Cut { number, moment, image: &image, disk: &disk };
        let took = cut.check(&setup, &past, &mut outcome).await;
        slowest =
            slowest.max(took.with_context(|| format!("image {number}, cut at step {moment} of {steps}"))?);
        outcome.times += 1;
        ensure!(outcome.lost == 0, "image {number}, cut at step {moment}: {}", outcome.problems.join("; "));
    }
    outcome.figure(format!(
        "{} acknowledged in {steps} writes and flushes; slowest start on an image {}",
        past.len(),
        ms(slowest)
    ));
    Ok(outcome)
}

/// What was acknowledged, each with the number of steps recorded when its reply was there.
type Past = Vec<(usize, Acknowledged)>;

async fn record(wire: &Wire, recorder: &Recorder, seed: u64, lasts: Duration) -> Result<Past> {
    let mut bodies = Bodies::new(1, 1, seed, 2048);
    let mut past = Vec::new();
    let end = Instant::now() + lasts;
    let mut number = 0;
    while Instant::now() < end {
        let body = bodies.next();
        let (bytes, crc) = (body.len(), body_crc(&body));
        number += 1;
        match wire.send(TOPIC, number % QUEUES, body).await? {
            Sent::Stored(stored) => past.push((recorder.steps(), Acknowledged { stored, bytes, crc })),
            Sent::Refused(reason) => anyhow::bail!("refused: {reason}"),
        }
        if number % 16 == 0 {
            wire.pull(TOPIC, 0, 0).await?;
            wire.commit_offset(TOPIC, 0, i64::from(number / 16)).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    ensure!(past.len() > 50, "only {} messages were acknowledged", past.len());
    Ok(past)
}

struct Cut<'a> {
    number: u32,
    moment: usize,
    image: &'a Path,
    disk: &'a Path,
}

impl Cut<'_> {
    /// Mounts the image, lets the broker serve it, holds that against the past; how long the start took.
    async fn check(&self, setup: &Setup, past: &Past, outcome: &mut Outcome) -> Result<Duration> {
        let mounted = Mounted::mount(self.image, self.disk, "errors=remount-ro")?;
        let mut ledger = Ledger::default();
        let acknowledged = past.iter().filter(|(steps, _)| *steps <= self.moment);
        acknowledged.for_each(|(_, entry)| ledger.enter(*entry));
        let start = Instant::now();
        let (mut broker, wire) = setup.start_and_connect().await?;
        let took = start.elapsed();
        let reading = verify::read_back(&wire, TOPIC, QUEUES, &[], &ledger);
        let (findings, _) = broker.needed_by(reading).await??;
        outcome.read_back(&findings);
        let again = self.number.is_multiple_of(10);
        broker.kill()?;
        if again {
            // Recovering what was recovered gives the same.
            let restarted = verify::restart(setup, TOPIC, QUEUES, &ledger).await;
            let (mut broker, second) = restarted.context("the second time")?;
            let (first, second) = (findings.summary(), second.summary());
            outcome.check(first == second, || format!("recovered twice: {first}, then {second}"));
            broker.kill()?;
        }
        drop(mounted);
        Ok(took)
    }
}
