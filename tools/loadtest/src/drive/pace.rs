//! When requests are sent: as soon as a connection is free, or at a fixed rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::plan::{Ask, Plan};

/// What decides when the next request goes out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each connection asks again when it has its answer: as fast as the server goes.
    Closed,
    /// This many requests per second, however fast the server answers.
    Open {
        /// Requests per second over all connections.
        rate: f64,
    },
}

impl Pace {
    /// Number of requests that `plan` sends within `length`; `None` when it depends on the server's speed.
    pub fn requests(self, plan: &Plan, length: Option<Duration>) -> Option<u64> {
        let planned = Some(plan.requests()).filter(|&requests| requests < u64::MAX);
        match (self, length) {
            (_, None) => planned,
            (Self::Closed, Some(_)) => None,
            (Self::Open { rate }, Some(length)) => {
                Some(planned.unwrap_or(u64::MAX).min(due_within(rate, length)))
            }
        }
    }
}

/// Requests due in the first `length` of an open loop, the one at its very end excluded.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates and lengths are positive")]
fn due_within(rate: f64, length: Duration) -> u64 {
    let estimate = (rate * length.as_secs_f64()) as u64;
    // The product may be rounded to either side; the times that are really used decide.
    (estimate.saturating_sub(1)..).find(|&number| due_after(number, rate) >= length).unwrap_or(estimate)
}

fn due_after(number: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}

/// Deals out the requests of a run to one thread.
#[derive(Debug)]
pub(super) struct Source<'a> {
    plan: &'a Plan,
    pace: Pace,
    start: Instant,
    length: Option<Duration>,
    /// Next number in a closed loop, shared by all threads.
    next: &'a AtomicU64,
    /// Next number of this thread in an open loop, where the threads take turns.
    own_next: u64,
    threads: u64,
}

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Due {
    /// What it asks for.
    pub(super) ask: Ask,
    /// Its serial number, see [`Plan::serial`].
    pub(super) serial: u64,
    /// When it ought to be sent: now, or earlier when no connection was free. Its latency counts from here.
    pub(super) at: Instant,
}

/// What a free connection does next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Next {
    /// Send this request.
    Send(Due),
    /// Nothing is due before this.
    Wait(Instant),
    /// Nothing is left.
    Over,
}

impl<'a> Source<'a> {
    /// The source of thread `thread` of `threads`, for a run that sends new requests for `length` (`None`: until the
    /// plan is done).
    pub(super) fn new(
        plan: &'a Plan,
        pace: Pace,
        length: Option<Duration>,
        next: &'a AtomicU64,
        (thread, threads): (usize, usize),
    ) -> Self {
        let start = Instant::now();
        Self { plan, pace, start, length, next, own_next: thread as u64, threads: threads as u64 }
    }

    /// Lets the run begin at `start`.
    pub(super) fn begin(&mut self, start: Instant) {
        self.start = start;
    }

    /// The next request, if one is due.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        match self.pace {
            Pace::Closed => self.next_when_free(now),
            Pace::Open { rate } => self.next_due(now, rate),
        }
    }

    fn next_when_free(&self, now: Instant) -> Next {
        if self.length.is_some_and(|length| now >= self.start + length) {
            return Next::Over;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match self.plan.ask(number) {
            Some(ask) => Next::Send(Due { ask, serial: self.plan.serial(number), at: now }),
            None => {
                // Given back, so that the counter tells how many were sent.
                self.next.fetch_sub(1, Ordering::Relaxed);
                Next::Over
            }
        }
    }

    fn next_due(&mut self, now: Instant, rate: f64) -> Next {
        let number = self.own_next;
        match (self.due(number, rate), self.plan.ask(number)) {
            (Some(due), Some(_)) if due > now => Next::Wait(due),
            (Some(due), Some(ask)) => {
                self.own_next += self.threads;
                self.next.fetch_add(1, Ordering::Relaxed);
                Next::Send(Due { ask, serial: self.plan.serial(number), at: due })
            }
            _ => Next::Over,
        }
    }

    /// When request `number` is due; `None` past the end.
    fn due(&self, number: u64, rate: f64) -> Option<Instant> {
        let after = due_after(number, rate);
        if self.length.is_some_and(|length| after >= length) || number >= self.plan.requests() {
            return None;
        }
        Some(self.start + after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::plan::Mix;

    fn plan(users: Option<u32>) -> Plan {
        Plan::new(&Mix { coupons: 1, skew: 0.0, repeat_share: 0.0, users, earlier_users: 0, seed: 0 })
    }

    fn source<'a>(
        plan: &'a Plan,
        pace: Pace,
        start: Instant,
        length: Option<Duration>,
        next: &'a AtomicU64,
        turn: (usize, usize),
    ) -> Source<'a> {
        let mut source = Source::new(plan, pace, length, next, turn);
        source.begin(start);
        source
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn latency_counts_from_when_a_request_was_due() {
        let (plan, next, start) = (plan(None), AtomicU64::new(0), Instant::now());
        let length = Some(Duration::from_secs(1));
        let mut source = source(&plan, Pace::Open { rate: 100.0 }, start, length, &next, (0, 1));
        assert!(matches!(source.next(start), Next::Send(due) if due.serial == 0 && due.at == start));
        assert_eq!(source.next(start + 3 * MS), Next::Wait(start + 10 * MS));

        // A stall of 35 ms: three requests are late, by 25, 15 and 5 ms.
        let resumed = start + 35 * MS;
        for late in [25, 15, 5] {
            assert!(matches!(source.next(resumed), Next::Send(due) if resumed - due.at == late * MS));
        }
        assert_eq!(source.next(resumed), Next::Wait(start + 40 * MS));
    }

    #[test]
    fn threads_share_the_rate_and_stop_together() {
        let (plan, next, start) = (plan(None), AtomicU64::new(0), Instant::now());
        let late = start + Duration::from_secs(60);
        let mut numbers = Vec::new();
        for thread in 0..3 {
            let length = Some(Duration::from_millis(100));
            let mut source = source(&plan, Pace::Open { rate: 1000.0 }, start, length, &next, (thread, 3));
            while let Next::Send(due) = source.next(late) {
                assert!(due.at < start + Duration::from_millis(100));
                numbers.push(due.serial);
            }
            assert_eq!(source.next(late), Next::Over);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        let length = Some(Duration::from_millis(100));
        assert_eq!(Pace::Open { rate: 1000.0 }.requests(&plan, length), Some(100));
        assert_eq!(next.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn a_closed_loop_ends_with_the_plan_or_the_time() {
        let (plan, next, start) = (plan(Some(2)), AtomicU64::new(0), Instant::now());
        let mut source = source(&plan, Pace::Closed, start, Some(10 * MS), &next, (0, 1));
        assert!(matches!(source.next(start), Next::Send(due) if due.serial == 0));
        assert_eq!(source.next(start + 10 * MS), Next::Over);
        assert!(matches!(source.next(start + MS), Next::Send(due) if due.serial == 1));
        assert_eq!(source.next(start + MS), Next::Over);
        assert_eq!(next.load(Ordering::Relaxed), 2);
    }
}
