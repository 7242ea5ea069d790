//! Rows changed by hand, as operators do with psql.
//!
//! Only two kinds of changes: stock is raised, and a winner is inserted. The checker can say of both what they allow.
//! Stock that is lowered and rows that are deleted would make nearly every answer explicable.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use sqlx::Connection as _;
use sqlx::postgres::PgQueryResult;
use tokio::time::{sleep, timeout};

use super::injector::Injector;
use crate::history::EventKind;

/// How long one change may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Changes of one injection.
const CHANGES_MAX: u32 = 4;

/// By how much stock is raised at most.
const RAISE_MAX: i32 = 20;

/// Users whose claims are inserted. The first are those that clients also compete for.
const USERS: u32 = 60;

const RAISE: &str =
    "UPDATE coupons SET amount = amount + $2, remaining_amount = remaining_amount + $2 WHERE name = $1";

const INSERT_WINNER: &str = "WITH coupon AS (
         UPDATE coupons SET remaining_amount = remaining_amount - 1 WHERE name = $1 AND remaining_amount > 0 RETURNING name)
     INSERT INTO claims (coupon_name, user_id) SELECT name, $2 FROM coupon";

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    Yes,
    No,
    Unknown,
}

impl Injector {
    /// Changes rows a few times. Returns how often that certainly succeeded.
    pub(super) async fn change_by_hand(&self, duration: Duration, rng: &mut StdRng) -> anyhow::Result<u64> {
        let changes = rng.random_range(1..=CHANGES_MAX);
        let limited: Vec<String> = self
            .plan
            .coupons
            .iter()
            .filter(|coupon| !coupon.lasts())
            .map(|coupon| coupon.name.clone())
            .collect();
        let mut hits = 0;
        for _ in 0..changes {
            sleep(duration.mul_f64(rng.random_range(0.0..2.0)) / (2 * changes)).await;
            let Some(coupon) = limited.choose(rng) else { break };
            let changed = if rng.random_bool(0.6) {
                self.raise(coupon, rng.random_range(1..=RAISE_MAX)).await?
            } else {
                self.insert_winner(coupon, format!("shared {}", rng.random_range(0..USERS))).await?
            };
            hits += u64::from(changed == Changed::Yes);
        }
        Ok(hits)
    }

    async fn raise(&self, coupon: &str, by: i32) -> anyhow::Result<Changed> {
        let begin_us = self.log.now_us();
        let query = sqlx::query(RAISE).bind(coupon).bind(by);
        let changed = self.execute(query).await;
        if changed != Changed::No {
            let certain = changed == Changed::Yes;
            let (coupon, by) = (coupon.to_owned(), by.into());
            self.log.event(EventKind::StockRaised { coupon, by, begin_us, certain })?;
        }
        Ok(changed)
    }

    async fn insert_winner(&self, coupon: &str, user: String) -> anyhow::Result<Changed> {
        let query = sqlx::query(INSERT_WINNER).bind(coupon).bind(user.clone());
        self.log.event(EventKind::ByHand { coupon: coupon.to_owned(), user })?;
        Ok(self.execute(query).await)
    }

    async fn execute(
        &self,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
    ) -> Changed {
        let Ok(Ok(mut connection)) = timeout(LIMIT, self.cluster.database()).await else {
            return Changed::No;
        };
        let changed = match timeout(LIMIT, query.execute(&mut connection)).await {
            Ok(Ok(done)) => of_rows(&done),
            // Postgres says itself that it did not.
            Ok(Err(sqlx::Error::Database(_))) => Changed::No,
            Ok(Err(_)) | Err(_) => Changed::Unknown,
        };
        // It ends with the program at the latest.
        let _ = timeout(LIMIT, connection.close()).await;
        changed
    }
}

fn of_rows(done: &PgQueryResult) -> Changed {
    if done.rows_affected() > 0 { Changed::Yes } else { Changed::No }
}
