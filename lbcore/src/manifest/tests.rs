//! MetalLB's and Kubernetes' documents: what is read, and every refusal with its words.

use proptest::prelude::*;

use super::kubernetes::ServiceEndpoints;
use super::*;
use crate::addr::Family;
use crate::allocator::{Families, PoolAllocator};
use crate::id::{NodeName, ObjectName, OwnerKey};
use crate::plan::{self, Endpoints, Means, Serving, TrafficPolicy, World};

fn load(texts: &[&str]) -> (Corpus, Report) {
    let mut corpus = Corpus::new(kinds(Kinds::new()));
    let files: Vec<_> =
        texts.iter().enumerate().map(|(n, text)| SourceFile::new(format!("{n}.yaml"), *text)).collect();
    let report = corpus.load(&files);
    (corpus, report)
}

fn problems(text: &str) -> Vec<String> {
    load(&[text]).1.problems.iter().map(ToString::to_string).collect()
}

fn world_of(text: &str) -> World {
    let (corpus, report) = load(&[text]);
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    world(corpus.objects())
}

/// An object of MetalLB's in one line each: the second line is the spec.
fn metallb(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: metallb.io/v1beta1\nkind: {kind}\nmetadata: {{name: {name}, namespace: metallb-system}}\nspec: {{{spec}}}\n"
    )
}

fn pool(name: &str, spec: &str) -> String {
    metallb("IPAddressPool", name, spec)
}

fn service(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, {metadata}}}\nspec: {{type: LoadBalancer, {spec}}}\n"
    )
}

