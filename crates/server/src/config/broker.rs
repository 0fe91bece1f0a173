//! The keys of `broker.conf`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::rule::{self, HostPort, Reading, Refusal, Rule};
use super::table::settings;
use super::unimplemented;

/// What a broker is among those of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerRole {
    /// A master that answers a send as soon as it has the message itself.
    AsyncMaster,
    /// A master that waits for a slave; as long as there are no slaves, the same as `AsyncMaster`.
    SyncMaster,
}

impl fmt::Display for BrokerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BrokerRole::AsyncMaster => "ASYNC_MASTER",
            BrokerRole::SyncMaster => "SYNC_MASTER",
        })
    }
}

/// What a send's answer promises about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushDiskType {
    /// The operating system has the message: it outlives the process.
    AsyncFlush,
    /// The disk has the message: it outlives the machine's power.
    SyncFlush,
}

impl fmt::Display for FlushDiskType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FlushDiskType::AsyncFlush => "ASYNC_FLUSH",
            FlushDiskType::SyncFlush => "SYNC_FLUSH",
        })
    }
}

settings! {
    /// How a broker is set up.
    struct BrokerSettings, unimplemented unimplemented::BROKER;

    /// Name of the cluster to which the broker belongs.
    "brokerClusterName" => cluster_name: String = "DefaultCluster".to_owned(), rule::name();

    /// Name of the broker, shared by a master and its slaves.
    "brokerName" => broker_name: String = "broker-a".to_owned(), rule::name();

    /// Number of the broker among those of its name: 0 is the master.
    "brokerId" => broker_id: u64 = 0, broker_id();

    /// Whether the broker is a master or a slave, and when a master answers a send.
    "brokerRole" => role: BrokerRole = BrokerRole::AsyncMaster, broker_role();

    /// Name servers at which the broker registers.
    "namesrvAddr" => name_servers: Vec<HostPort> = Vec::new(), rule::host_ports();

    /// Address on which the broker listens.
    "bindAddress" => bind_address: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED), rule::ip_address();

    /// Port on which the broker listens; it also listens two below, where old clients send ("VIP channel").
    "listenPort" => listen_port: u16 = 10911, rule::port(3..=65535);

    /// Host under which clients are told to reach the broker. Without it the broker finds an address itself.
    "brokerIP1" => advertised_host: Option<String> = None, rule::host();

    /// Seconds of silence after which a connection is closed.
    "serverChannelMaxIdleTimeSeconds" => connection_idle_s_max: u64 = 120, rule::seconds();

    /// Connections held at once; further ones are closed as they come.
    own "serverMaxConnections" => connections_max: u32 = 100_000, rule::count(1..=u32::MAX);

    /// Directory of everything that the broker stores.
    "storePathRootDir" => store_root: PathBuf = PathBuf::from("./data"), rule::path();

    /// Directory of the commit log, if it is not `commitlog` under the root.
    "storePathCommitLog" => commit_log_path: Option<PathBuf> = None, commit_log_path();

    /// Size of one file of the commit log.
    "mappedFileSizeCommitLog" | "mapedFileSizeCommitLog" =>
        commit_log_file_bytes: u64 = 1024 * 1024 * 1024, rule::bytes(4096..=u64::MAX);

    /// Size of one file of a consume queue, in which each message takes 20 bytes.
    "mappedFileSizeConsumeQueue" | "mapedFileSizeConsumeQueue" =>
        consume_queue_file_bytes: u64 = 300_000 * QUEUE_ENTRY_BYTES, consume_queue_file_bytes();

    /// Whether messages can be looked up by key.
    "messageIndexEnable" => index: bool = true, rule::flag();

    /// Slots of one file of the index, by which keys are found.
    "maxHashSlotNum" => index_slots: u32 = 5_000_000, rule::count(2..=INDEX_ENTRIES_MAX);

    /// Entries of one file of the index, one for each key of a message.
    "maxIndexNum" => index_entries: u32 = 20_000_000, rule::count(2..=INDEX_ENTRIES_MAX);

    /// Most messages in the answer to one query by key.
    "maxMsgsNumBatch" => query_messages_max: u32 = 64, rule::count(1..=1024);

    /// Most messages that are looked for by the id that a producer gave its message.
    "defaultQueryMaxNum" => query_by_id_max: u32 = 32, rule::count(1..=1024);

    /// Whether a send is answered once the operating system has the message, or once the disk has it.
    "flushDiskType" => flush_disk_type: FlushDiskType = FlushDiskType::AsyncFlush,
        rule::one_of(&[FlushDiskType::AsyncFlush, FlushDiskType::SyncFlush]);

    /// With ASYNC_FLUSH, the time between two flushes of the commit log: what a power cut may cost.
    "flushIntervalCommitLog" => flush_interval_ms: u64 = 500, rule::milliseconds();

    /// With SYNC_FLUSH, how long a send waits for the disk before it is answered with a time-out.
    "syncFlushTimeout" => sync_flush_timeout_ms: u64 = 5000, rule::milliseconds();

    /// How much of what is stored is read and verified in the background; 0 is nothing.
    own "scrubBytesPerSecond" => scrub_bytes_per_second: u64 = 8 * 1024 * 1024, rule::bytes(0..=u64::MAX);

    /// How long a file of the commit log stays after it was last written to.
    "fileReservedTime" => file_reserved_hours: u64 = 72, rule::hours();

    /// Hours of the day, in local time, in which files whose time is over are deleted.
    "deleteWhen" => delete_hours: Vec<u8> = vec![4], rule::hours_of_day();

    /// Time between two looks for files to delete.
    "cleanResourceInterval" => clean_interval_ms: u64 = 10_000, rule::milliseconds();

    /// Most files of the commit log that are deleted at one look.
    "deleteFileBatchMax" => delete_files_max: u32 = 10, rule::count(1..=100_000);

    /// Pause between two files.
    "deleteCommitLogFilesInterval" => delete_pause_ms: u64 = 100, rule::milliseconds();

    /// How full the disk may be before files whose time is over are deleted at any hour.
    "diskMaxUsedSpaceRatio" => disk_used_percent_max: u32 = 75, percent_between_10_and_95();

    /// How full the disk may be before files are deleted although their time is not over.
    "diskSpaceCleanForciblyRatio" => disk_clean_percent: u32 = 85, percent_between_30_and_85();

    /// How full the disk may be before sends are refused.
    "diskSpaceWarningLevelRatio" => disk_warning_percent: u32 = 90, percent_between_35_and_90();

    /// Whether files are deleted before their time is over.
    "cleanFileForciblyEnable" => clean_forcibly: bool = true, rule::flag();

    /// Whether a file is deleted before its time is over although some group has not consumed all of it.
    own "deleteUnreadWhenDiskFull" => delete_unread: bool = false, rule::flag();

    /// Largest body of a message.
    "maxMessageSize" => message_bytes_max: u64 = 4 * 1024 * 1024, rule::bytes(1..=FRAME_BYTES_MAX);

    /// What clients may do with the topics of this broker: 2 is write, 4 is read, 6 is both.
    "brokerPermission" => permission: u32 = 6, rule::one_of(&[2, 4, 6]);

    /// Whether a send to an unknown topic creates it.
    "autoCreateTopicEnable" => auto_create_topic: bool = true, rule::flag();

    /// Most queues that a topic created by a send gets.
    "defaultTopicQueueNums" => auto_created_queues: u32 = 8, rule::count(1..=65535);

    /// Whether an unknown consumer group is let in and created.
    "autoCreateSubscriptionGroup" => auto_create_group: bool = true, rule::flag();

    /// Whether clients may use the topic that is named as the cluster.
    "clusterTopicEnable" => cluster_topic: bool = true, rule::flag();

    /// Whether clients may use the topic that is named as the broker.
    "brokerTopicEnable" => broker_topic: bool = true, rule::flag();

    /// Whether there is a topic for the traces that clients write.
    "traceTopicEnable" => trace_topic: bool = false, rule::flag();

    /// Whether a pull that finds nothing waits for a message as long as the client allows.
    "longPollingEnable" => long_polling: bool = true, rule::flag();

    /// How long such a pull waits if `longPollingEnable` is false.
    "shortPollingTimeMills" => short_polling_ms: u64 = 1000, rule::milliseconds();

    /// Whether the members of a consumer group are told at once when one joins or leaves.
    "notifyConsumerIdsChangedEnable" => notify_members: bool = true, rule::flag();

    /// Time between two writes of the groups' offsets to disk.
    "flushConsumerOffsetInterval" => offset_save_interval_ms: u64 = 5000, rule::milliseconds();

    /// Time between two registrations at the name servers, from 10 to 60 seconds.
    "registerNameServerPeriod" => register_interval_ms: u64 = 30_000, register_interval_ms();

    /// How long the broker waits for a name server's answer to a registration.
    "registerBrokerTimeoutMills" => register_timeout_ms: u64 = 24_000, rule::milliseconds();
}

