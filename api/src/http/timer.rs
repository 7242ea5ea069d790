//! A timer for deadlines that are set for every request and hardly ever reached.
//!
//! The runtime keeps its timers in one wheel behind a lock, which all threads take to set and to unset one. Hyper
//! sets a deadline for each request's head; with ten thousands of requests a second that was up to a thirtieth of
//! the API's processor time. Here a connection keeps one timer. When it goes off, which is once per deadline's
//! length instead of once per request, it is set to what the deadline is by then.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// The timer of one connection, for one deadline at a time.
#[derive(Debug, Default, Clone)]
pub(super) struct ConnectionTimer(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Deadline { timer: self.clone(), at: deadline.into() })
    }
}

/// Resolves at its time. When dropped before, it leaves the timer set: at worst the connection's task
/// is woken once for nothing.
struct Deadline {
    timer: ConnectionTimer,
    at: tokio::time::Instant,
}

impl Sleep for Deadline {}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut sleep = self.timer.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.at)));
        if sleep.deadline() > self.at {
            sleep.as_mut().reset(self.at);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= self.at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::rt::Timer;
    use tokio::time::{Instant, timeout};

    use super::ConnectionTimer;

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(10);

    /// Waits until `after` from now, and tells how long that took.
    async fn wait(timer: &ConnectionTimer, after: Duration) -> Duration {
        let start = Instant::now();
        timer.sleep_until((start + after).into()).await;
        start.elapsed()
    }

    fn is_about(elapsed: Duration, expected: Duration) -> bool {
        elapsed >= expected && elapsed <= expected + Duration::from_millis(5)
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_are_kept_one_after_the_other() {
        let timer = ConnectionTimer::default();
        for after in [SHORT, LONG, SHORT, Duration::ZERO] {
            let elapsed = wait(&timer, after).await;
            assert!(is_about(elapsed, after), "{elapsed:?} instead of {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_does_not_end_a_later_one_nor_hold_it_up() {
        let timer = ConnectionTimer::default();
        for (given_up, after) in [(SHORT, LONG), (LONG, SHORT), (LONG, LONG)] {
            // Waited for a moment only, so that its timer stays set.
            let dropped = timeout(Duration::from_millis(10), wait(&timer, given_up)).await;
            assert!(dropped.is_err());
            let elapsed = wait(&timer, after).await;
            assert!(is_about(elapsed, after), "{elapsed:?} instead of {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_set_again_and_again_comes_once_it_is_not() {
        let timer = ConnectionTimer::default();
        for _ in 0..100 {
            assert!(timeout(SHORT / 2, wait(&timer, SHORT)).await.is_err());
        }
        let elapsed = wait(&timer, SHORT).await;
        assert!(is_about(elapsed, SHORT), "{elapsed:?}");
    }
}
