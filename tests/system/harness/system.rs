//! A system for a test: a nats-server and a database of its own, and as many APIs and workers as it asks for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::config::Env;
use common::ids::CouponName;
use common::partition::PartitionId;
use futures::future::join_all;
use servers::stack::{self, NatsPasswords, NatsUser};
use servers::system::Part;
use servers::{Nats, Postgres};
use sqlx::PgPool;
use tempfile::TempDir;
use uuid::Uuid;
use worker::{Migration, Worker};

use super::database::{Database, own_postgres};
use super::http::Client;
use super::test::{RUNTIME, eventually, open_folder};

/// Partitions of every system that does not say otherwise: more than by default, so that there is
/// something to share.
pub(crate) const PARTITIONS: u32 = 8;

/// One coupon name for each of `count` partitions, in their order.
pub(crate) fn a_coupon_per_partition(count: u32) -> Vec<String> {
    let mut names = BTreeMap::new();
    for number in 0.. {
        let name = format!("coupon-{number}");
        names.entry(partition_of(&name, count).number()).or_insert(name);
        if names.len() == count as usize {
            break;
        }
    }
    names.into_values().collect()
}

/// The partition of a coupon.
pub(crate) fn partition_of(coupon: &str, count: u32) -> PartitionId {
    PartitionId::of(&CouponName::new(coupon).unwrap(), count)
}

/// What a system is to be made of.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    apis: usize,
    workers: usize,
    variables: Vec<(String, String)>,
    own_postgres: bool,
    roles: bool,
}

impl Setup {
    /// Servers and nothing else.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn apis(self, apis: usize) -> Self {
        Self { apis, ..self }
    }

    pub(crate) fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Sets a variable for all APIs and workers.
    pub(crate) fn env(mut self, variable: &str, value: impl ToString) -> Self {
        self.variables.push((variable.to_owned(), value.to_string()));
        self
    }

    /// A Postgres that may be killed.
    pub(crate) fn own_postgres(self) -> Self {
        Self { own_postgres: true, ..self }
    }

    /// A Postgres that may be killed, with a role for each program that may do what it needs, and no more.
    pub(crate) fn roles(self) -> Self {
        Self { roles: true, own_postgres: true, ..self }
    }

    pub(crate) async fn start(self) -> System {
        let folder = open_folder();
        let passwords = NatsPasswords::random();
        let options = stack::nats_options(folder.path(), &passwords).unwrap();
        let (nats, (postgres, database)) = tokio::join!(Nats::start(options), async {
            match self.own_postgres {
                true => {
                    let postgres = own_postgres(folder.path()).await;
                    let database = Database::create(&postgres).await;
                    (Some(postgres), database)
                }
                false => (None, Database::shared().await),
            }
        });
        let mut system = System {
            nats: nats.unwrap(),
            passwords,
            postgres,
            database,
            variables: self.variables,
            has_roles: false,
            apis: Vec::new(),
            workers: Vec::new(),
            folder,
        };
        if self.roles {
            system.migrate().await.unwrap();
            system.use_roles();
        }
        if self.apis > 0 && self.workers == 0 {
            system.create_streams().await;
        }
        for _ in 0..self.apis {
            system.add_api().await;
        }
        for _ in 0..self.workers {
            system.add_worker().await;
        }
        system
    }
}

/// An API or a worker of a test; a test that panics takes it along.
struct Running(Option<Part>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(part) = self.0.take() {
            RUNTIME.spawn(part.abort());
        }
    }
}

impl Running {
    async fn stop(mut self) {
        if let Some(part) = self.0.take() {
            part.stop().await.unwrap();
        }
    }
}

/// A running system.
pub(crate) struct System {
    pub(crate) nats: Nats,
    pub(crate) passwords: NatsPasswords,
    /// Only if it asked for its own.
    pub(crate) postgres: Option<Postgres>,
    database: Database,
    variables: Vec<(String, String)>,
    has_roles: bool,
    apis: Vec<(Running, Client)>,
    workers: Vec<(Running, Uuid)>,
    folder: TempDir,
}

