//! What is forged, cut, altered, recorded or sealed with another key changes nothing; and what nodes do to each other
//! by mistake leaves one owner.

#[expect(dead_code, reason = "shared with the simulation, which uses all of it")]
mod sim;

use std::net::SocketAddr;

use elect_gossip::machine::Counters;
use elect_gossip::wire::{
    Boot, HEADER_LEN, Heartbeat, Hello, MAX_DATAGRAM, Message, Packet, Sealer, TAG_LEN,
};
use elect_gossip::{ClusterKey, Keyring, Timing};
use lbcore::elect::{Bid, LeaderElector};
use lbcore::id::Role;
use lbcore::time::Duration;
use sim::{Net, Sim, addresses};

const ATTACKER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9)), 7946);

fn settled(seed: u64, size: usize) -> (Sim, Vec<Role>) {
    let mut sim = Sim::new(seed, size, Timing::default(), Net::calm());
    let roles = addresses(6);
    sim.bid_all(&roles);
    let span = calm(&sim);
    sim.run(span);
    sim.assert_settled("at first");
    sim.take_gaps();
    (sim, roles)
}

fn calm(sim: &Sim) -> Duration {
    sim.timing.takeover() * 3 + sim.timing.rebalance_after + Duration::from_millis(200)
}

/// Nobody noticed anything: no role moved or was without an owner, no member was missed, no lease lost.
fn assert_unmoved(sim: &mut Sim, moves: usize, members: usize) {
    sim.assert_settled("under attack");
    assert_eq!(sim.moves, moves);
    assert!(sim.take_gaps().is_empty(), "a role had no owner for a while");
    for node in 0..sim.nodes.len() {
        assert_eq!(sim.counters(node).leases_lost, 0);
        assert_eq!(sim.ownership(node).members.len(), members, "as node {node} sees it");
    }
}

fn count(sim: &Sim, what: impl Fn(&Counters) -> u64) -> u64 {
    (0..sim.nodes.len()).map(|node| what(&sim.counters(node))).sum()
}

/// Datagrams that members send, as somebody on the segment records them.
fn record(sim: &mut Sim, span: Duration) -> Vec<(usize, Vec<u8>)> {
    let mut recorded = Vec::new();
    let mut left = span;
    while left > Duration::ZERO {
        recorded.extend(sim.on_the_wire());
        let step = Duration::from_micros(100);
        sim.run(step);
        left = left.saturating_sub(step);
    }
    assert!(recorded.len() > 100, "only {} datagrams were seen", recorded.len());
    recorded
}

fn sealed(key: u8, boot: u128, sequence: u64, message: Message) -> Vec<u8> {
    let mut payload = Vec::new();
    Packet::new("n1".into(), 0, message).emit(&mut payload);
    let keys = Keyring::new(ClusterKey::new([key; 32]));
    Sealer::new(&keys).seal(Boot(boot), sequence, &payload).expect("it is short")
}

#[test]
fn noise_and_foreign_keys_change_nothing() {
    let (mut sim, _) = settled(1, 3);
    let moves = sim.moves;
    let mut injected = 0;
    for round in 0_u8..100 {
        for node in 0..3 {
            let noise = [
                Vec::new(),
                vec![round; usize::from(round)],
                b"LBG1".to_vec(),
                [b"LBG1".as_slice(), &[round; HEADER_LEN + TAG_LEN]].concat(),
                [b"LBG1".as_slice(), &vec![round; 65_000]].concat(),
                [b"LBG2".as_slice(), &vec![round; MAX_DATAGRAM - 4]].concat(),
                sealed(8, 5, u64::from(round) + 1, Message::Heartbeat(Heartbeat::default())),
                sealed(
                    8,
                    5,
                    u64::from(round) + 1,
                    Message::Hello(Hello { token: 1, accepted: true, settled: true, address: ATTACKER }),
                ),
            ];
            for bytes in noise {
                injected += 1;
                let from = if round % 2 == 0 { ATTACKER } else { sim.nodes[(node + 1) % 3].address };
                sim.inject(from, node, bytes);
            }
        }
        sim.run(Duration::from_millis(7));
    }
    assert_eq!(count(&sim, |it| it.foreign + it.unauthentic), injected);
    let told = sim.nodes[0].elector.conditions().borrow().clone();
    let names_it = |address: SocketAddr| {
        told.iter().any(|told| told.reason == "ForeignKey" && told.message.contains(&address.to_string()))
    };
    assert!(names_it(ATTACKER), "{told:?}");
    assert_unmoved(&mut sim, moves, 3);
}

