//! Sharing out the queues among a group's members, and committing offsets.
//!
//! Every member asks a broker who is in the group and computes the same split; nobody assigns anything to others.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cometmq_protocol::body::client::{ConsumerListBody, MessageQueue};
use cometmq_protocol::body::json;
use cometmq_protocol::headers::HeaderFields;
use cometmq_protocol::headers::client::ConsumerGroupHeader;
use cometmq_protocol::headers::offset::{
    OffsetReply, QueryConsumerOffsetHeader, QueueHeader, UpdateConsumerOffsetHeader,
};
use cometmq_protocol::{QueueOffset, RequestCode, ResponseCode};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::process_queue::ProcessQueue;
use super::{Assigned, ConsumeFrom, Shared, pull};
use crate::allocation::average;
use crate::route::{MASTER_ID, Route};
use crate::session::{ClientError, bad_reply, require_success};
use crate::subscription::Subscription;

/// When not everything could be shared out.
const INCOMPLETE_PAUSE: Duration = Duration::from_secs(1);
/// Least time between two rounds, however many members come and go.
const ROUND_PAUSE_MIN: Duration = Duration::from_millis(100);

/// Runs until `stop`; then all pulls have ended.
pub(super) async fn control(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut pulls = JoinSet::new();
    let mut commits = interval(shared.options.commit_interval.max(Duration::from_millis(1)));
    commits.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_round = Instant::now();
    let working = async {
        loop {
            tokio::select! {
                () = sleep_until(next_round) => {}
                () = shared.rebalance.notified() => {}
                _ = commits.tick() => {
                    commit(&shared);
                    continue;
                }
            }
            let complete = round(&shared, &mut pulls).await;
            let pause = if complete { shared.options.rebalance_interval } else { INCOMPLETE_PAUSE };
            next_round = Instant::now() + pause;
            tokio::time::sleep(ROUND_PAUSE_MIN).await;
        }
    };
    tokio::select! {
        () = working => {}
        () = shared.work.release_delayed() => {}
        _ = stop.wait_for(|stopped| *stopped) => {}
    }
    pulls.shutdown().await;
}

/// Tells the brokers up to where everything is done.
pub(super) fn commit(shared: &Shared) {
    let assigned: Vec<Arc<Assigned>> = shared.queues().values().cloned().collect();
    assigned.iter().for_each(|assigned| commit_one(shared, assigned));
}

fn commit_one(shared: &Shared, assigned: &Assigned) {
    let queue = &assigned.queue;
    let Ok(topic) = cometmq_protocol::names::TopicName::parse(&queue.topic) else { return };
    let route = shared.session.known_route(&topic);
    let address = route.as_ref().and_then(|route| route.master(&queue.broker_name));
    // Without a connection there is no use in asking for the offset: it would count as told.
    let Some(connection) = address.and_then(|address| shared.session.open_broker(address)) else { return };
    let Some(offset) = assigned.process().commit() else { return };
    let header = UpdateConsumerOffsetHeader {
        consumer_group: shared.group.as_str().into(),
        topic: queue.topic.as_str().into(),
        queue_id: queue.queue_id,
        commit_offset: offset.0,
        borrows: PhantomData,
    };
    let mut fields = header.encode();
    fields.push("bname", queue.broker_name.as_str());
    if let Err(error) = connection.oneway(RequestCode::UpdateConsumerOffset.code(), fields, Bytes::new()) {
        tracing::warn!(%error, "offset not committed; messages since the last commit may come again");
    }
}

/// One round over all topics; false when something is to be tried again soon.
async fn round(shared: &Arc<Shared>, pulls: &mut JoinSet<()>) -> bool {
    // Tasks of queues given up have ended.
    while pulls.try_join_next().is_some() {}
    let mut complete = true;
    for subscription in shared.subscriptions.values() {
        match share_out(shared, subscription, pulls).await {
            Ok(all) => complete &= all,
            // The session asks for its route regularly; it tells when there is one.
            Err(ClientError::TopicUnknown { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, topic = %subscription.topic(), "queues not shared out, tried again soon");
                complete = false;
            }
        }
    }
    complete
}

/// Shares out the queues of one topic; false when a queue of ours could not be begun.
async fn share_out(
    shared: &Arc<Shared>,
    subscription: &Subscription,
    pulls: &mut JoinSet<()>,
) -> Result<bool, ClientError> {
    let route = shared.session.route(subscription.topic()).await?;
    let members = members(shared, &route).await?;
    let own = shared.session.client_id();
    if !members.iter().any(|member| member == own) {
        // The broker restarted, say. Giving everything up now would only pause consumption until the heartbeat.
        shared.session.heartbeat().await;
        return Ok(false);
    }
    let mine = average(route.subscribe_queues(), &members, own);
    give_up(shared, subscription, mine);
    // A broker that does not answer costs one timeout a round, not one for each of its queues.
    let mut silent: Vec<&str> = Vec::new();
    for queue in mine {
        if silent.contains(&queue.broker_name.as_str()) || shared.queues().contains_key(queue) {
            continue;
        }
        match start_offset(shared, &route, subscription, queue).await {
            Ok(offset) => begin(shared, subscription, queue, offset, pulls),
            Err(error) => {
                tracing::warn!(%error, topic = queue.topic, queue = queue.queue_id, "queue not begun, tried again soon");
                silent.push(&queue.broker_name);
            }
        }
    }
    Ok(silent.is_empty())
}