#[test]
fn every_refusal_says_where_and_what_to_do() {
    let at = |line: u32, document: u32, rest: &str| format!("0.yaml:{line} (document {document}): {rest}");
    let one = |rest: &str| vec![at(5, 1, rest)];
    let a = "IPAddressPool metallb-system/a";
    let ad = "L2Advertisement metallb-system/a";
    let bgp = "BGPAdvertisement metallb-system/a";
    let cases: Vec<(String, Vec<String>)> = vec![
        // Pools.
        (
            pool("a", "addresses: []"),
            one(&format!("{a}: spec.addresses: the pool has no addresses: give it at least one range, as 192.0.2.0/28")),
        ),
        (pool("a", "autoAssign: true"), one(&format!("{a}: spec.addresses: is missing: add it"))),
        (
            pool("a", "addresses: [10.0.0.9-10.0.0.1, 10.0.1.1-fd00::1, 10.0.0.7, ten, 10.0.0.0/33, '']"),
            [
                "spec.addresses[0]: the range 10.0.0.9-10.0.0.1 is inverted: write the lower address first, 10.0.0.1-10.0.0.9",
                "spec.addresses[1]: the range 10.0.1.1-fd00::1 mixes IPv4 and IPv6: write one range for each family",
                "spec.addresses[2]: 10.0.0.7 is an address, not a range: write 10.0.0.7/32",
                "spec.addresses[3]: \"ten\" is no address range: write 10.0.0.0/24 or 10.0.0.10-10.0.0.50",
                "spec.addresses[4]: \"10.0.0.0/33\" is no prefix: write ADDRESS/LENGTH, for example 10.0.0.0/24 or fd00::/120",
                "spec.addresses[5]: \"\" is no address range: write 10.0.0.0/24 or 10.0.0.10-10.0.0.50",
            ]
            .iter()
            .flat_map(|rest| one(&format!("{a}: {rest}")))
            .collect(),
        ),
        (
            pool("a", "addresses: [127.0.0.0/30, 10.0.0.0-255.255.255.255]"),
            [
                "spec.addresses[0]: has addresses of 127.0.0.0/8 (loopback), which no service can have: leave them out",
                "spec.addresses[1]: has addresses of 127.0.0.0/8 (loopback), which no service can have: leave them out",
            ]
            .iter()
            .flat_map(|rest| one(&format!("{a}: {rest}")))
            .collect(),
        ),
        (
            pool("a", "addresses: [10.0.0.0/24, 10.0.0.128/25]"),
            one(&format!(
                "{a}: spec.addresses[1]: 10.0.0.128/25 overlaps 10.0.0.0/24 of the same pool: remove one, or shorten it"
            )),
        ),
        (
            pool("a", "addresses: [10.0.0.0/24]") + &pool("b", "addresses: [10.1.0.0/24, 10.0.0.200-10.0.1.3]"),
            vec![at(
                10,
                2,
                "IPAddressPool metallb-system/b: spec.addresses[1]: 10.0.0.200-10.0.1.3 overlaps 10.0.0.0/24 of pool a at \
                 0.yaml:2 (document 1): an address has one place, shorten one of the ranges",
            )],
        ),
        (
            pool("a", "addresses: [10.0.0.0/24]")
                + &pool("a", "addresses: [10.1.0.0/24]").replace("metallb-system", "elsewhere"),
            vec![at(
                9,
                2,
                "IPAddressPool elsewhere/a: metadata.name: there is another pool of this name, metallb-system/a at \
                 0.yaml:2 (document 1): rename one",
            )],
        ),
        (
            pool("a", "addresses: [10.0.0.0/24]") + &pool("a", "addresses: [10.1.0.0/24]"),
            vec![at(7, 2, &format!("{a}: is there twice, first at 0.yaml:2 (document 1): rename or remove one"))],
        ),
        (
            pool("a", "addresses: [10.0.0.0/24], autoAsign: false, avoidBuggyIPs: maybe"),
            one(&format!("{a}: spec.autoAsign: unknown field: did you mean `autoAssign`?"))
                .into_iter()
                .chain(one(&format!("{a}: spec.avoidBuggyIPs: must be true or false, not maybe")))
                .collect(),
        ),
        (
            pool("a", "addresses: [10.0.0.0/24], serviceAllocation: {priority: -1, namespaces: [x, x], \
                       serviceSelectors: [{matchLabels: {a: b}}, {matchLabels: {a: b}}], \
                       namespaceSelectors: [{matchExpressions: [{key: a, operator: In, values: [x, x]}, \
                       {key: a, operator: in, values: [x]}, {key: b, operator: Exists, values: [x]}, {key: c, operator: NotIn}]}]}"),
            [
                "spec.serviceAllocation.namespaceSelectors[0].matchExpressions[0].values[1]: \"x\" is there twice: remove one",
                "spec.serviceAllocation.namespaceSelectors[0].matchExpressions[1].operator: \"in\" is not known here: did you mean \"In\"?",
                "spec.serviceAllocation.namespaceSelectors[0].matchExpressions[2].values: must be empty with the operators Exists and DoesNotExist: remove it",
                "spec.serviceAllocation.namespaceSelectors[0].matchExpressions[3].values: needs at least one value with the operators In and NotIn",
                "spec.serviceAllocation.namespaces[1]: \"x\" is there twice: remove one",
                "spec.serviceAllocation.priority: must be a whole number from 0 to 2147483647, not -1",
                "spec.serviceAllocation.serviceSelectors[1]: the selector a=b is there twice: remove one",
            ]
            .iter()
            .flat_map(|rest| one(&format!("{a}: {rest}")))
            .collect(),
        ),
        (
            pool("a", "addresses: [10.0.0.0/24]").replace("name: a", "name: a, annotations: {lbcore.io/drain: 'yes'}"),
            vec![at(
                4,
                1,
                &format!("{a}: metadata.annotations[\"lbcore.io/drain\"]: \"yes\" is not known here: use true, false"),
            )],
        ),
        // Advertisements.
        (
            metallb("L2Advertisement", "a", "ipAddressPools: [nope]"),
            one(&format!("{ad}: spec.ipAddressPools[0]: there is no IPAddressPool nope: add it")),
        ),
        (
            pool("public", "addresses: [10.0.0.0/24]") + &metallb("L2Advertisement", "a", "ipAddressPools: [publik, other]"),
            vec![
                at(10, 2, &format!("{ad}: spec.ipAddressPools[0]: there is no IPAddressPool publik: did you mean public?")),
                at(
                    10,
                    2,
                    &format!("{ad}: spec.ipAddressPools[1]: there is no IPAddressPool other: add it, or name one of public"),
                ),
            ],
        ),
        (
            metallb("L2Advertisement", "a", "interfaces: [eth0, eth0], nodeSelectors: [{}, {}], \
                    preferredNodeSelectors: [{weight: 0, preference: {}}, {weight: 101}], aggregationLength: 24"),
            [
                "spec.aggregationLength: unknown field: remove it, or use one of interfaces, ipAddressPoolSelectors, \
                 ipAddressPools, nodeSelectors, preferredNodeSelectors, serviceSelectors",
                "spec.interfaces[1]: \"eth0\" is there twice: remove one",
                "spec.nodeSelectors[1]: the selector (everything) is there twice: remove one",
                "spec.preferredNodeSelectors[0].weight: must be a whole number from 1 to 100, not 0",
                "spec.preferredNodeSelectors[1].preference: is missing: add it",
                "spec.preferredNodeSelectors[1].weight: must be a whole number from 1 to 100, not 101",
            ]
            .iter()
            .flat_map(|rest| one(&format!("{ad}: {rest}")))
            .collect(),
        ),
        (
            metallb("BGPAdvertisement", "a", "aggregationLength: 33, aggregationLengthV6: 0, localPref: high, \
                    communities: ['65536:1', 'large:1:2', '65000:1', '65000:1'], peers: [x, x]"),
            [
                "spec.aggregationLength: must be a whole number from 1 to 32, not 33",
                "spec.aggregationLengthV6: must be a whole number from 1 to 128, not 0",
                "spec.communities[0]: \"65536:1\" is no community: write N:N, each at most 65535, large:N:N:N, or an alias",
                "spec.communities[1]: \"large:1:2\" is no large community: write large:N:N:N, each at most 4294967295",
                "spec.communities[3]: \"65000:1\" is there twice: remove one",
                "spec.localPref: must be a whole number from 0 to 4294967295, not high",
                "spec.peers[1]: \"x\" is there twice: remove one",
            ]
            .iter()
            .flat_map(|rest| one(&format!("{bgp}: {rest}")))
            .collect(),
        ),
        (
            metallb("BGPAdvertisement", "a", "aggregationLength: 24, serviceSelectors: [{matchLabels: {a: b}}]"),
            one(&format!(
                "{bgp}: spec.aggregationLength: serviceSelectors need host routes: remove it, or the serviceSelectors"
            )),
        ),
        (
            pool("p", "addresses: [10.0.0.0/28, 'fd00::/120', 10.9.0.1-10.9.0.2]")
                + &metallb("BGPAdvertisement", "a", "aggregationLength: 24, aggregationLengthV6: 64"),
            vec![
                at(
                    10,
                    2,
                    &format!("{bgp}: spec.aggregationLength: an aggregate of /24 is larger than 10.0.0.0/28 of pool p: use 28 or more"),
                ),
                at(
                    10,
                    2,
                    &format!("{bgp}: spec.aggregationLengthV6: an aggregate of /64 is larger than fd00::/120 of pool p: use 120 or more"),
                ),
            ],
        ),
        (
            metallb("BGPAdvertisement", "a", "communities: [vpn-onyl]")
                + &metallb("Community", "c", "communities: [{name: vpn-only, value: '1:2'}]"),
            one(&format!("{bgp}: spec.communities[0]: no Community has the alias vpn-onyl: did you mean vpn-only?")),
        ),
        (
            metallb("Community", "c", "communities: [{name: x, value: '1:2'}, {name: x, value: '1:3'}, {name: y, value: z}, {name: z}]"),
            [
                "spec.communities[2].value: \"z\" is no community: write N:N or large:N:N:N",
                "spec.communities[3].value: is missing: add it",
            ]
            .iter()
            .flat_map(|rest| one(&format!("Community metallb-system/c: {rest}")))
            .collect(),
        ),
        (
            metallb("Community", "c", "communities: [{name: x, value: '1:2'}]")
                + &metallb("Community", "d", "communities: [{name: x, value: '1:3'}]"),
            vec![at(
                10,
                2,
                "Community metallb-system/d: spec.communities[0].name: the alias x is there twice, also at 0.yaml:2 \
                 (document 1): rename one",
            )],
        ),
        (
            pool("p", "addresses: [10.0.0.0/28]")
                + &metallb("BGPAdvertisement", "a", "localPref: 100, peers: [x, y]")
                + &metallb("BGPAdvertisement", "b", "localPref: 200, peers: [y, z]"),
            vec![at(
                15,
                3,
                "BGPAdvertisement metallb-system/b: spec.localPref: BGPAdvertisement metallb-system/a at 0.yaml:7 (document 2) \
                 gives the same routes to the same peers another localPref: use one value, or let them differ in pools, \
                 peers, nodes or aggregation",
            )],
        ),
        (
            metallb("BGPAdvertisement", "a", "localPref: 100") + &metallb("BGPAdvertisement", "b", "localPref: 100"),
            vec![at(
                10,
                2,
                "BGPAdvertisement metallb-system/b: spec: says the same as BGPAdvertisement metallb-system/a at \
                 0.yaml:2 (document 1): remove one",
            )],
        ),
        // Kinds and versions.
        (
            metallb("AddressPool", "a", ""),
            vec![at(3, 1, "kind: metallb.io has no kind AddressPool: did you mean IPAddressPool?")],
        ),
        (
            metallb("IPAddresPool", "a", ""),
            vec![at(3, 1, "kind: metallb.io has no kind IPAddresPool: did you mean IPAddressPool?")],
        ),
        (
            pool("a", "addresses: [10.0.0.0/24]").replace("v1beta1", "v1alpha1"),
            vec![at(2, 1, &format!("{a}: apiVersion: IPAddressPool has no version v1alpha1: write metallb.io/v1beta1"))],
        ),
        // Kubernetes' own kinds.
        (
            service("s", "", "ports: [{port: 80}, {port: 80}, {port: 0}, {port: 81, protocol: tcp}], externalTrafficPolicy: local"),
            [
                "spec.externalTrafficPolicy: \"local\" is not known here: did you mean \"Local\"?",
                "spec.ports[1]: TCP/80 is there twice: remove one",
                "spec.ports[2].port: must be a whole number from 1 to 65535, not 0",
                "spec.ports[3].protocol: \"tcp\" is not known here: did you mean \"TCP\"?",
            ]
            .iter()
            .flat_map(|rest| one(&format!("Service default/s: {rest}")))
            .collect(),
        ),
        (
            service("s", "creationTimestamp: yesterday", "ipFamilies: [IPv4, IPv4, v6]"),
            vec![
                at(4, 1, "Service default/s: metadata.creationTimestamp: \"yesterday\" is no time: write one like 2026-01-31T09:30:00Z"),
                at(5, 1, "Service default/s: spec.ipFamilies[1]: IPv4 is there twice: remove one"),
                at(5, 1, "Service default/s: spec.ipFamilies[2]: \"v6\" is not known here: use IPv4, IPv6"),
            ],
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\nendpoints: [{}, {addresses: [x]}]\n".into(),
            vec![
                at(1, 1, "EndpointSlice default/e: addressType: is missing: add it"),
                at(4, 1, "EndpointSlice default/e: endpoints[0].addresses: is missing: add it"),
            ],
        ),
        ("a: b: c\n".into(), vec![at(1, 1, "this is not YAML: mapping values are not allowed in this context (column 5): mend the line or the indentation before it")]),
    ];
    for (text, expected) in cases {
        assert_eq!(problems(&text), expected, "{text}");
    }
}

