//! Retention: which messages are deleted, and when. Codes 306, 316, 329.
//!
//! The rules and their names are RocketMQ's. Segments of the log go, the oldest first: those whose time is over, when
//! the hour for it has come, the disk fills up or someone asks; and when the disk is about to be full, younger ones
//! too. One rule is ours: a segment with messages that some group has still to consume goes before its time only where
//! the settings say so.
//!
//! What queues hold of deleted segments is cleared in the background, a bounded number of queues at each call. The hour
//! of the day comes in, for a machine knows no time zone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId, Reply, ResponseCode};
use cometmq_store::DiskError;

use crate::broker::Broker;

/// Rounds in which deleting goes on after someone asked for it.
const ROUNDS_ON_DEMAND: u32 = 20;
/// Queues looked at in one call.
const QUEUES_PER_CALL: usize = 2000;
/// Time between two warnings about the same.
const WARNING_INTERVAL_MS: i64 = 60_000;
/// Light queues belong to no topic that is configured.
const LIGHT_QUEUE_PREFIX: &str = "%LMQ%";

/// What is deleted when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRules {
    /// `fileReservedTime`, in ms: how long after its last write a segment stays.
    pub reserved_ms: i64,
    /// `deleteWhen`: hours of the day in which what is older goes.
    pub hours: Vec<u8>,
    /// `cleanResourceInterval`: time between two rounds.
    pub round_ms: i64,
    /// `deleteFileBatchMax`: most segments that go in one round.
    pub segments_per_round: u32,
    /// `deleteCommitLogFilesInterval`: time between two segments.
    pub pause_ms: i64,
    /// `diskMaxUsedSpaceRatio`: used percent above which what is older goes at any hour.
    pub used_percent: u32,
    /// `diskSpaceCleanForciblyRatio`: above it younger segments go, too.
    pub force_percent: u32,
    /// `diskSpaceWarningLevelRatio`: above it sends are refused.
    pub refuse_percent: u32,
    /// `cleanFileForciblyEnable`: whether younger segments go at all.
    pub force: bool,
    /// `deleteUnreadWhenDiskFull`: whether they go with messages that some group has still to consume.
    pub force_unread: bool,
}

/// Where deleting stands.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    state: Mutex<State>,
    /// Used percent of the disk while sends are refused for it, else 0.
    refusing: AtomicU32,
}

#[derive(Debug, Default)]
struct State {
    round_began: Option<Millis>,
    /// Segments that may still go in this round.
    segments_left: u32,
    /// Segments go before their time.
    forced: bool,
    deleted_at: Option<Millis>,
    called_at: Option<Millis>,
    /// Rounds left of those that someone asked for.
    on_demand: u32,
    warned_at: Option<Millis>,
    /// What the next sweep is to do, if there is to be one.
    wanted: Sweep,
    /// The sweep that is on, and the queues that it has still to look at.
    sweep: Sweep,
    topics: Vec<TopicName>,
    queues: Vec<(TopicName, QueueId)>,
}

/// What is done to each queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sweep {
    /// Delete files with nothing but deleted messages.
    files: bool,
    /// Remove queues with nothing but deleted messages.
    expired: bool,
    /// Remove queues of topics that do not exist.
    unused: bool,
}

/// A group with messages to consume in a part of the log.
#[derive(Debug)]
struct Reader {
    group: String,
    topic: String,
    queue: QueueId,
}

impl Retention {
    /// Why no message is taken now, if so.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self.refusing.load(Ordering::Relaxed) {
            0 => None,
            percent => Some(format!(
                "service not available now. the disk is {percent} % full, more than diskSpaceWarningLevelRatio: free \
                 room, or let old messages go by a shorter fileReservedTime"
            )),
        }
    }

    /// Code 329: begins to delete what is older than its time, whatever the hour.
    pub(crate) fn delete_expired_log(&self) -> Reply {
        let mut state = self.state.lock().expect(POISONED);
        state.on_demand = ROUNDS_ON_DEMAND;
        state.round_began = None;
        Reply::success()
    }

    /// Code 306: begins to remove queues with nothing but deleted messages.
    pub(crate) fn clean_expired_queues(&self) -> Reply {
        let mut state = self.state.lock().expect(POISONED);
        state.wanted = Sweep { files: true, expired: true, ..state.wanted };
        Reply::success()
    }

    /// Code 316: begins to remove queues of topics that do not exist.
    pub(crate) fn clean_unused_topics(&self) -> Reply {
        self.state.lock().expect(POISONED).wanted.unused = true;
        Reply::success()
    }
}

