//! Row 18: the wall clock jumps, forwards and back, by an hour and by ten years, under load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cometmq_protocol::RequestCode;
use cometmq_protocol::message::record::records;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::broker::Setup;
use super::job::{Flush, Job, Outcome};
use super::ledger::Ledger;
use super::load::{Load, Positions, Running, Tally};
use super::shim::{self, Clock};
use super::verify;
use crate::wire::Wire;

const TOPIC: &str = "clock";
const QUEUES: i32 = 4;
const GROUP: &str = "clock-group";
const MEMBER: &str = "127.0.0.1@torture";
const HOUR: i64 = 60 * 60;
const TEN_YEARS: i64 = 10 * 31_556_952;
/// From the right time, in seconds, one after the other.
const JUMPS: [i64; 8] = [HOUR, 0, TEN_YEARS, 0, -HOUR, 0, -TEN_YEARS, 0];
/// Rounds of all jumps in the two forms.
const TIMES: (u32, u32) = (1, 20);
/// How long each time lasts: several looks of the broker at what is due.
const STAY: Duration = Duration::from_millis(700);

/// Moves the clock and looks who is still there.
pub(super) async fn run(job: &Job) -> Result<Outcome> {
    let mut outcome = Outcome::of("clock jumps");
    let clock = Clock::right(&job.scratch)?;
    let flush = job.flush.unwrap_or(Flush::Async).setting();
    let mut setup = Setup::new(job, &job.scratch.join("data"), flush)?;
    setup.environment = vec![shim::compile(&job.scratch)?, clock.variable()];
    let (mut broker, wire) = setup.start_with_topic(TOPIC, QUEUES).await?;
    heartbeat(&wire).await?;
    let load = Load {
        senders: 2,
        consumers: 2,
        pause: Duration::from_millis(2),
        seed: job.seed,
        ..Load::new(setup.address(), TOPIC, QUEUES)
    };
    let running = load.start(&Positions::new(QUEUES));
    broker.needed_by(running.first_accepted()).await?;
    for _ in 0..job.times(TIMES.0, TIMES.1) {
        for jump in JUMPS {
            clock.set(jump)?;
            let look = look(&setup, &wire, &running);
            broker
                .needed_by(look)
                .await?
                .with_context(|| format!("with the clock {jump} s off"))?
                .report(jump, &mut outcome);
            outcome.times += 1;
        }
        // Clients say so every thirty seconds.
        heartbeat(&wire).await?;
    }
    let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
    running.finish(&mut ledger, &mut tally).await?;
    outcome.problems.extend(tally.problems.iter().take(3).cloned());
    outcome.check(tally.refused == 0, || format!("refused: {:?}", tally.refusals));
    outcome.figure(format!("{} acknowledged, {} consumed", ledger.acknowledged(), tally.consumed));
    let backwards = broker.needed_by(backwards(&wire)).await??;
    outcome
        .check(backwards == 0, || format!("{backwards} store times are before that of the message before"));
    broker.kill()?;
    let (mut broker, findings) = verify::restart(&setup, TOPIC, QUEUES, &ledger).await?;
    outcome.read_back(&findings);
    broker.kill()?;
    Ok(outcome)
}

/// Who and what is there while the clock is wrong.
struct Look {
    acknowledged: i64,
    member: bool,
    route: bool,
}

impl Look {
    fn report(&self, jump: i64, outcome: &mut Outcome) {
        outcome.check(self.acknowledged > 0, || format!("{jump} s: nothing was acknowledged any more"));
        outcome.check(self.member, || {
            format!("{jump} s: a consumer that said it lives a moment ago was dropped")
        });
        outcome.check(self.route, || format!("{jump} s: the name server dropped the broker"));
    }
}

async fn look(setup: &Setup, wire: &Wire, running: &Running) -> Result<Look> {
    let before = running.acknowledged();
    sleep(STAY).await;
    let namesrv = Wire::connect(&setup.namesrv()).await?;
    Ok(Look {
        acknowledged: running.acknowledged() - before,
        member: members(wire).await?.iter().any(|member| member == MEMBER),
        route: namesrv.has_route(TOPIC).await?,
    })
}

/// Says that a consumer lives.
async fn heartbeat(wire: &Wire) -> Result<()> {
    let body = json!({
        "clientID": MEMBER,
        "consumerDataSet": [{
            "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
            "consumeType": "CONSUME_PASSIVELY",
            "groupName": GROUP,
            "messageModel": "CLUSTERING",
            "subscriptionDataSet": [{ "subString": "*", "topic": TOPIC, "subVersion": 1 }],
        }],
        "producerDataSet": [],
    });
    let answer = wire.raw(RequestCode::Heartbeat.code(), &[], Bytes::from(body.to_string())).await?;
    ensure!(answer.code == 0, "the heartbeat was refused: {}", answer.remark);
    Ok(())
}

async fn members(wire: &Wire) -> Result<Vec<String>> {
    let code = RequestCode::GetConsumerList.code();
    let answer = wire.raw(code, &[("consumerGroup", GROUP)], Bytes::new()).await?;
    // An empty group is answered with an error.
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let ids = body["consumerIdList"].as_array().into_iter().flatten();
    Ok(ids.filter_map(|id| id.as_str().map(str::to_owned)).collect())
}

/// How many messages were stored before their predecessor in the queue, by their store times.
async fn backwards(wire: &Wire) -> Result<u64> {
    let mut backwards = 0;
    for queue in 0..QUEUES {
        let (mut offset, mut last) = (0, 0);
        loop {
            let page = wire.pull(TOPIC, queue, offset).await?;
            if !page.found {
                break;
            }
            let before = offset;
            for record in records(&page.records) {
                let record = record?;
                backwards += u64::from(record.store_timestamp.0 < last);
                last = record.store_timestamp.0;
                offset = record.queue_offset.0 + 1;
            }
            ensure!(offset > before, "queue {queue} gives nothing at {offset}");
        }
    }
    Ok(backwards)
}
