//! The generations of a stream: each time it loses messages, it reuses sequence numbers.

use std::collections::{BTreeMap, VecDeque};

use crate::history::{Claim, Message};

/// How a stream lost messages. (A stream that is deleted needs no mention: its successor counts from 1.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// All messages up to a sequence number were purged.
    /// `before_ns` is before the number was read, `at_ns` after the messages were gone.
    Purged { before_ns: u64, at_ns: u64, last: u64 },
    /// The stream was set back to a copy.
    /// The server did not run while the copy was made and while it was put in place.
    Restored { copied_ns: u64, at_ns: u64 },
}

impl Loss {
    fn at_ns(&self) -> u64 {
        match self {
            Self::Purged { at_ns, .. } | Self::Restored { at_ns, .. } => *at_ns,
        }
    }

    /// Whether a message was stored after the loss.
    fn is_before(&self, at: &StoredAt) -> bool {
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
pub(super) struct StoredAt {
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

/// What a stream holds at some moment, as far as it was seen.
type Held<'a> = Vec<(StoredAt, &'a Content)>;

/// A stream while its history is replayed.
struct Stream<'a> {
    generation: u64,
    held: Held<'a>,
    /// All that it has held, generation by generation.
    written: Vec<Message>,
    /// Losses to come, and what the stream held when the copy was made that it was set back to.
    losses: VecDeque<(Loss, Option<Held<'a>>)>,
}

/// All that a stream held, generation by generation, and the number of the last generation.
pub(super) fn generations(
    messages: &BTreeMap<StoredAt, Content>,
    mut losses: Vec<Loss>,
) -> (Vec<Message>, u64) {
    losses.sort_by_key(Loss::at_ns);
    let losses = losses.into_iter().map(|loss| (loss, None)).collect();
    let mut stream = Stream { generation: 1, held: Vec::new(), written: Vec::new(), losses };
    for (at, content) in messages {
        stream.copy(at.stored_ns);
        while let Some((loss, copy)) = stream.losses.pop_front_if(|(loss, _)| loss.is_before(at)) {
            stream.lose(loss, copy);
        }
        if stream.held.last().is_some_and(|(last, _)| last.sequence >= at.sequence) {
            // Sequence numbers begin again without a known loss: the stream was deleted.
            let kept = stream.held.partition_point(|(held, _)| held.sequence < at.sequence);
            let kept = stream.held[..kept].to_vec();
            stream.begin(kept);
        }
        stream.hold(*at, content);
    }
    stream.copy(u64::MAX);
    while let Some((loss, copy)) = stream.losses.pop_front() {
        stream.lose(loss, copy);
    }
    (stream.written, stream.generation)
}

impl<'a> Stream<'a> {
    /// Remembers what is held for each copy that was made before this moment.
    fn copy(&mut self, now_ns: u64) {
        for (loss, copy) in &mut self.losses {
            if let Loss::Restored { copied_ns, .. } = loss
                && *copied_ns < now_ns
            {
                copy.get_or_insert_with(|| self.held.clone());
            }
        }
    }

    fn lose(&mut self, loss: Loss, copy: Option<Held<'a>>) {
        let mut kept = copy.unwrap_or_default();
        // What had been applied and purged before the copy was made did not come back with it.
        kept.retain(|(_, content)| content.sent_ns > loss.at_ns());
        self.begin(kept);
    }

    fn begin(&mut self, kept: Held<'a>) {
        self.generation += 1;
        self.held.clear();
        for (at, content) in kept {
            self.hold(at, content);
        }
    }

    fn hold(&mut self, at: StoredAt, content: &'a Content) {
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

    fn seen(messages: &[(u64, u64)]) -> BTreeMap<StoredAt, Content> {
        let at = |(stored_ns, sequence): &(u64, u64)| StoredAt { stored_ns: *stored_ns, sequence: *sequence };
        let content = || Content { sent_ns: u64::MAX, ..Content::default() };
        messages.iter().map(|message| (at(message), content())).collect()
    }

    fn replayed(messages: &[(u64, u64)], losses: &[Loss]) -> (Vec<(u64, u64)>, u64) {
        let (written, generation) = generations(&seen(messages), losses.to_vec());
        (written.iter().map(|message| (message.generation, message.sequence)).collect(), generation)
    }

    #[test]
    fn a_stream_that_loses_nothing_has_one_generation() {
        assert_eq!(replayed(&[(10, 4), (20, 5), (30, 6)], &[]), (vec![(1, 4), (1, 5), (1, 6)], 1));
        assert_eq!(replayed(&[], &[]), (vec![], 1));
    }

    #[test]
    fn a_new_stream_counts_from_one() {
        let both = (vec![(1, 4), (1, 5), (2, 1), (2, 2)], 2);
        assert_eq!(replayed(&[(10, 4), (20, 5), (30, 1), (40, 2)], &[]), both);
    }

    #[test]
    fn a_purge_begins_a_generation_after_the_last_number() {
        let loss = Loss::Purged { before_ns: 25, at_ns: 35, last: 5 };
        assert_eq!(replayed(&[(10, 4), (20, 5), (30, 6)], &[loss]), (vec![(1, 4), (1, 5), (2, 6)], 2));
        assert_eq!(replayed(&[(10, 4), (20, 5)], &[loss]), (vec![(1, 4), (1, 5)], 2));
    }

    #[test]
    fn a_copy_brings_back_what_was_held_when_it_was_made() {
        let loss = Loss::Restored { copied_ns: 25, at_ns: 45 };
        let stored = [(10, 1), (20, 2), (30, 3), (40, 4), (50, 3)];
        let all = vec![(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (2, 3)];
        assert_eq!(replayed(&stored, &[loss]), (all, 2));
        let nothing_after = vec![(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)];
        assert_eq!(replayed(&stored[..3], &[loss]), (nothing_after, 2));
    }

    #[test]
    fn a_copy_from_before_a_purge_brings_back_what_was_purged() {
        let purge = Loss::Purged { before_ns: 28, at_ns: 32, last: 2 };
        let restore = Loss::Restored { copied_ns: 25, at_ns: 45 };
        let stored = [(10, 1), (20, 2), (40, 3), (50, 3)];
        let all = vec![(1, 1), (1, 2), (2, 3), (3, 1), (3, 2), (3, 3)];
        assert_eq!(replayed(&stored, &[purge, restore]), (all, 3));
    }
}
