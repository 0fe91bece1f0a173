//! Row 8: one flipped bit anywhere in a store directory, thousands of times.
//!
//! A real broker writes a small store, then each trial takes a copy of it in memory with one bit turned over, asks the
//! store's own check for it, opens it, reads every queue, and holds what is served against what was stored. A message
//! that is served must be the one that was stored; whatever else is different must have been found by the check.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cometmq_store::check::{CheckOptions, check};
use cometmq_store::disk::{Crash, write_all_at};
use cometmq_store::{Disk, MemoryDisk, Store, StoreOptions, config_file};
use serde_json::Value;
use tokio::time::sleep;

use super::broker::Setup;
use super::job::{Flush, Job, Outcome};
use super::ledger::Ledger;
use super::load::{Load, Positions, Tally};
use crate::chance::Chance;
use crate::process;
use crate::wire::Wire;

const TOPIC: &str = "rot";
const QUEUES: i32 = 4;
/// Flips in the two forms.
const TIMES: (u32, u32) = (400, 10_000);
const SEGMENT_BYTES: i64 = 64 << 10;
const QUEUE_FILE_BYTES: i64 = 1000;
/// Messages in the store, about.
const MESSAGES: i64 = 400;
/// How often the broker writes its queues: after that everything is in files.
const FLUSHED: Duration = Duration::from_millis(1500);
const THREADS: u64 = 2;
/// Units read at once.
const UNITS: usize = 64;

/// What one flip did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Effect {
    /// The store's own check tells of it.
    found: bool,
    /// The store said what is wrong and did not open, or a config file did not.
    refused: bool,
    /// A config file says something else.
    changed: bool,
    /// Messages that were stored and are not served.
    withheld: u64,
    /// Messages that are served and are not what was stored.
    damaged: u64,
}

impl Effect {
    /// Whether nothing is different for anyone who uses the store.
    fn is_harmless(&self) -> bool {
        !self.refused && !self.changed && self.withheld + self.damaged == 0
    }

    /// What must not be: damage that is served, or that the check does not find.
    fn is_loss(&self) -> bool {
        self.damaged > 0 || !(self.found || self.is_harmless())
    }
}

/// Kinds of files, each hit equally often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Log,
    Queues,
    Config,
    Rest,
}

/// Makes a store, flips bits, tells what came of it.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("flipped bits");
    let root = job.scratch.join("data");
    make_store(job, &root, true).await?;
    let in_order = Original::load(&root)?;
    let crashed = job.scratch.join("crashed");
    make_store(job, &crashed, false).await?;
    let crashed = Original::load(&crashed)?;
    let times = u64::from(job.times(TIMES.0, TIMES.1));
    let originals = [&in_order, &crashed];
    let seed = job.seed;
    let found = tokio::task::block_in_place(|| {
        thread::scope(|scope| {
            let worker =
                |number| move || flip_many(originals, seed, (number..times).step_by(THREADS as usize));
            let workers: Vec<_> = (0..THREADS).map(|number| scope.spawn(worker(number))).collect();
            let results = workers.into_iter().map(|worker| worker.join().expect("the trials do not panic"));
            results.collect::<Result<Vec<_>>>()
        })
    })?;
    let mut totals: BTreeMap<Kind, Totals> = BTreeMap::new();
    for (kind, effect, place) in found.into_iter().flatten() {
        outcome.times += 1;
        totals.entry(kind).or_default().add(effect);
        outcome.lost += u64::from(effect.is_loss());
        outcome.check(!effect.is_loss(), || format!("{place}: {effect:?}"));
    }
    for (kind, totals) in &totals {
        outcome.figure(totals.describe(*kind));
    }
    Ok(outcome)
}

#[derive(Debug, Default)]
struct Totals {
    harmless: u64,
    found: u64,
    refused: u64,
    withheld: u64,
    withheld_most: u64,
    lost: u64,
}

impl Totals {
    fn add(&mut self, effect: Effect) {
        self.harmless += u64::from(effect.is_harmless());
        self.found += u64::from(effect.found);
        self.refused += u64::from(effect.refused);
        self.withheld += u64::from(effect.withheld > 0);
        self.withheld_most = self.withheld_most.max(effect.withheld);
        self.lost += u64::from(effect.is_loss());
    }

