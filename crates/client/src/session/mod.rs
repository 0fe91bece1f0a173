//! The session of a client: name servers, routes, connections, heartbeats. Producers and consumers live on it.

mod members;
mod name_servers;
mod pool;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cometmq_protocol::body::json;
use cometmq_protocol::body::route::TopicRoute;
use cometmq_protocol::headers::client::UnregisterClientHeader;
use cometmq_protocol::headers::namesrv::GetRouteHeader;
use cometmq_protocol::message::ids::UniqueIds;
use cometmq_protocol::names::{AUTO_CREATE_TOPIC, GroupName, NameError, TopicName};
use cometmq_protocol::{ConnectionId, Fields, Millis, Request, RequestCode, ResponseCode};
use cometmq_remoting::{ClientConnection, RemotingError, Response};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::consumer::{ConsumerOptions, PushConsumerBuilder};
use crate::producer::{Producer, ProducerOptions};
use crate::route::{MASTER_ID, Route};
pub(crate) use members::Members;
use name_servers::NameServers;
use pool::Pool;

/// A broker that closes every connection at once must not be told of it in a tight loop.
const HEARTBEAT_PAUSE_MIN: Duration = Duration::from_millis(500);

/// How a client behaves. The defaults are those of the Java client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Bounds of its connections.
    pub remoting: cometmq_remoting::ClientOptions,
    /// How long a name server or broker may take to answer what is no send or pull.
    pub request_timeout: Duration,
    /// How often routes are fetched anew.
    pub route_interval: Duration,
    /// How often brokers hear of the client.
    pub heartbeat_interval: Duration,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            remoting: cometmq_remoting::ClientOptions::default(),
            request_timeout: Duration::from_secs(3),
            route_interval: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(30),
        }
    }
}

