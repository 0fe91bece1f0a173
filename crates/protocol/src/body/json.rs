//! Reading and writing the fastjson dialect.
//!
//! fastjson writes integer map keys without quotes (`{0:"a"}`) and maps keyed by a message queue with the whole
//! object as the key (`{{"topic":"T"}:1}`). Strict JSON is tried first; only where that fails one pass turns such
//! keys into strings (an object key becomes the string of its JSON text). Nothing else is tolerated: comments, single
//! quotes and trailing commas stay errors.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::ser::{CompactFormatter, Formatter};

/// Deepest nesting of objects and arrays that is read.
const DEPTH_MAX: usize = 64;

/// Bytes that an object has at least, on the average of a body: an empty one takes two, and as a value fifty times as
/// many as that.
const OBJECT_BYTES_MIN: usize = 16;
/// Bytes up to which a body may be of any form.
const SMALL_BYTES: usize = 64 * 1024;

/// A body that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Not JSON, nor its fastjson dialect, or not of the expected shape.
    #[error("the request body is not the expected JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Far more objects than such a body can have.
    #[error("the request body has {objects} objects in {bytes} bytes: they cannot all be of use")]
    Hollow {
        /// Objects.
        objects: usize,
        /// Size.
        bytes: usize,
    },
    /// A registration body whose compressed form is damaged.
    #[error("the compressed request body is damaged: {0}")]
    Compressed(&'static str),
    /// A compressed body that grows beyond its limit.
    #[error("the compressed request body exceeds {limit} bytes")]
    TooLarge {
        /// Limit in bytes.
        limit: usize,
    },
}

/// Reads a body.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BodyError> {
    if bytes.len() > SMALL_BYTES {
        let objects = memchr::memchr_iter(b'{', bytes).count();
        if objects > bytes.len() / OBJECT_BYTES_MIN {
            return Err(BodyError::Hollow { objects, bytes: bytes.len() });
        }
    }
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        Err(strict) => match normalize(bytes) {
            Some(normal) => serde_json::from_slice(&normal).map_err(BodyError::Json),
            None => Err(BodyError::Json(strict)),
        },
    }
}

/// Writes a body as strict JSON.
///
/// # Panics
/// Never for the types of this crate: none has a key or value that JSON cannot hold.
pub fn to_vec<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("bodies of this crate have a JSON form")
}

/// Writes a body with integer map keys bare, as clients below 4.9.4 and the Go client need them in routes.
///
/// # Panics
/// As [`to_vec`].
pub fn to_vec_bare_keys<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut out, BareKeys { in_key: false, quoted: false });
    value.serialize(&mut serializer).expect("bodies of this crate have a JSON form");
    out
}

/// Compact JSON, but a key that is a number loses its quotes: the opening quote of a key waits until it is known
/// whether a number follows.
struct BareKeys {
    in_key: bool,
    /// An opening quote waits.
    quoted: bool,
}

/// Keys that are numbers take these ways, once for each type that a map's key may have.
macro_rules! bare_numbers {
    ($($function:ident $type:ty,)*) => {
        $(fn $function<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: $type) -> io::Result<()> {
            self.in_key = false;
            CompactFormatter.$function(writer, value)
        })*
    };
}

impl Formatter for BareKeys {
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.in_key = true;
        self.quoted = false;
        CompactFormatter.begin_object_key(writer, first)
    }

    fn end_object_key<W: ?Sized + io::Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.in_key = false;
        self.quoted = false;
        Ok(())
    }

    fn begin_string<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.in_key {
            self.quoted = true;
            return Ok(());
        }
        writer.write_all(b"\"")
    }

    fn end_string<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if std::mem::take(&mut self.quoted) {
            // The opening quote still waits, so this was a number, or a key without text.
            return if self.in_key { writer.write_all(b"\"\"") } else { Ok(()) };
        }
        writer.write_all(b"\"")
    }

    bare_numbers! {
        write_i8 i8,
        write_i16 i16,
        write_i32 i32,
        write_i64 i64,
        write_u8 u8,
        write_u16 u16,
        write_u32 u32,
        write_u64 u64,
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if std::mem::take(&mut self.quoted) {
            writer.write_all(b"\"")?;
        }
        writer.write_all(fragment.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: serde_json::ser::CharEscape,
    ) -> io::Result<()> {
        if std::mem::take(&mut self.quoted) {
            writer.write_all(b"\"")?;
        }
        CompactFormatter.write_char_escape(writer, escape)
    }
}

/// Turns bare integer keys and object keys into string keys. `None` where the bytes are not even that dialect.
fn normalize(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut normalizer = Normalizer { rest: bytes, out: Vec::with_capacity(bytes.len() + bytes.len() / 8) };
    normalizer.value(0)?;
    normalizer.space();
    normalizer.rest.is_empty().then_some(normalizer.out)
}

struct Normalizer<'a> {
    rest: &'a [u8],
    out: Vec<u8>,
}