#[test]
fn all_errors_of_all_files_come_at_once() {
    let (_, report) = load(&[
        &(pool("a", "addresses: [x]") + "---\n[\n" + &pool("b", "adresses: [10.0.0.0/24]")),
        &metallb("L2Advertisement", "x", "ipAddressPools: [a, b, c]"),
    ]);
    let lines: Vec<_> =
        report.problems.iter().map(|problem| (&*problem.place.file, problem.place.line)).collect();
    assert_eq!(lines, [("0.yaml", 5), ("0.yaml", 7), ("0.yaml", 12), ("0.yaml", 12)]);
}

#[test]
fn fields_and_kinds_of_kubernetes_that_are_not_read_are_no_errors() {
    let text = service(
        "s",
        "finalizers: [x]",
        "sessionAffinity: None, ports: [{port: 80, targetPort: http}]",
    ) + "status: {loadBalancer: {ingress: [{hostname: x}, {ip: 10.0.0.1, ipMode: VIP}]}, conditions: []}\n\
           ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replicas: 3}\n\
           ---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: x}\nspec: {}\n";
    let (corpus, report) = load(&[&text]);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let notices: Vec<_> = report.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "0.yaml:8 (document 2): Deployment (apps) is passed over: nothing here reads this kind",
            "0.yaml:13 (document 3): BGPPeer (metallb.io) is passed over: only a BGP speaker reads it",
        ]
    );
    let service = corpus.objects().get::<Service>(&ObjectName::new("default", "s")).unwrap();
    assert_eq!(service.shown, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(service.ports[0].target, kubernetes::TargetPort::Name("http".into()));
}

