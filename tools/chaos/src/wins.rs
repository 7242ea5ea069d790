//! How long partitions handed nothing out, from the claims that won.

use std::collections::BTreeMap;
use std::ops::Range;

/// A claim that won. A refusal may be known without the queue; a win is not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Win {
    pub(crate) partition: u32,
    pub(crate) start_us: u64,
    pub(crate) end_us: u64,
}

/// How long the slowest partition took from that moment to its first win of a claim that started after it.
pub(crate) fn recovery_us(wins: impl Iterator<Item = Win>, from_us: u64) -> Option<u64> {
    let mut first: BTreeMap<u32, u64> = BTreeMap::new();
    for win in wins.filter(|win| win.start_us >= from_us) {
        let first_us = first.entry(win.partition).or_insert(win.end_us);
        *first_us = win.end_us.min(*first_us);
    }
    first.into_values().max().map(|end_us| end_us - from_us)
}

/// The longest time between two wins of the same partition of which the later one is within the bounds.
pub(crate) fn longest_gap_us(wins: impl Iterator<Item = Win>, within: Range<u64>) -> Option<u64> {
    let mut ends: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for win in wins {
        ends.entry(win.partition).or_default().push(win.end_us);
    }
    let gaps = ends.into_values().filter_map(|mut ends| {
        ends.sort_unstable();
        let pairs = ends.windows(2).filter(|pair| within.contains(&pair[1]));
        pairs.map(|pair| pair[1] - pair[0]).max()
    });
    gaps.max()
}
