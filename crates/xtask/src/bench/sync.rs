//! SYNC_FLUSH beside what the disk allows: its rate of `fdatasync`, measured in the same directory right before and
//! after, times the 64 messages that wait for each.

use std::time::Duration;

use anyhow::{Context, Result};

use super::contender::{Flush, Software};
use super::figure::{Figure, number};
use super::report::{Report, median};
use super::{Bench, machine};

/// Senders, each with one message in flight on a connection of its own.
const SENDERS: u32 = 64;
/// Length of each look at what the disk does.
const PROBE: Duration = Duration::from_secs(3);

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let contender = bench.start_one(Software::Comet, Flush::Sync, "sends")?;
    let probe = || machine::sync_rate(&contender.store(), bench.effort.of_trial(PROBE, PROBE / 10));
    let (mut ratios, mut rates, mut disk) = (Vec::new(), Vec::new(), vec![probe()?]);
    for _ in 0..bench.effort.rounds {
        let flags =
            format!("--size 128 --connections {SENDERS} --in-flight 1 --duration {}", bench.effort.seconds());
        let rate = bench.generate(&contender, "send", "sends", &flags)?.rate()?;
        let before = *disk.last().context("measured before the rounds")?;
        disk.push(probe()?);
        let after = *disk.last().context("just measured")?;
        ratios.push(rate / ((before + after) / 2.0 * f64::from(SENDERS)));
        rates.push(rate);
    }
    let name = "SYNC_FLUSH, 64 senders, against fdatasync rate × 64";
    let from = format!(
        "{} messages/s; {} fdatasync/s of 4 KiB",
        number(median(&rates)),
        disk.iter().map(|rate| number(*rate)).collect::<Vec<_>>().join(", ")
    );
    report.figure("sync", Figure::new(name, median(&ratios), "×").at_least(0.8).from(from));
    Ok(())
}
