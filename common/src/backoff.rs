//! Waiting longer after each failure, so that a server that comes back is not trampled.

use std::time::Duration;

/// Doubling delays between a least and a most, with jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays from `least` to `most`.
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// For a server of ours that is away: 50 ms to half a second, so that it is found again soon
    /// after its return.
    pub fn for_server() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_millis(500))
    }

    /// The next delay: half of it fixed, half of it random, so that many processes spread out.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.next = (self.next * 2).min(self.most);
        delay
    }

    /// After a success: start from the least delay again.
    pub fn reset(&mut self) {
        self.next = self.least;
    }

    /// Sleeps for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }
}
