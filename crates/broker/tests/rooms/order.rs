//! Locks of queues: `requests.md` "LOCK_BATCH_MQ".

use expect_test::expect;

use crate::script::check;

#[test]
fn a_queue_is_one_clients_until_it_gives_it_back_or_does_not_renew_it() {
    check(expect![[r#"
        lock id=a queues=0,1        | 0 {"lockOKMQSet":[{"brokerName":"b","queueId":0,"topic":"T"},{"brokerName":"b","queueId":1,"topic":"T"}]}
        lock id=b queues=1,2        | 0 {"lockOKMQSet":[{"brokerName":"b","queueId":2,"topic":"T"}]}
        lock id=b group=h queues=1  | 0 {"lockOKMQSet":[{"brokerName":"b","queueId":1,"topic":"T"}]}
        c2 lock id=a queues=1       | 0 {"lockOKMQSet":[{"brokerName":"b","queueId":1,"topic":"T"}]}
        unlock id=b queues=0        | 0
        lock id=b queues=0          | 0 {"lockOKMQSet":[]}
        oneway unlock id=a queues=0
        lock id=b queues=0          | 0 {"lockOKMQSet":[{"brokerName":"b","queueId":0,"topic":"T"}]}
        at 60000
        lock id=b queues=1          | 0 {"lockOKMQSet":[]}
        at 60001
        lock id=b queues=1          | 0 {"lockOKMQSet":[{"brokerName":"b","queueId":1,"topic":"T"}]}
        41 <- nonsense              | 1 "the request body is not the expected JSON: expected ident at line 1 column 2"
        42 <- nonsense              | 1 "the request body is not the expected JSON: expected ident at line 1 column 2"
    "#]]);
}
