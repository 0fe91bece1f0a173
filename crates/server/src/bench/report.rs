//! What a run found: the same rows as an aligned table for people and as one line of JSON for programs.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::window::Window;

/// Latencies in µs, three digits exact, up to an hour.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("these bounds are valid")
}

/// Rows in the order in which they are told.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// What was run: first line of the table.
    title: String,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    /// Name in the JSON, with its unit.
    key: String,
    value: Value,
    /// How the table tells it; rows without are for programs only.
    cells: Option<Cells>,
}

#[derive(Debug)]
enum Cells {
    Number { label: String, digits: String, unit: &'static str },
    Text { label: String, text: String },
}

impl Report {
    /// A report about the run that `title` describes.
    pub(super) fn new(title: String) -> Report {
        Report { title, rows: Vec::new() }
    }

    /// A setting of the run, which the title tells people.
    pub(super) fn setting(&mut self, key: &str, value: impl Into<Value>) {
        self.rows.push(Row { key: key.to_owned(), value: value.into(), cells: None });
    }

    /// A number of things.
    pub(super) fn count(&mut self, label: &str, key: &str, count: u64) {
        self.number(label, key, count.into(), grouped(&count.to_string()), "");
    }

    /// A measured value.
    pub(super) fn value(&mut self, label: &str, key: &str, value: f64, decimals: usize, unit: &'static str) {
        // Nothing divided by nothing is not worth a special row.
        let value = if value.is_finite() { value } else { 0.0 };
        let rounded = (value * 1000.0).round() / 1000.0;
        self.number(label, key, json!(rounded), grouped(&format!("{value:.decimals$}")), unit);
    }

    /// A sentence.
    pub(super) fn text(&mut self, label: &str, key: &str, text: &str) {
        let cells = Some(Cells::Text { label: label.to_owned(), text: text.to_owned() });
        self.rows.push(Row { key: key.to_owned(), value: text.into(), cells });
    }

    /// Messages, seconds and the rates that follow from them.
    pub(super) fn throughput(&mut self, messages: u64, body_bytes: u64, window: &Window) {
        let seconds = window.elapsed.as_secs_f64();
        self.count("messages", "messages", messages);
        self.value("time", "seconds", seconds, 3, "s");
        self.value("rate", "messages_per_second", messages as f64 / seconds, 0, "msg/s");
        let megabytes = body_bytes as f64 / 1e6;
        self.value("bodies", "body_megabytes_per_second", megabytes / seconds, 2, "MB/s");
    }

    /// The percentiles of a histogram in µs.
    pub(super) fn latency(&mut self, label: &str, key: &str, latency: &Histogram<u64>) {
        for (name, wire, quantile) in [("p50", "p50", 0.5), ("p99", "p99", 0.99), ("p99.9", "p999", 0.999)] {
            let micros = latency.value_at_quantile(quantile);
            self.micros(&format!("{label} {name}"), format!("{key}_{wire}_us"), micros);
        }
        self.micros(&format!("{label} max"), format!("{key}_max_us"), latency.max());
    }

    /// What servers and generator spent on `messages`.
    pub(super) fn usage(&mut self, messages: u64, window: &Window) {
        if let Some(server) = &window.server {
            self.value("server CPU", "server_cpu_seconds", server.cpu_seconds, 2, "s");
            let per_second = messages as f64 / server.cpu_seconds;
            self.value("messages per server CPU s", "messages_per_server_cpu_second", per_second, 0, "msg/s");
            self.bytes("server RSS", "server_rss_bytes", server.rss_bytes);
            self.bytes("server RSS peak", "server_rss_peak_bytes", server.rss_peak_bytes);
        }
        if let Some(seconds) = window.generator_cpu_seconds {
            self.value("generator CPU", "generator_cpu_seconds", seconds, 2, "s");
        }
    }

