//! The broker's shell: sockets, clock, and the threads that sync, flush and look after what is due.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use cometmq_broker::query::QueryRules;
use cometmq_broker::retention::RetentionRules;
use cometmq_broker::{Broker, BrokerConfig, ColdPull, Delivery, Effects, Memory, SlowRequest, Turn};
use cometmq_protocol::{ConnectionId, Frame, LogOffset};
use cometmq_remoting::{CloseReason, Connection, Handler, Out, Server, ServerOptions, Workers, push_all};
use cometmq_store::index::format::Shape;
use cometmq_store::scrub::{ScrubCursor, ScrubStep};
use cometmq_store::{
    FlushPolicy, IndexOptions, RealDisk, RecoveryReport, StoreOptions, UNWRITTEN_ENTRIES_MAX,
};
use tokio::sync::{Notify, watch};

use super::cold::{COLD_THREADS, DiskWork, SLOW_THREADS, UNTAKEN_BYTES_MAX};
use super::pace::{Governor, Seen};
use super::registration::Registration;
use super::{machine, wait, workers};
use crate::clock;
use crate::config::{BrokerRole as Role, BrokerSettings, FlushDiskType};

/// Bytes of replies after which a connection's further requests wait until these are written.
const OUT_BYTES_MAX: usize = 1024 * 1024;
/// Time between two looks at what is due.
const TICK: Duration = Duration::from_millis(100);
/// Time between two steps of the scrub.
const SCRUB_STEP: Duration = Duration::from_millis(250);
/// Time between two rounds of the scrub over the whole store.
const SCRUB_REST: Duration = Duration::from_secs(3600);
/// Time between two flushes of consume queues, and between two looks whether they are to be synced.
const QUEUE_FLUSH: Duration = Duration::from_secs(1);
/// Time between two lines that say that old messages give way.
const PACED_LINES: Duration = Duration::from_secs(60);

thread_local! {
    /// What this worker's last turn left to the next.
    static MEMORY: Cell<Memory> = Cell::default();
}

/// A broker that listens.
pub(super) struct BrokerRole {
    server: Server,
    shell: Arc<Shell>,
    registration: Registration,
    threads: Vec<JoinHandle<()>>,
    stopped: watch::Sender<bool>,
    boot_line: String,
}

/// What handler, threads and registration share.
pub(super) struct Shell {
    pub(super) broker: Broker,
    connections: RwLock<HashMap<ConnectionId, Connection>>,
    /// Topics changed: name servers are to be told.
    pub(super) announce: Notify,
    cold: DiskWork<ConnectionId, ColdPull>,
    slow: DiskWork<ConnectionId, SlowRequest>,
    /// Threads that may have answers in hand.
    answering: AtomicUsize,
    sync: Signal,
    housekeeping: Signal,
    saving: Signal,
    flushing: Signal,
    syncing: Signal,
    scrubbing: Signal,
    retention: RetentionRules,
}

/// A thread that is counted, until this is dropped.
struct Answering<'a>(&'a AtomicUsize);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Wakes a thread: because there is work, or because it is to end.
#[derive(Default)]
struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Default)]
struct SignalState {
    wanted: bool,
    end: bool,
    /// The thread sleeps: waking it is a call to the kernel, which who comes after the first is spared.
    asleep: bool,
}

