//! The law: everything acknowledged is where it was said to be, whole, and every queue is dense from 0 on.
//!
//! Values only; who sends ([`super::load`]) and reads ([`super::verify`]) is elsewhere. Messages that were stored but never acknowledged are fine, as long as
//! they are whole and there once: the kill came between storing and answering.

use std::collections::{BTreeMap, HashSet};

use cometmq_protocol::message::{RecordError, RecordView};

use super::body;
use crate::wire::Stored;

/// Findings that are told in words.
const EXAMPLES_MAX: usize = 10;

/// A send that was answered with success, or a message that a consumer read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// What the broker answered.
    pub(super) stored: Stored,
    /// Length of the body.
    pub(super) bytes: usize,
    /// CRC of the body.
    pub(super) crc: u32,
}

/// All acknowledged and consumed messages by queue and offset.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    queues: BTreeMap<i32, BTreeMap<i64, Acknowledged>>,
    acknowledged: u64,
    /// Offsets that were given away twice: the first message is lost.
    reused: Vec<String>,
}

impl Ledger {
    /// Enters an acknowledgement.
    pub(super) fn enter(&mut self, acknowledged: Acknowledged) {
        self.acknowledged += 1;
        self.observe(acknowledged);
    }

    /// Enters what a consumer read: from then on it must be there, too.
    pub(super) fn observe(&mut self, observed: Acknowledged) {
        let Stored { queue, offset, .. } = observed.stored;
        let first = self.queues.entry(queue).or_default().entry(offset).or_insert(observed);
        if *first != observed {
            self.reused.push(format!("lost: queue {queue} offset {offset} was given to two messages"));
        }
    }

    /// Every entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Acknowledged> {
        self.queues.values().flat_map(BTreeMap::values)
    }

    /// How many were entered.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }
}

/// What is not as it should be.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Acknowledged messages that are not where they were said to be.
    pub(super) lost: u64,
    /// Records that are not whole.
    pub(super) corrupt: u64,
    /// Offsets of queues without a message.
    pub(super) holes: u64,
    /// Messages that are there twice.
    pub(super) duplicates: u64,
    /// The first few in words.
    pub(super) examples: Vec<String>,
    read: u64,
}

impl Findings {
    /// Whether nothing was found.
    pub(super) fn is_clean(&self) -> bool {
        self.lost + self.corrupt + self.holes + self.duplicates == 0
    }

    /// In one line.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} read, {} lost, {} corrupt, {} holes, {} duplicate",
            self.read, self.lost, self.corrupt, self.holes, self.duplicates
        )
    }

    fn note(&mut self, example: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }
}

/// One reading of all queues, each from some offset on in order.
pub(super) struct ReadBack<'a> {
    ledger: &'a Ledger,
    findings: Findings,
    identities: HashSet<(u32, u32, u32)>,
    /// Acknowledged offsets of the current queue that were read.
    seen: HashSet<i64>,
}

