//! The index: messages found by key, in files of RocketMQ's format.
//!
//! Reading order: [`format`] has the bytes, [`keys`] what is hashed, `newest` the file that takes entries in memory,
//! `files` the directory, `open` what of the files is believed, `flush` how they become durable, `lookup` how a key is
//! found, `progress` what is remembered of how far the index goes.
//!
//! The log alone is the truth. The index knows up to which log position it has all keys. Keys of what is stored now
//! are taken as long as that position is where they begin; whenever it is not, after a start or because the disk did
//! not keep up, the missing part is read from the log, a bounded part at each flush. So nobody who sends ever waits
//! for the index, and a lost, old or foreign index is made whole while messages are served.

pub(crate) mod files;
mod flush;
pub mod format;
pub mod keys;
mod lookup;
mod newest;
mod open;
pub(crate) mod progress;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cometmq_protocol::{LogOffset, Millis};

use crate::commit_log::CommitLog;
use crate::disk::{Disk, DiskError};
use crate::dispatch::Dispatch;

use files::Files;
use format::{IndexHeader, Shape};
use newest::Newest;
use progress::SavedProgress;

pub use keys::{KeyHasher, KeyHashes, Keys, has_key};
pub use lookup::KeyQuery;
pub use open::IndexError;

/// Keys that are gathered before they are given their places: one after the other each would wait for memory.
const GATHERED_KEYS: usize = 4096;
/// Bytes of entries that wait for a disk; beyond, keys are not taken but read from the log later.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of log that are read at one flush while the index is behind.
pub(crate) const CATCH_UP_BYTES: i64 = 64 * 1024 * 1024;

/// How an index is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexOptions {
    /// Slots and entries of a file. Files of another shape are refused.
    pub shape: Shape,
    /// What local time is ahead of UTC, ms: files are named by local time.
    pub utc_offset_ms: i64,
}

impl Default for IndexOptions {
    /// RocketMQ's defaults, in UTC.
    fn default() -> IndexOptions {
        IndexOptions { shape: Shape { slots: 5_000_000, entries: 20_000_000 }, utc_offset_ms: 0 }
    }
}

/// The index of a store.
#[derive(Debug)]
pub(crate) struct Index {
    files: Files,
    utc_offset_ms: i64,
    state: Mutex<State>,
    saved: Mutex<SavedProgress>,
}

/// What is in memory.
#[derive(Debug)]
struct State {
    /// Full files that are wholly on disk, oldest first.
    older: VecDeque<Older>,
    /// Files with entries or slots that are in memory only, oldest first; all but the last are full.
    live: VecDeque<Newest>,
    gathered: Vec<Gathered>,
    /// All keys of records before this position are in the files above or gathered.
    covered: LogOffset,
}

/// A file that takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Older {
    name: i64,
    header: IndexHeader,
}

/// A key that has no place yet.
#[derive(Clone, Copy, Debug)]
struct Gathered {
    hash: u32,
    offset: LogOffset,
    stored_at: Millis,
}

impl Index {
    /// Takes the keys of records that were given their places in the queues: all of the log from `before` to `end`.
    /// Costs no system call. Calls must come in the order of the log.
    pub fn enter(&self, before: LogOffset, dispatches: &[Dispatch], end: LogOffset) {
        let mut state = self.state.lock().expect(POISONED);
        if state.covered != before || state.waiting_bytes() > WAITING_BYTES_MAX {
            return;
        }
        for dispatch in dispatches {
            let (offset, stored_at) = (dispatch.log_offset, dispatch.stored_at);
            state.gathered.extend(dispatch.keys.iter().map(|hash| Gathered {
                hash: *hash,
                offset,
                stored_at,
            }));
        }
        state.covered = end;
        if state.gathered.len() >= GATHERED_KEYS {
            self.settle(&mut state);
        }
    }

