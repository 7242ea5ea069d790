//! Who wins: a pure function from what Postgres says and the claims in their order to the outcomes.

use std::collections::HashMap;

use common::ids::ClaimId;
use common::message::Outcome;

/// A claim as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The coupon, as an index into the list of coupons.
    pub coupon: usize,
    /// Who claims.
    pub user: &'a str,
    /// The claim's identity.
    pub claim_id: ClaimId,
}

/// A coupon's stock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// How many are left.
    pub remaining: i32,
    /// The position of its latest winner, 0 if there is none.
    pub last_position: i64,
}

/// A claim that won before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// By which claim.
    pub claim_id: ClaimId,
    /// In which position.
    pub position: i64,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// One for each request, in their order.
    pub outcomes: Vec<Outcome>,
    /// The new winners: the request's index, and its position.
    pub winners: Vec<(usize, i64)>,
    /// How many of each coupon were won, by its place in the list of coupons.
    pub won: Vec<i32>,
}

/// Decides all requests in their order.
///
/// `coupons` are those that the requests name by index, `None` for one that does not exist; `taken` says for each
/// request what its user had of its coupon before. The order of the checks is part of the API: an unknown coupon, then
/// one that the user has (the same claim again gets the same answer), then one that is sold out. A claim for which no
/// position is left is rejected.
pub fn decide(requests: &[Request<'_>], coupons: &[Option<Stock>], taken: &[Option<Taken>]) -> Decision {
    debug_assert_eq!(requests.len(), taken.len());
    let mut stocks = coupons.to_vec();
    let mut decision = Decision { won: vec![0; coupons.len()], ..Decision::default() };
    decision.outcomes.reserve(requests.len());
    let mut won_here: HashMap<(usize, &str), Taken> = HashMap::new();
    for (index, request) in requests.iter().enumerate() {
        let outcome = match &mut stocks[request.coupon] {
            None => Outcome::CouponNotFound,
            Some(stock) => {
                let key = (request.coupon, request.user);
                match taken[index].or_else(|| won_here.get(&key).copied()) {
                    Some(earlier) if earlier.claim_id == request.claim_id => {
                        Outcome::Claimed { position: earlier.position }
                    }
                    Some(_) => Outcome::AlreadyClaimed,
                    None if stock.remaining <= 0 => Outcome::SoldOut,
                    None => {
                        // Positions end only where somebody has written the last one by hand.
                        let Some(position) = stock.last_position.checked_add(1) else {
                            decision.outcomes.push(Outcome::Rejected);
                            continue;
                        };
                        stock.remaining -= 1;
                        stock.last_position = position;
                        decision.won[request.coupon] += 1;
                        decision.winners.push((index, position));
                        won_here.insert(key, Taken { claim_id: request.claim_id, position });
                        Outcome::Claimed { position }
                    }
                }
            }
        };
        decision.outcomes.push(outcome);
    }
    decision
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn claim_id(n: u128) -> ClaimId {
        Uuid::from_u128(n).into()
    }

    /// The same rules, one claim at a time on plain maps.
    #[derive(Default, Clone)]
    struct Model {
        coupons: BTreeMap<usize, (i32, i64)>,
        claims: BTreeMap<(usize, String), (ClaimId, i64)>,
    }

    impl Model {
        fn claim(&mut self, request: &Request<'_>) -> Outcome {
            let Some((remaining, last)) = self.coupons.get_mut(&request.coupon) else {
                return Outcome::CouponNotFound;
            };
            let key = (request.coupon, request.user.to_owned());
            if let Some((claim_id, position)) = self.claims.get(&key) {
                if *claim_id == request.claim_id {
                    return Outcome::Claimed { position: *position };
                }
                return Outcome::AlreadyClaimed;
            }
            if *remaining == 0 {
                return Outcome::SoldOut;
            }
            *remaining -= 1;
            *last += 1;
            self.claims.insert(key, (request.claim_id, *last));
            Outcome::Claimed { position: *last }
        }
    }

    const USERS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    proptest! {
        /// However claims are cut into batches, the outcomes are those of the model, nothing is
        /// oversold and nobody wins twice.
        #[test]
        fn batches_decide_as_the_model_does(
            stocks in prop::collection::vec(prop::option::of(0_i32..6), 1..4),
            claims in prop::collection::vec((0_usize..4, 0_usize..6, 0_u128..12), 0..60),
            cut in 1_usize..20,
        ) {
            let mut model = Model::default();
            for (coupon, stock) in stocks.iter().enumerate() {
                if let Some(remaining) = stock {
                    model.coupons.insert(coupon, (*remaining, 0));
                }
            }
            let requests: Vec<_> = claims.iter().map(|(coupon, user, id)| Request {
                coupon: coupon % stocks.len(), user: USERS[*user], claim_id: claim_id(*id),
            }).collect();

            for batch in requests.chunks(cut) {
                let coupons: Vec<_> = (0..stocks.len()).map(|coupon| {
                    model.coupons.get(&coupon)
                        .map(|(remaining, last_position)| Stock { remaining: *remaining, last_position: *last_position })
                }).collect();
                let taken: Vec<_> = batch.iter().map(|request| {
                    model.claims.get(&(request.coupon, request.user.to_owned()))
                        .map(|(claim_id, position)| Taken { claim_id: *claim_id, position: *position })
                }).collect();
                let decision = decide(batch, &coupons, &taken);
                let before = model.clone();
                let expected: Vec<_> = batch.iter().map(|request| model.claim(request)).collect();
                prop_assert_eq!(&decision.outcomes, &expected);
                prop_assert_eq!(decision.winners.len(), model.claims.len() - before.claims.len());
                for (coupon, won) in decision.won.iter().enumerate() {
                    let left = |model: &Model| model.coupons.get(&coupon).map_or(0, |(remaining, _)| *remaining);
                    prop_assert_eq!(*won, left(&before) - left(&model));
                }
                for (index, position) in decision.winners {
                    let request = &batch[index];
                    prop_assert_eq!(
                        model.claims.get(&(request.coupon, request.user.to_owned())),
                        Some(&(request.claim_id, position))
                    );
                }
            }
        }
    }

    #[test]
    fn a_claim_without_a_position_is_rejected() {
        let requests = ["a", "b"].map(|user| Request { coupon: 0, user, claim_id: ClaimId::random() });
        let decision =
            decide(&requests, &[Some(Stock { remaining: 5, last_position: i64::MAX - 1 })], &[None, None]);
        assert_eq!(decision.outcomes, [Outcome::Claimed { position: i64::MAX }, Outcome::Rejected]);
        assert_eq!((decision.won, decision.winners), (vec![1], vec![(0, i64::MAX)]));
    }

    #[test]
    fn already_claimed_is_said_before_sold_out() {
        let requests =
            ["a", "b", "a", "a"].map(|user| Request { coupon: 0, user, claim_id: ClaimId::random() });
        let mut requests = requests.to_vec();
        requests[3].claim_id = requests[0].claim_id;
        let decision =
            decide(&requests, &[Some(Stock { remaining: 1, last_position: 41 })], &[None, None, None, None]);
        assert_eq!(
            decision.outcomes,
            [
                Outcome::Claimed { position: 42 },
                Outcome::SoldOut,
                Outcome::AlreadyClaimed,
                Outcome::Claimed { position: 42 }
            ]
        );
    }
}
