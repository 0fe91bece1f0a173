//! What the machine has: memory, open files, addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The least that Linux knows.
const LOW_PRIORITY: i32 = 19;

/// Memory that is assumed where the system does not tell.
const MEMORY_BYTES_GUESS: i64 = 4 << 30;

/// Memory that this process may use: the machine's, or its control group's limit where that is less.
pub(super) fn memory_bytes() -> i64 {
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().trim_end_matches(" kB").parse::<i64>().ok().map(|kib| kib * 1024)
    });
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.iter().find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok());
    let total = total.unwrap_or(MEMORY_BYTES_GUESS);
    limit.map_or(total, |limit| limit.min(total))
}

/// Lets this process open as many files and connections as the system allows it.
pub(super) fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
}

/// Lets this thread, and no other, give way to whoever wants the processor.
pub(super) fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, LOW_PRIORITY) {
        tracing::debug!(%error, "the thread keeps its priority");
    }
}

/// The address by which this machine reaches `target`. Nothing is sent.
pub(super) fn address_towards(target: SocketAddr) -> IpAddr {
    let any: SocketAddr = if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().expect("an address");
    let local = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect(target)?;
        socket.local_addr()
    };
    local().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |local| local.ip())
}
