//! Which partitions this worker owns: heartbeat, fair shares, hand-over.
//!
//! A lease is a row in Postgres, and only Postgres' clock counts. A worker that does not notice that it has lost a
//! lease does no harm: the fence of every write names owner and epoch. What happens here only decides how soon a
//! partition finds a worker.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::backoff::Backoff;
use common::partition::PartitionId;
use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::context::Worker;
use crate::lease_store::{self, Lease};
use crate::partition::{End, Partition};
use crate::sessions::Sessions;
use crate::share;
use crate::store::in_time;

/// Heartbeats per lease time.
const HEARTBEATS_PER_LEASE: u32 = 8;

/// How long a connection to Postgres may take to open: as long as a lease, within these limits. It takes a second
/// where Postgres is far away; after a network failure, a new attempt succeeds sooner than one that is under way.
const CONNECT_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3);

/// Postgres may take this part of a lease for one answer: a connection that hangs must not cost all leases. (Not for a
/// whole heartbeat: on a new connection that is a dozen round trips, which take longer where Postgres is far away.)
const ANSWERS_PER_LEASE: u32 = 3;

/// A partition's running loop.
struct Running {
    lease_epoch: i64,
    stop: CancellationToken,
}

/// Runs a worker's partitions.
pub(crate) struct Manager {
    worker: Arc<Worker>,
    /// Only this task touches it; any error or time-out ends it.
    connection: Option<PgConnection>,
    /// The sessions that apply claims.
    sessions: Arc<Sessions>,
    running: HashMap<PartitionId, Running>,
    loops: JoinSet<(PartitionId, End)>,
    /// Whether Postgres answered the last heartbeat: only changes are logged.
    healthy: bool,
    /// Since when NATS has been away.
    queue_lost: Option<Instant>,
    /// Nothing is acquired earlier: after an outage, the other workers need a moment to renew their leases.
    acquire_from: Instant,
}

impl Manager {
    /// A manager that owns nothing yet.
    pub(crate) fn new(worker: Worker) -> Self {
        let worker = Arc::new(worker);
        Self {
            sessions: Arc::new(Sessions::new(worker.clone())),
            worker,
            connection: None,
            running: HashMap::new(),
            loops: JoinSet::new(),
            healthy: true,
            queue_lost: None,
            acquire_from: Instant::now(),
        }
    }