impl System {
    /// One API, one worker, everything else as it comes.
    pub(crate) async fn start() -> Self {
        Setup::new().apis(1).workers(1).start().await
    }

    /// The variables of an API's or a worker's process.
    pub(crate) fn variables(&self, user: NatsUser) -> Vec<(String, String)> {
        let own = [
            ("DATABASE_URL", self.database_url(user)),
            ("NATS_URL", self.nats.url()),
            ("NATS_USER", user.name().to_owned()),
            ("NATS_PASSWORD", self.passwords.of(user).to_owned()),
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", "0".to_owned()),
            ("OPS_PORT", "0".to_owned()),
            ("PARTITIONS", PARTITIONS.to_string()),
        ];
        let own = own.map(|(variable, value)| (variable.to_owned(), value));
        own.into_iter().chain(self.variables.iter().cloned()).collect()
    }

    /// How a program reaches the database: as the owner of the tables, unless there are roles.
    pub(crate) fn database_url(&self, user: NatsUser) -> String {
        let Some((_, server)) = self.database.url.split_once('@').filter(|_| self.has_roles) else {
            return self.database.url.clone();
        };
        format!("postgres://coupon_{}:{}@{server}", user.name(), self.passwords.of(user))
    }

    /// Does what `coupon-worker migrate` does, as the owner of the tables. The roles have the same passwords as the
    /// users of NATS.
    pub(crate) async fn migrate(&self) -> Result<String, String> {
        let env = self.migration().into_iter().collect();
        Migration::from_env(&env).unwrap().run().await.map_err(|error| format!("{error:#}"))
    }

    /// The variables of `coupon-worker migrate`.
    pub(crate) fn migration(&self) -> Vec<(String, String)> {
        let own = [
            ("DATABASE_URL", self.database.url.clone()),
            ("PARTITIONS", PARTITIONS.to_string()),
            ("POSTGRES_API_PASSWORD", self.passwords.of(NatsUser::Api).to_owned()),
            ("POSTGRES_WORKER_PASSWORD", self.passwords.of(NatsUser::Worker).to_owned()),
        ];
        own.into_iter().map(|(variable, value)| (variable.to_owned(), value)).collect()
    }

    /// From now on, programs are started with the roles that [`migrate`](Self::migrate) gives.
    pub(crate) fn use_roles(&mut self) {
        self.has_roles = true;
    }

    /// The variables of an API or a worker that runs in this process.
    pub(crate) fn env(&self, user: NatsUser) -> Env {
        self.variables(user).into_iter().collect()
    }

    /// Changes a variable for whatever is started from now on.
    pub(crate) fn set(&mut self, variable: &str, value: impl ToString) {
        self.variables.push((variable.to_owned(), value.to_string()));
    }

    /// Lets whatever is started from now on wait `delay` longer for every answer of the database.
    pub(crate) async fn move_database_away(&mut self, delay: Duration) {
        let far = self.database.far_away(delay).await;
        assert_ne!(far, self.database.url);
        self.set("DATABASE_URL", far);
    }

    /// Creates the streams that are missing, as workers do, without one that would apply claims.
    pub(crate) async fn create_streams(&self) {
        let config = worker::Config::from_env(&self.env(NatsUser::Worker)).unwrap();
        let worker = Worker::connect(config, Arc::default()).await.unwrap();
        // Others may be doing it at the same time.
        eventually("the streams are there", async || worker.create_missing_streams().await.ok()).await;
    }

    /// Starts another API.
    pub(crate) async fn add_api(&mut self) -> Client {
        let (part, address) = Part::api(&self.env(NatsUser::Api)).await.unwrap();
        let client = Client::new(address);
        self.apis.push((Running(Some(part)), client.clone()));
        client
    }

    /// Starts another worker.
    pub(crate) async fn add_worker(&mut self) -> Uuid {
        let (part, id) = Part::worker(&self.env(NatsUser::Worker)).await.unwrap();
        self.workers.push((Running(Some(part)), id));
        id
    }

