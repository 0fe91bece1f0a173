//! Reading everything back from a broker and holding it against the ledger.

use anyhow::Result;
use cometmq_protocol::message::record::records;

use super::broker::{Broker, Setup};
use super::ledger::{Findings, Ledger, ReadBack};
use crate::wire::Wire;

/// Reads each queue from `from` on (all from 0 when `from` is empty) to its end. Also returns the ends.
pub(super) async fn read_back(
    wire: &Wire,
    topic: &str,
    queues: i32,
    from: &[i64],
    ledger: &Ledger,
) -> Result<(Findings, Vec<i64>)> {
    let mut read_back = ReadBack::new(ledger);
    let mut ends = Vec::new();
    for queue in 0..queues {
        let first = from.get(queue as usize).copied().unwrap_or(0);
        ends.push(read_queue(wire, topic, queue, first, &mut read_back).await?);
    }
    Ok((read_back.finish(), ends))
}

/// Starts the broker again and holds all that it serves against the ledger. It runs on: how it ends is the caller's
/// business.
pub(super) async fn restart(
    setup: &Setup,
    topic: &str,
    queues: i32,
    ledger: &Ledger,
) -> Result<(Broker, Findings)> {
    let (mut broker, wire) = setup.start_and_connect().await?;
    let (findings, _) = broker.needed_by(read_back(&wire, topic, queues, &[], ledger)).await??;
    Ok((broker, findings))
}

async fn read_queue(
    wire: &Wire,
    topic: &str,
    queue: i32,
    first: i64,
    read_back: &mut ReadBack<'_>,
) -> Result<i64> {
    let mut offset = first;
    loop {
        let page = wire.pull(topic, queue, offset).await?;
        let before = offset;
        if page.found {
            for record in records(&page.records) {
                match record {
                    Ok(record) => offset = read_back.record(queue, offset, &record),
                    Err(error) => read_back.unreadable(queue, offset, &error),
                }
            }
        }
        // A page without a readable record: what is behind it counts as missing, up to the queue's end.
        if !page.found || offset == before {
            read_back.queue_ends(queue, first, offset, page.end);
            return Ok(offset);
        }
    }
}
