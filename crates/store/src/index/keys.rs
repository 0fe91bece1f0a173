//! The keys of a message and their hashes: `topic#key`, the client's message id first, then each word of KEYS.

use cometmq_protocol::message::properties::{NAME_END, Properties, VALUE_END, key};
use cometmq_protocol::message::sys_flag;
use smallvec::SmallVec;

/// Hashes of a message's keys in the order in which they are indexed.
pub type KeyHashes = SmallVec<[u32; 4]>;

/// Between topic and key in what is hashed.
const SEPARATOR: &[u8] = b"#";

/// Hashes the keys of messages of one topic.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher {
    /// State behind `topic#`.
    prefix: u32,
}

impl KeyHasher {
    /// For messages of this topic.
    pub fn new(topic: &str) -> KeyHasher {
        KeyHasher { prefix: hash_on(hash_on(0, topic.as_bytes()), SEPARATOR) }
    }

    /// The hash of a key: Java's `hashCode` of `topic#key` without its sign, and 0 where that has none.
    pub fn key(self, key: &str) -> u32 {
        let hash = hash_on(self.prefix, key.as_bytes()) as i32;
        hash.checked_abs().unwrap_or(0) as u32
    }

    /// The hashes of a message's keys. Property texts are those of the record, one behind the other; of two equal
    /// names the last counts. Rolled-back transactions have no keys.
    pub fn message(self, flags: i32, properties: [&[u8]; 2]) -> KeyHashes {
        self.keys(flags, find(properties))
    }

    /// The same, of a message with these keys.
    pub fn keys(self, flags: i32, keys: Keys<'_>) -> KeyHashes {
        let mut hashes = KeyHashes::new();
        if flags & sys_flag::TRANSACTION_MASK != sys_flag::TRANSACTION_ROLLBACK {
            if let Some(unique) = keys.unique {
                hashes.push(self.key(unique));
            }
            if let Some(keys) = keys.words {
                hashes.extend(words(keys).map(|key| self.key(key)));
            }
        }
        hashes
    }
}

/// Whether a message with this property text has the key.
pub fn has_key(properties: &[u8], wanted: &str) -> bool {
    let properties = Properties(properties);
    properties.get(key::UNIQ_KEY) == Some(wanted)
        || properties.get(key::KEYS).is_some_and(|keys| words(keys).any(|word| word == wanted))
}

fn words(keys: &str) -> impl Iterator<Item = &str> {
    keys.split(' ').filter(|word| !word.is_empty())
}

/// The keys of a message as its properties have them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keys<'a> {
    /// The client's message id.
    pub unique: Option<&'a str>,
    /// The value of KEYS: words.
    pub words: Option<&'a str>,
}

/// One pass that looks at no more than the first bytes of each property, and not at all at what the broker added behind
/// a message that has its id: this is on every message's way.
fn find<'a>(properties: [&'a [u8]; 2]) -> Keys<'a> {
    let mut found = Keys::default();
    for mut rest in properties {
        if found.unique.is_some() {
            break;
        }
        while !rest.is_empty() {
            let end = memchr::memchr(VALUE_END, rest).unwrap_or(rest.len());
            let piece = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or(&[]);
            if let Some(value) = value_of(piece, key::UNIQ_KEY) {
                found.unique = Some(value);
            } else if let Some(value) = value_of(piece, key::KEYS) {
                found.words = Some(value);
            }
        }
    }
    found
}

/// The value, if this is a property of that name with one.
fn value_of<'a>(piece: &'a [u8], name: &str) -> Option<&'a str> {
    let value = piece.strip_prefix(name.as_bytes())?.strip_prefix(&[NAME_END])?;
    std::str::from_utf8(value).ok().filter(|value| !value.is_empty())
}

