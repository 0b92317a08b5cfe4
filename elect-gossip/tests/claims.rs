//! What becomes of claims where two nodes have one, where one is handed over, and where not all hear each other; and how
//! nodes find each other.

#[expect(dead_code, reason = "shared with the simulation, which uses all of it")]
mod sim;

use elect_gossip::Timing;
use elect_gossip::machine::Notice;
use lbcore::elect::{Bid, LeaderElector, Term};
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

#[test]
fn an_offer_that_was_taken_up_is_not_dealt_again() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, 4, Timing::default(), Net::calm());
        let roles = addresses(12);
        sim.bid_all(&roles);
        sim.run(Duration::from_secs(5));
        // The dealer hears that n4 took its offers to n3 back, and only later that n3 owns what was offered; and it would
        // have all of it itself by now. (Two owners would end this.)
        sim.cut_one_way(2, 0);
        sim.bid(3, roles.iter().map(|role| (role.clone(), Bid::default().draining())));
        sim.bid(0, roles.iter().map(|role| (role.clone(), Bid::preferring(1))));
        sim.run(sim.timing.interval);
        sim.heal_all();
        sim.run(Duration::from_secs(5));
        sim.assert_settled("after the drain");
    }
}

#[test]
fn what_was_dropped_because_of_a_higher_claim_is_not_dealt() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, 3, Timing::default(), Net::calm());
        let roles = addresses(9);
        sim.bid_all(&roles);
        sim.run(Duration::from_secs(5));
        let kept: Vec<_> = roles.iter().filter(|role| sim.holds(1, role)).cloned().collect();
        sim.lenient_until = sim.now + Duration::from_secs(60);
        sim.cut_off(&[2]);
        sim.run(Duration::from_secs(5));
        sim.heal_all();
        // The dealer hears of n3 only through n2, which drops what n3 has claimed under a higher term.
        sim.cut_one_way(2, 0);
        let dropped = |sim: &Sim| kept.iter().all(|role| sim.holders(role) == [2]);
        for _ in 0..10_000 {
            if dropped(&sim) {
                break;
            }
            sim.run(Duration::from_micros(10));
        }
        assert!(!kept.is_empty() && dropped(&sim), "seed {seed}");
        // What it has to deal would be its own.
        sim.bid(0, roles.iter().map(|role| (role.clone(), Bid::preferring(1))));
        for _ in 0..20 {
            sim.run(Duration::from_millis(1));
            assert!(dropped(&sim), "seed {seed}");
        }
        sim.heal_all();
        sim.run(Duration::from_secs(10));
        sim.lenient_until = sim.now;
        sim.assert_settled("after the partition");
    }
}

#[test]
fn who_has_become_the_dealer_a_moment_ago_deals_nothing_that_another_one_deals() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, 4, Timing::default(), Net::calm());
        let roles = addresses(13);
        sim.bid_all(&roles);
        sim.run(Duration::from_secs(5));
        sim.pause(0);
        sim.run(Duration::from_secs(1));
        // n1 listens until it holds n2 for dead, as n3 does, the dealer in its place. (Two owners would end this.)
        sim.pause(1);
        sim.run(Duration::from_millis(20));
        sim.resume(0);
        sim.run(Duration::from_secs(2));
        sim.resume(1);
        sim.run(Duration::from_secs(5));
        sim.assert_settled("after the pauses");
    }
}

#[test]
fn who_may_own_again_deals_only_once_the_others_know() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, 4, Timing::default(), Net::calm());
        let roles = addresses(13);
        sim.bid_all(&roles);
        sim.run(Duration::from_secs(5));
        sim.pause(0);
        sim.run(Duration::from_secs(1));
        let settled =
            |sim: &Sim| sim.nodes[0].notices.iter().filter(|(_, notice)| *notice == Notice::Settled).count();
        let before = settled(&sim);
        sim.resume(0);
        // n3 has been asked, and answers; but does not hear that n1 deals from now on. (Two owners would end this.)
        sim.cut_one_way(0, 2);
        for _ in 0..10_000 {
            if settled(&sim) > before {
                break;
            }
            sim.run(Duration::from_micros(10));
        }
        assert!(settled(&sim) > before, "seed {seed}");
        sim.kill(1);
        sim.run(sim.timing.interval / 2);
        sim.heal_all();
        sim.run(Duration::from_secs(5));
        sim.assert_settled("after the end of n2");
    }
}

