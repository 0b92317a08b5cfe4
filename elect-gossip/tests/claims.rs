//! What becomes of claims where two nodes have one, and where one is handed over.

#[expect(dead_code, reason = "shared with the simulation, which uses all of it")]
mod sim;

use elect_gossip::Timing;
use lbcore::elect::{Bid, Term};
use lbcore::time::Duration;
use sim::{Net, Sim, addresses};

#[test]
fn of_two_equal_claims_one_is_left() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, 2, Timing::default(), Net::calm());
        let roles = addresses(4);
        // Each takes everything, in the same term, before it has heard of the other.
        sim.cut_off(&[0]);
        sim.lenient_until = sim.now + Duration::from_secs(60);
        sim.bid_all(&roles);
        sim.run(Duration::from_secs(10));
        let term = |sim: &Sim, node: usize| sim.ownership(node).roles.get(&roles[0]).map(|owner| owner.term);
        assert_eq!(term(&sim, 0), Some(Term(1)), "seed {seed}");
        assert_eq!(term(&sim, 1), Some(Term(1)), "seed {seed}");
        assert!(roles.iter().all(|role| sim.holders(role).len() == 2), "seed {seed}");
        sim.heal_all();
        while (0..2).any(|node| sim.ownership(node).members.len() < 2) {
            sim.run(Duration::from_millis(1));
        }
        // They do not wait until it is time to spread the roles anew.
        sim.run(sim.timing.interval * 2);
        assert!(roles.iter().all(|role| sim.holders(role).len() < 2), "seed {seed}");
        sim.lenient_until = sim.now;
        sim.run(Duration::from_secs(10));
        sim.assert_settled("after the partition");
    }
}

#[test]
fn a_successor_is_told_only_when_the_announcers_have_had_time_to_fall_silent() {
    for seed in 0..20 {
        let timing = Timing::default();
        let mut sim = Sim::new(seed, 2, timing, Net::calm());
        let roles = addresses(4);
        sim.bid_all(&roles);
        sim.run(Duration::from_secs(5));
        let drained: Vec<_> = roles.iter().filter(|role| sim.holds(0, role)).cloned().collect();
        sim.take_gaps();
        sim.bid(0, roles.iter().map(|role| (role.clone(), Bid::default().draining())));
        sim.run(Duration::from_secs(5));
        let gaps = sim.take_gaps();
        assert!(!drained.is_empty(), "seed {seed}");
        for role in drained {
            assert_eq!(sim.holders(&role), [1], "seed {seed}");
            let silent = gaps.get(&role).copied().unwrap_or_default();
            assert!(silent >= timing.handover_pause, "seed {seed}: {role} was silent for {silent:?}");
        }
    }
}
