//! What handlers need, and how they ask Postgres.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool};

use super::problem::Problem;
use crate::claims::answer::Unavailable;
use crate::claims::availability::Availability;
use crate::claims::dispatcher::Dispatcher;
use crate::store;

/// How long one question to Postgres may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// What handlers need.
pub struct State {
    pub(crate) pool: PgPool,
    pub(crate) partitions: u32,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) availability: Arc<Availability>,
}

pub(super) type SharedState = axum::extract::State<Arc<State>>;

impl State {
    /// Asks Postgres, unless it is known to be away, within the time that a request has.
    pub(super) async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T, Problem> {
        if !self.availability.postgres() {
            return Err(Unavailable::DatabaseUnavailable.into());
        }
        Ok(store::ask(&self.pool, QUESTION_TIMEOUT, question).await?)
    }
}
