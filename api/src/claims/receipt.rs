//! Receipts: where a claim waits in the queue. A 202 hands one out, and it proves later that the claim was refused.

use common::ids::{ClaimId, CouponName, UserId};
use common::message::Outcome;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use uuid::Uuid;

use crate::store::ClaimState;

/// Generation of a receipt that proves nothing: real ones start at 1.
pub const UNPROVEN: i64 = 0;

/// All that RFC 3986 has percent-encoded.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a batch stands in its partition's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Receipt {
    /// The partition.
    pub partition: u32,
    /// The generation of its stream, or [`UNPROVEN`].
    pub generation: i64,
    /// The message's sequence number there.
    pub sequence: i64,
}

/// A receipt of one claim, as a `Location`'s query carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ClaimReceipt {
    /// The claim.
    pub claim_id: Uuid,
    /// See [`Receipt::partition`].
    pub partition: u32,
    /// See [`Receipt::generation`].
    pub generation: i64,
    /// See [`Receipt::sequence`].
    pub sequence: i64,
}

impl ClaimReceipt {
    /// The receipt of one claim of a batch.
    pub fn new(claim_id: ClaimId, receipt: Receipt) -> Self {
        let Receipt { partition, generation, sequence } = receipt;
        Self { claim_id: claim_id.as_uuid(), partition, generation, sequence }
    }

    /// Where the claim's batch stands.
    pub fn receipt(&self) -> Receipt {
        Receipt { partition: self.partition, generation: self.generation, sequence: self.sequence }
    }

    /// The path and query that tell what has become of the claim.
    pub fn location(&self, coupon_name: &CouponName, user_id: &UserId) -> String {
        format!(
            "{}/claims/{}?claim_id={}&partition={}&generation={}&sequence={}",
            coupon_path(coupon_name),
            utf8_percent_encode(user_id.as_str(), RESERVED),
            self.claim_id,
            self.partition,
            self.generation,
            self.sequence
        )
    }
}

/// The path of a coupon.
pub fn coupon_path(coupon_name: &CouponName) -> String {
    format!("/api/coupons/{}", utf8_percent_encode(coupon_name.as_str(), RESERVED))
}

/// What Postgres proves about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This became of it.
    Known(Outcome),
    /// It is still queued.
    Queued,
    /// Nothing is proved: it may be queued or not.
    Unproven,
}

/// Judges a claim by what one snapshot of Postgres says of its coupon, its user and its partition.
///
/// A claim that the cursor has passed has been decided; if it did not win, the state of the coupon
/// says why not. The cursor speaks of one generation of the stream only: a receipt of another one
/// (or of none) proves nothing.
pub fn judge(claim_id: ClaimId, receipt: Option<Receipt>, state: &ClaimState) -> Verdict {
    if let Some((winner, position)) = state.claim {
        return Verdict::Known(if winner == claim_id.as_uuid() {
            Outcome::Claimed { position }
        } else {
            Outcome::AlreadyClaimed
        });
    }
    match receipt {
        Some(receipt) if receipt.generation != UNPROVEN && receipt.generation == state.generation => {
            if receipt.sequence > state.last_seq {
                return Verdict::Queued;
            }
        }
        _ => return Verdict::Unproven,
    }
    match state.remaining_amount {
        None => Verdict::Known(Outcome::CouponNotFound),
        Some(0) => Verdict::Known(Outcome::SoldOut),
        // Unknown; the client must repeat the request. The claim was refused for a reason that does not hold any
        // more, or it was deleted from the queue by hand.
        Some(_) => Verdict::Unproven,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(1);

    fn state(claim: Option<(Uuid, i64)>, remaining_amount: Option<i32>) -> ClaimState {
        ClaimState { claim, remaining_amount, generation: 2, last_seq: 10 }
    }

    fn receipt(generation: i64, sequence: i64) -> Option<Receipt> {
        Some(Receipt { partition: 0, generation, sequence })
    }

    #[test]
    fn a_row_is_an_answer_whatever_the_receipt() {
        for receipt in [None, receipt(1, 1), receipt(2, 99)] {
            let won = judge(ID.into(), receipt, &state(Some((ID, 3)), Some(0)));
            assert_eq!(won, Verdict::Known(Outcome::Claimed { position: 3 }));
            let other = judge(ID.into(), receipt, &state(Some((Uuid::from_u128(2), 3)), Some(0)));
            assert_eq!(other, Verdict::Known(Outcome::AlreadyClaimed));
        }
    }

    #[test]
    fn a_missing_row_is_a_refusal_only_behind_the_cursor_of_its_generation() {
        let judge = |receipt, remaining| judge(ID.into(), receipt, &state(None, remaining));
        assert_eq!(judge(receipt(2, 10), Some(0)), Verdict::Known(Outcome::SoldOut));
        assert_eq!(judge(receipt(2, 10), None), Verdict::Known(Outcome::CouponNotFound));
        assert_eq!(judge(receipt(2, 10), Some(5)), Verdict::Unproven);
        assert_eq!(judge(receipt(2, 11), Some(0)), Verdict::Queued);
        for unproven in [None, receipt(1, 1), receipt(3, 1), receipt(UNPROVEN, 1)] {
            assert_eq!(judge(unproven, Some(0)), Verdict::Unproven, "{unproven:?}");
        }
    }

    #[test]
    fn a_location_carries_any_name() {
        let (coupon, user) = (CouponName::new("a/b?c 🎉").unwrap(), UserId::new("x&y").unwrap());
        let claim = ClaimReceipt::new(ID.into(), Receipt { partition: 3, generation: 1, sequence: 9 });
        assert_eq!(
            claim.location(&coupon, &user),
            "/api/coupons/a%2Fb%3Fc%20%F0%9F%8E%89/claims/x%26y?claim_id=00000000-0000-0000-0000-000000000001\
             &partition=3&generation=1&sequence=9"
        );
    }
}
