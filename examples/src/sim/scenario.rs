//! What a seed stands for: a cluster, its network, and what befalls them when.

use announce_l2::machine::Pace;
use elect_gossip::Timing;
use lbcore::time::{Duration, Instant};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// The elector of all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Gossip(Timing),
    /// Leases in a store of this duration.
    Lease(Duration),
}

/// What the networks do to what is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    pub(crate) delay: (Duration, Duration),
    /// In a thousand.
    pub(crate) loss: u32,
    pub(crate) duplication: u32,
    /// How late timers fire, at most.
    pub(crate) lag: Duration,
}

/// How the neighbour caches of the clients are set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caches {
    pub(crate) reachable: Duration,
    pub(crate) delay: Duration,
    /// Whether an answer to a request confirms the neighbour.
    pub(crate) confirms: bool,
}

/// A part of a program that is wrong on purpose, so that it can be seen that the referee finds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fake {
    /// Everything is as it is.
    #[default]
    None,
    /// The first node's announcers take a lease for longer than it is.
    AnswersAfterLease,
    /// The first node's elector takes over long before the others' leases are over.
    TakesOverEarly,
    /// The first node's announcer never says a word.
    NeverAnnounces,
    /// The first node's bids change for no reason, again and again.
    Restless,
    /// The first node's announcer keeps to a pace that is ten times the one that it is told.
    Storms,
    /// The first node's status says nothing of what its announcer does.
    Denies,
    /// The first node's announcers hold every ownership for the first one.
    ForgetsTerms,
}

/// Something that happens to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// SIGKILL: the kernel closes the connections.
    Kill(usize),
    /// The machine is gone without a word.
    PowerOff(usize),
    Start(usize),
    /// SIGSTOP for that long; in the middle of the next batch of frames, if so said.
    Pause(usize, Duration, bool),
    Resume(usize),
    /// The cable is out, or in.
    Cable(usize, bool),
    /// Parts these ports from the rest: what they say by gossip, by ARP, or both.
    Split(Split),
    /// Ends the split of that number.
    Heal(u32),
    Drain(usize, bool),
    /// The node's checks fail, or succeed again.
    Ready(usize, bool),
    /// An orderly stop, and a start some time after its end.
    Restart(usize),
    /// The store answers nobody, or again.
    Outage(bool),
}

/// A cut through the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) number: u32,
    /// A bit for each node and client: those on one side.
    pub(crate) side: u32,
    /// Only these two nodes do not hear each other; `side` does not count.
    pub(crate) pair: Option<(usize, usize)>,
    pub(crate) gossip: bool,
    pub(crate) segment: bool,
}

impl Split {
    /// Whether it parts these two.
    pub(crate) fn parts(&self, a: usize, b: usize) -> bool {
        match self.pair {
            Some((c, d)) => (a, b) == (c, d) || (b, a) == (c, d),
            None => (self.side >> a) & 1 != (self.side >> b) & 1,
        }
    }
}

/// All that a seed decides before anything happens.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) nodes: usize,
    pub(crate) v4: usize,
    pub(crate) v6: usize,
    pub(crate) clients: usize,
    /// Between two requests of a client.
    pub(crate) period: Duration,
    pub(crate) net: Net,
    pub(crate) pace: Pace,
    pub(crate) caches: Caches,
    /// The switch delivers groups only to those that joined them.
    pub(crate) snooping: bool,
    /// The node that is preferred for all addresses.
    pub(crate) preferred: Option<usize>,
    pub(crate) drift: Vec<(u64, i64)>,
    pub(crate) actions: Vec<(Instant, Action)>,
    pub(crate) end: Instant,
    pub(crate) fake: Fake,
}

