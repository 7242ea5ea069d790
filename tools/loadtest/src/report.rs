//! What a run has given, for people and for programs.

mod json;
mod number;
mod plots;
mod progress;
mod table;

pub use json::json;
pub use number::{count, ms, rate};
pub use plots::{Bars, bars, latency, throughput};
pub use progress::Progress;
pub use table::table;
