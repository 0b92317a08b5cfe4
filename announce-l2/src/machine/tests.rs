use std::net::{Ipv4Addr, Ipv6Addr};

use lbcore::announce::AnnounceState;
use lbcore::elect::Member;

use super::*;
use crate::wire::arp::Operation;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::ndp::Solicitation;
use crate::wire::vlan::VlanTag;

mod detect;
mod laws;

const ETH0: IfIndex = IfIndex(2);
const ETH1: IfIndex = IfIndex(3);
const US: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
const US_TOO: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);
const CLIENT: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0xcc]);
const PEER: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0xee]);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const LEASE: LeaseId = LeaseId::FIRST;

fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

fn client_v6() -> Ipv6Addr {
    "fe80::cc".parse().unwrap()
}

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn eth0() -> Interface {
    Interface::new(ETH0, "eth0", US)
}

fn eth1() -> Interface {
    Interface::new(ETH1, "eth1", US_TOO)
}

/// An address that is taken over from another owner.
fn entry(address: impl Into<IpAddr>) -> (IpAddr, Announcement) {
    (address.into(), Announcement::on_segment(LEASE, Term(2), Interfaces::All))
}

fn set(generation: u64, entries: impl IntoIterator<Item = (IpAddr, Announcement)>) -> Arc<AnnounceSet> {
    Arc::new(AnnounceSet::new(generation, entries))
}

/// A machine under test, with its time.
struct Bench {
    machine: Responder,
    now: Instant,
}

/// A machine with eth0 that owns 192.0.2.10 and 2001:db8::10 from 1 s on until 3600 s, and has said so.
fn owner() -> Bench {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0()]));
    bench.handle(Input::Desired(set(1, [entry(v4(10)), entry(v6(0x10))])));
    bench.renew(LEASE, at(3_600_000));
    bench.settle();
    bench
}

impl Bench {
    fn new(config: Config) -> Self {
        Self { machine: Responder::new(config), now: at(1000) }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.machine.handle(self.now, input);
    }

    fn renew(&mut self, lease: LeaseId, until: Instant) {
        self.handle(Input::Renewed { lease, until });
    }

    fn drain(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.machine.poll_event()).collect()
    }

    /// Goes to `end`, and tells what was sent on the way, with the milliseconds since now.
    fn run_until(&mut self, end: Instant) -> Vec<(u128, Transmit)> {
        let start = self.now;
        let mut sent: Vec<_> = self.drain().into_iter().map(|transmit| (0, transmit)).collect();
        while let Some(due) = self.machine.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.machine.handle_timeout(self.now);
            let since = self.now.saturating_since(start).as_millis();
            sent.extend(self.drain().into_iter().map(|transmit| (since, transmit)));
        }
        self.now = end;
        sent
    }

    /// Lets all that follows a change be said.
    fn settle(&mut self) {
        self.run_until(self.now + Duration::from_secs(10));
        self.events();
    }

    fn receive_on(&mut self, interface: IfIndex, bytes: &[u8]) -> Vec<Transmit> {
        self.handle(Input::Frame(Frame { interface, received: self.now, bytes }));
        self.drain()
    }

    fn receive(&mut self, frame: &FrameBuf) -> Vec<Transmit> {
        self.receive_on(ETH0, frame.as_bytes())
    }

    fn state(&self, address: impl Into<IpAddr>) -> AnnounceState {
        self.machine.status().entries[&address.into()].clone()
    }
}

fn ask(target: Ipv4Addr) -> FrameBuf {
    Arp::directed(CLIENT, CLIENT_IP, target).to_frame(MacAddr::BROADCAST)
}

fn solicit(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    source_mac: Option<MacAddr>,
) -> FrameBuf {
    let to = if destination.is_multicast() { MacAddr::of_ipv6_group(destination) } else { US };
    let message = Message::Solicitation(Solicitation { target, source_mac, nonce: None });
    message.to_frame(&ipv6::Header::nd(source, destination), CLIENT, to)
}

fn arp_of(transmit: &Transmit) -> (MacAddr, Arp) {
    let (header, payload) = ethernet::Header::parse(transmit.frame.as_bytes()).unwrap();
    assert_eq!(header.ethertype, EtherType::ARP);
    (header.destination, Arp::parse(payload).unwrap())
}

fn ndp_of(transmit: &Transmit) -> (MacAddr, ipv6::Header, Advertisement) {
    let (header, payload) = ethernet::Header::parse(transmit.frame.as_bytes()).unwrap();
    let (ip, message) = ipv6::Header::parse(payload).unwrap();
    match Message::parse(&ip, message) {
        Ok(Some(Message::Advertisement(na))) => (header.destination, ip, na),
        other => panic!("{other:?} is no advertisement"),
    }
}

