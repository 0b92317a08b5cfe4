//! The elector of a node that is alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::condition::Condition;
use crate::elect::{
    Candidacy, ElectorCapabilities, Hardware, LeaderElector, LeaseId, Member, Owner, Ownership, Renewals,
    Term,
};
use crate::id::{NodeName, Role};
use crate::spread::{Bids, spread};
use crate::time::Instant;

/// Elects the one node there is: it owns each role for which it is eligible, at once and without end.
///
/// For a single machine, for tests, and for announcements that need no election. Needs no driver and no runtime:
/// the answer is there when [`set_candidacy`](LeaderElector::set_candidacy) returns. Two nodes that both run it
/// for one address both own it.
///
/// ```
/// use std::sync::Arc;
/// use lbcore::elect::{Bid, Candidacy, LeaderElector, Solo};
/// use lbcore::id::Role;
///
/// let elector = Solo::new("node-1".into());
/// let writer = Role::named("status-writer");
/// elector.set_candidacy(Arc::new(Candidacy::new(1, [(writer.clone(), Bid::default())])));
/// assert!(elector.ownership().borrow().mine.contains_key(&writer));
/// ```
#[derive(Debug)]
pub struct Solo {
    node: NodeName,
    /// What was handed out; its lock also keeps the two channels in step.
    last: Mutex<Last>,
    ownership: watch::Sender<Arc<Ownership>>,
    renewals: watch::Sender<Renewals>,
    /// Nothing stands in the way of a node that is alone.
    conditions: watch::Sender<Vec<Condition>>,
}

/// The last of what was handed out.
#[derive(Debug, Default)]
struct Last {
    lease: Option<LeaseId>,
    terms: BTreeMap<Role, Term>,
}

impl Solo {
    /// The elector of the node `node`, which owns nothing yet.
    pub fn new(node: NodeName) -> Self {
        let members = BTreeMap::from([(node.clone(), Member::default())]);
        let ownership = Ownership { members, ..Ownership::default() };
        Self {
            node,
            last: Mutex::default(),
            ownership: watch::Sender::new(Arc::new(ownership)),
            renewals: watch::Sender::default(),
            conditions: watch::Sender::default(),
        }
    }
}

impl LeaderElector for Solo {
    fn set_candidacy(&self, mine: Arc<Candidacy>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.ownership.borrow().clone();
        let hardware = old.members.get(&self.node).map(|me| me.hardware.clone()).unwrap_or_default();
        let draining = !mine.bids.is_empty() && mine.bids.values().all(|bid| bid.draining);

        // What spread() says of one node: eligible, and not draining unless it is the owner already.
        let bids: Bids = mine
            .bids
            .iter()
            .map(|(role, bid)| (role.clone(), BTreeMap::from([(self.node.clone(), *bid)])))
            .collect();
        let current: BTreeMap<Role, NodeName> =
            old.mine.keys().map(|role| (role.clone(), self.node.clone())).collect();

        // All roles gained now share one lease.
        let fresh = last.lease.map_or(LeaseId::FIRST, LeaseId::next);
        let mut next = Ownership {
            generation: old.generation,
            candidacy: mine.generation,
            members: BTreeMap::from([(self.node.clone(), Member { draining, hardware })]),
            ..Ownership::default()
        };
        for role in spread(&bids, &current).into_keys() {
            let (lease, owner) = match (old.mine.get(&role), old.roles.get(&role)) {
                (Some(lease), Some(owner)) => (*lease, owner.clone()),
                _ => {
                    last.lease = Some(fresh);
                    let term = last.terms.entry(role.clone()).or_default();
                    term.0 += 1;
                    (fresh, Owner::new(self.node.clone(), *term))
                }
            };
            next.roles.insert(role.clone(), owner);
            next.mine.insert(role, lease);
        }
        if next == *old {
            return;
        }
        next.generation += 1;

        // The lease first: whoever reads of a role finds it covered.
        let held = Renewals(next.mine.values().map(|lease| (*lease, Instant::FAR_FUTURE)).collect());
        self.renewals.send_if_modified(|renewals| {
            let changed = *renewals != held;
            *renewals = held;
            changed
        });
        self.ownership.send_replace(Arc::new(next));
    }

    fn set_hardware(&self, hardware: Hardware) {
        // Its lock keeps the two channels in step.
        let _last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.ownership.send_if_modified(|ownership| {
            let changed = ownership.members.get(&self.node).is_none_or(|me| me.hardware != hardware);
            if changed {
                let next = Arc::make_mut(ownership);
                next.members.entry(self.node.clone()).or_default().hardware = hardware;
                next.generation += 1;
            }
            changed
        });
    }

    fn ownership(&self) -> watch::Receiver<Arc<Ownership>> {
        self.ownership.subscribe()
    }

    fn renewals(&self) -> watch::Receiver<Renewals> {
        self.renewals.subscribe()
    }

    /// Nothing: no other node is asked, and a lone node spreads over nobody.
    fn conditions(&self) -> watch::Receiver<Vec<Condition>> {
        self.conditions.subscribe()
    }

