use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::addr::Family;
use crate::allocator::{
    AllocRequest, Families, IpAllocator, Pool, PoolAllocator, Pools, Port, Protocol, ServiceAllocation,
    Sharing,
};
use crate::announce::Interfaces;
use crate::condition::Status;
use crate::elect::{Bid, LeaseId, Owner, Ownership, Term};
use crate::id::{NodeName, ObjectName, OwnerKey, Role};
use crate::labels::{LabelSelector, Labels};
use crate::time::Timestamp;

fn web() -> OwnerKey {
    OwnerKey::service("default", "web")
}

fn pool(name: &str, ranges: &[&str]) -> Pool {
    Pool::new(name, ranges.iter().map(|range| range.parse().unwrap()))
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn set<T: Ord + for<'a> From<&'a str>>(names: &[&str]) -> BTreeSet<T> {
    names.iter().map(|name| T::from(*name)).collect()
}

/// Three nodes, one pool, one service with endpoints on n1 and n2, announced on the segment.
fn world() -> World {
    let pools = Pools::new([pool("public", &["192.0.2.0/29"])]).unwrap();
    let mut world = World { pools, ..World::default() };
    for name in ["n1", "n2", "n3"] {
        world.nodes.insert(name.into(), Node::with_labels(labels(&[("kubernetes.io/hostname", name)])));
    }
    world.advertisements.push(Advertisement::l2("segment"));
    let serving = Serving { nodes: set(&["n1", "n2"]), elsewhere: false };
    world.endpoints = Endpoints::Of(BTreeMap::from([(ObjectName::new("default", "web"), serving)]));
    world.demands.insert(web(), Demand::new(web()));
    world
}

fn hosts(name: &str) -> Vec<LabelSelector> {
    vec![LabelSelector::label("kubernetes.io/hostname", name)]
}

fn plan_of(world: &World) -> (Allocations, BTreeMap<OwnerKey, Outlook>) {
    let allocations = allocate(&mut PoolAllocator::new(), world);
    let outlook = outlook(world, &allocations);
    (allocations, outlook)
}

fn bids(world: &World, me: &str) -> Vec<(Role, Bid)> {
    let allocations = allocate(&mut PoolAllocator::new(), world);
    candidacy(world, &allocations, &me.into(), &LocalHealth::default()).into_iter().collect()
}

/// A gate: what it does to the world, who may announce then, and the reason if nobody may.
struct Gate {
    name: &'static str,
    change: fn(&mut World),
    l2: &'static [&'static str],
    bgp: &'static [&'static str],
    reason: Option<&'static str>,
    says: &'static str,
}

fn demand(world: &mut World) -> &mut Demand {
    world.demands.get_mut(&web()).unwrap()
}

const EVERY: &[&str] = &["n1", "n2", "n3"];
const NONE: &[&str] = &[];

