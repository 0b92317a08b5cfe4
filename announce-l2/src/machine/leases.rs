//! Until when this node may speak for which addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lbcore::elect::LeaseId;
use lbcore::time::Instant;

#[derive(Clone, Debug, Default)]
struct Lease {
    until: Instant,
    /// Whether it held when it was last looked at; the truth at any moment is `now < until`.
    holding: bool,
    addresses: BTreeSet<IpAddr>,
}

/// The leases that are named by the desired set or still hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    known: BTreeMap<LeaseId, Lease>,
    /// The deadlines of those that hold.
    deadlines: BTreeSet<(Instant, LeaseId)>,
}

impl Leases {
    /// Until when `lease` holds; the beginning of time if nothing is known of it.
    pub(super) fn until(&self, lease: LeaseId) -> Instant {
        self.known.get(&lease).map_or(Instant::ZERO, |lease| lease.until)
    }

    pub(super) fn bind(&mut self, lease: LeaseId, address: IpAddr) {
        self.known.entry(lease).or_default().addresses.insert(address);
    }

    pub(super) fn unbind(&mut self, lease: LeaseId, address: IpAddr) {
        if let Some(known) = self.known.get_mut(&lease) {
            known.addresses.remove(&address);
            if known.addresses.is_empty() && !known.holding {
                self.known.remove(&lease);
            }
        }
    }

    /// Takes note of a renewal, and tells whether the lease began to hold by it.
    pub(super) fn renew(&mut self, now: Instant, lease: LeaseId, until: Instant) -> bool {
        if until <= now || until <= self.until(lease) {
            return false;
        }
        let known = self.known.entry(lease).or_default();
        self.deadlines.remove(&(known.until, lease));
        self.deadlines.insert((until, lease));
        known.until = until;
        !std::mem::replace(&mut known.holding, true)
    }

    /// The addresses of `lease`.
    pub(super) fn addresses(&self, lease: LeaseId) -> impl Iterator<Item = IpAddr> {
        self.known.get(&lease).into_iter().flat_map(|lease| lease.addresses.iter().copied())
    }

    /// The next lease whose deadline has passed, which then holds no more.
    pub(super) fn expire(&mut self, now: Instant) -> Option<LeaseId> {
        let (_, lease) = self.deadlines.first().filter(|(until, _)| *until <= now).copied()?;
        self.deadlines.pop_first();
        if let Some(known) = self.known.get_mut(&lease) {
            known.holding = false;
            if known.addresses.is_empty() {
                self.known.remove(&lease);
            }
        }
        Some(lease)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_without_addresses_is_forgotten_when_it_ends() {
        let mut leases = Leases::default();
        let at = Instant::from_millis;
        assert!(leases.renew(at(1), LeaseId::FIRST, at(10)));
        assert!(!leases.renew(at(2), LeaseId::FIRST, at(12)), "it held already");
        assert!(!leases.renew(at(3), LeaseId::FIRST, at(11)), "an earlier deadline is ignored");
        assert_eq!((leases.until(LeaseId::FIRST), leases.next_deadline()), (at(12), Some(at(12))));
        assert_eq!(leases.expire(at(11)), None);
        assert_eq!(leases.expire(at(12)), Some(LeaseId::FIRST));
        assert_eq!((leases.expire(at(12)), leases.known.len()), (None, 0));
    }

    #[test]
    fn a_lease_with_addresses_stays_until_they_leave() {
        let mut leases = Leases::default();
        let at = Instant::from_millis;
        let address = IpAddr::from([192, 0, 2, 1]);
        leases.bind(LeaseId::FIRST, address);
        assert!(!leases.renew(at(5), LeaseId::FIRST, at(5)), "a deadline that has passed is none");
        leases.renew(at(1), LeaseId::FIRST, at(10));
        leases.expire(at(10));
        assert_eq!(leases.addresses(LeaseId::FIRST).collect::<Vec<_>>(), [address]);
        leases.unbind(LeaseId::FIRST, address);
        assert_eq!(leases.known.len(), 0);
    }
}
