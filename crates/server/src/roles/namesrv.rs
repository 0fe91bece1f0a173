//! The name server's shell: sockets, clock, and the file of its KV configuration.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use cometmq_namesrv::{Departed, KvSnapshot, NameServer, NamesrvOptions};
use cometmq_protocol::{Frame, Header, Peer, Reply, Request, RequestError, ResponseCode};
use cometmq_remoting::{CloseReason, Connection, Handler, Out, Server, ServerOptions, Workers};
use cometmq_store::config_file::{self, ConfigFileError};
use cometmq_store::{Disk, DiskError, RealDisk};

use crate::clock;
use crate::config::NamesrvSettings;

/// Bytes of replies after which a connection's further requests wait until these are written.
const OUT_BYTES_MAX: usize = 1024 * 1024;

/// A name server that listens.
pub(super) struct NamesrvRole {
    server: Server,
    shell: Arc<Shell>,
    scan_interval: Duration,
}

struct Shell {
    namesrv: NameServer,
    kv_path: PathBuf,
    /// One save at a time, in order.
    saving: Mutex<()>,
}

impl NamesrvRole {
    pub(super) fn start(settings: &NamesrvSettings) -> Result<NamesrvRole> {
        let options = NamesrvOptions {
            order_message_enable: settings.order_in_routes,
            return_order_topic_config_to_broker: settings.order_to_brokers,
            enable_all_topic_list: settings.list_all_topics,
            enable_topic_list: settings.list_some_topics,
            delete_topic_with_broker_registration: settings.forget_unregistered_topics,
            ..NamesrvOptions::default()
        };
        let namesrv = NameServer::new(options);
        let kept: Result<Option<KvSnapshot>, ConfigFileError> =
            config_file::load(&RealDisk, &settings.kv_path);
        let kept = kept.with_context(|| {
            format!(
                "name server: {} cannot be read; choose another place, by --data of serve or kvConfigPath in the file of \
                 -c of namesrv",
                settings.kv_path.display()
            )
        })?;
        if let Some(snapshot) = kept {
            namesrv.restore_kv(snapshot);
        }
        let address = SocketAddr::new(settings.bind_address, settings.listen_port);
        let idle_timeout = Duration::from_secs(settings.connection_idle_s_max);
        let server = Server::bind(&[address], ServerOptions { idle_timeout, ..ServerOptions::default() })
            .context(
                "name server: choose another port, by --namesrv-port of serve or listenPort in the file of -c of namesrv",
            )?;
        println!("The Name Server boot success. serializeType=JSON, address {address}");
        let shell = Shell { namesrv, kv_path: settings.kv_path.clone(), saving: Mutex::new(()) };
        let scan_interval = Duration::from_millis(settings.expiry_scan_interval_ms);
        Ok(NamesrvRole { server, shell: Arc::new(shell), scan_interval })
    }

    pub(super) async fn run(self, workers: &Workers, stop: impl Future<Output = ()>) -> Result<()> {
        let shell = Arc::clone(&self.shell);
        let mut interval = tokio::time::interval(self.scan_interval);
        let scan = async {
            loop {
                interval.tick().await;
                log_departed(&shell.namesrv.scan(clock::now()));
            }
        };
        tokio::select! {
            result = self.server.serve(workers, self.shell, stop) => result.context("name server"),
            () = scan => Ok(()),
        }
    }
}

impl Shell {
    /// Writes the KV configuration if it changed: before the change is confirmed. Until it is written, whoever changed
    /// it is told that it is not, also when another one's attempt failed.
    fn save_kv(&self) -> Result<(), DiskError> {
        let _one_at_a_time = self.saving.lock().expect("no holder of this lock panics");
        let Some(snapshot) = self.namesrv.kv_snapshot() else { return Ok(()) };
        self.write_kv(&snapshot).inspect_err(|_| self.namesrv.kv_not_written())
    }

