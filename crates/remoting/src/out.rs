//! What a connection has to write: small frames side by side in one buffer, large bodies by reference, in order.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;

/// Bytes up to this length are copied next to their neighbours: cheaper than one more slice in the system call.
const COPY_BYTES_MAX: usize = 4096;
/// Most slices that one system call gets.
const SLICES_MAX: usize = 64;
/// A buffer beyond this is given back once it is written: the reply to a pull, of 256 KiB and a message, stays below.
const KEEP_BYTES_MAX: usize = 320 * 1024;

/// Output of a connection.
#[derive(Debug, Default)]
pub struct Out {
    /// Complete pieces, to be written before `tail`.
    sealed: VecDeque<Bytes>,
    sealed_bytes: usize,
    tail: BytesMut,
    /// Bytes of `tail`'s memory in front of it: written, and not given back before the rest is.
    written: usize,
}

impl Out {
    /// Nothing to write yet.
    pub fn new() -> Out {
        Out::default()
    }

    /// The buffer to append small frames to.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends `bytes`, without copying them unless they are few.
    pub fn push_bytes(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_BYTES_MAX {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            let head = self.tail.split().freeze();
            self.sealed_bytes += head.len();
            self.sealed.push_back(head);
        }
        self.sealed_bytes += bytes.len();
        self.sealed.push_back(bytes);
    }

    /// Bytes that are to be written.
    pub fn len(&self) -> usize {
        self.sealed_bytes + self.tail.len()
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that is held for what is to be written.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.sealed_bytes + self.written + self.tail.capacity()
    }

    /// Whether buffers are held that [`Out::trim`] would give back.
    pub(crate) fn has_buffers(&self) -> bool {
        self.tail.capacity() > 0 || self.sealed.capacity() > 0
    }

    /// Gives the memory back if nothing is to be written.
    pub(crate) fn trim(&mut self) {
        if self.is_empty() {
            *self = Out::new();
        }
    }

    /// Offers everything to `stream` once, and returns how many bytes it took.
    pub(crate) fn write(&mut self, stream: &TcpStream) -> io::Result<usize> {
        self.write_by(|slices| match slices {
            [one] => stream.try_write(one),
            _ => stream.try_write_vectored(slices),
        })
    }

    fn write_by(&mut self, write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let pieces = self.sealed.iter().map(Bytes::as_ref).chain([self.tail.as_ref()]);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let bytes = write(&slices[..count])?;
        self.advance(bytes);
        Ok(bytes)
    }

    /// Appends what `other` has to write.
    pub(crate) fn append(&mut self, mut other: Out) {
        for piece in other.sealed.drain(..) {
            self.push_bytes(piece);
        }
        self.tail.extend_from_slice(&other.tail);
    }

    fn advance(&mut self, mut bytes: usize) {
        assert!(bytes <= self.len(), "a socket takes no more than it was offered");
        while bytes > 0 {
            let Some(front) = self.sealed.front_mut() else { break };
            let taken = bytes.min(front.len());
            front.advance(taken);
            self.sealed_bytes -= taken;
            bytes -= taken;
            if front.is_empty() {
                self.sealed.pop_front();
            }
        }
        self.tail.advance(bytes);
        self.written += bytes;
        if self.tail.is_empty() {
            // What was written is not part of the capacity, but of the buffer.
            if self.written + self.tail.capacity() > KEEP_BYTES_MAX {
                self.tail = BytesMut::new();
            } else {
                // From the front again: what is appended next need not be moved there halfway.
                let _ = self.tail.try_reclaim(self.tail.capacity() + 1);
            }
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_leave_in_the_order_in_which_they_came() {
        let mut out = Out::new();
        out.buffer().extend_from_slice(b"ab");
        out.push_bytes(Bytes::from(vec![b'c'; COPY_BYTES_MAX + 1]));
        out.push_bytes(Bytes::from_static(b"de"));
        out.buffer().extend_from_slice(b"f");
        assert_eq!(out.len(), COPY_BYTES_MAX + 6);
        let mut more = Out::new();
        more.push_bytes(Bytes::from(vec![b'g'; COPY_BYTES_MAX + 1]));
        more.buffer().extend_from_slice(b"h");
        out.append(more);
        let mut written = Vec::new();
        while !out.is_empty() {
            // No more than three bytes of the first slice: whatever a socket takes, the rest follows.
            let take = |slices: &[IoSlice<'_>]| {
                let some = &slices[0][..slices[0].len().min(3)];
                written.extend_from_slice(some);
                Ok(some.len())
            };
            out.write_by(take).unwrap();
        }
        let expected =
            [&b"ab"[..], &[b'c'; COPY_BYTES_MAX + 1], b"def", &[b'g'; COPY_BYTES_MAX + 1], b"h"].concat();
        assert_eq!(written, expected);
    }

    #[test]
    fn a_large_buffer_counts_until_the_last_byte_of_it_is_written() {
        const LARGE: usize = 2 * KEEP_BYTES_MAX;
        let mut out = Out::new();
        out.buffer().extend_from_slice(&[7; LARGE]);
        out.advance(LARGE - 1);
        assert!(out.memory_bytes() >= LARGE);
        out.advance(1);
        assert_eq!((out.memory_bytes(), out.has_buffers()), (0, false));
    }
}
