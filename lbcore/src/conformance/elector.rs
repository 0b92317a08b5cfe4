//! The contract of [`LeaderElector`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::elect::{Bid, Candidacy, Hardware, LeaderElector, LeaseId, Ownership, Term};
use crate::id::{NodeName, Role};
use crate::time::{Duration, Instant};

/// What the suite needs of a backend's test environment: a cluster of nodes whose drivers run, and its network.
///
/// Nodes are numbered from 0. All of them are up and connected at first, and are candidates for nothing.
pub trait Harness {
    /// The names of the nodes.
    fn nodes(&self) -> Vec<NodeName>;

    /// The elector of a node that is up.
    fn elector(&self, node: usize) -> Arc<dyn LeaderElector>;

    /// The time of that node's clock.
    fn now(&self, node: usize) -> Instant;

    /// Lets `span` pass everywhere, with everything that falls due in it.
    fn advance(&mut self, span: Duration);

    /// Within this time an orphaned role has its new owner, and every node knows.
    fn takeover(&self) -> Duration;

    /// The node's process ends without a word.
    fn crash(&mut self, node: usize);

    /// A crashed node's process starts anew, a candidate for nothing.
    fn restart(&mut self, node: usize);

    /// The node's process stands still; its clock and the others go on.
    fn pause(&mut self, node: usize);

    /// It goes on where it stood.
    fn resume(&mut self, node: usize);

    /// The node no longer reaches anybody (nor a store), and nobody reaches it.
    fn cut(&mut self, node: usize);

    /// The node is connected again.
    fn heal(&mut self, node: usize);
}

type Build<'a> = &'a mut dyn FnMut(usize) -> Box<dyn Harness>;

/// Runs every clause that applies, each on a cluster of its own. `build` makes a cluster of so many nodes; a
/// backend whose capabilities say that it does not spread is only asked for one.
pub fn run_all(build: Build<'_>) {
    let spreads = build(1).elector(0).capabilities().spreads;
    for (_, nodes, clause) in CLAUSES {
        if *nodes == 1 || spreads {
            clause(&mut Cluster::new(build(*nodes)));
        }
    }
}

/// A clause of the contract: asserts one promise on a fresh cluster, and panics if it is broken.
pub type Clause = fn(&mut Cluster);

/// The clauses: name, how many nodes each needs, and the clause.
pub const CLAUSES: &[(&str, usize, Clause)] = &[
    ("a_lone_candidate_owns", 1, a_lone_candidate_owns),
    ("what_is_not_bid_for_is_given_up", 1, what_is_not_bid_for_is_given_up),
    ("an_ineligible_node_owns_nothing", 1, an_ineligible_node_owns_nothing),
    ("a_last_candidate_keeps_while_it_drains", 1, a_last_candidate_keeps_while_it_drains),
    ("a_regained_role_has_a_new_lease_and_term", 1, a_regained_role_has_a_new_lease_and_term),
    ("what_is_published_is_whole", 1, what_is_published_is_whole),
    ("roles_are_spread_evenly", 3, roles_are_spread_evenly),
    ("everybody_agrees", 3, everybody_agrees),
    ("nothing_moves_without_need", 3, nothing_moves_without_need),
    ("preference_decides", 3, preference_decides),
    ("a_crash_is_taken_over", 3, a_crash_is_taken_over),
    ("a_restarted_node_takes_nothing_by_force", 3, a_restarted_node_takes_nothing_by_force),
    ("a_restart_at_once_is_not_its_predecessor", 3, a_restart_at_once_is_not_its_predecessor),
    ("an_ineligible_owner_is_replaced", 3, an_ineligible_owner_is_replaced),
    ("a_pause_makes_no_second_owner", 3, a_pause_makes_no_second_owner),
    ("a_partition_has_the_owners_it_states", 3, a_partition_has_the_owners_it_states),
    ("a_drain_hands_over", 3, a_drain_hands_over),
    ("two_nodes_survive_each_other", 2, two_nodes_survive_each_other),
];

