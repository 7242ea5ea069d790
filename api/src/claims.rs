//! The way of a claim: from the request through the queue to its answer.
//!
//! In reading order: [`dispatcher`] takes a claim in, [`refusals`] answers what needs no queue, [`publisher`] makes
//! messages of the rest at the pace of [`pacing`], [`inbox`] waits for the workers' replies, [`overdue`] gives up
//! waiting, [`resolve`] asks Postgres instead, and [`receipt`] says what that proves. [`health`] watches both servers.
//! [`pipeline`] starts and stops them all; [`answer`], [`waiter`], [`cursors`] and [`batch`] are what they hand to each other.

pub mod answer;
pub(crate) mod availability;
pub(crate) mod batch;
pub(crate) mod cursors;
pub(crate) mod dispatcher;

pub(crate) mod inbox;
pub(crate) mod overdue;
pub(crate) mod pacing;
pub(crate) mod pipeline;
pub(crate) mod publisher;
pub mod receipt;
pub(crate) mod refusals;
pub(crate) mod resolve;
pub(crate) mod waiter;
