//! Offsets: where queues begin and end, and where consumer groups stand in them (`config/consumerOffset.json`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cometmq_protocol::headers::offset::*;
use cometmq_protocol::{DataVersion, LogOffset, Millis, QueueId, QueueOffset, Reply, ResponseCode};
use cometmq_store::config_file::{self, ConfigFileError};
use cometmq_store::{Disk, DiskError, Queue, Store};
use serde::{Deserialize, Serialize};

use crate::broker::Broker;

/// Where groups stand.
#[derive(Debug)]
pub struct Offsets {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    table: Mutex<OffsetTable>,
    unsaved: AtomicBool,
}

/// The layout of the file: offsets by queue, by `topic@group`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OffsetTable {
    data_version: DataVersion,
    offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
}

impl Offsets {
    /// Loads the offsets.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Offsets, ConfigFileError> {
        let table = config_file::load(&*disk, &path)?.unwrap_or_default();
        Ok(Offsets { disk, path, table: Mutex::new(table), unsaved: AtomicBool::new(false) })
    }

    /// Where a group stands in a queue: the next offset that it wants.
    pub fn get(&self, group: &str, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        let table = self.table.lock().expect("no holder of this lock panics");
        table.offset_table.get(&format!("{topic}@{group}"))?.get(&queue.0).copied().map(QueueOffset)
    }

    /// Moves a group in a queue, also backwards.
    pub fn set(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        let queues = table.offset_table.entry(format!("{topic}@{group}")).or_default();
        if queues.insert(queue.0, offset.0) != Some(offset.0) {
            self.unsaved.store(true, Ordering::Release);
        }
    }

    /// Moves a group forward in a queue. What a pull says of the offset may be older than a commit that came by another
    /// connection, so it never takes one back.
    pub fn advance(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        if self.get(group, topic, queue).is_none_or(|known| known < offset) {
            self.set(group, topic, queue, offset);
        }
    }

    /// Writes the offsets when they changed since the last time.
    pub(crate) fn save(&self, now: Millis) -> Result<(), DiskError> {
        if !self.unsaved.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let saved = {
            let mut table = self.table.lock().expect("no holder of this lock panics");
            table.data_version.bump(now);
            table.clone()
        };
        let result = config_file::save(&*self.disk, &self.path, &saved);
        if result.is_err() {
            self.unsaved.store(true, Ordering::Release);
        }
        result
    }

    /// Takes back what points behind the end of its queue: the log lost messages that a power cut kept from the disk.
    pub(crate) fn clamp(&self, store: &Store) {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        for (key, queues) in &mut table.offset_table {
            let Some((topic, _)) = key.split_once('@') else { continue };
            for (id, offset) in queues {
                // A queue without any message may be one whose messages expired: its numbers go on elsewhere.
                let Some(queue) = store.queue(topic, QueueId(*id)) else { continue };
                if *offset > queue.max().0 {
                    tracing::warn!(
                        key,
                        queue = id,
                        offset,
                        end = queue.max().0,
                        "offset behind the queue's end"
                    );
                    *offset = queue.max().0;
                    self.unsaved.store(true, Ordering::Release);
                }
            }
        }
    }
}

impl Broker {
    /// Code 14.
    pub(crate) fn query_offset(&self, header: &QueryConsumerOffsetHeader<'_>) -> Reply {
        let id = QueueId(header.queue_id);
        if let Some(offset) = self.offsets.get(&header.consumer_group, &header.topic, id) {
            return offset_reply(offset.0);
        }
        // A group without offset starts a young queue at its beginning, whatever the client would choose.
        let is_young = |queue: &Queue| queue.min().0 <= 0 && !self.is_cold(queue, QueueOffset(0));
        let topic_known = self.topics.get(&header.topic).is_some();
        let young = topic_known && self.store.queue(&header.topic, id).is_none_or(|queue| is_young(&queue));
        if header.set_zero_if_not_found != Some(false) && young {
            return offset_reply(0);
        }
        let remark = "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first";
        Reply::refuse(ResponseCode::QueryNotFound, remark)
    }

    /// Code 15.
    pub(crate) fn update_offset(&self, header: &UpdateConsumerOffsetHeader<'_>) -> Reply {
        if self.groups.get(&header.consumer_group).is_none() {
            let remark = format!(
                "subscription group [{}] does not exist; a consumer of it must send a heartbeat first",
                header.consumer_group
            );
            return Reply::refuse(ResponseCode::SubscriptionGroupNotExist, remark);
        }
        if self.topics.get(&header.topic).is_none() {
            return Reply::refuse(ResponseCode::TopicNotExist, format!("Topic {} not exist!", header.topic));
        }
        if header.queue_id < 0 || header.commit_offset < 0 {
            return Reply::refuse(ResponseCode::InvalidParameter, "queue id and offset must not be negative");
        }
        let offset = QueueOffset(header.commit_offset);
        self.offsets.set(&header.consumer_group, &header.topic, QueueId(header.queue_id), offset);
        Reply::success()
    }

    /// Code 29.
    pub(crate) fn search_offset(&self, header: &SearchOffsetHeader<'_>) -> Reply {
        let Some(queue) = self.store.queue(&header.topic, QueueId(header.queue_id)) else {
            return offset_reply(0);
        };
        let upper = header.boundary_type.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("upper"));
        let found = if upper {
            // Behind the last message stored at the time or before: the first one stored later, minus one.
            let later = self.store.offset_at(&queue, Millis(header.timestamp.saturating_add(1)));
            later.map(|offset| QueueOffset((offset.0 - 1).max(queue.min().0)))
        } else {
            self.store.offset_at(&queue, Millis(header.timestamp))
        };
        match found {
            Ok(offset) => offset_reply(offset.0),
            Err(error) => Reply::refuse(ResponseCode::SystemError, error.to_string()),
        }
    }

    /// Code 30.
    pub(crate) fn max_offset(&self, header: &QueueHeader<'_>) -> Reply {
        offset_reply(
            self.store.queue(&header.topic, QueueId(header.queue_id)).map_or(0, |queue| queue.max().0),
        )
    }

    /// Code 31.
    pub(crate) fn min_offset(&self, header: &QueueHeader<'_>) -> Reply {
        offset_reply(
            self.store.queue(&header.topic, QueueId(header.queue_id)).map_or(0, |queue| queue.min().0),
        )
    }

    /// Code 32.
    pub(crate) fn earliest_store_time(&self, header: &QueueHeader<'_>) -> Reply {
        let queue = self.store.queue(&header.topic, QueueId(header.queue_id));
        let stored_at = queue.map_or(Ok(None), |queue| self.store.stored_at(&queue, queue.min()));
        match stored_at {
            Ok(stored_at) => {
                let timestamp = stored_at.map_or(-1, |at| at.0);
                Reply::success().with_fields(&TimestampReply { timestamp, borrows: std::marker::PhantomData })
            }
            Err(error) => Reply::refuse(ResponseCode::SystemError, error.to_string()),
        }
    }

    /// Whether the message at `offset` lies so far behind the log's end that it is probably not in memory any more.
    pub(crate) fn is_cold(&self, queue: &Queue, offset: QueueOffset) -> bool {
        let mut units = Vec::with_capacity(1);
        let read = queue.read(offset, 1, &mut units);
        let position = units.first().map_or(LogOffset(0), |unit| unit.log_offset);
        let empty = units.is_empty() && read.is_ok();
        !empty && self.store.log().written() - position > self.config.memory_bytes / 10 * 4
    }
}

fn offset_reply(offset: i64) -> Reply {
    Reply::success().with_fields(&OffsetReply { offset, borrows: std::marker::PhantomData })
}
