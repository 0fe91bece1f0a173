//! The head of an answer to a pull.
//!
//! The usual one, of messages that were found, in JSON, differs in four numbers only from the one before: it is put
//! together from what stands between them. Where they stand is seen in a head that was encoded in full.

use std::cell::RefCell;

use bytes::{BufMut, BytesMut};
use cometmq_protocol::headers::pull::PullMessageReply;
use cometmq_protocol::{Header, QueueOffset, ResponseCode, SerializeType, frame};
use cometmq_store::Queue;

use super::Pull;

thread_local! {
    /// The form of this thread's last usual head.
    static LAST: RefCell<Option<Form>> = const { RefCell::new(None) };
}

/// What stands in for the numbers where a form is made.
const MARKS: Numbers = Numbers {
    next: 1_357_924_680_123_456_781,
    min: 1_357_924_680_123_456_782,
    max: 1_357_924_680_123_456_783,
    opaque: 1_357_924_684,
};

/// The numbers in which usual heads differ, in the order in which they are written.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    next: i64,
    min: i64,
    max: i64,
    opaque: i32,
}

/// What is the same in all usual heads for a group and a topic.
#[derive(Debug)]
struct Form {
    shape: Shape,
    /// What stands before each number and behind the last; `None` when that cannot be told.
    pieces: Option<[Vec<u8>; 5]>,
}

/// What the group's and the topic's settings say in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub topic_sys_flag: i32,
    pub group_sys_flag: i32,
    pub broker_id: i64,
}

/// Appends the head of an answer with a body of so many bytes.
pub(super) fn encode(
    pull: &Pull,
    queue: Option<&Queue>,
    code: ResponseCode,
    remark: &'static str,
    next: QueueOffset,
    body_bytes: usize,
    out: &mut BytesMut,
) {
    let numbers = Numbers {
        next: next.0,
        min: queue.map_or(0, |queue| queue.min().0),
        max: queue.map_or(0, |queue| queue.max().0),
        opaque: pull.opaque,
    };
    let usual = (code, pull.serialize_type) == (ResponseCode::Success, SerializeType::Json);
    let is_filled = usual
        && LAST.with_borrow_mut(|last| {
            let known = last.take_if(|form| form.shape == pull.shape);
            let form = last.insert(known.unwrap_or_else(|| Form::new(pull.shape, remark)));
            form.fill(&numbers, body_bytes, out)
        });
    if !is_filled {
        encode_whole(pull.shape, pull.serialize_type, code, remark, &numbers, body_bytes, out);
    }
}

fn encode_whole(
    shape: Shape,
    serialize_type: SerializeType,
    code: ResponseCode,
    remark: &'static str,
    numbers: &Numbers,
    body_bytes: usize,
    out: &mut BytesMut,
) {
    let fields = PullMessageReply {
        suggest_which_broker_id: shape.broker_id,
        next_begin_offset: numbers.next,
        min_offset: numbers.min,
        max_offset: numbers.max,
        offset_delta: Some(0),
        topic_sys_flag: Some(shape.topic_sys_flag),
        group_sys_flag: Some(shape.group_sys_flag),
        forbidden_type: None,
        borrows: std::marker::PhantomData,
    };
    let header = Header::response(code.code(), numbers.opaque, Some(remark.into()), None);
    header.encode_typed(&fields, &[], serialize_type, body_bytes, out);
}

impl Form {
    fn new(shape: Shape, remark: &'static str) -> Form {
        let mut head = BytesMut::new();
        frame::begin(&mut head);
        let start = head.len();
        head.clear();
        encode_whole(shape, SerializeType::Json, ResponseCode::Success, remark, &MARKS, 0, &mut head);
        Form { shape, pieces: split(&head[start..]) }
    }

    /// Appends the head with these numbers, if that is possible.
    fn fill(&self, numbers: &Numbers, body_bytes: usize, out: &mut BytesMut) -> bool {
        let Some([before_next, before_min, before_max, before_opaque, end]) = &self.pieces else {
            return false;
        };
        // Room for the body too: what is there need not be moved once more.
        out.reserve(512 + body_bytes);
        let start = frame::begin(out);
        let mut buffer = itoa::Buffer::new();
        for (piece, number) in
            [(before_next, numbers.next), (before_min, numbers.min), (before_max, numbers.max)]
        {
            out.put_slice(piece);
            out.put_slice(buffer.format(number).as_bytes());
        }
        out.put_slice(before_opaque);
        out.put_slice(buffer.format(numbers.opaque).as_bytes());
        out.put_slice(end);
        frame::finish(out, start, SerializeType::Json, body_bytes);
        true
    }
}

/// What stands before each of the marks and behind the last, when each of them is there once.
fn split(head: &[u8]) -> Option<[Vec<u8>; 5]> {
    let mut rest = std::str::from_utf8(head).ok()?;
    let mut pieces: [Vec<u8>; 5] = Default::default();
    let marks = [MARKS.next, MARKS.min, MARKS.max, i64::from(MARKS.opaque)].map(|mark| mark.to_string());
    for (piece, mark) in pieces.iter_mut().zip(&marks) {
        let (before, behind) = rest.split_once(mark)?;
        *piece = before.into();
        rest = behind;
    }
    pieces[4] = rest.into();
    let is_clear = |piece: &Vec<u8>| {
        let text = std::str::from_utf8(piece).unwrap_or_default();
        marks.iter().all(|mark| !text.contains(mark.as_str()))
    };
    pieces.iter().all(is_clear).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_is_put_together_is_the_one_that_is_encoded() {
        let samples = [
            Numbers { next: 0, min: 0, max: 0, opaque: 0 },
            Numbers { next: i64::MAX, min: 7, max: i64::MIN, opaque: i32::MIN },
            MARKS,
        ];
        for (broker_id, flag) in [(0, 0), (1, -1), (MARKS.min, 3), (2, MARKS.opaque)] {
            let shape = Shape { broker_id, topic_sys_flag: flag, group_sys_flag: 2 };
            let form = Form::new(shape, "FOUND");
            let can = ![broker_id, i64::from(flag)].iter().any(|n| *n > 1000);
            for numbers in &samples {
                let (mut filled, mut whole) = (BytesMut::from("x"), BytesMut::from("x"));
                assert_eq!(form.fill(numbers, 5, &mut filled), can);
                let code = ResponseCode::Success;
                encode_whole(shape, SerializeType::Json, code, "FOUND", numbers, 5, &mut whole);
                assert_eq!(filled == whole, can);
            }
        }
    }
}
