//! Records a round: its clock, its history file, and a copy in memory for the check.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;

use crate::history::{
    Endpoint, Entry, Event, EventKind, FinalState, Op, OpId, Round, RoundBuilder, Verdict, Writer,
};

/// The history of the round under way.
#[derive(Debug)]
pub(crate) struct Log {
    start: Instant,
    next_op: AtomicU64,
    /// One lock, so that the file and the round have the same order.
    round: Mutex<(Writer, RoundBuilder)>,
}

impl Log {
    /// Creates the file, and starts the clock.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let round = Mutex::new((Writer::create(path)?, RoundBuilder::default()));
        Ok(Self { start: Instant::now(), next_op: AtomicU64::new(1), round })
    }

    /// Microseconds since the clock started.
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn next_op(&self) -> OpId {
        OpId(self.next_op.fetch_add(1, Ordering::Relaxed))
    }

    /// Records a request that has ended.
    pub(crate) fn op(&self, op: Op) -> io::Result<()> {
        self.add(Entry::Op(Box::new(op))).map(drop)
    }

    /// Records an event of this moment, and returns the moment.
    pub(crate) fn event(&self, kind: EventKind) -> io::Result<u64> {
        let at_us = self.now_us();
        self.add(Entry::Event(Event { at_us, kind }))?;
        Ok(at_us)
    }

    /// The claims that were answered with a receipt so far.
    pub(crate) fn receipts(&self) -> Vec<Op> {
        let guard = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let is_receipt = |op: &&Op| op.endpoint == Endpoint::Claim && op.verdict() == Verdict::Pending;
        guard.1.ops().iter().filter(is_receipt).cloned().collect()
    }

    /// Records the final state, and returns the complete round.
    pub(crate) fn end_round(&self, state: FinalState) -> anyhow::Result<Round> {
        self.add(Entry::State(Box::new(state)))?.context("the round has not begun")
    }

    fn add(&self, entry: Entry) -> io::Result<Option<Round>> {
        let mut guard = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let (writer, round) = &mut *guard;
        writer.write(&entry)?;
        if matches!(entry, Entry::State(_)) {
            writer.flush()?;
        }
        Ok(round.add(entry))
    }
}
