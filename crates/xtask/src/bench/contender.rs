//! The servers that are compared: how each is started on its own directory and ports, and what it costs.

use std::fmt::{self, Display, Formatter, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::machine;
use crate::java_server::JVM_OPENINGS;
use crate::ports::Ports;
use crate::process::Process;
use crate::workspace;

/// Longest that a name server may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(120);
/// Pause between two looks whether it does.
const LISTEN_POLL: Duration = Duration::from_millis(5);
/// Lines of each log that a failure shows.
const TAIL_LINES: usize = 15;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Software {
    /// The Java name server and broker.
    Java,
    /// Ours.
    Comet,
    /// `cometmq bench null`, which stores nothing: what the client and the sockets alone allow.
    Null,
}

impl Display for Software {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Software::Java => "Java 5.3.3",
            Software::Comet => "CometMQ",
            Software::Null => "null server",
        })
    }
}

/// When a broker acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    /// After writing.
    Async,
    /// After the disk confirmed.
    Sync,
}

/// Where the programs are.
pub(super) struct Programs {
    /// Our binary.
    pub(super) comet: PathBuf,
    /// Directory of the Java server's jars, when a scenario that runs needs it.
    pub(super) java_lib: Option<PathBuf>,
    /// Heap of the Java broker.
    pub(super) heap: String,
}

/// One server; its processes end and its directory goes when this is dropped.
pub(super) struct Contender {
    software: Software,
    commands: Vec<(&'static str, Command)>,
    // Before the directory, so that nobody writes there any more when it goes.
    processes: Vec<Process>,
    directory: TempDir,
    ports: Ports,
}

impl Contender {
    /// Writes the server's configuration; nothing runs yet.
    pub(super) fn prepare(software: Software, programs: &Programs, flush: Flush) -> Result<Contender> {
        let parent = workspace::target()?.join("bench");
        std::fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
        let directory = tempfile::Builder::new().prefix("run-").tempdir_in(&parent)?;
        let ports = Ports::find()?;
        let config = write_config(directory.path(), ports, flush)?;
        let commands = match software {
            Software::Java => java(programs, directory.path(), &config, ports)?,
            Software::Comet => {
                let mut command = Command::new(&programs.comet);
                command.args(["serve", "--bind", "127.0.0.1", "-c"]).arg(config);
                command.args(["--namesrv-port", &ports.namesrv.to_string()]);
                vec![("server", command)]
            }
            Software::Null => {
                let mut command = Command::new(&programs.comet);
                command.args(["bench", "null", "--port", &ports.broker.to_string()]);
                vec![("server", command)]
            }
        };
        Ok(Contender { software, commands, processes: Vec::new(), directory, ports })
    }

    /// Lets all processes start inside this control group.
    pub(super) fn confine(&mut self, group: &Path) {
        for (_, command) in &mut self.commands {
            let mut confined = Command::new("sh");
            confined.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.join("cgroup.procs"));
            confined.arg(command.get_program()).args(command.get_args());
            *command = confined;
        }
    }

    /// Sets variables of all processes' environment.
    pub(super) fn set(&mut self, variables: impl IntoIterator<Item = (String, String)> + Clone) {
        for (_, command) in &mut self.commands {
            command.envs(variables.clone());
        }
    }

    /// A directory that goes with the server.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts all processes and returns the moment in which the broker was started.
    ///
    /// A name server of its own listens before that. A Java broker that is started beside it now and then takes
    /// several times as long, which would be our doing and not its.
    pub(super) fn start(&mut self) -> Result<Instant> {
        self.processes.clear();
        let mut started = Instant::now();
        let last = self.commands.len() - 1;
        for (index, (name, command)) in self.commands.iter_mut().enumerate() {
            command.current_dir(self.directory.path()).env("HOME", self.directory.path());
            command.env_remove("NAMESRV_ADDR").env_remove("ROCKETMQ_HOME").env_remove("JAVA_TOOL_OPTIONS");
            workspace::log_to(command, &self.directory.path().join(format!("{name}.log")))?;
            started = Instant::now();
            self.processes.push(Process::spawn(format!("{} {name}", self.software), command)?);
            if index < last {
                await_listening(self.ports.namesrv)?;
            }
        }
        Ok(started)
    }

