//! One connection: the task that reads and writes it, and the handle that other threads hold.
//!
//! The task sleeps until the socket is readable or someone pushed; there is no timer in it. A server's sweep looks
//! at all connections now and then: it counts the rounds in which a connection moved no byte, closes it after
//! enough of them, and before that lets it give its buffers back.
//!
//! On the server's side nothing is read while a write is blocked: a peer that does not read is not served, and what
//! it has already asked for waits in bounded memory. On the client's side both directions move independently, or
//! two full pipes would wait for each other.
//!
//! Between two polls the task of a server's connection may move to another worker, see `carried`: everything that is
//! halfway is in `Task` and goes along.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use std::{fmt, io};

use bytes::{Bytes, BytesMut};
use cometmq_protocol::{ConnectionId, Frame, FrameError, FrameLimits, Peer, frame};

use crate::budget::{Budget, Share};
use crate::close::CloseReason;
use crate::out::Out;
use crate::socket::{Lent, Socket};
use crate::workers::Worker;

/// Read size of a connection that was quiet: enough for heartbeats and the like.
const CHUNK_BYTES_MIN: usize = 4 * 1024;
/// Read size of a busy connection.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// What is done with frames. Called on a worker's thread, which carries other connections as well: no call may block for
/// long.
pub trait Handler: Send + Sync + 'static {
    /// A connection is there; called before any of its frames.
    fn connected(&self, connection: &Connection) {
        let _ = connection;
    }

    /// All complete frames of one read, in order; takes them out of `frames`.
    ///
    /// Replies that are ready at once are appended to `out` as whole frames and leave in one write. Frames that stay
    /// in `frames` are handed in again once `out` is written: so a handler bounds how much it answers at a time, and
    /// must take at least one. An error closes this connection, after `out` was offered to the socket once.
    fn frames(
        &self,
        connection: &Connection,
        frames: &mut Vec<Frame>,
        out: &mut Out,
    ) -> Result<(), CloseReason>;

    /// The connection is gone; nothing that is pushed to it arrives any more.
    fn disconnected(&self, connection: &Connection) {
        let _ = connection;
    }

    /// The server stops and has handed in its last frame: what waits must now be answered.
    fn stopping(&self) {}

    /// Requests that are taken and not yet answered. A stopping server waits until there are none.
    fn unanswered(&self) -> usize {
        0
    }
}

/// A handle to a connection; clones are the same connection.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    peer: Peer,
    outbox_bytes_max: usize,
    outbox: Mutex<Outbox>,
    /// Bytes handed over by the handler or by `push` that the socket has not taken.
    queued_bytes: AtomicUsize,
    /// Sweeps since the last byte moved.
    quiet_rounds: AtomicU32,
    /// Nanoseconds that the task was at work since someone last asked.
    busy_ns: AtomicU64,
    /// What all connections of this side may hold, and this one's part in it.
    budget: Arc<Budget>,
    share: Share,
    /// The task holds buffers.
    buffered: AtomicBool,
    /// The task has seen that the server stops, and hands in no more frames.
    finished_reading: AtomicBool,
}

/// What others want of the task.
#[derive(Default)]
struct Outbox {
    out: Out,
    /// Whose frames are on their way to the socket, perhaps halfway.
    writing: Writing,
    /// The task's socket; others write to it only while they have `writing`.
    socket: Lent,
    waker: Option<Waker>,
    /// Who carries the connection, on the server's side.
    worker: Option<Arc<Worker>>,
    /// Who is to carry the connection from now on.
    next_worker: Option<Arc<Worker>>,
    close: Option<CloseReason>,
    stopping: bool,
    trim: bool,
}

/// Who writes to the socket: one at a time, or frames would be mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Writing {
    #[default]
    Nobody,
    /// The task has output of its own, which the socket has not taken.
    Task,
    /// A thread that pushes.
    Pusher { task_waits: bool },
    /// Whoever takes the outbox: it begins with the rest of what a pusher wrote in part, and nothing may be written before.
    Rest,
}