#[test]
fn a_request_is_answered_to_the_asker() {
    let mut bench = owner();
    let sent = bench.receive(&ask(v4(10)));
    let [answer] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((answer.interface, answer.deadline), (ETH0, at(3_600_000)));
    let expected = Arp {
        operation: Operation::Reply,
        sender_mac: US,
        sender: v4(10),
        target_mac: CLIENT,
        target: CLIENT_IP,
    };
    assert_eq!(arp_of(answer), (CLIENT, expected));
    assert_eq!(bench.machine.counters().answered_arp, 1);
}

#[test]
fn a_probe_is_answered_with_no_target_address() {
    let mut bench = owner();
    let sent = bench.receive(&Arp::probe(CLIENT, v4(10)).to_frame(MacAddr::BROADCAST));
    let (to, reply) = arp_of(&sent[0]);
    assert_eq!((to, reply.sender, reply.target), (CLIENT, v4(10), Ipv4Addr::UNSPECIFIED));
    assert_eq!(bench.machine.counters().conflicts, 0, "asking is not claiming");
}

#[test]
fn a_solicitation_is_answered_with_override_and_the_target_option() {
    let group = ipv6::solicited_node(v6(0x10));
    for (what, destination, source_mac) in [
        ("to the group, with the source option", group, Some(CLIENT)),
        ("to the group, without it", group, None),
        ("to the address (NUD), without it", v6(0x10), None),
    ] {
        let mut bench = owner();
        let sent = bench.receive(&solicit(client_v6(), destination, v6(0x10), source_mac));
        let [answer] = &sent[..] else { panic!("{what}: {sent:?}") };
        let (to, ip, na) = ndp_of(answer);
        assert_eq!((to, ip.source, ip.destination), (CLIENT, v6(0x10), client_v6()), "{what}");
        assert_eq!(ip.hop_limit, 255, "{what}");
        assert_eq!(na, Advertisement::answer(v6(0x10), US), "{what}");
        assert!(na.solicited && na.overriding && !na.router && na.target_mac == Some(US), "{what}");
    }
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes() {
    let mut bench = owner();
    let group = ipv6::solicited_node(v6(0x10));
    let sent = bench.receive(&solicit(Ipv6Addr::UNSPECIFIED, group, v6(0x10), None));
    let (to, ip, na) = ndp_of(&sent[0]);
    assert_eq!(to.to_string(), "33:33:00:00:00:01");
    assert_eq!(ip.destination, ipv6::ALL_NODES);
    assert!(!na.solicited && na.overriding && na.target_mac == Some(US));
}

/// Each drop has its counter, and none has an answer.
#[test]
fn what_is_dropped_and_counted() {
    type Count = fn(&Counters) -> u64;
    let group = ipv6::solicited_node(v6(0x10));
    let vlan = |id: u16| {
        let header = ethernet::Header {
            vlan: Some(VlanTag { priority: 0, drop_eligible: false, id }),
            ..ethernet::Header::new(MacAddr::BROADCAST, CLIENT, EtherType::ARP)
        };
        let mut frame = FrameBuf::new();
        header.emit(&mut frame);
        frame.extend(&Arp::directed(CLIENT, CLIENT_IP, v4(10)).emit());
        frame.as_bytes().to_vec()
    };
    let arp_to = |mac| Arp::directed(CLIENT, CLIENT_IP, v4(10)).to_frame(mac).as_bytes().to_vec();
    let changed = |frame: &FrameBuf, at: usize, byte: u8| {
        let mut bytes = frame.as_bytes().to_vec();
        bytes[at] = byte;
        bytes
    };
    let advertised = |within: MacAddr, from: MacAddr| {
        let message = Message::Advertisement(Advertisement::unsolicited(v6(0x10), within));
        let to = MacAddr::of_ipv6_group(ipv6::ALL_NODES);
        message.to_frame(&ipv6::Header::nd(v6(0x10), ipv6::ALL_NODES), from, to).as_bytes().to_vec()
    };
    let request = ask(v4(10));
    let ns = solicit(client_v6(), group, v6(0x10), Some(CLIENT));
    let cases: Vec<(&str, Vec<u8>, Count)> = vec![
        ("another's address", ask(v4(11)).as_bytes().to_vec(), |c| c.dropped_foreign),
        (
            "an echo of our own frame",
            Arp::directed(US, CLIENT_IP, v4(10)).to_frame(MacAddr::BROADCAST).as_bytes().to_vec(),
            |c| c.dropped_own,
        ),
        ("our hardware address within another's frame", changed(&ask(v4(10)), 27, 0x01), |c| c.dropped_own),
        ("a frame of VLAN 5", vlan(5), |c| c.dropped_vlan),
        ("to another host's hardware address", arp_to(PEER), |c| c.dropped_destination),
        ("ARP to a group", arp_to(MacAddr([0x01, 0, 0x5e, 0, 0, 1])), |c| c.dropped_destination),
        ("cut ARP", request.as_bytes()[..41].to_vec(), |c| c.dropped_truncated),
        ("no header", vec![0; 13], |c| c.dropped_truncated),
        ("operation 3", changed(&request, 21, 3), |c| c.dropped_invalid),
        ("IPv4", changed(&request, 13, 0), |c| c.dropped_other),
        ("NS with hop limit 64", changed(&ns, 21, 64), |c| c.dropped_invalid),
        ("NS with a wrong checksum", changed(&ns, 56, 0), |c| c.dropped_invalid),
        ("NS with an option of length zero", changed(&ns, 79, 0), |c| c.dropped_invalid),
        ("NS in a frame to another group", changed(&ns, 5, 0x11), |c| c.dropped_destination),
        (
            "NS for a target of another group",
            solicit(client_v6(), ipv6::solicited_node(v6(0x11)), v6(0x10), None).as_bytes().to_vec(),
            |c| c.dropped_destination,
        ),
        ("NS to all nodes", solicit(client_v6(), ipv6::ALL_NODES, v6(0x10), None).as_bytes().to_vec(), |c| {
            c.dropped_destination
        }),
        (
            "NS for another's address",
            solicit(client_v6(), ipv6::solicited_node(v6(0x11)), v6(0x11), None).as_bytes().to_vec(),
            |c| c.dropped_foreign,
        ),
        (
            "our hardware address within another's NS",
            solicit(client_v6(), group, v6(0x10), Some(US)).as_bytes().to_vec(),
            |c| c.dropped_own,
        ),
        ("our hardware address within another's NA", advertised(US, CLIENT), |c| c.dropped_own),
        ("NS from a group's hardware address", changed(&ns, 6, 0x33), |c| c.dropped_invalid),
        ("NS from a group", solicit(ipv6::ALL_NODES, group, v6(0x10), None).as_bytes().to_vec(), |c| {
            c.dropped_invalid
        }),
        ("not ICMPv6", changed(&ns, 20, 17), |c| c.dropped_other),
        (
            "a reply to one of our directed requests",
            Arp {
                operation: Operation::Reply,
                sender_mac: CLIENT,
                sender: CLIENT_IP,
                target_mac: US,
                target: v4(10),
            }
            .to_frame(US)
            .as_bytes()
            .to_vec(),
            |c| c.noted_replies,
        ),
    ];
    for (what, bytes, count) in cases {
        let mut bench = owner();
        assert_eq!(bench.receive_on(ETH0, &bytes), [], "{what}");
        assert_eq!(count(bench.machine.counters()), 1, "{what}: {:?}", bench.machine.counters());
        assert_eq!(bench.machine.counters().received, 1, "{what}");
    }
    let mut bench = owner();
    assert_eq!(bench.receive_on(ETH0, &vlan(0)).len(), 1, "a priority tag is no VLAN");
    assert_eq!(bench.receive_on(IfIndex(9), ask(v4(10)).as_bytes()), []);
    assert_eq!(bench.machine.counters().dropped_interface, 1);
}

#[test]
fn a_stale_frame_is_not_answered() {
    for (what, received, answered) in [
        ("100 ms old", 4_900, true),
        ("101 ms old", 4_899, false),
        ("of a time to come", 5_001, false),
        ("of an unknown time", 0, false),
    ] {
        let mut bench = owner();
        bench.now = at(5_000);
        let question = ask(v4(10));
        let frame = Frame { interface: ETH0, received: at(received), bytes: question.as_bytes() };
        bench.handle(Input::Frame(frame));
        assert_eq!(!bench.drain().is_empty(), answered, "{what}");
        assert_eq!(bench.machine.counters().dropped_stale, u64::from(!answered), "{what}");
    }
}

#[test]
fn the_deadline_is_looked_at_for_each_frame_without_any_timer() {
    let mut bench = owner();
    bench.now = at(3_599_999);
    assert_eq!(bench.receive(&ask(v4(10))).len(), 1);
    bench.now = at(3_600_000);
    assert_eq!(bench.receive(&ask(v4(10))), []);
    assert_eq!(bench.receive(&solicit(client_v6(), ipv6::solicited_node(v6(0x10)), v6(0x10), None)), []);
    assert_eq!(bench.machine.counters().dropped_unleased, 2);
    assert_eq!(bench.events(), [], "nobody called handle_timeout");
    bench.machine.handle_timeout(bench.now);
    let why = Loss::Expired;
    assert_eq!(
        bench.events(),
        [Event::Lost { address: v4(10).into(), why }, Event::Lost { address: v6(0x10).into(), why }]
    );
    let AnnounceState::Silent(condition) = bench.state(v4(10)) else { panic!("{:?}", bench.state(v4(10))) };
    assert_eq!(condition.reason, "LeaseNotHeld");
}

#[test]
fn gaining_an_address_is_announced_and_repeated() {
    let mut bench = Bench::new(Config::default());
    let gateways = vec![GATEWAY];
    bench.handle(Input::Interfaces(&[Interface { gateways, ..eth0() }]));
    bench.handle(Input::Desired(set(1, [entry(v4(10)), entry(v6(0x10))])));
    assert_eq!(bench.drain(), [], "nothing is said before the lease holds");
    bench.renew(LEASE, at(3_600_000));
    let sent = bench.run_until(at(20_000));

    let announcement = (MacAddr::BROADCAST, Arp::announcement(US, v4(10)));
    let told = (MacAddr::BROADCAST, Arp::directed(US, v4(10), GATEWAY));
    let arp: Vec<_> = sent
        .iter()
        .filter(|(_, transmit)| transmit.address.is_ipv4())
        .map(|(ms, transmit)| (*ms, arp_of(transmit)))
        .collect();
    assert_eq!(
        arp,
        [
            (0, announcement),
            (0, told),
            (100, announcement),
            (1100, announcement),
            (1100, told),
            (2200, announcement)
        ]
    );
    let ndp: Vec<_> = sent
        .iter()
        .filter(|(_, transmit)| transmit.address.is_ipv6())
        .map(|(ms, transmit)| (*ms, ndp_of(transmit)))
        .collect();
    let to = MacAddr::of_ipv6_group(ipv6::ALL_NODES);
    let header = ipv6::Header::nd(v6(0x10), ipv6::ALL_NODES);
    let na = Advertisement::unsolicited(v6(0x10), US);
    let all = (to, header, na);
    // RFC 9131 §4.1
    let to = MacAddr::of_ipv6_group(ipv6::ALL_ROUTERS);
    let routers = (to, ipv6::Header::nd(v6(0x10), ipv6::ALL_ROUTERS), na);
    assert_eq!(ndp, [(0, all), (0, routers), (1100, all), (1100, routers), (2200, all)]);
    assert!(matches!(bench.events()[..], [Event::Gained { term: Term(2), .. }, Event::Gained { .. }]));
    assert_eq!(bench.state(v4(10)), AnnounceState::Announced { to: vec!["eth0".into()] });
}

#[test]
fn those_who_asked_a_candidate_are_told_directly_when_it_takes_over() {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0()]));
    let mut standby = AnnounceSet::default();
    standby.generation = 1;
    standby.standby.insert(v4(10).into(), Interfaces::All);
    bench.handle(Input::Desired(Arc::new(standby)));
    assert_eq!(bench.receive(&ask(v4(10))), [], "a candidate does not answer");
    bench.handle(Input::Desired(set(2, [entry(v4(10))])));
    bench.renew(LEASE, at(3_600_000));
    let sent: Vec<_> = bench.drain().iter().map(arp_of).collect();
    let told = (CLIENT, Arp::directed(US, v4(10), CLIENT_IP));
    assert_eq!(sent, [(MacAddr::BROADCAST, Arp::announcement(US, v4(10))), told]);
    assert_eq!(bench.machine.counters().directed, 1);
}

