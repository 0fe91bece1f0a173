//! Libraries that stand before the C library in a process that is tested or measured: compiled when they are needed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// Compiles `source`, a path in the workspace, into `directory`, and returns the variable that loads it.
pub(crate) fn compile(source: &str, directory: &Path) -> Result<(String, String)> {
    let source = workspace::root()?.join(source);
    let library = directory.join("preload.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
    let output = cc.output().context("this needs a C compiler, as `cc`")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cc cannot compile {}: {}", source.display(), said.trim());
    Ok(("LD_PRELOAD".to_owned(), library.display().to_string()))
}
