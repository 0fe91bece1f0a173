//! The golden stores: directories as Java brokers 5.3.3 and 4.9.7 left them, with a list of every message in them.
//!
//! Shared by the tests of the store and of the broker. The lists were made by an independent decoder.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cometmq_store::index::format::Shape;
use cometmq_store::{FlushPolicy, IndexOptions, StoreOptions};
use serde::Deserialize;

/// A store and the settings with which it was written.
#[derive(Clone, Copy, Debug)]
pub struct Golden {
    pub name: &'static str,
    pub log_directories: &'static [&'static str],
    pub segment_bytes: i64,
    pub flush: FlushPolicy,
    /// Whether the broker was stopped in order.
    pub clean: bool,
    /// Where the log ends.
    pub end: i64,
    /// Slots and entries of an index file.
    pub index: Shape,
    /// A topic whose queues, as many as the number says, can be appended to.
    pub appendable: (&'static str, i32),
}

/// Stopped in order.
pub const CLEAN: Golden = Golden {
    name: "golden-clean",
    log_directories: &["commitlog"],
    segment_bytes: 16_384,
    flush: FlushPolicy::Async,
    clean: true,
    end: 115_009,
    index: Shape { slots: 64, entries: 256 },
    appendable: ("GoldenNormal", 4),
};

/// Killed right after a send was acknowledged.
pub const KILLED: Golden = Golden { name: "golden-killed", clean: false, end: 66_088, ..CLEAN };

/// Two log directories, CRCs of properties, extension files, light queues, a compacted topic.
pub const EXTRAS: Golden = Golden {
    name: "golden-extras",
    log_directories: &["cl0", "cl1"],
    segment_bytes: 8192,
    flush: FlushPolicy::Sync,
    end: 12_242,
    appendable: ("GoldenSql", 1),
    ..CLEAN
};

/// As release 4.9.7 leaves it when stopped in order: no data version in the offsets, no attributes of topics, property
/// texts without the last separator, a checkpoint whose first time is still 0. The list is by the official decoder.
pub const CLEAN_4: Golden =
    Golden { name: "golden-4x-clean", end: 29_344, index: Shape { slots: 100, entries: 400 }, ..CLEAN };

/// As release 4.9.7 leaves it when killed ten seconds after its start: an empty `abort`, no offsets yet.
pub const KILLED_4: Golden = Golden { name: "golden-4x-killed", clean: false, ..CLEAN_4 };

/// The stores of release 5.
pub const RELEASE_5: [Golden; 3] = [CLEAN, KILLED, EXTRAS];

pub const ALL: [Golden; 5] = [CLEAN, KILLED, EXTRAS, CLEAN_4, KILLED_4];

/// One message of the list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Message {
    pub phy_offset: i64,
    pub size: i32,
    pub topic: String,
    pub queue_id: i32,
    pub queue_offset: i64,
    pub sys_flag: i32,
    pub flag: i32,
    pub body_crc: u32,
    pub born_timestamp: i64,
    pub born_host: SocketAddr,
    pub store_timestamp: i64,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    pub properties: BTreeMap<String, String>,
    pub body_base64: String,
}

impl Message {
    pub fn body(&self) -> Vec<u8> {
        decode_base64(&self.body_base64)
    }

    /// Whether it is a batch in one record, which has no place in a plain queue.
    pub fn is_inner_batch(&self) -> bool {
        self.sys_flag & 0x80 != 0
    }
}

impl Golden {
    /// Unpacks the store; it goes away with the result. The timer wheel, 39 MB of zeros that nobody here reads, stays
    /// in the archive, whose last file it is.
    pub fn unpack(&self) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let archive = std::fs::read(testdata(&format!("{}.tar.gz", self.name))).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&archive[..]));
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap().ends_with("timerwheel") {
                break;
            }
            assert!(entry.unpack_in(directory.path()).unwrap());
        }
        let root = directory.path().join(self.name);
        (directory, root)
    }

    /// What the store in `root` has to be opened with.
    pub fn options(&self, root: &Path) -> StoreOptions {
        StoreOptions {
            log_directories: self.log_directories.iter().map(|name| root.join(name)).collect(),
            segment_bytes: self.segment_bytes,
            queue_file_bytes: 400,
            index: Some(IndexOptions { shape: self.index, utc_offset_ms: 0 }),
            flush: self.flush,
            ..StoreOptions::new(root)
        }
    }

    /// Every message of the store, in log order.
    pub fn messages(&self) -> Vec<Message> {
        let text = std::fs::read_to_string(testdata(&format!("{}.messages.jsonl", self.name))).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The bytes of a record as they lie in the commit log's file.
    pub fn record_bytes(&self, root: &Path, message: &Message) -> Vec<u8> {
        let number = message.phy_offset / self.segment_bytes;
        let directory = self.log_directories[number as usize % self.log_directories.len()];
        let file = root.join(directory).join(format!("{:020}", number * self.segment_bytes));
        let at = (message.phy_offset % self.segment_bytes) as usize;
        std::fs::read(file).unwrap()[at..at + message.size as usize].to_vec()
    }
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../store/testdata/golden-store").join(name)
}

/// Copies a directory with everything in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    let sextet = |byte| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("byte {other} is not base64"),
    };
    let digits: Vec<u8> = text.trim_end_matches('=').bytes().map(sextet).collect();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for four in digits.chunks(4) {
        let bits =
            four.iter().enumerate().fold(0u32, |bits, (n, digit)| bits | u32::from(*digit) << (18 - 6 * n));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}
