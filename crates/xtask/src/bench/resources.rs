//! Memory and start, each time with a new server on an empty directory.

use std::time::Duration;

use anyhow::Result;

use super::contender::{Contender, Flush};
use super::report::{Measure, Report};
use super::{BROKERS, Bench};

/// How long a server is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(15);
/// Messages of 1 KiB that a server holds.
const MESSAGES: u64 = 1_000_000;

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    for round in 1..=bench.effort.rounds {
        for software in BROKERS {
            eprintln!("round {round}: memory and start of {software}");
            let mut add = |measure, value| report.add("memory and start", measure, software, value);
            let mut contender = Contender::prepare(software, &bench.programs, Flush::Async)?;
            add(Measure::ColdStartMs, bench.start(&mut contender)?.as_secs_f64() * 1e3);
            std::thread::sleep(bench.effort.of_trial(SETTLE, Duration::from_secs(1)));
            add(Measure::IdleMib, contender.rss_mib()?);
            let topic = bench.create_topic(&contender, "memory")?;
            let count = bench.effort.messages(MESSAGES).to_string();
            let flags = ["--threads", "64", "--size", "1024", "--count", &count];
            bench.java_client()?.send(&contender, &topic, &flags)?;
            add(Measure::LoadedMib, contender.rss_mib()?);
            contender.kill()?;
            add(Measure::RestartMs, bench.start(&mut contender)?.as_secs_f64() * 1e3);
        }
    }
    Ok(())
}
