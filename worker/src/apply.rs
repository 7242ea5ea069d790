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
use crate::rules::{self, Request, Stock, Taken};
use crate::sessions::Session;
use crate::stock_cache::StockCache;
use crate::store::{self, Coupon, DeadLetter, PartitionRow};

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
        let claims = BatchClaims::of(&self.messages);
        if let Some(mut coupons) = cache.get(&claims.coupon_names) {
            claims.look_up_missing(connection, &mut coupons).await?;
            let plan = claims.plan(&coupons, &vec![None; claims.claims.len()]);
            // The write proves winners, but not refusals: a user who finds nothing left may have won earlier.
            if !plan.outcomes.contains(&Outcome::SoldOut) {
                let (written, outcomes) = plan.write(connection, &self.cursor, cache).await?;
                tracing::debug!(partition = %self.cursor.partition, ?written, "written without a look-up");
                if written != Written::Overtaken {
                    self.outcomes = outcomes;
                    return Ok(written);
                }
                cache.clear();
            }
        }
        let (names, users) = claims.pairs();
        let snapshot = store::look_up(connection, &claims.coupon_names, &names, &users).await?;
        cache.observe(&snapshot);
        let plan = claims.plan(&snapshot.coupons, &snapshot.taken);
        let (written, outcomes) = plan.write(connection, &self.cursor, cache).await?;
        self.outcomes = outcomes;
        Ok(written)
    }

    /// Keeps what is not understood, before the cursor passes it.
    async fn keep_dead_letters(&self, connection: &mut PgConnection) -> Result<()> {
        let CursorMove { partition, generation, .. } = self.cursor;
        let letters: Vec<DeadLetter<'_>> = self.messages.iter().filter_map(Message::dead_letter).collect();
        for DeadLetter { sequence, reason, .. } in &letters {
            tracing::error!(%partition, sequence, reason, "dead letter");
        }
        if letters.is_empty() {
            return Ok(());
        }
        store::insert_dead_letters(connection, partition, generation, &letters).await
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

/// All claims of the messages, in their order, and the coupons that they are about.
struct BatchClaims<'a> {
    claims: Vec<&'a Claim>,
    /// Each coupon once, in the order of the names.
    coupon_names: Vec<&'a str>,
}

impl<'a> BatchClaims<'a> {
    fn of(messages: &'a [Message]) -> Self {
        let batches = messages.iter().filter_map(|message| message.batch.as_ref());
        let claims: Vec<&Claim> = batches.flat_map(ReceivedBatch::claims).collect();
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

    /// Each claim's coupon, and its user.
    fn pairs(&self) -> (Vec<&'a str>, Vec<&'a str>) {
        self.claims.iter().map(|claim| (claim.coupon_name.as_str(), claim.user_id.as_str())).unzip()
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
    /// Writes it and, if it was committed, puts the coupons into the cache. Returns the outcomes along.
    async fn write(
        self,
        connection: &mut PgConnection,
        cursor: &CursorMove,
        cache: &mut StockCache,
    ) -> Result<(Written, Vec<Outcome>)> {
        let written = fence::commit_behind_fence(connection, cursor, &self.changes).await?;
        if let Written::Committed { xmin } = written {
            for (name, stock) in self.changes.sold_names.into_iter().zip(self.after) {
                cache.put(name, Coupon { stock, xmin });
            }
        }
        Ok((written, self.outcomes))
    }
}
