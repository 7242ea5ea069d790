//! How a test runs and waits.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use common::config::Env;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// No wait for a condition is longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// No test takes longer.
const TEST_LIMIT: Duration = Duration::from_secs(120);

/// Pause between two looks at a condition that has no event.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Systems at the same time, so that a machine with many cores is not buried under servers.
static SLOTS: Semaphore = Semaphore::const_new(6);

/// One runtime for all tests: the Postgres that they share must outlive each of them.
pub(super) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    if let Ok(filter) = std::env::var("RUST_LOG") {
        let env = Env::from_iter([("RUST_LOG".to_owned(), filter)]);
        common::telemetry::init(&env).unwrap();
    }
    // Hundreds of clients at once, each with both ends of its connection in this process.
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
});

/// Runs a test.
pub(crate) fn run(test: impl Future<Output = ()>) {
    RUNTIME.block_on(async {
        let _slot = SLOTS.acquire().await.unwrap();
        let ended = tokio::time::timeout(TEST_LIMIT, Box::pin(test)).await;
        assert!(ended.is_ok(), "the test took longer than {TEST_LIMIT:?}");
    });
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A folder that every user can pass through, as temporary folders usually are not.
pub(crate) fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}
