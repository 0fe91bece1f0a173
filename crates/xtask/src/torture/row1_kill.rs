//! Row 1: `kill -9` under load, again and again on the directory that the kill before it left.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::time::{sleep, timeout};

use super::broker::{START_LIMIT, Setup};
use super::job::{Flush, Job, Outcome};
use super::latency::{Latencies, ms};
use super::ledger::{Findings, Ledger};
use super::load::{Load, Positions, Tally};
use super::{verify, vitals};
use crate::chance::Chance;

const TOPIC: &str = "kill";
const QUEUES: i32 = 8;
/// Rounds between two readings of what is new.
const READ_EVERY: u32 = 10;
/// How long the load lasts after the first accepted send, in ms.
const LOAD_MS: std::ops::Range<u64> = 200..1000;
/// The same in the short form.
const SHORT_LOAD_MS: std::ops::Range<u64> = 100..400;
/// Segment size of the short form: rolls happen all the time.
const SHORT_SETTINGS: &str = "mappedFileSizeCommitLog=1048576\n";
/// Rounds in the two forms.
const TIMES: (u32, u32) = (5, 500);
/// What the slowest of a hundred starts may take until the first acknowledgement.
const RESTART_P99: Duration = Duration::from_secs(1);

/// Kills the broker, restarts it, and looks for everything that was acknowledged or consumed.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let settings = if job.short { SHORT_SETTINGS } else { "" };
    let flush = job.flush.unwrap_or(Flush::Async).setting();
    let setup = Setup::new(job, &job.scratch.join("data"), &format!("{flush}{settings}"))?;
    let mut campaign = Campaign {
        setup,
        chance: job.chance(),
        load_ms: if job.short { SHORT_LOAD_MS } else { LOAD_MS },
        ledger: Ledger::default(),
        tally: Tally::default(),
        read: Positions::new(QUEUES),
        restarts: Latencies::default(),
    };
    let mut outcome = Outcome::of("kills");
    let result = campaign.run(job.times(TIMES.0, TIMES.1), &mut outcome).await;
    let Campaign { ledger, tally, restarts, .. } = &campaign;
    outcome.figure(format!("{} acknowledged, {} consumed", ledger.acknowledged(), tally.consumed));
    outcome.figure(format!(
        "restart to first ack p50 {}, p99 {}, max {}",
        ms(restarts.at(0.5)),
        ms(restarts.at(0.99)),
        ms(restarts.at(1.0))
    ));
    outcome.problems.extend(tally.problems.iter().take(3).cloned());
    outcome.check(tally.refused == 0, || format!("{} sends refused: {:?}", tally.refused, tally.refusals));
    // Of a few restarts the slowest says more about the machine than about the broker.
    outcome.check(job.short || restarts.at(0.99) < RESTART_P99, || {
        format!("restart p99 {} is not below {}", ms(restarts.at(0.99)), ms(RESTART_P99))
    });
    result.map(|()| outcome)
}

struct Campaign {
    setup: Setup,
    chance: Chance,
    load_ms: std::ops::Range<u64>,
    ledger: Ledger,
    tally: Tally,
    read: Positions,
    restarts: Latencies,
}

impl Campaign {
    async fn run(&mut self, rounds: u32, outcome: &mut Outcome) -> Result<()> {
        // The topic must survive the kill right after its creation was acknowledged.
        let (mut broker, _) = self.setup.start_with_topic(TOPIC, QUEUES).await?;
        broker.kill()?;
        let mut verified = Vec::new();
        for round in 1..=rounds {
            self.round(round).await.with_context(|| format!("round {round}"))?;
            outcome.times += 1;
            if round == rounds || round.is_multiple_of(READ_EVERY) {
                // At the end everything, from 0 on.
                let from = if round == rounds { Vec::new() } else { verified };
                let (findings, ends) = self.read_back(&from).await.context("reading back")?;
                verified = ends;
                if round == rounds || !findings.is_clean() {
                    outcome.read_back(&findings);
                }
                if !findings.is_clean() {
                    bail!("after round {round}: {}", findings.summary());
                }
            }
            if let Some(problem) = self.tally.problems.first() {
                bail!("{problem}");
            }
        }
        Ok(())
    }

    /// One life of the broker, from its start to its kill.
    async fn round(&mut self, number: u32) -> Result<()> {
        let started = Instant::now();
        let mut broker = self.setup.start()?;
        let load = Load {
            round: number,
            seed: self.chance.next(),
            consumers: 4,
            ..Load::new(self.setup.address(), TOPIC, QUEUES)
        };
        let running = load.start(&self.read);
        let accepted = broker.needed_by(timeout(START_LIMIT, running.first_accepted())).await?;
        let accepted =
            accepted.with_context(|| format!("no send was accepted in {} s", START_LIMIT.as_secs()))?;
        self.restarts.push(accepted - started);
        let lasts = Duration::from_millis(self.chance.within(self.load_ms.clone()));
        broker.needed_by(sleep(lasts)).await.context("under load")?;
        running.expect_kill();
        broker.kill()?;
        running.finish(&mut self.ledger, &mut self.tally).await
    }

    /// Starts the broker, reads every queue, stops it.
    async fn read_back(&mut self, from: &[i64]) -> Result<(Findings, Vec<i64>)> {
        let (mut broker, wire) = self.setup.start_and_connect().await?;
        let reading = verify::read_back(&wire, TOPIC, QUEUES, from, &self.ledger);
        let read = broker.needed_by(reading).await??;
        broker.kill()?;
        let left = vitals::leftovers(&self.setup.data)?;
        if !left.is_empty() {
            bail!("row 24: temporary files are left: {}", left.join(", "));
        }
        Ok(read)
    }
}
