//! What each user was told, to be compared with what the API shows afterwards.

use super::plan::Ask;

/// A claim that was answered with a win.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Win {
    /// Who won what.
    pub ask: Ask,
    /// The claim's number in its coupon, when the answer told it.
    pub position: Option<u32>,
}

/// The outcomes of a run. It grows by some 12 bytes for each request, but for those that are refused for lack of stock
/// where nobody asks twice.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Every answer that said "claimed", in the order of arrival at one thread.
    pub wins: Vec<Win>,
    /// Every answer that said "claimed already".
    pub already_claimed: Vec<Ask>,
    /// For each coupon, how many were told that it is gone.
    pub sold_out: Vec<u64>,
    /// Who was told so, if [`Drive::keeps_refused`](super::Drive::keeps_refused).
    pub refused: Vec<Ask>,
    /// Requests whose outcome was never learned: broken off, or "try again" until the end.
    pub unknown: Vec<Ask>,
    /// Requests with an answer outside the contract.
    pub unexpected: Vec<Ask>,
}

impl Ledger {
    /// An empty one for this many coupons.
    pub fn new(coupons: usize) -> Self {
        Self { sold_out: vec![0; coupons], ..Self::default() }
    }

    /// Adds what another thread wrote down.
    pub fn merge(&mut self, other: Self) {
        self.wins.extend(other.wins);
        self.already_claimed.extend(other.already_claimed);
        self.refused.extend(other.refused);
        self.unknown.extend(other.unknown);
        self.unexpected.extend(other.unexpected);
        for (own, other) in self.sold_out.iter_mut().zip(other.sold_out) {
            *own += other;
        }
    }
}
