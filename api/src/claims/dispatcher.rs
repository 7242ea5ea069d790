//! From requests to messages: one task per partition, which publishes what waits as one message.
//!
//! While a batch is under way the next claims gather: an idle system sends batches of one at once, a
//! loaded one sends batches of hundreds. What a batch costs, a write to disk on either side and a
//! handful of messages, is nearly the same however many claims it holds. So a partition has one or two
//! under way ([`crate::claims::pacing`]), and all of them together a few: where many partitions are busy, they
//! take turns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use common::message::{BatchWriter, Claim, Command, REPLY_HEADER};
use common::partition::PartitionId;
use common::{queue, stream};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::claims::inbox::{Answer, Inbox, Published, Slot, Waiter};
use crate::claims::pacing::{self, Arrivals, Entrance};
use crate::claims::refusals::Desk;
use crate::claims::resolve::answer_all;
use crate::config::Limits;
use crate::health::Health;
use crate::http::problem::Unavailable;

/// How long the acknowledgement of a publish holds up the next one. The batch goes on waiting for
/// its outcome after that.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long claims gather at most while earlier batches wait for their replies, and how long a batch
/// makes other partitions wait. Workers that are slow or away do not keep claims from being stored.
pub(crate) const GATHER_MAX: Duration = Duration::from_millis(20);

/// About how long one command is, to size a message's buffer.
const COMMAND_BYTES_TYPICAL: usize = 160;

/// Room for the server's own limit on a message: subject, headers and protocol.
const MESSAGE_OVERHEAD_BYTES: usize = 1_024;

/// The ways into all partitions' lanes.
#[derive(Clone)]
pub(crate) struct Lanes(Arc<[Entrance<Waiter>]>);

impl Lanes {
    /// Queues a claim in its partition; tells it if there is no room.
    pub(crate) fn send(&self, waiter: Waiter) {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let partition = PartitionId::of(&waiter.claim.coupon_name, count);
        if let Err(refused) = self.0[partition.index()].try_send(waiter) {
            refused.into_inner().answer(Answer::Unavailable(Unavailable::Overloaded));
        }
    }
}

/// Takes claims in and sees them answered.
pub(crate) struct Dispatcher {
    lanes: Lanes,
    desk: Desk,
    in_flight: Arc<Semaphore>,
    health: Arc<Health>,
    claim_timeout: Duration,
    stopping: CancellationToken,
}

impl Dispatcher {
    /// Starts a task per partition; they end once the dispatcher is dropped, and all ways into them.
    pub(crate) fn start(
        limits: &Limits,
        partitions: u32,
        parts: &Parts,
        desk: Desk,
        stopping: CancellationToken,
    ) -> (Self, JoinSet<()>) {
        let mut tasks = JoinSet::new();
        let in_flight = Arc::new(Semaphore::new(limits.batches_in_flight));
        let entrances = (0..partitions)
            .map(|number| {
                // As wide as all claims in flight: the semaphore is what bounds them.
                let (entrance, arrivals) = pacing::channel(limits.in_flight_claims_max);
                let lane = Lane {
                    partition: PartitionId::new(number),
                    parts: parts.clone(),
                    claims_max: limits.batch_claims_max,
                    bytes_max: limits.batch_bytes_max,
                    in_flight: in_flight.clone(),
                };
                tasks.spawn(lane.run(arrivals));
                entrance
            })
            .collect();
        let dispatcher = Self {
            lanes: Lanes(entrances),
            desk,
            in_flight: Arc::new(Semaphore::new(limits.in_flight_claims_max)),
            health: parts.health.clone(),
            claim_timeout: limits.claim_timeout,
            stopping,
        };
        (dispatcher, tasks)
    }

    /// The ways into the lanes.
    pub(crate) fn lanes(&self) -> Lanes {
        self.lanes.clone()
    }

    /// Takes a claim and waits for what becomes of it, for about `CLAIM_TIMEOUT_MS`.
    pub(crate) async fn claim(&self, claim: &Arc<Claim>) -> Answer {
        let answer = match self.submit(claim.clone()) {
            // A dropped sender is a task that died: then nothing is known.
            Ok(answer) => answer.await.unwrap_or(Answer::Unavailable(Unavailable::OutcomeUnknown)),
            Err(reason) => Answer::Unavailable(reason),
        };
        if let Answer::Outcome(outcome) = answer {
            self.desk.hear(&claim.coupon_name, outcome);
        }
        answer
    }

