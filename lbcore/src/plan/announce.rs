//! What one node bids for, and what it announces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::allocate::Allocations;
use super::gates::{L2Way, verdict};
use super::world::{BgpTerms, TrafficPolicy, World};
use crate::addr::Family;
use crate::announce::{Announcement, Interfaces, Peers, Route};
use crate::elect::{Bid, Ownership};
use crate::id::{InterfaceName, NodeName, OwnerKey, Role};

/// How this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalHealth {
    /// Whether it can serve at all: its checks succeed.
    pub ready: bool,
    /// Whether it is about to leave.
    pub draining: bool,
    /// The owners that it cannot serve although it is ready.
    pub unready: BTreeSet<OwnerKey>,
    /// The interfaces that could announce now, without those that are down; `None` if that is not known. A node
    /// that has none of the interfaces of an address is no candidate for it.
    pub interfaces: Option<BTreeSet<InterfaceName>>,
    /// How much of the whole it should carry, relative to the others. At least 1.
    pub weight: u32,
}

impl Default for LocalHealth {
    fn default() -> Self {
        Self { ready: true, draining: false, unready: BTreeSet::new(), interfaces: None, weight: 1 }
    }
}

impl LocalHealth {
    fn serves(&self, owners: &[&OwnerKey]) -> bool {
        self.ready && owners.iter().all(|owner| !self.unready.contains(*owner))
    }

    fn reaches(&self, interfaces: &Interfaces) -> bool {
        match (&self.interfaces, interfaces) {
            (None, _) => true,
            (Some(up), Interfaces::All) => !up.is_empty(),
            (Some(up), Interfaces::Only(names)) => !up.is_disjoint(names),
        }
    }
}

/// What one node announces, for each announcer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Announcements {
    /// For the announcer that answers on the segment; each fenced by the lease of its address.
    pub l2: BTreeMap<IpAddr, Announcement>,
    /// The other addresses that this node is a candidate for on the segment, with the interfaces: the announcer gets
    /// ready for them, so that a takeover waits for no switch.
    pub standby: BTreeMap<IpAddr, Interfaces>,
    /// For the announcer that speaks BGP; not fenced, since several nodes announce at once.
    pub bgp: BTreeMap<IpAddr, Announcement>,
}

/// The addresses for which `me` may answer on the segment, each with its bid.
///
/// An address that is shared is bid for only if every owner that is announced permits this node.
pub fn candidacy(
    world: &World,
    allocations: &Allocations,
    me: &NodeName,
    health: &LocalHealth,
) -> BTreeMap<Role, Bid> {
    let mut bids = BTreeMap::new();
    for (address, ways) in ways(world, allocations, me) {
        let Some((owners, way)) = ways.l2 else { continue };
        let bid = Bid {
            preference: way.preference,
            weight: health.weight.max(1),
            eligible: health.serves(&owners) && health.reaches(&way.interfaces),
            draining: health.draining,
        };
        bids.insert(Role::Address(address), bid);
    }
    bids
}

/// What `me` announces: on the segment the addresses that it owns and may still announce, by BGP every address
/// that it may announce and could serve. A node that drains withdraws its routes at once, while on the segment
/// it answers until another one owns the address.
pub fn announce(
    world: &World,
    allocations: &Allocations,
    ownership: &Ownership,
    me: &NodeName,
    health: &LocalHealth,
) -> Announcements {
    let mut announcements = Announcements::default();
    for (address, ways) in ways(world, allocations, me) {
        let role = Role::Address(address);
        if let Some((_, way)) = ways.l2 {
            let owner = ownership.roles.get(&role).filter(|owner| owner.node == *me);
            if let Some((lease, owner)) = ownership.mine.get(&role).zip(owner) {
                let entry = Announcement::on_segment(*lease, owner.term, way.interfaces);
                announcements.l2.insert(address, entry);
            } else {
                announcements.standby.insert(address, way.interfaces);
            }
        }
        if let Some((owners, terms)) = ways.bgp
            && health.serves(&owners)
            && !health.draining
        {
            let routes = terms.iter().filter_map(|terms| route(address, terms));
            announcements.bgp.insert(address, Announcement::routes(routes));
        }
    }
    announcements
}

