//! How a broker lives: started, ticked, synced, ended by faults, and compared with the ledger each time.

use std::path::Path;

use cometmq_broker::Effects;
use cometmq_store::disk::{Crash, Fault};
use cometmq_store::{Disk, FlushPolicy, MemoryDisk};

use super::{Core, Event, Relief};
use crate::machine::NamesHost;
use crate::net::Server;
use crate::plan::{Moment, SECOND, Trouble};

/// Time between two ticks of the housekeeping.
const TICK: u64 = SECOND / 10;
/// Time between two flushes of the queues.
const FLUSH: u64 = SECOND;

impl Core {
    pub(super) fn begin(&mut self) {
        for number in 0..self.plan.faults.len() {
            self.at(self.plan.faults[number].0, Event::Trouble(number));
        }
        self.at(0, Event::Start);
        self.at(5 * SECOND, Event::NamesScan);
        self.at(self.plan.trouble, Event::Settle);
    }

    pub(super) fn start(&mut self) {
        if self.host.broker.is_some() {
            return;
        }
        self.trace.note(self.now, "start", [i64::from(self.host.life)]);
        if self.host.life > 0 && self.chance.one_in(4) {
            self.check_recovery_is_idempotent();
        }
        self.host.disk.heal();
        let mut harmed =
            self.host.disk.space(std::path::Path::new("/s")).is_ok_and(|space| space.total < 1 << 40);
        if !self.is_settled() && self.host.life > 0 && self.chance.one_in(5) {
            harmed = true;
            if self.chance.one_in(2) {
                self.host.disk.die_at(self.chance.within(1, 80));
                self.dying.get_or_insert((Crash::Seeded(self.chance.number()), SECOND / 10));
            } else {
                let fault = self.chance.pick(&[Fault::Io, Fault::Full, Fault::Interrupted, Fault::Short]);
                self.host.disk.fail_nth(self.chance.within(1, 60), fault);
            }
        }
        let opened = self.host.open_on(&self.host.disk, self.now);
        if self.host.disk.is_dead() {
            drop(opened);
            return self.die();
        }
        let broker = match opened {
            Ok(broker) => broker,
            Err(_) if harmed => return self.at(self.now + SECOND / 2, Event::Start),
            Err(error) => return self.broken(format!("DOES NOT START: {error}")),
        };
        self.dying = None;
        self.host.disk.heal();
        self.host.life += 1;
        let found = self.host.audit(&broker, self.now, &self.ledger);
        let Some(found) = self.hold(found) else { return };
        let lossy = std::mem::take(&mut self.lossy);
        if lossy {
            self.forget_waiting();
        }
        let law = self.ledger.replace(found, lossy);
        self.hold(law);
        self.host.broker = Some(broker);
        self.restarted = Some(lossy);
        self.announce = true;
        self.operator_called = false;
        let life = self.host.life;
        for event in [Event::Tick { life }, Event::Flush { life }, Event::Sync { life, wanted: false }] {
            let after = self.chance.below(TICK);
            self.at(self.now + after, event);
        }
    }

    /// What clients meant to say to the broker as it was before it lost messages is not said to the new one.
    fn forget_waiting(&mut self) {
        for client in 0..self.sessions.len() {
            for (opaque, _) in std::mem::take(&mut self.sessions[client].waiting) {
                if let Some(pending) = self.sessions[client].pending.remove(&opaque) {
                    self.answer(client, opaque, pending, None);
                }
            }
        }
    }

    /// Recovers a copy of the disk twice: the second time must find what the first left, to the byte.
    fn check_recovery_is_idempotent(&mut self) {
        let copy = self.host.disk.crash(Crash::KeepAll);
        copy.set_budget(None);
        // A start after an orderly stop recovers nothing.
        let crashed = copy.exists(Path::new("/s/abort")).is_ok_and(|crashed| crashed);
        let mut contents = Vec::new();
        for _ in 0..if crashed { 2 } else { 3 } {
            match self.host.open_on(&copy, self.now) {
                Ok(broker) => drop(broker),
                Err(error) => return self.broken(format!("DOES NOT START: {error}")),
            }
            contents.push(copy.content());
        }
        let [.., first, second] = contents.as_slice() else { return };
        if let Some((path, _)) = first.iter().find(|(path, bytes)| second.get(*path) != Some(bytes)) {
            self.broken(format!("NOT IDEMPOTENT: recovered twice, {} differs", path.display()));
        }
    }

