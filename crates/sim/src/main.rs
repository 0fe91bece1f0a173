//! The simulator as a program, for `cargo xtask sim` and `cargo xtask torture`. Its last line is how much it did and how
//! much of that failed, in numbers; it fails when a law was broken.

use std::process::ExitCode;

use cometmq_sim::{crash_states, every_call};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = arguments.iter().skip(1).filter_map(|word| word.parse().ok()).collect();
    let (done, failures) = match (arguments.first().map(String::as_str), numbers.as_slice()) {
        (Some("seeds"), [first, count]) => seeds(*first, *count),
        (Some("crash-states"), [first, states]) => crashes(*first, *states),
        (Some("every-call"), [part, parts]) if *parts > 0 => calls(*part, *parts),
        _ => {
            eprintln!(
                "usage: cometmq-sim seeds FIRST COUNT | crash-states FIRST STATES | every-call PART PARTS"
            );
            return ExitCode::FAILURE;
        }
    };
    println!("{done} {failures}");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Which seed runs, should the process end in it.
fn announce_panics(seed: u64) {
    std::panic::set_hook(Box::new(move |panic| println!("seed {seed}: PANIC: {panic}")));
}

fn seeds(first: u64, count: u64) -> (u64, u64) {
    let (mut failures, mut events, mut acknowledged, mut lost, mut starts) = (0, 0, 0, 0, 0);
    for seed in first..first + count {
        announce_panics(seed);
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
    (count, failures)
}

fn crashes(first: u64, wanted: u64) -> (u64, u64) {
    let (mut failures, mut states, mut seed) = (0, 0, first);
    while states < wanted {
        announce_panics(seed);
        match crash_states::explore(seed) {
            Ok(explored) => states += explored,
            Err(what) => {
                println!("{what}");
                failures += 1;
                states += 1;
            }
        }
        seed += 1;
    }
    println!("{states} crash states of workloads {first} to {}: {failures} failed", seed - 1);
    (states, failures)
}

fn calls(part: u64, parts: u64) -> (u64, u64) {
    let (mut done, mut failures) = (0, 0);
    for (way, (name, _, _)) in every_call::WAYS.iter().enumerate() {
        let count = match every_call::calls(way) {
            Ok(count) => count,
            Err(what) => {
                println!("{name}: {what}");
                return (done, failures + 1);
            }
        };
        let mine = (1..=count).filter(|n| n % parts == part % parts);
        let mut failed = 0u64;
        let mut played = 0u64;
        for n in mine {
            played += 1;
            if let Err(what) = every_call::fail(way, n) {
                println!("{what}");
                failed += 1;
            }
        }
        println!("{name}: {played} of {count} calls failed in turn, {failed} broke a law");
        done += played;
        failures += failed;
    }
    (done, failures)
}
