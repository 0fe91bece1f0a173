//! Seeds that once found a bug, under the name of the law that it broke, and the proof that a seed is a run.

/// Runs a seed and shows what it found.
fn holds(seed: u64) -> cometmq_sim::Outcome {
    cometmq_sim::run(seed).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn the_same_seed_gives_the_same_trace_twice() {
    for seed in 1..25 {
        let (first, second) = (holds(seed), holds(seed));
        assert_eq!(first, second, "seed {seed}");
    }
    assert_ne!(holds(1).hash, holds(2).hash);
}

#[test]
fn whoever_watches_sees_something() {
    let outcomes: Vec<_> = (100..140).map(holds).collect();
    let sum = |count: fn(&cometmq_sim::Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    assert!(sum(|outcome| outcome.acknowledged) > 1000);
    assert!(sum(|outcome| u64::from(outcome.starts)) > 40, "brokers end and start again");
}

/// What a killed process had handed to the kernel was taken for durable: a power cut after the restart made a hole in
/// the log, behind which all that was stored later was out of reach.
#[test]
fn what_a_killed_process_left_with_the_kernel_is_made_durable_before_more_is_stored() {
    for seed in [5, 13, 50] {
        holds(seed);
    }
}

/// The name of a segment that a killed process had made was not durable either.
#[test]
fn a_segment_that_a_killed_process_made_has_a_durable_name_before_more_is_stored() {
    holds(10646);
}

/// Segments behind the end were removed from the first to the last: a crash in between left a gap, and a store that does
/// not open.
#[test]
fn a_crash_while_segments_behind_the_end_are_removed_leaves_no_gap() {
    holds(11641);
}

/// An offset that a power cut left behind its queue's end was taken back in memory only: after another crash the queue
/// had grown past it, and the group missed what lay between.
#[test]
fn an_offset_taken_back_at_a_start_stays_so_after_the_next_one() {
    holds(1399);
}

/// A start that was killed while it erased a torn tail left a segment that was too short: the store never opened again.
#[test]
fn a_store_opens_whose_start_was_killed_while_it_erased_a_torn_tail() {
    for seed in [600, 9732] {
        holds(seed);
    }
}

/// The offset of a queue that lost all of its messages was kept: the group missed the first ones of its new life.
#[test]
fn an_offset_of_a_queue_that_lost_everything_is_taken_back_to_its_beginning() {
    for seed in [1107, 1497, 1550, 2023] {
        holds(seed);
    }
}
