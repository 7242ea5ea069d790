//! Which partition a coupon belongs to.

use std::fmt;

use crate::ids::CouponName;

/// Most partitions that a system can have; each has a stream of its own and, when owned, a
/// database connection.
pub const PARTITIONS_MAX: u32 = 256;

/// The number of one partition, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(u32);

impl PartitionId {
    /// The partition with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The partition of a coupon among `count`: FNV-1a of its name's bytes, modulo `count`. It is
    /// what the NATS server computes for its own subject mapping `partition(count, …)`, so that a
    /// publisher that maps subjects in the server agrees with this one.
    pub fn of(coupon_name: &CouponName, count: u32) -> Self {
        Self(fnv1a32(coupon_name.as_str().as_bytes()) % count)
    }

    /// The number, for subjects and indexes.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The number as an index into a list of all partitions.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The number as the database keeps it.
    pub fn as_i32(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// FNV-1a, 32 bits (Fowler, Noll, Vo).
fn fnv1a32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_has_its_published_values() {
        assert_eq!(fnv1a32(b""), 0x811c_9dc5);
        assert_eq!(fnv1a32(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a32(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn coupons_spread_over_all_partitions() {
        let mut counts = [0_u32; 8];
        for n in 0..8000 {
            let name = CouponName::new(&format!("coupon-{n}")).unwrap();
            counts[PartitionId::of(&name, 8).index()] += 1;
        }
        assert!(counts.iter().all(|&count| (800..1200).contains(&count)), "{counts:?}");
    }
}
