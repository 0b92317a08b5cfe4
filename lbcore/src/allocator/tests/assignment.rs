//! Addresses that are asked for by name: steal, swap, share, change in place, move away; in IPv4, IPv6 and both.

use super::Do::{Adopt, Ask as A, Free};
use super::*;

fn three_pools() -> PoolAllocator {
    let avoiding = Pool { avoid_buggy: true, ..pool("old-routers", &["10.2.0.0/24", "fd02::/120"]) };
    with([
        pool("east", &["10.1.0.0/24", "fd01::/120"]),
        avoiding,
        pool("west", &["10.3.0.0/30", "fd03::/126"]),
    ])
}

/// The story of one address and the next, wherever they are.
fn story(a: &'static str, b: &'static str, outside: &'static str) {
    let of_east = |address: &str| format!("{address} of east");
    let taken = |address: &str, by: &str| {
        format!(
            "pool east: {address} belongs to service shop/{by}, which does not share it: set the same \
             metallb.io/allow-shared-ip on both"
        )
    };
    let key = |address: &str, by: &str, key: &str| {
        format!("pool east: {address} belongs to service shop/{by}, which shares it under the key \"{key}\"")
    };
    let backend = |address: &str, by: &str| {
        format!(
            "pool east: {address} belongs to service shop/{by}, and with externalTrafficPolicy: Local only \
             services with equal selectors can share it"
        )
    };
    let port = |port: u16, address: &str, by: &str| {
        format!("pool east: port TCP/{port} of {address} belongs to service shop/{by}")
    };
    let (of_a, of_b) = (of_east(a), of_east(b));
    let mut allocator = three_pools();
    play(
        &mut allocator,
        &[
            (A(ask("one").at(&[a])), &of_a),
            (A(ask("two").at(&[a])), &taken(a, "one")),
            (A(ask("two").at(&[b])), &of_b),
            // Each wants the other's: neither gets it before it is free.
            (A(ask("one").at(&[b])), &taken(b, "two")),
            (Free("two"), &of_b),
            (A(ask("one").at(&[b])), &of_b),
            (A(ask("two").at(&[a])), &of_a),
            (
                A(ask("two").at(&[outside])),
                &format!("{outside} is in no pool: ask for an address of a pool, or add it to one"),
            ),
            // The only user of an address changes its key in place.
            (A(ask("one").at(&[b]).key("k").ports(&[80])), &of_b),
            (A(ask("one").at(&[b]).key("share").ports(&[80])), &of_b),
            // Sharing: with an equal key, an equal backend and other ports.
            (A(ask("three").at(&[b]).ports(&[443])), &key(b, "one", "share")),
            (A(ask("three").at(&[b]).key("other").ports(&[443])), &key(b, "one", "share")),
            (A(ask("three").at(&[b]).key("share").local("app=x").ports(&[443])), &backend(b, "one")),
            (A(ask("three").at(&[b]).key("share").ports(&[80])), &port(80, b, "one")),
            (A(ask("three").at(&[b]).key("share").ports(&[443])), &of_b),
            // Now that there are two, what disturbs the other is refused, and the rest is not.
            (A(ask("one").at(&[b]).key("share").ports(&[443])), &port(443, b, "three")),
            (A(ask("one").at(&[b]).key("share").ports(&[8080, 80])), &of_b),
            (A(ask("three").at(&[b]).key("share").ports(&[80])), &port(80, b, "one")),
            (A(ask("three").at(&[b]).key("other").ports(&[443])), &key(b, "one", "share")),
            (A(ask("three").at(&[b]).ports(&[443])), &key(b, "one", "share")),
            (A(ask("three").key("other").of(ask("").at(&[b]).0.families)), &key(b, "one", "share")),
            // The way out: another address, or the other one leaving.
            (Free("two"), &of_a),
            (A(ask("three").at(&[a]).key("other").ports(&[443])), &of_a),
            (A(ask("one").at(&[b]).key("new").local("app=x").ports(&[80])), &of_b),
            // Two that are local share if their selectors are equal.
            (A(ask("four").at(&[b]).key("new").local("app=y").ports(&[443])), &backend(b, "one")),
            (A(ask("four").at(&[b]).key("new").local("app=x").ports(&[443])), &of_b),
            (Free("one"), &of_b),
            (A(ask("four").at(&[b]).key("newer").ports(&[443])), &of_b),
            // An empty key is none.
            (A(ask("four").at(&[b]).key("").ports(&[443])), &of_b),
            (A(ask("five").at(&[b]).key("").ports(&[80])), &taken(b, "four")),
        ],
    );
}

