//! Waits longer after each failure, so that a server that returns is not flooded.

use std::time::Duration;

/// Delays that double from `least` to `most`, with jitter.
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

    /// For Postgres and NATS: 50 ms to half a second, so that a server is found soon after its return.
    pub fn for_server() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_millis(500))
    }

    /// The next delay. Half of it is random, so that many processes do not return at once.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.next = (self.next * 2).min(self.most);
        delay
    }

    /// After a success: starts from `least` again.
    pub fn reset(&mut self) {
        self.next = self.least;
    }

    /// Sleeps for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }
}