impl Signal {
    fn want(&self) {
        let mut state = self.state.lock().expect(POISONED);
        state.wanted = true;
        let wake = std::mem::take(&mut state.asleep);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    fn end(&self) {
        self.state.lock().expect(POISONED).end = true;
        self.changed.notify_one();
    }

    /// Sleeps until there is work or `at_most` is over. False when the thread is to end.
    fn wait(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock().expect(POISONED);
        state.asleep = true;
        let idle = |state: &mut SignalState| !state.wanted && !state.end;
        let (mut state, _) = self.changed.wait_timeout_while(state, at_most, idle).expect(POISONED);
        (state.asleep, state.wanted) = (false, false);
        !state.end
    }
}

pub(super) const POISONED: &str = "no holder of this lock panics";

impl BrokerRole {
    /// Opens the store and listens. `own_namesrv` is the name server in the same process.
    pub(super) async fn start(
        settings: &BrokerSettings,
        own_namesrv: Option<SocketAddr>,
    ) -> Result<BrokerRole> {
        let mut name_servers: Vec<String> = own_namesrv.iter().map(SocketAddr::to_string).collect();
        name_servers.extend(settings.name_servers.iter().map(ToString::to_string));
        let mut seen = HashSet::new();
        name_servers.retain(|address| seen.insert(address.clone()));
        if name_servers.is_empty() {
            tracing::warn!("no name server: clients find this broker only once namesrvAddr or -n names one");
        }
        let advertised = advertised(settings, own_namesrv, &name_servers)?;
        // The ports first: a port in use must not touch the store.
        let vip = SocketAddr::new(settings.bind_address, settings.listen_port - 2);
        let main = SocketAddr::new(settings.bind_address, settings.listen_port);
        let options = ServerOptions {
            connections_max: settings.connections_max as usize,
            idle_timeout: Duration::from_secs(settings.connection_idle_s_max),
            ..ServerOptions::default()
        };
        let server = Server::bind(&[main, vip], options).context(
            "broker: choose another port, by --broker-port of serve or listenPort in the file of -c \
             (listenPort - 2 is used as well)",
        )?;
        let config = broker_config(settings, advertised);
        let (broker, report) =
            Broker::open(Arc::new(RealDisk), store_options(settings), config, clock::now())?;
        log_recovery(&report);
        let shell = Arc::new(Shell {
            broker,
            connections: RwLock::default(),
            announce: Notify::new(),
            cold: DiskWork::default(),
            slow: DiskWork::default(),
            answering: AtomicUsize::new(0),
            sync: Signal::default(),
            housekeeping: Signal::default(),
            saving: Signal::default(),
            flushing: Signal::default(),
            syncing: Signal::default(),
            scrubbing: Signal::default(),
            retention: retention_rules(settings),
        });
        let threads = spawn_threads(&shell, settings)?;
        let registration = Registration::new(Arc::clone(&shell), settings, name_servers.clone());
        let boot_line = format!(
            "The broker[{}, {advertised}] boot success. serializeType=JSON and name server is {}\n  \
             listening  {main} (VIP channel {vip})\n  data       {} ({})",
            settings.broker_name,
            if name_servers.is_empty() { "none".to_owned() } else { name_servers.join(";") },
            std::path::absolute(&settings.store_root)
                .unwrap_or_else(|_| settings.store_root.clone())
                .display(),
            match settings.flush_disk_type {
                FlushDiskType::AsyncFlush =>
                    "ASYNC_FLUSH: an acknowledged message survives the end of this process",
                FlushDiskType::SyncFlush => "SYNC_FLUSH: an acknowledged message survives a power cut",
            },
        );
        Ok(BrokerRole { server, shell, registration, threads, stopped: watch::channel(false).0, boot_line })
    }

    /// Says on the terminal what listens where.
    pub(super) fn announce_boot(&self) {
        println!("{}", self.boot_line);
    }

    /// Ready when this broker has stopped.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + use<> {
        wait(self.stopped.subscribe())
    }

    /// Serves until asked to stop, then takes itself off the name servers, answers what is in flight and closes.
    pub(super) async fn run(self, workers: &Workers, stop: watch::Receiver<bool>) -> Result<()> {
        let BrokerRole { server, shell, registration, threads, stopped, boot_line: _ } = self;
        let registered = registration.run(wait(stop.clone()));
        let served = server.serve(workers, Arc::clone(&shell) as Arc<dyn Handler>, wait(stop));
        let ((), served) = tokio::join!(registered, served);
        let flushing = [&shell.sync, &shell.flushing, &shell.syncing];
        let signals = [&shell.housekeeping, &shell.saving, &shell.scrubbing];
        flushing.iter().chain(&signals).for_each(|signal| signal.end());
        shell.cold.end();
        shell.slow.end();
        let closed = tokio::task::spawn_blocking(move || {
            for thread in threads {
                thread.join().map_err(|_| anyhow!("a thread of the broker panicked"))?;
            }
            shell.broker.close(clock::now()).context("closing the store; the next start will recover it")
        });
        let closed = closed.await.context("closing the store")?;
        stopped.send_replace(true);
        served.context("broker")?;
        closed?;
        tracing::info!("broker stopped in order");
        Ok(())
    }
}