#[test]
fn the_story_in_ipv4() {
    story("10.1.0.0", "10.1.0.255", "10.4.0.0");
}

#[test]
fn the_story_in_ipv6() {
    story("fd01::", "fd01::ff", "fd04::");
}

#[test]
fn both_addresses_come_from_one_pool() {
    play(
        &mut three_pools(),
        &[
            (A(ask("one").at(&["fd01::1", "10.1.0.1"])), "10.1.0.1, fd01::1 of east"),
            (
                A(ask("two").at(&["10.1.0.2", "fd03::1"])),
                "10.1.0.2, fd03::1 are not all in one pool: ask for addresses of the same pool",
            ),
            (
                A(ask("two").at(&["10.1.0.1", "fd01::1"])),
                "pool east: 10.1.0.1 belongs to service shop/one, which does not share it: set the same \
                 metallb.io/allow-shared-ip on both; pool east: fd01::1 belongs to service shop/one, which does \
                 not share it: set the same metallb.io/allow-shared-ip on both",
            ),
            // One of the two moves, the other stays.
            (A(ask("one").at(&["10.1.0.1", "fd01::2"])), "10.1.0.1, fd01::2 of east"),
            (A(ask("two").at(&["fd01::1"])), "fd01::1 of east"),
        ],
    );
}

#[test]
fn addresses_that_contradict_the_request_are_refused() {
    let mut allocator = three_pools();
    play(
        &mut allocator,
        &[
            (A(ask("one").at(&["10.1.0.9"])), "10.1.0.9 of east"),
            (
                A(ask("one").at(&["10.1.0.1", "10.1.0.2"])),
                "service shop/one asks for 10.1.0.1 and 10.1.0.2: at most one IPv4 address is possible",
            ),
            (
                A(ask("one").at(&["10.1.0.1"]).of(V6)),
                "service shop/one asks for 10.1.0.1 but its family is IPv6: ask for an address of that family",
            ),
            (
                A(ask("one").at(&["10.1.0.1"]).of(PREFER)),
                "service shop/one wants both families but asks for 10.1.0.1 only: ask for an IPv6 address of the \
                 same pool too, or for none",
            ),
            (
                A(ask("one").at(&["fd01::1"]).of(REQUIRE)),
                "service shop/one wants both families but asks for fd01::1 only: ask for an IPv4 address of the \
                 same pool too, or for none",
            ),
            (
                A(ask("one").at(&["10.1.0.1", "fd01::1"]).of(V4)),
                "service shop/one asks for fd01::1 but its family is IPv4: ask for an address of that family",
            ),
            (
                A(ask("one").at(&["10.1.0.1"]).from("west")),
                "pool west: 10.1.0.1 is an address of pool east: ask for that pool, or for an address of this one",
            ),
            (
                A(ask("one").at(&["10.1.0.1"]).from("nord")),
                "there is no pool nord: there are east, old-routers, west",
            ),
            // All that while, it kept what it had; even over a restart.
            (Adopt(ask("one").at(&["10.1.0.1"]).of(PREFER), &["10.1.0.9"]), "10.1.0.9 of east"),
            (A(ask("one").at(&["10.1.0.1"]).from("east")), "10.1.0.1 of east"),
        ],
    );
}

#[test]
fn buggy_addresses_are_refused_where_the_pool_avoids_them() {
    play(
        &mut three_pools(),
        &[
            (
                A(ask("one").at(&["10.2.0.0"])),
                "pool old-routers: 10.2.0.0 ends in .0 or .255 and avoidBuggyIPs is set",
            ),
            (
                A(ask("one").at(&["10.2.0.255"])),
                "pool old-routers: 10.2.0.255 ends in .0 or .255 and avoidBuggyIPs is set",
            ),
            (A(ask("one").at(&["10.2.0.1"])), "10.2.0.1 of old-routers"),
            (A(ask("one").at(&["fd02::ff"])), "fd02::ff of old-routers"),
            (A(ask("one").at(&["10.1.0.255"])), "10.1.0.255 of east"),
        ],
    );
}

