//! `cometmq bench null`: a server that answers what a producer needs and stores nothing.
//!
//! The yardstick for a broker: the same sockets, workers and framing, a constant reply. Of a header it reads only what a reply
//! needs.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::BytesMut;
use clap::Args;
use cometmq_protocol::body::route::{BrokerData, QueueData, TopicRoute};
use cometmq_protocol::body::topic::permission;
use cometmq_protocol::headers::send::SendMessageReply;
use cometmq_protocol::{Frame, Header, Reply, RequestCode, SerializeType};
use cometmq_remoting::{CloseReason, Connection, Handler, Out, Server, ServerOptions};
use tokio::runtime::Builder;

use super::head::Head;
use crate::roles::workers;

/// Flags of `cometmq bench null`.
#[derive(Debug, Args)]
pub(crate) struct NullArgs {
    /// Port that is name server and broker at once
    #[arg(long, default_value_t = 19876)]
    port: u16,
}

/// Runs the command until it is interrupted.
pub(crate) fn run(args: &NullArgs) -> Result<ExitCode> {
    let address = SocketAddr::from(([127, 0, 0, 1], args.port));
    let server = Server::bind(&[address], ServerOptions::default())?;
    println!("null broker (stores nothing) and its name server on {address}");
    let workers = workers::start()?;
    let runtime = Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let handler = Arc::new(Null { address });
    runtime.block_on(server.serve(&workers, handler, async { drop(tokio::signal::ctrl_c().await) }))?;
    Ok(ExitCode::SUCCESS)
}

struct Null {
    address: SocketAddr,
}

impl Handler for Null {
    fn frames(&self, _: &Connection, frames: &mut Vec<Frame>, out: &mut Out) -> Result<(), CloseReason> {
        for frame in frames.drain(..) {
            let head = Head::read(&frame)?;
            if head.wants_answer() {
                self.answer(&head, out.buffer());
            }
        }
        Ok(())
    }
}

impl Null {
    fn answer(&self, head: &Head, out: &mut BytesMut) {
        match RequestCode::from_code(head.code) {
            Some(RequestCode::SendMessage | RequestCode::SendMessageV2 | RequestCode::SendBatchMessage) => {
                send_reply(head.opaque, out);
            }
            Some(RequestCode::GetRoute) => {
                Reply::success().with_body(self.route()).encode(head.opaque, SerializeType::Json, out);
            }
            _ => Reply::success().encode(head.opaque, SerializeType::Json, out),
        }
    }

    fn route(&self) -> Vec<u8> {
        let broker_name = "broker-a".to_owned();
        let route = TopicRoute {
            broker_datas: vec![BrokerData {
                broker_addrs: [(0, self.address.to_string())].into(),
                broker_name: broker_name.clone(),
                cluster: "DefaultCluster".to_owned(),
                enable_acting_master: false,
            }],
            queue_datas: vec![QueueData {
                broker_name,
                perm: permission::READ_WRITE,
                read_queue_nums: 4,
                topic_sys_flag: 0,
                write_queue_nums: 4,
            }],
            ..TopicRoute::default()
        };
        route.to_body(true)
    }
}

/// The same fields as a real reply, always with the same values.
fn send_reply(opaque: i32, out: &mut BytesMut) {
    let fields = SendMessageReply {
        msg_id: Cow::Borrowed("7F00000100002A9F0000000000000000"),
        queue_id: 0,
        queue_offset: 0,
        transaction_id: Some(Cow::Borrowed("7F0000010000000000000000000000000000")),
        borrows: std::marker::PhantomData,
    };
    let more = [("MSG_REGION", "DefaultRegion"), ("TRACE_ON", "true")];
    Header::response(0, opaque, None, None).encode_typed(&fields, &more, SerializeType::Json, 0, out);
}
