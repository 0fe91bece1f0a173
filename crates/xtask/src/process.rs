//! Child processes: each in a process group of its own that ends with everything it started, whatever happens to us.
//!
//! Dropping a [`Process`] kills its group. A signal to us kills all groups and lets no new one start: whoever waits for
//! one of them sees it end, and fails in the ordinary way, leaving nothing behind.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

use crate::torture::undo;

/// Time between two looks whether a process has ended.
const POLL: Duration = Duration::from_millis(10);
/// How long we may take to end in order after a signal.
const ORDERLY_EXIT: Duration = Duration::from_secs(10);
/// What a shell reports for a command that was interrupted.
const INTERRUPTED_CODE: i32 = 130;

static GROUPS: Mutex<Groups> = Mutex::new(Groups { running: BTreeSet::new(), interrupted: false });

struct Groups {
    running: BTreeSet<i32>,
    interrupted: bool,
}

fn groups() -> MutexGuard<'static, Groups> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on SIGINT and SIGTERM end what we started before they end us.
pub(crate) fn end_all_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let (mut interrupt, mut term) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = move || {
        let mut next = || {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => {}, _ = term.recv() => {} }
            })
        };
        next();
        let mut groups = groups();
        groups.interrupted = true;
        groups.running.iter().for_each(|&group| kill_group(group));
        drop(groups);
        thread::spawn(|| {
            thread::sleep(ORDERLY_EXIT);
            undo::all();
            std::process::exit(INTERRUPTED_CODE);
        });
        next();
        undo::all();
        std::process::exit(INTERRUPTED_CODE);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).context("no thread")?;
    Ok(())
}

/// Whether a signal asked us to end.
pub(crate) fn interrupted() -> bool {
    groups().interrupted
}

/// A running process that ends, with its children, when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    group: i32,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` without input; `name` is what messages call it.
    pub(crate) fn spawn(name: impl Into<String>, command: &mut Command) -> Result<Process> {
        let name = name.into();
        command.stdin(Stdio::null()).process_group(0);
        let mut groups = groups();
        if groups.interrupted {
            bail!("interrupted");
        }
        let child = command.spawn().with_context(|| format!("cannot start {name} ({command:?})"))?;
        let group = child.id().cast_signed();
        groups.running.insert(group);
        Ok(Process { name, child, group, ended: None })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the process ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none()
            && let Some(status) =
                self.child.try_wait().with_context(|| format!("waiting for {}", self.name))?
        {
            self.leave(status);
        }
        Ok(self.ended)
    }

    /// Waits for the end, and brings it about after `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill()?;
                bail!("{} still ran after {} s and was killed", self.name, limit.as_secs());
            }
            thread::sleep(POLL);
        }
    }

    /// Waits for `work`, which needs this process: an error as soon as the process ends.
    pub(crate) async fn needed_by<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            if let Some(status) = self.ended()? {
                bail!("{} ended by itself ({status})", self.name);
            }
            if let Ok(done) = tokio::time::timeout(POLL, &mut work).await {
                return Ok(done);
            }
        }
    }

    /// SIGKILL to the process and its children; returns when the process is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            kill_group(self.group);
            let status = self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
            self.leave(status);
        }
        Ok(())
    }

    /// The process is gone; its children, if it left any, follow.
    fn leave(&mut self, status: ExitStatus) {
        self.ended = Some(status);
        kill_group(self.group);
        groups().running.remove(&self.group);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("xtask: {error:#}");
        }
    }
}

fn kill_group(group: i32) {
    let group = Pid::from_raw(group).expect("a child's id is not 0");
    // Fails when nobody of the group is left, which is what is wanted.
    let _ = kill_process_group(group, Signal::KILL);
}

/// Runs a command to its end, with our output as its output; anything but success is an error.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let words = words(command);
    let status = Process::spawn(format!("`{words}`"), command)?.wait(limit)?;
    if !status.success() {
        bail!("`{words}` failed ({status})");
    }
    Ok(())
}

/// The command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::test_kill_process_group;

    fn sleeper() -> Process {
        Process::spawn("sleeper", Command::new("sh").args(["-c", "sleep 60 & sleep 60"])).unwrap()
    }

    fn anybody_in(group: i32) -> bool {
        test_kill_process_group(Pid::from_raw(group).unwrap()).is_ok()
    }

    #[test]
    fn a_dropped_process_takes_its_children_along() {
        let process = sleeper();
        let group = process.group;
        assert!(anybody_in(group));
        drop(process);
        let deadline = Instant::now() + Duration::from_secs(10);
        // Orphans are gone once whoever adopts them has noticed.
        while anybody_in(group) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        assert!(!anybody_in(group));
    }

    #[test]
    fn waiting_has_a_limit() {
        let error = sleeper().wait(Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "sleeper still ran after 0 s and was killed");
    }

    #[test]
    fn work_that_needs_a_process_fails_with_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut short = Process::spawn("short", Command::new("sh").args(["-c", "exit 3"])).unwrap();
        let error = runtime.block_on(short.needed_by(std::future::pending::<()>())).unwrap_err();
        assert_eq!(error.to_string(), "short ended by itself (exit status: 3)");
        assert_eq!(runtime.block_on(sleeper().needed_by(async { 7 })).unwrap(), 7);
    }

    #[test]
    fn success_is_told_from_failure() {
        let limit = Duration::from_secs(10);
        assert!(run(&mut Command::new("true"), limit).is_ok());
        let error = run(Command::new("sh").args(["-c", "exit 3"]), limit).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 3` failed (exit status: 3)");
    }
}
