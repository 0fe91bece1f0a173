//! A short way to read the JSON headers that official clients write.
//!
//! Reading the header was a fifth of what a send costs the server. Clients write headers without blanks, with string
//! values and simple escapes only; exactly that is read here, and everything else (`None`) is left to the JSON parser.
//! Whatever is read here, the parser reads the same: a test compares them on every recorded header and on random ones.

use std::borrow::Cow;

use super::{Fields, Header, Language};

/// Reads a header in the usual form.
pub(super) fn decode(text: &str) -> Option<Header<'_>> {
    // Control characters may not stand in JSON strings: let the parser say so.
    if text.bytes().fold(false, |found, byte| found | (byte < 0x20)) {
        return None;
    }
    let mut scan = Scan { text, at: 0 };
    let mut header = Header {
        code: 0,
        language: Language::Java,
        version: 0,
        opaque: 0,
        flag: 0,
        remark: None,
        fields: None,
    };
    scan.expect(b'{')?;
    loop {
        let key = scan.plain_string()?;
        scan.expect(b':')?;
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
        if scan.expect(b',').is_none() {
            break;
        }
    }
    scan.expect(b'}')?;
    (scan.at == text.len()).then_some(header)
}

/// Reads from front to back. `at` is always the border of a character: it only ever moves past ASCII ones, or to one.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn expect(&mut self, punctuation: u8) -> Option<()> {
        (*self.text.as_bytes().get(self.at)? == punctuation).then(|| self.at += 1)
    }

    /// An integer as JSON writes it: no plus, no leading zeros.
    fn number(&mut self) -> Option<i32> {
        let rest = &self.text.as_bytes()[self.at..];
        let negative = rest.first() == Some(&b'-');
        let digits = &rest[usize::from(negative)..];
        let (mut magnitude, mut count) = (0i64, 0);
        while let Some(digit) =
            digits.get(count).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
        {
            magnitude = magnitude * 10 + i64::from(digit);
            count += 1;
            if count > 10 {
                return None;
            }
        }
        let leading_zero = digits.first() == Some(&b'0') && (count > 1 || negative);
        if count == 0 || leading_zero {
            return None;
        }
        self.at += usize::from(negative) + count;
        i32::try_from(if negative { -magnitude } else { magnitude }).ok()
    }

    /// A language's name; a number in its place is the parser's business.
    fn name(&mut self) -> Option<&'a str> {
        self.plain_string().filter(|name| name.parse::<i64>().is_err())
    }

    /// A string without escapes; where there is one, nothing is read. Inlined, so that the two halves of the result stay
    /// in registers: passed through memory they cost as much as the search.
    #[inline(always)]
    fn plain_string(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        if *bytes.get(self.at)? != b'"' {
            return None;
        }
        let start = self.at + 1;
        // Names of one letter are most of a send's.
        let end = match bytes.get(start..start + 2)? {
            [letter, b'"'] if !matches!(letter, b'"' | b'\\') => start + 1,
            _ => special(bytes, start)?,
        };
        if bytes[end] != b'"' {
            return None;
        }
        self.at = end + 1;
        Some(&self.text[start..end])
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        match self.plain_string() {
            Some(text) => Some(Cow::Borrowed(text)),
            None => self.escaped_string().map(Cow::Owned),
        }
    }

    #[inline(never)]
    fn escaped_string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let bytes = self.text.as_bytes();
        let mut owned = String::with_capacity((bytes.len() - self.at).min(256));
        loop {
            let end = special(bytes, self.at)?;
            owned.push_str(&self.text[self.at..end]);
            if bytes[end] == b'"' {
                self.at = end + 1;
                return Some(owned);
            }
            let (escaped, length) = unescape(&bytes[end + 1..])?;
            owned.push(escaped);
            self.at = end + 1 + length;
        }
    }

    fn fields(&mut self) -> Option<Fields<'a>> {
        let mut fields = Fields::with_capacity(16);
        self.expect(b'{')?;
        if self.expect(b'}').is_some() {
            return Some(fields);
        }
        loop {
            let name = self.plain_string()?;
            self.expect(b':')?;
            match self.plain_string() {
                Some(value) => fields.push(name, value),
                None => fields.push(name, self.escaped_string()?),
            }
            if self.expect(b',').is_none() {
                self.expect(b'}')?;
                return Some(fields);
            }
        }
    }
}

/// Bytes looked at together: strings are short, so calling a search function for each costs more than searching.
const WORD: usize = 8;

/// Position of the first quote or backslash from `from` on.
fn special(bytes: &[u8], mut from: usize) -> Option<usize> {
    while let Some(word) = bytes.get(from..).and_then(|rest| rest.first_chunk::<WORD>()) {
        let found = specials(word);
        if found != 0 {
            return Some(from + found.trailing_zeros() as usize / 8);
        }
        from += WORD;
    }
    let rest = bytes.get(from..)?;
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).map(|at| from + at)
}

/// The lowest bit set is the highest of the first byte that is a quote or a backslash.
fn specials(word: &[u8; WORD]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(*word);
    let zeros = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes & (ONES << 7);
    zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64))
}

/// The character that the bytes behind a backslash mean, and how many they are. Escapes beyond Latin-1 are left to the
/// parser.
fn unescape(bytes: &[u8]) -> Option<(char, usize)> {
    // The two that separate properties.
    if let [b'u', b'0', b'0', b'0', digit @ (b'1' | b'2'), ..] = bytes {
        return Some((char::from(digit - b'0'), 5));
    }
    if let [b'u', b'0', b'0', high, low, ..] = bytes {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let value = digit(high)? * 16 + digit(low)?;
        return Some((char::from_u32(value)?, 5));
    }
    let character = match bytes.first()? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        _ => return None,
    };
    Some((character, 1))
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
