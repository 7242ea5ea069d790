//! Applies the messages of one transaction, with two statements however many claims and coupons they hold: look up,
//! decide, write. If the stock cache knows enough, with one: decide, write.

use std::time::Duration;

use common::message::{BatchOutcomes, Claim, Command, Outcome, ReceivedBatch, VERSION};
use common::partition::PartitionId;
use common::queue;
use sqlx::Result;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::fence::{CursorMove, Written};
use crate::message::Message;
use crate::plan::BatchClaims;
use crate::refused;
use crate::sessions::Session;
use crate::stock_cache::StockCache;
use crate::store::{self, DeadLetter, PartitionRow};

/// Why the rules reject a claim.
const NO_POSITION_LEFT: &str =
    "its coupon has no position left: a claim with the highest one was written by hand";

/// The messages of one transaction and, once committed, their outcomes.
#[derive(Debug)]
pub(crate) struct BatchApply {
    cursor: CursorMove,
    messages: Vec<Message>,
    outcomes: Vec<Outcome>,
}

impl BatchApply {
    /// To apply `messages`, which directly follow the cursor of `row`, as its owner.
    pub(crate) fn new(
        partition: PartitionId,
        owner: Uuid,
        row: &PartitionRow,
        messages: Vec<Message>,
        lease: Duration,
    ) -> Self {
        let last = messages.last().expect("there is a message");
        let cursor = CursorMove {
            partition,
            owner,
            lease_epoch: row.lease_epoch,
            generation: row.generation,
            last_seq: row.last_seq,
            new_seq: last.sequence,
            new_batch_id: last.identity,
            new_time_ns: last.stored_ns,
            lease,
        };
        Self { cursor, messages, outcomes: Vec::new() }
    }

    /// Applies all messages. After an error, whether they were committed is unknown.
    pub(crate) async fn apply(&mut self, session: &mut Session, cache: &mut StockCache) -> Result<Written> {
        let connection = &mut session.connection;
        cache.use_server(session.server_started_us);
        self.keep_dead_letters(connection).await?;
        let claims = BatchClaims::of(self.claims());
        if let Some(mut coupons) = cache.get(&claims.coupon_names) {
            claims.look_up_missing(connection, &mut coupons).await?;
            let mut plan = claims.plan(&coupons, &vec![None; claims.len()]);
            // The write proves winners, but not refusals: a user who finds nothing left may have won earlier.
            if !plan.outcomes.iter().any(|outcome| matches!(outcome, Outcome::SoldOut | Outcome::Rejected)) {
                let outcomes = std::mem::take(&mut plan.outcomes);
                let written = plan.write(connection, &self.cursor, cache).await?;
                tracing::debug!(partition = %self.cursor.partition, ?written, "written without a look-up");
                if written != Written::Overtaken {
                    self.outcomes = outcomes;
                    return Ok(written);
                }
                cache.clear();
            }
        }
        self.look_up_and_write(connection, &[], cache).await
    }

    /// Applies all messages but for the claims that Postgres refuses: those are kept as dead letters, and told so.
    pub(crate) async fn apply_what_is_accepted(
        &mut self,
        session: &mut Session,
        cache: &mut StockCache,
    ) -> Result<Written> {
        let connection = &mut session.connection;
        cache.use_server(session.server_started_us);
        self.keep_dead_letters(connection).await?;
        let refusals = refused::find(connection, &self.cursor, &self.claims()).await?;
        self.look_up_and_write(connection, &refusals, cache).await
    }

    /// Applies the claims that have none of `refusals`.
    async fn look_up_and_write(
        &mut self,
        connection: &mut PgConnection,
        refusals: &[Option<String>],
        cache: &mut StockCache,
    ) -> Result<Written> {
        let all = self.claims();
        let is_refused = |index: usize| refusals.get(index).is_some_and(Option::is_some);
        let accepted = (0..all.len()).filter(|&index| !is_refused(index)).map(|index| all[index]);
        let claims = BatchClaims::of(accepted.collect());
        let snapshot = claims.look_up(connection).await?;
        cache.observe(&snapshot);
        let plan = claims.plan(&snapshot.coupons, &snapshot.taken);
        let mut decided = plan.outcomes.iter().copied();
        let outcomes = (0..all.len()).map(|index| match is_refused(index) {
            true => Outcome::Rejected,
            false => decided.next().expect("every accepted claim was decided"),
        });
        let outcomes: Vec<Outcome> = outcomes.collect();
        self.keep_rejected(connection, &outcomes, refusals).await?;
        let written = plan.write(connection, &self.cursor, cache).await?;
        self.outcomes = outcomes;
        Ok(written)
    }

