//! What was sent, what was acknowledged, and what every queue must therefore hold.
//!
//! A message is known by its body, which is made from its number: whoever delivers another body, or a part of one, is
//! found out. The truth of a queue is what was acknowledged or delivered from it; once one of both happened, the place
//! belongs to that message until a crash that may take it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::chance::Chance;

/// Bytes of a body that hold its number and its length.
const HEAD_BYTES: usize = 12;

/// A queue of a topic, both by number.
pub type QueueKey = (usize, i32);

/// A message, or several that are sent together.
#[derive(Clone, Debug)]
struct Sent {
    body_bytes: usize,
    topic: usize,
    /// A broker had it in its hands since the ledger was last compared with a store.
    handled: bool,
}

/// A message in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The message.
    pub id: usize,
    /// Its position in the log.
    pub log_offset: i64,
    /// When it was first known to be there, µs.
    pub known_at: u64,
    /// Its sender was told that it is stored.
    pub acknowledged: bool,
}

/// All messages of a run.
#[derive(Debug)]
pub struct Ledger {
    seed: u64,
    /// Names of the topics.
    pub topics: Vec<String>,
    sent: Vec<Sent>,
    queues: BTreeMap<QueueKey, BTreeMap<i64, Place>>,
    /// Requests under way that carry messages: connection and opaque, first message, how many.
    carried: BTreeMap<(u64, i32), (usize, usize)>,
    /// Acknowledged messages that a crash took, as it may.
    pub lost: u64,
    /// Acknowledged messages in all.
    pub acknowledged: u64,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(seed: u64) -> Ledger {
        Ledger {
            seed,
            topics: Vec::new(),
            sent: Vec::new(),
            queues: BTreeMap::new(),
            carried: BTreeMap::new(),
            lost: 0,
            acknowledged: 0,
        }
    }

    /// A new topic.
    pub fn topic(&mut self, name: String) -> usize {
        self.topics.push(name);
        self.topics.len() - 1
    }

    /// A new message of `topic` with a body of about so many bytes.
    pub fn message(&mut self, topic: usize, body_bytes: usize) -> (usize, Bytes) {
        let id = self.sent.len();
        let body_bytes = body_bytes.max(HEAD_BYTES);
        self.sent.push(Sent { body_bytes, topic, handled: false });
        (id, self.body(id))
    }

    /// The body of a message.
    pub fn body(&self, id: usize) -> Bytes {
        let length = self.sent[id].body_bytes;
        let mut body = Vec::with_capacity(length + 8);
        body.extend_from_slice(&(id as u64).to_be_bytes());
        body.extend_from_slice(&(length as u32).to_be_bytes());
        let mut chance = Chance::of(self.seed.wrapping_add(id as u64));
        while body.len() < length {
            body.extend_from_slice(&chance.number().to_be_bytes());
        }
        body.truncate(length);
        body.into()
    }

    /// The message that has this body.
    pub fn identify(&self, body: &[u8], topic: usize) -> Result<usize, String> {
        let head = body.first_chunk::<8>().ok_or("a body shorter than any that was sent")?;
        let id = u64::from_be_bytes(*head) as usize;
        let sent = self.sent.get(id).ok_or_else(|| format!("message {id}, which nobody sent"))?;
        if sent.topic != topic {
            return Err(format!("message {id} in another topic than it was sent to"));
        }
        if self.body(id) != body {
            return Err(format!("message {id} with another body than was sent"));
        }
        Ok(id)
    }

    /// A request that carries `count` messages from `first` on is under way.
    pub fn carry(&mut self, connection: u64, opaque: i32, first: usize, count: usize) {
        self.carried.insert((connection, opaque), (first, count));
    }

    /// A broker has this request in its hands.
    pub fn handled(&mut self, connection: u64, opaque: i32) {
        if let Some((first, count)) = self.carried.remove(&(connection, opaque)) {
            self.sent[first..first + count].iter_mut().for_each(|sent| sent.handled = true);
        }
    }