    /// A client of the first API.
    pub(crate) fn client(&self) -> &Client {
        &self.apis[0].1
    }

    /// Clients of all APIs.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.apis.iter().map(|(_, client)| client.clone()).collect()
    }

    /// Ids of the workers in this process.
    pub(crate) fn workers(&self) -> Vec<Uuid> {
        self.workers.iter().map(|(_, id)| *id).collect()
    }

    /// Stops the first worker, in order.
    pub(crate) async fn stop_worker(&mut self) {
        self.workers.remove(0).0.stop().await;
    }

    /// Takes the first API out, to be stopped.
    pub(crate) fn stop_api(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.apis.remove(0).0.stop()
    }

    /// The database, for looks and for changes by hand.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.database.pool
    }

    /// Makes a coupon that these users have won, in their order, and nobody else can.
    pub(crate) async fn sell_out(&self, coupon: &str, users: &[String]) {
        sqlx::query(
            "WITH coupon AS (
                 INSERT INTO coupons (name, amount, remaining_amount) VALUES ($1, cardinality($2), 0)
             )
             INSERT INTO claims (coupon_name, user_id, position)
             SELECT $1, user_id, n FROM unnest($2) WITH ORDINALITY AS winner (user_id, n)",
        )
        .bind(coupon)
        .bind(users)
        .execute(self.pool())
        .await
        .unwrap();
    }

    /// A folder that goes with the system.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Connects to NATS as the operator.
    pub(crate) async fn operator(&self) -> async_nats::Client {
        let password = self.passwords.of(NatsUser::Operator).to_owned();
        async_nats::ConnectOptions::with_user_and_password("operator".to_owned(), password)
            .connect(self.nats.url())
            .await
            .unwrap()
    }

    /// Who owns how many partitions under a lease that has not run out.
    pub(crate) async fn shares(&self) -> BTreeMap<Uuid, usize> {
        let owners: Vec<Uuid> = sqlx::query_scalar(
            "SELECT owner FROM partitions WHERE owner IS NOT NULL AND lease_until > clock_timestamp()",
        )
        .fetch_all(self.pool())
        .await
        .unwrap();
        owners.into_iter().fold(BTreeMap::new(), |mut shares, owner| {
            *shares.entry(owner).or_default() += 1;
            shares
        })
    }

    /// Waits until the partitions are shared like this, the least first; returns the owners.
    pub(crate) async fn shared_as(&self, wanted: &[usize]) -> Vec<Uuid> {
        eventually(&format!("partitions shared as {wanted:?}"), async || {
            let shares = self.shares().await;
            let mut counts: Vec<_> = shares.values().copied().collect();
            counts.sort_unstable();
            (counts == wanted).then(|| shares.into_keys().collect())
        })
        .await
    }

    /// Asserts that no coupon was sold too often, and that each one's positions have no gap.
    pub(crate) async fn assert_sound(&self) {
        let unsound: Vec<(String, i32, i32, i64, i64)> = sqlx::query_as(
            "SELECT name, amount, remaining_amount, count(position), coalesce(max(position), 0)
             FROM coupons LEFT JOIN claims ON coupon_name = name GROUP BY name
             HAVING amount <> remaining_amount + count(position)
                 OR count(position) <> coalesce(max(position), 0) OR min(position) <> 1",
        )
        .fetch_all(self.pool())
        .await
        .unwrap();
        assert_eq!(unsound, [], "name, amount, remaining, claims, last position");
    }

    /// Stops everything in order, and asserts that what the database holds is sound.
    pub(crate) async fn stop(self) {
        self.assert_sound().await;
        self.stop_unsound().await;
    }

    /// Stops everything in order, whatever was done to the database by hand.
    pub(crate) async fn stop_unsound(self) {
        join_all(self.apis.into_iter().map(|(api, _)| api.stop())).await;
        join_all(self.workers.into_iter().map(|(worker, _)| worker.stop())).await;
        self.nats.kill().await.unwrap();
        self.database.drop().await;
    }
}
