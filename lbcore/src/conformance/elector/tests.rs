//! A right fake, and the wrong ones that each clause must notice.

use super::*;
use crate::condition::Condition;
use crate::elect::{ElectorCapabilities, Member, Owner, Renewals};
use crate::spread::{Bids, spread};
use std::sync::Mutex;
use tokio::sync::watch;

/// What a fake gets wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    None,
    OwnsNothing,
    NeverGivesUp,
    IgnoresEligibility,
    DrainsToNobody,
    RepeatsTerms,
    PilesUp,
    ForgetsMembers,
    ForgetsHardware,
    Churns,
    IgnoresPreference,
    NeverTakesOver,
    ReturnsByForce,
    LeaseOutlivesPause,
    RevivesLease,
    HidesPartition,
    IgnoresDrain,
    HidesDrain,
    WantsMajority,
    ReusesLease,
    RepeatsGenerations,
    ForgetsDeadlines,
    ActsOnOthers,
    ResumesItsPredecessor,
}

const LEASE: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Fake {
    candidacy: Mutex<Arc<Candidacy>>,
    hardware: Mutex<Hardware>,
    ownership: watch::Sender<Arc<Ownership>>,
    renewals: watch::Sender<Renewals>,
    conditions: watch::Sender<Vec<Condition>>,
    capabilities: ElectorCapabilities,
}

impl LeaderElector for Fake {
    fn set_candidacy(&self, mine: Arc<Candidacy>) {
        *self.candidacy.lock().unwrap() = mine;
    }

    fn set_hardware(&self, hardware: Hardware) {
        *self.hardware.lock().unwrap() = hardware;
    }

    fn ownership(&self) -> watch::Receiver<Arc<Ownership>> {
        self.ownership.subscribe()
    }

    fn renewals(&self) -> watch::Receiver<Renewals> {
        self.renewals.subscribe()
    }

    fn conditions(&self) -> watch::Receiver<Vec<Condition>> {
        self.conditions.subscribe()
    }

    fn capabilities(&self) -> ElectorCapabilities {
        self.capabilities
    }
}

#[derive(Debug)]
struct Node {
    fake: Arc<Fake>,
    up: bool,
    paused: bool,
    cut: bool,
    lease: LeaseId,
    until: Instant,
}

/// An all-knowing referee elects; nodes only hear of it while they run and are connected.
struct FakeHarness {
    defect: Defect,
    partition_safe: bool,
    now: Instant,
    nodes: Vec<Node>,
    /// Owners and terms: of the connected nodes, and of each node that is cut off on its own.
    main: BTreeMap<Role, Owner>,
    islands: BTreeMap<usize, BTreeMap<Role, Owner>>,
    generation: u64,
}

impl FakeHarness {
    fn new(size: usize, defect: Defect, partition_safe: bool) -> Self {
        let claims_safe = partition_safe || defect == Defect::HidesPartition;
        let node = |_| Node {
            fake: Arc::new(Fake {
                candidacy: Mutex::default(),
                hardware: Mutex::default(),
                ownership: watch::Sender::default(),
                renewals: watch::Sender::default(),
                conditions: watch::Sender::default(),
                capabilities: ElectorCapabilities::new(claims_safe, true),
            }),
            up: true,
            paused: false,
            cut: false,
            lease: LeaseId::FIRST,
            until: Instant::ZERO,
        };
        let nodes = (0..size).map(node).collect();
        let (main, islands) = (BTreeMap::new(), BTreeMap::new());
        let mut harness = Self {
            defect,
            partition_safe,
            now: Instant::from_millis(1),
            nodes,
            main,
            islands,
            generation: 0,
        };
        harness.tick();
        harness
    }

    fn name(node: usize) -> NodeName {
        NodeName::new(format!("n{node}"))
    }

