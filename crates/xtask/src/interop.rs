//! `cargo xtask interop`: the official Java clients, several versions, one after the other, against a server.
//!
//! The tests themselves are the Maven project in `interop/java`; here it is called and its reports are read. A run
//! without tests is a failure, and so is a test that was skipped. A test that fails is run again; one that passes only
//! then is named, and a second one fails the whole. With two of the versions a directory passes between
//! a Java broker and the server.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::process::Process;
use crate::surefire::{Failure, Report};
use crate::{java_server, process, tools, workspace};

/// The client versions that we promise to work with: the oldest and the newest of the wire's generations.
const CLIENT_VERSIONS: [&str; 4] = ["4.3.2", "4.7.1", "4.9.8", "5.3.3"];
/// Java brokers whose directory passes to ours and back, each beside the client of its generation. Of release 4 this is
/// the last whose broker the Maven registry has.
const DIRECTORY_BROKERS: [(&str, &str); 2] = [("4.9.8", "4.9.7"), ("5.3.3", java_server::ORACLE)];
/// Longest that the suite may take with one version, downloads included.
const SUITE_LIMIT: Duration = Duration::from_secs(20 * 60);
/// Most tests of all versions together that may pass only when they are run again. Of old clients one sometimes does,
/// see `pom.xml`; more are ours.
const RERUNS_MAX: usize = 1;
/// Lines of a log that are shown when no test says what is wrong.
const TAIL_LINES: usize = 40;
/// Lines of a test's message that are shown.
const MESSAGE_LINES: usize = 12;

/// Flags of `cargo xtask interop`.
#[derive(Debug, Args)]
pub(crate) struct InteropArgs {
    /// Version of the official client (may be repeated) [default: 4.3.2, 4.7.1, 4.9.8 and 5.3.3]
    #[arg(long = "client", value_name = "VERSION")]
    clients: Vec<String>,
    /// What is tested: our binary, or the Java server as the oracle of the tests
    #[arg(long, value_enum, default_value_t = Server::Binary)]
    server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Server {
    Binary,
    Java,
}

impl InteropArgs {
    /// All versions against our binary.
    pub(crate) fn all() -> InteropArgs {
        InteropArgs { clients: Vec::new(), server: Server::Binary }
    }
}

/// Runs the suite with each version. `reruns` gets the names of tests that passed only when they were run again.
pub(crate) fn run(args: &InteropArgs, reruns: &mut Vec<String>) -> Result<()> {
    tools::require_java()?;
    let server = match args.server {
        Server::Binary => format!("-Dcometmq.binary={}", workspace::release_binary()?.display()),
        Server::Java => {
            java_server::fetch()?;
            "-Dinterop.server=java".to_owned()
        }
    };
    let clients = match args.clients.as_slice() {
        [] => CLIENT_VERSIONS.map(str::to_owned).to_vec(),
        clients => clients.to_vec(),
    };
    let mut failed = Vec::new();
    for client in clients {
        let suite = Suite::new(&client)?;
        let passed = suite.run(&server, reruns)?;
        if !passed {
            failed.push(client);
        }
    }
    if !failed.is_empty() {
        bail!("failed with client {}", failed.join(", "));
    }
    check_reruns(reruns)
}

fn check_reruns(reruns: &[String]) -> Result<()> {
    if reruns.len() > RERUNS_MAX {
        bail!("{} tests passed only on a rerun, more than {RERUNS_MAX}: {}", reruns.len(), reruns.join(", "));
    }
    Ok(())
}

/// The tests with one version of the client.
struct Suite<'a> {
    client: &'a str,
    project: PathBuf,
    reports: PathBuf,
    log: PathBuf,
}

impl<'a> Suite<'a> {
    fn new(client: &'a str) -> Result<Suite<'a>> {
        let project = workspace::interop()?;
        let reports = project.join("target").join(client).join("surefire-reports");
        let logs = workspace::target()?.join("interop");
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Suite { client, project, reports, log: logs.join(format!("{client}.log")) })
    }

