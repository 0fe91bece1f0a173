//! Small JSON files of the broker's state (`config/*.json`), replaced at once, with the previous state in `.bak`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use cometmq_protocol::body::json;

use crate::disk::{self, Disk, DiskError};

/// A config file that holds something which is not its content, and whose backup does not help.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// Neither the file nor its backup can be read as what it should be.
    #[error("{} is damaged ({reason}) and so is its .bak; repair or remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Reads a file, or its backup when it is missing, empty or damaged; `None` when there is neither. What a save left that
/// did not come to its end is removed.
pub fn load<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<Option<T>, ConfigFileError> {
    Ok(load_told(disk, path)?.map(|(value, _)| value))
}

/// As [`load`]; tells whether the file is as [`save`] wrote it. Else a Java broker or a person did.
pub fn load_told<T: DeserializeOwned>(
    disk: &dyn Disk,
    path: &Path,
) -> Result<Option<(T, bool)>, ConfigFileError> {
    let temporary = with_suffix(path, ".tmp");
    let mut damage = None;
    for candidate in [path.to_owned(), with_suffix(path, ".bak"), temporary.clone()] {
        let Some(bytes) = disk::read_file(disk, &candidate)?.filter(|bytes| !bytes.trim_ascii().is_empty())
        else {
            continue;
        };
        let (content, checksum) = split(&bytes);
        if candidate == temporary {
            // What came of a save after a damaged file had taken the place of the backup.
            if checksum != Checksum::Right || damage.is_none() {
                continue;
            }
            disk.rename(&temporary, path)?;
        }
        if checksum == Checksum::Wrong {
            tracing::warn!(file = %candidate.display(), "{CHANGED}");
        }
        match json::parse(&content) {
            Ok(value) => {
                if let Some(reason) = damage {
                    tracing::warn!(file = %path.display(), %reason, taken = %candidate.display(), "config file damaged");
                }
                remove_left(disk, &temporary)?;
                return Ok(Some((value, checksum == Checksum::Right)));
            }
            Err(error) => damage = damage.or(Some(error.to_string())),
        }
    }
    remove_left(disk, &temporary)?;
    match damage {
        Some(reason) => Err(ConfigFileError::Damaged { path: path.to_owned(), reason }),
        None => Ok(None),
    }
}

/// Removes what a save left that did not come to its end.
fn remove_left(disk: &dyn Disk, temporary: &Path) -> Result<(), DiskError> {
    if disk.exists(temporary)? { disk.remove_file(temporary) } else { Ok(()) }
}

/// Replaces the file: at every moment the file or its backup is whole, or what is to take their place.
pub fn save<T: Serialize>(disk: &dyn Disk, path: &Path, value: &T) -> Result<(), DiskError> {
    let bytes = sealed(serde_json::to_vec_pretty(value).expect("states of this project have a JSON form"));
    let temporary = with_suffix(path, ".tmp");
    let file = disk.open(&temporary, true)?;
    file.set_len(0)?;
    disk::write_all_at(&*file, &bytes, 0)?;
    file.sync()?;
    if disk.exists(path)? {
        disk.rename(path, &with_suffix(path, ".bak"))?;
    }
    disk.rename(&temporary, path)?;
    disk.sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Key of the first line of an object: a CRC-32 of the file without this line. Java brokers pass over it.
const CHECKSUM_KEY: &str = "cometmqChecksum";
/// What is said of a file whose checksum is not that of its content.
const CHANGED: &str = "differs from what was written last: it was changed by hand, or is damaged; if it is as it should \
                       be, remove its line cometmqChecksum";

/// What the line of the checksum says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksum {
    /// There is none.
    Missing,
    /// It is that of the rest.
    Right,
    /// It is not.
    Wrong,
}

/// Whether a file's bytes are readable and as they were written, else what is wrong.
pub(crate) fn check(bytes: &[u8]) -> Result<(), String> {
    let (content, checksum) = split(bytes);
    json::parse::<serde_json::Value>(&content).map_err(|error| format!("cannot be read: {error}"))?;
    if checksum == Checksum::Wrong { Err(CHANGED.to_owned()) } else { Ok(()) }
}

fn checksum_line(content: &[u8]) -> Vec<u8> {
    format!("  \"{CHECKSUM_KEY}\": \"{:08x}\",\n", crc32fast::hash(content)).into_bytes()
}

/// The text of an object with the line of its checksum.
fn sealed(content: Vec<u8>) -> Vec<u8> {
    match content.strip_prefix(b"{\n") {
        Some(rest) => [b"{\n", &checksum_line(&content)[..], rest].concat(),
        None => content,
    }
}

