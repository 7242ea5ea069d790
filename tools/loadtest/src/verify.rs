//! Comparing what the users were told with what the API shows: the promises, seen from outside.

use std::collections::HashMap;

use serde::Serialize;

use crate::api::Coupon;
use crate::drive::{Ask, Ledger, Win};

/// Violations told one by one; the rest is only counted.
const EXAMPLES_MAX: usize = 5;

/// One promise and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What ought to hold.
    pub promise: &'static str,
    /// How many times it was looked at.
    pub checked: u64,
    /// How many times it did not hold.
    pub violations: u64,
    /// The first violations.
    pub examples: Vec<String>,
}

impl Check {
    fn new(promise: &'static str) -> Self {
        Self { promise, checked: 0, violations: 0, examples: Vec::new() }
    }

    /// Whether it held every time.
    pub fn passed(&self) -> bool {
        self.violations == 0
    }

    fn that(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.violations += 1;
            if self.examples.len() < EXAMPLES_MAX {
                self.examples.push(violation());
            }
        }
    }
}

/// Checks what the answers in `ledger` say by themselves. Up to `unknown_max` claims may have no outcome; `None`:
/// any number of them. `user_id` names users in reports.
pub fn answers(ledger: &Ledger, unknown_max: Option<u64>, user_id: &dyn Fn(u32) -> String) -> [Check; 2] {
    let known =
        (ledger.wins.len() + ledger.already_claimed.len()) as u64 + ledger.sold_out.iter().sum::<u64>();
    let mut contract = Check::new("every answer is one that the contract knows");
    contract.checked = known;
    for ask in &ledger.unexpected {
        contract.that(false, || format!("user {} got none such", user_id(ask.user)));
    }
    let mut outcome = Check::new("every claim gets an outcome");
    outcome.checked = known;
    let unknown = ledger.unknown.len() as u64;
    if unknown_max.is_some_and(|most| unknown > most) {
        for ask in &ledger.unknown {
            outcome.that(false, || format!("user {} was told none", user_id(ask.user)));
        }
    }
    [contract, outcome]
}

/// Checks the answers in `ledger` against the coupons `before` and `after` the run. `user_id` names users in reports.
///
/// A user whose outcome is unknown (the connection broke, or "try again" to the end) may or may not be among
/// the winners; everybody else has to be exactly where the answers said.
pub fn verify(
    ledger: &Ledger,
    before: &[Coupon],
    after: &[Coupon],
    user_id: &dyn Fn(u32) -> String,
) -> Vec<Check> {
    let mut wins = ledger.wins.clone();
    wins.sort_unstable_by_key(|win| win.ask);
    let mut unknown = ledger.unknown.clone();
    unknown.sort_unstable();
    let mut already = ledger.already_claimed.clone();
    already.sort_unstable();
    let mut refused = ledger.refused.clone();
    refused.sort_unstable();

    let mut checks = Checks::new();
    for (index, (before, after)) in before.iter().zip(after).enumerate() {
        let coupon = u32::try_from(index).unwrap_or(u32::MAX);
        let told = Told {
            wins: of_coupon(&wins, coupon, |win| win.ask),
            already: of_coupon(&already, coupon, |ask| *ask),
            unknown: of_coupon(&unknown, coupon, |ask| *ask),
            sold_out: ledger.sold_out[index],
            refused: of_coupon(&refused, coupon, |ask| *ask),
        };
        checks.coupon(&told, before, after, user_id);
    }
    let Checks { stock, sold_out, twice, once_in_view, same, positions, refused_twice, refused_winner } =
        checks;
    vec![stock, sold_out, twice, once_in_view, same, positions, refused_twice, refused_winner]
}

/// The answers about one coupon, by user.
struct Told<'a> {
    wins: &'a [Win],
    already: &'a [Ask],
    unknown: &'a [Ask],
    sold_out: u64,
    refused: &'a [Ask],
}

