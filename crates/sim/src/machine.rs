//! The machines under test and what stands for their shells: a broker on a disk in memory, and a name server.
//!
//! The broker's turns are played as the server's workers would: several connections at once, begun in one order and
//! finished in another, and sometimes the process ends in between. What a machine says once its disk lost power is said
//! to nobody.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cometmq_broker::{Broker, BrokerConfig, Effects, Memory, Turn};
use cometmq_namesrv::{NameServer, NamesrvOptions};
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::headers::HeaderFields;
use cometmq_protocol::headers::offset::QueueHeader;
use cometmq_protocol::headers::pull::{PullMessageHeader, pull_flag};
use cometmq_protocol::message::record;
use cometmq_protocol::{
    ConnectionId, Fields, Frame, Header, Millis, Peer, Reply, Request, RequestCode, ResponseCode,
    SerializeType,
};
use cometmq_store::index::format::Shape;
use cometmq_store::{IndexOptions, MemoryDisk, StoreOptions};

use crate::ledger::{Ledger, Place, QueueKey};
use crate::plan::Plan;

/// Wall clock at the start, ms since 1970.
const EPOCH_MS: i64 = 1_750_000_000_000;
/// Where clients find the broker.
pub const BROKER: &str = "10.0.0.1:10911";
/// The template from which topics are made.
pub const TEMPLATE: &str = "TBW102";
/// Queues of a topic.
pub const QUEUES: i32 = 3;
/// Messages that the auditor reads at once.
const AUDIT_COUNT: i32 = 32;

/// The broker's process, when it runs, and its disk.
#[derive(Debug)]
pub struct Host {
    /// Its disk.
    pub disk: MemoryDisk,
    /// The broker; `None` while it is down.
    pub broker: Option<Broker>,
    /// How often it was started.
    pub life: u32,
    /// Bytes that came, by connection, in the order of their coming.
    pub inbox: BTreeMap<u64, BytesMut>,
    /// A turn is due.
    pub turn_due: bool,
    /// A sync is due that someone waits for.
    pub sync_due: bool,
    /// The process ends in its next turn.
    pub ends_in_turn: bool,
    /// How far the wall clock jumped, ms.
    pub clock_ms: i64,
    options: StoreOptions,
    config: BrokerConfig,
}

/// What a turn gave: bytes for connections, connections to close, and the rest of the effects.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Replies by connection.
    pub replies: Vec<(u64, Bytes)>,
    /// Connections whose bytes cannot be read.
    pub unreadable: Vec<u64>,
    /// Beside the replies.
    pub effects: Effects,
}

impl Host {
    /// A broker that was never started.
    pub fn new(plan: &Plan) -> Host {
        let options = StoreOptions {
            segment_bytes: plan.segment_bytes,
            queue_file_bytes: plan.queue_file_bytes,
            index: Some(IndexOptions { shape: Shape { slots: 64, entries: 300 }, utc_offset_ms: 0 }),
            flush: plan.flush,
            ..StoreOptions::new("/s")
        };
        Host {
            disk: MemoryDisk::new(),
            broker: None,
            life: 0,
            inbox: BTreeMap::new(),
            turn_due: false,
            sync_due: false,
            ends_in_turn: false,
            clock_ms: 0,
            options,
            config: config(plan),
        }
    }

    /// The wall clock at `now`.
    pub fn wall(&self, now: u64) -> Millis {
        Millis(EPOCH_MS + self.clock_ms + (now / 1000).cast_signed())
    }

    /// Opens the broker on `disk`.
    pub fn open_on(&self, disk: &MemoryDisk, now: u64) -> Result<Broker, String> {
        let opened =
            Broker::open(Arc::new(disk.clone()), self.options.clone(), self.config.clone(), self.wall(now));
        opened.map(|(broker, _)| broker).map_err(|error| error.to_string())
    }

