//! Frames: what is cut out of a TCP stream.
//!
//! ```text
//! offset  size  field
//! 0       4     length of everything that follows = 4 + H + B
//! 4       1     serialize type of the header: 0 JSON, 1 ROCKETMQ
//! 5       3     H, the header's length
//! 8       H     header
//! 8 + H   B     body
//! ```
//!
//! All integers are big-endian. There is neither magic number nor version: a peer that does not speak this
//! protocol shows itself by an impossible length or type, and costs its own connection only.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// How a header is written. Each frame names its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerializeType {
    /// A JSON object; what every client reads.
    Json,
    /// The compact binary form ("ROCKETMQ"); 16 bits for the code only.
    Compact,
}

/// How large a frame may be before it is refused, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Whole frame with its length field. RocketMQ: 16 MiB.
    pub frame_bytes_max: usize,
    /// Header alone.
    pub header_bytes_max: usize,
}

impl Default for FrameLimits {
    fn default() -> FrameLimits {
        // A header may carry 32 KiB of message properties, each byte escaped to six (\u0001).
        FrameLimits { frame_bytes_max: 16 * 1024 * 1024, header_bytes_max: 256 * 1024 }
    }
}

/// One frame, its parts still encoded. Both slices share the read buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// How `header` is written.
    pub serialize_type: SerializeType,
    /// The encoded header.
    pub header: Bytes,
    /// The body; empty and absent are the same on the wire.
    pub body: Bytes,
}

/// Why a stream cannot be cut into frames. The connection has to be closed: there is no way to find the next frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is beyond the limit; also what HTTP and TLS clients look like.
    #[error("frame of {bytes} bytes exceeds the limit of {limit}{hint}")]
    TooLarge {
        /// Length that the frame claims.
        bytes: u64,
        /// Limit in force.
        limit: usize,
        /// What the peer probably is, if its first bytes tell.
        hint: &'static str,
    },
    /// The length field is too small to hold the header's length.
    #[error("frame length {bytes} is below the minimum of 4")]
    TooShort {
        /// Length that the frame claims.
        bytes: u32,
    },
    /// The header's length does not fit into the frame.
    #[error("header of {bytes} bytes does not fit into its frame or exceeds the limit ({limit} bytes)")]
    HeaderTooLarge {
        /// Length that the header claims.
        bytes: usize,
        /// What would fit.
        limit: usize,
    },
    /// The type byte is neither 0 nor 1.
    #[error("unknown serialize type {0} (0 is JSON, 1 is ROCKETMQ)")]
    SerializeType(u8),
}

/// Cuts the next whole frame off the front of `buffer`, or `None` when more bytes must come.
///
/// Lengths are checked before anything is reserved for them, so a lying peer costs no memory.
pub fn cut(buffer: &mut BytesMut, limits: FrameLimits) -> Result<Option<Frame>, FrameError> {
    let Some((header, total)) = measure(buffer, limits)? else { return Ok(None) };
    if buffer.len() < total {
        return Ok(None);
    }
    let serialize_type = if buffer[4] == 0 { SerializeType::Json } else { SerializeType::Compact };
    let mut frame = buffer.split_to(total).freeze();
    frame.advance(8);
    let header = frame.split_to(header);
    Ok(Some(Frame { serialize_type, header, body: frame }))
}

/// How many bytes the frame at the front of `buffer` needs in all, once its first eight bytes are there.
pub fn needed(buffer: &[u8], limits: FrameLimits) -> Result<Option<usize>, FrameError> {
    Ok(measure(buffer, limits)?.map(|(_, total)| total))
}

/// Header length and total length of the frame at the front.
fn measure(buffer: &[u8], limits: FrameLimits) -> Result<Option<(usize, usize)>, FrameError> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let claimed = u32::from_be_bytes(*length);
    if claimed as usize + 4 > limits.frame_bytes_max {
        let hint = hint(*length);
        return Err(FrameError::TooLarge {
            bytes: u64::from(claimed) + 4,
            limit: limits.frame_bytes_max,
            hint,
        });
    }
    if claimed < 4 {
        return Err(FrameError::TooShort { bytes: claimed });
    }
    let Some(start) = buffer.first_chunk::<8>() else { return Ok(None) };
    if start[4] > 1 {
        return Err(FrameError::SerializeType(start[4]));
    }
    let header = u32::from_be_bytes([0, start[5], start[6], start[7]]) as usize;
    let limit = (claimed as usize - 4).min(limits.header_bytes_max);
    if header > limit {
        return Err(FrameError::HeaderTooLarge { bytes: header, limit });
    }
    Ok(Some((header, claimed as usize + 4)))
}

