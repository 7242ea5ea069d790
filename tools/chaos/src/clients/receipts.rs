//! Asks about every receipt once more, when all is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::http::{Connection, Request};
use crate::history::{Endpoint, Op};
use crate::record::Log;

/// Receipts of a round that are asked about.
const RECEIPTS_MAX: usize = 1_000;

/// How long one answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(6);

/// Who asks, in the history.
const CLIENT: u32 = u32::MAX - 1_000;

/// Asks each API about each receipt of the round, also about those whose client asked no more.
pub(crate) async fn ask_receipts(log: &Arc<Log>, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let receipts: Arc<[Op]> = log.receipts().into_iter().take(RECEIPTS_MAX).collect();
    let mut asking = JoinSet::new();
    for (address, number) in addresses.iter().zip(0..) {
        asking.spawn(ask(Arc::clone(log), *address, CLIENT + number, Arc::clone(&receipts)));
    }
    while let Some(ended) = asking.join_next().await {
        ended??;
    }
    Ok(())
}

async fn ask(log: Arc<Log>, address: SocketAddr, client: u32, receipts: Arc<[Op]>) -> anyhow::Result<()> {
    let mut connection = Connection::default();
    connection.switch(address);
    for claim in receipts.iter() {
        let Some(path) = claim.response().and_then(|response| response.location.clone()) else { continue };
        let request = Request { method: "GET", path, key: None, body: None };
        let (id, start_us) = (log.next_op(), log.now_us());
        let answer = connection.send(&request, TIMEOUT).await;
        let (coupon, user) = (claim.coupon.clone(), claim.user.clone());
        log.op(Op {
            id,
            root: id,
            follows: Some(claim.id),
            attempt: 1,
            client,
            endpoint: Endpoint::Lookup,
            coupon,
            user,
            key: None,
            amount: None,
            settles: false,
            start_us,
            end_us: log.now_us(),
            answer,
        })?;
    }
    Ok(())
}
