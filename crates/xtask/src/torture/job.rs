//! What a row is given, and what it gives back.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::chance::Chance;

/// What is tortured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Server {
    /// Our release binary
    Binary,
    /// The Java broker 5.3.3, for comparison; rows 1, 4, 6, 7 and 12
    Java,
}

/// When the server acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Flush {
    /// After writing
    Async,
    /// After the disk confirmed
    Sync,
}

impl Flush {
    /// The setting.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Flush::Async => "flushDiskType=ASYNC_FLUSH\n",
            Flush::Sync => "flushDiskType=SYNC_FLUSH\n",
        }
    }
}

/// One run of a row.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// What is tortured.
    pub(super) server: Server,
    /// Our release binary.
    pub(super) binary: PathBuf,
    /// Directory of the Java server's jars, when it is tortured.
    pub(super) java_lib: Option<PathBuf>,
    /// Where the row may keep files; removed afterwards unless the row fails.
    pub(super) scratch: PathBuf,
    /// Of everything that is random.
    pub(super) seed: u64,
    /// Seconds instead of minutes.
    pub(super) short: bool,
    /// How often, when the caller wants it otherwise than the row.
    pub(super) times: Option<u32>,
    /// When the server acknowledges, where a row leaves the choice.
    pub(super) flush: Option<Flush>,
}

impl Job {
    /// How often, in the short and the full form.
    pub(super) fn times(&self, short: u32, full: u32) -> u32 {
        self.times.unwrap_or(if self.short { short } else { full })
    }

    /// The random numbers of this run.
    pub(super) fn chance(&self) -> Chance {
        Chance::of(self.seed)
    }
}

/// What a row found.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// What was done, in the plural.
    pub(super) what: &'static str,
    /// How often.
    pub(super) times: u64,
    /// Messages acknowledged and lost, or whatever the row counts as a loss.
    pub(super) lost: u64,
    /// What was measured.
    pub(super) figures: Vec<String>,
    /// Everything that must not be.
    pub(super) problems: Vec<String>,
}

impl Outcome {
    /// Nothing was done yet.
    pub(super) fn of(what: &'static str) -> Outcome {
        Outcome { what, ..Outcome::default() }
    }

    /// Adds a figure.
    pub(super) fn figure(&mut self, text: impl Into<String>) {
        self.figures.push(text.into());
    }

    /// Notes a problem, if it is one.
    pub(super) fn check(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }

    /// Takes over what a reading back found.
    pub(super) fn read_back(&mut self, findings: &super::ledger::Findings) {
        self.lost += findings.lost + findings.corrupt + findings.holes + findings.duplicates;
        self.problems.extend(findings.examples.iter().cloned());
    }
}
