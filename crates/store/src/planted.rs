//! Bugs that can be switched on, so that the tests show that they would be found.
//!
//! Each is one wrong line at the place that it names, in this crate or in the broker. Without the feature
//! `planted-bugs`, which only the simulator's tests ask for, [`planted`] is a constant `false` and the wrong line is
//! not compiled into anything. Never here: behaviour that is wanted.

/// A mistake that a broker could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A send is acknowledged whatever became of the write.
    AckBeforeWrite,
    /// Under `SYNC_FLUSH` a send is acknowledged once it is written.
    AckBeforeSync,
    /// The offset that comes with a pull takes back a later commit.
    OffsetRolledBack,
    /// Recovery accepts a record whose body is torn.
    TornTailAccepted,
    /// The position up to which the queues are durable is saved without syncing them.
    CheckpointAheadOfQueues,
    /// A sync that failed is tried again, and believed.
    FailedSyncBelieved,
    /// Now and then a queue entry leads to the record before its own.
    DispatchedTwice,
    /// A consumer offset behind the end of its queue is kept.
    OffsetBeyondTheEnd,
    /// Recovery leaves what lies behind the end of the log.
    TailNotErased,
    /// A pull that waits is not woken by the next message.
    WakeUpLost,
    /// A new segment's name is not made durable.
    DirectoryNotSynced,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 11] = [
        Bug::AckBeforeWrite,
        Bug::AckBeforeSync,
        Bug::OffsetRolledBack,
        Bug::TornTailAccepted,
        Bug::CheckpointAheadOfQueues,
        Bug::FailedSyncBelieved,
        Bug::DispatchedTwice,
        Bug::OffsetBeyondTheEnd,
        Bug::TailNotErased,
        Bug::WakeUpLost,
        Bug::DirectoryNotSynced,
    ];
}

/// Whether this bug is switched on: never.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use switch::{plant, planted};

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is switched on in this thread.
    pub fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Switches a bug on in this thread, and any other off.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }
}
