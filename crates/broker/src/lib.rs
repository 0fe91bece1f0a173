//! The broker: every feature is a room of its own, a synchronous machine that is handed requests and time.
//!
//! [`Broker`] is the door: it decodes a frame, finds the room, and sees to it that a reply leaves no sooner than what
//! it promises is stored. Rooms: [`send`], [`pull`], [`query`], [`offset`], [`topic`], [`group`], [`client`], [`order`],
//! [`retention`].
//!
//! Never here: sockets, clocks, threads, tokio. What is to be sent elsewhere than to the asking connection comes out
//! as [`Effects`].

mod broker;
pub mod client;
mod effects;
pub mod group;
pub mod offset;
pub mod order;
mod places;
pub mod pull;
pub mod query;
pub mod retention;
pub mod send;
mod slow;
pub mod topic;

pub use broker::{Broker, BrokerConfig, Memory, OpenError, Turn};
pub use effects::{Delivery, Effects};
pub use pull::ColdPull;
pub use slow::SlowRequest;