impl Normalizer<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.rest.first().copied()
    }

    /// Takes the next byte, which must be `byte`.
    fn punctuation(&mut self, byte: u8) -> Option<()> {
        if self.peek()? != byte {
            return None;
        }
        self.rest = &self.rest[1..];
        self.out.push(byte);
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.peek()? {
            b'{' => self.sequence(b'{', b'}', |this| {
                this.key(depth)?;
                this.punctuation(b':')?;
                this.value(depth + 1)
            }),
            b'[' => self.sequence(b'[', b']', |this| this.value(depth + 1)),
            b'"' => self.string(),
            _ => self.scalar(),
        }
    }

    fn sequence(&mut self, open: u8, close: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.punctuation(open)?;
        if self.peek()? == close {
            return self.punctuation(close);
        }
        loop {
            item(self)?;
            match self.peek()? {
                b',' => self.punctuation(b',')?,
                _ => return self.punctuation(close),
            }
        }
    }

    fn key(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string(),
            b'{' => {
                let start = self.out.len();
                self.value(depth + 1)?;
                let object = String::from_utf8(self.out.split_off(start)).ok()?;
                serde_json::to_writer(&mut self.out, &object).ok()
            }
            b'-' | b'0'..=b'9' => {
                self.out.push(b'"');
                self.scalar()?;
                self.out.push(b'"');
                Some(())
            }
            _ => None,
        }
    }

    /// Copies a string with its quotes; what it escapes is checked by the parser behind.
    fn string(&mut self) -> Option<()> {
        let mut end = 1;
        loop {
            match self.rest.get(end)? {
                b'"' => break,
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        self.out.extend_from_slice(&self.rest[..=end]);
        self.rest = &self.rest[end + 1..];
        Some(())
    }

    /// Copies a number or a word; whether it is one is checked by the parser behind.
    fn scalar(&mut self) -> Option<()> {
        let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.');
        let end = self.rest.iter().position(|b| !legal(b)).unwrap_or(self.rest.len());
        if end == 0 {
            return None;
        }
        self.out.extend_from_slice(&self.rest[..end]);
        self.rest = &self.rest[end..];
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_body_of_empty_objects_that_would_take_many_times_its_size_is_refused() {
        use crate::body::client::{HeartbeatData, ProducerData};
        let hollow = format!("{{\"consumerDataSet\":[{}{{}}]}}", "{},".repeat(100_000));
        let read = parse::<HeartbeatData>(hollow.as_bytes());
        assert!(matches!(read, Err(BodyError::Hollow { objects: 100_002, .. })), "{read:?}");
        // The smallest ones that anybody has use for.
        let producer_data_set = vec![ProducerData { group_name: "g".into() }; 100_000];
        let full = HeartbeatData { producer_data_set, ..HeartbeatData::default() };
        assert_eq!(parse::<HeartbeatData>(&to_vec(&full)).unwrap(), full);
    }

    #[test]
    fn bare_and_quoted_integer_keys_are_one() {
        let expected = BTreeMap::from([(0i64, "a:1".to_owned()), (-1, "b".to_owned())]);
        for text in [r#"{0:"a:1",-1:"b"}"#, r#"{"0":"a:1","-1":"b"}"#, "{ 0 : \"a:1\" ,\n\t-1:\"b\"}\n"] {
            assert_eq!(parse::<BTreeMap<i64, String>>(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn an_object_key_becomes_the_string_of_its_text() {
        let text = br#"{"offsetTable":{{"brokerName":"a","queueId":0}:{"max":3}}}"#;
        let value: serde_json::Value = parse(text).unwrap();
        assert_eq!(value["offsetTable"][r#"{"brokerName":"a","queueId":0}"#]["max"], 3);
    }

    #[test]
    fn other_liberties_stay_errors() {
        for text in ["{'a':1}", "{a:1}", "[1,]", "{0:1,}", "/*x*/{0:1}", "{0:1}{}", "", "{"] {
            assert!(parse::<serde_json::Value>(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!("{{0:{}{}}}", "[".repeat(100), "]".repeat(100));
        assert!(parse::<serde_json::Value>(deep.as_bytes()).is_err());
    }

    #[test]
    fn numbers_as_keys_are_written_bare_and_texts_quoted() {
        #[derive(Serialize)]
        struct Both {
            numbers: BTreeMap<i64, &'static str>,
            texts: BTreeMap<&'static str, i32>,
        }
        let both = Both {
            numbers: BTreeMap::from([(0, "x\n"), (7, "")]),
            texts: BTreeMap::from([("0", 7), ("\t", 1), ("", 2)]),
        };
        let text = String::from_utf8(to_vec_bare_keys(&both)).unwrap();
        assert_eq!(text, r#"{"numbers":{0:"x\n",7:""},"texts":{"":2,"\t":1,"0":7}}"#);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "[{}\\[\\]:,\"\\\\0-9a-]{0,40}") {
            let _ = parse::<serde_json::Value>(text.as_bytes());
        }
    }
}
