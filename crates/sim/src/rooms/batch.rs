//! Batches: several messages in one send. Law: all of them are stored, one behind the other, or none.

use std::collections::BTreeMap;

use bytes::BytesMut;
use cometmq_protocol::RequestCode;
use cometmq_protocol::message::batch::{self, BatchMessage};

use super::send::{acknowledged, body_bytes, send_fields};
use super::{Answer, Ask, Room};
use crate::machine::QUEUES;
use crate::net::Server;
use crate::world::Core;

/// Most messages in a batch.
const COUNT_MAX: u64 = 6;
/// Most bytes in a batch, so that it fits the smallest segment.
const BYTES_MAX: usize = 6000;

#[derive(Debug)]
struct Batches {
    number: usize,
    client: usize,
    topic: usize,
    pause: u64,
    under_way: BTreeMap<i32, (usize, usize)>,
    /// First message and number of those that were sent.
    sent: Vec<(usize, usize)>,
}

/// The room.
pub(super) fn make(number: usize, core: &mut Core) -> Box<dyn Room> {
    let topic = core.ledger.topic("Batch".into());
    let client = core.session(number, "the producer of batches".into());
    let pause = core.chance.pick(&[50_000, 300_000]);
    Box::new(Batches { number, client, topic, pause, under_way: BTreeMap::new(), sent: Vec::new() })
}

impl Batches {
    fn send(&mut self, core: &mut Core) {
        let mut body = BytesMut::new();
        let mut messages = Vec::new();
        for _ in 0..core.chance.within(1, COUNT_MAX) {
            let bytes = body_bytes(core);
            if body.len() + bytes > BYTES_MAX && !messages.is_empty() {
                break;
            }
            let (id, message) = core.ledger.message(self.topic, bytes);
            batch::encode(&BatchMessage { flag: 0, body: &message, properties: b"TAGS\x01B\x02" }, &mut body);
            messages.push(id);
        }
        let carried = (messages[0], messages.len());
        let queue = core.chance.below(QUEUES as u64) as i32;
        let topic = core.ledger.topics[self.topic].clone();
        let ask = Ask {
            code: RequestCode::SendBatchMessage.code(),
            fields: send_fields(&topic, queue, true, ""),
            body: body.freeze(),
            timeout_ms: Some(3000),
            carries: Some(carried),
        };
        let opaque = core.ask(self.client, Server::Broker, ask);
        self.under_way.insert(opaque, carried);
        self.sent.push(carried);
    }
}

impl Room for Batches {
    fn name(&self) -> &'static str {
        "batch"
    }

    fn woken(&mut self, core: &mut Core, _tag: u64) {
        if core.is_settled() {
            return;
        }
        if self.under_way.len() < 3 {
            self.send(core);
        }
        let pause = core.chance.within(1, self.pause);
        core.wake(self.number, 0, pause);
    }

    fn answered(&mut self, core: &mut Core, answer: Answer) {
        let Some((first, count)) = self.under_way.remove(&answer.opaque) else { return };
        if let Some((frame, _)) = answer.reply {
            acknowledged(core, &frame, self.topic, first, count);
        }
    }

    fn unfinished(&self, _core: &Core) -> Option<String> {
        (!self.under_way.is_empty()).then(|| "batches under way".to_owned())
    }

    fn finish(&mut self, core: &mut Core) {
        // Nothing is tried again here: a message is stored once or not at all, and with its whole batch. A torn batch
        // may remain of a crash, for its records are written one behind the other; then nobody was told.
        let mut stored = BTreeMap::new();
        let mut twice = None;
        for ((topic, queue), places) in core.ledger.queues().filter(|((topic, _), _)| *topic == self.topic) {
            for (offset, place) in places {
                twice = twice.or(stored.insert(place.id, (*topic, *queue, *offset)).map(|_| place.id));
            }
        }
        if let Some(id) = twice {
            return core.broken(format!("TWICE: message {id} of a batch is in two places"));
        }
        for (first, count) in &self.sent {
            let places: Vec<_> = (*first..first + count).filter_map(|id| stored.get(&id)).collect();
            let consecutive = places.windows(2).all(|two| (two[0].1, two[0].2 + 1) == (two[1].1, two[1].2));
            if !consecutive {
                return core.broken(format!("BATCH: messages {first}… are apart: {places:?}"));
            }
        }
    }
}
