//! The compact form of a header, type 1 ("ROCKETMQ").
//!
//! ```text
//! i16 code, u8 language, i16 version, i32 opaque, i32 flag,
//! i32 length and bytes of the remark, i32 length of the fields, then i16 key length, key, i32 value length, value …
//! ```

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::{Fields, Header, HeaderError, Language, Visit};

pub(super) fn decode(bytes: &[u8]) -> Result<Header<'_>, HeaderError> {
    let mut rest = bytes;
    let code = i16::from_be_bytes(take(&mut rest, "code")?);
    let [language] = take(&mut rest, "language")?;
    let version = i16::from_be_bytes(take(&mut rest, "version")?);
    let opaque = i32::from_be_bytes(take(&mut rest, "opaque")?);
    let flag = i32::from_be_bytes(take(&mut rest, "flag")?);
    let remark_bytes = u32::from_be_bytes(take(&mut rest, "remark length")?);
    let remark = text(&mut rest, remark_bytes as usize, "remark")?;
    let fields_bytes = u32::from_be_bytes(take(&mut rest, "field length")?) as usize;
    let mut map = rest.get(..fields_bytes).ok_or(HeaderError::Truncated("fields"))?;
    let mut fields = Fields::with_capacity(if map.is_empty() { 0 } else { 16 });
    while !map.is_empty() {
        let key_bytes = u16::from_be_bytes(take(&mut map, "key length")?);
        let key = text(&mut map, usize::from(key_bytes), "key")?;
        let value_bytes = u32::from_be_bytes(take(&mut map, "value length")?);
        let value = text(&mut map, value_bytes as usize, "value")?;
        fields.push(key, value);
    }
    Ok(Header {
        code: i32::from(code),
        language: Language::from_code(language),
        version: i32::from(version),
        opaque,
        flag,
        remark: (!remark.is_empty()).then_some(Cow::Borrowed(remark)),
        fields: (!fields.is_empty()).then_some(fields),
    })
}

fn take<const N: usize>(rest: &mut &[u8], what: &'static str) -> Result<[u8; N], HeaderError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(HeaderError::Truncated(what))?;
    *rest = tail;
    Ok(*head)
}

fn text<'a>(rest: &mut &'a [u8], bytes: usize, what: &'static str) -> Result<&'a str, HeaderError> {
    let (head, tail) = rest.split_at_checked(bytes).ok_or(HeaderError::Truncated(what))?;
    *rest = tail;
    std::str::from_utf8(head).map_err(|_| HeaderError::NotUtf8(what))
}

/// Codes beyond 16 bits (the POP family) are cut as Java cuts them: they have no compact form.
pub(super) fn encode(header: &Header<'_>, fields: Option<Visit<'_>>, out: &mut BytesMut) {
    out.put_i16(header.code as i16);
    out.put_u8(header.language as u8);
    out.put_i16(header.version as i16);
    out.put_i32(header.opaque);
    out.put_i32(header.flag);
    let remark = header.remark.as_deref().unwrap_or("");
    out.put_u32(remark.len() as u32);
    out.put_slice(remark.as_bytes());
    let length_at = out.len();
    out.put_u32(0);
    if let Some(visit) = fields {
        visit(&mut |name, value| {
            // An empty name or value reads as null in Java: leave it out.
            if name.is_empty() || value.is_empty() || name.len() > usize::from(u16::MAX) {
                return;
            }
            out.put_u16(name.len() as u16);
            out.put_slice(name.as_bytes());
            out.put_u32(value.len() as u32);
            out.put_slice(value.as_bytes());
        });
    }
    let fields_bytes = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&fields_bytes.to_be_bytes());
}
