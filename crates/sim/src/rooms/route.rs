//! Registration and routes: the broker tells the name server what it has, and whoever asks is told no other.

use std::collections::BTreeMap;

use bytes::Bytes;
use cometmq_protocol::body::json;
use cometmq_protocol::body::route::TopicRoute;
use cometmq_protocol::headers::namesrv::{GetRouteHeader, RegisterBrokerHeader};
use cometmq_protocol::message::record;
use cometmq_protocol::{Frame, Header, RequestCode, ResponseCode};

use super::{Answer, Ask, Room};
use crate::machine::{BROKER, QUEUES};
use crate::net::Server;
use crate::plan::SECOND;
use crate::world::{Core, fields};

/// Time between two registrations, µs.
const INTERVAL: u64 = 10 * SECOND;
/// Time until a registration that failed is tried again.
const RETRY: u64 = SECOND;
/// How often the room looks whether there is something to do.
const LOOK: u64 = SECOND / 5;

/// The broker's side, and a client that asks for routes.
#[derive(Debug)]
struct Route {
    number: usize,
    broker: usize,
    asker: usize,
    registering: Option<i32>,
    register_at: u64,
    /// Topics asked for.
    asked: BTreeMap<i32, usize>,
    /// Topics whose route was right after the end of all faults.
    found: Vec<bool>,
}

/// The room.
pub(super) fn make(number: usize, core: &mut Core) -> Box<dyn Room> {
    Box::new(Route {
        number,
        broker: core.session(number, "the broker's registration".into()),
        asker: core.session(number, "the client that asks for routes".into()),
        registering: None,
        register_at: 0,
        asked: BTreeMap::new(),
        found: Vec::new(),
    })
}

impl Route {
    fn register(&mut self, core: &mut Core) {
        let Some(broker) = &core.host.broker else { return };
        let body = Bytes::from(broker.announcement().encode(false));
        let header = RegisterBrokerHeader {
            broker_name: "b".into(),
            broker_addr: BROKER.into(),
            cluster_name: "C".into(),
            ha_server_addr: "10.0.0.1:10912".into(),
            broker_id: 0,
            heartbeat_timeout_millis: Some(120_000),
            enable_acting_master: false,
            compressed: false,
            body_crc32: record::body_crc(&body).cast_signed(),
            address_derived: false,
            borrows: std::marker::PhantomData,
        };
        core.announce = false;
        let ask = Ask { body, ..Ask::plain(RequestCode::RegisterBroker, fields(&header)) };
        self.registering = Some(core.ask(self.broker, Server::Names, ask));
    }

    fn ask(&mut self, core: &mut Core) {
        let topics = core.ledger.topics.len();
        self.found.resize(topics, false);
        if topics == 0 || !self.asked.is_empty() {
            return;
        }
        let topic = core.chance.below(topics as u64) as usize;
        let header = GetRouteHeader {
            topic: Some(core.ledger.topics[topic].as_str().into()),
            accept_standard_json_only: true,
            borrows: std::marker::PhantomData,
        };
        let ask = Ask::plain(RequestCode::GetRoute, fields(&header));
        self.asked.insert(core.ask(self.asker, Server::Names, ask), topic);
    }

    fn check(&mut self, core: &mut Core, topic: usize, frame: &Frame) {
        let success = Header::decode(frame).is_ok_and(|header| header.code == ResponseCode::Success.code());
        if !success {
            return;
        }
        let Ok(route) = json::parse::<TopicRoute>(&frame.body) else {
            return core.broken("ROUTE: the answer is no route".to_owned());
        };
        let right =
            route.broker_datas.iter().all(|data| data.broker_addrs.values().all(|addr| addr == BROKER))
                && route
                    .queue_datas
                    .iter()
                    .all(|data| (data.read_queue_nums, data.write_queue_nums) == (QUEUES, QUEUES));
        if !right {
            core.broken(format!("ROUTE: topic {topic} is said to be at {route:?}"));
        }
        self.found[topic] = core.is_settled() && !route.broker_datas.is_empty();
    }
}

impl Room for Route {
    fn name(&self) -> &'static str {
        "route"
    }

    fn woken(&mut self, core: &mut Core, _tag: u64) {
        if self.registering.is_none() && (core.announce || core.now >= self.register_at) {
            self.register(core);
        }
        if core.is_settled() || core.chance.one_in(4) {
            self.ask(core);
        }
        core.wake(self.number, 0, LOOK);
    }

    fn answered(&mut self, core: &mut Core, answer: Answer) {
        let reply = answer.reply.map(|(frame, _)| frame);
        if let Some(topic) = self.asked.remove(&answer.opaque) {
            if let Some(frame) = reply {
                self.check(core, topic, &frame);
            }
            return;
        }
        if self.registering == Some(answer.opaque) {
            self.registering = None;
            let code = reply.as_ref().and_then(|frame| Header::decode(frame).ok()).map(|header| header.code);
            let done = code == Some(ResponseCode::Success.code());
            self.register_at = core.now + if done { INTERVAL } else { RETRY };
        }
    }

    fn recovered(&mut self, core: &mut Core, _lossy: bool) {
        // The connection ended with the process.
        if let Some(link) = core.sessions[self.broker].links.get(&Server::Names).copied() {
            core.close(link);
        }
        self.register_at = 0;
    }

    fn settle(&mut self, _core: &mut Core) {
        self.register_at = 0;
    }

    fn unfinished(&self, core: &Core) -> Option<String> {
        // A topic that nothing was stored in may never have been made.
        let in_use =
            |topic: usize| core.ledger.queues().any(|((of, _), places)| *of == topic && !places.is_empty());
        let missing = (0..core.ledger.topics.len())
            .find(|topic| in_use(*topic) && !self.found.get(*topic).copied().unwrap_or(false))?;
        Some(format!("the route of {}", core.ledger.topics[missing]))
    }
}
