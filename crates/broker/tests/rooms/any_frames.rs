//! Whatever clients send: every two-way request gets one reply, nothing panics, and what was stored is found again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use cometmq_broker::{Broker, Effects, Memory, Turn};
use cometmq_protocol::{ConnectionId, Fields, Frame, Header, Millis, SerializeType};
use cometmq_store::disk::Crash;
use cometmq_store::{FlushPolicy, MemoryDisk, Unit};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::direct::{handle, open};
use crate::script::{REQUESTS, encode, frames, peer, request};

/// Values that a field may have instead of a proper one.
const ODD_VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "2",
    "3",
    "7",
    "-1",
    "65536",
    "2147483647",
    "-2147483648",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "1.5",
    "true",
    "x",
    "T",
    "U",
    "a.b",
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "%RETRY%g",
    "%DLQ%g",
    "TagA",
    "TagA||TagB",
    "||",
    "SQL92",
    "TAGS\u{1}TagA\u{2}",
    "TAGS\u{1}TagA\u{2}TAGS\u{1}TagB",
    "DELAY\u{1}3\u{2}",
    "UNIQ_KEY\u{1}\u{2}TAGS\u{1}标签\u{2}",
    "INNER_MULTI_DISPATCH\u{1}T,U\u{2}INNER_MULTI_QUEUE_OFFSET\u{1}0,1\u{2}",
    "\u{1}\u{2}\u{1}\u{2}",
];

const BODIES: &[&str] =
    &["", "a", "one;two", "one{TAGS:TagA};two;three{TAGS:TagB,KEYS:k}", "{", "[]", "null", "300000*x"];

