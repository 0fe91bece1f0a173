//! The door: what is no request of a room.

use bytes::{Bytes, BytesMut};
use cometmq_broker::Effects;
use cometmq_protocol::{Fields, Frame, Header, HeaderError, SerializeType};
use cometmq_store::{FlushPolicy, MemoryDisk};
use expect_test::expect;

use crate::direct::{Answer, handle, open};
use crate::script::{self, check};

#[test]
fn codes_that_are_not_served_are_refused_by_number_and_name() {
    check(expect![[r#"
        9999               | 3 " request type 9999 not supported"
        -1                 | 3 " request type -1 not supported"
        200050             | 3 " request type 200050 not supported (POP_MESSAGE)"
        36                 | 3 " request type 36 not supported (CONSUMER_SEND_MSG_BACK)"
        105 topic=T        | 3 " request type 105 not supported (GET_ROUTEINFO_BY_TOPIC)"
        40 consumerGroup=g | 3 " request type 40 not supported (NOTIFY_CONSUMER_IDS_CHANGED)"
        oneway 9999
    "#]]);
}

#[test]
fn a_field_that_is_missing_or_malformed_is_named() {
    check(expect![[r#"
        send -topic                              | 1 "the request header lacks the field `b`"
        sendV2 -g                                | 1 "the request header lacks the field `g`"
        sendV2 e=one                             | 1 "the request header field `e` is `one`, expected a 32-bit integer"
        sendV2 e=                                | 1 "the request header lacks the field `e`"
        pull -queueOffset                        | 1 "the request header lacks the field `queueOffset`"
        pull queueOffset=1.5                     | 1 "the request header field `queueOffset` is `1.5`, expected a 64-bit integer"
        query -consumerGroup                     | 1 "the request header lacks the field `consumerGroup`"
        commit commitOffset=99999999999999999999 | 1 "the request header field `commitOffset` is `99999999999999999999`, expected a 64-bit integer"
        create -perm                             | 1 "the request header lacks the field `perm`"
        members -consumerGroup                   | 1 "the request header lacks the field `consumerGroup`"
        unregister                               | 1 "the request header lacks the field `clientID`"
        oneway pull -topic
    "#]]);
}

fn handle_first(frame: &Frame) -> Result<Option<Answer>, HeaderError> {
    let mut effects = Effects::default();
    let result = handle(&open(&MemoryDisk::new(), FlushPolicy::Async, 0), 0, 1, frame, &mut effects);
    assert!(effects.is_empty());
    result
}

#[test]
fn a_header_that_cannot_be_read_is_an_error_of_the_connection() {
    let headers: [(SerializeType, &[u8]); 5] = [
        (SerializeType::Json, b""),
        (SerializeType::Json, b"{"),
        (SerializeType::Json, br#"{"code":"ten"}"#),
        (SerializeType::Compact, b""),
        (SerializeType::Compact, &[0, 10, 0, 0, 0, 0, 0]),
    ];
    for (serialize_type, header) in headers {
        let frame = Frame { serialize_type, header: Bytes::from_static(header), body: Bytes::new() };
        assert!(handle_first(&frame).is_err(), "{header:?}");
    }
}

#[test]
fn a_reply_of_a_client_is_not_answered() {
    let mut bytes = BytesMut::new();
    Header::response(0, 1, None, Some(Fields::default())).encode(SerializeType::Json, 0, &mut bytes);
    let frame = script::frames(bytes.freeze()).remove(0);
    assert!(handle_first(&frame).unwrap().is_none());
}