    /// Keeps this worker's share of the partitions running until `stop`, then hands them over.
    ///
    /// # Errors
    /// When a partition's loop has panicked: the process should be started anew.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(worker = %self.worker.id, partitions = self.worker.partitions, "worker started");
        let changed = Arc::new(Notify::new());
        let mut listener = tokio::spawn(listen(self.worker.clone(), changed.clone()));
        let period = self.worker.config.lease / HEARTBEATS_PER_LEASE;
        let mut beat = tokio::time::interval(period);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let result = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                Some(ended) = self.loops.join_next() => match ended {
                    // The partition was handed over or lost: the next heartbeat decides what follows.
                    Ok((id, _)) => { self.running.remove(&id); }
                    Err(panic) => break Err(anyhow::anyhow!("a partition's loop has died: {panic}")),
                },
                listened = &mut listener => break Err(anyhow::anyhow!("the listener has died: {listened:?}")),
                _ = beat.tick() => {}
                () = changed.notified() => {}
            }
            self.beat(&stop).await;
        };
        listener.abort();
        self.stop().await;
        result
    }

    async fn beat(&mut self, stop: &CancellationToken) {
        let beaten = self.try_beat(stop).await;
        self.worker.health.postgres(beaten.is_ok());
        let Err(error) = beaten else {
            if !stop.is_cancelled() && !std::mem::replace(&mut self.healthy, true) {
                tracing::info!("Postgres answers again");
            }
            return;
        };
        self.connection = None;
        self.acquire_from = Instant::now() + 2 * self.worker.config.lease / HEARTBEATS_PER_LEASE;
        if std::mem::replace(&mut self.healthy, false) {
            tracing::warn!(%error, "no heartbeat; leases may run out");
        }
    }

    async fn try_beat(&mut self, stop: &CancellationToken) -> sqlx::Result<()> {
        let (id, lease) = (self.worker.id, self.worker.config.lease);
        let running: Vec<i32> = self.running.keys().map(|partition| partition.as_i32()).collect();
        let without_queue = self.is_without_queue();
        let limit = lease / ANSWERS_PER_LEASE;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let connect_limit = lease.clamp(*CONNECT_TIMEOUT.start(), *CONNECT_TIMEOUT.end());
                let opened = in_time(connect_limit, self.worker.database.connect());
                let Some(opened) = stop.run_until_cancelled(opened).await else { return Ok(()) };
                let mut connection = opened?;
                // Read first: a worker that Postgres answers too late must not count as living, and take a share
                // from the others.
                in_time(limit, lease_store::leases(&mut connection)).await?;
                if !without_queue {
                    // Now the others give a new worker its share at once.
                    in_time(limit, lease_store::heartbeat(&mut connection, id, &running, lease)).await?;
                    in_time(limit, lease_store::announce(&mut connection)).await?;
                }
                none.insert(connection)
            }
        };
        if stop.is_cancelled() {
            return Ok(());
        }
        if without_queue {
            // Others may still reach the queue. This worker does not count as living until it does again.
            for running in self.running.values() {
                running.stop.cancel();
            }
            return in_time(limit, lease_store::leave(connection, id)).await;
        }
        in_time(limit, lease_store::heartbeat(connection, id, &running, lease)).await?;
        let (living, leases) = in_time(limit, lease_store::leases(connection)).await?;
        let share = share::of(id, &living, leases.len());
        let wanted = self.review(&leases, share);
        let active = self.running.values().filter(|running| !running.stop.is_cancelled()).count();
        let missing = share.saturating_sub(active);
        let may_acquire = Instant::now() >= self.acquire_from && !stop.is_cancelled();
        if missing == 0 || wanted.is_empty() || !may_acquire {
            return Ok(());
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let acquired = in_time(limit, lease_store::acquire(connection, id, &wanted, missing, lease)).await?;
        for (number, lease_epoch) in acquired {
            self.start(PartitionId::new(number.unsigned_abs()), lease_epoch);
        }
        Ok(())
    }

    /// Stops loops whose partition another worker has taken, and those beyond our share. Returns the partitions that are
    /// free.
    fn review(&mut self, leases: &[Lease], share: usize) -> Vec<i32> {
        let mut free = Vec::new();
        for lease in leases {
            match self.running.get(&PartitionId::new(lease.id.unsigned_abs())) {
                Some(running) if !owns(self.worker.id, running, lease) => running.stop.cancel(),
                Some(_) => {}
                None if lease.free => free.push(lease.id),
                None => {}
            }
        }
        let mut ids: Vec<_> = self.running.keys().copied().collect();
        ids.sort_unstable();
        for id in ids.iter().skip(share) {
            self.running[id].stop.cancel();
        }
        free
    }

    fn start(&mut self, id: PartitionId, lease_epoch: i64) {
        let stop = CancellationToken::new();
        self.running.insert(id, Running { lease_epoch, stop: stop.clone() });
        let partition = Partition::new(self.worker.clone(), self.sessions.clone(), id, lease_epoch);
        self.loops.spawn(async move { (id, partition.run(stop).await) });
    }

    /// Whether NATS has been away for so long that the partitions are better off elsewhere.
    fn is_without_queue(&mut self) -> bool {
        let up = self.worker.queue.link.borrow().up;
        if up {
            if self.queue_lost.take().is_some_and(|since| since.elapsed() > self.worker.config.lease) {
                tracing::info!("NATS is back: taking partitions again");
            }
            return false;
        }
        self.queue_lost.get_or_insert_with(Instant::now).elapsed() > self.worker.config.lease
    }

    async fn stop(mut self) {
        // Leave first, so that the others take each partition as soon as it is released.
        let id = self.worker.id;
        if let Some(connection) = &mut self.connection {
            let left = lease_store::leave(connection, id);
            if !matches!(tokio::time::timeout(self.worker.config.lease, left).await, Ok(Ok(()))) {
                tracing::warn!("Postgres does not know that this worker has left");
            }
        }
        for running in self.running.values() {
            running.stop.cancel();
        }
        let ended = async { while self.loops.join_next().await.is_some() {} };
        if tokio::time::timeout(self.worker.config.shutdown_timeout, ended).await.is_err() {
            tracing::warn!("batches in flight were not finished in time; their leases will run out");
        }
        if let Some(connection) = self.connection.take() {
            // Best effort: the server notices the closed socket as well.
            let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
        }
        tracing::info!(worker = %id, "worker stopped");
    }
}

fn owns(worker: Uuid, running: &Running, lease: &Lease) -> bool {
    lease.owner == Some(worker) && lease.lease_epoch == running.lease_epoch
}

/// Wakes the manager whenever another worker has released a partition, joined or left.
async fn listen(worker: Arc<Worker>, changed: Arc<Notify>) {
    let mut backoff = Backoff::for_server();
    loop {
        match try_listen(&worker, &changed, &mut backoff).await {
            Ok(never) => match never {},
            // The next heartbeat finds the changes as well, only later.
            Err(error) => tracing::debug!(%error, "not listening for changes of leases"),
        }
        backoff.wait().await;
    }
}

async fn try_listen(
    worker: &Worker,
    changed: &Notify,
    backoff: &mut Backoff,
) -> sqlx::Result<std::convert::Infallible> {
    let mut listener = PgListener::connect_with(&worker.pool).await?;
    listener.ignore_pool_close_event(true);
    listener.listen(lease_store::LEASES_CHANNEL).await?;
    backoff.reset();
    loop {
        listener.recv().await?;
        changed.notify_one();
    }
}
