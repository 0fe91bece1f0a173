//! The table of every request code of the protocol.
//!
//! A row in `served` gives a code its name, its typed header, its reply header and the room that serves it; from it
//! follow decoding, encoding, dispatch, the names in logs and metrics, and the compatibility page of the docs.
//! A row in `named` is known by name and answered [`ResponseCode::RequestCodeNotSupported`]
//! (crate::ResponseCode::RequestCodeNotSupported).
//!
//! To serve one more code: move its row up, write its header in [`headers`](crate::headers), give it a room.

use std::borrow::Cow;

use crate::header::Fields;
use crate::headers::client::*;
use crate::headers::namesrv::*;
use crate::headers::offset::*;
use crate::headers::pull::*;
use crate::headers::query::*;
use crate::headers::send::*;
use crate::headers::topic::*;
use crate::headers::{FieldError, HeaderFields, KeptHeader, NoFields};

/// Why a frame that was cut and whose header was read is still no request that can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such code in the protocol, or one that is not served. The leading blank is the Java server's own.
    #[error(" request type {code} not supported{}", name_suffix(*code))]
    NotSupported {
        /// The number.
        code: i32,
    },
    /// The code is served, its fields are not right.
    #[error(transparent)]
    Field(#[from] FieldError),
}

fn name_suffix(code: i32) -> String {
    RequestCode::from_code(code).map(|code| format!(" ({})", code.name())).unwrap_or_default()
}

/// One row of the table, for listings.
#[derive(Clone, Copy, Debug)]
pub struct RequestRow {
    /// The number on the wire.
    pub code: RequestCode,
    /// Crate and room that serve it, or `None` when it is answered "not supported".
    pub room: Option<&'static str>,
}

macro_rules! request_table {
    (
        served { $($code:literal $variant:ident $name:ident $room:literal ($header:ident) -> $reply:ident;)* }
        named { $($other_code:literal $other_variant:ident $other_name:ident;)* }
    ) => {
        /// What is asked. The number is the one on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        #[repr(i32)]
        pub enum RequestCode {
            $($variant = $code,)*
            $($other_variant = $other_code,)*
        }

        impl RequestCode {
            /// The code with that number.
            pub fn from_code(code: i32) -> Option<RequestCode> {
                match code {
                    $($code => Some(RequestCode::$variant),)*
                    $($other_code => Some(RequestCode::$other_variant),)*
                    _ => None,
                }
            }

            /// The number on the wire.
            pub fn code(self) -> i32 {
                self as i32
            }

            /// RocketMQ's name of the code.
            pub fn name(self) -> &'static str {
                match self {
                    $(RequestCode::$variant => stringify!($name),)*
                    $(RequestCode::$other_variant => stringify!($other_name),)*
                }
            }
        }

        /// Every code, those served first.
        pub const REQUESTS: &[RequestRow] = &[
            $(RequestRow { code: RequestCode::$variant, room: Some($room) },)*
            $(RequestRow { code: RequestCode::$other_variant, room: None },)*
        ];

        /// A request whose header fields are valid.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Request<'a> {
            $($variant($header<'a>),)*
        }

        impl<'a> Request<'a> {
            /// Reads the fields of a request with this code.
            pub fn decode(code: i32, fields: &mut Fields<'a>) -> Result<Request<'a>, RequestError> {
                match code {
                    $($code => Ok(Request::$variant($header::decode(fields)?)),)*
                    code => Err(RequestError::NotSupported { code }),
                }
            }

            /// The code of this request.
            pub fn code(&self) -> RequestCode {
                match self { $(Request::$variant(_) => RequestCode::$variant,)* }
            }

            /// The fields as they go on the wire.
            pub fn encode(&self) -> Fields<'static> {
                match self { $(Request::$variant(header) => header.encode(),)* }
            }
        }

        #[cfg(test)]
        fn decode_reply<'a>(code: i32, fields: &mut Fields<'a>) -> Result<(), FieldError> {
            match code {
                $($code => $reply::decode(fields).map(drop),)*
                _ => Ok(()),
            }
        }
    };
}

