//! The body of a batch send: small messages of one topic and queue, one behind the other.
//!
//! ```text
//! 4 total size   4 magic (0)   4 body CRC (0)   4 flag   4 body length, body   2 properties length, properties
//! ```

use bytes::{BufMut, BytesMut};

/// Bytes of a batched message with nothing in it.
const FIXED_BYTES: usize = 22;

/// One message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMessage<'a> {
    /// The user's flag.
    pub flag: i32,
    /// Body.
    pub body: &'a [u8],
    /// Property text.
    pub properties: &'a [u8],
}

/// Why a body is no batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A length inside points beyond its message or the body.
    #[error("message {index} of the batch ends inside its {part}")]
    Truncated {
        /// Number of the message, from 0.
        index: usize,
        /// What is cut off.
        part: &'static str,
    },
    /// A batch without messages.
    #[error("the batch has no messages")]
    Empty,
}

/// Reads all messages of a batch. Nothing is copied.
pub fn decode(body: &[u8]) -> Result<Vec<BatchMessage<'_>>, BatchError> {
    let mut messages = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let index = messages.len();
        let cut = |part| BatchError::Truncated { index, part };
        let total = u32::from_be_bytes(*rest.first_chunk().ok_or(cut("size"))?) as usize;
        if total < FIXED_BYTES {
            return Err(cut("fixed part"));
        }
        let (message, tail) = rest.split_at_checked(total).ok_or(cut("content"))?;
        messages.push(decode_one(message).ok_or(cut("body or properties"))?);
        rest = tail;
    }
    if messages.is_empty() { Err(BatchError::Empty) } else { Ok(messages) }
}

fn decode_one(message: &[u8]) -> Option<BatchMessage<'_>> {
    let flag = i32::from_be_bytes(*message[12..].first_chunk()?);
    let body_bytes = u32::from_be_bytes(*message[16..].first_chunk()?) as usize;
    let (body, rest) = message[20..].split_at_checked(body_bytes)?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let properties = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    Some(BatchMessage { flag, body, properties })
}

/// Appends one message to a batch.
pub fn encode(message: &BatchMessage<'_>, out: &mut BytesMut) {
    out.put_u32((FIXED_BYTES + message.body.len() + message.properties.len()) as u32);
    out.put_u32(0);
    out.put_u32(0);
    out.put_i32(message.flag);
    out.put_u32(message.body.len() as u32);
    out.put_slice(message.body);
    out.put_u16(message.properties.len() as u16);
    out.put_slice(message.properties);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_batch_that_lies_about_a_length_is_refused() {
        let mut out = BytesMut::new();
        encode(&BatchMessage { flag: 0, body: b"body", properties: b"A\x01b\x02" }, &mut out);
        assert_eq!(decode(&out).unwrap().len(), 1);
        for end in 1..out.len() {
            assert!(decode(&out[..end]).is_err(), "{end} bytes");
        }
        out[19] = 200;
        assert_eq!(decode(&out), Err(BatchError::Truncated { index: 0, part: "body or properties" }));
        assert_eq!(decode(b""), Err(BatchError::Empty));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_batch_or_an_error(bytes in proptest::collection::vec(0u8..40, 0..120)) {
            let _ = decode(&bytes);
        }
    }
}
