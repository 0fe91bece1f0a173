//! Latency at the rate that Java reaches at its best.
//!
//! The highest rate of some rounds in a closed loop is Java's best. Then both servers, in turns, get nine tenths of it
//! in an open loop, where messages are due at fixed times and waiting counts. A closed loop would not do: a server that
//! stalls there keeps messages from being sent, and so out of its own percentiles.

use anyhow::Result;

use super::contender::{Contender, Flush, Software};
use super::figure::{Figure, number};
use super::report::{Report, median};
use super::{BROKERS, Bench};

/// Seconds of load after which the Java virtual machine has compiled what it runs.
const JAVA_WARMUP: u32 = 30;
/// Share of the best rate that Java can hold when messages do not wait for it.
const HELD_SHARE: f64 = 0.9;

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let contenders = bench.start_all(&BROKERS, Flush::Async)?;
    let mut best: f64 = 0.0;
    for contender in contenders.iter().filter(|contender| contender.software() == Software::Java) {
        for round in 1..=bench.effort.rounds {
            let warmup = if round == 1 { bench.effort.of_trial(JAVA_WARMUP, 1) } else { 2 };
            let pace = format!("--warmup {warmup}");
            best = best.max(send(bench, contender, &pace)?.0);
        }
    }
    let pace = format!("--warmup 2 --rate {:.0}", best * HELD_SHARE);
    let (mut java, mut comet) = (Vec::new(), Vec::new());
    bench.in_turns(&contenders, |contender, _| {
        let p99 = send(bench, contender, &pace)?.1;
        if contender.software() == Software::Java {
            java.push(p99)
        } else {
            comet.push(p99)
        }
        Ok(())
    })?;
    let (java, comet) = (median(&java), median(&comet));
    let name = "p99 of sends at nine tenths of the rate that Java reaches at its best, against Java's";
    let from = format!(
        "{} messages/s; Java {} ms, CometMQ {} ms",
        number(best * HELD_SHARE),
        number(java),
        number(comet)
    );
    report.figure("rate", Figure::new(name, comet / java, "×").at_most(0.5).from(from));
    Ok(())
}

/// Sends; the rate, and the 99th percentile of the latency in ms.
fn send(bench: &Bench, contender: &Contender, pace: &str) -> Result<(f64, f64)> {
    let flags = format!("--size 128 --in-flight 64 --duration {} {pace}", bench.effort.seconds());
    let outcome = bench.generate(contender, "send", "sends", &flags)?;
    Ok((outcome.rate()?, outcome.send_p99_ms()?))
}
