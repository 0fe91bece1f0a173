//! Where the segments are, and which of them are open.

use std::sync::Arc;

use cometmq_protocol::LogOffset;

use super::{CommitLog, POISONED, Place, Segment};
use crate::disk::DiskError;

impl CommitLog {
    /// Where the segment that holds `offset` is; `None` when there is none.
    pub(super) fn place(&self, offset: i64) -> Option<Place> {
        let segments = self.segments.read().expect(POISONED);
        let place = &segments[find(&segments, offset)?];
        (offset < place.base + self.options.segment_bytes).then(|| place.clone())
    }

    /// The segment there, if its file is open.
    pub(super) fn opened(&self, place: &Place) -> Option<Segment> {
        let file = place.held.clone().or_else(|| self.open.get(&place.base))?;
        Some(Segment { base: place.base, file })
    }

    /// The segment that holds `offset`, opened if need be; `None` when there is none.
    pub(super) fn segment(&self, offset: i64) -> Result<Option<Segment>, DiskError> {
        let Some(place) = self.place(offset) else { return Ok(None) };
        if let Some(segment) = self.opened(&place) {
            return Ok(Some(segment));
        }
        let base = place.base;
        match self.disk.open(&place.path, false) {
            // Deleted meanwhile.
            Err(error) if error.kind == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(file) => {
                self.open.insert(base, Arc::clone(&file));
                Ok(Some(Segment { base, file }))
            }
        }
    }

    /// Keeps the file of a segment open that is about to be written to.
    pub(super) fn hold(&self, segment: &Segment) {
        let is_held =
            |places: &[Place]| find(places, segment.base).is_some_and(|index| places[index].held.is_some());
        if !is_held(&self.segments.read().expect(POISONED)) {
            let mut segments = self.segments.write().expect(POISONED);
            if let Some(index) = find(&segments, segment.base) {
                segments[index].held = Some(Arc::clone(&segment.file));
            }
        }
    }

    /// Keeps these segments open no longer than any other: they are full and durable.
    pub(super) fn let_go(&self, bases: impl Iterator<Item = i64>) {
        for base in bases {
            let mut segments = self.segments.write().expect(POISONED);
            if let Some(index) = find(&segments, base) {
                segments[index].held = None;
            }
        }
    }

    /// First positions of the segments with bytes between the two.
    pub(super) fn bases_between(&self, from: LogOffset, to: LogOffset) -> Vec<i64> {
        let segments = self.segments.read().expect(POISONED);
        let first = segments.partition_point(|place| place.base + self.options.segment_bytes <= from.0);
        segments[first..].iter().map(|place| place.base).take_while(|base| *base < to.0).collect()
    }
}

/// The last of the segments that begins at `offset` or before.
fn find(segments: &[Place], offset: i64) -> Option<usize> {
    segments.partition_point(|place| place.base <= offset).checked_sub(1)
}
