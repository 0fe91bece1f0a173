//! Registrations of brokers, plain and compressed.

use std::io::{Read, Write};

use cometmq_protocol::body::registration::RegisterBrokerBody;
use cometmq_protocol::{Header, VERSION};
use flate2::Compression;

use crate::golden::Golden;
use crate::target::Outcome;

/// A version before bodies were whole.
const OLD_VERSION: i32 = 36;

/// A plain registration, in the form of old brokers and of ours.
pub fn plain(data: &[u8]) -> Outcome {
    let _ = RegisterBrokerBody::decode(data, false, OLD_VERSION);
    super::json::round_trip::<RegisterBrokerBody>(data, |body| {
        Outcome::magnitude(body.topic_config_serialize_wrapper.topic_config_table.len())
    })
}

/// A compressed registration as it comes.
pub fn compressed(data: &[u8]) -> Outcome {
    let body = RegisterBrokerBody::decode(data, true, VERSION);
    if let Ok(body) = &body {
        let again =
            RegisterBrokerBody::decode(&body.encode(true), true, VERSION).expect("our own form is legal");
        assert_eq!(again, *body);
    }
    Outcome::of(&body, |body| {
        Outcome::magnitude(body.topic_config_serialize_wrapper.topic_config_table.len())
    })
}

/// What a compressed registration holds inside: compressed here, because changes to a zlib stream end at its checksum.
pub fn blocks(data: &[u8]) -> Outcome {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::none());
    let stream = encoder.write_all(data).and_then(|()| encoder.finish()).expect("memory takes it");
    compressed(&stream)
}

/// Recorded plain registrations.
pub fn plain_bodies(golden: &Golden) -> Vec<Vec<u8>> {
    bodies(golden, false)
}

/// Recorded compressed registrations.
pub fn compressed_bodies(golden: &Golden) -> Vec<Vec<u8>> {
    bodies(golden, true)
}

/// Recorded compressed registrations, inflated.
pub fn inflated_bodies(golden: &Golden) -> Vec<Vec<u8>> {
    let inflate = |body: &Vec<u8>| {
        let mut plain = Vec::new();
        flate2::read::ZlibDecoder::new(&body[..]).read_to_end(&mut plain).ok().map(|_| plain)
    };
    bodies(golden, true).iter().filter_map(inflate).collect()
}

fn bodies(golden: &Golden, compressed: bool) -> Vec<Vec<u8>> {
    let wanted = |header: &Header<'_>| {
        !header.is_response()
            && header.code == 103
            && (header.field("compressed") == Some("true")) == compressed
    };
    let mut seeds: Vec<Vec<u8>> = golden
        .cut()
        .filter(|frame| Header::decode(frame).is_ok_and(|header| wanted(&header)))
        .map(|frame| frame.body.to_vec())
        .collect();
    // As few topics as a small broker has: changes hit more.
    let small = RegisterBrokerBody::decode(
        br#"{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":2},"topicConfigTable":{"T":{"attributes":{"message.type":"FIFO"},"order":false,"perm":6,"readQueueNums":4,"topicFilterType":"MULTI_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":4}}}}"#,
        false,
        VERSION,
    );
    seeds.extend(small.map(|body| body.encode(compressed)).ok());
    seeds
}
