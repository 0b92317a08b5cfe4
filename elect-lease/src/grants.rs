//! The leases that a node hands out to its own announcers, one for each role that it owns.

use std::collections::BTreeMap;
use std::time::Duration;

use lbcore::elect::{LeaseId, Renewals, Term};
use lbcore::id::Role;
use lbcore::time::Instant;

/// What this node acts on, and what it has stopped to act on.
///
/// Announcers act on a lease until the deadline they were told last, even if they hear nothing more. So the deadlines
/// told are short, a fraction of the node's own lease: when a role is given up its lease is not renewed any more,
/// and once its deadline has passed nobody acts on the role, however slow those who should have been told are.
#[derive(Debug)]
pub(crate) struct Grants {
    span: Duration,
    margin: Duration,
    last: Option<LeaseId>,
    held: BTreeMap<Role, Grant>,
    parted: BTreeMap<Role, Parted>,
}

#[derive(Debug)]
struct Grant {
    term: Term,
    lease: LeaseId,
    until: Instant,
}

/// A role that was given up in a term. It is never acted upon again in that term: the swap that gives it away may be
/// under way.
#[derive(Debug)]
struct Parted {
    term: Term,
    silent_at: Instant,
    silent: bool,
}

impl Grants {
    /// Leases of `span`, and of roles given up `margin` more for what is on its way.
    pub(crate) fn new(span: Duration, margin: Duration) -> Self {
        Self { span, margin, last: None, held: BTreeMap::new(), parted: BTreeMap::new() }
    }

    /// Replaces what this node owns, by the table: the terms of its entries. What was given up stays so.
    pub(crate) fn own(&mut self, entries: &BTreeMap<Role, Term>) {
        self.parted.retain(|role, parted| entries.get(role) == Some(&parted.term));
        self.held.retain(|role, grant| entries.get(role) == Some(&grant.term));
        for (role, term) in entries {
            if !self.held.contains_key(role) && !self.parted.contains_key(role) {
                let lease = self.next_lease();
                self.held.insert(role.clone(), Grant { term: *term, lease, until: Instant::ZERO });
            }
        }
    }

    /// Gives up what `keep` says no to.
    pub(crate) fn part(&mut self, now: Instant, keep: impl Fn(&Role) -> bool) {
        let (margin, parted) = (self.margin, &mut self.parted);
        self.held.retain(|role, grant| {
            let kept = keep(role);
            if !kept {
                let silent_at = if grant.until > now { grant.until + margin } else { now };
                let silent = silent_at <= now;
                parted.insert(role.clone(), Parted { term: grant.term, silent_at, silent });
            }
            kept
        });
    }

    /// Stops acting on everything: the node's own lease ran out.
    pub(crate) fn lapse(&mut self) {
        self.held.clear();
    }

    /// Whether the role was given up in this term and nobody acts on it any more.
    pub(crate) fn is_silent(&self, role: &Role, term: Term) -> bool {
        self.parted.get(role).is_some_and(|parted| parted.term == term && parted.silent)
    }

