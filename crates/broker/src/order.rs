//! Queue locks for ordered consumption: one client of a group at a time may consume a queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cometmq_protocol::body::client::{LockQueuesBody, LockedQueuesBody, MessageQueue};
use cometmq_protocol::body::json;
use cometmq_protocol::{Millis, Reply, ResponseCode};

/// A lock that was not renewed for so long is free.
const LOCK_MS: i64 = 60_000;

/// The locks of all groups.
#[derive(Debug, Default)]
pub struct Locks {
    held: Mutex<HashMap<String, HashMap<MessageQueue, Lock>>>,
}

#[derive(Debug)]
struct Lock {
    /// One for all queues of a request: it is as long as the client likes.
    client_id: Arc<str>,
    renewed_at: Millis,
}

impl Locks {
    /// Code 41: grants the queues that are free, expired, or the client's own, and names them.
    pub(crate) fn lock(&self, now: Millis, body: &Bytes) -> Reply {
        let request: LockQueuesBody = match json::parse(body) {
            Ok(request) => request,
            Err(error) => return Reply::refuse(ResponseCode::SystemError, error.to_string()),
        };
        let mut held = self.held.lock().expect("no holder of this lock panics");
        let group = held.entry(request.consumer_group).or_default();
        let client_id: Arc<str> = request.client_id.into();
        let mut granted = Vec::new();
        for queue in request.mq_set {
            let taken = group
                .get(&queue)
                .is_some_and(|lock| lock.client_id != client_id && now.0 - lock.renewed_at.0 <= LOCK_MS);
            if !taken {
                let lock = Lock { client_id: Arc::clone(&client_id), renewed_at: now };
                group.insert(queue.clone(), lock);
                granted.push(queue);
            }
        }
        Reply::success().with_body(json::to_vec(&LockedQueuesBody { lock_ok_mq_set: granted }))
    }

    /// Code 42: gives back the queues that are the client's own.
    pub(crate) fn unlock(&self, body: &Bytes) -> Reply {
        let request: LockQueuesBody = match json::parse(body) {
            Ok(request) => request,
            Err(error) => return Reply::refuse(ResponseCode::SystemError, error.to_string()),
        };
        let mut held = self.held.lock().expect("no holder of this lock panics");
        if let Some(group) = held.get_mut(&request.consumer_group) {
            for queue in &request.mq_set {
                if group.get(queue).is_some_and(|lock| *lock.client_id == *request.client_id) {
                    group.remove(queue);
                }
            }
        }
        Reply::success()
    }

    /// Forgets locks that are free anyway.
    pub(crate) fn expire(&self, now: Millis) {
        let mut held = self.held.lock().expect("no holder of this lock panics");
        held.retain(|_, group| {
            group.retain(|_, lock| now.0 - lock.renewed_at.0 <= LOCK_MS);
            !group.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(client: &str, queues: &[i32]) -> Bytes {
        let queue =
            |id: &i32| MessageQueue { broker_name: "broker-a".into(), queue_id: *id, topic: "T".into() };
        let mq_set = queues.iter().map(queue).collect();
        let body = LockQueuesBody { client_id: client.into(), consumer_group: "g".into(), mq_set };
        json::to_vec(&body).into()
    }

    fn granted(locks: &Locks, now: i64, client: &str, queues: &[i32]) -> Vec<i32> {
        let reply = locks.lock(Millis(now), &body(client, queues));
        let body: LockedQueuesBody = json::parse(&reply.body).unwrap();
        body.lock_ok_mq_set.iter().map(|queue| queue.queue_id).collect()
    }

    #[test]
    fn a_queue_is_one_clients_until_it_is_given_back_or_expires() {
        let locks = Locks::default();
        assert_eq!(granted(&locks, 0, "a", &[0, 1]), [0, 1]);
        assert_eq!(granted(&locks, 1, "b", &[1, 2]), [2]);
        assert_eq!(granted(&locks, 2, "a", &[1]), [1], "its own lock is renewed");
        locks.unlock(&body("b", &[1]));
        assert_eq!(granted(&locks, 3, "b", &[1]), [0; 0], "another's lock is not given back");
        locks.unlock(&body("a", &[1]));
        assert_eq!(granted(&locks, 4, "b", &[1]), [1]);
        assert_eq!(granted(&locks, 60_000, "b", &[0]), [0; 0]);
        assert_eq!(granted(&locks, 60_001, "b", &[0]), [0]);
        locks.expire(Millis(200_000));
        assert!(locks.held.lock().unwrap().is_empty());
    }

    #[test]
    fn a_long_client_id_is_kept_once_for_all_queues() {
        let locks = Locks::default();
        let queues: Vec<i32> = (0..100).collect();
        granted(&locks, 0, "a", &queues);
        let held = locks.held.lock().unwrap();
        let ids: Vec<_> = held["g"].values().map(|lock| lock.client_id.as_ptr()).collect();
        assert!(ids.len() == 100 && ids.iter().all(|id| *id == ids[0]));
    }
}
