//! Power cuts, kills and failing calls: whatever happens, after recovery each key leads to its messages and no others.

use cometmq_protocol::Millis;
use cometmq_store::disk::{Chance, Crash, Fault};
use cometmq_store::{AppendError, FlushPolicy, MemoryDisk, Store};

use crate::keyed::{append, assert_all_found, catch_up, keyed, open, options};

/// One life of a broker: appends, writes, syncs and flushes as chance has it.
fn live(store: &Store, chance: &mut Chance, number: &mut u64) {
    for _ in 0..chance.below(80) {
        match chance.below(10) {
            0..=5 => {
                *number += 1;
                // `Aa` and `BB` have one hash.
                let keys = ["", "Aa", "BB", "Aa BB", "one two three", "Aa Aa"][chance.below(6) as usize];
                let text = keyed(&format!("U{number}"), keys);
                match append(store, &text, Millis(1000 + *number as i64 * 700)) {
                    Ok(_) => {}
                    Err(AppendError::ReadOnly(_)) => return,
                    Err(error) => panic!("{error}"),
                }
            }
            6 | 7 => store.write(&mut Vec::new()),
            8 => drop(store.sync(&mut Vec::new())),
            _ => drop(store.flush()),
        }
    }
}

fn lives(flush: FlushPolicy, seeds: u64, crash: impl Fn(u64) -> Crash) {
    for seed in 0..seeds {
        let mut chance = Chance::of(seed);
        let mut disk = MemoryDisk::new();
        let mut number = 0;
        for life in 0..5 {
            let store = open(&disk, options(flush));
            if chance.below(3) > 0 {
                catch_up(&store);
                assert_all_found(&store, &format!("seed {seed}, life {life}"));
            }
            live(&store, &mut chance, &mut number);
            if chance.below(4) == 0 {
                store.close().unwrap();
            }
            drop(store);
            disk = disk.crash(crash(seed * 31 + life));
        }
        let store = open(&disk, options(flush));
        catch_up(&store);
        assert_all_found(&store, &format!("seed {seed}, at last"));
    }
}

#[test]
fn power_cuts_lose_no_key_of_a_message_that_is_there() {
    lives(FlushPolicy::Sync, 120, Crash::Seeded);
    lives(FlushPolicy::Async, 120, Crash::Seeded);
}

#[test]
fn kills_lose_no_key() {
    lives(FlushPolicy::Async, 60, |_| Crash::KeepAll);
    lives(FlushPolicy::Sync, 40, |_| Crash::LoseAll);
}

#[test]
fn whichever_call_fails_no_key_is_lost() {
    for fault in [Fault::Io, Fault::Full, Fault::Short] {
        for n in (1..300).step_by(3) {
            let disk = MemoryDisk::new();
            let mut number = 0;
            let store = open(&disk, options(FlushPolicy::Sync));
            live(&store, &mut Chance::of(n), &mut number);
            disk.fail_nth(n, fault);
            live(&store, &mut Chance::of(n + 1000), &mut number);
            // What did not fail by now does not.
            disk.heal();
            assert_all_found(&store, &format!("{fault:?} at call {n}"));
            // The disk works again: what was not written is written now.
            drop(store.flush());
            live(&store, &mut Chance::of(n + 2000), &mut number);
            drop(store.close());
            drop(store);
            for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Seeded(n)] {
                let store = open(&disk.crash(crash), options(FlushPolicy::Sync));
                catch_up(&store);
                assert_all_found(&store, &format!("{fault:?} at call {n}, {crash:?}"));
            }
        }
    }
}

#[test]
fn a_call_that_fails_at_opening_is_an_error_or_does_no_harm() {
    for n in 1..120 {
        let disk = MemoryDisk::new();
        let mut number = 0;
        let store = open(&disk, options(FlushPolicy::Async));
        for seed in 0..3 {
            live(&store, &mut Chance::of(seed), &mut number);
        }
        drop(store);
        let disk = disk.crash(Crash::Seeded(n));
        disk.fail_nth(n, Fault::Io);
        drop(Store::open(std::sync::Arc::new(disk.clone()), options(FlushPolicy::Async)));
        let store = open(&disk.crash(Crash::Seeded(n + 1)), options(FlushPolicy::Async));
        catch_up(&store);
        assert_all_found(&store, &format!("call {n}"));
    }
}
