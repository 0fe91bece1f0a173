//! What the index costs a message: appends with a client's id each, in writes of a few, with and without an index, in
//! turn. Prints CPU time a message of the sender, and of the flushes that a broker makes each second, and the memory
//! that the index takes.
//!
//! ```sh
//! cargo run --release -p cometmq-store --example index_cost -- DIRECTORY [MESSAGES]
//! ```

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::Path;
use std::sync::Arc;

use cometmq_protocol::message::Record;
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{Millis, QueueId};
use cometmq_store::{IndexOptions, RealDisk, Store, StoreOptions};

/// Messages of one write.
const PER_WRITE: usize = 8;
/// Messages between two flushes: those of a busy second.
const PER_FLUSH: usize = 200_000;
/// Of so many rounds the best is told: what else the machine does only ever adds.
const ROUNDS: usize = 3;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("a directory to make the stores in");
    let messages: usize = arguments.next().map_or(2_000_000, |count| count.parse().unwrap());
    let mut best = [[f64::MAX; 2]; 2];
    for round in 0..ROUNDS {
        for (with, best) in best.iter_mut().enumerate() {
            let root = Path::new(&directory).join(format!("{round}-{with}"));
            let index = (with == 1).then(IndexOptions::default);
            let store = Store::open(Arc::new(RealDisk), StoreOptions { index, ..StoreOptions::new(&root) });
            let store = store.unwrap().0;
            println!("idle: {} bytes of memory for the index", store.index_memory_bytes());
            let spent = run(&store, messages);
            println!("busy: {} bytes of memory for the index", store.index_memory_bytes());
            for (best, spent) in best.iter_mut().zip(spent) {
                *best = best.min(spent / messages as f64);
            }
            drop(store);
            std::fs::remove_dir_all(&root).unwrap();
        }
    }
    for (name, [sender, flush]) in ["without index", "with index"].iter().zip(best) {
        println!("{name:>14}: {sender:6.1} ns a message in the sender, {flush:6.1} ns in flushes");
    }
}

/// Nanoseconds of CPU in appends and writes, and in flushes.
fn run(store: &Store, messages: usize) -> [f64; 2] {
    let queue = store.queue_or_create(&TopicName::parse("Benchmark").unwrap(), QueueId(0)).unwrap();
    let host = "127.0.0.1:10911".parse().unwrap();
    let body = [b'x'; 128];
    let mut text = *b"UNIQ_KEY\x017F0000010000567D330BEC7300000000\x02WAIT\x01true\x02TAGS\x01TagA\x02";
    let (mut placed, mut spent) = (Vec::new(), [0.0; 2]);
    for first in (0..messages).step_by(PER_FLUSH) {
        let start = cpu_nanoseconds();
        for number in first..(first + PER_FLUSH).min(messages) {
            // The last eight digits of an id count.
            for (digit, at) in (33..41).rev().enumerate() {
                text[at] = b"0123456789ABCDEF"[number >> (4 * digit) & 15];
            }
            let record = Record {
                properties: [
                    &text,
                    b"CLUSTER\x01DefaultCluster\x02MSG_REGION\x01DefaultRegion\x02TRACE_ON\x01true\x02",
                ],
                ..Record::plain("Benchmark", QueueId(0), host, &body)
            };
            store.append(&queue, &[record], &[0], Millis(1_700_000_000_000), &mut placed).unwrap();
            placed.clear();
            if number % PER_WRITE == PER_WRITE - 1 {
                store.write(&mut Vec::new());
            }
        }
        let middle = cpu_nanoseconds();
        store.sync(&mut Vec::new()).unwrap();
        let synced = cpu_nanoseconds();
        store.flush().unwrap();
        spent[0] += middle - start;
        spent[1] += cpu_nanoseconds() - synced;
    }
    spent
}

/// Time that this thread had a CPU for, whatever else the machine does.
fn cpu_nanoseconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}
