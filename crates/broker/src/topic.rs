//! Topics: which there are, how they come to be, and how they are kept (`config/topics.json`).
//!
//! A change is durable before it is used. The first ones of a second are written to the file at once; of those that
//! follow each goes to a [`journal`] only, and all of them to the file a second later.

mod journal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use cometmq_protocol::body::json;
use cometmq_protocol::body::registration::TopicTable;
use cometmq_protocol::body::topic::{TopicFilterType, permission};
use cometmq_protocol::headers::topic::{CreateTopicHeader, TopicHeader};
use cometmq_protocol::message::properties;
use cometmq_protocol::names::{AUTO_CREATE_TOPIC, PROTECTED_TOPICS, RETRY_PREFIX, TopicName};
use cometmq_protocol::{DataVersion, Millis, Reply, ResponseCode, TopicConfig};
use cometmq_store::config_file::{self, ConfigFileError};
use cometmq_store::{Disk, DiskError};
use foldhash::{HashMap, HashMapExt, HashSet};

use crate::effects::Effects;
use journal::Journal;

/// Time in which the whole table is written for so many changes.
const SAVE_INTERVAL_MS: i64 = 1000;
/// Changes in that time for which it is: a Java broker that takes the directory of a killed one looks nowhere else, so
/// only very many go to the journal.
const SAVES_MAX: u32 = 16;
/// Names that a Java broker gives to light queues.
const LIGHT_QUEUE_PREFIX: &str = "%LMQ%";
/// Most queues that a topic may have on one broker.
const QUEUES_MAX: i32 = 65_536;

/// A topic in use.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// Its settings.
    pub config: TopicConfig,
}

impl Topic {
    /// Why messages of this topic are neither taken nor given, if so.
    ///
    /// A Java broker keeps those of a batch topic in queues of another form and does not start when it finds a plain
    /// one beside them. A light queue is filled by properties of messages of other topics, which recovery believes: a
    /// message of its own would have to share its offsets with them.
    pub(crate) fn unserved(&self) -> Option<String> {
        let name = &self.name;
        if self.config.attributes.get("queue.type").is_some_and(|kind| kind == "BatchCQ") {
            return Some(format!("topic[{name}] has queue.type=BatchCQ, which is not part of this version"));
        }
        let light = name.as_str().starts_with(LIGHT_QUEUE_PREFIX);
        light.then(|| format!("topic[{name}] is a light queue, which is not part of this version"))
    }
}

/// Settings for the topics that a broker makes by itself.
#[derive(Clone, Debug)]
pub struct TopicRules {
    /// `brokerClusterName`.
    pub cluster_name: String,
    /// `brokerName`.
    pub broker_name: String,
    /// `autoCreateTopicEnable`.
    pub auto_create: bool,
    /// `defaultTopicQueueNums`.
    pub default_queues: i32,
    /// `clusterTopicEnable`.
    pub cluster_topic: bool,
    /// `brokerTopicEnable`.
    pub broker_topic: bool,
    /// `traceTopicEnable`.
    pub trace_topic: bool,
}

/// All topics of this broker.
#[derive(Debug)]
pub struct Topics {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    table: RwLock<HashMap<TopicName, Arc<Topic>>>,
    system: HashSet<TopicName>,
    version: Mutex<DataVersion>,
    /// One change at a time, so that an older state never replaces a newer one.
    changing: Mutex<Changing>,
}

/// How far the file is behind.
#[derive(Debug)]
struct Changing {
    /// What the file lacks.
    journal: Journal,
    /// When the file was first written, or an attempt at it made, since it had rested.
    saved_at: Option<Millis>,
    /// How often it was written since, for one change each.
    saves: u32,
}

impl Changing {
    /// The file was not written for some time.
    fn is_rested(&self, now: Millis) -> bool {
        self.saved_at.is_none_or(|at| !(0..SAVE_INTERVAL_MS).contains(&now.0.saturating_sub(at.0)))
    }
}

