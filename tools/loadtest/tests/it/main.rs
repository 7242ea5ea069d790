//! The generator against servers that are right, that cheat, and that stumble.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cheats;
mod cli;
mod fake;
mod pace;
mod stumbles;

use std::time::Duration;

use loadtest::drive::{Mix, Pace};
use loadtest::sale::{Report, Sale};

/// A small sale at `server`: 400 users for 50 coupons.
fn sale(server: &fake::Server) -> Sale {
    Sale {
        targets: vec![server.url().parse().unwrap()],
        coupon: None,
        stock: 50,
        mix: Mix { coupons: 1, skew: 0.0, repeat_share: 0.0, users: Some(400), earlier_users: 0, seed: 1 },
        pace: Pace::Closed,
        length: None,
        connections: 16,
        threads: 2,
        timeout: Duration::from_secs(20),
        drain: Duration::from_secs(20),
        retries: 5,
        unknown_max: Some(0),
        check: true,
    }
}

/// The promises that did not hold.
fn broken(report: &Report) -> Vec<&'static str> {
    report.checks.iter().filter(|check| !check.passed()).map(|check| check.promise).collect()
}
