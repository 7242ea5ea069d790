//! What all faults of a round need.

use std::sync::Arc;

use crate::clients::Plan;
use crate::cluster::Cluster;
use crate::record::Log;

#[derive(Debug, Clone)]
pub(crate) struct Injector {
    pub(crate) cluster: Arc<Cluster>,
    /// Where every fault is recorded.
    pub(crate) log: Arc<Log>,
    /// The round's coupons, for forged claims.
    pub(crate) plan: Plan,
}
