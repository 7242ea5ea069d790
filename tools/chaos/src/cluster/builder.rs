//! Gives each process its binary, its links and its settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use servers::port;
use servers::process::Program;
use servers::stack::{NatsPasswords, NatsUser};

use super::binaries::{Binaries, Versions};
use super::node::{Node, Programs};
use crate::proxy::{Protocol, Proxy, Tap};
use crate::schedule::Shape;

/// What nodes are made from.
pub(super) struct NodeBuilder<'a> {
    pub(super) versions: &'a Versions,
    pub(super) folder: &'a Path,
    pub(super) passwords: &'a NatsPasswords,
    pub(super) shape: Shape,
    pub(super) tap: &'a Tap,
    pub(super) nats: SocketAddr,
    pub(super) postgres: SocketAddr,
    pub(super) database_url: &'a str,
}

impl NodeBuilder<'_> {
    pub(super) async fn api(&self, number: u32) -> anyhow::Result<Node> {
        let port = port::free()?;
        let timeouts_ms = self.shape.claim_timeouts_ms;
        let timeout_ms = timeouts_ms[number as usize % timeouts_ms.len()].to_string();
        let settings =
            [("HOST", "127.0.0.1"), ("PORT", &port.to_string()), ("CLAIM_TIMEOUT_MS", &timeout_ms)];
        let name = format!("api-{number}");
        self.node(name, |binaries| &binaries.api, NatsUser::Api, &settings, Some(loopback(port))).await
    }

    pub(super) async fn worker(&self, number: u32) -> anyhow::Result<Node> {
        let Shape { lease_ms, purge_interval_ms, .. } = self.shape;
        let settings = [("LEASE_MS", lease_ms), ("PURGE_INTERVAL_MS", purge_interval_ms)];
        let settings = settings.map(|(name, value)| (name, value.to_string()));
        let settings = settings.each_ref().map(|(name, value)| (*name, &**value));
        let name = format!("worker-{number}");
        self.node(name, |binaries| &binaries.worker, NatsUser::Worker, &settings, None).await
    }

    async fn node(
        &self,
        name: String,
        path: fn(&Binaries) -> &PathBuf,
        user: NatsUser,
        settings: &[(&str, &str)],
        http: Option<SocketAddr>,
    ) -> anyhow::Result<Node> {
        // What workers receive is recorded.
        let tap = (user == NatsUser::Worker).then(|| self.tap.clone());
        let nats = Proxy::start(Protocol::Nats, self.nats, tap).await?;
        let postgres = Proxy::start(Protocol::Postgres, self.postgres, None).await?;
        let database_url = self
            .database_url
            .replace(&format!(":{}/", self.postgres.port()), &format!(":{}/", postgres.addr().port()));
        let log = self.folder.join(format!("{name}.log"));
        let program = |binaries| {
            Program::new(path(binaries), &log)
                .clean_env()
                .folder(self.folder)
                .env("DATABASE_URL", &database_url)
                .env("NATS_URL", format!("nats://{}", nats.addr()))
                .env("NATS_USER", user.name())
                .env("NATS_PASSWORD", self.passwords.of(user))
                .env("PARTITIONS", self.shape.partitions.to_string())
                .env("LOG_FORMAT", "json")
                .env("OPS_PORT", "0")
                .envs(settings.iter().copied())
        };
        let programs =
            Programs { new: program(&self.versions.new), old: self.versions.old.as_ref().map(program) };
        Ok(Node::new(name, programs, nats, postgres, http, log))
    }
}

pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