#[derive(Clone, Debug)]
struct Ask {
    connection: u64,
    oneway: bool,
    compact: bool,
    name: &'static str,
    body: &'static str,
    /// Which field gets which value; none leaves it out.
    changes: Vec<(Index, Option<&'static str>)>,
    /// Bytes cut off the body's end.
    cut: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Ask(Ask),
    /// Several frames handled in one turn.
    Turn(Vec<Ask>),
    Wait(i64),
    Sync,
    Flush,
    Gone(u64),
}

fn ask() -> impl Strategy<Value = Ask> {
    let names: Vec<&'static str> =
        REQUESTS.iter().map(|(name, _, _)| *name).chain(["9999", "105", "34", "41", "46"]).collect();
    let change = (any::<Index>(), prop::option::weighted(0.8, select(ODD_VALUES)));
    let changes = prop::collection::vec(change, 0..4);
    let cut = prop_oneof![4 => Just(0usize), 1 => 1..40usize];
    // Sends and pulls more often than the rest.
    let name = prop_oneof![3 => select(names), 2 => select(&["sendV2", "batch", "send", "pull"][..])];
    (1..4u64, prop::bool::weighted(0.15), any::<bool>(), name, select(BODIES), changes, cut).prop_map(
        |(connection, oneway, compact, name, body, changes, cut)| Ask {
            connection,
            oneway,
            compact,
            name,
            body,
            changes,
            cut,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => ask().prop_map(Step::Ask),
        4 => prop::collection::vec(ask(), 1..6).prop_map(Step::Turn),
        2 => (0..70_000i64).prop_map(Step::Wait),
        2 => Just(Step::Sync),
        1 => Just(Step::Flush),
        1 => (1..4u64).prop_map(Step::Gone),
    ]
}

fn frame(ask: &Ask, opaque: i32) -> Frame {
    let (code, fields, mut body) = request(ask.name, &[], ask.body);
    let mut fields: Vec<(String, String)> =
        fields.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    for (index, value) in ask.changes.iter().filter(|_| code != 9999) {
        if fields.is_empty() {
            break;
        }
        let index = index.index(fields.len());
        match value {
            Some(value) => (*value).clone_into(&mut fields[index].1),
            None => drop(fields.remove(index)),
        }
    }
    body.truncate(body.len().saturating_sub(ask.cut));
    let mut request = Fields::default();
    fields.into_iter().for_each(|(name, value)| request.push(name, value));
    let header = if ask.oneway {
        Header::oneway(code, opaque, request)
    } else {
        Header::request(code, opaque, request)
    };
    encode(&header, if ask.compact { SerializeType::Compact } else { SerializeType::Json }, &body)
}

/// A broker and the two-way requests that it has not answered yet.
struct World {
    disk: MemoryDisk,
    flush: FlushPolicy,
    broker: Broker,
    now: i64,
    opaque: i32,
    unanswered: BTreeMap<i32, u64>,
}

impl World {
    fn new(flush: FlushPolicy) -> World {
        let disk = MemoryDisk::new();
        let broker = open(&disk, flush, 0);
        World { disk, flush, broker, now: 0, opaque: 0, unanswered: BTreeMap::new() }
    }

    fn step(&mut self, step: &Step) {
        let mut effects = Effects::default();
        match step {
            Step::Ask(ask) => self.turn(std::slice::from_ref(ask), &mut effects),
            Step::Turn(asks) => {
                // One turn is of one connection.
                let asks: Vec<Ask> =
                    asks.iter().map(|ask| Ask { connection: asks[0].connection, ..ask.clone() }).collect();
                self.turn(&asks, &mut effects);
            }
            Step::Wait(millis) => {
                self.now += millis;
                self.broker.tick(Millis(self.now), &mut effects);
            }
            Step::Sync => self.broker.sync(&mut effects).unwrap(),
            Step::Flush => self.broker.store().flush().unwrap(),
            Step::Gone(connection) => {
                self.broker.disconnected(ConnectionId(*connection), &mut effects);
            }
        }
        self.deliver(effects);
        if let Step::Gone(gone) = step {
            self.unanswered.retain(|_, connection| connection != gone);
        }
    }

    fn turn(&mut self, asks: &[Ask], effects: &mut Effects) {
        let connection = asks[0].connection;
        let mut out = BytesMut::new();
        let mut turn = Turn::on_worker(Memory::default(), Millis(self.now), peer(connection), &mut out);
        for ask in asks {
            self.opaque += 1;
            if !ask.oneway {
                self.unanswered.insert(self.opaque, connection);
            }
            self.broker.handle(&mut turn, &frame(ask, self.opaque), effects).unwrap();
        }
        self.broker.finish(turn, effects);
        self.replies(connection, out.freeze());
    }

    fn deliver(&mut self, mut effects: Effects) {
        while let Some(slow) = effects.slow.pop() {
            self.broker.handle_slow(slow, Millis(self.now), &mut effects);
        }
        while let Some(cold) = effects.cold.pop() {
            self.broker.read_cold(cold, &mut effects);
        }
        for delivery in effects.deliveries {
            self.replies(delivery.connection.0, delivery.frames);
        }
        for connection in effects.close {
            self.unanswered.retain(|_, asker| *asker != connection.0);
        }
    }

    fn replies(&mut self, connection: u64, bytes: Bytes) {
        for frame in frames(bytes) {
            let header = Header::decode(&frame).unwrap();
            if header.is_response() {
                let asker = self.unanswered.remove(&header.opaque);
                // Replies to a connection that is gone are dropped by the shell.
                assert!(asker.is_none_or(|asker| asker == connection), "answered to who asked");
                assert!(asker.is_some() || self.was_gone(header.opaque), "#{} answered once", header.opaque);
            }
        }
    }

    fn was_gone(&self, opaque: i32) -> bool {
        opaque <= self.opaque && self.flush == FlushPolicy::Sync
    }

    /// All entries of all queues.
    fn units(&self) -> BTreeMap<(String, i32), Vec<Unit>> {
        let mut found = BTreeMap::new();
        for queue in self.broker.store().queues().unwrap().iter().filter(|queue| queue.max().0 > 0) {
            let mut units = Vec::new();
            while (units.len() as i64) < queue.max() - queue.min() {
                let before = units.len();
                queue.read(queue.min() + before as i64, 7, &mut units).unwrap();
                assert!(units.len() > before, "no entry at {before}");
            }
            let mut read = 0;
            self.broker
                .store()
                .read(&units, &mut Vec::new(), &mut |_| {
                    read += 1;
                    true
                })
                .unwrap();
            assert_eq!(read, units.len(), "every entry has its record");
            found.insert((queue.topic().to_string(), queue.id().0), units);
        }
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_two_way_request_is_answered_once_and_what_was_stored_is_found_after_a_kill(
        sync: bool,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(if sync { FlushPolicy::Sync } else { FlushPolicy::Async });
        steps.iter().for_each(|step| world.step(step));
        for step in [Step::Sync, Step::Wait(61_000)] {
            world.step(&step);
        }
        prop_assert_eq!(&world.unanswered, &BTreeMap::new(), "all are answered when all waits are over");
        let before = world.units();
        let topics: BTreeSet<String> = world.broker.announcement().topic_config_serialize_wrapper.topic_config_table.into_keys().collect();
        world.disk = world.disk.crash(Crash::KeepAll);
        world.broker = open(&world.disk, world.flush, 0);
        prop_assert_eq!(world.units(), before, "what recovery enters is what sending entered");
        let after = world.broker.announcement().topic_config_serialize_wrapper.topic_config_table.into_keys().collect();
        prop_assert_eq!(topics, after);
    }

    #[test]
    fn a_damaged_header_is_a_request_or_an_error(
        ask in ask(),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut world = World::new(FlushPolicy::Async);
        let mut frame = frame(&ask, 1);
        let mut header = frame.header.to_vec();
        for (index, byte) in damage {
            let index = index.index(header.len());
            header[index] = byte;
        }
        frame.header = header.into();
        // `handle` checks that there is one reply at most, and none beside an error.
        let _ = handle(&world.broker, 0, 1, &frame, &mut Effects::default());
        world.step(&Step::Ask(Ask { connection: 2, oneway: false, compact: false, name: "max", body: "", changes: vec![], cut: 0 }));
        prop_assert_eq!(world.unanswered.len(), 0);
    }
}
