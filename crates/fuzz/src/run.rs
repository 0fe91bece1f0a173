//! The loop: takes an input, changes it, runs the target, keeps what went a new way, and reports what broke a law.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::allocation;
use crate::golden::Golden;
use crate::mutate::{self, Dice, INPUT_BYTES_MAX};
use crate::target::{Outcome, Target};

/// Most inputs that are kept, and most bytes of them.
const KEPT_MAX: usize = 4096;
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Runs between two looks at the clock.
const BURST: u64 = 64;
/// A single run may take this long, on a machine that does other things as well.
const RUN_LIMIT: Duration = Duration::from_secs(2);
/// A run that takes this long is reported as endless.
const STUCK_LIMIT: Duration = Duration::from_secs(20);
/// Tries to make a failing input smaller.
const SHRINK_TRIES: usize = 2000;

/// What running a target came to.
#[derive(Debug)]
pub struct Report {
    /// Inputs tried.
    pub executions: u64,
    /// Time for them.
    pub took: Duration,
    /// Inputs kept because they went a new way, seeds included.
    pub kept: usize,
    /// Most bytes that a run held at once.
    pub peak_bytes: usize,
    /// The first input that broke a law; it ended the loop.
    pub failure: Option<Failure>,
}

/// A broken law.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The input, made as small as was found.
    pub input: Vec<u8>,
    /// Which execution of the seed it was.
    pub execution: u64,
    /// What the panic said, or which bound was passed.
    pub message: String,
}

/// When to end.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After this many executions: the same seed does exactly the same.
    Executions(u64),
}

/// Runs `target` from `seed`.
pub fn run(target: &Target, golden: &Golden, seed: u64, until: Until) -> Report {
    let mut dice = Dice::of(seed);
    let mut corpus = Corpus::default();
    let mut report = Report { executions: 0, took: Duration::ZERO, kept: 0, peak_bytes: 0, failure: None };
    let start = Instant::now();
    let seeds = (target.seeds)(golden);
    let mut input = Vec::with_capacity(2 * INPUT_BYTES_MAX);
    loop {
        let number = report.executions;
        input.clear();
        match seeds.get(number as usize) {
            Some(seed) => input.extend_from_slice(&seed[..seed.len().min(INPUT_BYTES_MAX)]),
            None => {
                input.extend_from_slice(corpus.one(&mut dice));
                mutate::mutate(&mut input, corpus.one(&mut dice), &mut dice);
            }
        }
        report.executions += 1;
        match try_once(target, &input) {
            Ok((outcome, peak)) => {
                report.peak_bytes = report.peak_bytes.max(peak);
                corpus.keep(&input, outcome, number < seeds.len() as u64);
            }
            Err(message) => {
                let input = shrink(target, input);
                report.failure = Some(Failure { input, execution: number, message });
                break;
            }
        }
        let over = match until {
            Until::Executions(limit) => report.executions >= limit,
            Until::Time(limit) => report.executions.is_multiple_of(BURST) && start.elapsed() >= limit,
        };
        if over {
            break;
        }
    }
    report.took = start.elapsed();
    report.kept = corpus.inputs.len();
    report
}

