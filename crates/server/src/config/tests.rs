//! The laws of loading, on both tables.

use std::collections::BTreeMap;
use std::fs;

use expect_test::{Expect, expect};

use super::problem::*;
use super::properties;
use super::rule::HostPort;
use super::table::Description;
use super::unimplemented::Group;
use super::*;

const BROKER_KEYS: &str = include_str!("testdata/broker-keys.properties");
const NAMESRV_KEYS: &str = include_str!("testdata/namesrv-keys.properties");

#[test]
fn without_a_file_every_key_has_its_default() {
    let loaded = BrokerSettings::load(None, &[]).unwrap();
    assert_eq!(loaded.settings, BrokerSettings::default());
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.settings.listen_port, 10911);
    assert_eq!(loaded.settings.commit_log_file_bytes, 1_073_741_824);
    assert_eq!(NamesrvSettings::load(None, &[]).unwrap().settings, NamesrvSettings::default());
}

#[test]
fn the_stock_file_loads_and_tells_what_has_no_effect() {
    check_broker(
        include_str!("testdata/stock-broker.conf"),
        expect![[r#"
            fileReservedTime=48
        "#]],
    );
}

#[test]
fn settings_that_differ_from_the_defaults_are_taken() {
    check_broker(
        "namesrvAddr=10.0.0.1:9876;ns2:9876\nlistenPort=10920\nbrokerIP1=192.0.2.7\n\
         brokerPermission=4\nflushDiskType=SYNC_FLUSH\nautoCreateTopicEnable=FALSE\n\
         storePathRootDir=/data/消息\nbrokerName=broker-\\u4e00\n",
        expect![[r#"
            autoCreateTopicEnable=false
            brokerIP1=192.0.2.7
            brokerName=broker-一
            brokerPermission=4
            flushDiskType=SYNC_FLUSH
            listenPort=10920
            namesrvAddr=10.0.0.1:9876;ns2:9876
            storePathRootDir=/data/消息
        "#]],
    );
}

#[test]
fn spellings_of_4x_are_understood() {
    check_broker(
        "mapedFileSizeCommitLog=16384\nmapedFileSizeConsumeQueue=1000",
        expect![[r#"
            mappedFileSizeCommitLog=16384
            mappedFileSizeConsumeQueue=1000
        "#]],
    );
}

#[test]
fn values_that_are_taken_otherwise_than_written_are_warned_of() {
    check_broker(
        "brokerRole=SYNC_MASTER\nbrokerId=1\nregisterNameServerPeriod=1000\nmappedFileSizeConsumeQueue=1001",
        expect![[r#"
            brokerRole=SYNC_MASTER
            mappedFileSizeConsumeQueue=1020
            registerNameServerPeriod=10000
            warning: broker.conf:1: brokerRole=SYNC_MASTER: acts as ASYNC_MASTER until replication exists
            warning: broker.conf:2: brokerId=1: a master has the id 0, and this version has masters only
            warning: broker.conf:3: registerNameServerPeriod=1000: 10000 is used: the bounds are 10000 and 60000
            warning: broker.conf:4: mappedFileSizeConsumeQueue=1001: rounded up to 1020, whole entries of 20 bytes
        "#]],
    );
}

#[test]
fn all_wrong_values_are_told_at_once() {
    check_broker(
        "brokerId=-1\nlistenPort=abc\nnamesrvAddr=localhost\nbrokerPermission=5\nflushDiskType=sync\n\
         brokerRole=SLAVE\nlongPollingEnable=yes\nbrokerName=\\u12\nbrokerName=a/b\nmaxMessageSize=0\n\
         storePathCommitLog=/a,/b\nstorePathRootDir=$DATA/x\nbindAddress=eth0\nsyncFlushTimeout=\n\
         brokerIP1=host:10911\nmappedFileSizeCommitLog=1g\n",
        expect![[r#"
            error: broker.conf:8: broken escape: \u must be followed by four hexadecimal digits of one whole character (other characters can be written as they are, in UTF-8)
            error: broker.conf:1: brokerId=-1: expected a number from 0 to 2147483647
            error: broker.conf:2: listenPort=abc: expected a port from 3 to 65535
            error: broker.conf:3: namesrvAddr=localhost: expected a list host:port;host:port
            error: broker.conf:4: brokerPermission=5: expected 2 or 4 or 6
            error: broker.conf:5: flushDiskType=sync: expected ASYNC_FLUSH or SYNC_FLUSH
            error: broker.conf:6: brokerRole=SLAVE: replication is not part of this version
            error: broker.conf:7: longPollingEnable=yes: expected true or false
            error: broker.conf:9: brokerName=a/b: expected a name of 1 to 127 bytes without blanks and slashes
            error: broker.conf:10: maxMessageSize=0: expected a number of bytes from 1 to 16777216
            error: broker.conf:11: storePathCommitLog=/a,/b: a log over several directories is not part of this version
            error: broker.conf:12: storePathRootDir=$DATA/x: only ~, $HOME, ${HOME} and ${user.home} are replaced, at the start
            error: broker.conf:13: bindAddress=eth0: expected an IP address of this machine
            error: broker.conf:14: syncFlushTimeout=: expected a number of milliseconds from 1 to 2147483647
            error: broker.conf:15: brokerIP1=host:10911: expected an IP address or a host name, without a port
            error: broker.conf:16: mappedFileSizeCommitLog=1g: expected a number of bytes from 4096 to 2147483647
        "#]],
    );
}

#[test]
fn unknown_keys_are_told_with_the_key_that_was_probably_meant() {
    check_broker(
        "listenport=1\nnamesrvAdr=a:1\nfileReserveTime=1\nport=1\nbrokerNam\\t=x\n=x\n",
        expect![[r#"
            warning: broker.conf:1: unknown key "listenport", did you mean listenPort?
            warning: broker.conf:2: unknown key "namesrvAdr", did you mean namesrvAddr?
            warning: broker.conf:3: unknown key "fileReserveTime", did you mean fileReservedTime?
            warning: broker.conf:4: unknown key "port"
            warning: broker.conf:5: unknown key "brokerNam\t", did you mean brokerName?
            warning: broker.conf:6: unknown key ""
        "#]],
    );
}

#[test]
fn of_a_repeated_key_the_last_entry_counts_alone() {
    check_broker(
        "listenPort=abc\ndeleteWhen=04\nlistenPort=10920\ndeleteWhen=05\nmapedFileSizeCommitLog=8192\n\
         mappedFileSizeCommitLog=16384\n",
        expect![[r#"
            deleteWhen=05
            listenPort=10920
            mappedFileSizeCommitLog=16384
            warning: broker.conf:3: listenPort is given again: this line counts, line 1 does not
            warning: broker.conf:4: deleteWhen is given again: this line counts, line 2 does not
            warning: broker.conf:6: mappedFileSizeCommitLog is given again: this line counts, line 5 does not
        "#]],
    );
}

#[test]
fn overrides_win_and_are_blamed_by_their_own_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.conf");
    fs::write(&file, "listenPort=10920\nbrokerName=b\n").unwrap();
    let port = |value| Override { key: "listenPort", value, origin: "--broker-port" };
    let loaded = BrokerSettings::load(Some(&file), &[port("10930")]).unwrap();
    assert_eq!(loaded.settings.listen_port, 10930);
    assert_eq!(loaded.settings.broker_name, "b");
    assert!(loaded.warnings.is_empty());
    let errors = BrokerSettings::load(Some(&file), &[port("2")]).unwrap_err();
    assert_eq!(errors.to_string(), "--broker-port: listenPort=2: expected a port from 3 to 65535");
}

#[test]
fn files_that_cannot_be_read_as_settings_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let load = |name: &str| {
        let errors = BrokerSettings::load(Some(&directory.path().join(name)), &[]).unwrap_err();
        errors.to_string().replace(&directory.path().display().to_string(), "")
    };
    fs::write(directory.path().join("utf16"), b"\xff\xfea\0=\0").unwrap();
    fs::write(directory.path().join("log"), vec![b'x'; 1024 * 1024 + 1]).unwrap();
    assert_eq!(load("none"), "/none: no such file");
    assert_eq!(load("."), "/.: cannot be read: Is a directory (os error 21)");
    assert_eq!(load("utf16"), "/utf16: not a text in UTF-8 or ISO-8859-1");
    assert_eq!(load("log"), "/log: larger than 1 MiB, so hardly a file of settings");
}

#[test]
fn what_is_printed_loads_as_the_same_settings() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.conf");
    let mut settings = BrokerSettings::default();
    assert!(settings.print().contains("\nlistenPort=10911\n"), "{}", settings.print());
    assert!(settings.print().lines().is_sorted());
    settings.store_root = r"/data\消息".into();
    settings.name_servers = vec![HostPort::parse("[::1]:9876").unwrap(), HostPort::parse("ns:1").unwrap()];
    fs::write(&file, settings.print()).unwrap();
    let loaded = BrokerSettings::load(Some(&file), &[]).unwrap();
    assert_eq!(loaded.settings, settings);
    assert!(loaded.warnings.is_empty());
}

/// Keys that RocketMQ does not have.
const OWN_KEYS: [&str; 3] = ["deleteUnreadWhenDiskFull", "scrubBytesPerSecond", "serverMaxConnections"];

#[test]
fn every_row_describes_itself() {
    for row in BrokerSettings::describe().chain(NamesrvSettings::describe()) {
        assert!(row.doc.ends_with('.'), "{row:?}");
        assert!(!row.doc.starts_with(' ') && !row.allowed.is_empty(), "{row:?}");
        assert_eq!(row.own, OWN_KEYS.contains(&row.key), "{row:?}");
    }
    let size = BrokerSettings::describe().find(|row| row.key == "mappedFileSizeConsumeQueue").unwrap();
    assert_eq!((size.default.as_str(), size.unit), ("6000000", "bytes"));
    assert_eq!(size.aliases, ["mapedFileSizeConsumeQueue"]);
}

#[test]
fn every_key_of_rocketmq_is_in_exactly_one_table() {
    check_tables::<BrokerSettings>(
        BROKER_KEYS,
        "abortFile deleteUnreadWhenDiskFull objectStoreAccessKey objectStoreBucket objectStoreEndpoint objectStoreSecretKey \
         readAheadCacheExpireDuration readAheadCacheSizeThresholdRate readAheadMessageCountThreshold \
         readAheadMessageSizeThreshold scrubBytesPerSecond serverMaxConnections storeCheckpoint storePathConsumeQueue \
         storePathIndex tieredMetadataServiceProvider tieredStoreDeleteFileInterval \
         tieredStoreGroupCommitCount tieredStoreGroupCommitSize tieredStoreGroupCommitTimeout \
         tieredStoreMaxGroupCommitCount",
    );
    check_tables::<NamesrvSettings>(NAMESRV_KEYS, "metricsOtelCardinalityLimit");
}

#[test]
fn defaults_are_those_of_rocketmq_but_for_what_depends_on_the_machine() {
    check_defaults::<BrokerSettings>(
        BROKER_KEYS,
        expect![[r#"
            brokerIP1:  instead of local address
            brokerName: broker-a instead of host name
            storePathRootDir: ./data instead of $HOME/store
        "#]],
    );
    check_defaults::<NamesrvSettings>(
        NAMESRV_KEYS,
        expect![[r#"
            kvConfigPath: ./data/namesrv/kvConfig.json instead of $HOME/namesrv/kvConfig.json
        "#]],
    );
}

/// Loads `text` as `broker.conf` and shows what differs from the defaults, the warnings and the errors.
fn check_broker(text: &str, expected: Expect) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.conf");
    fs::write(&file, text).unwrap();
    let (settings, warnings, errors) = match BrokerSettings::load(Some(&file), &[]) {
        Ok(Loaded { settings, warnings }) => (settings, warnings, Vec::new()),
        Err(ConfigErrors(errors)) => (BrokerSettings::default(), Vec::new(), errors),
    };
    let defaults = BrokerSettings::default().print();
    let changed = settings.print().lines().filter(|line| !defaults.lines().any(|known| known == *line)).fold(
        String::new(),
        |mut out, line| {
            out.push_str(line);
            out.push('\n');
            out
        },
    );
    let warnings: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    let errors: String = errors.iter().map(|error| format!("error: {error}\n")).collect();
    let shown = changed + &warnings + &errors;
    expected.assert_eq(&shown.replace(&format!("{}/", directory.path().display()), ""));
}

/// Each key of `rocketmq` stands in one of the role's two tables, once; beyond them there is only `extra`.
fn check_tables<S: Settings>(rocketmq: &str, extra: &str) {
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    for row in S::describe() {
        for key in [row.key].into_iter().chain(row.aliases.iter().copied()) {
            *times.entry(key).or_default() += 1;
        }
    }
    for key in S::UNIMPLEMENTED.iter().flat_map(Group::keys) {
        *times.entry(key).or_default() += 1;
    }
    assert!(times.values().all(|&count| count == 1), "twice: {times:?}");
    let known = keys(rocketmq);
    let missing: Vec<&String> = known.keys().filter(|key| !times.contains_key(key.as_str())).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    let beyond: Vec<&str> = times.into_keys().filter(|key| !known.contains_key(*key)).collect();
    assert_eq!(beyond, extra.split_whitespace().collect::<Vec<_>>());
}

fn check_defaults<S: Settings>(rocketmq: &str, expected: Expect) {
    let known = keys(rocketmq);
    let mut rows: Vec<Description> = S::describe().filter(|row| !row.own).collect();
    rows.sort_by_key(|row| row.key);
    let differences: String = rows
        .iter()
        .filter(|row| known[row.key] != row.default)
        .map(|row| format!("{}: {} instead of {}\n", row.key, row.default, known[row.key]))
        .collect();
    expected.assert_eq(&differences);
}

fn keys(text: &str) -> BTreeMap<String, String> {
    properties::entries(text)
        .into_iter()
        .map(|entry| entry.map(|entry| (entry.key, entry.value)).unwrap())
        .collect()
}
