//! A fixed load of 1 KiB messages, sent and consumed, by a server inside a memory control group of 256 MiB.
//!
//! The group's limit also covers the pages of files that the server wrote; the load generators are outside.
//! Needs root and version 1 of control groups.

use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result};
use rustix::process::geteuid;

use super::Bench;
use super::contender::{Contender, Flush, Software};
use super::figure::{Figure, number};
use super::machine::Watch;
use super::report::Report;

/// Where version 1 keeps the groups of memory.
const GROUPS: &str = "/sys/fs/cgroup/memory";
const LIMIT_BYTES: u64 = 256 * 1024 * 1024;
/// Messages in a second: as much as ten minutes may leave on a disk.
const RATE: u32 = 5_000;
const SECONDS: u32 = 600;
const OOM: &str = "kills for lack of memory in a control group of 256 MiB";

pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    if !geteuid().is_root() || !Path::new(GROUPS).join("memory.limit_in_bytes").exists() {
        let why = format!("needs root and {GROUPS} of control groups version 1");
        report.figure("memory", Figure::not_measured(OOM, why).at_most(0.0));
        return Ok(());
    }
    let seconds = bench.effort.seconds.unwrap_or(bench.effort.of_trial(SECONDS, 3));
    let group = Group::create()?;
    let mut contender = Contender::prepare(Software::Comet, &bench.programs, Flush::Async)?;
    contender.confine(&group.path);
    bench.start(&mut contender)?;
    bench.create_topic(&contender, "sends")?;
    let watch = Watch::start(contender.pids());
    let follow = format!("--follow --from max --group tail --duration {}", seconds + 2);
    let reader = bench.begin(&contender, "consume", "sends", &follow)?;
    let flags = format!("--size 1024 --rate {RATE} --warmup 1 --duration {seconds}");
    let sent = bench.generate(&contender, "send", "sends", &flags);
    let read = reader.finish();
    let peak = watch.finish()?;
    let kills = group.number("memory.oom_control", "oom_kill ")?;
    let figure = Figure::new(OOM, kills, "").at_most(0.0);
    let (Ok(sent), Ok(read)) = (sent, read) else {
        report.figure("memory", figure.from(format!("the load broke off: {}", contender.log_tail())));
        return Ok(());
    };
    let from = format!(
        "{seconds} s, {} messages/s of 1 KiB sent, {} messages read, p99 {} ms; group's peak {} MiB, limit met {} times",
        number(sent.rate()?),
        number(read.messages()?),
        number(sent.send_p99_ms()?),
        number(group.number("memory.max_usage_in_bytes", "")? / f64::from(1 << 20)),
        number(group.number("memory.failcnt", "")?)
    );
    report.figure("memory", figure.from(from));
    report.figure("memory", Figure::new("resident memory at most in that group", peak.rss_mib, "MiB"));
    Ok(())
}

/// A control group; it goes when this is dropped, after the processes in it.
struct Group {
    path: PathBuf,
}

impl Group {
    fn create() -> Result<Group> {
        let path = Path::new(GROUPS).join(format!("cometmq-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let group = Group { path };
        let limit = group.path.join("memory.limit_in_bytes");
        fs::write(&limit, LIMIT_BYTES.to_string())
            .with_context(|| format!("cannot write {}", limit.display()))?;
        Ok(group)
    }

    /// The number behind `name` in one of the group's files.
    fn number(&self, file: &str, name: &str) -> Result<f64> {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let number = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        number.with_context(|| format!("{} has no number behind `{name}`", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!("xtask: {} stays: {error}", self.path.display());
            }
            _ => {}
        }
    }
}
