//! Lookup of single messages: `requests.md` "Query message".

use bytes::BytesMut;
use cometmq_broker::Effects;
use cometmq_protocol::message::{Record, RecordView};
use cometmq_protocol::{Frame, Header, LogOffset, Millis, QueueId, QueueOffset, SerializeType};
use cometmq_store::{FlushPolicy, MemoryDisk};
use expect_test::expect;

use crate::direct::{handle, open};
use crate::script::{check, encode, frame, request};

#[test]
fn messages_are_found_by_key_and_by_their_producers_id() {
    check(expect![[r#"
        at 100
        send properties=UNIQ_KEY:U1,KEYS:K <- one               | 0 msgId=@0 queueOffset=0 transactionId=U1 .., announce
        at 200
        send properties=UNIQ_KEY:U2,KEYS:K <- two               | 0 msgId=@163 queueOffset=1 transactionId=U2 ..
        send topic=Other properties=UNIQ_KEY:U3,KEYS:K <- other | 0 msgId=@326 queueOffset=0 transactionId=U3 .., announce
        byKey                                                   | 0 indexLastUpdateTimestamp=200 indexLastUpdatePhyoffset=326 [0:one 1:two]
        byKey key=U1 _UNIQUE_KEY_QUERY=true                     | 0 indexLastUpdateTimestamp=200 indexLastUpdatePhyoffset=326 [0:one]
        byKey key=U2 maxNum=0 _UNIQUE_KEY_QUERY=true            | 0 indexLastUpdateTimestamp=200 indexLastUpdatePhyoffset=326 [1:two]
        compact byKey topic=Other                               | 0 indexLastUpdateTimestamp=200 indexLastUpdatePhyoffset=326 [0:other]
        byKey key=U3                                            | 22 .. "can not find message, maybe time range not correct"
        byKey key=k                                             | 22 .. "can not find message, maybe time range not correct"
        byKey topic=Unknown                                     | 22 .. "can not find message, maybe time range not correct"
        stop
        byKey                                                   | 0 indexLastUpdateTimestamp=200 indexLastUpdatePhyoffset=326 [0:one 1:two]
        kill
        byKey                                                   | 0 indexLastUpdateTimestamp=200 indexLastUpdatePhyoffset=326 [0:one 1:two]
    "#]]);
}

/// The newest ones, in the order of the log.
#[test]
fn a_query_is_bounded_by_number_time_and_the_brokers_own_limit() {
    check(expect![[r#"
        broker queryMax=3
        at 1000
        send properties=KEYS:K <- a                 | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000003E80000 .., announce
        at 1001
        send properties=KEYS:K <- b                 | 0 msgId=@191 queueOffset=1 transactionId=0A000001000100000000000003E90001 ..
        at 1002
        send properties=KEYS:K <- c                 | 0 msgId=@382 queueOffset=2 transactionId=0A000001000100000000000003EA0002 ..
        at 2500
        send properties=KEYS:K <- d                 | 0 msgId=@573 queueOffset=3 transactionId=0A000001000100000000000009C40003 ..
        byKey                                       | 0 indexLastUpdateTimestamp=2500 indexLastUpdatePhyoffset=573 [1:b 2:c 3:d]
        byKey maxNum=2147483647                     | 0 indexLastUpdateTimestamp=2500 indexLastUpdatePhyoffset=573 [1:b 2:c 3:d]
        byKey maxNum=2                              | 0 indexLastUpdateTimestamp=2500 indexLastUpdatePhyoffset=573 [2:c 3:d]
        byKey maxNum=0                              | 22 .. "can not find message, maybe time range not correct"
        byKey maxNum=-2147483648                    | 22 .. "can not find message, maybe time range not correct"
        byKey beginTimestamp=1001 endTimestamp=1002 | 0 indexLastUpdateTimestamp=2500 indexLastUpdatePhyoffset=573 [1:b 2:c]
        byKey beginTimestamp=1003 endTimestamp=2499 | 22 .. "can not find message, maybe time range not correct"
        byKey beginTimestamp=2500                   | 0 indexLastUpdateTimestamp=2500 indexLastUpdatePhyoffset=573 [3:d]
        byKey endTimestamp=1000                     | 0 indexLastUpdateTimestamp=2500 indexLastUpdatePhyoffset=573 [0:a]
        byKey beginTimestamp=5 endTimestamp=4       | 22 .. "can not find message, maybe time range not correct"
        byKey beginTimestamp=-9223372036854775808   | 0 indexLastUpdateTimestamp=2500 indexLastUpdatePhyoffset=573 [1:b 2:c 3:d]
    "#]]);
}

#[test]
fn a_reply_without_index_says_why() {
    check(expect![[r#"
        broker index=false
        send properties=KEYS:K,UNIQ_KEY:U <- a | 0 msgId=@0 queueOffset=0 .., announce
        byKey                                  | 22 .. "can not find message: messageIndexEnable=false on this broker"
        view                                   | 0 [0:a]
    "#]]);
}

#[test]
fn a_reply_ends_before_it_becomes_too_long_but_has_one_message() {
    check(expect![[r#"
        broker queryBytes=450000
        send properties=KEYS:K,UNIQ_KEY:U <- 200000*a | 0 msgId=@0 queueOffset=0 .., announce
        send properties=KEYS:K,UNIQ_KEY:U <- 200000*b | 0 msgId=@262144 queueOffset=1 ..
        send properties=KEYS:K,UNIQ_KEY:U <- 200000*c | 0 msgId=@524288 queueOffset=2 ..
        byKey                                         | 0 indexLastUpdatePhyoffset=524288 .. [1:200000*b 2:200000*c]
    "#]]);
    check(expect![[r#"
        broker queryBytes=100
        send properties=KEYS:K,UNIQ_KEY:U <- a | 0 msgId=@0 queueOffset=0 .., announce
        byKey                                  | 0 .. [0:a]
    "#]]);
}

/// `Aa` and `BB` have one hash.
#[test]
fn another_key_of_the_same_hash_is_none() {
    check(expect![[r#"
        send properties=KEYS:Aa,UNIQ_KEY:U1 <- a | 0 msgId=@0 queueOffset=0 transactionId=U1 .., announce
        byKey key=BB                             | 22 .. "can not find message, maybe time range not correct"
        send properties=KEYS:BB,UNIQ_KEY:U2 <- b | 0 msgId=@162 queueOffset=1 transactionId=U2 ..
        byKey key=BB                             | 0 indexLastUpdatePhyoffset=162 .. [1:b]
        byKey key=Aa                             | 0 indexLastUpdatePhyoffset=162 .. [0:a]
    "#]]);
}

#[test]
fn a_message_is_viewed_at_its_place_and_nowhere_else() {
    check(expect![[r#"
        send <- one                      | 0 msgId=@0 queueOffset=0 .., announce
        send <- two                      | 0 msgId=@155 queueOffset=1 ..
        view                             | 0 [0:one]
        view topic=T                     | 0 [0:one]
        view offset=155                  | 0 [1:two]
        view offset=1                    | 1 "can not find message by the offset, 1"
        view offset=-1                   | 1 "can not find message by the offset, -1"
        view offset=9223372036854775807  | 1 "can not find message by the offset, 9223372036854775807"
        view offset=-9223372036854775808 | 1 "can not find message by the offset, -9223372036854775808"
        view -offset                     | 1 "the request header lacks the field `offset`"
        compact view offset=155          | 0 [1:two]
        kill
        view offset=155                  | 0 [1:two]
    "#]]);
}

#[test]
fn under_sync_flush_nothing_is_shown_before_it_is_durable() {
    check(expect![[r#"
        broker flush=sync
        send properties=UNIQ_KEY:U,KEYS:K <- one | waits #1, sync wanted, announce
        byKey                                    | 22 .. "can not find message, maybe time range not correct"
        view                                     | 1 "can not find message by the offset, 0"
        sync                                     | c1: #1 0 msgId=@0 queueOffset=0 ..
        byKey                                    | 0 .. [0:one]
        view                                     | 0 [0:one]
    "#]]);
}

/// A producer can foresee where its message comes to lie, and so put a whole record into a body.
#[test]
fn a_record_inside_a_body_is_no_message() {
    let broker = open(&MemoryDisk::new(), FlushPolicy::Async, 1);
    let ask = |frame: &Frame| handle(&broker, 1, 1, frame, &mut Effects::default()).unwrap().unwrap();
    // Behind the fixed parts of the record around it.
    let at = 88;
    let forged = |queue_offset| {
        let host = "10.0.0.1:10911".parse().unwrap();
        let record = Record::plain("T", QueueId(0), host, b"forged");
        let mut bytes = BytesMut::new();
        record.encode(QueueOffset(queue_offset), LogOffset(at), Millis(1), &mut bytes);
        bytes
    };
    let (code, fields, _) = request("send", &[], "");
    let send = Header::request(code, 1, fields);
    assert_eq!(ask(&encode(&send, SerializeType::Json, &forged(0))).code, 0);
    let outer = ask(&frame("view", &[], "", 2));
    assert_eq!((outer.code, RecordView::decode(&outer.body).unwrap().body), (0, &forged(0)[..]));
    assert_eq!(&outer.body[at as usize..][..forged(0).len()], &forged(0)[..], "it lies where it says");
    assert_eq!(ask(&frame("view", &["offset=88"], "", 3)).code, 1);
}