    fn claims(&self) -> Vec<&Claim> {
        let batches = self.messages.iter().filter_map(|message| message.batch.as_ref());
        batches.flat_map(ReceivedBatch::claims).collect()
    }

    /// Keeps what is not understood, before the cursor passes it.
    async fn keep_dead_letters(&self, connection: &mut PgConnection) -> Result<()> {
        let letters: Vec<DeadLetter<'_>> = self.messages.iter().filter_map(Message::dead_letter).collect();
        self.keep(connection, &letters).await
    }

    /// Keeps the claims that are rejected, before the cursor passes them.
    async fn keep_rejected(
        &self,
        connection: &mut PgConnection,
        outcomes: &[Outcome],
        refusals: &[Option<String>],
    ) -> Result<()> {
        if !outcomes.contains(&Outcome::Rejected) {
            return Ok(());
        }
        let claims = self.messages.iter().flat_map(|message| {
            let commands = message.batch.iter().flat_map(|batch| batch.commands.iter().zip(1..));
            let understood = commands.filter_map(|(command, place)| Some((place, command.as_ref().ok()?)));
            understood.map(|(place, command)| (message.sequence, place, command))
        });
        let rejected: Vec<(i64, i32, &str, Vec<u8>)> = claims
            .enumerate()
            .filter(|(index, _)| outcomes[*index] == Outcome::Rejected)
            .map(|(index, (sequence, place, command))| {
                let reason = refusals.get(index).and_then(Option::as_deref).unwrap_or(NO_POSITION_LEFT);
                (sequence, place, reason, serde_json::to_vec(command).expect("a command is plain JSON"))
            })
            .collect();
        let letters = rejected.iter().map(|(sequence, place, reason, payload)| DeadLetter {
            sequence: *sequence,
            place: *place,
            reason,
            payload,
        });
        self.keep(connection, &letters.collect::<Vec<_>>()).await
    }

    async fn keep(&self, connection: &mut PgConnection, letters: &[DeadLetter<'_>]) -> Result<()> {
        let partition = self.cursor.partition;
        for DeadLetter { sequence, place, reason, .. } in letters {
            tracing::error!(%partition, sequence, place, reason, "dead letter");
        }
        if letters.is_empty() {
            return Ok(());
        }
        store::insert_dead_letters(connection, &self.cursor, letters).await
    }

    /// The last message's sequence number.
    pub(crate) fn last_sequence(&self) -> i64 {
        self.cursor.new_seq
    }

    /// Moves the cursor of `row` to where the commit has moved it.
    pub(crate) fn advance(&self, row: &mut PartitionRow) {
        row.last_seq = self.cursor.new_seq;
        row.last_batch_id = Some(self.cursor.new_batch_id);
        row.last_time_ns = row.last_time_ns.max(Some(self.cursor.new_time_ns));
    }

    /// Sends each message's outcomes to the inbox that it names. To be called after the commit.
    pub(crate) async fn reply(&self, queue: &queue::Connection) {
        if !queue.link.borrow().up {
            // The APIs have noticed as well and look their claims up.
            return;
        }
        let mut decided = self.outcomes.iter().copied();
        for message in &self.messages {
            let Some(batch) = &message.batch else { continue };
            let outcome = |command: &Result<Command, _>| match command {
                Ok(Command::Claim(_)) => decided.next().expect("every claim was decided"),
                Err(_) => Outcome::Unsupported,
            };
            let outcomes = batch.commands.iter().map(outcome).collect();
            let Some(subject) = message.reply_to.clone() else { continue };
            let reply = BatchOutcomes { version: VERSION, batch_id: batch.batch_id, outcomes };
            let payload = serde_json::to_vec(&reply).expect("outcomes are plain JSON");
            if let Err(error) = queue.client.publish(subject, payload.into()).await {
                tracing::warn!(partition = %self.cursor.partition, %error, "reply not sent; the API will look it up");
            }
        }
    }
}
