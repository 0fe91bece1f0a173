//! Load on a broker that may die, refuse or stall: senders with one message in flight each, consumers that read along.
//!
//! What was acknowledged and what was read is kept; a reply that does not come in [`crate::wire`]'s time is a problem,
//! so nothing here can wait without progress. Whether what was kept is still there is [`super::ledger`]'s law.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cometmq_protocol::message::properties::{self, key};
use cometmq_protocol::message::record::{body_crc, records};
use cometmq_remoting::RemotingError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::body::{self, Bodies};
use super::latency::Latencies;
use super::ledger::{Acknowledged, Ledger};
use crate::wire::{Sent, Stored, Wire};

/// Pause before the next attempt after a refusal, or while nobody listens.
const PAUSE: Duration = Duration::from_millis(2);
/// Pause of a consumer that found nothing.
const CONSUMER_PAUSE: Duration = Duration::from_millis(5);
/// Longest that senders may take to notice that the server is gone, or to get their last reply.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Different refusals that are kept; bounds memory should each have another text.
const REFUSALS_MAX: usize = 32;

/// What is sent, by how many, how fast.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// The broker.
    pub(super) address: String,
    /// Topic.
    pub(super) topic: &'static str,
    /// Its queues.
    pub(super) queues: i32,
    /// Senders, each with one message in flight.
    pub(super) senders: u32,
    /// Consumers, which share the queues.
    pub(super) consumers: u32,
    /// Most random bytes of a body, a power of two.
    pub(super) fill_bytes_max: u64,
    /// Pause of each sender after each reply.
    pub(super) pause: Duration,
    /// Distinguishes this load's messages from those of others in the same run.
    pub(super) round: u32,
    /// Of sizes and bytes.
    pub(super) seed: u64,
    /// Whether a lost connection is made again; else it is a problem before [`Running::expect_kill`].
    pub(super) reconnects: bool,
    /// Whether a message has two keys: its sender's, and one of its own.
    pub(super) keyed: bool,
}

impl Load {
    /// Four senders as fast as they can, small and middle-sized messages.
    pub(super) fn new(address: String, topic: &'static str, queues: i32) -> Load {
        Load {
            address,
            topic,
            queues,
            senders: 4,
            consumers: 0,
            fill_bytes_max: 4096,
            pause: Duration::ZERO,
            round: 0,
            seed: 0,
            reconnects: false,
            keyed: false,
        }
    }

    /// Starts it. `read` is where the consumers are, by queue; they move it on.
    pub(super) fn start(&self, read: &Positions) -> Running {
        let shared = Arc::new(Shared {
            load: self.clone(),
            accepted: watch::Sender::new(None),
            killed: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            acknowledged: AtomicI64::new(0),
            refused: AtomicI64::new(0),
        });
        let mut tasks = JoinSet::new();
        for sender in 0..self.senders {
            let seed = self.seed.wrapping_add(u64::from(sender)).wrapping_mul(0x9E37_79B9);
            let bodies = Bodies::new(self.round, sender, seed, self.fill_bytes_max);
            tasks.spawn(send(Arc::clone(&shared), sender, bodies));
        }
        for consumer in 0..self.consumers {
            tasks.spawn(consume(Arc::clone(&shared), consumer.cast_signed(), read.clone()));
        }
        Running { shared, tasks }
    }
}

/// Where consumers are, by queue.
#[derive(Clone, Debug)]
pub(super) struct Positions(Arc<Vec<AtomicI64>>);

impl Positions {
    /// All at the beginning.
    pub(super) fn new(queues: i32) -> Positions {
        Positions::at(queues, 0)
    }

    /// All at this offset.
    pub(super) fn at(queues: i32, offset: i64) -> Positions {
        Positions(Arc::new((0..queues).map(|_| AtomicI64::new(offset)).collect()))
    }

    fn get(&self, queue: i32) -> i64 {
        self.0[queue as usize].load(Ordering::Relaxed)
    }

    fn set(&self, queue: i32, offset: i64) {
        self.0[queue as usize].store(offset, Ordering::Relaxed);
    }
}

struct Shared {
    load: Load,
    accepted: watch::Sender<Option<Instant>>,
    killed: AtomicBool,
    ending: AtomicBool,
    acknowledged: AtomicI64,
    refused: AtomicI64,
}

impl Shared {
    /// Nobody begins anything more.
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// A broken connection is what was to be expected.
    fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire) || self.is_ending()
    }

    fn accept(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.accepted.send_if_modified(|moment| {
            let first = moment.is_none();
            if first {
                *moment = Some(Instant::now());
            }
            first
        });
    }
}

/// A load under way. Its tasks end when this is dropped.
pub(super) struct Running {
    shared: Arc<Shared>,
    tasks: JoinSet<Tally>,
}

impl Running {
    /// Ready with the moment in which the first send was accepted.
    pub(super) async fn first_accepted(&self) -> Instant {
        let mut accepted = self.shared.accepted.subscribe();
        let moment = accepted.wait_for(Option::is_some).await;
        moment.ok().and_then(|moment| *moment).expect("`self` holds the sender, and the value was waited for")
    }

    /// Sends accepted so far.
    pub(super) fn acknowledged(&self) -> i64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Sends refused so far.
    pub(super) fn refused(&self) -> i64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// From now on a broken connection is what was to be expected, and ends whoever had it. Until then all go on.
    pub(super) fn expect_kill(&self) {
        self.shared.killed.store(true, Ordering::Release);
    }

    /// Everyone ends after the reply in flight.
    pub(super) fn expect_end(&self) {
        self.shared.ending.store(true, Ordering::Release);
    }

