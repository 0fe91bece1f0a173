//! One script of a whole broker, run again for each of its calls to the disk and each way in which the call can fail: no
//! panic, nothing acknowledged lost, only answers that clients know, and what is stored stays readable.

use cometmq_store::disk::{Call, Crash, Fault};

use crate::script::Script;

/// The ways to fail: a fault, and the kind of call that it strikes, if not any.
pub const WAYS: [(&str, Fault, Option<Call>); 5] = [
    ("EIO", Fault::Io, None),
    ("ENOSPC", Fault::Full, None),
    ("EINTR", Fault::Interrupted, None),
    ("short write", Fault::Short, Some(Call::Write)),
    ("short read", Fault::Short, Some(Call::Read)),
];

/// How many calls of the kind that a way strikes the script makes.
pub fn calls(way: usize) -> Result<u64, String> {
    let mut script = Script::new(1);
    play(&mut script)?;
    let counts = script.host.disk.counts();
    let (_, _, kind) = WAYS[way];
    Ok(counts.iter().filter(|(call, _)| kind.is_none_or(|kind| kind == *call)).map(|(_, count)| count).sum())
}

/// Plays the script with the `n`-th call failed in one of [`WAYS`].
pub fn fail(way: usize, n: u64) -> Result<(), String> {
    let (name, fault, kind) = WAYS[way];
    let mut script = Script::new(1);
    match kind {
        None => script.host.disk.fail_nth(n, fault),
        Some(kind) => script.host.disk.fail_nth_of(kind, n, fault),
    }
    let told = |what: String| format!("{name} at call {n}: {what}");
    play(&mut script).map_err(told)?;
    script.host.disk.heal();
    script.check().map_err(told)?;
    for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Seeded(n)] {
        let disk = script.host.disk.crash(crash);
        script.check_disk(&disk).map_err(told)?;
    }
    Ok(())
}

/// What the broker does. A start that the fault prevents is tried once more: the fault strikes once.
fn play(script: &mut Script) -> Result<(), String> {
    start(script)?;
    for number in 0..12 {
        script.send(number, 700)?;
        if number % 3 == 2 {
            script.sync()?;
        }
        if number % 4 == 3 {
            script.flush();
        }
    }
    script.sync()?;
    script.commit(2)?;
    script.tick()?;
    start(script)?;
    for number in 0..6 {
        script.send(number, 1500)?;
        script.sync()?;
    }
    script.flush();
    script.close();
    start(script)?;
    script.send(0, 10)?;
    script.sync()
}

/// Starts the broker on what the one before left. The planned fault stays planned.
fn start(script: &mut Script) -> Result<(), String> {
    if script.reopen().is_err() {
        script.reopen().map_err(|error| format!("DOES NOT START: {error}"))?;
    }
    Ok(())
}
