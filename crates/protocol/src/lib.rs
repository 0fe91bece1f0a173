//! The RocketMQ wire: bytes to typed requests, replies and messages, and back.
//!
//! Suggested reading order: [`frame`] cuts a byte stream into frames, [`header`] reads a frame's header in
//! either of its two encodings, [`request`] is the table of every request code, [`headers`] are the typed
//! header fields of the codes that are served, [`previous`] reads a request by its likeness to the one before, [`body`] the JSON bodies, [`message`] the stored record that
//! the commit log and every pull reply share.
//!
//! Never here: sockets, files, clocks, randomness, or what a request *means*.
//! Every decoder allocates at most in proportion to the bytes that it was given, and never panics on them.

pub mod body;
pub mod frame;
pub mod header;
pub mod headers;
pub mod message;
pub mod names;
pub mod previous;
pub mod reply;
pub mod request;
pub mod response;
pub mod units;
mod words;

pub use body::{DataVersion, TopicConfig};
pub use frame::{Frame, FrameError, FrameLimits, SerializeType};
pub use header::{Fields, Header, HeaderError, Language};
pub use previous::{Like, Previous};
pub use reply::{ConnectionId, Peer, Reply};
pub use request::{Request, RequestCode, RequestError};
pub use response::ResponseCode;
pub use units::{LogOffset, Millis, QueueId, QueueOffset};

/// The version number that this server and client announce: that of release 5.3.3, whose behaviour we match.
///
/// Java clients remember it and refuse SQL subscriptions below 233 (release 4.1.0).
pub const VERSION: i32 = 479;
