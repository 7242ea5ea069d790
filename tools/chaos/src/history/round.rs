//! One round, as the checker takes it.

use super::entry::{Entry, Event, Happening, Op};
use crate::state::FinalState;

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
    /// What the round left behind.
    pub state: FinalState,
}

impl Round {
    /// When the last fault was over, if that was recorded.
    pub fn healed_us(&self) -> Option<u64> {
        self.events
            .iter()
            .rev()
            .find(|event| matches!(event.happening, Happening::RoundHealed { .. }))
            .map(|event| event.at_us)
    }
}

/// Gathers entries into rounds: one starts with its first event and is whole with its final state.
#[derive(Debug, Default)]
pub struct RoundBuilder {
    round: Round,
    /// Rounds that were followed by another before they were whole.
    cut_off: Vec<u32>,
}

impl RoundBuilder {
    /// Takes one entry, and gives the round that it completes.
    pub fn add(&mut self, entry: Entry) -> Option<Round> {
        match entry {
            Entry::Op(op) => self.round.ops.push(*op),
            Entry::Event(event) => {
                if let Happening::RoundBegin { round, seed } = event.happening {
                    // What a round left that was never finished belongs to no round that can be checked.
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

    /// The rounds that have begun and are not whole.
    pub fn unfinished(&self) -> Vec<u32> {
        let begun = Some(self.round.number).filter(|number| *number > 0);
        self.cut_off.iter().copied().chain(begun).collect()
    }
}
