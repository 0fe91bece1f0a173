//! What must be undone on the machine whatever happens: mounts, loop devices, control groups, throttles.
//!
//! Each is undone when its [`Undo`] is dropped, in the ordinary way or by a failure; a signal that kills us before that
//! undoes all that are left; and [`sweep`] undoes what a run that was killed outright left behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

/// Attempts to undo what is still busy, for a process that was killed a moment ago.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

static ACTIONS: Mutex<Actions> = Mutex::new(Actions { next: 0, pending: BTreeMap::new() });

struct Actions {
    next: u64,
    pending: BTreeMap<u64, Action>,
}

/// What is to be undone.
#[derive(Clone, Debug)]
enum Action {
    /// Unmount this directory.
    Unmount(PathBuf),
    /// Give back this loop device.
    Detach(PathBuf),
    /// Remove this control group; its processes are moved up.
    Group(PathBuf),
    /// Write this line to this control file.
    Write(PathBuf, String),
}

/// Something that is undone when this is dropped.
#[derive(Debug)]
pub(super) struct Undo(u64);

impl Undo {
    /// A mount.
    pub(super) fn unmount(directory: &Path) -> Undo {
        Undo::later(Action::Unmount(directory.to_owned()))
    }

    /// A loop device.
    pub(super) fn detach(device: &Path) -> Undo {
        Undo::later(Action::Detach(device.to_owned()))
    }

    /// A control group.
    pub(super) fn group(directory: &Path) -> Undo {
        Undo::later(Action::Group(directory.to_owned()))
    }

    /// A setting of a control file.
    pub(super) fn write(file: &Path, line: String) -> Undo {
        Undo::later(Action::Write(file.to_owned(), line))
    }

    fn later(action: Action) -> Undo {
        let mut actions = actions();
        let number = actions.next;
        actions.next += 1;
        actions.pending.insert(number, action);
        Undo(number)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let action = actions().pending.remove(&self.0);
        if let Some(action) = action {
            perform(&action);
        }
    }
}

/// Undoes everything that is left, the newest first.
pub(crate) fn all() {
    let pending = std::mem::take(&mut actions().pending);
    pending.into_values().rev().for_each(|action| perform(&action));
}

fn actions() -> MutexGuard<'static, Actions> {
    ACTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn perform(action: &Action) {
    for _ in 0..ATTEMPTS {
        if attempt(action) {
            return;
        }
        sleep(PAUSE);
    }
    if let Action::Unmount(directory) = action
        && quietly("umount", &["-l", &directory.display().to_string()])
    {
        return;
    }
    eprintln!("xtask: not undone: {action:?}");
}

fn attempt(action: &Action) -> bool {
    match action {
        Action::Unmount(directory) => {
            !is_mounted(directory) || quietly("umount", &[&directory.display().to_string()])
        }
        Action::Detach(device) => quietly("losetup", &["-d", &device.display().to_string()]),
        Action::Group(directory) => {
            if let (Ok(processes), Some(parent)) =
                (fs::read_to_string(directory.join("cgroup.procs")), directory.parent())
            {
                for process in processes.lines() {
                    // Fails for one that has ended meanwhile, which is as good.
                    let _ = fs::write(parent.join("cgroup.procs"), process);
                }
            }
            fs::remove_dir(directory).is_ok() || !directory.exists()
        }
        Action::Write(file, line) => fs::write(file, line).is_ok(),
    }
}

fn is_mounted(directory: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(1)).any(|place| Path::new(place) == directory)
}

/// Not a [`crate::process::Process`]: undoing must work after a signal, when no new one may start.
fn quietly(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The name of this run's directories and control groups; [`sweep`] knows by it whose they are.
pub(super) fn run_name() -> String {
    format!("{RUN_PREFIX}{}", std::process::id())
}

const RUN_PREFIX: &str = "cometmq-torture-";

/// Undoes what runs left that were killed: mounts, devices, control groups and files named after a process that is gone.
pub(super) fn sweep(parent: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
        if is_orphan(place) {
            perform(&Action::Unmount(PathBuf::from(place)));
        }
    }
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        if is_orphan(&backing) {
            perform(&Action::Detach(Path::new("/dev").join(device.file_name())));
        }
    }
    let groups = fs::read_dir(super::cgroup::MEMORY).into_iter().flatten().flatten();
    for group in groups.filter(|group| is_orphan(&group.file_name().to_string_lossy())) {
        perform(&Action::Group(group.path()));
    }
    let files = fs::read_dir(parent).into_iter().flatten().flatten();
    for run in files.filter(|run| is_orphan(&run.file_name().to_string_lossy())) {
        // Kept directories of failed runs have another name.
        let _ = fs::remove_dir_all(run.path());
    }
}

/// Whether this name is of a run whose process is gone.
fn is_orphan(name: &str) -> bool {
    let Some((_, rest)) = name.split_once(RUN_PREFIX) else { return false };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    !digits.is_empty() && !Path::new("/proc").join(digits).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_run_left_is_an_orphan() {
        assert!(!is_orphan("/somewhere/else"));
        assert!(!is_orphan(&format!("/target/torture/{}/mount", run_name())));
        // Process ids end far below this.
        assert!(is_orphan("/target/torture/cometmq-torture-4294967295/mount"));
    }

    #[test]
    fn a_control_file_is_set_back_on_drop_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("control");
        fs::write(&file, "throttled").unwrap();
        drop(Undo::write(&file, "free".to_owned()));
        assert_eq!(fs::read_to_string(&file).unwrap(), "free");
    }
}
