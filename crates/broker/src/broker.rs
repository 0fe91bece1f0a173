//! The door: frames in, replies and effects out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use cometmq_protocol::body::registration::RegisterBrokerBody;
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::message::Marks;
use cometmq_protocol::message::ids::UniqueIds;
use cometmq_protocol::{
    ConnectionId, Frame, Header, HeaderError, Like, LogOffset, Millis, Peer, Previous, Reply, Request,
    RequestError, ResponseCode,
};
use cometmq_store::config_file::ConfigFileError;
use cometmq_store::planted::{Bug, planted};
use cometmq_store::{Disk, DiskError, FlushPolicy, Patience, Queue, RecoveryReport, Store, StoreOptions};

use crate::client::Clients;
use crate::effects::{Delivery, Effects};
use crate::group::Groups;
use crate::offset::Offsets;
use crate::order::Locks;
use crate::places::Places;
use crate::pull::{ColdPulls, PullAsked, Waiters};
use crate::query::QueryRules;
use crate::retention::Retention;
use crate::send::{self, BrokerProperties, Sends};
use crate::slow::{Undone, waits_for_disk};
use crate::topic::{TopicRules, Topics};

/// Bytes of replies that may wait for the disk before sends are refused as busy.
const PARKED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time between two looks for silent clients and locks that nobody renews.
const LOOK_INTERVAL_MS: i64 = 5000;

/// A buffer of held replies beyond this is not kept for the next turn.
const HELD_KEPT_BYTES_MAX: usize = 64 * 1024;

/// What becomes of a message that a full disk did not take.
const FULL_DISK: &str = "; make room: the broker goes on by itself, and stores the message then";

/// A broker's settings, as far as its rooms need them.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Which topics exist by themselves.
    pub topics: TopicRules,
    /// `autoCreateSubscriptionGroup`.
    pub auto_create_group: bool,
    /// `brokerPermission`.
    pub permission: i32,
    /// `maxMessageSize`.
    pub message_bytes_max: usize,
    /// The address that clients are told, for remarks and registration.
    pub advertised: SocketAddr,
    /// Whether `advertised` was derived, not set: messages then say the address by which their producer reached us.
    pub address_derived: bool,
    /// `longPollingEnable`.
    pub long_polling: bool,
    /// `shortPollingTimeMills`.
    pub short_polling_ms: i64,
    /// `notifyConsumerIdsChangedEnable`.
    pub notify_members: bool,
    /// Bounds of lookups by key.
    pub query: QueryRules,
    /// `syncFlushTimeout`.
    pub sync_flush_timeout_ms: i64,
    /// `flushConsumerOffsetInterval`.
    pub offset_save_interval_ms: i64,
    /// Memory of the machine: what lies further than 40 % of it behind the log's end counts as cold.
    pub memory_bytes: i64,
    /// Distinguishes the message ids that this process makes for clients that send none.
    pub process_id: u32,
}

impl BrokerConfig {
    /// Settings of a broker that is on its own, as a Java broker has them by default, on a machine with 1 GiB of memory.
    pub fn alone(cluster_name: &str, broker_name: &str, advertised: SocketAddr) -> BrokerConfig {
        BrokerConfig {
            topics: TopicRules {
                cluster_name: cluster_name.into(),
                broker_name: broker_name.into(),
                auto_create: true,
                default_queues: 8,
                cluster_topic: true,
                broker_topic: true,
                trace_topic: false,
            },
            auto_create_group: true,
            permission: 6,
            message_bytes_max: 4 * 1024 * 1024,
            advertised,
            address_derived: false,
            long_polling: true,
            short_polling_ms: 1000,
            notify_members: true,
            query: QueryRules::default(),
            sync_flush_timeout_ms: 5000,
            offset_save_interval_ms: 5000,
            memory_bytes: 1 << 30,
            process_id: 1,
        }
    }
}

/// Why a broker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] cometmq_store::OpenError),
    /// A file of `config/` cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
}

