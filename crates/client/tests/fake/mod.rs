//! A cluster in memory that speaks the protocol: one name server and some brokers, each on a port of its own.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cometmq_protocol::body::client::{ConsumerListBody, HeartbeatData};
use cometmq_protocol::body::json;
use cometmq_protocol::body::route::{BrokerData, QueueData, TopicRoute};
use cometmq_protocol::headers::offset::OffsetReply;
use cometmq_protocol::headers::pull::{PullMessageHeader, PullMessageReply};
use cometmq_protocol::headers::send::{SendMessageHeader, SendMessageReply};
use cometmq_protocol::message::record::{Record, body_crc};
use cometmq_protocol::message::{Properties, batch, tags};
use cometmq_protocol::{
    Fields, Frame, Header, LogOffset, Millis, QueueId, QueueOffset, Reply, Request, ResponseCode,
    SerializeType,
};
use cometmq_remoting::{CloseReason, Connection, Handler, Out, Server, ServerOptions, Workers};
use tokio::task::JoinSet;

/// Queue of a broker: broker name, topic, number.
pub type Key = (String, String, i32);

#[derive(Default)]
pub struct State {
    /// Topics with their number of queues on each broker.
    pub topics: BTreeMap<String, i32>,
    /// Broker addresses by name.
    pub brokers: BTreeMap<String, String>,
    /// Brokers that refuse sends, with which code.
    pub refuse: HashMap<String, ResponseCode>,
    pub queues: HashMap<Key, Vec<Stored>>,
    /// First offset that a queue still has.
    pub first: HashMap<Key, i64>,
    /// Committed offsets by group and queue.
    pub offsets: HashMap<(String, Key), i64>,
    /// Members of consumer groups with their connection.
    pub members: BTreeMap<String, BTreeMap<String, Connection>>,
    pub connections: Vec<Connection>,
    pub sends: usize,
    pub heartbeats: usize,
    pub unregistered: usize,
    parked: Vec<Parked>,
}

pub struct Stored {
    tag: Option<String>,
    record: Bytes,
}

struct Parked {
    connection: Connection,
    opaque: i32,
    key: Key,
    group: String,
    offset: i64,
    until: tokio::time::Instant,
}

/// The cluster; its servers end when it is dropped.
pub struct Cluster {
    pub state: Arc<Mutex<State>>,
    pub name_server: String,
    brokers: BTreeMap<String, JoinSet<()>>,
    _tasks: JoinSet<()>,
}

struct Node {
    /// Empty: the name server.
    broker: String,
    state: Arc<Mutex<State>>,
}

impl Cluster {
    /// A name server that knows `brokers`, and topics with their number of queues on each broker.
    pub fn start(brokers: &[&str], topics: &[(&str, i32)]) -> Cluster {
        let state = Arc::new(Mutex::new(State::default()));
        let mut tasks = JoinSet::new();
        let name_server = serve("", &state, &mut tasks);
        let mut running = BTreeMap::new();
        for name in brokers {
            let mut broker = JoinSet::new();
            let address = serve(name, &state, &mut broker);
            state.lock().unwrap().brokers.insert((*name).to_owned(), address);
            running.insert((*name).to_owned(), broker);
        }
        state.lock().unwrap().topics =
            topics.iter().map(|(name, queues)| ((*name).to_owned(), *queues)).collect();
        let ticking = state.clone();
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                ticking.lock().unwrap().answer_parked();
            }
        });
        Cluster { state, name_server, brokers: running, _tasks: tasks }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Ends a broker: its port refuses connections from now on.
    pub async fn kill(&mut self, broker: &str) {
        self.brokers.remove(broker).unwrap().shutdown().await;
    }
}

fn serve(broker: &str, state: &Arc<Mutex<State>>, tasks: &mut JoinSet<()>) -> String {
    let server = Server::bind(&["127.0.0.1:0".parse().unwrap()], ServerOptions::default()).unwrap();
    let address = server.local_addresses().unwrap()[0].to_string();
    let node = Arc::new(Node { broker: broker.to_owned(), state: state.clone() });
    tasks
        .spawn(async move { server.serve(&Workers::current(), node, std::future::pending()).await.unwrap() });
    address
}

impl Handler for Node {
    fn connected(&self, connection: &Connection) {
        self.state.lock().unwrap().connections.push(connection.clone());
    }

    fn frames(
        &self,
        connection: &Connection,
        frames: &mut Vec<Frame>,
        out: &mut Out,
    ) -> Result<(), CloseReason> {
        for frame in frames.drain(..) {
            let mut header = Header::decode(&frame)?;
            let mut fields = header.fields.take().unwrap_or_default();
            let request = Request::decode(header.code, &mut fields).expect("clients send what they should");
            let mut state = self.state.lock().unwrap();
            let reply = state.handle(&self.broker, connection, header.opaque, request, &frame.body);
            if let Some(reply) = reply.filter(|_| !header.is_oneway()) {
                reply.encode(header.opaque, SerializeType::Json, out.buffer());
            }
            state.answer_parked();
        }
        Ok(())
    }