#[test]
fn what_is_cut_or_altered_on_the_way_is_dropped() {
    let (mut sim, _) = settled(2, 3);
    let moves = sim.moves;
    let recorded = record(&mut sim, Duration::from_millis(500));
    let before = count(&sim, |it| it.replayed + it.malformed);
    let mut injected = 0;
    for (number, (to, bytes)) in recorded.iter().enumerate().take(300) {
        let at = number * 7 % bytes.len();
        let mut altered = bytes.clone();
        altered[at] ^= 1 << (number % 8);
        let longer = [bytes.as_slice(), &[0]].concat();
        for bytes in [altered, bytes[..at].to_vec(), longer] {
            injected += 1;
            sim.inject(ATTACKER, *to, bytes);
        }
    }
    sim.run(Duration::from_millis(100));
    assert_eq!(count(&sim, |it| it.foreign + it.unauthentic), injected);
    assert_eq!(count(&sim, |it| it.replayed + it.malformed), before);
    assert_unmoved(&mut sim, moves, 3);
}

#[test]
fn what_was_recorded_is_not_believed_again() {
    let (mut sim, _) = settled(3, 3);
    let moves = sim.moves;
    let recorded = record(&mut sim, Duration::from_millis(600));
    let before = count(&sim, |it| it.replayed);
    for (to, bytes) in &recorded {
        // To whom it was sent, and to the others, from where it came and from elsewhere.
        for node in 0..3 {
            sim.inject(ATTACKER, node, bytes.clone());
            let from = sim.nodes[(to + 1) % 3].address;
            sim.inject(from, node, bytes.clone());
        }
    }
    sim.run(Duration::from_millis(300));
    assert!(count(&sim, |it| it.replayed) - before >= recorded.len() as u64);
    assert_unmoved(&mut sim, moves, 3);
}

#[test]
fn the_recorded_words_of_a_dead_node_do_not_keep_it_alive() {
    let (mut sim, roles) = settled(4, 3);
    let recorded = record(&mut sim, Duration::from_millis(600));
    let address = sim.nodes[0].address;
    sim.power_off(0);
    let dead_at = sim.now;
    for step in 0..60 {
        for (to, bytes) in recorded.iter().skip(step * 5).take(60) {
            sim.inject(address, *to, bytes.clone());
        }
        sim.run(Duration::from_millis(10));
        let owned = roles.iter().all(|role| sim.holders(role).iter().any(|node| *node != 0));
        if owned && step > 0 {
            break;
        }
    }
    let took = sim.now.saturating_since(dead_at);
    assert!(took <= sim.timing.takeover() * 2, "{took:?}");
    for node in 1..3 {
        assert!(!sim.ownership(node).members.contains_key("n1"), "as node {node} sees it");
    }
}

#[test]
fn the_recorded_words_of_an_earlier_run_do_not_harm_the_next() {
    let (mut sim, roles) = settled(5, 3);
    let recorded = record(&mut sim, Duration::from_millis(600));
    sim.kill(0);
    sim.start(0);
    sim.bid(0, roles.iter().map(|role| (role.clone(), Bid::default())));
    let address = sim.nodes[0].address;
    for step in 0..200 {
        for (to, bytes) in recorded.iter().cycle().skip(step * 7).take(20) {
            sim.inject(address, *to, bytes.clone());
            sim.inject(ATTACKER, 0, bytes.clone());
        }
        sim.run(Duration::from_millis(10));
    }
    sim.assert_settled("old words in its ear");
    assert!(roles.iter().any(|role| sim.holds(0, role)), "it carries its share again");
    assert_eq!(sim.ownership(1).members.len(), 3);
}

#[test]
fn a_restart_at_once_is_noticed_and_taken_in_again() {
    for seed in 0..20 {
        let (mut sim, roles) = settled(seed, 3);
        let owned: Vec<_> = roles.iter().filter(|role| sim.holds(0, role)).cloned().collect();
        let term = |sim: &Sim, role: &Role| sim.ownership(1).roles.get(role).map(|owner| owner.term);
        let terms: Vec<_> = owned.iter().map(|role| term(&sim, role)).collect();
        sim.kill(0);
        sim.start(0);
        sim.bid(0, roles.iter().map(|role| (role.clone(), Bid::default())));
        let span = calm(&sim);
        sim.run(span);
        sim.assert_settled("after the restart");
        for (role, before) in owned.iter().zip(terms) {
            assert!(term(&sim, role) > before, "{role} has a new owner, or one anew");
        }
        let longest = sim.take_gaps().into_values().max().unwrap_or_default();
        assert!(longest <= sim.timing.takeover() * 2, "{longest:?}");
    }
}

