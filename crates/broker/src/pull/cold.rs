//! Pulls that need what only the disk has. They must not keep a worker waiting: the shell takes them elsewhere.
//!
//! Every such pull is answered exactly once, by [`Broker::read_cold`] or at once when too many wait; one that is dropped
//! belonged to a connection that is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use cometmq_protocol::{ConnectionId, Millis, Reply, ResponseCode};
use cometmq_store::Patience;

use super::Pull;
use crate::broker::Broker;
use crate::effects::{Delivery, Effects};

/// Most pulls that wait for the disk at a time.
const COLD_MAX: usize = 4096;

/// How many pulls wait for the disk.
#[derive(Debug, Default)]
pub struct ColdPulls(Arc<AtomicUsize>);

/// A pull that waits for the disk. Give it to [`Broker::read_cold`] where waiting is allowed.
#[derive(Debug)]
pub struct ColdPull {
    pull: Pull,
    deadline: Option<Millis>,
    _place: Place,
}

impl ColdPull {
    /// Who waits for the answer.
    pub fn connection(&self) -> ConnectionId {
        self.pull.connection
    }
}

/// One of the places of [`ColdPulls`], given back when dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ColdPulls {
    /// Pulls that wait for the disk now.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.0));
        (self.0.fetch_add(1, Ordering::Relaxed) < COLD_MAX).then_some(place)
    }
}

impl Broker {
    /// Hands a pull to the shell; refuses it when too many are there.
    pub(super) fn leave_to_shell(
        &self,
        pull: Pull,
        deadline: Option<Millis>,
        out: &mut BytesMut,
        effects: &mut Effects,
    ) {
        match self.cold.enter() {
            Some(place) => effects.cold.push(ColdPull { pull, deadline, _place: place }),
            None => {
                let remark = format!("{COLD_MAX} pulls of old messages wait for the disk already; try again");
                let refusal = Reply::refuse(ResponseCode::FlowControl, remark);
                refusal.encode(pull.opaque, pull.serialize_type, out);
            }
        }
    }

    /// Answers a pull with what the disk has; may take as long as the disk does. The answer is a delivery.
    pub fn read_cold(&self, cold: ColdPull, effects: &mut Effects) {
        let ColdPull { pull, deadline, _place } = cold;
        let connection = pull.connection;
        let mut out = BytesMut::new();
        self.answer_or_wait(pull, deadline, Patience::Disk, &mut out, effects);
        if !out.is_empty() {
            effects.deliveries.push(Delivery { connection, frames: out.freeze() });
        }
    }

    /// Pulls that wait for the disk now.
    pub fn cold_pulls(&self) -> usize {
        self.cold.count()
    }
}