/// A harness with a referee: at every step it asserts that no role has two holders.
pub struct Cluster {
    harness: Box<dyn Harness>,
    down: BTreeSet<usize>,
    paused: BTreeSet<usize>,
    cut: BTreeSet<usize>,
    generation: u64,
    /// The highest term seen of each role, with its owner.
    terms: BTreeMap<Role, (Term, NodeName)>,
    /// Leases that a node was seen to own something by after they ran out.
    spent: BTreeMap<usize, BTreeSet<LeaseId>>,
    /// What each node was seen to publish last.
    published: BTreeMap<usize, Arc<Ownership>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("down", &self.down).field("cut", &self.cut).finish_non_exhaustive()
    }
}

/// Several steps a millisecond would only cost time: owners change in steps of heartbeats.
const STEP: Duration = Duration::from_millis(5);

impl Cluster {
    /// A cluster as the harness built it.
    pub fn new(harness: Box<dyn Harness>) -> Self {
        Self {
            harness,
            down: BTreeSet::new(),
            paused: BTreeSet::new(),
            cut: BTreeSet::new(),
            generation: 0,
            terms: BTreeMap::new(),
            spent: BTreeMap::new(),
            published: BTreeMap::new(),
        }
    }

    fn size(&self) -> usize {
        self.harness.nodes().len()
    }

    fn name(&self, node: usize) -> NodeName {
        self.harness.nodes()[node].clone()
    }

    fn bid(&mut self, node: usize, bids: impl IntoIterator<Item = (Role, Bid)>) {
        self.generation += 1;
        self.harness.elector(node).set_candidacy(Arc::new(Candidacy::new(self.generation, bids)));
    }

    fn bid_everywhere(&mut self, roles: &[Role]) {
        for node in 0..self.size() {
            self.bid(node, roles.iter().map(|role| (role.clone(), Bid::default())));
        }
    }

    fn ownership(&self, node: usize) -> Arc<Ownership> {
        self.harness.elector(node).ownership().borrow().clone()
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.size()).filter(|node| !self.down.contains(node) && !self.paused.contains(node)).collect()
    }

    /// Whether `node` may act on `role` at this moment: it owns it, and its lease holds.
    fn holds(&self, node: usize, role: &Role) -> bool {
        let elector = self.harness.elector(node);
        let Some(lease) = elector.ownership().borrow().mine.get(role).copied() else { return false };
        let until = elector.renewals().borrow().0.get(&lease).copied();
        until.is_some_and(|until| self.harness.now(node) < until)
    }

    fn holders(&self, role: &Role) -> Vec<usize> {
        self.alive().into_iter().filter(|node| self.holds(*node, role)).collect()
    }

    fn owner(&self, role: &Role) -> usize {
        match self.holders(role).as_slice() {
            [one] => *one,
            none_or_many => panic!("{role} should have one owner, and has {none_or_many:?}"),
        }
    }

    fn owners(&self, roles: &[Role]) -> BTreeMap<Role, usize> {
        roles.iter().map(|role| (role.clone(), self.owner(role))).collect()
    }

    /// Lets `span` pass and watches.
    fn watch(&mut self, span: Duration) {
        let mut left = span;
        self.check();
        while left > Duration::ZERO {
            let step = left.min(STEP);
            self.harness.advance(step);
            left -= step;
            self.check();
        }
    }

    fn settle(&mut self) {
        self.watch(self.harness.takeover());
    }

    fn check(&mut self) {
        let partition_safe = self
            .alive()
            .first()
            .is_some_and(|node| self.harness.elector(*node).capabilities().partition_safe);
        let mut roles = BTreeSet::new();
        for node in self.alive() {
            let ownership = self.ownership(node);
            let renewals = self.harness.elector(node).renewals().borrow().clone();
            let now = self.harness.now(node);
            let before = self.published.insert(node, ownership.clone()).unwrap_or_default();
            assert!(
                ownership == before || ownership.generation > before.generation,
                "node {node} has changed its ownership within generation {}",
                before.generation
            );
            for (role, lease) in &ownership.mine {
                let owner = ownership.roles.get(role).map(|owner| &owner.node);
                assert_eq!(owner, Some(&self.name(node)), "node {node} acts on {role}, which is another's");
                assert!(renewals.0.contains_key(lease), "node {node} has no deadline of {lease} for {role}");
            }
            let spent = self.spent.entry(node).or_default();
            for lease in ownership.mine.values() {
                let lapsed = renewals.0.get(lease).is_some_and(|until| *until <= now);
                assert!(lapsed || !spent.contains(lease), "node {node} revives {lease}, which had run out");
                if lapsed {
                    spent.insert(*lease);
                }
            }
            roles.extend(ownership.mine.keys().cloned());
            if self.cut.contains(&node) {
                continue;
            }
            for (role, owner) in &ownership.roles {
                let seen = self.terms.entry(role.clone()).or_insert_with(|| (owner.term, owner.node.clone()));
                if owner.term > seen.0 {
                    *seen = (owner.term, owner.node.clone());
                } else if owner.term == seen.0 {
                    assert_eq!(
                        owner.node, seen.1,
                        "{role} has changed hands within {} as node {node} sees it",
                        owner.term
                    );
                }
            }
        }
        for role in roles {
            let holders = self.holders(&role);
            let connected: Vec<_> = holders.iter().filter(|node| !self.cut.contains(node)).collect();
            assert!(connected.len() <= 1, "{role} has several owners that reach each other: {connected:?}");
            if partition_safe {
                assert!(holders.len() <= 1, "{role} has owners on several sides of a partition: {holders:?}");
            }
        }
    }

    fn crash(&mut self, node: usize) {
        self.down.insert(node);
        self.spent.remove(&node);
        self.published.remove(&node);
        self.harness.crash(node);
    }

    fn restart(&mut self, node: usize) {
        self.harness.restart(node);
        self.down.remove(&node);
    }
}

