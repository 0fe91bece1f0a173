//! Checksums against a log that is a list of chunks.

use std::path::Path;

use super::*;
use crate::disk::{Fault, MemoryDisk};

const SEGMENT: i64 = 10_000;

fn log(disk: &MemoryDisk) -> Arc<dyn DiskFile> {
    disk.open(Path::new("/log"), true).unwrap()
}

fn open(disk: &MemoryDisk, end: i64) -> Checksums {
    let file = log(disk);
    let last = (end > 0).then_some(&*file);
    let bases: Vec<i64> = (0..end).step_by(SEGMENT as usize).collect();
    Checksums::open(Arc::new(disk.clone()), PathBuf::from("/c"), SEGMENT, &bases, end, None, last).unwrap()
}

fn bytes(from: i64, to: i64) -> Vec<u8> {
    (from..to).map(|n| (n * 7 + n / 100) as u8).collect()
}

fn sums(checksums: &Checksums, base: i64) -> Vec<Option<Sum>> {
    let mut sums = Vec::new();
    assert!(checksums.read(base, 3, true, &mut sums).unwrap());
    sums
}

#[test]
fn the_sums_are_the_same_however_the_log_is_cut_into_writes() {
    for step in [1, 7, 300, 4095, 4096, 4097, 9000] {
        let disk = MemoryDisk::new();
        let checksums = open(&disk, 0);
        let mut at = 0;
        while at < 9000 {
            let end = (at + step).min(9000);
            checksums.extend(at, &bytes(at, end));
            at = end;
        }
        // The rest of the segment stays blank.
        checksums.extend(SEGMENT, &bytes(0, 100));
        let expected: Vec<_> = [(0, 4096), (4096, 8192), (8192, 9000)]
            .iter()
            .map(|(from, to)| Some(Sum::of(&bytes(*from, *to))))
            .collect();
        assert_eq!(sums(&checksums, 0), expected, "in memory, steps of {step}");
        checksums.flush(9000).unwrap();
        assert_eq!(sums(&checksums, 0), expected, "in files, steps of {step}");
        assert_eq!(sums(&checksums, SEGMENT), [Some(Sum::of(&bytes(0, 100))), None, None]);
    }
}

#[test]
fn only_durable_bytes_are_vouched_for_on_disk_and_a_failed_flush_is_made_up_for() {
    let disk = MemoryDisk::new();
    log(&disk).write_at(&bytes(0, 9000), 0).unwrap();
    let checksums = open(&disk, 0);
    checksums.extend(0, &bytes(0, 9000));
    disk.fail_nth(1, Fault::Io);
    assert!(checksums.flush(5000).is_err());
    checksums.flush(5000).unwrap();
    let after = open(&disk, 9000);
    assert!(sums(&after, 0)[1].is_none(), "it is not durable yet");
    assert_eq!(sums(&after, 0)[0], Some(Sum::of(&bytes(0, 4096))));
}

#[test]
fn a_log_that_goes_on_keeps_what_was_vouched_for_before() {
    let disk = MemoryDisk::new();
    log(&disk).write_at(&bytes(0, 6000), 0).unwrap();
    let checksums = open(&disk, 0);
    checksums.extend(0, &bytes(0, 6000));
    checksums.flush(6000).unwrap();
    // One flipped bit is turned back in memory, other damage stays damage.
    for damage in [&[0x10u8][..], &[0x80, 0xFF, 0x01]] {
        log(&disk).write_at(&bytes(4096, 6000), 4096).unwrap();
        let damaged: Vec<u8> = bytes(5000, 6000).iter().zip(damage).map(|(byte, mask)| byte ^ mask).collect();
        log(&disk).write_at(&damaged, 5000).unwrap();
        let checksums = open(&disk, 6000);
        checksums.extend(6000, &bytes(6000, 9000));
        let whole = sums(&checksums, 0)[1] == Some(Sum::of(&bytes(4096, 8192)));
        assert_eq!(whole, damage.len() == 1);
    }
}

#[test]
fn a_log_that_was_cut_forgets_what_lay_behind() {
    let disk = MemoryDisk::new();
    log(&disk).write_at(&bytes(0, 9000), 0).unwrap();
    let checksums = open(&disk, 0);
    checksums.extend(0, &bytes(0, 9000));
    checksums.extend(SEGMENT, &bytes(0, 500));
    checksums.flush(SEGMENT + 500).unwrap();
    for end in [6000, 4096] {
        let found = sums(&open(&disk, end), 0);
        assert_eq!(found[0], Some(Sum::of(&bytes(0, 4096))));
        assert_eq!(found[1], (end > 4096).then(|| Sum::of(&bytes(4096, end))));
        assert_eq!(found[2], None);
    }
    assert_eq!(disk.list(Path::new("/c")).unwrap().len(), 1);
}

#[test]
fn what_another_broker_may_have_written_anew_is_not_vouched_for() {
    let disk = MemoryDisk::new();
    let checksums = open(&disk, 0);
    for segment in 0..5 {
        checksums.extend(segment * SEGMENT, &bytes(0, 5000));
    }
    checksums.flush(5 * SEGMENT).unwrap();
    let (shared, directory) = (Arc::new(disk.clone()), PathBuf::from("/c"));
    let bases: Vec<i64> = (0..6).map(|segment| segment * SEGMENT).collect();
    let (ours, end) = (4 * SEGMENT + 5000, 5 * SEGMENT + 4096);
    let after = Checksums::open(shared, directory, SEGMENT, &bases, end, Some(ours), None).unwrap();
    for base in bases {
        assert_eq!(sums(&after, base)[0].is_some(), base < 2 * SEGMENT, "segment {base}");
    }
}