const GATES: &[Gate] = &[
    Gate {
        name: "all open",
        change: |_| {},
        l2: EVERY,
        bgp: NONE,
        reason: None,
        says: "by L2 from one of n1, n2, n3",
    },
    Gate {
        name: "no advertisement at all",
        change: |world| world.advertisements.clear(),
        l2: NONE,
        bgp: NONE,
        reason: Some("NoAdvertisement"),
        says: "no L2Advertisement and no BGPAdvertisement selects the pool public: add one that names it",
    },
    Gate {
        name: "the advertisement names another pool",
        change: |world| world.advertisements[0].pools = set(&["other"]),
        l2: NONE,
        bgp: NONE,
        reason: Some("NoAdvertisement"),
        says: "selects the pool public",
    },
    Gate {
        name: "the advertisement names the pool among others",
        change: |world| world.advertisements[0].pools = set(&["other", "public"]),
        l2: EVERY,
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "the advertisement selects other pools by label",
        change: |world| world.advertisements[0].pool_selectors = vec![LabelSelector::label("tier", "gold")],
        l2: NONE,
        bgp: NONE,
        reason: Some("NoAdvertisement"),
        says: "",
    },
    Gate {
        name: "the advertisement selects the pool by label",
        change: |world| {
            let mut gold = pool("public", &["192.0.2.0/29"]);
            gold.labels = labels(&[("tier", "gold")]);
            world.pools = Pools::new([gold]).unwrap();
            world.advertisements[0].pools = set(&["other"]);
            world.advertisements[0].pool_selectors = vec![LabelSelector::label("tier", "gold")];
        },
        l2: EVERY,
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "nodeSelectors of the advertisement",
        change: |world| world.advertisements[0].node_selectors = hosts("n2"),
        l2: &["n2"],
        bgp: NONE,
        reason: None,
        says: "by L2 from one of n2",
    },
    Gate {
        name: "nodeSelectors that match no node",
        change: |world| world.advertisements[0].node_selectors = hosts("n9"),
        l2: NONE,
        bgp: NONE,
        reason: Some("NodeNotSelected"),
        says: "n1, n2, n3: no nodeSelector of an L2Advertisement of the pool public matches the node's labels",
    },
    Gate {
        name: "the nodes of several advertisements add up",
        change: |world| {
            world.advertisements[0].node_selectors = hosts("n2");
            let mut more = Advertisement::l2("more");
            more.node_selectors = hosts("n3");
            world.advertisements.push(more);
        },
        l2: &["n2", "n3"],
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "serviceSelectors that match",
        change: |world| {
            demand(world).labels = labels(&[("app", "web")]);
            world.advertisements[0].service_selectors = vec![LabelSelector::label("app", "web")];
        },
        l2: EVERY,
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "serviceSelectors that do not match",
        change: |world| world.advertisements[0].service_selectors = vec![LabelSelector::label("app", "web")],
        l2: NONE,
        bgp: NONE,
        reason: Some("ServiceNotSelected"),
        says: "no serviceSelector of an L2Advertisement of the pool public matches the labels of service default/web",
    },
    Gate {
        name: "serviceSelectors and a shared address",
        change: |world| {
            demand(world).labels = labels(&[("app", "web")]);
            demand(world).shares = true;
            world.advertisements[0].service_selectors = vec![LabelSelector::label("app", "web")];
        },
        l2: NONE,
        bgp: NONE,
        reason: Some("SharedWithServiceSelectors"),
        says: "service default/web shares its address",
    },
    Gate {
        name: "a plain advertisement beside serves a shared address",
        change: |world| {
            demand(world).shares = true;
            let mut narrow = Advertisement::l2("narrow");
            narrow.service_selectors = vec![LabelSelector::label("app", "web")];
            world.advertisements.push(narrow);
        },
        l2: EVERY,
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "NetworkUnavailable",
        change: |world| world.nodes.get_mut("n1").unwrap().network_unavailable = true,
        l2: &["n2", "n3"],
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "the exclude label",
        change: |world| world.nodes.get_mut("n2").unwrap().excluded = true,
        l2: &["n1", "n3"],
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "the exclude label is ignored",
        change: |world| {
            world.nodes.get_mut("n2").unwrap().excluded = true;
            world.ignore_exclude_label = true;
        },
        l2: EVERY,
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "every node has a reason of its own",
        change: |world| {
            world.nodes.get_mut("n1").unwrap().network_unavailable = true;
            world.nodes.get_mut("n2").unwrap().excluded = true;
            demand(world).traffic = TrafficPolicy::Local;
        },
        l2: NONE,
        bgp: NONE,
        reason: Some("NoEligibleNode"),
        says: "n3: externalTrafficPolicy is Local, and the node has no endpoint of service default/web",
    },
    Gate {
        name: "no endpoint",
        change: |world| world.endpoints = Endpoints::Of(BTreeMap::new()),
        l2: NONE,
        bgp: NONE,
        reason: Some("NoServingEndpoint"),
        says: "no endpoint of service default/web is ready or serving: start one",
    },
    Gate {
        name: "endpoints are not known",
        change: |world| {
            world.endpoints = Endpoints::Everywhere;
            demand(world).traffic = TrafficPolicy::Local;
        },
        l2: EVERY,
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "Local: only nodes with an endpoint",
        change: |world| demand(world).traffic = TrafficPolicy::Local,
        l2: &["n1", "n2"],
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "Local: an endpoint on no known node helps nobody",
        change: |world| {
            demand(world).traffic = TrafficPolicy::Local;
            let elsewhere = Serving { nodes: BTreeSet::new(), elsewhere: true };
            world.endpoints = Endpoints::Of([(ObjectName::new("default", "web"), elsewhere)].into());
        },
        l2: NONE,
        bgp: NONE,
        reason: Some("NoLocalEndpoint"),
        says: "",
    },
    Gate {
        name: "Cluster: an endpoint on no known node does",
        change: |world| {
            let elsewhere = Serving { nodes: BTreeSet::new(), elsewhere: true };
            world.endpoints = Endpoints::Of([(ObjectName::new("default", "web"), elsewhere)].into());
        },
        l2: EVERY,
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "BGP beside L2, on other nodes",
        change: |world| {
            world.advertisements[0].node_selectors = hosts("n1");
            let mut bgp = Advertisement::bgp("routers");
            bgp.node_selectors = hosts("n2");
            world.advertisements.push(bgp);
        },
        l2: &["n1"],
        bgp: &["n2"],
        reason: None,
        says: "by L2 from one of n1, by BGP from n2",
    },
    Gate {
        name: "BGP is gated alike",
        change: |world| {
            world.advertisements = vec![Advertisement::bgp("routers")];
            world.nodes.get_mut("n1").unwrap().network_unavailable = true;
            demand(world).traffic = TrafficPolicy::Local;
        },
        l2: NONE,
        bgp: &["n2"],
        reason: None,
        says: "",
    },
    Gate {
        name: "another's class",
        change: |world| demand(world).class = Some("theirs.example/lb".into()),
        l2: NONE,
        bgp: NONE,
        reason: Some("OtherClass"),
        says: "its loadBalancerClass is \"theirs.example/lb\", and only services without one are served here",
    },
    Gate {
        name: "our class",
        change: |world| {
            demand(world).class = Some("lbcore.io/lb".into());
            world.class = Some("lbcore.io/lb".into());
        },
        l2: EVERY,
        bgp: NONE,
        reason: None,
        says: "",
    },
    Gate {
        name: "no class where one is ours",
        change: |world| world.class = Some("lbcore.io/lb".into()),
        l2: NONE,
        bgp: NONE,
        reason: Some("OtherClass"),
        says: "it has no loadBalancerClass, and only \"lbcore.io/lb\" is served here",
    },
    Gate {
        name: "no pool",
        change: |world| world.pools = Pools::default(),
        l2: NONE,
        bgp: NONE,
        reason: Some("NoPools"),
        says: "there is no pool: add an IPAddressPool",
    },
    Gate {
        name: "no node is known",
        change: |world| world.nodes.clear(),
        l2: NONE,
        bgp: NONE,
        reason: None,
        says: "by L2 from one of any node",
    },
];