fn roles(count: u8) -> Vec<Role> {
    (1..=count).map(|last| Role::Address([192, 0, 2, last].into())).collect()
}

fn bids(roles: &[Role], bid: Bid) -> Vec<(Role, Bid)> {
    roles.iter().map(|role| (role.clone(), bid)).collect()
}

/// A node alone owns all that it bids for, under a lease that is renewed, and says which bid it considered.
pub fn a_lone_candidate_owns(cluster: &mut Cluster) {
    let roles = roles(3);
    cluster.bid(0, bids(&roles, Bid::default()));
    cluster.settle();
    let ownership = cluster.ownership(0);
    assert_eq!(ownership.candidacy, cluster.generation, "the ownership tells which candidacy it reflects");
    assert!(ownership.members.contains_key(&cluster.name(0)), "a node is a member of its own cluster");
    for role in &roles {
        assert_eq!(cluster.owner(role), 0);
        let owner = ownership.roles.get(role).expect("an owned role is among the roles");
        assert_eq!(owner.node, cluster.name(0));
        assert!(owner.term > Term(0), "an owner has a term");
    }
    cluster.watch(Duration::from_secs(10));
    assert_eq!(cluster.owners(&roles).len(), 3, "the lease is renewed for as long as nothing is wrong");
}

/// A role that left the candidacy is no longer owned.
pub fn what_is_not_bid_for_is_given_up(cluster: &mut Cluster) {
    let roles = roles(2);
    cluster.bid(0, bids(&roles, Bid::default()));
    cluster.settle();
    cluster.bid(0, bids(&roles[1..], Bid::default()));
    cluster.settle();
    assert!(!cluster.holds(0, &roles[0]), "nobody bids for it any more");
    assert_eq!(cluster.owner(&roles[1]), 0);
}

/// A node that cannot serve owns nothing, even if nobody else is there.
pub fn an_ineligible_node_owns_nothing(cluster: &mut Cluster) {
    let roles = roles(2);
    cluster.bid(0, bids(&roles, Bid::default().ineligible()));
    cluster.settle();
    assert!(!cluster.holds(0, &roles[0]), "it was never eligible");
    cluster.bid(0, bids(&roles, Bid::default()));
    cluster.settle();
    assert_eq!(cluster.owner(&roles[0]), 0);
    cluster.bid(0, bids(&roles, Bid::default().ineligible()));
    cluster.settle();
    assert!(!cluster.holds(0, &roles[0]), "it is no longer eligible");
}

