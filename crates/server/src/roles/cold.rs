//! What threads that may wait for the disk do, so that no worker has to: they answer pulls of messages that are not in
//! memory, and other requests that need the disk. Each kind has its own, so that a backlog keeps nobody from sending.
//!
//! What waits here is bounded by the broker, what is being read by the number of threads, and what was read by the
//! connections: a consumer that does not take its answers gets no further ones read. Where senders need the processors,
//! what is pulled in a second is bounded too ([`super::pace`]); no thread is tied up by a pull that has to wait for that.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::broker::POISONED;
use super::pace::Budget;

/// Threads that answer pulls.
pub(super) const COLD_THREADS: usize = 4;
/// Threads that answer other requests.
pub(super) const SLOW_THREADS: usize = 2;
/// Bytes that wait for a connection to take them, beyond which nothing more is read for it.
pub(super) const UNTAKEN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long to wait when all requests are of such connections.
const CLOGGED_PAUSE: Duration = Duration::from_millis(5);
/// A request that has waited for so long is answered whatever the budget says: clients give up after some ten seconds.
const HELD_MAX: Duration = Duration::from_secs(2);

/// Requests `R` of connections `C` that wait for the disk. Connections take turns, and the requests of each are begun in
/// the order in which they came.
pub(super) struct DiskWork<C, R> {
    state: Mutex<State<C, R>>,
    changed: Condvar,
    began: Instant,
}

struct State<C, R> {
    waiting: HashMap<C, VecDeque<(R, Duration)>>,
    /// Connections with requests that wait, whose turn is next first.
    turns: VecDeque<C>,
    budget: Budget,
    /// Something was read since the last look.
    is_used: bool,
    end: bool,
}

impl<C, R> Default for DiskWork<C, R> {
    fn default() -> DiskWork<C, R> {
        let (waiting, turns) = (HashMap::new(), VecDeque::new());
        let state = State { waiting, turns, budget: Budget::default(), is_used: false, end: false };
        DiskWork { state: Mutex::new(state), changed: Condvar::new(), began: Instant::now() }
    }
}

impl<C: Copy + Eq + Hash, R> DiskWork<C, R> {
    /// Adds requests to those that wait.
    pub(super) fn add(&self, requests: impl ExactSizeIterator<Item = (C, R)>) {
        let added = requests.len();
        if added == 0 {
            return;
        }
        let now = self.began.elapsed();
        let mut state = self.state.lock().expect(POISONED);
        requests.for_each(|(connection, request)| state.add(connection, request, now));
        drop(state);
        if added == 1 { self.changed.notify_one() } else { self.changed.notify_all() }
    }

    /// From now on, lets no more be read in a second than so many bytes. Whether something was read since the last time.
    pub(super) fn limit(&self, bytes_per_second: Option<u64>) -> bool {
        let mut state = self.state.lock().expect(POISONED);
        state.budget.limit(bytes_per_second, self.began.elapsed());
        if bytes_per_second.is_none() && !state.turns.is_empty() {
            self.changed.notify_all();
        }
        std::mem::take(&mut state.is_used)
    }

    /// Notes that so many bytes were read.
    pub(super) fn spend(&self, bytes: usize) {
        let mut state = self.state.lock().expect(POISONED);
        state.budget.spend(bytes);
        state.is_used = true;
    }

    /// Lets the threads end; requests that wait are dropped.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().expect(POISONED);
        state.end = true;
        state.waiting.clear();
        state.turns.clear();
        self.changed.notify_all();
    }

    /// The next request whose connection is not `clogged`; waits for one, and for the budget. `None` when the thread is to
    /// end.
    pub(super) fn next(&self, clogged: impl Fn(C) -> bool) -> Option<R> {
        let mut state = self.state.lock().expect(POISONED);
        while !state.end {
            if state.turns.is_empty() {
                state = self.changed.wait(state).expect(POISONED);
                continue;
            }
            match state.take(self.began.elapsed(), &clogged) {
                Ok(request) => return Some(request),
                Err(pause) => state = self.changed.wait_timeout(state, pause).expect(POISONED).0,
            }
        }
        None
    }
}

