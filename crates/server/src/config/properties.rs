//! Java properties files: from a path to keys and values with their line numbers.
//!
//! Not here: which keys exist and what their values mean.

mod text;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::problem::ConfigError;

pub(super) use text::{BrokenEscape, Entry, entries};

/// Far beyond any real file, and small enough to hold: a wrong path may name a log or a device.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads the text of `file`: UTF-8, or ISO-8859-1 if it is not that.
pub(super) fn read(file: &Path) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    let reading = File::open(file).and_then(|open| open.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match reading {
        Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => Err(ConfigError::TooLarge { file: file.to_owned() }),
        Ok(_) if bytes.contains(&0) => Err(ConfigError::NotText { file: file.to_owned() }),
        Ok(_) => Ok(text::decode(bytes)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            Err(ConfigError::Missing { file: file.to_owned() })
        }
        Err(source) => Err(ConfigError::Unreadable { file: file.to_owned(), source }),
    }
}
