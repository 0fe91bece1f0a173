//! Offsets: where queues begin and end, and where consumer groups stand in them (`config/consumerOffset.json`).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cometmq_protocol::headers::offset::*;
use cometmq_protocol::{DataVersion, LogOffset, Millis, QueueId, QueueOffset, Reply, ResponseCode};
use cometmq_store::config_file::{self, ConfigFileError};
use cometmq_store::planted::{Bug, planted};
use cometmq_store::{Disk, DiskError, Queue, Store};
use serde::{Deserialize, Serialize};

use crate::broker::Broker;

/// Offsets looked at in one tick after a crash.
const CHECKED_PER_TICK: usize = 200;

/// Where groups stand.
///
/// A crash may have taken messages that a group had consumed already. Its saved offset then points behind the end that
/// its queue had when the store was opened, and is taken back to it: when it is first asked for, and after a crash in
/// the background for those that nobody asks for. Newer messages cannot hide that, for the log tells which they are.
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
    offset_table: BTreeMap<String, BTreeMap<i32, Standing>>,
    /// End of the log behind which no offset may point that is not checked yet; ours, and there only while some are to
    /// be checked in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    unchecked_from: Option<i64>,
    #[serde(skip)]
    opened_at: LogOffset,
    /// The last key whose offsets were checked in the background; none are when it is not there.
    #[serde(skip)]
    checked_up_to: Option<String>,
}

/// The next offset that a group wants, and whether it is known to be no further than its queue.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(from = "i64", into = "i64")]
struct Standing {
    offset: i64,
    is_checked: bool,
    /// What was committed since, by which an offset that is not checked yet is not taken back.
    at_least: i64,
}

impl Standing {
    fn committed(offset: QueueOffset) -> Standing {
        Standing { offset: offset.0, is_checked: true, at_least: 0 }
    }
}

impl From<i64> for Standing {
    fn from(offset: i64) -> Standing {
        Standing { offset, is_checked: false, at_least: 0 }
    }
}

impl From<Standing> for i64 {
    fn from(standing: Standing) -> i64 {
        standing.offset
    }
}

/// The key of a group's offsets in a topic.
fn key_of(topic: &str, group: &str) -> String {
    // Not formatted: made for each pull that commits.
    [topic, "@", group].concat()
}

impl Offsets {
    /// Loads the offsets. The log ends at `log_end`; `clean` tells whether the store was closed in order.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        log_end: LogOffset,
        clean: bool,
    ) -> Result<Offsets, ConfigFileError> {
        let mut table: OffsetTable = config_file::load(&*disk, &path)?.unwrap_or_default();
        table.opened_at = table.unchecked_from.map_or(log_end, |from| log_end.min(LogOffset(from)));
        let known_before = table.unchecked_from;
        if !clean || table.unchecked_from.is_some() {
            table.unchecked_from = Some(table.opened_at.0);
            table.checked_up_to = Some(String::new());
        }
        let unsaved = AtomicBool::new(table.unchecked_from != known_before && !table.offset_table.is_empty());
        Ok(Offsets { disk, path, table: Mutex::new(table), unsaved })
    }

    /// Where a group stands in a queue: the next offset that it wants.
    pub fn get(
        &self,
        store: &Store,
        group: &str,
        topic: &str,
        queue: QueueId,
    ) -> Result<Option<QueueOffset>, DiskError> {
        let key = key_of(topic, group);
        let (standing, opened_at) = {
            let table = self.table.lock().expect(POISONED);
            let Some(standing) = table.offset_table.get(&key).and_then(|queues| queues.get(&queue.0)) else {
                return Ok(None);
            };
            (*standing, table.opened_at)
        };
        if standing.is_checked {
            return Ok(Some(QueueOffset(standing.offset)));
        }
        // A queue that is not there begins at 0 when it comes.
        let end = match store.queue(topic, queue)? {
            Some(found) => store.end_before(&found, opened_at)?,
            None => QueueOffset(0),
        };
        let mut table = self.table.lock().expect(POISONED);
        let now = table.offset_table.entry(key.clone()).or_default().entry(queue.0).or_insert(standing);
        if !now.is_checked {
            now.is_checked = true;
            let end = end.0.max(now.at_least);
            if now.offset > end && !planted(Bug::OffsetBeyondTheEnd) {
                tracing::warn!(key, %queue, offset = now.offset, end, "offset behind the queue's end");
                now.offset = end;
                self.unsaved.store(true, Ordering::Release);
            }
        }
        Ok(Some(QueueOffset(now.offset)))
    }

    /// Moves a group in a queue, also backwards.
    pub fn set(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        let mut table = self.table.lock().expect(POISONED);
        let queues = table.offset_table.entry(key_of(topic, group)).or_default();
        let before = queues.insert(queue.0, Standing::committed(offset));
        if before.is_none_or(|before| before.offset != offset.0) {
            self.unsaved.store(true, Ordering::Release);
        }
    }

    /// Moves a group forward in a queue, without the disk. What a pull says of the offset may be older than a commit
    /// that came by another connection, so it never takes one back.
    pub fn advance(&self, group: &str, topic: &str, queue: QueueId, offset: QueueOffset) {
        let mut table = self.table.lock().expect(POISONED);
        let queues = table.offset_table.entry(key_of(topic, group)).or_default();
        match queues.get_mut(&queue.0) {
            Some(now) if now.offset >= offset.0 && !planted(Bug::OffsetRolledBack) => {
                now.at_least = now.at_least.max(offset.0);
            }
            _ => {
                queues.insert(queue.0, Standing::committed(offset));
                self.unsaved.store(true, Ordering::Release);
            }
        }
    }

    /// The first key behind `key`, as `topic@group`, with its queues.
    pub(crate) fn after(&self, key: &str) -> Option<(String, Vec<QueueId>)> {
        let table = self.table.lock().expect(POISONED);
        let next = table.offset_table.range::<str, _>((Bound::Excluded(key), Bound::Unbounded)).next();
        next.map(|(key, queues)| (key.clone(), queues.keys().copied().map(QueueId).collect()))
    }

    /// Forgets where groups stand in a queue that was removed.
    pub(crate) fn forget(&self, topic: &str, queue: QueueId) {
        let mut table = self.table.lock().expect(POISONED);
        let first = format!("{topic}@");
        let of_topic = table.offset_table.range_mut::<str, _>((Bound::Included(&*first), Bound::Unbounded));
        for (_, queues) in of_topic.take_while(|(key, _)| key.starts_with(&first)) {
            if queues.remove(&queue.0).is_some() {
                self.unsaved.store(true, Ordering::Release);
            }
        }
    }

    /// Checks a few offsets that nobody asked for since a crash.
    pub(crate) fn check_some(&self, store: &Store) {
        let mut checked = 0;
        while checked < CHECKED_PER_TICK {
            let Some((key, queues)) = self.next_to_check() else { return };
            checked += queues.len() + 1;
            let Some((topic, group)) = key.split_once('@') else { continue };
            for id in queues {
                if let Err(error) = self.get(store, group, topic, QueueId(id)) {
                    tracing::error!(key, queue = id, %error, "offset not checked");
                }
            }
        }
    }

    /// The next key to check in the background with its queues; after the last one nothing is left to be checked.
    fn next_to_check(&self) -> Option<(String, Vec<i32>)> {
        let mut table = self.table.lock().expect(POISONED);
        let last = table.checked_up_to.take()?;
        let next = table.offset_table.range::<str, _>((Bound::Excluded(&*last), Bound::Unbounded)).next();
        let next = next.map(|(key, queues)| {
            let unchecked = queues.iter().filter(|(_, standing)| !standing.is_checked);
            (key.clone(), unchecked.map(|(id, _)| *id).collect())
        });
        match &next {
            Some((key, _)) => table.checked_up_to = Some(key.clone()),
            None if table.unchecked_from.take().is_some() && !table.offset_table.is_empty() => {
                self.unsaved.store(true, Ordering::Release);
            }
            None => {}
        }
        next
    }

    /// Writes the offsets when they changed since the last time.
    pub(crate) fn save(&self, now: Millis) -> Result<(), DiskError> {
        if !self.unsaved.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let saved = {
            let mut table = self.table.lock().expect(POISONED);
            table.data_version.bump(now);
            table.clone()
        };
        let result = config_file::save(&*self.disk, &self.path, &saved);
        if result.is_err() {
            self.unsaved.store(true, Ordering::Release);
        }
        result
    }
}

