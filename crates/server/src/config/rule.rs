//! Rules: what the value of a key may be, how it is read, and how it is shown.
//!
//! A rule reads only; it looks at no file and no clock. The one thing it takes from its surroundings is the
//! home directory, for paths.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// The largest number of a Java `int`: no key of RocketMQ takes more, and times stay far from overflow.
const INT_MAX: u64 = i32::MAX as u64;

/// What a key's value may be.
pub(super) struct Rule<T> {
    /// Completes the sentence "expected …".
    pub(super) allowed: String,
    /// The unit of a number, or nothing.
    pub(super) unit: &'static str,
    pub(super) read: Read<T>,
    /// As it would stand in a file.
    pub(super) show: fn(&T) -> String,
}

type Read<T> = Box<dyn Fn(&str) -> Result<Reading<T>, Refusal>>;

/// A value, and how it differs from what was written.
pub(super) struct Reading<T> {
    pub(super) value: T,
    pub(super) note: Option<String>,
}

/// Why a text is not taken.
pub(super) enum Refusal {
    /// It is not what the rule allows.
    NotAllowed,
    /// It is, but cannot be had.
    Because(&'static str),
}

impl<T: 'static> Rule<T> {
    fn new(
        allowed: impl Into<String>,
        show: fn(&T) -> String,
        read: impl Fn(&str) -> Option<T> + 'static,
    ) -> Rule<T> {
        let read = move |text: &str| match read(text) {
            Some(value) => Ok(Reading { value, note: None }),
            None => Err(Refusal::NotAllowed),
        };
        Rule { allowed: allowed.into(), unit: "", show, read: Box::new(read) }
    }

    fn unit(self, unit: &'static str) -> Rule<T> {
        Rule { unit, ..self }
    }

    /// Answers one word with a reason of its own.
    pub(super) fn refusing(self, word: &'static str, reason: &'static str) -> Rule<T> {
        let read = self.read;
        let read = move |text: &str| if text == word { Err(Refusal::Because(reason)) } else { read(text) };
        Rule { read: Box::new(read), ..self }
    }

    /// Takes the value through `adjust`, which may change it, remark on it or refuse it.
    pub(super) fn then(self, adjust: fn(T) -> Result<Reading<T>, Refusal>) -> Rule<T> {
        let read = self.read;
        Rule { read: Box::new(move |text| adjust(read(text)?.value)), ..self }
    }
}

impl<T> From<T> for Reading<T> {
    fn from(value: T) -> Reading<T> {
        Reading { value, note: None }
    }
}

/// `true` or `false`, in any case.
pub(super) fn flag() -> Rule<bool> {
    Rule::new("true or false", bool::to_string, |text| match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    })
}

/// A port in a range.
pub(super) fn port(range: RangeInclusive<u16>) -> Rule<u16> {
    number("a port", u64::from(*range.start())..=u64::from(*range.end()))
}

/// A number of things.
pub(super) fn count(range: RangeInclusive<u32>) -> Rule<u32> {
    number("a number", u64::from(*range.start())..=u64::from(*range.end()))
}

/// A number that tells one thing from another.
pub(super) fn id() -> Rule<u64> {
    number("a number", 0..=INT_MAX)
}

/// A span of time that is not zero.
pub(super) fn milliseconds() -> Rule<u64> {
    number("a number of milliseconds", 1..=INT_MAX).unit("ms")
}

/// A span of time that is not zero.
pub(super) fn seconds() -> Rule<u64> {
    number("a number of seconds", 1..=INT_MAX).unit("s")
}

/// A span of time, in hours.
pub(super) fn hours() -> Rule<u64> {
    number("a number of hours", 0..=1_000_000).unit("hours")
}

/// Hours of the day, separated by semicolons.
pub(super) fn hours_of_day() -> Rule<Vec<u8>> {
    Rule::new(
        "hours of the day, such as 04 or 04;16",
        |hours| hours.iter().map(|hour| format!("{hour:02}")).collect::<Vec<_>>().join(";"),
        |text| {
            let words = text.split(';').map(str::trim).filter(|word| !word.is_empty());
            words.map(|word| word.parse().ok().filter(|hour| *hour < 24)).collect()
        },
    )
}

