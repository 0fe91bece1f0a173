//! `cargo xtask test`: the one gate. The same line runs before a commit and in CI.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::table::Table;
use crate::{bench, fuzz, interop, process, sim, tidy, tools, torture, workspace};

/// Longest that one cargo command may take on a slow machine.
const CARGO_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Flags of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Run this part only (may be repeated)
    #[arg(long = "part", value_name = "NAME")]
    parts: Vec<Part>,
}

/// The parts in the order in which they run: what fails fast or often comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Java and Maven are there, or are installed
    Tools,
    /// All code is formatted
    Format,
    /// No lint warns
    Clippy,
    /// Layers, headers, leftovers
    Tidy,
    /// Unit, property and golden tests
    Unit,
    /// The binary as it is released
    Build,
    /// A thousand seeds of simulated brokers
    Sim,
    /// Each fuzz target for two seconds
    Fuzz,
    /// Official Java clients of several versions
    Interop,
    /// Faults of every kind done to the release binary, a few seconds of each
    Torture,
    /// Small forms of the benchmarks without Java, of which only the numbers are not looked at
    Bench,
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Runs it. `reruns` gets the names of tests that failed at first and passed when they were run again.
    fn run(self, reruns: &mut Vec<String>) -> Result<()> {
        let cargo = |subcommand: &str, arguments: &[&str]| {
            let mut command = workspace::cargo(subcommand)?;
            command.args(arguments);
            println!("$ {}", process::words(&command));
            process::run(&mut command, CARGO_LIMIT)
        };
        match self {
            Part::Tools => tools::require_java(),
            Part::Format => cargo("fmt", &["--all", "--check"]),
            Part::Clippy => cargo("clippy", &["--workspace", "--all-targets", "--", "-D", "warnings"]),
            Part::Tidy => tidy::run(),
            Part::Unit => cargo("test", &["--workspace"]),
            Part::Build => cargo("build", &["--release"]),
            Part::Sim => {
                sim::run(&sim::SimArgs::short())?;
                // Optimized: it plays thousands of seeds. In the profile of the fuzz targets, which builds quickly.
                let planted =
                    ["--profile", "fuzz", "--package", "cometmq-sim", "--test", "planted", "--", "--ignored"];
                cargo("test", &planted)
            }
            Part::Fuzz => fuzz::run(&fuzz::FuzzArgs::short()),
            Part::Interop => interop::run(&interop::InteropArgs::all(), reruns),
            Part::Torture => torture::run(&torture::TortureArgs::short()),
            Part::Bench => bench::run(&bench::BenchArgs::short()),
        }
    }
}

/// What became of a part.
enum Outcome {
    Passed(Duration),
    Failed(Duration),
    NotRun,
}

/// Runs the parts up to the first failure. The last line printed tells how many passed and failed.
pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    let wanted = |part: &&Part| args.parts.is_empty() || args.parts.contains(part);
    let parts: Vec<Part> = Part::value_variants().iter().filter(wanted).copied().collect();
    let (mut outcomes, mut reruns) = (Vec::new(), Vec::new());
    let mut failed = false;
    for (number, &part) in parts.iter().enumerate() {
        if failed {
            outcomes.push(Outcome::NotRun);
            continue;
        }
        println!("\n== {}/{} {}", number + 1, parts.len(), part.name());
        let start = Instant::now();
        let result = part.run(&mut reruns);
        let took = start.elapsed();
        failed = result.is_err();
        outcomes.push(if failed { Outcome::Failed(took) } else { Outcome::Passed(took) });
        if let Err(error) = result {
            println!("\n** {} FAILED: {error:#}", part.name());
            println!("** this part alone: cargo xtask test --part {}", part.name());
        }
    }
    println!("\n{}", summary(&parts, &outcomes, &reruns));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The table of parts, tests that needed a rerun by name, and the line that counts.
fn summary(parts: &[Part], outcomes: &[Outcome], reruns: &[String]) -> String {
    let mut table = Table::new(["part", "result", "time"]);
    let (mut passed, mut failed, mut total) = (0, 0, Duration::ZERO);
    for (part, outcome) in parts.iter().zip(outcomes) {
        let (result, took) = match outcome {
            Outcome::Passed(took) => ("passed", Some(*took)),
            Outcome::Failed(took) => ("FAILED", Some(*took)),
            Outcome::NotRun => ("not run", None),
        };
        passed += usize::from(result == "passed");
        failed += usize::from(result == "FAILED");
        total += took.unwrap_or_default();
        table.row([part.name(), result.to_owned(), took.map_or(String::new(), seconds)]);
    }
    for rerun in reruns {
        table.row([format!("! {rerun}"), "ON A RERUN".to_owned(), String::new()]);
    }
    table.row(["total".to_owned(), String::new(), seconds(total)]);
    let mut counts = format!("{passed} passed, {failed} failed");
    if !reruns.is_empty() {
        counts += &format!(", {} tests passed only on a rerun", reruns.len());
    }
    format!("{table}{counts}")
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_needed_a_rerun_stands_in_the_table() {
        let outcomes = [
            Outcome::Passed(Duration::from_secs(2)),
            Outcome::Failed(Duration::from_secs(1)),
            Outcome::NotRun,
        ];
        let parts = [Part::Build, Part::Interop, Part::Bench];
        let text = summary(&parts, &outcomes, &["A.a with client 4.3.2".to_owned()]);
        assert!(text.contains("! A.a with client 4.3.2  ON A RERUN"), "{text}");
        assert!(text.ends_with("1 passed, 1 failed, 1 tests passed only on a rerun"), "{text}");
        assert!(summary(&parts, &outcomes, &[]).ends_with("1 passed, 1 failed"));
    }
}