/// A message takes this much in a consume queue.
const QUEUE_ENTRY_BYTES: u64 = 20;

/// An index file has at most 2 GiB: of 20 bytes an entry, these.
const INDEX_ENTRIES_MAX: u32 = 107_374_000;

/// A frame on the wire, and so a message in it, cannot be longer.
const FRAME_BYTES_MAX: u64 = 16 * 1024 * 1024;

fn broker_id() -> Rule<u64> {
    rule::id().then(|id| {
        // RocketMQ, too, gives every master the id 0 whatever its file says.
        let note = (id != 0).then(|| "a master has the id 0, and this version has masters only".to_owned());
        Ok(Reading { value: 0, note })
    })
}

fn broker_role() -> Rule<BrokerRole> {
    let masters = rule::one_of(&[BrokerRole::AsyncMaster, BrokerRole::SyncMaster]);
    masters.refusing("SLAVE", "replication is not part of this version").then(|role| {
        let waits = role == BrokerRole::SyncMaster;
        Ok(Reading {
            value: role,
            note: waits.then(|| "acts as ASYNC_MASTER until replication exists".to_owned()),
        })
    })
}

fn commit_log_path() -> Rule<Option<PathBuf>> {
    rule::optional_path().then(|path| match &path {
        // In RocketMQ a comma separates several directories.
        Some(several) if several.as_os_str().as_encoded_bytes().contains(&b',') => {
            Err(Refusal::Because("a log over several directories is not part of this version"))
        }
        _ => Ok(path.into()),
    })
}

