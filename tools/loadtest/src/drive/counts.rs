//! What one thread counts and writes down during a run.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::answer::Meaning;
use super::ledger::{Ledger, Win};
use super::plan::Ask;
use super::tally::{STRETCH, Stretch, Tally};

/// The counters of one thread. What is counted in a stretch of time is handed over at its end.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) tally: Tally,
    pub(super) ledger: Ledger,
    start: Instant,
    last_answer: Instant,
    stretch: u64,
    stretches: Sender<Stretch>,
}

impl Counts {
    pub(super) fn new(coupons: usize, stretches: Sender<Stretch>) -> Self {
        let now = Instant::now();
        Self {
            tally: Tally::default(),
            ledger: Ledger::new(coupons),
            start: now,
            last_answer: now,
            stretch: 0,
            stretches,
        }
    }

    /// Counts time from `start` on.
    pub(super) fn begin(&mut self, start: Instant) {
        (self.start, self.last_answer) = (start, start);
    }

    /// Hands over what was counted in a stretch of time that is over.
    pub(super) fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.start).as_nanos() / STRETCH.as_nanos();
        let current = u64::try_from(passed).unwrap_or(u64::MAX);
        if current > self.stretch {
            self.hand_over();
            self.stretch = current;
        }
    }

    fn hand_over(&mut self) {
        // The receiver lives as long as the run.
        let _ = self.stretches.send((self.stretch, std::mem::take(&mut self.tally)));
    }

    /// Writes down what came of a request that was due at `due`.
    pub(super) fn conclude(
        &mut self,
        ask: Ask,
        meaning: Meaning,
        (due, now): (Instant, Instant),
        keeps_refused: bool,
    ) {
        self.last_answer = now;
        match meaning {
            Meaning::Won { position } => self.ledger.wins.push(Win { ask, position }),
            Meaning::AlreadyClaimed => self.ledger.already_claimed.push(ask),
            Meaning::SoldOut => {
                self.ledger.sold_out[ask.coupon as usize] += 1;
                if keeps_refused {
                    self.ledger.refused.push(ask);
                }
            }
            // Not the outcome of a claim: a server is not fast by turning requests away.
            Meaning::Pending | Meaning::TryAgain => return self.ledger.unknown.push(ask),
            Meaning::Unexpected => return self.ledger.unexpected.push(ask),
        }
        self.tally.finish(now - due, matches!(meaning, Meaning::Won { .. }));
    }

    /// Hands over the rest. Returns the ledger, and how long after the start the last answer came.
    pub(super) fn finish(mut self) -> (Ledger, Duration) {
        self.hand_over();
        (self.ledger, self.last_answer - self.start)
    }
}
