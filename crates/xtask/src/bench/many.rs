//! Many topics: made by request, and read back whole.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cometmq_protocol::message::record::records;
use tokio::task::JoinSet;

use super::contender::Contender;
use super::{Bench, START_LIMIT, await_route};
use crate::wire::Wire;

/// Connections over which topics are made and read.
const CONNECTIONS: u32 = 16;

/// Topics with equal numbers of queues, named as `cometmq bench send --topics` names them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Topics {
    pub(super) name: &'static str,
    pub(super) count: u32,
    pub(super) queues: i32,
}

impl Topics {
    /// Queues of all topics together.
    pub(super) fn queues(&self) -> u64 {
        u64::from(self.count) * u64::from(self.queues.unsigned_abs())
    }

    /// Flags with which the generator sends to them.
    pub(super) fn flags(&self) -> String {
        format!("--topics {} --queues {}", self.count, self.queues)
    }

    fn topic(&self, number: u32) -> String {
        format!("{}-{number:06}", self.name)
    }

    /// Makes all of them, each by a request, and waits until the name server knows the last; tells how long that took.
    pub(super) fn create(self, bench: &Bench, contender: &Contender) -> Result<Duration> {
        let start = Instant::now();
        let deadline = start + START_LIMIT;
        let address = contender.broker();
        bench.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for first in 0..CONNECTIONS {
                let broker = Wire::connect_by(&address, deadline).await?;
                tasks.spawn(async move {
                    for number in (first..self.count).step_by(CONNECTIONS as usize) {
                        broker.create_topic(&self.topic(number), self.queues).await?;
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.context("a task that makes topics")??;
            }
            anyhow::Ok(())
        })?;
        self.await_routes(bench, contender)?;
        Ok(start.elapsed())
    }

    /// Waits until the name server knows who has the topics.
    pub(super) fn await_routes(self, bench: &Bench, contender: &Contender) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        bench.runtime.block_on(async {
            await_route(contender, &self.topic(0), deadline).await?;
            await_route(contender, &self.topic(self.count - 1), deadline).await
        })
    }

    /// Reads all queues from their first message to their end; tells how many messages there are, all whole and dense.
    pub(super) fn read_all(self, bench: &Bench, contender: &Contender) -> Result<u64> {
        let (address, deadline) = (contender.broker(), Instant::now() + START_LIMIT);
        bench.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for first in 0..CONNECTIONS {
                let broker = Wire::connect_by(&address, deadline).await?;
                tasks.spawn(async move {
                    let mut messages = 0;
                    for number in (first..self.count).step_by(CONNECTIONS as usize) {
                        let topic = self.topic(number);
                        for queue in 0..self.queues {
                            messages += read_queue(&broker, &topic, queue).await?;
                        }
                    }
                    anyhow::Ok(messages)
                });
            }
            let mut messages = 0;
            while let Some(done) = tasks.join_next().await {
                messages += done.context("a task that reads")??;
            }
            Ok(messages)
        })
    }
}

/// Reads a queue; tells how many messages it has.
async fn read_queue(broker: &Wire, topic: &str, queue: i32) -> Result<u64> {
    let mut offset = 0;
    loop {
        let page = broker.pull(topic, queue, offset).await?;
        if !page.found {
            ensure!(offset == page.end, "{topic}, queue {queue}: nothing at {offset} of {}", page.end);
            return Ok(offset.unsigned_abs());
        }
        for record in records(&page.records) {
            let record = record.with_context(|| format!("{topic}, queue {queue}, {offset}"))?;
            record.check_body().with_context(|| format!("{topic}, queue {queue}, {offset}"))?;
            ensure!(
                record.queue_offset.0 == offset,
                "{topic}, queue {queue}: {} where {offset} is next",
                record.queue_offset
            );
            offset += 1;
        }
    }
}