#[test]
fn all_at_once_leaves_one_owner_each() {
    for seed in 0..20 {
        let (mut sim, roles) = settled(seed, 5);
        let recorded = record(&mut sim, Duration::from_millis(200));
        sim.pause(0);
        sim.kill(1);
        sim.start(1);
        sim.bid(1, roles.iter().map(|role| (role.clone(), Bid::default())));
        sim.power_off(2);
        for step in 0..100 {
            for (to, bytes) in recorded.iter().cycle().skip(step * 11).take(20) {
                sim.inject(ATTACKER, *to, bytes.clone());
            }
            if step == 60 {
                sim.resume(0);
            }
            sim.run(Duration::from_millis(10));
        }
        sim.start(2);
        sim.bid(2, roles.iter().map(|role| (role.clone(), Bid::default())));
        let span = calm(&sim) * 2;
        sim.run(span);
        sim.assert_settled("after all that");
        assert_eq!(sim.ownership(3).members.len(), 5);
    }
}

#[test]
fn two_nodes_of_one_name_do_not_both_own() {
    // The default name of a machine, on both of two.
    for seed in 0..20 {
        let mut sim = Sim::of_names(seed, &["localhost", "localhost"], Timing::default(), Net::calm());
        let roles = addresses(3);
        sim.bid_all(&roles);
        let span = calm(&sim) * 3;
        sim.run(span);
        let owner = |sim: &Sim| {
            let holders: Vec<_> = roles.iter().map(|role| sim.holders(role)).collect();
            assert!(holders.iter().all(|it| *it == holders[0] && it.len() == 1), "seed {seed}: {holders:?}");
            holders[0][0]
        };
        let first = owner(&sim);
        for node in &sim.nodes {
            let told = node.elector.conditions().borrow().clone();
            assert!(told.len() == 1 && told[0].reason == "NameClash", "{told:?}");
        }
        // Each is alone for a while, and then there is the other one.
        sim.lenient_until = sim.now + span * 2;
        sim.cut_off(&[0]);
        sim.run(span);
        assert!(roles.iter().all(|role| sim.holders(role).len() == 2));
        sim.heal_all();
        sim.run(span);
        sim.lenient_until = sim.now;
        sim.run(span);
        assert_eq!(owner(&sim), first);
        sim.kill(first);
        sim.run(span);
        assert_eq!(owner(&sim), 1 - first);
    }
}

#[test]
fn a_host_that_hangs_up_costs_few_attempts() {
    let (mut sim, _) = settled(6, 3);
    sim.nodes[0].hangs_up = true;
    sim.kill(0);
    sim.start(0);
    let span = Duration::from_secs(20);
    let before = sim.nodes[1].connects;
    sim.run(span);
    let connects = sim.nodes[1].connects - before;
    assert!((100..=160).contains(&connects), "{connects} attempts in {span:?}");
}

#[test]
fn a_second_node_of_a_name_does_not_disturb_the_first() {
    for seed in 0..20 {
        let mut sim = Sim::of_names(seed, &["n1", "n2", "n1"], Timing::default(), Net::calm());
        // The third is not there yet.
        sim.power_off(2);
        let roles = addresses(4);
        sim.bid_all(&roles);
        let span = calm(&sim);
        sim.run(span);
        let (moves, owners) = (sim.moves, sim.owners.clone());
        assert!(roles.iter().all(|role| sim.holders(role).len() == 1));
        sim.take_gaps();
        sim.start(2);
        sim.bid(2, roles.iter().map(|role| (role.clone(), Bid::default())));
        sim.run(span * 3);
        assert_eq!((sim.moves, &sim.owners), (moves, &owners));
        assert!(sim.take_gaps().is_empty());
        // Nor does it own once the first one is away for a moment.
        sim.pause(0);
        sim.run(span);
        sim.resume(0);
        sim.run(span * 2);
        for role in &roles {
            assert_eq!(sim.holders(role).len(), 1, "{role}");
        }
    }
}

