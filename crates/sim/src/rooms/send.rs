//! Sending: producers that wait for each reply and try again, that keep several sends under way, or that do not wait.
//!
//! Laws: what is acknowledged has a place of its own, in its queue's order; a refusal has a code that clients know.

use std::collections::BTreeMap;

use cometmq_protocol::headers::send::SendMessageHeader;
use cometmq_protocol::message::ids;
use cometmq_protocol::{Fields, Frame, Header, RequestCode, ResponseCode};

use super::{Answer, Ask, Room};
use crate::ledger::QueueKey;
use crate::machine::{QUEUES, TEMPLATE};
use crate::net::Server;
use crate::world::{Core, fields};

/// How often a producer that waits tries to send a message.
const ATTEMPTS: u32 = 3;

/// How a producer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One at a time, tried again.
    Sync,
    /// So many under way.
    Window(usize),
    /// Without replies.
    Oneway,
}

#[derive(Debug)]
struct Producer {
    client: usize,
    topic: usize,
    way: Way,
    pause: u64,
    under_way: BTreeMap<i32, Send>,
    /// Sends so far.
    count: u64,
    /// By queue and connection: acknowledged sends with their offsets.
    order: BTreeMap<(i32, u64), BTreeMap<u64, i64>>,
}

#[derive(Clone, Copy, Debug)]
struct Send {
    id: usize,
    queue: i32,
    attempt: u32,
    number: u64,
    link: Option<u64>,
}

/// All producers.
#[derive(Debug)]
struct Sending {
    number: usize,
    producers: Vec<Producer>,
}

/// The room.
pub(super) fn make(number: usize, core: &mut Core) -> Box<dyn Room> {
    let topics: Vec<usize> =
        (0..core.chance.within(1, 2)).map(|n| core.ledger.topic(format!("Topic{n}"))).collect();
    let count = core.chance.within(1, 4);
    let producers = (0..count).map(|n| {
        let way = match core.chance.below(4) {
            0 => Way::Window(core.chance.within(2, 16) as usize),
            1 => Way::Oneway,
            _ => Way::Sync,
        };
        Producer {
            client: core.session(number, format!("producer {n} ({way:?})")),
            topic: core.chance.pick(&topics),
            way,
            pause: core.chance.pick(&[20_000, 50_000, 100_000, 300_000]),
            under_way: BTreeMap::new(),
            count: 0,
            order: BTreeMap::new(),
        }
    });
    let producers = producers.collect();
    Box::new(Sending { number, producers })
}

/// The header of a send.
pub(crate) fn send_fields(topic: &str, queue: i32, batch: bool, properties: &str) -> Fields<'static> {
    fields(&SendMessageHeader {
        producer_group: "p".into(),
        topic: topic.into(),
        default_topic: TEMPLATE.into(),
        default_topic_queue_nums: QUEUES,
        queue_id: queue,
        sys_flag: 0,
        born_timestamp: 1,
        flag: 0,
        properties: Some(properties.into()),
        reconsume_times: Some(0),
        unit_mode: Some(false),
        max_reconsume_times: None,
        batch: Some(batch),
        broker_name: None,
        borrows: std::marker::PhantomData,
    })
}

/// A length for a body.
pub(super) fn body_bytes(core: &mut Core) -> usize {
    let longest = core.chance.pick(&[20, 200, 200, 2000, 3500]);
    core.plan.body_bytes.unwrap_or_else(|| core.chance.below(longest) as usize)
}

/// Takes note of a reply to the send of `count` messages from `first` on. `None`: it was not acknowledged.
pub(super) fn acknowledged(
    core: &mut Core,
    frame: &Frame,
    topic: usize,
    first: usize,
    count: usize,
) -> Option<(i32, i64)> {
    let header = Header::decode(frame).ok()?;
    if header.code != ResponseCode::Success.code() {
        let allowed = [
            ResponseCode::FlushDiskTimeout,
            ResponseCode::ServiceNotAvailable,
            ResponseCode::SystemBusy,
            ResponseCode::SystemError,
        ];
        if !allowed.iter().any(|code| code.code() == header.code) {
            core.broken(format!("SEND: refused with {}: {:?}", header.code, header.remark));
        }
        return None;
    }
    let number = |name: &str| header.field(name)?.parse::<i64>().ok();
    let ids: Vec<_> = header.field("msgId").unwrap_or_default().split(',').collect();
    let placed: Vec<i64> = ids.iter().filter_map(|id| Some(ids::parse_offset_id(id)?.1.0)).collect();
    let (Some(queue), Some(offset)) = (number("queueId"), number("queueOffset")) else {
        core.broken("SEND: a reply without its place".to_owned());
        return None;
    };
    if placed.len() != count {
        core.broken(format!("SEND: {} ids for {count} messages", placed.len()));
        return None;
    }
    let key: QueueKey = (topic, queue as i32);
    for (n, log_offset) in placed.iter().enumerate() {
        let law = core.ledger.acknowledge(key, offset + n as i64, first + n, *log_offset, core.now);
        core.hold(law)?;
    }
    Some((queue as i32, offset))
}

