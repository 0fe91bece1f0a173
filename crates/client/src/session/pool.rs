//! Connections by address: one each, made when needed, made again when lost, with a pause between failures.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cometmq_remoting::{ClientConnection, ClientOptions, Incoming, RemotingError};
use tokio::time::Instant;

/// Pause after the first failed attempt; it doubles with each further one.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause between attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// All connections of a client.
pub(super) struct Pool {
    options: ClientOptions,
    incoming: Arc<dyn Incoming>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

/// The connection to one address.
#[derive(Default)]
struct Slot {
    current: Mutex<Option<ClientConnection>>,
    /// Held while connecting, so that all who need the connection share one attempt.
    attempt: tokio::sync::Mutex<Attempts>,
}

#[derive(Default)]
struct Attempts {
    failed: u32,
    last: Option<(Instant, RemotingError)>,
}

impl Pool {
    pub(super) fn new(options: ClientOptions, incoming: Arc<dyn Incoming>) -> Pool {
        Pool { options, incoming, slots: Mutex::default() }
    }

    /// The connection to `address`, and whether this call made it. While the pause after a failure lasts, that
    /// failure is the answer.
    pub(super) async fn get(&self, address: &str) -> Result<(ClientConnection, bool), RemotingError> {
        let slot = self.slot(address);
        if let Some(connection) = slot.open() {
            return Ok((connection, false));
        }
        let mut attempts = slot.attempt.lock().await;
        if let Some(connection) = slot.open() {
            return Ok((connection, false));
        }
        if let Some((until, error)) = &attempts.last
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        match ClientConnection::connect(address, &self.options, self.incoming.clone()).await {
            Ok(connection) => {
                *attempts = Attempts::default();
                *slot.current() = Some(connection.clone());
                Ok((connection, true))
            }
            Err(error) => {
                let pause = back_off(attempts.failed);
                attempts.failed += 1;
                attempts.last = Some((Instant::now() + pause, error.clone()));
                Err(error)
            }
        }
    }

    /// The connection to `address` if it is open.
    pub(super) fn open(&self, address: &str) -> Option<ClientConnection> {
        let slot = self.slots().get(address).cloned();
        slot.and_then(|slot| slot.open())
    }

    /// Closes the connection to `address`; the next request makes a new one.
    pub(super) fn close(&self, address: &str) {
        if let Some(connection) = self.open(address) {
            connection.close();
        }
    }

    /// Closes all connections but those to `addresses`.
    pub(super) fn retain(&self, addresses: &HashSet<String>) {
        // Those removed are closed when the last request on them is done.
        self.slots().retain(|address, _| addresses.contains(address));
    }

    /// Closes all connections and waits until they are gone.
    pub(super) async fn close_all(&self) {
        let slots = std::mem::take(&mut *self.slots());
        let connections: Vec<ClientConnection> =
            slots.values().filter_map(|slot| slot.current().take()).collect();
        for connection in &connections {
            connection.close();
        }
        for connection in &connections {
            connection.closed().await;
        }
    }

    fn slot(&self, address: &str) -> Arc<Slot> {
        let mut slots = self.slots();
        match slots.get(address) {
            Some(slot) => slot.clone(),
            None => slots.entry(address.to_owned()).or_default().clone(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn current(&self) -> MutexGuard<'_, Option<ClientConnection>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Option<ClientConnection> {
        self.current().as_ref().filter(|connection| !connection.is_closed()).cloned()
    }
}

/// The pause after `failed` earlier failures and one more.
fn back_off(failed: u32) -> Duration {
    BACK_OFF_MIN.saturating_mul(1 << failed.min(10)).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let millis: Vec<u128> = [0, 1, 2, 6, 60].map(|failed| back_off(failed).as_millis()).into();
        assert_eq!(millis, [100, 200, 400, 5000, 5000]);
    }
}
