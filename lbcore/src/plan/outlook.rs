//! Who may announce what, or why nobody does: for dry runs, statuses and conditions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::allocate::Allocations;
use super::gates::{Obstacle, applying, class_obstacle, verdict};
use super::world::{Demand, World};
use crate::condition::Condition;
use crate::id::{NodeName, OwnerKey, PoolName};

/// The kind of the condition that says whether an owner has its addresses.
pub const ADDRESS_ALLOCATED: &str = "AddressAllocated";
/// The kind of the condition that says whether any node may announce them.
pub const ANNOUNCED: &str = "Announceable";

/// What becomes of one demand.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outlook {
    /// Whose.
    pub owner: OwnerKey,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Their pool.
    pub pool: Option<PoolName>,
    /// The nodes that may answer on the segment; one of them will.
    pub l2: BTreeSet<NodeName>,
    /// The nodes that may announce routes; each of them will.
    pub bgp: BTreeSet<NodeName>,
    /// Whether it could be announced on the segment: on one of the nodes, or, where no nodes are known, on any.
    pub via_l2: bool,
    /// The same by BGP.
    pub via_bgp: bool,
    /// `AddressAllocated` and `Announceable`.
    pub conditions: [Condition; 2],
}

impl Outlook {
    /// The nodes that may announce it in one way or the other.
    pub fn nodes(&self) -> BTreeSet<&NodeName> {
        self.l2.union(&self.bgp).collect()
    }

    /// Why it has no address, or why nobody announces it: the first condition that does not hold.
    pub fn obstacle(&self) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.status != crate::condition::Status::True)
    }
}

/// What becomes of each demand, those of other classes too.
pub fn outlook(world: &World, allocations: &Allocations) -> BTreeMap<OwnerKey, Outlook> {
    world
        .demands
        .values()
        .map(|demand| (demand.owner.clone(), of_demand(world, allocations, demand)))
        .collect()
}

fn of_demand(world: &World, allocations: &Allocations, demand: &Demand) -> Outlook {
    let mut outlook = Outlook {
        owner: demand.owner.clone(),
        addresses: Vec::new(),
        pool: None,
        l2: BTreeSet::new(),
        bgp: BTreeSet::new(),
        via_l2: false,
        via_bgp: false,
        conditions: [
            Condition::no(ADDRESS_ALLOCATED, "Pending", "no address was asked for yet"),
            Condition::no(ANNOUNCED, "NoAddress", "there is no address to announce"),
        ],
    };
    if let Some(obstacle) = class_obstacle(world, demand) {
        outlook.conditions[0] = Condition::no(ADDRESS_ALLOCATED, obstacle.reason(), obstacle.to_string());
        return outlook;
    }
    let Some(grant) = allocations.grants.get(&demand.owner) else { return outlook };
    if let Some(error) = &grant.error {
        let kept = match &grant.allocation {
            Some(_) => "; what it holds stays",
            None => "",
        };
        outlook.conditions[0] = Condition::no(ADDRESS_ALLOCATED, error.reason(), format!("{error}{kept}"));
    }
    let Some(allocation) = &grant.allocation else { return outlook };
    outlook.addresses.clone_from(&allocation.addresses);
    outlook.pool = Some(allocation.pool.clone());
    if grant.error.is_none() {
        let addresses: Vec<_> = allocation.addresses.iter().map(ToString::to_string).collect();
        let message = format!("{} of pool {}", addresses.join(", "), allocation.pool);
        outlook.conditions[0] = Condition::yes(ADDRESS_ALLOCATED, "Allocated", message);
    }
    announceable(world, demand, &allocation.pool, &mut outlook);
    outlook
}

fn announceable(world: &World, demand: &Demand, pool: &PoolName, outlook: &mut Outlook) {
    let applying = applying(world, demand, pool);
    if world.nodes.is_empty() {
        (outlook.via_l2, outlook.via_bgp) = (applying.l2.is_ok(), applying.bgp.is_ok());
    }
    let mut obstacles: Vec<(&NodeName, Obstacle)> = Vec::new();
    for node in world.nodes.keys() {
        let verdict = verdict(world, demand, pool, node);
        let mut least = None;
        match verdict.l2 {
            Ok(_) => drop(outlook.l2.insert(node.clone())),
            Err(obstacle) => least = Some(obstacle),
        }
        match verdict.bgp {
            Ok(_) => drop(outlook.bgp.insert(node.clone())),
            // The one that came furthest is what must be mended.
            Err(obstacle) => least = least.max(Some(obstacle)),
        }
        obstacles.extend(least.filter(Obstacle::is_of_node).map(|obstacle| (node, obstacle)));
    }
    outlook.via_l2 |= !outlook.l2.is_empty();
    outlook.via_bgp |= !outlook.bgp.is_empty();
    outlook.conditions[1] = if outlook.via_l2 || outlook.via_bgp {
        Condition::yes(ANNOUNCED, "Announceable", means(outlook))
    } else {
        nobody(applying.l2.err(), applying.bgp.err(), &obstacles)
    };
}

fn means(outlook: &Outlook) -> String {
    let nodes = |nodes: &BTreeSet<NodeName>| match nodes.len() {
        0 => "any node".to_owned(),
        _ => nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", "),
    };
    let mut means = Vec::new();
    if outlook.via_l2 {
        means.push(format!("by L2 from one of {}", nodes(&outlook.l2)));
    }
    if outlook.via_bgp {
        means.push(format!("by BGP from {}", nodes(&outlook.bgp)));
    }
    means.join(", ")
}

/// Why nobody announces: what stands against it everywhere, or each node's own reason.
fn nobody(l2: Option<Obstacle>, bgp: Option<Obstacle>, nodes: &[(&NodeName, Obstacle)]) -> Condition {
    if nodes.is_empty() {
        return match (l2, bgp) {
            (Some(Obstacle::NoAdvertisement { pool, .. }), Some(Obstacle::NoAdvertisement { .. })) => {
                Condition::no(
                    ANNOUNCED,
                    "NoAdvertisement",
                    format!(
                        "no L2Advertisement and no BGPAdvertisement selects the pool {pool}: add one that names it"
                    ),
                )
            }
            // One that selects the pool is nearer to it than none.
            (l2, bgp) => match l2.max(bgp) {
                Some(obstacle) => Condition::no(ANNOUNCED, obstacle.reason(), obstacle.to_string()),
                None => Condition::no(ANNOUNCED, "NoNode", "there is no node"),
            },
        };
    }
    let reasons: BTreeSet<&str> = nodes.iter().map(|(_, obstacle)| obstacle.reason()).collect();
    let reason = match reasons.iter().next() {
        Some(reason) if reasons.len() == 1 => *reason,
        _ => "NoEligibleNode",
    };
    let mut by_text: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (node, obstacle) in nodes {
        by_text.entry(obstacle.to_string()).or_default().push(node.as_str());
    }
    let parts = by_text.iter().map(|(text, nodes)| {
        let shown = nodes.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        match nodes.len().saturating_sub(5) {
            0 => format!("{shown}: {text}"),
            more => format!("{shown} and {more} more: {text}"),
        }
    });
    let message = format!("no node may announce it; {}", parts.collect::<Vec<_>>().join("; "));
    Condition::no(ANNOUNCED, reason, message)
}