/// Stops consuming the queues of the topic that are no longer ours.
fn give_up(shared: &Shared, subscription: &Subscription, mine: &[MessageQueue]) {
    let mut queues = shared.queues();
    let gone = |queue: &MessageQueue| queue.topic == subscription.topic().as_str() && !mine.contains(queue);
    let given_up: Vec<Arc<Assigned>> =
        queues.extract_if(.., |queue, _| gone(queue)).map(|(_, gone)| gone).collect();
    drop(queues);
    for assigned in given_up {
        // First the offset, for the new owner: what is done counts up to here.
        commit_one(shared, &assigned);
        assigned.process().drop_queue();
        assigned.given_up.notify_one();
    }
}

fn begin(
    shared: &Arc<Shared>,
    subscription: &Subscription,
    queue: &MessageQueue,
    offset: QueueOffset,
    pulls: &mut JoinSet<()>,
) {
    let assigned = Arc::new(Assigned {
        queue: queue.clone(),
        process: Mutex::new(ProcessQueue::new(offset, shared.options.cache)),
        room: Notify::new(),
        given_up: Notify::new(),
    });
    shared.queues().insert(queue.clone(), assigned.clone());
    pulls.spawn(pull::pull(shared.clone(), assigned, subscription.clone()));
}

/// Client ids of the group's members, sorted.
async fn members(shared: &Shared, route: &Route) -> Result<Vec<String>, ClientError> {
    let header = ConsumerGroupHeader { consumer_group: shared.group.as_str().into(), borrows: PhantomData };
    let code = RequestCode::GetConsumerList;
    let mut last = None;
    // Every broker of the topic knows all members: the first that answers will do.
    for (_, address) in route.addresses().filter(|(id, _)| *id == MASTER_ID) {
        let asked = async {
            let response = shared.session.ask_broker(address, code, header.encode(), Bytes::new()).await?;
            require_success(address, code.name(), &response)?;
            json::parse::<ConsumerListBody>(response.body())
                .map_err(|error| bad_reply(address, code.name(), error))
        };
        match asked.await {
            Ok(list) => {
                let mut members = list.consumer_id_list;
                members.sort();
                members.dedup();
                return Ok(members);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| {
        bad_reply("the name server", RequestCode::GetRoute.name(), "no master of the topic")
    }))
}

/// Where to begin in a queue: where the group stands, or where new groups begin.
async fn start_offset(
    shared: &Shared,
    route: &Route,
    subscription: &Subscription,
    queue: &MessageQueue,
) -> Result<QueueOffset, ClientError> {
    let address = route.broker(&queue.broker_name, MASTER_ID).unwrap_or_default();
    let header = QueryConsumerOffsetHeader {
        consumer_group: shared.group.as_str().into(),
        topic: queue.topic.as_str().into(),
        queue_id: queue.queue_id,
        // Else a broker answers 0 to a new group on a young topic, and "last" would mean "first".
        set_zero_if_not_found: Some(false),
        borrows: PhantomData,
    };
    let code = RequestCode::QueryConsumerOffset;
    let mut fields = header.encode();
    fields.push("bname", queue.broker_name.as_str());
    let response = shared.session.ask_broker(address, code, fields, Bytes::new()).await?;
    if response.code != ResponseCode::QueryNotFound.code() {
        require_success(address, code.name(), &response)?;
        let reply: OffsetReply<'_> =
            response.fields().map_err(|error| bad_reply(address, code.name(), error))?;
        return Ok(QueueOffset(reply.offset));
    }
    let is_retry = subscription.topic().retry_group().is_some();
    if is_retry || shared.options.from == ConsumeFrom::First {
        // Where the queue no longer has it, the first pull moves on to the first message there is.
        return Ok(QueueOffset(0));
    }
    let header =
        QueueHeader { topic: queue.topic.as_str().into(), queue_id: queue.queue_id, borrows: PhantomData };
    let code = RequestCode::GetMaxOffset;
    let response = shared.session.ask_broker(address, code, header.encode(), Bytes::new()).await?;
    require_success(address, code.name(), &response)?;
    let reply: OffsetReply<'_> = response.fields().map_err(|error| bad_reply(address, code.name(), error))?;
    Ok(QueueOffset(reply.offset))
}
