//! A cluster in one process under virtual time: machines, their network, their clocks, and a referee.
//!
//! Everything follows from the seed.

#![expect(unreachable_pub, reason = "a module of several test programs and examples")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

pub mod large;
pub mod stories;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use elect_gossip::machine::{Counters, Input, Machine, Notice, Output, StreamEvent};
use elect_gossip::{Attachment, ClusterKey, Config, GossipElector, Keyring, Timing};
use lbcore::elect::{Bid, Candidacy, LeaderElector, Ownership};
use lbcore::id::{NodeName, Role};
use lbcore::time::{Duration, Instant};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// What the network does to a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    pub delay: (Duration, Duration),
    /// In a thousand.
    pub loss: u32,
    pub duplication: u32,
    /// How late timers fire, at most.
    pub lag: Duration,
    /// How far a clock's rate is off at most, in millionths.
    pub drift: i64,
}

impl Net {
    /// A quiet segment.
    pub fn calm() -> Self {
        let us = Duration::from_micros;
        Self { delay: (us(100), us(300)), loss: 0, duplication: 0, lag: us(500), drift: 100 }
    }

    /// Delays, losses and duplicates.
    pub fn rough() -> Self {
        let us = Duration::from_micros;
        Self { delay: (us(100), us(4000)), loss: 15, duplication: 20, lag: us(2000), drift: 500 }
    }
}

pub struct Node {
    pub name: NodeName,
    pub address: SocketAddr,
    config: Config,
    machine: Option<Machine>,
    attachment: Option<Attachment>,
    pub elector: Arc<GossipElector>,
    /// Which process it is, counted over all restarts.
    life: u64,
    /// The machine itself is there, so that its kernel answers.
    host: bool,
    paused: bool,
    /// What waits in the sockets of a process that stands still.
    waiting: Vec<Arrival>,
    timer: Option<Instant>,
    offset: u64,
    drift: i64,
    seen: u64,
    pub notices: Vec<(Instant, Notice)>,
    /// Closes each stream as soon as it stands.
    pub hangs_up: bool,
    /// Somebody refuses streams in its name, and closes those that stand.
    pub refused: bool,
    /// Until then the kernel takes streams for a process that was killed: its listener is closed last.
    lingers: Instant,
    /// How many streams it asked for.
    pub connects: u64,
}

#[derive(Clone, Debug)]
enum Arrival {
    Datagram(SocketAddr, Arc<[u8]>),
    Stream(u64, StreamEvent),
}

#[derive(Clone, Debug)]
struct Delivery {
    to: usize,
    life: u64,
    arrival: Arrival,
}

pub struct Sim {
    pub seed: u64,
    pub now: Instant,
    pub net: Net,
    pub timing: Timing,
    pub nodes: Vec<Node>,
    rng: ChaCha8Rng,
    queue: BTreeMap<(Instant, u64), Delivery>,
    serial: u64,
    lives: u64,
    generation: u64,
    /// Links that are cut, by direction.
    cuts: BTreeSet<(usize, usize)>,
    /// Streams that stand: who opened it under which number, to which process of whom.
    streams: BTreeMap<(usize, u64), (usize, u64)>,
    /// Until then two owners are no violation.
    pub lenient_until: Instant,
    /// Since when a role has had no owner.
    pub unowned: BTreeMap<Role, Instant>,
    /// The longest time without an owner, since it was last taken.
    pub gaps: BTreeMap<Role, Duration>,
    /// The last owner of each role, and how often it changed.
    pub owners: BTreeMap<Role, usize>,
    pub moves: usize,
    /// How many datagrams went to a multicast group.
    pub calls: usize,
    pub trace: bool,
    watched: BTreeSet<Role>,
}

impl Sim {
    pub fn new(seed: u64, count: usize, timing: Timing, net: Net) -> Self {
        let names: Vec<_> = (1..=count).map(|number| format!("n{number}")).collect();
        Self::of_names(seed, &names.iter().map(String::as_str).collect::<Vec<_>>(), timing, net)
    }

