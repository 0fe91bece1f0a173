//! Row 8: one flipped bit anywhere in a store directory, thousands of times.
//!
//! A real broker writes a small store, then each trial takes a copy of it in memory with one bit turned over, asks the
//! store's own check for it, opens it, reads every queue, asks for every key, and holds what is served against what was
//! stored. A message that is served must be the one that was stored, and have the key that it was asked for by; whatever
//! else is different must have been found by the check.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cometmq_protocol::message::RecordView;
use cometmq_protocol::message::properties::{Properties, key};
use cometmq_protocol::{LogOffset, Millis};
use cometmq_store::check::{CheckOptions, check};
use cometmq_store::disk::{Crash, write_all_at};
use cometmq_store::index::format::Shape;
use cometmq_store::{Disk, IndexOptions, KeyQuery, MemoryDisk, Store, StoreOptions, config_file};
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
/// Two keys a message: more than one file is full.
const INDEX: Shape = Shape { slots: 200, entries: 300 };
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
    /// Answers that were given by key and are not.
    unfound: u64,
    /// Messages that are served and are not what was stored.
    damaged: u64,
}

impl Effect {
    /// Whether nothing is different for anyone who uses the store.
    fn is_harmless(&self) -> bool {
        !self.refused && !self.changed && self.withheld + self.unfound + self.damaged == 0
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
    Index,
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
    unfound: u64,
    lost: u64,
}

impl Totals {
    fn add(&mut self, effect: Effect) {
        self.harmless += u64::from(effect.is_harmless());
        self.found += u64::from(effect.found);
        self.refused += u64::from(effect.refused);
        self.withheld += u64::from(effect.withheld > 0);
        self.withheld_most = self.withheld_most.max(effect.withheld);
        self.unfound += u64::from(effect.unfound > 0);
        self.lost += u64::from(effect.is_loss());
    }