fn spawn_threads(shell: &Arc<Shell>, settings: &BrokerSettings) -> Result<Vec<JoinHandle<()>>> {
    let spawn = |name: &str, body: Box<dyn FnOnce(&Shell) + Send>| {
        let shell = Arc::clone(shell);
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || body(&shell)).context("no thread")
    };
    let flush_interval = Duration::from_millis(settings.flush_interval_ms);
    let scrub_rate = settings.scrub_bytes_per_second;
    let mut threads = vec![
        spawn("log-sync", Box::new(move |shell| shell.sync_loop(flush_interval)))?,
        spawn("housekeeping", Box::new(Shell::housekeeping_loop))?,
        spawn("save-states", Box::new(Shell::save_loop))?,
        spawn("queue-flush", Box::new(Shell::flush_loop))?,
        spawn("queue-sync", Box::new(Shell::queue_sync_loop))?,
    ];
    if scrub_rate > 0 {
        threads.push(spawn("scrub", Box::new(move |shell| shell.scrub_loop(scrub_rate)))?);
    }
    for number in 0..COLD_THREADS {
        threads.push(spawn(&format!("cold-read-{number}"), Box::new(Shell::cold_loop))?);
    }
    for number in 0..SLOW_THREADS {
        threads.push(spawn(&format!("slow-request-{number}"), Box::new(Shell::slow_loop))?);
    }
    Ok(threads)
}

impl Shell {
    /// Does what a request or a moment caused beside direct replies.
    fn apply(&self, effects: Effects) {
        if effects.is_empty() {
            return;
        }
        let connections = self.connections.read().expect(POISONED);
        for delivery in effects.deliveries {
            if let Some(connection) = connections.get(&delivery.connection) {
                connection.push(delivery.frames);
            }
        }
        for closed in effects.close {
            if let Some(connection) = connections.get(&closed) {
                connection.close(CloseReason::Local);
            }
        }
        drop(connections);
        if effects.announce {
            self.announce.notify_one();
        }
        if effects.sync_wanted {
            self.sync.want();
        }
        self.cold.add(effects.cold.into_iter().map(|pull| (pull.connection(), pull)));
        self.slow.add(effects.slow.into_iter().map(|request| (request.connection(), request)));
    }

