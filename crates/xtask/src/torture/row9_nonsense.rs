//! Row 9: malformed frames at a live port: recorded frames of Java clients with bytes, numbers and lengths changed, and
//! plain nonsense.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::broker::Setup;
use super::flood::{self, Honest};
use super::job::{Flush, Job, Outcome};
use super::verify;
use super::vitals::{Vitals, mib};
use crate::chance::Chance;
use crate::workspace;

const TOPIC: &str = "honest";
const QUEUES: i32 = 4;
/// Frames in the two forms.
const FRAMES: (u32, u32) = (200_000, 10_000_000);
/// Connections that send nonsense.
const SENDERS: u32 = 8;
/// Frames written at once.
const BATCH: u32 = 64;
/// Growth of the broker's memory.
const GROWTH_KIB_MAX: u64 = 32 * 1024;
/// Frames a second that the broker must take; the short form is too short to tell.
const RATE_MIN: u64 = 50_000;
const QUIET: Duration = Duration::from_secs(2);
/// How long one batch may take to be written.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// Frames longer than this are not taken from the recordings: the rest is what counts.
const FRAME_BYTES_MAX: usize = 8192;
/// Nothing that makes a topic is sent: a topic that was asked for is no leak.
const MAKES_TOPICS: [&str; 2] = ["\"code\":17,", "\"code\":351,"];

/// Sends it beside honest clients.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("malformed frames");
    let corpus = Arc::new(corpus()?);
    let data = job.scratch.join("data");
    prepare(&Setup::new(job, &data, "")?).await?;
    // Nor are groups made: one that was asked for is no leak either.
    let settings = format!("{}autoCreateSubscriptionGroup=false\n", Flush::Async.setting());
    let setup = Setup::new(job, &data, &settings)?;
    let (mut broker, wire) = setup.start_and_connect().await?;
    let mut honest = Honest::new(setup.address(), TOPIC, QUEUES, job.seed);
    let quiet = honest.quiet(&mut broker, QUIET).await?;
    let before = broker.vitals()?;
    let running = honest.start();
    let start = Instant::now();
    let frames = job.times(FRAMES.0, FRAMES.1);
    let sent = broker.needed_by(flood_with(setup.ports.broker, &corpus, job.seed, frames)).await;
    let took = start.elapsed();
    let flooded = honest.stop(running).await?;
    let (sent, connections) = sent??;
    outcome.times = sent;
    let rate = (sent as f64 / took.as_secs_f64()) as u64;
    outcome.figure(format!("{rate} frames a second on {connections} connections"));
    outcome.check(job.short || rate >= RATE_MIN, || format!("only {rate} frames a second"));
    honest.judge(&quiet, &flooded, &mut outcome);
    outcome.problems.extend(before.leaks(broker.pid()).await?);
    let after = Vitals::of(broker.pid())?;
    let growth = after.rss_kib.saturating_sub(before.rss_kib);
    outcome.figure(format!("memory grew by {}", mib(growth)));
    outcome.check(growth < GROWTH_KIB_MAX, || format!("the limit of growth is {}", mib(GROWTH_KIB_MAX)));
    let reading = verify::read_back(&wire, TOPIC, QUEUES, &[], honest.ledger());
    let (findings, _) = broker.needed_by(reading).await??;
    outcome.read_back(&findings);
    drop(wire);
    let status = broker.stop()?;
    outcome.check(status.success(), || format!("the broker did not stop in order ({status})"));
    let log = std::fs::read_to_string(&setup.log).unwrap_or_default();
    outcome.check(!log.contains("panicked"), || "the broker panicked".to_owned());
    Ok(outcome)
}

/// Makes the topics and our group.
async fn prepare(setup: &Setup) -> Result<()> {
    let (mut broker, wire) = setup.start_with_topic(TOPIC, QUEUES).await?;
    // What Java clients sent the recorded frames for: some get through whole.
    wire.create_topic("GoldTopic", QUEUES).await?;
    wire.pull(TOPIC, 0, 0).await?;
    drop(wire);
    let status = broker.stop()?;
    ensure!(status.success(), "the broker did not stop in order ({status})");
    Ok(())
}

