//! The index file that takes entries, as it is in memory: header, slots, and the entries that are not durable yet.
//!
//! Nothing here touches a disk. Slots come in pages that exist once one of their slots is used. The entries of the
//! header `durable` are in the file; slots are in the file as they were when the entry `slots_at` was next, and pages
//! that changed since are remembered.

use std::sync::Arc;

use cometmq_protocol::{LogOffset, Millis};

use super::format::{ENTRY_BYTES, IndexEntry, IndexHeader, SLOT_BYTES, Shape};
use crate::disk::DiskFile;

/// Slots of a page: hashes spread, so a page is small lest a few keys bring all of the table into memory.
pub(super) const PAGE_SLOTS: usize = 256;
/// Neighbouring pages that one write takes.
const RUN_PAGES: usize = 1024;

type Page = [u32; PAGE_SLOTS];

/// The file that takes entries.
#[derive(Debug)]
pub(super) struct Newest {
    pub name: i64,
    pub header: IndexHeader,
    /// Open once it has its length and its name is durable.
    pub file: Option<Arc<dyn DiskFile>>,
    /// Slots in the file are as they were when this was the number of the next entry.
    pub slots_at: u32,
    shape: Shape,
    pages: Vec<Option<Box<Page>>>,
    /// A bit for each page that differs from the file.
    changed: Vec<u64>,
    /// Entries that are not durable, as in the file.
    tail: Vec<u8>,
    /// The header without them.
    durable: IndexHeader,
}

/// A part of a file that is to be written.
#[derive(Debug)]
pub(super) struct Part {
    pub at: u64,
    pub bytes: Vec<u8>,
}

impl Newest {
    /// A file without slots and without entries that wait; those before `header.count` are in the file.
    pub fn new(name: i64, header: IndexHeader, shape: Shape) -> Newest {
        Newest {
            name,
            header,
            file: None,
            slots_at: header.count,
            shape,
            pages: Vec::new(),
            changed: Vec::new(),
            tail: Vec::new(),
            durable: header,
        }
    }

    /// Whether it takes no further entry.
    pub fn is_full(&self) -> bool {
        self.header.count >= self.shape.entries
    }

