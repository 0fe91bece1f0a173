//! Requests that need the disk before they can be answered: a queue is not in memory, a topic has to be made, an index or
//! an old message is to be read. They must not keep a worker, and all its connections, waiting: the shell takes them
//! elsewhere, as they came, and nothing was done for them before.
//!
//! Requests of one connection that are in flight together may then overtake each other, as in RocketMQ's thread pools.
//!
//! Every such request is answered exactly once, by [`Broker::handle_slow`], or at once when too many wait. Pulls have
//! their own way: [`cold`](crate::pull).

use bytes::{Bytes, BytesMut};
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{ConnectionId, Frame, Millis, Peer, QueueId, Reply, Request, ResponseCode};
use cometmq_store::{Patience, Store};

use crate::broker::{Broker, Turn};
use crate::effects::Effects;
use crate::places::{Amount, Place};

/// Requests that wait for the disk at a time, at the most.
const SLOW_MAX: Amount = Amount { count: 65_536, bytes: 32 * 1024 * 1024 };
/// What a request takes beside its bytes.
const REQUEST_BYTES: usize = 512;

/// Why a room did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Undone {
    /// It refused.
    Refused(Reply),
    /// That may take as long as the disk does, and the caller must not wait.
    NeedsDisk,
}

impl From<Reply> for Undone {
    fn from(refusal: Reply) -> Undone {
        Undone::Refused(refusal)
    }
}

/// A request that waits for the disk. Give it to [`Broker::handle_slow`] where waiting is allowed.
#[derive(Debug)]
pub struct SlowRequest {
    frame: Frame,
    peer: Peer,
    _place: Place,
}

impl SlowRequest {
    /// Who waits for the answer.
    pub fn connection(&self) -> ConnectionId {
        self.peer.connection
    }
}

/// Whether answering may take as long as the disk does. Rooms that know only on their way say so themselves, with
/// [`Undone::NeedsDisk`].
pub(crate) fn waits_for_disk(request: &Request<'_>, store: &Store) -> bool {
    match request {
        Request::QueryMessage(_)
        | Request::ViewMessageById(_)
        | Request::QueryConsumerOffset(_)
        | Request::SearchOffsetByTimestamp(_)
        | Request::GetEarliestStoreTime(_)
        | Request::CreateTopic(_) => true,
        Request::GetMaxOffset(queue) | Request::GetMinOffset(queue) => {
            let known = |topic| store.queue_patiently(&topic, QueueId(queue.queue_id), Patience::Resident);
            TopicName::parse(&queue.topic).is_ok_and(|topic| known(topic).is_none())
        }
        _ => false,
    }
}

impl Broker {
    /// Hands a request to the shell; the refusal when too much waits there already.
    pub(crate) fn postpone(&self, peer: Peer, frame: &Frame, effects: &mut Effects) -> Option<Reply> {
        let bytes = frame.header.len() + frame.body.len() + REQUEST_BYTES;
        let Some(place) = self.slow.enter(peer.connection, bytes, SLOW_MAX) else {
            let remark =
                "[OVERLOAD]system busy, start flow control for a while: too many requests wait for the disk";
            return Some(Reply::refuse(ResponseCode::SystemBusy, remark));
        };
        // A copy: the slices would hold on to the whole buffer that they were read into.
        let frame = Frame {
            header: Bytes::copy_from_slice(&frame.header),
            body: Bytes::copy_from_slice(&frame.body),
            ..*frame
        };
        effects.slow.push(SlowRequest { frame, peer, _place: place });
        None
    }

    /// Does what a request asks for; may take as long as the disk does. The answer is a delivery, now or once the store
    /// has what it promises.
    ///
    /// If the connection is gone by then, call [`Broker::disconnected`] once more: a heartbeat may have entered it again.
    pub fn handle_slow(&self, request: SlowRequest, now: Millis, effects: &mut Effects) {
        let SlowRequest { frame, peer, _place } = request;
        let mut out = BytesMut::new();
        let mut turn = Turn::new(now, peer, &mut out);
        let read = self.handle(&mut turn, &frame, effects);
        debug_assert!(read.is_ok(), "it was read before");
        self.finish(turn, effects);
        effects.deliver(peer.connection, out);
    }
}