/// A share in percent.
pub(super) fn percent() -> Rule<u32> {
    number("a percentage", 0..=100).unit("%")
}

/// A size of at least so many bytes.
pub(super) fn bytes(range: RangeInclusive<u64>) -> Rule<u64> {
    number("a number of bytes", *range.start()..=(*range.end()).min(INT_MAX)).unit("bytes")
}

fn number<T: TryFrom<u64> + Display + 'static>(what: &str, range: RangeInclusive<u64>) -> Rule<T> {
    let allowed = format!("{what} from {} to {}", range.start(), range.end());
    Rule::new(allowed, T::to_string, move |text| {
        let number = text.parse::<u64>().ok().filter(|number| range.contains(number))?;
        T::try_from(number).ok()
    })
}

/// One of a few words.
pub(super) fn one_of<T: Display + Clone + 'static>(values: &'static [T]) -> Rule<T> {
    let words: Vec<String> = values.iter().map(T::to_string).collect();
    Rule::new(words.join(" or "), T::to_string, move |text| {
        let index = words.iter().position(|word| word == text)?;
        values.get(index).cloned()
    })
}

/// The name of a broker or cluster. It becomes the name of a topic, and with that of a directory.
pub(super) fn name() -> Rule<String> {
    const NAME_BYTES_MAX: usize = 127;
    Rule::new("a name of 1 to 127 bytes without blanks and slashes", String::clone, |text| {
        let letters =
            |letter: char| !letter.is_whitespace() && !letter.is_control() && !"/\\".contains(letter);
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && text != "." && text != "..";
        (fits && text.chars().all(letters)).then(|| text.to_owned())
    })
}

/// An address to listen on.
pub(super) fn ip_address() -> Rule<IpAddr> {
    Rule::new("an IP address of this machine", IpAddr::to_string, |text| text.parse().ok())
}

/// A host, or nothing.
pub(super) fn host() -> Rule<Option<String>> {
    Rule::new(
        "an IP address or a host name, without a port",
        |host| host.clone().unwrap_or_default(),
        |text| match text {
            "" => Some(None),
            _ => is_host(text).then(|| Some(text.to_owned())),
        },
    )
}

/// A host and a port to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    /// An IP address (without brackets) or a name.
    pub(crate) host: String,
    /// Not zero.
    pub(crate) port: u16,
}

impl HostPort {
    /// Reads `host:port`, `1.2.3.4:port` or `[1::2]:port`.
    pub(crate) fn parse(text: &str) -> Option<HostPort> {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            None if host.contains(':') => return None,
            None => host.to_owned(),
        };
        let port = port.parse().ok().filter(|&port| port != 0)?;
        is_host(&host).then_some(HostPort { host, port })
    }
}

impl Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Any number of hosts with ports, separated by semicolons.
pub(super) fn host_ports() -> Rule<Vec<HostPort>> {
    Rule::new(
        "a list host:port;host:port",
        |list| list.iter().map(HostPort::to_string).collect::<Vec<_>>().join(";"),
        |text| {
            let members = text.split(';').map(str::trim).filter(|member| !member.is_empty());
            members.map(HostPort::parse).collect()
        },
    )
}

fn is_host(text: &str) -> bool {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
    text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.len() <= 253 && text.chars().all(letters))
}

/// A file or directory.
pub(super) fn path() -> Rule<PathBuf> {
    let rule = optional_path();
    let read = rule.read;
    Rule {
        allowed: rule.allowed,
        unit: "",
        show: |path| path.display().to_string(),
        read: Box::new(move |text| read(text)?.value.map(Reading::from).ok_or(Refusal::NotAllowed)),
    }
}

