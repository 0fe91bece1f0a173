//! Frames over TCP: accept, connect, correlate, push back.
//!
//! One tokio task carries one connection in both directions: it reads once, cuts every complete frame, calls its
//! [`Handler`] once, and writes what the handler answered in one system call. Other threads hand frames in through
//! [`Connection::push`]. Batching comes from load itself, never from waiting. The connections of a server are shared
//! out among [`Workers`], threads with a runtime each.
//!
//! Suggested reading order: [`out`] is what a connection has to write, `socket` where to, [`connection`] the task and
//! the handle that others hold, `budget` what all of them may hold for peers that do not read, [`close`] why
//! connections end and how that is logged, [`workers`] who carries them, `carried` how one changes its worker,
//! `balance` when it should, [`server`] listens, [`client`] connects and matches replies to requests.
//!
//! Invariants: a peer costs memory for bytes that it really sent; whoever does not read is cut off at a bound; a
//! peer that speaks nonsense loses its own connection only; an idle connection keeps no buffers.
//!
//! Never here: what a request means.

mod balance;
mod budget;
mod carried;
pub mod client;
pub mod close;
pub mod connection;
pub mod out;
pub mod server;
mod socket;
pub mod workers;

pub use client::{ClientConnection, ClientOptions, Incoming, RemotingError, Response, dial};
pub use close::CloseReason;
pub use connection::{Connection, Handler};
pub use out::Out;
pub use server::{BindError, Server, ServerOptions};
pub use workers::{Workers, push_all};
