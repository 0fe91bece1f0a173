//! Topics that lost their last broker, remembered so that "no route" can say why.
//!
//! The memory holds as many topics as it was made for; the ones that vanished longest ago make room.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cometmq_protocol::Millis;

/// How a topic vanished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The last broker that had it.
    pub(crate) broker: Arc<str>,
    /// When that broker left.
    pub(crate) at: Millis,
}

/// The topics that vanished last.
#[derive(Debug)]
pub(crate) struct Vanished {
    capacity: usize,
    by_topic: BTreeMap<Arc<str>, Loss>,
    /// In the order of vanishing; also names topics that have come back since.
    order: VecDeque<(Arc<str>, Millis)>,
}

impl Vanished {
    pub(crate) fn new(capacity: usize) -> Vanished {
        Vanished { capacity, by_topic: BTreeMap::new(), order: VecDeque::new() }
    }

    /// `topic` lost its last broker.
    pub(crate) fn remember(&mut self, topic: &Arc<str>, loss: Loss) {
        if self.capacity == 0 {
            return;
        }
        if self.order.len() == self.capacity
            && let Some((oldest, at)) = self.order.pop_front()
            && self.by_topic.get(&oldest).is_some_and(|loss| loss.at == at)
        {
            self.by_topic.remove(&oldest);
        }
        self.order.push_back((Arc::clone(topic), loss.at));
        self.by_topic.insert(Arc::clone(topic), loss);
        assert!(self.by_topic.len() <= self.order.len(), "every topic is in the order");
        assert!(self.order.len() <= self.capacity);
    }

    /// `topic` is back.
    pub(crate) fn forget(&mut self, topic: &str) {
        self.by_topic.remove(topic);
    }

    /// How `topic` vanished, if it did.
    pub(crate) fn get(&self, topic: &str) -> Option<&Loss> {
        self.by_topic.get(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lose(vanished: &mut Vanished, topic: &str, at: i64) {
        vanished.remember(&topic.into(), Loss { broker: "a".into(), at: Millis(at) });
    }

    #[test]
    fn the_topic_that_vanished_longest_ago_makes_room() {
        let mut vanished = Vanished::new(2);
        for (at, topic) in ["T1", "T2", "T3"].into_iter().enumerate() {
            lose(&mut vanished, topic, at as i64);
        }
        assert_eq!(vanished.get("T1"), None);
        assert_eq!(vanished.get("T2").map(|loss| loss.at), Some(Millis(1)));
        assert!(vanished.get("T3").is_some());
    }

    #[test]
    fn a_topic_that_keeps_coming_and_going_takes_no_more_room_than_allowed() {
        let mut vanished = Vanished::new(3);
        for at in 0..100 {
            lose(&mut vanished, "T", at);
            assert_eq!(vanished.get("T").map(|loss| loss.at), Some(Millis(at)));
            vanished.forget("T");
            assert_eq!(vanished.get("T"), None);
        }
        assert_eq!(vanished.order.len(), 3);
        let mut none = Vanished::new(0);
        lose(&mut none, "T", 0);
        assert_eq!(none.get("T"), None);
    }
}