/// `serviceAllocation` binds those too who ask for an address or the pool by name; `autoAssign` does not.
#[test]
fn selectors_bind_everybody_and_auto_assign_only_those_who_do_not_ask() {
    let by_label = ServiceAllocation { service_selectors: selector("app", "web"), ..Default::default() };
    let both =
        ServiceAllocation { service_selectors: selector("app", "web"), ..namespaces(&["red", "blue"]) };
    let by_namespace_label =
        ServiceAllocation { namespace_selectors: selector("team", "x"), ..namespaces(&["red"]) };
    let mut allocator = with([
        Pool { auto_assign: false, ..pool_for("named", &["10.1.0.0/30"], namespaces(&["red"])) },
        pool_for("labelled", &["10.2.0.0/30"], by_label),
        pool_for("both", &["10.3.0.0/30"], both),
        pool_for("team", &["10.4.0.0/30"], by_namespace_label),
        Pool { auto_assign: false, ..pool("manual", &["10.5.0.0/30"]) },
    ]);
    let namespace = |pool: &str, namespace: &str| {
        format!(
            "pool {pool}: namespace {namespace} is not among those that it serves \
             (serviceAllocation.namespaces)"
        )
    };
    let labels = |pool: &str, name: &str| {
        format!(
            "pool {pool}: none of its serviceAllocation.serviceSelectors matches the labels of service {name}"
        )
    };
    play(
        &mut allocator,
        &[
            (A(ask("red/a").at(&["10.1.0.1"])), "10.1.0.1 of named"),
            (A(ask("red/b").from("named")), "10.1.0.0 of named"),
            (A(ask("blue/a").at(&["10.1.0.2"])), &namespace("named", "blue")),
            (A(ask("blue/a").from("named")), &namespace("named", "blue")),
            (A(ask("blue/a").at(&["10.2.0.1"]).label("app", "web")), "10.2.0.1 of labelled"),
            (A(ask("blue/b").at(&["10.2.0.2"]).label("app", "db")), &labels("labelled", "blue/b")),
            (A(ask("red/c").at(&["10.3.0.1"]).label("app", "web")), "10.3.0.1 of both"),
            (A(ask("red/d").at(&["10.3.0.2"])), &labels("both", "red/d")),
            (A(ask("green/e").at(&["10.3.0.2"]).label("app", "web")), &namespace("both", "green")),
            (A(ask("green/f").at(&["10.4.0.1"]).namespace_label("team", "x")), "10.4.0.1 of team"),
            (A(ask("green/g").at(&["10.4.0.2"]).namespace_label("team", "y")), &namespace("team", "green")),
            (A(ask("red/h").at(&["10.4.0.2"])), "10.4.0.2 of team"),
            (A(ask("green/i").at(&["10.5.0.1"])), "10.5.0.1 of manual"),
            // Whose labels no longer fit moves, or is told why it cannot and keeps what it has.
            (A(ask("red/c")), "10.4.0.0 of team"),
            (
                A(ask("blue/a")),
                &format!(
                    "{}; {}; {}; pool manual: autoAssign is false: ask for the pool or for one of its addresses; \
                     pool named: autoAssign is false: ask for the pool or for one of its addresses",
                    labels("both", "blue/a"),
                    labels("labelled", "blue/a"),
                    namespace("team", "blue"),
                ),
            ),
            (Free("blue/a"), "10.2.0.1 of labelled"),
        ],
    );
}

