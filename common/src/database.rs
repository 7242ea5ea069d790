//! Connecting to Postgres, bringing its tables up to date, and agreeing on the number of partitions.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::backoff::Backoff;
use crate::partition::PARTITIONS_MAX;

/// Partitions of a system whose first start does not say how many.
///
/// What a batch costs is nearly the same however many claims it holds, and more partitions mean smaller
/// batches: over four, many busy coupons are claimed faster than over eight, and one as fast
/// (docs/performance.md). They allow four workers, each of which takes a quarter of the processor time that
/// Postgres takes for it.
pub const PARTITIONS_DEFAULT: u32 = 4;

/// How long a connection from the pool is waited for.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a statement may take, unless its connection says otherwise. Its caller gives up earlier; but a statement
/// that waits for a lock does not notice that, and would keep its connection.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a migration waits for a lock that somebody else holds. It blocks whoever comes after it meanwhile, so it
/// gives up and begins anew.
pub const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// `lock_not_available`: [`MIGRATION_LOCK_TIMEOUT`] is over.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// `undefined_table`: nothing was ever migrated here.
const UNDEFINED_TABLE: &str = "42P01";

/// `insufficient_privilege`.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// The migrations of this version. Those of later ones may have been applied as well: they only add, so that programs of
/// this version run on their tables.
fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("../migrations");
    migrations.set_ignore_missing(true);
    migrations
}

/// Why a process cannot use its database. Waiting does not help.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The server answered, and refused: a wrong password, a missing database.
    #[error("Postgres refuses the connection: {}", message(.0))]
    Refused(sqlx::Error),
    /// Names can be any text, which only one encoding can store.
    #[error(
        "the database's encoding is {0} and must be UTF8: \
         CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding(String),
    /// The tables are not as they should be, and this user may not change that.
    #[error(
        "the tables are missing or older than this program, and this user may not change them ({}): \
         run coupon-worker migrate as their owner",
        message(.0)
    )]
    NotOwner(sqlx::Error),
    /// The tables could not be brought up to date.
    #[error("migrating the database: {0}")]
    Migrate(#[from] MigrateError),
    /// Reading or writing the set-up failed.
    #[error("setting up the database: {0}")]
    Database(#[from] sqlx::Error),
    /// `PARTITIONS` differs from what the first start wrote.
    #[error(
        "PARTITIONS: this system was set up with {found} partitions and cannot run with {configured}; \
         unset the variable or set it to {found}"
    )]
    Partitions {
        /// What the database says.
        found: i64,
        /// What this process was told.
        configured: u32,
    },
}

