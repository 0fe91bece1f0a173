//! Sending when every acknowledgement waits for the disk, by threads of the official Java client.

use anyhow::Result;

use super::contender::Flush;
use super::report::Report;
use super::{BROKERS, Bench};

/// Messages that warm the client and the servers up.
const WARMUP: u64 = 5_000;

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let contenders = bench.start_all(&BROKERS, Flush::Sync)?;
    bench.in_turns(&contenders, |contender, _| {
        let sample = bench.send_by_threads(contender, "sends", 64, bench.effort.of_trial(WARMUP, 100))?;
        report.add_sends("send 128 B, 64 threads, SYNC_FLUSH", contender.software(), &sample);
        Ok(())
    })
}
