//! SYNC_FLUSH beside what the disk allows: its rate of `fdatasync` times the messages that waited for each.
//!
//! Both are taken from the server's own syncs, which `perf` times while it is under load: a look at the disk before and
//! after is told as well, but says little where a disk's pace changes from one second to the next. One sync confirms
//! all messages that wait for it, so what comes out is the share of time in which a sync runs.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

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
    let rate = of(|round| round.rate);
    let name = "SYNC_FLUSH, 64 senders, against fdatasync rate × messages that waited";
    let figure = if rounds.iter().all(|round| round.syncs.is_some()) {
        let from = format!(
            "{} messages/s; {} syncs/s of {} messages, {} ms each",
            number(rate),
            number(of(|round| round.syncs().per_second)),
            number(of(|round| round.rate / round.syncs().per_second)),
            number(of(|round| round.syncs().busy / round.syncs().per_second * 1e3))
        );
        Figure::new(name, of(|round| round.syncs().busy), "×").from(from)
    } else {
        Figure::not_measured(name, "needs `perf trace`, to time the server's syncs")
    };
    report.figure("sync", figure.at_least(0.8));
    let probes: Vec<_> = rounds.iter().flat_map(|round| round.probes).map(number).collect();
    let from =
        format!("{} fdatasync/s of 4 KiB appends right before and after each stretch", probes.join(", "));
    report.figure("sync", Figure::new("the rate of these sends", rate, "messages/s").from(from));
    Ok(())
}

/// One stretch of sends between two looks at the disk.
struct Round {
    /// Messages in a second.
    rate: f64,
    /// What the server's syncs were, where they can be timed.
    syncs: Option<Syncs>,
    /// Syncs in a second of the two looks.
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
    fn syncs(&self) -> Syncs {
        self.syncs.unwrap_or_default()
    }

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
        let syncs = time_syncs(contender, bench.effort.seconds());
        let rate = sends.finish()?.rate()?;
        let syncs = syncs.inspect_err(|error| eprintln!("syncs are not timed: {error:#}")).ok();
        Ok(Round { rate, syncs, probes: [before, probe()?] })
    }
}

/// Times the server's syncs for so many seconds.
fn time_syncs(contender: &Contender, seconds: u32) -> Result<Syncs> {
    let output = tempfile::NamedTempFile::new()?;
    let mut perf = Command::new("perf");
    perf.args(["trace", "-s", "-e", "fdatasync,fsync", "-p", &contender.pid_list(), "-o"]).arg(output.path());
    perf.args(["--", "sleep", &seconds.to_string()]).stdout(Stdio::null());
    let limit = Duration::from_secs(seconds.into()) + PERF_LIMIT;
    let status = Process::spawn("perf", &mut perf)?.wait(limit)?;
    let text = std::fs::read_to_string(output.path())?;
    let seconds = f64::from(seconds);
    let (calls, millis) = parse(&text).with_context(|| format!("perf tells ({status}): {text}"))?;
    Ok(Syncs { per_second: calls / seconds, busy: millis / 1e3 / seconds })
}

/// Number of syncs and their time in ms, of the thread that makes most, from perf's summary: one table for each
/// thread, whose rows have name, calls, errors, total time.
fn parse(text: &str) -> Option<(f64, f64)> {
    let mut threads = vec![(0.0, 0.0)];
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("fdatasync" | "fsync") => {
                let mut number = |skip| words.nth(skip)?.parse::<f64>().ok();
                let (calls, millis) = (number(0)?, number(1)?);
                let thread = threads.last_mut()?;
                *thread = (thread.0 + calls, thread.1 + millis);
            }
            Some("syscall") => threads.push((0.0, 0.0)),
            _ => {}
        }
    }
    threads.into_iter().filter(|(calls, _)| *calls > 0.0).max_by(|a, b| a.0.total_cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_syncs_most_counts() {
        let table = |rows: &str| {
            format!(
                " t (7), 4 events, 0.1%\n\n   syscall   calls  errors  total  min\n   ----- ---\n{rows}\n\n"
            )
        };
        let quiet = table("   fdatasync   1   0   5.887   5.8\n   fsync   1   0   5.401   5.4\n");
        let busy = table("   fdatasync   3537   0   1504.513   0.017\n");
        assert_eq!(parse(&format!("{quiet}{busy}{quiet}")), Some((3537.0, 1504.513)));
        assert_eq!(parse(&quiet), Some((2.0, 11.288)));
        assert_eq!(parse("event syntax error"), None);
    }
}