/// Why the cluster does not give what the client needs.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The list is no list of addresses.
    #[error("`{list}` is no list of name servers; write host:port, several separated by `;`")]
    NameServerList {
        /// What was given.
        list: String,
    },
    /// No name server answers.
    #[error("no name server answers; check that one runs at the address given. Tried {tried}")]
    NoNameServer {
        /// Each address with what happened.
        tried: String,
    },
    /// The name server knows no broker with this topic.
    #[error(
        "no route for topic {topic}: no broker known to name server {name_server} has it; create the topic, or check \
         that its broker is registered there (autoCreateTopicEnable lets brokers create topics on first use)"
    )]
    TopicUnknown {
        /// Topic.
        topic: TopicName,
        /// Who said so.
        name_server: String,
    },
    /// A server refuses.
    #[error("{server} refuses {request} with code {code}{}", remark_suffix(remark))]
    Refused {
        /// Who refuses.
        server: String,
        /// Name of the request.
        request: &'static str,
        /// Response code.
        code: i32,
        /// What it says about it.
        remark: String,
    },
    /// A server answers what cannot be read.
    #[error("{server} answers {request} with what this client cannot read: {detail}")]
    BadReply {
        /// Who answers.
        server: String,
        /// Name of the request.
        request: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A server cannot be reached or does not answer.
    #[error(transparent)]
    Remoting(#[from] RemotingError),
}

pub(crate) fn remark_suffix(remark: &str) -> String {
    if remark.is_empty() { String::new() } else { format!(": {remark}") }
}

/// A client of a cluster. Clones are the same client.
#[derive(Clone)]
pub struct Client(Arc<Session>);

pub(crate) struct Session {
    options: ClientOptions,
    name_servers: NameServers,
    client_id: String,
    unique_ids: Mutex<UniqueIds>,
    started: Instant,
    pool: Pool,
    routes: Mutex<HashMap<TopicName, Arc<Route>>>,
    pub(crate) members: Arc<Members>,
    /// Broker connections on which a heartbeat was answered.
    introduced: Mutex<HashMap<String, ConnectionId>>,
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

impl Client {
    /// Starts a client of the cluster behind `name_servers` (`host:port`, several separated by `;`). No server need
    /// be up yet: the first request tells if none is.
    pub async fn start(name_servers: &str, options: ClientOptions) -> Result<Client, ClientError> {
        let random = random();
        let name_servers = NameServers::parse(name_servers, random as usize)?;
        let ip = local_ip(name_servers.addresses()).await;
        let pid = std::process::id();
        // Two processes may share address and number (containers on the host's network): the last part tells them
        // apart, as Java's does.
        let client_id = format!("{ip}@{pid}#{}", random >> 32);
        let members = Arc::new(Members::default());
        let session = Arc::new(Session {
            pool: Pool::new(options.remoting.clone(), members.clone()),
            options,
            name_servers,
            client_id,
            unique_ids: Mutex::new(UniqueIds::new(ip, pid, random as u32)),
            started: Instant::now(),
            routes: Mutex::default(),
            members,
            introduced: Mutex::default(),
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
        });
        // Weak, so that a client that is dropped without `shutdown` ends its tasks with it.
        session.spawn(keep_routes(Arc::downgrade(&session), session.options.route_interval));
        session.spawn(keep_heartbeats(Arc::downgrade(&session), session.members.clone()));
        Ok(Client(session))
    }

    /// `ip@pid#number`: how brokers know this client.
    pub fn id(&self) -> &str {
        &self.0.client_id
    }

    /// A producer in `group`.
    pub fn producer(&self, group: &str, options: ProducerOptions) -> Result<Producer, NameError> {
        Ok(Producer::new(self.0.clone(), GroupName::parse(group)?, options))
    }

    /// A consumer in `group`, still to be told what it subscribes to.
    pub fn push_consumer(
        &self,
        group: &str,
        options: ConsumerOptions,
    ) -> Result<PushConsumerBuilder, NameError> {
        Ok(PushConsumerBuilder::new(self.0.clone(), GroupName::parse(group)?, options))
    }

    /// The route of a topic, fetched if it is not known yet.
    pub async fn route(&self, topic: &TopicName) -> Result<Arc<Route>, ClientError> {
        self.0.route(topic).await
    }

    /// Asks a name server, the next one when one does not answer. Any response code is a success here.
    pub async fn ask_name_server(&self, request: &Request<'_>, body: Bytes) -> Result<Response, ClientError> {
        self.0.ask_name_server(request, body).await.map(|(_, response)| response)
    }

    /// Asks the broker at `address`. Any response code is a success here.
    pub async fn ask_broker(
        &self,
        address: &str,
        request: &Request<'_>,
        body: Bytes,
    ) -> Result<Response, ClientError> {
        self.0.ask_broker(address, request.code(), request.encode(), body).await
    }

    /// Ends the client: brokers forget its producers, its tasks are joined, its connections closed. Consumers are to
    /// be shut down before.
    pub async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

impl Session {
    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// A message id that no other message has.
    pub(crate) fn unique_id(&self) -> String {
        let elapsed = self.started.elapsed().as_millis() as u32;
        self.unique_ids.lock().unwrap_or_else(PoisonError::into_inner).next(elapsed)
    }

    /// The route of a topic if it is known.
    pub(crate) fn known_route(&self, topic: &TopicName) -> Option<Arc<Route>> {
        self.routes().get(topic).cloned()
    }

    /// The route of a topic.
    pub(crate) async fn route(&self, topic: &TopicName) -> Result<Arc<Route>, ClientError> {
        match self.known_route(topic) {
            Some(route) if !route.is_provisional() => Ok(route),
            _ => self.fetch_route(topic).await,
        }
    }

    /// The route of a topic to send to: of an unknown one that of the template from which brokers create topics.
    pub(crate) async fn route_to_publish(&self, topic: &TopicName) -> Result<Arc<Route>, ClientError> {
        if let Some(route) = self.known_route(topic) {
            return Ok(route);
        }
        let unknown = match self.fetch_route(topic).await {
            Err(error @ ClientError::TopicUnknown { .. }) => error,
            fetched => return fetched,
        };
        let Ok(template_topic) = TopicName::parse(AUTO_CREATE_TOPIC) else { return Err(unknown) };
        match self.ask_route(&template_topic).await {
            Ok(template) => Ok(self.learn(topic, Route::provisional(topic, template, random() as usize))),
            Err(ClientError::TopicUnknown { .. }) => Err(unknown),
            Err(error) => Err(error),
        }
    }

    async fn fetch_route(&self, topic: &TopicName) -> Result<Arc<Route>, ClientError> {
        let body = self.ask_route(topic).await?;
        Ok(self.learn(topic, Route::new(topic, &body, random() as usize)))
    }

    async fn ask_route(&self, topic: &TopicName) -> Result<TopicRoute, ClientError> {
        let request = Request::GetRoute(GetRouteHeader {
            topic: Some(topic.as_str().into()),
            accept_standard_json_only: true,
            borrows: std::marker::PhantomData,
        });
        let (name_server, response) = self.ask_name_server(&request, Bytes::new()).await?;
        if response.code == ResponseCode::TopicNotExist.code() {
            return Err(ClientError::TopicUnknown { topic: topic.clone(), name_server });
        }
        let name = RequestCode::GetRoute.name();
        require_success(&name_server, name, &response)?;
        json::parse(response.body()).map_err(|error| bad_reply(&name_server, name, error))
    }

    /// Keeps a route; an equal one already kept stays, with its place in the round of the queues.
    fn learn(&self, topic: &TopicName, route: Route) -> Arc<Route> {
        let mut routes = self.routes();
        if let Some(known) = routes.get(topic).filter(|known| ***known == route) {
            return known.clone();
        }
        let route = Arc::new(route);
        routes.insert(topic.clone(), route.clone());
        drop(routes);
        self.members.rebalance_all();
        route
    }

    async fn ask_name_server(
        &self,
        request: &Request<'_>,
        body: Bytes,
    ) -> Result<(String, Response), ClientError> {
        let mut tried = Vec::new();
        for address in self.name_servers.in_turn() {
            let (fields, wait) = (request.encode(), self.options.request_timeout);
            let asked = async {
                let (connection, _) = self.pool.get(address).await?;
                connection.request(request.code().code(), fields, body.clone(), wait).await
            };
            match asked.await {
                Ok(response) => return Ok((address.to_owned(), response)),
                Err(error) => {
                    if matches!(error, RemotingError::Timeout { .. }) {
                        self.pool.close(address);
                    }
                    self.name_servers.failed(address);
                    tried.push(format!("{address}: {error}"));
                }
            }
        }
        Err(ClientError::NoNameServer { tried: tried.join("; ") })
    }

    pub(crate) async fn ask_broker(
        &self,
        address: &str,
        code: RequestCode,
        fields: Fields<'_>,
        body: Bytes,
    ) -> Result<Response, ClientError> {
        let connection = self.broker(address).await?;
        Ok(connection.request(code.code(), fields, body, self.options.request_timeout).await?)
    }

    /// The connection to a broker. One that is new to the broker is followed by a heartbeat.
    pub(crate) async fn broker(&self, address: &str) -> Result<ClientConnection, RemotingError> {
        let (connection, fresh) = self.pool.get(address).await?;
        if fresh {
            self.members.heartbeat_wanted.notify_one();
        }
        Ok(connection)
    }

    /// The connection to a broker if there is one.
    pub(crate) fn open_broker(&self, address: &str) -> Option<ClientConnection> {
        self.pool.open(address)
    }

    /// Tells all known brokers what groups the client is in.
    pub(crate) async fn heartbeat(self: &Arc<Self>) {
        let Some(data) = self.members.heartbeat(&self.client_id) else { return };
        let body = Bytes::from(json::to_vec(&data));
        let mut beats = JoinSet::new();
        // Only consumers deal with slaves.
        for address in self.broker_addresses(self.members.has_consumers()) {
            let (session, body) = (self.clone(), body.clone());
            beats.spawn(async move { session.heartbeat_to(&address, body).await });
        }
        let mut introduced = false;
        while let Some(beat) = beats.join_next().await {
            introduced |= beat.unwrap_or(false);
        }
        if introduced {
            self.members.rebalance_all();
        }
    }

    /// Whether the broker heard of this client for the first time on its present connection.
    async fn heartbeat_to(&self, address: &str, body: Bytes) -> bool {
        let beat = async {
            let (connection, _) = self.pool.get(address).await?;
            let code = RequestCode::Heartbeat;
            let wait = self.options.request_timeout;
            let response = connection.request(code.code(), Fields::default(), body, wait).await?;
            require_success(address, code.name(), &response)?;
            Result::<_, ClientError>::Ok(connection.peer().connection)
        };
        match beat.await {
            Ok(connection) => {
                let mut introduced = self.introduced.lock().unwrap_or_else(PoisonError::into_inner);
                introduced.insert(address.to_owned(), connection) != Some(connection)
            }
            Err(error) => {
                if matches!(error, ClientError::Remoting(RemotingError::Timeout { .. })) {
                    // Nobody at the other end, most likely: the next request finds out by connecting.
                    self.pool.close(address);
                }
                tracing::warn!(%error, "heartbeat failed");
                false
            }
        }
    }

    /// Tells the brokers that still listen that the client leaves a group.
    pub(crate) async fn unregister(&self, producer_group: Option<&str>, consumer_group: Option<&str>) {
        let header = UnregisterClientHeader {
            client_id: self.client_id.as_str().into(),
            producer_group: producer_group.map(Into::into),
            consumer_group: consumer_group.map(Into::into),
            borrows: std::marker::PhantomData,
        };
        let request = Request::UnregisterClient(header);
        for address in self.broker_addresses(true) {
            let Some(connection) = self.pool.open(&address) else { continue };
            let (code, wait) = (request.code().code(), self.options.request_timeout);
            if let Err(error) = connection.request(code, request.encode(), Bytes::new(), wait).await {
                tracing::debug!(%error, "could not unregister; the broker notices when the connection closes");
            }
        }
    }

    fn broker_addresses(&self, with_slaves: bool) -> HashSet<String> {
        let routes = self.routes();
        let all = routes.values().flat_map(|route| route.addresses());
        all.filter(|(id, _)| with_slaves || *id == MASTER_ID).map(|(_, address)| address.to_owned()).collect()
    }

    async fn poll_routes(&self) {
        let mut topics: HashSet<TopicName> = self.routes().keys().cloned().collect();
        topics
            .extend(self.members.subscribed_topics().iter().filter_map(|topic| TopicName::parse(topic).ok()));
        for topic in topics {
            match self.fetch_route(&topic).await {
                // A name server that just started knows nothing yet: what was known stays.
                Ok(_) | Err(ClientError::TopicUnknown { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, %topic, "route not renewed, the known one stays");
                    if matches!(error, ClientError::NoNameServer { .. }) {
                        break;
                    }
                }
            }
        }
        let mut used = self.broker_addresses(true);
        self.introduced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|address, _| used.contains(address));
        used.extend(self.name_servers.addresses().iter().cloned());
        self.pool.retain(&used);
    }

    /// Runs `task` until it ends or the client is shut down.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop.subscribe();
        let until_stopped = async move {
            tokio::select! {
                () = task => {}
                _ = stop.wait_for(|stopped| *stopped) => {}
            }
        };
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(until_stopped);
    }

    async fn shutdown(&self) {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
        if let Some(groups) = self.members.heartbeat(&self.client_id) {
            for producer in &groups.producer_data_set {
                self.unregister(Some(&producer.group_name), None).await;
            }
            for consumer in &groups.consumer_data_set {
                self.unregister(None, Some(&consumer.group_name)).await;
            }
        }
        self.pool.close_all().await;
    }

    fn routes(&self) -> MutexGuard<'_, HashMap<TopicName, Arc<Route>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn keep_routes(session: Weak<Session>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(session) = session.upgrade() else { return };
        session.poll_routes().await;
    }
}