#[test]
fn a_seed_where_nobody_answers_is_told_until_somebody_does() {
    let mut sim = Sim::new(7, 3, Timing::default(), Net::calm());
    sim.power_off(2);
    sim.run(Duration::from_secs(10));
    let told = |sim: &Sim| sim.nodes[0].elector.conditions().borrow().clone();
    let silent = sim.nodes[2].address.to_string();
    assert!(told(&sim).len() == 1 && told(&sim)[0].reason == "NoAnswer", "{:?}", told(&sim));
    assert!(told(&sim)[0].message.contains(&silent), "{:?}", told(&sim));
    sim.start(2);
    sim.run(Duration::from_secs(10));
    assert_eq!(told(&sim), []);
    // It was met: that it is gone is told by the members.
    sim.power_off(2);
    sim.run(Duration::from_secs(10));
    assert_eq!(told(&sim), []);
}

/// The greetings among what was recorded: the shortest messages.
fn greetings(recorded: Vec<(usize, Vec<u8>)>) -> impl Iterator<Item = (usize, Vec<u8>)> {
    // Sender, token, kind; token, two flags, address.
    let longest = HEADER_LEN + TAG_LEN + (1 + 2) + 8 + 1 + 8 + 2 + (1 + 16 + 2);
    recorded.into_iter().filter(move |(_, bytes)| bytes.len() <= longest)
}

#[test]
fn who_sends_greetings_on_from_elsewhere_is_not_taken_for_their_sender() {
    for seed in 0..5 {
        let mut sim = Sim::new(seed, 3, Timing::default(), Net::calm());
        let roles = addresses(6);
        sim.bid_all(&roles);
        let end = sim.now + calm(&sim) * 2;
        while sim.now < end {
            for (to, bytes) in greetings(sim.on_the_wire()) {
                sim.inject(ATTACKER, to, bytes);
            }
            sim.run(Duration::from_micros(100));
        }
        sim.assert_settled("with a copier in the segment");
        for node in 0..3 {
            assert_eq!(sim.ownership(node).members.len(), 3, "as node {node} sees it");
        }
    }
}

#[test]
fn greetings_of_an_earlier_run_prove_nothing_to_one_that_has_just_begun() {
    let mut sim = Sim::new(8, 3, Timing::default(), Net::calm());
    let roles = addresses(6);
    sim.bid_all(&roles);
    let recorded: Vec<_> = greetings(record(&mut sim, Duration::from_millis(600))).collect();
    assert!(recorded.len() > 6);
    let span = calm(&sim);
    sim.run(span);
    sim.power_off(0);
    sim.kill(1);
    sim.start(1);
    sim.bid(1, roles.iter().map(|role| (role.clone(), Bid::default())));
    sim.run(span);
    sim.assert_settled("with two of three");
    sim.take_gaps();
    let (address, moves) = (sim.nodes[0].address, sim.moves);
    for (_, bytes) in &recorded {
        sim.inject(address, 1, bytes.clone());
        sim.run(Duration::from_millis(1));
        assert_eq!([1, 2].map(|node| sim.ownership(node).members.len()), [2, 2]);
    }
    sim.assert_settled("with old greetings");
    assert!(sim.moves == moves && sim.take_gaps().is_empty());
}

#[test]
fn greetings_of_a_dead_node_do_not_bring_it_back() {
    let mut sim = Sim::new(9, 3, Timing::default(), Net::calm());
    let roles = addresses(6);
    sim.bid_all(&roles);
    let recorded: Vec<_> = greetings(record(&mut sim, Duration::from_millis(600))).collect();
    let span = calm(&sim);
    sim.run(span);
    // Its sessions with the others stay: it is only silent.
    sim.power_off(0);
    sim.run(span);
    sim.take_gaps();
    let (address, moves) = (sim.nodes[0].address, sim.moves);
    for (to, bytes) in &recorded {
        sim.inject(address, *to, bytes.clone());
        sim.run(Duration::from_millis(1));
        assert_eq!([1, 2].map(|node| sim.ownership(node).members.len()), [2, 2]);
    }
    sim.run(span);
    assert_eq!(sim.moves, moves);
}

#[test]
fn what_was_said_to_an_earlier_run_is_not_proven_to_the_next() {
    let (mut sim, roles) = settled(10, 3);
    let recorded = record(&mut sim, Duration::from_millis(600));
    sim.kill(1);
    sim.start(1);
    sim.bid(1, roles.iter().map(|role| (role.clone(), Bid::default())));
    let span = calm(&sim);
    sim.run(span);
    sim.assert_settled("after the restart");
    sim.take_gaps();
    let (before, moves) = (sim.counters(1), sim.moves);
    let told: Vec<_> = recorded.iter().filter(|(to, _)| *to == 1).collect();
    assert!(told.len() > 50);
    for (_, bytes) in &told {
        sim.inject(sim.nodes[0].address, 1, bytes.clone());
    }
    sim.run(Duration::from_millis(300));
    let after = sim.counters(1);
    assert_eq!(after.unproven - before.unproven, told.len() as u64);
    assert_eq!(after.replayed, before.replayed);
    assert_unmoved(&mut sim, moves, 3);
}

