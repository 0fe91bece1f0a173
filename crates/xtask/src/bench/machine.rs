//! What Linux tells about processes, files and the machine, and the two things that it is asked to do: forget cached
//! pages of files, and open many of them.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{Advice, fadvise};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Time between two looks at what processes use.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// What is next to nothing: so few bytes written in so much time.
const QUIET_BYTES: f64 = 1e6;
const QUIET_STRETCH: Duration = Duration::from_secs(4);

/// Load average of the last minute, as the system writes it.
pub(super) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// Cores and model of the processor.
pub(super) fn processor() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    format!("{cores} cores of {}", model.map_or("an unknown CPU", |(_, model)| model.trim()))
}

/// Resident memory of these processes together, in MiB.
pub(super) fn rss_mib(pids: &[u32]) -> Result<f64> {
    let kib = pids.iter().map(|&pid| rss_kib(pid)).sum::<Result<u64>>()?;
    Ok(kib as f64 / 1024.0)
}

fn rss_kib(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    number.with_context(|| format!("{file} has no VmRSS"))
}

fn open_files(pid: u32) -> Result<usize> {
    let directory = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))?.count())
}

/// What these processes have made the disk read since they started, in MiB.
pub(super) fn disk_read_mib(pids: &[u32]) -> Result<f64> {
    Ok(io_bytes(pids, "read_bytes:")? / f64::from(1 << 20))
}

fn io_bytes(pids: &[u32], name: &str) -> Result<f64> {
    let bytes = pids.iter().map(|pid| {
        let file = format!("/proc/{pid}/io");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().parse::<u64>().ok()).with_context(|| format!("{file} has no {name}"))
    });
    Ok(bytes.sum::<Result<u64>>()? as f64)
}

/// Waits until these processes have written next to nothing for a few seconds, at most for `limit`; tells how long that
/// took.
pub(super) fn await_quiet(pids: &[u32], limit: Duration) -> Result<Duration> {
    let start = Instant::now();
    let mut seen = io_bytes(pids, "write_bytes:")?;
    loop {
        thread::sleep(QUIET_STRETCH.min(limit));
        let now = io_bytes(pids, "write_bytes:")?;
        if now - seen < QUIET_BYTES || start.elapsed() >= limit {
            return Ok(start.elapsed());
        }
        seen = now;
    }
}

/// Forgets the cached pages of all files in and under `directory`, after they are on disk.
pub(super) fn drop_cached_pages(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            drop_cached_pages(&path)?;
            continue;
        }
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        // Only clean pages can be forgotten.
        file.sync_data().with_context(|| format!("cannot sync {}", path.display()))?;
        fadvise(&file, 0, None, Advice::DontNeed).with_context(|| format!("advice on {}", path.display()))?;
    }
    Ok(())
}

/// Makes sure that this process may hold `wanted` open files.
pub(super) fn allow_open_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .with_context(|| format!("cannot open {wanted} files; raise the limit with `ulimit -n {wanted}`"))
}

/// What processes used at most while they were watched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peak {
    /// Resident memory.
    pub(super) rss_mib: f64,
    /// Open files.
    pub(super) open_files: usize,
}

/// Looks at processes again and again in a thread.
pub(super) struct Watch {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Peak>>,
}

impl Watch {
    /// Begins.
    pub(super) fn start(pids: Vec<u32>) -> Watch {
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut peak = Peak::default();
            while !seen.load(Ordering::Relaxed) {
                // A process that has ended uses nothing; whoever needs it notices.
                peak.rss_mib = peak.rss_mib.max(rss_mib(&pids).unwrap_or_default());
                let files = pids.iter().map(|&pid| open_files(pid).unwrap_or_default()).sum();
                peak.open_files = peak.open_files.max(files);
                thread::park_timeout(WATCH_INTERVAL);
            }
            peak
        });
        Watch { ends, thread: Some(thread) }
    }

    /// Ends, and tells what was seen.
    pub(super) fn finish(mut self) -> Result<Peak> {
        self.end().unwrap_or_else(|| Err(anyhow!("it ended before")))
    }

    fn end(&mut self) -> Option<Result<Peak>> {
        self.ends.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        thread.thread().unpark();
        Some(thread.join().map_err(|_| anyhow!("the watching thread panicked")))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// How often in a second the disk under `directory` takes 4 KiB appended to a file, with one `fdatasync` for each.
pub(super) fn sync_rate(directory: &Path, length: Duration) -> Result<f64> {
    use std::io::Write;
    let mut file = tempfile::tempfile_in(directory).with_context(|| format!("in {}", directory.display()))?;
    let block = [0x5a_u8; 4096];
    let (start, mut syncs) = (Instant::now(), 0_u32);
    while start.elapsed() < length {
        file.write_all(&block)?;
        file.sync_data()?;
        syncs += 1;
    }
    Ok(f64::from(syncs) / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_with_its_memory_and_files() {
        let me = std::process::id();
        let watch = Watch::start(vec![me]);
        thread::sleep(Duration::from_millis(20));
        let peak = watch.finish().unwrap();
        assert!(peak.rss_mib > 0.5 && peak.open_files >= 3, "{peak:?}");
        assert!(rss_mib(&[me, u32::MAX]).is_err());
        assert!(disk_read_mib(&[me]).unwrap() >= 0.0);
        let limit = Duration::from_millis(5);
        assert!(await_quiet(&[me], limit).unwrap() >= limit);
    }

    #[test]
    fn pages_of_nested_files_can_be_forgotten_and_syncs_counted() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        fs::write(directory.path().join("a/b"), [1; 8192]).unwrap();
        drop_cached_pages(directory.path()).unwrap();
        assert_eq!(fs::read(directory.path().join("a/b")).unwrap(), [1; 8192]);
        assert!(sync_rate(directory.path(), Duration::from_millis(20)).unwrap() > 0.0);
    }
}
