//! Where the queues of a topic are: asked of the name server, as the Java client asks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use cometmq_client::route::{MASTER_ID, Route};
use cometmq_protocol::body::client::MessageQueue;
use cometmq_protocol::body::json;
use cometmq_protocol::body::route::TopicRoute;
use cometmq_protocol::headers::HeaderFields;
use cometmq_protocol::headers::namesrv::GetRouteHeader;
use cometmq_protocol::names::{AUTO_CREATE_TOPIC, TopicName};
use cometmq_protocol::{RequestCode, ResponseCode};
use cometmq_remoting::{ClientConnection, ClientOptions, RemotingError, Response};

use super::head::told;

/// How long a server may take to answer what is not measured.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// The queues of a topic on one broker; never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BrokerQueues {
    /// Where to connect to.
    pub(super) address: String,
    /// Its name.
    pub(super) broker_name: String,
    /// Its queues of the topic.
    pub(super) queue_ids: Vec<i32>,
}

/// The queues to send to. A topic that does not exist yet gets those that the brokers will create it with.
pub(super) async fn writable(name_servers: &str, topic: &TopicName) -> Result<Vec<BrokerQueues>> {
    let connection = name_server(name_servers).await?;
    let route = match lookup(&connection, topic.as_str()).await? {
        Some(body) => Route::new(topic, &body, 0),
        None => match lookup(&connection, AUTO_CREATE_TOPIC).await? {
            Some(template) => Route::provisional(topic, template, 0),
            None => bail!(
                "topic {topic} does not exist and no broker known to {name_servers} creates topics by itself; create it, \
                 or check that a broker is registered there"
            ),
        },
    };
    let queues = by_broker(&route, route.publish_queues());
    if queues.is_empty() {
        bail!("no queue of topic {topic} can be written to: check its permission, and that its master runs");
    }
    Ok(queues)
}

/// The queues to pull from.
pub(super) async fn readable(name_servers: &str, topic: &TopicName) -> Result<Vec<BrokerQueues>> {
    let connection = name_server(name_servers).await?;
    let Some(body) = lookup(&connection, topic.as_str()).await? else {
        bail!(
            "no broker known to {name_servers} has topic {topic}; name another one with --topic, or send to it first"
        );
    };
    let route = Route::new(topic, &body, 0);
    let queues = by_broker(&route, route.subscribe_queues());
    if queues.is_empty() {
        bail!("no queue of topic {topic} can be read: check its permission");
    }
    Ok(queues)
}

/// Sends a request that is not measured and waits for the reply, whatever its code.
pub(super) async fn ask<'h>(
    connection: &ClientConnection,
    code: RequestCode,
    header: &impl HeaderFields<'h>,
) -> Result<Response, RemotingError> {
    connection.request(code.code(), header.encode(), Bytes::new(), REPLY_TIMEOUT).await
}

/// Connects for requests that are not measured.
pub(super) async fn connect(address: &str) -> Result<ClientConnection, RemotingError> {
    ClientConnection::connect(address, &ClientOptions::default(), Arc::new(())).await
}

/// A connection to the first name server that takes one.
async fn name_server(name_servers: &str) -> Result<ClientConnection> {
    let mut failures = Vec::new();
    for address in name_servers.split(';').map(str::trim).filter(|address| !address.is_empty()) {
        match connect(address).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failures.push(error.to_string()),
        }
    }
    Err(anyhow!("{}", failures.join("; "))
        .context("no name server answers; give its HOST:PORT with --namesrv"))
}

async fn lookup(connection: &ClientConnection, topic: &str) -> Result<Option<TopicRoute>> {
    let header = GetRouteHeader {
        topic: Some(topic.into()),
        accept_standard_json_only: false,
        borrows: std::marker::PhantomData,
    };
    let response = ask(connection, RequestCode::GetRoute, &header).await?;
    match ResponseCode::from_code(response.code) {
        Some(ResponseCode::Success) => Ok(Some(json::parse(response.body())?)),
        Some(ResponseCode::TopicNotExist) => Ok(None),
        _ => bail!(
            "the name server does not tell the route of {topic}: {}",
            told(response.code, &response.remark())
        ),
    }
}

/// The queues by broker, in the order of the route. Brokers without address are left out.
fn by_broker(route: &Route, queues: &[MessageQueue]) -> Vec<BrokerQueues> {
    let mut brokers: Vec<BrokerQueues> = Vec::new();
    for queue in queues {
        if let Some(last) = brokers.last_mut().filter(|last| last.broker_name == queue.broker_name) {
            last.queue_ids.push(queue.queue_id);
        } else if let Some(address) = route.broker(&queue.broker_name, MASTER_ID) {
            brokers.push(BrokerQueues {
                address: address.to_owned(),
                broker_name: queue.broker_name.clone(),
                queue_ids: vec![queue.queue_id],
            });
        }
    }
    brokers
}

#[cfg(test)]
mod tests {
    use super::*;
    use cometmq_protocol::body::route::{BrokerData, QueueData};

    #[test]
    fn queues_are_listed_by_broker() {
        let broker = |name: &str| BrokerData {
            broker_addrs: [(0, format!("{name}:10911"))].into(),
            broker_name: name.to_owned(),
            ..BrokerData::default()
        };
        let queues = |name: &str, count| QueueData {
            broker_name: name.to_owned(),
            perm: 6,
            read_queue_nums: count,
            write_queue_nums: count,
            ..QueueData::default()
        };
        let body = TopicRoute {
            broker_datas: vec![broker("b"), broker("a")],
            queue_datas: vec![queues("b", 1), queues("a", 2), queues("c", 2)],
            ..TopicRoute::default()
        };
        let route = Route::new(&TopicName::parse("T").unwrap(), &body, 0);
        let told: Vec<_> = by_broker(&route, route.subscribe_queues())
            .into_iter()
            .map(|broker| (broker.address, broker.queue_ids))
            .collect();
        assert_eq!(told, [("a:10911".to_owned(), vec![0, 1]), ("b:10911".to_owned(), vec![0])]);
    }
}
