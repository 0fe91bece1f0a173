//! What a seed decides before anything happens: sizes, delays, and when which fault strikes.

use cometmq_store::FlushPolicy;
use cometmq_store::disk::{Call, Crash, Fault};

use crate::chance::Chance;

/// One second of simulated time.
pub const SECOND: u64 = 1_000_000;

/// Everything that is fixed for a run.
#[derive(Debug)]
pub struct Plan {
    /// When a message is confirmed.
    pub flush: FlushPolicy,
    /// Bytes of a commit log segment.
    pub segment_bytes: i64,
    /// Bytes of a consume queue file.
    pub queue_file_bytes: i64,
    /// Time between two syncs that nobody waits for, µs.
    pub sync_interval: u64,
    /// Time between two saves of consumer offsets, ms.
    pub offset_save_ms: i64,
    /// Bounds of the time that bytes travel, µs.
    pub delay: (u64, u64),
    /// One in so many pieces of a stream arrives in two.
    pub split_one_in: u64,
    /// Bounds of the time that a sync takes, µs.
    pub sync_takes: (u64, u64),
    /// Bodies of one length make torn records fit where others were; `None` is any length.
    pub body_bytes: Option<usize>,
    /// How long faults may strike, µs.
    pub trouble: u64,
    /// When which fault strikes, in order.
    pub faults: Vec<(u64, Trouble)>,
}

/// A fault of the whole world.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// The process or the machine ends, and starts again after some time.
    Crash {
        /// What becomes of what is not synced.
        crash: Crash,
        /// Time until the next start, µs.
        restart_after: u64,
        /// When exactly.
        when: Moment,
    },
    /// The process is stopped in order and started again.
    Stop {
        /// Time until the next start, µs.
        restart_after: u64,
    },
    /// A call to the disk fails.
    Disk {
        /// Of which kind; `None` is any.
        call: Option<Call>,
        /// Which of them, from now on; of one kind, every eighth is counted.
        nth: u64,
        /// How.
        fault: Fault,
    },
    /// The disk runs full.
    Full {
        /// Bytes that are left.
        left: u64,
        /// For how long, µs.
        lasts: u64,
    },
    /// Reads and writes are short now and then.
    Short {
        /// One in so many.
        one_in: u64,
        /// For how long, µs.
        lasts: u64,
    },
    /// Syncs are slow.
    SlowDisk {
        /// How long each takes, µs.
        takes: u64,
        /// For how long, µs.
        lasts: u64,
    },
    /// Connections are cut.
    Cut {
        /// One in so many.
        one_in: u64,
    },
    /// Nobody reaches a server.
    Partition {
        /// The broker, or the name server.
        broker: bool,
        /// For how long, µs.
        lasts: u64,
    },
    /// The wall clock jumps.
    Clock {
        /// By how much, ms.
        jump_ms: i64,
    },
    /// The name server is started anew and knows nothing.
    NamesRestart,
}

/// When exactly a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Between two things that it does.
    Idle,
    /// In the next turn, with messages appended and not written.
    InTurn,
    /// At so many calls to the disk from now on.
    AtCall(u64),
}

const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;

impl Plan {
    /// The plan of a run.
    pub fn of(chance: &mut Chance) -> Plan {
        let slowest = chance.pick(&[300, 2_000, 20_000, 80_000]);
        let trouble = chance.within(2, 8) * SECOND;
        let mut plan = Plan {
            flush: if chance.one_in(2) { FlushPolicy::Sync } else { FlushPolicy::Async },
            segment_bytes: chance.pick(&[8 * 1024, 16 * 1024, 32 * 1024]),
            queue_file_bytes: 20 * chance.pick(&[10, 50, 400]),
            sync_interval: chance.pick(&[SECOND / 2, SECOND / 2, 5 * SECOND]),
            offset_save_ms: chance.pick(&[500, 1000, 5000]),
            delay: (50, slowest),
            split_one_in: chance.pick(&[0, 4, 30]),
            sync_takes: (100, chance.pick(&[500, 5_000, 50_000])),
            body_bytes: chance.pick(&[None, None, Some(40), Some(600), Some(1500)]),
            trouble,
            faults: Vec::new(),
        };
        for _ in 0..chance.pick(&[0, 1, 2, 3, 4, 6]) {
            let at = chance.below(trouble);
            plan.faults.push((at, Trouble::any(chance)));
        }
        plan.faults.sort_by_key(|(at, _)| *at);
        plan
    }
}

impl Trouble {
    /// What the trace calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Trouble::Crash { .. } => "crash is due",
            Trouble::Stop { .. } => "stop is due",
            Trouble::Disk { fault: Fault::Io, .. } => "disk call will fail",
            Trouble::Disk { fault: Fault::Full, .. } => "disk call will find no room",
            Trouble::Disk { fault: Fault::Interrupted, .. } => "disk call will be interrupted",
            Trouble::Disk { fault: Fault::Short, .. } => "disk call will be short",
            Trouble::Full { .. } => "disk runs full",
            Trouble::Short { .. } => "disk calls are short",
            Trouble::SlowDisk { .. } => "syncs are slow",
            Trouble::Cut { .. } => "connections cut",
            Trouble::Partition { .. } => "partition",
            Trouble::Clock { .. } => "clock jumps",
            Trouble::NamesRestart => "name server starts anew",
        }
    }

    fn any(chance: &mut Chance) -> Trouble {
        let lasts = chance.within(1, 30) * SECOND / 10;
        let restart_after = chance.within(1, 20) * SECOND / 10;
        match chance.below(20) {
            0..=6 => Trouble::Crash { crash: any_crash(chance), restart_after, when: any_moment(chance) },
            7 => Trouble::Stop { restart_after },
            8..=11 => {
                let call = chance.pick(&[
                    None,
                    Some(Call::Sync),
                    Some(Call::Sync),
                    Some(Call::Write),
                    Some(Call::Read),
                ]);
                let fault =
                    chance.pick(&[Fault::Io, Fault::Io, Fault::Full, Fault::Interrupted, Fault::Short]);
                Trouble::Disk { call, nth: chance.within(1, 40), fault }
            }
            12 => Trouble::Full { left: chance.below(64 * 1024), lasts },
            13 => Trouble::Short { one_in: chance.within(2, 10), lasts },
            14 => Trouble::SlowDisk { takes: chance.within(1, 8) * SECOND, lasts },
            15 | 16 => Trouble::Cut { one_in: chance.within(1, 4) },
            17 => Trouble::Partition { broker: !chance.one_in(3), lasts },
            18 => {
                let jumps = [HOUR_MS, -HOUR_MS, 10 * YEAR_MS, -10 * YEAR_MS, -1500];
                Trouble::Clock { jump_ms: chance.pick(&jumps) }
            }
            _ => Trouble::NamesRestart,
        }
    }
}

fn any_crash(chance: &mut Chance) -> Crash {
    match chance.below(6) {
        0 | 1 => Crash::KeepAll,
        2 => Crash::LoseAll,
        _ => Crash::Seeded(chance.number()),
    }
}

fn any_moment(chance: &mut Chance) -> Moment {
    match chance.below(4) {
        0 => Moment::Idle,
        1 => Moment::InTurn,
        _ => Moment::AtCall(chance.within(1, 60)),
    }
}