#[test]
fn pools_are_read_whole() {
    let text = pool(
        "a",
        "addresses: [10.0.0.7/24, 'fd00::10 - fd00::1f'], autoAssign: false, avoidBuggyIPs: true, serviceAllocation: \
         {priority: 5, namespaces: [x, y], namespaceSelectors: [{matchLabels: {team: red}}], serviceSelectors: \
         [{matchExpressions: [{key: app, operator: In, values: [web]}]}]}",
    )
    .replace("{name: a", "{name: a, labels: {tier: gold}, annotations: {lbcore.io/drain: 'true'}");
    let world = world_of(&text);
    let pool = world.pools.get(&"a".into()).unwrap();
    assert_eq!(format!("{:?}", pool.ranges), "[10.0.0.0/24, fd00::10/124]");
    assert_eq!((pool.auto_assign, pool.avoid_buggy, pool.draining), (false, true, true));
    assert_eq!(pool.labels.get("tier"), Some("gold"));
    let allocation = pool.service_allocation.as_ref().unwrap();
    assert_eq!(allocation.priority, 5);
    assert_eq!(allocation.namespaces.len(), 2);
    assert_eq!(allocation.namespace_selectors[0].to_string(), "team=red");
    assert_eq!(allocation.service_selectors[0].to_string(), "app in (web)");
}

#[test]
fn advertisements_are_read_whole() {
    let text = pool("a", "addresses: [10.0.0.0/16, 'fd00::/48']")
        + &metallb(
            "L2Advertisement",
            "l2",
            "ipAddressPools: [a], interfaces: [eth0], nodeSelectors: [{matchLabels: {rack: '1'}}], \
             preferredNodeSelectors: [{weight: 40, preference: {matchLabels: {fast: 'yes'}}}]",
        )
        + &metallb(
            "BGPAdvertisement",
            "bgp",
            "aggregationLength: 24, aggregationLengthV6: 64, localPref: 150, communities: ['65000:1', vpn, 'large:1:2:3'], \
             peers: [tor], ipAddressPoolSelectors: [{matchLabels: {x: y}}]",
        )
        + &metallb(
            "Community",
            "c",
            "communities: [{name: vpn, value: '65000:9'}, {name: big, value: 'large:7:8:9'}]",
        );
    let world = world_of(&text);
    let [l2, bgp] = world.advertisements.as_slice() else { panic!() };
    let Means::L2(terms) = &l2.means else { panic!() };
    assert_eq!((l2.name.as_str(), terms.interfaces.len(), terms.preferences[0].weight), ("l2", 1, 40));
    assert_eq!(l2.node_selectors[0].to_string(), "rack=1");
    let Means::Bgp(terms) = &bgp.means else { panic!() };
    assert_eq!((terms.aggregation_v4, terms.aggregation_v6, terms.local_pref), (24, 64, Some(150)));
    assert_eq!(terms.communities, [(65000 << 16) | 1, (65000 << 16) | 9].into());
    assert_eq!(terms.large_communities, [(1, 2, 3)].into());
    assert_eq!(terms.peers.len(), 1);
    // A spec is not needed: everything is announced.
    let bare = "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: x}\n";
    assert_eq!(world_of(bare).advertisements, [plan::Advertisement::l2("x")]);
}

#[test]
fn different_local_prefs_are_fine_where_they_never_meet() {
    let nodes = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {r: a}}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n2, labels: {r: b}}\n";
    let ads = |a: &str, b: &str| {
        pool("p", "addresses: [10.0.0.0/16]")
            + &pool("q", "addresses: [10.1.0.0/16]")
            + &metallb("BGPAdvertisement", "a", &format!("localPref: 1, {a}"))
            + &metallb("BGPAdvertisement", "b", &format!("localPref: 2, {b}"))
    };
    for (a, b, nodes, fine) in [
        ("peers: [x]", "peers: [y]", "", true),
        ("ipAddressPools: [p]", "ipAddressPools: [q]", "", true),
        ("aggregationLength: 24, aggregationLengthV6: 64", "", "", true),
        ("nodeSelectors: [{matchLabels: {r: a}}]", "nodeSelectors: [{matchLabels: {r: b}}]", nodes, true),
        ("nodeSelectors: [{matchLabels: {r: a}}]", "nodeSelectors: [{matchLabels: {r: b}}]", "", false),
        ("nodeSelectors: [{matchLabels: {r: a}}]", "", nodes, false),
        ("aggregationLength: 24", "", "", false),
        ("peers: [x]", "", "", false),
    ] {
        let text = ads(a, b) + nodes;
        assert_eq!(problems(&text).is_empty(), fine, "{a} / {b}");
    }
}