/// Java's `String.hashCode`, gone on with from an earlier state: `text` is UTF-8, what counts is its UTF-16.
fn hash_on(state: u32, text: &[u8]) -> u32 {
    const P: u32 = 31;
    if !text.is_ascii() {
        let text = String::from_utf8_lossy(text);
        return text
            .encode_utf16()
            .fold(state, |hash, unit| hash.wrapping_mul(P).wrapping_add(u32::from(unit)));
    }
    // Eight at a time: one multiplication after the other would be most of the cost of a key.
    let (eights, rest) = text.as_chunks::<8>();
    let mut hash = state;
    for eight in eights {
        let sum = eight
            .iter()
            .zip(POWERS)
            .fold(0u32, |sum, (byte, power)| sum.wrapping_add(u32::from(*byte).wrapping_mul(power)));
        hash = hash.wrapping_mul(P8).wrapping_add(sum);
    }
    rest.iter().fold(hash, |hash, byte| hash.wrapping_mul(P).wrapping_add(u32::from(*byte)))
}

/// Powers of 31 from the seventh down, cut to 32 bits.
const POWERS: [u32; 8] = {
    let mut powers = [1u32; 8];
    let mut at = 7;
    while at > 0 {
        powers[at - 1] = powers[at].wrapping_mul(31);
        at -= 1;
    }
    powers
};

/// The eighth.
const P8: u32 = POWERS[0].wrapping_mul(31);

#[cfg(test)]
mod tests {
    use super::*;
    use cometmq_protocol::message::tags::java_hash;
    use proptest::prelude::*;

    fn hash(text: &str) -> u32 {
        java_hash(text).checked_abs().unwrap_or(0) as u32
    }

    #[test]
    fn the_client_id_comes_first_then_the_words() {
        let hasher = KeyHasher::new("T");
        let message = |flags, properties| hasher.message(flags, properties).to_vec();
        let text = b"KEYS\x01a  b \x02WAIT\x01true\x02UNIQ_KEY\x01U\x02";
        assert_eq!(message(0, [text, b""]), [hash("T#U"), hash("T#a"), hash("T#b")]);
        assert_eq!(message(4, [text, b""]).len(), 3, "a prepared message has keys");
        let twice = b"UNIQ_KEY\x01U\x02UNIQ_KEY\x01V";
        assert_eq!(message(8, [twice, b""])[0], hash("T#V"), "the last of two counts");
        assert_eq!(message(12, [text, b""]), [0u32; 0], "a rolled-back one has none");
        assert_eq!(message(0, [b"KEYS\x01\x02KEYSX\x01a\x02XKEYS\x01b", b"KEYS"]), [0u32; 0]);
        assert_eq!(message(0, [b"", b"\x02UNIQ_KEY\x01V"]), [hash("T#V")]);
    }

    #[test]
    fn a_hash_without_a_positive_form_is_0() {
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
        assert_eq!(KeyHasher { prefix: 0 }.key("polygenelubricants"), 0);
    }

    #[test]
    fn keys_are_compared_whole() {
        let text = b"UNIQ_KEY\x01U\x02KEYS\x01ab cd\x02";
        for (key, has) in
            [("U", true), ("ab", true), ("cd", true), ("a", false), ("ab cd", false), ("", false)]
        {
            assert_eq!(has_key(text, key), has, "{key}");
        }
    }

    proptest! {
        #[test]
        fn the_hash_is_javas(topic in "[a-zA-Z%_-]{1,40}", key in ".{0,60}") {
            prop_assert_eq!(KeyHasher::new(&topic).key(&key), hash(&format!("{topic}#{key}")));
        }

        #[test]
        fn what_is_found_is_what_the_properties_say(bytes in proptest::collection::vec("(UNIQ_KEY|KEYS|K)?\u{1}?[a-b ]{0,3}\u{2}?", 0..6)) {
            let text = bytes.concat();
            let properties = Properties(text.as_bytes());
            let found = find([text.as_bytes(), b""]);
            prop_assert_eq!(found.unique, properties.get(key::UNIQ_KEY));
            prop_assert_eq!(found.words, properties.get(key::KEYS));
        }
    }
}
