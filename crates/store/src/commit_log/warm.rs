//! Older parts of the log that consumers read now: read once, verified once, shared by all that want them.
//!
//! A part of the log is kept when several of its records are wanted, at once or one after the other; a single record far
//! from all others is not worth a part. One that gave as many bytes as it has is let go of, and the next one is read to
//! the same memory, which the processor still has at hand.

use std::sync::{Arc, Mutex};

use super::POISONED;
use super::piece::Piece;

/// Bytes of a part: enough for what a pull wants of a few queues, too little to matter when it is not wanted again.
pub(super) const PART_BYTES: i64 = 64 * 1024;
/// Parts kept at most: 32 MiB.
const PARTS_MAX: usize = 512;
/// Places that a part can be kept in, one beside the other.
const WAYS: usize = 4;
/// Parts remembered as touched, without being kept.
const TOUCHED: usize = 4096;
/// Memory of parts that were let go of, for those that are read next.
const SPARE_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Warm(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Neighbours in the log lie `WAYS` places apart, so that all places serve a reader who goes through it.
    parts: Vec<Option<(Arc<Piece>, u64)>>,
    /// Counts uses: the higher a part's number, the later it was used.
    uses: u64,
    touched: Vec<i64>,
    spare: Vec<Vec<u8>>,
}

impl Warm {
    pub fn new() -> Warm {
        let parts = vec![None; PARTS_MAX];
        Warm(Mutex::new(State { parts, uses: 0, touched: vec![-1; TOUCHED], spare: Vec::new() }))
    }

    /// The part at `base`, when it is here.
    pub fn get(&self, base: i64) -> Option<Arc<Piece>> {
        let mut state = self.0.lock().expect(POISONED);
        state.uses += 1;
        let uses = state.uses;
        let mut kept = state.places(base).iter_mut().flatten();
        let (part, used) = kept.find(|(part, _)| part.base == base)?;
        *used = uses;
        Some(Arc::clone(part))
    }

    /// Notes that something in the part at `base` is wanted; whether that was so a short while ago already.
    pub fn touch(&self, base: i64) -> bool {
        let mut state = self.0.lock().expect(POISONED);
        let place = (base / PART_BYTES) as usize % TOUCHED;
        std::mem::replace(&mut state.touched[place], base) == base
    }

    /// Memory for a part that is going to be read.
    pub fn buffer(&self) -> Vec<u8> {
        self.0.lock().expect(POISONED).spare.pop().unwrap_or_default()
    }

    /// Takes back the memory of a part, unless someone still reads it.
    fn recycle(&self, part: Arc<Piece>) {
        let Some(part) = Arc::into_inner(part) else { return };
        let mut state = self.0.lock().expect(POISONED);
        if state.spare.len() < SPARE_MAX {
            state.spare.push(part.bytes);
        }
    }

    /// Lets go of a part if nobody wants it again.
    pub fn done(&self, part: Arc<Piece>) {
        if !part.is_spent() {
            return;
        }
        let kept = {
            let mut state = self.0.lock().expect(POISONED);
            let mut places = state.places(part.base).iter_mut();
            places.find_map(|place| place.take_if(|(kept, _)| Arc::ptr_eq(kept, &part)))
        };
        drop(kept);
        self.recycle(part);
    }

    /// Keeps a part, and lets go of the one in its places that was not used for the longest time.
    pub fn keep(&self, part: Piece) -> Arc<Piece> {
        let part = Arc::new(part);
        let old = {
            let mut state = self.0.lock().expect(POISONED);
            state.uses += 1;
            let uses = state.uses;
            // Another reader may have been quicker; then there is no second one.
            let rank = |place: &Option<(Arc<Piece>, u64)>| match place {
                Some((kept, _)) if kept.base == part.base => (0, 0),
                None => (1, 0),
                Some((_, used)) => (2, *used),
            };
            let place = state.places(part.base).iter_mut().min_by_key(|place| rank(place));
            place.and_then(|place| place.replace((Arc::clone(&part), uses)))
        };
        if let Some((old, _)) = old {
            self.recycle(old);
        }
        part
    }
}

impl State {
    /// Where the part at `base` can be.
    fn places(&mut self, base: i64) -> &mut [Option<(Arc<Piece>, u64)>] {
        let first = (base / PART_BYTES) as usize % (PARTS_MAX / WAYS) * WAYS;
        &mut self.parts[first..first + WAYS]
    }
}