impl Topics {
    /// Loads the topics of the store in `root` and makes the system topics that are missing.
    pub fn open(
        disk: Arc<dyn Disk>,
        root: &Path,
        rules: &TopicRules,
        now: Millis,
    ) -> Result<Topics, ConfigFileError> {
        let path = root.join("config/topics.json");
        let saved: Option<(TopicTable, bool)> = config_file::load_told(&*disk, &path)?;
        let (mut saved, is_ours) = saved.unwrap_or_default();
        let (journal, changes) = Journal::open(Arc::clone(&disk), root.join("cometmq/topics"))?;
        for change in changes {
            // What another broker wrote into the file since is newer.
            if is_ours || !saved.topic_config_table.contains_key(&change.topic_name) {
                saved.topic_config_table.insert(change.topic_name.clone(), change);
            }
        }
        let mut table = HashMap::new();
        for (name, config) in saved.topic_config_table {
            match TopicName::parse(&name) {
                Ok(name) => drop(table.insert(name.clone(), Arc::new(Topic { name, config }))),
                Err(error) => {
                    tracing::warn!(topic = name, %error, "topic left out: illegal name in topics.json")
                }
            }
        }
        let topics = Topics {
            disk,
            path,
            table: RwLock::new(table),
            system: system_topics(rules)
                .iter()
                .filter_map(|c| TopicName::parse(&c.topic_name).ok())
                .collect(),
            version: Mutex::new(saved.data_version),
            changing: Mutex::new(Changing { journal, saved_at: None, saves: 0 }),
        };
        let mut changing = topics.changing.lock().expect(POISONED);
        let mut missing = !changing.journal.is_empty();
        for config in system_topics(rules) {
            let name = TopicName::parse(&config.topic_name);
            let Ok(name) = name else { continue };
            let mut table = topics.table.write().expect(POISONED);
            missing |= !table.contains_key(&name);
            table.entry(name.clone()).or_insert_with(|| Arc::new(Topic { name, config }));
        }
        if missing {
            topics.version.lock().expect(POISONED).bump(now);
            topics.save(&topics.announced(permission::READ_WRITE))?;
            changing.journal.clear()?;
        }
        drop(changing);
        Ok(topics)
    }