fn consume_queue_file_bytes() -> Rule<u64> {
    rule::bytes(1..=2_147_483_640).then(|bytes| {
        let value = bytes.next_multiple_of(QUEUE_ENTRY_BYTES);
        let note = (value != bytes).then(|| format!("rounded up to {value}, whole entries of 20 bytes"));
        Ok(Reading { value, note })
    })
}

fn percent_between_10_and_95() -> Rule<u32> {
    rule::percent().then(|given| clamped(given, 10, 95))
}

fn percent_between_30_and_85() -> Rule<u32> {
    rule::percent().then(|given| clamped(given, 30, 85))
}

fn percent_between_35_and_90() -> Rule<u32> {
    rule::percent().then(|given| clamped(given, 35, 90))
}

/// As RocketMQ does it: what is out of bounds counts as the nearest bound.
fn clamped(given: u32, least: u32, most: u32) -> Result<Reading<u32>, Refusal> {
    let value = given.clamp(least, most);
    let note = (value != given).then(|| format!("{value} is used: the bounds are {least} and {most}"));
    Ok(Reading { value, note })
}

fn register_interval_ms() -> Rule<u64> {
    rule::milliseconds().then(|given| {
        let value = given.clamp(10_000, 60_000);
        let note = (value != given).then(|| format!("{value} is used: the bounds are 10000 and 60000"));
        Ok(Reading { value, note })
    })
}