#[test]
fn candidates_are_watched_and_their_groups_joined() {
    let mut bench = owner();
    let before = bench.machine.watch_version();
    let mut wanted = AnnounceSet::new(2, [entry(v4(10)), entry(v6(0x10))]);
    wanted.standby.insert(v6(0x20).into(), Interfaces::All);
    wanted.standby.insert(v6(0x30).into(), Interfaces::Only(["eth7".into()].into()));
    bench.handle(Input::Desired(Arc::new(wanted)));
    assert_ne!(bench.machine.watch_version(), before);
    let groups = [ipv6::solicited_node(v6(0x10)), ipv6::solicited_node(v6(0x20))];
    assert_eq!(*bench.machine.groups(), groups.map(|group| (ETH0, group)).into());
    let joins: Vec<_> = std::iter::from_fn(|| bench.machine.poll_join()).collect();
    assert_eq!(joins, groups.map(|group| (ETH0, group)), "the second one is new, the first was never polled");
    let watched: BTreeSet<IpAddr> = bench.machine.watched().collect();
    assert_eq!(watched, [v4(10).into(), v6(0x10).into(), v6(0x20).into(), v6(0x30).into()].into());
    assert_eq!(bench.drain(), [], "a candidate says nothing");
}

#[test]
fn groups_are_joined_by_the_same_pace_after_what_is_new() {
    let mut bench = Bench::new(Config::default());
    let mut down = eth1();
    down.up = false;
    bench.handle(Input::Interfaces(&[eth0(), down]));
    // As many of its own as one burst has, and five hundred to stand by for.
    let mut wanted = AnnounceSet::new(1, (0..40).map(|last| entry(v6(last + 1))));
    wanted.standby = (0..500).map(|last| (v6(0x1000 + last).into(), Interfaces::All)).collect();
    bench.handle(Input::Desired(Arc::new(wanted.clone())));
    let early: Vec<_> = std::iter::from_fn(|| bench.machine.poll_join()).collect();
    assert_eq!(early.len(), 64, "nothing is spoken for yet");
    bench.renew(LEASE, at(3_600_000));
    let (mut said, mut joined) = (bench.drain().len(), early);
    assert_eq!(said, 0, "the burst is used up");
    let mut firsts_done = None;
    while bench.now < at(6000) {
        bench.now += Duration::from_millis(2);
        bench.machine.handle_timeout(bench.now);
        said += bench.drain().len();
        let before = joined.len();
        joined.extend(std::iter::from_fn(|| bench.machine.poll_join()));
        if said >= 40 {
            firsts_done.get_or_insert(bench.now);
        } else {
            assert_eq!(joined.len(), before, "what is new comes first");
        }
        let seconds = bench.now.saturating_since(at(1000)).as_millis() as usize;
        assert!(said + joined.len() <= 64 + seconds / 2, "one bucket");
    }
    assert_eq!(firsts_done, Some(at(1080)));
    let expected: BTreeSet<_> =
        bench.machine.groups().iter().filter(|(index, _)| *index == ETH0).copied().collect();
    assert_eq!(joined.len(), expected.len(), "each once");
    assert_eq!(joined.iter().copied().collect::<BTreeSet<_>>(), expected, "of the interface that is up");
    // And when the other one comes up, those of that one; what is no longer wanted is not.
    wanted.generation = 2;
    wanted.standby.retain(|address, _| *address < IpAddr::from(v6(0x1064)));
    bench.handle(Input::Interfaces(&[eth0(), eth1()]));
    bench.handle(Input::Desired(Arc::new(wanted)));
    let mut joined: Vec<_> = std::iter::from_fn(|| bench.machine.poll_join()).collect();
    while bench.now < at(9000) {
        bench.now += Duration::from_millis(2);
        bench.machine.handle_timeout(bench.now);
        bench.drain();
        joined.extend(std::iter::from_fn(|| bench.machine.poll_join()));
    }
    let expected: BTreeSet<_> =
        bench.machine.groups().iter().filter(|(index, _)| *index == ETH1).copied().collect();
    assert_eq!((joined.len(), expected.len()), (140, 140));
    assert_eq!(joined.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn an_answer_leaves_by_the_chosen_interfaces_only() {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0(), eth1()]));
    let only = Announcement::on_segment(LEASE, Term(2), Interfaces::Only(["eth1".into()].into()));
    bench.handle(Input::Desired(set(1, [(v4(10).into(), only), entry(v4(11))])));
    bench.renew(LEASE, at(3_600_000));
    let first: BTreeSet<(IfIndex, IpAddr)> =
        bench.drain().iter().map(|transmit| (transmit.interface, transmit.address)).collect();
    assert_eq!(first, [(ETH1, v4(10).into()), (ETH0, v4(11).into()), (ETH1, v4(11).into())].into());
    assert_eq!(bench.receive_on(ETH0, ask(v4(10)).as_bytes()), []);
    assert_eq!(bench.machine.counters().dropped_elsewhere, 1);
    let sent = bench.receive_on(ETH1, ask(v4(10)).as_bytes());
    assert_eq!(arp_of(&sent[0]).1.sender_mac, US_TOO, "with the hardware address of that interface");
    assert_eq!(bench.state(v4(10)), AnnounceState::Announced { to: vec!["eth1".into()] });
    assert_eq!(bench.state(v4(11)), AnnounceState::Announced { to: vec!["eth0".into(), "eth1".into()] });
}

