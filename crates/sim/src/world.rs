//! The event loop: one thread, one queue of events by time, everything else is a value.
//!
//! [`Core`] is what rooms see of the world; [`World`] is the core with the rooms. `troubles` is how faults strike and
//! how a broker ends and starts. Never here: laws of a feature, which are the rooms'.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use cometmq_broker::Effects;
use cometmq_protocol::body::json;
use cometmq_protocol::body::route::TopicRoute;
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::headers::HeaderFields;
use cometmq_protocol::headers::namesrv::GetRouteHeader;
use cometmq_protocol::{Fields, Frame, Header, RequestCode};

use crate::chance::Chance;
use crate::ledger::Ledger;
use crate::machine::{self, BROKER, Host, NamesHost, TEMPLATE};
use crate::net::{Net, Server};
use crate::plan::{Plan, SECOND};
use crate::rooms::{Answer, Ask, ROOMS, Room};
use crate::session::{Pending, Session};
use crate::trace::Trace;

mod troubles;

/// How soon a client asks for its route again.
const REROUTE: u64 = SECOND / 2;
/// How long after the end of all faults a request may still go unanswered. A late registration by a connection that is
/// then closed makes the name server forget the broker until it registers again.
const GRACE: u64 = 15 * SECOND;
/// How long rooms may take to finish after the end of all faults.
const SETTLED_MAX: u64 = 90 * SECOND;
/// Events after which a run is given up as one that goes round in circles.
const EVENTS_MAX: u64 = 2_000_000;

/// Something that happens at a time.
#[derive(Debug)]
enum Event {
    Bytes { link: u64, to_server: bool, bytes: Bytes, sent_at: u64 },
    Closed { link: u64, to_server: bool },
    Deadline { client: usize, opaque: i32 },
    Reroute { client: usize },
    Wake { room: usize, tag: u64 },
    Turn,
    Sync { life: u32, wanted: bool },
    Flush { life: u32 },
    Tick { life: u32 },
    NamesScan,
    Start,
    Operator { life: u32 },
    Trouble(usize),
    Relief(Relief),
    Settle,
    Look,
}

/// The end of a fault that lasts.
#[derive(Clone, Copy, Debug)]
enum Relief {
    Room,
    Short,
    Disk,
}

/// The world without its rooms.
#[derive(Debug)]
pub struct Core {
    /// Simulated time, µs.
    pub now: u64,
    /// All chance of the run.
    pub chance: Chance,
    /// What the seed decided.
    pub plan: Plan,
    /// What happened.
    pub trace: Trace,
    /// Connections.
    pub net: Net,
    /// The broker.
    pub host: Host,
    /// Clients.
    pub sessions: Vec<Session>,
    /// What was sent and what must be there.
    pub ledger: Ledger,
    /// When all faults were over, if they are.
    pub settled_at: Option<u64>,
    /// The broker's topics changed: it is to register again.
    pub announce: bool,
    names: NamesHost,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    answers: VecDeque<(usize, Answer)>,
    broken: Option<String>,
    /// How the process ends that is about to.
    dying: Option<(cometmq_store::disk::Crash, u64)>,
    /// A power cut may have taken what was not promised to survive it.
    lossy: bool,
    /// The broker started since the rooms last heard.
    restarted: Option<bool>,
    /// The wall clock jumped at some time: leases may have ended early.
    pub clock_jumped: bool,
    slow_sync: Option<u64>,
    operator_called: bool,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of the trace.
    pub hash: u64,
    /// Events that happened.
    pub events: u64,
    /// Messages that were acknowledged.
    pub acknowledged: u64,
    /// Those of them that a power cut took under ASYNC_FLUSH, as it may.
    pub lost: u64,
    /// How often the broker was started.
    pub starts: u32,
}

/// A law was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// What is wrong.
    pub what: String,
    /// The last events.
    pub trace: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}: {}\nthe last events:\n{}", self.seed, self.what, self.trace)
    }
}

