//! The lease protocol on a real database, against a model of it: whatever three workers do in
//! whatever order (take, renew, pause within a transaction, commit, crash, release, run out of
//! time), no two commits ever start from the same cursor.

use std::time::Duration;

use common::partition::PartitionId;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use uuid::Uuid;
use worker::config::LEASE_MS_MAX;
use worker::fence::{Changes, CursorMove, Written, commit_behind_fence};
use worker::{lease_store, store};

use crate::harness::{Database, run};

const WORKERS: usize = 3;
const PARTITION: PartitionId = PartitionId::new(0);

/// Does not run out by itself in the time of a test: only [`Step::TimePasses`] ends a lease.
const LEASE: Duration = Duration::from_millis(LEASE_MS_MAX);

/// What a worker that has to wait for another one's lock waits.
const LOCK_TIMEOUT_MS: u32 = 20;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// All leases run out, but for one that a transaction holds.
    TimePasses,
    Take(usize),
    Renew(usize),
    /// Passes the fence and pauses before COMMIT.
    Begin(usize),
    /// A failover that lost the commit by which the owner took the partition: another worker takes it with the same
    /// epoch.
    Repeat(usize),
    Commit(usize),
    /// Rolls back what is open and forgets everything.
    Crash(usize),
    Release(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let worker = 0..WORKERS;
    let step = prop_oneof![
        2 => Just(Step::TimePasses),
        3 => worker.clone().prop_map(Step::Take),
        1 => worker.clone().prop_map(Step::Renew),
        4 => worker.clone().prop_map(Step::Begin),
        4 => worker.clone().prop_map(Step::Commit),
        1 => worker.clone().prop_map(Step::Repeat),
        1 => worker.clone().prop_map(Step::Crash),
        1 => worker.prop_map(Step::Release),
    ];
    prop::collection::vec(step, 1..40)
}

/// The partition's row, as it should be.
#[derive(Debug, Default)]
struct Model {
    owner: Option<usize>,
    epoch: i64,
    free: bool,
    cursor: i64,
    /// Whose open transaction holds the row.
    held: Option<usize>,
}

/// A worker, and what it believes.
struct Actor {
    id: Uuid,
    leases: PgConnection,
    claims: PgConnection,
    /// Epoch and cursor, from when it took the partition and from its own commits since.
    believes: Option<(i64, i64)>,
    open: bool,
}

impl Actor {
    async fn connect(options: &PgConnectOptions) -> Self {
        let patient = options.clone().options([("lock_timeout", LOCK_TIMEOUT_MS.to_string())]);
        Self {
            id: Uuid::new_v4(),
            leases: options.connect().await.unwrap(),
            claims: patient.connect().await.unwrap(),
            believes: None,
            open: false,
        }
    }

    async fn roll_back(&mut self) {
        if std::mem::take(&mut self.open) {
            sqlx::raw_sql("ROLLBACK").execute(&mut self.claims).await.unwrap();
        }
    }

    /// Begins a batch of one message. Returns whether the fence let it through.
    async fn begin(&mut self) -> bool {
        let (epoch, cursor) = self.believes.unwrap();
        let fence = CursorMove {
            partition: PARTITION,
            owner: self.id,
            lease_epoch: epoch,
            generation: 0,
            last_seq: cursor,
            new_seq: cursor + 1,
            new_batch_id: Uuid::new_v4(),
            new_time_ns: 0,
            lease: LEASE,
        };
        sqlx::raw_sql("BEGIN").execute(&mut self.claims).await.unwrap();
        self.open = true;
        let written = commit_behind_fence(&mut self.claims, &fence, &Changes::default()).await;
        let passed = matches!(written, Ok(Written::Committed { .. }));
        if !passed {
            self.roll_back().await;
        }
        passed
    }
}

