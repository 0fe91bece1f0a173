//! Records of one queue that differ in their places and contents only: whoever reads many of them tells each by a few
//! words.

use super::record::{self, MAGIC_V1, RECORD_BYTES_MIN};
use crate::units::{LogOffset, QueueOffset};

/// What a record has in common with the next ones of its queue, as long as these have parts of the same lengths.
#[derive(Clone, Copy, Debug)]
pub struct Alike<'a> {
    fixed: &'a [u8; RECORD_BYTES_MIN],
    bytes: usize,
    /// Where the body's length stands.
    body_bytes_at: usize,
    body_bytes: [u8; 4],
    /// Where the topic stands, with the lengths before and behind it.
    topic_at: usize,
    topic: &'a [u8],
}

impl<'a> Alike<'a> {
    /// What others may have in common with `record`, which is one of `topic` for sure: [`record::is_at`] says so.
    pub fn to(record: &'a [u8], topic: &str) -> Option<Alike<'a>> {
        let fixed = record.first_chunk()?;
        let body_bytes_at = record::body_bytes_at(fixed);
        let body_bytes = *record.get(body_bytes_at..)?.first_chunk()?;
        let topic_at = body_bytes_at + 4 + u32::from_be_bytes(body_bytes) as usize;
        let length_bytes = if fixed[4..8] == MAGIC_V1.to_be_bytes() { 1 } else { 2 };
        let topic = record.get(topic_at..topic_at + length_bytes + topic.len() + 2)?;
        Some(Alike { fixed, bytes: record.len(), body_bytes_at, body_bytes, topic_at, topic })
    }

    /// Whether `bytes` are the whole record of the same queue that has this place in it and in the log. That holds only if
    /// [`record::is_at`] says so too, but not always if it does: then the lengths differ.
    #[inline(always)] // Asked of each record that is read.
    pub fn is_at(&self, bytes: &[u8], log_offset: LogOffset, queue_offset: QueueOffset) -> bool {
        let Some(fixed) = bytes.first_chunk::<RECORD_BYTES_MIN>() else { return false };
        let same = |from: usize, to: usize| fixed[from..to] == self.fixed[from..to];
        // The same total size and version, queue and hosts' kinds; then its own place.
        bytes.len() == self.bytes
            && same(0, 8)
            && same(12, 16)
            && same(36, 40)
            && fixed[20..28] == queue_offset.0.to_be_bytes()
            && fixed[28..36] == log_offset.0.to_be_bytes()
            && bytes.get(self.body_bytes_at..).and_then(<[u8]>::first_chunk) == Some(&self.body_bytes)
            && bytes.get(self.topic_at..).is_some_and(|rest| begins_with(rest, self.topic))
    }
}

#[inline(always)]
fn begins_with(bytes: &[u8], part: &[u8]) -> bool {
    let Some(found) = bytes.get(..part.len()) else { return false };
    // Most are short: a call that compares them would be most of the work.
    let (Some(end), Some(part_end)) = (found.last_chunk::<8>(), part.last_chunk()) else {
        return found == part;
    };
    let (words, part_words) = (found.as_chunks::<8>().0, part.as_chunks().0);
    end == part_end && words.iter().zip(part_words).all(|(word, part)| word == part)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::message::Record;
    use crate::units::{Millis, QueueId};

    /// A record at log offset 7000 of queue 3, at offset 5 of it.
    fn encoded(topic: &str, body: &[u8], properties: &[u8], v6: bool) -> Vec<u8> {
        let host = if v6 { "[::1]:8" } else { "1.2.3.4:5" }.parse().unwrap();
        let record =
            Record { flag: 9, properties: [properties, &[]], ..Record::plain(topic, QueueId(3), host, body) };
        let mut out = BytesMut::new();
        record.encode(QueueOffset(5), LogOffset(7000), Millis(2), &mut out);
        out.to_vec()
    }

    proptest! {
        #[test]
        fn what_is_told_by_what_it_has_in_common_is_the_record_of_that_place(
            topic in "[a-z]{1,30}|[a-z]{126,132}",
            body in proptest::collection::vec(any::<u8>(), 0..40),
            other in proptest::collection::vec(any::<u8>(), 0..40),
            properties in "[a-z]{0,30}",
            v6 in any::<bool>(),
            flip in any::<prop::sample::Index>(),
            bit in 0..8,
        ) {
            let is_at = |bytes: &[u8], log, queue| {
                record::is_at(bytes, LogOffset(log), (&topic, QueueId(3), QueueOffset(queue)), false)
            };
            let first = encoded(&topic, &body, properties.as_bytes(), v6);
            prop_assert!(is_at(&first, 7000, 5));
            let alike = Alike::to(&first, &topic).unwrap();
            let told = |bytes: &[u8], log, queue| alike.is_at(bytes, LogOffset(log), QueueOffset(queue));
            prop_assert!(told(&first, 7000, 5));
            prop_assert!(!told(&first, 7001, 5) && !told(&first, 7000, 6) && !told(&first[..first.len() - 1], 7000, 5));
            // Another body of the same length is another record of the same kind; any other is left to `is_at`.
            let next = encoded(&topic, &other, properties.as_bytes(), v6);
            prop_assert!(is_at(&next, 7000, 5));
            prop_assert_eq!(told(&next, 7000, 5), other.len() == body.len());
            for other in [encoded("#", &body, properties.as_bytes(), v6), encoded(&topic, &body, b"#", v6),
                          encoded(&topic, &body, properties.as_bytes(), !v6)] {
                prop_assert!(!told(&other, 7000, 5) || is_at(&other, 7000, 5));
            }
            // A flipped bit is found here wherever it is there.
            let mut flipped = first.clone();
            let at = flip.index(flipped.len());
            flipped[at] ^= 1u8 << bit;
            prop_assert!(!told(&flipped, 7000, 5) || is_at(&flipped, 7000, 5));
            let in_sys_flag = (36..40).contains(&at);
            prop_assert!(told(&flipped, 7000, 5) || !is_at(&flipped, 7000, 5) || in_sys_flag);
        }
    }
}
