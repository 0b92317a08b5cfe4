//! What befalls a cluster: a story a seed.

use elect_gossip::Timing;
use lbcore::elect::Bid;
use lbcore::time::{Duration, Instant};

use super::{Net, Sim, addresses};

/// What goes wrong in a story, and how long nobody owned a role because of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub fault: &'static str,
    pub gap: Duration,
}

const FAULTS: [&str; 9] =
    ["kill", "power", "pause", "cable", "one-way", "drain", "rolling", "partition", "nothing"];

/// Builds a cluster, lets some faults happen to it one after the other, and judges.
///
/// # Panics
/// If a role has two owners outside a partition, has none for longer than is promised, or moves without need.
pub fn tell(seed: u64, trace: bool) -> Vec<Outcome> {
    let pick = Sim::new(seed, 1, Timing::default(), Net::calm()).dice(4);
    let (mut timing, net) = match pick {
        0 => (Timing::tuned(), Net::calm()),
        1 => (Timing::default(), Net::calm()),
        _ => (Timing::default(), Net::rough()),
    };
    let size = 2 + usize::try_from(seed % 4).unwrap();
    // Every other cluster follows the rules of large ones, always or as long as all are there.
    if size > 2 && seed % 8 >= 4 {
        timing.all_pairs = if seed % 16 < 8 { 1 } else { size - 1 };
    }
    let mut sim = Sim::new(seed, size, timing, net);
    sim.trace = trace;
    let count = 1 + usize::try_from(sim.dice(9)).unwrap();
    let roles = addresses(count);
    sim.bid_all(&roles);
    let calm = timing.takeover() * 3 + timing.rebalance_after + Duration::from_millis(200);
    sim.run(calm);
    sim.assert_settled("at first");
    sim.take_gaps();

    let mut outcomes = Vec::new();
    for _ in 0..3 {
        let fault = sim.random(&FAULTS);
        let victim = usize::try_from(sim.dice(u32::try_from(size).unwrap())).unwrap();
        sim.moves = 0;
        let owned = roles.iter().filter(|role| sim.holds(victim, role)).count();
        if trace {
            println!("{:?} --- {fault} n{} (owns {owned} of {count})", sim.now, victim + 1);
        }
        befall(&mut sim, fault, victim, calm);
        sim.assert_settled(fault);
        let gap = sim.take_gaps().into_values().max().unwrap_or_default();
        let bound = bound(&sim, fault);
        assert!(gap <= bound, "{fault}: nobody owned a role for {gap:?}\n  {}", sim.reproduce());
        let needed = match fault {
            // Away, and back to even the load; a role may go on to make room.
            "nothing" => 0,
            "rolling" | "partition" | "one-way" => usize::MAX,
            _ => owned + count.div_ceil(size) + 1,
        };
        let moves = sim.moves;
        assert!(moves <= needed, "{fault}: {moves} moves, {owned} needed\n  {}", sim.reproduce());
        outcomes.push(Outcome { fault, gap });
        befall(&mut sim, "nothing", 0, calm);
        sim.take_gaps();
    }
    outcomes
}

/// How long a role may be without an owner.
fn bound(sim: &Sim, fault: &str) -> Duration {
    let timing = &sim.timing;
    // A round, a few network delays, late timers; what is lost is asked for with the next round.
    let slack = if sim.net.loss > 0 { timing.interval * 4 } else { timing.interval / 2 };
    let noticed = timing.takeover() + slack;
    match fault {
        "nothing" => Duration::ZERO,
        "kill" => slack + Duration::from_millis(5),
        // Successors one after the other; and the handing over is asked for again if it is lost.
        "drain" | "rolling" => slack + Duration::from_millis(25),
        // The one that is paused or cut off comes back, and those that wait for it deal only then.
        _ => noticed * 2 + slack,
    }
}

fn befall(sim: &mut Sim, fault: &str, victim: usize, calm: Duration) {
    let all: Vec<_> = (0..sim.nodes.len()).collect();
    let rest: Vec<_> = all.iter().copied().filter(|node| *node != victim).collect();
    let roles: Vec<_> = sim.owners.keys().cloned().collect();
    let bids = |bid: Bid| roles.iter().map(|role| (role.clone(), bid)).collect::<Vec<_>>();
    match fault {
        "nothing" => sim.run(calm),
        "kill" => {
            sim.kill(victim);
            sim.run(calm);
            sim.start(victim);
            sim.bid(victim, bids(Bid::default()));
            sim.run(calm);
        }
        "power" => {
            sim.power_off(victim);
            sim.run(calm);
            sim.start(victim);
            sim.bid(victim, bids(Bid::default()));
            sim.run(calm);
        }
        "pause" => {
            let span = Duration::from_millis(u64::from(sim.dice(1200)));
            sim.pause(victim);
            sim.run(span);
            sim.resume(victim);
            sim.run(calm * 2);
        }
        "cable" => {
            // Both sides own what they can. Carrier is back before a word is heard: that is what the announcing
            // program tells the elector by its bids.
            sim.cut_off(&[victim]);
            sim.bid(victim, bids(Bid::default().ineligible()));
            sim.run(calm);
            sim.heal_all();
            sim.bid(victim, bids(Bid::default()));
            sim.run(calm * 2);
        }
        "one-way" => {
            let other = rest[usize::try_from(sim.dice(u32::try_from(rest.len()).unwrap())).unwrap()];
            // Of two nodes, or if nobody hears anybody, each side cannot but think that it is alone.
            let whole = sim.dice(2) == 0 || all.len() == 2;
            sim.cut_one_way(victim, other);
            if whole {
                sim.lenient_until = Instant::FAR_FUTURE;
                for other in &rest {
                    sim.cut_one_way(victim, *other);
                }
            }
            sim.run(calm);
            sim.heal_all();
            sim.run(healing(sim));
            sim.lenient_until = sim.now;
            sim.run(calm * 2);
        }
        "drain" => {
            sim.bid(victim, bids(Bid::default().draining()));
            sim.run(calm);
            assert!(
                roles.iter().all(|role| !sim.holds(victim, role)),
                "what drains is empty\n  {}",
                sim.reproduce()
            );
            sim.bid(victim, bids(Bid::default()));
            sim.run(calm);
        }
        "rolling" => {
            for node in all {
                sim.leave(node);
                sim.run(calm);
                assert!(!sim.is_up(node), "leaving is bounded\n  {}", sim.reproduce());
                sim.start(node);
                sim.bid(node, bids(Bid::default()));
                sim.run(calm);
            }
        }
        "partition" => {
            let side = usize::try_from(sim.dice(u32::try_from(all.len()).unwrap() - 1)).unwrap() + 1;
            sim.lenient_until = Instant::FAR_FUTURE;
            sim.cut_off(&all[..side]);
            sim.run(calm);
            for role in &roles {
                for part in [&all[..side], &all[side..]] {
                    let owners = part.iter().filter(|node| sim.holds(**node, role)).count();
                    assert_eq!(owners, 1, "{role} has an owner on each side\n  {}", sim.reproduce());
                }
            }
            sim.heal_all();
            sim.run(healing(sim));
            sim.lenient_until = sim.now;
            sim.run(calm * 2);
        }
        other => unreachable!("{other}"),
    }
}

/// How long after a partition two may still own: until each has heard the other.
fn healing(sim: &Sim) -> Duration {
    sim.timing.interval * if sim.net.loss > 0 { 4 } else { 2 }
}