#[test]
fn what_proved_that_there_are_two_of_a_name_proves_it_once() {
    for seed in 0..10 {
        let mut sim = Sim::of_names(seed, &["n1", "n1"], Timing::default(), Net::calm());
        let roles = addresses(3);
        sim.bid_all(&roles);
        let span = calm(&sim) * 2;
        sim.lenient_until = sim.now + span * 4;
        sim.cut_off(&[0]);
        sim.run(span);
        assert!(roles.iter().all(|role| sim.holders(role).len() == 2), "each is alone");
        sim.heal_all();
        let recorded = record(&mut sim, span);
        let [stays] = sim.holders(&roles[0])[..] else { panic!("seed {seed}: one of them yields") };
        let other = 1 - stays;
        sim.power_off(stays);
        sim.run(span);
        assert!(roles.iter().all(|role| sim.holds(other, role)), "seed {seed}: it is there no more");
        let (address, lost) = (sim.nodes[stays].address, sim.counters(other).leases_lost);
        for (_, bytes) in recorded.iter().filter(|(to, _)| *to == other) {
            sim.inject(address, other, bytes.clone());
        }
        sim.run(Duration::from_millis(100));
        assert_eq!(sim.counters(other).leases_lost, lost, "seed {seed}");
    }
}

#[test]
fn an_owner_counts_its_time_from_when_it_asked() {
    // An answer takes half of a lease.
    let way = Duration::from_millis(50);
    let net = Net { delay: (way, way), lag: Duration::ZERO, drift: 0, ..Net::calm() };
    let mut sim = Sim::new(11, 3, Timing::default(), net);
    sim.bid_all(&addresses(3));
    sim.run(Duration::from_secs(5));
    sim.assert_settled("on a slow network");
    let mut most = Duration::ZERO;
    for _ in 0..1000 {
        sim.run(Duration::from_millis(1));
        for node in 0..3 {
            let now = sim.local(node);
            let renewals = sim.nodes[node].elector.renewals().borrow().clone();
            most = renewals.0.values().map(|until| until.saturating_since(now)).fold(most, Duration::max);
        }
    }
    let lease = sim.timing.lease();
    assert!(most > Duration::ZERO && most <= lease - way * 2, "{most:?} after the answer came");
}

#[test]
fn who_refuses_connections_in_the_name_of_a_living_node_does_not_end_it() {
    for seed in 0..10 {
        let (mut sim, _) = settled(seed, 3);
        let moves = sim.moves;
        sim.forge_refusals(0);
        let before = sim.nodes[1].connects;
        sim.run(Duration::from_secs(20));
        assert!(sim.nodes[1].connects > before + 5, "it asks again");
        assert_unmoved(&mut sim, moves, 3);
        // Who really ends is missed as ever.
        sim.kill(0);
        let span = sim.timing.takeover() * 2;
        sim.run(span);
        assert_eq!(sim.ownership(1).members.len(), 2);
    }
}

/// A member's time runs from its rounds, as its own lease does: what it answers in between adds nothing. So a death is
/// noticed half an interval sooner than the takeover time, on average.
#[test]
fn a_death_is_noticed_a_takeover_time_after_the_last_round() {
    const SEEDS: u32 = 40;
    let mut sum = Duration::ZERO;
    for seed in 0..SEEDS {
        let (mut sim, roles) = settled(seed.into(), 3);
        // The others ask between its rounds.
        sim.kill(0);
        sim.run(sim.timing.interval * 5 / 2);
        sim.start(0);
        sim.bid(0, roles.iter().map(|role| (role.clone(), Bid::default())));
        let span = calm(&sim) + sim.timing.interval * seed / SEEDS;
        sim.run(span);
        sim.power_off(0);
        let dead_at = sim.now;
        while sim.ownership(1).members.contains_key("n1") {
            sim.run(Duration::from_micros(500));
        }
        sum += sim.now.saturating_since(dead_at);
    }
    let (mean, timing) = (sum / SEEDS, Timing::default());
    println!("{mean:?} of {:?}", timing.takeover());
    assert!(mean < timing.takeover() - timing.interval * 2 / 5, "{mean:?}");
}
