//! A load generator for the coupon API, and the benchmark that compares it with other designs.
//!
//! A run ([`sale::Sale`]) makes its coupons, drives claims at them ([`mod@drive`]) and checks afterwards that what the
//! users were told is what the API shows ([`verify`]).

pub mod api;
pub mod bench;
pub mod command;
pub mod drive;
pub mod peers;
pub mod report;
pub mod sale;
pub mod target;
pub mod timeline;
pub mod verify;
