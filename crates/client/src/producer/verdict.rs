//! What a failed send means: whether another broker may be asked.

use cometmq_protocol::ResponseCode;
use cometmq_remoting::RemotingError;

/// How far a stored message got before the broker answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// As far as the broker promises.
    Ok,
    /// Stored, but the disk did not confirm in time.
    FlushDiskTimeout,
    /// Stored, but no slave confirmed in time.
    FlushSlaveTimeout,
    /// Stored, but there is no slave to copy it.
    SlaveNotAvailable,
}

/// What to do after a broker's reply to a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Stored(SendStatus),
    /// Another broker may take it.
    Retry,
    /// No broker would take it.
    Fail,
}

/// Reads the response code of a send as the Java client does.
pub(super) fn of_reply(code: i32) -> Verdict {
    match ResponseCode::from_code(code) {
        Some(ResponseCode::Success) => Verdict::Stored(SendStatus::Ok),
        Some(ResponseCode::FlushDiskTimeout) => Verdict::Stored(SendStatus::FlushDiskTimeout),
        Some(ResponseCode::SlaveNotAvailable) => Verdict::Stored(SendStatus::SlaveNotAvailable),
        Some(ResponseCode::FlushSlaveTimeout) => Verdict::Stored(SendStatus::FlushSlaveTimeout),
        Some(
            ResponseCode::SystemError
            | ResponseCode::SystemBusy
            | ResponseCode::ServiceNotAvailable
            | ResponseCode::NoPermission
            | ResponseCode::TopicNotExist
            | ResponseCode::GoAway,
        ) => Verdict::Retry,
        // NO_BUYER_ID and NOT_IN_CURRENT_UNIT, which no broker of today sends.
        None if matches!(code, 204 | 205) => Verdict::Retry,
        Some(_) | None => Verdict::Fail,
    }
}

/// Whether another attempt can help after no reply came. After a timeout the message may be stored twice.
pub(super) fn of_failure(error: &RemotingError) -> Verdict {
    match error {
        RemotingError::TooLarge { .. } => Verdict::Fail,
        RemotingError::ConnectFailed { .. } | RemotingError::ConnectTimeout { .. } => Verdict::Retry,
        RemotingError::Closed { .. } | RemotingError::Timeout { .. } => Verdict::Retry,
        RemotingError::Overloaded { .. } => Verdict::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_the_java_client_reads_them() {
        let stored = [0, 10, 11, 12].map(of_reply);
        assert!(stored.iter().all(|verdict| matches!(verdict, Verdict::Stored(_))), "{stored:?}");
        assert!([17, 14, 1, 2, 16, 204, 205, 1500].iter().all(|code| of_reply(*code) == Verdict::Retry));
        assert!([13, 29, 26, 3, -1, 777].iter().all(|code| of_reply(*code) == Verdict::Fail));
    }

    #[test]
    fn what_is_too_large_here_is_too_large_everywhere() {
        assert_eq!(of_failure(&RemotingError::TooLarge { bytes: 9, limit: 8 }), Verdict::Fail);
    }
}
