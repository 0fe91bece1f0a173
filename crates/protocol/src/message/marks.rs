//! What a broker looks at in the properties of each message that it is sent: where that stands in the text.
//!
//! Kept apart from the text, so that they can be kept while nothing but an id in the text becomes another.

use std::ops::Range;

use super::properties::{key, places};
use super::tags;

/// What stands where in a property text, found in one pass. Of two equal names the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    unique_key: Range<usize>,
    keys: Range<usize>,
    /// The tags code, if there is a tag.
    pub tags_code: Option<i64>,
    /// The message asks to be delivered later.
    pub is_delayed: bool,
    /// It is half of a transaction.
    pub is_transactional: bool,
}

impl Marks {
    /// Those of `text`.
    pub fn of(text: &str) -> Marks {
        let mut marks = Marks::default();
        for (name, value) in places(text) {
            let named = &text[name];
            match named {
                key::UNIQ_KEY => marks.unique_key = value,
                key::KEYS => marks.keys = value,
                key::TAGS => marks.tags_code = Some(tags::tags_code(Some(&text[value]))),
                key::TRAN_MSG => marks.is_transactional = text[value].eq_ignore_ascii_case("true"),
                key::DELAY => {
                    marks.is_delayed |= text[value].parse::<i64>().is_ok_and(|level| level > 0);
                }
                key::TIMER_DELAY_SEC | key::TIMER_DELAY_MS | key::TIMER_DELIVER_MS => {
                    marks.is_delayed = true;
                }
                _ => {}
            }
        }
        marks
    }

    /// The client's message id in the text that these are of.
    pub fn unique_key<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.get(self.unique_key.clone()).filter(|key| !key.is_empty())
    }

    /// The value of KEYS in the text that these are of.
    pub fn keys<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.get(self.keys.clone()).filter(|keys| !keys.is_empty())
    }

    /// Whether these stay right when others without separators are written over the bytes in `changed`.
    pub(crate) fn outlive(&self, changed: Range<usize>) -> bool {
        let has = |place: &Range<usize>| place.start <= changed.start && changed.end <= place.end;
        has(&self.unique_key) || has(&self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Properties;
    use crate::message::properties::{NAME_END, VALUE_END};
    use proptest::prelude::*;

    #[test]
    fn what_clients_ask_for_by_a_property_is_found() {
        let delayed = |text: &str| Marks::of(text).is_delayed;
        assert!(
            delayed("DELAY\x013\x02")
                && delayed("TIMER_DELAY_SEC\x01x")
                && delayed("TIMER_DELIVER_MS\x011\x02")
        );
        assert!(!delayed("DELAY\x010\x02") && !delayed("DELAY\x01x\x02") && !delayed("DELAYS\x013\x02"));
        let transactional = |text: &str| Marks::of(text).is_transactional;
        assert!(transactional("TRAN_MSG\x01True\x02"));
        assert!(!transactional("TRAN_MSG\x01true\x02TRAN_MSG\x01no\x02"), "the last of two counts");
    }

    proptest! {
        #[test]
        fn marks_are_what_the_properties_say(pieces in proptest::collection::vec("(UNIQ_KEY|KEYS|TAGS|K)?\u{1}?[a-bä ]{0,3}\u{2}?", 0..6)) {
            let text = pieces.concat();
            let (marks, properties) = (Marks::of(&text), Properties(text.as_bytes()));
            prop_assert_eq!(marks.unique_key(&text), properties.get(key::UNIQ_KEY));
            prop_assert_eq!(marks.keys(&text), properties.get(key::KEYS));
            prop_assert_eq!(marks.tags_code, properties.get(key::TAGS).map(|tag| tags::tags_code(Some(tag))));
        }

        #[test]
        fn marks_outlive_another_id(
            pieces in proptest::collection::vec("(UNIQ_KEY|KEYS|TAGS|DELAY)\u{1}[0-9a-b ]{1,9}\u{2}", 1..6),
            at in 0usize..60, with in "[ -~]{1,9}",
        ) {
            let mut text = pieces.concat().into_bytes();
            let marks = Marks::of(std::str::from_utf8(&text).unwrap());
            let changed = at..(at + with.len()).min(text.len());
            if changed.start < changed.end && marks.outlive(changed.clone()) {
                let length = changed.len();
                text[changed].copy_from_slice(&with.as_bytes()[..length]);
                let text = String::from_utf8(text).unwrap();
                prop_assert!(!with.bytes().any(|byte| byte == NAME_END || byte == VALUE_END));
                prop_assert_eq!(Marks::of(&text), marks);
            }
        }
    }
}
