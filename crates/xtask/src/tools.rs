//! The Java tools that the interop tests need: found, installed, or named.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// What the tests are compiled for.
const JAVA_MIN: u32 = 17;
const INSTALL_LIMIT: Duration = Duration::from_secs(15 * 60);

/// A program that must be there.
struct Tool {
    program: &'static str,
    package: &'static str,
    has_java_version: bool,
}

const TOOLS: [Tool; 3] = [
    Tool { program: "java", package: "openjdk-17-jdk-headless", has_java_version: true },
    Tool { program: "javac", package: "openjdk-17-jdk-headless", has_java_version: true },
    Tool { program: "mvn", package: "maven", has_java_version: false },
];

/// Makes sure that Java and Maven can be used: on Debian root installs what is missing, others are told what to do.
pub(crate) fn require_java() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if !(rustix::process::geteuid().is_root() && Path::new("/etc/debian_version").exists()) {
        bail!("{}", advice(&missing));
    }
    println!("{}; installing", list(&missing));
    install(&missing)?;
    let missing = self::missing();
    if missing.is_empty() { Ok(()) } else { bail!("after installing: {}", advice(&missing)) }
}

/// The tools that cannot be used, each with the reason.
fn missing() -> Vec<(&'static Tool, String)> {
    TOOLS.iter().filter_map(|tool| Some((tool, problem(tool)?))).collect()
}

fn problem(tool: &Tool) -> Option<String> {
    let mut command = Command::new(tool.program);
    let output = match command.arg("-version").stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => return Some(format!("`{}` does not run ({error})", tool.program)),
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Some(format!("`{} -version` fails: {}", tool.program, text.trim()));
    }
    match java_version(&text) {
        Some(version) if !tool.has_java_version || version >= JAVA_MIN => None,
        None if !tool.has_java_version => None,
        _ => Some(format!("`{}` is not of Java {JAVA_MIN} or later: {}", tool.program, text.trim())),
    }
}

/// The feature release in what `java -version` or `javac -version` says; Java 8 calls itself 1.8.
fn java_version(text: &str) -> Option<u32> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let version = text[start..].split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next()?.ok()?, numbers.next()) {
        (1, Some(Ok(old))) => Some(old),
        (version, _) => Some(version),
    }
}

fn install(missing: &[(&Tool, String)]) -> Result<()> {
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        process::run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"), INSTALL_LIMIT)
    };
    let mut install = vec!["install", "-y"];
    install.extend(packages(missing));
    // A fresh system has no package lists yet.
    apt_get(&install)
        .or_else(|_| apt_get(&["update"]).and_then(|()| apt_get(&install)))
        .with_context(|| advice(missing))
}

fn packages(missing: &[(&Tool, String)]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = missing.iter().map(|(tool, _)| tool.package).collect();
    packages.dedup();
    packages
}

fn list(missing: &[(&Tool, String)]) -> String {
    missing.iter().map(|(_, problem)| problem.as_str()).collect::<Vec<_>>().join("; ")
}

fn advice(missing: &[(&Tool, String)]) -> String {
    let mut text = list(missing);
    let packages = packages(missing).join(" ");
    let _ = write!(
        text,
        ". The interop tests need Java {JAVA_MIN} with its compiler, and Maven. Debian and Ubuntu: apt-get install \
         {packages}; Fedora: dnf install java-17-openjdk-devel maven; macOS: brew install openjdk@17 maven"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_java_writes_them() {
        assert_eq!(java_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(java_version("java version \"1.8.0_292\""), Some(8));
        assert_eq!(java_version("javac 21"), Some(21));
        assert_eq!(java_version("openjdk version \"22-ea\" 2024-03-19"), Some(22));
        assert_eq!(java_version("nothing"), None);
    }

    #[test]
    fn advice_names_each_package_once() {
        let missing: Vec<_> = TOOLS.iter().map(|tool| (tool, format!("no {}", tool.program))).collect();
        let advice = advice(&missing);
        assert!(advice.starts_with("no java; no javac; no mvn. "), "{advice}");
        assert!(advice.contains("apt-get install openjdk-17-jdk-headless maven;"), "{advice}");
    }
}
