//! SYNC_FLUSH beside what the disk allows: its rate of `fdatasync` times the messages that waited for each.
//!
//! Both are taken from the server's own syncs, which a library before the C library times while it is under load: a look
//! at the disk before and after is told as well, but says little where a disk's pace changes from one second to the next.
//! One sync confirms all messages that wait for it, so what comes out is the share of time in which a sync runs.
//!
//! Measured on the disk as it is, and once more as if each sync took a millisecond longer: a disk of a virtual machine
//! that only tells its host is much faster than most that keep what they promise.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::contender::{Contender, Flush, Software};
use super::figure::{Figure, number};
use super::report::{Report, median};
use super::{Bench, machine};
use crate::preload;

/// Senders, each with one message in flight on a connection of its own.
const SENDERS: u32 = 64;
/// Length of each look at what the disk does.
const PROBE: Duration = Duration::from_secs(2);
/// Load before anything is counted.
const WARMUP: Duration = Duration::from_secs(1);
/// Threads that `syncs.c` counts apart, and bytes for each.
const SLOTS: [usize; 2] = [64, 64];

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let slower = Duration::from_millis(1);
    for (longer, disk) in [(Duration::ZERO, "this disk"), (slower, "one whose syncs take 1 ms longer")] {
        let (contender, counters) = start(bench, longer)?;
        let rounds = (0..bench.effort.rounds)
            .map(|_| Round::measure(bench, &contender, &counters))
            .collect::<Result<Vec<_>>>()?;
        tell(report, disk, &rounds);
    }
    Ok(())
}

/// A server whose syncs are counted in the file.
fn start(bench: &Bench, longer: Duration) -> Result<(Contender, File)> {
    let mut contender = Contender::prepare(Software::Comet, &bench.programs, Flush::Sync)?;
    let path = contender.directory().join("syncs");
    let counters = File::options().read(true).write(true).create_new(true).open(&path)?;
    counters.set_len(SLOTS.iter().product::<usize>() as u64)?;
    let library = preload::compile("crates/xtask/src/bench/syncs.c", contender.directory())?;
    let variables = [
        library,
        ("BENCH_SYNCS".to_owned(), path.display().to_string()),
        ("BENCH_SYNC_NANOS".to_owned(), longer.as_nanos().to_string()),
    ];
    contender.set(variables);
    bench.start(&mut contender)?;
    bench.create_topic(&contender, "sends")?;
    Ok((contender, counters))
}

fn tell(report: &mut Report, disk: &str, rounds: &[Round]) {
    let of = |value: fn(&Round) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
    let rate = of(|round| round.rate);
    let from = format!(
        "{} messages/s; {} syncs/s of {} messages, {} ms each",
        number(rate),
        number(of(|round| round.syncs.per_second)),
        number(of(|round| round.rate / round.syncs.per_second)),
        number(of(|round| round.syncs.busy / round.syncs.per_second * 1e3))
    );
    let name = format!("SYNC_FLUSH, 64 senders, against fdatasync rate × messages that waited, on {disk}");
    let busy = of(|round| round.syncs.busy);
    report.figure("sync", Figure::new(&name, busy, "×").from(from).at_least(0.8));
    let probes: Vec<_> = rounds.iter().flat_map(|round| round.probes).map(number).collect();
    let from =
        format!("{} fdatasync/s of 4 KiB appends right before and after each stretch", probes.join(", "));
    let name = format!("the rate of these sends, on {disk}");
    report.figure("sync", Figure::new(&name, rate, "messages/s").from(from));
}

/// One stretch of sends between two looks at the disk.
struct Round {
    /// Messages in a second.
    rate: f64,
    syncs: Syncs,
    /// Syncs in a second of the two looks, at the disk as it is.
    probes: [f64; 2],
}

/// The syncs of the thread that makes most of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Syncs {
    per_second: f64,
    /// Share of time in which one runs.
    busy: f64,
}

impl Round {
    fn measure(bench: &Bench, contender: &Contender, counters: &File) -> Result<Round> {
        let probe = || machine::sync_rate(&contender.store(), bench.effort.of_trial(PROBE, PROBE / 10));
        let before = probe()?;
        let length = Duration::from_secs(bench.effort.seconds().into());
        let flags = format!(
            "--size 128 --connections {SENDERS} --in-flight 1 --warmup {} --duration {}",
            WARMUP.as_secs(),
            length.as_secs()
        );
        let sends = bench.begin(contender, "send", "sends", &flags)?;
        thread::sleep(WARMUP);
        let began = Counters::read(counters)?;
        thread::sleep(length);
        let syncs = Counters::read(counters)?.since(&began, length);
        let rate = sends.finish()?.rate()?;
        ensure!(syncs.per_second > 0.0, "the server's syncs were not counted: is it a static binary?");
        Ok(Round { rate, syncs, probes: [before, probe()?] })
    }
}

/// Calls and nanoseconds of each thread.
struct Counters(Vec<[u64; 2]>);

impl Counters {
    fn read(file: &File) -> Result<Counters> {
        let [slots, bytes] = SLOTS;
        let mut page = vec![0; slots * bytes];
        file.read_exact_at(&mut page, 0).context("cannot read what syncs were counted")?;
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        Ok(Counters(page.chunks(bytes).map(|slot| [number(slot), number(&slot[8..])]).collect()))
    }

    /// What the thread with most calls since then did in this time.
    fn since(&self, before: &Counters, length: Duration) -> Syncs {
        let threads = self.0.iter().zip(&before.0);
        let done = threads.map(|(now, before)| [now[0] - before[0], now[1] - before[1]]);
        let [calls, nanos] = done.max().unwrap_or_default();
        let seconds = length.as_secs_f64();
        Syncs { per_second: calls as f64 / seconds, busy: nanos as f64 / 1e9 / seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_syncs_most_counts() {
        let before = Counters(vec![[900, 7], [10, 1_000_000_000], [0, 0]]);
        let after = Counters(vec![[901, 5_000_000_007], [110, 2_500_000_000], [0, 0]]);
        let two_seconds = Duration::from_secs(2);
        assert_eq!(after.since(&before, two_seconds), Syncs { per_second: 50.0, busy: 0.75 });
    }

    #[test]
    fn what_the_library_counts_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("syncs");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(64 * 64).unwrap();
        let library = preload::compile("crates/xtask/src/bench/syncs.c", directory.path()).unwrap();
        let before = Counters::read(&file).unwrap();
        let mut sync = std::process::Command::new("sync");
        sync.arg("-d")
            .arg(&path)
            .envs([library])
            .env("BENCH_SYNCS", &path)
            .env("BENCH_SYNC_NANOS", "2000000");
        assert!(sync.status().unwrap().success());
        let syncs = Counters::read(&file).unwrap().since(&before, Duration::from_secs(1));
        assert!(syncs.per_second == 1.0 && syncs.busy >= 0.002, "{syncs:?}");
    }
}
