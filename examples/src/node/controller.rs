//! Who calls whom: the one loop that joins the crates.
//!
//! Documents → plan → candidacy → elector → ownership → plan → announcers. Before an address is announced it is
//! deliverable here; after it is withdrawn it may go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use announce_bgp::BgpAnnouncer;
use announce_bgp::manifest::BgpPeer;
use announce_l2::machine::Interface;
use gateway_router::manifest::GatewayDocument;
use lbcore::allocator::{IpAllocator, PoolAllocator};
use lbcore::announce::{AnnounceState, Announcement, Announcer, Interfaces};
use lbcore::condition::{Condition, Status};
use lbcore::elect::{Bid, LeaderElector, Member, Ownership, Term};
use lbcore::id::{NodeName, OwnerKey, Role};
use lbcore::manifest::{IpAddressPool, Namespace, Node, Objects, Service};
use lbcore::plan::{self, Allocations, LocalHealth, World};
use lbcore::time::{Duration, Instant};
use tokio::time::timeout;

use super::agreement::Agreement;
use super::bgp;
use super::delivery::{Delivery, DeliveryError};
use super::events::{Event, Teller};
use super::forward::Forwarder;
use super::gateway::Gateways;
use super::handover::{self, HandOver, Holder};
use super::intent::Intent;
use super::manifests::Manifests;
use super::readiness::Readiness;
use super::services;
use crate::files;

/// How long a withdrawal may take before its address is taken off this machine all the same.
const WITHDRAWAL: Duration = Duration::from_millis(200);

/// What the controller works with.
#[derive(Debug)]
pub struct Hands {
    /// Elects owners.
    pub elector: Arc<dyn LeaderElector>,
    /// Answers on the segment.
    pub l2: Option<Arc<dyn Announcer>>,
    /// Tells the routers.
    pub bgp: Option<BgpAnnouncer>,
    /// Makes addresses end here.
    pub delivery: Option<Delivery>,
    /// Carries plain services.
    pub forwarder: Option<Forwarder>,
    /// Serves Gateways.
    pub gateways: Gateways,
    /// Lets open connections stay with an address's former owner.
    pub hand_over: Option<HandOver>,
    /// Whether there are no other nodes, so that nobody can own what this one claims.
    pub alone: bool,
}

impl Hands {
    fn announcers(&self) -> impl Iterator<Item = (&'static str, &dyn Announcer)> {
        let l2 = self.l2.iter().map(|l2| ("l2", &**l2));
        l2.chain(self.bgp.iter().map(|bgp| ("bgp", bgp as &dyn Announcer)))
    }
}

/// This node's view and will.
#[derive(Debug)]
pub struct Controller {
    me: NodeName,
    teller: Teller,
    hands: Hands,
    manifests: Manifests,
    world: World,
    allocations: Allocations,
    health: LocalHealth,
    /// The checks succeed.
    ready: bool,
    /// Whether the documents have been read.
    loaded: bool,
    /// Whether this node's allocations are those of the other nodes: see [`trusts_documents`].
    trusted: bool,
    intent: Intent,
    /// No interface can be answered on.
    no_interface: bool,
    deliverable: BTreeSet<IpAddr>,
    /// The last other node that owned each address.
    former: BTreeMap<IpAddr, NodeName>,
    /// Who was there at the last look.
    members: BTreeSet<NodeName>,
    /// What is wrong with the peers that the documents ask for.
    peer_conditions: Vec<(String, Condition)>,
    /// Whether the documents and this machine have what the announcers need.
    found_missing: Vec<(String, Condition)>,
    agreement: Agreement,
    /// What is wrong on this machine.
    conditions: Vec<(String, Condition)>,
    told: Told,
}