    fn describe(&self, kind: Kind) -> String {
        format!(
            "{kind:?}: {} harmless, {} found by the check, {} refused, {} with messages withheld (at most {}) and {} not \
             found by key, {} lost",
            self.harmless,
            self.found,
            self.refused,
            self.withheld,
            self.withheld_most,
            self.unfound,
            self.lost
        )
    }
}

/// Lets a broker write a store with several segments, queue files, index files, group offsets, in two lives: the first
/// ends in order, by which the index is in its files, the second in order or by a kill.
async fn make_store(job: &Job, root: &Path, in_order: bool) -> Result<()> {
    let settings = format!(
        "{}mappedFileSizeCommitLog={SEGMENT_BYTES}\nmappedFileSizeConsumeQueue={QUEUE_FILE_BYTES}\n\
         maxHashSlotNum={}\nmaxIndexNum={}\n",
        Flush::Async.setting(),
        INDEX.slots,
        INDEX.entries
    );
    let setup = Setup::new(job, root, &settings)?;
    let (mut ledger, mut tally, read) = (Ledger::default(), Tally::default(), Positions::new(QUEUES));
    for round in 0..2 {
        let (mut broker, wire) = setup.start_with_topic(TOPIC, QUEUES).await?;
        let load = Load {
            fill_bytes_max: 1024,
            consumers: 2,
            seed: job.seed,
            round,
            keyed: true,
            ..Load::new(setup.address(), TOPIC, QUEUES)
        };
        let running = load.start(&read);
        let enough = async {
            while running.acknowledged() < MESSAGES / 2 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        broker.needed_by(enough).await?;
        running.finish(&mut ledger, &mut tally).await?;
        ensure!(tally.problems.is_empty(), "{:?}", tally.problems);
        commit_offsets(&wire, &ledger).await?;
        if in_order || round == 0 {
            let status = broker.stop()?;
            ensure!(status.success(), "the broker did not stop in order ({status})");
        } else {
            broker.needed_by(sleep(FLUSHED)).await?;
            broker.kill()?;
        }
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
    /// Every key of these, at the times of its messages.
    questions: Vec<Question>,
    answers: Answers,
    configs: BTreeMap<PathBuf, Value>,
    /// What the check finds in it as it is: a store that was killed may lack entries.
    findings: u64,
}

/// Every record by topic, queue and offset.
type Served = BTreeMap<(String, i32, i64), Vec<u8>>;
/// A key, and the times within which its messages were stored.
type Question = (String, Millis, Millis);
/// Every record that was found by a key, by that and its place in the log.
type Answers = BTreeMap<(String, LogOffset), Vec<u8>>;

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
        let store = open(&disk.crash(Crash::KeepAll), root)?;
        let served = serve(&store)?;
        let questions = questions(&served)?;
        let original = Original {
            findings: findings(&disk, root)?,
            answers: answer(&store, &questions)?,
            served,
            questions,
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
        // One by each of a message's keys.
        ensure!(
            original.answers.len() == 2 * original.served.len(),
            "{} messages are found by their keys",
            original.answers.len()
        );
        Ok(original)
    }

    /// One trial: the kind of file that was hit, what came of it, and where that was.
    fn flip(&self, chance: &mut Chance) -> Result<(Kind, Effect, String)> {
        let (log, queues, index) = (Kind::Log, Kind::Queues, Kind::Index);
        let kinds = [log, log, log, queues, queues, index, index, Kind::Config, Kind::Rest];
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
        let seen =
            open(disk, &self.root).and_then(|store| Ok((serve(&store)?, answer(&store, &self.questions)?)));
        let Ok((served, answers)) = seen else {
            effect.refused = true;
            return effect;
        };
        let (withheld, damaged) = differences(&self.served, &served);
        let (unfound, wrong) = differences(&self.answers, &answers);
        Effect { withheld, unfound, damaged: damaged + wrong, ..effect }
    }
}

/// How many of the values that were are not, and how many are that were not.
fn differences<K: Ord>(were: &BTreeMap<K, Vec<u8>>, are: &BTreeMap<K, Vec<u8>>) -> (u64, u64) {
    let lacking = were.keys().filter(|key| !are.contains_key(*key)).count();
    let other = are.iter().filter(|(key, value)| were.get(key) != Some(value)).count();
    (lacking as u64, other as u64)
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
    let options = CheckOptions { index_slots: INDEX.slots, ..CheckOptions::new(root) };
    Ok(check(&disk, &options, &mut |_, _| {}, &mut |_| {})?.damaged)
}

fn kind_of(path: &Path) -> Kind {
    let text = path.to_string_lossy();
    if text.contains("/commitlog/") {
        Kind::Log
    } else if text.contains("/consumequeue/") {
        Kind::Queues
    } else if text.contains("/index/") {
        Kind::Index
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

/// Opens the store. An error, here and of those that read from it, is the store's own.
fn open(disk: &MemoryDisk, root: &Path) -> Result<Store> {
    let options = StoreOptions {
        segment_bytes: SEGMENT_BYTES,
        queue_file_bytes: QUEUE_FILE_BYTES,
        index: Some(IndexOptions { shape: INDEX, ..IndexOptions::default() }),
        ..StoreOptions::new(root)
    };
    Ok(Store::open(Arc::new(disk.clone()) as Arc<dyn Disk>, options)?.0)
}

/// Reads all that the queues have.
fn serve(store: &Store) -> Result<Served> {
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

fn questions(served: &Served) -> Result<Vec<Question>> {
    let mut times: BTreeMap<String, (Millis, Millis)> = BTreeMap::new();
    for record in served.values() {
        let record = RecordView::decode(record)?;
        let at = record.store_timestamp;
        for word in Properties(record.properties).get(key::KEYS).unwrap_or_default().split(' ') {
            let (begin, end) = times.entry(word.to_owned()).or_insert((at, at));
            (*begin, *end) = ((*begin).min(at), (*end).max(at));
        }
    }
    Ok(times.into_iter().map(|(word, (begin, end))| (word, begin, end)).collect())
}

/// Asks for messages by key, once the index has read from the log what it lacks.
fn answer(store: &Store, questions: &[Question]) -> Result<Answers> {
    store.flush()?;
    ensure!(store.index_position() >= Some(store.log().written()), "the index does not catch up");
    let mut answers = Answers::new();
    for (word, begin, end) in questions {
        let query = KeyQuery { topic: TOPIC, key: word, begin: *begin, end: *end };
        store.find_by_key(&query, &mut |record| {
            // What cannot be decoded is in no place of the original's.
            let place = RecordView::decode(record).map_or(LogOffset(-1), |record| record.log_offset);
            // The same twice is as wrong as another.
            if let Some(twice) = answers.insert((word.clone(), place), record.to_vec()) {
                answers.insert((word.clone(), LogOffset(-2)), twice);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(answers)
}
