//! Typed header fields of the requests and replies that are served, by room.
//!
//! Decoding takes the values out of a [`Fields`](crate::Fields); unknown names are ignored, as clients of every
//! version send names that others do not know.

pub mod client;
pub mod namesrv;
pub mod offset;
pub mod pull;
pub mod query;
pub mod send;
pub mod topic;

use std::borrow::Cow;

use crate::header::Fields;

/// Why the fields of a request do not make a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// A field that the request code requires is absent.
    #[error("the request header lacks the field `{name}`")]
    Missing {
        /// Name on the wire.
        name: &'static str,
    },
    /// A field's text is not of its type.
    #[error("the request header field `{name}` is `{value}`, expected {expected}")]
    Malformed {
        /// Name on the wire.
        name: &'static str,
        /// Text found, cut to 64 characters.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
}

/// A typed header: fields in, fields out.
pub trait HeaderFields<'a>: Sized {
    /// Takes the fields out of `fields`.
    fn decode(fields: &mut Fields<'a>) -> Result<Self, FieldError>;

    /// Shows each field as it goes on the wire; absent ones are left out.
    fn visit(&self, each: &mut dyn FnMut(&'static str, &str));

    /// The fields as a list.
    fn encode(&self) -> Fields<'static> {
        let mut fields = Fields::with_capacity(16);
        self.visit(&mut |name, value| fields.push(name, value.to_owned()));
        fields
    }
}

/// A value that has a text form in header fields.
pub(crate) trait FieldValue<'a>: Sized {
    const EXPECTED: &'static str;
    /// Takes the value out of `text`; `None` leaves it as it is.
    fn take(text: &mut Cow<'a, str>) -> Option<Self>;
    fn with_text<R>(&self, show: impl FnOnce(&str) -> R) -> R;
}

impl<'a> FieldValue<'a> for Cow<'a, str> {
    const EXPECTED: &'static str = "text";

    fn take(text: &mut Cow<'a, str>) -> Option<Self> {
        Some(std::mem::take(text))
    }

    fn with_text<R>(&self, show: impl FnOnce(&str) -> R) -> R {
        show(self)
    }
}

/// Digits that any number of so many fits.
const DIGITS_MAX: usize = 18;

/// The usual form of a number: few digits and nothing else.
#[inline]
fn short_number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    digits.iter().try_fold(0, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number * 10 + i64::from(digit))
    })
}

/// The same, of the digits in front of a quote, and how many they are.
#[inline]
pub(crate) fn quoted_number(text: &[u8]) -> Option<(i64, usize)> {
    let length = text.iter().take(DIGITS_MAX + 1).position(|byte| *byte == b'"')?;
    short_number(&text[..length]).map(|number| (number, length))
}

macro_rules! number_field {
    ($($type:ty, $expected:literal;)*) => {$(
        impl<'a> FieldValue<'a> for $type {
            const EXPECTED: &'static str = $expected;

            fn take(text: &mut Cow<'a, str>) -> Option<Self> {
                short_number(text.as_bytes()).map_or_else(|| text.parse().ok(), |number| number.try_into().ok())
            }

            fn with_text<R>(&self, show: impl FnOnce(&str) -> R) -> R {
                show(itoa::Buffer::new().format(*self))
            }
        }
    )*};
}

number_field! {
    i32, "a 32-bit integer";
    i64, "a 64-bit integer";
}

impl<'a> FieldValue<'a> for bool {
    const EXPECTED: &'static str = "true or false";

    // Java reads everything but "true" as false.
    fn take(text: &mut Cow<'a, str>) -> Option<Self> {
        Some(text.eq_ignore_ascii_case("true"))
    }

    fn with_text<R>(&self, show: impl FnOnce(&str) -> R) -> R {
        show(if *self { "true" } else { "false" })
    }
}

pub(crate) fn take_field<'a, T: FieldValue<'a>>(
    name: &'static str,
    text: &mut Cow<'a, str>,
) -> Result<T, FieldError> {
    T::take(text).ok_or_else(|| FieldError::Malformed {
        name,
        value: text.chars().take(64).collect(),
        expected: T::EXPECTED,
    })
}