fn hint(first: [u8; 4]) -> &'static str {
    match &first {
        b"GET " | b"POST" | b"HEAD" | b"PUT " | b"OPTI" | b"DELE" | b"PRI " => {
            "; the peer speaks HTTP, this port speaks RocketMQ remoting"
        }
        [0x16, 3, ..] => "; the peer speaks TLS, this port speaks plain RocketMQ remoting",
        _ => "",
    }
}

/// Starts a frame in `out` and returns where its length has to be written by [`finish`].
pub fn begin(out: &mut BytesMut) -> usize {
    let start = out.len();
    out.put_bytes(0, 8);
    start
}

/// Completes the frame begun at `start`: everything since is its header, and `body_bytes` are to follow.
///
/// # Panics
/// When the header is longer than 24 bits can tell: our own headers never are.
pub fn finish(out: &mut BytesMut, start: usize, serialize_type: SerializeType, body_bytes: usize) {
    let header = out.len() - start - 8;
    assert!(header < 1 << 24, "a header's length fits into 24 bits");
    let length = u32::try_from(4 + header + body_bytes).expect("frames are limited to 16 MiB");
    let kind = match serialize_type {
        SerializeType::Json => 0u32,
        SerializeType::Compact => 1,
    };
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    out[start + 4..start + 8].copy_from_slice(&(kind << 24 | header as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: FrameLimits = FrameLimits { frame_bytes_max: 1024, header_bytes_max: 512 };

    fn cut_one(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        cut(&mut BytesMut::from(bytes), LIMITS)
    }

    #[test]
    fn a_frame_is_cut_only_when_whole() {
        let bytes = [0, 0, 0, 7, 0, 0, 0, 2, b'{', b'}', b'x'];
        for end in 0..bytes.len() {
            assert_eq!(cut_one(&bytes[..end]), Ok(None), "{end} bytes");
        }
        let frame = cut_one(&bytes).unwrap().unwrap();
        assert_eq!((&frame.header[..], &frame.body[..]), (&b"{}"[..], &b"x"[..]));
    }

    #[test]
    fn lies_about_lengths_are_refused_before_the_bytes_come() {
        assert!(
            matches!(cut_one(b"GET / HTTP/1.1"), Err(FrameError::TooLarge { hint, .. }) if hint.contains("HTTP"))
        );
        assert!(
            matches!(cut_one(&[0x16, 3, 1, 2, 0]), Err(FrameError::TooLarge { hint, .. }) if hint.contains("TLS"))
        );
        assert_eq!(cut_one(&[0, 0, 0, 3]), Err(FrameError::TooShort { bytes: 3 }));
        assert_eq!(cut_one(&[0, 0, 0, 8, 7, 0, 0, 2]), Err(FrameError::SerializeType(7)));
        assert_eq!(
            cut_one(&[0, 0, 0, 8, 0, 0, 0, 5]),
            Err(FrameError::HeaderTooLarge { bytes: 5, limit: 4 })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = cut_one(&bytes);
        }

        #[test]
        fn what_was_written_is_cut_again(header in proptest::collection::vec(any::<u8>(), 0..200),
                                         body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = BytesMut::new();
            let start = begin(&mut out);
            out.extend_from_slice(&header);
            finish(&mut out, start, SerializeType::Compact, body.len());
            out.extend_from_slice(&body);
            let frame = cut(&mut out, LIMITS).unwrap().unwrap();
            prop_assert_eq!(&frame.header[..], &header[..]);
            prop_assert_eq!(&frame.body[..], &body[..]);
            prop_assert!(out.is_empty());
        }
    }
}
