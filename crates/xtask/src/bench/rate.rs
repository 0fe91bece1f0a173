//! Latency at the rate that Java reaches at its best: the highest of its rounds in a closed loop, whose 99th percentile
//! counts for Java. Ours is then sent to at that rate, in an open loop, which counts waiting too.

use anyhow::{Context, Result};

use super::Bench;
use super::contender::{Flush, Software};
use super::figure::{Figure, number};
use super::report::{Report, median};

/// Seconds of load after which the Java virtual machine has compiled what it runs.
const JAVA_WARMUP: u32 = 30;

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let java = bench.start_one(Software::Java, Flush::Async, "sends")?;
    let comet = bench.start_one(Software::Comet, Flush::Async, "sends")?;
    let (seconds, warmup) = (bench.effort.seconds(), bench.effort.of_trial(JAVA_WARMUP, 1));
    let mut best: Option<(f64, f64)> = None;
    let mut ours = Vec::new();
    for round in 1..=bench.effort.rounds {
        let warmup = if round == 1 { warmup } else { 2 };
        let flags = format!("--size 128 --in-flight 64 --warmup {warmup} --duration {seconds}");
        let outcome = bench.generate(&java, "send", "sends", &flags)?;
        let (rate, p99) = (outcome.rate()?, outcome.send_p99_ms()?);
        if best.is_none_or(|(before, _)| rate > before) {
            best = Some((rate, p99));
            // Measured at a lower rate: says nothing.
            ours.clear();
        }
        let (rate, _) = best.context("a round was measured")?;
        let flags = format!("--size 128 --in-flight 64 --warmup 2 --duration {seconds} --rate {rate:.0}");
        ours.push(bench.generate(&comet, "send", "sends", &flags)?.send_p99_ms()?);
    }
    let (rate, java_p99) = best.context("a round was measured")?;
    let comet_p99 = median(&ours);
    let name = "p99 of sends at the rate that Java reaches at its best, against Java's";
    let from = format!(
        "{} messages/s; Java {} ms, CometMQ {} ms",
        number(rate),
        number(java_p99),
        number(comet_p99)
    );
    report.figure("rate", Figure::new(name, comet_p99 / java_p99, "×").at_most(0.5).from(from));
    Ok(())
}
