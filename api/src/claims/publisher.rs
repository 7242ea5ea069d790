//! Publishes the claims of one partition: what waits goes as one message, a batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use common::message::{BatchWriter, Command, REPLY_HEADER};
use common::partition::PartitionId;
use common::{queue, stream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::claims::answer::{Answer, Unavailable};
use crate::claims::availability::Availability;
use crate::claims::batch::PublishResult;
use crate::claims::inbox::Inbox;
use crate::claims::pacing::{BatchPermit, Receiver};
use crate::claims::waiter::{Waiter, answer_all};

/// How long the acknowledgement of a publish holds up the next one. The batch goes on waiting for its outcome after
/// that.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// About how long one command is, to size a message's buffer.
const COMMAND_BYTES_TYPICAL: usize = 160;

/// What the server's own limit on a message also counts: subject, headers and protocol.
const MESSAGE_OVERHEAD_BYTES: usize = 1_024;

/// What all publishers share.
#[derive(Clone)]
pub(crate) struct PublisherContext {
    pub(crate) connection: queue::Connection,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) availability: Arc<Availability>,
    /// Woken when a publish finds no stream.
    pub(crate) missing_stream: Arc<Notify>,
}

/// One partition's publisher.
pub(crate) struct Publisher {
    pub(crate) partition: PartitionId,
    pub(crate) context: PublisherContext,
    /// `BATCH_CLAIMS_MAX`.
    pub(crate) claims_max: usize,
    /// `BATCH_BYTES_MAX`.
    pub(crate) bytes_max: usize,
}

impl Publisher {
    /// Publishes what arrives until `stop`, and then what has arrived.
    pub(crate) async fn run(self, mut claims: Receiver<Waiter>, stop: CancellationToken) {
        let mut waiting = VecDeque::new();
        let mut arrived = Vec::new();
        let mut latest_batch_len = 0_usize;
        loop {
            if waiting.is_empty() {
                let received =
                    stop.run_until_cancelled(claims.recv_many(&mut arrived, self.claims_max)).await;
                if received.is_none() {
                    claims.close();
                }
                let is_over = received == Some(0)
                    || received.is_none() && claims.recv_many(&mut arrived, self.claims_max).await == 0;
                if is_over {
                    return;
                }
            }
            waiting.extend(arrived.drain(..));
            let permit = claims.batch_permit(latest_batch_len.saturating_sub(waiting.len())).await;
            while waiting.len() < self.claims_max
                && let Some(waiter) = claims.try_recv()
            {
                waiting.push_back(waiter);
            }
            let before = waiting.len();
            self.publish_next(&mut waiting, permit).await;
            latest_batch_len = before - waiting.len();
        }
    }

    /// Publishes the first of what is waiting as one message, and waits for its acknowledgement.
    async fn publish_next(&self, waiting: &mut VecDeque<Waiter>, permit: Option<BatchPermit>) {
        let PublisherContext { connection, inbox, availability, missing_stream } = &self.context;
        if let Err(reason) = availability.check() {
            answer_all(waiting.drain(..), Answer::Unavailable(reason));
            return;
        }
        let (writer, batch) = self.gather(waiting);
        if batch.is_empty() {
            return;
        }
        let (batch_id, payload) = writer.finish();
        let (number, acknowledged) = inbox.register(self.partition, batch_id, batch, permit);
        let mut headers = HeaderMap::new();
        headers.insert(REPLY_HEADER, inbox.reply_subject(number));
        let published = connection.client.publish_with_reply_and_headers(
            stream::subject(self.partition),
            inbox.acknowledgement_subject(number),
            headers,
            payload.into(),
        );
        if let Err(error) = published.await {
            tracing::warn!(partition = %self.partition, %error, "batch not published");
            answer_all(inbox.withdraw(number), Answer::Unavailable(Unavailable::QueueUnavailable));
            return;
        }
        let acknowledged = tokio::select! {
            acknowledged = tokio::time::timeout(ACK_TIMEOUT, acknowledged) => acknowledged,
            // Whether the batch was stored is unknown: it is looked up.
            () = availability.nats_lost() => return,
        };
        match acknowledged {
            Ok(Ok(PublishResult::Refused(Unavailable::QueueUnavailable))) => missing_stream.notify_one(),
            // Stored, or refused and told so; or answered already, or on its way to be looked up.
            Ok(_) => {}
            Err(_) => tracing::warn!(partition = %self.partition, "no acknowledgement in time"),
        }
    }

    /// Takes from the front what fits into one message. Claims that have waited until their deadline are told that
    /// they were not accepted.
    fn gather(&self, waiting: &mut VecDeque<Waiter>) -> (BatchWriter, Vec<Waiter>) {
        let server_max = self.context.connection.client.max_payload().saturating_sub(MESSAGE_OVERHEAD_BYTES);
        let bytes_max = self.bytes_max.min(server_max.max(MESSAGE_OVERHEAD_BYTES));
        let count = waiting.len().min(self.claims_max);
        let mut writer = BatchWriter::new((count * COMMAND_BYTES_TYPICAL).min(bytes_max));
        let mut batch = Vec::with_capacity(count);
        let now = Instant::now();
        while batch.len() < self.claims_max
            && let Some(waiter) = waiting.pop_front()
        {
            if waiter.deadline <= now {
                waiter.answer(Answer::Unavailable(Unavailable::Overloaded));
                continue;
            }
            if !writer.push(&Command::Claim(&*waiter.claim), bytes_max) {
                waiting.push_front(waiter);
                break;
            }
            batch.push(waiter);
        }
        (writer, batch)
    }
}
