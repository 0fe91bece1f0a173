//! Row 2: every power cut of small workloads under SYNC_FLUSH, on a disk in memory: `cargo xtask sim --crash-states`.

use anyhow::Result;

use super::job::{Job, Outcome};
use crate::sim::{self, Play};

/// States in the two forms.
const STATES: (u32, u32) = (5_000, sim::CRASH_STATES as u32);

/// Explores them.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("crash states, each recovered twice");
    let states = job.times(STATES.0, STATES.1).into();
    let play = Play::CrashStates { first: job.seed, states };
    let played = tokio::task::block_in_place(|| sim::play_in(play, &job.scratch))?;
    outcome.times = played.done;
    outcome.lost = played.failed;
    Ok(outcome)
}
