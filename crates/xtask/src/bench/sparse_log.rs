//! A commit log that is large and takes little room: whole records whose bodies are zeros that were never written.
//!
//! Whoever reads it cannot tell: every record is valid, its CRC included, and a scan has to go through every byte. Each
//! body is a hole in the file, the bytes around it take two pages. The layout is that of `docs/format.md`.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bytes::{BufMut, BytesMut};
use cometmq_protocol::message::Record;
use cometmq_protocol::message::record::{BLANK_BYTES, MAGIC_BLANK};
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};

/// Bytes of each body: as many as a broker takes by default.
const BODY_BYTES: usize = 4 * 1024 * 1024;
/// Bytes in front of a body, and where in them the numbers stand that differ.
const HEAD_BYTES: usize = 88;
const QUEUE_ID_AT: usize = 12;
const QUEUE_OFFSET_AT: usize = 20;
const LOG_OFFSET_AT: usize = 28;

/// Writes segments full of records to the queues 0 to `queues - 1` of a topic, in turn; tells how many records.
pub(super) fn write(
    directory: &Path,
    segments: i64,
    segment_bytes: i64,
    topic: &str,
    queues: i64,
) -> Result<i64> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let mut record = encode(topic);
    let total = record.len() as i64;
    let mut count = 0;
    for segment in 0..segments {
        let base = segment * segment_bytes;
        let path = directory.join(format!("{base:020}"));
        let file = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.set_len(segment_bytes as u64)?;
        let mut at = 0;
        // A blank record must always fit behind the last.
        while at + total + BLANK_BYTES as i64 <= segment_bytes {
            record[QUEUE_ID_AT..][..4].copy_from_slice(&((count % queues) as i32).to_be_bytes());
            record[QUEUE_OFFSET_AT..][..8].copy_from_slice(&(count / queues).to_be_bytes());
            record[LOG_OFFSET_AT..][..8].copy_from_slice(&(base + at).to_be_bytes());
            file.write_all_at(&record[..HEAD_BYTES], at as u64)?;
            let tail = HEAD_BYTES + BODY_BYTES;
            file.write_all_at(&record[tail..], at as u64 + tail as u64)?;
            at += total;
            count += 1;
        }
        let mut blank = BytesMut::new();
        blank.put_u32((segment_bytes - at) as u32);
        blank.put_u32(MAGIC_BLANK);
        file.write_all_at(&blank, at as u64)?;
        file.sync_all()?;
    }
    Ok(count)
}

fn encode(topic: &str) -> BytesMut {
    let body = vec![0; BODY_BYTES];
    let host = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = Millis(i64::try_from(now).unwrap_or(i64::MAX));
    let record = Record { born_timestamp: now, ..Record::plain(topic, QueueId(0), host, &body) };
    let mut out = BytesMut::new();
    record.encode(QueueOffset(0), LogOffset(0), now, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use cometmq_protocol::message::record::records;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn every_record_is_valid_and_takes_little_room() {
        let directory = tempfile::tempdir().unwrap();
        let segment_bytes = 3 * BODY_BYTES as i64;
        assert_eq!(write(directory.path(), 2, segment_bytes, "bulk", 2).unwrap(), 4);
        let mut found = Vec::new();
        for base in [0, segment_bytes] {
            let path = directory.path().join(format!("{base:020}"));
            assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 64 * 1024);
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len() as i64, segment_bytes);
            let whole: Vec<_> = records(&bytes).map_while(Result::ok).collect();
            assert!(whole.iter().all(|record| record.check_body().is_ok()));
            found.extend(whole.iter().map(|r| (r.queue_id.0, r.queue_offset.0, r.log_offset.0)));
            let end: usize = whole.iter().map(|record| record.total).sum();
            let blank = [(segment_bytes as usize - end) as u32, MAGIC_BLANK].map(u32::to_be_bytes).concat();
            assert_eq!(bytes[end..][..BLANK_BYTES], blank);
        }
        let total = found[1].2;
        let expected = [(0, 0, 0), (1, 0, total), (0, 1, segment_bytes), (1, 1, segment_bytes + total)];
        assert_eq!(found, expected);
    }
}
