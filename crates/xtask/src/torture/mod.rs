//! `cargo xtask torture`: faults done to the release binary, and what it loses by them. Rows as in docs/reliability.md.
//!
//! One file a row. What rows share: [`job`] is what a row gets and gives; [`broker`] starts a broker; [`load`] and [`flood`] send to
//! it and keeps what was acknowledged in the [`ledger`], [`verify`] reads it back; [`vitals`] watches the process and
//! is the wedge check, row 24; [`image`] and [`cgroup`] make file systems and limits, [`recorder`] a disk that remembers,
//! [`shim`] lies to the process, and [`undo`] takes all of that away again.
//!
//! Every row has a short form, for the gate. A row that this machine cannot do fails and says what is missing.

mod body;
mod broker;
mod cgroup;
mod flood;
mod image;
mod job;
mod latency;
mod ledger;
mod load;
mod recorder;
mod row10_connections;
mod row11_slow_readers;
mod row12_extremes;
mod row13_memory;
mod row18_clock;
mod row1_kill;
mod row2_crash_states;
mod row3_power_cut;
mod row4_failing_disk;
mod row5_every_call;
mod row6_full_disk;
mod row6_ratios;
mod row7_slow_disk;
mod row8_bit_rot;
mod row9_nonsense;
mod shim;
pub(crate) mod undo;
mod verify;
mod vitals;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::job::{Flush, Job, Outcome, Server};
use crate::chance::Chance;
use crate::table::Table;
use crate::{java_server, process, workspace};

/// Lines of the broker's log that a failure shows.
const TAIL_LINES: usize = 20;
/// Problems of a row that are shown.
const PROBLEMS_MAX: usize = 10;

/// Flags of `cargo xtask torture`.
#[derive(Debug, Args)]
pub(crate) struct TortureArgs {
    /// Rows, by number [default: all]
    #[arg(value_name = "ROW")]
    rows: Vec<u32>,
    /// Seconds instead of minutes for each row, as the gate does it
    #[arg(long)]
    short: bool,
    /// Repeats the choices of an earlier run [default: a new seed for each row, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// How often the row does what it does [default: what its figure says]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    times: Option<u32>,
    /// When the server acknowledges, for rows that leave the choice
    #[arg(long, value_enum)]
    flush: Option<Flush>,
    /// What is tortured
    #[arg(long, value_enum, default_value_t = Server::Binary)]
    server: Server,
}

impl TortureArgs {
    /// All rows in their short form, for the gate.
    pub(crate) fn short() -> TortureArgs {
        TortureArgs {
            rows: Vec::new(),
            short: true,
            seed: None,
            times: None,
            flush: None,
            server: Server::Binary,
        }
    }
}

type Run = for<'a> fn(&'a Job) -> Pin<Box<dyn Future<Output = Result<Outcome>> + 'a>>;

/// A row of the table in docs/reliability.md.
struct Row {
    number: u32,
    fault: &'static str,
    /// Whether it can be done to the Java broker as well.
    java: bool,
    run: Run,
}

/// The rows, in the order in which they run.
const ROWS: &[Row] = &[
    Row::new(1, "kill -9 under load", |job| Box::pin(row1_kill::run(job))).for_java(),
    Row::new(2, "power cut, every state", |job| Box::pin(row2_crash_states::run(job))),
    Row::new(3, "power cut", |job| Box::pin(row3_power_cut::run(job))),
    Row::new(4, "failing disk", |job| Box::pin(row4_failing_disk::run(job))).for_java(),
    Row::new(5, "calls gone wrong", |job| Box::pin(row5_every_call::run(job))),
    Row::new(6, "full disk", |job| Box::pin(row6_full_disk::run(job))).for_java(),
    Row::new(7, "slow disk", |job| Box::pin(row7_slow_disk::run(job))).for_java(),
    Row::new(8, "bit rot", |job| Box::pin(row8_bit_rot::run(job))),
    Row::new(9, "malformed frames", |job| Box::pin(row9_nonsense::run(job))),
    Row::new(10, "connection flood", |job| Box::pin(row10_connections::run(job))),
    Row::new(11, "slow consumers", |job| Box::pin(row11_slow_readers::run(job))),
    Row::new(12, "extreme requests", |job| Box::pin(row12_extremes::run(job))).for_java(),
    Row::new(13, "256 MiB of memory", |job| Box::pin(row13_memory::bounded(job))),
    Row::new(14, "out of memory", |job| Box::pin(row13_memory::killed(job))),
    Row::new(18, "clock jumps", |job| Box::pin(row18_clock::run(job))),
];

impl Row {
    const fn new(number: u32, fault: &'static str, run: Run) -> Row {
        Row { number, fault, java: false, run }
    }