/// What was told last, so that only changes are.
#[derive(Debug, Default)]
struct Told {
    members: BTreeSet<NodeName>,
    owners: BTreeMap<IpAddr, (NodeName, Term)>,
    allocated: BTreeMap<OwnerKey, Vec<IpAddr>>,
    conditions: BTreeMap<(String, String), BTreeSet<Condition>>,
    announced: BTreeMap<(IpAddr, &'static str), Vec<Arc<str>>>,
    problems: bool,
    readiness: Option<Readiness>,
}

impl Controller {
    /// A controller that has read nothing and decided nothing yet.
    pub fn new(me: NodeName, teller: Teller, hands: Hands, manifests: Manifests) -> Self {
        Self {
            me,
            teller,
            intent: Intent::new(hands.alone),
            hands,
            manifests,
            world: World::default(),
            allocations: Allocations::default(),
            health: LocalHealth::default(),
            ready: true,
            loaded: false,
            trusted: false,
            no_interface: false,
            deliverable: BTreeSet::new(),
            former: BTreeMap::new(),
            members: BTreeSet::new(),
            peer_conditions: Vec::new(),
            found_missing: Vec::new(),
            agreement: Agreement::default(),
            conditions: Vec::new(),
            told: Told::default(),
        }
    }

    /// What it works with.
    pub fn hands(&mut self) -> &mut Hands {
        &mut self.hands
    }

    /// The documents.
    pub fn manifests(&mut self) -> &mut Manifests {
        &mut self.manifests
    }

    /// Reads the documents, and does what they say.
    pub async fn reload(&mut self) {
        let report = self.manifests.load();
        for problem in &report.problems {
            self.teller.tell(&Event::Problem(problem.to_string()));
        }
        for notice in &report.notices {
            self.teller.tell(&Event::Notice(notice.to_string()));
        }
        if self.manifests.are_missing() {
            self.teller.tell(&Event::Notice("there are no .yaml, .yml or .json files to read".to_owned()));
        }
        if std::mem::replace(&mut self.told.problems, !report.problems.is_empty())
            && report.problems.is_empty()
        {
            self.teller.tell(&Event::Notice("all problems of the documents are mended".to_owned()));
        }
        let objects = self.manifests.objects();
        self.loaded = true;
        self.trusted |= self.hands.alone || trusts_documents(objects);
        self.world = files::world(objects);
        self.peer_conditions = match &self.hands.bgp {
            Some(bgp) => set_peers(bgp, objects, &self.me),
            None => Vec::new(),
        };
        self.found_missing = missing(objects, &self.me, self.hands.bgp.is_some());
        // Anew from the documents each time: all nodes come to the same allocations, whatever each has seen before.
        let mut allocator = PoolAllocator::default();
        allocator.set_pools(&self.world.pools);
        self.allocations = plan::allocate(&mut allocator, &self.world);
        self.agreement.update(&self.allocations);
        self.tell_allocations();
        self.apply().await;
    }

    /// Heeds what the checks say.
    pub async fn set_readiness(&mut self, readiness: Readiness) {
        self.ready = readiness.is_ok();
        if self.told.readiness.as_ref() != Some(&readiness) {
            self.teller.tell(&Event::Readiness(readiness.clone()));
            self.told.readiness = Some(readiness);
        }
        self.apply().await;
    }

    /// Gives all roles away, or takes part again.
    pub async fn set_draining(&mut self, draining: bool) {
        if self.health.draining != draining {
            self.health.draining = draining;
            self.teller.tell(&Event::Draining(draining));
            self.apply().await;
        }
    }

    /// Heeds which interfaces are up.
    pub async fn set_interfaces(&mut self, interfaces: &[Interface]) {
        self.no_interface = interfaces.is_empty();
        self.intent.set_interfaces(Instant::now(), interfaces);
        if let Some(hand_over) = &mut self.hands.hand_over {
            hand_over.set_interfaces(interfaces);
        }
        self.apply().await;
    }

    /// How long until [`apply`](Self::apply) has something to do though nothing happened; `None` if it never does.
    pub fn due(&self) -> Option<Duration> {
        let now = Instant::now();
        Some(self.intent.next_change(now)?.saturating_since(now))
    }

    /// Tries again what this machine refused.
    pub async fn retry(&mut self) {
        if !self.health.unready.is_empty() {
            self.apply().await;
        }
    }

    /// Whether there are no other nodes.
    pub fn is_alone(&self) -> bool {
        self.hands.alone
    }

    /// What this node owns.
    pub fn owned(&self) -> BTreeSet<Role> {
        self.hands.elector.ownership().borrow().mine.keys().cloned().collect()
    }

