//! Finding messages by key: newest file to oldest, in each along the chain of the key's slot.
//!
//! No number in a file is followed blindly: an entry that does not exist, that is of another slot, or that is not older
//! than the one that names it ends the chain. A hash proves nothing: each record is read, and has the key or is none.

use std::ops::ControlFlow;
use std::sync::Arc;

use cometmq_protocol::message::RecordView;
use cometmq_protocol::{LogOffset, Millis};

use super::format::{IndexEntry, IndexHeader};
use super::keys::{KeyHasher, has_key};
use super::{Index, POISONED};
use crate::disk::{DiskError, DiskFile};
use crate::store::Store;

/// Entries that one query looks at: a slot may have many that are of another key.
const ENTRIES_MAX: usize = 200_000;
/// Records that one query reads: many keys may have one hash.
const RECORDS_MAX: usize = 4096;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyQuery<'a> {
    /// Topic of the messages.
    pub topic: &'a str,
    /// A key of theirs, or their client's id.
    pub key: &'a str,
    /// Earliest store time.
    pub begin: Millis,
    /// Latest store time.
    pub end: Millis,
}

/// A file that may have entries of a query.
#[derive(Debug)]
struct Candidate {
    name: i64,
    header: IndexHeader,
    /// Its slot's newest entry, where slots are in memory.
    head: Option<u32>,
}

/// What is left to look at.
struct Budget {
    entries: usize,
    records: usize,
}

impl Store {
    /// Hands each message with the key to `each`, newest first, until it breaks off. What was stored before the call
    /// is found, unless the index is behind ([`Store::index_position`]). Without an index there is nothing to find.
    ///
    /// # Errors
    ///
    /// The disk failed. What was found until then has been handed on.
    pub fn find_by_key(
        &self,
        query: &KeyQuery<'_>,
        each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), DiskError> {
        let Some(index) = self.index() else { return Ok(()) };
        let hash = KeyHasher::new(query.topic).key(query.key);
        let mut record = Vec::new();
        // Of one message with several keys of one hash there are several entries, in places next to each other.
        let mut last = None;
        let mut budget = Budget { entries: ENTRIES_MAX, records: RECORDS_MAX };
        let (begin, end) = (query.begin, query.end);
        index.find(hash, begin, end, &mut budget, &mut |offset| {
            if last.replace(offset) == Some(offset) || !self.read_at(offset, &mut record)? {
                return Ok(ControlFlow::Continue(()));
            }
            let view = RecordView::decode(&record).ok().filter(|view| {
                view.topic == query.topic
                    && (begin..=end).contains(&view.store_timestamp)
                    && has_key(view.properties, query.key)
            });
            Ok(view.map_or(ControlFlow::Continue(()), |_| each(&record)))
        })
    }

    /// Reads the record that begins at `offset`. False when none does, or none that is confirmed.
    pub fn read_at(&self, offset: LogOffset, record: &mut Vec<u8>) -> Result<bool, DiskError> {
        record.clear();
        Ok(offset < self.confirmed() && self.log().record_at(offset, record)?)
    }

    /// All keys of messages before this position can be found; `None` without an index.
    pub fn index_position(&self) -> Option<LogOffset> {
        self.index().map(Index::covered)
    }

    /// Store time and place of the newest message that has an entry in the index; zeros without any.
    pub fn index_last_entry(&self) -> (Millis, LogOffset) {
        self.index().map_or((Millis(0), LogOffset(0)), Index::last_entry)
    }

    /// Removes index files whose messages all lie before `log_start`; never the last file. Returns how many.
    pub fn delete_index_before(&self, log_start: LogOffset) -> Result<usize, DiskError> {
        self.index().map_or(Ok(0), |index| index.delete_before(log_start))
    }

    /// Bytes of memory that the index takes.
    pub fn index_memory_bytes(&self) -> usize {
        self.index().map_or(0, Index::memory_bytes)
    }
}

impl Index {
    /// Hands the places of messages with this hash to `each`, newest first, until it breaks off. Places of messages
    /// with another hash, or of another time, may be among them.
    fn find(
        &self,
        hash: u32,
        begin: Millis,
        end: Millis,
        budget: &mut Budget,
        each: &mut dyn FnMut(LogOffset) -> Result<ControlFlow<()>, DiskError>,
    ) -> Result<(), DiskError> {
        for candidate in self.candidates(hash, begin, end) {
            match self.find_in(&candidate, hash, begin, end, budget, each) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                // It expired meanwhile.
                Err(error) if error.kind == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn candidates(&self, hash: u32, begin: Millis, end: Millis) -> Vec<Candidate> {
        let slot = self.files.shape.slot_of(hash);
        let mut state = self.state.lock().expect(POISONED);
        self.settle(&mut state);
        let live = state.live.iter().rev().map(|newest| Candidate {
            name: newest.name,
            header: newest.header,
            head: Some(newest.head(slot)),
        });
        let older = state.older.iter().rev();
        live.chain(older.map(|older| Candidate { name: older.name, header: older.header, head: None }))
            .filter(|Candidate { header, .. }| header.begin_time <= end && header.end_time + 999 >= begin)
            .collect()
    }

    fn find_in(
        &self,
        candidate: &Candidate,
        hash: u32,
        begin: Millis,
        end: Millis,
        budget: &mut Budget,
        each: &mut dyn FnMut(LogOffset) -> Result<ControlFlow<()>, DiskError>,
    ) -> Result<ControlFlow<()>, DiskError> {
        let (shape, header) = (self.files.shape, &candidate.header);
        let mut file = None;
        let mut number = match candidate.head {
            Some(head) => head,
            None => self.files.head(&**self.opened(candidate, &mut file)?, shape.slot_of(hash))?,
        };
        let mut limit = header.count;
        while number > 0 && number < limit {
            let Some(entries) = budget.entries.checked_sub(1) else {
                tracing::warn!("a query by key was cut short: {ENTRIES_MAX} entries share its slot");
                return Ok(ControlFlow::Break(()));
            };
            budget.entries = entries;
            let entry = match self.waiting(candidate.name, number) {
                Some(entry) => entry,
                None => self.files.entry(&**self.opened(candidate, &mut file)?, number)?,
            };
            if shape.slot_of(entry.hash) != shape.slot_of(hash) {
                break;
            }
            // A time in whole seconds, and of a file's first entry none that counts from its begin time.
            let time = header.begin_time + i64::from(entry.seconds) * 1000;
            if number > 1 && time + 999 < begin {
                break;
            }
            if entry.hash == hash && (number == 1 || time <= end) {
                let Some(records) = budget.records.checked_sub(1) else {
                    return Ok(ControlFlow::Break(()));
                };
                budget.records = records;
                if each(entry.offset)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            limit = number;
            number = entry.previous;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// An entry that is in memory.
    fn waiting(&self, name: i64, number: u32) -> Option<IndexEntry> {
        let state = self.state.lock().expect(POISONED);
        state.live.iter().find(|newest| newest.name == name)?.waiting(number)
    }

    /// The file of a candidate, opened when it is first needed.
    fn opened<'a>(
        &self,
        candidate: &Candidate,
        file: &'a mut Option<Arc<dyn DiskFile>>,
    ) -> Result<&'a Arc<dyn DiskFile>, DiskError> {
        if file.is_none() {
            *file = Some(self.files.open(candidate.name)?);
        }
        Ok(file.as_ref().expect("it was just opened"))
    }
}