#[test]
fn an_interface_that_goes_is_a_condition_and_one_that_comes_is_announced_on() {
    let mut bench = owner();
    bench.handle(Input::Interfaces(&[Interface { up: false, ..eth0() }]));
    assert_eq!(bench.receive(&ask(v4(10))), []);
    let AnnounceState::Silent(condition) = bench.state(v4(10)) else { panic!("announced without a carrier") };
    assert_eq!(condition.reason, "NoInterface");
    let reasons = |bench: &Bench| -> Vec<String> {
        bench.machine.status().conditions.iter().map(|condition| condition.reason.to_string()).collect()
    };
    assert_eq!(reasons(&bench), ["InterfaceDown"]);
    bench.handle(Input::Interfaces(&[]));
    assert_eq!(reasons(&bench), ["NoInterface"]);
    assert_eq!(bench.run_until(bench.now + Duration::from_secs(5)), []);

    bench.handle(Input::Interfaces(&[eth0()]));
    let back = bench.run_until(bench.now);
    let of: BTreeSet<IpAddr> = back.iter().map(|(_, transmit)| transmit.address).collect();
    assert_eq!((back.len(), of.len()), (3, 2), "both addresses at once, and one to the routers: {back:?}");
    bench.settle();
    bench.handle(Input::Interfaces(&[Interface { mac: PEER, ..eth0() }]));
    let sent = bench.run_until(bench.now);
    assert_eq!(arp_of(&sent[0].1).1, Arp::announcement(PEER, v4(10)), "a new hardware address is announced");
    bench.settle();
    bench.handle(Input::Reannounce(ETH0));
    assert_eq!(bench.run_until(bench.now).len(), 3, "after a bond switched over");
}