#[test]
fn services_ask_for_what_their_annotations_say() {
    let text = service(
        "a",
        "namespace: shop, labels: {app: web}, creationTimestamp: '2026-01-01T00:00:00Z', annotations: \
         {metallb.io/address-pool: p, metallb.io/loadBalancerIPs: 'fd00::1, 10.0.0.1', metallb.io/allow-shared-ip: k}",
        "ports: [{port: 80}, {port: 53, protocol: UDP}], selector: {app: web, tier: x}, externalTrafficPolicy: Local, \
         ipFamilyPolicy: RequireDualStack",
    ) + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: red}}\n";
    let world = world_of(&text);
    let demand = &world.demands[&OwnerKey::service("shop", "a")];
    let request = &demand.request;
    assert_eq!(demand.fault, None);
    assert_eq!((demand.traffic, demand.shares), (TrafficPolicy::Local, true));
    assert!(demand.created.is_some());
    assert_eq!(request.pool, Some("p".into()));
    assert_eq!(format!("{:?}", request.addresses), "[10.0.0.1, fd00::1]");
    assert_eq!(request.families, Families::RequireDual);
    assert_eq!(request.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["TCP/80", "UDP/53"]);
    let sharing = request.sharing.as_ref().unwrap();
    assert_eq!((&*sharing.key, &*sharing.backend), ("k", "app=web,tier=x"));
    assert_eq!(request.namespace_labels.get("team"), Some("red"));
    assert_eq!(request.namespace_labels.get("kubernetes.io/metadata.name"), Some("shop"));
    assert_eq!(demand.labels.get("app"), Some("web"));
}

#[test]
fn legacy_annotations_are_read_with_a_notice() {
    let text = service("a", "annotations: {metallb.universe.tf/address-pool: p}", "ports: [{port: 80}]");
    let (corpus, report) = load(&[&text]);
    let world = world(corpus.objects());
    assert_eq!(world.demands[&OwnerKey::service("default", "a")].request.pool, Some("p".into()));
    assert_eq!(
        report.notices[0].to_string(),
        "0.yaml:2 (document 1): Service default/a: the annotation metallb.universe.tf/address-pool is deprecated: \
         write metallb.io/address-pool"
    );
}

