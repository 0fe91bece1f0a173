//! The rooms of the simulator: for each feature the clients that use it and the laws that they hold it to.
//!
//! A room is one file and one line in [`ROOMS`]. It makes its clients in its constructor, acts when it is woken, hears
//! each answer once, and says when it has nothing more to do. A law that is broken is told with
//! [`Core::broken`](crate::world::Core::broken) and ends the run.

mod batch;
mod offset;
mod order;
mod pull;
mod route;
mod send;

pub(crate) use send::send_fields;

use bytes::Bytes;
use cometmq_protocol::{Fields, Frame, RequestCode};

use crate::world::Core;

/// An answer, as a room gets it.
#[derive(Debug)]
pub struct Answer {
    /// The client that asked.
    pub client: usize,
    /// What [`Core::ask`](crate::world::Core::ask) returned for the request.
    pub opaque: i32,
    /// When the request reached its server, as far as is known, µs.
    pub arrived_at: Option<u64>,
    /// The reply and when it left its server; `None` when the time was over or the connection was lost.
    pub reply: Option<(Frame, u64)>,
}

/// A request to be made.
#[derive(Debug)]
pub struct Ask {
    /// Its code.
    pub code: i32,
    /// Its header fields.
    pub fields: Fields<'static>,
    /// Its body.
    pub body: Bytes,
    /// How long its client waits, ms; `None` makes it one-way.
    pub timeout_ms: Option<u64>,
    /// The messages that it carries: the first one's number in the ledger, and how many.
    pub carries: Option<(usize, usize)>,
}

impl Ask {
    /// A request without body or messages that waits for three seconds.
    pub fn plain(code: RequestCode, fields: Fields<'static>) -> Ask {
        Ask { code: code.code(), fields, body: Bytes::new(), timeout_ms: Some(3000), carries: None }
    }
}

/// Clients of one feature and the laws that they watch.
pub trait Room: std::fmt::Debug {
    /// Its name.
    fn name(&self) -> &'static str;

    /// A moment that the room asked for with [`Core::wake`](crate::world::Core::wake), or the start.
    fn woken(&mut self, core: &mut Core, tag: u64);

    /// What became of a request.
    fn answered(&mut self, core: &mut Core, answer: Answer);

    /// The broker is there again; the ledger holds what it has. `lossy`: a power cut may have taken what was not
    /// promised to survive it.
    fn recovered(&mut self, _core: &mut Core, _lossy: bool) {}

    /// Faults are over for good: what was to be done is to be finished. Called once.
    fn settle(&mut self, _core: &mut Core) {}

    /// What the room still waits for after [`Room::settle`]; `None` when all is done.
    fn unfinished(&self, core: &Core) -> Option<String>;

    /// The end: everything that must hold by now.
    fn finish(&mut self, _core: &mut Core) {}
}

/// Makes a room, whose number is given.
type Make = fn(usize, &mut Core) -> Box<dyn Room>;

/// All rooms: name, how many in ten runs have it, and its constructor.
pub const ROOMS: &[(&str, u64, Make)] = &[
    ("route", 10, route::make),
    ("send", 10, send::make),
    ("batch", 4, batch::make),
    ("pull", 8, pull::make),
    ("offset", 5, offset::make),
    ("order", 4, order::make),
];
