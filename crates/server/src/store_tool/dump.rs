//! `cometmq store dump`: prints what a store's files hold, readably, without opening the store.
//!
//! It reads only, takes no lock, and goes on behind what it cannot read, so it also works on a store that is damaged or
//! in use.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use cometmq_protocol::LogOffset;
use cometmq_protocol::message::RecordView;
use cometmq_protocol::message::properties::Properties;
use cometmq_protocol::message::record::{self, MAGIC_BLANK, MAGIC_V1, MAGIC_V2};
use cometmq_store::checkpoint::{JavaCheckpoint, saved_positions};
use cometmq_store::consume_queue::UNIT_BYTES;
use cometmq_store::index::format::{ENTRY_BYTES, HEADER_BYTES, IndexEntry, IndexHeader, Shape, parse_name};
use cometmq_store::{RealDisk, Unit, segment_base};
use indicatif::ProgressBar;
use serde_json::{Value, json};

/// Bytes read at once; a longer record is read for itself.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Longest record that is believed.
const RECORD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes from a record's start up to its log offset.
const HEAD_BYTES: usize = 36;

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
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1..))]
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
    super::require_directory(root)?;
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
        for part in Part::value_variants() {
            if !self.args.parts.is_empty() && !self.args.parts.contains(part) {
                continue;
            }
            self.left = self.args.count.unwrap_or(u64::MAX);
            match part {
                Part::Log => self.log(&root.join("commitlog"))?,
                Part::Queue => self.queues(&root.join("consumequeue"))?,
                Part::Index => self.index(&root.join("index"))?,
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

    fn log(&mut self, directory: &Path) -> io::Result<()> {
        for path in sorted(directory)? {
            let Some(base) = base_of(&path) else { continue };
            let file = File::open(&path)?;
            let bytes = file.metadata()?.len();
            if base + bytes.cast_signed() <= self.args.from {
                continue;
            }
            self.bar.set_length(bytes);
            if !self.segment(&path, &file, base, bytes)? {
                break;
            }
        }
        Ok(())
    }

    /// The records of a segment; false when there are enough lines.
    fn segment(&mut self, path: &Path, file: &File, base: i64, bytes: u64) -> io::Result<bool> {
        let mut at = 0;
        let mut window = Vec::new();
        while at < bytes {
            read_at(file, at, WINDOW_BYTES, &mut window)?;
            self.bar.set_position(at);
            let mut used = 0;
            loop {
                let rest = &window[used..];
                let position = base + (at as i64 + used as i64);
                match look(rest, position, bytes - at - used as u64) {
                    Look::Record(total) => {
                        let Ok(record) = RecordView::decode(rest) else { break };
                        if !self.record(&record)? {
                            return Ok(false);
                        }
                        used += total;
                    }
                    Look::More(total) if used == 0 && total > window.len() => {
                        read_at(file, at, total, &mut window)?;
                        if window.len() < total {
                            return self.unreadable(path, at, "a record that reaches beyond the file");
                        }
                    }
                    Look::More(_) => break,
                    Look::End => return Ok(true),
                    Look::Nonsense => {
                        if !self.unreadable(path, at + used as u64, "no record")? {
                            return Ok(false);
                        }
                        used += next_record(rest, position);
                    }
                }
                if used >= window.len() {
                    break;
                }
            }
            at += used.max(1) as u64;
        }
        Ok(true)
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

    fn queues(&mut self, root: &Path) -> io::Result<()> {
        for topic in sorted(root)? {
            let name = name_of(&topic);
            if self.args.topic.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            for queue in sorted(&topic)? {
                let Ok(number) = name_of(&queue).parse::<i32>() else { continue };
                if self.args.queue.is_none_or(|wanted| wanted == number)
                    && !self.queue(&queue, &name, number)?
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn queue(&mut self, directory: &Path, topic: &str, number: i32) -> io::Result<bool> {
        for path in sorted(directory)? {
            let Some(base) = base_of(&path) else { continue };
            let bytes = fs::read(&path)?;
            let (units, _) = bytes.as_chunks::<{ UNIT_BYTES as usize }>();
            for (index, unit) in units.iter().enumerate() {
                let offset = base / UNIT_BYTES + index as i64;
                let Some(unit) = Unit::decode(unit).filter(|_| offset >= self.args.from) else { continue };
                let fields = json!({
                    "topic": topic, "queue": number, "offset": offset, "position": unit.log_offset.0,
                    "size": unit.size, "tagsCode": unit.tags_code,
                });
                if !self.line("entry", &fields)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn index(&mut self, directory: &Path) -> io::Result<()> {
        for path in sorted(directory)?.into_iter().filter(|path| parse_name(&name_of(path)).is_some()) {
            let bytes = fs::metadata(&path)?.len();
            let Some(shape) = Shape::of_file(bytes, self.args.index_slots) else {
                let why = "is not of a length with so many slots: give --index-slots as maxHashSlotNum is";
                self.unreadable(&path, 0, why)?;
                continue;
            };
            if !self.index_file(&path, shape)? {
                break;
            }
        }
        Ok(())
    }

    fn index_file(&mut self, path: &Path, shape: Shape) -> io::Result<bool> {
        let file = File::open(path)?;
        let mut head = [0; HEADER_BYTES];
        file.read_exact_at(&mut head, 0)?;
        let header = IndexHeader::decode(&head, shape);
        let fields = json!({
            "file": name_of(path), "beginTime": header.begin_time.0, "endTime": header.end_time.0,
            "begin": header.begin.0, "end": header.end.0, "usedSlots": header.used_slots, "count": header.count,
        });
        if !self.line("index", &fields)? {
            return Ok(false);
        }
        for number in
            u32::try_from(self.args.from).unwrap_or(u32::MAX).max(1)..header.count.min(shape.entries)
        {
            let mut bytes = [0; ENTRY_BYTES];
            file.read_exact_at(&mut bytes, shape.entry_at(number))?;
            let entry = IndexEntry::decode(&bytes);
            let fields = json!({
                "number": number, "hash": entry.hash, "position": entry.offset.0, "seconds": entry.seconds,
                "previous": entry.previous,
            });
            if !self.line("key", &fields)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn checkpoint(&mut self, root: &Path) -> io::Result<()> {
        let other = |error: cometmq_store::DiskError| io::Error::other(error.to_string());
        let java = JavaCheckpoint::load(&RealDisk, &root.join("checkpoint")).map_err(other)?;
        let fields = json!({
            "physic": java.physic.0, "logics": java.logics.0, "index": java.index.0,
            "masterFlushed": java.master_flushed, "confirmed": java.confirmed,
        });
        self.line("checkpoint", &fields)?;
        for (name, position) in saved_positions(&RealDisk, root).map_err(other)? {
            self.line(name, &json!({"position": position.map(|position| position.0)}))?;
        }
        self.line("abort", &json!({"there": root.join("abort").exists()}))?;
        Ok(())
    }
}

/// What stands somewhere in a segment.
enum Look {
    Record(usize),
    /// A record of so many bytes, of which not all are here.
    More(usize),
    /// Nothing more in this segment.
    End,
    Nonsense,
}

fn look(bytes: &[u8], position: i64, room: u64) -> Look {
    let Some([a, b, c, d, magic @ ..]) = bytes.first_chunk::<8>() else {
        return if room < 8 { Look::End } else { Look::More(8) };
    };
    let (total, magic) = (u32::from_be_bytes([*a, *b, *c, *d]) as usize, u32::from_be_bytes(*magic));
    if magic == MAGIC_BLANK || (total == 0 && magic == 0) {
        return Look::End;
    }
    if !matches!(magic, MAGIC_V1 | MAGIC_V2) || total > RECORD_BYTES_MAX || total as u64 > room {
        return Look::Nonsense;
    }
    if bytes.len() < total {
        return Look::More(total);
    }
    match RecordView::decode(bytes) {
        Ok(record) if record.log_offset == LogOffset(position) => Look::Record(total),
        _ => Look::Nonsense,
    }
}

/// Bytes to the next place that claims to be a record of its position; all of them when there is none.
fn next_record(bytes: &[u8], position: i64) -> usize {
    let claims =
        |at: usize| record::claimed_log_offset(&bytes[at..]) == Some(LogOffset(position + at as i64));
    (1..bytes.len().saturating_sub(HEAD_BYTES)).find(|at| claims(*at)).unwrap_or(bytes.len())
}

fn read_at(file: &File, at: u64, bytes: usize, window: &mut Vec<u8>) -> io::Result<()> {
    window.resize(bytes, 0);
    let mut filled = 0;
    while filled < bytes {
        match file.read_at(&mut window[filled..], at + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    window.truncate(filled);
    Ok(())
}

/// The stream position of a segment's first byte, from its name.
fn base_of(path: &Path) -> Option<i64> {
    segment_base(&name_of(path))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What a directory holds, by name; a missing one holds nothing.
fn sorted(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
