//! Files of the store: queue units, batch queues, the checkpoint, and a whole directory as recovery finds it.

use std::path::Path;
use std::sync::Arc;

use cometmq_protocol::message::RecordView;
use cometmq_protocol::{LogOffset, QueueOffset, message::record};
use cometmq_store::batch_queue::{self, BatchQueue};
use cometmq_store::checkpoint::JavaCheckpoint;
use cometmq_store::consume_queue::UNIT_BYTES;
use cometmq_store::disk::write_all_at;
use cometmq_store::{Disk, DiskError, FlushPolicy, MemoryDisk, RecoveryReport, Store, StoreOptions, Unit};

use crate::golden::Golden;
use crate::target::Outcome;

/// Units in one file of a batch queue.
const BATCH_FILE_UNITS: usize = 4;
/// Bits of the layout in `recovery`: the store was not closed in order, its log has a second file, and it has a
/// checkpoint of either kind, 4 Java's, 8 ours.
const HAS_ABORT: u8 = 1;
const HAS_SECOND_SEGMENT: u8 = 2;
const HAS_POSITION: u8 = 4 | 8;
/// Bytes of one log file in `recovery`.
const SEGMENT_BYTES: usize = 4096;

/// A unit is written to the bytes that it was read from.
pub fn queue_unit(data: &[u8]) -> Outcome {
    let (chunks, _) = data.as_chunks::<{ UNIT_BYTES as usize }>();
    let mut units = 0;
    for chunk in chunks {
        if let Some(unit) = Unit::decode(chunk) {
            assert_eq!(unit.encode(), *chunk);
            assert!(unit.log_offset.0 >= 0 && unit.size > 0);
            units += 1;
        }
    }
    if units == 0 { Outcome::refused("no unit") } else { Outcome::accepted(Outcome::magnitude(units)) }
}

/// A batch queue is dense: each message from its first to its last lies in the unit that counts it.
pub fn batch_queue(data: &[u8]) -> Outcome {
    let disk = MemoryDisk::new();
    let (directory, file_bytes) = (Path::new("/q"), BATCH_FILE_UNITS * batch_queue::UNIT_BYTES);
    for (number, part) in data.chunks(file_bytes).take(8).enumerate() {
        let file = format!("/q/{:020}", number * file_bytes);
        put(&disk, &file, part, file_bytes as u64).expect("a disk in memory takes it");
    }
    let queue = match BatchQueue::load(&disk, directory, file_bytes as u64) {
        Ok(queue) => queue,
        Err(error) => return Outcome::refused(error),
    };
    let (min, max) = (queue.min(), queue.max());
    assert!(min <= max && min.0 >= 0);
    for offset in [min.0, (min.0 + (max - min) / 2).min(max.0), max.0 - 1].map(QueueOffset) {
        if min <= offset && offset < max {
            let unit = queue.find(offset).expect("no hole");
            assert!(unit.base <= offset && offset < unit.end());
        }
    }
    assert_eq!(queue.find(max), None);
    if min == max {
        Outcome::refused("empty")
    } else {
        Outcome::accepted(Outcome::magnitude((max - min) as usize))
    }
}

/// A checkpoint is read back as it was written, and the time that it stands for is no later than its own.
pub fn checkpoint(data: &[u8]) -> Outcome {
    let disk = MemoryDisk::new();
    let path = Path::new("/checkpoint");
    put(&disk, "/checkpoint", data, data.len() as u64).expect("a disk in memory takes it");
    let found = JavaCheckpoint::load(&disk, path).expect("any file is a checkpoint");
    let safe = found.safe_before();
    assert!(safe.0 == 0 || (safe < found.physic && safe < found.logics));
    found.save(&disk, path).expect("a disk in memory takes it");
    assert_eq!(JavaCheckpoint::load(&disk, path).expect("it is there"), found);
    Outcome::accepted((safe.0 > 0, found.index.0 > 0, found.confirmed > 0))
}

/// Whatever lies in the directory, recovery finds whole records only, and the same when it runs again. The first byte of
/// the input chooses how it is laid out, the rest are two log files, the checkpoint and our position.
pub fn recovery(data: &[u8]) -> Outcome {
    let Some((layout, rest)) = data.split_first() else { return Outcome::refused("no layout") };
    let disk = Arc::new(MemoryDisk::new());
    match lay_out(&disk, *layout, rest).map(|()| open(&disk, LogOffset(0))) {
        Err(error) => Outcome::refused(error),
        Ok(Err(refusal)) => Outcome::refused(refusal),
        Ok(Ok((first, found))) => {
            // Where queues were rebuilt it begins at the log's start: damage is what the first one took for it.
            let (second, again) =
                open(&disk, first.scanned_from).expect("what was opened once can be opened again");
            assert_eq!(again, found, "recovering twice finds the same: {first:?}, then {second:?}");
            assert_eq!(second.end, first.end, "recovering twice ends the log at the same place");
            assert!(first.end >= first.scanned_from, "what is durable is not cut");
            Outcome::accepted((Outcome::magnitude(found.len()), first.torn, first.clean))
        }
    }
}

