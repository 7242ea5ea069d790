//! What the connections of one thread share.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Instant;

use tokio::sync::Mutex;

use super::counts::Counts;
use super::options::Drive;
use super::pace::{Due, Next, Source};
use super::timer::Timer;

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) drive: &'a Drive,
    pub(super) counts: RefCell<Counts>,
    pub(super) turns: Turns<'a>,
}

/// Deals out the thread's requests: one connection waits for the next to be due, the others for their turn.
#[derive(Debug)]
pub(super) struct Turns<'a> {
    source: Mutex<Source<'a>>,
    timer: Timer,
    over: Cell<bool>,
}

impl<'a> Turns<'a> {
    /// To be called within a runtime.
    pub(super) fn new(source: Source<'a>) -> io::Result<Self> {
        Ok(Self { source: Mutex::new(source), timer: Timer::new()?, over: Cell::new(false) })
    }

    /// Lets the first requests be due from `start` on.
    pub(super) async fn begin(&self, start: Instant) {
        self.source.lock().await.begin(start);
    }

    /// Whether no request is left.
    pub(super) fn over(&self) -> bool {
        self.over.get()
    }

    /// The next request, as soon as it is due. `None` when none is left.
    pub(super) async fn next(&self) -> io::Result<Option<Due>> {
        let mut source = self.source.lock().await;
        loop {
            match source.next(Instant::now()) {
                Next::Send(due) => return Ok(Some(due)),
                Next::Wait(moment) => self.timer.until(moment).await?,
                Next::Over => {
                    self.over.set(true);
                    return Ok(None);
                }
            }
        }
    }
}