    fn disconnected(&self, connection: &Connection) {
        let mut state = self.state.lock().unwrap();
        state.connections.retain(|other| other.peer() != connection.peer());
        for members in state.members.values_mut() {
            members.retain(|_, member| member.peer() != connection.peer());
        }
        state.members.keys().for_each(|group| state.notify(group));
    }
}

impl State {
    fn handle(
        &mut self,
        broker: &str,
        connection: &Connection,
        opaque: i32,
        request: Request<'_>,
        body: &Bytes,
    ) -> Option<Reply> {
        let key = |topic: &str, queue: i32| (broker.to_owned(), topic.to_owned(), queue);
        Some(match request {
            Request::GetRoute(header) => self.route(&header.topic.unwrap_or_default()),
            Request::SendMessageV2(header) => self.send(broker, &header, &[(body, header.flag)], &[]),
            Request::SendBatchMessage(header) => {
                let parts = batch::decode(body).unwrap();
                let properties: Vec<_> = parts.iter().map(|part| part.properties).collect();
                let bodies: Vec<_> = parts.iter().map(|part| (part.body, part.flag)).collect();
                self.send(broker, &header, &bodies, &properties)
            }
            Request::PullMessage(header) => return self.pull(broker, connection, opaque, &header),
            Request::Heartbeat(_) => self.heartbeat(connection, &json::parse(body).unwrap()),
            Request::UnregisterClient(header) => {
                self.unregistered += 1;
                for members in self.members.values_mut() {
                    members.remove(header.client_id.as_ref());
                }
                self.members.keys().for_each(|group| self.notify(group));
                Reply::success()
            }
            Request::GetConsumerList(header) => {
                let members = self.members.get(header.consumer_group.as_ref());
                let ids = members.into_iter().flat_map(|members| members.keys().cloned()).collect();
                Reply::success().with_body(json::to_vec(&ConsumerListBody { consumer_id_list: ids }))
            }
            Request::QueryConsumerOffset(header) => {
                let key = (header.consumer_group.into_owned(), key(&header.topic, header.queue_id));
                match self.offsets.get(&key) {
                    Some(offset) => offset_reply(*offset),
                    None => Reply::refuse(ResponseCode::QueryNotFound, "none"),
                }
            }
            Request::UpdateConsumerOffset(header) => {
                let key = (header.consumer_group.into_owned(), key(&header.topic, header.queue_id));
                self.offsets.insert(key, header.commit_offset);
                Reply::success()
            }
            Request::GetMaxOffset(header) => {
                offset_reply(self.queues.get(&key(&header.topic, header.queue_id)).map_or(0, Vec::len) as i64)
            }
            other => panic!("unexpected {other:?}"),
        })
    }

    fn route(&self, topic: &str) -> Reply {
        let Some(queues) = self.topics.get(topic) else {
            return Reply::refuse(ResponseCode::TopicNotExist, "No topic route info");
        };
        let broker = |(name, address): (&String, &String)| BrokerData {
            broker_addrs: BTreeMap::from([(0, address.clone())]),
            broker_name: name.clone(),
            ..BrokerData::default()
        };
        let queue = |name: &String| QueueData {
            broker_name: name.clone(),
            perm: 6,
            read_queue_nums: *queues,
            write_queue_nums: *queues,
            ..QueueData::default()
        };
        let route = TopicRoute {
            broker_datas: self.brokers.iter().map(broker).collect(),
            queue_datas: self.brokers.keys().map(queue).collect(),
            ..TopicRoute::default()
        };
        Reply::success().with_body(route.to_body(false))
    }

