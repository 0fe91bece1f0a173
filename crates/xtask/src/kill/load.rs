//! Senders: one message in flight each, until the server is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cometmq_protocol::message::record::body_crc;
use cometmq_remoting::RemotingError;
use tokio::sync::watch;
use tokio::time::sleep;

use super::body::Bodies;
use super::ledger::{Acknowledged, Ledger};
use crate::wire::{Sent, Wire};

/// Pause before the next attempt after a refusal, or while nobody listens.
const PAUSE: Duration = Duration::from_millis(2);

/// What the senders of one life of the server share.
#[derive(Clone)]
pub(super) struct Round {
    address: Arc<str>,
    topic: &'static str,
    queues: i32,
    accepted: Arc<watch::Sender<Option<Instant>>>,
    killed: Arc<AtomicBool>,
}

impl Round {
    /// Nothing is sent yet.
    pub(super) fn new(address: String, topic: &'static str, queues: i32) -> Round {
        let accepted = Arc::new(watch::Sender::new(None));
        Round { address: address.into(), topic, queues, accepted, killed: Arc::default() }
    }

    /// Ready with the moment in which the first send was accepted.
    pub(super) async fn first_accepted(&self) -> Instant {
        let mut accepted = self.accepted.subscribe();
        let moment = accepted.wait_for(Option::is_some).await;
        moment.ok().and_then(|moment| *moment).expect("`self` holds the sender, and the value was waited for")
    }

    /// From now on a broken connection is what was to be expected.
    pub(super) fn announce_kill(&self) {
        self.killed.store(true, Ordering::Release);
    }

    fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    fn accept(&self) {
        self.accepted.send_if_modified(|moment| {
            let first = moment.is_none();
            if first {
                *moment = Some(Instant::now());
            }
            first
        });
    }
}

/// What one sender saw, or all together.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acknowledged: Vec<Acknowledged>,
    /// Sends that were answered, but not accepted.
    pub(super) refused: u64,
    /// What must not happen while the server lives.
    pub(super) problems: Vec<String>,
}

impl Tally {
    /// Adds what a sender saw in `round`; the acknowledgements go to the ledger.
    pub(super) fn add(&mut self, sender: Tally, ledger: &mut Ledger, round: u32) {
        self.refused += sender.refused;
        self.problems.extend(sender.problems.into_iter().map(|problem| format!("round {round}: {problem}")));
        sender.acknowledged.into_iter().for_each(|acknowledged| ledger.enter(acknowledged));
    }
}

/// Sends until the server is gone.
pub(super) async fn send_until_killed(round: Round, sender: u32, mut bodies: Bodies) -> Tally {
    let mut tally = Tally::default();
    let Some(wire) = connect(&round).await else { return tally };
    let mut queue = sender.cast_signed() % round.queues;
    loop {
        queue = (queue + 1) % round.queues;
        let body = bodies.next();
        let (bytes, crc) = (body.len(), body_crc(&body));
        match wire.send(round.topic, queue, body).await {
            Ok(Sent::Stored(stored)) => {
                round.accept();
                tally.acknowledged.push(Acknowledged { stored, bytes, crc });
            }
            Ok(Sent::Refused(reason)) => {
                if tally.refused == 0 {
                    eprintln!("refused: {reason}");
                }
                tally.refused += 1;
                sleep(PAUSE).await;
            }
            Err(RemotingError::Closed { .. }) if round.is_killed() => return tally,
            Err(error) => {
                tally.problems.push(error.to_string());
                return tally;
            }
        }
    }
}

async fn connect(round: &Round) -> Option<Wire> {
    while !round.is_killed() {
        if let Ok(wire) = Wire::connect(&round.address).await {
            return Some(wire);
        }
        sleep(PAUSE).await;
    }
    None
}