async fn step(step: Step, actors: &mut [Actor], model: &mut Model, commits: &mut Vec<i64>) {
    match step {
        Step::TimePasses => {
            let expire = "UPDATE partitions SET lease_until = '-infinity'
                          WHERE id IN (SELECT id FROM partitions FOR UPDATE SKIP LOCKED)";
            sqlx::query(expire).execute(&mut actors[0].leases).await.unwrap();
            model.free |= model.held.is_none();
        }
        Step::Take(who) => {
            let actor = &mut actors[who];
            let taken = lease_store::acquire(&mut actor.leases, actor.id, &[PARTITION.as_i32()], 1, LEASE)
                .await
                .unwrap();
            if model.free && model.held.is_none() {
                model.epoch += 1;
                (model.owner, model.free) = (Some(who), false);
                assert_eq!(taken, [(PARTITION.as_i32(), model.epoch)]);
                let row = store::partition(&mut actor.leases, PARTITION).await.unwrap();
                assert_eq!(row.last_seq, model.cursor);
                actor.roll_back().await;
                actor.believes = Some((row.lease_epoch, row.last_seq));
            } else {
                assert_eq!(taken, [], "a lease that has not run out, or is held, was taken");
            }
        }
        Step::Renew(who) => {
            let actor = &mut actors[who];
            lease_store::heartbeat(&mut actor.leases, actor.id, &[PARTITION.as_i32()], LEASE).await.unwrap();
            if model.owner == Some(who) && model.held.is_none() {
                model.free = false;
            }
        }
        Step::Begin(who) => {
            let actor = &mut actors[who];
            let Some((epoch, cursor)) = actor.believes.filter(|_| !actor.open) else { return };
            let owns = model.owner == Some(who);
            let expected = owns && model.held.is_none() && (epoch, cursor) == (model.epoch, model.cursor);
            assert_eq!(actor.begin().await, expected, "the fence");
            if expected {
                model.held = Some(who);
            }
        }
        Step::Commit(who) => {
            let actor = &mut actors[who];
            if !std::mem::take(&mut actor.open) {
                return;
            }
            sqlx::raw_sql("COMMIT").execute(&mut actor.claims).await.unwrap();
            let (_, cursor) = actor.believes.as_mut().unwrap();
            commits.push(*cursor);
            *cursor += 1;
            model.cursor += 1;
            (model.held, model.free) = (None, false);
        }
        Step::Repeat(who) => {
            let actor = &mut actors[who];
            if model.owner.is_none_or(|owner| owner == who) || model.held.is_some() {
                return;
            }
            actor.roll_back().await;
            sqlx::query("UPDATE partitions SET owner = $1")
                .bind(actor.id)
                .execute(&mut actor.leases)
                .await
                .unwrap();
            model.owner = Some(who);
            actor.believes = Some((model.epoch, model.cursor));
        }
        Step::Crash(who) => {
            let actor = &mut actors[who];
            if actor.open {
                model.held = None;
            }
            actor.roll_back().await;
            actor.believes = None;
        }
        Step::Release(who) => {
            let actor = &mut actors[who];
            let Some((epoch, _)) = actor.believes.filter(|_| model.held.is_none()) else { return };
            lease_store::release(&mut actor.leases, PARTITION, actor.id, epoch).await.unwrap();
            if model.owner == Some(who) && epoch == model.epoch {
                (model.owner, model.free) = (None, true);
            }
            actor.believes = None;
        }
    }
}

#[test]
fn no_two_commits_start_from_the_same_cursor() {
    run(async {
        let database = Database::shared().await;
        let options: PgConnectOptions = database.url.parse().unwrap();
        let pool = common::database::connect(options.clone(), 2, "leases").await.unwrap();
        common::database::partitions(&pool, Some(1)).await.unwrap();
        let mut actors = Vec::new();
        for _ in 0..WORKERS {
            actors.push(Actor::connect(&options).await);
        }
        let mut runner =
            TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
        let handle = tokio::runtime::Handle::current();
        // The steps are asynchronous and proptest is not: it gets this thread, they get the runtime.
        tokio::task::block_in_place(|| {
            let actors = std::cell::RefCell::new(actors);
            let tested = runner.run(&steps(), |steps| {
                handle.block_on(one_history(&steps, &mut actors.borrow_mut(), &pool));
                Ok(())
            });
            tested.unwrap();
        });
        pool.close().await;
        database.drop().await;
    });
}

async fn one_history(steps: &[Step], actors: &mut [Actor], pool: &sqlx::PgPool) {
    for actor in actors.iter_mut() {
        actor.roll_back().await;
        actor.believes = None;
    }
    let fresh = "UPDATE partitions SET owner = NULL, epoch = 0, lease_until = '-infinity', last_seq = 0";
    sqlx::query(fresh).execute(pool).await.unwrap();
    let mut model = Model { free: true, ..Model::default() };
    let mut commits = Vec::new();
    for one in steps {
        step(*one, actors, &mut model, &mut commits).await;
    }
    let expected: Vec<i64> = (0..model.cursor).collect();
    assert_eq!(commits, expected, "every cursor is committed from once, in order");
    for actor in actors.iter_mut() {
        actor.leases.ping().await.unwrap();
        actor.roll_back().await;
    }
    let row = store::partition(&mut actors[0].leases, PARTITION).await.unwrap();
    assert_eq!((row.lease_epoch, row.last_seq), (model.epoch, model.cursor));
}