#[test]
fn an_annotation_that_nothing_reads_is_told_of() {
    let all = "metallb.io/address-pool, metallb.io/loadBalancerIPs, metallb.io/allow-shared-ip";
    for (annotation, expected) in [
        ("metallb.io/adress-pool", Some("did you mean metallb.io/address-pool?")),
        ("metallb.universe.tf/loadBalancerIP", Some("did you mean metallb.io/loadBalancerIPs?")),
        ("metallb.io/bandwidth", Some(&*format!("there are {all}"))),
        ("metallb.io/ip-allocated-from-pool", None),
        ("metallb.universe.tf/ip-allocated-from-pool", None),
        ("metallb.io/allow-shared-ip", None),
        ("example.org/adress-pool", None),
    ] {
        let text = service("a", &format!("annotations: {{{annotation}: x}}"), "ports: [{port: 80}]");
        let notices: Vec<_> = load(&[&text]).1.notices.iter().map(ToString::to_string).collect();
        let expected = expected.map(|rest| {
            format!(
                "0.yaml:2 (document 1): Service default/a: nothing reads the annotation {annotation}: {rest}"
            )
        });
        assert_eq!(notices, expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_kind_that_is_nearly_one_that_is_read_is_told_of() {
    for (api_version, kind, rest) in [
        ("v1", "Servce", ": did you mean Service?"),
        ("discovery.k8s.io/v1", "EndpointSlices", " (discovery.k8s.io)…: did you mean EndpointSlice?"),
        ("v1", "Secret", ""),
        // Somebody else's kind of a name like ours.
        ("example.org/v1", "Servce", " (example.org)…"),
    ] {
        let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\n");
        let (group, meant) = rest.split_once('…').unwrap_or(("", rest));
        assert_eq!(
            load(&[&text]).1.notices[0].to_string(),
            format!(
                "0.yaml:1 (document 1): {kind}{group} is passed over: nothing here reads this kind{meant}"
            )
        );
    }
}

#[test]
fn what_a_user_wrote_sends_no_commands_to_a_terminal() {
    let mut corpus = Corpus::new(kinds(Kinds::new()));
    let name = "\\e]0;me\\u0007";
    let text = service(&format!("\"{name}\""), "", "ports: [{port: 0}]")
        + &format!("---\napiVersion: v1\nkind: \"{name}\"\nmetadata: {{name: a}}\n")
        + &format!("---\napiVersion: metallb.io/v1beta1\nkind: \"{name}\"\nmetadata: {{name: a}}\n")
        + &service("b", &format!("annotations: {{\"metallb.io/{name}\": x, lbcore: [\"{name}\"]}}"), "");
    let report = corpus.load(&[SourceFile::new("new\nline\u{1b}[31m\u{9b}1m.yaml", text)]);
    let said: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    let said = [said, report.notices.iter().map(ToString::to_string).collect()].concat();
    assert_eq!(said.len(), 6, "{said:#?}");
    assert_eq!(
        said[1],
        "new\\nline\\u{1b}[31m\\u{9b}1m.yaml:5 (document 1): Service default/\\u{1b}]0;me\\u{7}: spec.ports[0].port: \
         must be a whole number from 1 to 65535, not 0"
    );
    assert!(said.iter().all(|said| !said.contains(char::is_control)), "{said:#?}");
}

#[test]
fn a_file_that_is_too_long_is_not_counted() {
    let report = load(&[&" ".repeat(MAX_FILE_BYTES + 1)]).1;
    assert_eq!(report.problems[0].to_string(), "0.yaml: has more than 67108864 bytes: split it");
}

#[test]
fn a_request_that_contradicts_itself_is_the_services_fault_alone() {
    for (annotation, spec, fault) in [
        (
            "10.0.0.1",
            "loadBalancerIP: 10.0.0.2",
            "it asks for addresses by metallb.io/loadBalancerIPs and by spec.loadBalancerIP: remove the latter",
        ),
        (
            "ten",
            "",
            "metallb.io/loadBalancerIPs: \"ten\" is no IP address: write one like 192.0.2.1 or 2001:db8::1",
        ),
        (
            "10.0.0.1,10.0.0.2",
            "",
            "metallb.io/loadBalancerIPs: 10.0.0.1,10.0.0.2 has two IPv4 addresses: ask for one of each family at most",
        ),
        (
            "ten,10.0.0.1,eleven,10.0.0.2",
            "loadBalancerIP: 10.0.0.2",
            "it asks for addresses by metallb.io/loadBalancerIPs and by spec.loadBalancerIP: remove the latter; \
             metallb.io/loadBalancerIPs: \"ten\" is no IP address: write one like 192.0.2.1 or 2001:db8::1; \
             metallb.io/loadBalancerIPs: \"eleven\" is no IP address: write one like 192.0.2.1 or 2001:db8::1; \
             metallb.io/loadBalancerIPs: ten,10.0.0.1,eleven,10.0.0.2 has two IPv4 addresses: ask for one of each family \
             at most",
        ),
        (
            "ten",
            "ipFamilyPolicy: RequireDualStack, clusterIPs: [10.1.2.3]",
            "metallb.io/loadBalancerIPs: \"ten\" is no IP address: write one like 192.0.2.1 or 2001:db8::1; \
             ipFamilyPolicy is RequireDualStack, but it has one clusterIP: give the cluster both families, or use \
             PreferDualStack",
        ),
        (
            "",
            "ipFamilyPolicy: RequireDualStack, clusterIPs: [10.1.2.3]",
            "ipFamilyPolicy is RequireDualStack, but it has one clusterIP: give the cluster both families, or use \
             PreferDualStack",
        ),
    ] {
        let annotations = format!("annotations: {{metallb.io/loadBalancerIPs: '{annotation}'}}");
        let world = world_of(&(pool("p", "addresses: [10.0.0.0/24]") + &service("a", &annotations, spec)));
        let fault_found =
            world.demands[&OwnerKey::service("default", "a")].fault.as_ref().unwrap().to_string();
        assert_eq!(fault_found, fault);
    }
}

#[test]
fn families_follow_the_cluster_addresses() {
    let v4 = Families::Single(Family::V4);
    let v6 = Families::Single(Family::V6);
    for (spec, expected) in [
        ("", v4),
        ("ipFamilies: [IPv6]", v6),
        ("clusterIP: 'fd00::1'", v6),
        ("clusterIP: None", v4),
        ("clusterIP: 10.1.2.3, ipFamilyPolicy: PreferDualStack", v4),
        ("clusterIPs: ['fd00::1'], ipFamilyPolicy: PreferDualStack", v6),
        ("ipFamilyPolicy: PreferDualStack", Families::PreferDual { primary: Family::V4 }),
        (
            "ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6, IPv4]",
            Families::PreferDual { primary: Family::V6 },
        ),
        (
            "ipFamilyPolicy: PreferDualStack, clusterIPs: ['fd00::1', 10.1.2.3]",
            Families::PreferDual { primary: Family::V6 },
        ),
        ("ipFamilyPolicy: RequireDualStack", Families::RequireDual),
        ("ipFamilies: [IPv4, IPv6]", Families::RequireDual),
        ("ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]", v6),
    ] {
        let world = world_of(&service("a", "", spec));
        assert_eq!(world.demands[&OwnerKey::service("default", "a")].request.families, expected, "{spec}");
    }
}

#[test]
fn endpoints_that_terminate_but_serve_count() {
    let slice = |name: &str, endpoints: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: \
             {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{port: 80, name: http}}]\nendpoints: [{endpoints}]\n"
        )
    };
    let endpoint = |node: &str, conditions: &str| {
        format!("{{addresses: [10.0.0.1], nodeName: {node}, conditions: {{{conditions}}}}}, ")
    };
    let text = slice(
        "a",
        &(endpoint("ready", "ready: true")
            + &endpoint("unknown", "")
            + &endpoint("terminating", "ready: false, serving: true, terminating: true")
            + &endpoint("down", "ready: false")
            + &endpoint("gone", "ready: false, serving: false")),
    ) + &slice("b", "{addresses: [10.0.0.9]}");
    let Endpoints::Of(services) = world_of(&text).endpoints else { panic!() };
    let nodes = ["ready", "unknown", "terminating"].map(NodeName::from).into();
    assert_eq!(services[&ObjectName::new("default", "web")], Serving { nodes, elsewhere: true });
    assert_eq!(world_of("").endpoints, Endpoints::Everywhere);
}