/// Better a leaving owner than none.
pub fn a_last_candidate_keeps_while_it_drains(cluster: &mut Cluster) {
    let roles = roles(1);
    cluster.bid(0, bids(&roles, Bid::default()));
    cluster.settle();
    cluster.bid(0, bids(&roles, Bid::default().draining()));
    cluster.settle();
    assert_eq!(cluster.owner(&roles[0]), 0, "nobody else could own it");
}

/// Between two ownerships of one node lie a new lease and a higher term.
pub fn a_regained_role_has_a_new_lease_and_term(cluster: &mut Cluster) {
    let roles = roles(1);
    cluster.bid(0, bids(&roles, Bid::default()));
    cluster.settle();
    let before = cluster.ownership(0);
    cluster.bid(0, bids(&roles, Bid::default().ineligible()));
    cluster.settle();
    cluster.bid(0, bids(&roles, Bid::default()));
    cluster.settle();
    let after = cluster.ownership(0);
    let term = |ownership: &Ownership| ownership.roles.get(&roles[0]).map(|owner| owner.term);
    assert!(term(&after) > term(&before), "{:?} follows {:?}", term(&after), term(&before));
    let lease = |ownership: &Ownership| ownership.mine.get(&roles[0]).copied();
    assert!(lease(&after).is_some(), "it is eligible again");
    assert_ne!(lease(&after), lease(&before), "a lease that was let go is not used again");
}

/// Each change has a generation of its own, whatever a node acts on it is seen to own, and each lease has a deadline.
pub fn what_is_published_is_whole(cluster: &mut Cluster) {
    let roles = roles(3);
    for count in [1, 3, 2, 0, 3] {
        cluster.bid(0, bids(&roles[..count], Bid::default()));
        cluster.settle();
        let ownership = cluster.ownership(0);
        assert_eq!(ownership.candidacy, cluster.generation);
        assert_eq!(ownership.mine.keys().collect::<Vec<_>>(), roles[..count].iter().collect::<Vec<_>>());
    }
}

/// Among equal candidates each carries the same, give or take one.
pub fn roles_are_spread_evenly(cluster: &mut Cluster) {
    let roles = roles(7);
    cluster.bid_everywhere(&roles);
    cluster.settle();
    let owners = cluster.owners(&roles);
    for node in 0..cluster.size() {
        let load = owners.values().filter(|owner| **owner == node).count();
        assert!((2..=3).contains(&load), "node {node} carries {load} of 7 roles among three: {owners:?}");
    }
}

/// Nodes that reach each other see the same owners, terms and members, and each other's hardware addresses.
pub fn everybody_agrees(cluster: &mut Cluster) {
    let roles = roles(4);
    let hardware = |number: u8| Hardware::from([("eth0".into(), [2, 0, 0, 0, 0, number])]);
    for (number, node) in (0..).zip(0..cluster.size()) {
        cluster.harness.elector(node).set_hardware(hardware(number));
    }
    cluster.bid_everywhere(&roles);
    cluster.settle();
    let first = cluster.ownership(0);
    for (number, name) in (0..).zip(cluster.harness.nodes()) {
        let known = first.members.get(&name).map(|member| &member.hardware);
        assert_eq!(known, Some(&hardware(number)), "the hardware addresses of {name}");
    }
    assert_eq!(
        first.members.keys().cloned().collect::<BTreeSet<_>>(),
        cluster.harness.nodes().into_iter().collect()
    );
    assert_eq!(first.roles.keys().cloned().collect::<Vec<_>>(), roles);
    for node in 1..cluster.size() {
        let other = cluster.ownership(node);
        assert_eq!(other.roles, first.roles, "as node {node} sees it");
        assert_eq!(other.members, first.members, "as node {node} sees it");
    }
}