    const fn for_java(mut self) -> Row {
        self.java = true;
        self
    }
}

/// Runs the rows; an error when one of them lost anything.
pub(crate) fn run(args: &TortureArgs) -> Result<()> {
    let rows = chosen(args)?;
    let binary = workspace::release_binary()?;
    let java_lib = match args.server {
        Server::Binary => None,
        Server::Java => Some(java_server::fetch()?),
    };
    let parent = workspace::target()?.join("torture");
    std::fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    undo::sweep(&parent);
    let mut table = Table::new(["row", "fault", "what was done", "lost", "seed", "time", "result"]);
    let mut failed = Vec::new();
    for row in rows {
        let seed = args.seed.unwrap_or_else(Chance::any_seed);
        println!("row {}: {}, seed {seed}", row.number, row.fault);
        let scratch = parent.join(format!("{}-row{}", undo::run_name(), row.number));
        std::fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        let job = Job {
            server: args.server,
            binary: binary.clone(),
            java_lib: java_lib.clone(),
            scratch: scratch.clone(),
            seed,
            short: args.short,
            times: args.times,
            flush: args.flush,
        };
        let start = Instant::now();
        let result = perform(row, &job);
        if process::interrupted() {
            let _ = std::fs::remove_dir_all(&scratch);
            bail!("interrupted");
        }
        let passed = tell(row, &job, &result, start.elapsed(), &mut table);
        if passed {
            std::fs::remove_dir_all(&scratch)
                .with_context(|| format!("cannot remove {}", scratch.display()))?;
        } else {
            println!("  files and logs are kept in {}", keep(&scratch)?.display());
            failed.push(format!("row {} (seed {seed})", row.number));
        }
    }
    println!("\n{table}");
    if !failed.is_empty() {
        bail!("{} failed", failed.join(", "));
    }
    Ok(())
}

fn chosen(args: &TortureArgs) -> Result<Vec<&'static Row>> {
    let known = |row: &&Row| args.server == Server::Binary || row.java;
    if args.rows.is_empty() {
        return Ok(ROWS.iter().filter(known).collect());
    }
    let find = |number: &u32| {
        let row = ROWS.iter().filter(known).find(|row| row.number == *number);
        row.with_context(|| {
            let all: Vec<String> = ROWS.iter().filter(known).map(|row| row.number.to_string()).collect();
            format!("there is no row {number} for this server, only {}", all.join(", "))
        })
    };
    args.rows.iter().map(find).collect()
}

fn perform(row: &Row, job: &Job) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let result = runtime.block_on((row.run)(job));
    // Tasks of a failed row must not hold the next one up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Prints what a row found, adds it to the table, and tells whether it passed.
fn tell(row: &Row, job: &Job, result: &Result<Outcome>, took: Duration, table: &mut Table) -> bool {
    let mut cells = [row.number.to_string(), row.fault.to_owned()].to_vec();
    let passed = match result {
        Ok(outcome) => {
            let passed = outcome.lost == 0 && outcome.problems.is_empty();
            for problem in outcome.problems.iter().take(PROBLEMS_MAX) {
                println!("  {problem}");
            }
            let figures = outcome.figures.join("; ");
            let verdict = if passed { "passed" } else { "FAILED" };
            println!("  {verdict}: {} {}, {} lost; {figures}", outcome.times, outcome.what, outcome.lost);
            cells.extend([format!("{} {}", outcome.times, outcome.what), outcome.lost.to_string()]);
            passed
        }
        Err(error) => {
            println!("  FAILED: {error:#}");
            cells.extend(["not done".to_owned(), "?".to_owned()]);
            false
        }
    };
    if !passed {
        for log in logs(&job.scratch) {
            println!("  last words in {}:", log.display());
            print!("{}", workspace::tail(&log, TAIL_LINES));
        }
    }
    let verdict = if passed { "passed" } else { "FAILED" };
    cells.extend([job.seed.to_string(), format!("{:.1} s", took.as_secs_f64()), verdict.to_owned()]);
    table.row(cells);
    passed
}

fn logs(scratch: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(scratch).into_iter().flatten().flatten();
    let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    entries.map(|entry| entry.path()).filter(is_log).collect()
}

/// Gives the directory of a failed row a name that the next run leaves alone.
fn keep(scratch: &Path) -> Result<PathBuf> {
    let name = scratch.file_name().context("a scratch directory has a name")?.to_string_lossy();
    let kept = scratch.with_file_name(format!("kept-{}", name.trim_start_matches("cometmq-torture-")));
    let _ = std::fs::remove_dir_all(&kept);
    std::fs::rename(scratch, &kept).with_context(|| format!("cannot rename {}", scratch.display()))?;
    Ok(kept)
}
