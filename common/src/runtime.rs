//! The threads on which a process runs.

use std::io;

use crate::sched::Policy;

/// Runs a process's `main` on all processors, until it is done. The threads are scheduled as `policy` says, but
/// for the first one, which runs `main` itself: programs that it starts inherit nothing.
///
/// What blocks a thread does not hold the end up: the look-up of a host's name cannot be broken off, and takes
/// as long as the resolver likes, whoever has stopped waiting for it.
///
/// # Errors
/// Those of `main`, and when no threads can be had.
pub fn block_on<E: From<io::Error>>(
    policy: Policy,
    main: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(move || policy.apply())
        .build()?;
    let ended = runtime.block_on(main);
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_thread_that_is_blocked_holds_no_end_up() {
        let started = Instant::now();
        let ended = block_on(Policy::Other, async {
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(10)));
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<_, io::Error>(())
        });
        assert!(ended.is_ok() && started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}