#[test]
fn an_equal_set_says_nothing_and_a_new_term_does() {
    let mut bench = owner();
    bench.handle(Input::Desired(set(2, [entry(v4(10)), entry(v6(0x10))])));
    bench.renew(LEASE, at(3_700_000));
    assert_eq!(bench.run_until(bench.now + Duration::from_secs(20)), []);
    assert_eq!(bench.machine.status().generation, 2);
    assert_eq!(bench.events(), []);

    let renewed = Announcement::on_segment(LEASE, Term(3), Interfaces::All);
    bench.handle(Input::Desired(set(3, [(v4(10).into(), renewed), entry(v6(0x10))])));
    let sent = bench.run_until(bench.now);
    assert_eq!(sent.iter().map(|(_, transmit)| transmit.address).collect::<Vec<_>>(), [IpAddr::from(v4(10))]);
}

#[test]
fn an_older_set_and_an_earlier_deadline_are_ignored() {
    let mut bench = owner();
    bench.handle(Input::Desired(set(0, [])));
    bench.renew(LEASE, at(12_000));
    bench.now = at(3_500_000);
    assert_eq!(bench.receive(&ask(v4(10))).len(), 1);
}

#[test]
fn what_leaves_the_set_is_not_answered_and_not_announced_any_more() {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0()]));
    bench.handle(Input::Desired(set(1, [entry(v4(10)), entry(v4(11))])));
    bench.renew(LEASE, at(3_600_000));
    bench.handle(Input::Frame(Frame { interface: ETH0, received: bench.now, bytes: ask(v4(10)).as_bytes() }));
    bench.handle(Input::Desired(set(2, [entry(v4(11))])));
    let sent = bench.run_until(at(10_000));
    let of: BTreeSet<IpAddr> = sent.iter().map(|(_, transmit)| transmit.address).collect();
    assert_eq!(of, [v4(11).into()].into(), "not even what was queued");
    assert_eq!(bench.receive(&ask(v4(10))), []);

    bench.handle(Input::Withdraw);
    assert_eq!(bench.receive(&ask(v4(11))), []);
    assert!(bench.machine.status().entries.is_empty());
}