    /// Whether this node owns nothing any more, and each role of `given` has another owner if there are other nodes.
    pub fn is_taken_over(&self, given: &BTreeSet<Role>) -> bool {
        let ownership = self.hands.elector.ownership();
        let ownership = ownership.borrow();
        let has_other = |role| ownership.roles.get(role).is_some_and(|owner| owner.node != self.me);
        ownership.mine.is_empty() && (ownership.members.len() < 2 || given.iter().all(has_other))
    }

    /// Makes this machine, the elector and the announcers do what the plan says.
    pub async fn apply(&mut self) {
        // Before the documents are read, nothing is known to be unwanted of what an earlier process left.
        if !self.loaded {
            return;
        }
        let ownership = self.hands.elector.ownership().borrow().clone();
        // Who does not answer on the segment has no interface to do it on.
        self.intent.set_members(&self.me, &ownership);
        let answers = self.hands.l2.is_some();
        let links = answers.then(|| self.intent.reliable_links(Instant::now()));
        self.health.interfaces = Some(links.unwrap_or_default());
        self.health.ready = self.ready && self.trusted;

        // First everything that an announcement relies on …
        let wanted = self.candidate_addresses();
        let mut conditions = self.peer_conditions.clone();
        conditions.extend(self.found_missing.iter().cloned());
        if answers && self.no_interface {
            conditions.push(("l2".to_owned(), no_interface()));
        }
        if !self.trusted {
            conditions.push(("documents".to_owned(), not_trusted()));
        }
        let mut refused_addresses = BTreeSet::new();
        let meanwhile: BTreeSet<IpAddr> = self.deliverable.union(&wanted).copied().collect();
        if let Some(delivery) = &mut self.hands.delivery {
            for (address, error) in delivery.apply(&meanwhile).await {
                conditions.push((address.to_string(), undeliverable(&error)));
                refused_addresses.insert(address);
            }
        }
        if let Some(forwarder) = &mut self.hands.forwarder {
            let objects = self.manifests.objects();
            let (forwarding, refused) = services::forwarding(objects, &self.allocations, &self.me);
            for (owner, why) in refused {
                conditions.push((owner.to_string(), Condition::no("Forwarded", "UnsupportedProtocol", why)));
            }
            for (frontend, why) in forwarder.apply(&forwarding).await {
                conditions.push((frontend.to_string(), Condition::no("Forwarded", "Refused", why)));
                refused_addresses.insert(frontend.address);
            }
        }
        let served = self.hands.gateways.apply(self.manifests.objects(), &self.allocations);
        conditions.extend(served.conditions);
        self.health.unready = served.unready;
        // Where packets would not be served, they must not be called for.
        for (address, owners) in self.allocations.by_address() {
            if refused_addresses.contains(&address) {
                self.health.unready.extend(owners.into_iter().cloned());
            }
        }

        // … then the announcements and the bids …
        let mut bids = plan::candidacy(&self.world, &self.allocations, &self.me, &self.health);
        if self.takes_part() {
            bids.insert(self.agreement.role().clone(), Bid::default());
        }
        let announcements =
            plan::announce(&self.world, &self.allocations, &ownership, &self.me, &self.health);
        let ours: BTreeSet<IpAddr> = announcements.l2.keys().copied().collect();
        let moved = self.moved_here(&ours, &ownership);
        let mut refused = None;
        if !moved.is_empty() {
            refused = self.keep_connections(&moved, &ours, &ownership).await;
        }
        self.announce("l2", announcements.l2, announcements.standby, &ownership);
        self.announce("bgp", announcements.bgp, BTreeMap::new(), &ownership);
        if let Some(candidacy) = self.intent.bid(bids) {
            self.hands.elector.set_candidacy(candidacy);
        }
        if moved.is_empty() {
            // Nobody waits for it: what a dead node served is lost, and the clients are to hear of the new one at once.
            refused = self.keep_connections(&moved, &ours, &ownership).await;
        }
        conditions.extend(refused.map(|condition| ("l2".to_owned(), condition)));
        self.let_connections_end(&ownership);

        // … and last what nothing relies on any more.
        if meanwhile != wanted {
            self.withdrawn().await;
            if let Some(delivery) = &mut self.hands.delivery {
                let failed = delivery.apply(&wanted).await;
                let gone = failed.iter().filter(|(address, _)| !wanted.contains(address));
                conditions.extend(gone.map(|(address, error)| (address.to_string(), undeliverable(error))));
            }
        }
        self.deliverable = wanted;
        self.members = ownership.members.keys().cloned().collect();
        self.tell_ownership(&ownership);
        self.conditions = conditions;
        self.tell_conditions();
    }

