//! Property text: `name U+0001 value U+0002`, repeated; the last separator may be missing.
//!
//! The order means nothing and of two equal names the last wins, as in the map that Java reads it into.

use std::ops::Range;

use crate::words::{self, WORD};

/// Property names that the broker and the clients give a meaning.
pub mod key {
    /// Keys under which a message can be looked up, blank-separated.
    pub const KEYS: &str = "KEYS";
    /// The tag.
    pub const TAGS: &str = "TAGS";
    /// `false`: answer the producer without waiting for flush or replication.
    pub const WAIT: &str = "WAIT";
    /// Delay level 1 to 18.
    pub const DELAY: &str = "DELAY";
    /// Relative delivery time, seconds.
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    /// Relative delivery time, ms.
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    /// Absolute delivery time, ms.
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    /// The client's message id.
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    /// Region of the broker.
    pub const MSG_REGION: &str = "MSG_REGION";
    /// Whether tracing is on.
    pub const TRACE_ON: &str = "TRACE_ON";
    /// Cluster of the broker.
    pub const CLUSTER: &str = "CLUSTER";
    /// `true`: half message of a transaction.
    pub const TRAN_MSG: &str = "TRAN_MSG";
    /// Topic first consumed from, on messages of a retry topic.
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
}

/// Ends a name.
pub const NAME_END: u8 = 1;
/// Ends a value.
pub const VALUE_END: u8 = 2;

/// A property text to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties<'a>(pub &'a [u8]);

impl<'a> Properties<'a> {
    /// Names and values in the order of the text. Pieces without name, value or separator are skipped, as Java does.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.pieces().filter_map(split)
    }

    /// The value of `name`: the last one when it stands twice. Other properties are passed over without reading them.
    pub fn get(self, name: &str) -> Option<&'a str> {
        let [found] = self.get_each([name]);
        found
    }

    /// As [`Properties::get`] of each of these names, going through the text only once.
    pub fn get_each<const N: usize>(self, names: [&str; N]) -> [Option<&'a str>; N] {
        let mut found = [None; N];
        for piece in self.pieces() {
            for (name, found) in names.iter().zip(&mut found) {
                if piece.get(name.len()) == Some(&NAME_END)
                    && piece.starts_with(name.as_bytes())
                    && let Some((key, value)) = split(piece)
                {
                    *found = (key == *name).then_some(value);
                }
            }
        }
        found
    }

    fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        let (text, mut start) = (self.0, 0);
        let ends = memchr::memchr_iter(VALUE_END, text).chain((!text.is_empty()).then_some(text.len()));
        ends.map(move |end| &text[std::mem::replace(&mut start, end + 1)..end])
    }
}

fn split(piece: &[u8]) -> Option<(&str, &str)> {
    let at = memchr::memchr(NAME_END, piece)?;
    let (name, value) = (&piece[..at], &piece[at + 1..]);
    if name.is_empty() || value.is_empty() {
        return None;
    }
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
}

/// As [`Properties::iter`], of a text that is known to be UTF-8: nothing needs to be looked at twice.
pub fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    places(text).map(|(name, value)| (&text[name], &text[value]))
}

/// Where names and values stand in a text.
pub(crate) fn places(text: &str) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let (mut at, mut name_end) = (start, None);
        while start < text.len() {
            at = separator(text.as_bytes(), at);
            if text.as_bytes().get(at) == Some(&NAME_END) {
                name_end = name_end.or(Some(at));
                at += 1;
                continue;
            }
            // The end of the text ends a property as well.
            let from = std::mem::replace(&mut start, at + 1);
            if let Some(name_end) = name_end.take()
                && name_end > from
                && at > name_end + 1
            {
                return Some((from..name_end, name_end + 1..at));
            }
            at = start;
        }
        None
    })
}

/// Where the first separator from `from` on is, or where the text ends. Names and values are short: calling a search
/// function for each costs more than searching.
#[inline]
fn separator(text: &[u8], mut from: usize) -> usize {
    while let Some(word) = text.get(from..).and_then(|rest| rest.first_chunk::<WORD>()) {
        // Zeros, too, are below 3.
        let Some(at) = words::first(word, |word| words::below(word, VALUE_END + 1)) else {
            from += WORD;
            continue;
        };
        from += at;
        if text[from] != 0 {
            return from;
        }
        from += 1;
    }
    let rest = text.get(from..).unwrap_or(&[]);
    rest.iter().position(|byte| matches!(*byte, NAME_END | VALUE_END)).map_or(text.len(), |at| from + at)
}

/// Appends one property to a text. Names and values with separator characters inside cannot be told apart
/// afterwards; clients refuse them.
pub fn push(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push(char::from(NAME_END));
    text.push_str(value);
    text.push(char::from(VALUE_END));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn broken_pieces_are_skipped_and_the_last_of_two_wins() {
        let text = Properties(b"A\x011\x02\x02=\x02B\x01\x02\x01x\x02A\x012");
        assert_eq!(text.iter().collect::<Vec<_>>(), [("A", "1"), ("A", "2")]);
        assert_eq!(text.get("A"), Some("2"));
        assert_eq!(text.get("B"), None);
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_read(pairs in proptest::collection::vec(("[a-zA-Z_]{1,9}", "[^\u{1}\u{2}]{1,9}"), 0..9)) {
            let mut text = String::new();
            for (name, value) in &pairs {
                push(&mut text, name, value);
            }
            let read: Vec<_> = Properties(text.as_bytes()).iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(0u8..6, 0..40)) {
            let read: Vec<_> = Properties(&bytes).iter().collect();
            let last = |name| read.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value);
            let names = ["\u{0}", "\u{3}", "\u{3}\u{4}", "\u{5}"];
            prop_assert_eq!(Properties(&bytes).get_each(names), names.map(last));
            prop_assert!(read.into_iter().eq(pairs(std::str::from_utf8(&bytes).unwrap())));
        }
    }
}
