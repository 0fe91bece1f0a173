//! The network: connections that carry bytes in order, slowly, in pieces, until they are cut.
//!
//! As with TCP nothing is lost inside a connection that lives; what was under way when it is cut is lost, and a client
//! that closes its side does not take back what it sent. Duplicates therefore come as they do in practice: from clients
//! that ask again after a timeout while the first request is still on its way.

use std::collections::BTreeMap;

use crate::chance::Chance;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// The broker.
    Broker,
    /// The name server.
    Names,
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    /// Its client.
    pub client: usize,
    /// Its server.
    pub server: Server,
    /// The client has not closed it and knows of no cut.
    pub client_open: bool,
    /// The server likewise.
    pub server_open: bool,
    /// It was cut: what is under way is lost.
    pub cut: bool,
    /// When the last bytes in each direction arrive.
    last_arrival: [u64; 2],
}

/// All connections.
#[derive(Debug, Default)]
pub struct Net {
    /// By number; a number is never used twice.
    pub links: BTreeMap<u64, Link>,
    next: u64,
    /// Until when nothing passes to or from a server.
    partition_until: [u64; 2],
}

impl Net {
    /// A new connection.
    pub fn connect(&mut self, client: usize, server: Server) -> u64 {
        self.next += 1;
        let link =
            Link { client, server, client_open: true, server_open: true, cut: false, last_arrival: [0; 2] };
        self.links.insert(self.next, link);
        self.next
    }

    /// When bytes sent now arrive; never before those that were sent earlier.
    pub fn arrival(
        &mut self,
        link: u64,
        to_server: bool,
        now: u64,
        (shortest, longest): (u64, u64),
        chance: &mut Chance,
    ) -> u64 {
        let Some(link) = self.links.get_mut(&link) else { return now };
        let spread = chance.within(shortest, longest);
        let delay = if chance.one_in(40) { 10 * spread } else { spread };
        let partition = self.partition_until[link.server as usize];
        let last = &mut link.last_arrival[usize::from(to_server)];
        *last = (now.max(partition) + delay).max(*last);
        *last
    }

    /// Nothing passes to or from `server` until then.
    pub fn part(&mut self, server: Server, until: u64) {
        self.partition_until[server as usize] = until;
    }

    /// The open connections of a server.
    pub fn of(&self, server: Server) -> Vec<u64> {
        let open = self.links.iter().filter(|(_, link)| link.server == server && !link.cut);
        open.map(|(number, _)| *number).collect()
    }
}