    fn describe(&self, kind: Kind) -> String {
        format!(
            "{kind:?}: {} harmless, {} found by the check, {} refused, {} with messages withheld (at most {}), {} lost",
            self.harmless, self.found, self.refused, self.withheld, self.withheld_most, self.lost
        )
    }
}

/// Lets a broker write a store with several segments, queue files, group offsets; closed in order or killed.
async fn make_store(job: &Job, root: &Path, in_order: bool) -> Result<()> {
    let settings = format!(
        "{}mappedFileSizeCommitLog={SEGMENT_BYTES}\nmappedFileSizeConsumeQueue={QUEUE_FILE_BYTES}\n",
        Flush::Async.setting()
    );
    let setup = Setup::new(job, root, &settings)?;
    let (mut broker, wire) = setup.start_with_topic(TOPIC, QUEUES).await?;
    let load = Load {
        fill_bytes_max: 1024,
        consumers: 2,
        seed: job.seed,
        ..Load::new(setup.address(), TOPIC, QUEUES)
    };
    let running = load.start(&Positions::new(QUEUES));
    let enough = async {
        while running.acknowledged() < MESSAGES {
            sleep(Duration::from_millis(1)).await;
        }
    };
    broker.needed_by(enough).await?;
    let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
    running.finish(&mut ledger, &mut tally).await?;
    ensure!(tally.problems.is_empty(), "{:?}", tally.problems);
    commit_offsets(&wire, &ledger).await?;
    if in_order {
        let status = broker.stop()?;
        ensure!(status.success(), "the broker did not stop in order ({status})");
    } else {
        broker.needed_by(sleep(FLUSHED)).await?;
        broker.kill()?;
    }
    Ok(())
}

async fn commit_offsets(wire: &Wire, ledger: &Ledger) -> Result<()> {
    for queue in 0..QUEUES {
        let next = ledger.entries().filter(|entry| entry.stored.queue == queue).count();
        wire.commit_offset(TOPIC, queue, next as i64).await?;
    }
    Ok(())
}

/// A store as it was written.
struct Original {
    disk: MemoryDisk,
    root: PathBuf,
    /// Path, kind, and how many of its first bytes are in use.
    files: Vec<(PathBuf, Kind, u64)>,
    served: Served,
    configs: BTreeMap<PathBuf, Value>,
    /// What the check finds in it as it is: a store that was killed may lack entries.
    findings: u64,
}

/// Every record by topic, queue and offset.
type Served = BTreeMap<(String, i32, i64), Vec<u8>>;

impl Original {
    fn load(root: &Path) -> Result<Original> {
        let disk = MemoryDisk::new();
        let mut files = Vec::new();
        let mut configs = BTreeMap::new();
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            disk.create_directory(&directory)?;
            let entries = std::fs::read_dir(&directory);
            for entry in entries.with_context(|| format!("cannot list {}", directory.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let bytes =
                    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                write_all_at(&*disk.open(&path, true)?, &bytes, 0)?;
                // Half of what is behind the last used byte counts as well: rot does not ask.
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
                let used = (used + used / 16).min(bytes.len() as u64);
                if used > 0 && path.file_name().is_some_and(|name| name != "lock") {
                    let kind = kind_of(&path);
                    files.push((path, kind, used));
                }
            }
        }
        // Everything durable: only the flip is to be different.
        for (path, _, _) in &files {
            disk.open(path, false)?.sync()?;
        }
        files.sort();
        for (path, kind, _) in &files {
            // A backup is only read when the file beside it is no good.
            if *kind == Kind::Config && path.extension().is_some_and(|extension| extension == "json") {
                let value = config_file::load::<Value>(&disk, path)?;
                configs.insert(path.clone(), value.context("a config file has a value")?);
            }
        }
        let original = Original {
            findings: findings(&disk, root)?,
            served: serve(&disk.crash(Crash::KeepAll), root)?,
            disk,
            root: root.to_owned(),
            files,
            configs,
        };
        ensure!(
            original.served.len() as i64 >= MESSAGES,
            "only {} messages are served",
            original.served.len()
        );
        Ok(original)
    }

