//! Name server: routes, registration, KV configuration, write permission.

use super::header_fields;

header_fields! {
    /// Asks for the route of a topic.
    GetRouteHeader {
        /// Topic; absent is answered as an unknown topic.
        topic: str optional "topic",
        /// Whether the answer must be strict JSON whatever the client's version.
        accept_standard_json_only: bool defaulted "acceptStandardJsonOnly",
    }

    /// Announces a broker with its topics (body).
    RegisterBrokerHeader {
        /// Broker name, common to a master and its slaves.
        broker_name: str required "brokerName",
        /// Address that clients are told.
        broker_addr: str required "brokerAddr",
        /// Cluster.
        cluster_name: str required "clusterName",
        /// Address for replication.
        ha_server_addr: str defaulted "haServerAddr",
        /// 0 for the master.
        broker_id: i64 required "brokerId",
        /// How long the registration holds without renewal, ms; absent means 120 s.
        heartbeat_timeout_millis: i64 optional "heartbeatTimeoutMillis",
        /// Whether a slave may act as master.
        enable_acting_master: bool defaulted "enableActingMaster",
        /// Whether the body is compressed.
        compressed: bool defaulted "compressed",
        /// CRC-32 of the body, 31 bits; 0 means unchecked.
        body_crc32: i32 defaulted "bodyCrc32",
        /// Ours: the address was derived, not configured (`brokerIP1` unset), so that a name server may replace a
        /// loopback address by one under which the asking client reaches this machine. Others ignore it.
        address_derived: bool defaulted "addressDerived",
    }

    /// What a registering broker is told.
    RegisterBrokerReply {
        /// Replication address of the master, for slaves.
        ha_server_addr: str optional "haServerAddr",
        /// Address of the master, for slaves.
        master_addr: str optional "masterAddr",
    }

    /// Names one broker address: unregistration, data version queries.
    BrokerHeader {
        /// Broker name.
        broker_name: str required "brokerName",
        /// Address as registered.
        broker_addr: str required "brokerAddr",
        /// Cluster.
        cluster_name: str required "clusterName",
        /// 0 for the master.
        broker_id: i64 required "brokerId",
    }

    /// Whether the topics that the name server knows are older than the broker's.
    QueryDataVersionReply {
        /// True when the broker should register again.
        changed: bool required "changed",
    }

    /// A sign of life of one broker address.
    BrokerHeartbeatHeader {
        /// Cluster.
        cluster_name: str required "clusterName",
        /// Address as registered.
        broker_addr: str required "brokerAddr",
        /// Broker name.
        broker_name: str required "brokerName",
    }

    /// Names a broker set.
    BrokerMemberGroupHeader {
        /// Cluster.
        cluster_name: str required "clusterName",
        /// Broker name.
        broker_name: str required "brokerName",
    }

    /// Names a cluster.
    ClusterHeader {
        /// Cluster.
        cluster: str required "cluster",
    }

    /// Names a topic, on all brokers or on those of one cluster.
    DeleteTopicHeader {
        /// Topic.
        topic: str required "topic",
        /// Only in this cluster.
        cluster_name: str optional "clusterName",
    }

    /// Names a broker.
    BrokerNameHeader {
        /// Broker name.
        broker_name: str required "brokerName",
    }

    /// How many topics lost the broker's write permission.
    WipeWritePermissionReply {
        /// Number of topics.
        wipe_topic_count: i32 required "wipeTopicCount",
    }

    /// How many topics regained the broker's write permission.
    AddWritePermissionReply {
        /// Number of topics.
        add_topic_count: i32 required "addTopicCount",
    }

    /// A value to keep.
    PutKvHeader {
        /// Namespace.
        namespace: str required "namespace",
        /// Key.
        key: str required "key",
        /// Value.
        value: str required "value",
    }

    /// Names a kept value.
    KvKeyHeader {
        /// Namespace.
        namespace: str required "namespace",
        /// Key.
        key: str required "key",
    }

    /// A kept value.
    KvValueReply {
        /// Value.
        value: str optional "value",
    }

    /// Names a namespace of kept values.
    NamespaceHeader {
        /// Namespace.
        namespace: str required "namespace",
    }
}