#[test]
fn a_lease_that_comes_back_is_announced_again() {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0()]));
    bench.renew(LEASE, at(2_000));
    bench.handle(Input::Desired(set(1, [entry(v4(10))])));
    assert_eq!(bench.drain().len(), 1, "a renewal may come before the set that names the lease");
    bench.now = at(5_000);
    bench.renew(LEASE, at(9_000));
    let events = bench.events();
    assert!(
        matches!(
            events[..],
            [Event::Gained { .. }, Event::Lost { why: Loss::Expired, .. }, Event::Gained { .. }]
        ),
        "{events:?}"
    );
    assert_eq!(bench.drain().len(), 1, "somebody else may have answered in between");
}

#[test]
fn refusals_say_why() {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0()]));
    let unleased = (IpAddr::from(v4(10)), Announcement::default());
    let elsewhere = Announcement::on_segment(LEASE, Term(2), Interfaces::Only(["eth7".into()].into()));
    let entries = [
        unleased,
        (v4(11).into(), elsewhere),
        entry(Ipv4Addr::new(224, 0, 0, 1)),
        entry(Ipv4Addr::BROADCAST),
    ];
    bench.handle(Input::Desired(set(1, entries)));
    bench.renew(LEASE, at(3_600_000));
    assert_eq!(bench.run_until(at(9_000)), []);
    assert_eq!(bench.receive(&ask(v4(10))), []);
    let status = bench.machine.status();
    let reasons: Vec<_> = status
        .entries
        .iter()
        .map(|(address, state)| match state {
            AnnounceState::Silent(condition) => (address.to_string(), condition.reason.to_string()),
            other => panic!("{address} is {other:?}"),
        })
        .collect();
    let expected = [
        ("192.0.2.10", "LeaseRequired"),
        ("192.0.2.11", "NoInterface"),
        ("224.0.0.1", "UnusableAddress"),
        ("255.255.255.255", "UnusableAddress"),
    ];
    assert_eq!(reasons, expected.map(|(address, reason)| (address.to_owned(), reason.to_owned())));
    let missing = &status.conditions[0];
    assert_eq!((&*missing.reason, missing.message.contains("eth7")), ("InterfaceMissing", true));
}

