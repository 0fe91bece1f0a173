//! Connections as a flood makes them: many, from several loopback addresses, ended without leaving the system a trace;
//! and a few honest clients beside them, whose latency tells what the flood costs others.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use super::broker::Broker;
use super::job::Outcome;
use super::latency::{Latencies, ms};
use super::ledger::Ledger;
use super::load::{Load, Positions, Running, Tally};

/// Source addresses, so that no pair of addresses runs out of ports.
const SOURCES: u32 = 50;
/// Latencies below this are as good as any: two processes on two cores wait for each other that long.
const FLOOR: Duration = Duration::from_millis(50);
/// What a flood may make of honest clients' latency.
const FACTOR: u32 = 2;

/// Connects from the `number`-th source address; the receive buffer has `receive_bytes` if that is given.
pub(super) async fn connect(port: u16, number: u32, receive_bytes: Option<u32>) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4().context("no more sockets: check the limit of open files (ulimit -n)")?;
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    let [_, _, _, last] = (2 + number % SOURCES).to_be_bytes();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
    let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    socket.connect(target.into()).await.with_context(|| format!("cannot connect to {target}"))
}

/// Ends a connection at once, without the minute of waiting that the system keeps its ports for.
pub(super) fn reset(stream: TcpStream) {
    // Fails on a connection that is gone.
    let _ = stream.set_zero_linger();
    drop(stream);
}

/// Honest clients: four senders at a fixed pace, made before the flood.
pub(super) struct Honest {
    load: Load,
    /// Where consumers begin.
    first: i64,
    round: u32,
    ledger: Ledger,
    tally: Tally,
}

impl Honest {
    /// Nobody sends yet.
    pub(super) fn new(address: String, topic: &'static str, queues: i32, seed: u64) -> Honest {
        let load = Load { pause: Duration::from_millis(5), seed, ..Load::new(address, topic, queues) };
        Honest { load, first: 0, round: 0, ledger: Ledger::default(), tally: Tally::default() }
    }

    /// As many consumers beside them, which read each queue from `first` on.
    pub(super) fn add_readers(&mut self, readers: u32, first: i64) {
        self.load.consumers = readers;
        self.first = first;
    }

    /// Lets them send.
    pub(super) fn start(&mut self) -> Running {
        self.round += 1;
        let load = Load { round: self.round, ..self.load.clone() };
        load.start(&Positions::at(load.queues, self.first))
    }

    /// Lets them end, and returns the times of this stretch.
    pub(super) async fn stop(&mut self, running: Running) -> Result<Latencies> {
        let before = std::mem::take(&mut self.tally.latencies);
        running.finish(&mut self.ledger, &mut self.tally).await?;
        let now = self.tally.latencies.clone();
        self.tally.latencies.extend(&before);
        Ok(now)
    }

    /// The times of a quiet stretch.
    pub(super) async fn quiet(&mut self, broker: &mut Broker, lasts: Duration) -> Result<Latencies> {
        let running = self.start();
        broker.needed_by(sleep(lasts)).await?;
        self.stop(running).await
    }

    /// What they acknowledged.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Notes what the flood cost them.
    pub(super) fn judge(&self, quiet: &Latencies, flooded: &Latencies, outcome: &mut Outcome) {
        let (quiet, flooded) = (quiet.at(0.99), flooded.at(0.99));
        outcome.figure(format!("honest clients' p99 {} before, {} during", ms(quiet), ms(flooded)));
        outcome.check(flooded < (quiet * FACTOR).max(FLOOR), || {
            format!("honest clients' p99 rose from {} to {}", ms(quiet), ms(flooded))
        });
        outcome.problems.extend(self.tally.problems.iter().take(3).cloned());
        outcome.check(self.tally.refused == 0, || format!("honest sends refused: {:?}", self.tally.refusals));
    }
}
