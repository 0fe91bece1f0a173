//! `cometmq store` on the directory of a real broker.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;

use support::{Cluster, Wire, command, send};

fn check(data: &Path, flags: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        command(&["store", "check"]).args(flags).arg(data).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn a_dump_shows_what_is_stored_also_behind_what_cannot_be_read() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("broker.conf");
    std::fs::write(&config, "mappedFileSizeCommitLog=1048576\n").unwrap();
    let mut cluster = Cluster::start(data.path(), &["-c", config.to_str().unwrap()]);
    let mut wire = Wire::connect(cluster.broker);
    for number in 0..10 {
        assert_eq!(send(&mut wire, "T", format!("message {number}").as_bytes()).0, 0);
    }
    cluster.process.terminate();
    assert_eq!(cluster.process.wait().0.code(), Some(0));
    let dump = |flags: &[&str]| {
        let output = command(&["store", "dump", "--json"]).args(flags).arg(data.path()).output().unwrap();
        let lines: Vec<serde_json::Value> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (output.status.code().unwrap(), lines)
    };
    let (code, lines) = dump(&[]);
    let count = |what: &str| lines.iter().filter(|line| line["what"] == what).count();
    assert_eq!((code, count("record"), count("entry"), count("key")), (0, 10, 10, 10));
    let (_, records) = dump(&["--part", "log", "--topic", "T"]);
    assert!(records.iter().all(|record| record["crcRight"] == true && record["topic"] == "T"));
    let end = records[9]["position"].as_i64().unwrap() + records[9]["size"].as_i64().unwrap();
    let (_, positions) = dump(&["--part", "checkpoint"]);
    assert_eq!(positions[1]["position"], end);
    assert_eq!(dump(&["--part", "log", "--count", "3"]).1.len(), 3);
    assert_eq!(dump(&["--part", "log", "--topic", "other"]).1.len(), 0);
    let from = records[7]["position"].to_string();
    assert_eq!(dump(&["--part", "log", "--from", &from]).1, records[7..]);

    // The head of one record is destroyed: the others are shown.
    let segment = data.path().join("commitlog/00000000000000000000");
    let file = OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(&[0xFF; 8], records[4]["position"].as_u64().unwrap()).unwrap();
    let (code, lines) = dump(&["--part", "log"]);
    assert_eq!((code, lines.len(), &lines[4]["byte"]), (1, 10, &records[4]["position"]));
    assert_eq!(lines[5..], records[5..]);

    // Zeros in the place of a record are not the end of the log.
    let place = |number: usize| records[number]["position"].as_u64().unwrap();
    file.write_all_at(&vec![0; (place(3) - place(2)) as usize], place(2)).unwrap();
    let (code, lines) = dump(&["--part", "log"]);
    assert_eq!((code, lines.len(), &lines[2]["byte"]), (1, 10, &records[2]["position"]));
    assert_eq!((&lines[..2], &lines[3], &lines[5..]), (&records[..2], &records[3], &records[5..]));

    // A record with another body is shown as one, also where nothing comes behind it.
    for number in [6, 9] {
        file.write_all_at(&[0xFF], place(number) + 88).unwrap();
        let (_, lines) = dump(&["--part", "log"]);
        let mut expected = records[number].clone();
        expected["crcRight"] = false.into();
        assert_eq!((lines.len(), &lines[number]), (10, &expected));
    }
}

#[test]
fn a_check_tells_whether_a_store_is_whole_and_where_it_is_not() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("broker.conf");
    std::fs::write(&config, "mappedFileSizeCommitLog=1048576\nscrubBytesPerSecond=104857600\n").unwrap();
    let config = ["-c", config.to_str().unwrap()];
    let mut cluster = Cluster::start(data.path(), &config);
    let mut wire = Wire::connect(cluster.broker);
    for number in 0..50 {
        assert_eq!(send(&mut wire, "T", format!("message {number}").as_bytes()).0, 0);
    }
    let (_, _, warning) = check(data.path(), &[]);
    assert!(warning.contains("a broker has") && warning.contains("open"), "{warning}");
    cluster.process.terminate();
    assert_eq!(cluster.process.wait().0.code(), Some(0));

    let (code, output, warning) = check(data.path(), &[]);
    assert_eq!((code, warning.as_str()), (0, ""), "{output}");
    assert!(output.contains("50 records in 1 segments, 50 entries in"), "{output}");
    assert!(output.contains("nothing is damaged"), "{output}");

    let segment = data.path().join("commitlog/00000000000000000000");
    let file = OpenOptions::new().read(true).write(true).open(&segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 300).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], 300).unwrap();
    let (code, output, _) = check(data.path(), &[]);
    assert_eq!(code, 1);
    let place = format!("{} at byte 300, log position 300: one bit is flipped", segment.display());
    assert!(output.contains(&place) && output.contains("1 place is damaged"), "{output}");
    let (code, output, _) = check(data.path(), &["--json"]);
    let lines: Vec<serde_json::Value> =
        output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, lines.len()), (1, 2), "{output}");
    assert_eq!(
        (&lines[0]["byte"], &lines[1]["damaged"], &lines[1]["records"]),
        (&300.into(), &1.into(), &50.into())
    );

    // The broker serves all of it, and its scrub writes the bit right.
    let cluster = Cluster::start(data.path(), &config);
    cluster.process.wait_for_line("everything stored was verified");
    drop(cluster);
    file.read_exact_at(&mut byte, 300).unwrap();
    let (code, output, _) = check(data.path(), &[]);
    assert_eq!(code, 0, "{output}");
}

#[test]
fn what_is_no_store_is_refused_with_what_to_name() {
    let directory = tempfile::tempdir().unwrap();
    for (place, why) in [
        (Path::new("/no/such/store"), "cannot be read: No such file"),
        (directory.path(), "holds no store"),
        (Path::new(env!("CARGO_BIN_EXE_cometmq")), "cannot be read: Not a directory"),
    ] {
        for tool in ["check", "dump"] {
            let output = command(&["store", tool]).arg(place).output().unwrap();
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{message}");
            assert!(message.contains(&format!("{} {why}", place.display())), "{message}");
            assert!(message.contains("storePathRootDir or --data"), "{message}");
        }
    }
}

#[test]
fn a_log_that_lies_elsewhere_is_said_to_be_missing() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("consumequeue")).unwrap();
    let output = command(&["store", "dump"]).arg(directory.path()).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("commitlog") && shown.contains("storePathCommitLog"), "{shown}");
    let (code, shown, message) = check(directory.path(), &[]);
    assert_eq!((code, &*shown), (1, ""), "nothing is called damaged: {message}");
    assert!(message.contains("commitlog cannot be read") && message.contains("--commit-log"), "{message}");
}