    fn capabilities(&self) -> ElectorCapabilities {
        ElectorCapabilities::new(false, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elect::Bid;

    fn vip() -> Role {
        Role::Address("192.0.2.1".parse().unwrap())
    }

    fn bid(elector: &Solo, generation: u64, bids: &[(Role, Bid)]) -> Arc<Ownership> {
        elector.set_candidacy(Arc::new(Candidacy::new(generation, bids.iter().cloned())));
        elector.ownership().borrow().clone()
    }

    fn deadline(elector: &Solo, lease: LeaseId) -> Option<Instant> {
        elector.renewals().borrow().0.get(&lease).copied()
    }

    #[test]
    fn owns_every_eligible_role_at_once_and_for_good() {
        let elector = Solo::new("a".into());
        assert_eq!(elector.ownership().borrow().members.len(), 1);
        let writer = Role::named("writer");
        let owned =
            bid(&elector, 7, &[(vip(), Bid::default()), (writer.clone(), Bid::default().ineligible())]);
        assert_eq!(owned.candidacy, 7);
        assert_eq!(owned.roles.keys().collect::<Vec<_>>(), [&vip()]);
        assert_eq!(owned.roles[&vip()].node, "a".into());
        assert_eq!(deadline(&elector, owned.mine[&vip()]), Some(Instant::FAR_FUTURE));

        // A role gained later leaves the first one alone.
        let more = bid(&elector, 8, &[(vip(), Bid::default()), (writer.clone(), Bid::default())]);
        assert_eq!(more.mine[&vip()], owned.mine[&vip()]);
        assert_eq!(more.roles[&vip()], owned.roles[&vip()]);
        assert_ne!(more.mine[&writer], owned.mine[&vip()]);
        assert_eq!(elector.renewals().borrow().0.len(), 2);
    }

    #[test]
    fn a_role_regained_has_a_new_lease_and_a_higher_term() {
        let elector = Solo::new("a".into());
        let first = bid(&elector, 1, &[(vip(), Bid::default())]);
        for (generation, gone) in [(2, vec![(vip(), Bid::default().ineligible())]), (4, vec![])] {
            let without = bid(&elector, generation, &gone);
            assert!(without.mine.is_empty() && without.roles.is_empty());
            assert!(elector.renewals().borrow().0.is_empty());
            let again = bid(&elector, generation + 1, &[(vip(), Bid::default())]);
            assert!(again.mine[&vip()] > first.mine[&vip()]);
            assert!(again.roles[&vip()].term > first.roles[&vip()].term);
            assert!(again.generation > without.generation);
        }
    }

    #[test]
    fn a_draining_node_keeps_what_it_has_and_gains_nothing() {
        let elector = Solo::new("a".into());
        let first = bid(&elector, 1, &[(vip(), Bid::default())]);
        let other = Role::named("other");
        let bids = [(vip(), Bid::default().draining()), (other, Bid::default().draining())];
        let draining = bid(&elector, 2, &bids);
        assert_eq!(draining.mine, first.mine);
        assert!(draining.members[&NodeName::from("a")].draining);
        let hardware = Hardware::from([("eth0".into(), [2, 0, 0, 0, 0, 1])]);
        elector.set_hardware(hardware.clone());
        let known = elector.ownership().borrow().clone();
        assert_eq!(
            (&known.members[&NodeName::from("a")].hardware, known.generation),
            (&hardware, draining.generation + 1)
        );
        elector.set_hardware(hardware);
        assert_eq!(elector.ownership().borrow().generation, known.generation, "it is the same");
    }

    #[test]
    fn the_same_candidacy_again_wakes_nobody() {
        let elector = Solo::new("a".into());
        bid(&elector, 1, &[(vip(), Bid::default())]);
        let (mut ownership, mut renewals) = (elector.ownership(), elector.renewals());
        ownership.mark_unchanged();
        renewals.mark_unchanged();
        bid(&elector, 1, &[(vip(), Bid::default())]);
        assert!(!ownership.has_changed().unwrap());
        // Another weight changes the bid, not what is owned.
        bid(&elector, 2, &[(vip(), Bid { weight: 5, ..Bid::default() })]);
        assert!(ownership.has_changed().unwrap());
        assert!(!renewals.has_changed().unwrap());
    }

    /// A lone node, whose elector has no clock.
    #[cfg(feature = "conformance")]
    struct Alone(Arc<Solo>);

    #[cfg(feature = "conformance")]
    impl crate::conformance::elector::Harness for Alone {
        fn nodes(&self) -> Vec<NodeName> {
            vec!["a".into()]
        }

        fn elector(&self, _node: usize) -> Arc<dyn LeaderElector> {
            self.0.clone()
        }

        fn now(&self, _node: usize) -> Instant {
            Instant::ZERO
        }

        fn advance(&mut self, _span: crate::time::Duration) {}

        fn takeover(&self) -> crate::time::Duration {
            crate::time::Duration::ZERO
        }

        fn crash(&mut self, _node: usize) {
            self.0 = Arc::new(Solo::new("a".into()));
        }

        fn restart(&mut self, _node: usize) {}

        fn pause(&mut self, _node: usize) {}

        fn resume(&mut self, _node: usize) {}

        fn cut(&mut self, _node: usize) {}

        fn heal(&mut self, _node: usize) {}
    }

    #[cfg(feature = "conformance")]
    #[test]
    fn the_contract_holds() {
        crate::conformance::elector::run_all(&mut |_| Box::new(Alone(Arc::new(Solo::new("a".into())))));
    }
}
