//! The loop: what happens next, and who is told.
//!
//! The simulator is the driver of every machine, and keeps the drivers' rules.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use announce_l2::machine::{self as l2, Transmit};
use announce_l2::wire::{FrameBuf, MacAddr};
use elect_gossip::machine as gossip;
use elect_gossip::{ClusterKey, Keyring, Timing};
use elect_lease::machine as lease;
use elect_lease::{Fetched, Versioned};
use lbcore::addr::{AddressRange, Family};
use lbcore::allocator::{Families, Pool, PoolAllocator, Pools};
use lbcore::elect::lease::{Holder, Revision};
use lbcore::id::{NodeName, OwnerKey};
use lbcore::labels::{LabelSelector, Labels};
use lbcore::plan::{self, Allocations, Demand, L2Terms, Means, Preference};
use lbcore::time::{Duration, Instant};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::clock::Skewed;
use super::neighbours::{Kind, Neighbours, Word};
use super::node::{Arrival, Brain, Deed, INTERFACE, Node, Process};
use super::referee::{Heard, Referee};
use super::scenario::{Action, Fake, Mode, Scenario, Split};

/// As many datagrams or frames as a socket of Linux keeps.
const SOCKET: usize = 256;
/// Frames a call, as the driver sends and reads them.
const BATCH: usize = 64;
/// How long a task waits for its turn, at most. Three of them lie between an elector's word and its announcer's
/// silence, within the pause of a hand-over.
const TURN: (u64, u64) = (10_000, 300_000);
/// How long the kernel takes to tell of a carrier.
const CARRIER: (u64, u64) = (1_000_000, 20_000_000);
/// How often it is asked on behalf of the clients who answers; longer than a frame is under way.
const QUESTIONS: Duration = Duration::from_millis(16);
/// How many questions at once.
const AT_ONCE: usize = 6;

#[derive(Debug)]
enum Event {
    Arrive {
        to: usize,
        life: u64,
        arrival: Arrival,
    },
    Frame {
        to: usize,
        from: usize,
        life: u64,
        frame: FrameBuf,
    },
    /// An answer for the observer.
    Answered {
        word: Word,
    },
    Timer {
        node: usize,
        life: u64,
        which: usize,
    },
    Turn {
        node: usize,
        life: u64,
        task: usize,
    },
    /// The controller is to have a turn though nothing happened.
    Due {
        node: usize,
        life: u64,
    },
    Store {
        node: usize,
        life: u64,
        request: lease::Request,
    },
    Request {
        client: usize,
    },
    Cache {
        client: usize,
    },
    Questions,
    Act(Action),
}

/// The tasks of a process besides the two that wait for timers.
const PLAN: usize = 0;
const MAIL: usize = 1;
const LINKS: usize = 2;
const ELECTOR: usize = 0;
const ANNOUNCER: usize = 1;

struct Entry {
    at: Instant,
    serial: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

struct Client {
    mac: MacAddr,
    cache: Neighbours,
    watched: Vec<usize>,
    next: usize,
    timer: Option<Instant>,
}

/// All that there is.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now: Instant,
    rng: ChaCha8Rng,
    queue: BinaryHeap<Reverse<Entry>>,
    serial: u64,
    lives: u64,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    documents: plan::World,
    allocations: Allocations,
    splits: Vec<Split>,
    /// When a split last ended.
    healed: Instant,
    /// When the first of the cuts that there are was made.
    parted: Instant,
    /// Which nodes hear each other, directly or through others; `None` for those that hear nobody.
    gossip: Vec<Option<usize>>,
    streams: BTreeMap<(usize, u64), (usize, u64)>,
    store: BTreeMap<String, Versioned>,
    revision: u64,
    outage: bool,
    /// The observer's questions: which address on behalf of whom.
    asked: BTreeMap<usize, (usize, Instant)>,
    turn: usize,
    pub(crate) referee: Referee,
    pub(crate) story: Vec<String>,
    trace: bool,
    pub(crate) events: u64,
}

fn node_mac(node: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, u8::try_from(node + 1).unwrap_or(0xff)])
}

const OBSERVER: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
const OBSERVER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 250);
const OBSERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 2, 1);

/// The documents that all nodes have: a service for each address, and who is preferred.
fn documents(scenario: &Scenario) -> Result<plan::World, String> {
    let mut ranges = Vec::new();
    for range in ["198.51.100.1-198.51.100.99", "2001:db8::1-2001:db8::99"] {
        ranges.push(range.parse::<AddressRange>().map_err(|error| error.to_string())?);
    }
    let mut documents = plan::World::default();
    documents.pools = Pools::new([Pool::new("public", ranges)]).map_err(|error| error.to_string())?;
    let mut terms = L2Terms::default();
    if scenario.preferred.is_some() {
        terms.preferences =
            vec![Preference { weight: 10, selector: LabelSelector::label("preferred", "yes") }];
    }
    documents.advertisements.push(plan::Advertisement::new("all", Means::L2(terms)));
    for node in 0..scenario.nodes {
        let mut labels = Labels::new();
        if scenario.preferred == Some(node) {
            labels.insert("preferred", "yes");
        }
        documents.nodes.insert(name(node), plan::Node::with_labels(labels));
    }
    for service in 0..scenario.v4 + scenario.v6 {
        let owner = OwnerKey::service("default", &format!("s{service}"));
        let mut demand = Demand::new(owner.clone());
        let family = if service < scenario.v4 { Family::V4 } else { Family::V6 };
        demand.request.families = Families::Single(family);
        documents.demands.insert(owner, demand);
    }
    Ok(documents)
}

fn name(node: usize) -> NodeName {
    NodeName::new(format!("n{}", node + 1))
}