#[test]
fn a_strangers_claim_is_defended_against_at_intervals_and_reported() {
    let mut bench = owner();
    let claim = Arp::announcement(CLIENT, v4(10)).to_frame(MacAddr::BROADCAST);
    let sent = bench.receive(&claim);
    assert_eq!(
        sent.iter().map(arp_of).collect::<Vec<_>>(),
        [(MacAddr::BROADCAST, Arp::announcement(US, v4(10)))]
    );
    let claimant = Claimant { mac: CLIENT, member: None };
    let told = Event::Conflict { address: v4(10).into(), interface: "eth0".into(), claimant };
    assert_eq!(bench.events(), [told]);
    let conditions = bench.machine.status().conditions;
    assert_eq!(conditions[0].reason, "ClaimedByStranger");
    assert!(conditions[0].message.contains("02:00:00:00:00:cc"), "{}", conditions[0]);

    let version = bench.machine.status_version();
    for _ in 0..9 {
        bench.now += Duration::from_secs(1);
        assert_eq!(bench.receive(&claim), [], "not more often than every 10 s");
        assert_eq!(bench.events(), []);
    }
    assert_eq!(bench.machine.status_version(), version, "nothing new to say");
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.receive(&claim).len(), 1);
    assert_eq!(bench.machine.counters().conflicts, 11);
    assert_eq!(bench.machine.counters().defended, 2);
    bench.run_until(bench.now + Duration::from_secs(61));
    assert_eq!(
        bench.machine.status().conditions,
        [],
        "a claim is forgotten a minute after it was last heard"
    );
}

#[test]
fn forged_claims_do_not_command_the_status() {
    let mut bench = owner();
    let before = bench.machine.status_version();
    for number in 0..1000_u16 {
        let [high, low] = number.to_be_bytes();
        let claim = Arp::announcement(MacAddr([2, 0, 0, 1, high, low]), v4(10)).to_frame(MacAddr::BROADCAST);
        bench.receive(&claim);
        bench.now += Duration::from_millis(5);
    }
    assert_eq!(bench.machine.counters().conflicts, 1000);
    assert!(bench.machine.status_version() <= before + 2, "each change of it is a pass over all addresses");
}

#[test]
fn a_claimant_is_judged_anew_when_the_members_change() {
    let mut bench = owner();
    bench.receive(&Arp::announcement(PEER, v4(10)).to_frame(MacAddr::BROADCAST));
    let reason = |bench: &Bench| bench.machine.status().conditions[0].reason.to_string();
    assert_eq!(reason(&bench), "ClaimedByStranger");
    let with = |generation, interfaces: &[(&str, MacAddr)]| {
        let mut wanted = AnnounceSet::new(generation, [entry(v4(10)), entry(v6(0x10))]);
        let mut member = Member::default();
        member.hardware = interfaces.iter().map(|(name, mac)| ((*name).into(), mac.0)).collect();
        wanted.members.insert("node-b".into(), member);
        Arc::new(wanted)
    };
    bench.handle(Input::Desired(with(2, &[("eth0", PEER)])));
    assert_eq!(reason(&bench), "ClaimedByMember");
    bench.handle(Input::Desired(with(3, &[("eth0", CLIENT), ("eth1", PEER)])));
    assert_eq!(reason(&bench), "ClaimedByStranger", "its interface of that name is another one");
    bench.handle(Input::Desired(with(4, &[("enp1s0", CLIENT), ("enp2s0", PEER)])));
    assert_eq!(reason(&bench), "ClaimedByMember", "names differ between nodes");
}

#[test]
fn who_appears_may_come_from_where_nobody_heard_of_us() {
    let mut bench = owner();
    let with = |generation, nodes: &[(&str, MacAddr)]| {
        let mut wanted = AnnounceSet::new(generation, [entry(v4(10)), entry(v6(0x10))]);
        for (node, mac) in nodes {
            let mut member = Member::default();
            member.hardware.insert("eth0".into(), mac.0);
            wanted.members.insert((*node).into(), member);
        }
        Arc::new(wanted)
    };
    let mut times = |set| {
        bench.handle(Input::Desired(set));
        let sent = bench.run_until(bench.now + Duration::from_secs(5));
        let of = |ipv4: bool| {
            let sent = sent.iter().filter(move |(_, transmit)| transmit.address.is_ipv4() == ipv4);
            sent.map(|(ms, _)| *ms).collect::<Vec<_>>()
        };
        (of(true), of(false))
    };
    // To the routers too, in the second round.
    let again = (vec![0, 100, 1100, 2200], vec![0, 1100, 1100, 2200]);
    assert_eq!(times(with(2, &[("node-b", PEER)])), again);
    assert_eq!(times(with(3, &[("node-c", PEER)])), (vec![], vec![]), "it has another name");
    assert_eq!(times(with(4, &[])), (vec![], vec![]), "it left");
    assert_eq!(times(with(5, &[("node-b", PEER)])), again);
}

