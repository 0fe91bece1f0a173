//! File systems of our own: ext4 in a file, through a loop device; and a small memory file system beneath it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use super::undo::Undo;

/// An ext4 file system in a file, mounted.
#[derive(Debug)]
pub(super) struct Mounted {
    /// Where it is mounted.
    pub(super) directory: PathBuf,
    /// The loop device.
    pub(super) device: PathBuf,
    // The mount goes before its device.
    _mount: Undo,
    _device: Undo,
}

/// Makes an ext4 file system of `bytes` in `file`, which takes room only where something is written.
pub(super) fn make_ext4(file: &Path, bytes: u64, flags: &[&str]) -> Result<()> {
    File::create(file)
        .and_then(|created| created.set_len(bytes))
        .with_context(|| format!("cannot make {}", file.display()))?;
    run("mkfs.ext4", &[&["-q", "-F"], flags, &[&text(file)]].concat()).map(drop)
}

impl Mounted {
    /// Mounts the file system in `file` at `directory`, which is made.
    pub(super) fn mount(file: &Path, directory: &Path, options: &str) -> Result<Mounted> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let device = run("losetup", &["-f", "--show", &text(file)]).context(
            "this row needs root and a loop device (/dev/loop-control, and mount to be permitted)",
        )?;
        let device = PathBuf::from(String::from_utf8_lossy(&device.stdout).trim());
        let detach = Undo::detach(&device);
        run("mount", &["-t", "ext4", "-o", options, &text(&device), &text(directory)])?;
        let mount = Undo::unmount(directory);
        Ok(Mounted { directory: directory.to_owned(), device, _mount: mount, _device: detach })
    }

    /// Lets the device take one page a request. The loop driver reports a write that its file took only in part as
    /// done, so a larger request that runs out of room in its middle would be a sync that lied, which no program can
    /// know of.
    pub(super) fn take_single_pages(&self) -> Result<()> {
        let name = self.device.file_name().context("a device has a name")?;
        let file = Path::new("/sys/block").join(name).join("queue/max_sectors_kb");
        std::fs::write(&file, "4").with_context(|| format!("cannot write {}", file.display()))
    }
}

/// Mounts a memory file system of `bytes` at `directory`, which is made.
pub(super) fn mount_memory(directory: &Path, bytes: u64) -> Result<Undo> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "none", &text(directory)])
        .context("this row needs root, to mount a memory file system")?;
    Ok(Undo::unmount(directory))
}

/// Copies a file, with its holes.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    run("cp", &["--sparse=always", &text(from), &text(to)]).map(drop)
}

/// Runs a system command to its end; an error carries its words.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<Output> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {program}: is it installed?"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed: {}", arguments.join(" "), said.trim());
    }
    Ok(output)
}

/// A path for a command line; ours are all text.
pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}
