//! Message bodies that tell who they are, and whether they are whole.
//!
//! ```text
//! 4 CRC-32 of the rest     4 round     4 sender     4 number     random bytes
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cometmq_protocol::message::record::body_crc;

use crate::chance::Chance;

/// Bytes of a body without random ones.
const HEAD_BYTES: usize = 16;

/// The bodies of one sender in one round, each different from all others of the run.
#[derive(Debug)]
pub(super) struct Bodies {
    round: u32,
    sender: u32,
    next: u32,
    fill_bytes_max: u64,
    chance: Chance,
}

impl Bodies {
    /// Bodies with 0 to `fill_bytes_max` (a power of two, 16 or more) random bytes; sizes and bytes come from `seed`.
    pub(super) fn new(round: u32, sender: u32, seed: u64, fill_bytes_max: u64) -> Bodies {
        Bodies { round, sender, next: 0, fill_bytes_max, chance: Chance::of(seed) }
    }

    /// The next body. Small ones are as frequent as large ones.
    pub(super) fn next(&mut self) -> Bytes {
        let most = 1 << self.chance.within(4..u64::from(self.fill_bytes_max.ilog2()) + 1);
        let fill = self.chance.within(0..most + 1) as usize;
        let mut body = BytesMut::with_capacity(HEAD_BYTES + fill + 8);
        body.put_u32(0);
        body.put_u32(self.round);
        body.put_u32(self.sender);
        body.put_u32(self.next);
        while body.len() < HEAD_BYTES + fill {
            body.put_u64(self.chance.next());
        }
        body.truncate(HEAD_BYTES + fill);
        let crc = body_crc(&body[4..]);
        body[..4].copy_from_slice(&crc.to_be_bytes());
        self.next += 1;
        body.freeze()
    }
}

/// The identity of a body: round, sender, number. `None` when these bytes are not a whole body.
pub(super) fn identity(mut body: &[u8]) -> Option<(u32, u32, u32)> {
    if body.len() < HEAD_BYTES || body.get_u32() != body_crc(body) {
        return None;
    }
    Some((body.get_u32(), body.get_u32(), body.get_u32()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_differ_and_damage_shows() {
        let mut bodies = Bodies::new(3, 4, 5, 4096);
        for number in 0..200 {
            let body = bodies.next();
            assert_eq!(identity(&body), Some((3, 4, number)));
            let mut damaged = body.to_vec();
            let last = damaged.len() - 1;
            damaged[last] ^= 1;
            assert_eq!(identity(&damaged), None);
            assert_eq!(identity(&body[..last]), None);
        }
    }
}
