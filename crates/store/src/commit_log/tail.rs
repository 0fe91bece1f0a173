//! The end of the log in memory: records that have their place and wait to be written.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cometmq_protocol::message::Record;
use cometmq_protocol::message::record::BLANK_BYTES;
use cometmq_protocol::{LogOffset, Millis, QueueOffset};

use super::{Appended, put_blank};
use crate::consume_queue::Queue;
use crate::dispatch::Dispatch;
use crate::index::KeyHashes;

/// Records are gathered in blocks of this size; written parts of a block stay readable until all of it is old.
const BLOCK_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Tail {
    end: i64,
    segment_bytes: i64,
    /// Where the segment ends that holds `end`: told by a division, which is slow, only once.
    segment_end: i64,
    last_stored_at: Millis,
    /// Log position of the first byte in `block`.
    block_base: i64,
    block: BytesMut,
    /// Full blocks, and those that a segment's end closed.
    closed: VecDeque<(i64, Bytes)>,
    dispatches: Vec<Dispatch>,
    /// A block that is not in use any more: fresh memory would have to be cleared by the kernel first.
    spare: Option<BytesMut>,
}

/// Everything that waited to be written.
#[derive(Debug)]
pub(super) struct Batch {
    pub chunks: VecDeque<(i64, Bytes)>,
    pub dispatches: Vec<Dispatch>,
    pub end: i64,
}

impl Tail {
    pub fn new(end: LogOffset, segment_bytes: i64, last_stored_at: Millis) -> Tail {
        Tail {
            end: end.0,
            segment_bytes,
            segment_end: end.0 - end.0 % segment_bytes + segment_bytes,
            last_stored_at,
            block_base: end.0,
            block: BytesMut::new(),
            closed: VecDeque::new(),
            dispatches: Vec::new(),
            spare: None,
        }
    }

    pub fn keep_spare(&mut self, block: BytesMut) {
        self.spare = Some(block);
    }

    pub fn end(&self) -> i64 {
        self.end
    }

    pub fn last_stored_at(&self) -> Millis {
        self.last_stored_at
    }

    /// The store time for an append at `now`: never before an earlier one, whatever the clock does.
    pub fn stamp(&mut self, now: Millis) -> Millis {
        self.last_stored_at = self.last_stored_at.max(now);
        self.last_stored_at
    }

    /// Where the log would end with `bytes` more.
    pub fn end_with(&self, bytes: usize) -> i64 {
        self.end + self.skipped(bytes) + bytes as i64
    }

    /// What a blank record takes up when `bytes` do not fit before the end of the segment with one behind.
    fn skipped(&self, bytes: usize) -> i64 {
        let rest = self.segment_end - self.end;
        if bytes as i64 + BLANK_BYTES as i64 > rest { rest } else { 0 }
    }

    /// Makes sure that `bytes` fit before the end of the segment with a blank record behind, else goes on to the next.
    pub fn make_room(&mut self, bytes: usize) {
        let rest = self.skipped(bytes);
        if rest > 0 {
            put_blank(rest, &mut self.block);
            self.end += rest;
            self.segment_end += self.segment_bytes;
            self.close_block();
        }
        if self.block.capacity() - self.block.len() < bytes {
            self.close_block();
            // The old block lives on in the chunks cut from it.
            self.block = self.spare.take().unwrap_or_default();
            self.block.clear();
            self.block.reserve(BLOCK_BYTES.max(bytes));
        }
    }

    fn close_block(&mut self) {
        if !self.block.is_empty() {
            self.closed.push_back((self.block_base, self.block.split().freeze()));
        }
        self.block_base = self.end;
    }

    pub fn push(
        &mut self,
        record: &Record<'_>,
        queue: &Arc<Queue>,
        queue_offset: QueueOffset,
        stored_at: Millis,
        tags_code: i64,
        keys: KeyHashes,
    ) -> Appended {
        let log_offset = LogOffset(self.end);
        let before = self.block.len();
        record.encode(queue_offset, log_offset, stored_at, &mut self.block);
        let size = self.block.len() - before;
        self.end += size as i64;
        self.dispatches.push(Dispatch {
            queue: Arc::clone(queue),
            queue_offset,
            log_offset,
            size: size as i32,
            tags_code,
            stored_at,
            keys,
        });
        Appended { log_offset, queue_offset, end: LogOffset(self.end), stored_at }
    }

    pub fn take(&mut self) -> Batch {
        self.close_block();
        let count = self.dispatches.len();
        Batch {
            chunks: std::mem::take(&mut self.closed),
            dispatches: std::mem::replace(&mut self.dispatches, Vec::with_capacity(count.min(1024))),
            end: self.end,
        }
    }
}