#[test]
fn claims_are_recognised_in_every_form() {
    let na = |na: Advertisement| {
        let header = ipv6::Header::nd(v6(0x10), ipv6::ALL_NODES);
        let to = MacAddr::of_ipv6_group(ipv6::ALL_NODES);
        Message::Advertisement(na).to_frame(&header, CLIENT, to)
    };
    let reply = Arp {
        operation: Operation::Reply,
        sender_mac: CLIENT,
        sender: v4(10),
        target_mac: US,
        target: v4(10),
    };
    let no_option = Advertisement { target_mac: None, ..Advertisement::unsolicited(v6(0x10), CLIENT) };
    for (what, claim) in [
        ("gratuitous request", Arp::announcement(CLIENT, v4(10)).to_frame(MacAddr::BROADCAST)),
        ("gratuitous reply", reply.to_frame(MacAddr::BROADCAST)),
        ("a request for another address", Arp::directed(CLIENT, v4(10), v4(99)).to_frame(MacAddr::BROADCAST)),
        ("unsolicited NA", na(Advertisement::unsolicited(v6(0x10), CLIENT))),
        ("unsolicited NA without an option", na(no_option)),
        ("NS from our address", solicit(v6(0x10), ipv6::solicited_node(v6(0x99)), v6(0x99), None)),
    ] {
        let mut bench = owner();
        let sent = bench.receive(&claim);
        assert_eq!(bench.machine.counters().conflicts, 1, "{what}");
        assert_eq!(sent.len(), 1, "{what} is defended against");
    }
}

#[test]
fn a_member_of_the_cluster_is_not_taken_for_a_stranger() {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0()]));
    let mut wanted = AnnounceSet::new(1, [entry(v4(10))]);
    let mut member = Member::default();
    member.hardware.insert("eth0".into(), PEER.0);
    wanted.members.insert("node-b".into(), member);
    bench.handle(Input::Desired(Arc::new(wanted)));
    bench.renew(LEASE, at(3_600_000));
    bench.settle();
    let claim = Arp::announcement(PEER, v4(10)).to_frame(MacAddr::BROADCAST);
    assert_eq!(bench.receive(&claim).len(), 1);
    bench.now += Duration::from_millis(999);
    assert_eq!(bench.receive(&claim), []);
    bench.now += Duration::from_millis(1);
    assert_eq!(bench.receive(&claim).len(), 1, "a late frame of a former owner is corrected within a second");
    let condition = &bench.machine.status().conditions[0];
    assert_eq!(condition.reason, "ClaimedByMember");
    assert!(condition.message.contains("node-b"), "{condition}");
}

#[test]
fn ten_thousand_addresses_are_announced_at_the_pace_first_ones_first() {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0()]));
    let addresses = (0..10_000u32).map(|i| entry(Ipv4Addr::from(0x0a00_0000 + i)));
    bench.handle(Input::Desired(set(1, addresses)));
    bench.renew(LEASE, at(3_600_000));
    let sent = bench.run_until(at(60_000));
    assert_eq!(sent.iter().filter(|(ms, _)| *ms == 0).count(), 64, "the burst");
    let first: BTreeSet<IpAddr> = sent[..10_000].iter().map(|(_, transmit)| transmit.address).collect();
    assert_eq!(first.len(), 10_000, "no repeat before everybody was announced once");
    let bound = u128::from((10_000u32 - 64) * 1000 / 500);
    assert!(sent[9_999].0 <= bound, "{} ms, not {bound}", sent[9_999].0);
    for window in sent.windows(600) {
        assert!(window[599].0 - window[0].0 >= 1000, "600 frames in less than a second");
    }
    bench.settle();
    assert_eq!(bench.receive(&ask(Ipv4Addr::new(10, 0, 39, 15))).len(), 1);
}

#[test]
fn answers_are_not_held_back_by_the_pace() {
    let mut bench = Bench::new(Config { pace: Pace::GUARDED, ..Config::default() });
    bench.handle(Input::Interfaces(&[eth0()]));
    bench.handle(Input::Desired(set(1, (0..200).map(|last| entry(v4(last))))));
    bench.renew(LEASE, at(3_600_000));
    assert_eq!(bench.drain().len(), 5);
    for last in 0..200 {
        assert_eq!(bench.receive(&ask(v4(last))).len(), 1);
    }
}

#[test]
fn a_queue_that_nobody_empties_is_bounded() {
    let mut bench = owner();
    for _ in 0..MAX_BACKLOG + 10 {
        let question = ask(v4(10));
        bench.handle(Input::Frame(Frame {
            interface: ETH0,
            received: bench.now,
            bytes: question.as_bytes(),
        }));
    }
    assert_eq!(bench.machine.counters().dropped_backlog, 10);
    bench.handle(Input::Reannounce(ETH0));
    let due = bench.machine.poll_timeout();
    assert!(due.is_none_or(|due| due > bench.now), "no busy loop while nothing can be queued: {due:?}");
    assert_eq!(bench.drain().len(), MAX_BACKLOG);
    assert!(bench.machine.poll_timeout().is_some_and(|due| due <= bench.now), "now it can");
}

#[test]
fn one_frame_an_interface_refreshes_the_switches() {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0()]));
    bench.handle(Input::Desired(set(1, (0..50).map(|last| entry(v4(last))))));
    bench.renew(LEASE, at(3_600_000));
    bench.settle();
    let sent = bench.run_until(bench.now + Duration::from_secs(290));
    assert_eq!(sent.len(), 3, "every 100 s, one frame: {sent:?}");
    assert_eq!(bench.machine.counters().refreshed, 3);
}
