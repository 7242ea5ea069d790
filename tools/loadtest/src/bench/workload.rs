//! What is asked of every system.

use std::time::Duration;

use crate::drive::{Mix, Pace, threads_default};
use crate::sale::Sale;
use crate::target::Target;

use super::system::System;

/// More than anybody claims in a run.
const STOCK_ENDLESS: u32 = 2_000_000_000;
/// Users who have claimed before the repeated claims are measured.
const EARLIER_USERS: u32 = 2_000;
/// The open loop's rate, per second.
const OPEN_RATE: f64 = 5_000.0;
/// Connections for all workloads but those about connections.
const CONNECTIONS: usize = 256;
/// How long an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long overdue requests of an open loop, and late answers to it, are waited for in the end.
const OPEN_DRAIN: Duration = Duration::from_secs(5);
/// Claims of the endurance run.
const ENDURANCE_CLAIMS: u32 = 2_000_000;

/// One coupon, which the rates with more coupons are compared to.
pub(super) const HOT: &str = "hot-256";
/// One connection.
pub(super) const SINGLE: &str = "hot-1";
/// More connections than there are processors for, by far.
pub(super) const CROWD: &str = "hot-1024";
/// A coupon that is soon sold out.
pub(super) const FLASH_SALE: &str = "flash-sale";
/// Some dozens of coupons at once.
pub(super) const SEVERAL: &str = "coupons-64";
/// Thousands of coupons.
pub(super) const MANY: &str = "coupons-10000";
/// A given rate.
pub(super) const OPEN: &str = "open-loop";
/// Millions of claims.
pub(super) const ENDURANCE: &str = "endurance";

/// One row of the comparison.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    /// Its name in tables and plots and on the command line.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) about: &'static str,
    /// Whether it is about latency at a given rate, rather than about throughput.
    pub(super) open: bool,
    connections: usize,
    coupons: u32,
    stock: u32,
    users: Option<u32>,
    earlier_users: u32,
    repeat_share: f64,
    /// How many times as long as the options say it may take at most; with a number of users, it ends when all have
    /// asked.
    length_factor: f64,
}

impl Workload {
    /// All of them, in the order of the table.
    pub(super) fn all() -> Vec<Self> {
        let hot = |name, about, connections| Self {
            name,
            about,
            open: false,
            connections,
            coupons: 1,
            stock: STOCK_ENDLESS,
            users: None,
            earlier_users: 0,
            repeat_share: 0.0,
            length_factor: 1.0,
        };
        let usual = |name, about| hot(name, about, CONNECTIONS);
        vec![
            hot(SINGLE, "one coupon, all win, 1 connection", 1),
            hot("hot-64", "one coupon, all win, 64 connections", 64),
            usual(HOT, "one coupon, all win, 256 connections"),
            hot(CROWD, "one coupon, all win, 1,024 connections", 1024),
            Self {
                stock: 1_000,
                users: Some(100_000),
                length_factor: 6.0,
                ..usual(FLASH_SALE, "1,000 of one coupon, 100,000 users, 256 connections")
            },
            Self { coupons: 64, ..usual(SEVERAL, "64 coupons at once, all win, 256 connections") },
            Self { coupons: 10_000, ..usual(MANY, "10,000 coupons at once, all win, 256 connections") },
            Self {
                earlier_users: EARLIER_USERS,
                repeat_share: 1.0,
                ..usual("repeated", "claims of users who have the coupon (409), 256 connections")
            },
            Self {
                open: true,
                // For a steady rate.
                length_factor: 3.0,
                ..usual(OPEN, "one coupon, 5,000 claims per second, answered or not, 256 connections")
            },
            Self {
                users: Some(ENDURANCE_CLAIMS),
                length_factor: 60.0,
                ..hot(ENDURANCE, "2,000,000 claims on one coupon, 1,024 connections", 1024)
            },
        ]
    }

    /// Name and description in one line.
    pub(super) fn title(&self) -> String {
        format!("{}: {}", self.name, self.about)
    }

    /// Whether this system is measured with it: the endurance run would take the others hours.
    pub(super) fn suits(&self, system: System) -> bool {
        self.name != ENDURANCE || matches!(system, System::Queue { apis: 1, .. })
    }

    /// The sale to run against servers of `system`.
    pub(super) fn sale(&self, targets: Vec<Target>, system: System, seconds: f64) -> Sale {
        Sale {
            targets,
            coupon: None,
            stock: self.stock,
            mix: Mix {
                coupons: self.coupons,
                skew: 0.0,
                repeat_share: self.repeat_share,
                users: self.users,
                earlier_users: self.earlier_users,
                seed: 1,
            },
            pace: if self.open { Pace::Open { rate: OPEN_RATE } } else { Pace::Closed },
            length: Some(Duration::from_secs_f64(seconds * self.length_factor)),
            connections: self.connections,
            threads: threads_default(self.connections),
            timeout: TIMEOUT,
            // A closed loop ends when everybody is answered, however slow a system is.
            drain: if self.open { OPEN_DRAIN } else { TIMEOUT },
            // The peers know no idempotency keys, so nobody gets any.
            retries: 0,
            // Most of an open loop's have none when the system falls behind, which the table tells.
            unknown_max: (!self.open).then_some(0),
            check: system.keeps_claims(),
        }
    }
}
