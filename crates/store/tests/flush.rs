//! Queue entries go to their files whatever takes long elsewhere, so that what is only in memory stays little.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;

use cometmq_protocol::message::Record;
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{Millis, QueueId};
use cometmq_store::disk::{Crash, DiskError, DiskFile, DiskOver, Volume};
use cometmq_store::{AppendError, Disk, FlushPolicy, MemoryDisk, Queue, Store, StoreOptions};

/// Queues beside the busy one: more than are synced one by one.
const QUEUES: i32 = 3000;

/// A disk of which the test knows when it makes a file, and when it syncs all of them.
#[derive(Clone, Debug, Default)]
struct Watched {
    disk: MemoryDisk,
    on: Arc<On>,
}

/// What happens on it.
#[derive(Debug, Default)]
struct On {
    /// Gets messages each time that a file is made.
    sender: OnceLock<(Weak<Store>, Arc<Queue>)>,
    /// Most entries that were in memory only when a file was made.
    most: Mutex<usize>,
    /// Tells that all is being synced, and how to let that end.
    syncs: Mutex<Option<Sender<Sender<()>>>>,
}

impl Watched {
    /// From now on a sync of everything waits for who has this.
    fn hold_syncs(&self) -> Receiver<Sender<()>> {
        let (tell, told) = channel();
        *self.on.syncs.lock().unwrap() = Some(tell);
        told
    }

    fn file_is_made(&self) {
        let Some((store, queue)) = self.on.sender.get() else { return };
        let Some(store) = store.upgrade() else { return };
        send(&store, queue, 10);
        let mut most = self.on.most.lock().unwrap();
        *most = store.unwritten_entries().max(*most);
    }
}

impl DiskOver for Watched {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }

    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn DiskFile>, DiskError> {
        if create && path.starts_with("/store/consumequeue/Many") {
            self.file_is_made();
        }
        self.disk.open(path, create)
    }

    fn volume(&self, directory: &Path) -> Result<Option<Arc<dyn Volume>>, DiskError> {
        let volume = self.disk.volume(directory)?.unwrap();
        Ok(Some(Arc::new(WatchedVolume { volume, watched: self.clone() })))
    }
}

#[derive(Debug)]
struct WatchedVolume {
    volume: Arc<dyn Volume>,
    watched: Watched,
}

impl Volume for WatchedVolume {
    fn sync(&self) -> Result<(), DiskError> {
        let tell = self.watched.on.syncs.lock().unwrap().take();
        if let Some(tell) = tell {
            let (release, released) = channel();
            tell.send(release).unwrap();
            released.recv().unwrap();
        }
        self.volume.sync()
    }
}

fn options() -> StoreOptions {
    StoreOptions {
        segment_bytes: 1 << 20,
        queue_file_bytes: 1 << 20,
        flush: FlushPolicy::Async,
        ..StoreOptions::new("/store")
    }
}

fn open(disk: &Watched, options: StoreOptions) -> Arc<Store> {
    Arc::new(Store::open(Arc::new(disk.clone()), options).unwrap().0)
}

fn queue(store: &Store, topic: &str, id: i32) -> Arc<Queue> {
    store.queue_or_create(&TopicName::parse(topic).unwrap(), QueueId(id)).unwrap()
}

fn append(store: &Store, queue: &Arc<Queue>) -> Result<(), AppendError> {
    let host = "127.0.0.1:10911".parse().unwrap();
    let record = Record::plain(queue.topic().as_str(), queue.id(), host, b"hello");
    store.append(queue, &[record], &[0], Millis(1000), &mut Vec::new())?;
    store.write(&mut Vec::new());
    Ok(())
}

/// Sends messages that are durable then.
fn send(store: &Store, queue: &Arc<Queue>, count: usize) {
    (0..count).for_each(|_| append(store, queue).unwrap());
    store.sync(&mut Vec::new()).unwrap();
}

/// A message in each of many queues.
fn send_to_many(store: &Store) {
    (0..QUEUES).for_each(|id| append(store, &queue(store, "Many", id)).unwrap());
    store.sync(&mut Vec::new()).unwrap();
}