    /// A topic by name.
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.table.read().expect(POISONED).get(name).cloned()
    }

    /// Whether the broker itself made the topic: a clean-up of queues leaves it alone.
    pub(crate) fn is_system(&self, name: &TopicName) -> bool {
        self.system.contains(name)
    }

    /// All topics with the version of the table, as name servers are told.
    pub fn announced(&self, broker_permission: i32) -> TopicTable {
        let data_version = *self.version.lock().expect(POISONED);
        let table = self.table.read().expect(POISONED);
        let masked = |topic: &Arc<Topic>| {
            let mut config = topic.config.clone();
            config.perm &= broker_permission | permission::INHERIT;
            (topic.name.to_string(), config)
        };
        TopicTable { data_version, topic_config_table: table.values().map(masked).collect() }
    }

    /// Creates a topic or changes it, and keeps that durably before returning.
    pub fn put(&self, topic: Topic, now: Millis, effects: &mut Effects) -> Result<Arc<Topic>, DiskError> {
        let mut changing = self.changing.lock().expect(POISONED);
        self.keep(&mut changing, topic, now, effects)
    }

    /// As [`Topics::put`].
    fn keep(
        &self,
        changing: &mut Changing,
        topic: Topic,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<Arc<Topic>, DiskError> {
        let topic = Arc::new(topic);
        if self.get(topic.name.as_str()).is_some_and(|old| old.config == topic.config) {
            return Ok(topic);
        }
        // Kept first: nobody uses a topic that may be gone after a restart.
        if changing.journal.is_empty() && changing.is_rested(now) {
            (changing.saved_at, changing.saves) = (Some(now), 0);
        }
        if changing.journal.is_empty() && changing.saves < SAVES_MAX {
            let mut saved = self.announced(permission::READ_WRITE);
            saved.data_version.bump(now);
            saved.topic_config_table.insert(topic.name.to_string(), topic.config.clone());
            self.save(&saved)?;
            changing.saves += 1;
        } else {
            changing.journal.add(&topic.config)?;
        }
        self.table.write().expect(POISONED).insert(topic.name.clone(), Arc::clone(&topic));
        self.version.lock().expect(POISONED).bump(now);
        effects.announce = true;
        Ok(topic)
    }

    /// Writes to the file what is only in the journal, if that is due at `now`.
    pub(crate) fn save_due(&self, now: Millis) -> Result<(), DiskError> {
        let mut changing = self.changing.lock().expect(POISONED);
        if changing.journal.is_empty() || !changing.is_rested(now) {
            return Ok(());
        }
        changing.saved_at = Some(now);
        self.save(&self.announced(permission::READ_WRITE))?;
        changing.journal.clear()
    }

    fn save(&self, saved: &TopicTable) -> Result<(), DiskError> {
        config_file::save(&*self.disk, &self.path, saved)
    }

    /// The topic `name`, made if need be from the template that the producer names: RocketMQ's automatic creation.
    /// `None` when it is unknown and may not be made.
    pub fn get_or_auto_create(
        &self,
        name: &TopicName,
        template: &str,
        queues_wanted: i32,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<Option<Arc<Topic>>, DiskError> {
        // Of two that make it at once, the second finds what the first made.
        let mut changing = self.changing.lock().expect(POISONED);
        if let Some(topic) = self.get(name.as_str()) {
            return Ok(Some(topic));
        }
        let from_template =
            self.get(template).filter(|template| template.config.permits(permission::INHERIT));
        let config = match from_template {
            Some(template) => {
                let queues = queues_wanted.min(template.config.write_queue_nums).max(1);
                TopicConfig::new(name.as_str(), queues, template.config.perm & !permission::INHERIT)
            }
            None if name.as_str().starts_with(RETRY_PREFIX) => {
                TopicConfig::new(name.as_str(), 1, permission::READ_WRITE)
            }
            None => return Ok(None),
        };
        tracing::info!(topic = %name, queues = config.write_queue_nums, "topic created automatically");
        self.keep(&mut changing, Topic { name: name.clone(), config }, now, effects).map(Some)
    }

    /// Code 17: creates a topic or changes it on request.
    pub(crate) fn create(&self, now: Millis, header: &CreateTopicHeader<'_>, effects: &mut Effects) -> Reply {
        let invalid = |remark: String| Reply::refuse(ResponseCode::InvalidParameter, remark);
        let name = match TopicName::parse(&header.topic) {
            Ok(name) => name,
            Err(error) => return invalid(error.to_string()),
        };
        if PROTECTED_TOPICS.contains(&name.as_str()) || name.as_str() == AUTO_CREATE_TOPIC {
            return invalid(format!("The topic[{name}] is conflict with system topic."));
        }
        let queues = [header.read_queue_nums, header.write_queue_nums];
        if queues.iter().any(|queues| !(1..=QUEUES_MAX).contains(queues)) {
            return invalid(format!(
                "a topic has from 1 to {QUEUES_MAX} read queues and as many write queues"
            ));
        }
        if !(1..=7).contains(&header.perm) {
            return invalid(format!(
                "the permission {} is none of 2 (write), 4 (read), 6 (both)",
                header.perm
            ));
        }
        let old = self.get(name.as_str());
        let mut attributes = old.map(|topic| topic.config.attributes.clone()).unwrap_or_default();
        if let Err(remark) = change_attributes(&mut attributes, header.attributes.as_deref().unwrap_or("")) {
            return invalid(remark);
        }
        let config = TopicConfig {
            attributes,
            order: header.order,
            perm: header.perm,
            read_queue_nums: header.read_queue_nums,
            topic_filter_type: match header.topic_filter_type.as_ref() {
                "MULTI_TAG" => TopicFilterType::MultiTag,
                _ => TopicFilterType::SingleTag,
            },
            topic_name: name.to_string(),
            topic_sys_flag: header.topic_sys_flag,
            write_queue_nums: header.write_queue_nums,
        };
        match self.put(Topic { name, config }, now, effects) {
            Ok(_) => Reply::success(),
            Err(error) => Reply::refuse(ResponseCode::SystemError, error.to_string()),
        }
    }

    /// Code 351: the settings of a topic.
    pub(crate) fn show(&self, header: &TopicHeader<'_>) -> Reply {
        match self.get(&header.topic) {
            Some(topic) => Reply::success().with_body(json::to_vec(&topic.config)),
            None => Reply::refuse(
                ResponseCode::TopicNotExist,
                format!("No topic in this broker. topic: {}", header.topic),
            ),
        }
    }
}

const POISONED: &str = "no holder of this lock panics";

/// Applies `+key=value,-key` to a topic's attributes.
fn change_attributes(attributes: &mut BTreeMap<String, String>, changes: &str) -> Result<(), String> {
    for change in changes.split(',').map(str::trim).filter(|change| !change.is_empty()) {
        let legal =
            |text: &str| !text.is_empty() && !text.bytes().any(|b| b == properties::NAME_END || b == b' ');
        match (change.strip_prefix('+').and_then(|set| set.split_once('=')), change.strip_prefix('-')) {
            (Some((key, value)), _) if legal(key) && legal(value) => {
                if (key, value) == ("queue.type", "BatchCQ")
                    || (key, value) == ("cleanup.policy", "COMPACTION")
                {
                    return Err(format!("{key}={value} is not part of this version"));
                }
                attributes.insert(key.to_owned(), value.to_owned());
            }
            (_, Some(key)) if legal(key) => drop(attributes.remove(key)),
            _ => return Err(format!("the attribute change `{change}` is neither +key=value nor -key")),
        }
    }
    Ok(())
}

/// The topics that a broker of release 5.3.3 has from its first start.
fn system_topics(rules: &TopicRules) -> Vec<TopicConfig> {
    use permission::{INHERIT, READ_WRITE};
    let cluster = &rules.cluster_name;
    let broker = &rules.broker_name;
    let perm = |enabled: bool| if enabled { INHERIT | READ_WRITE } else { INHERIT };
    let mut topics = vec![
        TopicConfig::new("SELF_TEST_TOPIC", 1, READ_WRITE),
        TopicConfig::new("BenchmarkTest", 1024, READ_WRITE),
        TopicConfig::new(cluster, if rules.cluster_topic { 16 } else { 1 }, perm(rules.cluster_topic)),
        TopicConfig::new(broker, 1, perm(rules.broker_topic)),
        TopicConfig::new("OFFSET_MOVED_EVENT", 1, READ_WRITE),
        TopicConfig::new("SCHEDULE_TOPIC_XXXX", 18, READ_WRITE),
        TopicConfig::new(&format!("{cluster}_REPLY_TOPIC"), 1, READ_WRITE),
        TopicConfig::new(&format!("rmq_sys_REVIVE_LOG_{cluster}"), 8, READ_WRITE),
        TopicConfig::new(&format!("rmq_sys_SYNC_BROKER_MEMBER_{broker}"), 1, INHERIT),
        TopicConfig::new("RMQ_SYS_TRANS_HALF_TOPIC", 1, READ_WRITE),
        TopicConfig::new("RMQ_SYS_TRANS_OP_HALF_TOPIC", 1, READ_WRITE),
        TopicConfig::new("rmq_sys_wheel_timer", 1, READ_WRITE),
    ];
    if rules.auto_create {
        topics.push(TopicConfig::new(AUTO_CREATE_TOPIC, rules.default_queues, INHERIT | READ_WRITE));
    }
    if rules.trace_topic {
        topics.push(TopicConfig::new("RMQ_SYS_TRACE_TOPIC", 1, READ_WRITE));
    }
    topics
}
