//! The whole system on real servers: what clients are promised, and what holds when parts of it
//! misbehave, are killed or come and go.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod harness;

mod by_hand;
mod cluster;
mod connections;
mod contract;
mod documents;
mod faults;
mod hostile;
mod leases;
mod lifecycle;
mod ops;
mod permissions;
mod planner;
mod private_servers;
mod process;
mod proof;
mod races;
mod roles;
mod sessions;
mod unread;
mod version;
