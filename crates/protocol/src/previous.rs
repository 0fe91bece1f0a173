//! Reading a request by its likeness to the one before.
//!
//! Decoding headers was half of what a send costs a broker, and those of one client differ in few values: the queue, a
//! time, the message's id, the frame's number. So the last request of a kind is kept with the places of its values. A
//! header that differs from it in values only is that request with those values, and nothing else of it is read.
//!
//! Whatever is read here, the decoder reads the same: the bytes between values are equal, and a value is replaced only
//! by bytes that are one string or number in JSON. Everything else is left to the decoder.

use std::borrow::Cow;

use crate::header::{self, Part, Run};
use crate::headers;
use crate::message::Marks;
use crate::{Frame, Header, Request, SerializeType};

/// Headers beyond this are not kept.
const HEADER_BYTES_MAX: usize = 4096;

/// Name of a send's field.
const PROPERTIES: &str = "i";

/// The last sends and the last pulls that were read: at most a few kilobytes.
#[derive(Debug, Default)]
pub struct Previous([Option<Box<Known>>; 2]);

/// A request as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Like<'a> {
    /// The header, without its fields.
    pub header: &'a Header<'static>,
    /// What the fields say.
    pub request: &'a Request<'static>,
    /// What is marked in the properties, if it has any.
    pub marks: &'a Marks,
}

/// A request that was read.
#[derive(Debug)]
struct Known {
    bytes: Vec<u8>,
    /// The places of values that may be others next time, in order.
    slots: Vec<Slot>,
    header: Header<'static>,
    request: Request<'static>,
    /// Which of its fields are the properties, and what is marked there.
    properties: Option<usize>,
    marks: Marks,
}

/// The place of a value in the header's bytes, without quotes.
#[derive(Debug)]
struct Slot {
    start: usize,
    end: usize,
    value: Slotted,
    /// If it has escapes, what stands between them: of properties mostly the message's id is another, as long as before.
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug)]
enum Slotted {
    Opaque,
    /// Position among the request's fields, if it has this one.
    Field(Option<usize>),
}

impl Previous {
    /// The request in `frame`, if it is like one that was kept by [`Previous::keep`].
    pub fn read(&mut self, frame: &Frame) -> Option<Like<'_>> {
        if frame.serialize_type != SerializeType::Json || frame.header.len() > HEADER_BYTES_MAX {
            return None;
        }
        let begins_like =
            |known: &Option<Box<Known>>| known.as_ref().is_some_and(|known| known.begins_like(&frame.header));
        let like = self.0.iter().position(begins_like)?;
        let known = self.0[like].as_mut()?;
        if known.take_values(&frame.header).is_none() {
            // It has values of both.
            self.0[like] = None;
        }
        let Known { header, request, marks, .. } = self.0[like].as_deref()?;
        Some(Like { header, request, marks })
    }

    /// Keeps a request that was read from `frame`, if it is of a kind that comes in great numbers.
    pub fn keep(&mut self, frame: &Frame, header: &Header<'_>, request: &Request<'_>) {
        let place = match request {
            Request::SendMessageV2(_) => &mut self.0[0],
            Request::PullMessage(_) => &mut self.0[1],
            _ => return,
        };
        if frame.header.len() > HEADER_BYTES_MAX {
            return;
        }
        *place = Known::new(frame, header, request).map(Box::new);
    }
}

impl Known {
    fn new(frame: &Frame, header: &Header<'_>, request: &Request<'_>) -> Option<Known> {
        if frame.serialize_type != SerializeType::Json || header.remark.is_some() {
            return None;
        }
        let mut slots = Vec::with_capacity(16);
        let mut fields = Vec::with_capacity(16);
        for (part, place) in header::parts(&frame.header)? {
            let value = match part {
                Part::Opaque => Slotted::Opaque,
                Part::Field(name) => Slotted::Field(request.position(name)),
            };
            if let Slotted::Field(Some(position)) = value {
                if fields.contains(&position) {
                    // The last one counts: which that is must not depend on which one changes.
                    return None;
                }
                fields.push(position);
            }
            let runs = header::runs(&frame.header[place.clone()]);
            slots.push(Slot { start: place.start, end: place.end, value, runs });
        }
        let header = Header { remark: None, fields: None, ..*header };
        Some(Known {
            bytes: frame.header.to_vec(),
            slots,
            header,
            request: request.keep()?,
            properties: request.properties().and(request.position(PROPERTIES)),
            marks: Marks::of(request.properties().unwrap_or("")),
        })
    }