    /// Writes to the sockets itself: for threads that have no turn to end, and spare the connection's task a wake-up.
    fn deliver(&self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            // Not under the lock of all connections.
            if let Some(connection) = self.connection(delivery.connection) {
                connection.push_now(delivery.frames);
            }
        }
    }

    /// Has workers write to the sockets: for a thread that others wait for.
    fn hand_over(&self, deliveries: Vec<Delivery>) {
        let connections = self.connections.read().expect(POISONED);
        let known = |delivery: Delivery| {
            let connection = connections.get(&delivery.connection)?;
            Some((connection.clone(), delivery.frames))
        };
        push_all(deliveries.into_iter().filter_map(known));
    }

    /// Counts this thread among those that a stopping server waits for: what they have taken from the broker is not yet
    /// with its connections.
    fn answering(&self) -> Answering<'_> {
        self.answering.fetch_add(1, Ordering::SeqCst);
        Answering(&self.answering)
    }

    fn connection(&self, id: ConnectionId) -> Option<Connection> {
        self.connections.read().expect(POISONED).get(&id).cloned()
    }

    /// Group commit: one sync for everyone who waits, and the next one for those who came meanwhile.
    fn sync_loop(&self, interval: Duration) {
        while self.sync.wait(interval) {
            let _counted = self.answering();
            let mut effects = Effects::default();
            // A failure is logged by the commit log itself, once, and answered to every sender.
            let _ = self.broker.sync(&mut effects);
            self.hand_over(std::mem::take(&mut effects.deliveries));
            self.apply(effects);
        }
    }

    fn housekeeping_loop(&self) {
        let mut pacing = Pacing::begin(self);
        while self.housekeeping.wait(TICK) {
            let _counted = self.answering();
            let mut effects = Effects::default();
            self.broker.expire(clock::now(), &mut effects);
            self.apply(effects);
            pacing.look(self);
        }
    }

    fn save_loop(&self) {
        while self.saving.wait(TICK) {
            self.broker.save_due(clock::now());
        }
    }

    /// Has the memory of queue entries free again, whatever takes long elsewhere.
    fn flush_loop(&self) {
        // At once what a crash left: a process that lives for less than the interval makes progress all the same.
        let counted = self.answering();
        let mut effects = Effects::default();
        let _ = self.broker.sync(&mut effects);
        self.apply(effects);
        drop(counted);
        let mut interval = Duration::ZERO;
        while self.flushing.wait(interval) {
            interval = QUEUE_FLUSH;
            if let Err(error) = self.broker.store().write_entries(clock::now()) {
                tracing::error!(%error, "consume queues not flushed; the next start takes longer");
            }
            self.syncing.want();
        }
    }

    /// What may take as long as the disk does.
    fn queue_sync_loop(&self) {
        while self.syncing.wait(QUEUE_FLUSH) {
            if let Err(error) = self.broker.store().sync_entries(clock::now()) {
                tracing::error!(%error, "consume queues not synced; the next start takes longer");
            }
            if let Err(error) = self.broker.retain(clock::now(), clock::local_hour(), &self.retention) {
                tracing::error!(%error, "old messages not deleted, tried again");
            }
        }
    }

    /// Answers pulls that need the disk.
    fn cold_loop(&self) {
        while let Some(pull) = self.cold.next(|connection| self.is_clogged(connection)) {
            let mut effects = Effects::default();
            self.broker.read_cold(pull, &mut effects);
            self.cold.spend(effects.deliveries.iter().map(|delivery| delivery.frames.len()).sum());
            self.deliver(std::mem::take(&mut effects.deliveries));
            self.apply(effects);
        }
    }

    /// Does what other requests want of the disk.
    fn slow_loop(&self) {
        while let Some(request) = self.slow.next(|connection| self.is_clogged(connection)) {
            let _counted = self.answering();
            let mut effects = Effects::default();
            let connection = request.connection();
            self.broker.handle_slow(request, clock::now(), &mut effects);
            if self.connection(connection).is_none() {
                self.broker.disconnected(connection, &mut effects);
            }
            self.deliver(std::mem::take(&mut effects.deliveries));
            self.apply(effects);
        }
    }

    /// Whether a connection does not take the answers that it has.
    fn is_clogged(&self, connection: ConnectionId) -> bool {
        let connection = self.connection(connection);
        connection.is_some_and(|connection| connection.queued_bytes() > UNTAKEN_BYTES_MAX)
    }

    /// Verifies what is stored, at `bytes_per_second`, round after round.
    fn scrub_loop(&self, bytes_per_second: u64) {
        machine::lower_priority();
        let budget = bytes_per_second.saturating_mul(SCRUB_STEP.as_millis() as u64).div_ceil(1000);
        let mut cursor = self.broker.store().resume_scrub().unwrap_or_else(|error| {
            tracing::warn!(%error, "the scrub begins anew");
            ScrubCursor::default()
        });
        let mut pause = SCRUB_STEP;
        while self.scrubbing.wait(pause) {
            pause = match self.broker.store().scrub(budget, &mut cursor) {
                Ok(ScrubStep::Goes) => SCRUB_STEP,
                Ok(ScrubStep::RoundEnded(round)) => {
                    tracing::info!(
                        records = round.records,
                        damaged = round.damaged,
                        repaired = round.repaired,
                        "everything stored was verified"
                    );
                    SCRUB_REST
                }
                Err(error) => {
                    tracing::error!(%error, "stored data cannot be verified");
                    SCRUB_REST
                }
            };
        }
        self.broker.store().save_scrub(&mut cursor);
    }
}