    /// Ends the process as was planned, if its disk lost power.
    pub(super) fn died(&mut self) -> bool {
        let dead = self.host.disk.is_dead();
        if dead {
            self.die();
        }
        dead
    }

    pub(super) fn die(&mut self) {
        let (crash, restart_after) = self.dying.take().unwrap_or((Crash::KeepAll, SECOND / 2));
        self.crash(crash, restart_after);
    }

    fn crash(&mut self, crash: Crash, restart_after: u64) {
        self.trace.note(self.now, "crash", [i64::from(crash != Crash::KeepAll)]);
        self.host.broker = None;
        self.host.inbox.clear();
        self.host.sync_due = false;
        self.host.ends_in_turn = false;
        self.dying = None;
        self.host.disk = self.host.disk.crash(crash);
        self.lossy |= crash != Crash::KeepAll && self.plan.flush == FlushPolicy::Async;
        for link in self.net.of(Server::Broker) {
            self.cut(link);
        }
        self.at(self.now + restart_after, Event::Start);
    }

    pub(super) fn sync(&mut self, wanted: bool) {
        if wanted {
            self.host.sync_due = false;
        } else {
            let life = self.host.life;
            self.at(self.now + self.plan.sync_interval, Event::Sync { life, wanted: false });
        }
        let Some(broker) = &self.host.broker else { return };
        let mut effects = Effects::default();
        // A failure is the log's to tell every sender.
        let result = broker.sync(&mut effects);
        self.note_result("sync", result.is_ok());
        if !self.died() {
            self.apply(effects);
        }
    }

    pub(super) fn flush(&mut self) {
        let Some(broker) = &self.host.broker else { return };
        let result = broker.store().flush_due(self.host.wall(self.now));
        self.note_result("flush", result.is_ok());
        let jitter = self.chance.below(FLUSH / 10);
        self.at(self.now + FLUSH + jitter, Event::Flush { life: self.host.life });
        self.died();
    }

    pub(super) fn tick(&mut self) {
        let Some(broker) = &self.host.broker else { return };
        let mut effects = Effects::default();
        broker.tick(self.host.wall(self.now), &mut effects);
        let failed = broker.store().log().failure().is_some();
        if self.died() {
            return;
        }
        self.apply(effects);
        let life = self.host.life;
        self.at(self.now + TICK, Event::Tick { life });
        if failed && !self.operator_called {
            self.operator_called = true;
            let after = self.chance.within(1, 20) * SECOND / 10;
            self.at(self.now + after, Event::Operator { life });
        }
    }

    /// Failures are rare enough to be shown for long.
    fn note_result(&mut self, what: &'static str, is_ok: bool) {
        if is_ok {
            self.trace.note_bytes(self.now, what, []);
        } else {
            self.trace.note(self.now, "failed:", []);
            self.trace.note(self.now, what, []);
        }
    }

    /// The log is read-only: what was acknowledged must still be read, then the broker is started again.
    pub(super) fn operator(&mut self) {
        self.compare_live();
        if self.host.broker.is_some() {
            let crash = self.chance.pick(&[Crash::KeepAll, Crash::KeepAll, Crash::LoseAll]);
            self.crash(crash, SECOND / 5);
        }
    }

    fn compare_live(&mut self) {
        self.host.disk.heal();
        let Some(broker) = &self.host.broker else { return };
        let found = self.host.audit(broker, self.now, &self.ledger);
        if let Some(found) = self.hold(found) {
            let law = self.ledger.compare(&found, false);
            self.hold(law);
        }
    }

