//! Stored records, property texts, batches, tag expressions, message ids.

use bytes::BytesMut;
use cometmq_protocol::Header;
use cometmq_protocol::message::properties::{self, Properties};
use cometmq_protocol::message::record::{MAGIC_V2, PROPERTIES_BYTES_MAX, claimed_log_offset};
use cometmq_protocol::message::tags::{self, TagFilter};
use cometmq_protocol::message::{RecordView, batch, ids, record as records_of, sys_flag};
use cometmq_protocol::names::TOPIC_BYTES_MAX;

use crate::golden::Golden;
use crate::target::Outcome;

/// A record is written to the same bytes, and a list of records covers no more than there is.
pub fn record(data: &[u8]) -> Outcome {
    let covered: usize = records_of::records(data).map_while(Result::ok).map(|record| record.total).sum();
    assert!(covered <= data.len(), "records do not overlap");
    let view = match RecordView::decode(data) {
        Ok(view) => view,
        Err(error) => return Outcome::refused(error),
    };
    assert_eq!(claimed_log_offset(data), Some(view.log_offset));
    assert!(view.properties.len() <= PROPERTIES_BYTES_MAX, "the length of properties is a signed number");
    if is_canonical(data, &view) {
        let mut again = BytesMut::new();
        view.to_record().encode(view.queue_offset, view.log_offset, view.store_timestamp, &mut again);
        assert!(again[..] == data[..view.total], "a record is written to the bytes that it was read from");
    }
    Outcome::accepted((
        view.check_body().is_ok(),
        view.sys_flag & 0x30,
        Outcome::magnitude(view.properties.len()),
    ))
}

/// Whether a broker would write these very bytes: the version that the topic needs, ports of 16 bits.
fn is_canonical(data: &[u8], view: &RecordView<'_>) -> bool {
    let v2 = data[4..8] == MAGIC_V2.to_be_bytes();
    let host_bytes = |bit| if view.sys_flag & bit != 0 { 16 } else { 4 };
    let born_port = 48 + host_bytes(sys_flag::BORN_HOST_V6);
    let store_port = born_port + 4 + 8 + host_bytes(sys_flag::STORE_HOST_V6);
    let is_port = |at: usize| data[at..at + 2] == [0, 0];
    v2 == (view.topic.len() > TOPIC_BYTES_MAX) && is_port(born_port) && is_port(store_port)
}

/// Property texts are read again from what was read, and the last of two equal names counts.
pub fn properties(data: &[u8]) -> Outcome {
    let read: Vec<(&str, &str)> = Properties(data).iter().collect();
    let mut text = String::new();
    for (name, value) in &read {
        properties::push(&mut text, name, value);
    }
    assert!(text.len() <= data.len() + 1, "only the last separator may be missing");
    assert!(Properties(text.as_bytes()).iter().eq(read.iter().copied()));
    if let Some((name, value)) = read.last() {
        assert_eq!(Properties(data).get(name), Some(*value));
    }
    Outcome::accepted((Outcome::magnitude(read.len()), text.len() == data.len()))
}

/// A batch is written and read back as what it was.
pub fn batch(data: &[u8]) -> Outcome {
    let messages = match batch::decode(data) {
        Ok(messages) => messages,
        Err(error) => return Outcome::refused(error),
    };
    let mut again = BytesMut::new();
    messages.iter().for_each(|message| batch::encode(message, &mut again));
    assert!(again.len() <= data.len(), "nothing is read that is not there");
    assert_eq!(batch::decode(&again), Ok(messages.clone()));
    Outcome::accepted(Outcome::magnitude(messages.len()))
}

/// A filter lets through each tag that its expression names.
pub fn tag_expression(data: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(data) else { return Outcome::refused("not text") };
    let filter = match TagFilter::parse(text) {
        Ok(filter) => filter,
        Err(error) => return Outcome::refused(error),
    };
    if let TagFilter::Codes(codes) = &filter {
        assert_eq!(codes.len(), tags::tags(text).count());
    }
    assert!(tags::tags(text).all(|tag| filter.matches(tags::tags_code(Some(tag)))));
    Outcome::accepted((filter == TagFilter::All, Outcome::magnitude(tags::tags(text).count())))
}

/// An offset message id names its place, whichever case its digits have.
pub fn offset_id(data: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(data) else { return Outcome::refused("not text") };
    let Some((host, offset)) = ids::parse_offset_id(text) else { return Outcome::refused("no id") };
    assert!(ids::offset_id(host, offset).eq_ignore_ascii_case(text));
    Outcome::accepted(host.is_ipv6())
}

/// Stored records, one and several.
pub fn records(golden: &Golden) -> Vec<Vec<u8>> {
    let mut seeds = golden.records.clone();
    seeds.extend(golden.records.chunks(4).map(|records| records.concat()));
    seeds
}

/// The property texts of stored records.
pub fn property_texts(golden: &Golden) -> Vec<Vec<u8>> {
    views(golden).map(|record| record.properties.to_vec()).collect()
}

/// The bodies of recorded batch sends.
pub fn batches(golden: &Golden) -> Vec<Vec<u8>> {
    golden.bodies(&[320], false)
}

/// Subscriptions of recorded pulls.
pub fn tag_expressions(golden: &Golden) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = golden
        .cut()
        .filter_map(|frame| Some(Header::decode(&frame).ok()?.field("subscription")?.as_bytes().to_vec()))
        .collect();
    seeds.push(b"TagA || TagB||TagC".to_vec());
    seeds
}

/// The ids of stored records, and one with IPv6.
pub fn offset_ids(golden: &Golden) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = views(golden)
        .map(|record| ids::offset_id(record.store_host, record.log_offset).into_bytes())
        .collect();
    seeds.push(b"20010DB800000000000000000000000700002A9F0000000000000009".to_vec());
    seeds
}

fn views(golden: &Golden) -> impl Iterator<Item = RecordView<'_>> {
    golden.records.iter().filter_map(|record| RecordView::decode(record).ok())
}
