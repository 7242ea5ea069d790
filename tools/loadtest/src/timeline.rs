//! What happened when: the stretches of a run, put together from all threads.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::drive::{STRETCH, Stretch, Tally, percentile_ms};

/// One stretch of time of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// End of the stretch, in seconds from the start.
    pub at_s: f64,
    /// Final answers per second.
    pub rate: f64,
    /// Wins per second.
    pub won_rate: f64,
    /// Median latency of the stretch.
    pub p50_ms: f64,
    /// 99th percentile of the stretch.
    pub p99_ms: f64,
}

/// Collects the samples of a run as its threads hand in their stretches.
#[derive(Debug, Default)]
pub struct Timeline {
    /// Stretches that some thread may still add to. Kept few: a tally is large.
    open: BTreeMap<u64, Tally>,
    samples: Vec<Sample>,
}

/// A thread that is later than this many stretches with its tally finds the sample closed.
const OPEN_MAX: usize = 5;

impl Timeline {
    /// Adds what one thread counted.
    pub fn add(&mut self, (index, tally): &Stretch) {
        self.open.entry(*index).or_default().merge(tally);
        while self.open.len() > OPEN_MAX {
            self.close_first(STRETCH);
        }
    }

    /// The samples of a run that lasted for `elapsed`, in their order.
    pub fn finish(mut self, elapsed: Duration) -> Vec<Sample> {
        while let Some((&index, _)) = self.open.first_key_value() {
            let begin = STRETCH * u32::try_from(index).unwrap_or(u32::MAX);
            let length = elapsed.saturating_sub(begin).min(STRETCH);
            // What is left at the end is often a moment, whose rate would be noise.
            if length < STRETCH / 4 && !self.samples.is_empty() {
                break;
            }
            self.close_first(length);
        }
        self.samples
    }

    fn close_first(&mut self, length: Duration) {
        let Some((index, tally)) = self.open.pop_first() else { return };
        let seconds = length.as_secs_f64().max(f64::EPSILON);
        self.samples.push(Sample {
            at_s: index as f64 * STRETCH.as_secs_f64() + length.as_secs_f64(),
            rate: tally.finished as f64 / seconds,
            won_rate: tally.won as f64 / seconds,
            p50_ms: percentile_ms(&tally.latency_us, 50.0),
            p99_ms: percentile_ms(&tally.latency_us, 99.0),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(count: u64) -> Tally {
        let mut tally = Tally::default();
        for _ in 0..count {
            tally.finish(Duration::from_millis(2), true);
        }
        tally
    }

    #[test]
    fn stretches_of_all_threads_are_added_up() {
        let mut timeline = Timeline::default();
        for index in 0..10 {
            timeline.add(&(index, answers(20)));
            timeline.add(&(index, answers(10)));
        }
        timeline.add(&(10, answers(15)));
        let samples = timeline.finish(STRETCH * 10 + STRETCH / 2);
        assert_eq!(samples.len(), 11);
        assert!(samples.iter().all(|sample| (sample.rate - 150.0).abs() < 1e-6), "{samples:?}");
        assert!((samples[10].at_s - 2.1).abs() < 1e-9);
        assert!((samples[0].p99_ms - 2.0).abs() < 0.01);
    }
}
