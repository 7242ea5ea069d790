//! `loadtest peer`

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::peers;

/// Which design to serve, and where.
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// The design.
    design: Design,
    /// Port on the loopback address.
    #[arg(long)]
    port: u16,
    /// The peer's own database; not used by the ceiling. Or the variable DATABASE_URL, which only this user can
    /// read while the program runs.
    #[arg(long)]
    database_url: Option<String>,
    /// Sessions of the database that claims take turns on.
    #[arg(long, default_value_t = peers::SESSIONS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=1000))]
    sessions: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Design {
    /// Answers at once and keeps nothing.
    Ceiling,
    /// One transaction with a row lock per claim.
    RowLock,
    /// One conditional update per claim.
    Conditional,
}

impl PeerArgs {
    pub(super) fn execute(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Runtime::new().context("the runtime")?;
        runtime.block_on(async {
            let url = self.database_url.or_else(|| std::env::var("DATABASE_URL").ok());
            let database = async || {
                let url = url.context("--database-url or DATABASE_URL is needed")?;
                peers::connect(&url, self.sessions).await.context("the database")
            };
            let router = match self.design {
                Design::Ceiling => peers::ceiling(),
                Design::RowLock => peers::row_lock(database().await?),
                Design::Conditional => peers::conditional(database().await?),
            };
            peers::serve(router, self.port).await.with_context(|| format!("port {}", self.port))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
