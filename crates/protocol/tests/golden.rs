//! Recorded frames of real Java clients and servers, and records of a real commit log: read, and written again to
//! the same bytes.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use bytes::{Bytes, BytesMut};
use cometmq_protocol::body::json;
use cometmq_protocol::frame::{self, FrameLimits, SerializeType};
use cometmq_protocol::message::RecordView;
use cometmq_protocol::message::record;
use cometmq_protocol::{Frame, Header, Request, RequestError};

fn lines(name: &str) -> Vec<serde_json::Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn files() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".jsonl") && name != "stored-records.jsonl")
        .collect();
    names.sort();
    assert_eq!(names.len(), 41, "every recording is there");
    names
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Every recorded frame: file, line, from client to server, bytes and the frame cut from them.
fn frames(mut each: impl FnMut(&str, usize, bool, &[u8], Frame)) -> usize {
    let mut count = 0;
    for name in files() {
        for (index, line) in lines(&name).iter().enumerate() {
            if line["raw"] == true {
                continue;
            }
            let bytes = unhex(line["hex"].as_str().unwrap());
            let mut buffer = BytesMut::from(&bytes[..]);
            let frame = frame::cut(&mut buffer, FrameLimits::default()).unwrap().expect("a whole frame");
            assert!(buffer.is_empty());
            each(&name, index + 1, line["dir"] == "c2s", &bytes, frame);
            count += 1;
        }
    }
    count
}

#[test]
fn every_recorded_frame_is_read_and_written_to_the_same_bytes() {
    let mut compact = 0;
    let count = frames(|name, line, to_server, bytes, frame| {
        let header = Header::decode(&frame).unwrap_or_else(|error| panic!("{name}:{line}: {error}"));
        let mut again = BytesMut::new();
        header.encode_with_body(frame.serialize_type, &frame.body, &mut again);
        compact += usize::from(frame.serialize_type == SerializeType::Compact);
        if name == "probe.jsonl" && to_server {
            // Made by hand with keys in another order: compare what they say.
            let mut again = again;
            let frame = frame::cut(&mut again, FrameLimits::default()).unwrap().unwrap();
            assert_eq!(Header::decode(&frame).unwrap(), header, "{name}:{line}");
        } else {
            assert!(again == bytes, "{name}:{line}: {}", String::from_utf8_lossy(&frame.header));
        }
    });
    assert!(count == 2380, "{count} frames");
    assert!(compact > 20, "{compact} compact frames");
}

#[test]
fn every_recorded_request_that_is_served_has_a_typed_header() {
    let mut typed = 0;
    frames(|name, line, to_server, _, frame| {
        let mut header = Header::decode(&frame).unwrap();
        if header.is_response() || !to_server || name == "probe.jsonl" {
            return;
        }
        let fields = header.fields.take().unwrap_or_default();
        match Request::decode(header.code, &mut fields.clone()) {
            Ok(request) => {
                typed += 1;
                // What the typed form writes is a part of what was sent, name by name.
                for (field, value) in request.encode().iter() {
                    assert!(
                        fields.get(field) == Some(value) || is_default(value),
                        "{name}:{line}: {field}={value}"
                    );
                }
            }
            Err(RequestError::NotSupported { .. }) => {}
            Err(error) => panic!("{name}:{line}: {error}"),
        }
    });
    assert!(typed > 800, "{typed} typed requests");
}

/// Values that a typed header writes for fields that were not sent.
fn is_default(value: &str) -> bool {
    matches!(value, "" | "0" | "false")
}

#[test]
fn every_recorded_json_body_is_read() {
    let mut bodies = 0;
    frames(|name, line, _, _, frame| {
        if frame.body.first() == Some(&b'{') && frame.body.last() == Some(&b'}') {
            json::parse::<serde_json::Value>(&frame.body)
                .unwrap_or_else(|error| panic!("{name}:{line}: {error}"));
            bodies += 1;
        }
    });
    assert!(bodies > 300, "{bodies} bodies");
}

#[test]
fn recorded_heartbeats_registrations_and_routes_have_their_types() {
    use cometmq_protocol::body::client::HeartbeatData;
    use cometmq_protocol::body::registration::RegisterBrokerBody;
    let (mut heartbeats, mut registrations) = (0, 0);
    frames(|name, line, _, _, frame| {
        let header = Header::decode(&frame).unwrap();
        if header.is_response() || name == "probe.jsonl" {
            return;
        }
        match header.code {
            34 => {
                let data: HeartbeatData = json::parse(&frame.body).unwrap();
                assert!(!data.client_id.is_empty(), "{name}:{line}");
                heartbeats += 1;
            }
            103 => {
                let compressed = header.field("compressed") == Some("true");
                let body = RegisterBrokerBody::decode(&frame.body, compressed, header.version).unwrap();
                let crc: u32 = header.field("bodyCrc32").unwrap().parse().unwrap();
                assert!(crc == 0 || crc == record::body_crc(&frame.body), "{name}:{line}");
                assert!(!body.topic_config_serialize_wrapper.topic_config_table.is_empty(), "{name}:{line}");
                registrations += 1;
            }
            _ => {}
        }
    });
    assert!(heartbeats > 50 && registrations > 5, "{heartbeats} heartbeats, {registrations} registrations");
}

#[test]
fn every_record_of_the_java_commit_log_is_read_and_written_to_the_same_bytes() {
    let records = lines("stored-records.jsonl");
    for line in &records {
        let bytes = Bytes::from(unhex(line["hex"].as_str().unwrap()));
        let view = RecordView::decode(&bytes).unwrap();
        view.check_body().unwrap();
        assert_eq!(view.topic, line["topic"].as_str().unwrap());
        assert_eq!(view.log_offset.0, line["offset"].as_i64().unwrap());
        assert_eq!(i64::from(view.queue_id.0), line["queueId"].as_i64().unwrap());
        assert_eq!(record::claimed_log_offset(&bytes), Some(view.log_offset));
        let mut again = BytesMut::new();
        view.to_record().encode(view.queue_offset, view.log_offset, view.store_timestamp, &mut again);
        assert!(again == bytes, "record at {}", view.log_offset);
    }
    assert!(records.len() == 89, "{} records", records.len());
}
