//! A client: finds the broker through the name server, keeps a connection to each, and matches replies to requests.
//!
//! Every request gets exactly one answer: the reply, or none when its time is over or its connection lost. A reply that
//! nobody asked for, or a second one, is a broken law.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;

use crate::net::Server;
use crate::rooms::Ask;

/// A client of a room.
#[derive(Debug)]
pub struct Session {
    /// The room that hears its answers.
    pub room: usize,
    /// Its name for brokers.
    pub name: String,
    /// Its connection to each server.
    pub links: BTreeMap<Server, u64>,
    /// It knows where the broker is.
    pub routed: bool,
    /// The request for a route that it waits for.
    pub routing: Option<i32>,
    /// Requests that wait until it does.
    pub waiting: Vec<(i32, Ask)>,
    /// Requests under way, those that wait included.
    pub pending: BTreeMap<i32, Pending>,
    /// Requests whose time was over, by connection: their replies may still come.
    given_up: BTreeSet<(u64, i32)>,
    /// Bytes that came and are no whole frame yet, by connection.
    pub input: BTreeMap<u64, BytesMut>,
    next_opaque: i32,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// Its connection, once it has one.
    pub link: Option<u64>,
    /// When it was made, µs.
    pub asked_at: u64,
    /// When its server got it.
    pub arrived_at: Option<u64>,
    /// Who was asked.
    pub server: Server,
}

impl Session {
    /// A client that knows nothing yet; `number` makes its requests other than those of its room's other clients.
    pub fn new(room: usize, number: usize, name: String) -> Session {
        Session {
            room,
            name,
            links: BTreeMap::new(),
            routed: false,
            routing: None,
            waiting: Vec::new(),
            pending: BTreeMap::new(),
            given_up: BTreeSet::new(),
            input: BTreeMap::new(),
            next_opaque: (number as i32) << 20,
        }
    }

    /// A number for a request.
    pub fn opaque(&mut self) -> i32 {
        self.next_opaque += 1;
        self.next_opaque
    }

    /// Takes a request out whose reply came by `link`: `Ok(None)` when its time was over before.
    pub fn take(&mut self, link: u64, opaque: i32) -> Result<Option<Pending>, String> {
        match self.pending.get(&opaque) {
            Some(pending) if pending.link == Some(link) => Ok(self.pending.remove(&opaque)),
            _ if self.given_up.remove(&(link, opaque)) => Ok(None),
            _ => Err(format!("{} got a reply to #{opaque}, which is answered or was never asked", self.name)),
        }
    }

    /// The time of a request is over, if it is still under way.
    pub fn give_up(&mut self, opaque: i32) -> Option<Pending> {
        let pending = self.pending.remove(&opaque)?;
        self.waiting.retain(|(waiting, _)| *waiting != opaque);
        if let Some(link) = pending.link {
            self.given_up.insert((link, opaque));
        }
        Some(pending)
    }

    /// A connection is gone. Returns the requests that will have no reply.
    pub fn disconnected(&mut self, link: u64) -> Vec<(i32, Pending)> {
        self.links.retain(|_, open| *open != link);
        self.input.remove(&link);
        self.given_up.retain(|(gone, _)| *gone != link);
        self.pending.extract_if(.., |_, pending| pending.link == Some(link)).collect()
    }
}