impl World {
    pub(crate) fn new(scenario: Scenario, trace: bool) -> Result<Self, String> {
        let mut rng = ChaCha8Rng::seed_from_u64(scenario.seed);
        let documents = documents(&scenario)?;
        let mut allocator = PoolAllocator::new();
        let allocations = plan::allocate(&mut allocator, &documents);
        let addresses: Vec<IpAddr> = allocations.by_address().into_keys().collect();
        if addresses.len() != scenario.v4 + scenario.v6 {
            return Err(format!("{} addresses for {} services", addresses.len(), scenario.v4 + scenario.v6));
        }
        let nodes = (0..scenario.nodes).map(|node| Node {
            name: name(node),
            mac: node_mac(node),
            address: SocketAddr::from(([10, 0, 0, u8::try_from(node + 1).unwrap_or(255)], 7946)),
            clock: scenario
                .drift
                .get(node)
                .map_or(Skewed { offset: 0, ppm: 0 }, |(offset, ppm)| Skewed { offset: *offset, ppm: *ppm }),
            on: true,
            carrier: true,
            process: None,
            life: 0,
            paused: false,
            paused_at: Instant::ZERO,
            pause_within: None,
            caught: Vec::new(),
            datagrams: VecDeque::new(),
            frames: VecDeque::new(),
            lingers: Instant::ZERO,
            draining: false,
            ready: true,
            restarting: false,
            touched: Instant::ZERO,
        });
        let clients = (0..scenario.clients).map(|client| {
            let number = u8::try_from(client + 1).unwrap_or(255);
            let mac = MacAddr([2, 0, 0, 0, 1, number]);
            let v4 = Ipv4Addr::new(198, 51, 100, 200 + number);
            let v6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, u16::from(number));
            let spread: f64 = rng.random_range(0.5..1.5);
            let caches = scenario.caches;
            let cache = Neighbours::new(mac, v4, v6, caches.reachable.mul_f64(spread), caches.delay);
            let first = rng.random_range(0..addresses.len());
            let watched = (0..addresses.len().min(4)).map(|n| (first + n) % addresses.len()).collect();
            Client { mac, cache, watched, next: 0, timer: None }
        });
        let (nodes, clients): (Vec<_>, Vec<_>) = (nodes.collect(), clients.collect());
        let mut world = Self {
            now: Instant::ZERO,
            queue: BinaryHeap::new(),
            serial: 0,
            lives: 0,
            gossip: vec![None; nodes.len()],
            nodes,
            clients,
            documents,
            allocations,
            splits: Vec::new(),
            healed: Instant::ZERO,
            parted: Instant::ZERO,
            streams: BTreeMap::new(),
            store: BTreeMap::new(),
            revision: 0,
            outage: false,
            asked: BTreeMap::new(),
            turn: 0,
            referee: Referee::new(&scenario, addresses),
            story: Vec::new(),
            trace,
            events: 0,
            rng,
            scenario,
        };
        for node in 0..world.nodes.len() {
            let at = Instant::from_nanos(world.rng.random_range(1..50_000_000));
            world.push(at, Event::Act(Action::Start(node)));
        }
        for (at, action) in world.scenario.actions.clone() {
            world.push(at, Event::Act(action));
        }
        for client in 0..world.clients.len() {
            let at =
                Instant::from_millis(60) + world.scenario.period * u32::try_from(client).unwrap_or(0) / 4;
            world.push(at, Event::Request { client });
        }
        world.push(Instant::from_millis(70), Event::Questions);
        Ok(world)
    }

    /// Lets everything happen, to the end or until a promise is broken.
    pub(crate) fn run(&mut self) {
        while self.referee.failure.is_none()
            && let Some(Reverse(entry)) = self.queue.pop()
            && entry.at <= self.scenario.end
        {
            self.now = self.now.max(entry.at);
            self.events += 1;
            self.happen(entry.event);
            if self.queue.len() > 100_000 {
                self.referee.fail(|| "a storm: a hundred thousand things are under way".to_owned());
            }
        }
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), serial: self.serial, event }));
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:?} {}", self.now, what());
        }
    }

    fn tell(&mut self, what: impl std::fmt::Display) {
        self.say(|| format!("--- {what}"));
        self.story.push(format!("{:?} {what}", self.now));
    }

    fn random(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_nanos(self.rng.random_range(least..=most))
    }

    fn happens(&mut self, thousandth: u32) -> bool {
        thousandth > 0 && self.rng.random_range(0..1000) < thousandth
    }

    fn delay(&mut self) -> Duration {
        let (least, most) = self.scenario.net.delay;
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.random((nanos(least), nanos(most)))
    }

    fn local(&self, node: usize) -> Instant {
        self.nodes[node].clock.shows(self.now)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { to, life, arrival } => self.arrive(to, life, arrival),
            Event::Frame { to, from, life, frame } => self.frame(to, from, life, frame),
            Event::Answered { word } => {
                if let Some(address) = self.referee.index(word.address)
                    && let Some((client, _)) = self.asked.remove(&address)
                {
                    self.referee.answered(self.now, client, address);
                }
            }
            Event::Timer { node, life, which } => self.timer(node, life, which),
            Event::Turn { node, life, task } => self.turn(node, life, task),
            Event::Due { node, life } if self.nodes[node].life == life => {
                self.wish(node, PLAN, Duration::ZERO);
            }
            Event::Due { .. } => {}
            Event::Store { node, life, request } => self.serve(node, life, request),
            Event::Request { client } => self.request(client),
            Event::Cache { client } => {
                self.clients[client].timer = None;
                self.clients[client].cache.handle_timeout(self.now);
                self.pump_cache(client);
            }
            Event::Questions => self.ask(),
            Event::Act(action) => self.act(action),
        }
    }

    // ---- What befalls the cluster.

    fn act(&mut self, action: Action) {
        match action {
            Action::Kill(node) if self.nodes[node].process.is_some() => {
                self.tell(format!("n{} is killed", node + 1));
                self.kill(node);
                self.disturb(Some(node), Some(node));
            }
            Action::PowerOff(node) if self.nodes[node].on => {
                self.tell(format!("n{} loses its power", node + 1));
                let life = self.nodes[node].life;
                self.streams.retain(|(by, _), to| *by != node && *to != (node, life));
                self.nodes[node].on = false;
                self.end(node);
                self.disturb(Some(node), Some(node));
            }
            Action::Start(node) if self.nodes[node].process.is_none() => {
                self.tell(format!("n{} starts", node + 1));
                self.start(node);
                self.disturb(Some(node), None);
            }
            Action::Pause(node, span, within) if self.nodes[node].runs() => {
                if within {
                    self.tell(format!(
                        "n{} stands still for {span:?}, from its next batch of frames on",
                        node + 1
                    ));
                    self.nodes[node].pause_within = Some(span);
                } else {
                    self.tell(format!("n{} stands still for {span:?}", node + 1));
                    self.pause(node, span);
                }
            }
            Action::Resume(node) if self.nodes[node].paused => {
                self.tell(format!("n{} goes on", node + 1));
                if self.healed >= self.nodes[node].paused_at {
                    self.referee.lenient(self.now + self.scenario.healing());
                }
                self.resume(node);
                self.disturb(Some(node), None);
            }
            Action::Cable(node, carrier) if self.nodes[node].carrier != carrier => {
                self.tell(format!("the cable of n{} is {}", node + 1, if carrier { "in" } else { "out" }));
                self.nodes[node].carrier = carrier;
                let after = self.random(CARRIER);
                self.wish(node, LINKS, after);
                self.disturb(Some(node), if carrier { None } else { Some(node) });
                if carrier {
                    self.referee.lenient(self.now + self.scenario.healing());
                }
            }
            Action::Split(split) => {
                let what = match (split.gossip, split.segment) {
                    (true, true) => "",
                    (true, false) => ", for gossip",
                    _ => ", for ARP and NDP",
                };
                match split.pair {
                    Some((a, b)) => {
                        self.tell(format!("n{} and n{} do not hear each other{what}", a + 1, b + 1));
                    }
                    None => self.tell(format!("the network is cut{what}: {}", self.sides(split.side))),
                }
                if self.splits.is_empty() {
                    self.parted = self.now;
                }
                self.splits.push(split);
                self.disturb(None, None);
                self.mislead();
            }
            Action::Heal(number) => {
                if let Some(at) = self.splits.iter().position(|split| split.number == number) {
                    let split = self.splits.remove(at);
                    self.healed = self.now;
                    self.tell("the network is whole again".to_owned());
                    self.disturb(None, None);
                    let never_met = |node: &Node| {
                        node.process.as_ref().is_some_and(|process| process.started >= self.parted)
                    };
                    let greeting = if self.nodes.iter().any(never_met) {
                        self.scenario.greeting()
                    } else {
                        Duration::ZERO
                    };
                    self.referee.lenient(self.now + self.scenario.healing() + greeting);
                    if split.segment != split.gossip || matches!(self.scenario.mode, Mode::Lease(_)) {
                        self.mislead();
                    }
                }
            }
            Action::Drain(node, draining) => {
                self.tell(format!("n{} {}", node + 1, if draining { "drains" } else { "takes part again" }));
                self.nodes[node].draining = draining;
                self.wish(node, PLAN, Duration::ZERO);
                self.disturb(Some(node), draining.then_some(node));
            }
            Action::Ready(node, ready) => {
                self.tell(format!("the checks of n{} {}", node + 1, if ready { "succeed" } else { "fail" }));
                self.nodes[node].ready = ready;
                self.wish(node, PLAN, Duration::ZERO);
                self.disturb(Some(node), (!ready).then_some(node));
            }
            Action::Restart(node) if self.nodes[node].runs() => {
                self.tell(format!("n{} is to stop and start again", node + 1));
                self.nodes[node].restarting = true;
                let local = self.local(node);
                if let Some(process) = &mut self.nodes[node].process {
                    process.leaving = true;
                    process.brain.leave(local);
                }
                self.pump_elector(node);
                self.disturb(Some(node), Some(node));
            }
            Action::Outage(outage) if self.outage != outage => {
                self.tell(format!("the store {}", if outage { "is out of reach" } else { "is back" }));
                self.outage = outage;
                self.disturb(None, None);
            }
            // It cannot happen to one that is not there.
            _ => {}
        }
    }

    fn sides(&self, side: u32) -> String {
        let name = |port: usize| match port.checked_sub(self.nodes.len()) {
            Some(client) => format!("c{}", client + 1),
            None => format!("n{}", port + 1),
        };
        let ports = || 0..self.nodes.len() + self.clients.len();
        let of = |bit: u32| {
            ports().filter(|port| (side >> port) & 1 == bit).map(name).collect::<Vec<_>>().join(" ")
        };
        format!("{} | {}", of(1), of(0))
    }

    /// Lets the referee know that things are not as before. `whose` state changed; `only` what that one owned is
    /// concerned.
    fn disturb(&mut self, whose: Option<usize>, only: Option<usize>) {
        self.rewire();
        let scenario = &self.scenario;
        let fresh = |node: &Node| {
            node.process.as_ref().is_some_and(|process| self.now < process.started + scenario.alone())
        };
        let hears = self.nodes.iter().filter(|node| node.runs()).count() > 1;
        let bound = match hears && !self.nodes.iter().any(fresh) && self.splits.is_empty() {
            true => scenario.takeover(),
            false => scenario.alone(),
        };
        let (bound, calm) = (bound + scenario.healing(), scenario.calm() + scenario.healing());
        self.referee.disturbed(self.now, bound, calm, only);
        match whose {
            Some(node) => self.nodes[node].touched = self.now,
            None => self.nodes.iter_mut().for_each(|node| node.touched = self.now),
        }
    }

    fn mislead(&mut self) {
        let torn = self.splits.iter().any(|split| split.gossip && (!split.segment || split.pair.is_some()));
        self.referee.mislead(torn && matches!(self.scenario.mode, Mode::Gossip(_)));
    }

    /// Finds out anew who hears whom.
    fn rewire(&mut self) {
        let count = self.nodes.len();
        let mut groups: Vec<Option<usize>> = (0..count)
            .map(|node| (self.nodes[node].runs() && self.nodes[node].carrier).then_some(node))
            .collect();
        for _ in 0..count {
            for a in 0..count {
                for b in 0..count {
                    if let (Some(left), Some(right)) = (groups[a], groups[b])
                        && self.hears(a, b)
                    {
                        let both = Some(left.min(right));
                        (groups[a], groups[b]) = (both, both);
                    }
                }
            }
        }
        let before = std::mem::replace(&mut self.gossip, groups);
        let joined = (0..count).any(|a| {
            (0..a).any(|b| {
                let parted = before[a].zip(before[b]).is_some_and(|(a, b)| a != b);
                parted && self.gossip[a].is_some() && self.gossip[a] == self.gossip[b]
            })
        });
        if joined {
            self.referee.lenient(self.now + self.scenario.healing());
        }
    }

    /// Whether what one node sends to the other for the elector arrives.
    fn hears(&self, a: usize, b: usize) -> bool {
        let cut = self.splits.iter().any(|split| split.gossip && split.parts(a, b));
        !cut && self.nodes[a].carrier && self.nodes[b].carrier
    }

    /// Whether frames go from one port of the segment to the other. Ports are nodes, then clients.
    fn reaches(&self, a: usize, b: usize) -> bool {
        let plugged = |port: usize| self.nodes.get(port).is_none_or(|node| node.carrier);
        let cut = self.splits.iter().any(|split| split.segment && split.parts(a, b));
        !cut && plugged(a) && plugged(b)
    }

    /// Whether two nodes must agree: leases hold everywhere; by gossip, those that hear each other.
    fn related(&self, a: usize, b: usize) -> bool {
        match self.scenario.mode {
            Mode::Lease(_) => true,
            Mode::Gossip(_) => {
                let there = |node: usize| self.nodes[node].runs() && self.nodes[node].carrier;
                let heard = !there(b) && self.splits.is_empty()
                    || self.gossip[a].is_some() && self.gossip[a] == self.gossip[b];
                heard && (self.reaches(a, b) || !there(b))
            }
        }
    }

    /// Whether somebody can own, whom `client` reaches, and who knows that: a cut that the nodes cannot notice is
    /// none that they could heal.
    fn must_answer(&self, client: usize) -> bool {
        let port = self.nodes.len() + client;
        let there = |node: usize| self.nodes[node].runs() && self.nodes[node].carrier;
        let all_see = |node: usize| {
            (0..self.nodes.len()).filter(|other| there(*other)).all(|other| {
                let parted =
                    matches!(self.scenario.mode, Mode::Gossip(_)) && self.gossip[other] != self.gossip[node];
                parted || self.reaches(port, other)
            })
        };
        let whole = matches!(self.scenario.mode, Mode::Gossip(_)) || !self.outage;
        whole
            && (0..self.nodes.len())
                .any(|node| self.nodes[node].could_own() && self.reaches(port, node) && all_see(node))
    }

    fn start(&mut self, node: usize) {
        self.lives += 1;
        let (life, local) = (self.lives, self.local(node));
        let mut config = l2::Config::default();
        config.pace = self.scenario.pace;
        // There are no strangers here who could have an address.
        config.probing = None;
        let faked = node == 0;
        if faked && self.scenario.fake == Fake::Storms {
            config.pace.burst *= 10;
            config.pace.per_second *= 10;
        }
        let me = &self.nodes[node];
        let brain = match self.scenario.mode {
            Mode::Gossip(timing) => {
                let keys = Keyring::new(ClusterKey::new([7; 32]));
                let seeds = self.nodes.iter().map(|node| node.address);
                let timing = match faked && self.scenario.fake == Fake::TakesOverEarly {
                    true => Timing::new(timing.interval / 3, 3),
                    false => timing,
                };
                let config = elect_gossip::Config::new(me.name.clone(), me.address, keys)
                    .with_seeds(seeds)
                    .with_timing(timing);
                let seed = self.rng.random();
                match gossip::Machine::new(&config, me.address, seed, local) {
                    Ok(mut machine) => {
                        let hardware = BTreeMap::from([("eth0".into(), me.mac.0)]);
                        machine.handle(local, gossip::Input::Hardware(hardware));
                        Brain::Gossip(Box::new(machine))
                    }
                    Err(error) => return self.referee.fail(|| format!("no elector: {error}")),
                }
            }
            Mode::Lease(duration) => {
                let mut settings = lease::Settings::new(Holder::new(me.name.clone(), self.rng.random()));
                settings.timing = lbcore::elect::lease::Timing::of(duration);
                if faked && self.scenario.fake == Fake::TakesOverEarly {
                    settings.timing = lbcore::elect::lease::Timing::of(duration / 4);
                    settings.handover /= 2;
                }
                match lease::Machine::new(settings) {
                    Ok(mut machine) => {
                        let hardware = BTreeMap::from([("eth0".into(), me.mac.0)]);
                        machine.handle(local, lease::Input::Hardware(hardware));
                        Brain::Lease(Box::new(machine))
                    }
                    Err(error) => return self.referee.fail(|| format!("no elector: {error}")),
                }
            }
        };
        let me = &mut self.nodes[node];
        let mut process = Process::new(self.now, brain, config);
        if faked && self.scenario.fake == Fake::AnswersAfterLease {
            process.overstay = Duration::from_secs(20);
        }
        process.forgets_terms = faked && self.scenario.fake == Fake::ForgetsTerms;
        process.set_links(local, me.mac, me.carrier);
        me.on = true;
        me.process = Some(process);
        me.life = life;
        me.restarting = false;
        me.lingers = Instant::ZERO;
        self.referee.started(node);
        if let Some(process) = &mut self.nodes[node].process {
            process.brain.timeout(local);
        }
        self.wish(node, PLAN, Duration::ZERO);
        self.pump_elector(node);
        self.pump_announcer(node);
    }

    fn kill(&mut self, node: usize) {
        let lag = self.rng.random_range(0..3_000_000_u64).saturating_sub(1_000_000);
        self.nodes[node].lingers = self.now + Duration::from_nanos(lag);
        let (life, streams) = (self.nodes[node].life, self.streams.clone());
        self.streams.retain(|(by, _), to| *by != node && *to != (node, life));
        for ((by, stream), to) in streams {
            if to == (node, life) && by != node && self.hears(node, by) {
                let life = self.nodes[by].life;
                let at = self.now + self.delay();
                let arrival = Arrival::Stream(stream, gossip::StreamEvent::Closed);
                self.push(at, Event::Arrive { to: by, life, arrival });
            }
        }
        self.end(node);
    }

    fn end(&mut self, node: usize) {
        let group = self.gossip[node];
        let it = &mut self.nodes[node];
        it.process = None;
        it.paused = false;
        it.pause_within = None;
        it.caught.clear();
        it.datagrams.clear();
        it.frames.clear();
        // Whom it has told where it is on its side of a cut, nobody else knows.
        if !self.splits.is_empty() {
            self.mislead();
        }
        // Terms live in those that run.
        let knows = |other: &usize| *other != node && self.nodes[*other].process.is_some();
        let known = (0..self.nodes.len())
            .any(|other| knows(&other) && self.gossip[other] == group && group.is_some());
        if !known && matches!(self.scenario.mode, Mode::Gossip(_)) {
            let gone: Vec<usize> = (0..self.nodes.len()).filter(|other| !self.nodes[*other].runs()).collect();
            self.referee.forget(&gone);
        }
    }

    fn pause(&mut self, node: usize, span: Duration) {
        self.nodes[node].paused = true;
        self.nodes[node].paused_at = self.now;
        self.push(self.now + span, Event::Act(Action::Resume(node)));
        self.disturb(Some(node), Some(node));
    }

    /// Everything that has waited is done at once, the tasks in any order.
    fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        let caught = std::mem::take(&mut self.nodes[node].caught);
        for transmit in caught {
            self.transmit(node, &transmit, true);
        }
        if self.rng.random() {
            self.resume_announcer(node);
            self.resume_elector(node);
        } else {
            self.resume_elector(node);
            self.resume_announcer(node);
        }
        for task in [PLAN, LINKS] {
            if self.nodes[node].process.as_ref().is_some_and(|process| process.turns[task]) {
                self.wish_anew(node, task);
            }
        }
    }

    fn resume_elector(&mut self, node: usize) {
        let local = self.local(node);
        let arrivals = std::mem::take(&mut self.nodes[node].datagrams);
        let Some(process) = &mut self.nodes[node].process else { return };
        for arrival in arrivals {
            process.brain.handle(local, arrival);
        }
        process.timers[ELECTOR] = None;
        if process.brain.due().is_some_and(|due| due <= local) {
            process.brain.timeout(local);
        }
        self.pump_elector(node);
    }

    fn resume_announcer(&mut self, node: usize) {
        let local = self.local(node);
        let Some(process) = &mut self.nodes[node].process else { return };
        if std::mem::take(&mut process.turns[MAIL]) {
            process.take_mail(local);
        }
        process.timers[ANNOUNCER] = None;
        if process.responder.poll_timeout().is_some_and(|due| due <= local) {
            process.responder.handle_timeout(local);
        }
        self.pump_announcer(node);
        loop {
            let frames = &mut self.nodes[node].frames;
            let batch: Vec<_> = frames.drain(..frames.len().min(BATCH)).collect();
            if batch.is_empty() || self.nodes[node].paused {
                return;
            }
            let Some(process) = &mut self.nodes[node].process else { return };
            for (received, frame) in batch {
                let frame = l2::Frame { interface: INTERFACE, received, bytes: frame.as_bytes() };
                process.responder.handle(local, l2::Input::Frame(frame));
            }
            self.pump_announcer(node);
        }
    }

    // ---- Nodes.

    /// Asks for a turn of a task, soon.
    fn wish(&mut self, node: usize, task: usize, after: Duration) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if task != LINKS && std::mem::replace(&mut process.turns[task], true) {
            return;
        }
        process.turns[task] = true;
        let life = self.nodes[node].life;
        let at = self.now + after + self.random(TURN);
        self.push(at, Event::Turn { node, life, task });
    }

    fn wish_anew(&mut self, node: usize, task: usize) {
        if let Some(process) = &mut self.nodes[node].process {
            process.turns[task] = false;
        }
        self.wish(node, task, Duration::ZERO);
    }

    fn turn(&mut self, node: usize, life: u64, task: usize) {
        let local = self.local(node);
        let it = &mut self.nodes[node];
        if it.life != life || it.paused {
            return;
        }
        let Some(process) = &mut it.process else { return };
        // A turn that was taken in the meantime. (Of the interfaces each change is told.)
        if !std::mem::take(&mut process.turns[task]) && task != LINKS {
            return;
        }
        match task {
            LINKS => {
                process.set_links(local, it.mac, it.carrier);
                self.wish(node, PLAN, Duration::ZERO);
                self.pump_announcer(node);
            }
            MAIL => {
                process.take_mail(local);
                self.pump_announcer(node);
            }
            _ => self.plan(node, local),
        }
    }

    fn plan(&mut self, node: usize, local: Instant) {
        let restless = node == 0 && self.scenario.fake == Fake::Restless;
        let it = &mut self.nodes[node];
        let Some(process) = &mut it.process else { return };
        let mut how = (it.ready, it.draining);
        if restless {
            how.1 = (self.now.as_nanos() / 700_000_000).is_multiple_of(2);
        }
        let (mail, told, again) = process.plan(&it.name, local, &self.documents, &self.allocations, how);
        let life = it.life;
        let clock = it.clock;
        if mail {
            self.wish(node, MAIL, Duration::ZERO);
        }
        if told {
            self.pump_elector(node);
        }
        if let Some(again) = again {
            let after = clock.reaches(again).saturating_since(self.now);
            self.push(self.now + after, Event::Due { node, life });
        }
        if restless {
            self.wish(node, PLAN, Duration::from_millis(100));
        }
    }

    fn timer(&mut self, node: usize, life: u64, which: usize) {
        let local = self.local(node);
        let now = self.now;
        let it = &mut self.nodes[node];
        let Some(process) = it.process.as_mut().filter(|_| it.life == life && !it.paused) else { return };
        if process.timers[which] != Some(now) {
            return;
        }
        process.timers[which] = None;
        if which == ELECTOR {
            if process.brain.due().is_some_and(|due| due <= local) {
                process.brain.timeout(local);
            }
            self.pump_elector(node);
        } else {
            if process.responder.poll_timeout().is_some_and(|due| due <= local) {
                process.responder.handle_timeout(local);
            }
            self.pump_announcer(node);
        }
    }

    /// Sets a timer anew, if what it is for has moved.
    fn set_timer(&mut self, node: usize, which: usize) {
        let lag = u64::try_from(self.scenario.net.lag.as_nanos()).unwrap_or(0);
        let it = &self.nodes[node];
        let Some(process) = &it.process else { return };
        let due = match which {
            ELECTOR => process.brain.due(),
            _ => process.responder.poll_timeout(),
        };
        let Some(due) = due.filter(|due| *due != Instant::FAR_FUTURE) else { return };
        let due = it.clock.reaches(due).max(self.now);
        let set = process.timers[which];
        if set.is_some_and(|set| set <= due) {
            return;
        }
        let life = it.life;
        let at = due + self.random((0, lag));
        // One that is set for a moment later, within the lag, will do.
        if set.is_some_and(|set| set <= at) {
            return;
        }
        let at = at.max(self.now + Duration::from_nanos(1));
        if let Some(process) = &mut self.nodes[node].process {
            process.timers[which] = Some(at);
        }
        self.push(at, Event::Timer { node, life, which });
    }

    fn arrive(&mut self, to: usize, life: u64, arrival: Arrival) {
        let local = self.local(to);
        let it = &mut self.nodes[to];
        // A datagram reaches whoever has the address; the rest is for one process.
        if it.life != life && !matches!(arrival, Arrival::Datagram(..)) {
            return;
        }
        let Some(process) = &mut it.process else { return };
        if it.paused {
            if it.datagrams.len() < SOCKET {
                it.datagrams.push_back(arrival);
            }
            return;
        }
        process.brain.handle(local, arrival);
        if process.brain.due().is_some_and(|due| due <= local) {
            process.brain.timeout(local);
        }
        self.pump_elector(to);
    }

    /// As the elector's driver: what it has to say first, then what it wants sent.
    fn pump_elector(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let said = process.listen();
        let mut deeds = Vec::new();
        while let Some(deed) = process.brain.deed() {
            deeds.push(deed);
        }
        if self.trace {
            for notice in &said.notices {
                self.say(|| format!("n{} elector: {notice}", node + 1));
            }
            if said.ownership
                && let Some(process) = &self.nodes[node].process
            {
                let (mine, members) = (&process.ownership.mine, process.ownership.members.len());
                let mine: Vec<_> = mine.keys().map(ToString::to_string).collect();
                self.say(|| format!("n{} owns {mine:?}, {members} members", node + 1));
            }
        }
        if said.notices.iter().any(|notice| notice == "LeaseLost") {
            self.lease_lost(node);
        }
        if said.ownership {
            self.wish(node, PLAN, Duration::ZERO);
        }
        if said.renewals {
            self.wish(node, MAIL, Duration::ZERO);
        }
        for deed in deeds {
            match deed {
                Deed::Gossip(output) => self.gossip(node, output),
                Deed::Lease(request) => self.inquire(node, request),
            }
        }
        if said.left {
            self.tell(format!("n{} has left", node + 1));
            self.kill(node);
            let at = self.now + Duration::from_millis(self.rng.random_range(20..200));
            self.push(at, Event::Act(Action::Start(node)));
            self.disturb(Some(node), Some(node));
            return;
        }
        self.set_timer(node, ELECTOR);
    }

    /// Without a fault that happens only if all answers of a lease's time are lost.
    fn lease_lost(&mut self, node: usize) {
        if self.now > self.referee.quiet_at && self.scenario.net.loss == 0 {
            self.referee.fail(|| format!("n{} loses its lease, and nothing is wrong", node + 1));
        }
        self.tell(format!("n{} loses its lease", node + 1));
        self.disturb(Some(node), Some(node));
    }

    /// As the announcer's driver: frames whose time has passed are not sent.
    fn pump_announcer(&mut self, node: usize) {
        let local = self.local(node);
        let silent = node == 0 && self.scenario.fake == Fake::NeverAnnounces;
        let mut sent = BTreeSet::new();
        loop {
            let it = &mut self.nodes[node];
            let Some(process) = &mut it.process else { return };
            let mut unsent = Vec::new();
            while unsent.len() < BATCH
                && let Some(transmit) = process.responder.poll_output()
            {
                unsent.push(transmit);
            }
            while let Some(event) = process.responder.poll_event() {
                if self.trace {
                    println!("{:?} n{} announcer: {event:?}", self.now, node + 1);
                }
            }
            if unsent.is_empty() {
                break;
            }
            let before = unsent.len();
            unsent.retain(|transmit| local < transmit.deadline);
            (unsent.len()..before).for_each(|_| process.responder.note_expired());
            if !unsent.is_empty()
                && let Some(span) = it.pause_within.take()
            {
                it.caught = unsent;
                self.tell(format!("n{} stands still within a batch", node + 1));
                return self.pause(node, span);
            }
            for transmit in unsent.iter().filter(|_| !silent) {
                sent.insert(transmit.address);
                self.transmit(node, transmit, false);
            }
        }
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.publish() && process.responder.counters().events_lost > 0 {
            self.referee.fail(|| format!("n{}: events are lost", node + 1));
        }
        if node == 0 && self.scenario.fake == Fake::Denies {
            process.status.entries.clear();
        }
        for address in sent {
            if !process.says_announced(address) {
                self.referee.fail(|| format!("n{} speaks for {address}, and its status denies it", node + 1));
            }
        }
        self.set_timer(node, ANNOUNCER);
    }

    // ---- Messages.

    fn gossip(&mut self, node: usize, output: gossip::Output) {
        match output {
            gossip::Output::Datagram { to, bytes } => {
                self.count_message(node);
                let Some(to) = self.nodes.iter().position(|node| node.address == to) else { return };
                if !self.hears(node, to) || self.happens(self.scenario.net.loss) {
                    return;
                }
                let (from, bytes) = (self.nodes[node].address, Arc::<[u8]>::from(bytes));
                let copies = if self.happens(self.scenario.net.duplication) { 2 } else { 1 };
                for _ in 0..copies {
                    let at = self.now + self.delay();
                    let (arrival, life) = (Arrival::Datagram(from, bytes.clone()), self.nodes[to].life);
                    self.push(at, Event::Arrive { to, life, arrival });
                }
            }
            gossip::Output::Connect { to, stream } => self.connect(node, to, stream),
            gossip::Output::Disconnect { stream } => {
                self.streams.remove(&(node, stream));
            }
            _ => {}
        }
    }

    fn connect(&mut self, node: usize, to: SocketAddr, stream: u64) {
        let Some(target) = self.nodes.iter().position(|node| node.address == to) else { return };
        let (life, round_trip) = (self.nodes[target].life, self.scenario.net.delay.1 * 2);
        let up = self.nodes[target].process.is_some();
        let (event, after) = if !self.hears(node, target) || !self.nodes[target].on {
            (gossip::StreamEvent::Failed, Duration::from_secs(1))
        } else if up || self.now < self.nodes[target].lingers {
            (gossip::StreamEvent::Opened, round_trip)
        } else {
            (gossip::StreamEvent::Refused, round_trip)
        };
        let mine = self.nodes[node].life;
        let arrival = Arrival::Stream(stream, event);
        self.push(self.now + after, Event::Arrive { to: node, life: mine, arrival });
        if event == gossip::StreamEvent::Opened {
            if up {
                self.streams.insert((node, stream), (target, life));
            } else {
                let after = after.max(self.nodes[target].lingers.saturating_since(self.now));
                let arrival = Arrival::Stream(stream, gossip::StreamEvent::Closed);
                self.push(self.now + after, Event::Arrive { to: node, life: mine, arrival });
            }
        }
    }

    /// A request sets out for the store.
    fn inquire(&mut self, node: usize, request: lease::Request) {
        self.count_message(node);
        if self.outage || !self.nodes[node].carrier || self.happens(self.scenario.net.loss) {
            return;
        }
        let (at, life) = (self.now + self.delay() + Duration::from_millis(1), self.nodes[node].life);
        self.push(at, Event::Store { node, life, request });
    }

    fn serve(&mut self, node: usize, life: u64, request: lease::Request) {
        let lease::Request { id, operation } = request;
        let answer = match operation {
            lease::Operation::List { prefix } => {
                let listed = self.store.iter().filter(|(key, _)| key.starts_with(&prefix));
                lease::Answer::Listed(listed.map(|(key, value)| (key.clone(), value.clone())).collect())
            }
            lease::Operation::Get { key, unless } => lease::Answer::Fetched(match self.store.get(&key) {
                None => Fetched::Absent,
                Some(found) if Some(&found.revision) == unless.as_ref() => Fetched::Unchanged,
                Some(found) => Fetched::Found(found.clone()),
            }),
            lease::Operation::Swap { key, expected, value } => {
                if self.store.get(&key).map(|stored| &stored.revision) == expected.as_ref() {
                    self.revision += 1;
                    let revision = Revision::from(self.revision);
                    self.store.insert(key, Versioned { revision: revision.clone(), value });
                    lease::Answer::Swapped(revision)
                } else {
                    lease::Answer::Conflict
                }
            }
        };
        if self.outage || !self.nodes[node].carrier || self.happens(self.scenario.net.loss) {
            return;
        }
        let at = self.now + self.delay();
        self.push(at, Event::Arrive { to: node, life, arrival: Arrival::Answer(id, answer) });
    }

    fn count_message(&mut self, node: usize) {
        let others = u64::try_from(self.nodes.len() - 1).unwrap_or(1);
        let limit = match self.scenario.mode {
            Mode::Gossip(timing) => {
                let rounds = 1_000_000_000 / u64::try_from(timing.interval.as_nanos()).unwrap_or(1).max(1);
                others * (rounds * 6 + 40)
            }
            Mode::Lease(_) => 20 * (others + 2),
        };
        self.referee.sent(self.now, node, limit);
    }

    // ---- The segment.

    /// A frame of a node goes out. `escaped`: it belongs to the batch within which its process stood still.
    fn transmit(&mut self, node: usize, transmit: &Transmit, escaped: bool) {
        let frame = transmit.frame;
        let Some(word) = Word::parse(frame.as_bytes()) else { return };
        let Some(address) = self.referee.index(word.address) else { return };
        if self.trace {
            let note = if escaped { " (escaped)" } else { "" };
            println!(
                "{:?} n{} says {} is at {}: {:?}{note}",
                self.now,
                node + 1,
                word.address,
                word.mac,
                word.kind
            );
        }
        if !self.nodes[node].carrier {
            return;
        }
        if escaped {
            self.referee.figures.escaped += 1;
        } else {
            self.judge(node, address, word.kind);
        }
        self.deliver(node, frame);
    }

    fn judge(&mut self, node: usize, address: usize, kind: Kind) {
        let name = self.referee.addresses[address];
        let term =
            self.nodes[node].process.as_ref().and_then(|process| process.term(name)).unwrap_or_default();
        let bits = |is: &dyn Fn(usize) -> bool| {
            (0..self.nodes.len()).filter(|other| is(*other)).fold(0_u32, |bits, other| bits | 1 << other)
        };
        let related = bits(&|other| self.related(node, other));
        let running = bits(&|other| self.nodes[other].runs() && self.nodes[other].carrier);
        self.referee.heard(self.now, Heard { node, address, kind, term, related, running });
        if kind != Kind::Answer {
            self.referee.unasked(self.now, node, &self.scenario);
        }
        if kind != Kind::Announcement {
            return;
        }
        let quiet = self.now > self.referee.quiet_at;
        let loads = (self.referee.speaker(address), self.referee.load(node));
        let Some(before) = self.referee.moved(address, node) else { return };
        // The count of `before` is without the address by now.
        let load = (self.referee.load(before) + 1, loads.1);
        if quiet {
            let calm = self.referee.quiet_at;
            self.referee.fail(|| {
                format!(
                    "{name} moves from n{} to n{}, though all was quiet from {calm:?} on",
                    before + 1,
                    node + 1
                )
            });
        }
        let untouched = |node: usize, span: Duration| self.now > self.nodes[node].touched + span;
        // One that stands still may have been given the address before it could say so.
        let settled = untouched(before, self.scenario.alone())
            && untouched(node, self.scenario.takeover())
            && !self.nodes.iter().any(|node| node.paused);
        let agrees = related >> before & 1 == 1 && self.splits.is_empty();
        let preferred = self.scenario.preferred == Some(node);
        if self.nodes[before].could_own() && settled && agrees && !preferred && load.0 < load.1 + 2 {
            self.referee.fail(|| {
                format!(
                    "{name} moves from n{}, which speaks for {} and is well, to n{}, which speaks for {}",
                    before + 1,
                    load.0,
                    node + 1,
                    load.1
                )
            });
        }
    }

    fn deliver(&mut self, from: usize, frame: FrameBuf) {
        let bytes = frame.as_bytes();
        let Some(destination) = bytes.first_chunk::<6>().map(|mac| MacAddr(*mac)) else { return };
        let count = self.nodes.len();
        if destination == OBSERVER {
            if let Some(word) = Word::parse(bytes) {
                let at = self.now + self.delay();
                let client = self.referee.index(word.address).and_then(|address| self.asked.get(&address));
                if client.is_some_and(|(client, _)| self.reaches(from, count + client)) {
                    self.push(at, Event::Answered { word });
                }
            }
            return;
        }
        for to in 0..count + self.clients.len() {
            let mac = if to < count { self.nodes[to].mac } else { self.clients[to - count].mac };
            let wanted = destination == mac || destination.is_group();
            if to != from && wanted && self.reaches(from, to) && self.is_member(to, destination) {
                self.send(from, to, frame);
            }
        }
    }

    /// Whether the switch delivers frames for that group there.
    fn is_member(&self, to: usize, destination: MacAddr) -> bool {
        let solicited = destination.0.starts_with(&[0x33, 0x33, 0xff]);
        if !self.scenario.snooping || !solicited {
            return true;
        }
        let process = self.nodes.get(to).and_then(|node| node.process.as_ref());
        process.is_some_and(|process| {
            process.groups.iter().any(|group| MacAddr::of_ipv6_group(*group) == destination)
        })
    }

    fn send(&mut self, from: usize, to: usize, frame: FrameBuf) {
        let count = self.nodes.len();
        if self.happens(self.scenario.net.loss) {
            let client = [from, to].into_iter().find_map(|port| port.checked_sub(count));
            if let Some(client) = client {
                let about = match Word::parse(frame.as_bytes()) {
                    Some(word) => self.referee.index(word.address),
                    None => None,
                };
                let about = about.map_or(0..self.referee.addresses.len(), |address| address..address + 1);
                for address in about {
                    self.referee.lost(self.now, client, address);
                }
            }
            return;
        }
        let life = self.nodes.get(to).map_or(0, |node| node.life);
        let copies = if self.happens(self.scenario.net.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            let at = self.now + self.delay();
            self.push(at, Event::Frame { to, from, life, frame });
        }
    }

    fn frame(&mut self, to: usize, from: usize, life: u64, frame: FrameBuf) {
        let local = if to < self.nodes.len() { self.local(to) } else { self.now };
        if let Some(client) = to.checked_sub(self.nodes.len()) {
            return self.tell_client(client, from, frame);
        }
        let it = &mut self.nodes[to];
        let Some(process) = it.process.as_mut().filter(|_| it.life == life) else { return };
        if it.paused {
            if it.frames.len() < SOCKET {
                it.frames.push_back((local, frame));
            }
            return;
        }
        let frame = l2::Frame { interface: INTERFACE, received: local, bytes: frame.as_bytes() };
        process.responder.handle(local, l2::Input::Frame(frame));
        if process.responder.poll_timeout().is_some_and(|due| due <= local) {
            process.responder.handle_timeout(local);
        }
        self.pump_announcer(to);
    }

    fn tell_client(&mut self, client: usize, from: usize, frame: FrameBuf) {
        let Some(word) = Word::parse(frame.as_bytes()) else { return };
        let mine = frame.as_bytes().starts_with(&self.clients[client].mac.0);
        self.clients[client].cache.hear(self.now, word, mine);
        if from < self.nodes.len()
            && let Some(address) = self.referee.index(word.address)
        {
            self.referee.told(client, address, from);
        }
    }

    // ---- Clients.

    fn request(&mut self, client: usize) {
        let now = self.now;
        let it = &mut self.clients[client];
        let address = it.watched[it.next % it.watched.len()];
        it.next += 1;
        let rounds = u32::try_from(it.watched.len()).unwrap_or(1);
        let name = self.referee.addresses[address];
        let mac = it.cache.resolve(now, name);
        let success = mac.is_some_and(|mac| self.answers(client, mac, name));
        if success && self.scenario.caches.confirms {
            self.clients[client].cache.confirm(now, name);
        }
        let must = self.must_answer(client);
        let bound = self.scenario.handover()
            + self.scenario.paced()
            + self.scenario.net.delay.1 * 2
            + self.scenario.period * rounds
            + Duration::from_millis(5);
        self.referee.requested(now, client, address, success, (must, bound));
        self.pump_cache(client);
        self.push(now + self.scenario.period, Event::Request { client });
    }

    /// Whether the one whom a packet for `address` reaches answers it.
    fn answers(&self, client: usize, mac: MacAddr, address: IpAddr) -> bool {
        let Some(node) = self.nodes.iter().position(|node| node.mac == mac) else { return false };
        let it = &self.nodes[node];
        let Some(process) = it.process.as_ref().filter(|_| !it.paused) else { return false };
        let serves = process.owns(self.local(node), address) || it.draining || process.leaving;
        serves && self.reaches(self.nodes.len() + client, node)
    }

    fn pump_cache(&mut self, client: usize) {
        let port = self.nodes.len() + client;
        while let Some(frame) = self.clients[client].cache.poll_output() {
            self.deliver(port, frame);
        }
        let it = &mut self.clients[client];
        let due = it.cache.poll_timeout();
        if let Some(due) = due
            && it.timer.is_none_or(|timer| due < timer)
        {
            it.timer = Some(due);
            self.push(due, Event::Cache { client });
        }
    }

    /// Asks who answers, on behalf of the clients. No such question is lost.
    fn ask(&mut self) {
        for (address, (client, asked)) in std::mem::take(&mut self.asked) {
            let must = self.must_answer(client);
            self.referee.unanswered(asked, client, address, must, self.scenario.handover());
        }
        let (clients, count) = (self.clients.len(), self.referee.addresses.len());
        let unanswered =
            |(client, address): &(usize, usize)| self.referee.clients[*client][*address].unanswered.is_some();
        let all = (0..clients).flat_map(|client| (0..count).map(move |address| (client, address)));
        let mut pairs: Vec<(usize, usize)> = all.filter(unanswered).collect();
        pairs.truncate(AT_ONCE);
        for _ in 0..2 {
            pairs.push((self.turn % clients, self.turn / clients % count));
            self.turn += 1;
        }
        for (client, address) in pairs {
            if self.asked.contains_key(&address) {
                continue;
            }
            self.asked.insert(address, (client, self.now));
            let name = self.referee.addresses[address];
            let frame = Neighbours::question(OBSERVER, OBSERVER_V4, OBSERVER_V6, name, None);
            for to in 0..self.nodes.len() {
                if self.reaches(self.nodes.len() + client, to) {
                    let (at, life) = (self.now + self.delay(), self.nodes[to].life);
                    self.push(at, Event::Frame { to, from: usize::MAX, life, frame });
                }
            }
        }
        self.push(self.now + QUESTIONS, Event::Questions);
    }
}
