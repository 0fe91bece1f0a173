//! What a process holds, from `/proc`: memory, open files, threads, CPU time; and the wedge check of row 24.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::sleep;

/// Files that a broker at rest may have open beyond those before the load.
const FILES_SLACK: usize = 8;
/// Where files are that the store keeps open to read them, and bounds itself.
const STORED: [&str; 4] = ["/commitlog/", "/consumequeue/", "/index/", "/checksums/"];
/// How long a broker may take to let go of what a load made it hold.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// What a process holds now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vitals {
    /// Resident memory.
    pub(super) rss_kib: u64,
    /// The most that it ever was.
    pub(super) peak_kib: u64,
    /// Open sockets.
    pub(super) sockets: usize,
    /// Other open files, without those of messages and queues.
    pub(super) files: usize,
    /// Threads.
    pub(super) threads: u64,
}

impl Vitals {
    /// Looks at a process.
    pub(super) fn of(pid: u32) -> Result<Vitals> {
        let file = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let (mut sockets, mut files) = (0, 0);
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).context("cannot list open files")? {
            // Closed since it was listed, otherwise.
            if let Ok(target) = std::fs::read_link(entry?.path()) {
                let target = target.to_string_lossy();
                let is_stored = STORED.iter().any(|directory| target.contains(directory));
                sockets += usize::from(target.starts_with("socket:"));
                files += usize::from(!target.starts_with("socket:") && !is_stored);
            }
        }
        Ok(Vitals {
            rss_kib: number("VmRSS:"),
            peak_kib: number("VmHWM:"),
            sockets,
            files,
            threads: number("Threads:"),
        })
    }

    /// Waits until the process holds no more than at `self`, before the load; else tells what it keeps.
    pub(super) async fn leaks(&self, pid: u32) -> Result<Option<String>> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let now = Vitals::of(pid)?;
            let leaks = now.sockets > self.sockets
                || now.files > self.files + FILES_SLACK
                || now.threads > self.threads;
            if !leaks {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Ok(Some(format!(
                    "row 24: after the load {} sockets, {} files, {} threads; before it {}, {}, {}",
                    now.sockets, now.files, now.threads, self.sockets, self.files, self.threads
                )));
            }
            sleep(POLL).await;
        }
    }
}

/// Temporary files below `directory`: a broker at rest has none.
pub(super) fn leftovers(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in
        std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            found.extend(leftovers(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "tmp") {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

/// KiB as text, in MiB.
pub(super) fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}
