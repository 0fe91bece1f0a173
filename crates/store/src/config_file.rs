//! Small JSON files of the broker's state (`config/*.json`), replaced at once, with the previous state in `.bak`.

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

/// Reads a file, or its backup when it is missing, empty or damaged; `None` when there is neither.
pub fn load<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<Option<T>, ConfigFileError> {
    let mut damage = None;
    for path in [path.to_owned(), with_suffix(path, ".bak")] {
        let Some(bytes) = disk::read_file(disk, &path)?.filter(|bytes| !bytes.trim_ascii().is_empty()) else {
            continue;
        };
        match json::parse(&bytes) {
            Ok(value) => {
                if let Some(reason) = damage {
                    tracing::warn!(file = %path.display(), %reason, "config file damaged, took its backup");
                }
                return Ok(Some(value));
            }
            Err(error) => damage = damage.or(Some(error.to_string())),
        }
    }
    match damage {
        Some(reason) => Err(ConfigFileError::Damaged { path: path.to_owned(), reason }),
        None => Ok(None),
    }
}

/// Replaces the file: at every moment the file or its backup is whole.
pub fn save<T: Serialize>(disk: &dyn Disk, path: &Path, value: &T) -> Result<(), DiskError> {
    let bytes = serde_json::to_vec_pretty(value).expect("states of this project have a JSON form");
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
                let found: BTreeMap<i32, i32> = load(&disk.crash(crash), path).unwrap().unwrap();
                let allowed: &[i32] = if result.is_ok() { &[3] } else { &[2, 3] };
                assert!(allowed.contains(&found[&0]), "call {n}, {crash:?}: {found:?} after {result:?}");
            }
            if result.is_ok() && disk.calls() - before < n {
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
