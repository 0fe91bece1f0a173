//! Every power cut of small workloads under SYNC_FLUSH: after each operation each disk that could be left is opened,
//! compared with what was acknowledged, and recovered once more.
//!
//! States are: each prefix of the writes that are not synced; each subset where they are few, else some; each of these
//! with the last write torn in two ways; with no, all, or the first half of the names that are not durable.

use cometmq_store::disk::{Fate, Unsynced};

use crate::chance::Chance;
use crate::script::Script;

/// Most operations of a workload.
const OPERATIONS_MAX: u64 = 8;
/// Unsynced writes of which every subset is tried.
const EXHAUSTIVE_MAX: usize = 5;
/// Subsets that are tried where there are more.
const SUBSETS: u64 = 24;

/// Explores the workload of a seed and returns how many states there were.
pub fn explore(seed: u64) -> Result<u64, String> {
    let mut chance = Chance::of(seed);
    let mut script = Script::new(seed);
    script.open()?;
    let bytes = chance.pick(&[20, 600, 1500, 2500]);
    let mut states = 0;
    for _ in 0..chance.within(3, OPERATIONS_MAX) {
        match chance.below(8) {
            0..=3 => script.send(chance.below(2) as i32, bytes)?,
            4 | 5 => script.sync()?,
            6 => drop(script.flush()),
            _ => script.open()?,
        }
        states += cut_power(&mut script, &mut chance).map_err(|what| format!("workload {seed}: {what}"))?;
    }
    Ok(states)
}

/// Tries every power cut of this moment.
fn cut_power(script: &mut Script, chance: &mut Chance) -> Result<u64, String> {
    let writes = script.host.disk.unsynced();
    let names = script.host.disk.unsynced_names();
    let mut kept: Vec<Vec<bool>> =
        (0..=writes.len()).map(|n| (0..writes.len()).map(|i| i < n).collect()).collect();
    if writes.len() <= EXHAUSTIVE_MAX {
        kept = (0..1u32 << writes.len())
            .map(|mask| (0..writes.len()).map(|i| mask >> i & 1 == 1).collect())
            .collect();
    } else {
        kept.extend((0..SUBSETS).map(|_| writes.iter().map(|_| chance.one_in(2)).collect()));
    }
    let mut name_counts = vec![0, names / 2, names];
    name_counts.dedup();
    let mut states = 0;
    for which in &kept {
        for tear in [None, Some(0b01_u64), Some(0b1010)] {
            let last = which.iter().rposition(|kept| *kept);
            if tear.is_some() && last.is_none_or(|last| writes[last].sectors < 2) {
                continue;
            }
            for count in &name_counts {
                let mut fate = |write: Unsynced| {
                    let index = writes.iter().position(|known| known.sequence == write.sequence);
                    match (index, tear) {
                        (Some(index), Some(mask)) if Some(index) == last => Fate::Torn(mask),
                        (Some(index), _) if which[index] => Fate::Kept,
                        _ => Fate::Lost,
                    }
                };
                let disk = script.host.disk.crash_choosing(*count, &mut fate);
                script.check_disk(&disk)?;
                states += 1;
            }
        }
    }
    Ok(states)
}