    fn write_kv(&self, snapshot: &KvSnapshot) -> Result<(), DiskError> {
        if let Some(directory) = self.kv_path.parent() {
            RealDisk.create_directory(directory)?;
        }
        config_file::save(&RealDisk, &self.kv_path, snapshot)
    }

    fn answer(&self, peer: &Peer, frame: &Frame, header: &mut Header<'_>) -> Reply {
        let mut fields = header.fields.take().unwrap_or_default();
        match Request::decode(header.code, &mut fields) {
            Ok(request) => {
                let reply = self.namesrv.handle(clock::now(), peer, header.version, &request, &frame.body);
                let saved = match request {
                    Request::PutKvConfig(_) | Request::DeleteKvConfig(_) => self.save_kv(),
                    _ => Ok(()),
                };
                match saved {
                    Ok(()) => reply,
                    Err(error) => Reply::refuse(ResponseCode::SystemError, error.to_string()),
                }
            }
            Err(error @ RequestError::NotSupported { .. }) => {
                Reply::refuse(ResponseCode::RequestCodeNotSupported, error.to_string())
            }
            Err(error) => Reply::refuse(ResponseCode::SystemError, error.to_string()),
        }
    }
}

impl Handler for Shell {
    fn frames(
        &self,
        connection: &Connection,
        frames: &mut Vec<Frame>,
        out: &mut Out,
    ) -> Result<(), CloseReason> {
        let mut taken = 0;
        for frame in frames.iter() {
            if out.len() > OUT_BYTES_MAX {
                break;
            }
            taken += 1;
            let mut header = Header::decode(frame)?;
            if header.is_response() {
                continue;
            }
            let reply = self.answer(&connection.peer(), frame, &mut header);
            if !header.is_oneway() {
                reply.encode(header.opaque, frame.serialize_type, out.buffer());
            }
        }
        frames.drain(..taken);
        Ok(())
    }

    fn disconnected(&self, connection: &Connection) {
        log_departed(&self.namesrv.disconnected(clock::now(), connection.peer().connection));
    }
}

fn log_departed(departed: &[Departed]) {
    for broker in departed {
        tracing::info!(
            broker = broker.broker_name,
            id = broker.broker_id,
            address = broker.broker_addr,
            silent_ms = broker.silent_ms,
            "broker gone, its routes removed"
        );
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cometmq_protocol::{ConnectionId, Fields, SerializeType};

    use super::*;

    #[test]
    fn a_change_that_cannot_be_written_is_told_to_whoever_made_it_and_to_nobody_else() {
        let shell = Shell {
            namesrv: NameServer::new(NamesrvOptions::default()),
            kv_path: "/dev/null/kvConfig.json".into(),
            saving: Mutex::new(()),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let peer = Peer { connection: ConnectionId(1), remote: address, local: address };
        let frame = Frame { serialize_type: SerializeType::Json, header: Bytes::new(), body: Bytes::new() };
        let ask = |code, fields: &[(&'static str, &'static str)]| {
            let mut sent = Fields::default();
            fields.iter().for_each(|(name, value)| sent.push(*name, *value));
            shell.answer(&peer, &frame, &mut Header::request(code, 1, sent)).code
        };
        let put = [("namespace", "N"), ("key", "k"), ("value", "v")];
        assert_eq!(ask(100, &put), ResponseCode::SystemError);
        // One is at this point:
        let mut fields = Fields::default();
        put.iter().for_each(|(name, value)| fields.push(*name, *value));
        let request = Request::decode(100, &mut fields).unwrap();
        shell.namesrv.handle(clock::now(), &peer, 479, &request, &Bytes::new());
        // … when others come:
        assert_eq!(ask(105, &[("topic", "T")]), ResponseCode::TopicNotExist);
        assert_eq!(ask(100, &put), ResponseCode::SystemError);
        // … and goes on:
        shell.save_kv().unwrap_err();
    }
}
