//! Rounds with faults of one kind, which the others would hide.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use super::fault::Fault;
use super::target::{Process, Target};

/// A kind of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Theme {
    /// Owners that are replaced and do not know it.
    Ownership,
    /// Commits whose outcome is in doubt.
    Commits,
    /// Partitions that change hands while little is queued, so that queues are applied to their ends and purged.
    HandOver,
}

impl Theme {
    pub(crate) const ALL: &[Self] = &[Self::Ownership, Self::Commits, Self::HandOver];

    /// None of them takes messages from a queue.
    pub(super) fn faults(self) -> &'static [Fault] {
        match self {
            Self::Ownership => &[
                Fault::PauseWorker,
                Fault::PartitionBoth,
                Fault::PartitionOneWay,
                Fault::KillWorker,
                Fault::PausePostgres,
                Fault::WorkersComeAndGo,
                Fault::Delays,
                Fault::Refused,
            ],
            Self::Commits => &[
                Fault::CommitAnswerLost,
                Fault::PostgresCut,
                Fault::KillWorker,
                Fault::ReplyLost,
                Fault::KillPostgres,
                Fault::PublishAckLost,
                Fault::MessagesDuplicated,
            ],
            Self::HandOver => {
                &[Fault::WorkersComeAndGo, Fault::RollingRestart, Fault::KillWorker, Fault::PauseWorker]
            }
        }
    }

    /// Whether a fault of this theme may be injected there. Owners are replaced when workers are cut off.
    pub(super) fn includes(self, target: Target) -> bool {
        match (self, target) {
            (Self::Ownership | Self::HandOver, Target::Link(process, _)) => {
                matches!(process, Process::Worker(_))
            }
            _ => true,
        }
    }

    /// Whether only a few clients claim.
    pub(crate) fn has_little_load(self) -> bool {
        self == Self::HandOver
    }
}

impl fmt::Display for Theme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Which rounds of a run have a theme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Themes {
    /// None: all faults in all rounds.
    None,
    /// Every third round, with each theme in turn.
    InTurn,
    /// All rounds have this one.
    Only(Theme),
}

/// Every so many rounds one has a theme.
const EVERY: u32 = 3;

impl Themes {
    /// The theme of a round, and how many rounds of that kind came before it.
    pub(crate) fn of(self, number: u32) -> (Option<Theme>, usize) {
        let themes = Theme::ALL.len() as u32;
        match self {
            Self::None => (None, number.saturating_sub(1) as usize),
            Self::Only(theme) => (Some(theme), number.saturating_sub(1) as usize),
            Self::InTurn if number.is_multiple_of(EVERY) => {
                let themed = (number / EVERY).saturating_sub(1);
                (Some(Theme::ALL[(themed % themes) as usize]), (themed / themes) as usize)
            }
            Self::InTurn => (None, (number - number / EVERY).saturating_sub(1) as usize),
        }
    }
}