/// What the server said, or else what the client library says.
fn message(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Opens a pool as soon as the server answers, and brings the tables up to date. Several processes
/// may do so at once: the migrations take a lock.
///
/// # Errors
/// When the server refuses this user or database, or a migration fails. Waits for a server that is not there,
/// without a limit.
pub async fn connect(
    options: PgConnectOptions,
    connections_max: u32,
    role: &str,
) -> Result<PgPool, SetupError> {
    let options = options.application_name(role);
    let bounded = bounded(options.clone());
    let pool_options = PgPoolOptions::new().max_connections(connections_max).acquire_timeout(ACQUIRE_TIMEOUT);
    let mut backoff = Backoff::for_server();
    loop {
        let error = match migrate(&options).await {
            Ok(()) => match pool_options.clone().connect_with(bounded.clone()).await {
                Ok(pool) => return Ok(pool),
                Err(error) if is_passing(&error) => error,
                Err(error) => return Err(SetupError::Refused(error)),
            },
            Err(error) => passing(error)?,
        };
        tracing::warn!(
            host = options.get_host(),
            port = options.get_port(),
            %error,
            "waiting for Postgres"
        );
        backoff.wait().await;
    }
}

/// The reason to wait for Postgres, if waiting helps. A migration that the server's end interrupted is one transaction
/// and starts over.
fn passing(error: SetupError) -> Result<sqlx::Error, SetupError> {
    match error {
        SetupError::Refused(error)
        | SetupError::Database(error)
        | SetupError::Migrate(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
            if is_passing(&error) || has_code(&error, LOCK_NOT_AVAILABLE) =>
        {
            Ok(error)
        }
        error => Err(error),
    }
}

/// Tells those that only the owner of the tables can help from other errors of the set-up.
fn not_owner(error: SetupError) -> SetupError {
    match error {
        SetupError::Database(error)
        | SetupError::Migrate(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
            if has_code(&error, INSUFFICIENT_PRIVILEGE) =>
        {
            SetupError::NotOwner(error)
        }
        error => error,
    }
}

/// Brings the tables up to date, over a connection without a limit for statements.
async fn migrate(options: &PgConnectOptions) -> Result<(), SetupError> {
    let lock_timeout = MIGRATION_LOCK_TIMEOUT.as_millis().to_string();
    let options = options.clone().options([("lock_timeout", lock_timeout)]);
    let one = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
    let pool = one.connect_with(options).await.map_err(SetupError::Refused)?;
    let migrated = async {
        check_encoding(&pool).await?;
        migrate_if_needed(&pool).await
    };
    let migrated = migrated.await.map_err(not_owner);
    // Bounded: a connection that hangs is not waited for.
    let _ = tokio::time::timeout(ACQUIRE_TIMEOUT, pool.close()).await;
    migrated
}

/// Another encoding cannot store every name, and Postgres would refuse such a claim each time.
async fn check_encoding(pool: &PgPool) -> Result<(), SetupError> {
    let encoding: String = sqlx::query_scalar("SHOW server_encoding").fetch_one(pool).await?;
    if encoding == "UTF8" { Ok(()) } else { Err(SetupError::Encoding(encoding)) }
}

/// Asks first, because [`Migrator::run`] begins with CREATE TABLE, which a role may not have the right to.
async fn migrate_if_needed(pool: &PgPool) -> Result<(), SetupError> {
    let migrations = migrations();
    let applied: Vec<(i64, Vec<u8>)> =
        match sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success")
            .fetch_all(pool)
            .await
        {
            Err(error) if has_code(&error, UNDEFINED_TABLE) => Vec::new(),
            applied => applied?,
        };
    let is_applied = |migration: &Migration| {
        applied.iter().any(|(version, sum)| *version == migration.version && *sum == *migration.checksum)
    };
    if !migrations.iter().all(is_applied) {
        migrations.run(pool).await?;
    }
    Ok(())
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(code))
}

/// Ends every statement of a connection after [`STATEMENT_TIMEOUT`].
pub fn bounded(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("statement_timeout", STATEMENT_TIMEOUT.as_millis().to_string())])
}

/// Tells the planner of a connection to probe indexes and nothing else.
///
/// On tables without statistics, or with those of another day, it would scan or sort, and keep that plan
/// while the tables grow. Without these, the statements of claims must have one plan only: an index's
/// order or a LATERAL look-up.
pub fn index_probes_only(options: PgConnectOptions) -> PgConnectOptions {
    options.options([
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_bitmapscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("enable_sort", "off"),
        ("enable_incremental_sort", "off"),
        ("jit", "off"),
    ])
}

/// Whether an error may go away by itself: the server is not there, starts, stops, or has no free connection.
pub fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        // Class 08 connection, 53 resources, 57P operator intervention (starting up, shutting down).
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("53") || code.starts_with("57P")),
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// Returns the system's number of partitions. The first start ever writes it: `configured`, or
/// [`PARTITIONS_DEFAULT`].
///
/// # Errors
/// When `configured` differs from what is written. Waits for a server that is not there.
pub async fn partitions(pool: &PgPool, configured: Option<u32>) -> Result<u32, SetupError> {
    let mut backoff = Backoff::for_server();
    loop {
        match try_partitions(pool, configured).await {
            Err(SetupError::Database(error)) if is_passing(&error) => {
                tracing::warn!(%error, "waiting for Postgres");
            }
            done => return done.map_err(not_owner),
        }
        backoff.wait().await;
    }
}

