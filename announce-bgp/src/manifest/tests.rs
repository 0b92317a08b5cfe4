use lbcore::manifest::{Corpus, Report, SourceFile};

use super::*;

/// A BGPPeer of this version with these fields, on lines of their own from line 6.
fn peer(name: &str, version: &str, fields: &str) -> String {
    let mut text = format!(
        "apiVersion: metallb.io/{version}\nkind: BGPPeer\nmetadata: {{name: {name}, namespace: lb}}\nspec:\n"
    );
    for line in fields.lines().map(str::trim).filter(|line| !line.is_empty()) {
        text += &format!("  {line}\n");
    }
    text
}

fn load(documents: &[String]) -> (Corpus, Report) {
    let mut corpus = Corpus::new(kinds(lbcore::manifest::kinds(Kinds::new())));
    let report = corpus.load(&[SourceFile::new("peers.yaml", documents.join("---\n"))]);
    (corpus, report)
}

fn problems(documents: &[String]) -> Vec<String> {
    load(documents).1.problems.iter().map(ToString::to_string).collect()
}

fn here(documents: &[String]) -> NodePeers {
    let (corpus, report) = load(documents);
    assert_eq!(report.problems, []);
    peers_for(corpus.objects(), &NodeFacts::default())
}

const BASE: &str = "myASN: 65000
peerASN: 65001
peerAddress: 192.0.2.1
";

#[test]
fn the_defaults_are_metallbs() {
    for version in ["v1beta1", "v1beta2"] {
        let here = here(&[peer("tor", version, BASE)]);
        let [config] = here.peers.as_slice() else { panic!("{here:?}") };
        let mut expected = PeerConfig::new("tor", "192.0.2.1".parse().unwrap(), RemoteAs::Number(65001));
        expected.local_as = Some(65000);
        expected.families = Families::V4;
        assert_eq!(*config, expected, "{version}");
        assert_eq!((config.port, config.hold_time), (179, Duration::from_secs(90)));
    }
}

#[test]
fn every_field_that_is_supported() {
    let here = here(&[peer(
        "tor",
        "v1beta2",
        "myASN: 65000
         localASN: 64999
         dynamicASN: external
         peerAddress: 2001:db8::1
         sourceAddress: 2001:db8::9
         peerPort: 1179
         holdTime: 9s
         keepaliveTime: 2s
         connectTime: 3s
         routerID: 192.0.2.9
         ebgpMultiHop: true
         dualStackAddressFamily: true
         disableMP: false
         enableGracefulRestart: false
         password: ''
         bfdProfile: ''
         vrf: ''
         interface: ''
         peerASN: 0
         passwordSecret: {}",
    )]);
    assert_eq!(here.conditions, []);
    let config = &here.peers[0];
    let mut expected = PeerConfig::new("tor", "2001:db8::1".parse().unwrap(), RemoteAs::External);
    expected.local_as = Some(64999);
    expected.source = Some("2001:db8::9".parse().unwrap());
    expected.port = 1179;
    expected.hold_time = Duration::from_secs(9);
    expected.keepalive_time = Some(Duration::from_secs(2));
    expected.connect_retry = Duration::from_secs(3);
    expected.router_id = Some(Ipv4Addr::new(192, 0, 2, 9));
    expected.multihop = true;
    assert_eq!(*config, expected);
}

#[test]
fn one_time_gives_the_other() {
    for (fields, hold, keepalive) in [
        ("holdTime: 30s", 30, None),
        ("keepaliveTime: 10s", 30, Some(10)),
        ("holdTime: 0s\nkeepaliveTime: 0s", 0, None),
        ("keepaliveTime: 0s", 0, None),
        ("holdTime: 1m30s", 90, None),
    ] {
        let here = here(&[peer("tor", "v1beta2", &format!("{BASE}{fields}"))]);
        assert_eq!(here.peers[0].hold_time, Duration::from_secs(hold), "{fields}");
        assert_eq!(here.peers[0].keepalive_time, keepalive.map(Duration::from_secs), "{fields}");
    }
}

