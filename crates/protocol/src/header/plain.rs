//! A short way to read the JSON headers that official clients write.
//!
//! Reading the header was a fifth of what a send costs the server. Clients write headers without blanks, with string
//! values and simple escapes only; exactly that is read here, and everything else (`None`) is left to the JSON parser.
//! Whatever is read here, the parser reads the same: a test compares them on every recorded header and on random ones.

use std::borrow::Cow;

use memchr::memchr2;

use super::{FIELDS_MAX, Fields, Header, Language};

/// Reads a header in the usual form.
pub(super) fn decode(text: &str) -> Option<Header<'_>> {
    // Control characters may not stand in JSON strings: let the parser say so.
    if text.bytes().fold(false, |found, byte| found | (byte < 0x20)) {
        return None;
    }
    let mut scan = Scan { rest: text };
    let mut header = Header {
        code: 0,
        language: Language::Java,
        version: 0,
        opaque: 0,
        flag: 0,
        remark: None,
        fields: None,
    };
    scan.expect('{')?;
    loop {
        let key = scan.plain_string()?;
        scan.expect(':')?;
        match key {
            "code" => header.code = scan.number()?,
            "flag" => header.flag = scan.number()?,
            "opaque" => header.opaque = scan.number()?,
            "version" => header.version = scan.number()?,
            "language" => header.language = Language::from_name(scan.name()?),
            "remark" => header.remark = Some(scan.string()?),
            "extFields" => header.fields = Some(scan.fields()?),
            "serializeTypeCurrentRPC" => drop(scan.plain_string()?),
            _ => return None,
        }
        if scan.take(',').is_none() {
            break;
        }
    }
    scan.expect('}')?;
    scan.rest.is_empty().then_some(header)
}

struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn take(&mut self, punctuation: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(punctuation)?;
        Some(())
    }

    fn expect(&mut self, punctuation: char) -> Option<()> {
        self.take(punctuation)
    }

    /// An integer as JSON writes it: no plus, no leading zeros.
    fn number(&mut self) -> Option<i32> {
        let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'-';
        let end = self.rest.as_bytes().iter().position(|byte| !is_part(byte))?;
        let (digits, rest) = self.rest.split_at(end);
        let magnitude = digits.strip_prefix('-').unwrap_or(digits);
        if magnitude.starts_with('0') && digits != "0" {
            return None;
        }
        self.rest = rest;
        digits.parse().ok()
    }

    /// A language's name; a number in its place is the parser's business.
    fn name(&mut self) -> Option<&'a str> {
        self.plain_string().filter(|name| name.parse::<i64>().is_err())
    }

    /// A string without escapes.
    fn plain_string(&mut self) -> Option<&'a str> {
        match self.string()? {
            Cow::Borrowed(text) => Some(text),
            Cow::Owned(_) => None,
        }
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        let text = self.rest.strip_prefix('"')?;
        let end = memchr2(b'"', b'\\', text.as_bytes())?;
        if text.as_bytes()[end] == b'"' {
            self.rest = &text[end + 1..];
            return Some(Cow::Borrowed(&text[..end]));
        }
        let mut owned = String::with_capacity(text.len().min(256));
        let mut rest = text;
        loop {
            let at = memchr2(b'"', b'\\', rest.as_bytes())?;
            owned.push_str(&rest[..at]);
            if rest.as_bytes()[at] == b'"' {
                self.rest = &rest[at + 1..];
                return Some(Cow::Owned(owned));
            }
            let (escaped, behind) = unescape(&rest[at + 1..])?;
            owned.push(escaped);
            rest = behind;
        }
    }

    fn fields(&mut self) -> Option<Fields<'a>> {
        let mut fields = Fields::with_capacity(16);
        self.expect('{')?;
        if self.take('}').is_some() {
            return Some(fields);
        }
        loop {
            if fields.len() == FIELDS_MAX {
                return None;
            }
            let name = self.string()?;
            self.expect(':')?;
            fields.push(name, self.string()?);
            if self.take(',').is_none() {
                self.expect('}')?;
                return Some(fields);
            }
        }
    }
}

/// The character behind a backslash, and what follows it. Escapes beyond Latin-1 are left to the parser.
fn unescape(text: &str) -> Option<(char, &str)> {
    if let Some(code) = text.strip_prefix("u00") {
        let digits = code.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let value = u8::from_str_radix(digits, 16).ok()?;
        return Some((char::from(value), &code[2..]));
    }
    let character = match text.as_bytes().first()? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        _ => return None,
    };
    Some((character, &text[1..]))
}

#[cfg(test)]
mod tests {
    use super::super::json;
    use super::*;
    use proptest::prelude::*;

    /// Whatever is read here, the parser reads the same.
    fn check(text: &str) -> bool {
        let quick = decode(text);
        if let Some(header) = &quick {
            assert_eq!(header, &json::parse(text).expect("the parser reads it as well"), "{text}");
        }
        quick.is_some()
    }

    #[test]
    fn headers_of_clients_are_read_and_odd_ones_left_to_the_parser() {
        for text in [
            r#"{"code":310,"extFields":{"a":"g","i":"TAGS\u0001TagA\u0002","h":"0"},"flag":0,"language":"JAVA","opaque":-5,"serializeTypeCurrentRPC":"JSON","version":479}"#,
            r#"{"code":0,"flag":1,"remark":"a \"b\"\n"}"#,
            r#"{"extFields":{},"code":11}"#,
            r#"{"extFields":{"主题":"é\u00e9"}}"#,
        ] {
            assert!(check(text), "{text}");
        }
        for text in [
            r#"{ "code":1}"#,
            r#"{"code":01}"#,
            r#"{"code":1.5}"#,
            r#"{"code":99999999999}"#,
            r#"{"language":0}"#,
            r#"{"language":"9"}"#,
            r#"{"remark":null}"#,
            r#"{"extFields":{"a":1}}"#,
            r#"{"remark":"\ud83d\ude00"}"#,
            "{\"remark\":\"\u{1}\"}",
            r#"{"code":1}x"#,
            r#"{"code":1,}"#,
            "{}",
            "",
        ] {
            assert!(!check(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn random_headers_are_read_as_the_parser_reads_them(
            code in any::<i32>(), remark in proptest::option::of(".{0,20}"),
            pairs in proptest::collection::vec((".{0,6}", "\\PC{0,6}|.{0,12}"), 0..6),
        ) {
            let mut fields = Fields::default();
            for (name, value) in pairs {
                fields.push(name, value);
            }
            let header = Header { remark: remark.map(Cow::Owned), ..Header::request(code, 7, fields) };
            let mut out = bytes::BytesMut::new();
            json::encode(&header, None, &mut out);
            check(std::str::from_utf8(&out).unwrap());
            let visit = |each: &mut dyn FnMut(&str, &str)| {
                header.fields.iter().flat_map(Fields::iter).for_each(|(name, value)| each(name, value));
            };
            let mut out = bytes::BytesMut::new();
            json::encode(&header, Some(&visit), &mut out);
            check(std::str::from_utf8(&out).unwrap());
        }

        #[test]
        fn random_text_is_read_as_the_parser_reads_it(
            text in "\\{(\"(code|flag|extFields|remark|language)\":(-?[0-9]{1,3}|\"[a\\\\u0\"n]{0,6}\"|\\{\\}|null),?){0,4}\\}?"
        ) {
            check(&text);
        }
    }
}
