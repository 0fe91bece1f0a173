//! Sending from many threads and from one, and consuming what is there, all by the official Java client.

use anyhow::{Result, ensure};

use super::contender::{Contender, Flush, Software};
use super::figure::{Figure, number};
use super::load::Sample;
use super::report::{Measure, Report};
use super::{BROKERS, Bench};

const MANY: &str = "send 128 B, 64 threads";
/// Messages that warm the client and the servers up.
const WARMUP: u64 = 100_000;
/// Messages that wait for the push consumer.
const BACKLOG: u64 = 400_000;

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let contenders = bench.start_all(&[Software::Java, Software::Comet, Software::Null], Flush::Async)?;
    let warmup = bench.effort.of_trial(WARMUP, 2_000);
    for (scenario, threads, warmup) in [(MANY, 64, warmup), ("send 128 B, 1 thread", 1, warmup / 10)] {
        bench.in_turns(&contenders, |contender, _| {
            let sample = bench.send_by_threads(contender, "sends", threads, warmup)?;
            report.add_sends(scenario, contender.software(), &sample);
            Ok(())
        })?;
    }
    add_figures(report);
    let brokers: Vec<Contender> =
        contenders.into_iter().filter(|contender| BROKERS.contains(&contender.software())).collect();
    bench.in_turns(&brokers, |contender, round| {
        let sample = consume(bench, contender, round)?;
        report.add_received("consume a backlog of 128 B, 32 at a time", contender.software(), &sample);
        Ok(())
    })
}

fn add_figures(report: &mut Report) {
    let median = |software| report.median(MANY, Measure::PerCpuSecond, software).unwrap_or_default();
    let (java, comet, null) = (median(Software::Java), median(Software::Comet), median(Software::Null));
    let from = format!("Java {}, CometMQ {}, null {}", number(java), number(comet), number(null));
    let figures = [("Java", comet / java, 12.0), ("the null server", comet / null, 0.7)];
    for (beside, ratio, target) in figures {
        let name = format!("sends per server CPU second, 64 threads, against {beside}");
        report.figure("throughput", Figure::new(name, ratio, "×").at_least(target).from(from.clone()));
    }
}

/// Fills a topic, then reads it with a new group.
fn consume(bench: &Bench, contender: &Contender, round: u32) -> Result<Sample> {
    let topic = bench.create_topic(contender, &format!("backlog-{round}"))?;
    let backlog = bench.effort.of_trial(BACKLOG, 20_000);
    let warmup = backlog / 4;
    let all = backlog.to_string();
    let client = bench.java_client()?;
    let filled = client.send(contender, &topic, &["--threads", "64", "--size", "128", "--count", &all])?;
    // A server may refuse some when it is busy: what it took is what can be read.
    ensure!(filled.failed < backlog / 10, "{} messages of the backlog were refused", filled.failed);
    let (warmup, measured) = (warmup.to_string(), (backlog - filled.failed - warmup).to_string());
    let group = format!("readers-{round}");
    let flags = ["--group", &group, "--consume-batch", "32", "--warmup", &warmup, "--count", &measured];
    client.consume(contender, &topic, &flags)
}