fn route(address: IpAddr, terms: &BgpTerms) -> Option<Route> {
    let prefix = IpNet::new(address, terms.aggregation(Family::of(address))).ok()?.trunc();
    let mut route = Route::new(prefix);
    route.local_pref = terms.local_pref;
    route.communities.clone_from(&terms.communities);
    route.large_communities.clone_from(&terms.large_communities);
    route.peers = if terms.peers.is_empty() { Peers::All } else { Peers::Only(terms.peers.clone()) };
    Some(route)
}

/// How a node may announce an address, by each means, with the owners whom that serves.
struct Ways<'w> {
    l2: Option<(Vec<&'w OwnerKey>, L2Way)>,
    bgp: Option<(Vec<&'w OwnerKey>, Vec<&'w BgpTerms>)>,
}

fn ways<'w>(
    world: &'w World,
    allocations: &'w Allocations,
    me: &'w NodeName,
) -> impl Iterator<Item = (IpAddr, Ways<'w>)> {
    allocations.by_address().into_iter().map(move |(address, owners)| {
        let mut l2 = Together::default();
        let mut bgp = Together::default();
        for owner in owners {
            let Some((demand, allocation)) = world.demands.get(owner).zip(allocations.held(owner)) else {
                continue;
            };
            let verdict = verdict(world, demand, &allocation.pool, me);
            let local = demand.traffic == TrafficPolicy::Local;
            l2.add(owner, local, verdict.l2);
            bgp.add(owner, local, verdict.bgp);
        }
        (address, Ways { l2: l2.into_way(), bgp: bgp.into_way() })
    })
}

/// The verdicts on all owners of one address. Their pool is the same, and so are the advertisements that apply
/// to sharers: any owner's way is the way of all.
struct Together<'w, T> {
    owners: Vec<&'w OwnerKey>,
    way: Option<T>,
    refused: bool,
}

impl<T> Default for Together<'_, T> {
    fn default() -> Self {
        Self { owners: Vec::new(), way: None, refused: false }
    }
}

impl<'w, T> Together<'w, T> {
    fn add(&mut self, owner: &'w OwnerKey, local: bool, verdict: Result<T, super::Obstacle>) {
        match verdict {
            Ok(way) => {
                self.owners.push(owner);
                self.way.get_or_insert(way);
            }
            // The others' traffic would come with that of an owner that has no endpoint here. An owner that
            // nobody announces asks for nothing.
            Err(obstacle) => self.refused |= local && obstacle.is_of_node(),
        }
    }

    fn into_way(self) -> Option<(Vec<&'w OwnerKey>, T)> {
        if self.refused { None } else { self.way.map(|way| (self.owners, way)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::{Pool, PoolAllocator, Pools};
    use crate::elect::{LeaseId, Owner, Term};
    use crate::plan::{Advertisement, Demand, Node, allocate};

    #[test]
    fn a_candidate_stands_by_for_what_another_owns() {
        let pools = Pools::new([Pool::new("public", ["192.0.2.0/28".parse().unwrap()])]).unwrap();
        let mut world = World { pools, ..World::default() };
        world.advertisements.push(Advertisement::l2("all"));
        for name in ["web", "api"] {
            let owner = OwnerKey::service("default", name);
            world.demands.insert(owner.clone(), Demand::new(owner));
        }
        let (me, other): (NodeName, NodeName) = ("n1".into(), "n2".into());
        world.nodes = [(me.clone(), Node::default()), (other.clone(), Node::default())].into();
        let allocations = allocate(&mut PoolAllocator::new(), &world);
        let [mine, theirs] = [0, 1].map(|last| IpAddr::from([192, 0, 2, last]));
        let mut ownership = Ownership::default();
        ownership.roles.insert(mine.into(), Owner::new(me.clone(), Term(1)));
        ownership.roles.insert(theirs.into(), Owner::new(other, Term(1)));
        ownership.mine.insert(mine.into(), LeaseId::FIRST);
        let announcements = announce(&world, &allocations, &ownership, &me, &LocalHealth::default());
        assert_eq!(announcements.l2.keys().collect::<Vec<_>>(), [&mine]);
        assert_eq!(announcements.standby, [(theirs, Interfaces::All)].into());
        world.nodes.entry(me.clone()).or_default().excluded = true;
        let excluded = announce(&world, &allocations, &ownership, &me, &LocalHealth::default());
        assert_eq!(excluded, Announcements::default(), "it is no candidate");
    }
}