#[test]
fn one_mistake_hides_no_other() {
    let ad = "nodeSelectors: [{matchExpressions: [{operator: Inn, values: [a, a]}]}]";
    let port = "ports: [{port: 0, protocol: TPC, targetPort: 0, appProtocol: 1}]";
    let found = problems(&(metallb("L2Advertisement", "a", ad) + &service("a", "", port)));
    for path in [
        "spec.nodeSelectors[0].matchExpressions[0].key",
        "spec.nodeSelectors[0].matchExpressions[0].operator",
        "spec.nodeSelectors[0].matchExpressions[0].values[1]",
        "spec.ports[0].port",
        "spec.ports[0].protocol",
        "spec.ports[0].targetPort",
        "spec.ports[0].appProtocol",
    ] {
        assert!(found.iter().any(|found| found.contains(&format!(": {path}: "))), "{path}\n{found:#?}");
    }
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn those_that_terminate_take_traffic_where_none_is_ready() {
    let (ready, terminating, down) =
        ("ready: true", "ready: false, serving: true, terminating: true", "ready: false, serving: false");
    let slice = |name: &str, family: &str, rest: &str, endpoints: &[(&str, &str, &str)]| {
        let endpoint = |(address, node, conditions): &(&str, &str, &str)| {
            format!("{{addresses: ['{address}'], nodeName: {node}, conditions: {{{conditions}}}}}, ")
        };
        let endpoints: String = endpoints.iter().map(endpoint).collect();
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: \
             {{kubernetes.io/service-name: web}}}}\naddressType: {family}\n{rest}\nendpoints: [{endpoints}]\n"
        )
    };
    let http = "ports: [{name: http, port: 8080}, {name: all}, {name: udp, port: 5353, protocol: UDP}]";
    let first = [("10.0.0.1", "n1", ready), ("10.0.0.2", "n2", terminating), ("10.0.0.3", "n3", down)];
    let second = [("10.0.0.1", "n1", ready), ("10.0.0.9", "n2", "ready: false, terminating: true")];
    let of_ipv6 = [("fd00::2", "n2", terminating), ("fd00::3", "n3", down)];
    let metrics = [("10.0.0.1", "n1", down), ("10.0.0.2", "n2", terminating)];
    let text = slice("a", "IPv4", http, &first)
        + &slice("b", "IPv4", http, &second)
        + &slice("c", "IPv6", http, &of_ipv6)
        + &slice("d", "IPv4", "ports: [{name: metrics, port: 9090}]", &metrics)
        + &service(
            "web",
            "",
            "ports: [{name: http, port: 80}, {name: metrics, port: 81}, {name: all, port: 82, targetPort: 83}, \
             {name: udp, port: 53}]",
        );
    let (corpus, report) = load(&[&text]);
    assert_eq!(report.problems, []);
    let web = ObjectName::new("default", "web");
    let ports = &corpus.objects().get::<Service>(&web).unwrap().ports;
    let endpoints = ServiceEndpoints::new(corpus.objects());
    for (port, node, expected) in [
        (0, None, &["10.0.0.1:8080", "[fd00::2]:8080"][..]),
        (0, Some("n1"), &["10.0.0.1:8080"]),
        (0, Some("n2"), &["10.0.0.2:8080", "10.0.0.9:8080", "[fd00::2]:8080"]),
        (0, Some("n3"), &[]),
        (1, None, &["10.0.0.2:9090"]),
        // A slice that names no number means all: the Service's target it is.
        (2, None, &["10.0.0.1:83", "[fd00::2]:83"]),
        // Of another protocol.
        (3, None, &[]),
    ] {
        let node = node.map(NodeName::from);
        let found = endpoints.addresses(&web, &ports[port], node.as_ref());
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{} on {node:?}", ports[port].name);
    }
}

#[test]
fn nodes_tell_what_keeps_them_from_announcing() {
    let text = "apiVersion: v1\nkind: Node\nmetadata: {name: a, labels: {node.kubernetes.io/exclude-from-external-load-balancers: ''}}\n\
                ---\napiVersion: v1\nkind: Node\nmetadata: {name: b}\nspec: {unschedulable: true}\nstatus: {conditions: [{type: Ready, status: 'True'}, {type: NetworkUnavailable, status: 'False'}]}\n\
                ---\napiVersion: v1\nkind: Node\nmetadata: {name: c}\nstatus: {conditions: [{type: NetworkUnavailable, status: 'True'}, {type: Ready, status: 'False'}], addresses: [{type: InternalIP, address: 10.0.0.3}, {type: Hostname, address: c}]}\n";
    let world = world_of(text);
    let gates: Vec<_> = world.nodes.values().map(|node| (node.excluded, node.network_unavailable)).collect();
    assert_eq!(
        gates,
        [(true, false), (false, false), (false, true)],
        "neither cordon nor NotReady is a gate"
    );
}

