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

/// A request to one host, or an advertisement to the routers.
fn is_directed(transmit: &Transmit) -> bool {
    let (header, payload) = ethernet::Header::parse(transmit.frame.as_bytes()).unwrap();
    header.destination == MacAddr::of_ipv6_group(ipv6::ALL_ROUTERS)
        || header.ethertype == EtherType::ARP && Arp::parse(payload).is_ok_and(|arp| arp.target == CLIENT_IP)
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
    let times: Vec<_> = sent.iter().map(|(ms, it)| (*ms, probe_of(it).is_some())).take(4).collect();
    assert_eq!(times, [(0, true), (500, true), (1000, true), (1500, false)], "{sent:?}");
}

/// However many there are, each is asked for as often, and waited for as long.
#[test]
fn many_new_addresses_are_all_asked_for_three_times() {
    for (pace, count) in [(Pace::GUARDED, 60_u8), (Pace::NORMAL, 250)] {
        let mut bench = Bench::new(Config { pace, ..Config::default() });
        bench.handle(Input::Interfaces(&[eth0()]));
        bench.handle(Input::Desired(set(1, (0..count).map(|last| fresh(v4(last))))));
        bench.renew(LEASE, at(3_600_000));
        let sent = bench.run_until(at(120_000));
        for address in (0..count).map(|last| IpAddr::from(v4(last))) {
            let of = sent.iter().filter(|(_, it)| it.address == address);
            let probes = of.clone().filter(|(_, it)| probe_of(it).is_some()).map(|(ms, _)| *ms);
            let first = of.clone().find(|(_, it)| probe_of(it).is_none()).map(|(ms, _)| *ms);
            let times: Vec<u128> = probes.chain(first).collect();
            assert_eq!(times.len(), 4, "{address}: {times:?}");
            assert!(times.windows(2).all(|pair| pair[1] >= pair[0] + 200), "{address}: {times:?}");
        }
    }
}

#[test]
fn where_nobody_was_asked_nothing_is_said() {
    // The lease comes before the carrier, as at the start of a machine.
    let mut bench = Bench::new(Config::default());
    bench.handle(Input::Interfaces(&[Interface { up: false, ..eth0() }]));
    bench.handle(Input::Desired(set(1, [fresh(v4(10))])));
    bench.renew(LEASE, at(3_600_000));
    assert_eq!(bench.run_until(at(3000)), []);
    assert_eq!(reason(&bench.state(v4(10))), "NoInterface");
    bench.handle(Input::Interfaces(&[eth0()]));
    let sent = bench.run_until(at(4000));
    let probes: Vec<u128> = sent.iter().filter(|(_, it)| probe_of(it).is_some()).map(|(ms, _)| *ms).collect();
    assert_eq!((probes, sent.len()), (vec![0, 200, 400], 5), "then twice announced: {sent:?}");

    // Another interface is another segment.
    bench.settle();
    bench.handle(Input::Interfaces(&[eth0(), eth1()]));
    assert_eq!(bench.state(v4(10)), AnnounceState::Announced { to: vec!["eth0".into()] });
    assert_eq!(bench.receive_on(ETH1, ask(v4(10)).as_bytes()).len(), 1, "a probe, and no answer");
    let stranger = Arp::announcement(CLIENT, v4(10)).to_frame(MacAddr::BROADCAST);
    assert_eq!(bench.receive_on(ETH1, stranger.as_bytes()), []);
    assert!(matches!(bench.events()[..], [Event::Conflict { .. }]), "told once, and nothing is lost");
    assert_eq!(bench.receive_on(ETH1, stranger.as_bytes()), []);
    assert_eq!(bench.events(), []);
    let sent = bench.run_until(bench.now + Duration::from_secs(59));
    assert!(sent.iter().all(|(_, it)| it.interface == ETH0), "{sent:?}");
    assert_eq!(bench.receive_on(ETH0, ask(v4(10)).as_bytes()).len(), 1, "there it is ours");
    bench.run_until(bench.now + Duration::from_secs(3));
    let both = AnnounceState::Announced { to: vec!["eth0".into(), "eth1".into()] };
    assert_eq!(bench.state(v4(10)), both, "the stranger has gone");
}

