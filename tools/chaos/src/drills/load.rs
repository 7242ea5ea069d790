//! The steady load of a drill: in each partition a coupon that lasts, claimed by new users all the time.

use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clients::http::{Connection, Request};
use crate::clients::name_in;
use crate::cluster::Cluster;
use crate::history::Answer;

/// Clients of each partition at each API.
const CLIENTS_PER_PARTITION: u32 = 2;

/// A client's pause between an answer and its next claim.
const PAUSE: Duration = Duration::from_millis(10);

/// How often each API is asked whether it is ready.
const READY_POLL: Duration = Duration::from_millis(10);

/// How long an answer may take at most.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A claim, and how it was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) partition: u32,
    pub(super) start_us: u64,
    pub(super) end_us: u64,
    /// None if there was no answer.
    pub(super) status: Option<u16>,
    /// Whether it said when to try again.
    pub(super) retry_after: bool,
}

impl Sample {
    pub(super) fn won(&self) -> bool {
        self.status == Some(200)
    }
}

/// Whether an API said that it is ready.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readiness {
    pub(super) api: u32,
    pub(super) at_us: u64,
    pub(super) ready: bool,
}

#[derive(Debug, Default)]
struct Seen {
    samples: Vec<Sample>,
    readiness: Vec<Readiness>,
}

/// Clients that go on until they are stopped.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    partitions: u32,
    users: AtomicU64,
    seen: Mutex<Seen>,
}

impl Load {
    /// Creates the coupons and starts the clients.
    pub(super) async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let partitions = cluster.shape.partitions;
        let shared = Arc::new(Shared {
            start: Instant::now(),
            partitions,
            users: AtomicU64::new(0),
            seen: Mutex::default(),
        });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        for (api, address) in (0..).zip(cluster.addresses()) {
            tasks.spawn(Arc::clone(&shared).watch(api, address, stop.clone()));
            for partition in 0..partitions {
                let name = name_in("drill", partition, partitions).context("no name for the partition")?;
                if api == 0 {
                    create(address, &name).await?;
                }
                for _ in 0..CLIENTS_PER_PARTITION {
                    let shared = Arc::clone(&shared);
                    tasks.spawn(shared.claim(partition, name.clone(), address, stop.clone()));
                }
            }
        }
        Ok(Self { shared, stop, tasks })
    }

    pub(super) fn now_us(&self) -> u64 {
        self.shared.now_us()
    }

    /// Forgets what was seen so far.
    pub(super) fn clear(&self) {
        *self.shared.lock() = Seen::default();
    }

    /// Takes what was seen so far.
    pub(super) fn take(&self) -> (Vec<Sample>, Vec<Readiness>) {
        let seen = mem::take(&mut *self.shared.lock());
        (seen.samples, seen.readiness)
    }

    /// Whether a claim that began after that moment has won, in each partition.
    pub(super) fn every_partition_won_since(&self, from_us: u64) -> bool {
        let seen = self.shared.lock();
        (0..self.shared.partitions).all(|partition| {
            let won = |sample: &&Sample| {
                sample.partition == partition && sample.won() && sample.start_us >= from_us
            };
            seen.samples.iter().rev().any(|sample| won(&sample))
        })
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(
        self: Arc<Self>,
        partition: u32,
        coupon: String,
        api: SocketAddr,
        stop: CancellationToken,
    ) {
        let mut connection = Connection::default();
        connection.switch(api);
        while !stop.is_cancelled() {
            let user = self.users.fetch_add(1, Ordering::Relaxed);
            let body = json!({ "user_id": format!("user {user}"), "coupon_name": coupon });
            let path = "/api/coupons/claim".to_owned();
            let request = Request { method: "POST", path, key: None, body: Some(body) };
            let start_us = self.now_us();
            let answer = connection.send(&request, ANSWER_LIMIT).await;
            let end_us = self.now_us();
            let (status, retry_after) = match &answer {
                Answer::Response(response) => (Some(response.status), response.retry_after_s.is_some()),
                Answer::Failed { .. } => (None, false),
            };
            self.lock().samples.push(Sample { partition, start_us, end_us, status, retry_after });
            sleep(PAUSE).await;
        }
    }

    async fn watch(self: Arc<Self>, api: u32, address: SocketAddr, stop: CancellationToken) {
        let mut connection = Connection::default();
        connection.switch(address);
        while !stop.is_cancelled() {
            let path = "/health/ready".to_owned();
            let request = Request { method: "GET", path, key: None, body: None };
            let answer = connection.send(&request, ANSWER_LIMIT).await;
            let ready = matches!(answer, Answer::Response(response) if response.status == 200);
            self.lock().readiness.push(Readiness { api, at_us: self.now_us(), ready });
            sleep(READY_POLL).await;
        }
    }
}

async fn create(api: SocketAddr, name: &str) -> anyhow::Result<()> {
    let mut connection = Connection::default();
    connection.switch(api);
    let body = Some(json!({ "name": name, "amount": i32::MAX }));
    let request = Request { method: "POST", path: "/api/coupons".to_owned(), key: None, body };
    match connection.send(&request, ANSWER_LIMIT).await {
        Answer::Response(response) if response.status == 201 => Ok(()),
        answer => anyhow::bail!("coupon not created: {answer:?}"),
    }
}
