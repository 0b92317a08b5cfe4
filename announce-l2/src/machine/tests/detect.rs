//! Taking an address for the first time, and giving way to a newer term.

use super::*;

/// An address that nobody of the cluster owned before.
fn fresh(address: impl Into<IpAddr>) -> (IpAddr, Announcement) {
    (address.into(), Announcement::on_segment(LEASE, Term::FIRST, Interfaces::All))
}

/// A machine with eth0 that is about to take 192.0.2.10 and 2001:db8::10 for the first time.
fn newcomer() -> Bench {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0()]));
    bench.handle(Input::Desired(set(1, [fresh(v4(10)), fresh(v6(0x10))])));
    bench.renew(LEASE, at(3_600_000));
    bench
}

fn reason(state: &AnnounceState) -> String {
    match state {
        AnnounceState::Silent(condition) => condition.reason.to_string(),
        _ => "announced".to_owned(),
    }
}

/// Who probes for what, by ARP or by a solicitation.
fn probe_of(transmit: &Transmit) -> Option<IpAddr> {
    let (header, payload) = ethernet::Header::parse(transmit.frame.as_bytes()).unwrap();
    if header.ethertype == EtherType::ARP {
        let arp = Arp::parse(payload).unwrap();
        assert!(
            !arp.is_probe() || (header.destination, arp.target_mac) == (MacAddr::BROADCAST, MacAddr::ZERO)
        );
        return arp.is_probe().then_some(arp.target.into());
    }
    let (ip, message) = ipv6::Header::parse(payload).unwrap();
    let Ok(Some(Message::Solicitation(ns))) = Message::parse(&ip, message) else { return None };
    assert_eq!((ip.source, ip.destination), (Ipv6Addr::UNSPECIFIED, ipv6::solicited_node(ns.target)));
    assert!(ns.source_mac.is_none() && ns.nonce.is_some(), "RFC 4861 §4.3, RFC 7527 §4.1");
    Some(ns.target.into())
}

/// A request to one host.
fn is_directed(transmit: &Transmit) -> bool {
    let (header, payload) = ethernet::Header::parse(transmit.frame.as_bytes()).unwrap();
    header.ethertype == EtherType::ARP && Arp::parse(payload).is_ok_and(|arp| arp.target == CLIENT_IP)
}

#[test]
fn three_probes_and_then_the_announcement() {
    let mut bench = newcomer();
    assert_eq!(reason(&bench.state(v4(10))), "Probing");
    let mut sent = bench.run_until(at(1100));
    assert!(bench.receive(&ask(v4(10))).is_empty(), "it is not ours yet");
    sent.extend(bench.run_until(at(1650)).into_iter().map(|(ms, it)| (ms + 100, it)));
    let times = |address: IpAddr| {
        let of = |wanted: bool| {
            let one = sent.iter().filter(move |(_, it)| it.address == address && !is_directed(it));
            one.filter(move |(_, it)| (probe_of(it) == Some(address)) == wanted).map(|(ms, _)| *ms).collect()
        };
        (of(true), of(false))
    };
    let (probes, said): (Vec<u128>, Vec<u128>) = times(v4(10).into());
    assert_eq!((probes, said), (vec![0, 200, 400], vec![600]));
    let (probes, said): (Vec<u128>, Vec<u128>) = times(v6(0x10).into());
    assert_eq!((probes, said), (vec![0, 200, 400], vec![600]));
    let events = bench.events();
    assert!(
        matches!(events[..], [Event::Gained { term: Term::FIRST, .. }, Event::Gained { .. }]),
        "{events:?}"
    );
    assert_eq!(bench.receive(&ask(v4(10))).len(), 1);
}

#[test]
fn a_takeover_and_a_lease_that_comes_back_are_not_probed_for() {
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[eth0()]));
    bench.handle(Input::Desired(set(1, [entry(v4(10)), fresh(v4(11))])));
    bench.renew(LEASE, at(5000));
    assert_eq!(bench.receive(&ask(v4(10))).len(), 3, "announced and answered, and the other probed for");
    bench.run_until(at(6000));
    assert_eq!(reason(&bench.state(v4(11))), "LeaseNotHeld");
    bench.renew(LEASE, at(9000));
    assert_eq!(reason(&bench.state(v4(11))), "announced");

    let mut bench = Bench::new(Config { probing: None, ..Config::default() });
    bench.handle(Input::Interfaces(&[eth0()]));
    bench.handle(Input::Desired(set(1, [fresh(v4(10))])));
    bench.renew(LEASE, at(5000));
    assert_eq!(reason(&bench.state(v4(10))), "announced", "it is off");
}

