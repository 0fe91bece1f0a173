//! Numbers that must not be confused: positions in the log, positions in a queue, queue ids, times.

use std::fmt;
use std::ops::{Add, Sub};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Add<i64> for $name {
            type Output = $name;
            fn add(self, count: i64) -> $name {
                $name(self.0.saturating_add(count))
            }
        }

        impl Sub for $name {
            type Output = i64;
            fn sub(self, other: $name) -> i64 {
                self.0.saturating_sub(other.0)
            }
        }
    };
}

unit! {
    /// A byte position in the commit log, all segments taken as one stream ("physical offset").
    LogOffset
}
unit! {
    /// A position in a consume queue: the n-th message of its queue, from 0.
    QueueOffset
}
unit! {
    /// Milliseconds since 1970-01-01 UTC, as every RocketMQ timestamp.
    Millis
}

/// The number of a queue within its topic on one broker, from 0. Negative values occur on the wire only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub i32);

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