impl Broker {
    /// Code 14.
    pub(crate) fn query_offset(&self, header: &QueryConsumerOffsetHeader<'_>) -> Reply {
        let id = QueueId(header.queue_id);
        let queue = match self.offsets.get(&self.store, &header.consumer_group, &header.topic, id) {
            Ok(Some(offset)) => return offset_reply(offset.0),
            Ok(None) => self.store.queue(&header.topic, id),
            Err(error) => Err(error),
        };
        let queue = match queue {
            Ok(queue) => queue,
            Err(error) => return unreadable(&error),
        };
        // A group without offset starts a young queue at its beginning, whatever the client would choose.
        let is_young = |queue: &Queue| queue.min().0 <= 0 && !self.is_cold(queue, QueueOffset(0));
        let topic_known = self.topics.get(&header.topic).is_some();
        let young = topic_known && queue.is_none_or(|queue| is_young(&queue));
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
        let queue = match self.store.queue(&header.topic, QueueId(header.queue_id)) {
            Ok(Some(queue)) => queue,
            Ok(None) => return offset_reply(0),
            Err(error) => return unreadable(&error),
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
            Err(error) => unreadable(&error),
        }
    }

    /// Code 30.
    pub(crate) fn max_offset(&self, header: &QueueHeader<'_>) -> Reply {
        match self.store.queue(&header.topic, QueueId(header.queue_id)) {
            Ok(queue) => offset_reply(queue.map_or(0, |queue| queue.max().0)),
            Err(error) => unreadable(&error),
        }
    }

    /// Code 31.
    pub(crate) fn min_offset(&self, header: &QueueHeader<'_>) -> Reply {
        match self.store.queue(&header.topic, QueueId(header.queue_id)) {
            Ok(queue) => offset_reply(queue.map_or(0, |queue| queue.min().0)),
            Err(error) => unreadable(&error),
        }
    }

    /// Code 32.
    pub(crate) fn earliest_store_time(&self, header: &QueueHeader<'_>) -> Reply {
        let queue = self.store.queue(&header.topic, QueueId(header.queue_id));
        let stored_at =
            queue.and_then(|queue| queue.map_or(Ok(None), |queue| self.store.stored_at(&queue, queue.min())));
        match stored_at {
            Ok(stored_at) => {
                let timestamp = stored_at.map_or(-1, |at| at.0);
                Reply::success().with_fields(&TimestampReply { timestamp, borrows: std::marker::PhantomData })
            }
            Err(error) => unreadable(&error),
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

/// A queue that cannot be read has ends that are not known.
fn unreadable(error: &DiskError) -> Reply {
    Reply::refuse(ResponseCode::SystemError, format!("queue not readable: {error}"))
}

const POISONED: &str = "no holder of this lock panics";

fn offset_reply(offset: i64) -> Reply {
    Reply::success().with_fields(&OffsetReply { offset, borrows: std::marker::PhantomData })
}
