//! From claims to the changes that they make: read what they are about, decide, write.

use common::message::{Claim, Outcome};
use sqlx::Result;
use sqlx::postgres::PgConnection;

use crate::fence::{self, Changes, CursorMove, Written};
use crate::rules::{self, Request, Stock, Taken};
use crate::stock_cache::StockCache;
use crate::store::{self, Coupon, Snapshot};

/// Claims in their order, and the coupons that they are about.
pub(crate) struct BatchClaims<'a> {
    claims: Vec<&'a Claim>,
    /// Each coupon once, in the order of the names.
    pub(crate) coupon_names: Vec<&'a str>,
}

impl<'a> BatchClaims<'a> {
    /// These claims.
    pub(crate) fn of(claims: Vec<&'a Claim>) -> Self {
        let mut coupon_names: Vec<&str> = claims.iter().map(|claim| claim.coupon_name.as_str()).collect();
        coupon_names.sort_unstable();
        coupon_names.dedup();
        Self { claims, coupon_names }
    }

    /// Reads those of `coupons` that are not known.
    pub(crate) async fn look_up_missing(
        &self,
        connection: &mut PgConnection,
        coupons: &mut [Option<Coupon>],
    ) -> Result<()> {
        let (names, missing): (Vec<&str>, Vec<&mut Option<Coupon>>) =
            self.coupon_names.iter().zip(coupons).filter(|(_, coupon)| coupon.is_none()).unzip();
        if names.is_empty() {
            return Ok(());
        }
        let shown = store::look_up(connection, &names, &[], &[]).await?;
        for (coupon, shown) in missing.into_iter().zip(shown.coupons) {
            *coupon = shown;
        }
        Ok(())
    }

    /// Reads the coupons, and what the users have of them.
    pub(crate) async fn look_up(&self, connection: &mut PgConnection) -> Result<Snapshot> {
        let claims = self.claims.iter();
        let (names, users): (Vec<_>, Vec<_>) =
            claims.map(|claim| (claim.coupon_name.as_str(), claim.user_id.as_str())).unzip();
        store::look_up(connection, &self.coupon_names, &names, &users).await
    }

    /// Looks up, decides and writes all claims, in a transaction that is to be rolled back.
    pub(crate) async fn try_write(
        &self,
        connection: &mut PgConnection,
        cursor: &CursorMove,
    ) -> Result<Written> {
        let snapshot = self.look_up(connection).await?;
        let plan = self.plan(&snapshot.coupons, &snapshot.taken);
        fence::write(connection, cursor, &plan.changes).await
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.claims.len()
    }

    /// Decides all claims, given the coupons and what the users have of them.
    pub(crate) fn plan(&self, coupons: &[Option<Coupon>], taken: &[Option<Taken>]) -> Plan<'a> {
        let requests: Vec<_> = self
            .claims
            .iter()
            .map(|claim| Request {
                coupon: self
                    .coupon_names
                    .binary_search(&claim.coupon_name.as_str())
                    .expect("every claim's coupon is among them"),
                user: claim.user_id.as_str(),
                claim_id: claim.claim_id,
            })
            .collect();
        let stocks: Vec<Option<Stock>> = coupons.iter().map(|coupon| Some(coupon.as_ref()?.stock)).collect();
        let decision = rules::decide(&requests, &stocks, taken);

        let mut changes = Changes::default();
        let mut after = Vec::new();
        for ((name, coupon), won) in self.coupon_names.iter().copied().zip(coupons).zip(decision.won) {
            if let (Some(Coupon { stock, xmin }), 1..) = (*coupon, won) {
                changes.sold_names.push(name);
                changes.sold_counts.push(won);
                changes.sold_from.push(stock.remaining);
                changes.sold_xmins.push(xmin);
                let last_position = stock.last_position + i64::from(won);
                after.push(Stock { remaining: stock.remaining - won, last_position });
            }
        }
        for (index, position) in decision.winners {
            let claim = self.claims[index];
            changes.coupon_names.push(claim.coupon_name.as_str());
            changes.user_ids.push(claim.user_id.as_str());
            changes.claim_ids.push(claim.claim_id.as_uuid());
            changes.positions.push(position);
        }
        Plan { outcomes: decision.outcomes, changes, after }
    }
}

/// What was decided.
pub(crate) struct Plan<'a> {
    pub(crate) outcomes: Vec<Outcome>,
    changes: Changes<'a>,
    /// The stocks that the changes leave, one for each of their coupons.
    after: Vec<Stock>,
}

impl Plan<'_> {
    /// Writes it and, if it was committed, puts the coupons into the cache.
    pub(crate) async fn write(
        self,
        connection: &mut PgConnection,
        cursor: &CursorMove,
        cache: &mut StockCache,
    ) -> Result<Written> {
        let written = fence::commit_behind_fence(connection, cursor, &self.changes).await?;
        if let Written::Committed { xmin } = written {
            for (name, stock) in self.changes.sold_names.into_iter().zip(self.after) {
                cache.put(name, Coupon { stock, xmin });
            }
        }
        Ok(written)
    }
}
