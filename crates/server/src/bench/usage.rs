//! What processes of this machine spend, read from `/proc`.

use anyhow::{Context, Result, bail};

/// Ticks per second in `/proc`: 100 on every platform that Linux still supports (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time and memory of some processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// User and system time since they started.
    pub(super) cpu_seconds: f64,
    /// Memory now (VmRSS).
    pub(super) rss_bytes: u64,
    /// Most memory so far (VmHWM), each process at its own time.
    pub(super) rss_peak_bytes: u64,
}

impl Usage {
    /// Of the processes with these ids.
    pub(super) fn of(pids: &[u32]) -> Result<Usage> {
        let mut sum = Usage::default();
        for pid in pids {
            let usage = read(&pid.to_string())?;
            sum.cpu_seconds += usage.cpu_seconds;
            sum.rss_bytes += usage.rss_bytes;
            sum.rss_peak_bytes += usage.rss_peak_bytes;
        }
        Ok(sum)
    }

    /// Of this process; unknown on systems without `/proc`.
    pub(super) fn own() -> Option<Usage> {
        read("self").ok()
    }
}

fn read(process: &str) -> Result<Usage> {
    let file = |name: &str| {
        std::fs::read_to_string(format!("/proc/{process}/{name}"))
            .with_context(|| format!("no process {process} on this machine; give running ones with --pid"))
    };
    parse(&file("stat")?, &file("status")?)
        .with_context(|| format!("/proc/{process} is not as Linux writes it; leave --pid out"))
}

fn parse(stat: &str, status: &str) -> Result<Usage> {
    // The second field is the program's name in parentheses, and may hold blanks and parentheses itself.
    let Some((_, fields)) = stat.rsplit_once(')') else { bail!("stat has no program name") };
    let mut fields = fields.split_ascii_whitespace();
    let mut ticks = |skip| -> Result<u64> { Ok(fields.nth(skip).context("stat is too short")?.parse()?) };
    // Fields 14 and 15: utime and stime.
    let ticks = ticks(11)? + ticks(0)?;
    Ok(Usage {
        cpu_seconds: ticks as f64 / TICKS_PER_SECOND,
        rss_bytes: bytes_of(status, "VmRSS:"),
        rss_peak_bytes: bytes_of(status, "VmHWM:"),
    })
}

/// A line such as `VmRSS:      5612 kB`; absent for processes without memory of their own (zombies).
fn bytes_of(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let kilobytes = line.split_ascii_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_blanks_and_parentheses_shifts_nothing() {
        let stat =
            "71 (a (b) 9) S 1 71 71 0 -1 4194304 512 0 0 0 1234 566 7 8 20 0 9 0 100 1000 200 18446744";
        let status = "Name:\ta (b) 9\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let expected = Usage { cpu_seconds: 18.0, rss_bytes: 1 << 20, rss_peak_bytes: 2 << 20 };
        assert_eq!(parse(stat, status).unwrap(), expected);
        assert_eq!(parse(stat, "State:\tZ (zombie)\n").unwrap().rss_bytes, 0);
    }

    #[test]
    fn other_text_is_an_error() {
        for stat in ["", "1 (x", "1 (x) S 1 2", "1 (x) S 1 71 71 0 -1 4194304 512 0 0 0 many 566"] {
            assert!(parse(stat, "").is_err(), "{stat}");
        }
    }
}
