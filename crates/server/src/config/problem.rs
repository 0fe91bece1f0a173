//! What can be wrong or odd with settings, said in the words of who wrote the file.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a line of a file, counted from 1.
    Line {
        /// The file, as it was named at start.
        file: PathBuf,
        /// The line on which the entry starts.
        line: usize,
    },
    /// Not in a file: the name of the flag or environment variable.
    Origin(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Place::Origin(origin) => f.write_str(origin),
        }
    }
}

/// One thing that keeps the program from starting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file that was asked for does not exist.
    #[error("{}: no such file", file.display())]
    Missing {
        /// The file, as it was named.
        file: PathBuf,
    },
    /// The file exists but does not open, or reading it fails.
    #[error("{}: cannot be read", file.display())]
    Unreadable {
        /// The file, as it was named.
        file: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The file is so large that it must be something else.
    #[error("{}: larger than 1 MiB, so hardly a file of settings", file.display())]
    TooLarge {
        /// The file, as it was named.
        file: PathBuf,
    },
    /// The file holds NUL bytes: UTF-16, or no text at all.
    #[error("{}: not a text in UTF-8 or ISO-8859-1", file.display())]
    NotText {
        /// The file, as it was named.
        file: PathBuf,
    },
    /// A `\u` that stands for no character.
    #[error(
        "{place}: broken escape: \\u must be followed by four hexadecimal digits of one whole character \
         (other characters can be written as they are, in UTF-8)"
    )]
    Escape {
        /// The line on which the entry starts.
        place: Place,
    },
    /// A value of the wrong form or outside its bounds.
    #[error("{place}: {}={}: expected {allowed}", shown(key), shown(value))]
    Value {
        /// Where it was given.
        place: Place,
        /// The key, as it was spelled.
        key: String,
        /// The value found.
        value: String,
        /// What the key takes instead.
        allowed: String,
    },
    /// A value that is well-formed, but asks for something that cannot be had.
    #[error("{place}: {}={}: {reason}", shown(key), shown(value))]
    Refused {
        /// Where it was given.
        place: Place,
        /// The key, as it was spelled.
        key: String,
        /// The value found.
        value: String,
        /// Why it cannot be had.
        reason: &'static str,
    },
}

/// Everything that is wrong with the settings, so that one look at the file mends it all.
#[derive(Debug)]
pub(crate) struct ConfigErrors(pub(crate) Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    /// One error per line, each with its cause: a list has no single `source`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
            if let Some(cause) = std::error::Error::source(error) {
                write!(f, ": {cause}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One thing that is odd, but does not keep the program from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConfigWarning {
    /// A key of RocketMQ that this version does nothing with.
    NoEffect {
        /// Where it was given.
        place: Place,
        /// The key.
        key: String,
        /// Why it has no effect.
        reason: &'static str,
    },
    /// A key that neither RocketMQ nor CometMQ has.
    Unknown {
        /// Where it was given.
        place: Place,
        /// The key.
        key: String,
        /// The known key that it resembles, if one does.
        nearest: Option<&'static str>,
    },
    /// A key that the file gives more than once; the last one counts, as in Java.
    Repeated {
        /// The entry that counts.
        place: Place,
        /// The key, as that entry spells it.
        key: String,
        /// The line of the entry that does not.
        lost_line: usize,
    },
    /// A value that is taken in another way than it is written.
    Adjusted {
        /// Where it was given.
        place: Place,
        /// The key, as it was spelled.
        key: String,
        /// The value found.
        value: String,
        /// How it is taken.
        note: String,
    },
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigWarning::NoEffect { place, key, reason } => {
                write!(f, "{place}: {} has no effect: {reason}", shown(key))
            }
            ConfigWarning::Unknown { place, key, nearest: None } => {
                write!(f, "{place}: unknown key \"{}\"", shown(key))
            }
            ConfigWarning::Unknown { place, key, nearest: Some(nearest) } => {
                write!(f, "{place}: unknown key \"{}\", did you mean {nearest}?", shown(key))
            }
            ConfigWarning::Repeated { place, key, lost_line } => {
                write!(
                    f,
                    "{place}: {} is given again: this line counts, line {lost_line} does not",
                    shown(key)
                )
            }
            ConfigWarning::Adjusted { place, key, value, note } => {
                write!(f, "{place}: {}={}: {note}", shown(key), shown(value))
            }
        }
    }
}

/// Text from outside, fit for one line of a terminal: bounded, and without control characters.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 120;
    let mut out = String::new();
    for (index, letter) in text.chars().enumerate() {
        match letter {
            _ if index == CHARS_MAX => {
                out.push('…');
                break;
            }
            letter if letter.is_control() => out.extend(letter.escape_default()),
            letter => out.push(letter),
        }
    }
    out
}