    fn send(
        &mut self,
        broker: &str,
        header: &SendMessageHeader<'_>,
        bodies: &[(impl AsRef<[u8]>, i32)],
        properties: &[&[u8]],
    ) -> Reply {
        self.sends += 1;
        if let Some(code) = self.refuse.get(broker) {
            return Reply::refuse(*code, "told to refuse").with_field("MSG_REGION", "DefaultRegion");
        }
        self.topics.entry(header.topic.to_string()).or_insert(4);
        let address = self.brokers[broker].parse().unwrap();
        let queue =
            self.queues.entry((broker.to_owned(), header.topic.to_string(), header.queue_id)).or_default();
        let first = queue.len();
        let own = header.properties.as_deref().unwrap_or_default().as_bytes();
        for (index, (body, flag)) in bodies.iter().enumerate() {
            // As brokers do it: a batch's own properties follow those of each of its messages.
            let properties = [properties.get(index).copied().unwrap_or_default(), own].concat();
            let properties = properties.as_slice();
            let record = Record {
                topic: &header.topic,
                queue_id: QueueId(header.queue_id),
                flag: *flag,
                sys_flag: header.sys_flag,
                born_timestamp: Millis(header.born_timestamp),
                born_host: address,
                store_host: address,
                reconsume_times: 0,
                prepared_transaction_offset: 0,
                body: body.as_ref(),
                body_crc: body_crc(body.as_ref()),
                properties: [properties, b""],
            };
            let mut bytes = BytesMut::new();
            record.encode(QueueOffset(queue.len() as i64), LogOffset(7), Millis(1), &mut bytes);
            let tag = Properties(properties).get("TAGS").map(str::to_owned);
            queue.push(Stored { tag, record: bytes.freeze() });
        }
        Reply::success().with_fields(&SendMessageReply {
            msg_id: "7F00000100002A9F0000000000000007".into(),
            queue_id: header.queue_id,
            queue_offset: first as i64,
            transaction_id: None,
            borrows: PhantomData,
        })
    }

    fn heartbeat(&mut self, connection: &Connection, data: &HeartbeatData) -> Reply {
        self.heartbeats += 1;
        for consumer in &data.consumer_data_set {
            let members = self.members.entry(consumer.group_name.clone()).or_default();
            if members.insert(data.client_id.clone(), connection.clone()).is_none() {
                self.notify(&consumer.group_name);
            }
        }
        Reply::success()
    }

    fn notify(&self, group: &str) {
        for member in self.members[group].values() {
            let mut fields = Fields::default();
            fields.push("consumerGroup", group.to_owned());
            let mut out = BytesMut::new();
            Header::oneway(40, 0, fields).encode(SerializeType::Json, 0, &mut out);
            member.push(out.freeze());
        }
    }

    fn pull(
        &mut self,
        broker: &str,
        connection: &Connection,
        opaque: i32,
        header: &PullMessageHeader<'_>,
    ) -> Option<Reply> {
        if !self.members.contains_key(header.consumer_group.as_ref()) {
            return Some(Reply::refuse(ResponseCode::SubscriptionNotExist, "no heartbeat yet"));
        }
        self.parked.push(Parked {
            connection: connection.clone(),
            opaque,
            key: (broker.to_owned(), header.topic.to_string(), header.queue_id),
            group: header.consumer_group.to_string(),
            offset: header.queue_offset,
            until: tokio::time::Instant::now() + Duration::from_millis(header.suspend_timeout_millis as u64),
        });
        None
    }

    /// Answers pulls that have messages now, or waited long enough.
    fn answer_parked(&mut self) {
        let now = tokio::time::Instant::now();
        for parked in std::mem::take(&mut self.parked) {
            let first = self.first.get(&parked.key).copied().unwrap_or(0);
            let stored = self.queues.get(&parked.key).map_or(&[][..], |queue| queue);
            let max = stored.len() as i64;
            let (code, next, body) = if parked.offset < first {
                (ResponseCode::PullOffsetMoved, first, BytesMut::new())
            } else if parked.offset < max {
                let next = max.min(parked.offset + 32);
                let mut body = BytesMut::new();
                for stored in &stored[parked.offset as usize..next as usize] {
                    // "BB" passes for "Aa" in a real broker: it compares hashes only.
                    let hash = tags::tags_code(stored.tag.as_deref());
                    if parked.group != "picky" || hash == tags::tags_code(Some("Aa")) {
                        body.extend_from_slice(&stored.record);
                    }
                }
                let code =
                    if body.is_empty() { ResponseCode::PullRetryImmediately } else { ResponseCode::Success };
                (code, next, body)
            } else if parked.until <= now {
                (ResponseCode::PullNotFound, parked.offset, BytesMut::new())
            } else {
                self.parked.push(parked);
                continue;
            };
            let reply = PullMessageReply {
                suggest_which_broker_id: 0,
                next_begin_offset: next,
                min_offset: first,
                max_offset: max,
                offset_delta: None,
                topic_sys_flag: None,
                group_sys_flag: None,
                forbidden_type: None,
                borrows: PhantomData,
            };
            let mut out = BytesMut::new();
            let reply = Reply { code, ..Reply::success() }.with_fields(&reply).with_body(body.freeze());
            reply.encode(parked.opaque, SerializeType::Json, &mut out);
            parked.connection.push(out.freeze());
        }
    }
}

fn offset_reply(offset: i64) -> Reply {
    Reply::success().with_fields(&OffsetReply { offset, borrows: PhantomData })
}
