//! Queue locks: two clients of a group that want the same queue for themselves.
//!
//! Law: never do both believe that they have it. A client stops believing when it gave the lock back or lost its
//! connection; the lock ends with the broker's process, and a client's belief with the connection that this cuts. In
//! runs whose wall clock jumps a lease may end early: there nothing is claimed.

use std::collections::BTreeMap;

use bytes::Bytes;
use cometmq_protocol::body::client::{LockQueuesBody, LockedQueuesBody, MessageQueue};
use cometmq_protocol::body::json;
use cometmq_protocol::{Fields, RequestCode};

use super::{Answer, Ask, Room};
use crate::net::Server;
use crate::plan::SECOND;
use crate::world::Core;

const GROUP: &str = "ordered";
const PAUSE: u64 = SECOND / 10;

#[derive(Debug)]
struct Order {
    number: usize,
    contenders: Vec<Contender>,
}

#[derive(Debug)]
struct Contender {
    client: usize,
    /// The connection by which it got the lock that it has.
    holds: Option<u64>,
    /// An unlock of unknown fate may be carried out late: it stays away.
    stays_away: bool,
    asked: BTreeMap<i32, Asked>,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Lock { link: Option<u64> },
    Unlock,
}

/// The room.
pub(super) fn make(number: usize, core: &mut Core) -> Box<dyn Room> {
    let contenders = (0..2).map(|n| Contender {
        client: core.session(number, format!("contender {n}")),
        holds: None,
        stays_away: false,
        asked: BTreeMap::new(),
    });
    Box::new(Order { number, contenders: contenders.collect() })
}

impl Contender {
    fn act(&mut self, core: &mut Core) {
        if !self.asked.is_empty() || self.stays_away {
            return;
        }
        let unlocks = self.holds.is_some() && core.chance.one_in(3);
        let code = if unlocks { RequestCode::UnlockQueues } else { RequestCode::LockQueues };
        let topic = core.ledger.topics[0].clone();
        let queue = MessageQueue { broker_name: "b".into(), queue_id: 0, topic };
        let client_id = core.sessions[self.client].name.clone();
        let body = LockQueuesBody { client_id, consumer_group: GROUP.into(), mq_set: vec![queue] };
        let body = Bytes::from(json::to_vec(&body));
        let ask = Ask { body, ..Ask::plain(code, Fields::default()) };
        let opaque = core.ask(self.client, Server::Broker, ask);
        let link = core.sessions[self.client].links.get(&Server::Broker).copied();
        let asked = if unlocks { Asked::Unlock } else { Asked::Lock { link } };
        if unlocks {
            self.holds = None;
        }
        self.asked.insert(opaque, asked);
    }

    fn believes(&self, core: &Core) -> bool {
        self.holds.is_some() && core.sessions[self.client].links.get(&Server::Broker).copied() == self.holds
    }
}

impl Room for Order {
    fn name(&self) -> &'static str {
        "order"
    }

    fn woken(&mut self, core: &mut Core, tag: u64) {
        if tag == 0 {
            core.wake(self.number, 1, PAUSE);
            return core.wake(self.number, 2, PAUSE);
        }
        if !core.is_settled() {
            self.contenders[tag as usize - 1].act(core);
            let pause = core.chance.within(1, 2 * PAUSE);
            core.wake(self.number, tag, pause);
        }
    }

    fn answered(&mut self, core: &mut Core, answer: Answer) {
        let found = self.contenders.iter_mut().find(|contender| contender.client == answer.client);
        let Some(contender) = found else { return };
        let Some(asked) = contender.asked.remove(&answer.opaque) else { return };
        match (asked, answer.reply) {
            (Asked::Unlock, None) => contender.stays_away = true,
            (Asked::Unlock, Some(_)) => {}
            // The lock may be its own without its knowing: it is free again after a minute.
            (Asked::Lock { .. }, None) => contender.holds = None,
            (Asked::Lock { link }, Some((frame, _))) => {
                let granted = json::parse::<LockedQueuesBody>(&frame.body);
                let granted = granted.is_ok_and(|body| !body.lock_ok_mq_set.is_empty());
                contender.holds = link.filter(|_| granted);
            }
        }
        if !core.clock_jumped && self.contenders.iter().all(|contender| contender.believes(core)) {
            core.broken("ORDER: both clients have the lock of one queue".to_owned());
        }
    }

    fn recovered(&mut self, _core: &mut Core, _lossy: bool) {
        for contender in &mut self.contenders {
            (contender.holds, contender.stays_away) = (None, false);
        }
    }

    fn unfinished(&self, _core: &Core) -> Option<String> {
        let busy = self.contenders.iter().any(|contender| !contender.asked.is_empty());
        busy.then(|| "locks under way".to_owned())
    }
}
