//! `cometmq store dump`: prints what a store's files hold, readably, without opening the store.
//!
//! It reads only, takes no lock, and goes on behind what it cannot read, so it also works on a store that is damaged or
//! in use.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use cometmq_protocol::QueueId;
use cometmq_protocol::message::RecordView;
use cometmq_protocol::message::properties::Properties;
use cometmq_protocol::names::TopicName;
use cometmq_store::RealDisk;
use cometmq_store::checkpoint::{JavaCheckpoint, saved_positions};
use cometmq_store::dump::{Held, StoreFiles};
use cometmq_store::index::format::{Shape, file_name};
use indicatif::ProgressBar;
use serde_json::{Value, json};

/// Flags of `cometmq store dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// Directory of the store (storePathRootDir, --data)
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// This part only (may be repeated) [default: all]
    #[arg(long = "part", value_name = "PART")]
    parts: Vec<Part>,
    /// Records and queue entries of this topic only
    #[arg(long)]
    topic: Option<String>,
    /// Records and queue entries of queues with this number only
    #[arg(long)]
    queue: Option<i32>,
    /// Begin here: a log position for records, an offset for queue entries, a number for index entries
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    from: i64,
    /// End each part after so many lines
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// One line of JSON for each thing
    #[arg(long)]
    json: bool,
    /// Slots of an index file (maxHashSlotNum)
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(2..))]
    index_slots: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Records of the commit log
    Log,
    /// Entries of consume queues
    Queue,
    /// Headers and entries of index files
    Index,
    /// Positions and times up to which all is durable
    Checkpoint,
}

/// Runs the command. The exit code is 1 when something could not be read.
pub(crate) fn run(args: &DumpArgs) -> Result<ExitCode> {
    let root = &args.directory;
    super::require_store(root)?;
    let bar = super::progress_bar()?;
    let out = BufWriter::new(io::stdout());
    let mut dump = Dump { args, out, bar, left: 0, unreadable: 0 };
    let dumped = dump.all(root).and_then(|()| dump.out.flush());
    dump.bar.finish_and_clear();
    match dumped {
        // Whoever read the lines has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("the dump cannot go on");
        }
        _ => {}
    }
    if dump.unreadable > 0 {
        eprintln!("cometmq: {} places could not be read; cometmq store check tells more", dump.unreadable);
    }
    Ok(if dump.unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Dump<'a> {
    args: &'a DumpArgs,
    out: BufWriter<io::Stdout>,
    bar: ProgressBar,
    /// Lines that this part may still have.
    left: u64,
    unreadable: u64,
}