/// The part of a sorted list that is about one coupon.
fn of_coupon<T>(sorted: &[T], coupon: u32, ask: impl Fn(&T) -> Ask) -> &[T] {
    let start = sorted.partition_point(|item| ask(item).coupon < coupon);
    let end = sorted.partition_point(|item| ask(item).coupon <= coupon);
    &sorted[start..end]
}

struct Checks {
    stock: Check,
    sold_out: Check,
    twice: Check,
    once_in_view: Check,
    same: Check,
    positions: Check,
    refused_twice: Check,
    refused_winner: Check,
}

impl Checks {
    fn new() -> Self {
        Self {
            stock: Check::new("the stock and the claims add up, and nothing is oversold"),
            sold_out: Check::new("sold out is said only when all are gone"),
            twice: Check::new("nobody is told twice to have won"),
            once_in_view: Check::new("nobody is in a coupon's list twice"),
            same: Check::new("the list holds exactly those who were told to have won"),
            positions: Check::new("each winner's position is the place in the list"),
            refused_twice: Check::new("claimed already is said only to winners"),
            // Nothing is given out any more after that was true, and before it the winner had it already.
            refused_winner: Check::new("sold out is never said to a winner"),
        }
    }

    fn coupon(&mut self, told: &Told<'_>, before: &Coupon, after: &Coupon, user_id: &dyn Fn(u32) -> String) {
        let name = &after.name;
        let (amount, claims) = (after.amount, after.claimed_by.len() as u64);
        let adds_up = i64::try_from(amount - claims.min(amount)).ok() == Some(after.remaining);
        self.stock.that(adds_up && claims <= amount && amount == before.amount, || {
            format!("{name}: {amount} in stock, {claims} claims, {} remaining", after.remaining)
        });
        let left = u64::try_from(before.remaining).unwrap_or_default();
        self.stock.that(told.wins.len() as u64 <= left, || {
            format!("{name}: {} were told to have won, but there were only {left}", told.wins.len())
        });
        self.sold_out.that(told.sold_out == 0 || claims >= amount, || {
            format!("{name}: said to {} while {} remained", told.sold_out, after.remaining)
        });
        for pair in told.wins.windows(2) {
            self.twice.that(pair[0].ask.user != pair[1].ask.user, || {
                format!("{name}: user {}", user_id(pair[0].ask.user))
            });
        }
        let places = self.places(before, after, user_id);
        self.winners(told, &places, name, user_id);
    }

    /// The place (from 1) of each of this run's users in the coupon's list.
    fn places(
        &mut self,
        before: &Coupon,
        after: &Coupon,
        user_id: &dyn Fn(u32) -> String,
    ) -> HashMap<u32, usize> {
        let mut places = HashMap::with_capacity(after.claimed_by.len());
        let mut others = 0;
        for (index, user) in after.claimed_by.iter().enumerate() {
            match *user {
                Some(user) => {
                    let known = places.insert(user, index + 1);
                    self.once_in_view
                        .that(known.is_none(), || format!("{}: user {}", after.name, user_id(user)));
                }
                None => others += 1,
            }
        }
        self.same.that(others == before.claimed_by.len(), || {
            format!("{}: {others} claims are of nobody who asked", after.name)
        });
        places
    }