    /// The addresses whose clients are about to learn that they are here, each with its former owner if that lives: those
    /// that were not announced before, and those of whose former owner nothing was heard when they were, since it was cut
    /// off, and its clients with it.
    fn moved_here(&self, ours: &BTreeSet<IpAddr>, ownership: &Ownership) -> BTreeMap<IpAddr, Member> {
        let before = self.intent.set("l2");
        let is_new = |address: &IpAddr| before.is_none_or(|set| !set.entries.contains_key(address));
        let is_back =
            |address: &IpAddr| self.former.get(address).is_some_and(|former| !self.members.contains(former));
        let gained = ours.iter().copied().filter(|address| is_new(address) || is_back(address));
        handover::moved(gained, &self.former, &ownership.members)
    }

    /// Lets open connections of the addresses that moved here stay with their former owners.
    async fn keep_connections(
        &mut self,
        moved: &BTreeMap<IpAddr, Member>,
        ours: &BTreeSet<IpAddr>,
        ownership: &Ownership,
    ) -> Option<Condition> {
        let hand_over = self.hands.hand_over.as_mut()?;
        let holder = |address: IpAddr| {
            let owner = ownership.roles.get(&Role::Address(address));
            let other = owner.filter(|owner| owner.node != self.me);
            match other.and_then(|owner| ownership.members.get(&owner.node)) {
                _ if ours.contains(&address) => Holder::Us,
                Some(member) => Holder::Other(member.clone()),
                None => Holder::Nobody,
            }
        };
        let done = hand_over.apply(Instant::now(), moved, &ownership.members, holder).await;
        let error = done.err()?;
        let why = format!("connections that were open when an address moved here are cut: {error}");
        Some(Condition::no("ConnectionsKept", "Refused", why))
    }

    /// Lets the connections of addresses that are another node's, or are to be, end with their next answer.
    fn let_connections_end(&mut self, ownership: &Ownership) {
        let mut elsewhere = BTreeSet::new();
        for (role, owner) in &ownership.roles {
            if let Role::Address(address) = role
                && owner.node != self.me
            {
                elsewhere.insert(*address);
                self.former.insert(*address, owner.node.clone());
            }
        }
        let draining = self.health.draining;
        self.hands.gateways.let_end(|address| draining || elsewhere.contains(&address));
    }