    /// One trial: the kind of file that was hit, what came of it, and where that was.
    fn flip(&self, chance: &mut Chance) -> Result<(Kind, Effect, String)> {
        let kinds = [Kind::Log, Kind::Log, Kind::Log, Kind::Queues, Kind::Queues, Kind::Config, Kind::Rest];
        let kind = kinds[chance.within(0..kinds.len() as u64) as usize];
        let files: Vec<_> = self.files.iter().filter(|(_, of, _)| *of == kind).collect();
        ensure!(!files.is_empty(), "the store has no file of kind {kind:?}");
        let (path, _, used) = files[chance.within(0..files.len() as u64) as usize];
        let (at, bit) = (chance.within(0..*used), chance.within(0..8));
        let place = format!("{} byte {at} bit {bit}", path.display());
        let disk = self.disk.crash(Crash::KeepAll);
        let file = disk.open(path, false)?;
        let mut byte = [0];
        file.read_at(&mut byte, at)?;
        write_all_at(&*file, &[byte[0] ^ 1 << bit], at)?;
        file.sync()?;
        drop(file);
        Ok((kind, self.judge(&disk, path), place))
    }

    fn judge(&self, disk: &MemoryDisk, flipped: &Path) -> Effect {
        let found = findings(disk, &self.root).is_ok_and(|findings| findings > self.findings);
        let mut effect = Effect { found, ..Effect::default() };
        if let Some(value) = self.configs.get(flipped) {
            match config_file::load::<Value>(disk, flipped) {
                Ok(found) => effect.changed = !found.is_some_and(|found| has_all(&found, value)),
                Err(_) => effect.refused = true,
            }
        }
        let Ok(served) = serve(disk, &self.root) else {
            effect.refused = true;
            return effect;
        };
        for (place, record) in &self.served {
            match served.get(place) {
                Some(found) if found == record => {}
                Some(_) => effect.damaged += 1,
                None => effect.withheld += 1,
            }
        }
        effect.damaged += served.keys().filter(|place| !self.served.contains_key(*place)).count() as u64;
        effect
    }
}

/// Whether `found` says all that `value` does. What it says beyond that nobody reads: the checksum of the file is a key
/// of it, and under another name it is one more that is ignored.
fn has_all(found: &Value, value: &Value) -> bool {
    match value.as_object() {
        Some(fields) => fields.iter().all(|(name, field)| found.get(name) == Some(field)),
        None => found == value,
    }
}

/// How much the store's own check finds.
fn findings(disk: &MemoryDisk, root: &Path) -> Result<u64> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Ok(check(&disk, &CheckOptions::new(root), &mut |_, _| {}, &mut |_| {})?.damaged)
}

fn kind_of(path: &Path) -> Kind {
    let text = path.to_string_lossy();
    if text.contains("/commitlog/") {
        Kind::Log
    } else if text.contains("/consumequeue/") {
        Kind::Queues
    } else if path.extension().is_some_and(|extension| extension == "json" || extension == "bak") {
        Kind::Config
    } else {
        Kind::Rest
    }
}

fn flip_many(
    originals: [&Original; 2],
    seed: u64,
    numbers: impl Iterator<Item = u64>,
) -> Result<Vec<(Kind, Effect, String)>> {
    let mut found = Vec::new();
    for number in numbers {
        if process::interrupted() {
            bail!("interrupted");
        }
        let mut chance = Chance::of(seed.wrapping_add(number.wrapping_mul(0x9E37_79B9)));
        let original = originals[chance.within(0..2) as usize];
        found.push(original.flip(&mut chance).with_context(|| format!("flip {number}"))?);
    }
    Ok(found)
}

/// Opens the store and reads all that it has. An error is the store's own.
fn serve(disk: &MemoryDisk, root: &Path) -> Result<Served> {
    let options = StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        queue_file_bytes: QUEUE_FILE_BYTES,
        ..StoreOptions::new(root)
    };
    let (store, _) = Store::open(Arc::new(disk.clone()) as Arc<dyn Disk>, options)?;
    let mut served = Served::new();
    let mut scratch = Vec::new();
    for queue in store.queues()? {
        let mut offset = queue.min();
        while offset < queue.max() {
            let mut units = Vec::new();
            queue.read(offset, UNITS, &mut units)?;
            let mut read = 0;
            store.read(&units, &mut scratch, &mut |record| {
                let place = (queue.topic().as_str().to_owned(), queue.id().0, (offset + read).0);
                served.insert(place, record.to_vec());
                read += 1;
                true
            })?;
            // Behind a record that is not there a reader goes on with the next.
            offset = offset + read.max(1);
        }
    }
    Ok(served)
}
