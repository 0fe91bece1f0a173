//! Libraries that stand before the C library in a process that is tested or measured: compiled when they are needed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{process, workspace};

/// Longest that the compiler may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Compiles `source`, a path in the workspace, into `directory`, and returns the variable that loads it.
pub(crate) fn compile(source: &str, directory: &Path) -> Result<(String, String)> {
    let source = workspace::root()?.join(source);
    let library = directory.join("preload.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
    process::run(&mut cc, LIMIT).context("this needs a C compiler, as `cc`")?;
    Ok(("LD_PRELOAD".to_owned(), library.display().to_string()))
}