#[test]
fn every_gate() {
    for gate in GATES {
        let mut world = world();
        (gate.change)(&mut world);
        let (allocations, outlooks) = plan_of(&world);
        let outlook = &outlooks[&web()];
        let name = gate.name;
        assert_eq!(outlook.l2, set(gate.l2), "{name}: L2");
        assert_eq!(outlook.bgp, set(gate.bgp), "{name}: BGP");
        let said = outlook.obstacle().unwrap_or(&outlook.conditions[1]);
        assert_eq!(outlook.obstacle().map(|condition| &*condition.reason), gate.reason, "{name}: {said}");
        assert!(said.message.contains(gate.says), "{name}: {said}");
        // The candidacy, the announcement and the explanation agree.
        let address = allocations.held(&web()).map(|held| held.addresses[0]);
        for node in EVERY {
            let me = NodeName::from(*node);
            let health = LocalHealth::default();
            if world.nodes.is_empty() {
                continue;
            }
            let candidate = address.is_some_and(|address| {
                candidacy(&world, &allocations, &me, &health).contains_key(&Role::Address(address))
            });
            assert_eq!(candidate, outlook.l2.contains(&me), "{name}: candidacy of {node}");
            let owned = address.map(|address| owning(&me, &[address])).unwrap_or_default();
            let made = announce(&world, &allocations, &owned, &me, &health);
            assert_eq!(!made.l2.is_empty(), outlook.l2.contains(&me), "{name}: L2 of {node}");
            assert_eq!(!made.bgp.is_empty(), outlook.bgp.contains(&me), "{name}: BGP of {node}");
        }
    }
}

fn owning(me: &NodeName, addresses: &[IpAddr]) -> Ownership {
    let mut ownership = Ownership::default();
    let mut lease = LeaseId::FIRST;
    for address in addresses {
        ownership.roles.insert(Role::Address(*address), Owner::new(me.clone(), Term(7)));
        ownership.mine.insert(Role::Address(*address), lease);
        lease = lease.next();
    }
    ownership
}

#[test]
fn preferences_add_up_over_the_advertisements_that_apply() {
    let mut world = world();
    let prefer = |weight, name: &str| Preference { weight, selector: hosts(name).remove(0) };
    let terms = |preferences| Means::L2(L2Terms { interfaces: BTreeSet::new(), preferences });
    world.advertisements = vec![
        Advertisement::new("a", terms(vec![prefer(100, "n1"), prefer(20, "n1"), prefer(50, "n2")])),
        Advertisement::new("b", terms(vec![prefer(3, "n1")])),
        Advertisement {
            node_selectors: hosts("n2"),
            ..Advertisement::new("only n2", terms(vec![prefer(100, "n1"), prefer(7, "n2")]))
        },
    ];
    let preference = |me| bids(&world, me)[0].1.preference;
    assert_eq!((preference("n1"), preference("n2"), preference("n3")), (123, 57, 0));
}

