//! Recorded requests of real Java brokers, clients and tools to a real name server: asked of ours, and the replies
//! compared with the recorded ones.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use cometmq_namesrv::{NameServer, NamesrvOptions};
use cometmq_protocol::body::json;
use cometmq_protocol::body::registration::RegisterBrokerBody;
use cometmq_protocol::body::topic::TopicConfig;
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::{ConnectionId, Frame, Header, Millis, Peer, Reply, Request, VERSION};

/// Where the recorded name server listened.
const PORT: i64 = 19876;

/// A recorded request to the name server with its reply, if it got one.
struct Exchange {
    line: usize,
    at: Millis,
    connection: u64,
    request: Frame,
    reply: Option<Frame>,
}

fn exchanges(name: &str) -> Vec<Exchange> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/testdata/golden").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut waiting = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if line["port"] != PORT || line["raw"] == true {
            continue;
        }
        let frame = cut(line["hex"].as_str().unwrap());
        let connection = line["conn"].as_u64().unwrap();
        let opaque = Header::decode(&frame).unwrap().opaque;
        if line["dir"] == "c2s" {
            waiting.insert((connection, opaque), exchanges.len());
            let at = Millis(line["t"].as_i64().unwrap());
            exchanges.push(Exchange { line: index + 1, at, connection, request: frame, reply: None });
        } else {
            exchanges[waiting.remove(&(connection, opaque)).unwrap()].reply = Some(frame);
        }
    }
    exchanges
}

fn cut(hex: &str) -> Frame {
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
    let mut bytes: BytesMut = bytes.collect::<Vec<u8>>()[..].into();
    frame::cut(&mut bytes, FrameLimits::default()).unwrap().expect("a whole frame")
}

fn peer(connection: u64) -> Peer {
    Peer {
        connection: ConnectionId(connection),
        remote: SocketAddr::from(([127, 0, 0, 1], 50000)),
        local: SocketAddr::from(([127, 0, 0, 1], 19876)),
    }
}

/// Our reply to a recorded request; `None` when its code is not served.
fn ask(server: &NameServer, exchange: &Exchange) -> Option<Reply> {
    let mut header = Header::decode(&exchange.request).unwrap();
    let mut fields = header.fields.take().unwrap_or_default();
    let request = Request::decode(header.code, &mut fields).ok()?;
    Some(server.handle(
        exchange.at,
        &peer(exchange.connection),
        header.version,
        &request,
        &exchange.request.body,
    ))
}

/// The broker of the recordings comes before its recording: with `topics` next to those that it registered first.
fn with_broker(topics: &[(&str, i32, i32)]) -> NameServer {
    let server = NameServer::new(NamesrvOptions::default());
    serve_more(&server, 0, topics);
    server
}

fn serve_more(server: &NameServer, changes: i64, topics: &[(&str, i32, i32)]) {
    let first = &exchanges("broker-register.jsonl")[0].request;
    let mut fields = Header::decode(first).unwrap().fields.unwrap();
    let Request::RegisterBroker(mut header) = Request::decode(103, &mut fields).unwrap() else {
        unreachable!()
    };
    let mut body = RegisterBrokerBody::decode(&first.body, false, VERSION).unwrap();
    let table = &mut body.topic_config_serialize_wrapper;
    table.data_version.counter += changes;
    for (name, queues, perm) in topics {
        table.topic_config_table.insert((*name).to_owned(), TopicConfig::new(name, *queues, *perm));
    }
    header.body_crc32 = 0;
    let body = Bytes::from(body.encode(false));
    let reply = server.handle(Millis(0), &peer(99), VERSION, &Request::RegisterBroker(header), &body);
    assert_eq!(reply.code.code(), 0);
}