/// What MetalLB refuses, each with the line, the field and the fix.
#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (version, fields, expected) in [
        ("v1beta2", "peerASN: 1\npeerAddress: 192.0.2.1", "5: spec.myASN: is missing: add it"),
        (
            "v1beta2",
            "myASN: 0\npeerASN: 1\npeerAddress: 192.0.2.1",
            "5: spec.myASN: must be a whole number from 1",
        ),
        ("v1beta2", "myASN: 1\npeerAddress: 192.0.2.1", "spec: needs one of peerASN and dynamicASN"),
        (
            "v1beta2",
            "myASN: 1\npeerASN: 2\ndynamicASN: internal\npeerAddress: 192.0.2.1",
            "7: spec.dynamicASN: there is a peerASN as well",
        ),
        ("v1beta2", "myASN: 1\ndynamicASN: intern\npeerAddress: 192.0.2.1", "6: spec.dynamicASN: \"intern\""),
        ("v1beta2", "myASN: 1\npeerASN: 2", "spec: needs one of peerAddress and interface"),
        (
            "v1beta2",
            "myASN: 1\npeerASN: 2\npeerAddress: 192.0.2.1\ninterface: eth0",
            "8: spec.interface: there is a peerAddress as well",
        ),
        (
            "v1beta2",
            "myASN: 1\npeerASN: 2\npeerAddress: tor",
            "7: spec.peerAddress: \"tor\" is no IP address",
        ),
        ("v1beta2", "BASE\nsourceAddress: 192.0.2", "8: spec.sourceAddress: \"192.0.2\" is no IP address"),
        ("v1beta2", "BASE\nsourceAddress: 2001:db8::9", "8: spec.sourceAddress: is not of the family"),
        ("v1beta2", "BASE\nrouterID: '7'", "8: spec.routerID: "),
        ("v1beta2", "BASE\npeerPort: 0", "8: spec.peerPort: must be a whole number from 1 to 16384"),
        ("v1beta2", "BASE\npeerPort: 16385", "8: spec.peerPort: must be a whole number from 1 to 16384"),
        ("v1beta2", "BASE\nholdTime: 2s", "8: spec.holdTime: makes a hold time of 2s"),
        ("v1beta2", "BASE\nholdTime: 3500ms", "8: spec.holdTime: makes a hold time of 3.5s"),
        ("v1beta2", "BASE\nholdTime: 20h", "8: spec.holdTime: makes a hold time of 72000s"),
        ("v1beta2", "BASE\nholdTime: soon", "8: spec.holdTime: \"soon\" is no duration"),
        (
            "v1beta2",
            "BASE\nholdTime: 9s\nkeepaliveTime: 10s",
            "9: spec.keepaliveTime: is longer than holdTime",
        ),
        ("v1beta2", "BASE\nholdTime: 9s\nkeepaliveTime: 0s", "9: spec.keepaliveTime: is zero while holdTime"),
        ("v1beta2", "BASE\nkeepaliveTime: 500ms", "8: spec.keepaliveTime: makes a hold time of 1.5s"),
        ("v1beta2", "BASE\nconnectTime: 100ms", "8: spec.connectTime: must be from 1s"),
        ("v1beta2", "BASE\nebgpMultiHop: yes please", "8: spec.ebgpMultiHop: must be true or false"),
        (
            "v1beta2",
            "myASN: 1\npeerASN: 1\npeerAddress: 192.0.2.1\nebgpMultiHop: true",
            "8: spec.ebgpMultiHop: is for peers of another AS",
        ),
        (
            "v1beta2",
            "BASE\npassword: a\npasswordSecret: {name: b}",
            "9: spec.passwordSecret: there is a password as well",
        ),
        ("v1beta2", "BASE\nbfdProfile: fast", "8: spec.bfdProfile: there is no BFDProfile fast"),
        (
            "v1beta2",
            "BASE\ndisableMP: true\ndualStackAddressFamily: true",
            "8: spec.disableMP: contradicts dualStackAddressFamily",
        ),
        (
            "v1beta2",
            "BASE\npeerAdress: 192.0.2.2",
            "8: spec.peerAdress: unknown field: did you mean `peerAddress`?",
        ),
        (
            "v1beta2",
            "myASN: 1\npeerASN: 2\npeerAddress: fe80::1",
            "peer tor: link-local peers are not supported yet",
        ),
        ("v1beta1", "BASE\nvrf: red", "8: spec.vrf: unknown field"),
        ("v1beta1", "myASN: 1\npeerAddress: 192.0.2.1", "spec.peerASN: is missing: add it"),
        ("v1beta3", "BASE", "v1beta3"),
    ] {
        let text = peer("tor", version, &fields.replace("BASE", BASE));
        let problems = problems(&[text]);
        assert_eq!(problems.len(), 1, "{fields}: {problems:#?}");
        let problem = problems[0].replace(" (document 1): BGPPeer lb/tor", "");
        assert!(problem.contains(expected), "{fields}:\n{problem}\n{expected}");
    }
}