/// A broker. All methods may be called from any thread.
#[derive(Debug)]
pub struct Broker {
    pub(crate) config: BrokerConfig,
    pub(crate) store: Store,
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) offsets: Offsets,
    pub(crate) clients: Clients,
    pub(crate) locks: Locks,
    pub(crate) waiters: Waiters,
    pub(crate) cold: ColdPulls,
    /// Requests that wait for the disk.
    pub(crate) slow: Places,
    pub(crate) retention: Retention,
    pub(crate) broker_properties: BrokerProperties,
    unique_ids: Mutex<UniqueIds>,
    parked: Mutex<Parked>,
    looked_at: Mutex<Millis>,
    saved_at: Mutex<Millis>,
}

/// Replies to sends that wait for the store to reach a position.
#[derive(Debug, Default)]
struct Parked {
    batches: Vec<Batch>,
    bytes: usize,
}

#[derive(Debug)]
struct Batch {
    end: LogOffset,
    parked_at: Millis,
    connection: ConnectionId,
    frames: Bytes,
}

/// What a turn leaves to the next one, whoever's that is, so that it has less to do.
#[derive(Debug, Default)]
pub struct Memory {
    previous: Previous,
    /// The empty buffer of held replies.
    held: BytesMut,
}

/// Who asks, when, and how long an answer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub now: Millis,
    pub peer: Peer,
    pub patience: Patience,
}

/// What a request came with beside its fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub header: &'a Header<'a>,
    pub frame: &'a Frame,
    /// Its body is a batch of messages.
    pub is_batch: bool,
}

/// Frames of one read of one connection, handled together.
#[derive(Debug)]
pub struct Turn<'a> {
    pub(crate) caller: Caller,
    out: &'a mut BytesMut,
    memory: Memory,
    /// Replies that may leave once the store has reached `held_until`.
    held: BytesMut,
    held_until: LogOffset,
    appended: bool,
    pub(crate) sends: Sends,
}

