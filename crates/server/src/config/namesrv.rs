//! The keys of `namesrv.conf`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::rule;
use super::table::settings;
use super::unimplemented;

settings! {
    /// How a name server is set up.
    struct NamesrvSettings, unimplemented unimplemented::NAMESRV;

    /// Address on which the name server listens.
    "bindAddress" => bind_address: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED), rule::ip_address();

    /// Port on which the name server listens.
    "listenPort" => listen_port: u16 = 9876, rule::port(1..=65535);

    /// Seconds of silence after which a connection is closed.
    "serverChannelMaxIdleTimeSeconds" => connection_idle_s_max: u64 = 120, rule::seconds();

    /// File in which the name server keeps the key-value table that tools write.
    "kvConfigPath" => kv_path: PathBuf = PathBuf::from("./data/namesrv/kvConfig.json"), rule::path();

    /// Time between two searches for brokers that have fallen silent.
    "scanNotActiveBrokerInterval" => expiry_scan_interval_ms: u64 = 5000, rule::milliseconds();

    /// Whether a route tells the order in which the topic's brokers are to be used, where one is set.
    "orderMessageEnable" => order_in_routes: bool = false, rule::flag();

    /// Whether a broker that registers is told the topics' orders.
    "returnOrderTopicConfigToBroker" => order_to_brokers: bool = true, rule::flag();

    /// Whether clients may ask for the list of all topics.
    "enableAllTopicList" => list_all_topics: bool = true, rule::flag();

    /// Whether clients may ask for the topics of one cluster, and for those of the system.
    "enableTopicList" => list_some_topics: bool = true, rule::flag();

    /// Whether a topic that is missing from its broker's registration is forgotten at once.
    "deleteTopicWithBrokerRegistration" => forget_unregistered_topics: bool = false, rule::flag();
}
