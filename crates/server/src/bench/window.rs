//! The measured time of a run: warm-up before it, a live line during it, and what ends it.
//!
//! A [`Load`] makes requests by itself; here it is only told when replies begin and cease to count.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::args::{Limits, LoadArgs};
use super::report::grouped;
use super::usage::Usage;

/// How often the live line is written.
const TICK: Duration = Duration::from_secs(1);
/// How long servers may owe a reply without giving any.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// How long the last replies may take once nothing counts any more.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A load generator.
pub(super) trait Load {
    /// Makes the first requests.
    fn start(&self);
    /// From now on replies count.
    fn open(&self);
    /// From now on nothing counts, and replies are no longer followed by requests.
    fn close(&self);
    /// Messages answered since the start, whether they count or not.
    fn progress(&self) -> u64;
    /// Whether a server owes a reply that should come at once.
    fn waits(&self) -> bool;
}

/// Where a [`Load`] is in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests are made, and replies do not count yet.
    Warmup,
    /// Replies count.
    Measured,
    /// Nothing counts any more, and no request is made.
    Closed,
}

/// How a run ends before its time: everything is done, or something broke.
#[derive(Debug)]
pub(super) struct Goal(watch::Sender<Option<Result<(), String>>>);

impl Goal {
    /// Nothing has happened yet.
    pub(super) fn new() -> Goal {
        Goal(watch::Sender::new(None))
    }

    /// Everything is done.
    pub(super) fn reach(&self) {
        self.end(Ok(()));
    }

    /// Something broke; the first is told.
    pub(super) fn fail(&self, what: String) {
        self.end(Err(what));
    }

    fn end(&self, how: Result<(), String>) {
        self.0.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(how);
            first
        });
    }

    /// Waits for the end.
    async fn ended(&self) -> Result<()> {
        let mut receiver = self.0.subscribe();
        let end = receiver.wait_for(Option::is_some).await.expect("the sender is borrowed");
        match end.as_ref().expect("it was waited for") {
            Ok(()) => Ok(()),
            Err(what) => bail!("{what}"),
        }
    }
}

/// What was measured besides the messages.
#[derive(Debug)]
pub(super) struct Window {
    /// Its length.
    pub(super) elapsed: Duration,
    /// What the servers spent, if asked for.
    pub(super) server: Option<Usage>,
    /// What this process spent, where that can be known.
    pub(super) generator_cpu_seconds: Option<f64>,
}

/// Runs `load` within its limits. Afterwards no request is open, unless a server keeps it.
pub(super) async fn measure(
    args: &LoadArgs,
    limits: Limits,
    load: &impl Load,
    goal: &Goal,
) -> Result<Window> {
    let result = measure_open(args, limits, load, goal).await;
    load.close();
    let drained = Instant::now() + DRAIN_TIMEOUT;
    while result.is_ok() && load.waits() && Instant::now() < drained {
        sleep(Duration::from_millis(5)).await;
    }
    result
}

async fn measure_open(args: &LoadArgs, limits: Limits, load: &impl Load, goal: &Goal) -> Result<Window> {
    // Draws nothing where standard error is no terminal.
    let line =
        ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{msg}").expect("it is valid"));
    if limits.warmup > Duration::ZERO {
        load.start();
        let mut watched = Watched::new("warm-up ", &line);
        if watched.until(Some(limits.warmup), load, goal).await? == End::Goal {
            bail!("everything was done within the warm-up; make it shorter with --warmup, or provide more");
        }
    }
    let server = (!args.pid.is_empty()).then(|| Usage::of(&args.pid)).transpose()?;
    let own = Usage::own();
    let start = Instant::now();
    load.open();
    if limits.warmup.is_zero() {
        load.start();
    }
    Watched::new("", &line).until(limits.duration, load, goal).await?;
    load.close();
    let elapsed = start.elapsed();
    let generator_cpu_seconds = own.zip(Usage::own()).map(|(from, to)| to.cpu_seconds - from.cpu_seconds);
    let server = match server {
        Some(from) => {
            let to = Usage::of(&args.pid)?;
            Some(Usage { cpu_seconds: to.cpu_seconds - from.cpu_seconds, ..to })
        }
        None => None,
    };
    line.finish_and_clear();
    Ok(Window { elapsed, server, generator_cpu_seconds })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Time,
    Goal,
}

/// A stretch of time whose progress is shown and watched.
struct Watched<'a> {
    name: &'static str,
    line: &'a ProgressBar,
    start: Instant,
    /// Progress at the last tick, and how long ago it last grew.
    seen: u64,
    grown: Instant,
}

impl<'a> Watched<'a> {
    fn new(name: &'static str, line: &'a ProgressBar) -> Watched<'a> {
        let now = Instant::now();
        Watched { name, line, start: now, seen: 0, grown: now }
    }

    /// Lets time pass until `length` is over or the goal ends the run.
    async fn until(&mut self, length: Option<Duration>, load: &impl Load, goal: &Goal) -> Result<End> {
        self.seen = load.progress();
        let first = self.seen;
        loop {
            let rest = length.map(|length| length.saturating_sub(self.start.elapsed()));
            if rest.is_some_and(|rest| rest.is_zero()) {
                return Ok(End::Time);
            }
            let pause = rest.map_or(TICK, |rest| rest.min(TICK));
            let before = Instant::now();
            if let Ok(end) = timeout(pause, goal.ended()).await {
                return end.map(|()| End::Goal);
            }
            self.tick(first, before.elapsed(), load)?;
        }
    }

    fn tick(&mut self, first: u64, took: Duration, load: &impl Load) -> Result<()> {
        let now = load.progress();
        let rate = (now - self.seen) as f64 / took.as_secs_f64();
        self.line.set_message(format!(
            "{}{:.0} s  {} messages  {} msg/s",
            self.name,
            self.start.elapsed().as_secs_f64(),
            grouped(&(now - first).to_string()),
            grouped(&format!("{rate:.0}")),
        ));
        if now > self.seen || !load.waits() {
            self.grown = Instant::now();
        } else if self.grown.elapsed() > STALLED_AFTER {
            bail!(
                "no reply for {} s while requests are open; look at the server's log and load",
                STALLED_AFTER.as_secs()
            );
        }
        self.seen = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_end_counts() {
        let goal = Goal::new();
        goal.fail("first".to_owned());
        goal.reach();
        assert_eq!(goal.ended().await.unwrap_err().to_string(), "first");
    }
}
