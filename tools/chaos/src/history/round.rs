//! The lines of a history, gathered into rounds for the checker.

use serde::{Deserialize, Serialize};

use super::event::{Event, EventKind};
use super::op::Op;
use super::state::FinalState;

/// One line of a history file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Entry {
    /// A request and how it ended.
    Op(Box<Op>),
    /// Something that happened to the system.
    Event(Event),
    /// The state after all faults were healed and every client had its outcome; ends the round.
    State(Box<FinalState>),
}

/// Everything recorded of one round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Round {
    /// Its number, from 1.
    pub number: u32,
    /// The seed of the run.
    pub seed: u64,
    /// The requests, in the order in which they ended.
    pub ops: Vec<Op>,
    /// What happened to the system.
    pub events: Vec<Event>,
    /// The state it ended in.
    pub state: FinalState,
}

impl Round {
    /// When the last fault was over, if that was recorded.
    pub fn healed_us(&self) -> Option<u64> {
        let healed = |event: &&Event| matches!(event.kind, EventKind::RoundHealed { .. });
        self.events.iter().rfind(healed).map(|event| event.at_us)
    }

    /// When every queue was seen to be applied to its end after the last request for a claim.
    pub fn quiet_us(&self) -> Option<u64> {
        let quiet = |event: &&Event| matches!(event.kind, EventKind::RoundQuiet { .. });
        self.events.iter().rfind(quiet).map(|event| event.at_us)
    }
}

/// Gathers entries into rounds: one starts with its `RoundBegin` and is complete with its final state.
#[derive(Debug, Default)]
pub(crate) struct RoundBuilder {
    round: Round,
    /// Rounds that were followed by another before they were complete.
    cut_off: Vec<u32>,
}

impl RoundBuilder {
    /// Adds one entry. Returns the round that it completes.
    pub(crate) fn add(&mut self, entry: Entry) -> Option<Round> {
        match entry {
            Entry::Op(op) => self.round.ops.push(*op),
            Entry::Event(event) => {
                if let EventKind::RoundBegin { round, seed } = event.kind {
                    // An unfinished round before this one cannot be checked.
                    self.cut_off = self.unfinished();
                    self.round = Round { number: round, seed, ..Round::default() };
                }
                self.round.events.push(event);
            }
            Entry::State(state) => {
                self.round.state = *state;
                return Some(std::mem::take(&mut self.round));
            }
        }
        None
    }

    /// The requests of the round under way.
    pub(crate) fn ops(&self) -> &[Op] {
        &self.round.ops
    }

    /// The rounds that have begun and are not complete.
    pub(crate) fn unfinished(&self) -> Vec<u32> {
        let begun = Some(self.round.number).filter(|number| *number > 0);
        self.cut_off.iter().copied().chain(begun).collect()
    }
}
