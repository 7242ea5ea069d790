//! What the clients of a run saw, as JSON lines.
//!
//! Every request is one line with its start, end and answer. Faults, the beginning of a round, the moment it
//! was healed and its final state are lines of the same file, so one file is all that a later check needs.

mod event;
mod file;
mod op;
mod round;
mod state;

pub use event::{Event, EventKind};
pub use file::{HistoryError, Reader, Writer};
pub use op::{Answer, CouponView, Endpoint, Failure, Op, OpId, Response, Verdict};
pub use round::{Entry, Round};
pub use state::{
    Claim, ClaimRow, CouponRow, FinalState, Gauge, Journal, LogLine, Message, PartitionEnd, Queue, Session,
};

pub(crate) use round::RoundBuilder;
