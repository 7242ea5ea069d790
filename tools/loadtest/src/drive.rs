//! Driving the load: what is asked, when, over which connections, and what came of it.

mod alarm;
mod answer;
mod connection;
mod ledger;
mod pace;
mod plan;
mod reactor;
mod requests;
mod tally;
mod zipf;

use std::io;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

pub use answer::{Meaning, Reader};
pub use ledger::{Ledger, Win};
pub use pace::{Next, Pace, Source};
pub use plan::{Ask, Mix, Plan, mix};
pub use requests::Requests;
pub use tally::{AnswerCount, Answers, Fault, Tally, percentile_ms};
pub use zipf::Zipf;

use reactor::Reactor;

/// Length of the stretches of time that are counted by themselves, for progress and plots.
pub const STRETCH: Duration = Duration::from_millis(200);

/// Connections for which [`threads_default`] gives one event loop, where that makes more than half of the cores.
pub const CONNECTIONS_PER_THREAD: usize = 128;

/// How many event loops `connections` are shared among unless told otherwise: half as many as there are cores,
/// as the servers may be on the same machine; for many connections more, up to the number of cores. Loops
/// that have little to do sleep and wake up more often, which takes processor time from the servers.
pub fn threads_default(connections: usize) -> usize {
    let cores = available_parallelism().map_or(1, usize::from);
    cores.div_ceil(2).max(connections.div_ceil(CONNECTIONS_PER_THREAD)).min(cores)
}

/// Event loops that are started when `wanted` are: none is without a connection.
pub fn threads_used(wanted: usize, connections: usize) -> usize {
    wanted.clamp(1, connections.max(1))
}

/// How the load is driven.
#[derive(Debug, Clone)]
pub struct Drive {
    /// The servers to connect to; the connections take turns.
    pub addresses: Vec<SocketAddr>,
    /// Keep-alive connections, over all threads.
    pub connections: usize,
    /// Event loops; each has its share of the connections.
    pub threads: usize,
    /// Closed or open loop.
    pub pace: Pace,
    /// For how long new requests are sent; `None`: until the plan is done.
    pub length: Option<Duration>,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// How often a request is sent again after a 503 or a broken connection.
    pub retries: u32,
    /// How long the outcome of a pending claim is asked for.
    pub follow: Duration,
    /// How long after `length` to wait for what is under way or overdue.
    pub drain: Duration,
    /// Whether to remember who was told "sold out": users who ask again might be told so though they have won.
    pub keeps_refused: bool,
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

/// A finished stretch of time: the how-manieth it is, and what was counted in it by one thread.
pub type Stretch = (u64, Tally);

/// Drives `plan` with the `requests` for each server, and calls `progress` with each stretch of time that a thread has finished, and with `None` when
/// nothing came for a while.
///
/// # Errors
/// When an event loop cannot be set up.
pub fn drive(
    drive: &Drive,
    plan: &Plan,
    requests: &[Requests],
    coupons: usize,
    mut progress: impl FnMut(Option<Stretch>),
) -> io::Result<Outcome> {
    let threads = threads_used(drive.threads, drive.connections);
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let connected = Barrier::new(threads);
    let begin = std::sync::OnceLock::new();
    let (stretches, finished) = mpsc::channel();
    let mut outcome = Outcome {
        total: Tally::default(),
        ledger: Ledger::new(coupons),
        sent: 0,
        unsent: 0,
        elapsed: Duration::ZERO,
    };
    thread::scope(|scope| {
        let mut reactors = Vec::new();
        for thread in 0..threads {
            let share = drive.connections / threads + usize::from(thread < drive.connections % threads);
            let (stretches, connected, begin, failed, next) =
                (stretches.clone(), &connected, &begin, &failed, &next);
            reactors.push(scope.spawn(move || {
                let reactor = Reactor::connect(drive, requests, (thread, share.max(1)), coupons);
                if reactor.is_err() {
                    failed.store(true, Ordering::SeqCst);
                }
                // Nobody starts before all connections are open, so that the first requests meet the full load.
                connected.wait();
                let reactor = reactor?;
                if failed.load(Ordering::SeqCst) {
                    return Err(io::Error::other("another event loop could not be set up"));
                }
                let start = *begin.get_or_init(Instant::now);
                let source = Source::new(plan, drive.pace, start, drive.length, next, (thread, threads));
                reactor.run(source, start, &stretches)
            }));
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
        for reactor in reactors {
            let share = reactor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            outcome.ledger.merge(share.ledger);
            outcome.elapsed = outcome.elapsed.max(share.elapsed);
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