    fn submit(&self, claim: Arc<Claim>) -> Result<oneshot::Receiver<Answer>, Unavailable> {
        self.health.check()?;
        if self.stopping.is_cancelled() {
            return Err(Unavailable::Stopping);
        }
        let permit = self.in_flight.clone().try_acquire_owned().map_err(|_| Unavailable::Overloaded)?;
        let (waiter, answer) = Waiter::new(claim, Instant::now() + self.claim_timeout, permit);
        if let Err(waiter) = self.desk.take(waiter) {
            self.lanes.send(waiter);
        }
        Ok(answer)
    }
}

/// What all lanes share.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) queue: queue::Connection,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) health: Arc<Health>,
    /// Woken when a publish finds no stream.
    pub(crate) missing_stream: Arc<Notify>,
}

/// One partition's publisher.
struct Lane {
    partition: PartitionId,
    parts: Parts,
    claims_max: usize,
    bytes_max: usize,
    /// All partitions' batches under way.
    in_flight: Arc<Semaphore>,
}

impl Lane {
    async fn run(self, mut claims: Arrivals<Waiter>) {
        let mut waiting = VecDeque::new();
        let mut arrived = Vec::new();
        let mut latest = 0;
        loop {
            if waiting.is_empty() && claims.recv_many(&mut arrived, self.claims_max).await == 0 {
                return;
            }
            waiting.extend(arrived.drain(..));
            let slot = self.slot(&claims, usize::saturating_sub(latest, waiting.len()));
            let slot = tokio::time::timeout(GATHER_MAX, slot).await.ok();
            while waiting.len() < self.claims_max
                && let Some(waiter) = claims.try_recv()
            {
                waiting.push_back(waiter);
            }
            let before = waiting.len();
            self.publish_next(&mut waiting, slot).await;
            latest = before - waiting.len();
        }
    }

    /// Waits for this partition's turn, which comes sooner with `enough` claims in its channel, and then
    /// for room among all partitions. One that gets no replies has no turn left, and asks for no room.
    async fn slot(&self, claims: &Arrivals<Waiter>, enough: usize) -> Slot {
        let turn = claims.turn(enough).await;
        let room = self.in_flight.clone().acquire_owned().await.expect("never closed");
        Slot { turn, room: Some(room) }
    }

    /// Publishes the first of what is waiting as one message, and waits for its acknowledgement.
    async fn publish_next(&self, waiting: &mut VecDeque<Waiter>, slot: Option<Slot>) {
        if let Err(reason) = self.parts.health.check() {
            answer_all(waiting.drain(..), Answer::Unavailable(reason));
            return;
        }
        let (writer, batch) = self.gather(waiting);
        if batch.is_empty() {
            return;
        }
        let (batch_id, payload) = writer.finish();
        let inbox = &self.parts.inbox;
        let cursor = self.parts.health.cursor(self.partition);
        let (number, acknowledged) = inbox.register(self.partition, cursor, batch_id, batch, slot);
        let mut headers = HeaderMap::new();
        headers.insert(REPLY_HEADER, inbox.reply_subject(number));
        let published = self.parts.queue.client.publish_with_reply_and_headers(
            stream::subject(self.partition),
            inbox.ack_subject(number),
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
            () = self.parts.health.nats_lost() => return,
        };
        match acknowledged {
            Ok(Ok(Published::Refused(Unavailable::QueueUnavailable))) => {
                self.parts.missing_stream.notify_one();
            }
            // Stored, or refused and told so; or answered already, or on its way to be looked up.
            Ok(_) => {}
            Err(_) => tracing::warn!(partition = %self.partition, "no acknowledgement in time"),
        }
    }

    /// Takes from the front what fits into one message. Claims that have waited until their
    /// deadline are told that they were not accepted.
    fn gather(&self, waiting: &mut VecDeque<Waiter>) -> (BatchWriter, Vec<Waiter>) {
        let server_max = self.parts.queue.client.max_payload().saturating_sub(MESSAGE_OVERHEAD_BYTES);
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
