//! Changes of topics that `topics.json` does not have yet (`cometmq/topics`): a line each, a CRC-32 and the topic's
//! settings. Adding one costs the same however many topics there are.
//!
//! Replaying changes that the file has already does no harm: the last one of a topic wins in both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::TopicConfig;
use cometmq_protocol::body::json;
use cometmq_store::{Disk, DiskError, disk};

/// Hexadecimal digits of a line's CRC, and the blank behind it.
const CRC_BYTES: usize = 9;

/// The journal. What it says is durable once added, until it is cleared.
#[derive(Debug)]
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Where the next change goes.
    end: u64,
    /// Changes may be in the file, or come back to it after a power cut.
    in_use: bool,
    /// Its name is durable.
    is_named: bool,
}

impl Journal {
    /// The journal with its changes, in order. One that was not written whole ends them: it was never confirmed.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<(Journal, Vec<TopicConfig>), DiskError> {
        let bytes = disk::read_file(&*disk, &path)?.unwrap_or_default();
        let changes = bytes.split_inclusive(|byte| *byte == b'\n').map_while(decode).collect();
        let (end, in_use) = (bytes.len() as u64, !bytes.is_empty());
        Ok((Journal { disk, path, end, in_use, is_named: false }, changes))
    }

    /// Whether it says nothing, durably.
    pub fn is_empty(&self) -> bool {
        !self.in_use
    }

    /// Adds a change, durably. One that fails leaves its place to the next.
    pub fn add(&mut self, change: &TopicConfig) -> Result<(), DiskError> {
        let line = encode(change);
        let file = self.disk.open(&self.path, true)?;
        self.in_use = true;
        disk::write_all_at(&*file, &line, self.end)?;
        file.sync()?;
        if !self.is_named {
            self.disk.sync_directory(self.path.parent().unwrap_or(Path::new(".")))?;
            self.is_named = true;
        }
        self.end += line.len() as u64;
        Ok(())
    }

    /// Forgets all changes, durably: `topics.json` has them.
    pub fn clear(&mut self) -> Result<(), DiskError> {
        if self.in_use {
            let file = self.disk.open(&self.path, true)?;
            file.set_len(0)?;
            self.end = 0;
            file.sync()?;
            self.in_use = false;
        }
        Ok(())
    }
}

fn encode(change: &TopicConfig) -> Vec<u8> {
    let text = json::to_vec(change);
    [format!("{:08x} ", crc32fast::hash(&text)).as_bytes(), &text, b"\n"].concat()
}

fn decode(line: &[u8]) -> Option<TopicConfig> {
    let (crc, text) = line.strip_suffix(b"\n")?.split_at_checked(CRC_BYTES)?;
    let is_whole = crc == format!("{:08x} ", crc32fast::hash(text)).as_bytes();
    json::parse(text).ok().filter(|_| is_whole)
}
