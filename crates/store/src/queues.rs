//! All consume queues by topic and number.

use std::sync::{Arc, RwLock};

use cometmq_protocol::QueueId;
use cometmq_protocol::names::TopicName;
use foldhash::{HashMap, HashMapExt};

use crate::consume_queue::{Loaded, Queue, QueueFiles};

/// All consume queues.
#[derive(Debug)]
pub(crate) struct Queues {
    files: Arc<QueueFiles>,
    topics: RwLock<HashMap<TopicName, HashMap<QueueId, Arc<Queue>>>>,
}

impl Queues {
    pub fn new(files: Arc<QueueFiles>) -> Queues {
        Queues { files, topics: RwLock::new(HashMap::new()) }
    }

    pub fn get(&self, topic: &str, id: QueueId) -> Option<Arc<Queue>> {
        self.topics.read().expect(POISONED).get(topic)?.get(&id).cloned()
    }

    pub fn get_or_create(&self, topic: &TopicName, id: QueueId) -> Arc<Queue> {
        if let Some(queue) = self.get(topic.as_str(), id) {
            return queue;
        }
        let mut topics = self.topics.write().expect(POISONED);
        let queue = topics.entry(topic.clone()).or_default().entry(id);
        Arc::clone(queue.or_insert_with(|| {
            Arc::new(Queue::new(topic.clone(), id, Arc::clone(&self.files), Loaded::default()))
        }))
    }

    pub fn insert(&self, topic: TopicName, id: QueueId, loaded: Loaded) {
        let queue = Arc::new(Queue::new(topic.clone(), id, Arc::clone(&self.files), loaded));
        self.topics.write().expect(POISONED).entry(topic).or_default().insert(id, queue);
    }

    pub fn all(&self) -> Vec<Arc<Queue>> {
        self.topics.read().expect(POISONED).values().flat_map(|queues| queues.values().cloned()).collect()
    }
}

const POISONED: &str = "no holder of this lock panics";
