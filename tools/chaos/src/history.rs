//! What the clients of a run saw, as JSON lines.
//!
//! Every request is one line with its start, its end and its answer. The faults, the beginning of each
//! round, the moment it was healed and what the round left behind are lines of the same file, so that one
//! file is all that a later check needs.

mod entry;
mod file;
mod round;

pub use entry::{
    Answer, Claim, CouponView, Endpoint, Entry, Event, Failure, Happening, Op, OpId, Response, Verdict,
};
pub use file::{HistoryError, Reader, Recorder, Writer};
pub use round::{Round, RoundBuilder};
