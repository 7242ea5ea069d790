//! The active rules of a link, and what they do to a piece of data.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch;

use super::frame::Frame;
use super::rule::{Direction, OnHeal, Rule};

/// The budget of a [`Rule::CutAfter`] that has acted. A budget of 0 cuts before the next byte.
const SPENT: u64 = u64::MAX;

/// An active rule, to remove it and to see how often it affected something under way.
#[derive(Debug, Clone)]
pub(crate) struct RuleHandle {
    id: u64,
    hits: Arc<AtomicU64>,
}

impl RuleHandle {
    /// How often the rule affected something: a connection, a frame, or a piece of data.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Active {
    rule: Rule,
    handle: RuleHandle,
    /// See [`Rule::budget`].
    left: AtomicU64,
}

impl Active {
    fn hit(&self) {
        self.handle.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Uses up one of the times the rule may act.
    fn spend_one(&self) -> bool {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.inspect(|_| self.hit()).is_ok()
    }

    /// Undoes [`Self::spend_one`]. False if there is nothing to undo.
    fn give_back_one(&self) -> bool {
        let hits = &self.handle.hits;
        let hit = hits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |hits| hits.checked_sub(1));
        hit.inspect(|_| _ = self.left.fetch_add(1, Ordering::Relaxed)).is_ok()
    }
}

/// Where a connection ends, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CutAt {
    /// Bytes of the data about to be written that still arrive.
    pub(super) bytes: usize,
    pub(super) reset: bool,
}

#[derive(Debug, Default)]
pub(super) struct ActiveRules {
    rules: watch::Sender<Vec<Active>>,
    next_id: AtomicU64,
}

impl ActiveRules {
    pub(super) fn add(&self, rule: Rule) -> RuleHandle {
        let handle = RuleHandle { id: self.next_id.fetch_add(1, Ordering::Relaxed), hits: Arc::default() };
        let active = Active { handle: handle.clone(), left: AtomicU64::new(rule.budget()), rule };
        self.rules.send_modify(|rules| rules.push(active));
        handle
    }

    pub(super) fn remove(&self, handle: &RuleHandle) {
        self.rules.send_modify(|rules| rules.retain(|active| active.handle.id != handle.id));
    }

    pub(super) fn clear(&self) {
        self.rules.send_modify(Vec::clear);
    }

    /// Reports every change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<impl Send + Sync + use<>> {
        self.rules.subscribe()
    }

    fn find<T>(&self, effect: impl FnMut(&Active) -> Option<T>) -> Option<T> {
        self.rules.borrow().iter().find_map(effect)
    }

    fn any(&self, effect: impl Fn(&Active) -> bool) -> bool {
        self.rules.borrow().iter().any(effect)
    }

    /// Whether new connections are refused. Counts as a hit.
    pub(super) fn refuses(&self) -> bool {
        self.find(|active| (active.rule == Rule::Refuse).then(|| active.hit())).is_some()
    }

    /// Whether bytes are written one at a time. Counts as a hit.
    pub(super) fn slices(&self) -> bool {
        self.find(|active| (active.rule == Rule::Slice).then(|| active.hit())).is_some()
    }

    /// The delay of a piece of data. Counts as a hit.
    pub(super) fn delay(&self) -> Option<Duration> {
        let rules = self.rules.borrow();
        let delays = rules.iter().filter_map(|active| match active.rule {
            Rule::Delay { min, max } => {
                active.hit();
                Some(rand::rng().random_range(min..=max.max(min)))
            }
            _ => None,
        });
        delays.reduce(|sum, delay| sum + delay)
    }

    /// Whether a black hole holds this direction, and what it does to the connection when it ends. With `count`
    /// that counts as a hit.
    pub(super) fn black_hole(&self, way: Direction, count: bool) -> Option<OnHeal> {
        let rules = self.rules.borrow();
        let holes = rules.iter().filter_map(|active| match active.rule {
            Rule::BlackHole { direction, on_heal } if direction == way => {
                if count {
                    active.hit();
                }
                Some(on_heal)
            }
            _ => None,
        });
        holes.reduce(|first, on_heal| if on_heal == OnHeal::Cut { on_heal } else { first })
    }

    /// Counts bytes that are about to be written, and says after how many of them the connection is cut.
    pub(super) fn spend(&self, way: Direction, bytes: usize) -> Option<CutAt> {
        let rules = self.rules.borrow();
        let cuts = rules.iter().filter_map(|active| match active.rule {
            Rule::CutAfter { direction, reset, .. } if direction == way => {
                let spend =
                    |left: u64| (left != SPENT).then(|| left.checked_sub(bytes as u64).unwrap_or(SPENT));
                let before = active.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
                // The budget ended within these bytes, and nobody else saw that.
                let left = before.ok().filter(|left| *left < bytes as u64)?;
                active.hit();
                Some(CutAt { bytes: left as usize, reset })
            }
            _ => None,
        });
        cuts.min_by_key(|cut| cut.bytes)
    }

    /// Whether the answer to a commit that was just seen is to be discarded.
    pub(super) fn loses_commit_answer(&self) -> bool {
        self.any(|active| matches!(active.rule, Rule::CommitAnswerLost { .. }) && active.spend_one())
    }

    /// Gives back what [`Self::loses_commit_answer`] used up for a statement that failed.
    pub(super) fn restore_commit_answer(&self) {
        // A rule that was removed meanwhile gets nothing back.
        self.any(|active| matches!(active.rule, Rule::CommitAnswerLost { .. }) && active.give_back_one());
    }

    /// Whether a frame is to be discarded.
    pub(super) fn loses(&self, way: Direction, frame: &Frame) -> bool {
        self.any(|active| match &active.rule {
            Rule::FramesLost { direction, matcher, one_in, .. } => {
                *direction == way
                    && frame.matches(matcher)
                    && rand::rng().random_ratio(1, (*one_in).max(1))
                    && active.spend_one()
            }
            _ => false,
        })
    }

    /// For how long a frame is to be held.
    pub(super) fn holds(&self, way: Direction, frame: &Frame) -> Option<Duration> {
        self.find(|active| match &active.rule {
            Rule::FramesHeld { direction, matcher, hold } if *direction == way && frame.matches(matcher) => {
                active.hit();
                Some(*hold)
            }
            _ => None,
        })
    }

    /// Whether any rule holds frames of this direction.
    pub(super) fn holds_any(&self, way: Direction) -> bool {
        self.any(|active| matches!(active.rule, Rule::FramesHeld { direction, .. } if direction == way))
    }
}
