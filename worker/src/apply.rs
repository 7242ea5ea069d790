//! Applies the messages of one transaction, with two statements however many claims and coupons they hold: look up,
//! decide, write. If the stock cache knows enough, with one: decide, write.

use std::time::Duration;

use common::message::{BatchOutcomes, Claim, Command, Outcome, ReceivedBatch, VERSION};
use common::partition::PartitionId;
use common::queue;
use sqlx::Result;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::fence::{self, Changes, CursorMove, Written};
use crate::message::Message;
use crate::refused;
use crate::rules::{self, Request, Stock, Taken};
use crate::sessions::Session;
use crate::stock_cache::StockCache;
use crate::store::{self, Coupon, DeadLetter, PartitionRow, Snapshot};

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
            let mut plan = claims.plan(&coupons, &vec![None; claims.claims.len()]);
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
        let CursorMove { partition, generation, .. } = self.cursor;
        for DeadLetter { sequence, place, reason, .. } in letters {
            tracing::error!(%partition, sequence, place, reason, "dead letter");
        }
        if letters.is_empty() {
            return Ok(());
        }
        store::insert_dead_letters(connection, partition, generation, letters).await
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

/// Claims in their order, and the coupons that they are about.
pub(crate) struct BatchClaims<'a> {
    claims: Vec<&'a Claim>,
    /// Each coupon once, in the order of the names.
    coupon_names: Vec<&'a str>,
}

impl<'a> BatchClaims<'a> {
    pub(crate) fn of(claims: Vec<&'a Claim>) -> Self {
        let mut coupon_names: Vec<&str> = claims.iter().map(|claim| claim.coupon_name.as_str()).collect();
        coupon_names.sort_unstable();
        coupon_names.dedup();
        Self { claims, coupon_names }
    }

    /// Reads those of `coupons` that are not known.
    async fn look_up_missing(
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
    async fn look_up(&self, connection: &mut PgConnection) -> Result<Snapshot> {
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

    /// Decides all claims, given the coupons and what the users have of them.
    fn plan(&self, coupons: &[Option<Coupon>], taken: &[Option<Taken>]) -> Plan<'a> {
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
struct Plan<'a> {
    outcomes: Vec<Outcome>,
    changes: Changes<'a>,
    /// The stocks that the changes leave, one for each of their coupons.
    after: Vec<Stock>,
}

impl Plan<'_> {
    /// Writes it and, if it was committed, puts the coupons into the cache.
    async fn write(
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
