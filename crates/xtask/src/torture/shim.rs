//! The library that lies to a process, `shim.c`: compiled when it is needed, loaded before the C library's own calls.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::image::text;
use crate::preload;

/// Compiles it into `directory`, and returns the variable that loads it.
pub(super) fn compile(directory: &Path) -> Result<(String, String)> {
    preload::compile("crates/xtask/src/torture/shim.c", directory)
}

/// A wall clock that can be moved.
#[derive(Debug)]
pub(super) struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A clock that is right.
    pub(super) fn right(directory: &Path) -> Result<Clock> {
        let clock = Clock { file: directory.join("clock") };
        clock.set(0)?;
        Ok(clock)
    }

    /// Moves it so far from the right time.
    pub(super) fn set(&self, seconds: i64) -> Result<()> {
        // In place: the process has the file mapped.
        use std::os::unix::fs::FileExt;
        let open = || std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&self.file);
        open()
            .and_then(|file| file.write_all_at(&seconds.to_le_bytes(), 0))
            .with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// The variable that tells a process where it is.
    pub(super) fn variable(&self) -> (String, String) {
        ("TORTURE_CLOCK".to_owned(), text(&self.file))
    }
}
