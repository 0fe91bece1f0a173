//! The form of a role's table: a row per key, from which everything else about the key follows.

use std::path::Path;

use super::load::{self, Loaded, Override};
use super::problem::ConfigErrors;
use super::rule::{Refusal, Rule};
use super::unimplemented::Group;

/// The settings of a role.
pub(crate) trait Settings: Default + Sized + 'static {
    /// Keys of RocketMQ that this role's file may hold and that have no effect.
    const UNIMPLEMENTED: &'static [Group];

    /// The table, in the order in which it is written.
    fn rows() -> Vec<Row<Self>>;

    /// Reads `file`, if there is one, and puts `overrides` over it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file and the overrides, together.
    fn load(file: Option<&Path>, overrides: &[Override<'_>]) -> Result<Loaded<Self>, ConfigErrors> {
        load::load(file, overrides)
    }

    /// All settings as the text of a file that would bring them about, sorted by key.
    fn print(&self) -> String {
        let mut lines: Vec<String> = Self::rows()
            .iter()
            // A backslash is the one character with a meaning of its own in values; none spans lines.
            .map(|row| format!("{}={}\n", row.description.key, (row.show)(self).replace('\\', "\\\\")))
            .collect();
        lines.sort_unstable();
        lines.concat()
    }

    /// What there is to say about each key that has an effect, in the order of the table.
    fn describe() -> impl Iterator<Item = Description> {
        Self::rows().into_iter().map(|row| row.description)
    }
}

/// What there is to say about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// The key.
    pub(crate) key: &'static str,
    /// Other spellings that are understood.
    pub(crate) aliases: &'static [&'static str],
    /// Whether the key is CometMQ's own, unknown to RocketMQ.
    pub(crate) own: bool,
    /// What it does.
    pub(crate) doc: &'static str,
    /// The value without any setting, as it would stand in a file.
    pub(crate) default: String,
    /// The unit of a number, or nothing.
    pub(crate) unit: &'static str,
    /// What the value may be; completes the sentence "expected …".
    pub(crate) allowed: String,
}

impl Description {
    /// Whether `key` is a spelling of this key.
    pub(super) fn is(&self, key: &str) -> bool {
        self.key == key || self.aliases.contains(&key)
    }
}

/// One key: its description, and the way between text and field.
pub(crate) struct Row<S> {
    pub(super) description: Description,
    /// Reads a value into the field; gives a note if the value is taken otherwise than written.
    pub(super) take: Take<S>,
    /// The field's value, as it would stand in a file.
    pub(super) show: Box<dyn Fn(&S) -> String>,
}

type Take<S> = Box<dyn Fn(&mut S, &str) -> Result<Option<String>, Refusal>>;

/// The parts of a row that are plain words.
pub(super) struct Words {
    pub(super) key: &'static str,
    pub(super) aliases: &'static [&'static str],
    pub(super) own: bool,
    pub(super) doc: &'static str,
}

impl<S: Settings> Row<S> {
    /// A row over the field that `get` and `get_mut` reach.
    pub(super) fn new<T: 'static>(
        words: Words,
        rule: Rule<T>,
        default: &T,
        get: fn(&S) -> &T,
        get_mut: fn(&mut S) -> &mut T,
    ) -> Row<S> {
        let Words { key, aliases, own, doc } = words;
        let Rule { allowed, unit, read, show } = rule;
        Row {
            description: Description { key, aliases, own, doc, default: show(default), unit, allowed },
            take: Box::new(move |settings, text| {
                let reading = read(text)?;
                *get_mut(settings) = reading.value;
                Ok(reading.note)
            }),
            show: Box::new(move |settings| show(get(settings))),
        }
    }
}

/// Writes a role's struct, its defaults and its [`Settings`] from one table.
///
/// A row reads: doc, `"key" | "other spelling" => field: Type = default, rule;`. A key that RocketMQ does not
/// have is led by `own`.
macro_rules! settings {
    (
        $(#[doc = $struct_doc:literal])+
        struct $name:ident, unimplemented $unimplemented:path;
        $(
            $(#[doc = $doc:literal])+
            $($own:ident)? $key:literal $(| $alias:literal)* =>
                $field:ident: $type:ty = $default:expr, $rule:expr;
        )+
    ) => {
        $(#[doc = $struct_doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) struct $name {
            $($(#[doc = $doc])+ pub(crate) $field: $type,)+
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)+ }
            }
        }

        impl $crate::config::table::Settings for $name {
            const UNIMPLEMENTED: &'static [$crate::config::unimplemented::Group] = $unimplemented;

            fn rows() -> Vec<$crate::config::table::Row<$name>> {
                let defaults = $name::default();
                vec![$(
                    $crate::config::table::Row::new(
                        $crate::config::table::Words {
                            key: $key,
                            aliases: &[$($alias),*],
                            own: !stringify!($($own)?).is_empty(),
                            doc: concat!($($doc),+).trim_ascii(),
                        },
                        $rule,
                        &defaults.$field,
                        |settings| &settings.$field,
                        |settings| &mut settings.$field,
                    ),
                )+]
            }
        }
    };
}
pub(super) use settings;
