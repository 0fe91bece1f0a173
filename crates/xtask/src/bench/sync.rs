//! SYNC_FLUSH beside what the disk allows: its rate of `fdatasync`, measured in the same directory right before and
//! after, times the messages that waited for each.
//!
//! How many waited is known where `perf` can count the server's syncs; one sync confirms all that wait for it. On a
//! disk that syncs faster than senders come back, that is fewer than there are senders.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::contender::{Contender, Flush, Software};
use super::figure::{Figure, number};
use super::report::{Report, median};
use super::{Bench, machine};
use crate::process::Process;

/// Senders, each with one message in flight on a connection of its own.
const SENDERS: u32 = 64;
/// Length of each look at what the disk does.
const PROBE: Duration = Duration::from_secs(2);
/// Load before anything is counted.
const WARMUP: Duration = Duration::from_secs(1);
/// Longest that `perf` may take to end beyond the time for which it counts.
const PERF_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let contender = bench.start_one(Software::Comet, Flush::Sync, "sends")?;
    let mut rounds = Vec::new();
    for _ in 0..bench.effort.rounds {
        rounds.push(Round::measure(bench, &contender)?);
    }
    let of = |value: fn(&Round) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
    let from = format!(
        "{} messages/s; {} fdatasync/s of 4 KiB right before and after",
        number(of(|round| round.rate)),
        rounds.iter().map(|round| number(round.disk)).collect::<Vec<_>>().join(", ")
    );
    let name = "SYNC_FLUSH, 64 senders, against fdatasync rate × messages that waited";
    let figure = if rounds.iter().all(|round| round.syncs.is_some()) {
        let syncs = of(|round| round.syncs.unwrap_or_default());
        let waited = of(|round| round.rate / round.syncs.unwrap_or(round.rate));
        let from = format!("{from}; {} syncs/s of {} messages", number(syncs), number(waited));
        Figure::new(name, of(|round| round.syncs.unwrap_or_default() / round.disk), "×").from(from)
    } else {
        Figure::not_measured(name, "needs `perf` with tracepoints, to count the server's syncs")
    };
    report.figure("sync", figure.at_least(0.8));
    let ratio = of(|round| round.rate / (round.disk * f64::from(SENDERS)));
    report.figure("sync", Figure::new("the same, as if all 64 waited for each sync", ratio, "×").from(from));
    Ok(())
}

/// One stretch of sends between two looks at the disk.
struct Round {
    /// Messages in a second.
    rate: f64,
    /// Syncs of the server in a second, where they can be counted.
    syncs: Option<f64>,
    /// Syncs in a second of the two looks, averaged.
    disk: f64,
}

impl Round {
    fn measure(bench: &Bench, contender: &Contender) -> Result<Round> {
        let probe = || machine::sync_rate(&contender.store(), bench.effort.of_trial(PROBE, PROBE / 10));
        let before = probe()?;
        let flags = format!(
            "--size 128 --connections {SENDERS} --in-flight 1 --warmup {} --duration {}",
            WARMUP.as_secs(),
            bench.effort.seconds()
        );
        let sends = bench.begin(contender, "send", "sends", &flags)?;
        thread::sleep(WARMUP);
        let syncs = count_syncs(contender, bench.effort.seconds());
        let rate = sends.finish()?.rate()?;
        let disk = f64::midpoint(before, probe()?);
        let syncs = syncs.inspect_err(|error| eprintln!("syncs are not counted: {error:#}")).ok();
        Ok(Round { rate, syncs, disk })
    }
}

/// Syncs that the server makes in a second, counted for so many seconds.
fn count_syncs(contender: &Contender, seconds: u32) -> Result<f64> {
    let mut output: File = tempfile::tempfile()?;
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x", ",", "-e", "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync"]);
    perf.args(["-p", &contender.pid_list(), "--", "sleep", &seconds.to_string()]);
    perf.stdout(Stdio::null()).stderr(Stdio::from(output.try_clone()?));
    let limit = Duration::from_secs(seconds.into()) + PERF_LIMIT;
    let status = Process::spawn("perf", &mut perf)?.wait(limit)?;
    let mut text = String::new();
    output.rewind()?;
    output.read_to_string(&mut text)?;
    let syncs = parse(&text);
    ensure!(status.success() && syncs > 0, "perf tells ({status}): {text}");
    Ok(syncs as f64 / f64::from(seconds))
}

/// The sum of the counters that perf tells, one a line; what was never met has no number.
fn parse(text: &str) -> u64 {
    text.lines().filter_map(|line| line.split(',').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_and_what_was_not_met_is_none() {
        let text = "1200,,syscalls:sys_enter_fdatasync,99,100.00,,\n<not counted>,,syscalls:sys_enter_fsync,0,100.00,,\n";
        assert_eq!(parse(text), 1200);
        assert_eq!(parse(&format!("{text}7,,x,1,100.00,,\n")), 1207);
        assert_eq!(parse("event syntax error"), 0);
    }
}
