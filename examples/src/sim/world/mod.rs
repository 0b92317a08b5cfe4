//! The loop: what happens next, and who is told.
//!
//! The simulator is the driver of every machine, and keeps the drivers' rules.

mod clients;
mod drivers;
mod faults;
mod judging;
mod lives;
mod network;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use announce_l2::wire::{FrameBuf, MacAddr};
use elect_lease::Versioned;
use elect_lease::machine as lease;
use lbcore::addr::{AddressRange, Family};
use lbcore::allocator::{Families, Pool, PoolAllocator, Pools};
use lbcore::id::{NodeName, OwnerKey};
use lbcore::labels::{LabelSelector, Labels};
use lbcore::plan::{self, Allocations, Demand, L2Terms, Means, Preference};
use lbcore::time::{Duration, Instant};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::clock::Skewed;
use super::neighbours::{Neighbours, Word};
use super::node::{Arrival, Node};
use super::referee::Referee;
use super::scenario::{Action, Scenario, Split};

/// As many datagrams or frames as a socket of Linux keeps.
const SOCKET: usize = 256;
/// Frames a call, as the driver sends and reads them.
const BATCH: usize = 64;

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
            crate::sim::trace(format_args!("{:?} {}", self.now, what()));
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
}
