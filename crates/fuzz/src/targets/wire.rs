//! Frames cut from a stream, headers in both encodings, typed requests.

use bytes::{Bytes, BytesMut};
use cometmq_protocol::frame::{self, FrameError, FrameLimits};
use cometmq_protocol::message::Marks;
use cometmq_protocol::{Fields, Frame, Header, Like, Previous, Request, SerializeType};

use crate::golden::Golden;
use crate::target::Outcome;

/// Small, so that short inputs get past them.
const LIMITS: FrameLimits = FrameLimits { frame_bytes_max: 64 * 1024, header_bytes_max: 60 * 1024 };

/// A stream is cut into the same frames in whatever pieces it arrives, and these are written to the same bytes.
pub fn frame(data: &[u8]) -> Outcome {
    let (frames, end) = cut_all(&[data]);
    let mut again = BytesMut::new();
    for frame in &frames {
        let start = frame::begin(&mut again);
        again.extend_from_slice(&frame.header);
        frame::finish(&mut again, start, frame.serialize_type, frame.body.len());
        again.extend_from_slice(&frame.body);
    }
    assert!(again[..] == data[..again.len()], "frames are written to the bytes that they were cut from");
    let middle = data.len() / 2;
    let in_pieces = cut_all(&[&data[..middle], &data[middle..]]);
    assert_eq!(in_pieces, (frames, end.clone()), "the pieces in which a stream arrives do not matter");
    Outcome::of(&end, |_| Outcome::magnitude(in_pieces.0.len()))
}

fn cut_all(pieces: &[&[u8]]) -> (Vec<Frame>, Result<(), FrameError>) {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            let needed = frame::needed(&buffer, LIMITS);
            match frame::cut(&mut buffer, LIMITS) {
                Ok(Some(frame)) => {
                    assert_eq!(needed, Ok(Some(before - buffer.len())), "a frame takes what it said");
                    frames.push(frame);
                }
                Ok(None) => {
                    assert!(needed.is_ok_and(|bytes| bytes.is_none_or(|bytes| bytes > before)));
                    break;
                }
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(()))
}

/// A JSON header is written and read back as what it was, also in the other encoding as far as that can say it.
pub fn header_json(data: &[u8]) -> Outcome {
    header(data, SerializeType::Json)
}

/// A compact header is written and read back as what it was, in both encodings.
pub fn header_compact(data: &[u8]) -> Outcome {
    header(data, SerializeType::Compact)
}

fn header(data: &[u8], serialize_type: SerializeType) -> Outcome {
    let frame = Frame { serialize_type, header: Bytes::copy_from_slice(data), body: Bytes::new() };
    let header = match Header::decode(&frame) {
        Ok(header) => header,
        Err(error) => return Outcome::refused(error),
    };
    again(&header, SerializeType::Json, |again| assert_eq!(*again, header));
    if i16::try_from(header.code).is_ok() && i16::try_from(header.version).is_ok() {
        let expected = as_compact(header.clone());
        again(&header, SerializeType::Compact, |again| assert_eq!(*again, expected));
    }
    Outcome::accepted((header.language as u8, header.fields.map(|fields| Outcome::magnitude(fields.len()))))
}

fn again(header: &Header<'_>, serialize_type: SerializeType, check: impl FnOnce(&Header<'_>)) {
    let mut out = BytesMut::new();
    header.encode(serialize_type, 0, &mut out);
    let frame = frame::cut(&mut out, LIMITS).expect("our own frame is legal").expect("and whole");
    assert!(out.is_empty());
    check(&Header::decode(&frame).expect("what was written can be read"));
}