    /// Runs the tests and prints one line with their counts, before it what failed, if only at first. False when
    /// something did every time.
    fn run(&self, server: &str, reruns: &mut Vec<String>) -> Result<bool> {
        // What an earlier run left would be counted.
        remove(&self.reports, std::fs::remove_dir_all)?;
        remove(&self.log, std::fs::remove_file)?;
        let start = Instant::now();
        let status = self.maven(server)?;
        let report = Report::read(&self.reports)?;
        let problem = problem(status, &report);
        if let Some(problem) = &problem {
            self.explain(problem, &report);
        }
        for rerun in &report.reruns {
            println!("** client {}: {} FAILED AT FIRST and passed on a rerun:", self.client, rerun.test);
            tell(rerun);
            reruns.push(format!("{} with client {}", rerun.test, self.client));
        }
        println!(
            "client {:<6} {:>4} tests {:>3} failed {:>3} rerun {:>3} skipped {:>7.1} s{}",
            self.client,
            report.tests,
            report.failures.len(),
            report.reruns.len(),
            report.skipped,
            start.elapsed().as_secs_f64(),
            if problem.is_some() { "  FAILED" } else { "" }
        );
        Ok(problem.is_none())
    }

    fn maven(&self, server: &str) -> Result<ExitStatus> {
        let mut command = workspace::maven(&self.project);
        if let Some((_, broker)) = DIRECTORY_BROKERS.iter().find(|(client, _)| *client == self.client) {
            java_server::fetch_release(broker)?;
            command.arg(format!("-Dinterop.java.version={broker}"));
        }
        command.arg(format!("-Drocketmq.version={}", self.client)).arg(server).arg("test");
        workspace::log_to(&mut command, &self.log)?;
        let words = process::words(&command);
        Process::spawn(format!("`{words}`"), &mut command)?.wait(SUITE_LIMIT)
    }

    fn explain(&self, problem: &str, report: &Report) {
        report.failures.iter().for_each(tell);
        if report.failures.is_empty() {
            print!("{}", workspace::tail(&self.log, TAIL_LINES));
        }
        println!("client {}: {problem}; all output is in {}", self.client, self.log.display());
    }
}

fn tell(failure: &Failure) {
    let message: Vec<&str> = failure.message.lines().take(MESSAGE_LINES).collect();
    println!("  {}: {}", failure.test, message.join("\n    "));
}

/// Why a run does not count as passed.
fn problem(status: ExitStatus, report: &Report) -> Option<String> {
    if !report.failures.is_empty() {
        Some(format!("{} of {} tests failed", report.failures.len(), report.tests))
    } else if !status.success() {
        Some(format!("Maven failed ({status})"))
    } else if report.tests == 0 {
        Some("no test ran".to_owned())
    } else if report.skipped > 0 {
        Some(format!("{} of {} tests were skipped", report.skipped, report.tests))
    } else {
        None
    }
}

fn remove(path: &Path, how: impl FnOnce(PathBuf) -> std::io::Result<()>) -> Result<()> {
    match how(path.to_owned()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn only_tests_that_ran_and_passed_count() {
        let (good, bad) = (ExitStatus::from_raw(0), ExitStatus::from_raw(256));
        let passed = Report { tests: 5, ..Report::default() };
        assert_eq!(problem(good, &passed), None);
        assert!(problem(bad, &passed).is_some());
        assert!(problem(good, &Report::default()).is_some());
        assert!(problem(good, &Report { skipped: 1, ..passed.clone() }).is_some());
        let test = Failure { test: "SendTest.sends".to_owned(), message: String::new() };
        assert!(problem(good, &Report { failures: vec![test.clone()], ..passed.clone() }).is_some());
        assert_eq!(problem(good, &Report { reruns: vec![test], ..passed }), None);
    }

    #[test]
    fn of_all_versions_one_test_may_need_a_rerun() {
        let reruns = ["A.a with client 4.3.2".to_owned(), "A.a with client 4.7.1".to_owned()];
        assert!(check_reruns(&[]).is_ok());
        assert!(check_reruns(&reruns[..1]).is_ok());
        let error = check_reruns(&reruns).unwrap_err().to_string();
        assert!(reruns.iter().all(|rerun| error.contains(rerun)), "{error}");
    }
}
