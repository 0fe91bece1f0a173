//! Response codes that clients understand, and what they make of them.

macro_rules! response_codes {
    ($($(#[$doc:meta])* $code:literal $variant:ident $name:literal,)*) => {
        /// The outcome of a request, as its reply's code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum ResponseCode { $($(#[$doc])* $variant = $code,)* }

        impl ResponseCode {
            /// The number on the wire.
            pub fn code(self) -> i32 {
                self as i32
            }

            /// The code with that number, if this crate names it.
            pub fn from_code(code: i32) -> Option<ResponseCode> {
                match code { $($code => Some(ResponseCode::$variant),)* _ => None }
            }

            /// RocketMQ's name of the code.
            pub fn name(self) -> &'static str {
                match self { $(ResponseCode::$variant => $name,)* }
            }
        }
    };
}

response_codes! {
    /// Done.
    0 Success "SUCCESS",
    /// Failed for a reason in the remark; clients of a send retry elsewhere.
    1 SystemError "SYSTEM_ERROR",
    /// Too much to do; clients of a send retry elsewhere.
    2 SystemBusy "SYSTEM_BUSY",
    /// The request code is unknown or not served.
    3 RequestCodeNotSupported "REQUEST_CODE_NOT_SUPPORTED",
    /// Stored, but the disk did not confirm in `syncFlushTimeout`.
    10 FlushDiskTimeout "FLUSH_DISK_TIMEOUT",
    /// Stored, but no slave could take it.
    11 SlaveNotAvailable "SLAVE_NOT_AVAILABLE",
    /// Stored, but no slave confirmed in time.
    12 FlushSlaveTimeout "FLUSH_SLAVE_TIMEOUT",
    /// The message itself cannot be stored; clients do not retry.
    13 MessageIllegal "MESSAGE_ILLEGAL",
    /// The store takes no messages now (disk full, read-only, stopping); clients retry elsewhere.
    14 ServiceNotAvailable "SERVICE_NOT_AVAILABLE",
    /// The broker, topic or group does not permit it.
    16 NoPermission "NO_PERMISSION",
    /// No such topic.
    17 TopicNotExist "TOPIC_NOT_EXIST",
    /// Pull: nothing at this offset yet.
    19 PullNotFound "PULL_NOT_FOUND",
    /// Pull: everything scanned was filtered out; pull again at the next offset.
    20 PullRetryImmediately "PULL_RETRY_IMMEDIATELY",
    /// Pull: the offset is outside the queue; go on at the next offset given.
    21 PullOffsetMoved "PULL_OFFSET_MOVED",
    /// A query found nothing.
    22 QueryNotFound "QUERY_NOT_FOUND",
    /// The subscription expression cannot be parsed.
    23 SubscriptionParseFailed "SUBSCRIPTION_PARSE_FAILED",
    /// The group has not announced a subscription of this topic by heartbeat.
    24 SubscriptionNotExist "SUBSCRIPTION_NOT_EXIST",
    /// The group's announced subscription is older than the one that pulls.
    25 SubscriptionNotLatest "SUBSCRIPTION_NOT_LATEST",
    /// No such consumer group, and none may be created.
    26 SubscriptionGroupNotExist "SUBSCRIPTION_GROUP_NOT_EXIST",
    /// A field is outside what is allowed.
    29 InvalidParameter "INVALID_PARAMETER",
    /// The group has no connected consumer.
    206 ConsumerNotOnline "CONSUMER_NOT_ONLINE",
    /// Too many such requests at the moment; clients of 4.9 and later ask again after 20 ms, older ones after 3 s.
    215 FlowControl "FLOW_CONTROL",
    /// The server is stopping; clients of 5.3.2 and later reconnect and resend.
    1500 GoAway "GO_AWAY",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_by_its_number() {
        assert_eq!(
            ResponseCode::from_code(ResponseCode::PullNotFound.code()),
            Some(ResponseCode::PullNotFound)
        );
        assert_eq!(ResponseCode::from_code(-1), None);
        assert_eq!(ResponseCode::TopicNotExist.name(), "TOPIC_NOT_EXIST");
    }
}
