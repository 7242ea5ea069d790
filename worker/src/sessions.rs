//! The sessions of Postgres that apply claims, shared by all of a worker's partitions.
//!
//! A session is a process of the server with caches of its own: tables, plans, and the processor's caches. So the one
//! that was used last is used first: where only two partitions are busy at a time, two sessions do nearly all the
//! work, however many partitions there are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::partition::PartitionId;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Result};

use crate::context::Worker;
use crate::store::{self, PartitionRow};

/// How long a connection to Postgres may take to open, or to close.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long Postgres may take to show or to change a partition's row.
pub(crate) const ROW_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection, and when its server was started. A session does not outlive its server, so once is enough to ask.
pub(crate) struct Session {
    pub(crate) connection: PgConnection,
    pub(crate) server_started_us: i64,
}

/// The sessions that nobody uses at the moment. A partition takes one for its statements, or opens one if there is
/// none, and so never waits for another partition.
pub(crate) struct Sessions {
    worker: Arc<Worker>,
    /// The one that was used last is at the back.
    idle: Mutex<VecDeque<Session>>,
}

impl Sessions {
    /// Opens none yet.
    pub(crate) fn new(worker: Arc<Worker>) -> Self {
        Self { worker, idle: Mutex::default() }
    }

    /// Does `work` in a session, for `limit` at most. After an error or a cancellation the session is not used again.
    /// After an error the idle ones are not used again either: what ended this one, such as a restart of the server,
    /// has probably ended them too, and each would have to be waited for.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Session) -> Result<T>,
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
        self.within(ROW_TIMEOUT, async |session| store::partition(&mut session.connection, id).await).await
    }

    /// Closes the session that has been idle for longest. To be called when a partition ends, so that there are never
    /// more sessions than partitions.
    pub(crate) async fn close_one(&self) {
        let surplus = self.idle().pop_front();
        if let Some(session) = surplus {
            // Best effort: the server notices the closed socket as well.
            let _ = tokio::time::timeout(CONNECT_TIMEOUT, session.connection.close()).await;
        }
    }

    async fn take(&self) -> Result<Session> {
        if let Some(session) = self.idle().pop_back() {
            return Ok(session);
        }
        store::in_time(CONNECT_TIMEOUT, self.open()).await
    }

    async fn open(&self) -> Result<Session> {
        let Worker { database, config, .. } = &*self.worker;
        let mut connection =
            store::connect_for_claims(database, config.lease, config.statement_timeout).await?;
        let server_started_us = store::server_started_us(&mut connection).await?;
        Ok(Session { connection, server_started_us })
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
