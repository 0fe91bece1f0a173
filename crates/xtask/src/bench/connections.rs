//! What an idle connection costs: many, each of which introduced itself once by a heartbeat and then says nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use cometmq_protocol::body::client::{HeartbeatData, ProducerData};
use cometmq_protocol::body::json;
use cometmq_protocol::{Fields, Header, RequestCode, SerializeType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::contender::{Flush, Software};
use super::figure::{Figure, number};
use super::report::Report;
use super::{Bench, machine};

const CONNECTIONS: u32 = 10_000;
/// Connections before memory is first looked at, so that what the server needs once is not counted.
const FIRST: u32 = 100;
/// Own addresses from which connections are made: one alone has too few ports for many more.
const ADDRESSES: u32 = 8;
/// Files that this process opens beside the connections.
const OTHER_FILES: u64 = 100;
/// How long connections are left alone before memory is looked at.
const SETTLE: Duration = Duration::from_secs(5);
/// Longest wait for the reply to a heartbeat.
const REPLY_LIMIT: Duration = Duration::from_secs(20);

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let connections = bench.effort.of_trial(CONNECTIONS, 500);
    machine::allow_open_files(u64::from(connections + FIRST) + OTHER_FILES)?;
    let contender = bench.start_one(Software::Comet, Flush::Async, "sends")?;
    let address: SocketAddr = contender.broker().parse().context("the broker's address")?;
    let settle = bench.effort.of_trial(SETTLE, SETTLE / 10);
    let open = |from, count| bench.runtime.block_on(open(address, from, count));
    let first = open(0, FIRST)?;
    std::thread::sleep(settle);
    let before = contender.rss_mib()?;
    let start = Instant::now();
    let idle = open(FIRST, connections)?;
    let took = start.elapsed();
    std::thread::sleep(settle);
    let after = contender.rss_mib()?;
    let each = (after - before) * 1024.0 / f64::from(connections);
    let from = format!(
        "{connections} connections in {} s; resident memory {} MiB before, {} MiB after",
        number(took.as_secs_f64()),
        number(before),
        number(after)
    );
    drop((first, idle));
    report.figure("connections", Figure::new("an idle connection", each, "KiB").at_most(20.0).from(from));
    Ok(())
}

/// Opens connections numbered from `from` on.
async fn open(address: SocketAddr, from: u32, count: u32) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for number in from..from + count {
        let connected = timeout(REPLY_LIMIT, connect(address, number)).await;
        streams
            .push(connected.context("no reply").flatten().with_context(|| format!("connection {number}"))?);
    }
    Ok(streams)
}

async fn connect(address: SocketAddr, number: u32) -> Result<TcpStream> {
    let own = Ipv4Addr::new(127, 0, 0, 1 + (number % ADDRESSES) as u8);
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((own, 0)))?;
    let mut stream = socket.connect(address).await?;
    let data = HeartbeatData {
        client_id: format!("{own}@{number}"),
        producer_data_set: vec![ProducerData { group_name: "idle".to_owned() }],
        ..HeartbeatData::default()
    };
    let mut out = BytesMut::new();
    let header = Header::request(RequestCode::Heartbeat.code(), 1, Fields::default());
    header.encode_with_body(SerializeType::Json, &json::to_vec(&data), &mut out);
    stream.write_all(&out).await?;
    let length = stream.read_u32().await?;
    ensure!(length < 65_536, "a reply of {length} bytes to a heartbeat");
    stream.read_exact(&mut vec![0; length as usize]).await?;
    Ok(stream)
}