/// In a quiet cluster owners and terms stay, and so do they when candidacies are repeated.
pub fn nothing_moves_without_need(cluster: &mut Cluster) {
    let roles = roles(5);
    cluster.bid_everywhere(&roles);
    cluster.settle();
    let before = cluster.ownership(0).roles.clone();
    cluster.watch(Duration::from_secs(5));
    cluster.bid_everywhere(&roles);
    cluster.settle();
    assert_eq!(cluster.ownership(0).roles, before);
}

/// The candidates that prefer a role most share it among themselves.
pub fn preference_decides(cluster: &mut Cluster) {
    let roles = roles(3);
    for node in 0..cluster.size() {
        let bid = if node == 1 { Bid::preferring(10) } else { Bid::default() };
        cluster.bid(node, bids(&roles, bid));
    }
    cluster.settle();
    cluster.settle();
    for role in &roles {
        assert_eq!(cluster.owner(role), 1, "node 1 is preferred for {role}");
    }
    cluster.crash(1);
    cluster.settle();
    for role in &roles {
        assert_ne!(cluster.owner(role), 1, "the others serve while the preferred one is gone");
    }
}

/// The roles of a node that died go to the others under higher terms; the others' own roles stay.
pub fn a_crash_is_taken_over(cluster: &mut Cluster) {
    let roles = roles(6);
    cluster.bid_everywhere(&roles);
    cluster.settle();
    let (before, terms) = (cluster.owners(&roles), cluster.ownership(1).roles.clone());
    cluster.crash(0);
    cluster.settle();
    for (role, owner) in cluster.owners(&roles) {
        let now = &cluster.ownership(1).roles[&role];
        if before[&role] == 0 {
            assert_ne!(owner, 0);
            assert!(now.term > terms[&role].term, "a new owner of {role} has a higher term");
        } else {
            assert_eq!(owner, before[&role], "{role} had no need to move");
            assert_eq!(now.term, terms[&role].term, "{role} had no need of a new term");
        }
    }
    assert!(!cluster.ownership(1).members.contains_key(&cluster.name(0)), "a dead node is no member");
}

/// A node that comes back gets only what evens the load, by hand-over.
pub fn a_restarted_node_takes_nothing_by_force(cluster: &mut Cluster) {
    let roles = roles(6);
    cluster.bid_everywhere(&roles);
    cluster.settle();
    cluster.crash(2);
    cluster.settle();
    let before = cluster.owners(&roles);
    cluster.restart(2);
    cluster.bid(2, bids(&roles, Bid::default()));
    cluster.settle();
    cluster.settle();
    let moved: Vec<_> =
        cluster.owners(&roles).into_iter().filter(|(role, owner)| before[role] != *owner).collect();
    assert_eq!(moved.len(), 2, "two of six roles even the load over three nodes, these moved: {moved:?}");
    assert!(moved.iter().all(|(_, owner)| *owner == 2), "only the newcomer gains: {moved:?}");
}

/// A process that begins as the last one of its name ends owns nothing that the other one owned, unless anew.
pub fn a_restart_at_once_is_not_its_predecessor(cluster: &mut Cluster) {
    let roles = roles(6);
    cluster.bid_everywhere(&roles);
    cluster.settle();
    let before = cluster.ownership(1).roles.clone();
    cluster.crash(0);
    cluster.restart(0);
    cluster.bid(0, bids(&roles, Bid::default()));
    cluster.check();
    assert!(cluster.ownership(0).mine.is_empty(), "it has not been given anything yet");
    cluster.settle();
    cluster.settle();
    let owners = cluster.owners(&roles);
    for (role, owner) in &owners {
        let now = &cluster.ownership(1).roles[role];
        if *owner == 0 || now.node != before[role].node {
            assert!(
                now.term > before[role].term,
                "the new process owns {role} in the old one's {}",
                now.term
            );
        }
    }
    assert!(owners.values().any(|owner| *owner == 0), "a node that came back carries its share: {owners:?}");
}