/// Sees to it that who reads old messages leaves the processors to senders.
struct Pacing {
    governor: Governor,
    at: Instant,
    times: [Duration; 2],
    log_end: LogOffset,
    told: Option<Instant>,
}

impl Pacing {
    fn begin(shell: &Shell) -> Pacing {
        let (at, times, log_end) = (Instant::now(), workers::times(), shell.broker.store().log().written());
        Pacing { governor: Governor::default(), at, times, log_end, told: None }
    }

    /// Looks at what happened since the last time.
    fn look(&mut self, shell: &Shell) {
        let next = Pacing::begin(shell);
        let seen = Seen {
            elapsed: next.at - self.at,
            // A thread that ended takes its times along.
            ran: next.times[0].saturating_sub(self.times[0]),
            waited: next.times[1].saturating_sub(self.times[1]),
            sent: (next.log_end - self.log_end).unsigned_abs(),
        };
        let limit = self.governor.see(&seen);
        shell.broker.hold_old_pulls(limit.is_some());
        let is_used = shell.cold.limit(limit);
        (self.at, self.times, self.log_end) = (next.at, next.times, next.log_end);
        if let Some(limit) = limit.filter(|_| is_used)
            && self.told.is_none_or(|told| self.at - told >= PACED_LINES)
        {
            self.told = Some(self.at);
            let mib_per_second = limit >> 20;
            tracing::info!(mib_per_second, "senders need the processors: old messages are read more slowly");
        }
    }
}

impl Handler for Shell {
    fn connected(&self, connection: &Connection) {
        let mut connections = self.connections.write().expect(POISONED);
        connections.insert(connection.peer().connection, connection.clone());
    }

    fn frames(
        &self,
        connection: &Connection,
        frames: &mut Vec<Frame>,
        out: &mut Out,
    ) -> Result<(), CloseReason> {
        let mut effects = Effects::default();
        let mut turn = Turn::on_worker(MEMORY.take(), clock::now(), connection.peer(), out.buffer());
        let mut taken = 0;
        let mut result = Ok(());
        for frame in frames.iter() {
            taken += 1;
            result = self.broker.handle(&mut turn, frame, &mut effects);
            if result.is_err() || turn.ready_bytes() > OUT_BYTES_MAX {
                break;
            }
        }
        frames.drain(..taken);
        MEMORY.set(self.broker.finish(turn, &mut effects));
        self.apply(effects);
        Ok(result?)
    }

    fn disconnected(&self, connection: &Connection) {
        let id = connection.peer().connection;
        self.connections.write().expect(POISONED).remove(&id);
        let mut effects = Effects::default();
        self.broker.disconnected(id, &mut effects);
        self.apply(effects);
    }

    fn stopping(&self) {
        let mut effects = Effects::default();
        self.broker.stopping(&mut effects);
        self.apply(effects);
    }

    fn unanswered(&self) -> usize {
        // In this order: who takes an answer from the broker is counted before that.
        self.broker.unanswered() + self.answering.load(Ordering::SeqCst)
    }
}

fn store_options(settings: &BrokerSettings) -> StoreOptions {
    StoreOptions {
        root: settings.store_root.clone(),
        log_directories: settings.commit_log_path.iter().cloned().collect(),
        segment_bytes: i64::try_from(settings.commit_log_file_bytes).unwrap_or(i64::MAX),
        queue_file_bytes: i64::try_from(settings.consume_queue_file_bytes).unwrap_or(i64::MAX),
        index: settings.index.then(|| IndexOptions {
            shape: Shape { slots: settings.index_slots, entries: settings.index_entries },
            utc_offset_ms: clock::utc_offset_ms(),
        }),
        flush: match settings.flush_disk_type {
            FlushDiskType::AsyncFlush => FlushPolicy::Async,
            FlushDiskType::SyncFlush => FlushPolicy::Sync,
        },
        process_id: std::process::id(),
        unwritten_entries_max: UNWRITTEN_ENTRIES_MAX,
        beside: Some(|one, other| {
            thread::scope(|scope| {
                scope.spawn(one);
                other();
            });
        }),
    }
}

