//! The text of a properties file: from bytes to entries with their line numbers.
//!
//! The `java-properties` crate parses an entry. It is handed one entry at a time, because what it yields
//! after an error is undefined, and never a comment, because it takes `# C:\users` for a broken escape.
//!
//! Never here: files, and anything of this crate. The fuzz targets take this file as it is.

use java_properties::{LineContent, PropertiesIter};

/// One `key=value` of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where it starts, counted from 1.
    pub(crate) line: usize,
    pub(crate) key: String,
    /// Without the blanks around it.
    pub(crate) value: String,
}

/// The entry that starts on this line has a `\u` without four hexadecimal digits that name a character.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BrokenEscape {
    pub(crate) line: usize,
}

/// The entries of a file's text, in order.
pub(crate) fn entries(text: &str) -> Vec<Result<Entry, BrokenEscape>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    entry_texts(text).iter().filter_map(|(line, text)| parse(*line, text)).collect()
}

/// Bytes as text: UTF-8, or ISO-8859-1 if they are not that.
pub(crate) fn decode(bytes: Vec<u8>) -> String {
    // The format's definition says ISO-8859-1, but editors write UTF-8. Latin text with accents is hardly
    // ever valid UTF-8, so the order of the two attempts decides right.
    String::from_utf8(bytes)
        .unwrap_or_else(|error| error.into_bytes().iter().map(|&byte| char::from(byte)).collect())
}

/// Cuts the text into entries, each with its continuation lines, without comments and blank lines.
fn entry_texts(text: &str) -> Vec<(usize, String)> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = text.split('\n').enumerate();
    let mut found = Vec::new();
    while let Some((index, first)) = lines.next() {
        let content = first.trim_start_matches([' ', '\t', '\x0c']);
        if content.is_empty() || content.starts_with(['#', '!']) {
            continue;
        }
        let mut entry = first.to_owned();
        while ends_with_continuation(&entry) {
            // At the end of the text an empty line follows: the parser drops an entry that stays open.
            entry.push('\n');
            entry.push_str(lines.next().map_or("", |(_, line)| line));
        }
        found.push((index + 1, entry));
    }
    found
}

fn ends_with_continuation(line: &str) -> bool {
    let backslashes = line.bytes().rev().take_while(|&byte| byte == b'\\').count();
    backslashes % 2 == 1
}

fn parse(line: usize, text: &str) -> Option<Result<Entry, BrokenEscape>> {
    // An escape is all that can break here: the text is in memory, and any line is some key and value.
    match PropertiesIter::new_with_encoding(text.as_bytes(), encoding_rs::UTF_8).next()? {
        Err(_) => Some(Err(BrokenEscape { line })),
        Ok(parsed) => match parsed.consume_content() {
            LineContent::Comment(_) => None,
            LineContent::KVPair(key, value) => Some(Ok(Entry { line, key, value: value.trim().to_owned() })),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_a_separator_and_values_lose_their_blanks() {
        check("a=1\n  b : 2 \nc 3\nd\n", "1 a=1, 2 b=2, 3 c=3, 4 d=");
        check("a\\=b=c\\:d", "1 a=b=c:d");
        check("path=C:\\\\data\\tx", "1 path=C:\\data\tx");
    }

    #[test]
    fn line_numbers_count_comments_blank_lines_and_continuations() {
        check("# one\n\n! three\na=1,\\\n   2\nb=3\n", "4 a=1,2, 6 b=3");
        check("a=1\r\nb=2\rc=3", "1 a=1, 2 b=2, 3 c=3");
    }

    #[test]
    fn comments_need_not_be_well_formed_and_do_not_continue() {
        check("# see C:\\users\\\na=1", "2 a=1");
        check("a=1\\\n# still the value", "1 a=1# still the value");
    }

    #[test]
    fn an_entry_left_open_at_the_end_of_the_file_is_kept() {
        check("a=1\\", "1 a=1");
    }

    #[test]
    fn text_of_any_script_is_kept() {
        check("\u{feff}a=消息\nb=\\u6d88\nc=😀", "1 a=消息, 2 b=消, 3 c=😀");
        check(&decode(b"a=\xe9t\xe9".to_vec()), "1 a=été");
        check(&decode("a=été".as_bytes().to_vec()), "1 a=été");
    }

    #[test]
    fn a_broken_escape_costs_its_own_entry_only() {
        check("a=1\nb=\\u12\nc=\\uzzzz\nd=4", "1 a=1, 2 broken, 3 broken, 4 d=4");
    }

    #[test]
    fn no_short_text_makes_the_parser_panic() {
        let alphabet = ['a', '=', '\\', '\n', '#', 'u', ' '];
        for code in 0..7u32.pow(5) {
            let text: String = (0..5).map(|place| alphabet[(code / 7u32.pow(place) % 7) as usize]).collect();
            entries(&text);
        }
    }

    fn check(text: &str, expected: &str) {
        let found: Vec<String> = entries(text)
            .into_iter()
            .map(|entry| match entry {
                Ok(Entry { line, key, value }) => format!("{line} {key}={value}"),
                Err(BrokenEscape { line }) => format!("{line} broken"),
            })
            .collect();
        assert_eq!(found.join(", "), expected);
    }
}
