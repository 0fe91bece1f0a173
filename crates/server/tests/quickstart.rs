//! The quick start without Java: `cometmq producer` and `cometmq consumer`.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use support::{Cluster, Process, command};

fn output(arguments: &[&str]) -> String {
    let (status, output) = Process::start(command(arguments)).wait();
    assert!(status.success(), "{arguments:?}: {output}");
    output
}

/// The text behind `name=` in a printed line, up to the next comma or bracket.
fn value<'a>(line: &'a str, name: &str) -> &'a str {
    let start = line.find(&format!("{name}=")).unwrap_or_else(|| panic!("{name} in {line}")) + name.len() + 1;
    line[start..].split([',', ']']).next().unwrap()
}

#[test]
fn a_thousand_messages_are_sent_and_received_once() {
    let data = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(data.path(), &[]);
    let namesrv = cluster.namesrv_address();
    let sent = output(&["producer", "-n", &namesrv, "--print", "--key", "k-{}"]);
    let results: Vec<&str> =
        sent.lines().filter(|line| line.starts_with("SendResult [sendStatus=SEND_OK")).collect();
    assert_eq!(results.len(), 1000, "{sent}");
    let received = output(&["consumer", "-n", &namesrv, "--print", "--count", "1000"]);
    let messages: Vec<&str> = received.lines().filter(|line| line.starts_with("MessageExt [")).collect();
    assert_eq!(messages.len(), 1000, "{received}");
    let place =
        |line: &&str| (value(line, "queueId").to_owned(), value(line, "queueOffset").parse::<i64>().unwrap());
    let by_id = |lines: &[&str]| -> BTreeMap<String, (String, i64)> {
        lines.iter().map(|line| (value(line, "msgId").to_owned(), place(line))).collect()
    };
    assert_eq!(by_id(&messages), by_id(&results), "each message once, where its sender was told");
    assert!(messages.iter().all(|line| value(line, "tags") == "TagA"));
    let rest = output(&["consumer", "-n", &namesrv, "--idle", "1"]);
    assert!(rest.contains("0 messages received"), "the group's offsets were kept: {rest}");
}

#[test]
fn options_choose_topic_tag_size_and_count() {
    let data = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(data.path(), &[]);
    let namesrv = cluster.namesrv_address();
    for (tag, count) in [("A", "30"), ("B", "20")] {
        let arguments = [
            "producer",
            "-n",
            &namesrv,
            "-t",
            "Mine",
            "--tag",
            tag,
            "-c",
            count,
            "-s",
            "300",
            "--in-flight",
            "8",
        ];
        assert!(output(&arguments).contains(&format!("{count} messages sent to Mine")));
    }
    let arguments =
        ["consumer", "-n", &namesrv, "-t", "Mine", "-g", "g1", "--tag", "B", "--count", "20", "--print"];
    let received = output(&arguments);
    assert_eq!(received.matches("tags=B").count(), 20, "{received}");
    assert_eq!(received.matches("tags=A").count(), 0, "{received}");
}

#[test]
fn a_name_server_that_is_not_there_is_named() {
    let (status, output) = Process::start(command(&["producer", "-n", "127.0.0.1:1", "-c", "1"])).wait();
    assert!(!status.success());
    assert!(output.contains("127.0.0.1:1"), "{output}");
}