/// Requests that Java clients sent, from the recordings of the protocol's own tests.
fn corpus() -> Result<Vec<Vec<u8>>> {
    let directory = workspace::root()?.join("crates/protocol/testdata/golden");
    let mut frames = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    // In the order of their names, or a seed would not repeat its run.
    files.sort();
    for file in files {
        frames.extend(recorded(&file)?);
    }
    ensure!(frames.len() > 100, "only {} recorded frames in {}", frames.len(), directory.display());
    Ok(frames)
}

fn recorded(file: &Path) -> Result<Vec<Vec<u8>>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut frames = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| format!("in {}", file.display()))?;
        let hex = line["hex"].as_str().unwrap_or_default();
        if line["dir"] != "c2s" || line["raw"] == true || hex.len() > 2 * FRAME_BYTES_MAX {
            continue;
        }
        let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
        let bytes = bytes.with_context(|| format!("{} has a line that is not hex", file.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        if !MAKES_TOPICS.iter().any(|code| text.contains(code)) {
            frames.push(bytes);
        }
    }
    Ok(frames)
}

/// Sends `frames` of them; how many were written, and on how many connections.
async fn flood_with(port: u16, corpus: &Arc<Vec<Vec<u8>>>, seed: u64, frames: u32) -> Result<(u64, u64)> {
    let connections = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for sender in 0..SENDERS {
        let (corpus, connections) = (Arc::clone(corpus), Arc::clone(&connections));
        let mutator = Mutator { corpus, chance: Chance::of(seed.wrapping_add(u64::from(sender))) };
        tasks.spawn(send(port, sender, mutator, frames / SENDERS, connections));
    }
    let mut sent = 0;
    while let Some(one) = tasks.join_next().await {
        sent += one??;
    }
    Ok((sent, connections.load(Ordering::Relaxed)))
}

async fn send(
    port: u16,
    sender: u32,
    mut mutator: Mutator,
    frames: u32,
    connections: Arc<AtomicU64>,
) -> Result<u64> {
    let mut sent = 0;
    while sent < frames {
        let number = connections.fetch_add(1, Ordering::Relaxed);
        let stream = flood::connect(port, sender + u32::try_from(number).unwrap_or(0), None).await?;
        let (mut read, mut write) = stream.into_split();
        let ended = Arc::new(AtomicBool::new(false));
        let reader = {
            let ended = Arc::clone(&ended);
            tokio::spawn(async move {
                let mut scrap = vec![0; 64 << 10];
                while read.read(&mut scrap).await.is_ok_and(|bytes| bytes > 0) {}
                ended.store(true, Ordering::Release);
                read
            })
        };
        while sent < frames && !ended.load(Ordering::Acquire) {
            let batch = mutator.batch(BATCH.min(frames - sent));
            let written = timeout(WRITE_LIMIT, write.write_all(&batch)).await;
            let written =
                written.context("the broker reads no more from a connection, and does not end it")?;
            sent += BATCH.min(frames - sent);
            if written.is_err() {
                break;
            }
        }
        // The broker has what was written; what it answers is not waited for.
        if !ended.load(Ordering::Acquire) {
            sleep(Duration::from_millis(1)).await;
        }
        reader.abort();
        drop(write);
    }
    Ok(u64::from(sent))
}

/// Makes malformed frames of good ones.
struct Mutator {
    corpus: Arc<Vec<Vec<u8>>>,
    chance: Chance,
}

/// Texts that a number is replaced by.
const NUMBERS: [&[u8]; 6] =
    [b"-1", b"2147483647", b"-2147483648", b"9223372036854775807", b"99999999999999999999", b"1e308"];

impl Mutator {
    /// So many frames, one behind the other. One batch in sixteen ends with a lie about lengths, after which the
    /// broker has to give the connection up.
    fn batch(&mut self, frames: u32) -> Vec<u8> {
        let mut batch = Vec::new();
        for _ in 1..frames {
            let frame = self.frame();
            batch.extend_from_slice(&frame);
        }
        let last = if self.chance.within(0..16) == 0 { self.lie() } else { self.frame() };
        batch.extend_from_slice(&last);
        batch
    }

    fn pick(&mut self) -> Vec<u8> {
        let index = self.chance.within(0..self.corpus.len() as u64) as usize;
        self.corpus[index].clone()
    }