/// The roles of a node that cannot serve any more go to the others; the others' own roles stay.
pub fn an_ineligible_owner_is_replaced(cluster: &mut Cluster) {
    let roles = roles(6);
    cluster.bid_everywhere(&roles);
    cluster.settle();
    let before = cluster.owners(&roles);
    cluster.bid(0, bids(&roles, Bid::default().ineligible()));
    cluster.settle();
    for (role, owner) in cluster.owners(&roles) {
        assert_ne!(owner, 0, "{role} left the node that cannot serve");
        if before[&role] != 0 {
            assert_eq!(owner, before[&role], "{role} had no need to move");
        }
    }
}

/// A node that slept through its lease does not act on it when it wakes.
pub fn a_pause_makes_no_second_owner(cluster: &mut Cluster) {
    let roles = roles(3);
    cluster.bid_everywhere(&roles);
    cluster.settle();
    let owner = cluster.owner(&roles[0]);
    cluster.harness.pause(owner);
    cluster.paused.insert(owner);
    cluster.settle();
    assert_ne!(cluster.owner(&roles[0]), owner, "somebody took over from the one that stands still");
    cluster.paused.remove(&owner);
    assert!(!cluster.holds(owner, &roles[0]), "in the moment before it does anything, its lease is over");
    cluster.harness.resume(owner);
    cluster.settle();
    cluster.settle();
    cluster.owners(&roles);
}

/// On a cut, the majority has owners; the minority has none, or its own where the capabilities say so; after
/// the healing there is one.
pub fn a_partition_has_the_owners_it_states(cluster: &mut Cluster) {
    let roles = roles(3);
    cluster.bid_everywhere(&roles);
    cluster.settle();
    let lonely = cluster.owner(&roles[0]);
    let partition_safe = cluster.harness.elector(lonely).capabilities().partition_safe;
    cluster.cut.insert(lonely);
    cluster.harness.cut(lonely);
    cluster.settle();
    cluster.settle();
    for role in &roles {
        let connected: Vec<_> = cluster.holders(role).into_iter().filter(|node| *node != lonely).collect();
        assert_eq!(connected.len(), 1, "the nodes that reach each other have one owner for {role}");
        assert_eq!(
            cluster.holds(lonely, role),
            !partition_safe,
            "capabilities().partition_safe decides what the other side of a partition owns"
        );
    }
    cluster.harness.heal(lonely);
    // Until both sides have heard each other there are two owners where that is stated.
    if !partition_safe {
        let span = cluster.harness.takeover();
        cluster.harness.advance(span);
        // Both sides may have counted on to the same term.
        cluster.terms.clear();
    }
    cluster.cut.remove(&lonely);
    cluster.settle();
    cluster.owners(&roles);
}

/// A draining node gives its roles away, and is never an owner together with the next.
pub fn a_drain_hands_over(cluster: &mut Cluster) {
    let roles = roles(6);
    cluster.bid_everywhere(&roles);
    cluster.settle();
    let before = cluster.owners(&roles);
    cluster.bid(0, bids(&roles, Bid::default().draining()));
    cluster.settle();
    for (role, owner) in cluster.owners(&roles) {
        assert_ne!(owner, 0, "{role} left the draining node");
        if before[&role] != 0 {
            assert_eq!(owner, before[&role], "{role} had no need to move");
        }
    }
    for node in 0..cluster.size() {
        let seen = cluster.ownership(node).members.get(&cluster.name(0)).map(|member| member.draining);
        assert_eq!(seen, Some(true), "node {node} knows that node 0 drains");
    }
}

/// Two nodes are a cluster too: either may die, and the other serves.
pub fn two_nodes_survive_each_other(cluster: &mut Cluster) {
    let roles = roles(2);
    cluster.bid_everywhere(&roles);
    cluster.settle();
    for node in 0..2 {
        cluster.crash(node);
        cluster.settle();
        for role in &roles {
            assert_eq!(cluster.owner(role), 1 - node);
        }
        cluster.restart(node);
        cluster.bid(node, bids(&roles, Bid::default()));
        cluster.settle();
        cluster.settle();
    }
}

#[cfg(test)]
mod tests;
