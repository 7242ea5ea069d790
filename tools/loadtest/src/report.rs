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

/// The percentiles shown everywhere.
pub const PERCENTILES: [(f64, &str); 6] =
    [(50.0, "p50"), (90.0, "p90"), (95.0, "p95"), (99.0, "p99"), (99.9, "p99.9"), (99.99, "p99.99")];
