//! The flags that all load generators have.

use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use cometmq_protocol::names::TopicName;

/// How long a run is measured unless something else ends it.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// Flags of `bench send` and `bench consume`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Name server; of several, separated by `;`, the first that answers
    #[arg(short, long, value_name = "HOST:PORT", env = "NAMESRV_ADDR", default_value = "127.0.0.1:9876")]
    pub(super) namesrv: String,
    /// Topic
    #[arg(short, long, default_value = "BenchTopic", value_parser = TopicName::parse)]
    pub(super) topic: TopicName,
    /// Process ids of the servers on this machine: report their CPU time and memory too
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub(super) pid: Vec<u32>,
    /// Print one line of JSON instead of the table
    #[arg(long)]
    pub(super) json: bool,
    /// Load before the measured time, in seconds [default: 2 for send, 0 for consume]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) warmup: Option<Duration>,
    /// Measured time, in seconds [default: 10, unless --count or the end of the backlog ends the run]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) duration: Option<Duration>,
    /// Measured messages; the run ends with --count or --duration, whichever comes first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// Worker threads of the generator
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    pub(super) threads: usize,
}

/// When the measured time begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Load before it.
    pub(super) warmup: Duration,
    /// Its length; without one it ends for another reason.
    pub(super) duration: Option<Duration>,
    /// Messages in it.
    pub(super) count: Option<u64>,
}

impl LoadArgs {
    /// The limits of a run that warms up for `warmup` unless told otherwise. An `endless` run ends by itself never, so
    /// it gets a duration even if none is asked for.
    pub(super) fn limits(&self, warmup: Duration, endless: bool) -> Limits {
        let default = (endless && self.count.is_none()).then_some(DURATION_DEFAULT);
        Limits {
            warmup: self.warmup.unwrap_or(warmup),
            duration: self.duration.or(default),
            count: self.count,
        }
    }
}

/// A number of which zero makes no sense.
pub(super) fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write seconds, such as 10 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn limits(words: &[&str], endless: bool) -> Limits {
        let words = ["bench"].iter().chain(words);
        Only::parse_from(words).load.limits(Duration::from_secs(2), endless)
    }

    #[test]
    fn a_run_without_other_end_takes_ten_seconds() {
        let two = Duration::from_secs(2);
        let ten = Some(Duration::from_secs(10));
        assert_eq!(limits(&[], true), Limits { warmup: two, duration: ten, count: None });
        assert_eq!(limits(&["--count", "5"], true), Limits { warmup: two, duration: None, count: Some(5) });
        assert_eq!(limits(&[], false), Limits { warmup: two, duration: None, count: None });
        let given = limits(&["--warmup", "0", "--duration", "10", "--count", "5"], false);
        assert_eq!(given, Limits { warmup: Duration::ZERO, duration: ten, count: Some(5) });
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [["--duration", "-1"], ["--warmup", "soon"], ["--count", "0"], ["--topic", "a b"]] {
            assert!(Only::try_parse_from(["bench"].iter().chain(&words)).is_err(), "{words:?}");
        }
    }
}
