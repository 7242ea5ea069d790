//! Whether this worker can do its work: what its parts have said last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use common::ops::Report;
use common::partition::PartitionId;
use common::queue::Link;
use tokio::sync::watch;

/// A partition that has failed for this long, without a success in between, makes its worker "not ready".
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

/// Whether a worker can do its work.
#[derive(Debug, Default)]
pub struct Health {
    /// Set once both servers are connected.
    link: OnceLock<watch::Receiver<Link>>,
    postgres: AtomicBool,
    troubles: Mutex<HashMap<PartitionId, Trouble>>,
}

/// A partition that does not get on.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    reason: String,
    logged: bool,
}

impl Health {
    /// Both servers have been reached.
    pub(crate) fn connected(&self, link: watch::Receiver<Link>) {
        let _ = self.link.set(link);
        self.postgres(true);
    }

    /// Whether Postgres has answered the last heartbeat.
    pub(crate) fn postgres(&self, answers: bool) {
        self.postgres.store(answers, Ordering::Relaxed);
    }

    /// A partition could not be read or applied. Logged once, when it has gone on for [`STALLED_AFTER`].
    pub(crate) fn failed(&self, partition: PartitionId, reason: String) {
        let mut troubles = self.lock();
        let trouble = troubles.entry(partition).or_insert_with(|| Trouble {
            since: Instant::now(),
            reason: String::new(),
            logged: false,
        });
        trouble.reason = reason;
        if trouble.is_stalled() && !std::mem::replace(&mut trouble.logged, true) {
            let (seconds, reason) = (STALLED_AFTER.as_secs(), &trouble.reason);
            tracing::error!(%partition, reason, "no progress for {seconds} s; this worker is not ready");
        }
    }

    /// A partition gets on, or is this worker's no more.
    pub(crate) fn recovered(&self, partition: PartitionId) {
        let trouble = self.lock().remove(&partition);
        if trouble.is_some_and(|trouble| trouble.logged) {
            tracing::info!(%partition, "no longer held up here");
        }
    }

    /// What can do its work, and what cannot.
    pub fn report(&self) -> Report {
        let trouble = |answers: bool| (!answers).then(|| "unavailable".to_owned());
        let queue = self.link.get().is_some_and(|link| link.borrow().up);
        let mut report = Report::from([
            ("postgres".to_owned(), trouble(self.postgres.load(Ordering::Relaxed))),
            ("nats".to_owned(), trouble(queue)),
        ]);
        for (partition, trouble) in self.lock().iter().filter(|(_, trouble)| trouble.is_stalled()) {
            report.insert(format!("partition {partition}"), Some(trouble.reason.clone()));
        }
        report
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PartitionId, Trouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trouble {
    fn is_stalled(&self) -> bool {
        self.since.elapsed() >= STALLED_AFTER
    }
}
