//! Sends and a reader of the newest messages, alone and while another reader drains an old backlog from the disk.
//!
//! The backlog is much larger than what the server keeps in memory, and the system's cached pages of the log are
//! forgotten each time before it is read. Sending goes in a closed loop for its rate, then at a third of that rate for
//! its latency and that of the reader of the newest, which a closed loop would hide in its own waiting.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::contender::{Contender, Flush, Software};
use super::figure::{Figure, number};
use super::generator::{Outcome, Running};
use super::report::{Report, median};
use super::{Bench, machine};

/// Messages of the old backlog.
const MESSAGES: u64 = 10_000_000;
/// Time between two looks whether a load has ended.
const POLL: Duration = Duration::from_millis(20);
/// Seconds for which the generator sends before it measures.
const SEND_WARMUP: u32 = 2;
const OLD: &str = "old";
const NEW: &str = "sends";
/// Share of the rate of sends alone at which latency is measured.
const STEADY_SHARE: f64 = 1.0 / 3.0;

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let contender = bench.start_one(Software::Comet, Flush::Async, NEW)?;
    bench.create_topic(&contender, OLD)?;
    let messages = bench.effort.messages(MESSAGES);
    let flags = format!("--size 128 --in-flight 256 --warmup 0 --count {messages}");
    bench.generate(&contender, "send", OLD, &flags)?;
    let scene = Scene { bench, contender };
    let (mut alone, mut beside) = (Samples::default(), Samples::default());
    for _ in 0..bench.effort.rounds {
        scene.closed(false, &mut alone)?;
        scene.closed(true, &mut beside)?;
        let rate = median(&alone.closed) * STEADY_SHARE;
        scene.steady(rate, false, &mut alone)?;
        scene.steady(rate, true, &mut beside)?;
    }
    add_figures(&alone, &beside, report);
    Ok(())
}

/// What the rounds gave, without or with the reader of the old.
#[derive(Default)]
struct Samples {
    /// Rate of a closed loop.
    closed: Vec<f64>,
    /// Rate of an open loop.
    steady: Vec<f64>,
    send_p99_ms: Vec<f64>,
    /// Age of messages when the reader of the newest had them.
    tail_p99_ms: Vec<f64>,
    /// What the server read from the disk in each stretch.
    disk_read_mib: Vec<f64>,
    /// Rate of the reader of the old.
    drained: Vec<f64>,
}

struct Scene<'a> {
    bench: &'a Bench,
    contender: Contender,
}

impl Scene<'_> {
    fn closed(&self, with_reader: bool, samples: &mut Samples) -> Result<()> {
        let flags = format!("--size 128 --in-flight 64 --duration {}", self.bench.effort.seconds());
        let rate = self.send(&flags, with_reader, samples)?.rate()?;
        samples.closed.push(rate);
        Ok(())
    }

    fn steady(&self, rate: f64, with_reader: bool, samples: &mut Samples) -> Result<()> {
        let seconds = self.bench.effort.seconds();
        // Until after the sends, their warm-up included.
        let follow = format!("--follow --from max --group tail --warmup 1 --duration {seconds}");
        let tail = self.bench.begin(&self.contender, "consume", NEW, &follow)?;
        let flags = format!("--size 128 --in-flight 64 --duration {seconds} --rate {rate:.0}");
        let sent = self.send(&flags, with_reader, samples)?;
        samples.steady.push(sent.rate()?);
        samples.send_p99_ms.push(sent.send_p99_ms()?);
        samples.tail_p99_ms.push(tail.finish()?.age_p99_ms()?);
        Ok(())
    }

    /// Sends, while the old backlog is drained again and again if `with_reader`.
    fn send(&self, flags: &str, with_reader: bool, samples: &mut Samples) -> Result<Outcome> {
        let read_before = machine::disk_read_mib(&self.contender.pids())?;
        let mut reader = if with_reader { Some(self.drain()?) } else { None };
        let mut sends = self.bench.begin(&self.contender, "send", NEW, flags)?;
        while !sends.ended()? {
            if let Some(running) = reader.take_if(|running| running.ended().unwrap_or(true)) {
                samples.drained.push(running.finish()?.rate()?);
                reader = Some(self.drain()?);
            }
            thread::sleep(POLL);
        }
        let read = machine::disk_read_mib(&self.contender.pids())? - read_before;
        samples.disk_read_mib.push(read);
        let sent = sends.finish().with_context(|| self.contender.log_tail())?;
        if let Some(running) = reader
            && samples.drained.is_empty()
        {
            samples.drained.push(running.finish()?.rate()?);
        }
        Ok(sent)
    }

    /// Starts to read the old backlog from the disk, for about as long as a stretch of sends takes.
    fn drain(&self) -> Result<Running> {
        machine::drop_cached_pages(&self.contender.store().join("commitlog"))?;
        let flags =
            format!("--from min --group old --duration {}", self.bench.effort.seconds() + SEND_WARMUP);
        self.bench.begin(&self.contender, "consume", OLD, &flags)
    }
}

fn add_figures(alone: &Samples, beside: &Samples, report: &mut Report) {
    let mut add = |name: &str, unit, [alone, beside]: [f64; 2], more: &str| {
        let from = format!("alone {} {unit}, beside it {} {unit}{more}", number(alone), number(beside));
        let figure = Figure::new(name, beside / alone, "×").from(from);
        let rate = unit == "messages/s";
        report.figure("cold", if rate { figure.at_least(0.8) } else { figure });
    };
    let both = |of: fn(&Samples) -> &Vec<f64>| [median(of(alone)), median(of(beside))];
    let read = format!(
        "; {} MiB read from the disk meanwhile, the reader at {} messages/s",
        number(median(&beside.disk_read_mib)),
        number(median(&beside.drained))
    );
    add("sends in a closed loop beside a cold reader", "messages/s", both(|s| &s.closed), &read);
    add("sends at a third of that rate beside a cold reader", "messages/s", both(|s| &s.steady), "");
    add("p99 of these sends", "ms", both(|s| &s.send_p99_ms), "");
    add("p99 of the age of messages at a reader of the newest", "ms", both(|s| &s.tail_p99_ms), "");
}