impl Connection {
    pub(crate) fn new(
        socket: &Socket,
        outbox_bytes_max: usize,
        budget: Arc<Budget>,
    ) -> io::Result<Connection> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let canonical = |mut address: std::net::SocketAddr| {
            // A listener on [::] sees IPv4 peers as ::ffff:a.b.c.d, which no RocketMQ address text may contain.
            address.set_ip(address.ip().to_canonical());
            address
        };
        let [remote, local] = socket.addresses()?.map(canonical);
        let peer = Peer { connection: ConnectionId(NEXT_ID.fetch_add(1, Ordering::Relaxed)), remote, local };
        Ok(Connection(Arc::new(Shared {
            peer,
            outbox_bytes_max,
            outbox: Mutex::new(Outbox { socket: socket.lend(), ..Outbox::default() }),
            queued_bytes: AtomicUsize::new(0),
            quiet_rounds: AtomicU32::new(0),
            busy_ns: AtomicU64::new(0),
            budget,
            share: Share::default(),
            buffered: AtomicBool::new(false),
            finished_reading: AtomicBool::new(false),
        })))
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.0.peer
    }

    /// Hands over whole frames from any thread. On a closed connection they are dropped; beyond the outbox limit
    /// the connection is closed.
    pub fn push(&self, bytes: Bytes) {
        self.push_with(|out| out.push_bytes(bytes));
    }

    /// As [`Connection::push`], but `write` encodes into the outbox directly. Must be brief: it runs under a lock.
    pub fn push_with(&self, write: impl FnOnce(&mut Out)) {
        let mut outbox = self.outbox();
        if outbox.close.is_some() {
            return;
        }
        let before = outbox.out.len();
        write(&mut outbox.out);
        self.queue(outbox.out.len() - before);
        self.pushed(outbox);
    }

    /// The task takes it from here, unless it is too much.
    fn pushed(&self, mut outbox: MutexGuard<'_, Outbox>) {
        let (queued, limit) = (self.queued_bytes(), self.0.outbox_bytes_max);
        if queued > limit {
            outbox.close = Some(CloseReason::SlowConsumer { queued, limit });
            outbox.out = Out::new();
        }
        wake(outbox);
    }

    /// As [`Connection::push`], but what the socket takes at once is written by the caller: it costs the caller a system
    /// call, and saves waking up the task.
    pub fn push_now(&self, bytes: Bytes) {
        self.queue(bytes.len());
        self.push_queued(bytes);
    }

    /// Counts bytes among those that wait for the socket: from now on a server that stops waits for them.
    pub(crate) fn queue(&self, bytes: usize) {
        self.0.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// As [`Connection::push_now`], for bytes that are counted already.
    pub(crate) fn push_queued(&self, bytes: Bytes) {
        let mut outbox = self.outbox();
        if outbox.close.is_some() {
            self.0.queued_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
            return;
        }
        let is_free = outbox.writing == Writing::Nobody && outbox.out.is_empty();
        // Asked for by nobody else, not even for a moment: while it is lent the connection cannot move.
        let Some(socket) = is_free.then(|| outbox.socket.upgrade()).flatten() else {
            outbox.out.push_bytes(bytes);
            return self.pushed(outbox);
        };
        outbox.writing = Writing::Pusher { task_waits: false };
        let mut out = std::mem::take(&mut outbox.out);
        drop(outbox);
        out.push_bytes(bytes);
        while !out.is_empty() {
            match out.write(socket.as_ref().as_ref()) {
                Ok(bytes) if bytes > 0 => self.moved(bytes),
                // What the socket has against it the task will find as well.
                Ok(_) | Err(_) => break,
            }
        }
        self.pushed_now(out);
    }

    /// Leaves to the task what the socket did not take, and the socket itself.
    fn pushed_now(&self, mut out: Out) {
        let mut outbox = self.outbox();
        let task_waits = outbox.writing == Writing::Pusher { task_waits: true };
        outbox.writing = if out.is_empty() { Writing::Nobody } else { Writing::Rest };
        let all_written = out.is_empty() && outbox.out.is_empty();
        out.append(std::mem::take(&mut outbox.out));
        outbox.out = out;
        self.0.buffered.store(true, Ordering::Relaxed);
        if task_waits || !all_written {
            wake(outbox);
        }
    }

    /// The socket took bytes.
    fn moved(&self, bytes: usize) {
        self.0.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.0.quiet_rounds.store(0, Ordering::Relaxed);
    }

    /// Closes the connection. The first reason counts.
    pub fn close(&self, reason: CloseReason) {
        self.close_first(reason);
    }

    /// As [`Connection::close`]; whether nobody closed it before.
    pub(crate) fn close_first(&self, reason: CloseReason) -> bool {
        let mut outbox = self.outbox();
        let first = outbox.close.is_none();
        if first {
            outbox.close = Some(reason);
            wake(outbox);
        }
        first
    }

    /// Why the connection is closed, or is about to.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.outbox().close.clone()
    }

    /// Bytes that wait for the socket to take them.
    pub fn queued_bytes(&self) -> usize {
        self.0.queued_bytes.load(Ordering::Relaxed)
    }

    /// Counts a sweep; returns the number of sweeps since a byte moved, and whether bytes wait.
    pub(crate) fn sweep(&self) -> (u32, bool) {
        let rounds = self.0.quiet_rounds.fetch_add(1, Ordering::Relaxed) + 1;
        // A busy connection makes its buffers anew: once per sweep that costs nothing.
        if self.0.buffered.load(Ordering::Relaxed) {
            let mut outbox = self.outbox();
            outbox.trim = true;
            wake(outbox);
        }
        (rounds, self.0.share.is_blocked())
    }

    /// The task was at work for `time`.
    pub(crate) fn worked(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.busy_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How long the task was at work since this was last asked.
    pub(crate) fn take_busy(&self) -> Duration {
        Duration::from_nanos(self.0.busy_ns.swap(0, Ordering::Relaxed))
    }

    /// Wishes that `worker` carries the connection. It stays where it is if just then a thread that pushes writes.
    pub(crate) fn move_to(&self, worker: Arc<Worker>) {
        let mut outbox = self.outbox();
        outbox.next_worker = Some(worker);
        wake(outbox);
    }

    /// Notes who carries the connection.
    pub(crate) fn carried_by(&self, worker: Arc<Worker>) {
        self.outbox().worker = Some(worker);
    }

    /// Who carries the connection, on the server's side.
    pub(crate) fn worker(&self) -> Option<Arc<Worker>> {
        self.outbox().worker.clone()
    }

    /// Its part in the budget of the server.
    pub(crate) fn share(&self) -> &Share {
        &self.0.share
    }

    /// Lets the task hand in what it has cut, then read no more.
    pub(crate) fn stop_reading(&self) {
        let mut outbox = self.outbox();
        outbox.stopping = true;
        wake(outbox);
    }

    pub(crate) fn has_finished_reading(&self) -> bool {
        self.0.finished_reading.load(Ordering::Acquire)
    }

    /// As a thread that pushes has the socket, without a push.
    #[cfg(test)]
    pub(crate) fn borrow_socket(&self) -> Option<Arc<tokio::net::tcp::OwnedWriteHalf>> {
        self.outbox().socket.upgrade()
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.0.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.0.peer).finish()
    }
}