impl<C: Copy + Eq + Hash, R> State<C, R> {
    fn add(&mut self, connection: C, request: R, now: Duration) {
        let own = self.waiting.entry(connection).or_default();
        if own.is_empty() {
            self.turns.push_back(connection);
        }
        own.push_back((request, now));
    }

    /// The request whose turn it is, or how long to wait before looking again.
    fn take(&mut self, now: Duration, clogged: impl Fn(C) -> bool) -> Result<R, Duration> {
        let pause = self.budget.pause(now);
        let is_due = |connection: &C| {
            let first = self.waiting.get(connection).and_then(VecDeque::front);
            pause.is_none() || first.is_some_and(|(_, added)| now.saturating_sub(*added) >= HELD_MAX)
        };
        let turn = self.turns.iter().position(|connection| is_due(connection) && !clogged(*connection));
        let taken = turn.and_then(|turn| {
            let connection = self.turns.remove(turn)?;
            let own = self.waiting.get_mut(&connection)?;
            let (request, _) = own.pop_front()?;
            match own.is_empty() {
                true => drop(self.waiting.remove(&connection)),
                false => self.turns.push_back(connection),
            }
            Some(request)
        });
        taken.ok_or(pause.unwrap_or(CLOGGED_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn who_does_not_take_answers_holds_up_nobody_else_and_is_served_later() {
        let pulls = DiskWork::default();
        pulls.add([("clogged", 1), ("free", 2), ("clogged", 3), ("free", 4)].into_iter());
        let clogged = |connection| connection == "clogged";
        assert_eq!(pulls.next(clogged), Some(2));
        assert_eq!(pulls.next(clogged), Some(4));
        assert_eq!(pulls.next(|_| false), Some(1));
        pulls.end();
        assert_eq!(pulls.next(|_| false), None);
    }

    #[test]
    fn connections_take_turns_however_much_one_asks_for() {
        let pulls = DiskWork::default();
        pulls.add((0..100).map(|number| ("greedy", number)));
        pulls.add([("modest", 1000), ("modest", 1001)].into_iter());
        let first: Vec<i32> = (0..6).filter_map(|_| pulls.next(|_| false)).collect();
        assert_eq!(first, [0, 1000, 1, 1001, 2, 3]);
    }

    #[test]
    fn a_spent_budget_is_waited_for_but_not_for_ever() {
        let mut state = DiskWork::default().state.into_inner().unwrap();
        for (connection, added) in [("a", 0), ("a", 0), ("b", 1)] {
            state.add(connection, added, NOW + Duration::from_secs(added));
        }
        state.budget.limit(Some(1 << 20), NOW);
        assert_eq!(state.take(NOW, |_| false), Ok(0));
        state.budget.spend(1 << 30);
        assert!(state.take(NOW + Duration::from_millis(1999), |_| false).is_err());
        let late = NOW + HELD_MAX;
        assert_eq!(state.take(late, |connection| connection == "a"), Err(Duration::from_millis(100)));
        assert_eq!(state.take(late, |_| false), Ok(0));
        assert!(state.take(late, |_| false).is_err());
        assert_eq!(state.take(late + Duration::from_secs(1), |_| false), Ok(1));
    }

    #[test]
    fn a_thread_that_waits_for_the_budget_goes_on_at_once_when_the_limit_ends() {
        let pulls = DiskWork::default();
        assert!(!pulls.limit(Some(1 << 20)));
        pulls.spend(1 << 30);
        pulls.add([("a", 1)].into_iter());
        let waited = std::thread::scope(|scope| {
            let began = Instant::now();
            let reader = scope.spawn(|| pulls.next(|_| false));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!reader.is_finished());
            assert!(pulls.limit(None), "something was read");
            assert_eq!(reader.join().unwrap(), Some(1));
            began.elapsed()
        });
        assert!(waited < HELD_MAX, "{waited:?}");
    }
}