#[test]
fn entries_go_to_files_while_the_disk_syncs_others_and_count_as_durable_after_their_own_sync() {
    let watched = Watched::default();
    let store = open(&watched, options());
    send_to_many(&store);
    store.flush_due(Millis(0)).unwrap();
    let busy = queue(&store, "Busy", 0);
    // In memory only when the sync begins.
    send(&store, &busy, 7);
    let told = watched.hold_syncs();
    thread::scope(|scope| {
        let syncing = scope.spawn(|| store.sync_entries(Millis(31_000)));
        let release = told.recv().unwrap();
        send(&store, &busy, 5000);
        assert_eq!(store.unwritten_entries(), 5007);
        store.write_entries(Millis(31_000)).unwrap();
        assert_eq!(store.unwritten_entries(), 0, "nobody waits for the sync");
        release.send(()).unwrap();
        syncing.join().unwrap().unwrap();
    });
    drop(busy);

    let crashed = |crash| Store::open(Arc::new(watched.disk.crash(crash)), options()).unwrap();
    let (after, report) = crashed(Crash::LoseAll);
    assert_eq!(
        (report.records, report.queues),
        (5007, 1),
        "the position is behind what was synced, not further"
    );
    let bounds = |topic, id| {
        let queue = after.queue(topic, QueueId(id)).unwrap().unwrap();
        (queue.min().0, queue.max().0)
    };
    assert_eq!([bounds("Busy", 0), bounds("Many", 7)], [(0, 5007), (0, 1)]);

    for second in 32..300 {
        store.write_entries(Millis(second * 1000)).unwrap();
    }
    assert_eq!(store.loaded_queues(), 1, "the busy one was written after the sync had begun");
    store.sync_entries(Millis(300_000)).unwrap();
    store.write_entries(Millis(311_000)).unwrap();
    assert_eq!(store.loaded_queues(), 0);
    assert_eq!(crashed(Crash::LoseAll).1.records, 0);
}

#[test]
fn a_round_through_many_queues_does_not_let_a_busy_one_wait() {
    let watched = Watched::default();
    let store = open(&watched, options());
    send_to_many(&store);
    let busy = queue(&store, "Busy", 0);
    watched.on.sender.set((Arc::downgrade(&store), Arc::clone(&busy))).unwrap();
    store.write_entries(Millis(0)).unwrap();
    let (sent, most) = (busy.max().0, *watched.on.most.lock().unwrap());
    assert_eq!(sent, i64::from(QUEUES) * 10);
    assert!(most < 10_000, "{most} of {sent} entries were in memory only");
    store.write_entries(Millis(1000)).unwrap();
    assert_eq!(store.unwritten_entries(), 0);
    drop((store, busy));
    let (store, _) = Store::open(Arc::new(watched.disk.crash(Crash::LoseAll)), options()).unwrap();
    assert_eq!(store.queue("Busy", QueueId(0)).unwrap().unwrap().max().0, sent);
    assert!((0..QUEUES).all(|id| queue(&store, "Many", id).max().0 == 1));
}

#[test]
fn messages_are_refused_while_too_many_entries_wait_for_the_disk() {
    let watched = Watched::default();
    let options = StoreOptions { unwritten_entries_max: 100, ..options() };
    let store = open(&watched, options.clone());
    let busy = queue(&store, "Busy", 0);
    // Not durable, so they do not go to files.
    (0..=100).for_each(|_| append(&store, &busy).unwrap());
    store.write_entries(Millis(0)).unwrap();
    assert!(matches!(append(&store, &busy), Err(AppendError::EntriesWait { entries: 101 })));
    store.sync(&mut Vec::new()).unwrap();
    assert!(matches!(append(&store, &busy), Err(AppendError::EntriesWait { entries: 101 })));
    store.write_entries(Millis(1000)).unwrap();
    append(&store, &busy).unwrap();
    assert_eq!(store.unwritten_entries(), 1);
    // Those that recovery found count as well, until they are in files.
    drop((store, busy));
    let store = Store::open(Arc::new(watched.disk.crash(Crash::KeepAll)), options).unwrap().0;
    assert_eq!(store.unwritten_entries(), 102);
    store.write_entries(Millis(0)).unwrap();
    assert_eq!(store.unwritten_entries(), 0);
}