#[test]
fn what_the_world_shows_is_adopted_if_request_and_pools_permit_it() {
    let draining = Pool { draining: true, ..pool("closing", &["10.6.0.0/30"]) };
    let mut allocator =
        with([pool("east", &["10.1.0.0/30", "fd01::/126"]), pool("west", &["10.3.0.0/30"]), draining]);
    play(
        &mut allocator,
        &[
            (Adopt(ask("one"), &["10.1.0.2"]), "10.1.0.2 of east"),
            (A(ask("one")), "10.1.0.2 of east"),
            (Adopt(ask("drained"), &["10.6.0.3"]), "10.6.0.3 of closing"),
            (A(ask("drained")), "10.6.0.3 of closing"),
            (A(ask("drained").at(&["10.6.0.3"])), "10.6.0.3 of closing"),
            (
                A(ask("drained").at(&["10.6.0.2"])),
                "pool closing: it is being drained and gives no new addresses",
            ),
            (
                Adopt(ask("two"), &["10.1.0.2"]),
                "pool east: 10.1.0.2 belongs to service shop/one, which does not share it: set the same \
                 metallb.io/allow-shared-ip on both",
            ),
            (
                Adopt(ask("two"), &["10.9.0.1"]),
                "10.9.0.1 is in no pool: ask for an address of a pool, or add it to one",
            ),
            (
                Adopt(ask("two").at(&["10.1.0.0"]), &["10.1.0.1"]),
                "10.1.0.1 cannot be kept: 10.1.0.0 is asked for",
            ),
            (
                Adopt(ask("two").of(V6), &["10.1.0.1"]),
                "10.1.0.1 cannot be kept: an IPv6 address is asked for",
            ),
            (Adopt(ask("two"), &[]), "service shop/two shows no address to adopt"),
            (
                Adopt(ask("two"), &["10.1.0.0", "10.1.0.1"]),
                "service shop/two shows 10.1.0.0 and 10.1.0.1: at most one IPv4 address is possible",
            ),
            (
                Adopt(ask("two").from("west"), &["10.1.0.1"]),
                "pool west: 10.1.0.1 is an address of pool east: ask for that pool, or for an address of this one",
            ),
            (
                Adopt(ask("two").of(REQUIRE), &["10.3.0.1", "fd01::1"]),
                "10.3.0.1, fd01::1 are not all in one pool: ask for addresses of the same pool",
            ),
            // A part that still fits is kept, and completed by the next request.
            (Adopt(ask("three").of(V6), &["10.1.0.1", "fd01::2"]), "fd01::2 of east"),
            (Adopt(ask("four").of(REQUIRE), &["fd01::3"]), "fd01::3 of east"),
            (A(ask("four").of(REQUIRE)), "10.1.0.0, fd01::3 of east"),
            // The world is behind: what was given meanwhile is not taken away.
            (Adopt(ask("four").of(REQUIRE), &["fd01::3"]), "10.1.0.0, fd01::3 of east"),
        ],
    );
}

#[test]
fn gateways_come_by_the_same_door() {
    let mut allocator = with([pool_for("edge", &["10.1.0.0/31"], namespaces(&["infra"]))]);
    let front = AllocRequest::new(OwnerKey::gateway("infra", "front"));
    assert_eq!(told(&allocator.allocate(&front)), "10.1.0.0 of edge");
    // A service of the same name is somebody else.
    assert_eq!(told(&allocator.allocate(&ask("infra/front").0)), "10.1.0.1 of edge");
    let taken = Ask(AllocRequest { addresses: addresses(&["10.1.0.0"]), ..ask("infra/other").0 });
    assert_eq!(
        told(&allocator.allocate(&taken.0)),
        "pool edge: 10.1.0.0 belongs to gateway infra/front, which does not share it: set the same \
         metallb.io/allow-shared-ip on both"
    );
    assert!(allocator.release(&front.owner).is_some());
    assert_eq!(told(&allocator.allocate(&taken.0)), "10.1.0.0 of edge");
}

#[test]
fn without_pools_there_is_nothing() {
    let mut allocator = PoolAllocator::new();
    assert_eq!(told(&allocator.allocate(&ask("one").0)), "there is no pool: add an IPAddressPool");
    assert_eq!(allocator.allocate(&ask("one").0).unwrap_err().reason(), "NoPools");
    assert_eq!(allocator.adopt(&ask("one").0, &addresses(&["10.0.0.1"])), Err(AllocError::NoPools));
    assert_eq!((allocator.release(&owner("one")), allocator.usage().len()), (None, 0));
}
