//! The contract of `LeaderElector`, by drivers over a store in memory.

#[expect(dead_code, reason = "shared with the other tests")]
mod cluster;

use cluster::Cluster;
use lbcore::conformance::elector::{self, CLAUSES};
use lbcore::time::Duration;

#[test]
fn the_contract_holds() {
    elector::run_all(&mut |nodes| Box::new(Cluster::new(nodes)));
}

#[test]
fn the_contract_holds_over_a_slow_store() {
    for (_, nodes, clause) in CLAUSES {
        let cluster = Cluster::new(*nodes);
        for (number, node) in (1..).zip(&cluster.nodes) {
            node.line.set_delay(Duration::from_millis(7 * number), Duration::from_millis(30 * number));
        }
        clause(&mut elector::Cluster::new(Box::new(cluster)));
    }
}
