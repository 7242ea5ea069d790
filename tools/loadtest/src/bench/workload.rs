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

/// The hot coupon that the rates with more coupons are compared to.
pub(super) const HOT: &str = "a256";
/// Some dozens of coupons at once.
pub(super) const SEVERAL: &str = "c";
/// Thousands of coupons.
pub(super) const MANY: &str = "d";

/// One row of the comparison.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    /// Short name, beginning with the letter of its group.
    pub(super) id: &'static str,
    /// What it is, for the table.
    pub(super) title: &'static str,
    /// Whether it is about latency at a given rate, rather than about throughput.
    pub(super) open: bool,
    connections: usize,
    coupons: u32,
    stock: u32,
    users: Option<u32>,
    earlier_users: u32,
    repeat_share: f64,
    length: Length,
}

#[derive(Debug, Clone, Copy)]
enum Length {
    /// As long as the options say.
    Usual,
    /// Three times that, for the steady rate of the open loop.
    Long,
    /// Until all users have asked, but not much longer than the options say.
    UntilDone,
}

impl Workload {
    /// All of them, in the order of the table.
    pub(super) fn all() -> Vec<Self> {
        let hot = Self {
            id: HOT,
            title: "(a) hot coupon, all win, 256 connections",
            open: false,
            connections: CONNECTIONS,
            coupons: 1,
            stock: STOCK_ENDLESS,
            users: None,
            earlier_users: 0,
            repeat_share: 0.0,
            length: Length::Usual,
        };
        let a = [
            ("a1", "(a) hot coupon, all win, 1 connection", 1),
            ("a64", "(a) hot coupon, all win, 64 connections", 64),
            (HOT, "(a) hot coupon, all win, 256 connections", 256),
            ("a1024", "(a) hot coupon, all win, 1024 connections", 1024),
        ];
        let mut all =
            a.map(|(id, title, connections)| Self { id, title, connections, ..hot.clone() }).to_vec();
        all.push(Self {
            id: "b",
            title: "(b) flash sale: 1,000 in stock, 100,000 users",
            stock: 1_000,
            users: Some(100_000),
            length: Length::UntilDone,
            ..hot.clone()
        });
        all.push(Self { id: SEVERAL, title: "(c) 64 coupons at once", coupons: 64, ..hot.clone() });
        all.push(Self { id: MANY, title: "(d) 10,000 coupons", coupons: 10_000, ..hot.clone() });
        all.push(Self {
            id: "e",
            title: "(e) repeated claims (409)",
            earlier_users: EARLIER_USERS,
            repeat_share: 1.0,
            ..hot.clone()
        });
        all.push(Self {
            id: "f",
            title: "(f) open loop, 5,000/s",
            open: true,
            length: Length::Long,
            ..hot.clone()
        });
        all.push(Self {
            id: "g",
            title: "(g) endurance: 2,000,000 claims on one coupon, 1024 connections",
            connections: 1024,
            users: Some(ENDURANCE_CLAIMS),
            length: Length::UntilDone,
            ..hot
        });
        all
    }

    /// Whether this system is measured with it: the endurance run would take the others hours.
    pub(super) fn suits(&self, system: System) -> bool {
        self.id != "g" || matches!(system, System::Queue { apis: 1, .. })
    }

    /// The sale to run against servers of `system`.
    pub(super) fn sale(&self, targets: Vec<Target>, system: System, seconds: f64) -> Sale {
        let factor = match self.length {
            Length::Usual => 1.0,
            Length::Long => 3.0,
            Length::UntilDone if self.id == "g" => 60.0,
            Length::UntilDone => 6.0,
        };
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
            length: Some(Duration::from_secs_f64(seconds * factor)),
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
