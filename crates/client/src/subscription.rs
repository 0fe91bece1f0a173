//! Subscriptions: which messages of a topic a group wants, by tag.

use cometmq_protocol::Millis;
use cometmq_protocol::body::client::SubscriptionData;
use cometmq_protocol::message::tags::{TagExpressionError, TagFilter, java_hash, tags};
use cometmq_protocol::names::TopicName;

/// A topic and the tags wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    topic: TopicName,
    expression: String,
    /// Empty means every message, with or without tag.
    tags: Vec<String>,
}

impl Subscription {
    /// `expression` is `*`, or tags separated by `||`.
    pub fn new(topic: TopicName, expression: &str) -> Result<Subscription, TagExpressionError> {
        let all = TagFilter::parse(expression)? == TagFilter::All;
        let expression = if all { "*" } else { expression.trim() };
        let mut tags: Vec<String> =
            if all { Vec::new() } else { tags(expression).map(str::to_owned).collect() };
        tags.sort();
        tags.dedup();
        Ok(Subscription { topic, expression: expression.to_owned(), tags })
    }

    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Whether a message with this tag is wanted. Brokers choose by the tag's hash, so the text decides here.
    pub fn wants(&self, tag: Option<&str>) -> bool {
        self.tags.is_empty() || tag.is_some_and(|tag| self.tags.iter().any(|wanted| wanted == tag))
    }

    /// As heartbeats tell it.
    pub fn to_data(&self, version: Millis) -> SubscriptionData {
        SubscriptionData {
            code_set: self.tags.iter().map(|tag| java_hash(tag)).collect(),
            expression_type: Some("TAG".to_owned()),
            sub_string: self.expression.clone(),
            sub_version: version.0,
            tags_set: self.tags.clone(),
            topic: self.topic.to_string(),
            ..SubscriptionData::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(expression: &str) -> Subscription {
        Subscription::new(TopicName::parse("T").unwrap(), expression).unwrap()
    }

    #[test]
    fn the_text_of_a_tag_decides_not_its_hash() {
        // "Aa" and "BB" have the same hash in Java.
        let wanted = subscription("Aa || C");
        assert_eq!(java_hash("Aa"), java_hash("BB"));
        assert!(wanted.wants(Some("Aa")) && !wanted.wants(Some("BB")) && !wanted.wants(None));
        assert!(subscription("*").wants(None) && subscription("").wants(Some("x")));
        assert!(Subscription::new(TopicName::parse("T").unwrap(), "||").is_err());
    }

    #[test]
    fn a_heartbeat_tells_it_as_java_does() {
        let data = subscription("TagA || TagB").to_data(Millis(7));
        assert_eq!(data.code_set, [2_598_919, 2_598_920]);
        assert_eq!((&data.sub_string[..], data.sub_version), ("TagA || TagB", 7));
        assert_eq!(subscription(" * ").to_data(Millis(7)).sub_string, "*");
    }
}
