//! The threads on which a process runs.

use std::io;

/// Runs a process's `main` on a thread for each processor, and returns when it is done.
///
/// A blocked thread does not delay the end: looking up a host name cannot be cancelled and takes as long as the
/// resolver needs, even when nobody waits for it any more.
///
/// # Errors
/// Those of `main`, and when the threads cannot be started.
pub fn block_on<E: From<io::Error>>(main: impl Future<Output = Result<(), E>>) -> Result<(), E> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(main);
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_blocked_thread_does_not_delay_the_end() {
        let started = Instant::now();
        let ended = block_on(async {
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(10)));
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<_, io::Error>(())
        });
        assert!(ended.is_ok() && started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}
