//! How a process is told to stop, and ends.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by Ctrl-C (SIGINT) or SIGTERM.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let on_signal = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        tracing::info!(signal = name, "stopping");
        on_signal.cancel();
    });
    Ok(token)
}

/// Runs a process's `main` on all processors, until it is done.
///
/// What blocks a thread does not hold the end up: the look-up of a host's name cannot be broken off, and takes
/// as long as the resolver likes, whoever has stopped waiting for it.
///
/// # Errors
/// Those of `main`, and when no threads can be had.
pub fn block_on<E: From<std::io::Error>>(main: impl Future<Output = Result<(), E>>) -> Result<(), E> {
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
    fn a_thread_that_is_blocked_holds_no_end_up() {
        let started = Instant::now();
        let ended = block_on(async {
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(10)));
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<_, std::io::Error>(())
        });
        assert!(ended.is_ok() && started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}
