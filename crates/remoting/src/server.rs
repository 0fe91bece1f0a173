//! Listening: one or several addresses, one handler, a bound on everything, an orderly stop.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cometmq_protocol::{ConnectionId, FrameLimits, Peer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::budget::Budget;
use crate::carried::{Carried, LINGER};
use crate::close::{CloseLog, CloseReason};
use crate::connection::{Connection, Handler, Side, Task};
use crate::workers::{Crew, Seat, Workers};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;
/// A quiet connection is closed after this many sweeps and one: the first may come right after its last byte.
const SWEEPS_PER_TIMEOUT: u32 = 4;
/// Bytes that may wait for peers that do not read: enough for some two hundred that are in the middle of a large reply
/// each, and little beside what a machine that serves as many has.
const UNREAD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How often a stopping server looks whether all is answered.
const STOP_POLL: Duration = Duration::from_millis(5);

/// The bounds of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// How large a frame may be.
    pub limits: FrameLimits,
    /// Most connections at a time; further ones are closed at once.
    pub connections_max: usize,
    /// A connection on which no byte moves for this long is closed.
    pub idle_timeout: Duration,
    /// A connection that takes no byte of what waits for it for this long is closed.
    pub write_timeout: Duration,
    /// Most bytes that may wait for a peer to read them.
    pub outbox_bytes_max: usize,
    /// Most bytes that may wait in all connections together for peers that do not read them.
    pub unread_bytes_max: usize,
    /// How long a stopping server waits for requests in flight and for peers to read their replies.
    pub stop_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            limits: FrameLimits::default(),
            connections_max: 65_536,
            idle_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            outbox_bytes_max: 64 * 1024 * 1024,
            unread_bytes_max: UNREAD_BYTES_MAX,
            stop_timeout: Duration::from_secs(5),
        }
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {source}; stop the process that has the port, or choose another address"
)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Sockets that listen; nothing is accepted before [`Server::serve`].
#[derive(Debug)]
pub struct Server {
    listeners: Vec<StdListener>,
    options: ServerOptions,
}

impl Server {
    /// Listens on all `addresses`, or on none. Port 0 takes a free port, see [`Server::local_addresses`].
    pub fn bind(addresses: &[SocketAddr], options: ServerOptions) -> Result<Server, BindError> {
        let listen = |&address| listen(address).map_err(|source| BindError { address, source });
        let listeners = addresses.iter().map(listen).collect::<Result<_, _>>()?;
        Ok(Server { listeners, options })
    }

    /// The addresses listened on, in the order given to [`Server::bind`].
    pub fn local_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(StdListener::local_addr).collect()
    }

    /// Serves until `shutdown` is ready, then stops in order: accepts nothing more, reads nothing more, waits until
    /// the handler has answered what it has taken and peers have read it (at most `stop_timeout`), and closes.
    ///
    /// Connections are carried by `workers`; what is polled here accepts them and looks after them all.
    /// An error comes only before the first connection is accepted.
    pub async fn serve(
        self,
        workers: &Workers,
        handler: Arc<dyn Handler>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let registry = Arc::new(Registry::new(self.options));
        let _close_all = CloseAll(registry.clone());
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            let listener = TcpListener::from_std(listener)?;
            tasks.spawn(accept(listener, registry.clone(), workers.crew(), handler.clone()));
        }
        tasks.spawn(workers.crew().balance());
        tasks.spawn(sweep(registry.clone()));
        tasks.spawn(relieve(registry.clone()));
        shutdown.await;
        tasks.shutdown().await;
        stop(&registry, handler.as_ref()).await;
        Ok(())
    }
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// All connections of a server.
struct Registry {
    options: ServerOptions,
    budget: Arc<Budget>,
    connections: Mutex<HashMap<ConnectionId, Connection>>,
    log: CloseLog,
}

