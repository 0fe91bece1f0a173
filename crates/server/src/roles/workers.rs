//! The threads that carry connections, one for each processor: how long they ran, and how long they waited for a
//! processor, as Linux counts it.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use cometmq_remoting::Workers;

use super::broker::POISONED;

/// What the kernel tells of each worker; empty where it does not.
static TIMES: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Starts the workers of this process.
pub(crate) fn start() -> Result<Workers> {
    let count = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Workers::start(count, count_this_thread).context("no threads for connections")
}

/// Has the times of the calling thread counted from now on.
fn count_this_thread() {
    if let Ok(file) = File::open("/proc/thread-self/schedstat") {
        TIMES.lock().expect(POISONED).push(file);
    }
}

/// Time for which workers had a processor, and time for which they could have run and had none, since they started.
pub(super) fn times() -> [Duration; 2] {
    let mut sum = [Duration::ZERO; 2];
    TIMES.lock().expect(POISONED).retain(|file| {
        let mut text = [0; 80];
        // The file of a thread that has ended gives an error.
        let times = file.read_at(&mut text, 0).ok().and_then(|read| parse(&text[..read]));
        times.into_iter().flatten().zip(&mut sum).for_each(|(time, sum)| *sum += time);
        times.is_some()
    });
    sum
}

/// A line such as `32836129 7695078 77`: nanoseconds with and without a processor, and how often one was given.
fn parse(text: &[u8]) -> Option<[Duration; 2]> {
    let mut fields = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    let mut next = || fields.next()?.parse().ok().map(Duration::from_nanos);
    Some([next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_and_anything_else_is_none() {
        let nanos = Duration::from_nanos;
        assert_eq!(parse(b"32836129 7695078 77\n"), Some([nanos(32_836_129), nanos(7_695_078)]));
        for text in [&b""[..], b"1", b"1 x 2", b"-1 2 3", b"\xff 1 2"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_thread_counts_while_it_lives() {
        let before = TIMES.lock().unwrap().len();
        let ran = std::thread::spawn(|| {
            count_this_thread();
            while times()[0].is_zero() && !TIMES.lock().unwrap().is_empty() {}
            times()[0]
        });
        let ran = ran.join().unwrap();
        times();
        assert_eq!(TIMES.lock().unwrap().len(), before);
        assert!(before > 0 || File::open("/proc/thread-self/schedstat").is_err() || !ran.is_zero());
    }
}
