//! Applies claims to Postgres, partition by partition, in the order of the queue.
//!
//! In reading order: [`rules`] decides who wins, [`store`] asks Postgres, [`fence`] is the one statement that
//! writes, `stock_cache` is what need not be asked, `plan` and `apply` join them for the messages of one transaction,
//! and `refused` finds the claims that Postgres does not take. `source` reads a partition's stream, `stream_check`
//! compares the stream with Postgres, `streams` creates those that are missing, `partition` is the loop over all that,
//! `purge` deletes what was applied, `sessions` are the connections used. `lease` (with [`lease_store`] and `share`)
//! decides which partitions are this worker's. [`health`] says whether it can do its work. [`migrate`] is what is done
//! before all that, by the tables' owner.

mod apply;
pub mod config;
mod context;
pub mod fence;
pub mod health;
mod lease;
pub mod lease_store;
mod message;
pub mod migrate;
mod partition;
mod plan;
mod purge;
mod refused;
pub mod rules;
mod sessions;
mod share;
mod source;
mod source_error;
mod stock_cache;
pub mod store;
mod stream_check;
mod streams;

use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use context::Worker;
pub use migrate::Migration;

impl Worker {
    /// Works until `stop`, then finishes what is in flight and hands its partitions over.
    ///
    /// # Errors
    /// When a task has died: the process should be started anew.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        // Ends with the manager, however that ends.
        let stop = stop.child_token();
        let worker = self.clone();
        let work = async {
            let result = lease::Manager::new(self).run(stop.clone()).await;
            stop.cancel();
            result
        };
        tokio::join!(work, streams::keep(&worker, stop.clone())).0
    }
}
