//! Each planted bug is found within the seeds that every test run has, and the same seeds hold without it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cometmq_sim::{crash_states, run};
use cometmq_store::planted::{Bug, plant};

/// Seeds that a bug may hide in at most: as many as `cargo xtask test` runs.
const SEEDS_MAX: u64 = 1000;

/// The first seed that finds a bug, and how.
fn found(bug: Bug) -> Option<(u64, String)> {
    plant(Some(bug));
    let found = (0..SEEDS_MAX).find_map(|seed| {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed)));
        match outcome {
            Ok(Ok(_)) => None,
            Ok(Err(failure)) => Some((seed, failure.what)),
            Err(_) => Some((seed, "a panic".to_owned())),
        }
    });
    plant(None);
    found
}

#[test]
#[ignore = "takes minutes in a debug build; the gate runs it: cargo xtask test --part sim"]
fn each_planted_bug_is_found_and_the_seed_that_finds_it_holds_without() {
    check(&Bug::ALL);
}

#[test]
fn bugs_that_a_few_seeds_find_are_found() {
    check(&[Bug::AckBeforeWrite, Bug::AckBeforeSync, Bug::OffsetRolledBack, Bug::CheckpointAheadOfQueues]);
}

fn check(bugs: &[Bug]) {
    let mut hidden = Vec::new();
    for &bug in bugs {
        match found(bug) {
            Some((seed, what)) => {
                println!("{bug:?}: seed {seed}: {what}");
                run(seed).unwrap_or_else(|failure| panic!("without {bug:?}: {failure}"));
            }
            None => hidden.push(bug),
        }
    }
    assert!(hidden.is_empty(), "not found within {SEEDS_MAX} seeds: {hidden:?}");
}

#[test]
fn crash_states_find_a_directory_that_is_not_synced() {
    plant(Some(Bug::DirectoryNotSynced));
    let found = (0..20).any(|seed| crash_states::explore(seed).is_err());
    plant(None);
    assert!(found);
}
