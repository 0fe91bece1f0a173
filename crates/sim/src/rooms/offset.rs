//! Offsets of a group: two clients read and commit with their pulls, another commits by itself and asks.
//!
//! Laws: an acknowledged commit is what the group stands at, until a later one; what comes with an older pull by another
//! connection takes nothing back; after a crash a group stands at something that was committed, never beyond its queue.

use std::collections::BTreeMap;

use super::pull::{Pulled, commit_fields, pull_fields, query_fields, read_offset, read_pull};
use super::{Answer, Ask, Room};
use crate::ledger::QueueKey;
use crate::net::Server;
use crate::plan::SECOND;
use crate::world::Core;
use cometmq_protocol::{Header, RequestCode, ResponseCode};

const GROUP: &str = "offsets";
/// The queue that is read: the first of the first topic.
const KEY: QueueKey = (0, 0);
const PAUSE: u64 = SECOND / 20;

#[derive(Debug)]
struct Offsets {
    number: usize,
    readers: [usize; 2],
    committer: usize,
    /// Messages before this offset were delivered.
    consumed: i64,
    /// Where the group stands at the least; `None` when that is not certain.
    committed: Option<i64>,
    /// Commits whose fate is unknown: they may be carried out later.
    dangling: bool,
    asked: BTreeMap<i32, Asked>,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Pull { from: i64, reader: usize },
    Commit(i64),
    Query { at_least: Option<i64> },
}

/// The room.
pub(super) fn make(number: usize, core: &mut Core) -> Box<dyn Room> {
    Box::new(Offsets {
        number,
        readers: ["one reader", "the other reader"].map(|name| core.session(number, name.into())),
        committer: core.session(number, "the committer".into()),
        consumed: 0,
        committed: None,
        dangling: false,
        asked: BTreeMap::new(),
    })
}

impl Offsets {
    fn read(&mut self, core: &mut Core, reader: usize) {
        let topic = core.ledger.topics[KEY.0].clone();
        let from = self.consumed;
        let fields = pull_fields(GROUP, &topic, KEY.1, from, Some(from), 0);
        let opaque = core.ask(reader, Server::Broker, Ask::plain(RequestCode::PullMessage, fields));
        self.asked.insert(opaque, Asked::Pull { from, reader });
    }

    fn commit(&mut self, core: &mut Core) {
        let topic = core.ledger.topics[KEY.0].clone();
        let fields = commit_fields(GROUP, &topic, KEY.1, self.consumed);
        let ask = Ask::plain(RequestCode::UpdateConsumerOffset, fields);
        let opaque = core.ask(self.committer, Server::Broker, ask);
        self.asked.insert(opaque, Asked::Commit(self.consumed));
    }

    fn query(&mut self, core: &mut Core) {
        let topic = core.ledger.topics[KEY.0].clone();
        let ask = Ask::plain(RequestCode::QueryConsumerOffset, query_fields(GROUP, &topic, KEY.1));
        let opaque = core.ask(self.committer, Server::Broker, ask);
        let at_least = self.committed.filter(|_| !self.dangling);
        self.asked.insert(opaque, Asked::Query { at_least });
    }
}

impl Room for Offsets {
    fn name(&self) -> &'static str {
        "offset"
    }

    fn woken(&mut self, core: &mut Core, tag: u64) {
        let is_pull = |asked: &Asked| matches!(asked, Asked::Pull { .. });
        if core.is_settled() {
            return;
        }
        if tag == 0 {
            for reader in self.readers {
                let pulls = |asked: &Asked| matches!(asked, Asked::Pull { reader: by, .. } if *by == reader);
                if !self.asked.values().any(pulls) {
                    self.read(core, reader);
                }
            }
            if self.asked.values().all(is_pull) {
                self.commit(core);
            }
        }
        let pause = core.chance.within(1, 2 * PAUSE);
        core.wake(self.number, 0, pause);
    }

    fn answered(&mut self, core: &mut Core, answer: Answer) {
        let Some(asked) = self.asked.remove(&answer.opaque) else { return };
        let Some((frame, sent_at)) = &answer.reply else {
            self.dangling |= matches!(asked, Asked::Commit(_));
            return;
        };
        match asked {
            Asked::Pull { from, .. } => {
                match read_pull(core, KEY, from, frame, *sent_at, answer.arrived_at.unwrap_or(*sent_at)) {
                    Pulled::Found(_, next) => self.consumed = self.consumed.max(next),
                    Pulled::Moved(next) => self.consumed = next,
                    Pulled::Nothing | Pulled::Refused => {}
                }
            }
            Asked::Commit(offset) => {
                let code = Header::decode(frame).map(|header| header.code);
                if code.is_ok_and(|code| code == ResponseCode::Success.code()) {
                    self.committed = Some(offset);
                }
                self.query(core);
            }
            Asked::Query { at_least } => {
                let Some(offset) = read_offset(core, KEY, frame) else { return };
                if at_least.is_some_and(|at_least| offset < at_least) {
                    core.broken(format!(
                        "ROLLED BACK: the group stands at {offset}, {at_least:?} was committed"
                    ));
                }
                if offset > self.consumed {
                    let consumed = self.consumed;
                    core.broken(format!("BEYOND: the group stands at {offset}, {consumed} was consumed"));
                }
            }
        }
    }

    fn recovered(&mut self, core: &mut Core, _lossy: bool) {
        // What was under way died with its connections, and the last commits may not have been saved.
        (self.committed, self.dangling) = (None, false);
        let end =
            core.ledger.queue(KEY).and_then(|places| places.keys().next_back()).map_or(0, |last| last + 1);
        self.consumed = self.consumed.min(end);
    }

    fn unfinished(&self, _core: &Core) -> Option<String> {
        (!self.asked.is_empty()).then(|| "commits under way".to_owned())
    }
}
