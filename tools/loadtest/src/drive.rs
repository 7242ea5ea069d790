//! Driving the load: what is asked, when, over which connections, and what came of it.

mod answer;
mod connection;
mod counts;
mod ledger;
mod options;
mod pace;
mod plan;
mod requests;
mod shared;
mod tally;
mod thread;
mod timer;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock, mpsc};
use std::thread::available_parallelism;
use std::time::Duration;

pub use ledger::{Ledger, Win};
pub use options::Drive;
pub use pace::Pace;
pub use plan::{Ask, Mix, Plan};
pub use requests::Requests;
pub use tally::{Fault, STRETCH, Stretch, Tally, percentile_ms};

use pace::Source;
use thread::{Run, Thread};

/// Connections for which [`threads_default`] gives one thread, where that makes more than half of the cores.
pub const CONNECTIONS_PER_THREAD: usize = 128;

/// How many threads share `connections` unless told otherwise: half as many as there are cores,
/// as the servers may be on the same machine; for many connections more, up to the number of cores. Threads
/// that have little to do sleep and wake up more often, which takes processor time from the servers.
pub fn threads_default(connections: usize) -> usize {
    let cores = available_parallelism().map_or(1, usize::from);
    cores.div_ceil(2).max(connections.div_ceil(CONNECTIONS_PER_THREAD)).min(cores)
}

/// Threads that are started when `wanted` are: none is without a connection.
pub fn threads_used(wanted: usize, connections: usize) -> usize {
    wanted.clamp(1, connections.max(1))
}

/// What a run has given.
#[derive(Debug)]
pub struct Outcome {
    /// Everything counted.
    pub total: Tally,
    /// What each user was told.
    pub ledger: Ledger,
    /// Requests sent.
    pub sent: u64,
    /// Requests that were due and never sent, because no connection became free in time.
    pub unsent: u64,
    /// From the start to the last final answer.
    pub elapsed: Duration,
}

/// Drives `plan` with the `requests` for each server, and calls `progress` with each stretch of time that a thread has finished, and with `None` when
/// nothing came for a while.
///
/// # Errors
/// When a thread cannot be set up.
pub fn drive(
    drive: &Drive,
    plan: &Plan,
    requests: &[Requests],
    coupons: usize,
    mut progress: impl FnMut(Option<Stretch>),
) -> io::Result<Outcome> {
    let threads = threads_used(drive.threads, drive.connections);
    let next = AtomicU64::new(0);
    let (connected, start) = (Barrier::new(threads), OnceLock::new());
    let run = Run { drive, requests, coupons, connected: &connected, start: &start };
    let (stretches, finished) = mpsc::channel();
    let mut outcome = Outcome {
        total: Tally::default(),
        ledger: Ledger::new(coupons),
        sent: 0,
        unsent: 0,
        elapsed: Duration::ZERO,
    };
    let ready = (0..threads)
        .map(|number| Thread::new(Source::new(plan, drive.pace, drive.length, &next, (number, threads))))
        .collect::<io::Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let mut shares = Vec::new();
        for (number, thread) in ready.into_iter().enumerate() {
            let share = drive.connections / threads + usize::from(number < drive.connections % threads);
            let (run, stretches) = (&run, stretches.clone());
            shares.push(scope.spawn(move || thread.run(run, (number, share.max(1)), stretches)));
        }
        drop(stretches);
        loop {
            match finished.recv_timeout(STRETCH) {
                Ok(stretch) => {
                    outcome.total.merge(&stretch.1);
                    progress(Some(stretch));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => progress(None),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        for share in shares {
            let (ledger, elapsed) = share.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            outcome.ledger.merge(ledger);
            outcome.elapsed = outcome.elapsed.max(elapsed);
        }
        outcome.sent = next.load(Ordering::SeqCst);
        let expected = drive.pace.requests(plan, drive.length);
        outcome.unsent = expected.map_or(0, |expected| expected.saturating_sub(outcome.sent));
        Ok(outcome)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_get_all_cores_and_few_get_half_of_them() {
        let cores = available_parallelism().map_or(1, usize::from);
        assert_eq!(threads_default(cores * CONNECTIONS_PER_THREAD), cores);
        assert_eq!(threads_default(usize::MAX), cores);
        assert_eq!(threads_default(1), cores.div_ceil(2));
    }
}
