//! Row 6, second part: what the broker does as the disk fills up to each of RocketMQ's ratios.
//!
//! Above 75 % what is older than its time goes at any hour, above 85 % younger segments too, above 90 % sends are refused;
//! and what a group has still to consume stays, unless `deleteUnreadWhenDiskFull` says otherwise.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cometmq_protocol::message::record::body_crc;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tokio::time::sleep;

use super::body::Bodies;
use super::broker::Setup;
use super::image::{self, Mounted, make_ext4};
use super::job::{Flush, Job, Outcome};
use super::latency::ms;
use super::ledger::{Acknowledged, Ledger};
use super::verify;
use crate::wire::{Sent, Wire};

const TOPIC: &str = "ratios";
const QUEUES: i32 = 2;
const DISK_BYTES: u64 = 64 << 20;
const SETTINGS: &str = "mappedFileSizeCommitLog=65536\nmappedFileSizeConsumeQueue=60000\nmaxIndexNum=4000\n\
                        maxHashSlotNum=1000\ncleanResourceInterval=100\n";
/// Messages that are there before the disk fills up: some sixteen segments.
const MESSAGES: u32 = 600;
/// How long what must not happen is waited for: two rounds of the broker.
const WATCH: Duration = Duration::from_secs(3);
/// How long what must happen may take.
const LIMIT: Duration = Duration::from_secs(15);

/// Fills disks step by step.
pub(super) async fn run(job: &Job, outcome: &mut Outcome) -> Result<()> {
    let disk = Disk::make(job, "kept")?;
    let (mut broker, wire) = disk.setup(job, "")?.start_with_topic(TOPIC, QUEUES).await?;
    let steps = async {
        let mut ledger = fill_log(&wire, job.seed).await?;
        disk.unread_stays(&wire, &mut ledger, outcome).await?;
        disk.goes_on(&wire, outcome).await
    };
    broker.needed_by(steps).await??;
    broker.kill()?;
    // What makes segments go, from one level on, and not at the level before.
    for (name, setting, stays, goes) in
        [("given-up", "deleteUnreadWhenDiskFull=true\n", 77, 87), ("old", "fileReservedTime=0\n", 73, 77)]
    {
        let disk = Disk::make(job, name)?;
        let (mut broker, wire) = disk.setup(job, setting)?.start_with_topic(TOPIC, QUEUES).await?;
        let steps = async {
            fill_log(&wire, job.seed).await?;
            let before = disk.segments()?;
            disk.fill_to(stays)?;
            sleep(WATCH).await;
            let kept = disk.segments()? == before;
            outcome.check(kept, || format!("with {setting} a segment went at {stays} % already"));
            disk.fill_to(goes)?;
            until(setting, async || Ok(disk.segments()? < before)).await
        };
        broker.needed_by(steps).await??;
        broker.kill()?;
    }
    Ok(())
}

/// A small disk with a store and a file that takes up the room.
struct Disk {
    mounted: Mounted,
}

impl Disk {
    fn make(job: &Job, name: &str) -> Result<Disk> {
        let image = job.scratch.join(format!("image-{name}"));
        make_ext4(&image, DISK_BYTES, &["-m", "0"])?;
        Ok(Disk { mounted: Mounted::mount(&image, &job.scratch.join(name), "errors=continue")? })
    }

    fn setup(&self, job: &Job, own: &str) -> Result<Setup> {
        let hour = image::run("date", &["+%H"])?;
        let hour: u32 = String::from_utf8_lossy(&hour.stdout).trim().parse().context("the hour")?;
        let flush = job.flush.unwrap_or(Flush::Sync).setting();
        let never_now = (hour + 12) % 24;
        Setup::new(job, &self.store(), &format!("{flush}{SETTINGS}deleteWhen={never_now:02}\n{own}"))
    }

    fn store(&self) -> PathBuf {
        self.mounted.directory.join("store")
    }

    /// How many files the log has.
    fn segments(&self) -> Result<usize> {
        Ok(std::fs::read_dir(self.store().join("commitlog")).context("cannot list the log")?.count())
    }

