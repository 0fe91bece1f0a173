//! A connection's socket: the reading half is its task's alone, the writing half is lent to threads that push.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A socket that the runtime watches at whose side it was made.
#[derive(Debug)]
pub(crate) struct Socket {
    reader: OwnedReadHalf,
    writer: Arc<OwnedWriteHalf>,
}

/// Where a thread that pushes finds the socket, as long as there is one.
pub(crate) type Lent = Weak<OwnedWriteHalf>;

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Socket {
        let (reader, writer) = stream.into_split();
        Socket { reader, writer: Arc::new(writer) }
    }

    /// Both ends: the peer's first.
    pub(crate) fn addresses(&self) -> io::Result<[SocketAddr; 2]> {
        Ok([self.reader.peer_addr()?, self.reader.local_addr()?])
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.reader.as_ref()
    }

    pub(crate) fn lend(&self) -> Lent {
        Arc::downgrade(&self.writer)
    }

    /// Whether a thread that pushes has the socket at hand.
    pub(crate) fn is_lent(&self) -> bool {
        Arc::strong_count(&self.writer) > 1
    }

    /// Reads once into the room that `input` has, for which `reserve` is asked as soon as there is something to read.
    ///
    /// A read that leaves room empties the socket, so the runtime waits for more before it is read again: the half of
    /// tokio that reads knows this, `try_read_buf` does not.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
        reserve: impl FnOnce(&mut BytesMut),
    ) -> Poll<io::Result<usize>> {
        ready!(self.stream().poll_read_ready(cx))?;
        reserve(input);
        pin!(self.reader.read_buf(input)).poll(cx)
    }

    /// Takes the socket away from its runtime. Fails while it is lent.
    pub(crate) fn into_std(self) -> io::Result<StdStream> {
        let writer = Arc::into_inner(self.writer).ok_or_else(|| io::Error::other("the socket is in use"))?;
        self.reader.reunite(writer).map_err(io::Error::other)?.into_std()
    }
}