    /// Gives the gathered keys their places.
    fn settle(&self, state: &mut State) {
        let State { older, live, gathered, .. } = state;
        for key in gathered.drain(..) {
            if live.back().is_none_or(Newest::is_full) {
                let last = live.back().map(|last| (last.name, last.header));
                let last = last.or_else(|| older.back().map(|last| (last.name, last.header)));
                let local = Millis(key.stored_at.0.saturating_add(self.utc_offset_ms));
                // Names must grow, whatever clocks and zones do.
                let name = last.map_or(0, |(name, _)| name + 1).max(format::name_at(local));
                let header = last.map_or(IndexHeader::following(LogOffset(0), Millis(0)), |(_, header)| {
                    IndexHeader::following(header.end, header.end_time)
                });
                live.push_back(Newest::new(name, header, self.files.shape));
            }
            let newest = live.back_mut().expect("there is one now");
            newest.push(key.hash, key.offset, key.stored_at);
        }
    }

    /// Reads keys from the log while the index is behind `until`, up to `bytes_max` of the log.
    pub fn catch_up(&self, log: &CommitLog, until: LogOffset, bytes_max: i64) -> Result<(), DiskError> {
        let mut window = Vec::new();
        let mut read = 0;
        loop {
            let from = {
                let state = self.state.lock().expect(POISONED);
                if state.covered >= until || read > bytes_max || state.waiting_bytes() > WAITING_BYTES_MAX {
                    return Ok(());
                }
                state.covered
            };
            let mut gathered = Vec::new();
            let next = log.walk(from, until, &mut window, &mut |record| {
                let keys = KeyHasher::new(record.topic).message(record.sys_flag, [record.properties, b""]);
                let (offset, stored_at) = (record.log_offset, record.store_timestamp);
                gathered.extend(keys.iter().map(|hash| Gathered { hash: *hash, offset, stored_at }));
            });
            read += next - from;
            let mut state = self.state.lock().expect(POISONED);
            // Nobody else moves it: it is behind what is entered now.
            if state.covered == from {
                state.gathered.append(&mut gathered);
                state.covered = next;
                self.settle(&mut state);
            }
        }
    }

    /// All keys of records before this position can be found.
    pub fn covered(&self) -> LogOffset {
        self.state.lock().expect(POISONED).covered
    }

    /// Store time and place of the newest message that has an entry; zeros without any.
    pub fn last_entry(&self) -> (Millis, LogOffset) {
        let mut state = self.state.lock().expect(POISONED);
        self.settle(&mut state);
        let last =
            state.live.back().map(|last| last.header).or_else(|| state.older.back().map(|last| last.header));
        last.map_or((Millis(0), LogOffset(0)), |header| (header.end_time, header.end))
    }

    /// Store time of the last message in the newest full file that is wholly on disk; 0 without one.
    pub fn full_until(&self) -> Millis {
        let state = self.state.lock().expect(POISONED);
        state.older.back().map_or(Millis(0), |last| last.header.end_time)
    }

    /// Removes files whose messages all lie before `log_start`; never the last file. Returns how many.
    pub fn delete_before(&self, log_start: LogOffset) -> Result<usize, DiskError> {
        let mut expired = Vec::new();
        {
            let mut state = self.state.lock().expect(POISONED);
            while state.older.len() + state.live.len() > 1
                && let Some(file) = state.older.pop_front_if(|file| file.header.end < log_start)
            {
                expired.push(file.name);
            }
        }
        // What is not removed now is found again at the next start, and goes then.
        self.files.remove(&expired)?;
        Ok(expired.len())
    }

    /// Bytes of memory that slots and waiting entries take.
    pub fn memory_bytes(&self) -> usize {
        let state = self.state.lock().expect(POISONED);
        let files = state.live.iter().map(Newest::memory_bytes).sum::<usize>();
        files + state.gathered.capacity() * size_of::<Gathered>()
    }
}

impl State {
    fn waiting_bytes(&self) -> usize {
        let files = self.live.iter().map(Newest::waiting_bytes).sum::<usize>();
        files + self.gathered.len() * size_of::<Gathered>()
    }
}

/// Where index files of a store are.
fn directory(root: &std::path::Path) -> PathBuf {
    root.join("index")
}

fn files(disk: &Arc<dyn Disk>, root: &std::path::Path, options: IndexOptions) -> Files {
    Files { disk: Arc::clone(disk), directory: directory(root), shape: options.shape }
}

/// A lock is poisoned when its holder panicked, which is a bug that ends the process anyway.
const POISONED: &str = "no holder of this lock panics";
