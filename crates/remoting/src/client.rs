//! Connecting: requests answered by futures, many at a time on one connection.
//!
//! [`dial`] gives the bare connection with a [`Handler`] of one's own (a load generator answers replies with new
//! requests right there); [`ClientConnection`] matches replies to requests and hands the server's own requests to
//! an [`Incoming`].

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cometmq_protocol::headers::{FieldError, HeaderFields};
use cometmq_protocol::{Fields, Frame, FrameLimits, Header, Peer, Reply, SerializeType};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::budget::Budget;
use crate::close::CloseReason;
use crate::connection::{self, Connection, Handler, Side, Task};
use crate::out::Out;
use crate::socket::Socket;

/// Most requests of one connection that wait for their replies.
const PENDING_MAX: usize = 65_536;

/// The bounds of a client's connection.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How large a frame may be, in both directions.
    pub limits: FrameLimits,
    /// How the headers of requests are written. The compact form cannot tell codes beyond 32767 (POP).
    pub serialize_type: SerializeType,
    /// Most bytes that may wait for the server to read them.
    pub outbox_bytes_max: usize,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        let limits = FrameLimits::default();
        ClientOptions {
            connect_timeout: Duration::from_secs(3),
            // The reply to a batch names each of its messages in the header, so that only the frame bounds it.
            limits: FrameLimits { header_bytes_max: limits.frame_bytes_max, ..limits },
            serialize_type: SerializeType::Json,
            outbox_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// Why a request has no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemotingError {
    /// No connection could be made.
    #[error(
        "cannot connect to {address}: {source}; check that the server runs there and that no firewall is between"
    )]
    ConnectFailed {
        /// Address as given.
        address: String,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// No connection could be made in time.
    #[error(
        "{address} did not accept a connection within {} ms; check that this address is reachable from here \
         (a broker in a container needs brokerIP1)",
        .after.as_millis()
    )]
    ConnectTimeout {
        /// Address as given.
        address: String,
        /// Time allowed.
        after: Duration,
    },
    /// The connection ended before the reply came. Whether the request was carried out is unknown.
    #[error("the connection to {address} ended before the reply came ({reason}); connect again and retry")]
    Closed {
        /// Server.
        address: SocketAddr,
        /// Why it ended.
        reason: CloseReason,
    },
    /// No reply in time. Whether the request was carried out is unknown.
    #[error("{address} did not answer request {code} within {} ms; it is overloaded, or the timeout is too short", .after.as_millis())]
    Timeout {
        /// Server.
        address: SocketAddr,
        /// Request code.
        code: i32,
        /// Time allowed.
        after: Duration,
    },
    /// The request is larger than a frame may be.
    #[error("a request of {bytes} bytes exceeds the frame limit of {limit}; send less at a time")]
    TooLarge {
        /// Size.
        bytes: usize,
        /// Limit in force.
        limit: usize,
    },
    /// Too much already waits on this connection.
    #[error(
        "{address} is behind: {requests} requests and {bytes} bytes wait; send slower or use more connections"
    )]
    Overloaded {
        /// Server.
        address: SocketAddr,
        /// Requests without reply.
        requests: usize,
        /// Bytes not yet taken by the socket.
        bytes: usize,
    },
}

/// What a client does with requests of the server.
pub trait Incoming: Send + Sync + 'static {
    /// A request from the server, called on the connection's task: must not block. The reply is sent unless the
    /// request was one-way; without one the server is not answered.
    fn request(&self, peer: Peer, header: &Header<'_>, body: &Bytes) -> Option<Reply> {
        let _ = (peer, header, body);
        None
    }

    /// The connection ended.
    fn closed(&self, peer: Peer, reason: &CloseReason) {
        let _ = (peer, reason);
    }
}

/// Ignores all requests of the server.
impl Incoming for () {}