    /// Writes the report to standard output.
    pub(super) fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.to_json());
        } else {
            print!("{}", self.to_table());
        }
    }

    fn micros(&mut self, label: &str, key: String, micros: u64) {
        let digits = grouped(&format!("{:.3}", micros as f64 / 1000.0));
        self.number(label, &key, micros.into(), digits, "ms");
    }

    fn bytes(&mut self, label: &str, key: &str, bytes: u64) {
        let digits = grouped(&format!("{:.1}", bytes as f64 / f64::from(1 << 20)));
        self.number(label, key, bytes.into(), digits, "MiB");
    }

    fn number(&mut self, label: &str, key: &str, value: Value, digits: String, unit: &'static str) {
        let cells = Some(Cells::Number { label: label.to_owned(), digits, unit });
        self.rows.push(Row { key: key.to_owned(), value, cells });
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("rows are JSON values")
    }

    fn to_table(&self) -> String {
        let cells = || self.rows.iter().filter_map(|row| row.cells.as_ref());
        let labels = cells().map(|(Cells::Number { label, .. } | Cells::Text { label, .. })| label.len());
        let labels = labels.max().unwrap_or(0);
        let numbers = cells().map(|cells| match cells {
            Cells::Number { digits, .. } => digits.len(),
            Cells::Text { .. } => 0,
        });
        let numbers = numbers.max().unwrap_or(0);
        let mut table = format!("{}\n", self.title);
        for cells in cells() {
            let line = match cells {
                Cells::Number { label, digits, unit } => {
                    format!("  {label:labels$}  {digits:>numbers$} {unit}")
                }
                Cells::Text { label, text } => format!("  {label:labels$}  {text}"),
            };
            writeln!(table, "{}", line.trim_end()).expect("a string takes all text");
        }
        table
    }
}

impl Serialize for Report {
    /// An object that keeps the order of the rows.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.rows.iter().map(|row| (&row.key, &row.value)))
    }
}

/// A number with a comma after every three digits before the point.
pub(super) fn grouped(digits: &str) -> String {
    let point = digits.find('.').unwrap_or(digits.len());
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && index < point && (point - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::usage::Usage;
    use super::*;
    use expect_test::expect;
    use std::time::Duration;

    fn sample() -> Report {
        let window = Window {
            elapsed: Duration::from_millis(10_000),
            server: Some(Usage { cpu_seconds: 4.5, rss_bytes: 50 << 20, rss_peak_bytes: 64 << 20 }),
            generator_cpu_seconds: Some(3.25),
        };
        let mut latency = histogram();
        (1..=1000).for_each(|micros| latency.record(micros).unwrap());
        let mut report = Report::new("send to x".to_owned());
        report.setting("command", "send");
        report.throughput(1_234_567, 158_024_576, &window);
        report.latency("latency", "latency", &latency);
        report.count("failed", "failed", 2);
        report.text("first failure", "first_failure", "code 2 SYSTEM_BUSY");
        report.usage(1_234_567, &window);
        report
    }

    #[test]
    fn the_table_is_aligned() {
        expect![[r#"
            send to x
              messages                   1,234,567
              time                          10.000 s
              rate                         123,457 msg/s
              bodies                         15.80 MB/s
              latency p50                    0.500 ms
              latency p99                    0.990 ms
              latency p99.9                  0.999 ms
              latency max                    1.000 ms
              failed                             2
              first failure              code 2 SYSTEM_BUSY
              server CPU                      4.50 s
              messages per server CPU s    274,348 msg/s
              server RSS                      50.0 MiB
              server RSS peak                 64.0 MiB
              generator CPU                   3.25 s
        "#]]
        .assert_eq(&sample().to_table());
    }

    #[test]
    fn the_json_is_one_line_in_the_same_order() {
        let json = sample().to_json();
        let start = r#"{"command":"send","messages":1234567,"seconds":10.0,"messages_per_second":123456.7,"#;
        assert!(json.starts_with(start), "{json}");
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["latency_p999_us"], 999);
        assert_eq!(value["server_rss_bytes"], 50 << 20);
        assert!(!json.contains('\n'));
    }

    #[test]
    fn digits_are_grouped_before_the_point() {
        let cases = [("0", "0"), ("999", "999"), ("1000", "1,000"), ("1234567.8901", "1,234,567.8901")];
        for (digits, expected) in cases {
            assert_eq!(grouped(digits), expected);
        }
    }

    #[test]
    fn a_rate_without_time_is_zero() {
        let mut report = Report::default();
        report.value("rate", "rate", 5.0 / 0.0, 0, "msg/s");
        assert_eq!(report.to_json(), r#"{"rate":0.0}"#);
    }
}
