//! Control groups, version 1: a limit on memory, and a limit on what a device may write.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::undo::{Undo, run_name};

/// Where memory groups are.
pub(super) const MEMORY: &str = "/sys/fs/cgroup/memory";
const BLKIO_WRITE: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device";

/// A memory group of our own.
#[derive(Debug)]
pub(super) struct MemoryGroup {
    directory: PathBuf,
    _undo: Undo,
}

impl MemoryGroup {
    /// A group with this limit; page cache counts as well.
    pub(super) fn create(bytes: u64) -> Result<MemoryGroup> {
        let parent = Path::new(MEMORY);
        ensure!(
            parent.join("memory.limit_in_bytes").exists(),
            "this row needs the memory controller of cgroup v1, which is not mounted at {MEMORY}"
        );
        let directory = parent.join(run_name());
        let undo = Undo::group(&directory);
        fs::create_dir(&directory)
            .with_context(|| format!("cannot make {}: this row needs root", directory.display()))?;
        let group = MemoryGroup { directory, _undo: undo };
        group.limit(bytes)?;
        Ok(group)
    }

    /// Sets the limit. Below what cannot be given back the kernel refuses, or kills.
    pub(super) fn limit(&self, bytes: u64) -> Result<()> {
        let file = self.directory.join("memory.limit_in_bytes");
        fs::write(&file, bytes.to_string()).with_context(|| format!("cannot write {}", file.display()))
    }

    /// The words before a command that let it run in the group from its first instruction.
    pub(super) fn enter(&self) -> [String; 4] {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.directory.display());
        ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]
    }

    /// How often the kernel killed somebody in the group.
    pub(super) fn oom_kills(&self) -> Result<u64> {
        let file = self.directory.join("memory.oom_control");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|number| number.trim().parse().ok()).with_context(|| format!("no oom_kill in {text}"))
    }

    /// What the group uses now.
    pub(super) fn usage_bytes(&self) -> Result<u64> {
        self.number("memory.usage_in_bytes")
    }

    /// The most that the group ever used.
    pub(super) fn peak_bytes(&self) -> Result<u64> {
        self.number("memory.max_usage_in_bytes")
    }

    fn number(&self, name: &str) -> Result<u64> {
        let file = self.directory.join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        text.trim().parse().with_context(|| format!("no number in {}", file.display()))
    }
}

/// Lets `device` write this many bytes a second until the result is dropped.
pub(super) fn throttle_writes(device: &Path, bytes_per_second: u64) -> Result<Undo> {
    let file = Path::new(BLKIO_WRITE);
    ensure!(
        file.exists(),
        "this row needs the blkio controller of cgroup v1 with throttling, which is not at {BLKIO_WRITE}"
    );
    let name = device.file_name().context("a device has a name")?;
    let numbers = Path::new("/sys/block").join(name).join("dev");
    let numbers =
        fs::read_to_string(&numbers).with_context(|| format!("cannot read {}", numbers.display()))?;
    let numbers = numbers.trim();
    let undo = Undo::write(file, format!("{numbers} 0"));
    fs::write(file, format!("{numbers} {bytes_per_second}"))
        .with_context(|| format!("cannot write {BLKIO_WRITE}: this row needs root"))?;
    Ok(undo)
}
