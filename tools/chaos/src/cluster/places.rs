//! Where each process finds its binary, its links and its settings.

use std::net::SocketAddr;
use std::path::Path;

use servers::port;
use servers::process::Program;
use servers::stack::{NatsPasswords, NatsUser};

use super::{Binaries, Links, Node, loopback};
use crate::proxy::{Protocol, Proxy, Tap};
use crate::schedule::Shape;

/// How long an API waits for an outcome before it answers 202. Shorter than the default, so that pauses of a
/// second or two lead there.
const CLAIM_TIMEOUT_MS: u64 = 1_500;

/// What nodes are made from.
pub(super) struct Places<'a> {
    pub(super) binaries: &'a Binaries,
    pub(super) folder: &'a Path,
    pub(super) passwords: &'a NatsPasswords,
    pub(super) shape: Shape,
    pub(super) tap: &'a Tap,
}

impl Places<'_> {
    pub(super) async fn api(
        &self,
        number: u32,
        nats: SocketAddr,
        postgres: SocketAddr,
        database_url: &str,
    ) -> anyhow::Result<Node> {
        let links = links(nats, postgres, None).await?;
        let port = port::free()?;
        let name = format!("api-{number}");
        let program = self
            .program(&self.binaries.api, &name, NatsUser::Api, &links, postgres, database_url)
            .env("HOST", "127.0.0.1")
            .env("PORT", port.to_string())
            .env("CLAIM_TIMEOUT_MS", CLAIM_TIMEOUT_MS.to_string());
        Ok(Node::new(name, program, links, Some(loopback(port))))
    }

    pub(super) async fn worker(
        &self,
        number: u32,
        nats: SocketAddr,
        postgres: SocketAddr,
        database_url: &str,
    ) -> anyhow::Result<Node> {
        let links = links(nats, postgres, Some(self.tap.clone())).await?;
        let name = format!("worker-{number}");
        let program = self
            .program(&self.binaries.worker, &name, NatsUser::Worker, &links, postgres, database_url)
            .env("LEASE_MS", self.shape.lease_ms.to_string());
        Ok(Node::new(name, program, links, None))
    }

    fn program(
        &self,
        path: &Path,
        name: &str,
        user: NatsUser,
        links: &Links,
        postgres: SocketAddr,
        database_url: &str,
    ) -> Program {
        let through_proxy = database_url
            .replace(&format!(":{}/", postgres.port()), &format!(":{}/", links.postgres.addr().port()));
        Program::new(path, self.folder.join(format!("{name}.log")))
            .clean_env()
            .folder(self.folder)
            .env("DATABASE_URL", through_proxy)
            .env("NATS_URL", format!("nats://{}", links.nats.addr()))
            .env("NATS_USER", user.name())
            .env("NATS_PASSWORD", self.passwords.of(user))
            .env("PARTITIONS", self.shape.partitions.to_string())
            .env("LOG_FORMAT", "json")
    }
}

/// A process' links. Copies of what NATS sends it go to the tap, if there is one.
async fn links(nats: SocketAddr, postgres: SocketAddr, tap: Option<Tap>) -> std::io::Result<Links> {
    Ok(Links {
        nats: Proxy::start(Protocol::Nats, nats, tap).await?,
        postgres: Proxy::start(Protocol::Postgres, postgres, None).await?,
    })
}