    /// The code stands first: another kind of request shows itself there.
    fn begins_like(&self, header: &[u8]) -> bool {
        const BYTES: usize = 16;
        matches!((self.bytes.first_chunk::<BYTES>(), header.first_chunk()), (Some(ours), Some(theirs)) if ours == theirs)
    }

    /// Takes over the values of another header; nothing when it differs in more than values.
    fn take_values(&mut self, header: &[u8]) -> Option<()> {
        // Up to here both are the same.
        let mut at = 0;
        let mut next = 0;
        let mut marked = true;
        loop {
            at += common(&self.bytes[at..], &header[at..]);
            if at == header.len() && at == self.bytes.len() {
                break;
            }
            while self.slots.get(next)?.end < at {
                next += 1;
            }
            let Slot { start, end, value, ref runs } = self.slots[next];
            if start > at {
                return None;
            }
            if let Slotted::Field(Some(position)) = value
                && let Some(run) = runs.iter().find(|run| (start + run.start..start + run.end).contains(&at))
                && let Some(found) = header.get(start + run.start..start + run.end)
                && header::is_printable(found)
                && self.request.overwrite(position, run.at, found)
            {
                let text = run.at..run.at + found.len();
                marked &= Some(position) != self.properties || self.marks.outlive(text);
                at = start + run.end;
                self.bytes[start + run.start..at].copy_from_slice(found);
                continue;
            }
            let found = &header[start..];
            let (length, is_plain) = match value {
                Slotted::Opaque => {
                    let (number, length) = header::number(found)?;
                    self.header.opaque = number;
                    (length, true)
                }
                Slotted::Field(position) => match position.zip(headers::quoted_number(found)) {
                    Some((position, (number, length))) if self.request.put_number(position, number) => {
                        (length, true)
                    }
                    _ => {
                        marked &= position.is_none() || position != self.properties;
                        let (text, length) = header::string(found)?;
                        let is_plain = matches!(text, Cow::Borrowed(_));
                        if position.is_some_and(|position| !self.request.replace(position, text)) {
                            return None;
                        }
                        (length, is_plain)
                    }
                },
            };
            if !is_plain || !runs.is_empty() {
                self.slots[next].runs = header::runs(&found[..length]);
            }
            self.replace(next, &found[..length], end - start);
            at = start + length;
            next += 1;
        }
        if !marked {
            self.marks = Marks::of(self.request.properties().unwrap_or(""));
        }
        Some(())
    }

    /// Writes a value where another one of `length` stood.
    fn replace(&mut self, slot: usize, value: &[u8], length: usize) {
        let start = self.slots[slot].start;
        if value.len() == length {
            self.bytes[start..start + length].copy_from_slice(value);
            return;
        }
        self.bytes.splice(start..start + length, value.iter().copied());
        let moved = |place: usize| place + value.len() - length;
        self.slots[slot].end = moved(self.slots[slot].end);
        for later in &mut self.slots[slot + 1..] {
            (later.start, later.end) = (moved(later.start), moved(later.end));
        }
    }
}

/// How many bytes both have in common in front.
#[inline]
fn common(ours: &[u8], theirs: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let mut same = 0;
    for (ours, theirs) in ours.as_chunks::<BLOCK>().0.iter().zip(theirs.as_chunks::<BLOCK>().0) {
        if ours != theirs {
            return same + common_words(ours, theirs);
        }
        same += BLOCK;
    }
    same + common_words(&ours[same..], &theirs[same..])
}

