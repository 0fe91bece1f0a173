//! The load generator of `interop/java`: the official Java client, one JVM for each measurement.

use std::ffi::OsString;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::contender::Contender;
use crate::process::Process;
use crate::{process, workspace};

const CLIENT_VERSION: &str = "5.3.3";
const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);
/// Longest that one measurement may take, warm-up included.
const RUN_LIMIT: Duration = Duration::from_secs(30 * 60);

/// What one measurement gave.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Messages in a second.
    pub(super) rate: f64,
    /// Median latency, in µs.
    pub(super) p50_us: f64,
    /// 99th percentile of the latency, in µs.
    pub(super) p99_us: f64,
    /// Messages for each second of CPU time of the server.
    pub(super) per_cpu_second: f64,
    /// Messages that were not accepted.
    pub(super) failed: u64,
}

/// The compiled generator.
pub(super) struct LoadGenerator {
    class_path: OsString,
}

impl LoadGenerator {
    /// Compiles it and fetches the client.
    pub(super) fn build() -> Result<LoadGenerator> {
        let project = workspace::interop()?;
        let mut maven = workspace::maven(&project);
        maven.arg(format!("-Drocketmq.version={CLIENT_VERSION}")).args(["-DskipTests", "package"]);
        process::run(&mut maven, BUILD_LIMIT).context("the load generator could not be built")?;
        let output = project.join("target").join(CLIENT_VERSION);
        let class_path = [output.join("classes"), output.join("lib/*")];
        let class_path = class_path.iter().map(|path| path.as_os_str()).collect::<Vec<_>>();
        Ok(LoadGenerator { class_path: class_path.join(OsString::from(":").as_os_str()) })
    }

    /// Sends to a topic.
    pub(super) fn send(&self, contender: &Contender, topic: &str, flags: &[&str]) -> Result<Sample> {
        self.run(contender, "send", topic, flags)
    }

    /// Consumes from a topic.
    pub(super) fn consume(&self, contender: &Contender, topic: &str, flags: &[&str]) -> Result<Sample> {
        self.run(contender, "consume", topic, flags)
    }

    fn run(&self, contender: &Contender, what: &str, topic: &str, flags: &[&str]) -> Result<Sample> {
        eprintln!("{}: {what} {}", contender.software(), flags.join(" "));
        let scratch = tempfile::tempdir()?;
        let mut output = tempfile::tempfile()?;
        let mut command = self.command(scratch.path());
        command.args([
            what,
            "--namesrv",
            &contender.namesrv(),
            "--topic",
            topic,
            "--server-pid",
            &contender.pid_list(),
        ]);
        command.args(flags).stdout(Stdio::from(output.try_clone()?));
        let status = Process::spawn("the load generator", &mut command)?.wait(RUN_LIMIT)?;
        let mut text = String::new();
        output.rewind()?;
        output.read_to_string(&mut text)?;
        if !status.success() {
            bail!("the load generator failed ({status}): {text}{}", contender.log_tail());
        }
        // The client may have said something before the result.
        let line = text.lines().rev().find(|line| line.starts_with('{')).context("no result")?;
        eprintln!("  {line}");
        parse(line)
    }

    fn command(&self, home: &Path) -> Command {
        let mut command = Command::new("java");
        command.args(["-Xms512m", "-Xmx512m", "--add-opens", "java.base/java.nio=ALL-UNNAMED"]);
        command.args(["--add-opens", "java.base/sun.nio.ch=ALL-UNNAMED"]);
        // Where the client keeps its log.
        command.arg(format!("-Duser.home={}", home.display()));
        command.arg("-cp").arg(&self.class_path).arg("dev.cometmq.interop.Load");
        command
    }
}

fn parse(line: &str) -> Result<Sample> {
    let value: Value = serde_json::from_str(line).with_context(|| format!("not a result: {line}"))?;
    let number = |name: &str| value[name].as_f64().with_context(|| format!("no {name} in {line}"));
    Ok(Sample {
        rate: number("rate")?,
        p50_us: number("p50_us")?,
        p99_us: number("p99_us")?,
        per_cpu_second: number("messages_per_server_cpu_second")?,
        failed: number("failed")? as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_a_sample() {
        let line = r#"{"sent":10,"seconds":1.0,"rate":10,"p50_us":5,"p99_us":9,"p999_us":9,"max_us":9,"failed":1,"server_cpu_seconds":0.50,"messages_per_server_cpu_second":20,"server_rss_kib":1,"server_hwm_kib":2}"#;
        let sample = parse(line).unwrap();
        assert_eq!((sample.rate, sample.p50_us, sample.p99_us), (10.0, 5.0, 9.0));
        assert_eq!((sample.per_cpu_second, sample.failed), (20.0, 1));
        assert!(parse("{}").is_err());
    }
}
