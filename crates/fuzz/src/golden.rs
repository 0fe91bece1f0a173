//! Real inputs: the recorded frames of the protocol's test data, and the files of the Java stores of the store's.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::BytesMut;
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::{Frame, Header};
use serde::Deserialize;

use crate::regression::unhex;

/// Files of a store beyond this are not looked at: timer wheels, indexes.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// All of it, in memory.
#[derive(Debug, Default)]
pub struct Golden {
    /// Whole frames as they went over the wire.
    pub frames: Vec<Vec<u8>>,
    /// Records of a commit log.
    pub records: Vec<Vec<u8>>,
    /// Files of Java stores, by path in their store.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A line of a recording.
#[derive(Deserialize)]
struct Line {
    hex: String,
    #[serde(default)]
    raw: bool,
}

impl Golden {
    /// Reads the test data of the crates below `crates`.
    pub fn load(crates: &Path) -> Result<Golden> {
        let mut golden = Golden::default();
        for path in files(&crates.join("protocol/testdata/golden"), "jsonl")? {
            let is_records = path.ends_with("stored-records.jsonl");
            for line in std::fs::read_to_string(&path)?.lines() {
                let line: Line = serde_json::from_str(line).with_context(|| path.display().to_string())?;
                let bytes = unhex(&line.hex).with_context(|| format!("{}: not hex", path.display()))?;
                if is_records {
                    golden.records.push(bytes);
                } else if !line.raw {
                    golden.frames.push(bytes);
                }
            }
        }
        for path in files(&crates.join("store/testdata/golden-store"), "gz")? {
            golden.unpack(&path)?;
        }
        Ok(golden)
    }

    fn unpack(&mut self, archive: &Path) -> Result<()> {
        let packed = std::fs::File::open(archive)?;
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(packed));
        for entry in tar.entries()? {
            let mut entry = entry?;
            if entry.header().entry_type().is_file() && entry.size() <= FILE_BYTES_MAX {
                let path = entry.path()?.to_string_lossy().into_owned();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                self.files.push((path, bytes));
            }
        }
        Ok(())
    }

    /// Every recorded frame, cut.
    pub fn cut(&self) -> impl Iterator<Item = Frame> {
        self.frames.iter().filter_map(|bytes| {
            frame::cut(&mut BytesMut::from(&bytes[..]), FrameLimits::default()).ok().flatten()
        })
    }

    /// The bodies of requests (or replies, `response`) with one of these codes.
    pub fn bodies(&self, codes: &[i32], response: bool) -> Vec<Vec<u8>> {
        self.cut()
            .filter(|frame| {
                Header::decode(frame)
                    .is_ok_and(|header| header.is_response() == response && codes.contains(&header.code))
            })
            .map(|frame| frame.body.to_vec())
            .filter(|body| !body.is_empty())
            .collect()
    }

    /// The content of files whose path contains `part`.
    pub fn files_with<'a>(&'a self, part: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.files.iter().filter(move |(path, _)| path.contains(part)).map(|(_, bytes)| &bytes[..])
    }
}

fn files(directory: &Path, extension: &str) -> Result<Vec<std::path::PathBuf>> {
    let listing =
        std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    Ok(paths)
}
