//! Samples in, tables in Markdown out: what servers measured side by side, and figures with their targets.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::contender::Software;
use super::figure::{self, Figure};
use super::load::Sample;
use super::machine;
use crate::table::Table;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Messages in a second.
    Rate,
    /// Median latency.
    P50Ms,
    /// 99th percentile of the latency.
    P99Ms,
    /// Messages for each second of CPU time of the server.
    PerCpuSecond,
    /// Messages that were not accepted.
    Failed,
    /// Start on an empty directory to first accepted message.
    ColdStartMs,
    /// Memory right after a start.
    IdleMib,
    /// Memory with many messages.
    LoadedMib,
    /// Start after a kill, with many messages.
    RestartMs,
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Measure::Rate => "messages/s",
            Measure::P50Ms => "p50, ms",
            Measure::P99Ms => "p99, ms",
            Measure::PerCpuSecond => "messages per CPU second of the server",
            Measure::Failed => "failed",
            Measure::ColdStartMs => "cold start to first accepted message, ms",
            Measure::IdleMib => "resident memory, idle, MiB",
            Measure::LoadedMib => "resident memory after the load of 1 KiB messages, MiB",
            Measure::RestartMs => "start after kill -9 with these messages, ms",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Measure::Rate | Measure::PerCpuSecond)
    }

    fn show(self, value: f64) -> String {
        match self {
            Measure::P50Ms | Measure::P99Ms => format!("{value:.2}"),
            _ => thousands(value.round() as u64),
        }
    }

    /// One number for all rounds.
    fn sum_up(self, samples: &[f64]) -> f64 {
        // A median would hide a round in which messages were refused.
        if self == Measure::Failed { samples.iter().sum() } else { median(samples) }
    }
}

/// All samples, in the order of their first appearance.
#[derive(Debug)]
pub(super) struct Report {
    rows: Vec<Row>,
    figures: Vec<(&'static str, Figure)>,
    trial: bool,
    load_before: String,
}

#[derive(Debug)]
struct Row {
    scenario: String,
    measure: Measure,
    samples: BTreeMap<Software, Vec<f64>>,
}

impl Report {
    /// No samples yet. Of a `trial` the numbers mean nothing.
    pub(super) fn of(trial: bool) -> Report {
        Report { rows: Vec::new(), figures: Vec::new(), trial, load_before: machine::load_average() }
    }

    /// Adds a figure of a scenario.
    pub(super) fn figure(&mut self, scenario: &'static str, figure: Figure) {
        eprintln!("{}", figure::markdown(&[(scenario, figure.clone())]).lines().last().unwrap_or_default());
        self.figures.push((scenario, figure));
    }

