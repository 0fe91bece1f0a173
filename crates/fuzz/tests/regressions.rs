//! Every input that once failed is tried again, and every real input is one that its target accepts.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use cometmq_fuzz::allocation::{self, Counting};
use cometmq_fuzz::golden::Golden;
use cometmq_fuzz::{TARGETS, regression, run};

/// Of the real inputs of a target: the rest is much like these.
const SEEDS_TRIED: usize = 200;

#[global_allocator]
static COUNTING: Counting = Counting;

fn crates() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn what_once_failed_does_not_fail_again() {
    let regressions = regression::all(&crates().join("fuzz/regressions")).unwrap();
    assert!(!regressions.is_empty(), "the regressions are there");
    for regression in regressions {
        if let Err(message) = run::try_once(regression.target, &regression.input) {
            panic!("{}: {message}", regression.path.display());
        }
    }
}

#[test]
fn every_target_has_real_inputs_and_most_of_them_are_accepted() {
    let golden = Golden::load(crates()).unwrap();
    for target in TARGETS {
        let seeds = (target.seeds)(&golden);
        let step = seeds.len() / SEEDS_TRIED + 1;
        let tried = seeds.iter().step_by(step);
        let all = tried.len();
        let accepted = tried.filter(|seed| match run::try_once(target, seed) {
            Ok((outcome, _)) => outcome.accepted,
            Err(message) => panic!("{}: {message}: {}", target.name, regression::hex(seed)),
        });
        let accepted = accepted.count();
        assert!(
            all > 0 && 2 * accepted >= all,
            "{}: {accepted} of {all} real inputs are accepted",
            target.name
        );
    }
}

#[test]
fn allocations_are_counted_at_their_peak() {
    let ((), peak) = allocation::peak_of(|| {
        drop(std::hint::black_box(vec![0u8; 10_000]));
        drop(std::hint::black_box(vec![0u8; 20_000]));
    });
    assert!((20_000..21_000).contains(&peak), "{peak}");
}
