//! The steady load of a drill: in each partition a coupon that lasts, claimed by new users all the time.

use std::mem;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

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

/// Clients that go on until this is dropped.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    partitions: u32,
    _clients: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    users: AtomicU64,
    seen: Mutex<Seen>,
}

impl Load {
    /// Creates the coupons and starts the clients.
    pub(super) async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let partitions = cluster.shape.partitions;
        let shared =
            Arc::new(Shared { start: Instant::now(), users: AtomicU64::new(0), seen: Mutex::default() });
        let mut clients = JoinSet::new();
        for (api, address) in (0..).zip(cluster.addresses()) {
            clients.spawn(Arc::clone(&shared).poll_readiness(api, address));
            for partition in 0..partitions {
                let name = name_in("drill", partition, partitions).context("no name for the partition")?;
                if api == 0 {
                    create(address, &name).await?;
                }
                for _ in 0..CLIENTS_PER_PARTITION {
                    clients.spawn(Arc::clone(&shared).claim(partition, name.clone(), address));
                }
            }
        }
        Ok(Self { shared, partitions, _clients: clients })
    }

    pub(super) fn now_us(&self) -> u64 {
        self.shared.now_us()
    }

    /// Takes what was seen so far.
    pub(super) fn take(&self) -> (Vec<Sample>, Vec<Readiness>) {
        let seen = mem::take(&mut *self.shared.lock());
        (seen.samples, seen.readiness)
    }

    /// Whether a claim that began after that moment has won, in each partition.
    pub(super) fn every_partition_won_since(&self, from_us: u64) -> bool {
        let seen = self.shared.lock();
        (0..self.partitions).all(|partition| {
            seen.samples
                .iter()
                .rev()
                .any(|sample| sample.partition == partition && sample.won() && sample.start_us >= from_us)
        })
    }
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(self: Arc<Self>, partition: u32, coupon: String, api: SocketAddr) {
        let mut connection = connection(api);
        loop {
            let user = self.users.fetch_add(1, Ordering::Relaxed);
            let body = json!({ "user_id": format!("user {user}"), "coupon_name": coupon });
            let request = request("POST", "/api/coupons/claim", Some(body));
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

    async fn poll_readiness(self: Arc<Self>, api: u32, address: SocketAddr) {
        let mut connection = connection(address);
        loop {
            let answer = connection.send(&request("GET", "/health/ready", None), ANSWER_LIMIT).await;
            let ready = matches!(answer, Answer::Response(response) if response.status == 200);
            let at_us = self.now_us();
            self.lock().readiness.push(Readiness { api, at_us, ready });
            sleep(READY_POLL).await;
        }
    }
}

fn connection(api: SocketAddr) -> Connection {
    let mut connection = Connection::default();
    connection.switch(api);
    connection
}

fn request(method: &'static str, path: &str, body: Option<serde_json::Value>) -> Request {
    Request { method, path: path.to_owned(), key: None, body }
}

async fn create(api: SocketAddr, name: &str) -> anyhow::Result<()> {
    let body = json!({ "name": name, "amount": i32::MAX });
    match connection(api).send(&request("POST", "/api/coupons", Some(body)), ANSWER_LIMIT).await {
        Answer::Response(response) if response.status == 201 => Ok(()),
        answer => bail!("coupon not created: {answer:?}"),
    }
}