    fn bids(&self, nodes: &[usize]) -> Bids {
        let mut bids = Bids::new();
        for node in nodes {
            let candidacy = self.nodes[*node].fake.candidacy.lock().unwrap().clone();
            for (role, bid) in &candidacy.bids {
                let mut bid = *bid;
                bid.eligible |= self.defect == Defect::IgnoresEligibility;
                bid.draining &= self.defect != Defect::IgnoresDrain;
                if self.defect == Defect::IgnoresPreference {
                    bid.preference = 0;
                }
                if self.defect == Defect::DrainsToNobody && bid.draining {
                    bid.eligible = false;
                }
                bids.entry(role.clone()).or_default().insert(Self::name(*node), bid);
            }
        }
        bids
    }

    fn elect(&self, side: &[usize], owners: &BTreeMap<Role, Owner>) -> BTreeMap<Role, Owner> {
        if self.defect == Defect::OwnsNothing
            || (self.defect == Defect::WantsMajority && side.len() * 2 <= self.nodes.len())
        {
            return BTreeMap::new();
        }
        let bids = self.bids(side);
        let mut current: BTreeMap<_, _> =
            owners.iter().map(|(role, owner)| (role.clone(), owner.node.clone())).collect();
        if self.defect == Defect::Churns && self.now.as_nanos() / 1_000_000_000 % 2 == 1 {
            current = current.keys().map(|role| (role.clone(), Self::name(side[0]))).collect();
        }
        let mut next = spread(&bids, &current);
        if self.defect == Defect::PilesUp {
            next.values_mut().for_each(|node| *node = Self::name(side[0]));
        }
        if self.defect == Defect::ReturnsByForce && side.contains(&2) {
            next.values_mut().for_each(|node| *node = Self::name(2));
        }
        if self.defect == Defect::NeverTakesOver {
            next.extend(current);
        }
        let mut elected = owners.clone();
        for (role, node) in next {
            let term = owners.get(&role).map_or(Term(0), |owner| owner.term);
            let raise = u64::from(self.defect != Defect::RepeatsTerms || term == Term(0));
            if owners.get(&role).is_none_or(|owner| owner.node != node) {
                elected.insert(role, Owner::new(node, Term(term.0 + raise)));
            }
        }
        // A role that nobody may own keeps its term, under a name that is no node's.
        for (role, owner) in &mut elected {
            let candidate =
                bids.get(role).and_then(|bids| bids.get(&owner.node)).is_some_and(|bid| bid.eligible);
            let vacant = !matches!(self.defect, Defect::NeverTakesOver | Defect::NeverGivesUp);
            if !candidate && vacant {
                owner.node = NodeName::from("");
            }
        }
        elected
    }

    fn tick(&mut self) {
        let (now, partition_safe, defect) = (self.now, self.partition_safe, self.defect);
        for node in &mut self.nodes {
            let renews = node.up && !node.paused && (!node.cut || !partition_safe);
            if renews && node.until <= now && defect != Defect::RevivesLease {
                node.lease = node.lease.next();
            }
            if renews {
                node.until = now + if defect == Defect::LeaseOutlivesPause { LEASE * 1000 } else { LEASE };
            }
        }
        let counts = |node: &Node| {
            let heard =
                if defect == Defect::LeaseOutlivesPause { node.up && !node.paused } else { node.until > now };
            heard && !node.cut
        };
        let side: Vec<_> = (0..self.nodes.len()).filter(|node| counts(&self.nodes[*node])).collect();
        // While a cut or dead node's lease still holds, nobody takes over from it.
        let waiting = self.nodes.iter().any(|node| {
            node.until > now
                && ((node.cut && partition_safe) || (!node.up && defect != Defect::LeaseOutlivesPause))
        });
        if !side.is_empty() && !waiting {
            self.main = self.elect(&side, &self.main);
        }
        self.publish(&side, &self.main.clone());
        for node in 0..self.nodes.len() {
            if self.nodes[node].cut && !partition_safe && self.nodes[node].up {
                let island = self.elect(&[node], self.islands.get(&node).unwrap_or(&self.main));
                self.publish(&[node], &island);
                self.islands.insert(node, island);
            } else if self.nodes[node].cut {
                self.publish(&[node], &BTreeMap::new());
            }
        }
    }

