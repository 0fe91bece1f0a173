//! Workers: threads that carry a server's connections, each with a runtime of its own.
//!
//! A connection is one worker's from its first byte on, so that what it waits for wakes the thread that will go on with
//! it; a runtime of several threads hands the watch over its sockets from one to the other for nearly each message. A
//! new connection goes to the worker with the fewest. What that cannot know, namely how busy each will be, is evened
//! out later: once a second a connection may move, if [`balance`] finds one that should.
//!
//! Not here: what a connection is ([`crate::connection`]), and how it moves (`carried`).

use std::collections::HashMap;
use std::io;
use std::net::TcpStream as StdStream;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cometmq_protocol::ConnectionId;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use crate::balance;
use crate::connection::Connection;
use crate::socket::Socket;

/// Time between two looks at how busy workers are.
const LOOK: Duration = Duration::from_secs(1);

/// Those who carry connections, for one server or several. Their threads end when this is dropped; connections that
/// are open then are dropped with them.
#[derive(Debug)]
pub struct Workers {
    crew: Arc<Crew>,
    _threads: Threads,
}

impl Workers {
    /// Starts `count` threads, named `worker-0` and so on. Each calls `at_start` first.
    pub fn start(count: NonZeroUsize, at_start: impl Fn() + Send + Sync + 'static) -> io::Result<Workers> {
        let at_start = Arc::new(at_start);
        let mut threads = Threads { end: watch::Sender::new(()), handles: Vec::new() };
        let mut workers = Vec::new();
        for number in 0..count.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.push(Worker::new(runtime.handle().clone()));
            threads.add(number, runtime, at_start.clone())?;
        }
        Ok(Workers { crew: Crew::new(workers), _threads: threads })
    }

    /// The runtime that this is called in, whatever its threads: for who serves few connections, and for tests.
    pub fn current() -> Workers {
        let threads = Threads { end: watch::Sender::new(()), handles: Vec::new() };
        Workers { crew: Crew::new(vec![Worker::new(Handle::current())]), _threads: threads }
    }

    pub(crate) fn crew(&self) -> Arc<Crew> {
        self.crew.clone()
    }

    /// Asks that each connection be carried by the next worker. For tests: nobody else knows better than [`balance`].
    #[doc(hidden)]
    pub fn shift(&self) {
        let workers = &self.crew.workers;
        let carried = |worker: &Arc<Worker>| worker.carried().values().cloned().collect::<Vec<_>>();
        // All of them first: one that has moved is not to move on.
        let all: Vec<_> = workers.iter().map(carried).collect();
        for (connections, next) in all.iter().zip(workers.iter().cycle().skip(1)) {
            connections.iter().for_each(|connection| connection.move_to(next.clone()));
        }
    }
}

/// Threads that run until they are dropped.
#[derive(Debug)]
struct Threads {
    end: watch::Sender<()>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    fn add(
        &mut self,
        number: usize,
        runtime: Runtime,
        at_start: Arc<impl Fn() + Send + Sync + 'static>,
    ) -> io::Result<()> {
        let mut end = self.end.subscribe();
        let body = move || {
            at_start();
            // An error means that the sender is gone: time to end as well.
            let _ = runtime.block_on(end.changed());
        };
        self.handles.push(thread::Builder::new().name(format!("worker-{number}")).spawn(body)?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end.send_replace(());
        for handle in self.handles.drain(..) {
            if handle.join().is_err() {
                tracing::error!("a worker ended in a panic");
            }
        }
    }
}

/// Hands over whole frames for many connections, as [`Connection::push_now`] does for one, but each worker writes those of
/// the connections that it carries. So the caller has little to do, and a worker is woken once. Of several calls for a
/// connection the later may come first if the connection moves in between.
pub fn push_all(pushes: impl IntoIterator<Item = (Connection, Bytes)>) {
    type Pushes = Vec<(Connection, Bytes)>;
    let mut by_worker: Vec<(Arc<Worker>, Pushes)> = Vec::new();
    for (connection, bytes) in pushes {
        let Some(worker) = connection.worker() else {
            connection.push(bytes);
            continue;
        };
        connection.queue(bytes.len());
        match by_worker.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &worker)) {
            Some((_, pushes)) => pushes.push((connection, bytes)),
            None => by_worker.push((worker, vec![(connection, bytes)])),
        }
    }
    for (worker, mut pushes) in by_worker {
        worker.spawn(async move {
            let began = Instant::now();
            for (connection, bytes) in &mut pushes {
                connection.push_queued(std::mem::take(bytes));
            }
            // One look at the clock for all: they have about the same to do.
            let each = began.elapsed() / u32::try_from(pushes.len()).unwrap_or(u32::MAX);
            pushes.iter().for_each(|(connection, _)| connection.worked(each));
        });
    }
}

