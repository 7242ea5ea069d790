//! The whole system in this process: an API and workers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use api::Api;
use common::config::Env;
use futures::future::select_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use worker::Worker;

use crate::stack::{NatsUser, Servers};

/// Runs an API and workers until `stop`, or until a part or a server ends by itself. Calls `ready` with the API's
/// address.
///
/// # Errors
/// When a part cannot start, fails, or ends by itself.
pub async fn run(
    servers: &Servers,
    workers: u8,
    stop: &CancellationToken,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let mut parts = Vec::new();
    let started = stop.run_until_cancelled(async {
        let (api, address) = Part::api(&servers.env(NatsUser::Api)).await?;
        parts.push(api);
        for _ in 0..workers {
            parts.push(Part::worker(&servers.env(NatsUser::Worker)).await?.0);
        }
        anyhow::Ok(address)
    });
    let result = match started.await {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(address)) => {
            ready(address);
            watch(servers, &mut parts, stop).await
        }
    };
    // The API first: its claims in flight still need the workers.
    let mut results = vec![result];
    for part in parts {
        results.push(part.stop().await);
    }
    results.into_iter().collect()
}

/// Waits for `stop`, or for the first part or server that ends without being asked to.
async fn watch(servers: &Servers, parts: &mut [Part], stop: &CancellationToken) -> anyhow::Result<()> {
    let any_end = select_all(parts.iter_mut().map(|part| Box::pin(part.ended())));
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        (ended, ..) = any_end => bail!("a part has ended: {ended:?}"),
        ended = servers.ended() => bail!("{ended}"),
    }
}

/// An API or a worker that runs in this process.
#[derive(Debug)]
pub struct Part {
    stop: CancellationToken,
    /// None once its end has been reported.
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Part {
    /// Starts an API. Returns it and its address.
    ///
    /// # Errors
    /// When its configuration is wrong, its port taken, or a server refuses it.
    pub async fn api(env: &Env) -> anyhow::Result<(Self, SocketAddr)> {
        let config = api::Config::from_env(env)?;
        let listener = api::listen(&config)?;
        let address = listener.local_addr()?;
        let api = Api::connect(config).await?;
        Ok((Self::spawn(|stop| api.run(listener, stop)), address))
    }

    /// Starts a worker. Returns it and its id.
    ///
    /// # Errors
    /// When its configuration is wrong, or a server refuses it.
    pub async fn worker(env: &Env) -> anyhow::Result<(Self, Uuid)> {
        let worker = Worker::connect(worker::Config::from_env(env)?, Arc::default()).await?;
        let id = worker.id;
        Ok((Self::spawn(|stop| worker.run(stop)), id))
    }

    fn spawn<F>(run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        Self { task: Some(tokio::spawn(run(stop.clone()))), stop }
    }

    /// Waits for its end, whoever caused it. An end is reported once; after that there is nothing to
    /// wait for.
    ///
    /// # Errors
    /// When it failed.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let ended = task.await;
        self.task = None;
        ended?
    }

    /// Stops it gracefully.
    ///
    /// # Errors
    /// When it failed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.ended().await
    }

    /// Drops all it does on the spot, as a crash would: nothing is finished, released or said.
    pub async fn abort(self) {
        if let Some(task) = self.task {
            task.abort();
            // Aborted tasks end at their next await.
            let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
        }
    }
}
