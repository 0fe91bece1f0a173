//! A short way to read the JSON headers that official clients write.
//!
//! Reading the header was a fifth of what a send costs the server. Clients write headers without blanks, with string
//! values and simple escapes only; exactly that is read here, and everything else (`None`) is left to the JSON parser.
//! Whatever is read here, the parser reads the same: a test compares them on every recorded header and on random ones.

use std::borrow::Cow;
use std::ops::Range;

use super::{Fields, Header, Language};
use crate::words::{self, WORD};

/// Reads a header in the usual form.
pub(super) fn decode(text: &str) -> Option<Header<'_>> {
    // Control characters may not stand in JSON strings: let the parser say so.
    if has_control(text.as_bytes()) {
        return None;
    }
    let mut scan = Scan { text, at: 0 };
    let mut header = Header::unset();
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

fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |found, byte| found | (*byte < 0x20))
}

/// A value in a header that may be another in the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// The number of the frame.
    Opaque,
    /// The value of the field of this name.
    Field(&'a str),
}

/// Where such values stand in a header in the usual form, without their quotes.
pub(crate) fn parts(bytes: &[u8]) -> Option<Vec<(Part<'_>, Range<usize>)>> {
    let mut scan = Scan { text: std::str::from_utf8(bytes).ok()?, at: 0 };
    let mut parts = Vec::with_capacity(16);
    let (mut has_opaque, mut has_fields) = (false, false);
    scan.expect(b'{')?;
    loop {
        let key = scan.plain_string()?;
        scan.expect(b':')?;
        let start = scan.at;
        match key {
            "opaque" if !has_opaque => {
                scan.number()?;
                parts.push((Part::Opaque, start..scan.at));
                has_opaque = true;
            }
            "extFields" if !has_fields => {
                scan.each_field(|name, place, _| parts.push((Part::Field(name), place)))?;
                has_fields = true;
            }
            "code" | "flag" | "version" => drop(scan.number()?),
            "language" | "serializeTypeCurrentRPC" => drop(scan.plain_string()?),
            _ => return None,
        }
        if scan.expect(b',').is_none() {
            break;
        }
    }
    // Behind a blank before the end there may be more, such as the same fields once more.
    scan.expect(b'}')?;
    bytes[scan.at..].trim_ascii().is_empty().then_some(parts)
}

/// The string of which the bytes behind the opening quote are the first, and the length of its text.
pub(crate) fn string(bytes: &[u8]) -> Option<(Cow<'_, str>, usize)> {
    let end = special(bytes, 0)?;
    let (text, length) = match bytes[end] {
        b'"' => (Cow::Borrowed(std::str::from_utf8(&bytes[..end]).ok()?), end),
        _ => escaped(bytes).map(|(text, length)| (Cow::Owned(text), length))?,
    };
    (!has_control(&bytes[..length])).then_some((text, length))
}

/// A part of a string without escapes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Where it begins in the string as it is written.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Where it begins in the text.
    pub at: usize,
}

/// The parts of the text of a string between its escapes; none when it has no escapes.
pub(crate) fn runs(string: &[u8]) -> Vec<Run> {
    let mut runs = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(length) = string[start..].iter().position(|byte| *byte == b'\\') {
        let end = start + length;
        runs.push(Run { start, end, at });
        let Some((character, taken)) = unescape(&string[end + 1..]) else { return Vec::new() };
        at += length + character.len_utf8();
        start = end + 1 + taken;
    }
    runs
}

/// Whether these bytes may stand in a string as they are, and are ASCII.
pub(crate) fn is_printable(bytes: &[u8]) -> bool {
    let printable =
        |so_far, byte: &u8| so_far & (b' '..0x7f).contains(byte) & (*byte != b'"') & (*byte != b'\\');
    bytes.iter().fold(true, printable)
}

/// The integer as JSON writes it that these bytes begin with, and its length: no plus, no leading zeros.
pub(crate) fn number(bytes: &[u8]) -> Option<(i32, usize)> {
    let negative = bytes.first() == Some(&b'-');
    let digits = &bytes[usize::from(negative)..];
    let (mut magnitude, mut count) = (0i64, 0);
    while let Some(digit) = digits.get(count).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
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
    let value = i32::try_from(if negative { -magnitude } else { magnitude }).ok()?;
    Some((value, usize::from(negative) + count))
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

    fn number(&mut self) -> Option<i32> {
        let (number, length) = number(&self.text.as_bytes()[self.at..])?;
        self.at += length;
        Some(number)
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

    fn escaped_string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let (text, length) = escaped(&self.text.as_bytes()[self.at..])?;
        self.at += length + 1;
        Some(text)
    }

    fn fields(&mut self) -> Option<Fields<'a>> {
        let mut fields = Fields::with_capacity(16);
        self.each_field(|name, _, value| fields.push(name, value))?;
        Some(fields)
    }

    /// Shows the name of each field, where its value stands, and the value.
    #[inline]
    fn each_field(&mut self, mut show: impl FnMut(&'a str, Range<usize>, Cow<'a, str>)) -> Option<()> {
        self.expect(b'{')?;
        if self.expect(b'}').is_some() {
            return Some(());
        }
        loop {
            let name = self.plain_string()?;
            self.expect(b':')?;
            let start = self.at + 1;
            let value = self.string()?;
            show(name, start..self.at - 1, value);
            if self.expect(b',').is_none() {
                return self.expect(b'}');
            }
        }
    }
}

/// A string with escapes of which the bytes behind the opening quote are the first, and the length of its text. Its
/// pieces are short, so they are copied in whole words; what stands at the very end of a header is left to the parser.
#[inline(never)]
fn escaped(bytes: &[u8]) -> Option<(String, usize)> {
    let mut text = vec![0; bytes.len().min(256)];
    let (mut at, mut length) = (0, 0);
    loop {
        if text.len() - length < WORD {
            text.resize(2 * text.len() + WORD, 0);
        }
        let word = bytes[at..].first_chunk::<WORD>()?;
        text[length..length + WORD].copy_from_slice(word);
        let Some(plain) = words::first(word, specials) else {
            (at, length) = (at + WORD, length + WORD);
            continue;
        };
        (at, length) = (at + plain, length + plain);
        if bytes[at] == b'"' {
            text.truncate(length);
            return Some((String::from_utf8(text).ok()?, at));
        }
        let (character, taken) = unescape(&bytes[at + 1..])?;
        length += character.encode_utf8(&mut text[length..]).len();
        at += 1 + taken;
    }
}

/// Position of the first quote or backslash from `from` on.
fn special(bytes: &[u8], mut from: usize) -> Option<usize> {
    while let Some(word) = bytes.get(from..).and_then(|rest| rest.first_chunk::<WORD>()) {
        if let Some(at) = words::first(word, specials) {
            return Some(from + at);
        }
        from += WORD;
    }
    let rest = bytes.get(from..)?;
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).map(|at| from + at)
}

/// Marks quotes and backslashes.
#[inline(always)]
fn specials(word: u64) -> u64 {
    words::equal(word, b'"') | words::equal(word, b'\\')
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
            r#"{"code":0,"flag":1,"remark":"a \"b\"\n","version":479}"#,
            r#"{"extFields":{},"code":11}"#,
            r#"{"extFields":{"主题":"é\u00e9"},"opaque":1}"#,
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