    /// Waits until everyone has ended and adds what they saw to `tally`; acknowledgements go to the ledger.
    pub(super) async fn finish(mut self, ledger: &mut Ledger, tally: &mut Tally) -> Result<()> {
        self.expect_end();
        self.expect_kill();
        let round = self.shared.load.round;
        let join = async {
            while let Some(one) = self.tasks.join_next().await {
                tally.add(one?, ledger, round);
            }
            anyhow::Ok(())
        };
        timeout(END_LIMIT, join).await.context("a sender or consumer still waits, without progress")?
    }
}

/// What one task saw, or all together.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acknowledged: Vec<Acknowledged>,
    observed: Vec<Acknowledged>,
    /// Time of each accepted send.
    pub(super) latencies: Latencies,
    /// Sends that were answered, but not accepted.
    pub(super) refused: u64,
    /// Why, and how often.
    pub(super) refusals: BTreeMap<String, u64>,
    /// Messages that consumers read.
    pub(super) consumed: u64,
    /// What must not happen while the server lives.
    pub(super) problems: Vec<String>,
}

impl Tally {
    fn add(&mut self, one: Tally, ledger: &mut Ledger, round: u32) {
        self.refused += one.refused;
        self.consumed += one.consumed;
        self.latencies.extend(&one.latencies);
        for (reason, times) in one.refusals {
            self.note_refusal(reason, times);
        }
        self.problems.extend(one.problems.into_iter().map(|problem| format!("round {round}: {problem}")));
        one.acknowledged.into_iter().for_each(|entry| ledger.enter(entry));
        one.observed.into_iter().for_each(|entry| ledger.observe(entry));
    }

    fn note_refusal(&mut self, reason: String, times: u64) {
        if self.refusals.len() < REFUSALS_MAX || self.refusals.contains_key(&reason) {
            *self.refusals.entry(reason).or_default() += times;
        }
    }
}

async fn send(shared: Arc<Shared>, sender: u32, mut bodies: Bodies) -> Tally {
    let mut tally = Tally::default();
    let load = &shared.load;
    let mut queue = sender.cast_signed() % load.queues;
    'connection: while let Some(wire) = connect(&shared).await {
        loop {
            if shared.is_ending() {
                return tally;
            }
            queue = (queue + 1) % load.queues;
            let body = bodies.next();
            let (bytes, crc) = (body.len(), body_crc(&body));
            let mut properties = String::new();
            if load.keyed {
                let keys = format!("s{sender} r{}s{sender}n{}", load.round, tally.acknowledged.len());
                properties::push(&mut properties, key::KEYS, &keys);
            }
            let start = Instant::now();
            match wire.send_with(load.topic, queue, body, &properties).await {
                Ok(Sent::Stored(stored)) => {
                    tally.latencies.push(start.elapsed());
                    shared.accept();
                    tally.acknowledged.push(Acknowledged { stored, bytes, crc });
                    if !load.pause.is_zero() {
                        sleep(load.pause).await;
                    }
                }
                Ok(Sent::Refused(reason)) => {
                    shared.refused.fetch_add(1, Ordering::Relaxed);
                    tally.refused += 1;
                    tally.note_refusal(reason, 1);
                    sleep(PAUSE.max(load.pause)).await;
                }
                Err(RemotingError::Closed { .. }) if shared.is_killed() => return tally,
                Err(RemotingError::Closed { .. }) if load.reconnects => continue 'connection,
                Err(error) => {
                    tally.problems.push(error.to_string());
                    return tally;
                }
            }
        }
    }
    tally
}

async fn connect(shared: &Shared) -> Option<Wire> {
    while !shared.is_killed() {
        if let Ok(wire) = Wire::connect(&shared.load.address).await {
            return Some(wire);
        }
        sleep(PAUSE).await;
    }
    None
}

/// Reads its share of the queues over and over, and checks what only a reader sees: whole records at dense offsets.
async fn consume(shared: Arc<Shared>, consumer: i32, read: Positions) -> Tally {
    let mut tally = Tally::default();
    let load = &shared.load;
    'connection: while let Some(wire) = connect(&shared).await {
        loop {
            let mut found = false;
            for queue in (0..load.queues).filter(|queue| queue % load.consumers.cast_signed() == consumer) {
                match wire.pull(load.topic, queue, read.get(queue)).await {
                    Ok(page) if page.found => {
                        found = true;
                        take(&mut tally, queue, &read, &page.records);
                    }
                    Ok(_) => {}
                    Err(_) if shared.is_killed() => return tally,
                    Err(_) if load.reconnects => continue 'connection,
                    Err(error) => {
                        tally.problems.push(format!("{error:#}"));
                        return tally;
                    }
                }
            }
            if shared.is_ending() {
                return tally;
            }
            if !found {
                sleep(CONSUMER_PAUSE).await;
            }
        }
    }
    tally
}

fn take(tally: &mut Tally, queue: i32, read: &Positions, page: &[u8]) {
    for record in records(page) {
        let expected = read.get(queue);
        let record = match record {
            Ok(record) if record.check_body().is_ok() && body::identity(record.body).is_some() => record,
            Ok(_) => return tally.problems.push(format!("queue {queue} offset {expected} came damaged")),
            Err(error) => return tally.problems.push(format!("queue {queue} offset {expected}: {error}")),
        };
        let offset = record.queue_offset.0;
        if offset != expected {
            tally.problems.push(format!("queue {queue} gave offset {offset} for {expected}"));
            return;
        }
        tally.consumed += 1;
        tally.observed.push(Acknowledged {
            stored: Stored { queue, offset, log_offset: record.log_offset },
            bytes: record.body.len(),
            crc: record.body_crc,
        });
        read.set(queue, offset + 1);
    }
}
