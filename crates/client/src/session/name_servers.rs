//! The list of name servers, and which of them is asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::ClientError;

/// Port of a name server when none is given.
const DEFAULT_PORT: u16 = 9876;

/// Name servers; all know the same, so one is asked until it fails.
#[derive(Debug)]
pub(super) struct NameServers {
    addresses: Vec<String>,
    current: AtomicUsize,
}

impl NameServers {
    /// Reads `a:9876;b:9876`. `start` decides which one is asked first, so that clients spread.
    pub(super) fn parse(list: &str, start: usize) -> Result<NameServers, ClientError> {
        let wrong = || ClientError::NameServerList { list: list.chars().take(200).collect() };
        let entries = list.split([';', ',']).map(str::trim).filter(|entry| !entry.is_empty());
        let addresses: Vec<String> =
            entries.map(|entry| address(entry).ok_or_else(wrong)).collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err(wrong());
        }
        Ok(NameServers { addresses, current: AtomicUsize::new(start) })
    }

    /// All of them, in the order in which to try them now.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = &str> {
        let current = self.current.load(Ordering::Relaxed);
        let count = self.addresses.len();
        (0..count).map(move |step| self.addresses[current.wrapping_add(step) % count].as_str())
    }

    /// `address` did not answer: the one behind it is asked first from now on.
    pub(super) fn failed(&self, address: &str) {
        if let Some(index) = self.addresses.iter().position(|other| other == address) {
            self.current.store(index + 1, Ordering::Relaxed);
        }
    }

    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }
}

/// `host:port` of an entry, where the port may be missing.
fn address(entry: &str) -> Option<String> {
    let entry = entry.strip_prefix("http://").unwrap_or(entry);
    if entry.contains(['/', ' ']) {
        return None;
    }
    let bare_v6 = entry.starts_with('[') && entry.ends_with(']');
    match entry.rsplit_once(':') {
        Some((host, port)) if !bare_v6 => {
            let port: u16 = port.parse().ok()?;
            (!host.is_empty() && port > 0).then(|| entry.to_owned())
        }
        _ => Some(format!("{entry}:{DEFAULT_PORT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_ports_may_be_missing() {
        let servers = NameServers::parse(" a:1; b ,[::1]:2;[::2];", 0).unwrap();
        assert_eq!(servers.addresses(), ["a:1", "b:9876", "[::1]:2", "[::2]:9876"]);
        for wrong in ["", ";", "a:port", ":9876", "a:0", "http://a:1/x"] {
            assert!(NameServers::parse(wrong, 0).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_is_asked_until_it_fails() {
        let servers = NameServers::parse("a:1;b:1;c:1", 1).unwrap();
        assert_eq!(servers.in_turn().collect::<Vec<_>>(), ["b:1", "c:1", "a:1"]);
        servers.failed("b:1");
        assert_eq!(servers.in_turn().next(), Some("c:1"));
        servers.failed("c:1");
        assert_eq!(servers.in_turn().next(), Some("a:1"));
    }
}