#[test]
fn one_mistake_hides_no_other() {
    for (fields, expected) in [
        (
            "peerASN: 0
             peerAddress: tor
             sourceAddress: here
             vrf: 1",
            &[
                "5: spec.myASN: is missing",
                "5: spec: needs one of peerASN and dynamicASN",
                "6: spec.peerAddress: \"tor\" is no IP",
                "7: spec.sourceAddress: \"here\" is no IP",
                "8: spec.vrf: must be text",
            ][..],
        ),
        (
            "myASN: 1
             peerASN: 1
             peerAddress: 192.0.2.1
             sourceAddress: 2001:db8::9
             ebgpMultiHop: true",
            &[
                "8: spec.sourceAddress: is not of the family",
                "9: spec.ebgpMultiHop: is for peers of another AS",
            ],
        ),
        (
            "myASN: 1
             peerASN: -1
             dynamicASN: external
             peerAddress: tor
             interface: eth0",
            &[
                "6: spec.peerASN: must be a whole number",
                "8: spec.peerAddress: \"tor\" is no IP",
                "9: spec.interface: there is a peerAddress as well",
                "7: spec.dynamicASN: there is a peerASN as well",
            ],
        ),
    ] {
        let found = problems(&[peer("tor", "v1beta2", fields)]);
        for expected in expected {
            let (line, said) = expected.split_once(": ").unwrap();
            let place = format!("peers.yaml:{line} ");
            let is_told = |found: &String| found.starts_with(&place) && found.contains(said);
            assert!(found.iter().any(is_told), "{expected}\n{found:#?}");
        }
        assert_eq!(found.len(), expected.len(), "{found:#?}");
    }
}

#[test]
fn two_peers_that_are_the_same_are_told() {
    let twin = peer("twin", "v1beta2", BASE);
    let found = problems(&[peer("tor", "v1beta2", BASE), twin.clone()]);
    assert_eq!(
        found,
        [
            "peers.yaml:15 (document 2): BGPPeer lb/twin: spec.peerAddress: peer lb/tor at peers.yaml:1 (document 1) has \
          the same address, port and nodes: remove one"
        ]
    );
    // On different nodes, or on another port, they are two.
    let elsewhere = format!("{BASE}nodeSelectors: [{{matchLabels: {{rack: b}}}}]");
    assert_eq!(problems(&[twin.clone(), peer("tor", "v1beta2", &elsewhere)]), [] as [String; 0]);
    assert_eq!(
        problems(&[twin, peer("tor", "v1beta2", &format!("{BASE}peerPort: 1179"))]),
        [] as [String; 0]
    );
    // Of one name in two namespaces: an advertisement could not tell them apart.
    let other = peer("tor", "v1beta2", &BASE.replace("192.0.2.1", "192.0.2.2")).replace("lb}", "other}");
    let found = problems(&[peer("tor", "v1beta2", BASE), other]);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("metadata.name: there is another peer of this name, lb/tor"), "{}", found[0]);
}

#[test]
fn selectors_choose_the_nodes() {
    let of = |rack: &str| {
        format!(
            "{BASE}peerPort: {rack}\nnodeSelectors: [{{matchLabels: {{rack: '{rack}'}}}}, {{matchLabels: {{all: x}}}}]"
        )
    };
    let (corpus, _) =
        load(&[peer("a", "v1beta2", &of("1")), peer("b", "v1beta2", &of("2")), peer("c", "v1beta1", BASE)]);
    for (labels, expected) in [
        (&[("rack", "1")][..], &["a", "c"][..]),
        (&[("rack", "2")], &["b", "c"]),
        (&[("all", "x")], &["a", "b", "c"]),
        (&[], &["c"]),
    ] {
        let facts = NodeFacts::new(labels.iter().copied().collect(), []);
        let here = peers_for(corpus.objects(), &facts);
        let names: Vec<_> = here.peers.iter().map(|peer| peer.name.as_str()).collect();
        assert_eq!(names, expected, "{labels:?}");
    }
}

/// Both select this node, and have one address: the second, by name, is left out with a condition.
#[test]
fn two_peers_of_one_address_that_meet_on_a_node() {
    let labelled = |label: &str| format!("{BASE}nodeSelectors: [{{matchLabels: {{{label}: x}}}}]");
    let (corpus, report) =
        load(&[peer("b", "v1beta2", &labelled("one")), peer("a", "v1beta2", &labelled("two"))]);
    assert_eq!(report.problems, []);
    let facts = NodeFacts::new([("one", "x"), ("two", "x")].into_iter().collect(), []);
    let here = peers_for(corpus.objects(), &facts);
    assert_eq!(here.peers.len(), 1);
    assert_eq!(here.peers[0].name.as_str(), "a");
    assert_eq!(here.conditions[0].reason, "PeerRefused");
    assert!(here.conditions[0].message.contains("same address and port as peer a"), "{}", here.conditions[0]);
}