fn broker_config(settings: &BrokerSettings, advertised: SocketAddr) -> BrokerConfig {
    // Both roles of a master act alike until there is replication; the settings' loader has warned.
    let (Role::AsyncMaster | Role::SyncMaster) = settings.role;
    let millis = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    BrokerConfig {
        topics: cometmq_broker::topic::TopicRules {
            cluster_name: settings.cluster_name.clone(),
            broker_name: settings.broker_name.clone(),
            auto_create: settings.auto_create_topic,
            default_queues: i32::try_from(settings.auto_created_queues).unwrap_or(i32::MAX),
            cluster_topic: settings.cluster_topic,
            broker_topic: settings.broker_topic,
            trace_topic: settings.trace_topic,
        },
        auto_create_group: settings.auto_create_group,
        permission: i32::try_from(settings.permission).unwrap_or(i32::MAX),
        message_bytes_max: usize::try_from(settings.message_bytes_max).unwrap_or(usize::MAX),
        advertised,
        address_derived: settings.advertised_host.is_none(),
        long_polling: settings.long_polling,
        short_polling_ms: millis(settings.short_polling_ms),
        notify_members: settings.notify_members,
        query: QueryRules {
            messages_max: settings.query_messages_max as usize,
            by_id_max: settings.query_by_id_max as usize,
            ..QueryRules::default()
        },
        sync_flush_timeout_ms: millis(settings.sync_flush_timeout_ms),
        offset_save_interval_ms: millis(settings.offset_save_interval_ms),
        memory_bytes: machine::memory_bytes(),
        process_id: std::process::id(),
    }
}

fn retention_rules(settings: &BrokerSettings) -> RetentionRules {
    let millis = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    RetentionRules {
        reserved_ms: millis(settings.file_reserved_hours * 3_600_000),
        hours: settings.delete_hours.clone(),
        round_ms: millis(settings.clean_interval_ms),
        segments_per_round: settings.delete_files_max,
        pause_ms: millis(settings.delete_pause_ms),
        used_percent: settings.disk_used_percent_max,
        force_percent: settings.disk_clean_percent,
        refuse_percent: settings.disk_warning_percent,
        force: settings.clean_forcibly,
        force_unread: settings.delete_unread,
    }
}

/// The address that clients are told: `brokerIP1`, or the one by which this machine reaches its name server.
fn advertised(
    settings: &BrokerSettings,
    own: Option<SocketAddr>,
    name_servers: &[String],
) -> Result<SocketAddr> {
    let port = settings.listen_port;
    if let Some(host) = &settings.advertised_host {
        let mut found =
            (host.as_str(), port).to_socket_addrs().with_context(|| format!("brokerIP1={host}"))?;
        return found.next().with_context(|| format!("brokerIP1={host}: the name has no address"));
    }
    if !settings.bind_address.is_unspecified() {
        return Ok(SocketAddr::new(settings.bind_address, port));
    }
    let first = || name_servers.first()?.to_socket_addrs().ok()?.next();
    let ip = own.or_else(first).map_or(IpAddr::from([127, 0, 0, 1]), machine::address_towards);
    Ok(SocketAddr::new(ip, port))
}

fn log_recovery(report: &RecoveryReport) {
    if report.clean {
        tracing::info!(end = report.end.0, queues = report.queues, "store opened");
    } else {
        tracing::warn!(
            end = report.end.0,
            queues = report.queues,
            scanned_from = report.scanned_from.0,
            records = report.records,
            torn_tail = report.torn,
            "store was not closed in order: recovered"
        );
    }
}
