//! Row 5: one call on a file goes wrong: an I/O error, no room, an interruption, half a write, half a read.
//!
//! *Every* call of a scripted broker is failed in turn, in each way, in the simulator, where that takes seconds (`cargo
//! xtask sim --every-call`). Then calls by chance on the real binary: a scripted life (start, a few sends, an orderly
//! stop) is counted once and lived again and again, each time with another call gone wrong. The process may refuse and it
//! may end with a reason; it may not crash, and what it acknowledged must be there when it starts again on a healthy
//! system.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::{sleep, timeout};

use super::body::Bodies;
use super::broker::{Broker, Setup};
use super::job::{Flush, Job, Outcome};
use super::ledger::{Acknowledged, Ledger};
use super::{shim, verify};
use crate::sim::{self, Play};
use crate::wire::{Sent, Wire};

const TOPIC: &str = "calls";
const QUEUES: i32 = 2;
/// Lives with something gone wrong, in the two forms.
const TIMES: (u32, u32) = (16, 600);
/// In the short form one of so many calls is failed in the simulator.
const SHORT_OF: u64 = 25;
const KINDS: [&str; 4] = ["eio", "enospc", "eintr", "short"];
/// Messages of one life; segments are so small that they roll.
const SENDS: u32 = 24;
const SETTINGS: &str = "mappedFileSizeCommitLog=8192\nmappedFileSizeConsumeQueue=200\n";
/// Longest that a start may take until somebody listens, or the process ended.
const START_LIMIT: Duration = Duration::from_secs(20);
/// A queue flush falls into the life.
const IDLE: Duration = Duration::from_millis(1100);
const POLL: Duration = Duration::from_millis(5);

/// Lives them.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("calls gone wrong");
    simulate(job, &mut outcome)?;
    let preload = shim::compile(&job.scratch)?;
    let counted = Life::prepare(job, 0, &preload, None)?;
    let mut ledger = Ledger::default();
    counted.live(&mut ledger).await?;
    let calls = counted.calls()?;
    ensure!(calls > 50, "only {calls} calls were seen: the binary does not go through the C library");
    ensure!(
        ledger.acknowledged() == u64::from(SENDS),
        "a healthy life acknowledged {}",
        ledger.acknowledged()
    );
    let mut chance = job.chance();
    let mut acknowledged = 0;
    let (mut refused_start, mut died) = (0, 0);
    for number in 1..=job.times(TIMES.0, TIMES.1) {
        let nth = chance.within(1..calls + 1);
        let kind = KINDS[chance.within(0..KINDS.len() as u64) as usize];
        let life = Life::prepare(job, number, &preload, Some((nth, kind)))?;
        let mut ledger = Ledger::default();
        let place = format!("{kind} at call {nth} of {calls}");
        let end = life.live(&mut ledger).await.with_context(|| place.clone())?;
        refused_start += u64::from(end == End::DidNotStart);
        died += u64::from(end == End::Crashed);
        outcome.check(end != End::Crashed, || format!("{place}: the process crashed"));
        outcome.times += 1;
        acknowledged += ledger.acknowledged();
        life.check(&ledger, &mut outcome).await.with_context(|| place.clone())?;
        let clean = outcome.problems.is_empty();
        ensure!(clean, "{place}: {}", outcome.problems.join("; "));
        life.setup.remove()?;
    }
    outcome.figure(format!(
        "of {calls} calls in a life of the binary; {acknowledged} acknowledged; {refused_start} did not start and said why, {died} crashed"
    ));
    Ok(outcome)
}

/// Fails the calls of a scripted broker in the simulator, one after the other.
fn simulate(job: &Job, outcome: &mut Outcome) -> Result<()> {
    let play = Play::Calls { first: job.seed, of: if job.short { SHORT_OF } else { 1 } };
    let played = tokio::task::block_in_place(|| sim::play_in(play, &job.scratch))?;
    outcome.times += played.done;
    outcome.lost += played.failed;
    outcome.figure(format!("{} of them in the simulator", played.done));
    ensure!(played.failed == 0, "{} calls failed in the simulator broke a law", played.failed);
    Ok(())
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By its orderly stop, whatever the exit code.
    Stopped,
    /// It never listened.
    DidNotStart,
    /// By a signal.
    Crashed,
}

struct Life {
    setup: Setup,
    count: std::path::PathBuf,
}

impl Life {
    fn prepare(
        job: &Job,
        number: u32,
        preload: &(String, String),
        wrong: Option<(u64, &str)>,
    ) -> Result<Life> {
        let data = job.scratch.join(format!("data-{number}"));
        let mut setup = Setup::new(job, &data, &format!("{}{SETTINGS}", Flush::Sync.setting()))?;
        let count = job.scratch.join("calls");
        setup.environment = vec![
            preload.clone(),
            ("TORTURE_ROOT".to_owned(), data.display().to_string()),
            ("TORTURE_COUNT".to_owned(), count.display().to_string()),
        ];
        if let Some((nth, kind)) = wrong {
            setup.environment.push(("TORTURE_NTH".to_owned(), nth.to_string()));
            setup.environment.push(("TORTURE_KIND".to_owned(), kind.to_owned()));
        }
        Ok(Life { setup, count })
    }

    async fn live(&self, ledger: &mut Ledger) -> Result<End> {
        let mut broker = self.setup.start()?;
        let Some(wire) = self.connect(&mut broker).await? else {
            return Ok(match broker.ended()? {
                Some(status) if status.signal().is_some() => End::Crashed,
                _ => End::DidNotStart,
            });
        };
        // Refusals are answers; a broken connection shows in how the process ended.
        let sent = timeout(START_LIMIT, send(&wire, ledger)).await;
        sent.context("a send is not answered")?.ok();
        drop(wire);
        let status = broker.stop()?;
        Ok(if status.signal().is_some() { End::Crashed } else { End::Stopped })
    }

    /// A connection, or none when the process ended before it listened.
    async fn connect(&self, broker: &mut Broker) -> Result<Option<Wire>> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if broker.ended()?.is_some() {
                return Ok(None);
            }
            if let Ok(wire) = Wire::connect(&self.setup.address()).await {
                return Ok(Some(wire));
            }
            ensure!(Instant::now() < deadline, "the broker neither listens nor ends");
            sleep(POLL).await;
        }
    }

    /// Calls that the last life made.
    fn calls(&self) -> Result<u64> {
        let text = std::fs::read_to_string(&self.count).context("the shim was not loaded: no count")?;
        text.trim().parse().context("the shim's count is no number")
    }

    /// On a healthy system everything acknowledged is there.
    async fn check(&self, ledger: &Ledger, outcome: &mut Outcome) -> Result<()> {
        if ledger.acknowledged() == 0 {
            return Ok(());
        }
        let mut healthy = self.setup.clone();
        healthy.environment.clear();
        let (mut broker, findings) = verify::restart(&healthy, TOPIC, QUEUES, ledger).await?;
        outcome.read_back(&findings);
        broker.kill()
    }
}

async fn send(wire: &Wire, ledger: &mut Ledger) -> Result<()> {
    wire.create_topic(TOPIC, QUEUES).await?;
    let mut bodies = Bodies::new(1, 1, 1, 1024);
    for number in 0..SENDS {
        let body = bodies.next();
        let (bytes, crc) = (body.len(), cometmq_protocol::message::record::body_crc(&body));
        if let Sent::Stored(stored) = wire.send(TOPIC, number.cast_signed() % QUEUES, body).await? {
            ledger.enter(Acknowledged { stored, bytes, crc });
        }
        if number == SENDS / 2 {
            sleep(IDLE).await;
        }
    }
    Ok(())
}
