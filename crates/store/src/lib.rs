//! The store: records in order on disk in RocketMQ's layout, found again by queue and offset.
//!
//! Reading order: [`disk`] is the one door to files, [`commit_log`] the one durable truth, [`consume_queue`] the views
//! of it by queue, [`batch_queue`] their form for topics of batches, [`index`] the view by key, `queues` which of the
//! queues are in memory, `recovery` what happens when a store is opened, `flush` and `retention` what is done in the
//! background, `checksums`, [`scrub`] and [`check`] how damage is found, [`dump`] what files
//! hold, [`config_file`] how small JSON states are kept.
//!
//! Never here: sockets, clocks, threads, JSON of requests. Time and the disk come in as arguments; a caller decides
//! when to sync and flush.

pub mod batch_queue;
pub mod check;
pub mod checkpoint;
mod checksums;
pub mod commit_log;
pub mod config_file;
pub mod consume_queue;
mod cutting;
pub mod disk;
pub mod dispatch;
pub mod dump;
mod flush;
pub mod index;
pub mod planted;
mod queues;
mod recovery;
mod retention;
pub mod scrub;
mod segments;
mod store;
mod two_slots;
mod walk;

pub use commit_log::{AppendError, Appended, Found, Patience, Receiver, Wrong};
pub use consume_queue::{Queue, Unit};
pub use disk::{Disk, DiskError, DiskFile, MemoryDisk, RealDisk};
pub use index::{IndexOptions, KeyQuery, Keys};
pub use recovery::{Beside, RecoveryReport};
pub use retention::OldestSegment;
pub use segments::{SegmentError, parse as segment_base};
pub use store::{FlushPolicy, OpenError, Store, StoreOptions, UNWRITTEN_ENTRIES_MAX};
