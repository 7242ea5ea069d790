//! The rules in force on a link, and what they make of a piece of data.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt;
use tokio::sync::watch;

use super::frame::Frame;
use super::rule::{Imposed, OnHeal, Rule, Way};

/// Marks a budget that is used up, apart from one that allows zero further bytes.
const SPENT: u64 = u64::MAX;

#[derive(Debug, Clone)]
struct Active {
    id: u64,
    rule: Rule,
    hits: Arc<AtomicU64>,
    left: Arc<AtomicU64>,
}

impl Active {
    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Uses up one of the times the rule may strike.
    fn strike(&self) -> bool {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_ok() {
            self.hit();
        }
        left.is_ok()
    }

    /// Takes a strike back that hit nothing in the end.
    fn take_back(&self) -> bool {
        let hits = self.hits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |hits| hits.checked_sub(1));
        if hits.is_ok() {
            self.left.fetch_add(1, Ordering::Relaxed);
        }
        hits.is_ok()
    }
}

/// Where a connection ends, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CutAt {
    /// Bytes of the piece at hand that still arrive.
    pub(super) bytes: usize,
    pub(super) reset: bool,
}

/// See the module's description. Readers take a snapshot by a cheap clone, and can wait for a change.
#[derive(Debug)]
pub(super) struct Board {
    rules: watch::Sender<Arc<Vec<Active>>>,
    next_id: AtomicU64,
}

impl Board {
    pub(super) fn new() -> Self {
        Self { rules: watch::Sender::new(Arc::default()), next_id: AtomicU64::new(0) }
    }

    pub(super) fn impose(&self, rule: Rule) -> Imposed {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let hits = Arc::new(AtomicU64::new(0));
        let left = Arc::new(AtomicU64::new(rule.budget()));
        let active = Active { id, rule, hits: Arc::clone(&hits), left };
        self.rules.send_modify(|rules| Arc::make_mut(rules).push(active));
        Imposed { id, hits }
    }

    pub(super) fn lift(&self, imposed: &Imposed) {
        self.rules.send_modify(|rules| Arc::make_mut(rules).retain(|active| active.id != imposed.id));
    }

    pub(super) fn clear(&self) {
        self.rules.send_modify(|rules| *rules = Arc::default());
    }

    /// Tells of every change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<impl Send + Sync + use<>> {
        self.rules.subscribe()
    }

    fn rules(&self) -> Arc<Vec<Active>> {
        Arc::clone(&self.rules.borrow())
    }

    /// Whether new connections are refused. Counts as a hit.
    pub(super) fn refuses(&self) -> bool {
        let rules = self.rules();
        let refusing = rules.iter().find(|active| active.rule == Rule::Refuse);
        refusing.inspect(|active| active.hit()).is_some()
    }

    /// The delay of a piece of data, if any. Counts as a hit.
    pub(super) fn delay(&self) -> Option<Duration> {
        let mut delay = None;
        for active in self.rules().iter() {
            if let Rule::Delay { min, max } = active.rule {
                active.hit();
                let drawn = rand::rng().random_range(min..=max.max(min));
                delay = Some(delay.map_or(drawn, |delay: Duration| delay + drawn));
            }
        }
        delay
    }

    /// Whether a hole is open for this direction, and what it does to the connection when it ends.
    pub(super) fn hole(&self, way: Way) -> Option<OnHeal> {
        let rules = self.rules();
        let mut holes = rules.iter().filter_map(|active| match active.rule {
            Rule::Hole { way: of, on_heal } if of == way => Some(on_heal),
            _ => None,
        });
        let first = holes.next()?;
        Some(if holes.any(|on_heal| on_heal == OnHeal::Cut) { OnHeal::Cut } else { first })
    }

    /// Counts a piece of data that a hole holds.
    pub(super) fn hit_hole(&self, way: Way) {
        for active in self.rules().iter() {
            if matches!(active.rule, Rule::Hole { way: of, .. } if of == way) {
                active.hit();
            }
        }
    }

    /// Whether bytes are written one at a time. Counts as a hit.
    pub(super) fn slices(&self) -> bool {
        let rules = self.rules();
        let slicing = rules.iter().find(|active| active.rule == Rule::Slice);
        slicing.inspect(|active| active.hit()).is_some()
    }

    /// Counts bytes that are about to be written, and says after how many of them the connection is cut.
    pub(super) fn spend(&self, way: Way, bytes: usize) -> Option<CutAt> {
        let mut cut: Option<CutAt> = None;
        for active in self.rules().iter() {
            let Rule::CutAfter { way: of, reset, .. } = active.rule else { continue };
            if of != way {
                continue;
            }
            let before = active.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
                SPENT => None,
                left => Some(left.checked_sub(bytes as u64).unwrap_or(SPENT)),
            });
            // The budget was used up within these bytes, by us and nobody else.
            if let Ok(left) = before
                && left < bytes as u64
            {
                active.hit();
                let at = CutAt { bytes: left as usize, reset };
                if cut.is_none_or(|cut| at.bytes < cut.bytes) {
                    cut = Some(at);
                }
            }
        }
        cut
    }

    /// Whether the answer to a commit that was just seen is to be discarded.
    pub(super) fn loses_commit_answer(&self) -> bool {
        self.rules()
            .iter()
            .any(|active| matches!(active.rule, Rule::CommitAnswerLost { .. }) && active.strike())
    }

    /// Gives back what [`Self::loses_commit_answer`] used up for a statement that failed.
    pub(super) fn spares_commit_answer(&self) {
        // A rule that was lifted meanwhile has nothing to get back.
        self.rules()
            .iter()
            .any(|active| matches!(active.rule, Rule::CommitAnswerLost { .. }) && active.take_back());
    }

    /// Whether a frame is to be discarded.
    pub(super) fn loses(&self, way: Way, frame: &Frame) -> bool {
        self.rules().iter().any(|active| match &active.rule {
            Rule::FramesLost { way: of, matcher, .. } => {
                *of == way && frame.matches(matcher) && active.strike()
            }
            _ => false,
        })
    }

    /// For how long a frame is to be held.
    pub(super) fn holds(&self, way: Way, frame: &Frame) -> Option<Duration> {
        let rules = self.rules();
        rules.iter().find_map(|active| match &active.rule {
            Rule::FramesHeld { way: of, matcher, hold } if *of == way && frame.matches(matcher) => {
                active.hit();
                Some(*hold)
            }
            _ => None,
        })
    }

    /// Whether any rule holds frames of this direction.
    pub(super) fn holds_any(&self, way: Way) -> bool {
        self.rules().iter().any(|active| matches!(active.rule, Rule::FramesHeld { way: of, .. } if of == way))
    }
}
