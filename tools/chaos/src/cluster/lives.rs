//! The lives of a stream: each time it loses messages, its sequence numbers begin to mean something else.

use std::collections::BTreeMap;

use crate::history::Claim;
use crate::state::Message;

/// How a stream lost messages. (A stream that is deleted needs no mention: its successor counts from 1.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All messages up to a sequence number were purged.
    Purged {
        /// Before the number was read.
        before_ns: u64,
        /// After they were gone.
        at_ns: u64,
        /// The number.
        last: u64,
    },
    /// The stream was set back to a copy.
    Restored {
        /// When the copy was made; the server did not run.
        copied_ns: u64,
        /// When it was put in place; the server did not run.
        at_ns: u64,
    },
}

impl Loss {
    fn at_ns(&self) -> u64 {
        match self {
            Self::Purged { at_ns, .. } | Self::Restored { at_ns, .. } => *at_ns,
        }
    }

    /// Whether a message was stored after the loss.
    fn is_before(&self, at: &At) -> bool {
        match self {
            Self::Purged { before_ns, at_ns, last } => {
                at.stored_ns > *at_ns || (at.sequence > *last && at.stored_ns > *before_ns)
            }
            Self::Restored { at_ns, .. } => at.stored_ns > *at_ns,
        }
    }
}

/// Where a message stands; in the order of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) stored_ns: u64,
    pub(super) sequence: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    /// When it was last sent to a worker.
    pub(super) sent_ns: u64,
    pub(super) batch_id: String,
    pub(super) claims: Vec<Claim>,
}

/// The lives of a stream, one after the other, each with all that it held.
struct Lives<'a> {
    generation: u64,
    /// What the stream holds at the moment, as far as it was seen.
    held: Vec<(At, &'a Content)>,
    written: Vec<Message>,
    /// For each loss by a copy: what the stream held when the copy was made.
    copies: Vec<Option<Vec<(At, &'a Content)>>>,
}

/// All that a stream held, life by life, and the number of the life that it is in.
pub(super) fn generations(messages: &BTreeMap<At, Content>, losses: &[Loss]) -> (Vec<Message>, u64) {
    let mut losses = losses.to_vec();
    losses.sort_by_key(Loss::at_ns);
    let mut lives =
        Lives { generation: 1, held: Vec::new(), written: Vec::new(), copies: vec![None; losses.len()] };
    let mut next = 0;
    for (at, content) in messages {
        lives.copy(&losses, at.stored_ns);
        while next < losses.len() && losses[next].is_before(at) {
            lives.lose(&losses[next], next);
            next += 1;
        }
        if lives.held.last().is_some_and(|(last, _)| last.sequence >= at.sequence) {
            // Numbered again without a word: the stream was made anew.
            let kept = lives.held.partition_point(|(held, _)| held.sequence < at.sequence);
            let kept = lives.held[..kept].to_vec();
            lives.begin(kept);
        }
        lives.hold(*at, content);
    }
    lives.copy(&losses, u64::MAX);
    for (number, loss) in losses.iter().enumerate().skip(next) {
        lives.lose(loss, number);
    }
    (lives.written, lives.generation)
}

impl<'a> Lives<'a> {
    /// Remembers what was held at the time of each copy that was made before this moment.
    fn copy(&mut self, losses: &[Loss], now_ns: u64) {
        for (number, loss) in losses.iter().enumerate() {
            if let Loss::Restored { copied_ns, .. } = loss
                && *copied_ns < now_ns
                && self.copies[number].is_none()
            {
                self.copies[number] = Some(self.held.clone());
            }
        }
    }

    fn lose(&mut self, loss: &Loss, number: usize) {
        let kept = match loss {
            Loss::Purged { .. } => Vec::new(),
            Loss::Restored { at_ns, .. } => {
                // What had been applied and purged before the copy was made did not come back with it.
                let mut kept = self.copies[number].clone().unwrap_or_default();
                kept.retain(|(_, content)| content.sent_ns > *at_ns);
                kept
            }
        };
        self.begin(kept);
    }

    fn begin(&mut self, kept: Vec<(At, &'a Content)>) {
        self.generation += 1;
        self.held.clear();
        for (at, content) in kept {
            self.hold(at, content);
        }
    }

    fn hold(&mut self, at: At, content: &'a Content) {
        self.held.push((at, content));
        self.written.push(Message {
            generation: self.generation,
            sequence: at.sequence,
            batch_id: content.batch_id.clone(),
            claims: content.claims.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(messages: &[(u64, u64)]) -> BTreeMap<At, Content> {
        let at = |(stored_ns, sequence): &(u64, u64)| At { stored_ns: *stored_ns, sequence: *sequence };
        let content = || Content { sent_ns: u64::MAX, ..Content::default() };
        messages.iter().map(|message| (at(message), content())).collect()
    }

    fn lives(messages: &[(u64, u64)], losses: &[Loss]) -> (Vec<(u64, u64)>, u64) {
        let (written, generation) = generations(&seen(messages), losses);
        (written.iter().map(|message| (message.generation, message.sequence)).collect(), generation)
    }

    #[test]
    fn a_stream_that_loses_nothing_has_one_life() {
        assert_eq!(lives(&[(10, 4), (20, 5), (30, 6)], &[]), (vec![(1, 4), (1, 5), (1, 6)], 1));
        assert_eq!(lives(&[], &[]), (vec![], 1));
    }

    #[test]
    fn a_stream_that_is_made_anew_counts_from_one() {
        let both = (vec![(1, 4), (1, 5), (2, 1), (2, 2)], 2);
        assert_eq!(lives(&[(10, 4), (20, 5), (30, 1), (40, 2)], &[]), both);
    }

    #[test]
    fn a_purge_begins_a_life_behind_the_last_number() {
        let loss = Loss::Purged { before_ns: 25, at_ns: 35, last: 5 };
        assert_eq!(lives(&[(10, 4), (20, 5), (30, 6)], &[loss]), (vec![(1, 4), (1, 5), (2, 6)], 2));
        assert_eq!(lives(&[(10, 4), (20, 5)], &[loss]), (vec![(1, 4), (1, 5)], 2));
    }

    #[test]
    fn a_copy_brings_back_what_was_held_when_it_was_made() {
        let loss = Loss::Restored { copied_ns: 25, at_ns: 45 };
        let stored = [(10, 1), (20, 2), (30, 3), (40, 4), (50, 3)];
        let all = vec![(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (2, 3)];
        assert_eq!(lives(&stored, &[loss]), (all, 2));
        let nothing_after = vec![(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)];
        assert_eq!(lives(&stored[..3], &[loss]), (nothing_after, 2));
    }

    #[test]
    fn a_copy_from_before_a_purge_brings_back_what_was_purged() {
        let purge = Loss::Purged { before_ns: 28, at_ns: 32, last: 2 };
        let restore = Loss::Restored { copied_ns: 25, at_ns: 45 };
        let stored = [(10, 1), (20, 2), (40, 3), (50, 3)];
        let all = vec![(1, 1), (1, 2), (2, 3), (3, 1), (3, 2), (3, 3)];
        assert_eq!(lives(&stored, &[purge, restore]), (all, 3));
    }
}