impl<'a> ReadBack<'a> {
    /// Nothing is read yet.
    pub(super) fn new(ledger: &'a Ledger) -> ReadBack<'a> {
        let mut findings = Findings { lost: ledger.reused.len() as u64, ..Findings::default() };
        ledger.reused.iter().for_each(|reused| findings.note(|| reused.clone()));
        ReadBack { ledger, findings, identities: HashSet::new(), seen: HashSet::new() }
    }

    /// Takes the record that was read where `expected` should be; returns the offset that must follow.
    pub(super) fn record(&mut self, queue: i32, expected: i64, record: &RecordView<'_>) -> i64 {
        let offset = record.queue_offset.0;
        let findings = &mut self.findings;
        findings.read += 1;
        if offset != expected || record.queue_id.0 != queue {
            findings.holes += offset.abs_diff(expected).max(1);
            let found = record.queue_id.0;
            findings.note(|| format!("hole: queue {queue} has queue {found} offset {offset} at {expected}"));
        }
        match body::identity(record.body).filter(|_| record.check_body().is_ok()) {
            None => {
                findings.corrupt += 1;
                findings.note(|| format!("corrupt: queue {queue} offset {offset}"));
            }
            Some(identity) if !self.identities.insert(identity) => {
                findings.duplicates += 1;
                findings.note(|| format!("duplicate: queue {queue} offset {offset} repeats {identity:?}"));
            }
            Some(_) => {}
        }
        if let Some(entry) = self.ledger.queues.get(&queue).and_then(|entries| entries.get(&offset)) {
            let found = (record.body.len(), record.body_crc, record.log_offset);
            // A message that is not the acknowledged one stays unseen, and is counted as lost.
            if found == (entry.bytes, entry.crc, entry.stored.log_offset) {
                self.seen.insert(offset);
            } else {
                findings.note(|| format!("other: queue {queue} offset {offset} has {found:?} for {entry:?}"));
            }
        }
        offset.max(expected) + 1
    }

    /// Something that is no record was read where `expected` should be.
    pub(super) fn unreadable(&mut self, queue: i32, expected: i64, error: &RecordError) {
        self.findings.corrupt += 1;
        self.findings.note(|| format!("corrupt: queue {queue} offset {expected}: {error}"));
    }

    /// The queue was read from `first` and could be read up to `next`; the broker says that it ends at `end`.
    pub(super) fn queue_ends(&mut self, queue: i32, first: i64, next: i64, end: i64) {
        if next != end {
            self.findings.holes += next.abs_diff(end);
            self.findings
                .note(|| format!("hole: queue {queue} could be read up to {next}, but ends at {end}"));
        }
        let entries = self.ledger.queues.get(&queue);
        for (offset, entry) in entries.into_iter().flat_map(|entries| entries.range(first..)) {
            if !self.seen.contains(offset) {
                self.findings.lost += 1;
                self.findings.note(|| format!("lost: queue {queue} offset {offset}, {entry:?}"));
            }
        }
        self.seen.clear();
    }

    /// What was found.
    pub(super) fn finish(self) -> Findings {
        self.findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use cometmq_protocol::message::Record;
    use cometmq_protocol::message::record::body_crc;
    use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};

    use crate::torture::body::Bodies;

    fn stored_record(offset: i64, body: &[u8]) -> BytesMut {
        let host = "127.0.0.1:10911".parse().unwrap();
        let record = Record { born_timestamp: Millis(0), ..Record::plain("kill", QueueId(0), host, body) };
        let mut out = BytesMut::new();
        record.encode(QueueOffset(offset), LogOffset(offset * 1000), Millis(0), &mut out);
        out
    }

    /// Three acknowledged messages of queue 0, and the bodies that were sent.
    fn ledger() -> (Ledger, Vec<Bytes>) {
        let mut bodies = Bodies::new(1, 1, 1, 4096);
        let bodies: Vec<Bytes> = (0..3).map(|_| bodies.next()).collect();
        let mut ledger = Ledger::default();
        for (offset, body) in (0..).zip(&bodies) {
            let stored = Stored { queue: 0, offset, log_offset: LogOffset(offset * 1000) };
            ledger.enter(Acknowledged { stored, bytes: body.len(), crc: body_crc(body) });
        }
        (ledger, bodies)
    }

    /// Lost, corrupt, holes, duplicates after reading these records and the end.
    fn check(ledger: &Ledger, records: &[BytesMut], end: i64) -> (u64, u64, u64, u64) {
        let mut read_back = ReadBack::new(ledger);
        let mut next = 0;
        for record in records {
            next = read_back.record(0, next, &RecordView::decode(record).unwrap());
        }
        read_back.queue_ends(0, 0, next, end);
        let findings = read_back.finish();
        assert_eq!(findings.is_clean(), findings.examples.is_empty(), "{:?}", findings.examples);
        (findings.lost, findings.corrupt, findings.holes, findings.duplicates)
    }

    fn all(bodies: &[Bytes]) -> Vec<BytesMut> {
        (0..).zip(bodies).map(|(offset, body)| stored_record(offset, body)).collect()
    }

    #[test]
    fn what_was_never_acknowledged_may_be_there() {
        let (ledger, bodies) = ledger();
        assert_eq!(check(&ledger, &all(&bodies), 3), (0, 0, 0, 0));
        let mut more = all(&bodies);
        more.push(stored_record(3, &Bodies::new(1, 2, 9, 4096).next()));
        assert_eq!(check(&ledger, &more, 4), (0, 0, 0, 0));
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let (ledger, bodies) = ledger();
        assert_eq!(check(&ledger, &all(&bodies)[..2], 2), (1, 0, 0, 0));
        let without_second = [all(&bodies)[0].clone(), all(&bodies)[2].clone()];
        assert_eq!(check(&ledger, &without_second, 3), (1, 0, 1, 0));
        assert_eq!(check(&ledger, &all(&bodies)[..2], 3), (1, 0, 1, 0));
        let mut another = all(&bodies);
        another[2] = stored_record(2, &Bodies::new(1, 2, 9, 4096).next());
        assert_eq!(check(&ledger, &another, 3), (1, 0, 0, 0));
    }

    #[test]
    fn damage_and_repetition_are_found() {
        let (ledger, bodies) = ledger();
        let mut damaged = all(&bodies);
        let body_at = damaged[1].len() - "kill".len() - 3 - 1;
        damaged[1][body_at] ^= 1;
        assert_eq!(check(&ledger, &damaged, 3), (0, 1, 0, 0));
        let mut repeated = all(&bodies);
        repeated.push(stored_record(3, &bodies[0]));
        assert_eq!(check(&ledger, &repeated, 4), (0, 0, 0, 1));
    }

    #[test]
    fn an_offset_given_away_twice_is_a_loss() {
        let (mut ledger, bodies) = ledger();
        let same = *ledger.entries().next().unwrap();
        ledger.observe(same);
        assert_eq!(check(&ledger, &all(&bodies), 3), (0, 0, 0, 0));
        let stored = Stored { queue: 0, offset: 2, log_offset: LogOffset(2000) };
        ledger.enter(Acknowledged { stored, bytes: bodies[1].len(), crc: body_crc(&bodies[1]) });
        assert_eq!(check(&ledger, &all(&bodies), 3), (1, 0, 0, 0));
    }
}