/// Runs a target once, its laws and its bounds. The error says which of them was broken.
pub fn try_once(target: &Target, input: &[u8]) -> Result<(Outcome, usize), String> {
    Watched::set(target, input);
    let start = Instant::now();
    let (result, peak) =
        allocation::peak_of(|| panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    let took = start.elapsed();
    RUNS.fetch_add(1, Ordering::Relaxed);
    let outcome = result.map_err(|_| PANIC.take().unwrap_or_else(|| "panicked".to_owned()))?;
    let bound = target.bound.of(input.len());
    if peak > bound {
        return Err(format!(
            "held {peak} bytes for an input of {}, at most {bound} are allowed",
            input.len()
        ));
    }
    if took > RUN_LIMIT {
        return Err(format!("took {took:?} for an input of {} bytes", input.len()));
    }
    Ok((outcome, peak))
}

/// Cuts parts out of a failing input as long as it fails.
fn shrink(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut tries = 0;
    let mut size = input.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < input.len() && tries < SHRINK_TRIES {
            let mut shorter = input.clone();
            shorter.drain(at..(at + size).min(input.len()));
            tries += 1;
            if try_once(target, &shorter).is_err() {
                input = shorter;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    input
}

/// Inputs to go on from.
#[derive(Default)]
struct Corpus {
    inputs: Vec<Vec<u8>>,
    bytes: usize,
    seen: HashSet<(Outcome, u64)>,
}

impl Corpus {
    fn one(&self, dice: &mut Dice) -> &[u8] {
        if self.inputs.is_empty() { &[] } else { &self.inputs[dice.below(self.inputs.len())] }
    }

    /// Keeps an input if it went a way that none of its size has gone. Of the seeds a share is kept in any case.
    fn keep(&mut self, input: &[u8], outcome: Outcome, is_seed: bool) {
        let new = self.seen.len() < KEPT_MAX && self.seen.insert((outcome, Outcome::magnitude(input.len())));
        let kept = self.inputs.len() < KEPT_MAX && self.bytes + input.len() <= KEPT_BYTES_MAX;
        if kept && (new || is_seed && self.inputs.len() < KEPT_MAX / 4) {
            self.bytes += input.len();
            self.inputs.push(input.to_vec());
        }
    }
}

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps what panics say instead of printing it. Call once, before [`run`].
pub fn keep_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map_or(String::new(), |place| format!("{place}: "));
        let text = info.payload_as_str().unwrap_or("panicked");
        PANIC.set(Some(format!("{place}{text}")));
    }));
}

static RUNS: AtomicU64 = AtomicU64::new(0);
static WATCHED: Mutex<Watched> = Mutex::new(Watched { target: "", input: Vec::new() });

/// The input that is being run, for the case that it never ends.
struct Watched {
    target: &'static str,
    input: Vec<u8>,
}

impl Watched {
    fn set(target: &Target, input: &[u8]) {
        let mut watched = WATCHED.lock().expect("nothing panics while it is held");
        watched.target = target.name;
        watched.input.clear();
        watched.input.extend_from_slice(input);
    }
}

/// Calls `report` with the target's name and the input when a run does not end. Call once, before [`run`].
pub fn watch(report: fn(&str, &[u8])) {
    std::thread::spawn(move || {
        let mut before = RUNS.load(Ordering::Relaxed);
        loop {
            std::thread::sleep(STUCK_LIMIT);
            let now = RUNS.load(Ordering::Relaxed);
            if now == before && now > 0 {
                let watched = WATCHED.lock().expect("nothing panics while it is held");
                report(watched.target, &watched.input);
                return;
            }
            before = now;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bound;

    fn planted(data: &[u8]) -> Outcome {
        let Some(length) = data.first_chunk::<4>() else { return Outcome::refused("short") };
        let magic = data.get(4..8) == Some(b"\xDA\xA3\x20\xA7");
        assert!(!magic || u32::from_be_bytes(*length) as usize != data.len() + 4, "planted");
        Outcome::accepted(magic)
    }

    #[test]
    fn a_planted_fault_is_found_made_small_and_repeated() {
        let seeds = |_: &Golden| vec![b"\0\0\0\x10\xDA\xA3\x20\xA7and the rest".to_vec()];
        let target =
            Target { name: "planted", run: planted, seeds, bound: Bound { base: 1024, per_byte: 1 } };
        let golden = Golden::default();
        let failure = run(&target, &golden, 1, Until::Executions(200_000)).failure.expect("it is found");
        assert!(try_once(&target, &failure.input).is_err());
        let again = run(&target, &golden, 1, Until::Executions(200_000)).failure;
        assert_eq!(again.map(|again| again.execution), Some(failure.execution));
    }
}
