//! The header of a frame, in either encoding.
//!
//! Strings borrow from the frame where the encoding allows it, so reading a header costs one list of fields
//! and one string per value that was escaped.

mod compact;
mod json;
mod plain;

use std::borrow::Cow;

pub(crate) use json::{PLAIN_BYTES_MAX, is_plain};
pub(crate) use plain::{Part, Run, is_printable, number, parts, runs, string};

use bytes::BytesMut;

use crate::VERSION;
use crate::frame::{self, Frame, SerializeType};
use crate::headers::HeaderFields;

/// Flag bit: this frame answers another one.
const FLAG_RESPONSE: i32 = 1;
/// Flag bit: the sender wants no answer, not even to an error.
const FLAG_ONEWAY: i32 = 2;

/// What a frame's header says. `fields` are the custom header of the request code (`extFields`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Request code, or response code when the response bit is set.
    pub code: i32,
    /// Language of the sender.
    pub language: Language,
    /// Version number of the sender, see `VERSION`.
    pub version: i32,
    /// Chosen by the requester; the reply repeats it.
    pub opaque: i32,
    /// Bit 0: response; bit 1: one-way.
    pub flag: i32,
    /// Free text: an error for a person, or the status name of a pull reply.
    pub remark: Option<Cow<'a, str>>,
    /// Named values of the request or reply. `None` and empty differ on the wire: Java clients of a send
    /// fail on a reply that has none at all.
    pub fields: Option<Fields<'a>>,
}

impl<'a> Header<'a> {
    /// The header of a request.
    pub fn request(code: i32, opaque: i32, fields: Fields<'a>) -> Header<'a> {
        Header {
            code,
            language: Language::Java,
            version: VERSION,
            opaque,
            flag: 0,
            remark: None,
            fields: (!fields.is_empty()).then_some(fields),
        }
    }

    /// The header of a one-way request.
    pub fn oneway(code: i32, opaque: i32, fields: Fields<'a>) -> Header<'a> {
        Header { flag: FLAG_ONEWAY, ..Header::request(code, opaque, fields) }
    }

    /// The header of a reply to the request `opaque`.
    pub fn response(
        code: i32,
        opaque: i32,
        remark: Option<Cow<'a, str>>,
        fields: Option<Fields<'a>>,
    ) -> Header<'a> {
        // Every client knows JAVA; an unknown language name fails whole frames in some of them.
        Header {
            code,
            language: Language::Java,
            version: VERSION,
            opaque,
            flag: FLAG_RESPONSE,
            remark,
            fields,
        }
    }

    /// Whether this frame answers a request of ours.
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// Whether the sender expects no answer.
    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }

    /// The value of one field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.as_ref().and_then(|fields| fields.get(name))
    }

    /// Reads the header of `frame`.
    pub fn decode(frame: &'a Frame) -> Result<Header<'a>, HeaderError> {
        match frame.serialize_type {
            SerializeType::Json => json::decode(&frame.header),
            SerializeType::Compact => compact::decode(&frame.header),
        }
    }

    /// One of whose JSON no key was read yet.
    #[inline]
    fn unset() -> Header<'a> {
        Header {
            code: 0,
            language: Language::Java,
            version: 0,
            opaque: 0,
            flag: 0,
            remark: None,
            fields: None,
        }
    }

    /// Appends a whole frame except its body, of which `body_bytes` bytes must follow.
    pub fn encode(&self, serialize_type: SerializeType, body_bytes: usize, out: &mut BytesMut) {
        let visit = |each: &mut dyn FnMut(&str, &str)| {
            self.fields.iter().flat_map(Fields::iter).for_each(|(name, value)| each(name, value));
        };
        let visit: Option<Visit<'_>> = self.fields.is_some().then_some(&visit);
        self.encode_visiting(visit, serialize_type, body_bytes, out);
    }

    /// As [`Header::encode`], with the fields of a typed header and `more` instead of a list of fields.
    pub fn encode_typed<'h>(
        &self,
        typed: &impl HeaderFields<'h>,
        more: &[(&str, &str)],
        serialize_type: SerializeType,
        body_bytes: usize,
        out: &mut BytesMut,
    ) {
        let visit = |each: &mut dyn FnMut(&str, &str)| {
            typed.visit(&mut |name, value| each(name, value));
            more.iter().for_each(|(name, value)| each(name, value));
        };
        self.encode_visiting(Some(&visit), serialize_type, body_bytes, out);
    }

    fn encode_visiting(
        &self,
        fields: Option<Visit<'_>>,
        serialize_type: SerializeType,
        body_bytes: usize,
        out: &mut BytesMut,
    ) {
        let start = frame::begin(out);
        match serialize_type {
            SerializeType::Json => json::encode(self, fields, out),
            SerializeType::Compact => compact::encode(self, fields, out),
        }
        frame::finish(out, start, serialize_type, body_bytes);
    }

    /// Appends a whole frame with its body.
    pub fn encode_with_body(&self, serialize_type: SerializeType, body: &[u8], out: &mut BytesMut) {
        self.encode(serialize_type, body.len(), out);
        out.extend_from_slice(body);
    }
}