    fn publish(&mut self, side: &[usize], owners: &BTreeMap<Role, Owner>) {
        self.generation += 1;
        let drains = |node: &usize| {
            let candidacy = self.nodes[*node].fake.candidacy.lock().unwrap();
            let mut bids = candidacy.bids.values();
            self.defect != Defect::HidesDrain && !candidacy.bids.is_empty() && bids.all(|bid| bid.draining)
        };
        let member = |node: &usize| {
            let hardware = match self.defect {
                Defect::ForgetsHardware => Hardware::new(),
                _ => self.nodes[*node].fake.hardware.lock().unwrap().clone(),
            };
            (Self::name(*node), Member { draining: drains(node), hardware })
        };
        let members: BTreeMap<_, _> = side.iter().map(member).collect();
        let owned = owners.iter().filter(|(_, owner)| !owner.node.as_str().is_empty());
        let roles: BTreeMap<_, _> = owned.map(|(role, owner)| (role.clone(), owner.clone())).collect();
        for node in side {
            let (defect, name) = (self.defect, Self::name(*node));
            let state = &mut self.nodes[*node];
            if !state.up || state.paused {
                continue;
            }
            let mine = roles.iter().filter(|(_, owner)| owner.node == name || defect == Defect::ActsOnOthers);
            let mine: BTreeMap<_, _> = mine.map(|(role, _)| (role.clone(), state.lease)).collect();
            // Whoever owns nothing lets its lease go.
            if mine.is_empty() && defect != Defect::ReusesLease {
                state.lease = state.lease.next();
            }
            let mut members = members.clone();
            if defect == Defect::ForgetsMembers && *node == 1 {
                members.remove(&Self::name(0));
            }
            let mut renewals = Renewals(BTreeMap::from([(state.lease, state.until)]));
            if defect == Defect::ForgetsDeadlines {
                renewals.0.clear();
            }
            state.fake.renewals.send_replace(renewals);
            let candidacy = state.fake.candidacy.lock().unwrap().generation;
            let generation = if defect == Defect::RepeatsGenerations { 1 } else { self.generation };
            state.fake.ownership.send_replace(Arc::new(Ownership {
                generation,
                candidacy,
                members,
                roles: roles.clone(),
                mine,
            }));
        }
    }
}

impl Harness for FakeHarness {
    fn nodes(&self) -> Vec<NodeName> {
        (0..self.nodes.len()).map(Self::name).collect()
    }

    fn elector(&self, node: usize) -> Arc<dyn LeaderElector> {
        self.nodes[node].fake.clone()
    }

    fn now(&self, _node: usize) -> Instant {
        self.now
    }

    fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = end.min(self.now + TICK);
            self.tick();
        }
    }

    fn takeover(&self) -> Duration {
        LEASE * 2
    }

    fn crash(&mut self, node: usize) {
        self.nodes[node].up = false;
    }

    fn restart(&mut self, node: usize) {
        if self.defect != Defect::ResumesItsPredecessor {
            // Nobody owns what its predecessor owned.
            let orphans = self.main.values_mut().filter(|owner| owner.node == Self::name(node));
            orphans.for_each(|owner| owner.node = NodeName::from(""));
        }
        let state = &mut self.nodes[node];
        state.up = true;
        *state.fake.candidacy.lock().unwrap() = Arc::default();
        state.fake.ownership.send_replace(Arc::default());
    }

    fn pause(&mut self, node: usize) {
        self.nodes[node].paused = true;
    }

    fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
    }

    fn cut(&mut self, node: usize) {
        self.nodes[node].cut = true;
    }

    fn heal(&mut self, node: usize) {
        self.nodes[node].cut = false;
        for (role, owner) in self.islands.remove(&node).unwrap_or_default() {
            let rank = |owner: &Owner| (owner.term, owner.node.clone());
            let known = self.main.entry(role).or_insert_with(|| owner.clone());
            if rank(&owner) > rank(known) {
                *known = owner;
            }
        }
    }
}