impl<'a> Turn<'a> {
    /// Begins with frames of `peer`; replies that are ready go to `out`. Requests other than pulls are answered even if
    /// that takes as long as the disk does.
    pub fn new(now: Millis, peer: Peer, out: &'a mut BytesMut) -> Turn<'a> {
        Turn::begin(Memory::default(), Caller { now, peer, patience: Patience::Disk }, out)
    }

    /// As [`Turn::new`], for threads that must not wait: requests that need the disk become [`Effects::slow`]. With what
    /// [`Broker::finish`] gave back of an earlier turn.
    pub fn on_worker(memory: Memory, now: Millis, peer: Peer, out: &'a mut BytesMut) -> Turn<'a> {
        Turn::begin(memory, Caller { now, peer, patience: Patience::Resident }, out)
    }

    fn begin(mut memory: Memory, caller: Caller, out: &'a mut BytesMut) -> Turn<'a> {
        let held = std::mem::take(&mut memory.held);
        Turn { caller, out, memory, held, held_until: LogOffset(0), appended: false, sends: Sends::default() }
    }

    /// Notes that the log was appended to up to `end`. Where the reply to that goes, to be kept until the store has it;
    /// a one-way request has none.
    pub(crate) fn hold(&mut self, end: LogOffset, is_oneway: bool) -> Option<&mut BytesMut> {
        self.appended = true;
        if is_oneway {
            return None;
        }
        if !planted(Bug::AckBeforeWrite) {
            self.held_until = self.held_until.max(end);
        }
        Some(&mut self.held)
    }

    /// Bytes of replies so far. Callers end a turn early when they are many.
    pub fn ready_bytes(&self) -> usize {
        self.out.len() + self.held.len()
    }
}

impl Broker {
    /// Opens the store and the states of all rooms.
    pub fn open(
        disk: Arc<dyn Disk>,
        store: StoreOptions,
        config: BrokerConfig,
        now: Millis,
    ) -> Result<(Broker, RecoveryReport), OpenError> {
        let root = store.root.clone();
        let (store, report) = Store::open(Arc::clone(&disk), store)?;
        let path = |name: &str| -> PathBuf { root.join("config").join(name) };
        let topics = Topics::open(Arc::clone(&disk), &root, &config.topics, now)?;
        let groups =
            Groups::open(Arc::clone(&disk), path("subscriptionGroup.json"), config.auto_create_group)?;
        let offsets = Offsets::open(disk, path("consumerOffset.json"), report.end, report.clean)?;
        // Before the first message: after one more crash the end that the log has now could not be told any more.
        offsets.save(now).map_err(ConfigFileError::from)?;
        let broker = Broker {
            store,
            topics,
            groups,
            offsets,
            clients: Clients::default(),
            locks: Locks::default(),
            waiters: Waiters::default(),
            cold: ColdPulls::default(),
            slow: Places::default(),
            retention: Retention::default(),
            broker_properties: BrokerProperties::new(&config.topics.cluster_name),
            unique_ids: Mutex::new(UniqueIds::new(config.advertised.ip(), config.process_id, now.0 as u32)),
            parked: Mutex::new(Parked::default()),
            looked_at: Mutex::new(now),
            saved_at: Mutex::new(now),
            config,
        };
        Ok((broker, report))
    }

    /// Its settings.
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// Its store, for positions and directories.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What name servers are to be told.
    pub fn announcement(&self) -> RegisterBrokerBody {
        RegisterBrokerBody {
            filter_server_list: Vec::new(),
            topic_config_serialize_wrapper: self.topics.announced(self.config.permission),
        }
    }

    /// Handles one frame. Call [`Broker::finish`] after the last frame of the turn. An error means that the frame's
    /// header cannot be read: close the connection.
    pub fn handle(
        &self,
        turn: &mut Turn<'_>,
        frame: &Frame,
        effects: &mut Effects,
    ) -> Result<(), HeaderError> {
        // What it keeps is served from there, while the turn goes on.
        let mut previous = std::mem::take(&mut turn.memory.previous);
        let result = match previous.read(frame) {
            Some(Like { header, request, marks }) => {
                self.answer(turn, header, frame, Ok(request), Some(marks), effects);
                Ok(())
            }
            None => self.handle_unlike(turn, frame, &mut previous, effects),
        };
        turn.memory.previous = previous;
        result
    }

    /// A frame that is not like one before.
    fn handle_unlike(
        &self,
        turn: &mut Turn<'_>,
        frame: &Frame,
        previous: &mut Previous,
        effects: &mut Effects,
    ) -> Result<(), HeaderError> {
        let mut header = Header::decode(frame)?;
        if header.is_response() {
            // Answers to our one-way notifications; some clients send them all the same.
            return Ok(());
        }
        let mut fields = header.fields.take().unwrap_or_default();
        let request = Request::decode(header.code, &mut fields);
        if let Ok(request) = &request {
            previous.keep(frame, &header, request);
        }
        self.answer(turn, &header, frame, request.as_ref(), None, effects);
        Ok(())
    }

    fn answer(
        &self,
        turn: &mut Turn<'_>,
        header: &Header<'_>,
        frame: &Frame,
        request: Result<&Request<'_>, &RequestError>,
        marks: Option<&Marks>,
        effects: &mut Effects,
    ) {
        let served = match request {
            Ok(request) => self.serve(turn, header, frame, request, marks, effects),
            Err(error @ RequestError::NotSupported { .. }) => {
                Ok(Some(Reply::refuse(ResponseCode::RequestCodeNotSupported, error.to_string())))
            }
            Err(error @ RequestError::Field(_)) => {
                Ok(Some(Reply::refuse(ResponseCode::SystemError, error.to_string())))
            }
        };
        let reply = match served {
            Ok(reply) => reply,
            Err(Undone::Refused(refusal)) => Some(refusal),
            // What is refused there may be a send.
            Err(Undone::NeedsDisk) => self.postpone(turn.caller.peer, frame, effects).map(send::with_region),
        };
        if let Some(reply) = reply.filter(|_| !header.is_oneway()) {
            reply.encode(header.opaque, frame.serialize_type, turn.out);
        }
    }

    /// The room for each request. No reply where the room sees to it itself.
    fn serve(
        &self,
        turn: &mut Turn<'_>,
        header: &Header<'_>,
        frame: &Frame,
        request: &Request<'_>,
        marks: Option<&Marks>,
        effects: &mut Effects,
    ) -> Result<Option<Reply>, Undone> {
        if let Request::SendMessage(send) | Request::SendMessageV2(send) | Request::SendBatchMessage(send) =
            request
        {
            let is_batch = matches!(request, Request::SendBatchMessage(_));
            self.send(turn, Asked { header, frame, is_batch }, send, marks, effects)?;
            return Ok(None);
        }
        // It may change what sends go by.
        turn.sends = Sends::default();
        let caller = turn.caller;
        let Caller { now, peer, patience } = caller;
        Ok(Some(match request {
            Request::PullMessage(pull) | Request::LitePullMessage(pull) => {
                // The room answers by itself, maybe later: a one-way pull has nobody to answer.
                if !header.is_oneway() {
                    let (opaque, serialize_type) = (header.opaque, frame.serialize_type);
                    let asked = PullAsked { now, peer: &peer, opaque, serialize_type, header: pull };
                    self.pull(&asked, turn.out, effects);
                }
                return Ok(None);
            }
            other if patience == Patience::Resident && waits_for_disk(other, &self.store) => {
                return Err(Undone::NeedsDisk);
            }
            Request::QueryMessage(query) => self.query_message(query),
            Request::ViewMessageById(view) => self.view_message(view),
            Request::QueryConsumerOffset(query) => self.query_offset(query),
            Request::UpdateConsumerOffset(update) => self.update_offset(update),
            Request::SearchOffsetByTimestamp(search) => self.search_offset(search),
            Request::GetMaxOffset(queue) => self.max_offset(queue),
            Request::GetMinOffset(queue) => self.min_offset(queue),
            Request::GetEarliestStoreTime(queue) => self.earliest_store_time(queue),
            Request::Heartbeat(_) => self.heartbeat(&caller, &frame.body, effects)?,
            Request::UnregisterClient(client) => self.unregister(&peer, client, effects),
            Request::GetConsumerList(group) => self.consumer_list(group),
            Request::CheckClientConfig(_) => self.check_client_config(&frame.body),
            Request::LockQueues(_) => self.locks.lock(now, &frame.body),
            Request::UnlockQueues(_) => self.locks.unlock(&frame.body),
            Request::CreateTopic(create) => self.topics.create(now, create, effects),
            Request::GetTopicConfig(topic) => self.topics.show(topic),
            Request::CleanExpiredConsumeQueue(_) => self.retention.clean_expired_queues(),
            Request::CleanUnusedTopic(_) => self.retention.clean_unused_topics(),
            Request::DeleteExpiredCommitLog(_) => self.retention.delete_expired_log(),
            other => {
                // Codes of the name server and of clients.
                let error = RequestError::NotSupported { code: other.code().code() };
                Reply::refuse(ResponseCode::RequestCodeNotSupported, error.to_string())
            }
        }))
    }

    /// Ends a turn: what was appended is written, and replies leave as soon as the store has what they promise.
    pub fn finish(&self, mut turn: Turn<'_>, effects: &mut Effects) -> Memory {
        let mut memory = std::mem::take(&mut turn.memory);
        if !turn.appended {
            memory.held = turn.held;
            return memory;
        }
        let mut woken = Vec::new();
        self.store.write(&mut woken);
        if !turn.held.is_empty() {
            if self.store.confirmed() >= turn.held_until {
                turn.out.extend_from_slice(&turn.held);
                if turn.held.capacity() <= HELD_KEPT_BYTES_MAX {
                    turn.held.clear();
                    memory.held = turn.held;
                }
            } else {
                self.park(turn, effects);
            }
        }
        self.release(effects);
        self.wake_all(&woken, effects);
        memory
    }

    fn park(&self, turn: Turn<'_>, effects: &mut Effects) {
        let mut parked = self.parked.lock().expect(POISONED);
        if parked.bytes > PARKED_BYTES_MAX {
            drop(parked);
            let busy = "[OVERLOAD]system busy, start flow control for a while: the disk does not keep up. The message \
                        may have been stored.";
            turn.out.extend_from_slice(&answered(&turn.held, ResponseCode::SystemBusy, Some(busy)));
            return;
        }
        parked.bytes += turn.held.len();
        parked.batches.push(Batch {
            end: turn.held_until,
            parked_at: turn.caller.now,
            connection: turn.caller.peer.connection,
            frames: turn.held.freeze(),
        });
        effects.sync_wanted = self.store.options().flush == FlushPolicy::Sync;
    }

    /// Sends the replies whose position is reached. Whoever moved the position calls this, and whoever parked a reply:
    /// one of them sees both.
    fn release(&self, effects: &mut Effects) {
        let mut parked = self.parked.lock().expect(POISONED);
        if parked.batches.is_empty() {
            return;
        }
        let confirmed = self.store.confirmed();
        // A failed log confirms nothing more. A full disk only keeps what it did not take.
        let (failure, from, then) = match self.store.log().failure() {
            Some(failure) => (Some(failure), confirmed, ""),
            None => (self.store.log().full(), self.store.log().written(), FULL_DISK),
        };
        let mut bytes = 0;
        let ready = |batch: &mut Batch| batch.end <= confirmed || (failure.is_some() && batch.end > from);
        for batch in parked.batches.extract_if(.., ready) {
            bytes += batch.frames.len();
            let frames = match &failure {
                Some(error) if batch.end > confirmed => {
                    let remark =
                        format!("service not available now. the message was not confirmed: {error}{then}");
                    answered(&batch.frames, ResponseCode::ServiceNotAvailable, Some(&remark))
                }
                _ => batch.frames,
            };
            effects.deliveries.push(Delivery { connection: batch.connection, frames });
        }
        parked.bytes -= bytes;
    }

    /// Answers sends that the disk did not confirm in `syncFlushTimeout`: stored, not flushed.
    fn expire_parked(&self, now: Millis, effects: &mut Effects) {
        let mut parked = self.parked.lock().expect(POISONED);
        let mut bytes = 0;
        let late = |batch: &mut Batch| now.0 - batch.parked_at.0 > self.config.sync_flush_timeout_ms;
        for batch in parked.batches.extract_if(.., late) {
            bytes += batch.frames.len();
            let frames = answered(&batch.frames, ResponseCode::FlushDiskTimeout, None);
            effects.deliveries.push(Delivery { connection: batch.connection, frames });
        }
        parked.bytes -= bytes;
    }

    fn wake_all(&self, woken: &[Arc<Queue>], effects: &mut Effects) {
        woken.iter().for_each(|queue| self.wake(queue, effects));
    }

    /// Makes durable what was written, and sends the replies that waited for it. An error is final for the log.
    pub fn sync(&self, effects: &mut Effects) -> Result<(), Arc<DiskError>> {
        let mut woken = Vec::new();
        let result = self.store.sync(&mut woken);
        self.release(effects);
        self.wake_all(&woken, effects);
        result
    }

    /// What is due by time: [`Broker::expire`] and [`Broker::save_due`].
    pub fn tick(&self, now: Millis, effects: &mut Effects) {
        self.expire(now, effects);
        self.save_due(now);
    }

    /// Answers whose wait is over, and silent clients. Call it a few times a second, from a thread that does nothing else
    /// with the disk: of one that hangs those who wait are to be told in time.
    pub fn expire(&self, now: Millis, effects: &mut Effects) {
        self.retry_room(effects);
        self.expire_pulls(now, effects);
        self.expire_parked(now, effects);
        if is_due(&self.looked_at, LOOK_INTERVAL_MS, now) {
            self.expire_clients(now, effects);
            self.locks.expire(now);
        }
    }

    /// Saves states that are to be saved by now. Call it a few times a second, from a thread that may wait for the disk.
    pub fn save_due(&self, now: Millis) {
        self.offsets.check_some(&self.store);
        not_saved(self.topics.save_due(now));
        if is_due(&self.saved_at, self.config.offset_save_interval_ms, now) {
            self.save(now);
        }
    }

    /// While the disk is full: looks for room, and goes on with what waits for it.
    fn retry_room(&self, effects: &mut Effects) {
        if self.store.log().full().is_none() {
            return;
        }
        self.store.retry_room();
        let mut woken = Vec::new();
        self.store.write(&mut woken);
        self.release(effects);
        self.wake_all(&woken, effects);
    }

    fn save(&self, now: Millis) {
        not_saved(self.offsets.save(now));
        not_saved(self.groups.save());
    }

    /// Replies to sends, and requests, that wait for the disk.
    pub fn unanswered(&self) -> usize {
        self.parked.lock().expect(POISONED).batches.len() + self.slow.count()
    }

    /// The broker is about to stop: pulls that wait are answered with what there is.
    pub fn stopping(&self, effects: &mut Effects) {
        self.expire_pulls(Millis(i64::MAX), effects);
    }

    /// Saves everything and closes the store in order.
    pub fn close(&self, now: Millis) -> Result<(), DiskError> {
        self.save(now);
        not_saved(self.topics.save_due(Millis(i64::MAX)));
        self.store.close()
    }

    /// The store host of a message from `peer`.
    pub(crate) fn store_host(&self, peer: &Peer) -> SocketAddr {
        let advertised = self.config.advertised;
        if self.config.address_derived {
            // The port stays the main one: the producer may have come through the VIP port.
            return SocketAddr::new(peer.local.ip().to_canonical(), advertised.port());
        }
        advertised
    }

    /// A message id for a message whose producer gave it none.
    pub(crate) fn next_unique_key(&self, now: Millis) -> String {
        self.unique_ids.lock().expect(POISONED).next(now.0 as u32)
    }
}

const POISONED: &str = "no holder of this lock panics";

/// Whether something is to be done again that was last done at `last`; notes that it is.
fn is_due(last: &Mutex<Millis>, interval_ms: i64, now: Millis) -> bool {
    let mut last = last.lock().expect(POISONED);
    let is_due = !(0..interval_ms).contains(&(now.0 - last.0));
    if is_due {
        *last = now;
    }
    is_due
}

/// Tells that a state could not be saved, if so.
fn not_saved(result: Result<(), DiskError>) {
    if let Err(error) = result {
        tracing::error!(%error, "state not saved, tried again later");
    }
}

/// The same replies with another outcome: frames of ours, read back.
fn answered(frames: &[u8], code: ResponseCode, remark: Option<&str>) -> Bytes {
    let limits = FrameLimits::default();
    // The reply to a batch names each of its messages, all in its header.
    let limits = FrameLimits { header_bytes_max: limits.frame_bytes_max, ..limits };
    let mut rest = BytesMut::from(frames);
    let mut out = BytesMut::with_capacity(frames.len());
    while let Ok(Some(frame)) = frame::cut(&mut rest, limits) {
        let header = Header::decode(&frame).expect("our own replies are readable");
        let remark = remark.map(|remark| remark.to_owned().into());
        Header { code: code.code(), remark, ..header }.encode_with_body(
            frame.serialize_type,
            &frame.body,
            &mut out,
        );
    }
    debug_assert!(rest.is_empty(), "our own frames are whole");
    out.freeze()
}