/// What the compact form can say: neither empty texts nor an empty list of fields.
fn as_compact(header: Header<'_>) -> Header<'static> {
    let mut kept = Fields::default();
    for (name, value) in header.fields.iter().flat_map(Fields::iter) {
        if !name.is_empty() && !value.is_empty() {
            kept.push(name.to_owned(), value.to_owned());
        }
    }
    Header {
        code: header.code,
        language: header.language,
        version: header.version,
        opaque: header.opaque,
        flag: header.flag,
        remark: header.remark.filter(|remark| !remark.is_empty()).map(|remark| remark.into_owned().into()),
        fields: (!kept.is_empty()).then_some(kept),
    }
}

/// The typed header of a request is written and read back as what it was.
pub fn request(data: &[u8]) -> Outcome {
    let frame = Frame {
        serialize_type: SerializeType::Json,
        header: Bytes::copy_from_slice(data),
        body: Bytes::new(),
    };
    let Ok(header) = Header::decode(&frame) else { return Outcome::refused("no header") };
    let code = header.code;
    let request = match Request::decode(code, &mut header.fields.unwrap_or_default()) {
        Ok(request) => request,
        Err(error) => return Outcome::refused(error),
    };
    let mut fields = request.encode();
    let again = Request::decode(code, &mut fields).expect("what was written can be read");
    assert_eq!(again, request);
    Outcome::accepted(code)
}

/// What is read by its likeness to a request before is what the decoder reads. Headers are separated by line feeds.
pub fn previous(data: &[u8]) -> Outcome {
    let (mut previous, mut alike) = (Previous::default(), 0);
    for line in data.split(|byte| *byte == b'\n') {
        let header = Bytes::copy_from_slice(line);
        let frame = Frame { serialize_type: SerializeType::Json, header, body: Bytes::new() };
        let decoded = Header::decode(&frame).ok().and_then(|mut header| {
            let fields = header.fields.take();
            let request = Request::decode(header.code, &mut fields.unwrap_or_default()).ok()?;
            Some((header, request))
        });
        if let Some(Like { header, request, marks }) = previous.read(&frame) {
            let expected = decoded.as_ref().map(|(header, request)| (header, request));
            assert_eq!(Some((header, request)), expected, "likeness adds nothing");
            if let Request::SendMessageV2(send) = request {
                assert_eq!(*marks, Marks::of(send.properties.as_deref().unwrap_or("")));
            }
            alike += 1;
        } else if let Some((header, request)) = &decoded {
            previous.keep(&frame, header, request);
        }
    }
    Outcome::accepted(alike)
}

/// Recorded frames, and streams of several.
pub fn frames(golden: &Golden) -> Vec<Vec<u8>> {
    let mut seeds = golden.frames.clone();
    seeds.extend(golden.frames.chunks(3).map(|frames| frames.concat()));
    seeds
}

/// Recorded JSON headers.
pub fn json_headers(golden: &Golden) -> Vec<Vec<u8>> {
    headers(golden, SerializeType::Json)
}

/// Recorded JSON headers of requests that are served.
pub fn request_headers(golden: &Golden) -> Vec<Vec<u8>> {
    let is_served = |frame: &Frame| {
        Header::decode(frame).is_ok_and(|header| {
            !header.is_response()
                && Request::decode(header.code, &mut header.fields.unwrap_or_default()).is_ok()
        })
    };
    let frames = golden.cut().filter(|frame| frame.serialize_type == SerializeType::Json);
    frames.filter(is_served).map(|frame| frame.header.to_vec()).collect()
}

/// Recorded requests of one kind, three by three and the first once more.
pub fn requests_in_a_row(golden: &Golden) -> Vec<Vec<u8>> {
    let mut headers = request_headers(golden);
    // The code stands first: so those of a kind follow one another.
    headers.sort();
    headers.chunks(3).map(|three| [three, &three[..1]].concat().join(&b'\n')).collect()
}

/// Recorded compact headers.
pub fn compact_headers(golden: &Golden) -> Vec<Vec<u8>> {
    headers(golden, SerializeType::Compact)
}

fn headers(golden: &Golden, serialize_type: SerializeType) -> Vec<Vec<u8>> {
    golden
        .cut()
        .filter(|frame| frame.serialize_type == serialize_type)
        .map(|frame| frame.header.to_vec())
        .collect()
}
