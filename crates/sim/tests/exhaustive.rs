//! The short form of what `cargo xtask sim --crash-states` and `--every-call` do in full.

use cometmq_sim::{crash_states, every_call};

#[test]
fn no_power_cut_of_a_small_workload_takes_what_was_acknowledged() {
    let (mut states, mut seed) = (0, 0);
    while states < 10_000 {
        states += crash_states::explore(seed).unwrap_or_else(|what| panic!("{what}"));
        seed += 1;
    }
}

#[test]
fn whichever_call_fails_in_whichever_way_nothing_acknowledged_is_lost() {
    for (way, (name, _, _)) in every_call::WAYS.iter().enumerate() {
        let calls = every_call::calls(way).unwrap();
        assert!(calls > 5, "{name}: the script makes {calls} such calls");
        for n in (1..=calls).step_by(5) {
            every_call::fail(way, n).unwrap_or_else(|what| panic!("{what}"));
        }
    }
}
