//! Where things are in this repository, and how cargo is called for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// Longest that a release build may take on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);

/// The root of this repository.
pub(crate) fn root() -> Result<PathBuf> {
    // Cargo says it at run time; a path from compile time would be wrong in a moved checkout.
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR").context("call this as `cargo xtask`")?;
    let root = Path::new(&xtask).ancestors().nth(2);
    Ok(root.context("xtask does not lie in crates/")?.to_owned())
}

/// Cargo's output directory.
pub(crate) fn target() -> Result<PathBuf> {
    let chosen = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| OsString::from("target"));
    Ok(root()?.join(chosen))
}

/// The Maven project with the official Java clients.
pub(crate) fn interop() -> Result<PathBuf> {
    Ok(root()?.join("interop/java"))
}

/// A cargo command. In CI the lock file is taken as it is committed.
pub(crate) fn cargo(subcommand: &str) -> Result<Command> {
    let mut command = Command::new("cargo");
    command.arg(subcommand).current_dir(root()?);
    // Cargo's words to this process about its package are wrong for any other, and would cause needless rebuilds.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name == "CARGO_MANIFEST_DIR" || name.starts_with("CARGO_PKG_")) {
            command.env_remove(name);
        }
    }
    if std::env::var_os("CI").is_some() && subcommand != "fmt" {
        command.arg("--locked");
    }
    Ok(command)
}

/// Builds the server as it is released and returns the path of the binary.
pub(crate) fn release_binary() -> Result<PathBuf> {
    process::run(cargo("build")?.args(["--release", "--package", "cometmq-server"]), BUILD_LIMIT)?;
    Ok(target()?.join("release/cometmq"))
}

/// A Maven command for the project in `directory`, without chatter or questions.
pub(crate) fn maven(directory: &Path) -> Command {
    let mut command = Command::new("mvn");
    command.arg("-q").arg("-B").arg("-f").arg(directory.join("pom.xml"));
    command
}

/// Sends output and errors of `command` to the end of the file `log`.
pub(crate) fn log_to(command: &mut Command, log: &Path) -> Result<()> {
    let open = || std::fs::OpenOptions::new().create(true).append(true).open(log);
    let file = open().with_context(|| format!("cannot write {}", log.display()))?;
    command.stdout(Stdio::from(file.try_clone()?)).stderr(Stdio::from(file));
    Ok(())
}

/// The last lines of a log, for a failure message.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let tail = &all[all.len().saturating_sub(lines)..];
    tail.iter().map(|line| format!("  | {line}\n")).collect()
}
