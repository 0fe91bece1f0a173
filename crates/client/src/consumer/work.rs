//! Messages that wait for a worker: those ready now, and those that failed and wait for another try.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until};

/// A queue of work for many workers. It is as bounded as what goes in: the caches of all queues of a consumer.
pub(super) struct Work<T> {
    lists: Mutex<Lists<T>>,
    /// One permit for each ready item; closed when the work ends.
    ready: Semaphore,
    delayed: Notify,
    delay: Duration,
}

struct Lists<T> {
    ready: VecDeque<T>,
    /// In the order in which they become ready: the delay is always the same.
    delayed: VecDeque<(Instant, T)>,
}

impl<T> Work<T> {
    pub(super) fn new(delay: Duration) -> Work<T> {
        let lists = Mutex::new(Lists { ready: VecDeque::new(), delayed: VecDeque::new() });
        Work { lists, ready: Semaphore::new(0), delayed: Notify::new(), delay }
    }

    pub(super) fn add(&self, items: impl IntoIterator<Item = T>) {
        let mut lists = self.lists();
        let before = lists.ready.len();
        lists.ready.extend(items);
        let added = lists.ready.len() - before;
        drop(lists);
        self.ready.add_permits(added);
    }

    /// Adds an item that becomes ready after the delay.
    pub(super) fn add_later(&self, item: T) {
        self.lists().delayed.push_back((Instant::now() + self.delay, item));
        self.delayed.notify_one();
    }

    /// The next item; `None` when the work has ended.
    pub(super) async fn next(&self) -> Option<T> {
        self.ready.acquire().await.ok()?.forget();
        let item = self.lists().ready.pop_front();
        assert!(item.is_some(), "there is an item for each permit");
        item
    }

    /// Moves delayed items to the ready ones when their time has come, for ever.
    pub(super) async fn release_delayed(&self) {
        loop {
            let first = self.lists().delayed.front().map(|(due, _)| *due);
            match first {
                None => self.delayed.notified().await,
                Some(due) => {
                    sleep_until(due).await;
                    let now = Instant::now();
                    let mut due = Vec::new();
                    let mut lists = self.lists();
                    while let Some((_, item)) = lists.delayed.pop_front_if(|(due, _)| *due <= now) {
                        due.push(item);
                    }
                    drop(lists);
                    self.add(due);
                }
            }
        }
    }

    /// Ends the work: workers get no further item.
    pub(super) fn end(&self) {
        self.ready.close();
    }

    fn lists(&self) -> MutexGuard<'_, Lists<T>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failed_work_comes_back_after_its_delay() {
        let work = Work::new(Duration::from_secs(5));
        let start = Instant::now();
        let taking = async {
            work.add([1, 2]);
            assert_eq!((work.next().await, work.next().await), (Some(1), Some(2)));
            work.add_later(1);
            work.add([3]);
            assert_eq!((work.next().await, work.next().await), (Some(3), Some(1)));
            assert_eq!(start.elapsed().as_secs(), 5);
            work.end();
            assert_eq!(work.next().await, None);
        };
        tokio::select! {
            () = taking => {}
            () = work.release_delayed() => {}
        }
    }
}
