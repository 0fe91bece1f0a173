//! What a send costs the broker without sockets: recorded frames of the official client, turn by turn, against a store
//! on a real disk. Prints nanoseconds per message of each stage; run it under `perf record` to see where they go.
//!
//! ```sh
//! cargo run --release -p cometmq-broker --example send_path -- DIRECTORY [FRAMES_PER_TURN [MESSAGES [ROUNDS]]]
//! ```

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cometmq_broker::{Broker, BrokerConfig, Effects, Memory, Turn};
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::{ConnectionId, Fields, Frame, Header, Millis, Peer, Request, SerializeType};
use cometmq_store::{IndexOptions, RealDisk, StoreOptions};

/// Different reads of the socket; the queue, the id and the frame's number are others in each message.
const READS: usize = 64;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("a directory to make the store in");
    let mut number = |default: usize| arguments.next().map_or(default, |count| count.parse().unwrap());
    let (per_turn, messages) = (number(8), number(200_000));
    // Of so many rounds the best is told: what else the machine does only ever adds.
    let rounds = number(12);
    let broker = broker(&directory);
    let peer = Peer {
        connection: ConnectionId(1),
        remote: "127.0.0.1:50000".parse().unwrap(),
        local: "127.0.0.1:10911".parse().unwrap(),
    };
    let reads: Vec<BytesMut> = (0..READS)
        .map(|read| {
            let mut stream = BytesMut::new();
            (0..per_turn).for_each(|number| send_frame(read * per_turn + number, &mut stream));
            stream
        })
        .collect();
    let turns = messages / per_turn;
    let around = |turn: usize| turn % READS;
    let cut = |stream: &BytesMut| {
        let mut rest = stream.clone();
        let mut frames = Vec::with_capacity(per_turn);
        while let Some(frame) = frame::cut(&mut rest, FrameLimits::default()).unwrap() {
            frames.push(frame);
        }
        frames
    };
    let time = |stage: &str, run: &mut dyn FnMut()| time(stage, rounds, messages, run);
    time("copy and cut", &mut || {
        (0..turns).for_each(|turn| assert_eq!(cut(&reads[around(turn)]).len(), per_turn));
    });
    let reads: Vec<Vec<Frame>> = reads.iter().map(cut).collect();
    // The topic and its queues are made by a turn that may wait for the disk.
    let (mut out, mut effects) = (BytesMut::new(), Effects::default());
    let mut first = Turn::new(Millis(1), peer, &mut out);
    reads.iter().flatten().for_each(|frame| broker.handle(&mut first, frame, &mut effects).unwrap());
    broker.finish(first, &mut effects);
    time("decode", &mut || {
        for turn in 0..turns {
            for frame in &reads[around(turn)] {
                let mut header = Header::decode(frame).unwrap();
                let mut fields = header.fields.take().unwrap();
                assert!(Request::decode(header.code, &mut fields).is_ok());
            }
        }
    });
    let (mut out, mut memory) = (BytesMut::new(), Memory::default());
    time("handle and write", &mut || {
        for turn in 0..turns {
            let now = Millis(1_700_000_000_000 + turn as i64 / 100);
            let frames = &reads[around(turn)];
            memory = run_turn(&broker, peer, std::mem::take(&mut memory), frames, now, &mut out);
            let first = frame::cut(&mut out.split(), FrameLimits::default()).unwrap().unwrap();
            assert_eq!(Header::decode(&first).unwrap().code, 0, "{:?}", Header::decode(&first));
            out.clear();
        }
    });
}

/// On its own, so that tools can count what it costs.
#[inline(never)]
fn run_turn(
    broker: &Broker,
    peer: Peer,
    memory: Memory,
    frames: &[Frame],
    now: Millis,
    out: &mut BytesMut,
) -> Memory {
    let mut effects = Effects::default();
    let mut turn = Turn::on_worker(memory, now, peer, out);
    for frame in frames {
        broker.handle(&mut turn, frame, &mut effects).unwrap();
    }
    let memory = broker.finish(turn, &mut effects);
    assert!(effects.is_empty(), "all of it was stored");
    memory
}

fn time(stage: &str, rounds: usize, messages: usize, mut run: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let start = cpu_nanoseconds();
        run();
        best = best.min(cpu_nanoseconds() - start);
    }
    println!("{stage:>16}: {:6.1} ns of CPU a message", best / messages as f64);
}

/// Time that this thread had a CPU for, whatever else the machine does.
fn cpu_nanoseconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// A send as the official client 5.3.3 writes it.
fn send_frame(number: usize, out: &mut BytesMut) {
    let id = format!("7F000001567D330BEC73{number:012X}");
    let mut fields = Fields::default();
    for (name, value) in [
        ("a", "PGroup"),
        ("b", "sends"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", &(number % 4).to_string()),
        ("f", "0"),
        ("g", &(1_700_000_000_000 + number / 8).to_string()),
        ("h", "0"),
        ("i", &format!("UNIQ_KEY\u{1}{id}\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}")),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
        ("n", "broker-a"),
    ] {
        fields.push(name, value.to_owned());
    }
    let body = Bytes::from(vec![b'x'; 128]);
    Header::request(310, number as i32, fields).encode_with_body(SerializeType::Json, &body, out);
}

fn broker(directory: &str) -> Broker {
    let config = BrokerConfig::alone("DefaultCluster", "broker-a", "127.0.0.1:10911".parse().unwrap());
    let store = StoreOptions { index: Some(IndexOptions::default()), ..StoreOptions::new(directory) };
    Broker::open(Arc::new(RealDisk), store, config, Millis(1)).unwrap().0
}