#[test]
fn who_has_not_heard_of_a_death_yet_moves_nothing_because_of_it() {
    for seed in 0..40 {
        let mut sim = Sim::new(seed, 4, Timing::default(), Net::calm());
        let roles = addresses(5);
        sim.bid_all(&roles);
        sim.run(Duration::from_secs(5));
        sim.assert_settled("at first");
        let (victim, deaf) = (usize::from(seed % 2 == 0) + 2, usize::from(seed % 4 < 2));
        let owned = roles.iter().filter(|role| sim.holds(victim, role)).count();
        sim.moves = 0;
        // All but one learn of its end from its host. That one sees its roles with others, and nothing with it.
        sim.cut_one_way(victim, deaf);
        sim.kill(victim);
        sim.run(Duration::from_secs(5));
        assert_eq!(sim.moves, owned, "seed {seed}");
    }
}

#[test]
fn a_new_run_is_heard_of_through_a_third_too() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, 3, Timing::default(), Net::calm());
        let roles = addresses(6);
        sim.bid_all(&roles);
        sim.run(Duration::from_secs(5));
        sim.cut_one_way(0, 2);
        sim.cut_one_way(2, 0);
        sim.kill(2);
        sim.run(Duration::from_secs(1));
        sim.start(2);
        sim.bid(2, roles.iter().map(|role| (role.clone(), Bid::default())));
        sim.run(Duration::from_secs(5));
        assert!((0..3).all(|node| sim.ownership(node).members.len() == 3), "seed {seed}");
        sim.assert_settled("after the restart");
    }
}

#[test]
fn in_a_large_cluster_it_is_enough_that_a_third_hears_both() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed, 20, Timing::default(), Net::calm());
        let roles = addresses(1);
        sim.bid_all(&roles);
        sim.run(Duration::from_secs(5));
        sim.assert_settled("at first");
        let owner = sim.holders(&roles[0])[0];
        // The dealer, and some who would take over, hear nothing from the owner any more, and it hears them.
        let deaf: Vec<_> = (0..20).filter(|node| *node != owner).take(6).collect();
        for node in &deaf {
            sim.cut_one_way(owner, *node);
        }
        sim.moves = 0;
        sim.take_gaps();
        sim.run(Duration::from_secs(10));
        assert_eq!((sim.holders(&roles[0]), sim.moves), (vec![owner], 0), "seed {seed}");
        assert!(sim.take_gaps().is_empty(), "seed {seed}");
        let name = &sim.nodes[owner].name;
        for node in deaf {
            assert!(sim.ownership(node).members.contains_key(name), "seed {seed}");
        }
    }
}

#[test]
fn in_a_large_cluster_few_words_are_enough() {
    let mut sim = Sim::new(1, 20, Timing::default(), Net::calm());
    let roles = addresses(2);
    sim.bid_all(&roles);
    sim.run(Duration::from_secs(5));
    let sent = |sim: &Sim| (0..20).map(|node| sim.counters(node).sent).sum::<u64>();
    let (before, streams) = (sent(&sim), sim.streams());
    sim.run(Duration::from_secs(10));
    // Two owners speak to 19 others twenty times a second and are answered by two; all others twice a second. All pairs
    // would be 76 000. The membership protocol says a little too.
    let words = sent(&sim) - before;
    assert!((11_000..22_000).contains(&words), "{words} datagrams");
    assert_eq!(streams, 2 * 19, "each who would act on an owner's death has a stream to it");
}

#[test]
fn halves_of_a_group_that_began_apart_find_each_other() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed, 4, Timing::default(), Net::calm());
        let group = "239.192.7.46:7946".parse().expect("an address");
        sim.restart_with_seeds(&[group]);
        sim.cut_off(&[0, 1]);
        sim.run(Duration::from_secs(20));
        assert!((0..4).all(|node| sim.ownership(node).members.len() == 2), "seed {seed}");
        sim.heal_all();
        let before = sim.calls;
        sim.run(Duration::from_secs(15));
        assert!((0..4).all(|node| sim.ownership(node).members.len() == 4), "seed {seed}");
        assert!(sim.calls - before <= 8, "seed {seed}: {} greetings to the group", sim.calls - before);
        assert!(sim.nodes.iter().all(|node| node.elector.conditions().borrow().is_empty()), "seed {seed}");
    }
}
