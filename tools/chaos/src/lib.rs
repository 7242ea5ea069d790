//! Tries to break the promises of the coupon system on real processes, and proves whether it did.
//!
//! Three parts, none of which trusts another:
//!
//! - what happens to the system: [`schedule`] decides from a seed which faults strike when, [`faults`] carries
//!   them out on the processes of a [`cluster`] and on the connections between them, through a [`proxy`] each;
//! - what its clients saw: [`clients`] send requests and [`record`] every one of them, and every fault, in a
//!   [`history`];
//! - whether that is allowed: [`checker`] compares a round's history with the [`state`] it left behind.
//!   It is a pure function, so a recorded history can be checked again later, by another version of it.
//!
//! [`run`] does all of it round by round, and [`report`] says the result in figures. [`drills`] measure how
//! long recovery takes, one fault at a time.

pub mod checker;
pub mod clients;
pub mod cluster;
pub mod drills;
pub mod faults;
pub mod history;
pub mod proxy;
pub mod record;
pub mod report;
pub mod run;
pub mod schedule;
pub mod state;
