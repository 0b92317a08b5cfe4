//! What holds whatever happens.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Something that happens, drawn from a small world so that things collide.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Desired { generation: u64, owned: u8, lease: u8 },
    Renew { lease: u8, for_ms: u64 },
    Ask { address: u8, probe: bool, age_ms: u64 },
    Solicit { address: u8, dad: bool },
    Claim { address: u8, peer: bool },
    Link { up: bool },
    Reannounce,
    Junk(Vec<u8>),
    Withdraw,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..3000).prop_map(Step::Wait),
        3 => (0u64..20, any::<u8>(), 1u8..3).prop_map(|(generation, owned, lease)| Step::Desired { generation, owned, lease }),
        4 => (1u8..3, 0u64..3000).prop_map(|(lease, for_ms)| Step::Renew { lease, for_ms }),
        6 => (0u8..8, any::<bool>(), 0u64..200).prop_map(|(address, probe, age_ms)| Step::Ask { address, probe, age_ms }),
        3 => (0u8..8, any::<bool>()).prop_map(|(address, dad)| Step::Solicit { address, dad }),
        2 => (0u8..8, any::<bool>()).prop_map(|(address, peer)| Step::Claim { address, peer }),
        1 => any::<bool>().prop_map(|up| Step::Link { up }),
        1 => Just(Step::Reannounce),
        1 => vec(any::<u8>(), 0..100).prop_map(Step::Junk),
        1 => Just(Step::Withdraw),
    ]
}

fn lease(number: u8) -> LeaseId {
    (1..number).fold(LeaseId::FIRST, |lease, _| lease.next())
}

/// The rules, written down a second time and as plainly as can be.
#[derive(Default)]
struct Model {
    generation: u64,
    /// Each owned address with its lease.
    owned: BTreeMap<u8, u8>,
    until: BTreeMap<u8, Instant>,
    up: bool,
}

impl Model {
    fn may_speak(&self, now: Instant, address: IpAddr) -> bool {
        let last = match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        let lease = self.owned.get(&last);
        self.up && lease.is_some_and(|lease| self.until.get(lease).is_some_and(|until| now < *until))
    }
}