#[test]
fn what_a_stranger_has_is_left_alone_named_and_tried_again() {
    let stranger = MacAddr([2, 0, 0, 0, 0, 0xbb]);
    let dad = |target: Ipv6Addr| solicit(Ipv6Addr::UNSPECIFIED, ipv6::solicited_node(target), target, None);
    let advertise = |target: Ipv6Addr| {
        let group = ipv6::ALL_NODES;
        let message = Message::Advertisement(Advertisement::unsolicited(target, stranger));
        message.to_frame(&ipv6::Header::nd(target, group), CLIENT, MacAddr::of_ipv6_group(group))
    };
    for (what, address, frame) in [
        ("an answer", v4(10).into(), Arp::probe(US, v4(10)).reply(stranger).to_frame(US)),
        ("an announcement", v4(10).into(), Arp::announcement(stranger, v4(10)).to_frame(MacAddr::BROADCAST)),
        ("a question", v4(10).into(), Arp::directed(stranger, v4(10), v4(77)).to_frame(MacAddr::BROADCAST)),
        ("a probe", v4(10).into(), Arp::probe(stranger, v4(10)).to_frame(MacAddr::BROADCAST)),
        ("an advertisement", IpAddr::from(v6(0x10)), advertise(v6(0x10))),
        ("duplicate address detection", v6(0x10).into(), dad(v6(0x10))),
    ] {
        let mut bench = newcomer();
        bench.run_until(at(1300));
        assert!(bench.receive(&frame).is_empty(), "{what}");
        let Event::Conflict { address: told, claimant, .. } = &bench.events()[0] else { panic!("{what}") };
        assert_eq!((*told, claimant.member.clone()), (address, None), "{what}");
        let status = bench.machine.status();
        assert_eq!(reason(&status.entries[&address]), "AddressInUse", "{what}");
        let said =
            status.conditions.iter().find(|condition| condition.reason == "ClaimedByStranger").unwrap();
        assert!(said.message.contains(&claimant.mac.to_string()), "{what}: {said}");
        let sent = bench.run_until(at(61_000));
        assert!(sent.iter().all(|(_, it)| it.address != address), "{what}: it is left alone");
        let sent = bench.run_until(at(64_000));
        let probes = sent.iter().filter(|(_, it)| probe_of(it) == Some(address)).count();
        assert_eq!(
            (probes, reason(&bench.state(address))),
            (3, "announced".to_owned()),
            "{what}: it has gone"
        );
    }
}

#[test]
fn a_late_frame_of_a_member_is_no_strangers() {
    let mut bench = newcomer();
    let mut wanted = AnnounceSet::new(2, [fresh(v4(10))]);
    let mut member = Member::default();
    member.hardware.insert("eth0".into(), PEER.0);
    wanted.members.insert("node-b".into(), member);
    bench.handle(Input::Desired(Arc::new(wanted)));
    bench.receive(&Arp::announcement(PEER, v4(10)).to_frame(MacAddr::BROADCAST));
    bench.run_until(at(2000));
    assert_eq!(reason(&bench.state(v4(10))), "announced");
}

#[test]
fn the_pace_holds_probes_back_and_the_address_waits_for_them() {
    let mut bench = Bench::new(Config { pace: Pace { burst: 1, per_second: 2 }, ..Config::default() });
    bench.handle(Input::Interfaces(&[eth0()]));
    bench.handle(Input::Desired(set(1, [fresh(v4(10))])));
    bench.renew(LEASE, at(3_600_000));
    let sent = bench.run_until(at(5000));
    let first = sent.iter().position(|(_, it)| probe_of(it).is_none()).unwrap();
    assert!(first >= 1, "at least one probe went out and was waited for: {sent:?}");
    assert!(sent[first].0 >= sent[first - 1].0 + 200);
}

#[test]
fn a_newer_term_of_another_is_yielded_to_at_once_and_an_older_one_is_not() {
    let mut bench = owner();
    let by = |term: u64| {
        let mut wanted = AnnounceSet::new(term, [entry(v4(10))]);
        wanted.owners.insert(v4(10).into(), Owner::new("node-b".into(), Term(term)));
        Arc::new(wanted)
    };
    bench.handle(Input::Desired(by(2)));
    assert_eq!(bench.receive(&ask(v4(10))).len(), 1, "an equal term is our own");
    bench.events();
    bench.handle(Input::Desired(by(3)));
    assert!(bench.receive(&ask(v4(10))).is_empty());
    assert_eq!(bench.events(), [Event::Lost { address: v4(10).into(), why: Loss::Outranked }]);
    let AnnounceState::Silent(why) = bench.state(v4(10)) else { panic!("{:?}", bench.state(v4(10))) };
    assert_eq!(
        (&*why.reason, &*why.message),
        ("Outranked", "node node-b owns it by term 3, this one by term 2")
    );

    let again = Announcement::on_segment(LEASE, Term(4), Interfaces::All);
    let mut wanted = AnnounceSet::new(4, [(v4(10).into(), again)]);
    wanted.owners.insert(v4(10).into(), Owner::new("node-b".into(), Term(3)));
    bench.handle(Input::Desired(Arc::new(wanted)));
    assert_eq!(bench.receive(&ask(v4(10))).len(), 3, "announced, to the one who had asked too, and answered");
}
