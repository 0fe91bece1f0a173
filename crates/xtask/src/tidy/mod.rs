//! `cargo xtask tidy`: the architecture and style rules that no compiler or linter checks.
//!
//! [`manifest`] holds the layers, [`source`] the rules for a file of code. Both are functions from text to problems.

mod manifest;
mod source;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// A broken rule in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    /// Line, from 1.
    line: usize,
    /// What is wrong and what to do about it.
    message: String,
}

/// Checks the whole repository and prints what is wrong as `file:line: message`.
pub(crate) fn run() -> Result<()> {
    let root = workspace::root()?;
    let workspace = root.join("Cargo.toml");
    let mut count = report(&root, &workspace, manifest::planted("", &read(&workspace)?));
    let mut files = 0;
    for krate in sorted_entries(&root.join("crates"))? {
        let name = krate.file_name().and_then(OsStr::to_str).context("a crate's folder is not UTF-8")?;
        let manifest = krate.join("Cargo.toml");
        if !manifest.exists() {
            continue;
        }
        count += report(&root, &manifest, manifest::check(name, &read(&manifest)?));
        for file in rust_files(&krate)? {
            let needs_header = file.starts_with(krate.join("src"));
            files += 1;
            count += report(&root, &file, source::check(&read(&file)?, needs_header));
        }
    }
    match count {
        0 => {
            println!("{files} files are tidy");
            Ok(())
        }
        1 => bail!("1 problem"),
        count => bail!("{count} problems"),
    }
}

fn report(root: &Path, file: &Path, problems: Vec<Problem>) -> usize {
    let shown = file.strip_prefix(root).unwrap_or(file).display();
    for problem in &problems {
        println!("{shown}:{}: {}", problem.line, problem.message);
    }
    problems.len()
}

/// All files of code below `directory`, in order.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in sorted_entries(directory)? {
        if entry.is_dir() {
            if entry.file_name() != Some(OsStr::new("target")) {
                files.extend(rust_files(&entry)?);
            }
        } else if entry.extension() == Some(OsStr::new("rs")) {
            files.push(entry);
        }
    }
    Ok(files)
}

fn sorted_entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", directory.display());
    let entries = std::fs::read_dir(directory).with_context(context)?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>().with_context(context)?;
    paths.sort();
    Ok(paths)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