    /// Waits until the connections that are open have ended, but no longer than `grace`.
    pub async fn connections_end(&self, grace: Duration) {
        const LOOK: Duration = Duration::from_millis(50);
        let ended = async {
            while self.hands.forwarder.as_ref().is_some_and(|forwarder| forwarder.open() != Some(0)) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = timeout(grace, ended).await;
    }

    /// Whether its allocations are to be those of all others.
    fn takes_part(&self) -> bool {
        !self.hands.alone && self.trusted && !self.health.draining
    }

    /// The addresses that this node may announce, whether or not it is fit to now.
    fn candidate_addresses(&self) -> BTreeSet<IpAddr> {
        let fit = LocalHealth::default();
        let nobody = Ownership::default();
        let bids = plan::candidacy(&self.world, &self.allocations, &self.me, &fit);
        let announcements = plan::announce(&self.world, &self.allocations, &nobody, &self.me, &fit);
        let roles = bids.into_keys().filter_map(|role| match role {
            Role::Address(address) => Some(address),
            _ => None,
        });
        roles.chain(announcements.bgp.into_keys()).collect()
    }

    fn announce(
        &mut self,
        name: &'static str,
        entries: BTreeMap<IpAddr, Announcement>,
        standby: BTreeMap<IpAddr, Interfaces>,
        ownership: &Ownership,
    ) {
        let Some((_, announcer)) = self.hands.announcers().find(|(known, _)| *known == name) else { return };
        if let Some(set) = self.intent.announce(name, entries, standby, ownership) {
            announcer.set_desired(set);
        }
    }

    /// Waits until the announcers reflect their last sets, but not for long.
    async fn withdrawn(&self) {
        for (name, announcer) in self.hands.announcers() {
            let wanted = self.intent.set(name).map_or(0, |set| set.generation);
            let mut status = announcer.status();
            let _ = timeout(WITHDRAWAL, status.wait_for(|status| status.generation >= wanted)).await;
        }
    }

    fn tell_allocations(&mut self) {
        let mut now = BTreeMap::new();
        for (owner, grant) in &self.allocations.grants {
            let addresses = grant.allocation.as_ref().map(|allocation| allocation.addresses.clone());
            now.insert(owner.clone(), addresses.unwrap_or_default());
        }
        for (owner, addresses) in &now {
            let before = self.told.allocated.get(owner);
            if before == Some(addresses) {
                continue;
            }
            self.teller.tell(&Event::Allocated { owner: owner.clone(), addresses: addresses.clone() });
            if let Some(before) = before.filter(|before| !before.is_empty() && !addresses.is_empty()) {
                self.teller.tell(&Event::Notice(moved(owner, before, addresses)));
            }
        }
        for owner in self.told.allocated.keys().filter(|owner| !now.contains_key(owner)) {
            self.teller.tell(&Event::Allocated { owner: owner.clone(), addresses: Vec::new() });
        }
        self.told.allocated = now;
    }

    fn tell_ownership(&mut self, ownership: &Ownership) {
        let members: BTreeSet<_> = ownership.members.keys().cloned().collect();
        if members != self.told.members {
            self.teller.tell(&Event::Members(members.clone()));
            self.told.members = members;
        }
        let mut owners = BTreeMap::new();
        for (role, owner) in &ownership.roles {
            if let Role::Address(address) = role {
                owners.insert(*address, (owner.node.clone(), owner.term));
            }
        }
        for (address, owner) in &owners {
            if self.told.owners.get(address) != Some(owner) {
                self.teller.tell(&Event::Owner { address: *address, owner: Some(owner.clone()) });
            }
        }
        for address in self.told.owners.keys().filter(|address| !owners.contains_key(address)) {
            self.teller.tell(&Event::Owner { address: *address, owner: None });
        }
        self.told.owners = owners;
    }

    /// Tells what is not as wished: of the plan, on this machine, and with the announcers.
    pub fn tell_conditions(&mut self) {
        let mut conditions = self.conditions.clone();
        for (owner, outlook) in plan::outlook(&self.world, &self.allocations) {
            conditions.extend(outlook.obstacle().map(|condition| (owner.to_string(), condition.clone())));
        }
        if self.takes_part() {
            let ownership = self.hands.elector.ownership();
            let differs = self.agreement.condition(Instant::now(), &ownership.borrow());
            conditions.extend(differs.map(|condition| ("documents".to_owned(), condition)));
        }
        let electing = self.hands.elector.conditions().borrow().clone();
        let troubles = electing.into_iter().filter(|condition| condition.status != Status::True);
        conditions.extend(troubles.map(|condition| ("elector".to_owned(), condition)));
        let mut announced = BTreeMap::new();
        for (name, announcer) in self.hands.announcers() {
            let status = announcer.status().borrow().clone();
            conditions.extend(status.conditions.iter().map(|condition| (name.to_owned(), condition.clone())));
            for (address, state) in &status.entries {
                match state {
                    AnnounceState::Silent(condition) => {
                        conditions.push((format!("{name} {address}"), condition.clone()));
                    }
                    AnnounceState::Announced { to } => drop(announced.insert((*address, name), to.clone())),
                    _ => {}
                }
            }
        }
        self.tell_announced(announced);
        let mut now: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (about, condition) in conditions {
            now.entry((about, condition.reason.to_string())).or_default().insert(condition);
        }
        for (key, conditions) in &now {
            let told = self.told.conditions.get(key);
            for condition in conditions.iter().filter(|it| told.is_none_or(|told| !told.contains(*it))) {
                let event = Event::Condition { about: key.0.clone(), condition: condition.clone() };
                self.teller.tell(&event);
            }
        }
        for (about, reason) in self.told.conditions.keys().filter(|key| !now.contains_key(*key)) {
            self.teller.tell(&Event::Cleared { about: about.clone(), reason: reason.clone() });
        }
        self.told.conditions = now;
    }

    fn tell_announced(&mut self, announced: BTreeMap<(IpAddr, &'static str), Vec<Arc<str>>>) {
        let told = std::mem::take(&mut self.told.announced);
        for ((address, by), to) in announced.iter().filter(|(key, to)| told.get(*key) != Some(*to)) {
            self.teller.tell(&Event::Announced { address: *address, by, to: to.clone() });
        }
        for (address, by) in told.into_keys().filter(|key| !announced.contains_key(key)) {
            self.teller.tell(&Event::Announced { address, by, to: Vec::new() });
        }
        self.told.announced = announced;
    }

    /// Undoes what was done to this machine.
    pub async fn undo(self) {
        if let Some(forwarder) = self.hands.forwarder {
            forwarder.undo().await;
        }
        if let Some(hand_over) = self.hands.hand_over {
            hand_over.undo().await;
        }
        if let Some(delivery) = self.hands.delivery {
            delivery.undo().await;
        }
    }
}

/// Whether the allocations that follow from the documents are those of all nodes that have them: every document that
/// matters is valid. A node that ran when one became invalid keeps its last valid version, as all others that ran;
/// one that starts later cannot know it, and would give other addresses.
fn trusts_documents(objects: &Objects) -> bool {
    objects.all_valid::<Service>()
        && objects.all_valid::<IpAddressPool>()
        && objects.all_valid::<Namespace>()
        && objects.all_valid::<GatewayDocument>()
}

fn not_trusted() -> Condition {
    let why = "this node started with pools, Services, Namespaces or Gateways that are not all valid, and cannot know \
               what the other nodes keep of them: it takes part as soon as they are mended";
    Condition::no("Eligible", "InvalidDocuments", why)
}

/// What the documents lack for the node `me`.
fn missing(objects: &Objects, me: &NodeName, speaks_bgp: bool) -> Vec<(String, Condition)> {
    let mut missing = Vec::new();
    let nodes: Vec<_> = objects.iter::<Node>().map(|(name, _)| &*name.name).collect();
    if !nodes.is_empty() && !nodes.contains(&me.as_str()) {
        let why = format!(
            "there is no Node {me}, but {}: give this node's name as --node, or add its document",
            nodes.join(", ")
        );
        missing.push(("documents".to_owned(), Condition::no("NodeKnown", "NoSuchNode", why)));
    }
    if speaks_bgp && objects.iter::<BgpPeer>().next().is_none() {
        let why = "there is no BGPPeer, so that no router is told anything: add one";
        missing.push(("bgp".to_owned(), Condition::no("PeersAccepted", "NoPeers", why)));
    }
    missing
}

fn no_interface() -> Condition {
    let why = "there is no interface to answer on: see that there is one that is up and has Ethernet addresses, and \
               that a pattern given by --interface fits it";
    Condition::no("InterfaceReady", "NoInterface", why)
}

fn undeliverable(error: &DeliveryError) -> Condition {
    Condition::no("Deliverable", "Refused", error.to_string())
}

/// What is said when a change of the documents gave an owner other addresses.
fn moved(owner: &OwnerKey, before: &[IpAddr], now: &[IpAddr]) -> String {
    let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let (before, now) = (list(before), list(now));
    format!(
        "{owner} moved from {before} to {now}: all nodes allocate by the documents alone, so that one that is added \
         or removed before it can move it; to pin it, show {before} in its status.loadBalancer.ingress or ask for it \
         by the annotation metallb.io/loadBalancerIPs"
    )
}

/// Hands the peers of this node to the speaker. One whose configuration is unchanged keeps its session.
fn set_peers(bgp: &BgpAnnouncer, objects: &Objects, me: &NodeName) -> Vec<(String, Condition)> {
    let peers = bgp::peers(objects, me);
    let mut conditions = peers.conditions;
    if let Err(error) = bgp.set_peers(peers.peers.into()) {
        conditions.push(Condition::no("PeersAccepted", "Refused", error.to_string()));
    }
    conditions.into_iter().map(|condition| ("bgp".to_owned(), condition)).collect()
}