/// Runs the world of a seed to its end.
pub fn run(seed: u64) -> Result<Outcome, Failure> {
    let mut chance = Chance::of(seed);
    let plan = Plan::of(&mut chance);
    let mut core = Core::new(seed, plan, chance);
    let mut rooms = Vec::new();
    for (_, in_ten, make) in ROOMS {
        if core.chance.below(10) < *in_ten {
            rooms.push(make(rooms.len(), &mut core));
        }
    }
    let mut world = World { core, rooms };
    world.run();
    let World { core, .. } = world;
    match core.broken {
        Some(what) => Err(Failure { seed, what, trace: core.trace.last() }),
        None => Ok(Outcome {
            hash: core.trace.hash(),
            events: core.trace.count(),
            acknowledged: core.ledger.acknowledged,
            lost: core.ledger.lost,
            starts: core.host.life,
        }),
    }
}

struct World {
    core: Core,
    rooms: Vec<Box<dyn Room>>,
}

impl World {
    fn run(&mut self) {
        self.core.begin();
        for room in 0..self.rooms.len() {
            self.core.wake(room, 0, 0);
        }
        while self.core.broken.is_none() {
            let Some(((at, _), event)) = self.core.events.pop_first() else { break };
            self.core.now = at;
            match event {
                Event::Wake { room, tag } => self.rooms[room].woken(&mut self.core, tag),
                Event::Settle => {
                    self.core.settle();
                    self.rooms.iter_mut().for_each(|room| room.settle(&mut self.core));
                }
                Event::Look => {
                    if self.is_finished() {
                        self.rooms.iter_mut().for_each(|room| room.finish(&mut self.core));
                        return self.core.end();
                    }
                }
                event => self.core.happen(event),
            }
            self.tell_rooms();
            if self.core.trace.count() > EVENTS_MAX {
                self.core.broken("ENDLESS: too many events".to_owned());
            }
        }
    }

    fn tell_rooms(&mut self) {
        if let Some(lossy) = self.core.restarted.take() {
            self.rooms.iter_mut().for_each(|room| room.recovered(&mut self.core, lossy));
        }
        while let Some((room, answer)) = self.core.answers.pop_front() {
            self.rooms[room].answered(&mut self.core, answer);
        }
    }

    fn is_finished(&mut self) -> bool {
        let down = self.core.host.broker.is_none().then(|| ("broker", "its start".to_owned()));
        let mut rooms = self.rooms.iter().map(|room| (room.name(), room.unfinished(&self.core)));
        let waits = || rooms.find_map(|(name, what)| Some((name, what?)));
        let Some((room, what)) = down.or_else(waits) else { return true };
        let settled_at = self.core.settled_at.unwrap_or(0);
        if self.core.now > settled_at + SETTLED_MAX {
            self.core.broken(format!("UNFINISHED: {room} waits for {what}"));
        }
        self.core.at(self.core.now + SECOND / 5, Event::Look);
        false
    }
}

impl Core {
    fn new(seed: u64, plan: Plan, chance: Chance) -> Core {
        Core {
            now: 0,
            host: Host::new(&plan),
            chance,
            plan,
            trace: Trace::default(),
            net: Net::default(),
            sessions: Vec::new(),
            ledger: Ledger::new(seed),
            settled_at: None,
            announce: false,
            names: NamesHost::default(),
            events: BTreeMap::new(),
            sequence: 0,
            answers: VecDeque::new(),
            broken: None,
            dying: None,
            lossy: false,
            restarted: None,
            clock_jumped: false,
            slow_sync: None,
            operator_called: false,
        }
    }

