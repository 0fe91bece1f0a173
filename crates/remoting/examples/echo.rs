//! A null server and its load, to measure what carrying frames costs.
//!
//! `echo serve 127.0.0.1:9000` answers every frame with its own body; `echo load 127.0.0.1:9000 CONNECTIONS DEPTH
//! BODY_BYTES SECONDS` keeps DEPTH requests in flight on each connection. Each prints the CPU time that it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use cometmq_protocol::{Fields, Frame, Header, SerializeType};
use cometmq_remoting::{
    ClientOptions, CloseReason, Connection, Handler, Out, Server, ServerOptions, Workers, dial,
};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address] => runtime.block_on(serve(address)),
        ["load", address, connections, depth, body_bytes, seconds] => runtime.block_on(load(
            address,
            connections.parse()?,
            depth.parse()?,
            body_bytes.parse()?,
            seconds.parse()?,
        )),
        _ => anyhow::bail!(
            "usage: echo serve ADDRESS | echo load ADDRESS CONNECTIONS DEPTH BODY_BYTES SECONDS"
        ),
    }
}

struct Echo(AtomicU64);

impl Handler for Echo {
    fn frames(&self, _: &Connection, frames: &mut Vec<Frame>, out: &mut Out) -> Result<(), CloseReason> {
        self.0.fetch_add(frames.len() as u64, Ordering::Relaxed);
        for frame in frames.drain(..) {
            let opaque = Header::decode(&frame)?.opaque;
            let reply = Header::response(0, opaque, None, None);
            reply.encode(frame.serialize_type, frame.body.len(), out.buffer());
            out.push_bytes(frame.body);
        }
        Ok(())
    }
}

async fn serve(address: &str) -> anyhow::Result<()> {
    let echo = Arc::new(Echo(AtomicU64::new(0)));
    let server = Server::bind(&[address.parse()?], ServerOptions::default())?;
    let counter = echo.clone();
    let shutdown = async move {
        let (mut frames, mut cpu) = (0, 0.0);
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (now_frames, now_cpu) = (counter.0.load(Ordering::Relaxed), cpu_seconds().unwrap_or(0.0));
            if now_frames > frames {
                let rate = (now_frames - frames) as f64 / (now_cpu - cpu);
                println!("{} frames, {rate:.0} per CPU second", now_frames - frames);
            }
            (frames, cpu) = (now_frames, now_cpu);
        }
    };
    let workers = Workers::start(std::thread::available_parallelism()?, || ())?;
    Ok(server.serve(&workers, echo, shutdown).await?)
}

/// Answers each reply with the next request.
struct Load {
    body: Bytes,
    replies: AtomicU64,
}

impl Load {
    fn request(&self, out: &mut Out) {
        let mut fields = Fields::with_capacity(2);
        fields.push("topic", "Bench");
        fields.push("queueId", "1");
        Header::request(310, 1, fields).encode(SerializeType::Json, self.body.len(), out.buffer());
        out.push_bytes(self.body.clone());
    }
}

impl Handler for Load {
    fn frames(&self, _: &Connection, frames: &mut Vec<Frame>, out: &mut Out) -> Result<(), CloseReason> {
        self.replies.fetch_add(frames.len() as u64, Ordering::Relaxed);
        frames.drain(..).for_each(|_| self.request(out));
        Ok(())
    }
}

async fn load(
    address: &str,
    connections: usize,
    depth: usize,
    body_bytes: usize,
    seconds: u64,
) -> anyhow::Result<()> {
    let load = Arc::new(Load { body: vec![b'x'; body_bytes].into(), replies: AtomicU64::new(0) });
    let mut open = Vec::new();
    for _ in 0..connections {
        let connection = dial(address, &ClientOptions::default(), load.clone()).await?;
        connection.push_with(|out| (0..depth).for_each(|_| load.request(out)));
        open.push(connection);
    }
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let replies = load.replies.load(Ordering::Relaxed) as f64;
    println!(
        "{:.0} replies/s, {:.0} per CPU second",
        replies / start.elapsed().as_secs_f64(),
        replies / cpu_seconds()?
    );
    Ok(())
}

/// User and system time of this process, from Linux's accounting in ticks of 10 ms.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().context("no fields")?.split(' ').collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
