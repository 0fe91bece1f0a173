//! Free ports for servers that are started, killed and started again.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use anyhow::{Result, bail};

use crate::chance::Chance;

const ATTEMPTS: u32 = 1000;
/// Ports that one server may take, all in a row: name server, VIP channel, one unused, broker, replication.
const ROW: u16 = 5;

/// The ports of a name server and a broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// Name server.
    pub(crate) namesrv: u16,
    /// Broker; the port two below and the one above are free as well.
    pub(crate) broker: u16,
}

impl Ports {
    /// Looks for ports that are free now.
    pub(crate) fn find() -> Result<Ports> {
        let mut chance = Chance::of(Chance::any_seed());
        let range = range();
        for _ in 0..ATTEMPTS {
            let first = chance.within(u64::from(range.start)..u64::from(range.end - ROW)) as u16;
            if (first..first + ROW).all(is_free) {
                return Ok(Ports { namesrv: first, broker: first + 3 });
            }
        }
        bail!("no {ROW} free ports in a row between {} and {}", range.start, range.end)
    }
}

/// Ports below those that the system gives to outgoing connections. One of these could be taken while the server is
/// down; worse, a client that tries to connect to its own outgoing port reaches itself.
fn range() -> Range<u16> {
    let outgoing = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest = outgoing.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32_768);
    if lowest > 15_000 { 12_000..lowest } else { 15_000..32_000 }
}

fn is_free(port: u16) -> bool {
    [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED].iter().all(|&host| TcpListener::bind((host, port)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_found_can_be_bound_together() {
        let ports = Ports::find().unwrap();
        let wanted = [ports.namesrv, ports.broker - 2, ports.broker, ports.broker + 1];
        let bound: Result<Vec<_>, _> =
            wanted.iter().map(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).collect();
        assert!(bound.is_ok(), "{ports:?}: {bound:?}");
    }
}
