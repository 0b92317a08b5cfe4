//! What befalls a cluster of fifty: one long story a seed.

use elect_gossip::Timing;
use lbcore::elect::Bid;
use lbcore::id::Role;
use lbcore::time::{Duration, Instant};

use super::{Net, Sim, addresses};

const SIZE: usize = 50;

/// A few own something for which all bid, and two roles have few candidates. Owners crash, candidates change at that
/// moment, the cluster is parted and heals, and every node is restarted.
///
/// # Panics
/// If a role has two owners outside a partition, or has none for longer than is promised.
pub fn tell(seed: u64, trace: bool) {
    let (timing, net) = match seed % 3 {
        0 => (Timing::default(), Net::calm()),
        1 => (Timing::tuned(), Net::calm()),
        _ => (Timing::default(), Net::rough()),
    };
    let mut story = Story { sim: Sim::new(seed, SIZE, timing, net), roles: addresses(6), few: Vec::new() };
    story.sim.trace = trace;
    story.begin();
    story.crash("kill");
    story.crash("power");
    story.candidacy_changes_while_the_owner_crashes();
    story.partition();
    story.rolling();
}

struct Story {
    sim: Sim,
    roles: Vec<Role>,
    /// The candidates of the last two roles; everybody bids for the others.
    few: Vec<usize>,
}

impl Story {
    fn begin(&mut self) {
        self.few = (0..3).map(|_| self.anybody()).collect();
        for node in 0..SIZE {
            self.bid(node);
        }
        self.sim.watch(&self.roles);
        self.calm("at first");
    }

    fn bid(&mut self, node: usize) {
        let few = self.few.contains(&node);
        let roles = if few { &self.roles[..] } else { &self.roles[..4] };
        self.sim.bid(node, roles.iter().map(|role| (role.clone(), Bid::default())));
    }

    fn anybody(&mut self) -> usize {
        usize::try_from(self.sim.dice(u32::try_from(SIZE).unwrap())).unwrap()
    }

    /// Lets the cluster come to rest.
    fn calm(&mut self, what: &str) {
        let timing = self.sim.timing;
        self.sim.run(timing.takeover() * 3 + timing.slow_interval * 2 + timing.rebalance_after);
        self.sim.assert_settled(what);
    }

    /// A takeover, and what is lost on the way asked for again.
    fn assert_gaps(&mut self, what: &str, bound: Duration) {
        let interval = self.sim.timing.interval;
        // A dealer that hears some living member through others only waits one takeover longer.
        let informed = self.sim.timing.takeover();
        let slack = informed + if self.sim.net.loss > 0 { interval * 4 } else { interval };
        for (role, gap) in self.sim.take_gaps() {
            assert!(gap <= bound + slack, "{what}: nobody owned {role} for {gap:?}\n  {}", self.reproduce());
        }
    }

    fn reproduce(&self) -> String {
        format!("reproduce: cargo run -p elect-gossip --example simulate_election -- large {}", self.sim.seed)
    }

    fn crash(&mut self, how: &str) {
        let role = self.sim.random(&self.roles);
        let owner = self.sim.holders(&role)[0];
        self.sim.take_gaps();
        match how {
            "kill" => self.sim.kill(owner),
            _ => self.sim.power_off(owner),
        }
        self.calm(how);
        let noticed = self.sim.timing.takeover();
        self.assert_gaps(how, if how == "kill" { Duration::from_millis(5) } else { noticed });
        self.sim.start(owner);
        self.bid(owner);
        self.calm("after a restart");
    }

    /// The owner of a role with few candidates loses its power at the moment in which another node becomes one; the
    /// old ones withdraw, or do not.
    fn candidacy_changes_while_the_owner_crashes(&mut self) {
        let role = self.roles[5].clone();
        let owner = self.sim.holders(&role)[0];
        let old = self.few.clone();
        let new = (0..SIZE).find(|node| !old.contains(node)).unwrap();
        self.sim.take_gaps();
        self.few = if self.sim.dice(2) == 0 { vec![new] } else { [old.as_slice(), &[new]].concat() };
        let first = self.sim.dice(2) == 0;
        if first {
            // The owner may hear of it, or not.
            for node in old.iter().chain([&new]).filter(|node| **node != owner) {
                self.bid(*node);
            }
            let span = Duration::from_micros(u64::from(self.sim.dice(5000)));
            self.sim.run(span);
        }
        self.sim.power_off(owner);
        for node in old.iter().chain([&new]).filter(|node| **node != owner) {
            self.bid(*node);
        }
        self.calm("a candidacy that changed");
        // The new one was promised less than it needs now.
        let timing = self.sim.timing;
        self.assert_gaps("a candidacy that changed", timing.takeover() * 3 + timing.slow_interval);
        self.sim.start(owner);
        self.bid(owner);
        self.calm("after a candidacy changed");
        // The same while all live: nobody may take it before it is given.
        self.sim.take_gaps();
        self.few = (0..3).map(|_| self.anybody()).collect();
        for node in 0..SIZE {
            self.bid(node);
        }
        self.calm("a candidacy that changed back");
    }

    fn partition(&mut self) {
        let side: Vec<_> = (0..SIZE).filter(|_| self.sim.dice(3) == 0).collect();
        self.sim.lenient_until = Instant::FAR_FUTURE;
        self.sim.cut_off(&side);
        let timing = self.sim.timing;
        self.sim.run(timing.takeover() * 3 + timing.slow_interval * 2);
        for role in &self.roles[..4] {
            let within = self.sim.holders(role).iter().filter(|node| side.contains(node)).count();
            assert_eq!(within, 1, "{role} has an owner on this side\n  {}", self.reproduce());
            assert_eq!(self.sim.holders(role).len(), 2, "{role} on the other\n  {}", self.reproduce());
        }
        self.sim.heal_all();
        // Owners call those that could own the same each interval, dead or alive.
        self.sim.run(timing.interval * if self.sim.net.loss > 0 { 4 } else { 2 });
        self.sim.lenient_until = self.sim.now;
        self.calm("after a partition");
    }

    fn rolling(&mut self) {
        self.sim.take_gaps();
        for node in 0..SIZE {
            self.sim.leave(node);
            let span = self.sim.timing.takeover();
            self.sim.run(span);
            if self.sim.is_up(node) {
                let span = Duration::from_millis(500);
                self.sim.run(span);
            }
            assert!(!self.sim.is_up(node), "leaving is bounded\n  {}", self.reproduce());
            self.sim.start(node);
            self.bid(node);
            let span = self.sim.timing.takeover();
            self.sim.run(span);
        }
        self.calm("after a rolling restart");
        for role in &self.roles[..4] {
            let gap = self.sim.gaps.get(role).copied().unwrap_or_default();
            let most = self.sim.timing.interval * 5;
            assert!(gap <= most, "rolling: nobody owned {role} for {gap:?}\n  {}", self.reproduce());
        }
    }
}
