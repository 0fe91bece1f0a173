//! A million queues in one server: made by request, each written once, then a thousand of them hot.
//!
//! The hot load takes turns with the same load on few queues of the same server, so that only the number of queues
//! that it touches, and what lies around them, differs.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::contender::{Contender, Flush, Software};
use super::figure::{Figure, number};
use super::machine::{self, Watch};
use super::many::Topics;
use super::report::{Report, median};

/// Topics, each with this many queues.
const TOPICS: u32 = 10_000;
const QUEUES: i32 = 100;
/// Topics of which one queue is hot.
const HOT: u32 = 1_000;
/// Longest wait until the entries of all queues are on the disk.
const QUIET_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Topics that make up the small load: eight queues.
const FEW: Topics = Topics { name: "few", count: 1, queues: 8 };

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let all = Topics {
        name: "many",
        count: bench.effort.of_trial(TOPICS, 50),
        queues: bench.effort.of_trial(QUEUES, 10),
    };
    let hot = Topics { count: HOT.min(all.count), queues: 1, ..all };
    let contender = bench.start_one(Software::Comet, Flush::Async, "sends")?;
    FEW.create(bench, &contender)?;
    let empty = send(bench, &contender, FEW)?;
    let watch = Watch::start(contender.pids());
    let created = all.create(bench, &contender)?;
    let mut memory = vec![("empty", contender.rss_mib()?)];
    let flags = format!("{} --size 128 --in-flight 256 --warmup 0 --count {}", all.flags(), all.queues());
    let once = bench.generate(&contender, "send", all.name, &flags)?;
    memory.push(("each written once", contender.rss_mib()?));
    let limit = bench.effort.of_trial(QUIET_LIMIT, Duration::from_millis(100));
    let quiet = machine::await_quiet(&contender.pids(), limit)?;
    memory.push(("all on the disk", contender.rss_mib()?));
    let (mut few_rates, mut hot_rates) = (Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        few_rates.push(send(bench, &contender, FEW)?);
        hot_rates.push(send(bench, &contender, hot)?);
    }
    memory.push(("after the hot load", contender.rss_mib()?));
    let peak = watch.finish()?;
    let most = memory.iter().fold(peak.rss_mib, |most, (_, mib)| most.max(*mib));
    let memory: Vec<_> = memory.iter().map(|(when, mib)| format!("{when} {}", number(*mib))).collect();
    let (few, hot) = (median(&few_rates), median(&hot_rates));
    let from = format!(
        "{} and {} messages/s; few queues before there were many: {}",
        number(hot),
        number(few),
        number(empty)
    );
    let mut add = |figure| report.figure("queues", figure);
    add(Figure::new("sends to 1,000 hot queues against few", hot / few, "×").at_least(0.7).from(from));
    add(Figure::new("resident memory at most", most, "MiB").at_most(1024.0).from(memory.join(", ")));
    add(Figure::new("open files at most", peak.open_files as f64, "").at_most(2_000.0));
    let from = format!("{} topics of {} queues", number(f64::from(all.count)), all.queues);
    add(Figure::new("making all topics", created.as_secs_f64(), "s").from(from));
    let from = format!(
        "{} queues, each written once; the disk was quiet after {} s more",
        number(once.messages()?),
        number(quiet.as_secs_f64())
    );
    add(Figure::new("sends to all queues in turn", once.rate()?, "messages/s").from(from));
    Ok(())
}

/// Sends to all queues of these topics in turn; the rate.
fn send(bench: &Bench, contender: &Contender, topics: Topics) -> Result<f64> {
    let flags = format!("{} --size 128 --in-flight 64 --duration {}", topics.flags(), bench.effort.seconds());
    bench.generate(contender, "send", topics.name, &flags)?.rate()
}
