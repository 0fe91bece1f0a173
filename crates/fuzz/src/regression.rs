//! Failures as files: `regressions/TARGET-HASH.hex` holds an input that once failed, and `cargo test` replays it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::Target;

/// Characters of hex on one line.
const LINE: usize = 100;

/// An input that once failed.
#[derive(Clone, Debug)]
pub struct Regression {
    /// Its file.
    pub path: PathBuf,
    /// What it is for.
    pub target: &'static Target,
    /// The bytes.
    pub input: Vec<u8>,
}

/// Every regression below `directory`, in the order of names.
pub fn all(directory: &Path) -> Result<Vec<Regression>> {
    let listing =
        std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "hex"));
    paths.into_iter().map(read).collect()
}

fn read(path: PathBuf) -> Result<Regression> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name = stem.rsplit_once('-').map_or(stem, |(name, _)| name);
    let Some(target) = Target::named(name) else { bail!("{}: no target is called {name}", path.display()) };
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).map(str::trim).collect();
    let input = unhex(&digits).with_context(|| format!("{} is not hex", path.display()))?;
    Ok(Regression { path, target, input })
}

/// Writes a failure; `comment` says how it was found and what went wrong.
pub fn write(directory: &Path, target: &Target, input: &[u8], comment: &str) -> Result<PathBuf> {
    let path = directory.join(format!("{}-{:08x}.hex", target.name, fingerprint(input)));
    let mut text: String = comment.lines().map(|line| format!("# {line}\n")).collect();
    let digits = hex(input);
    for at in (0..digits.len()).step_by(LINE) {
        let _ = writeln!(text, "{}", &digits[at..digits.len().min(at + LINE)]);
    }
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Tells inputs apart in names of files.
fn fingerprint(input: &[u8]) -> u32 {
    input.iter().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Bytes as hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Hex as bytes.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex("0g"), None);
    }
}