    /// Makes the disk so full, and half a percent.
    fn fill_to(&self, percent: u64) -> Result<()> {
        let directory: &Path = &self.mounted.directory;
        let filler = directory.join("filler");
        let file =
            File::options().create(true).append(true).open(&filler).context("cannot make the filler")?;
        let own = file.metadata().context("cannot measure the filler")?.len();
        let space = statvfs(directory).context("cannot measure the disk")?;
        let (total, room) = (space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize);
        let wanted = (total * percent / 100 + total / 200).saturating_sub((total - room).saturating_sub(own));
        if wanted > own {
            fallocate(&file, FallocateFlags::empty(), own, wanted - own).context("cannot fill the disk")
        } else {
            file.set_len(wanted).context("cannot free the disk")
        }
    }

    /// Up to 97 %, with a group that has consumed nothing: nothing goes, and above 90 % sends are refused.
    async fn unread_stays(&self, wire: &Wire, ledger: &mut Ledger, outcome: &mut Outcome) -> Result<()> {
        let all = self.segments()?;
        for percent in [77, 87, 92, 97] {
            self.fill_to(percent)?;
            sleep(WATCH).await;
            let refused = send(wire, ledger, u32::MAX - percent as u32).await?;
            outcome.check(refused.is_some() == (percent > 90), || format!("at {percent} %: {refused:?}"));
            let told = refused.is_none_or(|reason| reason.contains("the disk is"));
            outcome.check(told, || format!("at {percent} % a refusal does not name the disk"));
            let kept = self.segments()? >= all;
            outcome.check(kept, || format!("at {percent} % a segment with unread messages went"));
        }
        let (findings, _) = verify::read_back(wire, TOPIC, QUEUES, &[], ledger).await?;
        outcome.read_back(&findings);
        Ok(())
    }

    /// What was consumed goes before its time; once there is room sends are accepted again, without a restart.
    async fn goes_on(&self, wire: &Wire, outcome: &mut Outcome) -> Result<()> {
        for queue in 0..QUEUES {
            let end = wire.pull(TOPIC, queue, 0).await?.end;
            wire.commit_offset(TOPIC, queue, end).await?;
        }
        let before = self.segments()?;
        until("at 97 % what was consumed goes", async || Ok(self.segments()? < before)).await?;
        self.fill_to(50)?;
        let freed = Instant::now();
        let mut scrap = Ledger::default();
        until("with room sends are accepted", async || Ok(send(wire, &mut scrap, 0).await?.is_none()))
            .await?;
        outcome.figure(format!(
            "at 77, 87, 92 and 97 % used as the ratios say; accepted again {} after there was room",
            ms(freed.elapsed())
        ));
        Ok(())
    }
}

/// Stores messages of which a group has consumed none.
async fn fill_log(wire: &Wire, seed: u64) -> Result<Ledger> {
    let mut ledger = Ledger::default();
    for number in 0..MESSAGES {
        if let Some(reason) = send(wire, &mut ledger, seed as u32 ^ number).await? {
            bail!("a message was refused: {reason}");
        }
    }
    consume_nothing(wire, TOPIC, QUEUES).await?;
    Ok(ledger)
}

/// Makes a group that has still to consume all of a topic.
pub(super) async fn consume_nothing(wire: &Wire, topic: &str, queues: i32) -> Result<()> {
    for queue in 0..queues {
        // The first pull makes the group.
        wire.pull(topic, queue, 0).await?;
        wire.commit_offset(topic, queue, 0).await?;
    }
    Ok(())
}

/// Sends a message of its own round, or tells why it was refused.
async fn send(wire: &Wire, ledger: &mut Ledger, round: u32) -> Result<Option<String>> {
    let body = Bodies::new(round, 1, round.into(), 16 << 10).next();
    let (bytes, crc) = (body.len(), body_crc(&body));
    Ok(match wire.send(TOPIC, (round % 2).cast_signed(), body).await? {
        Sent::Refused(reason) => Some(reason),
        Sent::Stored(stored) => {
            ledger.enter(Acknowledged { stored, bytes, crc });
            None
        }
    })
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !holds().await? {
        if start.elapsed() > LIMIT {
            bail!("not within {}: {what}", ms(LIMIT));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
