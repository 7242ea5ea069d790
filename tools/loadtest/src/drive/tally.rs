//! Counting: what was answered, how fast, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Length of the stretches of time that are counted by themselves, for progress and plots.
pub const STRETCH: Duration = Duration::from_millis(200);

/// A finished stretch of time: the how-manieth it is, and what was counted in it by one thread.
pub type Stretch = (u64, Tally);

/// The longest latency told apart; a slower answer counts as this one.
const LATENCY_US_MAX: u64 = 300_000_000;

/// Three significant digits: an error of at most one in a thousand.
const DIGITS: u8 = 3;

/// Something that went wrong with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection could not be opened.
    Connect,
    /// The connection broke, or was closed, before the answer was complete.
    Broken,
    /// No answer within the time limit.
    TimedOut,
    /// The answer was not HTTP.
    Malformed,
}

impl Fault {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Broken, Self::TimedOut, Self::Malformed];

    /// What to call it in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connection refused",
            Self::Broken => "connection broken",
            Self::TimedOut => "no answer in time",
            Self::Malformed => "not an HTTP answer",
        }
    }
}

/// Everything counted in a stretch of time.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Every answer, repeated and interim ones included: how many by HTTP status and the error's stable code, which is
    /// empty for none.
    pub answers: BTreeMap<(u16, String), u64>,
    /// Requests that ended in a definite outcome: won, claimed already or sold out.
    pub finished: u64,
    /// Those that won.
    pub won: u64,
    /// Requests sent once more after a 503 or a broken connection.
    pub retries: u64,
    /// Questions for the outcome of a pending claim.
    pub follow_ups: u64,
    /// Faults, in the order of [`Fault::ALL`].
    pub faults: [u64; Fault::ALL.len()],
    /// Time to the outcome of each of them, in microseconds.
    pub latency_us: Histogram<u64>,
    /// The same for the requests that won.
    pub won_latency_us: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            answers: BTreeMap::new(),
            finished: 0,
            won: 0,
            retries: 0,
            follow_ups: 0,
            faults: [0; 4],
            latency_us: histogram(),
            won_latency_us: histogram(),
        }
    }
}

impl Tally {
    /// Counts a definite outcome.
    pub fn finish(&mut self, latency: Duration, won: bool) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        self.finished += 1;
        self.latency_us.saturating_record(us);
        if won {
            self.won += 1;
            self.won_latency_us.saturating_record(us);
        }
    }

    /// Counts an answer.
    pub fn answer(&mut self, status: u16, code: &str) {
        // The server chose it. A line feed in it would be a line of the report.
        let code = match code.contains(char::is_control) {
            true => code.escape_debug().to_string(),
            false => code.to_owned(),
        };
        *self.answers.entry((status, code)).or_default() += 1;
    }

    /// Counts a fault.
    pub fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.answers {
            *self.answers.entry(kind.clone()).or_default() += count;
        }
        self.finished += other.finished;
        self.won += other.won;
        self.retries += other.retries;
        self.follow_ups += other.follow_ups;
        for (own, other) in self.faults.iter_mut().zip(other.faults) {
            *own += other;
        }
        // Both have the same bounds, so that adding cannot fail.
        let _ = self.latency_us.add(&other.latency_us);
        let _ = self.won_latency_us.add(&other.won_latency_us);
    }
}

/// A latency in milliseconds: `percentile` (0 to 100) of the recorded ones.
pub fn percentile_ms(latency_us: &Histogram<u64>, percentile: f64) -> f64 {
    if latency_us.is_empty() {
        return 0.0;
    }
    // The histogram reports the upper end of its cell, which may lie above anything recorded.
    let us = latency_us.value_at_quantile(percentile / 100.0).min(latency_us.max());
    us as f64 / 1000.0
}

fn histogram() -> Histogram<u64> {
    // The bounds are constants that the histogram accepts; without bounds it cannot fail at all.
    Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS)
        .unwrap_or_else(|_| unreachable!("constant bounds are valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut first = Tally::default();
        first.answer(409, "already_claimed");
        first.answer(200, "");
        first.finish(Duration::from_millis(10), true);
        first.fault(Fault::TimedOut);
        let mut sum = Tally::default();
        sum.merge(&first);
        sum.merge(&first);
        assert_eq!((sum.finished, sum.won, sum.faults), (2, 2, [0, 0, 2, 0]));
        let kinds = sum.answers.iter().map(|((status, _), count)| (*status, *count)).collect::<Vec<_>>();
        assert_eq!(kinds, [(200, 2), (409, 2)]);
        assert!((percentile_ms(&sum.latency_us, 50.0) - 10.0).abs() < 0.02);
    }

    #[test]
    fn absurd_latencies_are_kept_within_bounds() {
        let mut tally = Tally::default();
        tally.finish(Duration::ZERO, false);
        tally.finish(Duration::from_secs(3600), false);
        assert_eq!(tally.latency_us.min(), 1);
        assert!(tally.latency_us.max() >= LATENCY_US_MAX);
    }
}
