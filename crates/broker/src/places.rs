//! What waits outside the rooms for a thread that may wait for the disk: how much of it there is, and its bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The places of what waits.
#[derive(Debug, Default)]
pub(crate) struct Places(Arc<Taken>);

#[derive(Debug, Default)]
struct Taken {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// One of the places, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    taken: Arc<Taken>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.count.fetch_sub(1, Ordering::Relaxed);
        self.taken.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Places {
    /// How many are taken.
    pub fn count(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    /// A place for so many bytes, unless `fits` denies the number of places and bytes that are taken with it.
    pub fn enter(&self, bytes: usize, fits: impl FnOnce(usize, usize) -> bool) -> Option<Place> {
        let count = self.0.count.fetch_add(1, Ordering::Relaxed) + 1;
        let all = self.0.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let place = Place { taken: Arc::clone(&self.0), bytes };
        fits(count, all).then_some(place)
    }
}