async fn keep_heartbeats(session: Weak<Session>, members: Arc<Members>) {
    loop {
        let Some(interval) = session.upgrade().map(|session| session.options.heartbeat_interval) else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = members.heartbeat_wanted.notified() => {}
        }
        let Some(session) = session.upgrade() else { return };
        session.heartbeat().await;
        drop(session);
        tokio::time::sleep(HEARTBEAT_PAUSE_MIN).await;
    }
}

/// An error unless the response says success.
pub(crate) fn require_success(
    server: &str,
    request: &'static str,
    response: &Response,
) -> Result<(), ClientError> {
    if response.code == ResponseCode::Success.code() {
        return Ok(());
    }
    Err(ClientError::Refused {
        server: server.to_owned(),
        request,
        code: response.code,
        remark: response.remark(),
    })
}

pub(crate) fn bad_reply(server: &str, request: &'static str, error: impl std::fmt::Display) -> ClientError {
    ClientError::BadReply { server: server.to_owned(), request, detail: error.to_string() }
}

/// The wall clock.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Good enough to spread clients; not for secrets.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// The address under which this machine reaches the cluster. Nothing is sent for that.
async fn local_ip(targets: &[String]) -> IpAddr {
    for target in targets {
        for any in ["0.0.0.0:0", "[::]:0"] {
            let Ok(socket) = UdpSocket::bind(any).await else { continue };
            if socket.connect(target.as_str()).await.is_ok()
                && let Ok(local) = socket.local_addr()
            {
                return local.ip();
            }
        }
    }
    IpAddr::from([127, 0, 0, 1])
}