    /// Plays one turn: all that came, of all connections at once. `begin` and `finish` are the orders, as numbers of the
    /// connections that have bytes. `None`: the process ended in the middle.
    pub fn turn(
        &mut self,
        now: u64,
        begin: &[u64],
        finish: &[usize],
        each: &mut dyn FnMut(u64, &Header<'_>),
    ) -> Option<Outcome> {
        let wall = self.wall(now);
        let broker = self.broker.as_ref()?;
        let mut outcome = Outcome::default();
        let mut outs: Vec<BytesMut> = begin.iter().map(|_| BytesMut::new()).collect();
        let mut turns: Vec<Option<Turn<'_>>> = Vec::new();
        for (connection, out) in begin.iter().zip(&mut outs) {
            let mut turn = Turn::on_worker(Memory::default(), wall, peer(*connection), out);
            let input = self.inbox.entry(*connection).or_default();
            loop {
                let frame = match frame::cut(input, FrameLimits::default()) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(_) => {
                        outcome.unreadable.push(*connection);
                        break;
                    }
                };
                if let Ok(header) = Header::decode(&frame) {
                    each(*connection, &header);
                }
                if broker.handle(&mut turn, &frame, &mut outcome.effects).is_err() {
                    outcome.unreadable.push(*connection);
                }
            }
            turns.push(Some(turn));
        }
        if self.ends_in_turn {
            return None;
        }
        for index in finish {
            if let Some(turn) = turns[*index].take() {
                broker.finish(turn, &mut outcome.effects);
            }
        }
        drop(turns);
        let replies = begin.iter().copied().zip(outs.into_iter().map(BytesMut::freeze));
        outcome.replies = replies.filter(|(_, bytes)| !bytes.is_empty()).collect();
        Some(outcome)
    }

    /// Everything that the broker has of the ledger's topics, read as a consumer would, and the laws of a queue on the
    /// way: offsets without holes, whole bodies, log order.
    pub fn audit(
        &self,
        broker: &Broker,
        now: u64,
        ledger: &Ledger,
    ) -> Result<BTreeMap<QueueKey, Vec<Place>>, String> {
        let mut found = BTreeMap::new();
        for (topic, name) in ledger.topics.iter().enumerate() {
            for queue in 0..QUEUES {
                let places = self.audit_queue(broker, now, ledger, (topic, queue), name)?;
                if !places.is_empty() {
                    found.insert((topic, queue), places);
                }
            }
        }
        Ok(found)
    }

    fn audit_queue(
        &self,
        broker: &Broker,
        now: u64,
        ledger: &Ledger,
        key: QueueKey,
        topic: &str,
    ) -> Result<Vec<Place>, String> {
        let header = QueueHeader { topic: topic.into(), queue_id: key.1, borrows: std::marker::PhantomData };
        let end = self.ask(broker, now, RequestCode::GetMaxOffset.code(), header.encode())?;
        let end = offset_of(&end).ok_or("no answer to a question for the end of a queue")?;
        let mut places: Vec<Place> = Vec::new();
        while (places.len() as i64) < end {
            let code = RequestCode::PullMessage.code();
            let frame = self.ask(broker, now, code, audit_pull(topic, key.1, places.len() as i64))?;
            let header = Header::decode(&frame).map_err(|error| error.to_string())?;
            if header.code != ResponseCode::Success.code() {
                let (at, remark) = (places.len(), header.remark.unwrap_or_default());
                return Err(format!(
                    "UNREADABLE: offset {at} of {end} of queue {key:?}: {} {remark}",
                    header.code
                ));
            }
            for record in record::records(&frame.body) {
                let record = record.map_err(|error| format!("CORRUPT: in queue {key:?}: {error}"))?;
                record.check_body().map_err(|error| format!("CORRUPT: in queue {key:?}: {error}"))?;
                let id = ledger.identify(record.body, key.0)?;
                let (offset, log_offset) = (record.queue_offset.0, record.log_offset.0);
                if offset != places.len() as i64 || record.queue_id.0 != key.1 {
                    return Err(format!(
                        "HOLE: offset {offset} of queue {key:?} where {} was due",
                        places.len()
                    ));
                }
                if places.last().is_some_and(|before| before.log_offset >= log_offset) {
                    return Err(format!(
                        "ORDER: offset {offset} of queue {key:?} lies before its predecessor"
                    ));
                }
                places.push(Place { id, log_offset, known_at: now, acknowledged: false });
            }
        }
        Ok(places)
    }