/// A header that is kept, see [`Previous`](crate::Previous).
pub(crate) trait KeptHeader {
    type Kept;
    /// The position of the field with this name.
    fn position(name: &str) -> Option<usize>;
    /// The same without borrowing.
    fn keep(&self) -> Self::Kept;
    /// As [`KeptValue::replace`], of the field at this position.
    fn replace(kept: &mut Self::Kept, position: usize, text: Cow<'_, str>) -> bool;
    /// As [`KeptValue::put_number`], of the field at this position.
    fn put_number(kept: &mut Self::Kept, position: usize, number: i64) -> bool;
    /// As [`KeptValue::overwrite`], of the field at this position.
    fn overwrite(kept: &mut Self::Kept, position: usize, at: usize, part: &[u8]) -> bool;
}

/// A field of a header that is kept, see [`Previous`](crate::Previous).
pub(crate) trait KeptValue {
    type Kept;
    /// The same without borrowing.
    fn keep(&self) -> Self::Kept;
    /// Puts the value of this text in the place of one that is there. False when the decoder has to look at it.
    fn replace(kept: &mut Self::Kept, text: Cow<'_, str>) -> bool;
    /// Puts a number in the place of one that is there. False when it is none, or this one is none that it can be.
    fn put_number(kept: &mut Self::Kept, number: i64) -> bool;
    /// Writes over a part of a text. False when that cannot be: then it is as before, or is to be replaced.
    fn overwrite(kept: &mut Self::Kept, at: usize, part: &[u8]) -> bool;
}

impl KeptValue for Cow<'_, str> {
    type Kept = Cow<'static, str>;

    fn keep(&self) -> Cow<'static, str> {
        Cow::Owned(self.to_string())
    }

    fn replace(kept: &mut Cow<'static, str>, text: Cow<'_, str>) -> bool {
        match (kept, text) {
            // In the memory of the one before.
            (Cow::Owned(kept), Cow::Borrowed(text)) => {
                kept.clear();
                kept.push_str(text);
            }
            (kept, text) => *kept = Cow::Owned(text.into_owned()),
        }
        true
    }

    fn put_number(_: &mut Cow<'static, str>, _: i64) -> bool {
        false
    }

    fn overwrite(kept: &mut Cow<'static, str>, at: usize, part: &[u8]) -> bool {
        let mut bytes = std::mem::take(kept).into_owned().into_bytes();
        let Some(place) = bytes.get_mut(at..at + part.len()) else { return false };
        place.copy_from_slice(part);
        String::from_utf8(bytes).map(|text| *kept = Cow::Owned(text)).is_ok()
    }
}

macro_rules! kept_values {
    ($($type:ty, $number:expr;)*) => {$(
        impl KeptValue for $type {
            type Kept = $type;

            fn keep(&self) -> $type {
                *self
            }

            fn replace(kept: &mut $type, mut text: Cow<'_, str>) -> bool {
                // An empty one means that there is none.
                let value = if text.is_empty() { None } else { FieldValue::take(&mut text) };
                value.map(|value| *kept = value).is_some()
            }

            fn put_number(kept: &mut $type, number: i64) -> bool {
                $number(number).map(|number| *kept = number).is_some()
            }

            fn overwrite(_: &mut $type, _: usize, _: &[u8]) -> bool {
                false
            }
        }
    )*};
}

kept_values! {
    i32, |number: i64| i32::try_from(number).ok();
    i64, Some;
    bool, |_| None;
}

impl<T: KeptValue> KeptValue for Option<T> {
    type Kept = Option<T::Kept>;

    fn keep(&self) -> Option<T::Kept> {
        self.as_ref().map(T::keep)
    }

    fn replace(kept: &mut Option<T::Kept>, text: Cow<'_, str>) -> bool {
        kept.as_mut().is_some_and(|kept| T::replace(kept, text))
    }

    fn put_number(kept: &mut Option<T::Kept>, number: i64) -> bool {
        kept.as_mut().is_some_and(|kept| T::put_number(kept, number))
    }

    fn overwrite(kept: &mut Option<T::Kept>, at: usize, part: &[u8]) -> bool {
        kept.as_mut().is_some_and(|kept| T::overwrite(kept, at, part))
    }
}

/// Which field a name means. Clients write fields in an order of their own that is the same each time and mostly the
/// declared one, so the search begins behind the last hit.
pub(crate) fn find_name<T: Copy>(names: &[(&str, T)], name: &str, guess: &mut usize) -> Option<T> {
    let (before, behind) = names.split_at_checked(*guess)?;
    // A send's names have one letter each: comparing these by a call costs more than all else here.
    let is_name = |known: &str| match (known.as_bytes(), name.as_bytes()) {
        ([known], [name]) => known == name,
        (known, name) => known == name,
    };
    let search = |names: &[(&str, T)]| names.iter().position(|(known, _)| is_name(known));
    let at = search(behind).map(|at| at + *guess).or_else(|| search(before))?;
    *guess = at + 1;
    Some(names[at].1)
}