impl Broker {
    /// Deletes what is due. Call it each second, from a thread that may wait for the disk. `hour` is that of the day, in
    /// local time.
    pub fn retain(&self, now: Millis, hour: u8, rules: &RetentionRules) -> Result<(), DiskError> {
        let mut state = self.retention.state.lock().expect(POISONED);
        let percent = self.used_percent()?;
        self.mind_room(percent, rules);
        let waited = state.round_began.map(|began| now.0 - began.0);
        if waited.is_none_or(|waited| !(0..rules.round_ms).contains(&waited)) {
            state.round_began = Some(now);
            begin_round(&mut state, percent, hour, rules);
        }
        let called_at = state.called_at.replace(now).unwrap_or(now);
        if state.segments_left > 0 {
            // As many as would have gone since the last call, with a pause before each.
            let pause_ms = rules.pause_ms.max(1);
            let rests = state.deleted_at.is_some_and(|at| (0..pause_ms).contains(&(now.0 - at.0)));
            let count = if rests { 0 } else { ((now.0 - called_at.0) / pause_ms).max(1) };
            self.delete_segments(&mut state, count, now, rules)?;
        }
        self.sweep(&mut state)
    }

    /// Refuses sends or takes them again: at each call, for who waits for room waits for this.
    fn mind_room(&self, percent: u32, rules: &RetentionRules) {
        let refuses = percent > rules.refuse_percent;
        let before = self.retention.refusing.swap(if refuses { percent } else { 0 }, Ordering::Relaxed);
        if refuses != (before > 0) {
            tracing::warn!(percent, limit = rules.refuse_percent, refuses, "sends for want of disk room");
        }
    }

    /// How full the disk is; of several the emptiest one of the log, as RocketMQ has it, or that of the queues.
    fn used_percent(&self) -> Result<u32, DiskError> {
        let store = &self.store;
        let percent = |path| -> Result<u32, DiskError> {
            let space = store.disk().space(path)?;
            let used = u128::from(space.total.saturating_sub(space.available));
            Ok((used * 100 / u128::from(space.total.max(1))) as u32)
        };
        let mut log = 100;
        for directory in store.log().directories() {
            log = percent(directory)?.min(log);
        }
        Ok(percent(&store.options().root)?.max(log))
    }

    fn delete_segments(
        &self,
        state: &mut State,
        count: i64,
        now: Millis,
        rules: &RetentionRules,
    ) -> Result<(), DiskError> {
        for _ in 0..count.min(i64::from(state.segments_left)) {
            let Some(oldest) = self.store.oldest_segment()? else {
                state.segments_left = 0;
                break;
            };
            let is_over = now.0.saturating_sub(oldest.written_at.0) >= rules.reserved_ms;
            let may_go = is_over || (state.forced && self.may_go_unread(state, oldest.end, now, rules)?);
            if !may_go || !self.store.delete_oldest_segment(&oldest)? {
                state.segments_left = 0;
                break;
            }
            tracing::info!(start = oldest.start.0, end = oldest.end.0, is_over, "segment of the log deleted");
            state.segments_left -= 1;
            state.deleted_at = Some(now);
            state.wanted.files = true;
        }
        Ok(())
    }