    /// A law is broken: the run ends here.
    pub fn broken(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// A law that may be broken.
    pub fn hold<T>(&mut self, law: Result<T, String>) -> Option<T> {
        law.map_err(|what| self.broken(what)).ok()
    }

    /// A client of a room.
    pub fn session(&mut self, room: usize, name: String) -> usize {
        let number = self.sessions.len();
        self.sessions.push(Session::new(room, number, name));
        number
    }

    /// Wakes a room after so many µs.
    pub fn wake(&mut self, room: usize, tag: u64, after: u64) {
        self.at(self.now + after, Event::Wake { room, tag });
    }

    /// Whether faults are over.
    pub fn is_settled(&self) -> bool {
        self.settled_at.is_some()
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    /// Makes a request. Its room hears of it once more, unless it is one-way.
    pub fn ask(&mut self, client: usize, server: Server, ask: Ask) -> i32 {
        let opaque = self.sessions[client].opaque();
        if let Some(timeout_ms) = ask.timeout_ms {
            let pending = Pending { link: None, asked_at: self.now, arrived_at: None, server };
            self.sessions[client].pending.insert(opaque, pending);
            self.at(self.now + timeout_ms * 1000, Event::Deadline { client, opaque });
        }
        if server == Server::Broker && !self.sessions[client].routed {
            self.sessions[client].waiting.push((opaque, ask));
            self.find_route(client);
        } else {
            self.transmit(client, server, opaque, ask);
        }
        opaque
    }

    fn transmit(&mut self, client: usize, server: Server, opaque: i32, ask: Ask) {
        let known = self.sessions[client].links.get(&server).copied();
        let link = known.unwrap_or_else(|| self.net.connect(client, server));
        if server == Server::Broker && self.host.broker.is_none() {
            // Nobody listens: what was said to no one does not wait for the next process.
            self.cut(link);
        }
        self.sessions[client].links.insert(server, link);
        if let Some(pending) = self.sessions[client].pending.get_mut(&opaque) {
            pending.link = Some(link);
        }
        if let Some((first, count)) = ask.carries {
            self.ledger.carry(link, opaque, first, count);
        }
        let header = match ask.timeout_ms {
            Some(_) => Header::request(ask.code, opaque, ask.fields),
            None => Header::oneway(ask.code, opaque, ask.fields),
        };
        let bytes = machine::encode_bytes(&header, &ask.body);
        self.send(link, true, bytes.freeze());
    }

    fn find_route(&mut self, client: usize) {
        if self.sessions[client].routing.is_some() {
            return;
        }
        let header = GetRouteHeader {
            topic: Some(TEMPLATE.into()),
            accept_standard_json_only: true,
            borrows: std::marker::PhantomData,
        };
        let ask = Ask::plain(RequestCode::GetRoute, header.encode());
        let opaque = self.ask(client, Server::Names, ask);
        self.sessions[client].routing = Some(opaque);
    }

    fn routed(&mut self, client: usize, reply: Option<&Frame>) {
        self.sessions[client].routing = None;
        let route = reply.and_then(|frame| json::parse::<TopicRoute>(&frame.body).ok());
        let brokers = route.iter().flat_map(|route| &route.broker_datas);
        if !brokers.flat_map(|broker| broker.broker_addrs.values()).any(|address| address == BROKER) {
            self.at(self.now + REROUTE, Event::Reroute { client });
            return;
        }
        self.sessions[client].routed = true;
        for (opaque, ask) in std::mem::take(&mut self.sessions[client].waiting) {
            self.transmit(client, Server::Broker, opaque, ask);
        }
    }

    /// Sends bytes over a connection, in one piece or two.
    fn send(&mut self, link: u64, to_server: bool, mut bytes: Bytes) {
        let pieces = if bytes.len() > 1 && self.chance.one_in(self.plan.split_one_in) { 2 } else { 1 };
        for piece in 0..pieces {
            let rest = if piece + 1 < pieces {
                bytes.split_off(1 + self.chance.below(bytes.len() as u64 - 1) as usize)
            } else {
                Bytes::new()
            };
            let arrival = self.net.arrival(link, to_server, self.now, self.plan.delay, &mut self.chance);
            let sent_at = self.now;
            self.at(arrival, Event::Bytes { link, to_server, bytes, sent_at });
            bytes = rest;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Bytes { link, to_server: true, bytes, .. } => self.arrive_at_server(link, bytes),
            Event::Bytes { link, to_server: false, bytes, sent_at } => {
                self.arrive_at_client(link, &bytes, sent_at);
            }
            Event::Closed { link, to_server: true } => self.server_sees_close(link),
            Event::Closed { link, to_server: false } => self.client_sees_close(link),
            Event::Deadline { client, opaque } => self.deadline(client, opaque),
            Event::Reroute { client } if !self.sessions[client].routed => self.find_route(client),
            Event::Turn => self.turn(),
            Event::Sync { life, wanted } if life == self.host.life => self.sync(wanted),
            Event::Flush { life } if life == self.host.life => self.flush(),
            Event::Tick { life } if life == self.host.life => self.tick(),
            Event::NamesScan => {
                self.names.scan(self.now);
                self.at(self.now + 5 * SECOND, Event::NamesScan);
            }
            Event::Start => self.start(),
            Event::Operator { life } if life == self.host.life => self.operator(),
            Event::Trouble(number) => self.strike(number),
            Event::Relief(relief) => self.relieve(relief),
            _ => {}
        }
    }

    fn arrive_at_server(&mut self, link: u64, bytes: Bytes) {
        let Some(known) = self.net.links.get(&link) else { return };
        if known.cut || !known.server_open {
            return;
        }
        self.trace.note_bytes(
            self.now,
            "arrived",
            [link.cast_signed(), bytes.len() as i64, i64::from(crc32fast::hash(&bytes))],
        );
        match known.server {
            Server::Names => match self.names.receive(self.now, link, &bytes) {
                Some(out) if out.is_empty() => {}
                Some(out) => {
                    self.mark_arrived(link, None);
                    self.send(link, false, out.freeze());
                }
                None => self.cut(link),
            },
            Server::Broker if self.host.broker.is_none() => self.cut(link),
            Server::Broker => {
                self.host.inbox.entry(link).or_default().extend_from_slice(&bytes);
                if !self.host.turn_due {
                    self.host.turn_due = true;
                    let after = self.chance.below(200);
                    self.at(self.now + after, Event::Turn);
                }
            }
        }
    }

    fn mark_arrived(&mut self, link: u64, opaque: Option<i32>) {
        let Some(client) = self.net.links.get(&link).map(|link| link.client) else { return };
        if let Some(pending) = opaque.and_then(|opaque| self.sessions[client].pending.get_mut(&opaque)) {
            pending.arrived_at = Some(self.now);
        }
    }

    /// The broker's workers take up what came.
    fn turn(&mut self) {
        self.host.turn_due = false;
        let mut begin: Vec<u64> = self.host.inbox.keys().copied().collect();
        self.chance.shuffle(&mut begin);
        let mut finish: Vec<usize> = (0..begin.len()).collect();
        self.chance.shuffle(&mut finish);
        let mut handled = Vec::new();
        let outcome = self.host.turn(self.now, &begin, &finish, &mut |link, header| {
            handled.push((link, header.opaque));
        });
        for (link, opaque) in handled {
            self.ledger.handled(link, opaque);
            self.mark_arrived(link, Some(opaque));
        }
        self.host.inbox.retain(|_, bytes| !bytes.is_empty());
        let Some(outcome) = outcome else { return self.die() };
        if self.died() {
            return;
        }
        for link in outcome.unreadable {
            self.broken(format!("UNREADABLE: a frame of ours on connection {link}"));
        }
        for (link, bytes) in outcome.replies {
            self.send(link, false, bytes);
        }
        self.apply(outcome.effects);
    }

    fn apply(&mut self, mut effects: Effects) {
        // What waits for the disk is done before anything else happens.
        let waits = |effects: &Effects| !effects.cold.is_empty() || !effects.slow.is_empty();
        while let Some(broker) = self.host.broker.as_ref().filter(|_| waits(&effects)) {
            let now = self.host.wall(self.now);
            for request in std::mem::take(&mut effects.slow) {
                broker.handle_slow(request, now, &mut effects);
            }
            for cold in std::mem::take(&mut effects.cold) {
                broker.read_cold(cold, &mut effects);
            }
            if self.died() {
                return;
            }
        }
        for delivery in effects.deliveries {
            self.send(delivery.connection.0, false, delivery.frames);
        }
        for connection in effects.close {
            self.cut(connection.0);
        }
        self.announce |= effects.announce;
        if effects.sync_wanted && !self.host.sync_due {
            self.host.sync_due = true;
            let (shortest, longest) = self.plan.sync_takes;
            let takes = self.slow_sync.unwrap_or_else(|| self.chance.within(shortest, longest));
            self.at(self.now + takes, Event::Sync { life: self.host.life, wanted: true });
        }
    }

    fn arrive_at_client(&mut self, link: u64, bytes: &[u8], sent_at: u64) {
        let Some(known) = self.net.links.get(&link) else { return };
        if known.cut || !known.client_open {
            return;
        }
        let client = known.client;
        self.trace.note_bytes(
            self.now,
            "answered",
            [link.cast_signed(), bytes.len() as i64, i64::from(crc32fast::hash(bytes))],
        );
        let mut input = self.sessions[client].input.remove(&link).unwrap_or_default();
        input.extend_from_slice(bytes);
        loop {
            let frame = match frame::cut(&mut input, FrameLimits::default()) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return self.broken(format!("UNREADABLE: {error}")),
            };
            self.frame_at_client(client, link, frame, sent_at);
        }
        if !input.is_empty() {
            self.sessions[client].input.insert(link, input);
        }
    }

    fn frame_at_client(&mut self, client: usize, link: u64, frame: Frame, sent_at: u64) {
        let (opaque, is_response) = match Header::decode(&frame) {
            Ok(header) => (header.opaque, header.is_response()),
            Err(error) => return self.broken(format!("UNREADABLE: {error}")),
        };
        // What is no reply is a notification, which asks for nothing.
        if !is_response {
            return;
        }
        let taken = self.sessions[client].take(link, opaque);
        let Some(Some(pending)) = self.hold(taken) else { return };
        self.answer(client, opaque, pending, Some((frame, sent_at)));
    }

    fn answer(&mut self, client: usize, opaque: i32, pending: Pending, reply: Option<(Frame, u64)>) {
        if self.sessions[client].routing == Some(opaque) {
            return self.routed(client, reply.as_ref().map(|(frame, _)| frame));
        }
        let answer = Answer { client, opaque, arrived_at: pending.arrived_at, reply };
        self.answers.push_back((self.sessions[client].room, answer));
    }

    fn deadline(&mut self, client: usize, opaque: i32) {
        let Some(pending) = self.sessions[client].give_up(opaque) else { return };
        self.trace.note(self.now, "gave up", [client as i64, i64::from(opaque)]);
        if self.settled_at.is_some_and(|settled_at| pending.asked_at > settled_at + GRACE) {
            let name = &self.sessions[client].name;
            let (asked, server) = (pending.asked_at, pending.server);
            self.broken(format!("WAITS FOR EVER: #{opaque} of {name} to {server:?}, asked at {asked} µs"));
        }
        // Some clients then close the connection; what they sent may still be on its way.
        if let Some(link) = pending.link.filter(|_| self.chance.one_in(2)) {
            self.close(link);
        }
        self.answer(client, opaque, pending, None);
    }

    /// A client closes its side in order: the server sees it behind all that was sent.
    pub fn close(&mut self, link: u64) {
        let Some(known) = self.net.links.get_mut(&link) else { return };
        known.client_open = false;
        let client = known.client;
        let arrival = self.net.arrival(link, true, self.now, self.plan.delay, &mut self.chance);
        self.at(arrival, Event::Closed { link, to_server: true });
        self.lost_connection(client, link);
    }

    /// A connection is cut: what is under way is lost, and both sides learn of it.
    fn cut(&mut self, link: u64) {
        let Some(known) = self.net.links.get_mut(&link).filter(|known| !known.cut) else { return };
        known.cut = true;
        for to_server in [true, false] {
            let after = self.chance.within(self.plan.delay.0, self.plan.delay.1);
            self.at(self.now + after, Event::Closed { link, to_server });
        }
    }

    fn server_sees_close(&mut self, link: u64) {
        let Some(known) = self.net.links.get_mut(&link).filter(|known| known.server_open) else { return };
        known.server_open = false;
        match known.server {
            Server::Names => self.names.disconnected(self.now, link),
            Server::Broker => {
                self.host.inbox.remove(&link);
                let Some(broker) = &self.host.broker else { return };
                let mut effects = Effects::default();
                broker.disconnected(cometmq_protocol::ConnectionId(link), &mut effects);
                self.apply(effects);
            }
        }
    }

    fn client_sees_close(&mut self, link: u64) {
        let Some(known) = self.net.links.get_mut(&link).filter(|known| known.client_open) else { return };
        known.client_open = false;
        let client = known.client;
        self.lost_connection(client, link);
    }

    fn lost_connection(&mut self, client: usize, link: u64) {
        if self.chance.one_in(4) {
            self.sessions[client].routed = false;
        }
        for (opaque, pending) in self.sessions[client].disconnected(link) {
            self.answer(client, opaque, pending, None);
        }
    }
}

/// The fields of a typed header.
pub fn fields<'a>(header: &'a impl HeaderFields<'a>) -> Fields<'static> {
    header.encode()
}