    /// Waits for `work`, which needs the broker.
    pub(super) async fn needed_by<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        self.processes.last_mut().context("nothing was started")?.needed_by(work).await
    }

    /// SIGKILL to all processes.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::kill)
    }

    /// What this is.
    pub(super) fn software(&self) -> Software {
        self.software
    }

    /// Address of the name server.
    pub(super) fn namesrv(&self) -> String {
        match self.software {
            // One port is both.
            Software::Null => self.broker(),
            Software::Java | Software::Comet => format!("127.0.0.1:{}", self.ports.namesrv),
        }
    }

    /// Address of the broker.
    pub(super) fn broker(&self) -> String {
        format!("127.0.0.1:{}", self.ports.broker)
    }

    /// Process ids.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// Process ids, separated by commas.
    pub(super) fn pid_list(&self) -> String {
        self.pids().iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }

    /// Resident memory of all processes, in MiB.
    pub(super) fn rss_mib(&self) -> Result<f64> {
        machine::rss_mib(&self.pids())
    }

    /// Where the broker keeps everything.
    pub(super) fn store(&self) -> PathBuf {
        store(self.directory.path())
    }

    /// The last words of all processes.
    pub(super) fn log_tail(&self) -> String {
        self.commands.iter().fold(String::from("last words:\n"), |mut text, (name, _)| {
            let log = self.directory.path().join(format!("{name}.log"));
            let _ = write!(text, "{}", workspace::tail(&log, TAIL_LINES));
            text
        })
    }
}

fn await_listening(port: u16) -> Result<()> {
    let deadline = Instant::now() + LISTEN_LIMIT;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        ensure!(Instant::now() < deadline, "nobody listens on port {port}");
        thread::sleep(LISTEN_POLL);
    }
    Ok(())
}

fn store(directory: &Path) -> PathBuf {
    directory.join("store")
}

/// The same file for Java and for us.
fn write_config(directory: &Path, ports: Ports, flush: Flush) -> Result<PathBuf> {
    let store = store(directory);
    let flush = match flush {
        Flush::Async => "ASYNC_FLUSH",
        Flush::Sync => "SYNC_FLUSH",
    };
    let config = format!(
        "brokerClusterName=DefaultCluster\nbrokerName=broker-a\nbrokerId=0\nbrokerIP1=127.0.0.1\nlistenPort={}\n\
         storePathRootDir={store}\nstorePathCommitLog={store}/commitlog\nflushDiskType={flush}\n",
        ports.broker,
        store = store.display()
    );
    let file = directory.join("broker.conf");
    std::fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Name server and broker with the collector that the Java release's own scripts choose.
fn java(
    programs: &Programs,
    directory: &Path,
    config: &Path,
    ports: Ports,
) -> Result<Vec<(&'static str, Command)>> {
    let namesrv_config = directory.join("namesrv.conf");
    std::fs::write(&namesrv_config, format!("listenPort={}\n", ports.namesrv))?;
    let lib = programs
        .java_lib
        .as_ref()
        .context("the Java server was not fetched: a scenario is missing in needs_java")?;
    let home = directory.join("home");
    std::fs::create_dir_all(home.join("conf"))?;
    let jvm = |heap: &str, class: &str, config: &Path| {
        let mut command = Command::new("java");
        command.args([format!("-Xms{heap}"), format!("-Xmx{heap}"), "-XX:+UseG1GC".to_owned()]);
        command.args(JVM_OPENINGS);
        command.arg(format!("-Drocketmq.home.dir={}", home.display()));
        command.arg(format!("-Duser.home={}", home.display()));
        command.arg("-cp").arg(lib.join("*")).arg(class).arg("-c").arg(config);
        command
    };
    let namesrv = jvm("256m", "org.apache.rocketmq.namesrv.NamesrvStartup", &namesrv_config);
    let mut broker = jvm(&programs.heap, "org.apache.rocketmq.broker.BrokerStartup", config);
    broker.args(["-n", &format!("127.0.0.1:{}", ports.namesrv)]);
    Ok(vec![("namesrv", namesrv), ("broker", broker)])
}