    /// Bytes of entries that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.tail.len()
    }

    /// Adds an entry. The file must not be full.
    pub fn push(&mut self, hash: u32, offset: LogOffset, stored_at: Millis) {
        assert!(!self.is_full(), "who adds an entry looks for room first");
        let number = self.header.count;
        let slot = self.shape.slot_of(hash);
        let head = self.head_mut(slot);
        let previous = if *head < number { *head } else { 0 };
        *head = number;
        let seconds = self.header.seconds(stored_at);
        if number == 1 {
            (self.header.begin, self.header.begin_time) = (offset, stored_at);
        }
        (self.header.end, self.header.end_time) = (offset, stored_at);
        self.header.used_slots += u32::from(previous == 0);
        self.header.count += 1;
        self.tail.extend_from_slice(&IndexEntry { hash, offset, seconds, previous }.encode());
    }

    /// The newest entry of a slot, 0 for none.
    pub fn head(&self, slot: u32) -> u32 {
        let (page, at) = place(slot);
        self.pages.get(page).and_then(Option::as_ref).map_or(0, |page| page[at])
    }

    fn head_mut(&mut self, slot: u32) -> &mut u32 {
        if self.pages.is_empty() {
            let pages = (self.shape.slots as usize).div_ceil(PAGE_SLOTS);
            self.pages.resize_with(pages, || None);
            self.changed.resize(pages.div_ceil(64), 0);
        }
        let (page, at) = place(slot);
        self.changed[page / 64] |= 1 << (page % 64);
        &mut self.pages[page].get_or_insert_with(|| Box::new([0; PAGE_SLOTS]))[at]
    }

    /// Puts a slot right, as recovery finds it out from the entries.
    pub fn set_head(&mut self, slot: u32, number: u32) {
        *self.head_mut(slot) = number;
    }

    /// Takes slots as they are in the file, beginning with `first`, which begins a page. What no entry has is 0.
    pub fn load_slots(&mut self, first: u32, bytes: &[u8]) {
        for (number, page) in bytes.chunks(PAGE_SLOTS * SLOT_BYTES).enumerate() {
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            let first = first + (number * PAGE_SLOTS) as u32;
            let (heads, _) = page.as_chunks::<SLOT_BYTES>();
            let mut wrong = false;
            for (slot, head) in (first..).zip(heads) {
                let head = u32::from_be_bytes(*head);
                let valid = head < self.header.count;
                wrong |= !valid;
                self.set_head(slot, if valid { head } else { 0 });
            }
            // As in the file, unless it is to be put right there.
            let page = place(first).0;
            if !wrong {
                self.changed[page / 64] &= !(1 << (page % 64));
            }
        }
    }

    /// An entry that waits; `None` when it is in the file.
    pub fn waiting(&self, number: u32) -> Option<IndexEntry> {
        let at = number.checked_sub(self.durable.count)? as usize * ENTRY_BYTES;
        self.tail.get(at..)?.first_chunk().map(IndexEntry::decode)
    }

    /// The header as it was before the first entry of a record at `end` or beyond.
    pub fn header_before(&self, end: LogOffset) -> IndexHeader {
        if self.header.end < end {
            return self.header;
        }
        let (entries, _) = self.tail.as_chunks::<ENTRY_BYTES>();
        let count = entries.partition_point(|entry| IndexEntry::decode(entry).offset < end);
        let Some(last) = count.checked_sub(1).map(|last| IndexEntry::decode(&entries[last])) else {
            return self.durable;
        };
        let number = self.durable.count + count as u32;
        let later = entries[count..].iter().filter(|entry| IndexEntry::decode(entry).previous == 0).count();
        IndexHeader {
            end: last.offset,
            // In whole seconds: who goes by it allows for that.
            end_time: self.header.begin_time + if number > 2 { i64::from(last.seconds) * 1000 } else { 0 },
            used_slots: self.header.used_slots - later as u32,
            count: number,
            ..self.header
        }
    }

    /// The entries before `count` that wait, as they are to be written.
    pub fn waiting_part(&self, count: u32) -> Part {
        let bytes = (count - self.durable.count) as usize * ENTRY_BYTES;
        Part { at: self.shape.entry_at(self.durable.count), bytes: self.tail[..bytes].to_vec() }
    }

    /// The entries of this header are durable.
    pub fn forget_before(&mut self, header: IndexHeader) {
        self.tail.drain(..(header.count - self.durable.count) as usize * ENTRY_BYTES);
        self.durable = header;
        if self.tail.capacity() > 4 * self.tail.len() + 64 * 1024 {
            self.tail.shrink_to(2 * self.tail.len());
        }
    }

    /// Forgets entries from `count` on, which are not in the file or not to be believed: `header` is what they leave.
    pub fn cut(&mut self, header: IndexHeader) {
        (self.header, self.durable) = (header, header);
        self.tail.clear();
        self.slots_at = self.slots_at.min(header.count);
    }

    /// The slots that differ from the file, as they are to be written with the entries before `count` only, and which
    /// pages these are. Entries from `count` on must wait.
    pub fn changed_slots(&mut self, count: u32) -> (Vec<Part>, Vec<u64>) {
        let mut parts: Vec<Part> = Vec::new();
        let mut run_end = 0;
        let changed = |page: usize| self.changed[page / 64] >> (page % 64) & 1 != 0;
        for (number, page) in self.pages.iter().enumerate().filter(|(number, _)| changed(*number)) {
            let first = (number * PAGE_SLOTS) as u32;
            let slots = (self.shape.slots - first).min(PAGE_SLOTS as u32) as usize;
            let full = parts.last().is_some_and(|run| run.bytes.len() >= RUN_PAGES * PAGE_SLOTS * SLOT_BYTES);
            if parts.is_empty() || run_end != number || full {
                parts.push(Part { at: self.shape.slot_at(first), bytes: Vec::new() });
            }
            run_end = number + 1;
            let run = &mut parts.last_mut().expect("there is a run").bytes;
            for head in page.iter().flat_map(|page| &page[..slots]) {
                let mut head = *head;
                while head >= count {
                    head = self.waiting(head).map_or(0, |entry| entry.previous);
                }
                run.extend_from_slice(&head.to_be_bytes());
            }
        }
        let pages = self.changed.clone();
        if count == self.header.count {
            self.changed.fill(0);
        }
        (parts, pages)
    }

    /// Pages that were to be written and were not.
    pub fn still_changed(&mut self, pages: &[u64]) {
        self.changed.iter_mut().zip(pages).for_each(|(all, pages)| *all |= pages);
    }

    /// Bytes of memory that slots and waiting entries take.
    pub fn memory_bytes(&self) -> usize {
        let pages = self.pages.iter().flatten().count() * size_of::<Page>();
        pages + self.pages.capacity() * size_of::<Option<Box<Page>>>() + self.tail.capacity()
    }
}

