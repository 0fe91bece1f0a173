//! Older parts of the log that consumers read now: read once, verified once, shared by all that want them.
//!
//! A part of the log is kept when several of its records are wanted, at once or one after the other; a single record far
//! from all others is not worth a part.

use std::sync::{Arc, Mutex};

use foldhash::{HashMap, HashMapExt};

use super::POISONED;
use super::piece::Piece;

/// Bytes of a part: enough for what a pull wants of a few queues, too little to matter when it is not wanted again.
pub(super) const PART_BYTES: i64 = 64 * 1024;
/// Parts kept at most: 32 MiB.
const PARTS_MAX: usize = 512;
/// Parts remembered as touched, without being kept.
const TOUCHED: usize = 4096;

#[derive(Debug)]
pub(super) struct Warm(Mutex<State>);

#[derive(Debug)]
struct State {
    parts: HashMap<i64, (Arc<Piece>, u64)>,
    clock: u64,
    touched: Vec<i64>,
    spare: Option<Vec<u8>>,
}

impl Warm {
    pub fn new() -> Warm {
        Warm(Mutex::new(State { parts: HashMap::new(), clock: 0, touched: vec![-1; TOUCHED], spare: None }))
    }

    /// The part at `base`, when it is here.
    pub fn get(&self, base: i64) -> Option<Arc<Piece>> {
        let mut state = self.0.lock().expect(POISONED);
        state.clock += 1;
        let clock = state.clock;
        let (part, used) = state.parts.get_mut(&base)?;
        *used = clock;
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
        self.0.lock().expect(POISONED).spare.take().unwrap_or_default()
    }

    /// Keeps a part, and lets go of the one that was not used for the longest time.
    pub fn keep(&self, part: Piece) -> Arc<Piece> {
        let part = Arc::new(part);
        let mut state = self.0.lock().expect(POISONED);
        state.clock += 1;
        let clock = state.clock;
        state.parts.insert(part.base, (Arc::clone(&part), clock));
        if state.parts.len() > PARTS_MAX
            && let Some(oldest) = state.parts.iter().min_by_key(|(_, (_, used))| *used).map(|(base, _)| *base)
            && let Some((old, _)) = state.parts.remove(&oldest)
        {
            state.spare = Arc::into_inner(old).map(|old| old.bytes);
        }
        part
    }
}
