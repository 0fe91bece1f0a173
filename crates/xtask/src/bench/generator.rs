//! `cometmq bench`: our own load generator, which costs less than the official client and can do more.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::contender::{Contender, Programs};
use crate::process::Process;

/// Longest that one load may take.
const RUN_LIMIT: Duration = Duration::from_secs(60 * 60);

/// A load that runs; it ends when this is dropped.
pub(super) struct Running {
    process: Process,
    output: File,
    what: String,
}

impl Running {
    /// Starts `cometmq bench send` or `consume` on a topic, with these further flags.
    pub(super) fn start(
        programs: &Programs,
        contender: &Contender,
        what: &str,
        topic: &str,
        flags: &str,
    ) -> Result<Running> {
        eprintln!("{}: {what} {topic} {flags}", contender.software());
        let output = tempfile::tempfile()?;
        let mut command = Command::new(&programs.comet);
        command.args(["bench", what, "--json", "--topic", topic, "--namesrv", &contender.namesrv()]);
        command.args(["--pid", &contender.pid_list()]).args(flags.split_whitespace());
        command.stdout(Stdio::from(output.try_clone()?));
        let what = format!("{what} {topic}");
        Ok(Running { process: Process::spawn(what.clone(), &mut command)?, output, what })
    }

    /// Whether it has ended by itself.
    pub(super) fn ended(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_some())
    }

    /// Waits for the end, and returns the result.
    pub(super) fn finish(mut self) -> Result<Outcome> {
        let status = self.process.wait(RUN_LIMIT)?;
        let mut text = String::new();
        self.output.rewind()?;
        self.output.read_to_string(&mut text)?;
        if !status.success() {
            bail!("`{}` failed ({status}): {text}", self.what);
        }
        eprintln!("  {}", text.trim_end());
        Outcome::parse(&text)
    }
}

/// The line in which the generator tells a result.
#[derive(Clone, Debug)]
pub(super) struct Outcome(Value);

impl Outcome {
    fn parse(line: &str) -> Result<Outcome> {
        Ok(Outcome(serde_json::from_str(line).with_context(|| format!("not a result: {line}"))?))
    }

    /// Messages that were taken or received.
    pub(super) fn messages(&self) -> Result<f64> {
        self.number("messages")
    }

    /// Messages in a second.
    pub(super) fn rate(&self) -> Result<f64> {
        self.number("messages_per_second")
    }

    /// Messages for each second of CPU time of the server.
    pub(super) fn per_cpu_second(&self) -> Result<f64> {
        self.number("messages_per_server_cpu_second")
    }

    /// 99th percentile of the time from a send to its reply, in ms.
    pub(super) fn send_p99_ms(&self) -> Result<f64> {
        Ok(self.number("latency_p99_us")? / 1e3)
    }

    /// 99th percentile of the age of messages when a follower received them, in ms.
    pub(super) fn age_p99_ms(&self) -> Result<f64> {
        Ok(self.number("end_to_end_latency_p99_us")? / 1e3)
    }

    fn number(&self, name: &str) -> Result<f64> {
        self.0[name].as_f64().with_context(|| format!("no {name} in {}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_read_and_what_it_lacks_is_named() {
        let line = r#"{"messages":7,"messages_per_second":3.5,"latency_p99_us":1500}"#;
        let outcome = Outcome::parse(line).unwrap();
        let read = (outcome.messages().unwrap(), outcome.rate().unwrap(), outcome.send_p99_ms().unwrap());
        assert_eq!(read, (7.0, 3.5, 1.5));
        let error = outcome.age_p99_ms().unwrap_err().to_string();
        assert!(error.starts_with("no end_to_end_latency_p99_us in"), "{error}");
        assert!(Outcome::parse("none").is_err());
    }
}
