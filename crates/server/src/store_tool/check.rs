//! `cometmq store check`: verifies a store that is not in use, and names what is damaged.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use cometmq_store::check::{self, CheckOptions, CheckSummary, Finding};
use cometmq_store::{Disk, RealDisk};
use rustix::fs::FlockOperation;
use serde_json::json;

/// Findings told one by one; the rest are counted.
const TOLD_MAX: u64 = 1000;

/// Flags of `cometmq store check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Directory of the store (storePathRootDir, --data)
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Directory of the commit log, if it is not `commitlog` in DIR (storePathCommitLog)
    #[arg(long, value_name = "DIR")]
    commit_log: Option<PathBuf>,
    /// Slots of an index file (maxHashSlotNum)
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(2..))]
    index_slots: u32,
    /// One line of JSON for each finding, and one for the summary
    #[arg(long)]
    json: bool,
}

/// Runs the command. The exit code is 1 when something is damaged.
pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let root = &args.directory;
    super::require_store(root)?;
    let log = args.commit_log.clone().unwrap_or_else(|| root.join("commitlog"));
    if let Err(error) = log.read_dir() {
        let (log, cure) =
            (log.display(), "name the directory of the commit log (storePathCommitLog) with --commit-log");
        bail!("{log} cannot be read: {error}; {cure}");
    }
    if is_in_use(root) {
        eprintln!(
            "cometmq: a broker has {} open: what it is just writing may look damaged; stop it for a sure answer",
            root.display()
        );
    }
    let bar = super::progress_bar()?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let options = CheckOptions {
        root: root.clone(),
        log_directories: args.commit_log.iter().cloned().collect(),
        index_slots: args.index_slots,
    };
    let mut told = 0;
    let mut tell = |finding: Finding| {
        told += 1;
        if told <= TOLD_MAX {
            bar.suspend(|| println!("{}", if args.json { as_json(&finding) } else { finding.to_string() }));
        }
    };
    let mut progress = |done: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let summary = check::check(&disk, &options, &mut progress, &mut tell);
    bar.finish_and_clear();
    let summary = summary.context("the check cannot go on")?;
    println!("{}", if args.json { summary_as_json(&summary) } else { summary_as_text(&summary) });
    Ok(if summary.damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn as_json(finding: &Finding) -> String {
    let (topic, queue, offset) = match &finding.message {
        Some((topic, queue, offset)) => (Some(topic), Some(queue.0), Some(offset.0)),
        None => (None, None, None),
    };
    json!({
        "file": finding.file.display().to_string(), "byte": finding.at,
        "logPosition": finding.position.map(|position| position.0),
        "topic": topic, "queue": queue, "offset": offset, "what": finding.what,
    })
    .to_string()
}

fn summary_as_json(summary: &CheckSummary) -> String {
    json!({
        "segments": summary.segments, "records": summary.records, "logBytes": summary.log_bytes,
        "blocksWithChecksum": summary.summed_blocks, "blocksWithout": summary.unsummed_blocks,
        "queues": summary.queues, "entries": summary.entries, "indexEntries": summary.index_entries, "closedInOrder": summary.clean,
        "damaged": summary.damaged,
    })
    .to_string()
}

fn summary_as_text(summary: &CheckSummary) -> String {
    let mut lines = vec![
        format!(
            "{} records in {} segments, {} entries in {} queues, {} in the index; {} of {} blocks have a checksum",
            summary.records,
            summary.segments,
            summary.entries,
            summary.queues,
            summary.index_entries,
            summary.summed_blocks,
            summary.summed_blocks + summary.unsummed_blocks,
        ),
        match summary.damaged {
            0 => "nothing is damaged".to_owned(),
            1 => "1 place is damaged".to_owned(),
            n => format!("{n} places are damaged"),
        },
    ];
    if summary.damaged > TOLD_MAX {
        lines.insert(0, format!("… and {} more", summary.damaged - TOLD_MAX));
    }
    if !summary.clean {
        lines.push(
            "the store was not closed in order: the next start completes its queues from the log".into(),
        );
    }
    if summary.unsummed_blocks > 0 {
        lines.push(
            "where there is no checksum, damage to headers and properties is not found: the broker's scrub makes them"
                .into(),
        );
    }
    lines.join("\n")
}

/// Whether a broker has the store open.
fn is_in_use(root: &Path) -> bool {
    let Ok(lock) = OpenOptions::new().read(true).write(true).open(root.join("lock")) else { return false };
    // Java takes a record lock, this broker both; letting go of what was free disturbs nobody.
    rustix::fs::fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
        || rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
}
