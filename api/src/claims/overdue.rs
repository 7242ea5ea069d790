//! Batches whose reply is not waited for any longer: overdue, or their reply was lost with the connection or the
//! worker.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::claims::batch::UnansweredBatch;
use crate::claims::inbox::Inbox;

/// How often deadlines are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(25);

/// Passes overdue batches to `resolve`, until `stop` and the last batch.
pub(crate) async fn sweep(
    inbox: Arc<Inbox>,
    resolve: mpsc::Sender<UnansweredBatch>,
    stop: CancellationToken,
) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        for batch in inbox.take_overdue() {
            // Closed only when the process ends; dropping the batch tells its requests "unknown".
            let _ = resolve.send(batch).await;
        }
        if stop.is_cancelled() && inbox.is_empty() {
            return;
        }
    }
}
