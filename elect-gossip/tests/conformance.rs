//! The contract of `LeaderElector`, over the simulated network.

#[expect(dead_code, reason = "shared with the simulation, which uses all of it")]
mod sim;

use std::sync::Arc;

use elect_gossip::Timing;
use lbcore::conformance::elector::{CLAUSES, Cluster, Harness};
use lbcore::elect::LeaderElector;
use lbcore::id::NodeName;
use lbcore::time::{Duration, Instant};
use sim::{Net, Sim};

struct Simulated(Sim);

impl Harness for Simulated {
    fn nodes(&self) -> Vec<NodeName> {
        self.0.nodes.iter().map(|node| node.name.clone()).collect()
    }

    fn elector(&self, node: usize) -> Arc<dyn LeaderElector> {
        self.0.nodes[node].elector.clone()
    }

    fn now(&self, node: usize) -> Instant {
        self.0.local(node)
    }

    fn advance(&mut self, span: Duration) {
        self.0.feed();
        self.0.run(span);
    }

    fn takeover(&self) -> Duration {
        // Noticed, dealt, evened out.
        self.0.timing.takeover() * 2 + self.0.timing.rebalance_after + Duration::from_millis(100)
    }

    fn crash(&mut self, node: usize) {
        self.0.kill(node);
    }

    fn restart(&mut self, node: usize) {
        self.0.start(node);
    }

    fn pause(&mut self, node: usize) {
        self.0.pause(node);
    }

    fn resume(&mut self, node: usize) {
        self.0.resume(node);
    }

    fn cut(&mut self, node: usize) {
        self.0.cut_off(&[node]);
    }

    fn heal(&mut self, node: usize) {
        self.0.heal(node);
    }
}

fn run(timing: Timing, net: Net) {
    for (name, nodes, clause) in CLAUSES {
        println!("{name}");
        clause(&mut Cluster::new(Box::new(Simulated(Sim::new(1, *nodes, timing, net)))));
    }
}

#[test]
fn the_contract_holds() {
    run(Timing::default(), Net::calm());
}

#[test]
fn the_contract_holds_when_tuned() {
    run(Timing::tuned(), Net::calm());
}

#[test]
fn the_contract_holds_on_a_rough_network() {
    run(Timing::default(), Net::rough());
}
