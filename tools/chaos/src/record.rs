//! The clock of a run, and the one place where everything that happens in it is written down.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::history::{Entry, Event, Happening, HistoryError, Op, OpId, Recorder, Round, RoundBuilder};
use crate::state::FinalState;

/// Writes the history, and keeps the round that is under way for its check.
#[derive(Debug)]
pub struct Log {
    start: Instant,
    next_op: AtomicU64,
    recorder: Recorder,
    round: Mutex<RoundBuilder>,
}

impl Log {
    /// A clock that starts now.
    pub fn new(recorder: Recorder) -> Self {
        Self { start: Instant::now(), next_op: AtomicU64::new(1), recorder, round: Mutex::default() }
    }

    /// Microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The number of the next request.
    pub fn next_op(&self) -> OpId {
        OpId(self.next_op.fetch_add(1, Ordering::Relaxed))
    }

    /// Writes down a request that has ended.
    pub fn op(&self, op: Op) -> Result<(), HistoryError> {
        self.add(Entry::Op(Box::new(op))).map(drop)
    }

    /// Writes down what happens now, and returns when that is.
    pub fn event(&self, happening: Happening) -> Result<u64, HistoryError> {
        let at_us = self.now_us();
        self.add(Entry::Event(Event { at_us, happening }))?;
        Ok(at_us)
    }

    /// Writes down what a round left behind, and gives the whole round.
    pub fn end_round(&self, state: FinalState) -> Result<Round, HistoryError> {
        let round = self.add(Entry::State(Box::new(state)))?;
        self.recorder.flush()?;
        round.ok_or(HistoryError::Stopped)
    }

    fn add(&self, entry: Entry) -> Result<Option<Round>, HistoryError> {
        // Under the lock, so that the file and the round have one order.
        let mut round = self.lock();
        self.recorder.record(entry.clone())?;
        Ok(round.add(entry))
    }

    fn lock(&self) -> MutexGuard<'_, RoundBuilder> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
