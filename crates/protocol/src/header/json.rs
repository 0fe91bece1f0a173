//! The JSON form of a header, type 0.
//!
//! Lenient in what clients are known to send: any key order, unknown keys, `null`, a language as a number,
//! and numbers or booleans where `extFields` should hold strings (C++).

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, BytesMut};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::{Fields, Header, HeaderError, Language, Visit, plain};

pub(super) fn decode(bytes: &[u8]) -> Result<Header<'_>, HeaderError> {
    // Checked as a whole: cheaper than string by string.
    let text = std::str::from_utf8(bytes).map_err(|_| HeaderError::NotUtf8("JSON header"))?;
    plain::decode(text).map_or_else(|| parse(text), Ok)
}

/// Reads a header of any form.
pub(super) fn parse(text: &str) -> Result<Header<'_>, HeaderError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let header = json.deserialize_map(HeaderVisitor)?;
    json.end()?;
    Ok(header)
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with code, flag, opaque and extFields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header<'de>, A::Error> {
        let mut header = Header::unset();
        while let Some(Text(key)) = map.next_key()? {
            match key.as_ref() {
                "code" => header.code = map.next_value::<Option<i32>>()?.unwrap_or(0),
                "flag" => header.flag = map.next_value::<Option<i32>>()?.unwrap_or(0),
                "opaque" => header.opaque = map.next_value::<Option<i32>>()?.unwrap_or(0),
                "version" => header.version = map.next_value::<Option<i32>>()?.unwrap_or(0),
                "language" => {
                    let Text(name) = map.next_value_seed(AnyText)?;
                    header.language = match name.parse() {
                        Ok(code) => Language::from_code(code),
                        Err(_) => Language::from_name(&name),
                    };
                }
                "remark" => header.remark = map.next_value::<Option<Text<'de>>>()?.map(|text| text.0),
                "extFields" => header.fields = map.next_value::<Option<FieldsText<'de>>>()?.map(|f| f.0),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(header)
    }
}

/// A string that borrows from the input unless it was escaped.
struct Text<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'de>, D::Error> {
        deserializer.deserialize_str(AnyText)
    }
}

/// Reads strings, and numbers and booleans as their text, `null` as the empty text.
struct AnyText;

impl<'de> DeserializeSeed<'de> for AnyText {
    type Value = Text<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Text<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyText {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, number or boolean")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(number.to_string())))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(number.to_string())))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(number.to_string())))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(if truth { "true" } else { "false" })))
    }

    fn visit_unit<E: Error>(self) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed("")))
    }
}

struct FieldsText<'de>(Fields<'de>);

impl<'de> Deserialize<'de> for FieldsText<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FieldsText<'de>, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = FieldsText<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FieldsText<'de>, A::Error> {
        let mut fields = Fields::with_capacity(16);
        while let Some(Text(key)) = map.next_key()? {
            let Text(value) = map.next_value_seed(AnyText)?;
            fields.push(key, value);
        }
        Ok(FieldsText(fields))
    }
}

/// Writes the keys in the order in which Java writes them, so that captures compare byte for byte.
pub(super) fn encode(header: &Header<'_>, fields: Option<Visit<'_>>, out: &mut BytesMut) {
    out.reserve(512);
    out.put_slice(b"{\"code\":");
    number(header.code, out);
    if let Some(visit) = fields {
        let mut separator: &[u8] = b",\"extFields\":{";
        visit(&mut |name, value| {
            out.put_slice(separator);
            separator = b",";
            string(name, out);
            out.put_u8(b':');
            string(value, out);
        });
        // Still the opening one: there was no field.
        if separator.len() > 1 {
            out.put_slice(separator);
        }
        out.put_u8(b'}');
    }
    out.put_slice(b",\"flag\":");
    number(header.flag, out);
    out.put_slice(b",\"language\":\"");
    out.put_slice(header.language.name().as_bytes());
    out.put_slice(b"\",\"opaque\":");
    number(header.opaque, out);
    if let Some(remark) = &header.remark {
        out.put_slice(b",\"remark\":");
        string(remark, out);
    }
    out.put_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    number(header.version, out);
    out.put_u8(b'}');
}

fn number(value: i32, out: &mut BytesMut) {
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Longest text that is called plain.
pub(crate) const PLAIN_BYTES_MAX: usize = 64;

/// Whether nothing in a short text needs to be escaped. Looked at without a way out, which is faster.
pub(crate) fn is_plain(text: &str) -> bool {
    let plain = |so_far, byte: &u8| so_far & (*byte >= 0x20) & (*byte != b'"') & (*byte != b'\\');
    text.len() <= PLAIN_BYTES_MAX && text.as_bytes().iter().fold(true, plain)
}

fn string(text: &str, out: &mut BytesMut) {
    // Most names and values are plain.
    if is_plain(text) {
        out.put_u8(b'"');
        out.put_slice(text.as_bytes());
        out.put_u8(b'"');
        return;
    }
    serde_json::to_writer(out.writer(), text).expect("a buffer in memory takes every string");
}
