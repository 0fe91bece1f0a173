//! Why connections end, and how that is told in the log without letting a flood of bad peers flood the log.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cometmq_protocol::{FrameError, HeaderError, Peer};

/// Most lines about closed connections in a second.
const LINES_PER_SECOND: u32 = 10;

/// Why a connection ends.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed it.
    #[error("closed by the peer")]
    PeerClosed,
    /// We closed it because it is no longer needed.
    #[error("closed by this side")]
    Local,
    /// The socket failed.
    #[error("socket failed: {0}")]
    Io(Arc<io::Error>),
    /// What came cannot be cut into frames.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A frame's header cannot be read.
    #[error("{0}")]
    Header(Arc<HeaderError>),
    /// The handler refuses the peer, for the reason given.
    #[error("{0}")]
    Refused(String),
    /// Neither side sent anything for too long.
    #[error("idle for {} s", .0.as_secs())]
    Idle(Duration),
    /// The peer requests or subscribes, but does not read what it gets.
    #[error("the peer does not read: {queued} bytes wait for it, the limit is {limit}")]
    SlowConsumer {
        /// Bytes that waited.
        queued: usize,
        /// Limit in force.
        limit: usize,
    },
    /// The peer does not read, and there are too many of its kind.
    #[error("the peer does not read: {queued} bytes wait for it, and with those of others more than {limit}")]
    BudgetExceeded {
        /// Bytes that waited for this peer.
        queued: usize,
        /// Limit in force, for all connections together.
        limit: usize,
    },
    /// The peer took no byte of what waits for it for too long.
    #[error("the peer took nothing for {} s while bytes waited for it", .0.as_secs())]
    WriteStalled(Duration),
    /// There are as many connections as allowed.
    #[error("connection limit of {0} reached; raise it or find out who opens so many")]
    TooManyConnections(usize),
    /// The server stops.
    #[error("the server stops")]
    Stopping,
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> CloseReason {
        CloseReason::Io(Arc::new(error))
    }
}

impl From<HeaderError> for CloseReason {
    fn from(error: HeaderError) -> CloseReason {
        CloseReason::Header(Arc::new(error))
    }
}

impl CloseReason {
    /// Whether an operator should hear of it.
    fn is_odd(&self) -> bool {
        match self {
            CloseReason::PeerClosed | CloseReason::Local | CloseReason::Io(_) => false,
            CloseReason::Idle(_) | CloseReason::Stopping => false,
            CloseReason::Frame(_) | CloseReason::Header(_) | CloseReason::Refused(_) => true,
            CloseReason::SlowConsumer { .. } | CloseReason::BudgetExceeded { .. } => true,
            CloseReason::WriteStalled(_) | CloseReason::TooManyConnections(_) => true,
        }
    }
}

/// Tells why connections were closed, at most [`LINES_PER_SECOND`]; the rest is counted.
#[derive(Debug, Default)]
pub(crate) struct CloseLog {
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl CloseLog {
    pub(crate) fn report(&self, peer: Peer, reason: &CloseReason) {
        if !reason.is_odd() {
            tracing::debug!(peer = %peer.remote, %reason, "connection closed");
            return;
        }
        if let Some(suppressed) = self.admit(Instant::now()) {
            let (remote, local) = (peer.remote, peer.local);
            tracing::warn!(peer = %remote, %local, %reason, suppressed, "connection closed");
        }
    }

    /// Tells how many lines were left out when no further line did.
    pub(crate) fn flush(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let suppressed = window.as_mut().map_or(0, |window| std::mem::take(&mut window.suppressed));
        drop(window);
        if suppressed > 0 {
            tracing::warn!(suppressed, "more connections were closed for such reasons");
        }
    }

    /// How many lines were left out since the last one, if one more may be written.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut guard = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let window = guard.get_or_insert(Window { since: now, lines: 0, suppressed: 0 });
        if now.duration_since(window.since) >= Duration::from_secs(1) {
            window.since = now;
            window.lines = 0;
        }
        if window.lines == LINES_PER_SECOND {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_bad_peers_is_counted_not_logged() {
        let log = CloseLog::default();
        let start = Instant::now();
        let admitted = (0..100).filter(|_| log.admit(start).is_some()).count();
        assert_eq!(admitted, 10);
        assert_eq!(log.admit(start + Duration::from_secs(1)), Some(90));
        assert_eq!(log.admit(start + Duration::from_secs(1)), Some(0));
    }
}