/// Connects to `address` (`host:port`) and carries frames to and from `handler` until the connection is closed.
pub async fn dial(
    address: &str,
    options: &ClientOptions,
    handler: Arc<dyn Handler>,
) -> Result<Connection, RemotingError> {
    let failed =
        |source| RemotingError::ConnectFailed { address: address.to_owned(), source: Arc::new(source) };
    let stream = match timeout(options.connect_timeout, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => {
            return Err(RemotingError::ConnectTimeout {
                address: address.to_owned(),
                after: options.connect_timeout,
            });
        }
    };
    let _ = stream.set_nodelay(true);
    let socket = Socket::new(stream);
    // A client's outbox has a bound, and what it refuses costs nobody else.
    let budget = Arc::new(Budget::new(usize::MAX));
    let connection = Connection::new(&socket, options.outbox_bytes_max, budget).map_err(failed)?;
    // Ends when the connection is closed; `ClientConnection::closed` waits for that.
    let task = Task::new(socket, connection.clone(), handler, options.limits, Side::Client);
    tokio::spawn(connection::run(task));
    Ok(connection)
}

/// A connection to a server. Clones are the same connection; it is closed when the last one is dropped.
#[derive(Clone)]
pub struct ClientConnection {
    owner: Arc<Owner>,
    correlator: Arc<Correlator>,
    options: Arc<ClientOptions>,
}

struct Owner(Connection);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close(CloseReason::Local);
    }
}

impl ClientConnection {
    /// Connects to `address` (`host:port`).
    pub async fn connect(
        address: &str,
        options: &ClientOptions,
        incoming: Arc<dyn Incoming>,
    ) -> Result<ClientConnection, RemotingError> {
        let correlator = Arc::new(Correlator {
            pending: Mutex::default(),
            next_opaque: AtomicI32::new(0),
            incoming,
            ended: watch::Sender::new(false),
        });
        let connection = dial(address, options, correlator.clone()).await?;
        Ok(ClientConnection {
            owner: Arc::new(Owner(connection)),
            correlator,
            options: Arc::new(options.clone()),
        })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.owner.0.peer()
    }

    /// Sends a request and waits for its reply. Dropping the future gives up waiting, not the request.
    pub async fn request(
        &self,
        code: i32,
        fields: Fields<'_>,
        body: Bytes,
        wait: Duration,
    ) -> Result<Response, RemotingError> {
        let (sender, receiver) = oneshot::channel();
        let opaque = self.next_opaque();
        let _pending = self.expect(opaque, sender)?;
        self.send(&Header::request(code, opaque, fields), body)?;
        match timeout(wait, receiver).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(_)) => Err(self.closed_error()),
            Err(_) => Err(RemotingError::Timeout { address: self.peer().remote, code, after: wait }),
        }
    }

    /// Sends a request that is never answered.
    pub fn oneway(&self, code: i32, fields: Fields<'_>, body: Bytes) -> Result<(), RemotingError> {
        self.send(&Header::oneway(code, self.next_opaque(), fields), body)
    }

    /// Whether the connection has ended or is about to.
    pub fn is_closed(&self) -> bool {
        self.owner.0.close_reason().is_some()
    }

    /// Closes the connection; requests that wait fail with [`RemotingError::Closed`].
    pub fn close(&self) {
        self.owner.0.close(CloseReason::Local);
    }

    /// Waits until the connection has ended and all that waited has been told.
    pub async fn closed(&self) {
        // Fails only without a sender, which `self` holds.
        let _ = self.correlator.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn next_opaque(&self) -> i32 {
        self.correlator.next_opaque.fetch_add(1, Ordering::Relaxed)
    }

    /// Registers for the reply to `opaque`.
    fn expect(&self, opaque: i32, sender: oneshot::Sender<Response>) -> Result<Expected<'_>, RemotingError> {
        let mut pending = self.correlator.pending();
        if pending.ended {
            drop(pending);
            return Err(self.closed_error());
        }
        if pending.replies.len() >= PENDING_MAX {
            let requests = pending.replies.len();
            drop(pending);
            return Err(self.overloaded(requests));
        }
        pending.replies.insert(opaque, sender);
        Ok(Expected { correlator: &self.correlator, opaque })
    }

    fn send(&self, header: &Header<'_>, body: Bytes) -> Result<(), RemotingError> {
        let limit = self.options.limits.frame_bytes_max;
        if body.len() >= limit {
            return Err(RemotingError::TooLarge { bytes: body.len(), limit });
        }
        if self.is_closed() {
            return Err(self.closed_error());
        }
        let connection = &self.owner.0;
        if connection.queued_bytes() + body.len() > self.options.outbox_bytes_max {
            return Err(self.overloaded(self.correlator.pending().replies.len()));
        }
        let mut bytes = 0;
        connection.push_with(|out| {
            let start = out.buffer().len();
            header.encode(self.options.serialize_type, body.len(), out.buffer());
            bytes = out.buffer().len() - start + body.len();
            if bytes > limit {
                out.buffer().truncate(start);
            } else {
                out.push_bytes(body);
            }
        });
        if bytes > limit { Err(RemotingError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    fn closed_error(&self) -> RemotingError {
        let reason = self.owner.0.close_reason().unwrap_or(CloseReason::PeerClosed);
        RemotingError::Closed { address: self.peer().remote, reason }
    }

    fn overloaded(&self, requests: usize) -> RemotingError {
        RemotingError::Overloaded {
            address: self.peer().remote,
            requests,
            bytes: self.owner.0.queued_bytes(),
        }
    }
}

impl std::fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClientConnection").field(&self.peer()).finish()
    }
}

