//! Messages: the record that the commit log and every pull reply share, properties, ids, tags, batches.

pub mod alike;
pub mod batch;
pub mod ids;
pub mod marks;
pub mod properties;
pub mod record;
pub mod tags;

pub use alike::Alike;
pub use marks::Marks;
pub use properties::Properties;
pub use record::{Record, RecordError, RecordView};

/// Bits of a message's `sysFlag`.
pub mod sys_flag {
    /// The body is compressed; bits 8 to 10 say how.
    pub const COMPRESSED: i32 = 1;
    /// The topic allows several tags.
    pub const MULTI_TAGS: i32 = 1 << 1;
    /// Both transaction bits: 0 none, 4 prepared, 8 commit, 12 rollback.
    pub const TRANSACTION_MASK: i32 = 3 << 2;
    /// Prepared (half) message.
    pub const TRANSACTION_PREPARED: i32 = 1 << 2;
    /// Rolled-back message.
    pub const TRANSACTION_ROLLBACK: i32 = 3 << 2;
    /// The born host is an IPv6 address.
    pub const BORN_HOST_V6: i32 = 1 << 4;
    /// The store host is an IPv6 address.
    pub const STORE_HOST_V6: i32 = 1 << 5;
    /// Which compression, valid with `COMPRESSED`: 0 and 3 zlib, 1 LZ4, 2 zstd.
    pub const COMPRESSION_SHIFT: u32 = 8;
}
