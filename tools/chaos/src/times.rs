//! Samples of durations.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Times {
    /// In milliseconds, in the order in which they were measured.
    pub(crate) millis: Vec<f64>,
}

impl Times {
    pub(crate) fn add_us(&mut self, us: u64) {
        self.millis.push(millis(us));
    }

    /// The value that this share of the sample does not exceed, from 0 to 1; nothing for an empty sample.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.millis.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    pub(crate) fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    pub(crate) fn worst(&self) -> Option<f64> {
        self.quantile(1.0)
    }
}

pub(crate) fn millis(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_sample() {
        let mut times = Times::default();
        assert_eq!(times.median(), None);
        for us in [5_000, 1_000, 4_000, 2_000, 3_000] {
            times.add_us(us);
        }
        assert_eq!((times.median(), times.worst()), (Some(3.0), Some(5.0)));
        assert_eq!((times.quantile(0.0), times.quantile(0.2)), (Some(1.0), Some(1.0)));
    }
}
