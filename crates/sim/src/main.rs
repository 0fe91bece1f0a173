//! The simulator as a program, for `cargo xtask sim`: `cometmq-sim seeds FIRST COUNT`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["seeds", first, count] => match (first.parse(), count.parse()) {
            (Ok(first), Ok(count)) => seeds(first, count),
            _ => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: cometmq-sim seeds FIRST COUNT");
    ExitCode::FAILURE
}

fn seeds(first: u64, count: u64) -> ExitCode {
    let (mut failures, mut events, mut acknowledged, mut lost, mut starts) = (0u64, 0, 0, 0, 0u64);
    for seed in first..first + count {
        match cometmq_sim::run(seed) {
            Ok(outcome) => {
                events += outcome.events;
                acknowledged += outcome.acknowledged;
                lost += outcome.lost;
                starts += u64::from(outcome.starts);
            }
            Err(failure) => {
                println!("{failure}");
                failures += 1;
            }
        }
    }
    println!(
        "{count} seeds from {first}: {failures} failed; {events} events, {starts} starts, {acknowledged} acknowledged, \
         {lost} of them taken by power cuts under ASYNC_FLUSH"
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
