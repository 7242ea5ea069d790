//! The sessions of Postgres that apply claims, shared by all of a worker's partitions.
//!
//! A session is a process of the server, which has caches of its own: tables, plans, and the processor's
//! caches that it has filled. So the one that was used last is used first. Where only two batches are under
//! way at a time, two sessions do nearly all, however many partitions there are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::partition::PartitionId;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Result};

use crate::Worker;
use crate::store::{self, PartitionRow};

/// How long a connection to Postgres may take to come up, or to close.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long Postgres may take to show or to change a partition's row.
pub(crate) const ROW_TIMEOUT: Duration = Duration::from_secs(3);

/// Sessions that nobody uses at the moment. A partition takes one for as long as its statements last, or opens one, and
/// so never waits for another partition.
pub(crate) struct Sessions {
    worker: Arc<Worker>,
    /// The one that was used last is the last.
    idle: Mutex<VecDeque<PgConnection>>,
}

impl Sessions {
    /// Opens none yet.
    pub(crate) fn of(worker: Arc<Worker>) -> Self {
        Self { worker, idle: Mutex::default() }
    }

    /// Does `work` in a session, for `limit` at most. After an error, or if this is cancelled, the session is used no
    /// more, whatever state it is in. Nor are those that are idle after an error: whatever ended it, such as a server
    /// that was restarted or cannot be reached, has probably ended them, too, and each would have to be waited for.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T>,
    ) -> Result<T> {
        let mut session = self.take().await?;
        let done = store::in_time(limit, work(&mut session)).await;
        match done {
            Ok(_) => self.idle().push_back(session),
            Err(_) => self.idle().clear(),
        }
        done
    }

    /// Reads a partition's row.
    pub(crate) async fn partition(&self, id: PartitionId) -> Result<PartitionRow> {
        self.within(ROW_TIMEOUT, async |session| store::partition(session, id).await).await
    }

    /// Closes the one that has not been used for longest. To be called when a partition ends, so that there are
    /// never more sessions than partitions.
    pub(crate) async fn close_one(&self) {
        let surplus = self.idle().pop_front();
        if let Some(session) = surplus {
            // Best effort: the server notices the closed socket as well.
            let _ = tokio::time::timeout(CONNECT_TIMEOUT, session.close()).await;
        }
    }

    /// Takes the session that was used last, or opens one.
    async fn take(&self) -> Result<PgConnection> {
        if let Some(session) = self.idle().pop_back() {
            return Ok(session);
        }
        let Worker { database, config, .. } = &*self.worker;
        let opened = store::connect_for_claims(database, config.lease, config.statement_timeout);
        store::in_time(CONNECT_TIMEOUT, opened).await
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
