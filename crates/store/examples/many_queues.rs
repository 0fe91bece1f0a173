//! What very many queues cost: `cargo run --release -p cometmq-store --example many_queues -- DIRECTORY [TOPICS QUEUES]`.
//!
//! Prints the rate of appends to few queues in an empty store; writes one message to each queue of each topic; prints
//! the rate again for 1,000 of them, with memory and open files at their highest; and how long it takes to open the
//! store as a kill would have left it. The directory must be empty and is left as it is: a queue takes about 9 KB.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cometmq_protocol::message::Record;
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{Millis, QueueId};
use cometmq_store::{RealDisk, Store, StoreOptions};

/// A record has about 200 bytes.
const BODY: [u8; 100] = [b'x'; 100];
const HOT_QUEUES: usize = 1000;
/// Rounds of each kind in a comparison, and how long one takes.
const ROUNDS: u32 = 6;
const ROUND_TIME: Duration = Duration::from_secs(1);
/// Longest wait for the queues to be written and unloaded.
const SETTLE_TIME: Duration = Duration::from_secs(900);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: usize| arguments.get(at).map_or(or, |text| text.parse().unwrap());
    let (root, topics, queues) = (Path::new(&arguments[0]), number(1, 10_000), number(2, 100));
    let store = Store::open(Arc::new(RealDisk), StoreOptions::new(root)).unwrap().0;
    let (ends, seen) = (AtomicBool::new(false), Seen::default());
    std::thread::scope(|scope| {
        scope.spawn(|| sync_loop(&store, &ends));
        scope.spawn(|| flush_loop(&store, &ends, &seen));
        fill_and_measure(&store, &seen, topics, queues);
        ends.store(true, Ordering::Relaxed);
    });
    // Not closed: as a kill leaves it.
    drop(store);
    let began = Instant::now();
    let (store, report) = Store::open(Arc::new(RealDisk), StoreOptions::new(root)).unwrap();
    let took = began.elapsed().as_secs_f64();
    let (scanned, records) = ((report.end - report.scanned_from) >> 20, report.records);
    println!(
        "opened in {took:.3} s: {scanned} MiB with {records} records in {} queues scanned",
        report.queues
    );
    let began = Instant::now();
    let last = store.queue(&format!("Topic{}", topics - 1), QueueId(queues as i32 - 1)).unwrap().unwrap();
    assert!(last.max().0 > 0, "it is found again");
    println!("a cold queue loaded in {:.6} s", began.elapsed().as_secs_f64());
}

fn fill_and_measure(store: &Store, seen: &Seen, topics: usize, queues: usize) {
    let name = |number: usize| TopicName::parse(&format!("Topic{number}")).unwrap();
    let hot: Vec<(TopicName, QueueId)> =
        (0..HOT_QUEUES).map(|n| (name(n % topics), QueueId((n / topics) as i32))).collect();
    let few: Vec<(TopicName, QueueId)> =
        (0..8).map(|n| (TopicName::parse("Few").unwrap(), QueueId(n))).collect();
    println!("before: {}", compare(store, seen, &few, &few));
    let began = Instant::now();
    for queue in 0..queues {
        for topic in 0..topics {
            append(store, &name(topic), QueueId(queue as i32));
        }
    }
    let (seconds, loaded) = (began.elapsed().as_secs_f64(), store.loaded_queues());
    println!("{} queues: {seconds:.1} s, {loaded} in memory, {}", queues * topics, seen.tell());
    println!("at once: {}", compare(store, seen, &few, &hot));
    while store.loaded_queues() > 2 * HOT_QUEUES && began.elapsed() < SETTLE_TIME {
        append_for(store, &hot, ROUND_TIME);
        std::thread::sleep(ROUND_TIME);
    }
    println!("in files and unloaded after {:.1} s, {}", began.elapsed().as_secs_f64(), seen.tell());
    println!("later: {}", compare(store, seen, &few, &hot));
}

/// Appends to the ones and to the others in turn: what else the machine does harms both alike.
fn compare(store: &Store, seen: &Seen, few: &[(TopicName, QueueId)], hot: &[(TopicName, QueueId)]) -> String {
    let (mut few_rate, mut hot_rate) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        few_rate += append_for(store, few, ROUND_TIME) / f64::from(ROUNDS);
        hot_rate += append_for(store, hot, ROUND_TIME) / f64::from(ROUNDS);
    }
    let ratio = hot_rate / few_rate;
    let (few, hot) = (few.len(), hot.len());
    format!("{few_rate:.0} appends/s to {few}, {hot_rate:.0} to {hot}: {ratio:.2}; {}", seen.tell())
}

fn append(store: &Store, topic: &TopicName, id: QueueId) {
    let host = "127.0.0.1:10911".parse().unwrap();
    let record = Record::plain(topic.as_str(), id, host, &BODY);
    let mut placed = Vec::with_capacity(1);
    loop {
        let queue = store.queue_or_create(topic, id).unwrap();
        if store.append(&queue, &[record], &[0], Millis(1), &mut placed).is_ok() {
            return store.write(&mut Vec::new());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Appends to the queues in turn; returns messages per second.
fn append_for(store: &Store, queues: &[(TopicName, QueueId)], time: Duration) -> f64 {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        for (topic, id) in queues {
            append(store, topic, *id);
        }
        count += queues.len();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

fn sync_loop(store: &Store, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(500));
        store.sync(&mut Vec::new()).unwrap();
    }
}

/// What was seen at the flushes since it was last told.
#[derive(Default)]
struct Seen {
    flush_ms_max: AtomicU64,
    rss_kib_max: AtomicU64,
    files_max: AtomicU64,
}

impl Seen {
    fn tell(&self) -> String {
        let take = |value: &AtomicU64| value.swap(0, Ordering::Relaxed);
        let (flush, rss, files) = (take(&self.flush_ms_max), take(&self.rss_kib_max), take(&self.files_max));
        format!("at most {} MiB, {files} open files, {flush} ms for a flush", rss >> 10)
    }
}

fn flush_loop(store: &Store, ends: &AtomicBool, seen: &Seen) {
    let start = Instant::now();
    while !ends.load(Ordering::Relaxed) {
        let began = Instant::now();
        store.flush_due(Millis(start.elapsed().as_millis() as i64)).unwrap();
        seen.flush_ms_max.fetch_max(began.elapsed().as_millis() as u64, Ordering::Relaxed);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
        seen.rss_kib_max.fetch_max(kib, Ordering::Relaxed);
        let files = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        seen.files_max.fetch_max(files, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
    }
}
