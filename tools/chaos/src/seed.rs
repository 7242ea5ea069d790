//! Random generators that follow from a run's seed.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// One of the generators of a run: the same seed and number always draw the same.
pub(crate) fn generator(seed: u64, number: u64) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    StdRng::from_seed(bytes)
}
