//! How many partitions each living worker should have.

use uuid::Uuid;

/// The share of `worker` among the `living`, which all workers list in the same order: shares differ by at most one and
/// add up to `partitions`. A worker that is not listed has none.
pub(crate) fn of(worker: Uuid, living: &[Uuid], partitions: usize) -> usize {
    let Some(rank) = living.iter().position(|id| *id == worker) else { return 0 };
    partitions / living.len() + usize::from(rank < partitions % living.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_complete() {
        for partitions in [1, 2, 8, 13] {
            for workers in 1..20_u128 {
                let living: Vec<_> = (0..workers).map(Uuid::from_u128).collect();
                let shares: Vec<_> = living.iter().map(|id| of(*id, &living, partitions)).collect();
                assert_eq!(shares.iter().sum::<usize>(), partitions);
                assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            }
        }
        assert_eq!(of(Uuid::from_u128(9), &[Uuid::from_u128(1)], 8), 0);
    }
}