#[test]
fn right_ones_pass() {
    for partition_safe in [true, false] {
        run_all(&mut |nodes| Box::new(FakeHarness::new(nodes, Defect::None, partition_safe)));
    }
}

/// Each clause with a fake that breaks it, and words of the complaint.
const BROKEN: &[(&str, Defect, &str)] = &[
    ("a_lone_candidate_owns", Defect::OwnsNothing, "should have one owner"),
    ("what_is_not_bid_for_is_given_up", Defect::NeverGivesUp, "nobody bids for it any more"),
    ("an_ineligible_node_owns_nothing", Defect::IgnoresEligibility, "it was never eligible"),
    ("a_last_candidate_keeps_while_it_drains", Defect::DrainsToNobody, "should have one owner"),
    ("a_regained_role_has_a_new_lease_and_term", Defect::RepeatsTerms, "Some(Term(1)) follows Some(Term(1))"),
    ("a_regained_role_has_a_new_lease_and_term", Defect::ReusesLease, "let go is not used again"),
    ("what_is_published_is_whole", Defect::RepeatsGenerations, "within generation 1"),
    ("what_is_published_is_whole", Defect::ForgetsDeadlines, "has no deadline"),
    ("roles_are_spread_evenly", Defect::PilesUp, "of 7 roles among three"),
    ("everybody_agrees", Defect::ForgetsMembers, "as node 1 sees it"),
    ("everybody_agrees", Defect::ForgetsHardware, "the hardware addresses of"),
    ("everybody_agrees", Defect::ActsOnOthers, "which is another's"),
    ("nothing_moves_without_need", Defect::Churns, "left == right"),
    ("preference_decides", Defect::IgnoresPreference, "is preferred for"),
    ("a_crash_is_taken_over", Defect::NeverTakesOver, "should have one owner"),
    ("a_restarted_node_takes_nothing_by_force", Defect::ReturnsByForce, "even the load over three"),
    ("a_restart_at_once_is_not_its_predecessor", Defect::ResumesItsPredecessor, "in the old one's term"),
    ("an_ineligible_owner_is_replaced", Defect::IgnoresEligibility, "left the node that cannot serve"),
    ("a_pause_makes_no_second_owner", Defect::LeaseOutlivesPause, "its lease is over"),
    ("a_pause_makes_no_second_owner", Defect::RevivesLease, "which had run out"),
    ("a_partition_has_the_owners_it_states", Defect::HidesPartition, "of a partition"),
    ("a_drain_hands_over", Defect::IgnoresDrain, "left the draining node"),
    ("a_drain_hands_over", Defect::HidesDrain, "knows that node 0 drains"),
    ("two_nodes_survive_each_other", Defect::WantsMajority, "should have one owner"),
];

#[test]
fn each_clause_fails_against_its_broken_fake() {
    for (clause, nodes, run) in CLAUSES {
        let mut broken = BROKEN.iter().filter(|(name, ..)| name == clause).peekable();
        assert!(broken.peek().is_some(), "no fake breaks {clause}");
        for (_, defect, words) in broken {
            let failed = std::panic::catch_unwind(|| {
                run(&mut Cluster::new(Box::new(FakeHarness::new(*nodes, *defect, false))));
            });
            let panic = failed.expect_err(&format!("{clause} does not notice {defect:?}"));
            let complaint = panic.downcast_ref::<String>().cloned();
            let complaint = complaint.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let complaint = complaint.unwrap_or_default();
            assert!(complaint.contains(words), "{clause} complains of {defect:?} with: {complaint}");
        }
    }
    for (clause, ..) in BROKEN {
        assert!(CLAUSES.iter().any(|(name, ..)| name == clause), "{clause} is no clause");
    }
}