/// Never passed over in silence: a notice at its place, and a condition; left out if it could not work.
#[test]
fn what_is_not_supported_yet_is_told() {
    let profile = "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {name: fast, namespace: lb}\n"
        .to_owned();
    for (fields, reason, left_out) in [
        ("BASE\npassword: secret", "PasswordUnsupported", true),
        ("BASE\npasswordSecret: {name: a, namespace: b}", "PasswordUnsupported", true),
        ("BASE\nvrf: red", "VrfUnsupported", true),
        ("myASN: 1\npeerASN: 2\ninterface: eth0", "InterfaceUnsupported", true),
        ("BASE\nbfdProfile: fast", "BfdUnsupported", false),
        ("BASE\nenableGracefulRestart: true", "GracefulRestartUnsupported", false),
    ] {
        let documents = [peer("tor", "v1beta2", &fields.replace("BASE", BASE)), profile.clone()];
        let (corpus, report) = load(&documents);
        assert_eq!(report.problems, [], "{fields}");
        assert_eq!(report.notices.len(), 1, "{fields}: {:?}", report.notices);
        let here = peers_for(corpus.objects(), &NodeFacts::default());
        assert_eq!(here.conditions.len(), 1, "{fields}");
        assert_eq!(here.conditions[0].reason, reason, "{fields}");
        assert!(here.conditions[0].message.starts_with("peer tor: "), "{fields}");
        assert_eq!(here.peers.is_empty(), left_out, "{fields}");
        assert!(!here.conditions[0].message.contains("secret"), "a password is told to nobody");
    }
}

#[test]
fn the_nodes_own_addresses_are_the_next_hops_of_the_other_family() {
    let addresses = ["fe80::9", "192.0.2.9", "2001:db8::9", "192.0.2.10"].map(|a| a.parse().unwrap());
    let facts = NodeFacts::new(Labels::new(), addresses);
    let v6 = BASE.replace("192.0.2.1", "2001:db8::1");
    let (corpus, _) = load(&[peer("v4", "v1beta2", BASE), peer("v6", "v1beta2", &v6)]);
    let here = peers_for(corpus.objects(), &facts);
    assert_eq!(here.peers[0].next_hop_v6, Some("2001:db8::9".parse().unwrap()));
    assert_eq!(here.peers[0].next_hop_v4, None);
    assert_eq!(here.peers[1].next_hop_v4, Some(Ipv4Addr::new(192, 0, 2, 9)));
    assert_eq!(here.peers[1].next_hop_v6, None);
}

#[test]
fn bfd_profiles_are_read_and_checked() {
    let profile = |spec: &str| {
        format!(
            "apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {{name: fast, namespace: lb}}\n{spec}\n"
        )
    };
    let read = |spec: &str| {
        let (corpus, report) = load(&[profile(spec)]);
        assert_eq!(report.problems, [], "{spec}");
        corpus.objects().iter::<BfdProfile>().next().unwrap().1.clone()
    };
    let defaults = read("");
    assert_eq!(defaults, read("spec: {}"));
    assert_eq!((defaults.detect_multiplier, defaults.minimum_ttl), (3, 254));
    assert_eq!(defaults.receive_interval, Duration::from_millis(300));
    let all = read(
        "spec: {receiveInterval: 10, transmitInterval: 60000, detectMultiplier: 255, echoInterval: 20, echoMode: true, \
         passiveMode: true, minimumTtl: 1}",
    );
    assert_eq!(all.echo_interval, Some(Duration::from_millis(20)));
    assert!(all.passive);
    for spec in [
        "spec: {receiveInterval: 9}",
        "spec: {transmitInterval: 60001}",
        "spec: {detectMultiplier: 1}",
        "spec: {echoInterval: 5}",
        "spec: {minimumTtl: 255}",
        "spec: {echo: true}",
    ] {
        assert_eq!(problems(&[profile(spec)]).len(), 1, "{spec}");
    }
}

#[test]
fn an_advertisement_that_reaches_nobody_is_told() {
    let advertisement = "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\n\
                         metadata: {name: all, namespace: lb}\nspec: {peers: [rooter, tor]}\n";
    let notices = |documents: &[String]| {
        let (_, report) = load(documents);
        assert_eq!(report.problems, []);
        report.notices.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        notices(&[advertisement.to_owned()]),
        [
            "peers.yaml:1 (document 1): BGPAdvertisement lb/all: there is no BGPPeer, so that no router is told: add one"
        ]
    );
    let tor = peer("tor", "v1beta2", "myASN: 64512\npeerASN: 64513\npeerAddress: 192.0.2.1");
    assert_eq!(
        notices(&[advertisement.to_owned(), tor]),
        [
            "peers.yaml:4 (document 1): BGPAdvertisement lb/all: spec.peers: there is no BGPPeer rooter, but tor"
        ]
    );
}