    /// Whether messages before `end` may go before their time.
    fn may_go_unread(
        &self,
        state: &mut State,
        end: LogOffset,
        now: Millis,
        rules: &RetentionRules,
    ) -> Result<bool, DiskError> {
        if rules.force_unread {
            return Ok(true);
        }
        let Some(reader) = self.reader_before(end)? else { return Ok(true) };
        if state.warned_at.is_none_or(|at| !(0..WARNING_INTERVAL_MS).contains(&(now.0 - at.0))) {
            state.warned_at = Some(now);
            let Reader { group, topic, queue } = reader;
            tracing::warn!(
                group,
                topic,
                %queue,
                "the disk fills up, and the oldest segment stays because this group has not consumed it: let it \
                 consume, move its offset, add room, or set deleteUnreadWhenDiskFull=true"
            );
        }
        Ok(false)
    }

    /// A group that has still to consume a message before `end`.
    fn reader_before(&self, end: LogOffset) -> Result<Option<Reader>, DiskError> {
        let mut last = String::new();
        let mut units = Vec::with_capacity(1);
        while let Some((key, queues)) = self.offsets.after(&last) {
            last = key;
            let Some((topic, group)) = last.split_once('@') else { continue };
            for id in queues {
                let offset = self.offsets.get(&self.store, group, topic, id)?;
                let (Some(offset), Some(queue)) = (offset, self.store.queue(topic, id)?) else { continue };
                let next = offset.max(queue.min());
                units.clear();
                queue.read(next, 1, &mut units)?;
                // Of a message whose entry is damaged nobody knows where it lies, until the scrub has been there.
                if units.first().map_or(next < queue.max(), |unit| unit.log_offset < end) {
                    return Ok(Some(Reader { group: group.to_owned(), topic: topic.to_owned(), queue: id }));
                }
            }
        }
        Ok(None)
    }

    /// Looks after some of the queues, until all have been looked at since something was deleted.
    fn sweep(&self, state: &mut State) -> Result<(), DiskError> {
        if state.topics.is_empty() && state.queues.is_empty() {
            if state.wanted == Sweep::default() {
                return Ok(());
            }
            if state.wanted.expired || state.wanted.unused {
                self.store.flush()?;
            }
            state.topics = self.store.topics_with_queues()?;
            state.sweep = std::mem::take(&mut state.wanted);
        }
        for _ in 0..QUEUES_PER_CALL {
            while state.queues.is_empty() {
                let Some(topic) = state.topics.pop() else { return Ok(()) };
                let ids = self.store.queue_ids(&topic)?;
                state.queues = ids.into_iter().map(|id| (topic.clone(), id)).collect();
            }
            if let Some((topic, id)) = state.queues.pop() {
                self.sweep_queue(state.sweep, &topic, id)?;
            }
        }
        Ok(())
    }

    fn sweep_queue(&self, sweep: Sweep, topic: &TopicName, id: QueueId) -> Result<(), DiskError> {
        let is_known = self.topics.get(topic.as_str()).is_some();
        let is_light = topic.as_str().starts_with(LIGHT_QUEUE_PREFIX);
        let unused = sweep.unused && !is_known && !is_light;
        let expired = sweep.expired && !self.topics.is_system(topic);
        if (unused || expired) && self.store.remove_queue(topic, id, unused)? {
            // Its numbers start over: what groups had of the old ones would make them skip messages.
            self.offsets.forget(topic.as_str(), id);
            tracing::info!(%topic, queue = %id, unused, "queue removed");
        } else if sweep.files {
            self.store.delete_expired_files(topic, id)?;
        }
        Ok(())
    }

    /// The reply to a send while the disk is too full for any.
    pub(crate) fn check_room(&self) -> Result<(), Reply> {
        let refusal = self.retention.refusal();
        refusal.map_or(Ok(()), |remark| Err(Reply::refuse(ResponseCode::ServiceNotAvailable, remark)))
    }
}

/// Decides how much may go until the next round.
fn begin_round(state: &mut State, percent: u32, hour: u8, rules: &RetentionRules) {
    state.forced = rules.force && percent > rules.force_percent;
    let asked = state.on_demand > 0;
    state.on_demand = state.on_demand.saturating_sub(1);
    let due = asked || state.forced || percent > rules.used_percent || rules.hours.contains(&hour);
    state.segments_left = if due { rules.segments_per_round } else { 0 };
}

const POISONED: &str = "no holder of this lock panics";
