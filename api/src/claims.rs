//! The way of a claim: from the request through the queue to its answer.

pub(crate) mod dispatcher;
pub(crate) mod inbox;
pub(crate) mod pacing;
pub mod receipt;
pub(crate) mod refusals;
pub(crate) mod resolve;
