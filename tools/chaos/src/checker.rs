//! Whether what the clients saw and what was left behind is allowed.
//!
//! Pure functions from a [`Round`] to the [`Violation`]s in it. Nothing here asks a server, so a history
//! that was recorded once gives the same result whenever it is checked again.
//!
//! The checks only ever claim what is certain. Where the history leaves a question open (a request without
//! an answer, a stream that lost messages before anyone saw them) the checker takes whichever reading is
//! allowed; every violation it reports is one under all readings.

mod answers;
mod contract;
mod index;
mod keys;
mod normal;
mod order;
mod partial;
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
    order::check(&index, &mut findings);
    answers::check(&index, &mut findings);
    refusals::check(&index, &mut findings);
    keys::check(&index, &mut findings);
    views::check(&index, &mut findings);
    contract::check(&index, &mut findings);
    settled::check(&index, &mut findings);
    normal::check(&index, &mut findings);
    findings.into_violations()
}