    fn winners(
        &mut self,
        told: &Told<'_>,
        places: &HashMap<u32, usize>,
        name: &str,
        user_id: &dyn Fn(u32) -> String,
    ) {
        for win in told.wins {
            let place = places.get(&win.ask.user);
            self.same.that(place.is_some(), || {
                format!("{name}: user {} was told to have won and is not there", user_id(win.ask.user))
            });
            if let (Some(&place), Some(position)) = (place, win.position) {
                self.positions.that(usize::try_from(position) == Ok(place), || {
                    format!(
                        "{name}: user {} was told {position} and is in place {place}",
                        user_id(win.ask.user)
                    )
                });
            }
        }
        for &user in places.keys() {
            let won = told.wins.binary_search_by_key(&user, |win| win.ask.user).is_ok();
            let may_have_won = || told.unknown.binary_search_by_key(&user, |ask| ask.user).is_ok();
            self.same.that(won || may_have_won(), || {
                format!("{name}: user {} is there and was not told so", user_id(user))
            });
        }
        for ask in told.already {
            self.refused_twice.that(places.contains_key(&ask.user), || {
                format!("{name}: user {} is no winner", user_id(ask.user))
            });
        }
        for ask in told.refused {
            self.refused_winner.that(!places.contains_key(&ask.user), || {
                format!("{name}: user {} has it", user_id(ask.user))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coupon(amount: u64, claimed_by: &[u32]) -> Coupon {
        Coupon {
            name: "c".to_owned(),
            amount,
            remaining: i64::try_from(amount).unwrap() - i64::try_from(claimed_by.len()).unwrap(),
            claimed_by: claimed_by.iter().map(|&user| Some(user)).collect(),
        }
    }

    /// Three in stock, claimed by users 4, 2 and 9 in this order; user 5 was too late, user 2 asked twice.
    fn honest() -> (Ledger, Vec<Coupon>, Vec<Coupon>) {
        let mut ledger = Ledger::new(1);
        for (user, position) in [(4, 1), (2, 2), (9, 3)] {
            ledger.wins.push(Win { ask: Ask { coupon: 0, user }, position: Some(position) });
        }
        ledger.already_claimed.push(Ask { coupon: 0, user: 2 });
        ledger.sold_out[0] = 1;
        ledger.refused.push(Ask { coupon: 0, user: 5 });
        (ledger, vec![coupon(3, &[])], vec![coupon(3, &[4, 2, 9])])
    }

    fn broken((ledger, before, after): (Ledger, Vec<Coupon>, Vec<Coupon>)) -> Vec<&'static str> {
        let name = |user: u32| user.to_string();
        answers(&ledger, Some(2), &name)
            .into_iter()
            .chain(verify(&ledger, &before, &after, &name))
            .filter(|check| !check.passed())
            .map(|check| check.promise)
            .collect()
    }

    #[test]
    fn an_honest_sale_passes() {
        assert_eq!(broken(honest()), [""; 0]);
    }

    #[test]
    fn every_way_to_cheat_is_found() {
        type Cheat = fn(&mut Ledger, &mut Coupon);
        let cheats: [(Cheat, &str); 11] = [
            (
                |ledger, _| ledger.refused.push(Ask { coupon: 0, user: 2 }),
                "sold out is never said to a winner",
            ),
            (|_, after| after.remaining = 1, "the stock and the claims add up, and nothing is oversold"),
            (|ledger, _| ledger.wins.push(ledger.wins[0]), "nobody is told twice to have won"),
            (|_, after| after.claimed_by[0] = Some(9), "nobody is in a coupon's list twice"),
            (|_, after| after.claimed_by.swap(0, 1), "each winner's position is the place in the list"),
            (|ledger, _| ledger.wins.truncate(2), "the list holds exactly those who were told to have won"),
            (|_, after| after.claimed_by[1] = None, "the list holds exactly those who were told to have won"),
            (|ledger, _| ledger.already_claimed[0].user = 5, "claimed already is said only to winners"),
            (|_, after| (after.amount, after.remaining) = (4, 1), "sold out is said only when all are gone"),
            (
                |ledger, _| ledger.unexpected.push(Ask { coupon: 0, user: 8 }),
                "every answer is one that the contract knows",
            ),
            (
                |ledger, _| ledger.unknown.extend([6, 7, 8].map(|user| Ask { coupon: 0, user })),
                "every claim gets an outcome",
            ),
        ];
        for (cheat, promise) in cheats {
            let (mut ledger, before, mut after) = honest();
            cheat(&mut ledger, &mut after[0]);
            let found = broken((ledger, before, after));
            assert!(found.contains(&promise), "{promise}: {found:?}");
        }
    }

    #[test]
    fn an_unknown_outcome_may_be_a_win_or_not() {
        let (mut ledger, before, after) = honest();
        ledger.wins.pop();
        ledger.unknown.extend([9, 7].map(|user| Ask { coupon: 0, user }));
        assert_eq!(broken((ledger, before, after)), [""; 0]);
    }
}
