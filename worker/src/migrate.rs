//! `coupon-worker migrate`: prepares Postgres, as the owner of the tables, for programs that may do less.
//!
//! It creates or updates the tables, writes the rows of the partitions at the first start ever, and gives a role of
//! its own to each program whose password is set. It needs no NATS: workers create the streams.

use common::config::{self, ConfigError, Env};
use common::database;
use sqlx::postgres::{PgConnectOptions, PgConnection};

/// A program's role in Postgres, the variable with its password, and what it may do.
struct Role {
    name: &'static str,
    password_variable: &'static str,
    /// Each statement that a program sends needs some of these, and each of these is needed by one.
    grants: &'static str,
}

const ROLES: [Role; 2] = [
    Role {
        name: "coupon_api",
        password_variable: "POSTGRES_API_PASSWORD",
        grants: "GRANT SELECT ON _sqlx_migrations, partitions, coupons, claims TO coupon_api;
                 GRANT INSERT (name, amount, remaining_amount) ON coupons TO coupon_api",
    },
    Role {
        name: "coupon_worker",
        password_variable: "POSTGRES_WORKER_PASSWORD",
        grants: "GRANT SELECT ON _sqlx_migrations, partitions, workers, coupons, claims TO coupon_worker;
                 GRANT UPDATE (owner, epoch, lease_until, generation, stream_created_ns, last_seq, last_batch_id,
                               last_time_ns) ON partitions TO coupon_worker;
                 GRANT INSERT, UPDATE, DELETE ON workers TO coupon_worker;
                 GRANT UPDATE (remaining_amount) ON coupons TO coupon_worker;
                 GRANT INSERT ON claims TO coupon_worker;
                 -- What is there already is not inserted again, so it is read, but not the claims that it holds.
                 GRANT INSERT, SELECT (partition, generation, sequence, place) ON dead_letters TO coupon_worker",
    },
];

/// Whether a schema is looked into is a right of its own.
const GRANT_SCHEMA: &str = "DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(),
                                current_setting('coupon.role')); END $$";

/// Creates a role, or sets the password of one that is there. No statement that Postgres could log holds the password.
const CREATE_ROLE: &str = "DO $$
    DECLARE
        role text := current_setting('coupon.role');
        verb text := CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN 'ALTER' ELSE 'CREATE' END;
    BEGIN
        EXECUTE format('%s ROLE %I LOGIN PASSWORD %L', verb, role, current_setting('coupon.password'));
    END $$";

/// What `migrate` is told.
#[derive(Debug, Clone)]
pub struct Migration {
    /// Where Postgres is, as the owner of the tables.
    database: PgConnectOptions,
    /// `PARTITIONS`, if set.
    partitions: Option<u32>,
    /// The passwords of the roles to give, in the order of [`ROLES`].
    passwords: [Option<String>; ROLES.len()],
}

impl Migration {
    /// Reads the configuration.
    ///
    /// # Errors
    /// When a variable cannot be used; the error names it.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            database: config::database(env)?,
            partitions: env.partitions()?,
            passwords: ROLES.map(|role| env.get(role.password_variable).map(str::to_owned)),
        })
    }

    /// Does all of it, and says what there is. It can be repeated: what is there stays, but for passwords, which are set
    /// again.
    ///
    /// # Errors
    /// When the server refuses. Waits for a server that is not there.
    pub async fn run(&self) -> anyhow::Result<String> {
        let pool = database::connect(self.database.clone(), 1, "coupon-worker migrate").await?;
        let partitions = database::partitions(&pool, self.partitions).await?;
        let mut given = Vec::new();
        let mut transaction = pool.begin().await?;
        for (role, password) in ROLES.iter().zip(&self.passwords) {
            let Some(password) = password else { continue };
            give(&mut transaction, role, password).await.map_err(|error| {
                anyhow::anyhow!("{}: giving the role {}: {error}", role.password_variable, role.name)
            })?;
            given.push(role.name);
        }
        transaction.commit().await?;
        pool.close().await;
        let roles = match given.as_slice() {
            [] => "no role was changed".to_owned(),
            names => format!("{} may log in", names.join(" and ")),
        };
        Ok(format!("the tables are up to date; {partitions} partitions; {roles}"))
    }
}

async fn give(connection: &mut PgConnection, role: &Role, password: &str) -> sqlx::Result<()> {
    // One at a time. Roles belong to all databases of a server, and two that change one at once would fail.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('coupon_roles'))").execute(&mut *connection).await?;
    sqlx::query("SELECT set_config('coupon.role', $1, true), set_config('coupon.password', $2, true)")
        .bind(role.name)
        .bind(password)
        .execute(&mut *connection)
        .await?;
    for statements in [CREATE_ROLE, GRANT_SCHEMA, role.grants] {
        sqlx::raw_sql(statements).execute(&mut *connection).await?;
    }
    Ok(())
}