#[test]
fn interfaces_add_up_and_one_without_means_all() {
    let mut world = world();
    let on =
        |interfaces: &[&str]| Means::L2(L2Terms { interfaces: set(interfaces), preferences: Vec::new() });
    world.advertisements =
        vec![Advertisement::new("a", on(&["eth0"])), Advertisement::new("b", on(&["eth1"]))];
    let allocations = allocate(&mut PoolAllocator::new(), &world);
    let me = NodeName::from("n1");
    let interfaces = |world: &World| {
        let owned = owning(&me, &[address("192.0.2.0")]);
        let made = announce(world, &allocations, &owned, &me, &LocalHealth::default());
        made.l2[&address("192.0.2.0")].interfaces.clone()
    };
    assert_eq!(interfaces(&world), Interfaces::Only(set(&["eth0", "eth1"])));

    // Which interfaces there are decides who is a candidate.
    let eligible = |up: &[&str]| {
        let health = LocalHealth { interfaces: Some(set(up)), ..LocalHealth::default() };
        candidacy(&world, &allocations, &me, &health)[&Role::Address(address("192.0.2.0"))].eligible
    };
    assert!(eligible(&["eth1", "eth2"]));
    assert!(!eligible(&["eth2"]));
    assert!(!eligible(&[]));

    world.advertisements.push(Advertisement::l2("c"));
    assert_eq!(interfaces(&world), Interfaces::All);
}

#[test]
fn a_node_announces_on_the_segment_only_what_it_owns() {
    let world = world();
    let allocations = allocate(&mut PoolAllocator::new(), &world);
    let (me, other) = (NodeName::from("n1"), NodeName::from("n2"));
    let at = address("192.0.2.0");
    let health = LocalHealth::default();
    let made = announce(&world, &allocations, &owning(&me, &[at]), &me, &health);
    assert_eq!(made.l2[&at].lease, Some(LeaseId::FIRST));
    assert_eq!(made.l2[&at].term, Term(7));
    assert!(announce(&world, &allocations, &owning(&other, &[at]), &me, &health).l2.is_empty());
    // Named as the owner, but its lease ran out.
    let mut stale = owning(&me, &[at]);
    stale.mine.clear();
    assert!(announce(&world, &allocations, &stale, &me, &health).l2.is_empty());
    // An address that nobody holds any more.
    let gone = owning(&me, &[at, address("192.0.2.5")]);
    assert_eq!(announce(&world, &allocations, &gone, &me, &health).l2.len(), 1);
}

#[test]
fn a_node_that_is_not_well_gives_away_and_withdraws() {
    let mut world = world();
    world.advertisements.push(Advertisement::bgp("routers"));
    let allocations = allocate(&mut PoolAllocator::new(), &world);
    let me = NodeName::from("n1");
    let at = address("192.0.2.0");
    let look = |health: &LocalHealth| {
        let bid = candidacy(&world, &allocations, &me, health)[&Role::Address(at)];
        let made = announce(&world, &allocations, &owning(&me, &[at]), &me, health);
        (bid.eligible, bid.draining, made.l2.len(), made.bgp.len())
    };
    let well = LocalHealth::default();
    assert_eq!(look(&well), (true, false, 1, 1));
    assert_eq!(look(&LocalHealth { ready: false, ..well.clone() }), (false, false, 1, 0));
    assert_eq!(look(&LocalHealth { draining: true, ..well.clone() }), (true, true, 1, 0));
    assert_eq!(look(&LocalHealth { unready: [web()].into(), ..well.clone() }), (false, false, 1, 0));
    let unrelated = [OwnerKey::service("default", "other")].into();
    assert_eq!(look(&LocalHealth { unready: unrelated, ..well }), (true, false, 1, 1));
}

