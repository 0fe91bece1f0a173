//! The simulator: name server, broker and clients in one thread, on simulated time, network and disk, all from a seed.
//!
//! ```text
//! cargo xtask sim --rounds 1000            seeds that nobody chose
//! cargo xtask sim --seed 7 --rounds 1      one of them again: the same events, to the byte
//! cargo xtask sim --crash-states           what each possible power cut leaves, after each operation
//! cargo xtask sim --every-call             each call to the disk failed, in five ways
//! ```
//!
//! Suggested reading order: [`world`] is the event loop, [`plan`] what a seed decides, [`machine`] the broker and name
//! server under test, [`rooms`] the clients and the laws that they watch, [`ledger`] what must be there. Beneath:
//! [`net`], [`session`], [`trace`], [`chance`]. Exhaustive, without chance where it matters: [`crash_states`] and
//! [`every_call`], on the broker of [`script`].
//!
//! A failing seed prints what is wrong and the last events. To keep it as a test, add it to `tests/seeds.rs` under a
//! name that says the law; to make a room, see [`rooms`].
//!
//! Never here: real clocks, threads, sockets, files, processes. The same seed gives the same run, which a test shows: no
//! order of a hash map may decide anything.

pub mod chance;
pub mod crash_states;
pub mod every_call;
pub mod ledger;
pub mod machine;
pub mod net;
pub mod plan;
pub mod rooms;
pub mod script;
pub mod session;
pub mod trace;
pub mod world;

pub use world::{Failure, Outcome, run};
