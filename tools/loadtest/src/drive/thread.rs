//! One thread of the generator: a runtime of its own, and its share of the connections.

use std::cell::RefCell;
use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::counts::Counts;
use super::ledger::Ledger;
use super::options::Drive;
use super::pace::Source;
use super::requests::Requests;
use super::shared::{Shared, Turns};
use super::tally::{STRETCH, Stretch};

/// How long opening all connections may take before the run starts without the missing ones.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// What all threads have in common.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) drive: &'a Drive,
    /// For each server.
    pub(super) requests: &'a [Requests],
    pub(super) coupons: usize,
    /// Nobody starts before all connections are open, so that the first requests meet the full load.
    pub(super) connected: &'a Barrier,
    pub(super) start: &'a OnceLock<Instant>,
}

/// A thread that is about to start.
#[derive(Debug)]
pub(super) struct Thread<'a> {
    runtime: Runtime,
    turns: Turns<'a>,
}

impl<'a> Thread<'a> {
    /// Prepares a thread that sends what `source` gives.
    pub(super) fn new(source: Source<'a>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let turns = runtime.block_on(async { Turns::new(source) })?;
        Ok(Self { runtime, turns })
    }

    /// Opens `share` connections, as thread number `number`, and keeps them busy until the source has nothing left and
    /// every request has its final answer. Returns what the users were told, and how long after the start the last
    /// answer came.
    pub(super) fn run(
        self,
        run: &Run<'a>,
        (number, share): (usize, usize),
        stretches: Sender<Stretch>,
    ) -> io::Result<(Ledger, Duration)> {
        let Self { runtime, turns } = self;
        let counts = RefCell::new(Counts::new(run.coupons, stretches));
        let shared = Shared { drive: run.drive, counts, turns };
        let connections = (number..number + share).map(|index| Connection::new(&shared, run.requests, index));
        let mut connections = connections.collect::<Vec<_>>();
        runtime.block_on(async {
            let opening = join_all(connections.iter_mut().map(Connection::connected));
            let _ = timeout(CONNECT_TIME_MAX, opening).await;
        });

        run.connected.wait();
        let start = *run.start.get_or_init(Instant::now);
        shared.counts.borrow_mut().begin(start);
        let deadline = run.drive.length.map(|length| start + length + run.drive.drain);
        let all = connections.into_iter().map(|connection| connection.run(deadline));
        runtime.block_on(async {
            shared.turns.begin(start).await;
            tokio::select! { ended = try_join_all(all) => ended.map(drop), () = advance(&shared.counts) => Ok(()) }
        })?;
        Ok(shared.counts.into_inner().finish())
    }
}

async fn advance(counts: &RefCell<Counts>) {
    loop {
        sleep(STRETCH).await;
        counts.borrow_mut().advance(Instant::now());
    }
}