    pub(super) fn strike(&mut self, number: usize) {
        let (_, trouble) = self.plan.faults[number];
        self.trace.note(self.now, trouble.name(), [number as i64]);
        let disk = self.host.disk.clone();
        match trouble {
            Trouble::Crash { crash, restart_after, when } if self.host.broker.is_some() => {
                self.dying = Some((crash, restart_after));
                match when {
                    Moment::Idle => self.die(),
                    Moment::InTurn => self.host.ends_in_turn = true,
                    Moment::AtCall(n) => disk.die_at(n),
                }
            }
            Trouble::Crash { .. } => {}
            Trouble::Stop { restart_after } => self.stop(restart_after),
            Trouble::Disk { call: None, nth, fault } => disk.fail_nth(nth, fault),
            Trouble::Disk { call: Some(call), nth, fault } => disk.fail_nth_of(call, nth.div_ceil(8), fault),
            Trouble::Full { left, lasts } => {
                disk.set_budget(Some(disk.used() + left));
                self.at(self.now + lasts, Event::Relief(Relief::Room));
            }
            Trouble::Short { one_in, lasts } => {
                disk.be_short(one_in, self.chance.number());
                self.at(self.now + lasts, Event::Relief(Relief::Short));
            }
            Trouble::SlowDisk { takes, lasts } => {
                self.slow_sync = Some(takes);
                self.at(self.now + lasts, Event::Relief(Relief::Disk));
            }
            Trouble::Cut { one_in } => {
                for link in [self.net.of(Server::Broker), self.net.of(Server::Names)].concat() {
                    if self.chance.one_in(one_in) {
                        self.cut(link);
                    }
                }
            }
            Trouble::Partition { broker, lasts } => {
                let server = if broker { Server::Broker } else { Server::Names };
                self.net.part(server, self.now + lasts);
            }
            Trouble::Clock { jump_ms } => {
                self.clock_jumped = true;
                self.host.clock_ms += jump_ms;
            }
            Trouble::NamesRestart => self.restart_names(),
        }
    }

    pub(super) fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Room => self.host.disk.set_budget(None),
            Relief::Short => self.host.disk.be_short(0, 0),
            Relief::Disk => self.slow_sync = None,
        }
    }

    fn restart_names(&mut self) {
        self.names = NamesHost::default();
        for link in self.net.of(Server::Names) {
            self.cut(link);
        }
        // The connection is gone: the broker registers anew.
        self.announce = true;
    }

    /// An orderly stop: everything must be there again, and nothing to scan.
    fn stop(&mut self, restart_after: u64) {
        let Some(broker) = &self.host.broker else { return };
        let mut effects = Effects::default();
        broker.stopping(&mut effects);
        let synced = broker.sync(&mut effects);
        let closed = broker.close(self.host.wall(self.now));
        self.trace.note(self.now, "stop", [i64::from(synced.is_ok()), i64::from(closed.is_ok())]);
        if !self.died() {
            self.apply(effects);
            self.crash(Crash::KeepAll, restart_after);
        }
    }

    /// Faults are over for good.
    pub(super) fn settle(&mut self) {
        self.settled_at = Some(self.now);
        self.trace.note(self.now, "settle", []);
        self.relieve(Relief::Room);
        self.relieve(Relief::Disk);
        self.host.disk.heal();
        self.net.part(Server::Broker, self.now);
        self.net.part(Server::Names, self.now);
        let ends = std::mem::take(&mut self.host.ends_in_turn);
        self.dying = None;
        let failed = self.host.broker.as_ref().is_some_and(|broker| broker.store().log().failure().is_some());
        if failed || ends {
            self.crash(Crash::KeepAll, SECOND / 5);
        }
        self.announce = true;
        self.at(self.now + SECOND, Event::Look);
    }

    /// The last comparison: with what is read now, and with what a last crash leaves.
    pub(super) fn end(&mut self) {
        self.compare_live();
        let crash = match self.plan.flush {
            FlushPolicy::Sync => Crash::Seeded(self.chance.number()),
            FlushPolicy::Async => Crash::KeepAll,
        };
        self.host.broker = None;
        let disk: MemoryDisk = self.host.disk.crash(crash);
        match self.host.open_on(&disk, self.now) {
            Ok(broker) => {
                let found = self.host.audit(&broker, self.now, &self.ledger);
                if let Some(found) = self.hold(found) {
                    let law = self.ledger.compare(&found, false);
                    self.hold(law);
                }
            }
            Err(error) => self.broken(format!("DOES NOT START: {error}")),
        }
        self.trace.note(self.now, "end", []);
    }
}