/// Even addresses are IPv4, odd ones IPv6.
fn address(number: u8) -> IpAddr {
    if number.is_multiple_of(2) { v4(number).into() } else { v6(number.into()).into() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens in whatever order: nothing is sent that may not be said then, every fresh question about an
    /// address of ours is answered, the time of the next call never lies in the past for long, and the status agrees.
    #[test]
    fn only_the_owner_speaks_and_it_always_answers(steps in vec(step(), 1..80)) {
        let mut bench = Bench::new(Config::default());
        bench.handle(Input::Interfaces(&[eth0()]));
        let mut model = Model { up: true, ..Model::default() };
        for step in steps {
            let now = bench.now;
            let mut asked = None;
            match step {
                Step::Wait(ms) => {
                    let end = now + Duration::from_millis(ms);
                    while let Some(due) = bench.machine.poll_timeout().filter(|due| *due <= end) {
                        bench.now = bench.now.max(due);
                        let calls = bench.machine.poll_timeout();
                        bench.machine.handle_timeout(bench.now);
                        for transmit in bench.drain() {
                            prop_assert!(model.may_speak(bench.now, transmit.address), "{transmit:?} at {:?}", bench.now);
                        }
                        let next = bench.machine.poll_timeout();
                        prop_assert!(next != calls || next > Some(bench.now), "a busy loop at {next:?}");
                    }
                    bench.now = end;
                }
                Step::Desired { generation, owned, lease: number } => {
                    let owned = (0..8).filter(|bit| owned & 1 << bit != 0);
                    let entries = owned.clone().map(|n| {
                        (address(n), Announcement::on_segment(lease(number), Term(1), Interfaces::All))
                    });
                    bench.handle(Input::Desired(set(generation, entries)));
                    if generation >= model.generation {
                        model.generation = generation;
                        model.owned = owned.map(|n| (n, number)).collect();
                    }
                }
                Step::Renew { lease: number, for_ms } => {
                    let until = now + Duration::from_millis(for_ms);
                    bench.renew(lease(number), until);
                    let known = model.until.entry(number).or_default();
                    *known = until.max(*known);
                }
                Step::Ask { address: n, probe, age_ms } => {
                    let IpAddr::V4(target) = address(n) else { continue };
                    let packet = if probe { Arp::probe(CLIENT, target) } else { Arp::directed(CLIENT, CLIENT_IP, target) };
                    let frame = packet.to_frame(MacAddr::BROADCAST);
                    let received = now - Duration::from_millis(age_ms);
                    bench.handle(Input::Frame(Frame { interface: ETH0, received, bytes: frame.as_bytes() }));
                    asked = Some((address(n), age_ms <= 100));
                }
                Step::Solicit { address: n, dad } => {
                    let IpAddr::V6(target) = address(n) else { continue };
                    let source = if dad { Ipv6Addr::UNSPECIFIED } else { client_v6() };
                    let frame = solicit(source, ipv6::solicited_node(target), target, None);
                    bench.handle(Input::Frame(Frame { interface: ETH0, received: now, bytes: frame.as_bytes() }));
                    asked = Some((address(n), true));
                }
                Step::Claim { address: n, peer } => {
                    let IpAddr::V4(claimed) = address(n) else { continue };
                    let mac = if peer { PEER } else { CLIENT };
                    let frame = Arp::announcement(mac, claimed).to_frame(MacAddr::BROADCAST);
                    bench.handle(Input::Frame(Frame { interface: ETH0, received: now, bytes: frame.as_bytes() }));
                }
                Step::Link { up } => {
                    bench.handle(Input::Interfaces(&[Interface { up, ..eth0() }]));
                    model.up = up;
                }
                Step::Reannounce => bench.handle(Input::Reannounce(ETH0)),
                Step::Junk(bytes) => bench.handle(Input::Frame(Frame { interface: ETH0, received: now, bytes: &bytes })),
                Step::Withdraw => {
                    bench.handle(Input::Withdraw);
                    model.owned.clear();
                }
            }
            let sent = bench.drain();
            for transmit in &sent {
                prop_assert!(model.may_speak(bench.now, transmit.address), "{transmit:?} at {:?}", bench.now);
                prop_assert!(transmit.deadline > bench.now);
            }
            if let Some((address, fresh)) = asked {
                let answered = sent.iter().any(|transmit| transmit.address == address);
                prop_assert_eq!(answered, fresh && model.may_speak(bench.now, address), "{}", address);
            }
            bench.machine.handle_timeout(bench.now);
            for transmit in bench.drain() {
                prop_assert!(model.may_speak(bench.now, transmit.address));
            }
            let status = bench.machine.status();
            for (address, state) in &status.entries {
                prop_assert_eq!(state.is_announced(), model.may_speak(bench.now, *address), "{}", address);
            }
        }
        let counters = bench.machine.counters();
        let sum = counters.iter().filter(|(name, _)| {
            ["answered_", "dropped_", "noted_"].iter().any(|prefix| name.starts_with(prefix)) || *name == "conflicts"
        });
        prop_assert_eq!(sum.map(|(_, count)| count).sum::<u64>(), counters.received, "each frame counts once");
    }

    /// No bytes make it panic or answer for what it does not own, and equal histories give equal outputs.
    #[test]
    fn random_frames_change_nothing(frames in vec(vec(any::<u8>(), 0..120), 0..20)) {
        let (mut one, mut two) = (owner(), owner());
        for bytes in &frames {
            let sent = one.receive_on(ETH0, bytes);
            prop_assert_eq!(&sent, &two.receive_on(ETH0, bytes));
            for transmit in sent {
                prop_assert!([IpAddr::from(v4(10)), v6(0x10).into()].contains(&transmit.address));
            }
        }
        prop_assert_eq!(one.machine.counters(), two.machine.counters());
    }

    /// One byte of a good question changed: no panic, and an answer only to what is still a question for ours.
    #[test]
    fn a_damaged_solicitation_is_not_answered(at in 0usize..86, bit in 0u8..8) {
        let mut bench = owner();
        let frame = solicit(client_v6(), ipv6::solicited_node(v6(0x10)), v6(0x10), Some(CLIENT));
        let mut bytes = frame.as_bytes().to_vec();
        bytes[at] ^= 1 << bit;
        let answered = !bench.receive_on(ETH0, &bytes).is_empty();
        // The checksum covers addresses and message; beside it only the sender's hardware address and the header's
        // traffic class and flow label may differ.
        let harmless = (6..12).contains(&at) || (14..18).contains(&at);
        prop_assert!(!answered || harmless, "byte {} bit {}", at, bit);
    }
}