impl Scenario {
    pub(crate) fn of_seed(seed: u64, fake: Fake) -> Self {
        // Not the stream that the world draws from.
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5ce_a410);
        let us = Duration::from_micros;
        let ms = Duration::from_millis;
        let mode = if rng.random_ratio(3, 4) {
            Mode::Gossip(match rng.random_range(0..6) {
                0 => Timing::default(),
                1 => Timing::new(ms(50), 3),
                2 => Timing::new(ms(100), 3),
                3 => Timing::new(ms(100), 4),
                4 => Timing::new(ms(150), 3),
                _ => Timing::new(ms(200), 3),
            })
        } else {
            Mode::Lease(ms([1000, 1500][rng.random_range(0..2)]))
        };
        let net = match rng.random_range(0..5) {
            0 | 1 => Net { delay: (us(100), us(300)), loss: 0, duplication: 0, lag: us(500) },
            2 => Net { delay: (us(50), us(3000)), loss: 0, duplication: 20, lag: us(2000) },
            _ => Net { delay: (us(100), us(4000)), loss: 15, duplication: 20, lag: us(2000) },
        };
        let nodes = rng.random_range(2..=5);
        let count: usize =
            if rng.random_ratio(1, 3) { rng.random_range(1..=20) } else { rng.random_range(1..=6) };
        let v6 = rng.random_range(0..=count);
        let caches = Caches {
            reachable: [ms(1500), ms(5000), ms(30_000)][rng.random_range(0..3)],
            delay: [ms(300), ms(5000)][rng.random_range(0..2)],
            confirms: rng.random(),
        };
        let mut scenario = Self {
            seed,
            mode,
            nodes,
            v4: count - v6,
            v6,
            clients: rng.random_range(1..=3),
            period: ms(rng.random_range(5..=20)),
            net,
            pace: if rng.random_ratio(1, 5) { Pace::GUARDED } else { Pace::NORMAL },
            caches,
            snooping: rng.random(),
            preferred: rng.random_ratio(1, 5).then(|| rng.random_range(0..nodes)),
            drift: (0..nodes)
                .map(|_| (rng.random_range(1_000_000_000..1_000_000_000_000), rng.random_range(-500..=500)))
                .collect(),
            actions: Vec::new(),
            end: Instant::ZERO,
            fake,
        };
        scenario.draw_faults(&mut rng);
        scenario
    }

    /// How long until a cluster that nothing more happens to is at rest: the bound on finding owners, and the wait
    /// before the spread is evened.
    pub(crate) fn calm(&self) -> Duration {
        let even = match self.mode {
            Mode::Gossip(timing) => timing.rebalance_after + timing.interval * 2,
            Mode::Lease(duration) => duration,
        };
        self.alone() + even
    }

    /// How long until somebody owns what has no owner, others being there to be heard.
    pub(crate) fn takeover(&self) -> Duration {
        match self.mode {
            // Noticed, dealt; and the dealer may be the one that is gone.
            Mode::Gossip(timing) => (timing.takeover() + self.slack()) * 2 + self.slack(),
            // The lease runs out, it is fenced, its roles are moved.
            Mode::Lease(duration) => duration * 2 + Duration::from_millis(700) + self.slack() * 2,
        }
    }

    /// How long a fresh process only listens.
    pub(crate) fn listening(&self) -> Duration {
        match self.mode {
            Mode::Gossip(timing) => timing.takeover() * 4,
            Mode::Lease(duration) => duration,
        }
    }

    /// The same for a fresh process that hears nobody: it listens, and its links count only after a while.
    pub(crate) fn alone(&self) -> Duration {
        crate::node::links::SETTLED + self.listening() + self.takeover()
    }

    /// A planned move: an owner falls silent, and the next one speaks.
    pub(crate) fn handover(&self) -> Duration {
        let way = self.net.delay.1 * 4 + self.net.lag * 4 + Duration::from_millis(5);
        match self.mode {
            Mode::Gossip(timing) => timing.handover_pause + self.slack() + way,
            // 200 ms until it is silent, a write and a read until the next one knows.
            Mode::Lease(duration) => Duration::from_millis(200) + duration / 2 + self.slack() + way,
        }
    }

    /// What a lost message costs: it is sent again with one of the next rounds.
    pub(crate) fn slack(&self) -> Duration {
        match self.mode {
            Mode::Gossip(timing) if self.net.loss > 0 => timing.interval * 4,
            Mode::Gossip(timing) => timing.interval / 2 + Duration::from_millis(5),
            Mode::Lease(duration) if self.net.loss > 0 => duration / 2,
            Mode::Lease(_) => Duration::from_millis(20),
        }
    }

    /// How long two that were parted may both speak after they hear each other again: until each has heard of the
    /// other's claim, and its announcers of that.
    pub(crate) fn healing(&self) -> Duration {
        match self.mode {
            Mode::Gossip(timing) => {
                let rounds = if self.net.loss > 0 { 5 } else { 2 };
                timing.interval * rounds + self.net.delay.1 * 4 + self.net.lag * 2 + Duration::from_millis(5)
            }
            Mode::Lease(_) => Duration::ZERO,
        }
    }

    /// How much longer it takes where one of them was started meanwhile: those that never met are greeted in every fourth
    /// round.
    pub(crate) fn greeting(&self) -> Duration {
        match self.mode {
            Mode::Gossip(timing) => timing.interval * 4,
            Mode::Lease(_) => Duration::ZERO,
        }
    }

    /// How long the first announcements of all addresses take at most, at the pace.
    pub(crate) fn paced(&self) -> Duration {
        let count = u32::try_from(self.v4 + self.v6).unwrap_or(u32::MAX);
        Duration::from_secs(1) * (count + 4) / self.pace.per_second.max(1)
    }

    fn draw_faults(&mut self, rng: &mut ChaCha8Rng) {
        let ms = Duration::from_millis;
        let calm = self.calm();
        let mut at = Instant::ZERO + ms(100) + calm;
        let overlapping = rng.random_ratio(1, 3);
        let stories = if overlapping { 2 } else { rng.random_range(1..=2) };
        let mut last = at;
        for number in 0..stories {
            let ends = self.draw_fault(rng, at, number);
            last = last.max(ends);
            at = if overlapping {
                let within = ends.saturating_since(at).as_nanos().max(1);
                at + Duration::from_nanos(rng.random_range(0..u64::try_from(within).unwrap_or(1)))
            } else {
                ends + calm
            };
        }
        self.end = last + calm + ms(400) + self.paced();
        self.actions.sort_by_key(|(at, _)| *at);
    }

    /// Adds a fault that begins at `at`, and tells when it is over.
    fn draw_fault(&mut self, rng: &mut ChaCha8Rng, at: Instant, number: u32) -> Instant {
        let ms = Duration::from_millis;
        let node = rng.random_range(0..self.nodes);
        let short = ms(rng.random_range(5..1500));
        let long = self.takeover() + ms(rng.random_range(0..1000));
        let span = if rng.random() { short } else { long };
        let side = self.draw_side(rng);
        let mut add = |at: Instant, action: Action| self.actions.push((at, action));
        match rng.random_range(0..16) {
            0 | 1 => {
                add(at, Action::Kill(node));
                add(at + span, Action::Start(node));
            }
            2 | 3 => {
                add(at, Action::PowerOff(node));
                add(at + span, Action::Start(node));
            }
            4..=6 => {
                add(at, Action::Pause(node, span, rng.random()));
            }
            7 => {
                add(at, Action::Cable(node, false));
                add(at + span, Action::Cable(node, true));
            }
            8 | 9 => {
                add(at, Action::Split(Split { number, side, pair: None, gossip: true, segment: true }));
                add(at + span, Action::Heal(number));
            }
            10 => {
                // Of ARP alone, or of gossip alone.
                let gossip = rng.random();
                add(at, Action::Split(Split { number, side, pair: None, gossip, segment: !gossip }));
                add(at + span, Action::Heal(number));
            }
            11 => {
                let other = (node + rng.random_range(1..self.nodes)) % self.nodes;
                let pair = Some((node, other));
                add(at, Action::Split(Split { number, side: 0, pair, gossip: true, segment: rng.random() }));
                add(at + span, Action::Heal(number));
            }
            12 => {
                add(at, Action::Drain(node, true));
                add(at + span, Action::Drain(node, false));
            }
            13 => {
                add(at, Action::Ready(node, false));
                add(at + span, Action::Ready(node, true));
            }
            14 => {
                let mut at = at;
                for node in 0..self.nodes {
                    add(at, Action::Restart(node));
                    at += long;
                }
                return at;
            }
            _ if matches!(self.mode, Mode::Lease(_)) => {
                add(at, Action::Outage(true));
                add(at + span, Action::Outage(false));
            }
            _ => add(at, Action::Restart(node)),
        }
        at + span
    }

    /// Some nodes and some clients, but not all nodes.
    fn draw_side(&self, rng: &mut ChaCha8Rng) -> u32 {
        let nodes = rng.random_range(1..(1_u32 << self.nodes) - 1);
        let clients = rng.random_range(0..1_u32 << self.clients);
        nodes | clients << self.nodes
    }
}
