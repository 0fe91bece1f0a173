//! A name server with brokers that speak to it, for the tests of the rooms.

use std::cell::Cell;
use std::net::SocketAddr;

use bytes::Bytes;
use cometmq_protocol::body::json;
use cometmq_protocol::body::registration::RegisterBrokerBody;
use cometmq_protocol::body::route::{ClusterInfo, TopicList, TopicRoute};
use cometmq_protocol::body::topic::TopicConfig;
use cometmq_protocol::message::record;
use cometmq_protocol::{ConnectionId, Fields, Millis, Peer, Reply, Request, ResponseCode, VERSION};

use crate::{Departed, NameServer, NamesrvOptions};

/// A broker as a test describes it: `Broker { id: 1, ..broker("a") }`.
#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) name: &'static str,
    pub(crate) cluster: &'static str,
    pub(crate) id: i64,
    /// Port of its address; also the number of the connection through which it speaks.
    pub(crate) port: u16,
    /// Another address than `192.0.2.1:port`.
    pub(crate) addr: Option<&'static str>,
    pub(crate) derived: bool,
    pub(crate) acting: bool,
    pub(crate) compressed: bool,
    pub(crate) version: i32,
    pub(crate) timeout_ms: Option<i64>,
    /// Of the data version.
    pub(crate) counter: i64,
    pub(crate) state: i64,
    /// Name, queues, permission.
    pub(crate) topics: Vec<(&'static str, i32, i32)>,
    pub(crate) sys_flags: Vec<(&'static str, i32)>,
}

/// A master with two topics.
pub(crate) fn broker(name: &'static str) -> Broker {
    Broker {
        name,
        cluster: "C",
        id: 0,
        port: 1,
        addr: None,
        derived: false,
        acting: false,
        compressed: false,
        version: VERSION,
        timeout_ms: None,
        counter: 1,
        state: 0,
        topics: vec![("T1", 4, 6), ("T2", 4, 6)],
        sys_flags: vec![],
    }
}

impl Broker {
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = RegisterBrokerBody::default();
        let table = &mut body.topic_config_serialize_wrapper;
        table.data_version.counter = self.counter;
        table.data_version.state_version = self.state;
        for (name, queues, perm) in &self.topics {
            table.topic_config_table.insert(name.to_string(), TopicConfig::new(name, *queues, *perm));
        }
        for (name, flag) in &self.sys_flags {
            table.topic_config_table.get_mut(*name).unwrap().topic_sys_flag = *flag;
        }
        body.encode(self.compressed)
    }

    /// Header fields of a registration; other requests of a broker take those that they know.
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        let addr = self.addr.map_or_else(|| format!("192.0.2.1:{}", self.port), str::to_owned);
        let mut fields = vec![
            ("brokerName", self.name.to_owned()),
            ("brokerAddr", addr),
            ("clusterName", self.cluster.to_owned()),
            ("haServerAddr", format!("192.0.2.1:{}", self.port + 1000)),
            ("brokerId", self.id.to_string()),
            ("enableActingMaster", self.acting.to_string()),
            ("compressed", self.compressed.to_string()),
            ("bodyCrc32", record::body_crc(&self.body()).to_string()),
        ];
        if self.derived {
            fields.push(("addressDerived", "true".to_owned()));
        }
        if let Some(timeout_ms) = self.timeout_ms {
            fields.push(("heartbeatTimeoutMillis", timeout_ms.to_string()));
        }
        fields
    }
}

