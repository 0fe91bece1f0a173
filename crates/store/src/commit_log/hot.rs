//! Recent parts of the log in memory, so that consumers that keep up never touch the disk.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

#[derive(Debug)]
pub(super) struct Hot {
    /// Parts in log order; each holds whole records.
    chunks: VecDeque<(i64, Bytes)>,
    bytes: usize,
    bytes_max: usize,
}

impl Hot {
    pub fn new(bytes_max: usize) -> Hot {
        Hot { chunks: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the newest part. Returns a block whose last part is forgotten and that nobody reads, to be used again.
    pub fn push(&mut self, base: i64, chunk: Bytes) -> Option<BytesMut> {
        self.bytes += chunk.len();
        self.chunks.push_back((base, chunk));
        let mut block = None;
        while self.bytes > self.bytes_max {
            let Some((_, old)) = self.chunks.pop_front() else { break };
            self.bytes -= old.len();
            block = old.try_into_mut().ok().or(block);
        }
        block
    }

    /// Position of the oldest byte. What is before it never comes back.
    pub fn start(&self) -> i64 {
        self.chunks.front().map_or(i64::MAX, |(base, _)| *base)
    }

    /// The bytes at `offset`, when all of them are here.
    pub fn get(&self, offset: i64, size: usize) -> Option<Bytes> {
        let index = self.chunks.partition_point(|(base, _)| *base <= offset).checked_sub(1)?;
        let (base, chunk) = &self.chunks[index];
        let at = (offset - base) as usize;
        let end = at.checked_add(size)?;
        (end <= chunk.len()).then(|| chunk.slice(at..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_bytes_are_kept() {
        let mut hot = Hot::new(10);
        hot.push(0, Bytes::from_static(b"aaaaaa"));
        hot.push(100, Bytes::from_static(b"bbbbbb"));
        assert_eq!(hot.get(0, 2), None);
        assert_eq!(hot.get(102, 3).as_deref(), Some(&b"bbb"[..]));
        assert_eq!(hot.get(102, 5), None);
        assert_eq!(hot.get(99, 1), None);
        assert_eq!(hot.get(106, 1), None);
    }
}