    /// A node for each name.
    pub fn of_names(seed: u64, names: &[&str], timing: Timing, net: Net) -> Self {
        let count = names.len();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let address = |n: usize| SocketAddr::from(([10, 0, 0, u8::try_from(n + 1).unwrap()], 7946));
        let seeds: Vec<_> = (0..count).map(address).collect();
        let nodes = (0..count)
            .map(|n| {
                let keys = Keyring::new(ClusterKey::new([7; 32]));
                let config =
                    Config::new(names[n], address(n), keys).with_seeds(seeds.clone()).with_timing(timing);
                let (elector, _) = GossipElector::detached();
                Node {
                    name: config.node.clone(),
                    address: address(n),
                    config,
                    machine: None,
                    attachment: None,
                    elector: Arc::new(elector),
                    life: 0,
                    host: true,
                    paused: false,
                    waiting: Vec::new(),
                    timer: None,
                    offset: rng.random_range(1_000_000_000..1_000_000_000_000),
                    drift: rng.random_range(-net.drift..=net.drift),
                    seen: 0,
                    notices: Vec::new(),
                    hangs_up: false,
                    refused: false,
                    lingers: Instant::ZERO,
                    connects: 0,
                }
            })
            .collect();
        let mut sim = Self {
            seed,
            now: Instant::from_millis(1000),
            net,
            timing,
            nodes,
            rng,
            queue: BTreeMap::new(),
            serial: 0,
            lives: 0,
            generation: 0,
            cuts: BTreeSet::new(),
            streams: BTreeMap::new(),
            lenient_until: Instant::ZERO,
            unowned: BTreeMap::new(),
            gaps: BTreeMap::new(),
            owners: BTreeMap::new(),
            moves: 0,
            calls: 0,
            trace: false,
            watched: BTreeSet::new(),
        };
        for node in 0..count {
            sim.start(node);
        }
        sim
    }

    /// The time of a node's own clock.
    pub fn local(&self, node: usize) -> Instant {
        let node = &self.nodes[node];
        Instant::from_nanos(node.offset + scale(self.now.as_nanos(), node.drift))
    }

    fn global(&self, node: usize, local: Instant) -> Instant {
        let node = &self.nodes[node];
        if local == Instant::FAR_FUTURE {
            return local;
        }
        // A little late rather than early.
        let nanos = local.as_nanos().saturating_sub(node.offset);
        Instant::from_nanos(scale(nanos, -node.drift) + nanos / 1_000_000 + 1)
    }

    pub fn start(&mut self, node: usize) {
        self.lives += 1;
        let local = self.local(node);
        let seed = self.rng.random();
        let (elector, attachment) = GossipElector::detached();
        let it = &mut self.nodes[node];
        it.host = true;
        it.paused = false;
        it.lingers = Instant::ZERO;
        it.waiting.clear();
        it.life = self.lives;
        it.seen = 0;
        it.elector = Arc::new(elector);
        it.attachment = Some(attachment);
        it.machine = Some(Machine::new(&it.config, it.address, seed, local).unwrap());
        self.pump(node);
    }

    /// Starts all anew, with these seeds.
    pub fn restart_with_seeds(&mut self, seeds: &[SocketAddr]) {
        for node in 0..self.nodes.len() {
            self.kill(node);
            self.nodes[node].config = self.nodes[node].config.clone().with_seeds(seeds.iter().copied());
        }
        (0..self.nodes.len()).for_each(|node| self.start(node));
    }

    /// Every node bids for all of `roles`.
    pub fn bid_all(&mut self, roles: &[Role]) {
        for node in 0..self.nodes.len() {
            if self.is_up(node) {
                self.bid(node, roles.iter().map(|role| (role.clone(), Bid::default())));
            }
        }
        self.watch(roles);
    }

    /// Counts gaps and moves of these roles.
    pub fn watch(&mut self, roles: &[Role]) {
        self.watched.extend(roles.iter().cloned());
    }

    pub fn bid(&mut self, node: usize, bids: impl IntoIterator<Item = (Role, Bid)>) {
        self.generation += 1;
        let candidacy = Arc::new(Candidacy::new(self.generation, bids));
        self.nodes[node].elector.set_candidacy(candidacy);
        self.pump(node);
    }