/// What [`Previous`](crate::Previous) keeps: kinds of requests that come in great numbers.
impl Request<'_> {
    /// Where the request has the field of this name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        match self {
            Request::SendMessageV2(_) => SendMessageHeader::position(name),
            Request::PullMessage(_) => PullMessageHeader::position(name),
            _ => None,
        }
    }

    /// The property text of a message.
    pub(crate) fn properties(&self) -> Option<&str> {
        match self {
            Request::SendMessageV2(send) => send.properties.as_deref(),
            _ => None,
        }
    }

    /// The same without borrowing, if it is of such a kind.
    pub(crate) fn keep(&self) -> Option<Request<'static>> {
        match self {
            Request::SendMessageV2(send) => Some(Request::SendMessageV2(send.keep())),
            Request::PullMessage(pull) => Some(Request::PullMessage(pull.keep())),
            _ => None,
        }
    }
}

impl Request<'static> {
    /// Replaces the value of a field of one that was kept. False when the decoder has to look at it.
    pub(crate) fn replace(&mut self, position: usize, text: Cow<'_, str>) -> bool {
        match self {
            Request::SendMessageV2(send) => SendMessageHeader::replace(send, position, text),
            Request::PullMessage(pull) => PullMessageHeader::replace(pull, position, text),
            _ => false,
        }
    }

    /// The same with a number, for a field that has one. False when it cannot be that.
    pub(crate) fn put_number(&mut self, position: usize, number: i64) -> bool {
        match self {
            Request::SendMessageV2(send) => SendMessageHeader::put_number(send, position, number),
            Request::PullMessage(pull) => PullMessageHeader::put_number(pull, position, number),
            _ => false,
        }
    }

    /// The same for a part of a text, from `at` on, by one of the same length.
    pub(crate) fn overwrite(&mut self, position: usize, at: usize, part: &[u8]) -> bool {
        match self {
            Request::SendMessageV2(send) => SendMessageHeader::overwrite(send, position, at, part),
            Request::PullMessage(pull) => PullMessageHeader::overwrite(pull, position, at, part),
            _ => false,
        }
    }
}