/// A name server, and what is asked of it.
pub(crate) struct Cluster {
    pub(crate) server: NameServer,
    pub(crate) now: Cell<Millis>,
    /// The name server's address as its clients see it.
    pub(crate) local: Cell<SocketAddr>,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        Cluster::with(NamesrvOptions::default())
    }

    pub(crate) fn with(options: NamesrvOptions) -> Cluster {
        let local = Cell::new(SocketAddr::from(([127, 0, 0, 1], 9876)));
        Cluster { server: NameServer::new(options), now: Cell::new(Millis(0)), local }
    }

    /// Time goes on to `now`.
    pub(crate) fn at(&self, now: i64) -> &Cluster {
        self.now.set(Millis(now));
        self
    }

    pub(crate) fn scan(&self) -> Vec<Departed> {
        self.server.scan(self.now.get())
    }

    pub(crate) fn register(&self, broker: &Broker) -> Reply {
        self.register_through(ConnectionId(broker.port.into()), broker)
    }

    pub(crate) fn register_through(&self, connection: ConnectionId, broker: &Broker) -> Reply {
        self.send(connection, broker.version, 103, &broker.fields(), &broker.body())
    }

    pub(crate) fn ask(&self, code: i32, fields: &[(&'static str, &str)]) -> Reply {
        self.ask_as(VERSION, code, fields)
    }

    pub(crate) fn ask_as(&self, version: i32, code: i32, fields: &[(&'static str, &str)]) -> Reply {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.to_string())).collect();
        self.send(ConnectionId(1000), version, code, &fields, b"")
    }

    /// A request that names a broker, through a connection that is not the broker's.
    pub(crate) fn ask_about(&self, broker: &Broker, code: i32, body: &[u8]) -> Reply {
        self.send(ConnectionId(1000), broker.version, code, &broker.fields(), body)
    }

    pub(crate) fn send(
        &self,
        connection: ConnectionId,
        version: i32,
        code: i32,
        fields: &[(&'static str, String)],
        body: &[u8],
    ) -> Reply {
        let mut sent = Fields::default();
        for (name, value) in fields {
            sent.push(*name, value);
        }
        let request = Request::decode(code, &mut sent).unwrap();
        let remote = SocketAddr::from(([192, 0, 2, 99], 50000));
        let peer = Peer { connection, remote, local: self.local.get() };
        self.server.handle(self.now.get(), &peer, version, &request, &Bytes::copy_from_slice(body))
    }

    pub(crate) fn put_kv(&self, namespace: &str, key: &str, value: &str) {
        let reply = self.ask(100, &[("namespace", namespace), ("key", key), ("value", value)]);
        assert_eq!(reply, Reply::success());
    }

    /// All brokers as `name id=addr id=addr, …`.
    pub(crate) fn brokers(&self) -> String {
        let info: ClusterInfo = json::parse(&self.ask(106, &[]).body).unwrap();
        let sets = info.broker_addr_table.iter().map(|(name, data)| {
            let members = data.broker_addrs.iter().map(|(id, addr)| format!(" {id}={addr}"));
            name.clone() + &members.collect::<String>()
        });
        sets.collect::<Vec<_>>().join(", ")
    }

    /// All clusters as `cluster:name name, …`.
    pub(crate) fn clusters(&self) -> String {
        let info: ClusterInfo = json::parse(&self.ask(106, &[]).body).unwrap();
        let clusters =
            info.cluster_addr_table.iter().map(|(name, brokers)| format!("{name}:{}", brokers.join(" ")));
        clusters.collect::<Vec<_>>().join(", ")
    }

    /// All topics.
    pub(crate) fn topics(&self) -> String {
        let list: TopicList = json::parse(&self.ask(206, &[]).body).unwrap();
        list.topic_list.join(" ")
    }

    /// The queues of a topic as `broker read/write perm n, …`.
    pub(crate) fn queues(&self, topic: &str) -> String {
        let reply = self.ask(105, &[("topic", topic)]);
        assert_eq!(reply.code, ResponseCode::Success, "{:?}", reply.remark);
        let route: TopicRoute = json::parse(&reply.body).unwrap();
        let queues = route.queue_datas.iter().map(|queues| {
            let (read, write) = (queues.read_queue_nums, queues.write_queue_nums);
            format!("{} {read}/{write} perm {}", queues.broker_name, queues.perm)
        });
        queues.collect::<Vec<_>>().join(", ")
    }
}
