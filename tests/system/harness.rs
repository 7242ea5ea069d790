//! Systems for tests, their clients, and what every test needs to run.

mod database;
mod http;
mod load;
mod order;
mod process;
mod raw;
mod system;
mod test;

pub(crate) use database::{Database, own_postgres};
pub(crate) use http::{Client, Reply, encoded, send};
pub(crate) use load::{Answer, Load};
pub(crate) use order::{assert_first_come_first_served, jetstream, queue_holds, queued};
pub(crate) use process::{program, worker_process};
pub(crate) use raw::{Raw, RawReply, json_request};
pub(crate) use system::{PARTITIONS, Setup, System, a_coupon_per_partition, partition_of};
pub(crate) use test::{LIMIT, eventually, open_folder, run};
