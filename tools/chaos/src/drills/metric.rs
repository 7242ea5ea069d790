//! What drills measure, and the limits.

use std::collections::BTreeMap;

use super::drill::Drill;
use crate::times::Times;

/// A metric of a drill, in milliseconds unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// The longest time in which a partition that changed hands handed nothing out.
    MovedGap,
    /// The same of the partitions that kept their owners.
    OthersGap,
    /// The same of all partitions before the fault: what is normal.
    NormalGap,
    /// From the server's return to a win in every partition, by a claim that began after it.
    Recovery,
    /// How long claims took that began while the server was away.
    AwayP99,
    AwayMedian,
    /// Answers of that time that were neither 503 with `Retry-After` nor 200 or 202, a count.
    AwayOdd,
    /// From the fault until no API is ready.
    Unready,
    /// From the server's return until every API is ready.
    Ready,
    /// By how many KiB an API grew while the server was away.
    GrownKib,
}

/// All samples of the metrics.
pub(crate) type Metrics = BTreeMap<(Drill, Metric), Times>;

impl Metric {
    pub(super) const ALL: [Self; 10] = [
        Self::MovedGap,
        Self::OthersGap,
        Self::NormalGap,
        Self::Recovery,
        Self::AwayP99,
        Self::AwayMedian,
        Self::AwayOdd,
        Self::Unready,
        Self::Ready,
        Self::GrownKib,
    ];

    /// Its name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MovedGap => "longest gap, partitions that moved",
            Self::OthersGap => "longest gap, all other partitions",
            Self::NormalGap => "longest gap before",
            Self::Recovery => "claims succeed after its return",
            Self::AwayP99 => "answer while away, 99th percentile",
            Self::AwayMedian => "answer while away, median",
            Self::AwayOdd => "answers while away without Retry-After (count)",
            Self::Unready => "unready after",
            Self::Ready => "ready after its return",
            Self::GrownKib => "API's memory grew (KiB)",
        }
    }

    /// What the worst of all repetitions must not exceed; each must have measured it. The answers while
    /// a server is paused have no limit: that has to be noticed first.
    pub(super) fn limit(self, drill: Drill) -> Option<f64> {
        match (drill, self) {
            (Drill::WorkerKilled, Self::MovedGap) => Some(3_000.0),
            (Drill::WorkerStopped | Drill::WorkerJoined, Self::MovedGap) => Some(200.0),
            (Drill::Killed(_) | Drill::Paused(_), Self::Recovery) => Some(3_000.0),
            (Drill::Killed(_) | Drill::Paused(_), Self::Unready | Self::Ready) => Some(2_000.0),
            (Drill::Killed(_) | Drill::Paused(_), Self::GrownKib) => Some(8_192.0),
            (Drill::Killed(_), Self::AwayP99) => Some(100.0),
            (Drill::Killed(_), Self::AwayOdd) => Some(0.0),
            _ => None,
        }
    }
}