    /// A frame with right lengths and wrong content.
    fn frame(&mut self) -> Vec<u8> {
        let mut frame = self.pick();
        match self.chance.within(0..10) {
            0..=4 => self.change_bytes(&mut frame, 8),
            5..=6 => self.change_number(&mut frame),
            7 => self.cut_content(&mut frame),
            8 => self.nest(&mut frame),
            _ => self.noise(&mut frame),
        }
        frame
    }

    fn change_bytes(&mut self, frame: &mut [u8], from: usize) {
        for _ in 0..self.chance.within(1..5) {
            let at = self.chance.within(from as u64..frame.len() as u64) as usize;
            frame[at] = self.chance.next() as u8;
        }
    }

    /// Replaces a run of digits in the header by a number that no one expects.
    fn change_number(&mut self, frame: &mut Vec<u8>) {
        let header_end = header_end(frame);
        let digits: Vec<usize> = (8..header_end).filter(|&at| frame[at].is_ascii_digit()).collect();
        if digits.is_empty() {
            return self.change_bytes(frame, 8);
        }
        let start = digits[self.chance.within(0..digits.len() as u64) as usize];
        let end = (start..header_end).find(|&at| !frame[at].is_ascii_digit()).unwrap_or(header_end);
        let number = NUMBERS[self.chance.within(0..NUMBERS.len() as u64) as usize];
        frame.splice(start..end, number.iter().copied());
        fix_lengths(frame, header_end + number.len() - (end - start));
    }

    /// Ends the header in its middle.
    fn cut_content(&mut self, frame: &mut Vec<u8>) {
        let header_end = header_end(frame);
        let end = self.chance.within(8..header_end as u64) as usize;
        frame.truncate(end);
        fix_lengths(frame, end);
    }

    /// A header of brackets, for parsers that call themselves.
    fn nest(&mut self, frame: &mut Vec<u8>) {
        let depth = self.chance.within(1..4000) as usize;
        frame.truncate(8);
        frame.extend_from_slice(b"{\"code\":11,\"extFields\":");
        frame.extend(std::iter::repeat_n(if self.chance.within(0..2) == 0 { b'[' } else { b'{' }, depth));
        let end = frame.len();
        fix_lengths(frame, end);
    }

    fn noise(&mut self, frame: &mut Vec<u8>) {
        frame.truncate(8);
        for _ in 0..self.chance.within(1..64) {
            frame.extend_from_slice(&self.chance.next().to_be_bytes());
        }
        let end = self.chance.within(8..frame.len() as u64) as usize;
        fix_lengths(frame, end);
        // JSON, compact, or a form that does not exist.
        frame[4] = self.chance.within(0..4) as u8;
    }

    /// A frame whose lengths are wrong.
    fn lie(&mut self) -> Vec<u8> {
        let mut frame = self.pick();
        let at = self.chance.within(0..8) as usize;
        frame[at] = frame[at].wrapping_add(1 + self.chance.within(0..255) as u8);
        frame
    }
}

fn header_end(frame: &[u8]) -> usize {
    let length = u32::from_be_bytes([0, frame[5], frame[6], frame[7]]) as usize;
    (8 + length).min(frame.len())
}

/// Writes the lengths of a frame whose header now ends at `header_end`.
fn fix_lengths(frame: &mut [u8], header_end: usize) {
    let total = (frame.len() - 4) as u32;
    let kind = u32::from(frame[4]) << 24;
    frame[..4].copy_from_slice(&total.to_be_bytes());
    frame[4..8].copy_from_slice(&(kind | (header_end - 8) as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_but_a_lie_has_lengths_that_fit() {
        let good = [&[0, 0, 0, 16, 0, 0, 0, 11][..], b"{\"code\":11}x"].concat();
        assert_eq!(good.len(), 20);
        let mut mutator = Mutator { corpus: Arc::new(vec![good]), chance: Chance::of(1) };
        for _ in 0..1000 {
            let frame = mutator.frame();
            let total = u32::from_be_bytes(*frame.first_chunk().unwrap()) as usize;
            assert_eq!(total + 4, frame.len());
            assert!(header_end(&frame) <= frame.len());
        }
    }
}