/// All workers, as servers know them.
#[derive(Debug)]
pub(crate) struct Crew {
    workers: Vec<Arc<Worker>>,
    /// Whose turn it is to get a connection when several have as few.
    turn: AtomicUsize,
    /// Of several servers with the same workers, one evens out for all.
    balancing: tokio::sync::Mutex<()>,
}

impl Crew {
    fn new(workers: Vec<Worker>) -> Arc<Crew> {
        let workers = workers.into_iter().map(Arc::new).collect();
        Arc::new(Crew { workers, turn: AtomicUsize::new(0), balancing: tokio::sync::Mutex::default() })
    }

    /// Who is to carry the next connection.
    pub(crate) fn least(&self) -> Arc<Worker> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        let (before, from) = self.workers.split_at(turn);
        let least = from.iter().chain(before).min_by_key(|worker| worker.carried().len());
        least.unwrap_or(&self.workers[turn]).clone()
    }

    /// Evens out what workers have to do, as long as it is polled.
    pub(crate) async fn balance(self: Arc<Self>) {
        let _alone = self.balancing.lock().await;
        loop {
            let began = Instant::now();
            tokio::time::sleep(LOOK).await;
            let busy: Vec<_> = self.workers.iter().map(|worker| worker.take_busy()).collect();
            if let Some((connection, to)) = balance::choose(&busy, began.elapsed()) {
                tracing::debug!(peer = %connection.peer().remote, worker = to, "connection moves");
                connection.move_to(self.workers[to].clone());
            }
        }
    }
}

/// One that carries connections.
#[derive(Debug)]
pub(crate) struct Worker {
    runtime: Handle,
    carried: Mutex<HashMap<ConnectionId, Connection>>,
}

impl Worker {
    fn new(runtime: Handle) -> Worker {
        Worker { runtime, carried: Mutex::default() }
    }

    /// Has this worker's runtime watch over a socket.
    pub(crate) fn adopt(&self, stream: StdStream) -> io::Result<Socket> {
        let _inside = self.runtime.enter();
        TcpStream::from_std(stream).map(Socket::new)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    fn carried(&self) -> MutexGuard<'_, HashMap<ConnectionId, Connection>> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections that had something to do since this was last asked, and for how long.
    fn take_busy(&self) -> Vec<(Connection, Duration)> {
        let busy = |connection: &Connection| (connection.clone(), connection.take_busy());
        let mut all: Vec<_> = self.carried().values().map(busy).collect();
        all.retain(|(_, time)| !time.is_zero());
        all
    }
}

/// A connection's place at its worker.
pub(crate) struct Seat {
    worker: Arc<Worker>,
    connection: ConnectionId,
}

impl Seat {
    pub(crate) fn take(worker: Arc<Worker>, connection: &Connection) -> Seat {
        let id = connection.peer().connection;
        worker.carried().insert(id, connection.clone());
        connection.carried_by(worker.clone());
        Seat { worker, connection: id }
    }

    pub(crate) fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let left = self.worker.carried().remove(&self.connection);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_names_call_the_hook_and_end() {
        let (told, names) = std::sync::mpsc::channel();
        let told = Mutex::new(told);
        let hook = move || {
            told.lock().unwrap().send(thread::current().name().unwrap().to_owned()).unwrap();
        };
        let workers = Workers::start(NonZeroUsize::new(3).unwrap(), hook).unwrap();
        let mut called = [(); 3].map(|()| names.recv().unwrap());
        called.sort();
        assert_eq!(called, ["worker-0", "worker-1", "worker-2"]);
        // A task that would never end is dropped with its worker, and tells so.
        struct Told(std::sync::mpsc::Sender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let (dropped, was_dropped) = std::sync::mpsc::channel();
        let told = Told(dropped);
        workers.crew().least().spawn(async move {
            std::future::pending::<()>().await;
            drop(told);
        });
        drop(workers);
        was_dropped.try_recv().unwrap();
        names.recv().expect_err("the hook went with the last thread");
    }
}
