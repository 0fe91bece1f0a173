//! The clock, read at the edge and handed inwards as a value.

use std::time::{SystemTime, UNIX_EPOCH};

use cometmq_protocol::Millis;

/// Milliseconds since 1970 by the machine's wall clock.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