impl Dump<'_> {
    fn all(&mut self, root: &Path) -> io::Result<()> {
        let files = StoreFiles::new(Arc::new(RealDisk), root);
        for part in Part::value_variants() {
            if !self.args.parts.is_empty() && !self.args.parts.contains(part) {
                continue;
            }
            self.left = self.args.count.unwrap_or(u64::MAX);
            match part {
                Part::Log => self.log(&files)?,
                Part::Queue => self.queues(&files)?,
                Part::Index => self.index(&files)?,
                Part::Checkpoint => self.checkpoint(root)?,
            }
        }
        Ok(())
    }

    /// Prints one thing; false when the part has enough lines.
    fn line(&mut self, what: &str, fields: &Value) -> io::Result<bool> {
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        if self.args.json {
            let mut fields = fields.clone();
            fields["what"] = what.into();
            writeln!(self.out, "{fields}")?;
        } else {
            write!(self.out, "{what}")?;
            for (name, value) in fields.as_object().into_iter().flatten() {
                write!(
                    self.out,
                    " {name}={}",
                    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                )?;
            }
            writeln!(self.out)?;
        }
        Ok(true)
    }

    fn unreadable(&mut self, file: &Path, at: u64, why: &str) -> io::Result<bool> {
        self.unreadable += 1;
        self.line("unreadable", &json!({"file": file.display().to_string(), "byte": at, "why": why}))
    }

    fn log(&mut self, files: &StoreFiles) -> io::Result<()> {
        let segments = files.log()?;
        let directory = self.args.directory.join("commitlog");
        if segments.is_empty() && !directory.exists() {
            let why = "is not there: a log that lies elsewhere (storePathCommitLog) is not shown";
            self.unreadable(&directory, 0, why)?;
        }
        for segment in segments {
            if segment.base.saturating_add_unsigned(segment.bytes) <= self.args.from {
                continue;
            }
            let bar = self.bar.clone();
            bar.set_length(segment.bytes);
            let wants_more = files.records(
                &segment,
                |done| bar.set_position(done),
                |held| match held {
                    Held::Record(record) => self.record(&record),
                    Held::Unreadable(byte) => self.unreadable(&segment.path, byte, "no record"),
                },
            )?;
            if !wants_more {
                break;
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &RecordView<'_>) -> io::Result<bool> {
        let wanted = record.log_offset.0 >= self.args.from
            && self.args.topic.as_ref().is_none_or(|topic| topic == record.topic)
            && self.args.queue.is_none_or(|queue| queue == record.queue_id.0);
        if !wanted {
            return Ok(true);
        }
        let properties: serde_json::Map<String, Value> = Properties(record.properties)
            .iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let fields = json!({
            "position": record.log_offset.0, "size": record.total, "topic": record.topic,
            "queue": record.queue_id.0, "offset": record.queue_offset.0,
            "stored": record.store_timestamp.0, "born": record.born_timestamp.0,
            "bornHost": record.born_host.to_string(), "storeHost": record.store_host.to_string(),
            "sysFlag": record.sys_flag, "flag": record.flag, "reconsumeTimes": record.reconsume_times,
            "bodyBytes": record.body.len(), "crcRight": record.check_body().is_ok(), "properties": properties,
        });
        self.line("record", &fields)
    }

    fn queues(&mut self, files: &StoreFiles) -> io::Result<()> {
        for topic in files.topics()? {
            if self.args.topic.as_ref().is_some_and(|wanted| wanted != topic.as_str()) {
                continue;
            }
            for id in files.queue_ids(&topic)? {
                if self.args.queue.is_none_or(|wanted| wanted == id.0) && !self.queue(files, &topic, id)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn queue(&mut self, files: &StoreFiles, topic: &TopicName, id: QueueId) -> io::Result<bool> {
        for segment in files.queue(topic, id)? {
            let wants_more = files.entries(&segment, |offset, unit| {
                if offset.0 < self.args.from {
                    return Ok(true);
                }
                let fields = json!({
                    "topic": topic.as_str(), "queue": id.0, "offset": offset.0, "position": unit.log_offset.0,
                    "size": unit.size, "tagsCode": unit.tags_code,
                });
                self.line("entry", &fields)
            })?;
            if !wants_more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn index(&mut self, files: &StoreFiles) -> io::Result<()> {
        for (name, bytes) in files.index()? {
            let Some(shape) = Shape::of_file(bytes, self.args.index_slots) else {
                let why = "is not of a length with so many slots: give --index-slots as maxHashSlotNum is";
                self.unreadable(&files.index_path(name), 0, why)?;
                continue;
            };
            if !self.index_file(files, name, shape)? {
                break;
            }
        }
        Ok(())
    }

    fn index_file(&mut self, files: &StoreFiles, name: i64, shape: Shape) -> io::Result<bool> {
        let header = files.index_header(name, shape)?;
        let fields = json!({
            "file": file_name(name), "beginTime": header.begin_time.0, "endTime": header.end_time.0,
            "begin": header.begin.0, "end": header.end.0, "usedSlots": header.used_slots, "count": header.count,
        });
        if !self.line("index", &fields)? {
            return Ok(false);
        }
        let from = u32::try_from(self.args.from).unwrap_or(u32::MAX).max(1);
        files.index_entries((name, shape), from, header.count.min(shape.entries), |number, entry| {
            let fields = json!({
                "number": number, "hash": entry.hash, "position": entry.offset.0, "seconds": entry.seconds,
                "previous": entry.previous,
            });
            self.line("key", &fields)
        })
    }

    fn checkpoint(&mut self, root: &Path) -> io::Result<()> {
        let java = JavaCheckpoint::load(&RealDisk, &root.join("checkpoint"))?;
        let fields = json!({
            "physic": java.physic.0, "logics": java.logics.0, "index": java.index.0,
            "masterFlushed": java.master_flushed, "confirmed": java.confirmed,
        });
        self.line("checkpoint", &fields)?;
        for (name, position) in saved_positions(&RealDisk, root)? {
            self.line(name, &json!({"position": position.map(|position| position.0)}))?;
        }
        self.line("abort", &json!({"there": root.join("abort").exists()}))?;
        Ok(())
    }
}