#[test]
fn a_probe_that_comes_back_is_no_strangers() {
    let mut bench = newcomer();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let probes = bench.drain().into_iter().filter(|it| probe_of(it) == Some(v6(0x10).into()));
        for probe in probes.collect::<Vec<_>>() {
            let bytes = probe.frame.as_bytes();
            let (_, payload) = ethernet::Header::parse(bytes).unwrap();
            let (ip, message) = ipv6::Header::parse(payload).unwrap();
            let Ok(Some(Message::Solicitation(ns))) = Message::parse(&ip, message) else { panic!() };
            assert!(seen.insert(ns.nonce), "RFC 7527 §4.1: another nonce each time");
            // By a device that puts its own hardware address in front.
            let mut looped = bytes.to_vec();
            looped[6..12].copy_from_slice(&CLIENT.0);
            assert_eq!(bench.receive_on(ETH0, &looped), []);
        }
        bench.run_until(bench.now + Duration::from_millis(199));
        bench.now += Duration::from_millis(1);
        bench.machine.handle_timeout(bench.now);
    }
    assert_eq!((seen.len(), bench.machine.counters().dropped_own), (3, 3));
    assert_eq!(reason(&bench.state(v6(0x10))), "announced");
}

#[test]
fn forged_claims_do_not_keep_a_new_address_from_being_announced() {
    let mut bench = Bench::new(Config { pace: Pace::GUARDED, ..Config::default() });
    bench.handle(Input::Interfaces(&[eth0()]));
    let many = (0..110).map(|last| entry(v4(last)));
    bench.handle(Input::Desired(set(1, many.clone())));
    bench.renew(LEASE, at(3_600_000));
    bench.run_until(at(60_000));
    bench.handle(Input::Desired(set(2, many.chain([entry(v4(200))]))));
    let mut told = None;
    for round in 0..1000_u32 {
        bench.now += Duration::from_millis(90);
        let claim = Arp::announcement(CLIENT, v4((round % 110) as u8)).to_frame(MacAddr::BROADCAST);
        let mut sent = bench.receive(&claim);
        sent.extend(bench.run_until(bench.now).into_iter().map(|(_, it)| it));
        if sent.iter().any(|it| it.address == IpAddr::from(v4(200))) {
            told = told.or(Some(round));
        }
    }
    assert!(told.is_some_and(|round| round < 10), "{told:?}");
}

#[test]
fn what_was_made_before_a_change_may_not_be_sent_after_it() {
    let polled = |bench: &mut Bench| {
        let answers = bench.receive(&ask(v4(10)));
        assert!(answers.iter().all(|it| bench.machine.may_send(it)));
        answers
    };
    let may_send = |bench: &Bench, sent: &[Transmit]| sent.iter().any(|it| bench.machine.may_send(it));
    type Change = fn(&mut Bench);
    let changes: [(&str, Change); 4] = [
        ("it is withdrawn", |bench| bench.handle(Input::Desired(set(2, [])))),
        ("its interface goes down", |bench| {
            bench.handle(Input::Interfaces(&[Interface { up: false, ..eth0() }]));
        }),
        ("the hardware address is another", |bench| {
            bench.handle(Input::Interfaces(&[Interface { mac: PEER, ..eth0() }]));
        }),
        ("another owns it by a newer term", |bench| {
            let mut wanted = AnnounceSet::new(2, [entry(v4(10))]);
            wanted.owners.insert(v4(10).into(), Owner::new("node-b".into(), Term(3)));
            bench.handle(Input::Desired(Arc::new(wanted)));
        }),
    ];
    for (what, change) in changes {
        let mut bench = owner();
        let sent = polled(&mut bench);
        // And the same while it is still in the machine.
        bench.handle(Input::Reannounce(ETH0));
        change(&mut bench);
        assert!(!may_send(&bench, &sent), "{what}");
        let rest = bench.drain();
        let is_old = |it: &Transmit| it.address == IpAddr::from(v4(10)) && !bench.machine.may_send(it);
        assert!(!rest.iter().any(is_old), "{what}: {rest:?}");
    }
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
