//! Finds the claims of a message that Postgres refuses, so that the others can be applied.
//!
//! Names and types are checked before a claim is queued, so nothing of ours should be refused. What a database's own
//! constraints and triggers say cannot be known beforehand; without this, one such claim would stop its partition.

use common::message::Claim;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Result};

use crate::fence::{self, CursorMove};
use crate::plan::BatchClaims;

/// How often a single claim is tried, each time after a fresh look: rows may be changed by hand between look and write.
const ATTEMPTS: usize = 2;

/// Why each of `claims` is refused, `None` for those that are not. Changes nothing: every attempt is rolled back.
///
/// The claims are tried in their order, behind those that were accepted, in parts that are halved until they hold one
/// claim: at most four attempts per claim, about twice the logarithm of their number if one is refused.
pub(crate) async fn find(
    connection: &mut PgConnection,
    cursor: &CursorMove,
    claims: &[&Claim],
) -> Result<Vec<Option<String>>> {
    let mut refusals = vec![None; claims.len()];
    let mut accepted: Vec<&Claim> = Vec::with_capacity(claims.len());
    // Where each part begins and ends; the first part is the last.
    let mut parts = vec![(0, claims.len())];
    while let Some((start, end)) = parts.pop().filter(|(start, end)| start < end) {
        let before = accepted.len();
        accepted.extend(&claims[start..end]);
        let attempts = if end - start == 1 { ATTEMPTS } else { 1 };
        let Some(reason) = refusal_of(connection, cursor, &accepted, attempts).await? else { continue };
        accepted.truncate(before);
        if end - start == 1 {
            refusals[start] = Some(reason);
        } else {
            let middle = start + (end - start) / 2;
            parts.extend([(middle, end), (start, middle)]);
        }
    }
    Ok(refusals)
}

/// What Postgres says against these claims, if it says it in each of `attempts`.
async fn refusal_of(
    connection: &mut PgConnection,
    cursor: &CursorMove,
    claims: &[&Claim],
    attempts: usize,
) -> Result<Option<String>> {
    let mut refusal = None;
    for _ in 0..attempts {
        let mut transaction = connection.begin().await?;
        let tried = BatchClaims::of(claims.to_vec()).try_write(&mut transaction, cursor).await;
        transaction.rollback().await?;
        match tried {
            // Also when the partition is no longer ours: the write that counts will say so.
            Ok(_) => return Ok(None),
            Err(error) if fence::stock_has_changed(&error) => return Err(error),
            Err(error) => match reason(&error) {
                Some(reason) => refusal = Some(reason),
                None => return Err(error),
            },
        }
    }
    Ok(refusal)
}

/// What Postgres says against the content of a statement: data that it cannot take (class 22), constraints (23), limits
/// (54), and triggers that raise an exception (P0001). Anything else concerns the server, not the claim.
pub(crate) fn reason(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    let code = error.code()?;
    let is_refusal = ["22", "23", "54"].iter().any(|class| code.starts_with(class)) || code == "P0001";
    is_refusal.then(|| format!("Postgres refuses it: {} ({code})", error.message()))
}
