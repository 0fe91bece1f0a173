//! The broker under torture: started on a directory with settings, each time in the same way; ours, or the Java one.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::job::{Job, Server};
use super::vitals::Vitals;
use crate::java_server::JVM_OPENINGS;
use crate::ports::Ports;
use crate::process::Process;
use crate::wire::Wire;
use crate::workspace;

/// Longest that a start may take, recovery included.
pub(super) const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest that a broker may take to stop in order.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// How a broker is started.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    server: Server,
    binary: PathBuf,
    java_lib: Option<PathBuf>,
    /// Where its configuration, its log and a Java server's home are.
    directory: PathBuf,
    /// Its store.
    pub(super) data: PathBuf,
    /// What it says.
    pub(super) log: PathBuf,
    config: PathBuf,
    /// Its ports.
    pub(super) ports: Ports,
    /// Words before its own command line.
    pub(super) prefix: Vec<String>,
    /// Variables of its environment.
    pub(super) environment: Vec<(String, String)>,
}

impl Setup {
    /// A broker on `data`, with `settings` (lines of a `broker.conf`) beside what every row wants.
    pub(super) fn new(job: &Job, data: &Path, settings: &str) -> Result<Setup> {
        let ports = Ports::find()?;
        let name = format!("broker-{}", ports.broker);
        let directory = job.scratch.join(&name);
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let config = directory.join("broker.conf");
        // A topic that was forgotten must not be made anew on the quiet.
        let text = format!(
            "brokerName=torture\nbrokerId=0\nbrokerIP1=127.0.0.1\nautoCreateTopicEnable=false\nlistenPort={}\n\
             storePathRootDir={data}\nstorePathCommitLog={data}/commitlog\n{settings}",
            ports.broker,
            data = data.display()
        );
        std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        Ok(Setup {
            server: job.server,
            binary: job.binary.clone(),
            java_lib: job.java_lib.clone(),
            log: job.scratch.join(format!("{name}.log")),
            directory,
            data: data.to_owned(),
            config,
            ports,
            prefix: Vec::new(),
            environment: Vec::new(),
        })
    }

    /// Removes the store, if there is one, and everything else of this broker.
    pub(super) fn remove(&self) -> Result<()> {
        for directory in [&self.data, &self.directory] {
            if directory.exists() {
                std::fs::remove_dir_all(directory)
                    .with_context(|| format!("cannot remove {}", directory.display()))?;
            }
        }
        std::fs::remove_file(&self.log).with_context(|| format!("cannot remove {}", self.log.display()))
    }

    /// Where clients reach it.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.broker)
    }

    /// Where they reach its name server.
    pub(super) fn namesrv(&self) -> String {
        format!("127.0.0.1:{}", self.ports.namesrv)
    }

    /// Starts it; it may not listen yet.
    pub(super) fn start(&self) -> Result<Broker> {
        let commands = match self.server {
            Server::Binary => vec![self.comet()],
            Server::Java => self.java()?,
        };
        let mut processes = Vec::new();
        for mut command in commands {
            command.current_dir(&self.directory).env("HOME", &self.directory);
            command.env_remove("NAMESRV_ADDR").env_remove("ROCKETMQ_HOME").env_remove("JAVA_TOOL_OPTIONS");
            command.envs(self.environment.iter().map(|(name, value)| (name, value)));
            workspace::log_to(&mut command, &self.log)?;
            processes.push(Process::spawn("the broker", &mut command)?);
        }
        let broker = processes.pop().context("a broker has a command")?;
        Ok(Broker { process: broker, _others: processes })
    }

    /// Starts it and waits until it listens.
    pub(super) async fn start_and_connect(&self) -> Result<(Broker, Wire)> {
        let mut broker = self.start()?;
        let address = self.address();
        let connect = Wire::connect_by(&address, Instant::now() + START_LIMIT);
        let wire = broker.needed_by(connect).await??;
        Ok((broker, wire))
    }

    /// Starts it with `topic` made and known to its own name server.
    pub(super) async fn start_with_topic(&self, topic: &str, queues: i32) -> Result<(Broker, Wire)> {
        let (broker, wire) = self.start_and_connect().await?;
        wire.create_topic(topic, queues).await?;
        Ok((broker, wire))
    }

    fn command(&self, program: &Path) -> Command {
        match self.prefix.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }

    fn comet(&self) -> Command {
        let mut command = self.command(&self.binary);
        command.args(["serve", "--bind", "127.0.0.1", "--data"]).arg(&self.data);
        command.arg("-c").arg(&self.config);
        command.args(["--namesrv-port", &self.ports.namesrv.to_string()]);
        command.args(["--broker-port", &self.ports.broker.to_string()]);
        command
    }

    fn java(&self) -> Result<Vec<Command>> {
        let lib = self.java_lib.as_ref().context("the Java server was not fetched")?;
        let namesrv_config = self.directory.join("namesrv.conf");
        std::fs::write(&namesrv_config, format!("listenPort={}\n", self.ports.namesrv))?;
        std::fs::create_dir_all(self.directory.join("conf"))?;
        let jvm = |heap: &str, class: &str, config: &Path| {
            let mut command = Command::new("java");
            command.args([format!("-Xms{heap}"), format!("-Xmx{heap}")]).args(JVM_OPENINGS);
            command.arg(format!("-Drocketmq.home.dir={}", self.directory.display()));
            command.arg(format!("-Duser.home={}", self.directory.display()));
            command.arg("-cp").arg(lib.join("*")).arg(class).arg("-c").arg(config);
            command
        };
        let mut broker = jvm("512m", "org.apache.rocketmq.broker.BrokerStartup", &self.config);
        broker.args(["-n", &self.namesrv()]);
        Ok(vec![jvm("256m", "org.apache.rocketmq.namesrv.NamesrvStartup", &namesrv_config), broker])
    }
}

/// A broker that runs; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Broker {
    process: Process,
    /// The name server of a Java broker.
    _others: Vec<Process>,
}

impl Broker {
    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it holds.
    pub(super) fn vitals(&self) -> Result<Vitals> {
        Vitals::of(self.pid())
    }

    /// Waits for `work`, which needs the broker.
    pub(super) async fn needed_by<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        self.process.needed_by(work).await
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// SIGKILL; returns when it is gone.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// SIGTERM; returns how it ended.
    pub(super) fn stop(&mut self) -> Result<ExitStatus> {
        if self.process.ended()?.is_none() {
            let pid = Pid::from_raw(self.pid().cast_signed()).context("a child's id is not 0")?;
            // Fails when it has just ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        self.process.wait(STOP_LIMIT)
    }

    /// Fails unless the broker runs.
    pub(super) fn must_live(&mut self) -> Result<()> {
        let ended = self.ended()?;
        ensure!(ended.is_none(), "the broker ended by itself ({ended:?})");
        Ok(())
    }
}
