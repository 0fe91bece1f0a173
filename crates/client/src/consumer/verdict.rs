//! What the answer to a pull means.

use std::time::Duration;

use cometmq_protocol::ResponseCode;

/// Pause after an answer that tells of a fault or of a broker that does not know the group yet.
const FAULT_PAUSE: Duration = Duration::from_secs(1);
/// Pause that a broker under load asks for.
const FLOW_CONTROL_PAUSE: Duration = Duration::from_millis(20);

/// What to do after the answer to a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There are messages; go on at the offset given.
    Messages,
    /// Nothing for us; go on at the offset given.
    Nothing,
    /// The offset does not exist; go on at the one given.
    Moved,
    /// Try again after a pause.
    Pause(Duration),
}

/// Reads the response code of a pull as the Java client does.
pub(super) fn of_reply(code: i32) -> Verdict {
    match ResponseCode::from_code(code) {
        Some(ResponseCode::Success) => Verdict::Messages,
        Some(ResponseCode::PullNotFound | ResponseCode::PullRetryImmediately) => Verdict::Nothing,
        Some(ResponseCode::PullOffsetMoved) => Verdict::Moved,
        Some(ResponseCode::FlowControl) => Verdict::Pause(FLOW_CONTROL_PAUSE),
        // 24 to 28 are normal while a broker has not heard of the group yet.
        Some(_) | None => Verdict::Pause(FAULT_PAUSE),
    }
}

/// What to do when no answer came.
pub(super) const OF_FAILURE: Verdict = Verdict::Pause(FAULT_PAUSE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_the_java_client_reads_them() {
        assert_eq!(of_reply(0), Verdict::Messages);
        assert_eq!([of_reply(19), of_reply(20)], [Verdict::Nothing; 2]);
        assert_eq!(of_reply(21), Verdict::Moved);
        assert_eq!(of_reply(215), Verdict::Pause(Duration::from_millis(20)));
        for code in [1, 2, 16, 17, 24, 25, 26, 27, 28, -1] {
            assert_eq!(of_reply(code), Verdict::Pause(Duration::from_secs(1)), "{code}");
        }
    }
}
