//! Who gets which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::world::{Demand, World};
use crate::allocator::{AllocError, Allocation, Change, IpAllocator};
use crate::id::OwnerKey;

/// Who holds what, and why the others hold nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Allocations {
    /// Every owner with a demand of ours.
    pub grants: BTreeMap<OwnerKey, Grant>,
    /// What was taken from owners that no longer want an address of ours, ordered by owner.
    pub released: Vec<Allocation>,
    /// What the configuration moved or revoked.
    pub changes: Vec<Change>,
}

impl Allocations {
    /// What `owner` holds.
    pub fn held(&self, owner: &OwnerKey) -> Option<&Allocation> {
        self.grants.get(owner)?.allocation.as_ref()
    }

    /// The owners of each address that is held: several where it is shared.
    pub fn by_address(&self) -> BTreeMap<IpAddr, BTreeSet<&OwnerKey>> {
        let mut owners: BTreeMap<IpAddr, BTreeSet<&OwnerKey>> = BTreeMap::new();
        for allocation in self.grants.values().filter_map(|grant| grant.allocation.as_ref()) {
            for address in &allocation.addresses {
                owners.entry(*address).or_default().insert(&allocation.owner);
            }
        }
        owners
    }
}

/// The outcome for one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// What it holds.
    pub allocation: Option<Allocation>,
    /// Why it does not hold what it asks for. With an allocation beside, the request could not be understood,
    /// and what was held stays.
    pub error: Option<AllocError>,
    /// What it lost in this run, and why.
    pub lost: Option<Lost>,
}

/// Addresses that an owner showed or held and no longer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Why they could not stay.
    pub reason: AllocError,
}

/// Lets `allocator` serve the world, and says how each owner fares.
///
/// What is held stays as long as the pools and the owner's own request permit it. Owners that show an address
/// and hold none (after a restart) adopt it first; then the rest are served. Within each group the older owner
/// comes first (`creationTimestamp`, then namespace and name); one whose address cannot be adopted joins the
/// rest. Owners without a demand of ours are released.
///
/// Two successive calls with equal worlds are a fixed point: the second changes nothing.
pub fn allocate(allocator: &mut dyn IpAllocator, world: &World) -> Allocations {
    let mut result = Allocations { changes: allocator.set_pools(&world.pools), ..Allocations::default() };
    let mut ours: Vec<&Demand> = world.ours().collect();
    ours.sort_by(|a, b| a.order().cmp(&b.order()));
    for demand in &ours {
        result.grants.insert(demand.owner.clone(), Grant::default());
    }
    let strangers: Vec<OwnerKey> = allocator
        .allocations()
        .filter(|allocation| !result.grants.contains_key(&allocation.owner))
        .map(|allocation| allocation.owner.clone())
        .collect();
    result.released.extend(strangers.iter().filter_map(|owner| allocator.release(owner)));
    for change in &result.changes {
        if let Change::Revoked { allocation, reason } = change
            && let Some(grant) = result.grants.get_mut(&allocation.owner)
        {
            grant.lost = Some(Lost { addresses: allocation.addresses.clone(), reason: reason.clone() });
        }
    }

    adopt(allocator, &ours, &mut result);
    // Holders first: what one of them gives up is there for the rest.
    let (holders, rest): (Vec<&Demand>, Vec<&Demand>) =
        ours.iter().copied().partition(|demand| allocator.allocation(&demand.owner).is_some());
    // An owner that gives something up may do so after another one asked for it. Each gives up at most once,
    // since what it gets fits its request, so that this ends.
    let mut freed = true;
    while freed {
        freed = false;
        for demand in holders.iter().chain(&rest) {
            freed |= serve(allocator, demand, &mut result);
        }
    }
    // What was in the way of an adoption may have moved. And those who got nothing are told why as things stand at
    // the end, not when it was their turn.
    adopt(allocator, &ours, &mut result);
    for demand in &ours {
        if result.grants.get(&demand.owner).is_some_and(|grant| grant.allocation.is_none()) {
            serve(allocator, demand, &mut result);
        }
    }
    result
}

/// Lets those that show an address take it over.
fn adopt(allocator: &mut dyn IpAllocator, ours: &[&Demand], result: &mut Allocations) {
    for demand in ours {
        if demand.shown.is_empty() || allocator.allocation(&demand.owner).is_some() {
            continue;
        }
        let Some(grant) = result.grants.get_mut(&demand.owner) else { continue };
        match allocator.adopt(&demand.request, &demand.shown) {
            Ok(_) => grant.lost = None,
            Err(reason) if grant.lost.is_none() => {
                grant.lost = Some(Lost { addresses: demand.shown.clone(), reason });
            }
            Err(_) => {}
        }
    }
}

/// Gives `demand`'s owner what it asks for. Returns whether an address became free.
fn serve(allocator: &mut dyn IpAllocator, demand: &Demand, result: &mut Allocations) -> bool {
    let Some(grant) = result.grants.get_mut(&demand.owner) else { return false };
    let before = allocator.allocation(&demand.owner).cloned();
    let mut outcome = match &demand.fault {
        Some(fault) => Err(fault.clone()),
        None => allocator.allocate(&demand.request),
    };
    if let Err(error) = &outcome
        && let Some(held) = &before
    {
        // A mistake in a request costs nobody the address that works.
        if matches!(error, AllocError::BadRequest(_)) {
            grant.error = Some(error.clone());
            grant.allocation = before;
            return false;
        }
        // The request forbids what is held; without it, another one may do.
        grant.lost = Some(Lost { addresses: held.addresses.clone(), reason: error.clone() });
        allocator.release(&demand.owner);
        outcome = allocator.allocate(&demand.request);
    }
    (grant.allocation, grant.error) = match outcome {
        Ok(allocation) => (Some(allocation), None),
        Err(error) => (None, Some(error)),
    };
    let now = grant.allocation.as_ref().map_or(&[][..], |allocation| &allocation.addresses);
    before.is_some_and(|before| before.addresses.iter().any(|address| !now.contains(address)))
}
