//! Whether what the clients saw, and the state afterwards, is allowed.
//!
//! A pure function from a [`Round`] to the [`Violation`]s in it, so a recorded history gives the same result
//! whenever it is checked again.
//!
//! The checks report only what is certain. Where the history leaves a question open (a request without
//! an answer, a stream that lost messages before anyone saw them) the checker assumes whatever is
//! allowed; every violation it reports is one under all interpretations.

mod amounts;
mod answers;
mod claim_ids;
mod contract;
mod index;
mod keys;
mod losses;
mod order;
mod partial_order;
mod receipts;
mod recovered;
mod refusals;
mod settled;
mod stock;
mod views;
mod violation;

pub use settled::SETTLE_US;
pub use violation::{Check, Violation};

use crate::history::Round;
use index::Index;
use violation::Findings;

/// Checks one round against all promises.
pub fn check(round: &Round) -> Vec<Violation> {
    let index = Index::new(round);
    let mut findings = Findings::default();
    stock::check(&index, &mut findings);
    for journal in &round.state.journals {
        let check = if journal.complete { order::check } else { partial_order::check };
        check(&index, journal, &mut findings);
    }
    answers::check(&index, &mut findings);
    refusals::check(&index, &mut findings);
    keys::check(&index, &mut findings);
    claim_ids::check(&index, &mut findings);
    views::check(&index, &mut findings);
    contract::check(&index, &mut findings);
    settled::check(&index, &mut findings);
    receipts::check(&index, &mut findings);
    losses::check(&index, &mut findings);
    recovered::check(&index, &mut findings);
    findings.into_violations()
}