/// The same outcome, fields and body, in whatever order; integer keys in quotes or bare as recorded.
fn assert_same(file: &str, exchange: &Exchange, ours: &Reply) {
    let at = format!("{file}:{}", exchange.line);
    let Some(recorded) = &exchange.reply else { return };
    let header = Header::decode(recorded).unwrap();
    assert_eq!(ours.code.code(), header.code, "{at}: {:?}", ours.remark);
    let fields = |fields: Option<&cometmq_protocol::Fields<'_>>| {
        fields.map(|fields| {
            fields.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>()
        })
    };
    assert_eq!(fields(ours.fields.as_ref()), fields(header.fields.as_ref()), "{at}");
    if header.code != 0 {
        // Our second line of a missing route tells more than an address of a page.
        let first_line =
            |remark: Option<&str>| remark.and_then(|text| text.lines().next().map(str::to_owned));
        assert_eq!(first_line(ours.remark.as_deref()), first_line(header.remark.as_deref()), "{at}");
    }
    assert_eq!(ours.body.is_empty(), recorded.body.is_empty(), "{at}");
    if !recorded.body.is_empty() {
        assert_eq!(parse(&ours.body), parse(&recorded.body), "{at}");
        let is_bare = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).is_err();
        assert_eq!(is_bare(&ours.body), is_bare(&recorded.body), "{at}: integer keys in quotes or bare");
    }
}

/// A list of topics is a set: Java writes it in the order of its hashes.
fn parse(body: &[u8]) -> serde_json::Value {
    let mut value: serde_json::Value = json::parse(body).unwrap();
    if let Some(topics) = value.get_mut("topicList").and_then(|list| list.as_array_mut()) {
        topics.sort_by_key(ToString::to_string);
    }
    value
}

#[test]
fn a_registering_broker_is_answered_as_by_the_java_name_server() {
    let server = NameServer::new(NamesrvOptions::default());
    let mut same = 0;
    for exchange in exchanges("broker-register.jsonl") {
        assert_same("broker-register.jsonl", &exchange, &ask(&server, &exchange).unwrap());
        assert_eq!(server.scan(exchange.at), []);
        same += 1;
    }
    assert_eq!(same, 45);
    assert_eq!(server.disconnected(Millis(200_000), ConnectionId(2)).len(), 1);
}

#[test]
fn a_producer_of_a_new_topic_is_answered_as_by_the_java_name_server() {
    let server = with_broker(&[]);
    let asked = exchanges("producer.jsonl");
    assert_eq!(asked.len(), 3);
    for exchange in &asked {
        if exchange.line == 16 {
            // The broker made the topic for the first message, and registered it.
            serve_more(&server, 1, &[("GoldTopic", 4, 6)]);
        }
        assert_same("producer.jsonl", exchange, &ask(&server, exchange).unwrap());
    }
}

#[test]
fn a_slave_is_answered_as_by_the_java_name_server() {
    for file in ["slave-sync.jsonl", "slave-acting.jsonl"] {
        let server = with_broker(&[]);
        let mut same = 0;
        for exchange in exchanges(file) {
            let request = Header::decode(&exchange.request).unwrap();
            if matches!(request.code, 103 | 104 | 322) {
                assert_same(file, &exchange, &ask(&server, &exchange).unwrap());
                same += 1;
            }
        }
        assert!(same >= 3, "{file}: {same} exchanges");
    }
}

#[test]
fn tools_and_probes_are_answered_as_by_the_java_name_server() {
    let mut same = 0;
    for file in
        ["probe.jsonl", "mqadmin-misc.jsonl", "mqadmin-clusterList.jsonl", "mqadmin-deleteTopic.jsonl"]
    {
        let server = with_broker(&[("GoldTopic", 4, 6), ("%RETRY%gold_push", 1, 6)]);
        for exchange in exchanges(file) {
            let header = Header::decode(&exchange.request).unwrap();
            let Some(ours) = ask(&server, &exchange) else { continue };
            if matches!(header.code, 205 | 322 | 327) {
                // The recorded broker had more topics and had counted more changes, which is what these tell.
                assert_eq!(ours.code.code(), 0, "{file}:{}", exchange.line);
            } else {
                assert_same(file, &exchange, &ours);
            }
            same += 1;
        }
    }
    assert!(same >= 25, "{same} exchanges");
}