    /// The median of the samples of one server, if there are any.
    pub(super) fn median(&self, scenario: &str, measure: Measure, software: Software) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.scenario == scenario && row.measure == measure)?;
        row.samples.get(&software).map(|samples| median(samples))
    }

    /// Adds one sample.
    pub(super) fn add(&mut self, scenario: &str, measure: Measure, software: Software, value: f64) {
        let known = self.rows.iter().position(|row| row.scenario == scenario && row.measure == measure);
        let index = known.unwrap_or_else(|| {
            self.rows.push(Row { scenario: scenario.to_owned(), measure, samples: BTreeMap::new() });
            self.rows.len() - 1
        });
        self.rows[index].samples.entry(software).or_default().push(value);
    }

    /// Adds a measurement of sending.
    pub(super) fn add_sends(&mut self, scenario: &str, software: Software, sample: &Sample) {
        self.add_received(scenario, software, sample);
        self.add(scenario, Measure::P50Ms, software, sample.p50_us / 1e3);
        self.add(scenario, Measure::P99Ms, software, sample.p99_us / 1e3);
        self.add(scenario, Measure::Failed, software, sample.failed as f64);
    }

    /// Adds a measurement of consuming: the age of messages of a backlog says nothing.
    pub(super) fn add_received(&mut self, scenario: &str, software: Software, sample: &Sample) {
        self.add(scenario, Measure::Rate, software, sample.rate);
        self.add(scenario, Measure::PerCpuSecond, software, sample.per_cpu_second);
    }

    /// The tables with a few words about how they came about.
    pub(super) fn markdown(&self, heap: &str, rounds: u32) -> String {
        let trial = if self.trial { "**A trial run: these numbers mean nothing.**\n" } else { "" };
        let mut text = format!(
            "{trial}Servers and load generators share {}.\n\
             Load average of the machine before the run: {}; above 1 other work disturbed it.\n",
            machine::processor(),
            self.load_before
        );
        if !self.rows.is_empty() {
            let _ = write!(text, "\n{}", self.side_by_side(heap, rounds));
        }
        if !self.figures.is_empty() {
            let _ = write!(text, "\n{}", figure::markdown(&self.figures));
        }
        text
    }

    fn side_by_side(&self, heap: &str, rounds: u32) -> String {
        let mut text = format!(
            "Medians of {rounds} rounds in which the servers took turns; the client is the official Java client 5.3.3.\n\
             Java broker: 5.3.3 with a heap of {heap}, G1, name server with 256 MiB.\n\
             A start is that of the broker: Java's name server already listens, ours starts along.\n\
             Where CometMQ comes near the null server, which stores nothing, the client is the limit.\n\
             \"better\" is how many times better CometMQ is than Java: more messages, or less time or memory.\n",
        );
        let mut table = Table::new(["scenario", "measure", "Java 5.3.3", "CometMQ", "better", "null server"]);
        for row in &self.rows {
            let value = |software| row.samples.get(&software).map(|samples| row.measure.sum_up(samples));
            let shown = |software| value(software).map_or(String::new(), |value| row.measure.show(value));
            table.row([
                row.scenario.clone(),
                row.measure.name().to_owned(),
                shown(Software::Java),
                shown(Software::Comet),
                ratio(row.measure, value(Software::Java), value(Software::Comet)),
                shown(Software::Null),
            ]);
        }
        let _ = write!(text, "\n{}", table.markdown());
        text
    }
}

fn ratio(measure: Measure, java: Option<f64>, comet: Option<f64>) -> String {
    match (java, comet) {
        (Some(java), Some(comet)) if java > 0.0 && comet > 0.0 => {
            format!("{:.1}×", if measure.more_is_better() { comet / java } else { java / comet })
        }
        _ => String::new(),
    }
}

/// The middle of some samples; 0 of none.
pub(super) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    if sorted.is_empty() {
        return 0.0;
    }
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// A number with a blank between groups of three digits.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ratios_and_numbers_are_as_a_reader_expects() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(ratio(Measure::Rate, Some(100.0), Some(250.0)), "2.5×");
        assert_eq!(ratio(Measure::IdleMib, Some(100.0), Some(25.0)), "4.0×");
        assert_eq!(ratio(Measure::Rate, Some(100.0), None), "");
        assert_eq!((thousands(7), thousands(1_234_567)), ("7".to_owned(), "1 234 567".to_owned()));
    }

    #[test]
    fn a_row_has_the_servers_side_by_side() {
        let mut report = Report::of(true);
        for (software, value) in [(Software::Java, 10.0), (Software::Comet, 20.0), (Software::Java, 12.0)] {
            report.add("send", Measure::Rate, software, value);
        }
        let markdown = report.markdown("1g", 2);
        assert!(markdown.contains("| send | messages/s | 11 | 20 | 1.8× |  |\n"), "{markdown}");
        assert!(markdown.starts_with("**A trial run"), "{markdown}");
    }

    #[test]
    fn one_round_with_failures_among_good_ones_is_seen() {
        assert_eq!(Measure::Failed.sum_up(&[0.0, 0.0, 7.0]), 7.0);
        assert_eq!(Measure::Rate.sum_up(&[1.0, 2.0, 7.0]), 2.0);
    }
}