async fn try_partitions(pool: &PgPool, configured: Option<u32>) -> Result<u32, SetupError> {
    let count = "SELECT count(*) FROM partitions";
    let mut found: i64 = sqlx::query_scalar(count).fetch_one(pool).await?;
    if found == 0 {
        // Only the first start ever locks: later, the lock would wait for every batch under way.
        found = create_partitions(pool, configured.unwrap_or(PARTITIONS_DEFAULT)).await?;
    }
    match u32::try_from(found) {
        Ok(count) if (1..=PARTITIONS_MAX).contains(&count) && configured.is_none_or(|c| c == count) => {
            Ok(count)
        }
        _ => Err(SetupError::Partitions { found, configured: configured.unwrap_or(0) }),
    }
}

async fn create_partitions(pool: &PgPool, count: u32) -> Result<i64, SetupError> {
    let mut transaction = pool.begin().await?;
    sqlx::query("LOCK TABLE partitions IN SHARE ROW EXCLUSIVE MODE").execute(&mut *transaction).await?;
    sqlx::query(
        "INSERT INTO partitions (id) SELECT generate_series(0, $1 - 1)
         WHERE NOT EXISTS (SELECT FROM partitions)",
    )
    .bind(i32::try_from(count).unwrap_or(i32::MAX))
    .execute(&mut *transaction)
    .await?;
    let found = sqlx::query_scalar("SELECT count(*) FROM partitions").fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fmt;
    use std::io::ErrorKind;

    use sqlx::error::DatabaseError;

    use super::*;

    /// What a server answers, by its code.
    #[derive(Debug)]
    struct Answer(&'static str);

    impl fmt::Display for Answer {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }
    }

    impl Error for Answer {}

    impl DatabaseError for Answer {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    fn answer(code: &'static str) -> sqlx::Error {
        sqlx::Error::Database(Box::new(Answer(code)))
    }

    #[test]
    fn a_server_that_goes_away_at_any_time_is_waited_for() {
        for cause in [
            || answer("57P01"),
            || answer("57P03"),
            || answer("08006"),
            || answer("53300"),
            || answer(LOCK_NOT_AVAILABLE),
            || sqlx::Error::Io(ErrorKind::ConnectionReset.into()),
        ] {
            for error in [
                SetupError::Refused(cause()),
                SetupError::Database(cause()),
                MigrateError::Execute(cause()).into(),
                MigrateError::ExecuteMigration(cause(), 1).into(),
            ] {
                let text = error.to_string();
                assert!(passing(error).is_ok(), "{text}");
            }
        }
    }

    #[test]
    fn a_user_that_may_not_migrate_is_told_who_may() {
        for error in [
            SetupError::Database(answer(INSUFFICIENT_PRIVILEGE)),
            MigrateError::Execute(answer(INSUFFICIENT_PRIVILEGE)).into(),
            MigrateError::ExecuteMigration(answer(INSUFFICIENT_PRIVILEGE), 2).into(),
        ] {
            let text = not_owner(error).to_string();
            assert!(text.ends_with("run coupon-worker migrate as their owner"), "{text}");
        }
        assert!(matches!(not_owner(SetupError::Database(answer("42601"))), SetupError::Database(_)));
    }

    #[test]
    fn an_error_that_waiting_does_not_help_is_reported() {
        for error in [
            SetupError::Refused(answer("28P01")),
            MigrateError::Execute(answer("42501")).into(),
            MigrateError::ExecuteMigration(answer("42601"), 1).into(),
            MigrateError::VersionMismatch(1).into(),
        ] {
            let text = error.to_string();
            assert!(passing(error).is_err(), "{text}");
        }
    }
}
