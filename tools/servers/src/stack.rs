//! The servers that a system runs on: its own or given ones.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::config::Env;
use futures::future::OptionFuture;
use uuid::Uuid;

use crate::error::Error;
use crate::nats::{self, Nats};
use crate::postgres::{self, Postgres};

/// The configuration that nats-server runs with everywhere.
pub const NATS_CONF: &str = include_str!("../../../nats.conf");

/// The database of the system.
pub const DATABASE: &str = "coupon_db";

/// Settings of the private Postgres: as safe as the defaults, with room for a long sale before the
/// first checkpoint.
const POSTGRES_SETTINGS: [(&str, &str); 4] = [
    ("shared_buffers", "256MB"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "15min"),
    ("max_connections", "300"),
];

/// The variables that name a Postgres server.
const POSTGRES_VARIABLES: [&str; 2] = ["DATABASE_URL", "DB_PG_HOST"];

/// A user of `nats.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatsUser {
    /// `coupon-api`.
    Api,
    /// `coupon-worker`.
    Worker,
    /// The NATS CLI and other tools.
    Operator,
}

impl NatsUser {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Api, Self::Worker, Self::Operator];

    /// The name in `nats.conf`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Operator => "operator",
        }
    }
}

/// Passwords of the users of `nats.conf`, new for every start.
#[derive(Debug, Clone)]
pub struct NatsPasswords([(NatsUser, String); 3]);

impl NatsPasswords {
    /// Random passwords.
    pub fn random() -> Self {
        // The letter in front keeps NATS from reading a number.
        Self(NatsUser::ALL.map(|user| (user, format!("p{}", Uuid::new_v4().simple()))))
    }

    /// The password of a user.
    pub fn of(&self, user: NatsUser) -> &str {
        self.0.iter().find(|(other, _)| *other == user).map_or("", |(_, password)| password)
    }

    /// The environment of nats-server: `nats.conf` takes the passwords from there.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variable = |user: &NatsUser| format!("NATS_{}_PASSWORD", user.name().to_uppercase());
        self.0.iter().map(|(user, password)| (variable(user), password.clone())).collect()
    }
}

/// How to start a private Postgres for the system.
pub fn postgres_options(folder: &Path) -> postgres::Options {
    let settings = POSTGRES_SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    postgres::Options { settings, ..postgres::Options::new(folder.join("postgres")) }
}

/// How to start a private nats-server for the system; writes its configuration.
///
/// # Errors
/// When the folder cannot be written.
pub fn nats_options(folder: &Path, passwords: &NatsPasswords) -> std::io::Result<nats::Options> {
    std::fs::create_dir_all(folder)?;
    let config = folder.join("nats.conf");
    std::fs::write(&config, NATS_CONF)?;
    Ok(nats::Options {
        config: Some(config),
        env: passwords.environment(),
        ..nats::Options::new(folder.join("nats"))
    })
}

/// Whether `env` names no Postgres, so that there will be a private one.
pub fn needs_postgres(env: &Env) -> bool {
    POSTGRES_VARIABLES.iter().all(|variable| env.get(variable).is_none())
}

/// The servers that a system runs on: its own, but for those that the environment names.
#[derive(Debug)]
pub struct Servers {
    postgres: Option<Postgres>,
    nats: Option<(Nats, NatsPasswords)>,
    env: Env,
}

impl Servers {
    /// Starts what `env` does not name, with its data under `folder`.
    ///
    /// # Errors
    /// When a server cannot be found, fetched or started.
    pub async fn start(env: Env, folder: &Path) -> anyhow::Result<Self> {
        let mut servers = Self { postgres: None, nats: None, env };
        if needs_postgres(&servers.env) {
            let postgres = Postgres::start(postgres_options(folder)).await?;
            let url = postgres.create_database(DATABASE).await?;
            servers.env.set("DATABASE_URL", &url);
            servers.postgres = Some(postgres);
        }
        if servers.env.get("NATS_URL").is_none() {
            let passwords = NatsPasswords::random();
            let options = nats_options(folder, &passwords).context("writing nats.conf")?;
            let nats = Nats::start(options).await?;
            servers.env.set("NATS_URL", &nats.url());
            servers.nats = Some((nats, passwords));
        }
        Ok(servers)
    }

    /// Forgets all data under `folder`.
    ///
    /// # Errors
    /// When it is in use, or cannot be deleted.
    pub async fn forget(folder: &Path) -> Result<(), Error> {
        Postgres::remove(&postgres_options(folder).data_dir).await?;
        Nats::remove(&folder.join("nats")).await
    }

    /// The environment of a process of the system.
    pub fn env(&self, user: NatsUser) -> Env {
        let mut env = self.env.clone();
        if let Some((_, passwords)) = &self.nats {
            env.set("NATS_USER", user.name());
            env.set("NATS_PASSWORD", passwords.of(user));
        }
        env
    }

    /// The private Postgres.
    pub fn postgres(&self) -> Option<&Postgres> {
        self.postgres.as_ref()
    }

    /// The private nats-server, and its users' passwords.
    pub fn nats(&self) -> Option<(&Nats, &NatsPasswords)> {
        self.nats.as_ref().map(|(nats, passwords)| (nats, passwords))
    }

    /// Where the private servers keep their data.
    pub fn folders(&self) -> Vec<PathBuf> {
        let postgres = self.postgres.iter().map(|postgres| postgres.folder().to_owned());
        let nats = self.nats.iter().map(|(nats, _)| nats.folder().to_owned());
        postgres.chain(nats).collect()
    }

    /// Waits until one of the private servers has ended, and says which.
    pub async fn ended(&self) -> String {
        let postgres = OptionFuture::from(self.postgres.as_ref().map(Postgres::ended));
        let nats = OptionFuture::from(self.nats.as_ref().map(|(nats, _)| nats.ended()));
        tokio::select! {
            Some(status) = postgres => format!("Postgres has ended: {status}"),
            Some(status) = nats => format!("nats-server has ended: {status}"),
            else => std::future::pending().await,
        }
    }

    /// Stops the private servers.
    ///
    /// # Errors
    /// When one of them cannot even be killed.
    pub async fn stop(self) -> Result<(), Error> {
        if let Some((nats, _)) = self.nats {
            nats.stop().await?;
        }
        if let Some(postgres) = self.postgres {
            postgres.stop().await?;
        }
        Ok(())
    }
}