/// The same of few bytes.
#[inline(always)]
fn common_words(ours: &[u8], theirs: &[u8]) -> usize {
    let mut same = 0;
    for (ours, theirs) in ours.as_chunks().0.iter().zip(theirs.as_chunks().0) {
        let differing = u64::from_le_bytes(*ours) ^ u64::from_le_bytes(*theirs);
        if differing != 0 {
            return same + differing.trailing_zeros() as usize / 8;
        }
        same += 8;
    }
    same + ours[same..].iter().zip(&theirs[same..]).take_while(|(ours, theirs)| ours == theirs).count()
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::header::Fields;
    use crate::{FrameLimits, frame};

    /// What the decoder reads.
    fn decode(frame: &Frame) -> Option<(Header<'_>, Request<'_>)> {
        let mut header = Header::decode(frame).ok()?;
        let request = Request::decode(header.code, &mut header.fields.take().unwrap_or_default()).ok()?;
        Some((header, request))
    }

    fn json(bytes: &[u8]) -> Frame {
        let header = Bytes::copy_from_slice(bytes);
        Frame { serialize_type: SerializeType::Json, header, body: Bytes::new() }
    }

    /// Reads frames as a broker does, and each as the decoder does. Returns how many were read by likeness.
    fn check(previous: &mut Previous, frames: &[Frame]) -> usize {
        let mut like = 0;
        for frame in frames {
            let decoded = decode(frame);
            match previous.read(frame) {
                Some(Like { header, request, marks }) => {
                    assert_eq!(
                        Some((header, request)),
                        decoded.as_ref().map(|(header, request)| (header, request))
                    );
                    assert_eq!(*marks, Marks::of(request.properties().unwrap_or("")));
                    like += 1;
                }
                None => {
                    if let Some((header, request)) = &decoded {
                        previous.keep(frame, header, request);
                    }
                }
            }
        }
        like
    }

    fn send(opaque: i32, values: &[(&str, &str)]) -> Frame {
        let mut fields = Fields::default();
        values.iter().for_each(|(name, value)| fields.push(name.to_string(), value.to_string()));
        let mut out = BytesMut::new();
        Header::request(310, opaque, fields).encode(SerializeType::Json, 0, &mut out);
        frame::cut(&mut out, FrameLimits::default()).unwrap().unwrap()
    }

    const SEND: [(&str, &str); 12] = [
        ("a", "group"),
        ("b", "Topic"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "9"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", "UNIQ_KEY\u{1}7F01\u{2}WAIT\u{1}true\u{2}"),
        ("x", "unknown"),
        ("l", ""),
        ("k", "false"),
    ];

    fn changed(name: &str, value: &str) -> Frame {
        let mut values = SEND;
        values.iter_mut().filter(|(known, _)| *known == name).for_each(|(_, known)| *known = value);
        send(5, &values)
    }

    #[test]
    fn a_request_that_differs_in_values_only_is_read_by_its_likeness() {
        let mut previous = Previous::default();
        assert_eq!(check(&mut previous, &[send(99_999, &SEND)]), 0);
        for (name, value) in [
            ("e", "10"),
            ("e", "1"),
            ("e", "-1"),
            ("b", "Topi"),
            ("b", "Topics"),
            ("b", ""),
            ("b", "Ünique"),
            ("x", "another"),
            ("g", "1"),
            ("g", "9223372036854775807"),
            ("g", "000000000000000000001"),
            ("e", "007"),
            ("e", "2147483647"),
            ("b", "7"),
            ("k", "true"),
            ("i", "UNIQ_KEY\u{1}7F02\u{2}WAIT\u{1}true\u{2}"),
            ("i", "UNIQ_KEY\u{1}7Fä\u{2}WAIT\u{1}true\u{2}"),
            ("i", "UNIQ_KEY\u{1}7F01\u{2}WAIT\u{1}fals\u{2}"),
            ("i", "UNIQ_KEY\u{1}7F0\u{2}xWAIT\u{1}tru\u{2}"),
            ("i", "UNIQ_KEY\u{1}7\"01\u{2}WAIT\u{1}true\u{2}"),
            ("i", "UNIQ_KEY\u{2}7F01\u{1}WAIT\u{1}true\u{2}"),
            ("i", "KEYS\u{1}ä\u{2}"),
            ("i", "UNIQ_KEY\u{1}7F01\u{2}DELAY\u{1}0001\u{2}"),
            ("i", "TAGS_KEY\u{1}7F01\u{2}WAIT\u{1}true\u{2}"),
            ("i", "none"),
            ("i", ""),
            ("i", &"long\u{1}".repeat(100)),
        ] {
            assert_eq!(check(&mut previous, &[changed(name, value), send(-7, &SEND)]), 2, "{name}={value}");
        }
    }

    #[test]
    fn what_differs_in_more_is_left_to_the_decoder() {
        for frame in [
            changed("e", "x"),
            changed("e", ""),
            changed("e", "2147483648"),
            changed("g", "9223372036854775808"),
            changed("l", "3"),
            send(5, &SEND[..11]),
            send(5, &SEND[1..]),
            send(5, &[&SEND[..], &[("n", "more")]].concat()),
        ] {
            assert_eq!(check(&mut Previous::default(), &[send(5, &SEND), frame.clone()]), 0, "{frame:?}");
        }
        let long = "x".repeat(HEADER_BYTES_MAX);
        let mut previous = Previous::default();
        assert_eq!(
            check(&mut previous, &[send(5, &SEND), changed("i", &long), send(6, &SEND)]),
            1,
            "a long one"
        );
        let kept = send(5, &SEND);
        let text = std::str::from_utf8(&kept.header).unwrap();
        for (from, to) in [
            ("310", "320"),
            ("\"flag\":0", "\"flag\":2"),
            ("\"opaque\":5", "\"opaque\":05"),
            ("\"opaque\":5", "\"opaque\":\"5\""),
            ("\"opaque\":5", "\"opaque\":5.0"),
            ("Topic", "To\u{1}ic"),
            ("},", "} ,"),
            ("version\":", "version\": "),
        ] {
            let frame = json(text.replacen(from, to, 1).as_bytes());
            assert_eq!(check(&mut Previous::default(), &[kept.clone(), frame]), 0, "{to}");
        }
        let twice = send(5, &[&SEND[..], &[("topic", "Other")]].concat());
        assert_eq!(check(&mut Previous::default(), &[twice.clone(), twice]), 0, "a field that stands twice");
        // Of all fields twice the last ones count, though a blank stands before them.
        let (begin, end) = (text.find("\"extFields\"").unwrap(), text.find('}').unwrap() + 1);
        let twice = |topic: &str| {
            let first = text[..end].replacen("Topic", topic, 1);
            json([&first, " ,", &text[begin..]].concat().as_bytes())
        };
        assert!(decode(&twice("First")).is_some());
        assert_eq!(check(&mut Previous::default(), &[twice("First"), twice("Other")]), 0);
    }

    proptest! {
        #[test]
        fn what_is_read_by_likeness_is_what_the_decoder_reads(
            changes in proptest::collection::vec(
                (0..SEND.len(), "[0-9]{0,12}|[a-z]{0,9}|true|-?[0-9]{1,2}|(\u{1}|\u{2}|[A-Z]){0,9}|.{0,9}|U\u{1}[0-9\"ä\u{2}]{2,3}\u{2}T\u{1}[a-z]{2}\u{2}", any::<i32>()), 1..9),
        ) {
            let frames: Vec<Frame> = changes
                .iter()
                .map(|(at, value, opaque)| {
                    let mut values = SEND;
                    values[*at].1 = value;
                    send(*opaque, &values)
                })
                .collect();
            check(&mut Previous::default(), &frames);
        }

        #[test]
        fn damaged_bytes_are_read_as_the_decoder_reads_them(
            at in any::<proptest::sample::Index>(), byte in any::<u8>(), count in 0..4usize, rest in any::<proptest::sample::Index>(),
        ) {
            let kept = send(5, &SEND);
            let mut bytes = kept.header.to_vec();
            let at = at.index(bytes.len());
            match count {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(rest.index(bytes.len())),
            }
            check(&mut Previous::default(), &[kept.clone(), json(&bytes), kept]);
        }
    }
}