#[test]
fn routes_carry_what_their_advertisements_say() {
    let mut world = world();
    world.pools = Pools::new([pool("public", &["192.0.2.0/24", "2001:db8::/64"])]).unwrap();
    demand(&mut world).request.families = Families::RequireDual;
    let mut aggregate = BgpTerms { aggregation_v4: 24, aggregation_v6: 64, ..BgpTerms::default() };
    aggregate.local_pref = Some(200);
    aggregate.communities = [(65000 << 16) | 1].into();
    aggregate.large_communities = [(65000, 1, 2)].into();
    aggregate.peers = set(&["tor-a"]);
    world.advertisements =
        vec![Advertisement::new("aggregate", Means::Bgp(aggregate.clone())), Advertisement::bgp("hosts")];
    let allocations = allocate(&mut PoolAllocator::new(), &world);
    let me = "n3".into();
    let made = announce(&world, &allocations, &Ownership::default(), &me, &LocalHealth::default());
    assert!(made.l2.is_empty());
    let routes = |at: &str| -> Vec<_> { made.bgp[&address(at)].routes.iter().collect() };
    let v4 = routes("192.0.2.0");
    assert_eq!(
        v4.iter().map(|route| route.prefix.to_string()).collect::<Vec<_>>(),
        ["192.0.2.0/24", "192.0.2.0/32"]
    );
    assert_eq!(v4[0].local_pref, Some(200));
    assert_eq!(v4[0].communities, aggregate.communities);
    assert_eq!(v4[0].large_communities, aggregate.large_communities);
    assert_eq!(v4[0].peers, crate::announce::Peers::Only(aggregate.peers));
    assert_eq!(v4[1].peers, crate::announce::Peers::All);
    let v6 = routes("2001:db8::");
    assert_eq!(
        v6.iter().map(|route| route.prefix.to_string()).collect::<Vec<_>>(),
        ["2001:db8::/64", "2001:db8::/128"]
    );
    assert_eq!(made.bgp[&address("192.0.2.0")].lease, None, "several nodes announce at once");
}

/// Two Local services that share an address, with endpoints on n1 and n2, and on n2 and n3.
fn sharers() -> World {
    let mut world = world();
    let mut endpoints = BTreeMap::new();
    for (index, (name, nodes)) in [("a", ["n1", "n2"]), ("b", ["n2", "n3"])].into_iter().enumerate() {
        let owner = OwnerKey::service("default", name);
        let mut demand = Demand::new(owner.clone());
        demand.traffic = TrafficPolicy::Local;
        demand.shares = true;
        demand.request.sharing = Some(Sharing { key: "key".into(), backend: "app=web".into() });
        demand.request.ports =
            vec![Port { protocol: Protocol::Tcp, number: 80 + u16::try_from(index).unwrap() }];
        demand.request.addresses = vec![address("192.0.2.3")];
        world.demands.insert(owner, demand);
        endpoints.insert(ObjectName::new("default", name), Serving { nodes: set(&nodes), elsewhere: false });
    }
    world.demands.remove(&web());
    world.endpoints = Endpoints::Of(endpoints);
    world
}

#[test]
fn a_shared_address_goes_where_every_sharer_has_an_endpoint() {
    let mut world = sharers();
    let candidates = |world: &World| -> Vec<&str> {
        EVERY.iter().copied().filter(|node| !bids(world, node).is_empty()).collect()
    };
    assert_eq!(candidates(&world), ["n2"]);
    // One that nobody serves asks for nothing.
    let Endpoints::Of(services) = &mut world.endpoints else { panic!() };
    services.remove(&ObjectName::new("default", "a"));
    assert_eq!(candidates(&world), ["n2", "n3"]);
    let Endpoints::Of(services) = &mut world.endpoints else { panic!() };
    services.clear();
    assert!(candidates(&world).is_empty());
    // The same for routes.
    let mut world = sharers();
    world.advertisements = vec![Advertisement::bgp("routers")];
    let allocations = allocate(&mut PoolAllocator::new(), &world);
    let announcing = EVERY.iter().copied().filter(|node| {
        let made =
            announce(&world, &allocations, &Ownership::default(), &(*node).into(), &LocalHealth::default());
        !made.bgp.is_empty()
    });
    assert_eq!(announcing.collect::<Vec<_>>(), ["n2"]);
}

#[test]
fn a_gateway_is_served_by_every_node() {
    let mut world = world();
    let owner = OwnerKey::gateway("default", "web");
    world.demands.insert(owner.clone(), Demand::new(owner.clone()));
    world.endpoints = Endpoints::Of(BTreeMap::new());
    let (_, outlooks) = plan_of(&world);
    assert_eq!(outlooks[&owner].l2, set(EVERY));
    assert_eq!(outlooks[&web()].obstacle().unwrap().reason, "NoServingEndpoint");
}

#[test]
fn a_node_without_a_document_is_a_node_without_labels() {
    let world = world();
    assert_eq!(bids(&world, "n9").len(), 1);
    let mut picky = world;
    picky.advertisements[0].node_selectors = hosts("n9");
    assert_eq!(bids(&picky, "n9").len(), 1, "every node has its hostname");
    assert!(bids(&picky, "n8").is_empty());
}

// Who gets which address.

