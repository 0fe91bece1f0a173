//! How entries and slots become durable.
//!
//! For each file in turn: its new entries and its header, a sync, then the progress. Slots follow only after that,
//! since one that names an entry which is not durable would hide those before it. They are most of what there is to
//! write and can be found again from the entries, so that is done when the file is full, when it closes, and when
//! many entries have come since.

use std::sync::Arc;

use cometmq_protocol::{LogOffset, Millis};

use super::format::IndexHeader;
use super::newest::{Newest, Part};
use super::progress::{Progress, SavedProgress};
use super::{Index, Older, POISONED, State, files};
use crate::disk::{DiskError, DiskFile};

/// Entries after which the slots are written: so many are read again after a crash.
const SLOTS_EVERY: u32 = 2_000_000;

/// What is to be written of one file.
#[derive(Debug)]
struct Job {
    progress: Progress,
    entries: Part,
    /// Slots, and which pages they are, when it is time for them.
    slots: Option<(Vec<Part>, Vec<u64>)>,
    /// The file is full, and this is all of it that was not on disk.
    is_whole: bool,
}

impl Job {
    /// Whether nothing but the position changed.
    fn is_idle(&self) -> bool {
        self.entries.bytes.is_empty() && self.slots.is_none()
    }
}

impl Index {
    /// Makes durable what was entered before the call of messages before `log_durable`, and remembers how far that is:
    /// an index must not know of a message that a power cut may still change. `closing`: slots too, so that the files
    /// are as a Java broker leaves them. After an error all of it is written again by the next call.
    pub fn flush(&self, closing: bool, log_durable: LogOffset) -> Result<(), DiskError> {
        let mut saved = self.saved.lock().expect(POISONED);
        // A file that begins meanwhile is for the next call.
        let count = {
            let mut state = self.state.lock().expect(POISONED);
            self.settle(&mut state);
            state.live.len()
        };
        for _ in 0..count {
            let job = {
                let mut state = self.state.lock().expect(POISONED);
                // The position covers what was gathered meanwhile, so that must be in the file too.
                self.settle(&mut state);
                state.job(closing, saved.covered(), log_durable)
            };
            let written = self.write(&job, closing, &mut saved);
            let is_whole = self.state.lock().expect(POISONED).finished(&job, written.is_ok());
            written?;
            if !is_whole {
                return Ok(());
            }
        }
        self.remember_without_file(&mut saved, log_durable)
    }

    fn write(&self, job: &Job, closing: bool, saved: &mut SavedProgress) -> Result<(), DiskError> {
        let progress = &job.progress;
        let file = match self.open_file(progress.name) {
            Some(_) if job.is_idle() && !closing => {
                return if progress.covered > saved.covered() {
                    saved.save(&*self.files.disk, progress)
                } else {
                    Ok(())
                };
            }
            Some(file) => file,
            None => {
                let file = self.files.create(progress.name)?;
                let mut state = self.state.lock().expect(POISONED);
                let newest = state.live.front_mut().expect("it stays until it was written");
                newest.file = Some(Arc::clone(&file));
                file
            }
        };
        let header = Part { at: 0, bytes: progress.header.encode().to_vec() };
        files::write(&*file, &[header])?;
        files::write(&*file, std::slice::from_ref(&job.entries))?;
        file.sync()?;
        saved.save(&*self.files.disk, progress)?;
        if let Some((slots, _)) = &job.slots {
            files::write(&*file, slots)?;
            file.sync()?;
            saved.save(&*self.files.disk, &Progress { slots_at: progress.header.count, ..*progress })?;
        }
        Ok(())
    }

    fn open_file(&self, name: i64) -> Option<Arc<dyn DiskFile>> {
        let state = self.state.lock().expect(POISONED);
        state.live.iter().find(|newest| newest.name == name).and_then(|newest| newest.file.clone())
    }

    /// Remembers the position where no file takes entries: nothing had a key, or the last file is full.
    fn remember_without_file(
        &self,
        saved: &mut SavedProgress,
        log_durable: LogOffset,
    ) -> Result<(), DiskError> {
        let progress = {
            let state = self.state.lock().expect(POISONED);
            let covered = state.covered.min(log_durable);
            if !state.live.is_empty() || !state.gathered.is_empty() || covered <= saved.covered() {
                return Ok(());
            }
            let none = Progress {
                covered,
                name: 0,
                slots_at: 1,
                header: IndexHeader::following(LogOffset(0), Millis(0)),
            };
            state.older.back().map_or(none, |last| Progress {
                name: last.name,
                slots_at: last.header.count,
                header: last.header,
                ..none
            })
        };
        saved.save(&*self.files.disk, &progress)
    }
}

impl State {
    /// What is to be written of the oldest file that is not wholly on disk.
    fn job(&mut self, closing: bool, saved: LogOffset, log_durable: LogOffset) -> Job {
        let is_last = self.live.len() == 1;
        // Where the log was opened anew, less of it may count as durable than did before.
        let covered = self.covered.min(log_durable).max(saved);
        let newest: &mut Newest = self.live.front_mut().expect("who asks for work has counted it");
        let header = newest.header_before(log_durable);
        let is_whole = !is_last && header.count == newest.header.count;
        let progress = Progress {
            // Of the last message in a full file, further keys may be in the next one.
            covered: if is_whole { saved.max(header.end) } else { covered },
            name: newest.name,
            slots_at: newest.slots_at,
            header,
        };
        let entries = newest.waiting_part(header.count);
        let is_due = closing || is_whole || header.count - newest.slots_at.min(header.count) >= SLOTS_EVERY;
        let slots = is_due.then(|| newest.changed_slots(header.count));
        Job { progress, entries, slots: slots.filter(|(parts, _)| !parts.is_empty()), is_whole }
    }

    /// A file was written, or not. Tells whether nothing of it is left to write.
    fn finished(&mut self, job: &Job, is_written: bool) -> bool {
        let newest = self.live.front_mut().expect("it stays until it was written");
        if !is_written {
            if let Some((_, pages)) = &job.slots {
                newest.still_changed(pages);
            }
            return false;
        }
        newest.forget_before(job.progress.header);
        if job.slots.is_some() {
            newest.slots_at = job.progress.header.count;
        }
        if job.is_whole {
            let Newest { name, header, .. } = self.live.pop_front().expect("it was just there");
            self.older.push_back(Older { name, header });
        }
        job.is_whole
    }
}