impl Producer {
    fn send(&mut self, core: &mut Core, id: usize, queue: i32, attempt: u32) {
        let body = core.ledger.body(id);
        let topic = core.ledger.topics[self.topic].clone();
        let properties = format!("UNIQ_KEY\u{1}{id:032X}\u{2}TAGS\u{1}T{}\u{2}", id % 3);
        let ask = Ask {
            code: RequestCode::SendMessageV2.code(),
            fields: send_fields(&topic, queue, false, &properties),
            body,
            timeout_ms: (self.way != Way::Oneway).then_some(3000),
            carries: Some((id, 1)),
        };
        let opaque = core.ask(self.client, Server::Broker, ask);
        self.count += 1;
        if self.way != Way::Oneway {
            let link = core.sessions[self.client].links.get(&Server::Broker).copied();
            let link = link.filter(|_| core.sessions[self.client].routed);
            self.under_way.insert(opaque, Send { id, queue, attempt, number: self.count, link });
        }
    }

    fn send_new(&mut self, core: &mut Core) {
        let bytes = body_bytes(core);
        let (id, _) = core.ledger.message(self.topic, bytes);
        let queue = core.chance.below(QUEUES as u64) as i32;
        self.send(core, id, queue, 1);
    }

    fn answered(&mut self, core: &mut Core, send: Send, reply: Option<&Frame>) {
        let placed = reply.and_then(|frame| acknowledged(core, frame, self.topic, send.id, 1));
        let Some((queue, offset)) = placed else {
            if self.way == Way::Sync && send.attempt < ATTEMPTS {
                self.send(core, send.id, send.queue, send.attempt + 1);
            }
            return;
        };
        if queue != send.queue {
            core.broken(format!("SEND: stored in queue {queue} instead of {}", send.queue));
        }
        // What one producer sends to a queue by one connection, or one after the other, stays in that order.
        let line = match (self.way, send.link) {
            (Way::Sync, _) => 0,
            (_, Some(link)) => link,
            (_, None) => return,
        };
        let order = self.order.entry((queue, line)).or_default();
        let before = order.range(..send.number).next_back().map(|(_, offset)| *offset);
        let after = order.range(send.number..).next().map(|(_, offset)| *offset);
        if before.is_some_and(|before| before >= offset) || after.is_some_and(|after| after <= offset) {
            core.broken(format!(
                "ORDER: send {} of {} is at offset {offset} of queue {queue}, its neighbours at {before:?} and {after:?}",
                send.number, core.sessions[self.client].name
            ));
        }
        order.insert(send.number, offset);
    }
}

impl Room for Sending {
    fn name(&self) -> &'static str {
        "send"
    }

    fn woken(&mut self, core: &mut Core, tag: u64) {
        if tag == 0 {
            for index in 0..self.producers.len() {
                core.wake(self.number, index as u64 + 1, 1000);
            }
            return;
        }
        if core.is_settled() {
            return;
        }
        let producer = &mut self.producers[tag as usize - 1];
        let burst = match producer.way {
            Way::Sync => usize::from(producer.under_way.is_empty()),
            Way::Window(window) => window - producer.under_way.len().min(window),
            Way::Oneway => 1,
        };
        let burst = if burst > 1 { core.chance.within(1, burst as u64) as usize } else { burst };
        for _ in 0..burst {
            producer.send_new(core);
        }
        let pause = core.chance.within(1, producer.pause);
        core.wake(self.number, tag, pause);
    }

    fn answered(&mut self, core: &mut Core, answer: Answer) {
        let asker = self.producers.iter_mut().find(|producer| producer.client == answer.client);
        let Some(producer) = asker else { return };
        let Some(send) = producer.under_way.remove(&answer.opaque) else { return };
        producer.answered(core, send, answer.reply.as_ref().map(|(frame, _)| frame));
    }

    fn recovered(&mut self, _core: &mut Core, lossy: bool) {
        if lossy {
            self.producers.iter_mut().for_each(|producer| producer.order.clear());
        }
    }

    fn unfinished(&self, core: &Core) -> Option<String> {
        let waiting = self.producers.iter().find(|producer| !producer.under_way.is_empty())?;
        Some(format!("sends of {}", core.sessions[waiting.client].name))
    }
}