    /// Passes on what was set on the handles from outside.
    pub fn feed(&mut self) {
        for node in 0..self.nodes.len() {
            self.pump(node);
        }
    }

    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].machine.is_some()
    }

    pub fn is_paused(&self, node: usize) -> bool {
        self.nodes[node].paused
    }

    /// SIGKILL: the kernel closes the connections, and refuses new ones, at once or a moment later.
    pub fn kill(&mut self, node: usize) {
        let lag = self.rng.random_range(0..3_000_000_u64).saturating_sub(1_000_000);
        self.nodes[node].lingers = self.now + Duration::from_nanos(lag);
        let life = self.nodes[node].life;
        self.close_streams(node);
        self.streams.retain(|(by, _), to| *by != node && *to != (node, life));
        self.end(node);
    }

    /// From now on somebody on the segment resets the streams to a node, and refuses new ones in its name.
    pub fn forge_refusals(&mut self, node: usize) {
        self.nodes[node].refused = true;
        self.close_streams(node);
    }

    fn close_streams(&mut self, node: usize) {
        let life = self.nodes[node].life;
        for ((by, stream), to) in self.streams.clone() {
            if to == (node, life) && by != node {
                self.streams.remove(&(by, stream));
                self.deliver(node, by, Arrival::Stream(stream, StreamEvent::Closed));
            }
        }
    }

    /// Power loss: nothing is heard of it.
    pub fn power_off(&mut self, node: usize) {
        let life = self.nodes[node].life;
        self.streams.retain(|(by, _), to| *by != node && *to != (node, life));
        self.nodes[node].host = false;
        self.end(node);
    }

    fn end(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.machine = None;
        it.attachment = None;
        it.timer = None;
        it.paused = false;
        it.waiting.clear();
        self.judge();
    }

    /// SIGSTOP.
    pub fn pause(&mut self, node: usize) {
        self.nodes[node].paused = true;
        self.nodes[node].timer = None;
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        let waiting = std::mem::take(&mut self.nodes[node].waiting);
        let local = self.local(node);
        if let Some(machine) = &mut self.nodes[node].machine {
            for arrival in &waiting {
                machine.handle(local, arrival.input());
            }
            machine.handle_timeout(local);
        }
        self.pump(node);
    }

    /// Asks a node to leave; it ends by itself.
    pub fn leave(&mut self, node: usize) {
        let local = self.local(node);
        if let Some(machine) = &mut self.nodes[node].machine {
            machine.handle(local, Input::Leave);
        }
        self.pump(node);
    }

    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    /// Parts these from the rest.
    pub fn cut_off(&mut self, side: &[usize]) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if side.contains(&a) != side.contains(&b) {
                    self.cuts.insert((a, b));
                }
            }
        }
    }

    pub fn heal_all(&mut self) {
        self.cuts.clear();
    }

    pub fn heal(&mut self, node: usize) {
        self.cuts.retain(|(a, b)| *a != node && *b != node);
    }

    /// How many streams stand.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    pub fn counters(&self, node: usize) -> Counters {
        self.nodes[node].machine.as_ref().unwrap().counters()
    }

    pub fn ownership(&self, node: usize) -> Arc<Ownership> {
        self.nodes[node].elector.ownership().borrow().clone()
    }

    /// Whether `node` may act on `role` now.
    pub fn holds(&self, node: usize, role: &Role) -> bool {
        let elector = &self.nodes[node].elector;
        let Some(lease) = elector.ownership().borrow().mine.get(role).copied() else { return false };
        let until = elector.renewals().borrow().0.get(&lease).copied();
        self.is_up(node) && until.is_some_and(|until| self.local(node) < until)
    }

    pub fn holders(&self, role: &Role) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.holds(*node, role)).collect()
    }

    /// Puts bytes on the wire towards a node, as an attacker.
    pub fn inject(&mut self, from: SocketAddr, to: usize, bytes: Vec<u8>) {
        self.serial += 1;
        let delivery = Delivery { to, life: 0, arrival: Arrival::Datagram(from, bytes.into()) };
        self.queue.insert((self.now, self.serial), delivery);
    }

    /// All datagrams that are under way now.
    pub fn on_the_wire(&self) -> Vec<(usize, Vec<u8>)> {
        self.queue
            .values()
            .filter_map(|delivery| match &delivery.arrival {
                Arrival::Datagram(_, bytes) => Some((delivery.to, bytes.to_vec())),
                Arrival::Stream(..) => None,
            })
            .collect()
    }

    /// Lets `span` pass.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let arrival = self.queue.keys().next().map(|(at, _)| *at);
            let timer = self.nodes.iter().filter_map(|node| node.timer).min();
            let next = [arrival, timer].into_iter().flatten().min().unwrap_or(Instant::FAR_FUTURE);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let Some((_, delivery)) = self.queue.pop_first() else { break };
                self.arrive(delivery);
                continue;
            }
            for node in 0..self.nodes.len() {
                if self.nodes[node].timer.is_some_and(|at| at <= self.now) {
                    self.nodes[node].timer = None;
                    let local = self.local(node);
                    if let Some(machine) = &mut self.nodes[node].machine {
                        machine.handle_timeout(local);
                    }
                    self.pump(node);
                }
            }
        }
        self.now = end;
        self.judge();
    }

    fn arrive(&mut self, delivery: Delivery) {
        let local = self.local(delivery.to);
        let node = &mut self.nodes[delivery.to];
        let gone = matches!(delivery.arrival, Arrival::Stream(..)) && delivery.life != node.life;
        if gone || node.machine.is_none() {
            return;
        }
        if node.paused {
            // As many as Linux keeps.
            if node.waiting.len() < 256 {
                node.waiting.push(delivery.arrival);
            }
            return;
        }
        if let Some(machine) = &mut node.machine {
            machine.handle(local, delivery.arrival.input());
        }
        self.pump(delivery.to);
    }

    /// As a driver does.
    fn pump(&mut self, node: usize) {
        if self.nodes[node].paused {
            return;
        }
        let (local, now, trace) = (self.local(node), self.now, self.trace);
        let it = &mut self.nodes[node];
        let (Some(machine), Some(attachment)) = (&mut it.machine, &mut it.attachment) else { return };
        attachment.feed(machine, local);
        let (notices, name) = (&mut it.notices, &it.name);
        let left = attachment.drain(machine, |notice| {
            if trace {
                println!("{now:?} {name} {notice:?}");
            }
            notices.push((now, notice));
        });
        let outputs: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
        let (timeout, from, generation) =
            (machine.poll_timeout(), it.address, machine.ownership().generation);
        let changed = it.seen != generation;
        it.seen = generation;
        if changed {
            if trace {
                let mine: Vec<_> =
                    self.nodes[node].elector.ownership().borrow().mine.keys().cloned().collect();
                println!("{now:?} {} owns {mine:?}", self.nodes[node].name);
            }
            self.judge();
        }
        for output in outputs {
            match output {
                Output::Datagram { to, bytes } => {
                    let group = to.ip().is_multicast();
                    self.calls += usize::from(group);
                    let bytes: Arc<[u8]> = bytes.into();
                    for receiver in 0..self.nodes.len() {
                        if !group && self.nodes[receiver].address != to {
                            continue;
                        }
                        if self.rng.random_range(0..1000) < self.net.loss {
                            continue;
                        }
                        self.deliver(node, receiver, Arrival::Datagram(from, bytes.clone()));
                        if self.rng.random_range(0..1000) < self.net.duplication {
                            self.deliver(node, receiver, Arrival::Datagram(from, bytes.clone()));
                        }
                    }
                }
                Output::Connect { to, stream } => self.connect(node, to, stream),
                Output::Disconnect { stream } => {
                    self.streams.remove(&(node, stream));
                }
                _ => {}
            }
        }
        let lag = self.rng.random_range(0..=self.net.lag.as_nanos() as u64);
        let timer = self.global(node, timeout);
        self.nodes[node].timer = Some(timer.max(self.now) + Duration::from_nanos(lag));
        if left {
            self.kill(node);
        }
    }

    fn connect(&mut self, node: usize, to: SocketAddr, stream: u64) {
        let Some(target) = self.nodes.iter().position(|node| node.address == to) else { return };
        let reached = !self.cuts.contains(&(node, target)) && !self.cuts.contains(&(target, node));
        let life = self.nodes[target].life;
        self.nodes[node].connects += 1;
        let (event, after) = if !reached || !self.nodes[target].host {
            (StreamEvent::Failed, Duration::from_secs(1))
        } else if self.nodes[target].refused {
            // Sooner than its own answer could be there.
            (StreamEvent::Refused, self.net.delay.0)
        } else if self.is_up(target) || self.now < self.nodes[target].lingers {
            self.streams.insert((node, stream), (target, life));
            (StreamEvent::Opened, self.net.delay.1 * 2)
        } else {
            (StreamEvent::Refused, self.net.delay.1 * 2)
        };
        self.serial += 1;
        let arrival = Arrival::Stream(stream, event);
        let delivery = Delivery { to: node, life: self.nodes[node].life, arrival };
        self.queue.insert((self.now + after, self.serial), delivery);
        if event == StreamEvent::Opened && (self.nodes[target].hangs_up || !self.is_up(target)) {
            self.streams.remove(&(node, stream));
            let after = after.max(self.nodes[target].lingers.saturating_since(self.now));
            let arrival = Arrival::Stream(stream, StreamEvent::Closed);
            let delivery = Delivery { to: node, life: self.nodes[node].life, arrival };
            self.serial += 1;
            self.queue.insert((self.now + after, self.serial), delivery);
        }
    }

    fn deliver(&mut self, from: usize, to: usize, arrival: Arrival) {
        if self.cuts.contains(&(from, to)) {
            return;
        }
        let (least, most) = self.net.delay;
        let delay = self.rng.random_range(least.as_nanos() as u64..=most.as_nanos() as u64);
        self.serial += 1;
        let delivery = Delivery { to, life: self.nodes[to].life, arrival };
        self.queue.insert((self.now + Duration::from_nanos(delay), self.serial), delivery);
    }

    /// The referee: no role has two owners; how long has it none; how often does it move.
    fn judge(&mut self) {
        for role in self.watched.clone() {
            let holders = self.holders(&role);
            if holders.len() > 1 && self.now > self.lenient_until {
                panic!(
                    "{role} has {} owners at {:?}: {holders:?}\n  {}",
                    holders.len(),
                    self.now,
                    self.reproduce()
                );
            }
            if let [one] = holders.as_slice() {
                if let Some(since) = self.unowned.remove(&role) {
                    let gap = self.gaps.entry(role.clone()).or_default();
                    *gap = (*gap).max(self.now.saturating_since(since));
                }
                if self.owners.insert(role.clone(), *one).is_some_and(|before| before != *one) {
                    self.moves += 1;
                }
            } else if holders.is_empty() {
                self.unowned.entry(role).or_insert(self.now);
            }
        }
    }

    /// Every role has one owner, and every node that is up agrees on it.
    pub fn assert_settled(&self, what: &str) {
        let up: Vec<_> =
            (0..self.nodes.len()).filter(|node| self.is_up(*node) && !self.is_paused(*node)).collect();
        for role in &self.watched {
            let holders = self.holders(role);
            assert_eq!(
                holders.len(),
                1,
                "{what}: {role} should have one owner, not {holders:?}\n  {}",
                self.reproduce()
            );
            for node in &up {
                let sees = self.ownership(*node).roles.get(role).map(|owner| owner.node.clone());
                let is = Some(self.nodes[holders[0]].name.clone());
                assert_eq!(sees, is, "{what}: as n{} sees {role}\n  {}", node + 1, self.reproduce());
            }
        }
    }

    /// The longest gaps since the last call.
    pub fn take_gaps(&mut self) -> BTreeMap<Role, Duration> {
        std::mem::take(&mut self.gaps)
    }

    pub fn reproduce(&self) -> String {
        format!("reproduce: cargo run -p elect-gossip --example simulate_election -- {}", self.seed)
    }

    pub fn random<T>(&mut self, from: &[T]) -> T
    where
        T: Clone,
    {
        let at = self.rng.random_range(0..from.len());
        from[at].clone()
    }

    pub fn dice(&mut self, below: u32) -> u32 {
        self.rng.random_range(0..below)
    }
}

impl Arrival {
    fn input(&self) -> Input<'_> {
        match self {
            Self::Datagram(from, bytes) => Input::Datagram { from: *from, bytes },
            Self::Stream(stream, event) => Input::Stream { stream: *stream, event: *event },
        }
    }
}

fn scale(nanos: u64, drift: i64) -> u64 {
    nanos.saturating_add_signed(i64::try_from(nanos / 1_000_000).unwrap_or(0) * drift)
}

pub fn addresses(count: usize) -> Vec<Role> {
    (0..count)
        .map(|n| {
            let [_, _, high, low] = u32::try_from(n).unwrap().to_be_bytes();
            Role::Address([192, 0, high, low].into())
        })
        .collect()
}