    /// Whether a role has fallen silent by now.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for parted in self.parted.values_mut().filter(|parted| !parted.silent && parted.silent_at <= now) {
            parted.silent = true;
            changed = true;
        }
        changed
    }

    /// Renews all, up to `cover`, the end of the node's own lease. A lease that ran out meanwhile is replaced by
    /// another. Answers whether that was so.
    pub(crate) fn renew(&mut self, now: Instant, cover: Instant) -> bool {
        let until = cover.min(now + self.span);
        let mut replaced = false;
        let mut last = self.last;
        for grant in self.held.values_mut() {
            if grant.until != Instant::ZERO && grant.until <= now {
                let lease = last.map_or(LeaseId::FIRST, LeaseId::next);
                last = Some(lease);
                *grant = Grant { lease, until: Instant::ZERO, ..*grant };
                replaced = true;
            }
            grant.until = grant.until.max(until);
        }
        self.last = last;
        replaced
    }

    /// The roles to act on.
    pub(crate) fn mine(&self) -> BTreeMap<Role, LeaseId> {
        self.held.iter().map(|(role, grant)| (role.clone(), grant.lease)).collect()
    }

    /// Until when.
    pub(crate) fn renewals(&self) -> Renewals {
        Renewals(self.held.values().map(|grant| (grant.lease, grant.until)).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// When [`advance`](Self::advance) will say yes.
    pub(crate) fn next_silence(&self) -> Option<Instant> {
        self.parted.values().filter(|parted| !parted.silent).map(|parted| parted.silent_at).min()
    }

    fn next_lease(&mut self) -> LeaseId {
        let lease = self.last.map_or(LeaseId::FIRST, LeaseId::next);
        self.last = Some(lease);
        lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Duration = Duration::from_millis(10);

    fn grants() -> Grants {
        Grants::new(Duration::from_millis(200), MARGIN)
    }

    fn owns(terms: &[(&'static str, u64)]) -> BTreeMap<Role, Term> {
        terms.iter().map(|(name, term)| (Role::named(*name), Term(*term))).collect()
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn until(grants: &Grants, name: &'static str) -> Option<Instant> {
        let lease = *grants.mine().get(&Role::named(name))?;
        grants.renewals().0.get(&lease).copied()
    }

    #[test]
    fn each_role_has_a_lease_of_its_own_that_is_short() {
        let mut grants = grants();
        grants.own(&owns(&[("a", 1), ("b", 2)]));
        assert!(!grants.renew(at(1000), at(5000)));
        assert_eq!(grants.renewals().0.len(), 2);
        assert_eq!(until(&grants, "a"), Some(at(1200)));
        grants.renew(at(1100), at(1250));
        assert_eq!(until(&grants, "a"), Some(at(1250)));
        // A cover that is earlier takes nothing back.
        grants.renew(at(1110), at(1220));
        assert_eq!(until(&grants, "a"), Some(at(1250)));
    }

    #[test]
    fn a_role_given_up_is_silent_after_its_last_deadline_and_never_comes_back_in_that_term() {
        let mut grants = grants();
        grants.own(&owns(&[("a", 1), ("b", 2)]));
        grants.renew(at(1000), at(5000));
        let (a, b) = (grants.mine()[&Role::named("a")], grants.mine()[&Role::named("b")]);
        grants.part(at(1010), |role| *role != Role::named("a"));
        grants.renew(at(1100), at(5000));
        assert_eq!(grants.mine().into_values().collect::<Vec<_>>(), [b]);
        assert_eq!(grants.next_silence(), Some(at(1200) + MARGIN));
        assert!(!grants.advance(at(1209)));
        assert!(!grants.is_silent(&Role::named("a"), Term(1)));
        assert!(grants.advance(at(1210)));
        assert!(grants.is_silent(&Role::named("a"), Term(1)));
        assert!(!grants.is_silent(&Role::named("a"), Term(2)));
        assert_eq!(grants.next_silence(), None);
        // The table has not changed: nothing is regained.
        grants.own(&owns(&[("a", 1), ("b", 2)]));
        assert_eq!(grants.mine().len(), 1);
        // In a new term it is, with a new lease.
        grants.own(&owns(&[("a", 3), ("b", 2)]));
        assert!(grants.mine()[&Role::named("a")] > a);
        assert!(!grants.is_silent(&Role::named("a"), Term(1)));
    }

    #[test]
    fn a_lease_that_ran_out_is_replaced() {
        let mut grants = grants();
        grants.own(&owns(&[("a", 1)]));
        grants.renew(at(1000), at(5000));
        let before = grants.mine();
        assert!(!grants.renew(at(1199), at(5000)));
        assert_eq!(grants.mine(), before);
        assert!(grants.renew(at(1399), at(5000)));
        assert!(grants.mine()[&Role::named("a")] > before[&Role::named("a")]);
        assert_eq!(grants.renewals().0.len(), 1);
    }

    #[test]
    fn a_role_that_was_never_renewed_is_silent_at_once() {
        let mut grants = grants();
        grants.own(&owns(&[("a", 1)]));
        grants.part(at(1000), |_| false);
        assert!(grants.is_silent(&Role::named("a"), Term(1)));
        assert!(grants.is_empty());
    }
}
