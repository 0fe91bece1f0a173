//! `cometmq shutdown`: asks running processes of this program to stop, as `mqshutdown` does.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::cli::command_of;

/// How long to wait for the process to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Flags of `cometmq shutdown`.
#[derive(Debug, Args)]
pub(crate) struct ShutdownArgs {
    /// Which role to stop; a process that is both stops as a whole
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Brokers
    Broker,
    /// Name servers
    Namesrv,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Broker => "broker",
            Role::Namesrv => "namesrv",
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &ShutdownArgs) -> Result<ExitCode> {
    let name = args.role.name();
    let found = running(args.role).context("cannot look for running processes")?;
    if found.is_empty() {
        println!("No mq{name} running.");
        return Ok(ExitCode::FAILURE);
    }
    let mut all_ended = true;
    for pid in found {
        println!("The mq{name}({}) is running...", pid.as_raw_nonzero());
        kill_process(pid, Signal::TERM)
            .with_context(|| format!("cannot signal process {}", pid.as_raw_nonzero()))?;
        println!("Send shutdown request to mq{name}({}) OK", pid.as_raw_nonzero());
        all_ended &= wait_for_end(pid);
    }
    Ok(if all_ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn wait_for_end(pid: Pid) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if test_kill_process(pid).is_err() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("It has not stopped within {} s; look at its log.", PATIENCE.as_secs());
    false
}

/// Processes of this very program that have the role, this one apart.
fn running(role: Role) -> Result<Vec<Pid>> {
    let own = std::fs::read_link("/proc/self/exe")?;
    let own_pid = rustix::process::getpid();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let directory = Path::new("/proc").join(&name);
        // Processes come and go, and others' are not ours to look at.
        let Ok(exe) = std::fs::read_link(directory.join("exe")) else { continue };
        let Ok(command_line) = std::fs::read(directory.join("cmdline")) else { continue };
        let words: Vec<_> = command_line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        if pid != own_pid && exe == own && has_role(&words, role) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Whether a process started by these words has the role.
fn has_role(words: &[impl AsRef<str>], role: Role) -> bool {
    let mut words = words.iter().map(AsRef::as_ref);
    let program =
        words.next().and_then(|program| Path::new(program).file_name()?.to_str()).unwrap_or_default();
    let command = command_of(program).or_else(|| words.next().filter(|word| !word.is_empty()));
    match command {
        None | Some("serve") => true,
        Some(flag) if flag.starts_with('-') => true,
        Some(command) => command == role.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_words() {
        for (words, broker, namesrv) in [
            (&["cometmq"][..], true, true),
            (&["/usr/bin/cometmq", "--data", "d"], true, true),
            (&["cometmq", "serve"], true, true),
            (&["cometmq", "broker", "-n", "a:1"], true, false),
            (&["/opt/mqnamesrv", "-c", "broker"], false, true),
            (&["cometmq", "producer"], false, false),
            (&["mqshutdown", "broker"], false, false),
        ] {
            assert_eq!(has_role(words, Role::Broker), broker, "{words:?}");
            assert_eq!(has_role(words, Role::Namesrv), namesrv, "{words:?}");
        }
    }
}