/// Removes a request from the waiting ones, answered or not.
struct Expected<'a> {
    correlator: &'a Correlator,
    opaque: i32,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.correlator.pending().replies.remove(&self.opaque);
    }
}

/// A server's reply.
#[derive(Clone, Debug)]
pub struct Response {
    /// Response code, see `ResponseCode`.
    pub code: i32,
    frame: Frame,
}

impl Response {
    /// The header.
    ///
    /// # Panics
    /// Never: it was read once when the reply came.
    pub fn header(&self) -> Header<'_> {
        Header::decode(&self.frame).expect("the header was read when the reply came")
    }

    /// The header's fields as those of a typed reply.
    pub fn fields<'a, T: HeaderFields<'a>>(&'a self) -> Result<T, FieldError> {
        T::decode(&mut self.header().fields.unwrap_or_default())
    }

    /// What the server says about it to a person, or an empty text.
    pub fn remark(&self) -> String {
        self.header().remark.map(std::borrow::Cow::into_owned).unwrap_or_default()
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.frame.body
    }
}

/// Matches replies to requests.
struct Correlator {
    pending: Mutex<Pending>,
    next_opaque: AtomicI32,
    incoming: Arc<dyn Incoming>,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct Pending {
    replies: HashMap<i32, oneshot::Sender<Response>>,
    ended: bool,
}

impl Correlator {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for Correlator {
    fn frames(
        &self,
        connection: &Connection,
        frames: &mut Vec<Frame>,
        out: &mut Out,
    ) -> Result<(), CloseReason> {
        for frame in frames.drain(..) {
            let header = Header::decode(&frame)?;
            if header.is_response() {
                let (code, opaque) = (header.code, header.opaque);
                let waiting = self.pending().replies.remove(&opaque);
                if let Some(sender) = waiting {
                    // Fails when the request was given up just now.
                    let _ = sender.send(Response { code, frame });
                }
                continue;
            }
            let reply = self.incoming.request(connection.peer(), &header, &frame.body);
            if let Some(reply) = reply.filter(|_| !header.is_oneway()) {
                reply.encode(header.opaque, frame.serialize_type, out.buffer());
            }
        }
        Ok(())
    }

    fn disconnected(&self, connection: &Connection) {
        let replies = {
            let mut pending = self.pending();
            pending.ended = true;
            std::mem::take(&mut pending.replies)
        };
        // Those who wait learn of it because their senders are gone.
        drop(replies);
        let reason = connection.close_reason().unwrap_or(CloseReason::PeerClosed);
        self.incoming.closed(connection.peer(), &reason);
        self.ended.send_replace(true);
    }
}