fn lay_out(disk: &MemoryDisk, layout: u8, data: &[u8]) -> Result<(), DiskError> {
    let bytes = SEGMENT_BYTES as u64;
    let part = |from: usize, to: usize| data.get(from..to.min(data.len())).unwrap_or_default();
    for directory in ["/s", "/s/commitlog", "/s/cometmq", "/s/consumequeue", "/s/config"] {
        disk.create_directory(Path::new(directory))?;
    }
    if layout & HAS_ABORT != 0 {
        put(disk, "/s/abort", b"1", 1)?;
    }
    put(disk, "/s/commitlog/00000000000000000000", part(0, SEGMENT_BYTES), bytes)?;
    if layout & HAS_SECOND_SEGMENT != 0 {
        put(
            disk,
            &format!("/s/commitlog/{SEGMENT_BYTES:020}"),
            part(SEGMENT_BYTES, 2 * SEGMENT_BYTES),
            bytes,
        )?;
    }
    let tail = &data[data.len().saturating_sub(1024)..];
    if layout & HAS_POSITION & 4 != 0 {
        put(disk, "/s/checkpoint", &tail[..tail.len().min(40)], 4096)?;
    }
    if layout & HAS_POSITION & 8 != 0 {
        put(disk, "/s/cometmq/dispatched", tail, tail.len() as u64)?;
    }
    Ok(())
}

/// Opens the store and reads every message in it: topic, queue, offset and place. Before `durable` there may be damage.
#[allow(clippy::type_complexity)]
fn open(
    disk: &Arc<MemoryDisk>,
    durable: LogOffset,
) -> Result<(RecoveryReport, Vec<(String, i32, i64, i64)>), String> {
    let options = StoreOptions {
        segment_bytes: SEGMENT_BYTES as i64,
        queue_file_bytes: 400,
        flush: FlushPolicy::Async,
        ..StoreOptions::new(Path::new("/s"))
    };
    let shared: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(disk);
    let (store, report) = Store::open(shared, options).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for queue in store.queues().expect("a disk in memory reads") {
        let mut units = Vec::new();
        queue.read(queue.min(), 1000, &mut units).expect("a disk in memory reads");
        for (number, unit) in units.iter().enumerate() {
            let mut whole = false;
            let mut check = |bytes: &[u8]| {
                let view = RecordView::decode(bytes).expect("recovery accepted it");
                assert_eq!(view.log_offset, unit.log_offset);
                assert_eq!(record::body_crc(view.body), view.body_crc);
                whole = true;
                true
            };
            store.read(&[*unit], &mut Vec::new(), &mut check).expect("a disk in memory reads");
            assert!(
                whole || unit.log_offset < report.scanned_from.max(durable),
                "each entry has its record, or leads into damage"
            );
            let offset = queue.min().0 + number as i64;
            found.push((queue.topic().to_string(), queue.id().0, offset, unit.log_offset.0));
        }
    }
    found.sort();
    Ok((report, found))
}

fn put(disk: &MemoryDisk, path: &str, bytes: &[u8], length: u64) -> Result<(), DiskError> {
    let file = disk.open(Path::new(path), true)?;
    file.set_len(length)?;
    write_all_at(&*file, bytes, 0)
}

/// The first units of the queues of Java stores.
pub fn queue_units(golden: &Golden) -> Vec<Vec<u8>> {
    golden.files_with("/consumequeue/").map(|file| file[..file.len().min(100)].to_vec()).collect()
}

/// Batch queues of Java stores.
pub fn batch_queues(golden: &Golden) -> Vec<Vec<u8>> {
    golden.files_with("/batchconsumequeue/").map(|file| file[..file.len().min(460)].to_vec()).collect()
}

/// Checkpoints of Java stores.
pub fn checkpoints(golden: &Golden) -> Vec<Vec<u8>> {
    golden.files_with("/checkpoint").map(<[u8]>::to_vec).collect()
}

/// Records in a log that begins at 0, in each layout.
pub fn logs(golden: &Golden) -> Vec<Vec<u8>> {
    let mut log = Vec::new();
    for record in &golden.records {
        let mut record = record.clone();
        let room = SEGMENT_BYTES - log.len() % SEGMENT_BYTES;
        if record.len() + record::BLANK_BYTES > room {
            log.extend_from_slice(&(room as u32).to_be_bytes());
            log.extend_from_slice(&record::MAGIC_BLANK.to_be_bytes());
            log.resize(log.len() + room - record::BLANK_BYTES, 0);
        }
        if log.len() + record.len() > 2 * SEGMENT_BYTES {
            break;
        }
        record[28..36].copy_from_slice(&(log.len() as u64).to_be_bytes());
        log.extend_from_slice(&record);
    }
    log.resize(log.len().max(SEGMENT_BYTES), 0);
    (0..16).map(|layout| [&[layout], &log[..]].concat()).collect()
}
