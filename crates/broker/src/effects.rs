//! What a request or a moment in time causes beside a direct reply.

use bytes::{Bytes, BytesMut};
use cometmq_protocol::ConnectionId;
use cometmq_protocol::headers::HeaderFields;
use cometmq_protocol::headers::client::ConsumerGroupHeader;
use cometmq_protocol::{Header, RequestCode, SerializeType};

use crate::pull::ColdPull;
use crate::slow::SlowRequest;

/// Whole frames for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// To whom.
    pub connection: ConnectionId,
    /// What.
    pub frames: Bytes,
}

/// What the shell has to do.
#[derive(Debug, Default)]
pub struct Effects {
    /// Frames for other connections.
    pub deliveries: Vec<Delivery>,
    /// Connections to close.
    pub close: Vec<ConnectionId>,
    /// Someone waits for a sync: call [`Broker::sync`](crate::Broker::sync) soon.
    pub sync_wanted: bool,
    /// Pulls that wait for the disk: call [`Broker::read_cold`](crate::Broker::read_cold) where waiting is allowed.
    pub cold: Vec<ColdPull>,
    /// Requests that wait for the disk: call [`Broker::handle_slow`](crate::Broker::handle_slow) where waiting is
    /// allowed.
    pub slow: Vec<SlowRequest>,
    /// Topics changed: register with the name servers now.
    pub announce: bool,
    /// Bytes of answers to earlier requests that were made for it so far.
    pub(crate) delivered_bytes: usize,
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
            && self.close.is_empty()
            && self.cold.is_empty()
            && self.slow.is_empty()
            && !self.sync_wanted
            && !self.announce
    }

    /// Sends a connection what came of a request that it made earlier, if anything did.
    pub(crate) fn deliver(&mut self, connection: ConnectionId, frames: BytesMut) {
        if !frames.is_empty() {
            self.delivered_bytes += frames.len();
            self.deliveries.push(Delivery { connection, frames: frames.freeze() });
        }
    }

    /// Tells every member of a consumer group that its membership changed (code 40, one-way).
    pub(crate) fn notify_members(&mut self, group: &str, members: impl IntoIterator<Item = ConnectionId>) {
        let fields = ConsumerGroupHeader { consumer_group: group.into(), borrows: std::marker::PhantomData };
        let code = RequestCode::NotifyConsumerIdsChanged.code();
        let mut frame = BytesMut::new();
        Header::oneway(code, 0, fields.encode()).encode(SerializeType::Json, 0, &mut frame);
        let frames = frame.freeze();
        let deliver = |connection| Delivery { connection, frames: frames.clone() };
        self.deliveries.extend(members.into_iter().map(deliver));
    }
}