    /// One request of somebody who is no client, and its reply.
    pub fn ask(
        &self,
        broker: &Broker,
        now: u64,
        code: i32,
        fields: Fields<'static>,
    ) -> Result<Frame, String> {
        let frame = encode(&Header::request(code, 1, fields), &[]);
        let mut out = BytesMut::new();
        let mut effects = Effects::default();
        let mut turn = Turn::new(self.wall(now), peer(0), &mut out);
        broker.handle(&mut turn, &frame, &mut effects).map_err(|error| error.to_string())?;
        broker.finish(turn, &mut effects);
        for cold in std::mem::take(&mut effects.cold) {
            broker.read_cold(cold, &mut effects);
            out.extend(effects.deliveries.drain(..).flat_map(|delivery| delivery.frames));
        }
        let frame = frame::cut(&mut out, FrameLimits::default()).map_err(|error| error.to_string())?;
        frame.ok_or_else(|| format!("request {code} of the auditor is not answered"))
    }
}

fn audit_pull(topic: &str, queue_id: i32, from: i64) -> Fields<'static> {
    let header = PullMessageHeader {
        consumer_group: "audit".into(),
        topic: topic.into(),
        queue_id,
        queue_offset: from,
        max_msg_nums: AUDIT_COUNT,
        sys_flag: pull_flag::SUBSCRIPTION,
        commit_offset: 0,
        suspend_timeout_millis: 0,
        subscription: Some("*".into()),
        sub_version: 1,
        expression_type: None,
        max_msg_bytes: None,
        borrows: std::marker::PhantomData,
    };
    header.encode()
}

/// The field `offset` of a reply.
pub fn offset_of(frame: &Frame) -> Option<i64> {
    Header::decode(frame).ok()?.field("offset")?.parse().ok()
}

/// A whole frame.
pub fn encode(header: &Header<'_>, body: &[u8]) -> Frame {
    let mut bytes = encode_bytes(header, body);
    frame::cut(&mut bytes, FrameLimits::default()).ok().flatten().expect("our own frames are whole")
}

/// The bytes of a whole frame.
pub fn encode_bytes(header: &Header<'_>, body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    header.encode_with_body(SerializeType::Json, body, &mut bytes);
    bytes
}

fn config(plan: &Plan) -> BrokerConfig {
    let mut config = BrokerConfig::alone("C", "b", BROKER.parse().expect("an address"));
    config.topics.default_queues = QUEUES;
    config.offset_save_interval_ms = plan.offset_save_ms;
    config
}

/// Who speaks by a connection.
pub fn peer(connection: u64) -> Peer {
    let remote = SocketAddr::from(([10, 0, 1, 1], 1024 + (connection % 60_000) as u16));
    let local = SocketAddr::from(([10, 0, 0, 1], 10911));
    Peer { connection: ConnectionId(connection), remote, local }
}

/// The wall clock of a machine whose clock never jumps.
fn steady(now: u64) -> Millis {
    Millis(EPOCH_MS + (now / 1000).cast_signed())
}

/// The name server's process.
#[derive(Debug)]
pub struct NamesHost {
    server: NameServer,
    input: BTreeMap<u64, BytesMut>,
}

impl Default for NamesHost {
    fn default() -> NamesHost {
        NamesHost { server: NameServer::new(NamesrvOptions::default()), input: BTreeMap::new() }
    }
}

impl NamesHost {
    /// Answers what came by a connection; `None` when the bytes cannot be read.
    pub fn receive(&mut self, now: u64, connection: u64, bytes: &[u8]) -> Option<BytesMut> {
        let wall = steady(now);
        let input = self.input.entry(connection).or_default();
        input.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        while let Some(frame) = frame::cut(input, FrameLimits::default()).ok()? {
            let mut header = Header::decode(&frame).ok()?;
            let mut fields = header.fields.take().unwrap_or_default();
            let reply = match Request::decode(header.code, &mut fields) {
                Ok(request) => {
                    self.server.handle(wall, &peer(connection), header.version, &request, &frame.body)
                }
                Err(error) => Reply::refuse(ResponseCode::SystemError, error.to_string()),
            };
            if !header.is_oneway() {
                reply.encode(header.opaque, frame.serialize_type, &mut out);
            }
        }
        Some(out)
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, now: u64, connection: u64) {
        self.input.remove(&connection);
        self.server.disconnected(steady(now), ConnectionId(connection));
    }

    /// Forgets brokers that are silent.
    pub fn scan(&mut self, now: u64) {
        self.server.scan(steady(now));
    }
}