#[test]
fn a_typo_on_reload_revokes_nothing() {
    let mut corpus = Corpus::new(kinds(Kinds::new()));
    let mut allocator = PoolAllocator::new();
    let ad = metallb("L2Advertisement", "all", "");
    let web = service("web", "", "ports: [{port: 80}]");
    let mut step = |pools: String| {
        let report = corpus.load(&[SourceFile::new("all.yaml", pools + &ad + &web)]);
        let world = world(corpus.objects());
        let held = plan::allocate(&mut allocator, &world);
        let address =
            held.held(&OwnerKey::service("default", "web")).map(|held| held.addresses[0].to_string());
        (report.problems.len(), address)
    };
    let address = Some("10.0.0.0".to_owned());
    assert_eq!(step(pool("a", "addresses: [10.0.0.0/30]")), (0, address.clone()));
    for typo in
        ["addresses: [10.0.0.0/33]", "adresses: [10.0.0.0/30]", "addresses: [10.0.0.0/30", "addresses: []"]
    {
        let (problems, held) = step(pool("a", typo));
        assert!(problems > 0 && held == address, "{typo}: {problems} {held:?}");
    }
    // A new pool that overlaps is refused, the old one stays whichever comes first in the file.
    let both = pool("0", "addresses: [10.0.0.0/31]") + &pool("a", "addresses: [10.0.0.0/30]");
    assert_eq!(step(both), (1, address));
    assert_eq!(step(String::new()), (0, None), "a deleted one goes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The same documents in any order, in any split over files, give the same plan.
    #[test]
    fn the_order_of_documents_does_not_matter(order in Just((0..9).collect::<Vec<usize>>()).prop_shuffle(), cut in 0_usize..9) {
        let documents = [
            pool("a", "addresses: [10.0.0.0/31]"),
            pool("b", "addresses: [10.0.1.0/30]"),
            metallb("L2Advertisement", "x", "ipAddressPools: [a], interfaces: [eth0]"),
            metallb("L2Advertisement", "y", ""),
            metallb("BGPAdvertisement", "z", "ipAddressPools: [b]"),
            service("one", "", "ports: [{port: 80}]"),
            service("two", "creationTimestamp: '2026-01-01T00:00:00Z'", "ports: [{port: 80}]"),
            service("three", "annotations: {metallb.io/address-pool: b}", "ports: [{port: 80}]"),
            "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n".to_owned(),
        ];
        let outcome = |order: &[usize], cut: usize| {
            let text = |part: &[usize]| part.iter().map(|index| documents[*index].as_str()).collect::<String>();
            let (corpus, report) = load(&[&text(&order[..cut]), &text(&order[cut..])]);
            assert!(report.problems.is_empty(), "{:?}", report.problems);
            let world = world(corpus.objects());
            let allocations = plan::allocate(&mut PoolAllocator::new(), &world);
            (plan::outlook(&world, &allocations), allocations)
        };
        let sorted: Vec<usize> = (0..9).collect();
        prop_assert_eq!(outcome(&order, cut), outcome(&sorted, 0));
    }

    /// Documents that are cut, repeated and garbled never panic.
    #[test]
    fn no_document_panics(at in 0_usize..2000, len in 0_usize..40, garbage in "[-:{}\\[\\]&*!\"' \na-z0-9]{0,12}") {
        let mut text = pool("a", "addresses: [10.0.0.0/24, 'fd00::/64'], serviceAllocation: {priority: 3, namespaces: [x]}")
            + &metallb("BGPAdvertisement", "z", "aggregationLength: 32, communities: [vpn], peers: [x]")
            + &service("s", "annotations: {metallb.io/loadBalancerIPs: 10.0.0.1}", "ports: [{port: 80, targetPort: x}]");
        let at = at.min(text.len());
        let end = (at + len).min(text.len());
        text.replace_range(at..end, &garbage);
        let (corpus, _) = load(&[&text]);
        let _ = plan::allocate(&mut PoolAllocator::new(), &world(corpus.objects()));
    }
}

#[test]
fn no_service_gets_the_address_of_a_node() {
    let text = pool("a", "addresses: [10.0.0.0/30, fd00::7/128]")
        + "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: \
           [{type: InternalIP, address: 10.0.0.1}, {type: ExternalIP, address: 'fd00::7'}]}\n";
    let mut corpus = Corpus::new(kinds(Kinds::new()));
    let report = corpus.load(&[SourceFile::new("0.yaml", text)]);
    assert_eq!(report.problems, []);
    let notices: Vec<_> = report.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "0.yaml:5 (document 1): IPAddressPool metallb-system/a: spec.addresses[0]: 10.0.0.0/30 has 10.0.0.1, the \
             address of node n1, which no service gets: leave it out",
            "0.yaml:5 (document 1): IPAddressPool metallb-system/a: spec.addresses[1]: fd00::7/128 has fd00::7, the \
             address of node n1, which no service gets: leave it out",
        ]
    );
    let world = world(corpus.objects());
    let ranges: Vec<_> = world.pools.iter().flat_map(|pool| &pool.ranges).map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/32", "10.0.0.2/31"]);
}