    /// A sender was told where its message is.
    pub fn acknowledge(
        &mut self,
        queue: QueueKey,
        offset: i64,
        id: usize,
        log_offset: i64,
        now: u64,
    ) -> Result<(), String> {
        self.acknowledged += 1;
        self.put(queue, offset, Place { id, log_offset, known_at: now, acknowledged: true }, "acknowledged")
    }

    /// A consumer got a message.
    pub fn delivered(
        &mut self,
        queue: QueueKey,
        offset: i64,
        id: usize,
        log_offset: i64,
        now: u64,
    ) -> Result<(), String> {
        self.put(queue, offset, Place { id, log_offset, known_at: now, acknowledged: false }, "delivered")
    }

    fn put(&mut self, queue: QueueKey, offset: i64, place: Place, how: &str) -> Result<(), String> {
        let known = self.queues.entry(queue).or_default().entry(offset).or_insert(place);
        if (known.id, known.log_offset) != (place.id, place.log_offset) {
            return Err(format!(
                "message {} {how} at offset {offset} of queue {queue:?} (log {}), which belongs to message {} (log {})",
                place.id, place.log_offset, known.id, known.log_offset
            ));
        }
        known.acknowledged |= place.acknowledged;
        Ok(())
    }

    /// What is known to be in a queue.
    pub fn queue(&self, queue: QueueKey) -> Option<&BTreeMap<i64, Place>> {
        self.queues.get(&queue)
    }

    /// All queues with something in them.
    pub fn queues(&self) -> impl Iterator<Item = (&QueueKey, &BTreeMap<i64, Place>)> {
        self.queues.iter()
    }

    /// Compares with all that a store holds after a start: by queue, the messages from offset 0 on. `lossy`: a power cut
    /// may have taken the end of the log. What the store holds is the truth afterwards.
    pub fn replace(&mut self, found: BTreeMap<QueueKey, Vec<Place>>, lossy: bool) -> Result<(), String> {
        self.compare(&found, lossy)?;
        for (queue, have) in &found {
            let known = self.queues.get(queue);
            for (offset, place) in have.iter().enumerate() {
                let is_known = known.is_some_and(|known| known.contains_key(&(offset as i64)));
                // What was not there at the last start must have been sent since.
                if !is_known && !self.sent[place.id].handled {
                    let id = place.id;
                    return Err(format!(
                        "message {id} came back from the dead at offset {offset} of queue {queue:?}"
                    ));
                }
            }
        }
        self.sent.iter_mut().for_each(|sent| sent.handled = false);
        let numbered =
            |have: Vec<Place>| have.into_iter().enumerate().map(|(n, place)| (n as i64, place)).collect();
        self.queues = found.into_iter().map(|(queue, have)| (queue, numbered(have))).collect();
        Ok(())
    }

    /// Whether everything that is known to be there was found.
    pub fn compare(&mut self, found: &BTreeMap<QueueKey, Vec<Place>>, lossy: bool) -> Result<(), String> {
        let end = found.values().flatten().map(|place| place.log_offset).max().unwrap_or(-1);
        for (queue, known) in &self.queues {
            let have = found.get(queue).map_or(&[][..], Vec::as_slice);
            for (offset, place) in known {
                match have.get(*offset as usize) {
                    Some(there) if (there.id, there.log_offset) == (place.id, place.log_offset) => {}
                    None if lossy && place.log_offset > end => self.lost += u64::from(place.acknowledged),
                    there => {
                        let what = if place.acknowledged { "acknowledged" } else { "delivered" };
                        return Err(format!(
                            "LOST: message {} was {what} at offset {offset} of queue {queue:?} (log {}); there is {there:?}, \
                             the log ends behind {end}",
                            place.id, place.log_offset
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Offsets of a queue that are known to be in use and not in `seen`.
    pub fn unseen(&self, queue: QueueKey, seen: &BTreeSet<i64>) -> Option<i64> {
        let known = self.queues.get(&queue)?;
        known.keys().find(|offset| !seen.contains(*offset)).copied()
    }
}
