//! The body of a broker's registration (code 103), plain and compressed.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use super::json::{self, BodyError};
use super::topic::{DataVersion, TopicConfig, TopicFilterType};

/// Most bytes to which a compressed registration may grow: about a million topics.
const INFLATED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// First version (5.0.0) whose compressed body carries a list of queue mappings at its end.
const VERSION_WITH_MAPPINGS: i32 = 413;
/// First version (3.0.11) whose body is a whole `RegisterBrokerBody`.
const VERSION_WITH_BODY: i32 = 37;

/// A broker's topics as announced to name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterBrokerBody {
    /// Filter servers of 4.x.
    pub filter_server_list: Vec<String>,
    /// The topics.
    pub topic_config_serialize_wrapper: TopicTable,
}

/// Topics with the version of the table. Also the layout of `topics.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicTable {
    /// Version of the table.
    pub data_version: DataVersion,
    /// Topics by name.
    pub topic_config_table: BTreeMap<String, TopicConfig>,
}

impl RegisterBrokerBody {
    /// Reads a body in the form that a broker of `version` writes.
    pub fn decode(bytes: &[u8], compressed: bool, version: i32) -> Result<RegisterBrokerBody, BodyError> {
        if bytes.is_empty() {
            return Ok(RegisterBrokerBody::default());
        }
        if compressed {
            return inflate(bytes, version);
        }
        if version < VERSION_WITH_BODY {
            let topic_config_serialize_wrapper = json::parse(bytes)?;
            return Ok(RegisterBrokerBody {
                topic_config_serialize_wrapper,
                ..RegisterBrokerBody::default()
            });
        }
        json::parse(bytes)
    }

    /// Writes the body, compressed as a broker of release 5 does, or plain.
    pub fn encode(&self, compressed: bool) -> Vec<u8> {
        if compressed { self.deflate() } else { json::to_vec(self) }
    }

    fn deflate(&self) -> Vec<u8> {
        let table = &self.topic_config_serialize_wrapper;
        let mut plain = Vec::new();
        put_block(&mut plain, &json::to_vec(&table.data_version));
        plain.extend_from_slice(&(table.topic_config_table.len() as u32).to_be_bytes());
        for topic in table.topic_config_table.values() {
            put_block(&mut plain, topic_text(topic).as_bytes());
        }
        put_block(&mut plain, &json::to_vec(&self.filter_server_list));
        plain.extend_from_slice(&0u32.to_be_bytes());
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder
            .write_all(&plain)
            .and_then(|()| encoder.finish())
            .expect("compressing into memory does not fail")
    }
}

fn put_block(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// `name readQueueNums writeQueueNums perm filterType attributes`, blank-separated.
fn topic_text(topic: &TopicConfig) -> String {
    let filter = match topic.topic_filter_type {
        TopicFilterType::SingleTag => "SINGLE_TAG",
        TopicFilterType::MultiTag => "MULTI_TAG",
    };
    let attributes = String::from_utf8(json::to_vec(&topic.attributes)).expect("JSON is text");
    format!(
        "{} {} {} {} {filter} {attributes}",
        topic.topic_name, topic.read_queue_nums, topic.write_queue_nums, topic.perm
    )
}

fn parse_topic_text(text: &str) -> Option<TopicConfig> {
    let mut words = text.splitn(6, ' ');
    let mut topic = TopicConfig::new(words.next()?, 0, 0);
    topic.read_queue_nums = words.next()?.parse().ok()?;
    topic.write_queue_nums = words.next()?.parse().ok()?;
    topic.perm = words.next()?.parse().ok()?;
    if words.next()? == "MULTI_TAG" {
        topic.topic_filter_type = TopicFilterType::MultiTag;
    }
    if let Some(attributes) = words.next() {
        topic.attributes = json::parse(attributes.as_bytes()).ok()?;
    }
    Some(topic)
}

fn inflate(bytes: &[u8], version: i32) -> Result<RegisterBrokerBody, BodyError> {
    let mut plain = Vec::new();
    flate2::read::ZlibDecoder::new(bytes)
        .take(INFLATED_BYTES_MAX as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|_| BodyError::Compressed("not a zlib stream"))?;
    if plain.len() > INFLATED_BYTES_MAX {
        return Err(BodyError::TooLarge { limit: INFLATED_BYTES_MAX });
    }
    let mut rest = &plain[..];
    let mut body = RegisterBrokerBody::default();
    let table = &mut body.topic_config_serialize_wrapper;
    table.data_version = json::parse(block(&mut rest, "data version")?)?;
    for _ in 0..number(&mut rest, "topic count")? {
        let text = std::str::from_utf8(block(&mut rest, "topic")?).ok();
        let topic = text.and_then(parse_topic_text).ok_or(BodyError::Compressed("a topic is malformed"))?;
        table.topic_config_table.insert(topic.topic_name.clone(), topic);
    }
    body.filter_server_list = json::parse(block(&mut rest, "filter servers")?)?;
    if version >= VERSION_WITH_MAPPINGS {
        for _ in 0..number(&mut rest, "mapping count")? {
            block(&mut rest, "mapping")?;
        }
    }
    Ok(body)
}

fn number(rest: &mut &[u8], what: &'static str) -> Result<u32, BodyError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(BodyError::Compressed(what))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn block<'a>(rest: &mut &'a [u8], what: &'static str) -> Result<&'a [u8], BodyError> {
    let bytes = number(rest, what)? as usize;
    let (head, tail) = rest.split_at_checked(bytes).ok_or(BodyError::Compressed(what))?;
    *rest = tail;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> RegisterBrokerBody {
        let mut body = RegisterBrokerBody::default();
        let table = &mut body.topic_config_serialize_wrapper;
        table.data_version = DataVersion { counter: 3, state_version: 0, timestamp: 1_795_195_088_389 };
        let mut topic = TopicConfig::new("T", 4, 6);
        topic.attributes.insert("message.type".into(), "NORMAL".into());
        table.topic_config_table.insert("T".into(), topic);
        table.topic_config_table.insert("TBW102".into(), TopicConfig::new("TBW102", 8, 7));
        body
    }

    #[test]
    fn both_forms_are_read_back() {
        for compressed in [false, true] {
            let bytes = sample().encode(compressed);
            assert_eq!(RegisterBrokerBody::decode(&bytes, compressed, crate::VERSION).unwrap(), sample());
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..=INFLATED_BYTES_MAX / (1 << 20) {
            encoder.write_all(&[0; 1 << 20]).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        assert!(matches!(RegisterBrokerBody::decode(&bomb, true, 479), Err(BodyError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn damaged_bodies_are_refused_without_panic(cut in 0usize..200, flip in 0usize..200) {
            let mut bytes = sample().encode(true);
            let at = flip % bytes.len();
            bytes[at] ^= 0x55;
            bytes.truncate(cut);
            let _ = RegisterBrokerBody::decode(&bytes, true, 479);
        }
    }
}