/// A file or directory, or nothing.
pub(super) fn optional_path() -> Rule<Option<PathBuf>> {
    let show =
        |path: &Option<PathBuf>| path.as_deref().map_or_else(String::new, |path| path.display().to_string());
    let read = |text: &str| match text {
        "" => Ok(None.into()),
        _ => expand_home(text, std::env::home_dir().as_deref()).map(|path| Some(path).into()),
    };
    Rule { allowed: "a path".to_owned(), unit: "", show, read: Box::new(read) }
}

/// Puts the home directory in the place of a leading `~` or `$HOME`, which the Java program's users write in
/// its scripts and files.
fn expand_home(text: &str, home: Option<&Path>) -> Result<PathBuf, Refusal> {
    if text.contains(char::is_control) {
        return Err(Refusal::NotAllowed);
    }
    let (first, rest) = text.split_once('/').unwrap_or((text, ""));
    match first {
        "~" | "$HOME" | "${HOME}" | "${user.home}" => match home {
            Some(home) => Ok(home.join(rest.trim_start_matches('/'))),
            None => Err(Refusal::Because("the home directory is not known")),
        },
        // Anything else of that look would become a directory of that very name.
        _ if first.starts_with(['~', '$']) => {
            Err(Refusal::Because("only ~, $HOME, ${HOME} and ${user.home} are replaced, at the start"))
        }
        _ => Ok(PathBuf::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_ports_are_checked_one_by_one() {
        check(&host_ports(), "localhost:9876", "localhost:9876");
        check(&host_ports(), " 10.0.0.1:9876 ; ns-2.example:9877;", "10.0.0.1:9876;ns-2.example:9877");
        check(&host_ports(), "[::1]:9876", "[::1]:9876");
        check(&host_ports(), "", "");
        for wrong in ["localhost", ":9876", "a:0", "a:65536", "a:1,b:2", "http://a:1", "::1:9876", "a b:1"] {
            check(&host_ports(), wrong, "refused");
        }
    }

    #[test]
    fn a_host_alone_has_no_port() {
        check(&host(), "10.0.0.1", "10.0.0.1");
        check(&host(), "::1", "::1");
        check(&host(), "broker.example", "broker.example");
        check(&host(), "broker.example:10911", "refused");
    }

    #[test]
    fn numbers_are_whole_and_inside_their_range() {
        check(&port(3..=65535), "3", "3");
        for wrong in ["2", "65536", "-1", "", "1e4", "10 000"] {
            check(&port(3..=65535), wrong, "refused");
        }
    }

    #[test]
    fn flags_have_two_words_only() {
        check(&flag(), "TRUE", "true");
        check(&flag(), "False", "false");
        check(&flag(), "yes", "refused");
    }

    #[test]
    fn names_fit_a_directory() {
        check(&name(), "broker-a.example", "broker-a.example");
        for wrong in ["", "..", "a/b", "a b", "a\\b", &"x".repeat(128)] {
            check(&name(), wrong, "refused");
        }
    }

    #[test]
    fn the_home_directory_is_put_in_at_the_start_only() {
        let expand = |text| match expand_home(text, Some(Path::new("/home/u"))) {
            Ok(path) => path.display().to_string(),
            Err(_) => "refused".to_owned(),
        };
        assert_eq!(expand("~/store"), "/home/u/store");
        assert_eq!(expand("$HOME/store"), "/home/u/store");
        assert_eq!(expand("${HOME}//store"), "/home/u/store");
        assert_eq!(expand("${user.home}/a/b"), "/home/u/a/b");
        assert_eq!(expand("/data/~/x"), "/data/~/x");
        assert_eq!(expand("./data"), "./data");
        assert_eq!(expand("~other/store"), "refused");
        assert_eq!(expand("$ROCKETMQ_HOME/store"), "refused");
        assert!(matches!(expand_home("~/store", None), Err(Refusal::Because(_))));
    }

    fn check<T>(rule: &Rule<T>, text: &str, expected: &str) {
        let found = match (rule.read)(text) {
            Ok(reading) => (rule.show)(&reading.value),
            Err(_) => "refused".to_owned(),
        };
        assert_eq!(found, expected, "{text:?}");
    }
}
