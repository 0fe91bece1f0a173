//! The answer to a pull: what was found, record by record, without those that are damaged.

use std::cell::RefCell;

use bytes::BytesMut;
use cometmq_protocol::{QueueOffset, Reply, ResponseCode};
use cometmq_store::{DiskError, Found, Patience, Queue, Receiver, Unit, Wrong};

use super::chosen::CHOSEN;
use super::head::encode as header;
use super::{NotResident, Outcome, Pull};
use crate::broker::Broker;

thread_local! {
    /// Where records come from the disk to, on their way into replies.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Messages on their way into a reply.
struct Written<'a> {
    broker: &'a Broker,
    queue: &'a Queue,
    units: &'a [(QueueOffset, Unit)],
    patience: Patience,
    out: &'a mut BytesMut,
    messages: usize,
    /// Messages that are left out.
    missed: usize,
    unreadable: Option<(QueueOffset, DiskError)>,
    /// The reply ends before the next message.
    has_stopped: bool,
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
        let mut first = |message: Found<'_>| {
            given = message.is_ok();
            false
        };
        self.store.read_messages(queue, &wanted, Patience::Disk, &mut Vec::new(), &mut first);
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
        let mut written = Written {
            broker: self,
            queue,
            units,
            patience,
            out,
            messages: 0,
            missed: 0,
            unreadable: None,
            has_stopped: false,
        };
        let mut read =
            |scratch: &mut Vec<u8>| self.store.read_messages(queue, units, patience, scratch, &mut written);
        let is_resident = SCRATCH.with_borrow_mut(&mut read);
        let stopped = (written.has_stopped || !is_resident).then(|| written.next());
        let Written { messages, unreadable, .. } = written;
        // What is in memory is delivered at once; the next pull waits for the disk.
        if stopped.is_some() && messages == 0 && patience == Patience::Resident {
            return Err(NotResident);
        }
        Ok(Delivered { messages, next: stopped.flatten().unwrap_or(next), unreadable })
    }

    /// Makes an entry anew that does not lead to its message; whether that was possible.
    fn is_restored(&self, queue: &Queue, offset: QueueOffset) -> bool {
        self.store.restore_entry(queue, offset).unwrap_or_else(|error| {
            tracing::error!(topic = %queue.topic(), queue = %queue.id(), %offset, %error, "entry not restored");
            false
        })
    }
}

impl Written<'_> {
    /// Offset of the message behind those that were written or left out.
    fn next(&self) -> Option<QueueOffset> {
        self.units.get(self.messages + self.missed).map(|(offset, _)| *offset)
    }

    /// Whether the reply goes on without the next message.
    fn leaves_out(&mut self, wrong: Wrong) -> bool {
        let Some(offset) = self.next() else { return false };
        match wrong {
            // Whoever may wait for the disk finds out more.
            _ if self.patience == Patience::Resident => false,
            Wrong::Block(_) => true,
            _ if self.messages > 0 => false,
            Wrong::Unreadable(error) => {
                self.unreadable.get_or_insert((offset, error));
                true
            }
            Wrong::Other | Wrong::Missing | Wrong::Record(_) => !self.broker.is_restored(self.queue, offset),
        }
    }
}

impl Receiver for Written<'_> {
    #[inline]
    fn take(&mut self, record: &[u8]) -> bool {
        self.out.extend_from_slice(record);
        self.messages += 1;
        true
    }

    #[cold]
    fn miss(&mut self, wrong: Wrong) -> bool {
        let goes_on = self.leaves_out(wrong);
        self.missed += usize::from(goes_on);
        self.has_stopped = !goes_on;
        goes_on
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