fn named(world: &mut World, name: &str) -> OwnerKey {
    let owner = OwnerKey::service("default", name);
    world.demands.insert(owner.clone(), Demand::new(owner.clone()));
    owner
}

fn held(allocations: &Allocations, owner: &OwnerKey) -> Option<String> {
    allocations
        .held(owner)
        .map(|held| held.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

#[test]
fn what_is_shown_comes_first_then_the_oldest_then_the_name() {
    let mut world = world();
    world.pools = Pools::new([pool("public", &["192.0.2.0-192.0.2.4"])]).unwrap();
    world.demands.clear();
    let [a, b, c, d, e, f] = ["a", "b", "c", "d", "e", "f"].map(|name| named(&mut world, name));
    let mut set = |owner: &OwnerKey, created: Option<i64>, shown: &str| {
        let demand = world.demands.get_mut(owner).unwrap();
        demand.created = created.map(Timestamp::from_unix);
        demand.shown = shown.split(' ').filter(|text| !text.is_empty()).map(address).collect();
    };
    set(&a, None, "");
    set(&b, Some(20), "");
    set(&c, Some(10), "");
    set(&d, None, "192.0.2.0");
    set(&e, Some(5), "192.0.2.0"); // older than d, and shows the same
    set(&f, Some(10), "198.51.100.1"); // shows one of no pool
    let (allocations, outlooks) = plan_of(&world);
    let all = [&a, &b, &c, &d, &e, &f].map(|owner| held(&allocations, owner));
    let expected =
        [None, Some("192.0.2.3"), Some("192.0.2.1"), Some("192.0.2.4"), Some("192.0.2.0"), Some("192.0.2.2")];
    // e adopts; then c and f (10, by name), b (20), then those without a time: a before d, so d loses out.
    let expected_by_name = [Some("192.0.2.4"), expected[1], expected[2], None, expected[4], expected[5]];
    assert_eq!(all.each_ref().map(|held| held.as_deref()), expected_by_name);
    assert_eq!(outlooks[&d].obstacle().unwrap().reason, "PoolExhausted");
    let lost = allocations.grants[&d].lost.as_ref().unwrap();
    assert_eq!(
        (lost.addresses.as_slice(), lost.reason.reason()),
        (&[address("192.0.2.0")][..], "AddressTaken")
    );
    assert_eq!(allocations.grants[&f].lost.as_ref().unwrap().reason.reason(), "NotInPool");
}

#[test]
fn convergence() {
    let mut world = world();
    let owner = web();
    let mut allocator = PoolAllocator::new();
    let mut run = |world: &World| {
        let first = allocate(&mut allocator, world);
        let second = allocate(&mut allocator, world);
        let shape = |grants: &Allocations| -> Vec<_> {
            grants
                .grants
                .iter()
                .map(|(owner, grant)| (owner.clone(), grant.allocation.clone(), grant.error.clone()))
                .collect()
        };
        assert_eq!(shape(&first), shape(&second), "a fixed point");
        assert!(second.released.is_empty() && second.changes.is_empty(), "{second:?}");
        first
    };
    assert_eq!(held(&run(&world), &owner).as_deref(), Some("192.0.2.0"));

    // Another address is asked for: moved.
    demand(&mut world).request.addresses = vec![address("192.0.2.6")];
    assert_eq!(held(&run(&world), &owner).as_deref(), Some("192.0.2.6"));
    demand(&mut world).request.addresses.clear();
    assert_eq!(held(&run(&world), &owner).as_deref(), Some("192.0.2.6"), "nothing forces it back");

    // A pool that does not exist: what it held is taken, and the reason said.
    demand(&mut world).request.pool = Some("nope".into());
    let result = run(&world);
    assert_eq!(held(&result, &owner), None);
    let message = result.grants[&owner].error.as_ref().unwrap().to_string();
    assert_eq!(message, "there is no pool nope: there are public");
    demand(&mut world).request.pool = None;

    // A request that cannot be understood costs nothing.
    assert_eq!(held(&run(&world), &owner).as_deref(), Some("192.0.2.0"));
    demand(&mut world).fault = Some(crate::allocator::AllocError::BadRequest("what?".into()));
    let result = run(&world);
    assert_eq!(held(&result, &owner).as_deref(), Some("192.0.2.0"));
    let outlook = &outlook(&world, &result)[&owner];
    assert_eq!(outlook.obstacle().unwrap().message, "what?; what it holds stays");
    assert_eq!(outlook.conditions[1].status, Status::True, "and it is announced");
    // Not even after a restart.
    demand(&mut world).shown = vec![address("192.0.2.5")];
    let restarted = allocate(&mut PoolAllocator::new(), &world);
    assert_eq!(held(&restarted, &owner).as_deref(), Some("192.0.2.5"));
    demand(&mut world).fault = None;

    // Another class: released.
    demand(&mut world).class = Some("theirs".into());
    let result = run(&world);
    assert_eq!(result.released.len(), 1);
    assert!(!result.grants.contains_key(&owner));
}

#[test]
fn what_no_longer_wants_an_address_is_released() {
    let mut world = world();
    let mut allocator = PoolAllocator::new();
    allocate(&mut allocator, &world);
    world.demands.clear();
    let result = allocate(&mut allocator, &world);
    assert_eq!(result.released.iter().map(|held| held.owner.clone()).collect::<Vec<_>>(), [web()]);
    assert_eq!(allocator.allocations().count(), 0);
}

#[test]
fn what_one_gives_up_another_gets_in_the_same_run() {
    let mut world = world();
    world.pools = Pools::new([pool("big", &["192.0.2.0/32"]), pool("small", &["198.51.100.0/32"])]).unwrap();
    world.demands.clear();
    let [a, b] = ["a", "b"].map(|name| named(&mut world, name));
    let mut allocator = PoolAllocator::new();
    allocate(&mut allocator, &world);
    // Each wants what the other holds; a is asked first, when b has it still.
    world.demands.get_mut(&a).unwrap().request.pool = Some("small".into());
    world.demands.get_mut(&b).unwrap().request.pool = Some("big".into());
    let result = allocate(&mut allocator, &world);
    assert_eq!(held(&result, &a).as_deref(), Some("198.51.100.0"));
    assert_eq!(held(&result, &b).as_deref(), Some("192.0.2.0"));
}

#[test]
fn a_sharer_that_changes_its_key_moves_away() {
    let mut world = sharers();
    for demand in world.demands.values_mut() {
        demand.request.addresses.clear();
    }
    let mut allocator = PoolAllocator::new();
    let [a, b] = ["a", "b"].map(|name| OwnerKey::service("default", name));
    let result = allocate(&mut allocator, &world);
    assert_eq!(held(&result, &a), held(&result, &b));
    world.demands.get_mut(&b).unwrap().request.sharing = None;
    let result = allocate(&mut allocator, &world);
    assert_eq!(
        (held(&result, &a).as_deref(), held(&result, &b).as_deref()),
        (Some("192.0.2.0"), Some("192.0.2.1"))
    );
    assert_eq!(result.grants[&b].lost.as_ref().unwrap().addresses, [address("192.0.2.0")]);
}

#[test]
fn a_smaller_pool_revokes_and_says_so() {
    let mut world = world();
    let mut allocator = PoolAllocator::new();
    demand(&mut world).request.addresses = vec![address("192.0.2.6")];
    allocate(&mut allocator, &world);
    demand(&mut world).request.addresses.clear();
    world.pools = Pools::new([pool("public", &["192.0.2.0/30"])]).unwrap();
    let result = allocate(&mut allocator, &world);
    assert_eq!(result.changes.len(), 1);
    assert_eq!(held(&result, &web()).as_deref(), Some("192.0.2.0"));
    assert_eq!(result.grants[&web()].lost.as_ref().unwrap().addresses, [address("192.0.2.6")]);
}

// Properties.

fn any_demand(index: usize) -> impl Strategy<Value = Demand> {
    let families = prop_oneof![
        3 => Just(Families::Single(Family::V4)),
        1 => Just(Families::Single(Family::V6)),
        1 => Just(Families::PreferDual { primary: Family::V4 }),
        1 => Just(Families::RequireDual),
    ];
    let pools = prop_oneof![4 => Just(None), 1 => Just(Some("a")), 1 => Just(Some("manual")), 1 => Just(Some("none"))];
    let asked = prop_oneof![4 => Just(None), 1 => (0_u8..8).prop_map(Some)];
    (
        families,
        pools,
        asked,
        0_u16..3,
        0_u8..3,
        proptest::option::of(0_i64..3),
        proptest::option::of(0_u8..8),
        0_u8..6,
    )
        .prop_map(move |(families, pool, asked, port, key, created, shown, oddity)| {
            let owner = OwnerKey::service("default", &format!("s{index}"));
            let at = |last: u8| IpAddr::from([10, 0, 0, last]);
            let mut demand = Demand::new(owner.clone());
            let mut request = AllocRequest::new(owner);
            request.families = families;
            request.pool = pool.map(Into::into);
            request.addresses = asked.map(at).into_iter().collect();
            request.ports = vec![Port { protocol: Protocol::Tcp, number: 80 + port }];
            request.sharing =
                (key > 0).then(|| Sharing { key: format!("k{key}").into(), backend: "".into() });
            demand.request = request;
            demand.created = created.map(Timestamp::from_unix);
            demand.shown = shown.map(at).into_iter().collect();
            match oddity {
                0 => demand.fault = Some(crate::allocator::AllocError::BadRequest("?".into())),
                1 => demand.class = Some("theirs".into()),
                _ => {}
            }
            demand
        })
}

fn any_world() -> impl Strategy<Value = World> {
    let demands: Vec<_> = (0..8).map(any_demand).collect();
    (demands, 0_usize..8, any::<bool>(), any::<bool>()).prop_map(|(demands, count, narrow, pinned)| {
        let mut world = World::default();
        let mut manual = pool("manual", &["10.0.0.6/31"]);
        manual.auto_assign = false;
        let mut first = pool("a", &[if narrow { "10.0.0.0/31" } else { "10.0.0.0/30" }, "fd00::/127"]);
        if pinned {
            first.service_allocation =
                Some(ServiceAllocation { priority: 3, ..ServiceAllocation::default() });
        }
        world.pools = Pools::new([first, pool("b", &["10.0.0.4/31"]), manual]).unwrap();
        world.demands =
            demands.into_iter().take(count).map(|demand| (demand.owner.clone(), demand)).collect();
        world
    })
}

fn shape(allocations: &Allocations) -> BTreeMap<OwnerKey, (Vec<IpAddr>, Option<&'static str>)> {
    let grant = |(owner, grant): (&OwnerKey, &Grant)| {
        let addresses = grant.allocation.iter().flat_map(|held| held.addresses.clone()).collect();
        (owner.clone(), (addresses, grant.error.as_ref().map(crate::allocator::AllocError::reason)))
    };
    allocations.grants.iter().map(grant).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn two_successive_runs_are_a_fixed_point(worlds in proptest::collection::vec(any_world(), 1..4)) {
        let mut allocator = PoolAllocator::new();
        for world in &worlds {
            let first = allocate(&mut allocator, world);
            let second = allocate(&mut allocator, world);
            prop_assert_eq!(shape(&first), shape(&second));
            prop_assert!(second.released.is_empty() && second.changes.is_empty());
            prop_assert!(second.grants.values().all(|grant| grant.lost.is_none()
                || grant.allocation.is_none() || !world.demands[&grant.allocation.as_ref().unwrap().owner].shown.is_empty()));
            // What is said is what is so.
            for (owner, grant) in &second.grants {
                prop_assert_eq!(grant.allocation.as_ref(), allocator.allocation(owner));
            }
            prop_assert_eq!(allocator.allocations().count(), second.grants.values().filter(|grant| grant.allocation.is_some()).count());
        }
    }

    #[test]
    fn a_restart_moves_nothing(world in any_world()) {
        let mut world = world;
        for demand in world.demands.values_mut() {
            demand.shown.clear();
        }
        let before = allocate(&mut PoolAllocator::new(), &world);
        for (owner, grant) in &before.grants {
            let shown = grant.allocation.iter().flat_map(|held| held.addresses.clone()).collect();
            world.demands.get_mut(owner).unwrap().shown = shown;
        }
        let after = allocate(&mut PoolAllocator::new(), &world);
        prop_assert_eq!(shape(&before), shape(&after));
    }

    #[test]
    fn the_order_of_advertisements_does_not_matter(mut order in Just(vec![0, 1, 2, 3]).prop_shuffle()) {
        let mut world = world();
        let mut all = vec![Advertisement::l2("a"), Advertisement::bgp("b"), Advertisement::l2("c"), Advertisement::bgp("d")];
        all[0].node_selectors = hosts("n1");
        all[2].means = Means::L2(L2Terms { interfaces: set(&["eth1"]), preferences: Vec::new() });
        all[3].means = Means::Bgp(BgpTerms { aggregation_v4: 29, ..BgpTerms::default() });
        let outcome = |world: &World| {
            let (allocations, outlooks) = plan_of(world);
            let me = "n1".into();
            let owned = owning(&me, &[address("192.0.2.0")]);
            let health = LocalHealth::default();
            let bids = candidacy(world, &allocations, &me, &health);
            (outlooks, bids, announce(world, &allocations, &owned, &me, &health))
        };
        world.advertisements = all.clone();
        let expected = outcome(&world);
        world.advertisements = order.drain(..).map(|index| all[index].clone()).collect();
        prop_assert_eq!(outcome(&world), expected);
    }
}