impl Registry {
    fn new(options: ServerOptions) -> Registry {
        let budget = Arc::new(Budget::new(options.unread_bytes_max));
        Registry { options, budget, connections: Mutex::default(), log: CloseLog::default() }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<ConnectionId, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Vec<Connection> {
        self.connections().values().cloned().collect()
    }

    /// Adds the connection unless there are too many.
    fn enter(self: &Arc<Self>, connection: &Connection) -> Result<Entry, CloseReason> {
        let mut connections = self.connections();
        if connections.len() >= self.options.connections_max {
            return Err(CloseReason::TooManyConnections(self.options.connections_max));
        }
        connections.insert(connection.peer().connection, connection.clone());
        Ok(Entry { registry: self.clone(), peer: connection.peer() })
    }

    fn close_all(&self) {
        self.snapshot().iter().for_each(|connection| connection.close(CloseReason::Stopping));
    }
}

/// A connection's place in the registry.
pub(crate) struct Entry {
    registry: Arc<Registry>,
    peer: Peer,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let left = self.registry.connections().remove(&self.peer.connection);
        if let Some(reason) = left.and_then(|connection| connection.close_reason()) {
            self.registry.log.report(self.peer, &reason);
        }
    }
}

/// Closes what is open when `serve` itself is dropped halfway.
struct CloseAll(Arc<Registry>);

impl Drop for CloseAll {
    fn drop(&mut self) {
        self.0.close_all();
    }
}

async fn accept(listener: TcpListener, registry: Arc<Registry>, crew: Arc<Crew>, handler: Arc<dyn Handler>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Fails when the peer is gone already.
                let _ = admit(stream, &registry, &crew, &handler);
            }
            Err(error) if is_peers(&error) => {}
            Err(error) => {
                // Out of descriptors, most likely: those in use become free, so wait for that instead of spinning.
                tracing::error!(%error, "cannot accept a connection; check the limit of open files (ulimit -n)");
                sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// Whether accepting failed because of the one peer.
fn is_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn admit(
    stream: TcpStream,
    registry: &Arc<Registry>,
    crew: &Crew,
    handler: &Arc<dyn Handler>,
) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let worker = crew.least();
    let socket = worker.adopt(stream.into_std()?)?;
    let options = &registry.options;
    let connection = Connection::new(&socket, options.outbox_bytes_max, registry.budget.clone())?;
    let entry = match registry.enter(&connection) {
        Ok(entry) => entry,
        Err(reason) => {
            registry.log.report(connection.peer(), &reason);
            return Ok(());
        }
    };
    let seat = Seat::take(worker, &connection);
    let task = Task::new(socket, connection, handler.clone(), options.limits, Side::Server);
    Carried::new(task, entry, seat).start();
    Ok(())
}

/// Closes connections that are idle or whose peer takes nothing, and lets quiet ones give back their buffers.
async fn sweep(registry: Arc<Registry>) {
    let (idle, stalled) = (registry.options.idle_timeout, registry.options.write_timeout);
    let period = (idle.min(stalled) / SWEEPS_PER_TIMEOUT).max(Duration::from_millis(5));
    loop {
        sleep(period).await;
        for connection in registry.snapshot() {
            let (rounds, blocked) = connection.sweep();
            let quiet = period * (rounds - 1);
            if blocked && quiet >= stalled {
                connection.close(CloseReason::WriteStalled(stalled));
            } else if quiet >= idle {
                connection.close(CloseReason::Idle(idle));
            }
        }
        registry.log.flush();
    }
}

/// Closes connections that are not read when all of them together hold too much.
async fn relieve(registry: Arc<Registry>) {
    loop {
        registry.budget.exceeded().await;
        registry.budget.relieve(&registry.snapshot());
    }
}

async fn stop(registry: &Registry, handler: &dyn Handler) {
    let (began, timeout) = (Instant::now(), registry.options.stop_timeout);
    let connections = registry.snapshot();
    connections.iter().for_each(Connection::stop_reading);
    let open = |connection: &&Connection| connection.close_reason().is_none();
    // A peer that does not take its answers never gets that far: the others are to get theirs all the same.
    let read = || connections.iter().filter(open).all(Connection::has_finished_reading);
    wait_until(began + timeout / 2, read).await;
    handler.stopping();
    wait_until(began + timeout, || {
        handler.unanswered() == 0
            && connections.iter().filter(open).all(|connection| connection.queued_bytes() == 0)
    })
    .await;
    registry.close_all();
    wait_until(Instant::now() + 2 * LINGER, || registry.connections().is_empty()).await;
}

async fn wait_until(deadline: Instant, mut done: impl FnMut() -> bool) {
    while !done() && Instant::now() < deadline {
        sleep_until((Instant::now() + STOP_POLL).min(deadline)).await;
    }
}
