//! A large backlog, read from its oldest message: messages per CPU second of the server and its memory meanwhile.
//!
//! The same messages are sent to both servers by our own generator, one by one, not as batches. Then each server's
//! backlog is read by our own consumer, and a part of it by the official push consumer.

use anyhow::Result;

use super::contender::{Contender, Flush, Software};
use super::figure::{Figure, number};
use super::generator::Outcome;
use super::machine::{Peak, Watch};
use super::report::{Report, median};
use super::{BROKERS, Bench};

/// Messages that wait.
const MESSAGES: u64 = 10_000_000;
/// Most of them that the push consumer reads in a round, for its own pace is far below that of the server.
const PUSHED: u64 = 1_000_000;
const TOPIC: &str = "sends";

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let messages = bench.effort.messages(MESSAGES);
    let contenders = bench.start_all(&BROKERS, Flush::Async)?;
    let mut servers = Vec::new();
    for contender in contenders {
        let flags = format!("--size 128 --in-flight 256 --warmup 0 --count {messages}");
        let filled = bench.generate(&contender, "send", TOPIC, &flags)?.messages()? as u64;
        servers.push(Server {
            contender,
            filled,
            own: Vec::new(),
            pushed: Vec::new(),
            peak: Peak::default(),
        });
    }
    for round in 1..=bench.effort.rounds {
        for server in &mut servers {
            server.read(bench, round)?;
        }
    }
    add_figures(&servers, report);
    Ok(())
}

/// A server with its backlog, and what reading it gave.
struct Server {
    contender: Contender,
    filled: u64,
    /// Messages per CPU second by our consumer, round by round.
    own: Vec<f64>,
    /// The same by the push consumer.
    pushed: Vec<f64>,
    /// While our consumer read.
    peak: Peak,
}

impl Server {
    fn read(&mut self, bench: &Bench, round: u32) -> Result<()> {
        let watch = Watch::start(self.contender.pids());
        let own: Outcome = bench.generate(&self.contender, "consume", TOPIC, "--from min")?;
        let peak = watch.finish()?;
        self.peak.rss_mib = self.peak.rss_mib.max(peak.rss_mib);
        self.own.push(own.per_cpu_second()?);
        let (warmup, group) = (PUSHED.min(self.filled) / 4, format!("readers-{round}"));
        let (count, warmup) = ((PUSHED.min(self.filled) - warmup).to_string(), warmup.to_string());
        let flags = ["--group", &group, "--consume-batch", "32", "--warmup", &warmup, "--count", &count];
        self.pushed.push(bench.java_client()?.consume(&self.contender, TOPIC, &flags)?.per_cpu_second);
        Ok(())
    }
}

fn add_figures(servers: &[Server], report: &mut Report) {
    let of = |software| servers.iter().find(|server| server.contender.software() == software);
    let (Some(java), Some(comet)) = (of(Software::Java), of(Software::Comet)) else { return };
    let mut ratio = |reader: &str, java: &[f64], comet: &[f64]| {
        let (java, comet) = (median(java), median(comet));
        let name = format!("backlog read by {reader}, messages per server CPU second against Java");
        let figure = Figure::new(name, comet / java, "×").at_least(15.0);
        report.figure("backlog", figure.from(format!("Java {}, CometMQ {}", number(java), number(comet))));
    };
    ratio("`cometmq bench consume`", &java.own, &comet.own);
    ratio("the official push consumer", &java.pushed, &comet.pushed);
    let from =
        format!("{} messages of 128 B; Java {} MiB", number(comet.filled as f64), number(java.peak.rss_mib));
    let peak = Figure::new("resident memory at most while the backlog is read", comet.peak.rss_mib, "MiB");
    report.figure("backlog", peak.at_most(300.0).from(from));
}