/// Declares header structs: `field: type required|optional|defaulted "name" | "other spelling"`. The first name is
/// the one written. A `defaulted` field is 0, false or empty when absent, as Java's primitives are.
macro_rules! header_fields {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $type:tt $need:ident $wire:literal $(| $other:literal)*,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: $crate::headers::field_type!('a $need $type),)*
            #[doc(hidden)]
            pub borrows: std::marker::PhantomData<&'a str>,
        }

        const _: () = {
        #[derive(Clone, Copy)]
        #[allow(non_camel_case_types)]
        enum Field { $($field,)* }
        // First spellings first: so the next field mostly has the next name.
        const NAMES: &[(&str, Field)] = &[$(($wire, Field::$field),)* $($(($other, Field::$field),)*)*];

        impl $crate::headers::KeptHeader for $name<'_> {
            type Kept = $name<'static>;

            fn position(name: &str) -> Option<usize> {
                NAMES.iter().find(|(known, _)| *known == name).map(|(_, field)| *field as usize)
            }

            fn keep(&self) -> $name<'static> {
                $name {
                    $($field: $crate::headers::KeptValue::keep(&self.$field),)*
                    borrows: std::marker::PhantomData,
                }
            }

            #[allow(unused_variables)]
            fn replace(kept: &mut $name<'static>, position: usize, text: std::borrow::Cow<'_, str>) -> bool {
                $(if position == Field::$field as usize {
                    return <$crate::headers::field_type!('_ $need $type) as $crate::headers::KeptValue>::replace(&mut kept.$field, text);
                })*
                false
            }

            #[allow(unused_variables)]
            fn put_number(kept: &mut $name<'static>, position: usize, number: i64) -> bool {
                $(if position == Field::$field as usize {
                    return <$crate::headers::field_type!('_ $need $type) as $crate::headers::KeptValue>::put_number(&mut kept.$field, number);
                })*
                false
            }

            #[allow(unused_variables)]
            fn overwrite(kept: &mut $name<'static>, position: usize, at: usize, part: &[u8]) -> bool {
                $(if position == Field::$field as usize {
                    return <$crate::headers::field_type!('_ $need $type) as $crate::headers::KeptValue>::overwrite(&mut kept.$field, at, part);
                })*
                false
            }
        }

        impl<'a> $crate::headers::HeaderFields<'a> for $name<'a> {
            #[allow(unused_variables, unused_mut, clippy::collapsible_match)]
            fn decode(fields: &mut $crate::Fields<'a>) -> Result<Self, $crate::headers::FieldError> {
                $(let mut $field: Option<$crate::headers::value_type!('a $type)> = None;)*
                let mut guess = 0;
                for (name, value) in fields.values_mut() {
                    match $crate::headers::find_name(NAMES, name, &mut guess) {
                        $(Some(Field::$field) => {
                            if !value.is_empty() || $crate::headers::keeps_empty!($type) {
                                $field = Some($crate::headers::take_field($wire, value)?);
                            }
                        })*
                        None => {}
                    }
                }
                Ok($name {
                    $($field: $crate::headers::finish_field!($need $field $wire),)*
                    borrows: std::marker::PhantomData,
                })
            }

            #[allow(unused_variables)]
            fn visit(&self, each: &mut dyn FnMut(&'static str, &str)) {
                $($crate::headers::visit_field!(each $need self.$field, $wire);)*
            }
        }
        };
    )*};
}

macro_rules! value_type {
    ($lt:lifetime str) => { std::borrow::Cow<$lt, str> };
    ($lt:lifetime $type:tt) => { $type };
}

macro_rules! field_type {
    ($lt:lifetime optional $type:tt) => { Option<$crate::headers::value_type!($lt $type)> };
    ($lt:lifetime $need:ident $type:tt) => { $crate::headers::value_type!($lt $type) };
}

macro_rules! keeps_empty {
    (str) => {
        true
    };
    ($type:tt) => {
        false
    };
}

macro_rules! finish_field {
    (required $field:ident $wire:literal) => {
        $field.ok_or($crate::headers::FieldError::Missing { name: $wire })?
    };
    (optional $field:ident $wire:literal) => {
        $field
    };
    (defaulted $field:ident $wire:literal) => {
        $field.unwrap_or_default()
    };
}

macro_rules! visit_field {
    ($each:ident optional $value:expr, $wire:literal) => {
        if let Some(value) = &$value {
            $crate::headers::FieldValue::with_text(value, |text| $each($wire, text));
        }
    };
    ($each:ident $need:ident $value:expr, $wire:literal) => {
        $crate::headers::FieldValue::with_text(&$value, |text| $each($wire, text));
    };
}

pub(crate) use {field_type, finish_field, header_fields, keeps_empty, value_type, visit_field};

header_fields! {
    /// A request or reply without header fields.
    NoFields {}
}

impl NoFields<'_> {
    /// The one value of this type.
    pub fn new() -> Self {
        NoFields { borrows: std::marker::PhantomData }
    }
}

impl Default for NoFields<'_> {
    fn default() -> Self {
        NoFields::new()
    }
}