request_table! {
    served {
        10 SendMessage SEND_MESSAGE "broker::send" (SendMessageHeader) -> SendMessageReply;
        11 PullMessage PULL_MESSAGE "broker::pull" (PullMessageHeader) -> PullMessageReply;
        12 QueryMessage QUERY_MESSAGE "broker::query" (QueryMessageHeader) -> QueryMessageReply;
        14 QueryConsumerOffset QUERY_CONSUMER_OFFSET "broker::offset" (QueryConsumerOffsetHeader) -> OffsetReply;
        15 UpdateConsumerOffset UPDATE_CONSUMER_OFFSET "broker::offset" (UpdateConsumerOffsetHeader) -> NoFields;
        17 CreateTopic UPDATE_AND_CREATE_TOPIC "broker::topic" (CreateTopicHeader) -> NoFields;
        29 SearchOffsetByTimestamp SEARCH_OFFSET_BY_TIMESTAMP "broker::offset" (SearchOffsetHeader) -> OffsetReply;
        30 GetMaxOffset GET_MAX_OFFSET "broker::offset" (QueueHeader) -> OffsetReply;
        31 GetMinOffset GET_MIN_OFFSET "broker::offset" (QueueHeader) -> OffsetReply;
        32 GetEarliestStoreTime GET_EARLIEST_MSG_STORETIME "broker::offset" (QueueHeader) -> TimestampReply;
        33 ViewMessageById VIEW_MESSAGE_BY_ID "broker::query" (ViewMessageHeader) -> NoFields;
        34 Heartbeat HEART_BEAT "broker::client" (NoFields) -> NoFields;
        35 UnregisterClient UNREGISTER_CLIENT "broker::client" (UnregisterClientHeader) -> NoFields;
        38 GetConsumerList GET_CONSUMER_LIST_BY_GROUP "broker::client" (ConsumerGroupHeader) -> NoFields;
        40 NotifyConsumerIdsChanged NOTIFY_CONSUMER_IDS_CHANGED "client::consumer" (ConsumerGroupHeader) -> NoFields;
        41 LockQueues LOCK_BATCH_MQ "broker::order" (NoFields) -> NoFields;
        42 UnlockQueues UNLOCK_BATCH_MQ "broker::order" (NoFields) -> NoFields;
        46 CheckClientConfig CHECK_CLIENT_CONFIG "broker::client" (NoFields) -> NoFields;
        100 PutKvConfig PUT_KV_CONFIG "namesrv::kv" (PutKvHeader) -> NoFields;
        101 GetKvConfig GET_KV_CONFIG "namesrv::kv" (KvKeyHeader) -> KvValueReply;
        102 DeleteKvConfig DELETE_KV_CONFIG "namesrv::kv" (KvKeyHeader) -> NoFields;
        103 RegisterBroker REGISTER_BROKER "namesrv::registration" (RegisterBrokerHeader) -> RegisterBrokerReply;
        104 UnregisterBroker UNREGISTER_BROKER "namesrv::registration" (BrokerHeader) -> NoFields;
        105 GetRoute GET_ROUTEINFO_BY_TOPIC "namesrv::route" (GetRouteHeader) -> NoFields;
        106 GetClusterInfo GET_BROKER_CLUSTER_INFO "namesrv::route" (NoFields) -> NoFields;
        205 WipeWritePermission WIPE_WRITE_PERM_OF_BROKER "namesrv::route" (BrokerNameHeader) -> WipeWritePermissionReply;
        206 GetAllTopics GET_ALL_TOPIC_LIST_FROM_NAMESERVER "namesrv::route" (NoFields) -> NoFields;
        216 DeleteTopicInNamesrv DELETE_TOPIC_IN_NAMESRV "namesrv::route" (DeleteTopicHeader) -> NoFields;
        219 GetKvListByNamespace GET_KVLIST_BY_NAMESPACE "namesrv::kv" (NamespaceHeader) -> NoFields;
        224 GetTopicsByCluster GET_TOPICS_BY_CLUSTER "namesrv::route" (ClusterHeader) -> NoFields;
        304 GetSystemTopicsFromNamesrv GET_SYSTEM_TOPIC_LIST_FROM_NS "namesrv::route" (NoFields) -> NoFields;
        306 CleanExpiredConsumeQueue CLEAN_EXPIRED_CONSUMEQUEUE "broker::retention" (NoFields) -> NoFields;
        310 SendMessageV2 SEND_MESSAGE_V2 "broker::send" (SendMessageHeader) -> SendMessageReply;
        311 GetUnitTopics GET_UNIT_TOPIC_LIST "namesrv::route" (NoFields) -> NoFields;
        312 GetHasUnitSubTopics GET_HAS_UNIT_SUB_TOPIC_LIST "namesrv::route" (NoFields) -> NoFields;
        313 GetHasUnitSubUnunitTopics GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST "namesrv::route" (NoFields) -> NoFields;
        316 CleanUnusedTopic CLEAN_UNUSED_TOPIC "broker::retention" (NoFields) -> NoFields;
        320 SendBatchMessage SEND_BATCH_MESSAGE "broker::send" (SendMessageHeader) -> SendMessageReply;
        322 QueryDataVersion QUERY_DATA_VERSION "namesrv::registration" (BrokerHeader) -> QueryDataVersionReply;
        327 AddWritePermission ADD_WRITE_PERM_OF_BROKER "namesrv::route" (BrokerNameHeader) -> AddWritePermissionReply;
        329 DeleteExpiredCommitLog DELETE_EXPIRED_COMMITLOG "broker::retention" (NoFields) -> NoFields;
        351 GetTopicConfig GET_TOPIC_CONFIG "broker::topic" (TopicHeader) -> NoFields;
        361 LitePullMessage LITE_PULL_MESSAGE "broker::pull" (PullMessageHeader) -> PullMessageReply;
        901 GetBrokerMemberGroup GET_BROKER_MEMBER_GROUP "namesrv::route" (BrokerMemberGroupHeader) -> NoFields;
        904 BrokerHeartbeat BROKER_HEARTBEAT "namesrv::registration" (BrokerHeartbeatHeader) -> NoFields;
    }
    named {
        13 QueryBrokerOffset QUERY_BROKER_OFFSET;
        18 CreateTopicList UPDATE_AND_CREATE_TOPIC_LIST;
        21 GetAllTopicConfig GET_ALL_TOPIC_CONFIG;
        22 GetTopicConfigList GET_TOPIC_CONFIG_LIST;
        23 GetTopicNameList GET_TOPIC_NAME_LIST;
        25 UpdateBrokerConfig UPDATE_BROKER_CONFIG;
        26 GetBrokerConfig GET_BROKER_CONFIG;
        27 TriggerDeleteFiles TRIGGER_DELETE_FILES;
        28 GetBrokerRuntimeInfo GET_BROKER_RUNTIME_INFO;
        36 SendMessageBack CONSUMER_SEND_MSG_BACK;
        37 EndTransaction END_TRANSACTION;
        39 CheckTransactionState CHECK_TRANSACTION_STATE;
        43 GetAllConsumerOffset GET_ALL_CONSUMER_OFFSET;
        45 GetAllDelayOffset GET_ALL_DELAY_OFFSET;
        47 GetClientConfig GET_CLIENT_CONFIG;
        50 UpdateAclConfig UPDATE_AND_CREATE_ACL_CONFIG;
        51 DeleteAclConfig DELETE_ACL_CONFIG;
        52 GetClusterAclInfo GET_BROKER_CLUSTER_ACL_INFO;
        53 UpdateGlobalWhiteAddresses UPDATE_GLOBAL_WHITE_ADDRS_CONFIG;
        54 GetClusterAclConfig GET_BROKER_CLUSTER_ACL_CONFIG;
        60 GetTimerCheckPoint GET_TIMER_CHECK_POINT;
        61 GetTimerMetrics GET_TIMER_METRICS;
        200 CreateSubscriptionGroup UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
        201 GetAllSubscriptionGroups GET_ALL_SUBSCRIPTIONGROUP_CONFIG;
        202 GetTopicStats GET_TOPIC_STATS_INFO;
        203 GetConsumerConnections GET_CONSUMER_CONNECTION_LIST;
        204 GetProducerConnections GET_PRODUCER_CONNECTION_LIST;
        207 DeleteSubscriptionGroup DELETE_SUBSCRIPTIONGROUP;
        208 GetConsumeStats GET_CONSUME_STATS;
        209 SuspendConsumer SUSPEND_CONSUMER;
        210 ResumeConsumer RESUME_CONSUMER;
        211 ResetOffsetInConsumer RESET_CONSUMER_OFFSET_IN_CONSUMER;
        212 ResetOffsetInBroker RESET_CONSUMER_OFFSET_IN_BROKER;
        213 AdjustConsumerThreadPool ADJUST_CONSUMER_THREAD_POOL;
        214 WhoConsumesMessage WHO_CONSUME_THE_MESSAGE;
        215 DeleteTopicInBroker DELETE_TOPIC_IN_BROKER;
        217 RegisterTopicInNamesrv REGISTER_TOPIC_IN_NAMESRV;
        220 ResetClientOffset RESET_CONSUMER_CLIENT_OFFSET;
        221 GetConsumerStatusFromClient GET_CONSUMER_STATUS_FROM_CLIENT;
        222 InvokeResetOffset INVOKE_BROKER_TO_RESET_OFFSET;
        223 InvokeGetConsumerStatus INVOKE_BROKER_TO_GET_CONSUMER_STATUS;
        225 CreateSubscriptionGroupList UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST;
        300 QueryTopicConsumeByWho QUERY_TOPIC_CONSUME_BY_WHO;
        301 RegisterFilterServer REGISTER_FILTER_SERVER;
        302 RegisterMessageFilterClass REGISTER_MESSAGE_FILTER_CLASS;
        303 QueryConsumeTimeSpan QUERY_CONSUME_TIME_SPAN;
        305 GetSystemTopicsFromBroker GET_SYSTEM_TOPIC_LIST_FROM_BROKER;
        307 GetConsumerRunningInfo GET_CONSUMER_RUNNING_INFO;
        308 QueryCorrectionOffset QUERY_CORRECTION_OFFSET;
        309 ConsumeMessageDirectly CONSUME_MESSAGE_DIRECTLY;
        314 CloneGroupOffset CLONE_GROUP_OFFSET;
        315 ViewBrokerStats VIEW_BROKER_STATS_DATA;
        317 GetBrokerConsumeStats GET_BROKER_CONSUME_STATS;
        318 UpdateNamesrvConfig UPDATE_NAMESRV_CONFIG;
        319 GetNamesrvConfig GET_NAMESRV_CONFIG;
        321 QueryConsumeQueue QUERY_CONSUME_QUEUE;
        323 ResumeCheckHalfMessage RESUME_CHECK_HALF_MESSAGE;
        324 SendReplyMessage SEND_REPLY_MESSAGE;
        325 SendReplyMessageV2 SEND_REPLY_MESSAGE_V2;
        326 PushReplyMessage PUSH_REPLY_MESSAGE_TO_CLIENT;
        328 GetAllProducers GET_ALL_PRODUCER_INFO;
        343 QueryTopicsByConsumer QUERY_TOPICS_BY_CONSUMER;
        345 QuerySubscriptionByConsumer QUERY_SUBSCRIPTION_BY_CONSUMER;
        352 GetSubscriptionGroup GET_SUBSCRIPTIONGROUP_CONFIG;
        353 UpdateGroupForbidden UPDATE_AND_GET_GROUP_FORBIDDEN;
        354 CheckRocksdbCqProgress CHECK_ROCKSDB_CQ_WRITE_PROGRESS;
        355 ExportRocksdbConfig EXPORT_ROCKSDB_CONFIG_TO_JSON;
        370 RecallMessage RECALL_MESSAGE;
        400 QueryAssignment QUERY_ASSIGNMENT;
        401 SetMessageRequestMode SET_MESSAGE_REQUEST_MODE;
        402 GetAllMessageRequestMode GET_ALL_MESSAGE_REQUEST_MODE;
        513 CreateStaticTopic UPDATE_AND_CREATE_STATIC_TOPIC;
        902 AddBroker ADD_BROKER;
        903 RemoveBroker REMOVE_BROKER;
        905 NotifyMinBrokerIdChange NOTIFY_MIN_BROKER_ID_CHANGE;
        906 ExchangeBrokerHaInfo EXCHANGE_BROKER_HA_INFO;
        907 GetBrokerHaStatus GET_BROKER_HA_STATUS;
        908 ResetMasterFlushOffset RESET_MASTER_FLUSH_OFFSET;
        1001 ControllerAlterSyncStateSet CONTROLLER_ALTER_SYNC_STATE_SET;
        1002 ControllerElectMaster CONTROLLER_ELECT_MASTER;
        1003 ControllerRegisterBroker CONTROLLER_REGISTER_BROKER;
        1004 ControllerGetReplicaInfo CONTROLLER_GET_REPLICA_INFO;
        1005 ControllerGetMetadataInfo CONTROLLER_GET_METADATA_INFO;
        1006 ControllerGetSyncStateData CONTROLLER_GET_SYNC_STATE_DATA;
        1007 GetBrokerEpochCache GET_BROKER_EPOCH_CACHE;
        1008 NotifyBrokerRoleChanged NOTIFY_BROKER_ROLE_CHANGED;
        1009 UpdateControllerConfig UPDATE_CONTROLLER_CONFIG;
        1010 GetControllerConfig GET_CONTROLLER_CONFIG;
        1011 CleanBrokerData CLEAN_BROKER_DATA;
        1012 ControllerGetNextBrokerId CONTROLLER_GET_NEXT_BROKER_ID;
        1013 ControllerApplyBrokerId CONTROLLER_APPLY_BROKER_ID;
        1014 BrokerCloseChannel BROKER_CLOSE_CHANNEL_REQUEST;
        1015 CheckNotActiveBroker CHECK_NOT_ACTIVE_BROKER_REQUEST;
        1016 GetBrokerLiveInfo GET_BROKER_LIVE_INFO_REQUEST;
        1017 GetSyncStateData GET_SYNC_STATE_DATA_REQUEST;
        1018 RaftBrokerHeartbeat RAFT_BROKER_HEART_BEAT_EVENT_REQUEST;
        2001 UpdateColdDataFlowControl UPDATE_COLD_DATA_FLOW_CTR_CONFIG;
        2002 RemoveColdDataFlowControl REMOVE_COLD_DATA_FLOW_CTR_CONFIG;
        2003 GetColdDataFlowControl GET_COLD_DATA_FLOW_CTR_INFO;
        2004 SetCommitLogReadMode SET_COMMITLOG_READ_MODE;
        3001 AuthCreateUser AUTH_CREATE_USER;
        3002 AuthUpdateUser AUTH_UPDATE_USER;
        3003 AuthDeleteUser AUTH_DELETE_USER;
        3004 AuthGetUser AUTH_GET_USER;
        3005 AuthListUser AUTH_LIST_USER;
        3006 AuthCreateAcl AUTH_CREATE_ACL;
        3007 AuthUpdateAcl AUTH_UPDATE_ACL;
        3008 AuthDeleteAcl AUTH_DELETE_ACL;
        3009 AuthGetAcl AUTH_GET_ACL;
        3010 AuthListAcl AUTH_LIST_ACL;
        200_050 PopMessage POP_MESSAGE;
        200_051 AckMessage ACK_MESSAGE;
        200_052 PeekMessage PEEK_MESSAGE;
        200_053 ChangeInvisibleTime CHANGE_MESSAGE_INVISIBLETIME;
        200_054 Notification NOTIFICATION;
        200_055 PollingInfo POLLING_INFO;
        200_056 PopRollback POP_ROLLBACK;
        200_151 BatchAckMessage BATCH_ACK_MESSAGE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_is_not_served_is_refused_by_number_and_name() {
        let refuse = |code| Request::decode(code, &mut Fields::default()).unwrap_err().to_string();
        assert_eq!(refuse(9999), " request type 9999 not supported");
        assert_eq!(refuse(200_050), " request type 200050 not supported (POP_MESSAGE)");
    }

    #[test]
    fn a_missing_or_malformed_field_is_named() {
        let mut fields = Fields::default();
        assert_eq!(
            Request::decode(30, &mut fields).unwrap_err().to_string(),
            "the request header lacks the field `topic`"
        );
        fields.push("topic", "T");
        fields.push("queueId", "one");
        assert_eq!(
            Request::decode(30, &mut fields).unwrap_err().to_string(),
            "the request header field `queueId` is `one`, expected a 32-bit integer"
        );
    }

    #[test]
    fn both_spellings_of_a_send_are_one_request() {
        let long = [
            ("producerGroup", "g"),
            ("topic", "T"),
            ("defaultTopic", "TBW102"),
            ("defaultTopicQueueNums", "4"),
            ("queueId", "1"),
            ("sysFlag", "0"),
            ("bornTimestamp", "5"),
            ("flag", "0"),
        ];
        let mut spelled = Fields::default();
        let mut letters = Fields::default();
        for ((name, value), letter) in long.into_iter().zip("abcdefgh".chars()) {
            spelled.push(name, value);
            letters.push(letter.to_string(), value);
        }
        assert_eq!(SendMessageHeader::decode(&mut spelled), SendMessageHeader::decode(&mut letters));
    }

    #[test]
    fn a_reply_of_the_table_is_read_back() {
        let mut fields = Fields::default();
        fields.push("offset", "7");
        assert_eq!(decode_reply(30, &mut fields), Ok(()));
        assert!(decode_reply(30, &mut Fields::default()).is_err());
    }
}