/// Wakes the task after the lock is released, so that it does not run into it.
fn wake(mut outbox: MutexGuard<'_, Outbox>) {
    let waker = outbox.waker.take();
    drop(outbox);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The two ways to treat a peer that does not read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// Why a task is polled no more.
pub(crate) enum Halt {
    Ended(CloseReason),
    /// Another worker is to go on with it: nobody else writes until [`Task::moved`].
    Moves(Arc<Worker>),
}

/// Carries a connection whose task stays where it is. Whatever happens, the handler learns of the connection's end.
pub(crate) async fn run(mut task: Task) {
    task.begin();
    loop {
        if let Halt::Ended(reason) = std::future::poll_fn(|cx| task.poll(cx)).await {
            task.end(reason);
            return;
        }
    }
}

/// Tells the handler that the connection ended, also when the handler itself panicked in the task.
struct End {
    connection: Connection,
    handler: Arc<dyn Handler>,
}

impl Drop for End {
    fn drop(&mut self) {
        // The first reason counts: without one the task was dropped halfway.
        self.connection.close(if std::thread::panicking() {
            CloseReason::Refused("the handler of its frames panicked".into())
        } else {
            CloseReason::Local
        });
        self.connection.0.budget.leave(self.connection.share());
        self.handler.disconnected(&self.connection);
    }
}

/// What reads and writes one connection, with all that is halfway.
pub(crate) struct Task {
    end: End,
    socket: Socket,
    limits: FrameLimits,
    side: Side,
    input: BytesMut,
    chunk_bytes: usize,
    /// Cut, and not yet taken by the handler.
    frames: Vec<Frame>,
    /// Why nothing behind these can be cut.
    nonsense: Option<FrameError>,
    out: Out,
}

/// What the task does after it has looked at what others want.
enum Wanted {
    /// Nothing while another thread writes, which will wake the task.
    Nothing,
    Work {
        stopping: bool,
    },
    Move(Arc<Worker>),
}

impl Task {
    pub(crate) fn new(
        socket: Socket,
        connection: Connection,
        handler: Arc<dyn Handler>,
        limits: FrameLimits,
        side: Side,
    ) -> Task {
        Task {
            end: End { connection, handler },
            socket,
            limits,
            side,
            input: BytesMut::new(),
            chunk_bytes: CHUNK_BYTES_MIN,
            frames: Vec::new(),
            nonsense: None,
            out: Out::new(),
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.end.connection
    }

    /// Tells the handler that the connection is there: once, before the first poll.
    pub(crate) fn begin(&self) {
        self.end.handler.connected(&self.end.connection);
    }

    /// Closes the connection and tells the handler. Returns why it really ended, and the socket.
    pub(crate) fn end(self, reason: CloseReason) -> (CloseReason, Socket) {
        self.end.connection.close(reason.clone());
        (self.end.connection.close_reason().unwrap_or(reason), self.socket)
    }

    /// The same task with its socket at the side of `worker`. Without one the connection has ended.
    pub(crate) fn moved(self, worker: &Worker) -> Option<Task> {
        let Task { socket, .. } = self;
        match socket.into_std().and_then(|stream| worker.adopt(stream)) {
            Ok(socket) => {
                self.end.connection.outbox().socket = socket.lend();
                Some(Task { socket, ..self })
            }
            Err(error) => {
                self.end.connection.close(error.into());
                None
            }
        }
    }

    /// Moves what can be moved; ready when the connection has to end, or to go elsewhere.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Halt> {
        loop {
            let stopping = match self.collect(cx) {
                Ok(Wanted::Work { stopping }) => stopping,
                Ok(Wanted::Nothing) => return Poll::Pending,
                Ok(Wanted::Move(worker)) => return Poll::Ready(Halt::Moves(worker)),
                Err(reason) => {
                    self.write_once(&reason);
                    return Poll::Ready(Halt::Ended(reason));
                }
            };
            let progress = match self.poll_write(cx) {
                Poll::Ready(Err(reason)) => return Poll::Ready(Halt::Ended(reason)),
                // What others pushed meanwhile goes out before more is read.
                Poll::Ready(Ok(true)) => continue,
                Poll::Pending if self.side == Side::Server => return Poll::Pending,
                Poll::Ready(Ok(false)) if self.shared().budget.is_crowded() => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                // Frames before the nonsense are honest ones.
                Poll::Ready(Ok(false)) | Poll::Pending if !self.frames.is_empty() => self.dispatch(),
                Poll::Ready(Ok(false)) | Poll::Pending if self.nonsense.is_some() => {
                    self.nonsense.take().map_or(Ok(()), |nonsense| Err(nonsense.into()))
                }
                Poll::Ready(Ok(false)) | Poll::Pending if stopping => {
                    self.shared().finished_reading.store(true, Ordering::Release);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(false)) | Poll::Pending => ready!(self.poll_read(cx)),
            };
            if let Err(reason) = progress {
                self.write_once(&reason);
                return Poll::Ready(Halt::Ended(reason));
            }
        }
    }

    fn shared(&self) -> &Shared {
        &self.end.connection.0
    }

    /// Takes what others pushed and want. Registers to be woken.
    fn collect(&mut self, cx: &Context<'_>) -> Result<Wanted, CloseReason> {
        let mut outbox = self.end.connection.outbox();
        if let Some(reason) = &outbox.close {
            return Err(reason.clone());
        }
        match &mut outbox.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        if let Writing::Pusher { task_waits } = &mut outbox.writing {
            *task_waits = true;
            return Ok(Wanted::Nothing);
        }
        if outbox.writing == Writing::Rest || (self.out.is_empty() && !outbox.out.is_empty()) {
            std::mem::swap(&mut self.out, &mut outbox.out);
            self.out.append(std::mem::take(&mut outbox.out));
        }
        let next_worker = outbox.next_worker.take();
        // One that has just written may still hold on to the socket for a moment: the wish will come again.
        if let Some(worker) = next_worker.filter(|_| !self.socket.is_lent()) {
            outbox.writing = Writing::Task;
            return Ok(Wanted::Move(worker));
        }
        outbox.writing = if self.out.is_empty() { Writing::Nobody } else { Writing::Task };
        let trim = std::mem::take(&mut outbox.trim);
        if trim {
            outbox.out.trim();
        }
        let stopping = outbox.stopping;
        drop(outbox);
        if trim {
            self.trim();
        }
        Ok(Wanted::Work { stopping })
    }

    /// Offers the output to the socket until it is written; true when there was some.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, CloseReason>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(false));
        }
        while !self.out.is_empty() {
            let stream = self.socket.stream();
            let taken = stream.poll_write_ready(cx).map(|ready| ready.and_then(|()| self.out.write(stream)));
            match taken {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                Poll::Ready(Ok(bytes)) => self.end.connection.moved(bytes),
                // It was not ready after all: asks again, and is woken then.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    let shared = self.shared();
                    let (queued, limit) = (self.end.connection.queued_bytes(), shared.outbox_bytes_max);
                    let pushed = queued.saturating_sub(self.out.len());
                    shared.budget.block(&shared.share, self.out.memory_bytes() + pushed);
                    if queued > limit {
                        return Poll::Ready(Err(CloseReason::SlowConsumer { queued, limit }));
                    }
                    return Poll::Pending;
                }
            }
        }
        self.shared().budget.unblock(&self.shared().share);
        Poll::Ready(Ok(true))
    }

    /// Before the end: what is answered should arrive if the socket takes it at once.
    fn write_once(&mut self, reason: &CloseReason) {
        let vain = matches!(
            reason,
            CloseReason::SlowConsumer { .. } | CloseReason::BudgetExceeded { .. } | CloseReason::Io(_)
        );
        let is_halfway =
            matches!(self.end.connection.outbox().writing, Writing::Pusher { .. } | Writing::Rest);
        if !self.out.is_empty() && !vain && !is_halfway {
            let _ = self.out.write(self.socket.stream());
        }
    }

    /// Reads once, cuts every complete frame, hands them in.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let (limits, chunk_bytes) = (self.limits, self.chunk_bytes);
        let reserve = |input: &mut BytesMut| reserve(input, limits, chunk_bytes);
        let bytes = ready!(self.socket.poll_read(cx, &mut self.input, reserve))?;
        if bytes == 0 {
            return Poll::Ready(Err(CloseReason::PeerClosed));
        }
        if self.input.len() == self.input.capacity() {
            self.chunk_bytes = (self.chunk_bytes * 4).min(CHUNK_BYTES_MAX);
        }
        self.shared().quiet_rounds.store(0, Ordering::Relaxed);
        self.shared().buffered.store(true, Ordering::Relaxed);
        loop {
            match frame::cut(&mut self.input, self.limits) {
                Ok(Some(frame)) => self.frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    self.nonsense = Some(error);
                    break;
                }
            }
        }
        if self.input.is_empty() && self.input.capacity() > 2 * CHUNK_BYTES_MAX {
            self.input = BytesMut::new();
        }
        Poll::Ready(if self.frames.is_empty() { Ok(()) } else { self.dispatch() })
    }

    fn dispatch(&mut self) -> Result<(), CloseReason> {
        let (frames_before, bytes_before) = (self.frames.len(), self.out.len());
        let result = self.end.handler.frames(&self.end.connection, &mut self.frames, &mut self.out);
        assert!(self.out.len() >= bytes_before, "a handler only appends");
        self.shared().queued_bytes.fetch_add(self.out.len() - bytes_before, Ordering::Relaxed);
        result?;
        assert!(self.frames.len() < frames_before, "a handler takes at least one frame");
        Ok(())
    }

    /// Gives back the memory of a connection that was quiet for a while.
    fn trim(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
            self.chunk_bytes = CHUNK_BYTES_MIN;
        }
        if self.frames.is_empty() {
            self.frames = Vec::new();
        }
        self.out.trim();
        let kept = self.input.capacity() > 0 || self.frames.capacity() > 0 || self.out.has_buffers();
        self.shared().buffered.store(kept, Ordering::Relaxed);
    }
}

/// Room for the next read: for the rest of an announced frame, but never more than doubling what really came.
fn reserve(input: &mut BytesMut, limits: FrameLimits, chunk_bytes: usize) {
    let have = input.len();
    let missing = match frame::needed(input, limits) {
        Ok(Some(total)) => total.saturating_sub(have).min(have.max(CHUNK_BYTES_MAX)),
        Ok(None) | Err(_) => 0,
    };
    let least = missing.max(chunk_bytes / 4);
    if input.capacity() - have < least {
        input.reserve(missing.max(chunk_bytes));
    }
}
