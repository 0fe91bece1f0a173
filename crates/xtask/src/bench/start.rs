//! Start after `kill -9`, by the size of the log: from starting the process to the first accepted send.
//!
//! The log holds a gigabyte that was really sent to 100,000 queues. For the larger one, 49 segments of 1 GiB are there
//! before the server first starts: valid records of 4 MiB whose bodies are holes ([`super::sparse_log`]). After the last
//! start what was really sent is read back, of the others the first and the last of each queue.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cometmq_protocol::message::record::records;

use super::contender::{Contender, Flush, Software};
use super::figure::{Figure, number};
use super::many::Topics;
use super::report::{Report, median};
use super::{Bench, QUEUES, START_LIMIT, sparse_log};
use crate::wire::Wire;

/// Messages of 1 KiB to each of the queues: with 100,000 of these a gigabyte.
const EACH: u64 = 8;
const BODY_BYTES: u64 = 1024;
/// Segments of the sparse log, and their size, which is the broker's default.
const SEGMENTS: i64 = 49;
const SEGMENT_BYTES: i64 = 1024 * 1024 * 1024;
const BULK: &str = "bulk";

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let segments = bench.effort.of_trial(SEGMENTS, 2);
    for segments in [0, segments] {
        measure(bench, segments, report)?;
    }
    Ok(())
}

fn measure(bench: &Bench, segments: i64, report: &mut Report) -> Result<()> {
    let topics = Topics {
        name: "many",
        count: bench.effort.of_trial(1_000, 20),
        queues: bench.effort.of_trial(100, 10),
    };
    let mut contender = Contender::prepare(Software::Comet, &bench.programs, Flush::Async)?;
    let log = contender.store().join("commitlog");
    let bulk = sparse_log::write(&log, segments, SEGMENT_BYTES, BULK, i64::from(QUEUES))?;
    let first = bench.start(&mut contender)?;
    bench.create_topic(&contender, BULK)?;
    topics.create(bench, &contender)?;
    let flags = format!(
        "{} --size {BODY_BYTES} --in-flight 256 --warmup 0 --count {}",
        topics.flags(),
        topics.queues() * EACH
    );
    let mut sent = bench.generate(&contender, "send", topics.name, &flags)?.messages()? as u64;
    let mut starts = Vec::new();
    for _ in 0..bench.effort.rounds {
        topics.await_routes(bench, &contender)?;
        // Killed under load: the generator notices that its server is gone.
        let flags = format!("{} --size 128 --in-flight 64 --duration 600", topics.flags());
        let load = bench.begin(&contender, "send", topics.name, &flags)?;
        std::thread::sleep(Duration::from_secs(2));
        contender.kill()?;
        drop(load);
        starts.push(bench.start(&mut contender)?.as_secs_f64());
    }
    let found = topics.read_all(bench, &contender)?;
    ensure!(found >= sent, "{sent} messages were acknowledged, {found} can be read");
    sent += read_bulk(bench, &contender, bulk)?;
    let gigabytes = segments + 1;
    let name = format!("start after kill -9 with {gigabytes} GB of log and {} queues", topics.queues());
    let all: Vec<_> = starts.iter().map(|start| number(*start)).collect();
    let from = format!(
        "{} s; first start of all on {} GB of foreign log {} s; {} messages acknowledged and there",
        all.join(", "),
        segments,
        number(first.as_secs_f64()),
        number(sent as f64)
    );
    report.figure("start", Figure::new(name, median(&starts), "s").at_most(2.0).from(from));
    Ok(())
}

/// Reads the first and the last record of each queue of the sparse log; tells how many it has, which must be `expected`.
fn read_bulk(bench: &Bench, contender: &Contender, expected: i64) -> Result<u64> {
    if expected == 0 {
        return Ok(0);
    }
    let deadline = Instant::now() + START_LIMIT;
    let found = bench.runtime.block_on(async {
        let broker = Wire::connect_by(&contender.broker(), deadline).await?;
        let mut found = 0;
        for queue in 0..QUEUES {
            let end = broker.pull(BULK, queue, 0).await?.end;
            for offset in [0, end - 1] {
                let page = broker.pull(BULK, queue, offset).await?;
                let record = records(&page.records).next().context("no record")??;
                record.check_body()?;
                ensure!(
                    record.queue_offset.0 == offset,
                    "queue {queue} has {} at {offset}",
                    record.queue_offset
                );
            }
            found += end.unsigned_abs();
        }
        anyhow::Ok(found)
    });
    let found = found.context("reading the sparse log")?;
    ensure!(
        found == expected.unsigned_abs(),
        "of {expected} records of the sparse log {found} are in queues"
    );
    Ok(found)
}
