//! Ranks drawn by Zipf's law: a few coupons that everybody wants and a long tail.

/// Draws ranks `0..n`, rank `r` with a probability proportional to `1 / (r + 1)^skew`.
///
/// Walker's alias method in Vose's form: each rank owns a cell which it shares with at most one other,
/// so that a draw is one look-up however many ranks there are.
#[derive(Debug)]
pub(super) struct Zipf {
    cells: Vec<Cell>,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    /// The cell's own rank wins below this, of 2^32.
    own_below: u64,
    other: u32,
}

impl Zipf {
    /// Prepares `ranks` ranks (at least one). A skew of 0 makes all equally likely.
    #[must_use]
    pub(super) fn new(ranks: u32, skew: f64) -> Self {
        let weights = (1..=ranks.max(1)).map(|rank| f64::from(rank).powf(-skew)).collect::<Vec<_>>();
        let scale = f64::from(ranks.max(1)) / weights.iter().sum::<f64>();
        // Each cell has room for one; what a likely rank has too much fills up the cells of unlikely ones.
        let mut shares = weights.iter().map(|weight| weight * scale).collect::<Vec<_>>();
        let mut cells = (0..ranks.max(1)).map(|other| Cell { own_below: 1 << 32, other }).collect::<Vec<_>>();
        let (mut poor, mut rich): (Vec<_>, Vec<_>) = (0..cells.len()).partition(|&rank| shares[rank] < 1.0);
        while let (Some(&giver), Some(taker)) = (rich.last(), poor.pop()) {
            let Ok(other) = u32::try_from(giver) else { break };
            cells[taker] = Cell { own_below: fraction(shares[taker]), other };
            shares[giver] -= 1.0 - shares[taker];
            if shares[giver] < 1.0 {
                rich.pop();
                poor.push(giver);
            }
        }
        Self { cells }
    }

    /// The rank for 64 evenly distributed random bits.
    #[must_use]
    pub(super) fn rank(&self, random: u64) -> u32 {
        let own = ((random >> 32) * self.cells.len() as u64) >> 32;
        let own = u32::try_from(own).unwrap_or_default();
        let cell = self.cells[own as usize];
        if random & u64::from(u32::MAX) < cell.own_below { own } else { cell.other }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares lie between 0 and 1")]
fn fraction(share: f64) -> u64 {
    (share * 2f64.powi(32)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::plan::mix;

    fn frequencies(ranks: u32, skew: f64) -> Vec<f64> {
        let zipf = Zipf::new(ranks, skew);
        let draws = 400_000u32;
        let mut seen = vec![0u32; ranks as usize];
        for draw in 0..draws {
            seen[zipf.rank(mix(u64::from(draw))) as usize] += 1;
        }
        seen.iter().map(|&count| f64::from(count) / f64::from(draws)).collect()
    }

    #[test]
    fn ranks_are_as_frequent_as_the_law_says() {
        for (ranks, skew) in [(1, 1.0), (7, 0.0), (50, 1.0), (1000, 0.8), (1000, 1.4)] {
            let total: f64 = (1..=ranks).map(|rank| f64::from(rank).powf(-skew)).sum();
            for (rank, seen) in (1..=ranks).zip(frequencies(ranks, skew)) {
                let expected = f64::from(rank).powf(-skew) / total;
                // Five standard deviations of a count, as a share.
                let tolerance = 5.0 * (expected / 400_000.0).sqrt();
                assert!((seen - expected).abs() <= tolerance, "rank {rank} of {ranks}, skew {skew}: {seen}");
            }
        }
    }
}