/// A file's text without the line of the checksum, and what that says.
fn split(bytes: &[u8]) -> (Cow<'_, [u8]>, Checksum) {
    let length = checksum_line(b"").len();
    let key = format!("  \"{CHECKSUM_KEY}\": ");
    let line = bytes.strip_prefix(b"{\n").and_then(|rest| rest.get(..length));
    match line.filter(|line| line.starts_with(key.as_bytes())) {
        Some(line) => {
            let content = [b"{\n", &bytes[2 + length..]].concat();
            let right = checksum_line(&content) == line;
            (Cow::Owned(content), if right { Checksum::Right } else { Checksum::Wrong })
        }
        None => (Cow::Borrowed(bytes), Checksum::Missing),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Crash, Fault, MemoryDisk};
    use std::collections::BTreeMap;

    #[test]
    fn a_save_that_fails_anywhere_leaves_the_old_state_or_the_new_one() {
        for n in 1.. {
            let disk = MemoryDisk::new();
            let path = Path::new("/c/topics.json");
            save(&disk, path, &BTreeMap::from([(0, 1)])).unwrap();
            save(&disk, path, &BTreeMap::from([(0, 2)])).unwrap();
            let before = disk.calls();
            disk.fail_nth(n, Fault::Io);
            let result = save(&disk, path, &BTreeMap::from([(0, 3)]));
            for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Seeded(n)] {
                let crashed = disk.crash(crash);
                let found: BTreeMap<i32, i32> = load(&crashed, path).unwrap().unwrap();
                assert!(!crashed.exists(&with_suffix(path, ".tmp")).unwrap(), "call {n}, {crash:?}");
                let allowed: &[i32] = if result.is_ok() { &[3] } else { &[2, 3] };
                assert!(allowed.contains(&found[&0]), "call {n}, {crash:?}: {found:?} after {result:?}");
            }
            if result.is_ok() && disk.calls() - before < n {
                break;
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_file_is_found_or_leaves_its_content_as_it_was() {
        let content = BTreeMap::from([("topic", "TopicTest"), ("perm", "6")]);
        let text = sealed(serde_json::to_vec_pretty(&content).unwrap());
        assert_eq!(check(&text), Ok(()));
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let found: Option<BTreeMap<String, String>> = json::parse(&split(&damaged).0).ok();
            let same =
                found.is_some_and(|found| content.iter().all(|(k, v)| found.get(*k).is_some_and(|f| f == v)));
            assert!(same || check(&damaged).is_err(), "bit {bit}: {}", String::from_utf8_lossy(&damaged));
        }
    }

    #[test]
    fn a_save_over_a_damaged_file_that_does_not_come_to_its_end_leaves_a_state() {
        for n in 1.. {
            let disk = MemoryDisk::new();
            let path = Path::new("/c/x.json");
            save(&disk, path, &BTreeMap::from([(0, 1)])).unwrap();
            save(&disk, path, &BTreeMap::from([(0, 2)])).unwrap();
            disk.open(path, false).unwrap().set_len(2).unwrap();
            assert_eq!(load(&disk, path).unwrap(), Some(BTreeMap::from([(0, 1)])));
            let before = disk.calls();
            disk.fail_nth(n, Fault::Io);
            let result = save(&disk, path, &BTreeMap::from([(0, 3)]));
            let calls = disk.calls() - before;
            disk.heal();
            for _ in 0..2 {
                let found: BTreeMap<i32, i32> = load(&disk, path).unwrap().unwrap();
                assert!(found[&0] == 3 || found[&0] == 1 && result.is_err(), "call {n}: {found:?}");
            }
            if result.is_ok() && calls < n {
                break;
            }
        }
    }

    #[test]
    fn a_damaged_file_gives_way_to_its_backup() {
        let disk = MemoryDisk::new();
        let path = Path::new("/c/x.json");
        assert_eq!(load::<Vec<i32>>(&disk, path).unwrap(), None);
        save(&disk, path, &vec![1]).unwrap();
        save(&disk, path, &vec![2]).unwrap();
        let file = disk.open(path, false).unwrap();
        file.set_len(2).unwrap();
        assert_eq!(load::<Vec<i32>>(&disk, path).unwrap(), Some(vec![1]));
        disk.remove_file(&with_suffix(path, ".bak")).unwrap();
        assert!(matches!(load::<Vec<i32>>(&disk, path), Err(ConfigFileError::Damaged { .. })));
    }
}
