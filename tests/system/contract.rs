//! The API as its clients know it, row by row.

mod bodies;
mod claims;
mod coupons;
mod keys;
mod names;
mod paths;
