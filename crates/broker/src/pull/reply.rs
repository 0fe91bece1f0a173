//! The answer to a pull: what was found, record by record, without those that are damaged.

use std::cell::RefCell;

use bytes::BytesMut;
use cometmq_protocol::{QueueOffset, Reply, ResponseCode};
use cometmq_store::{DiskError, Patience, Queue, Unit, Wrong};

use super::chosen::CHOSEN;
use super::head::encode as header;
use super::{NotResident, Outcome, Pull};
use crate::broker::Broker;

thread_local! {
    /// Where records come from the disk to, on their way into replies.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What became of the messages that were found.
struct Delivered {
    /// Messages in the body.
    messages: usize,
    /// Where the next pull goes on.
    next: QueueOffset,
    /// The first message that the device does not give.
    unreadable: Option<(QueueOffset, DiskError)>,
}

impl Broker {
    /// Writes the answer to `out`, or nothing when it needs bytes that `patience` does not reach.
    ///
    /// A damaged message is left out, and the consumer goes on behind it. One that the device does not give is left out
    /// only if one behind it is given: a disk that is gone must not make consumers skip everything. An entry of the queue
    /// that does not lead to its message is made anew from the log.
    pub(super) fn write_reply(
        &self,
        pull: &Pull,
        queue: Option<&Queue>,
        outcome: Outcome,
        patience: Patience,
        out: &mut BytesMut,
    ) -> Result<(), NotResident> {
        let (units, next, queue) = match (outcome, queue) {
            (Outcome::Found { units, next }, Some(queue)) => (units, next, queue),
            (Outcome::NotResident, _) => return Err(NotResident),
            (outcome, queue) => {
                nothing(pull, queue, &outcome, out);
                return Ok(());
            }
        };
        let start = out.len();
        let body_bytes = units.iter().map(|(_, unit)| unit.size as usize).sum();
        header(pull, Some(queue), ResponseCode::Success, "FOUND", next, body_bytes, out);
        let body_start = out.len();
        out.reserve(body_bytes);
        let delivered = match self.write_messages(queue, &units, next, patience, out) {
            Ok(delivered) => delivered,
            Err(NotResident) => {
                out.truncate(start);
                return Err(NotResident);
            }
        };
        if delivered.messages == units.len() {
            CHOSEN.set(units);
            return Ok(());
        }
        let body = out.split_off(body_start);
        out.truncate(start);
        match delivered {
            Delivered { messages: 0, unreadable: Some((offset, error)), next }
                if !self.gives_message(queue, next) =>
            {
                tracing::error!(topic = %queue.topic(), queue = %queue.id(), %offset, %error, "message not readable");
                let remark = format!("message at queue offset {offset} cannot be read: {error}");
                let refusal = Reply::refuse(ResponseCode::SystemError, remark);
                refusal.encode(pull.opaque, pull.serialize_type, out);
            }
            Delivered { messages: 0, next, .. } => {
                let code = ResponseCode::PullRetryImmediately;
                header(pull, Some(queue), code, "MESSAGE_DAMAGED", next, 0, out);
            }
            Delivered { next, .. } => {
                header(pull, Some(queue), ResponseCode::Success, "FOUND", next, body.len(), out);
                out.extend_from_slice(&body);
            }
        }
        Ok(())
    }

    /// Whether the disk gives the message at `offset`.
    fn gives_message(&self, queue: &Queue, offset: QueueOffset) -> bool {
        let mut units = Vec::with_capacity(1);
        let found = queue.read(offset, 1, &mut units).is_ok() && !units.is_empty();
        let wanted: Vec<_> = units.into_iter().map(|unit| (offset, unit)).collect();
        let mut given = false;
        self.store.read_messages(queue, &wanted, Patience::Disk, &mut Vec::new(), &mut |message| {
            given = message.is_ok();
            false
        });
        found && given
    }

    /// Appends the messages to `out` that are whole; `next` is where to go on behind all of them.
    fn write_messages(
        &self,
        queue: &Queue,
        units: &[(QueueOffset, Unit)],
        next: QueueOffset,
        patience: Patience,
        out: &mut BytesMut,
    ) -> Result<Delivered, NotResident> {
        let mut delivered = Delivered { messages: 0, next, unreadable: None };
        let offset_of = |index: usize| units.get(index).map_or(next, |(offset, _)| *offset);
        let mut seen = 0;
        let mut stopped_at = None;
        let mut read = |scratch: &mut Vec<u8>| {
            self.store.read_messages(queue, units, patience, scratch, &mut |found| {
                seen += 1;
                let wrong = match found {
                    Ok(record) => {
                        out.extend_from_slice(record);
                        delivered.messages += 1;
                        return true;
                    }
                    Err(wrong) => wrong,
                };
                let offset = offset_of(seen - 1);
                match wrong {
                    // Whoever may wait for the disk finds out more.
                    _ if patience == Patience::Resident => {
                        stopped_at = Some(offset);
                        return false;
                    }
                    Wrong::Block(_) => {}
                    _ if delivered.messages > 0 => {
                        stopped_at = Some(offset);
                        return false;
                    }
                    Wrong::Unreadable(error) => {
                        delivered.unreadable.get_or_insert((offset, error));
                    }
                    Wrong::Other | Wrong::Missing | Wrong::Record(_) => {
                        if self.is_restored(queue, offset) {
                            stopped_at = Some(offset);
                            return false;
                        }
                    }
                }
                true
            })
        };
        if !SCRATCH.with_borrow_mut(&mut read) {
            stopped_at = Some(offset_of(seen));
        }
        // What is in memory is delivered at once; the next pull waits for the disk.
        if stopped_at.is_some() && delivered.messages == 0 && patience == Patience::Resident {
            return Err(NotResident);
        }
        delivered.next = stopped_at.unwrap_or(next);
        Ok(delivered)
    }

    /// Makes an entry anew that does not lead to its message; whether that was possible.
    fn is_restored(&self, queue: &Queue, offset: QueueOffset) -> bool {
        self.store.restore_entry(queue, offset).unwrap_or_else(|error| {
            tracing::error!(topic = %queue.topic(), queue = %queue.id(), %offset, %error, "entry not restored");
            false
        })
    }
}

/// The answer that there is nothing to deliver, and why.
pub(super) fn nothing(pull: &Pull, queue: Option<&Queue>, outcome: &Outcome, out: &mut BytesMut) {
    let (code, remark, next) = match outcome {
        Outcome::Nothing { code, remark, next } => (*code, *remark, *next),
        // Looked at again, more may be found.
        Outcome::Found { .. } | Outcome::NotResident => {
            (ResponseCode::PullRetryImmediately, "NO_MATCHED_MESSAGE", pull.offset)
        }
    };
    header(pull, queue, code, remark, next, 0, out);
}