/// Shows each field to a function.
type Visit<'f> = &'f dyn Fn(&mut dyn FnMut(&str, &str));

/// Why a header cannot be read. The stream is still cut correctly, yet the request cannot be answered because
/// its opaque is unknown: the connection is closed, as the Java server does.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Type 0, but not a JSON object of the expected form.
    #[error("header is not the JSON of a remoting command: {0}")]
    Json(#[from] serde_json::Error),
    /// Type 1, but a length inside points beyond the end.
    #[error("compact header ends inside its {0}")]
    Truncated(&'static str),
    /// Type 1, and a string is not UTF-8.
    #[error("compact header has a {0} that is not UTF-8")]
    NotUtf8(&'static str),
}

/// The custom header fields in the order in which they were written. As many as the header's bytes allow: Java has no
/// other limit, and a field costs at most eight times its shortest form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    /// No fields yet, with room for `count`.
    pub fn with_capacity(count: usize) -> Fields<'a> {
        Fields(Vec::with_capacity(count))
    }

    /// Adds a field; the last of two equal names wins on reading, as in a map.
    #[inline]
    pub fn push(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.0.push((name.into(), value.into()));
    }

    /// The value of the field `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Names, and values to be taken out by a typed header.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = (&str, &mut Cow<'a, str>)> {
        self.0.iter_mut().map(|(name, value)| (&**name, value))
    }

    /// The same fields without borrowing from the frame.
    pub fn into_owned(self) -> Fields<'static> {
        Fields(
            self.0
                .into_iter()
                .map(|(name, value)| (Cow::Owned(name.into_owned()), Cow::Owned(value.into_owned())))
                .collect(),
        )
    }
}

macro_rules! languages {
    ($($code:literal $variant:ident $name:literal,)*) => {
        /// What the sender is written in. It changes nothing but what operators are shown.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        #[repr(u8)]
        pub enum Language {
            $($variant = $code,)*
        }

        impl Language {
            /// The name in JSON headers.
            pub fn name(self) -> &'static str {
                match self { $(Language::$variant => $name,)* }
            }

            fn from_name(name: &str) -> Language {
                match name { $($name => Language::$variant,)* _ => Language::Other }
            }

            fn from_code(code: u8) -> Language {
                match code { $($code => Language::$variant,)* _ => Language::Other }
            }
        }
    };
}

languages! {
    0 Java "JAVA",
    1 Cpp "CPP",
    2 DotNet "DOTNET",
    3 Python "PYTHON",
    4 Delphi "DELPHI",
    5 Erlang "ERLANG",
    6 Ruby "RUBY",
    7 Other "OTHER",
    8 Http "HTTP",
    9 Go "GO",
    10 Php "PHP",
    11 Oms "OMS",
    12 Rust "RUST",
    13 NodeJs "NODE_JS",
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameLimits;

    #[test]
    fn a_header_has_as_many_fields_as_its_bytes_allow() {
        let mut fields = Fields::default();
        (0..20_000).for_each(|number: i32| fields.push(number.to_string(), ""));
        fields.push("last", "1");
        for serialize_type in [SerializeType::Json, SerializeType::Compact] {
            let mut out = BytesMut::new();
            Header::request(10, 1, fields.clone()).encode(serialize_type, 0, &mut out);
            let frame = frame::cut(&mut out, FrameLimits::default()).unwrap().expect("a whole frame");
            let header = Header::decode(&frame).unwrap();
            assert_eq!(header.field("last"), Some("1"), "{serialize_type:?}");
        }
    }
}
