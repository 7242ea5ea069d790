//! Tests the promises of the coupon system on real processes while faults are injected.
//!
//! Three parts, each independent of the others:
//!
//! - what happens to the system: `schedule` decides from a seed which faults are injected when, `faults` carries
//!   them out on the processes of a `cluster` and on the connections between them, through a `proxy` each;
//! - what its clients saw: `clients` send requests, and `record` writes each of them, and each fault, to a
//!   [`history`];
//! - whether that is allowed: [`checker`] compares a round's history with the state at its end (`inspect`).
//!   It is a pure function, so a recorded history can be checked again later, by another version of it.
//!
//! `run` does all of it round by round, and `report` says the result in figures. `skew` mixes processes of two
//! versions in such rounds. `drills` measure how long recovery takes, one fault at a time.

pub mod args;
pub mod checker;
mod clients;
mod cluster;
pub mod commands;
mod drills;
mod faults;
pub mod history;
mod inspect;
mod proxy;
mod record;
mod report;
mod run;
mod schedule;
mod seed;
mod skew;
mod table;
mod times;
mod wins;