fn place(slot: u32) -> (usize, usize) {
    (slot as usize / PAGE_SLOTS, slot as usize % PAGE_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    const SHAPE: Shape = Shape { slots: 600, entries: 2000 };

    fn chain(newest: &Newest, slot: u32) -> Vec<(u32, i64)> {
        let mut found = Vec::new();
        let mut number = newest.head(slot);
        while number > 0 {
            let entry = newest.waiting(number).unwrap();
            assert!(entry.previous < number);
            found.push((entry.hash, entry.offset.0));
            number = entry.previous;
        }
        found
    }

    proptest! {
        #[test]
        fn a_chain_has_the_entries_of_its_slot_newest_first(hashes in proptest::collection::vec(0u32..3000, 0..500)) {
            let mut newest = Newest::new(1, IndexHeader::following(LogOffset(0), Millis(0)), SHAPE);
            let mut model: BTreeMap<u32, Vec<(u32, i64)>> = BTreeMap::new();
            for (offset, hash) in (0i64..).zip(&hashes) {
                newest.push(*hash, LogOffset(offset), Millis(1000 + offset));
                model.entry(SHAPE.slot_of(*hash)).or_default().insert(0, (*hash, offset));
            }
            for slot in 0..SHAPE.slots {
                prop_assert_eq!(chain(&newest, slot), model.get(&slot).cloned().unwrap_or_default());
            }
            prop_assert_eq!(newest.header.used_slots as usize, model.len());
            prop_assert_eq!(newest.header.count as usize, hashes.len() + 1);
        }

        #[test]
        fn slots_that_were_written_are_loaded_again(hashes in proptest::collection::vec(0u32..3000, 1..300), cut in 1usize..300) {
            let mut newest = Newest::new(1, IndexHeader::following(LogOffset(0), Millis(0)), SHAPE);
            let mut file = vec![0; SHAPE.file_bytes() as usize];
            for (number, hash) in hashes.iter().enumerate() {
                newest.push(*hash, LogOffset(0), Millis(1));
                if number == cut || number + 1 == hashes.len() {
                    for part in newest.changed_slots(newest.header.count).0 {
                        file[part.at as usize..][..part.bytes.len()].copy_from_slice(&part.bytes);
                    }
                }
            }
            let mut loaded = Newest::new(1, newest.header, SHAPE);
            loaded.load_slots(0, &file[40..40 + 4 * SHAPE.slots as usize]);
            for slot in 0..SHAPE.slots {
                prop_assert_eq!(loaded.head(slot), newest.head(slot));
            }
            prop_assert!(loaded.changed_slots(loaded.header.count).0.is_empty());
        }
    }

    #[test]
    fn a_slot_beyond_the_entries_is_none_and_is_put_right() {
        let header = IndexHeader { count: 5, ..IndexHeader::following(LogOffset(0), Millis(0)) };
        let mut newest = Newest::new(1, header, SHAPE);
        let heads = [4u32, 5, u32::MAX, 0].map(u32::to_be_bytes).concat();
        newest.load_slots(256, &heads);
        assert_eq!([256, 257, 258, 259].map(|slot| newest.head(slot)), [4, 0, 0, 0]);
        assert_eq!(newest.changed_slots(5).0.len(), 1);
    }

    #[test]
    fn times_count_from_the_files_first_message() {
        // As a Java broker does it: the first entry's own time counts from where the file before ended.
        let mut newest = Newest::new(1, IndexHeader::following(LogOffset(9), Millis(5_000)), SHAPE);
        newest.push(1, LogOffset(10), Millis(8_500));
        newest.push(2, LogOffset(11), Millis(10_000));
        newest.push(3, LogOffset(12), Millis(7_000));
        let seconds = [1, 2, 3].map(|number| newest.waiting(number).unwrap().seconds);
        assert_eq!(seconds, [3, 1, 0]);
        assert_eq!((newest.header.begin, newest.header.begin_time), (LogOffset(10), Millis(8_500)));
    }
}
