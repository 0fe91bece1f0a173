//! `cargo xtask java-server`: the Java name server and broker, fetched through Maven.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::{process, tools, workspace};

/// The release that is the oracle of the interop tests and the contender of the benchmarks.
pub(crate) const ORACLE: &str = "5.3.3";
/// Longest that the downloads may take.
const FETCH_LIMIT: Duration = Duration::from_secs(20 * 60);

/// What the Java server needs of a JVM of version 17.
pub(crate) const JVM_OPENINGS: [&str; 6] = [
    "--add-opens",
    "java.base/java.nio=ALL-UNNAMED",
    "--add-opens",
    "java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports",
    "java.base/jdk.internal.ref=ALL-UNNAMED",
];

/// Flags of `cargo xtask java-server`.
#[derive(Debug, Args)]
pub(crate) struct JavaServerArgs {
    /// Copy the jars to this directory [default: they stay in interop/java/java-server/target/VERSION/lib]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Release of the server
    #[arg(long, value_name = "VERSION", default_value = ORACLE)]
    version: String,
}

/// Fetches the server and prints how to run it.
pub(crate) fn run(args: &JavaServerArgs) -> Result<()> {
    let mut lib = fetch_release(&args.version)?;
    if let Some(directory) = &args.dir {
        copy_files(&lib, directory)?;
        lib = std::path::absolute(directory)?;
    }
    let openings = JVM_OPENINGS.join(" ");
    let java = |heap: &str, class: &str| {
        format!(
            "java -Xms{heap} -Xmx{heap} {openings} -Drocketmq.home.dir=/tmp/rocketmq -cp '{}/*' {class}",
            lib.display()
        )
    };
    println!("Name server (port 9876), then broker (port 10911):\n");
    println!("{}\n", java("256m", "org.apache.rocketmq.namesrv.NamesrvStartup"));
    println!("{}", java("1g", "org.apache.rocketmq.broker.BrokerStartup -n 127.0.0.1:9876"));
    Ok(())
}

/// Makes sure that the server is there and returns the directory with its jars.
pub(crate) fn fetch() -> Result<PathBuf> {
    fetch_release(ORACLE)
}

/// As [`fetch`], for another release.
pub(crate) fn fetch_release(version: &str) -> Result<PathBuf> {
    tools::require_java()?;
    let project = workspace::interop()?.join("java-server");
    let mut maven = workspace::maven(&project);
    process::run(maven.arg("package").arg(format!("-Drocketmq.server.version={version}")), FETCH_LIMIT)
        .with_context(|| format!("the Java server {version} could not be fetched"))?;
    Ok(project.join("target").join(version).join("lib"))
}

fn copy_files(source: &Path, target: &Path) -> Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("cannot create {}", target.display()))?;
    for entry in std::fs::read_dir(source).with_context(|| format!("cannot list {}", source.display()))? {
        let entry = entry?;
        let copy = target.join(entry.file_name());
        std::fs::copy(entry.path(), &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    }
    Ok(())
}
