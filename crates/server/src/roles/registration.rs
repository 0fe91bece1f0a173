//! Keeps the broker registered with all of its name servers: at start, every 30 s, and at once when topics change.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cometmq_protocol::headers::HeaderFields;
use cometmq_protocol::headers::namesrv::{BrokerHeader, RegisterBrokerHeader};
use cometmq_protocol::message::record;
use cometmq_protocol::{RequestCode, ResponseCode};
use cometmq_remoting::{ClientConnection, ClientOptions};
use tokio::task::{JoinSet, spawn_blocking};

use super::broker::Shell;
use crate::config::BrokerSettings;

/// How soon a registration that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How many times as long as a registration took changes of topics wait before the next one.
const REST: u32 = 3;
/// How long a stopping broker waits for a name server to take note.
const UNREGISTER_TIMEOUT: Duration = Duration::from_secs(1);

/// The broker's standing with its name servers.
pub(super) struct Registration {
    shell: Arc<Shell>,
    name_servers: Vec<NameServer>,
    interval: Duration,
    timeout: Duration,
    identity: Identity,
}

/// Who registers.
#[derive(Clone)]
struct Identity {
    cluster_name: String,
    broker_name: String,
    broker_id: i64,
    broker_addr: String,
    ha_server_addr: String,
    address_derived: bool,
}

struct NameServer {
    address: String,
    connection: Option<ClientConnection>,
    /// The last attempt failed: said once, not at every attempt.
    failing: bool,
}

impl Registration {
    pub(super) fn new(
        shell: Arc<Shell>,
        settings: &BrokerSettings,
        name_servers: Vec<String>,
    ) -> Registration {
        let advertised = shell.broker.config().advertised;
        let mut ha = advertised;
        ha.set_port(advertised.port().saturating_add(1));
        Registration {
            name_servers: name_servers
                .into_iter()
                .map(|address| NameServer { address, connection: None, failing: false })
                .collect(),
            interval: Duration::from_millis(settings.register_interval_ms),
            timeout: Duration::from_millis(settings.register_timeout_ms),
            identity: Identity {
                cluster_name: settings.cluster_name.clone(),
                broker_name: settings.broker_name.clone(),
                broker_id: i64::try_from(settings.broker_id).unwrap_or(0),
                broker_addr: advertised.to_string(),
                ha_server_addr: ha.to_string(),
                address_derived: shell.broker.config().address_derived,
            },
            shell,
        }
    }

    /// Registers until `stop`, then unregisters.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let began = Instant::now();
            let all_well = tokio::select! {
                all_well = self.register() => all_well,
                () = &mut stop => break,
            };
            let pause = if all_well { self.interval } else { RETRY.min(self.interval) };
            // Telling of very many topics takes its time: when they change all the time, most of it is left to others.
            let rest = pause.min(began.elapsed() * REST);
            let announced = async {
                tokio::time::sleep(rest).await;
                self.shell.announce.notified().await;
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = announced => {}
                () = &mut stop => break,
            }
        }
        self.unregister().await;
    }

    /// Registers with every name server, side by side. True when all of them took it.
    async fn register(&mut self) -> bool {
        // Of very many topics this takes a while, in which this thread has connections to accept.
        let shell = Arc::clone(&self.shell);
        let encoded = spawn_blocking(move || {
            let body = Bytes::from(shell.broker.announcement().encode(false));
            let crc = record::body_crc(&body);
            (body, crc)
        });
        // It fails only if it panicked, or when the runtime ends.
        let Ok((body, crc)) = encoded.await else { return false };
        let mut tasks = JoinSet::new();
        for mut server in std::mem::take(&mut self.name_servers) {
            let (identity, body, timeout) = (self.identity.clone(), body.clone(), self.timeout);
            tasks.spawn(async move {
                let result = server.register(&identity, body, crc, timeout).await;
                server.note(result);
                server
            });
        }
        self.name_servers = tasks.join_all().await;
        self.name_servers.sort_by(|a, b| a.address.cmp(&b.address));
        self.name_servers.iter().all(|server| !server.failing)
    }

    async fn unregister(self) {
        let mut tasks = JoinSet::new();
        for server in self.name_servers {
            let identity = self.identity.clone();
            tasks.spawn(async move {
                let Some(connection) = server.connection else { return };
                let header = BrokerHeader {
                    broker_name: identity.broker_name.into(),
                    broker_addr: identity.broker_addr.into(),
                    cluster_name: identity.cluster_name.into(),
                    broker_id: identity.broker_id,
                    borrows: std::marker::PhantomData,
                };
                let code = RequestCode::UnregisterBroker.code();
                // Closing the connection says the same, should this fail.
                let _ = connection.request(code, header.encode(), Bytes::new(), UNREGISTER_TIMEOUT).await;
            });
        }
        tasks.join_all().await;
    }
}

impl NameServer {
    async fn register(
        &mut self,
        identity: &Identity,
        body: Bytes,
        crc: u32,
        timeout: Duration,
    ) -> Result<(), String> {
        let connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => {
                let options = ClientOptions { connect_timeout: timeout, ..ClientOptions::default() };
                let connected = ClientConnection::connect(&self.address, &options, Arc::new(())).await;
                connected.map_err(|error| error.to_string())?
            }
        };
        let header = RegisterBrokerHeader {
            broker_name: identity.broker_name.as_str().into(),
            broker_addr: identity.broker_addr.as_str().into(),
            cluster_name: identity.cluster_name.as_str().into(),
            ha_server_addr: identity.ha_server_addr.as_str().into(),
            broker_id: identity.broker_id,
            heartbeat_timeout_millis: Some(120_000),
            enable_acting_master: false,
            compressed: false,
            body_crc32: crc as i32,
            address_derived: identity.address_derived,
            borrows: std::marker::PhantomData,
        };
        let code = RequestCode::RegisterBroker.code();
        let response = connection.request(code, header.encode(), body, timeout).await;
        let response = response.map_err(|error| error.to_string())?;
        self.connection = Some(connection);
        if response.code == ResponseCode::Success.code() {
            return Ok(());
        }
        Err(format!("refused with code {}: {}", response.code, response.remark()))
    }

    fn note(&mut self, result: Result<(), String>) {
        let fails = result.is_err();
        match result {
            Ok(()) if self.failing => tracing::info!(name_server = self.address, "registered again"),
            Ok(()) => {}
            Err(error) if !self.failing => {
                tracing::warn!(name_server = self.address, error, "not registered; trying on");
            }
            Err(_) => {}
        }
        self.failing = fails;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_registration_that_is_refused_has_failed_though_the_connection_lives() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connection = ClientConnection::connect(&address, &ClientOptions::default(), Arc::new(())).await;
        let mut server = NameServer { address, connection: Some(connection.unwrap()), failing: false };
        server.note(Err("refused with code 1: no".to_owned()));
        assert!(server.failing, "it is tried again soon");
        server.note(Ok(()));
        assert!(!server.failing);
    }
}
