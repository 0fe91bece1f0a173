//! Consumer groups' settings (`config/subscriptionGroup.json`): who may consume, and how.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use cometmq_protocol::body::client::SubscriptionGroupConfig;
use cometmq_protocol::names::GroupName;
use cometmq_protocol::{DataVersion, Millis};
use cometmq_store::config_file::{self, ConfigFileError};
use cometmq_store::{Disk, DiskError};
use foldhash::{HashMap, HashMapExt};
use serde::{Deserialize, Serialize};

/// Groups that exist from the first start.
const SYSTEM_GROUPS: [&str; 8] = [
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_RMQ_SYS_TRANS",
];

/// All consumer groups of this broker.
#[derive(Debug)]
pub struct Groups {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    auto_create: bool,
    table: RwLock<HashMap<GroupName, Arc<SubscriptionGroupConfig>>>,
    kept: Mutex<Kept>,
    unsaved: AtomicBool,
}

/// What the file holds beside the groups.
#[derive(Debug, Default)]
struct Kept {
    version: DataVersion,
    forbidden: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupTable {
    data_version: DataVersion,
    forbidden_table: BTreeMap<String, serde_json::Value>,
    subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
}

impl Groups {
    /// Loads the groups and adds the system groups that are missing.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf, auto_create: bool) -> Result<Groups, ConfigFileError> {
        let saved: GroupTable = config_file::load(&*disk, &path)?.unwrap_or_default();
        let mut table = HashMap::new();
        for (name, config) in saved.subscription_group_table {
            match GroupName::parse(&name) {
                Ok(name) => drop(table.insert(name, Arc::new(config))),
                Err(error) => {
                    tracing::warn!(group = name, %error, "group left out: illegal name in its file")
                }
            }
        }
        let missing = SYSTEM_GROUPS.iter().filter_map(|name| GroupName::parse(name).ok());
        let missing: Vec<_> = missing.filter(|name| !table.contains_key(name)).collect();
        let unsaved = !missing.is_empty();
        table.extend(missing.into_iter().map(|name| (name.clone(), Arc::new(with_defaults(&name)))));
        Ok(Groups {
            disk,
            path,
            auto_create,
            table: RwLock::new(table),
            kept: Mutex::new(Kept { version: saved.data_version, forbidden: saved.forbidden_table }),
            unsaved: AtomicBool::new(unsaved),
        })
    }

    /// The settings of a group, if it is known.
    pub fn get(&self, name: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        self.table.read().expect("no holder of this lock panics").get(name).cloned()
    }

    /// The settings of a group, which is made with default settings unless `autoCreateSubscriptionGroup` is off.
    pub fn get_or_create(&self, name: &GroupName, now: Millis) -> Option<Arc<SubscriptionGroupConfig>> {
        if let Some(config) = self.get(name.as_str()) {
            return Some(config);
        }
        if !self.auto_create {
            return None;
        }
        tracing::info!(group = %name, "consumer group created automatically");
        let config = Arc::new(with_defaults(name));
        self.table.write().expect("no holder of this lock panics").insert(name.clone(), Arc::clone(&config));
        self.kept.lock().expect("no holder of this lock panics").version.bump(now);
        self.unsaved.store(true, Ordering::Release);
        Some(config)
    }

    /// Writes the groups when they changed since the last time.
    pub(crate) fn save(&self) -> Result<(), DiskError> {
        if !self.unsaved.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let kept = self.kept.lock().expect("no holder of this lock panics");
        let (data_version, forbidden_table) = (kept.version, kept.forbidden.clone());
        drop(kept);
        let table = self.table.read().expect("no holder of this lock panics");
        let groups =
            table.iter().map(|(name, config)| (name.to_string(), SubscriptionGroupConfig::clone(config)));
        let saved = GroupTable { data_version, forbidden_table, subscription_group_table: groups.collect() };
        drop(table);
        let result = config_file::save(&*self.disk, &self.path, &saved);
        if result.is_err() {
            self.unsaved.store(true, Ordering::Release);
        }
        result
    }
}

fn with_defaults(name: &GroupName) -> SubscriptionGroupConfig {
    SubscriptionGroupConfig { group_name: name.to_string(), ..SubscriptionGroupConfig::default() }
}
