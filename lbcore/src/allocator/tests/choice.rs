//! Addresses that nobody names: which pool, which address of it, one family or both, shared or not.

use super::Do::{Ask as A, Free};
use super::*;

fn exhausted(pool: &str, size: u32, family: &str) -> String {
    format!("pool {pool}: all {size} {family} addresses are taken: add a range, or release one")
}

/// Two ranges of two addresses of each family: four services fit, in the order of the ranges.
#[test]
fn a_pool_gives_all_it_has_and_no_more() {
    let all4 = ["10.0.1.2", "10.0.1.3", "10.0.0.8", "10.0.0.9"];
    let all6 = ["fd00::8", "fd00::9", "fd00::2", "fd00::3"];
    for (families, ending) in [
        (V4, exhausted("small", 4, "IPv4")),
        (V6, exhausted("small", 4, "IPv6")),
        (REQUIRE, format!("{}; {}", exhausted("small", 4, "IPv4"), exhausted("small", 4, "IPv6"))),
        (PREFER, format!("{}; {}", exhausted("small", 4, "IPv4"), exhausted("small", 4, "IPv6"))),
    ] {
        let mut allocator =
            with([pool("small", &["10.0.1.2/31", "fd00::8/127", "10.0.0.8/31", "fd00::2/127"])]);
        let get = |name: &str| A(ask(name).of(families).ports(&[80]));
        let of = |index: usize| {
            let parts = match families {
                V4 => all4[index].to_owned(),
                V6 => all6[index].to_owned(),
                _ => format!("{}, {}", all4[index], all6[index]),
            };
            format!("{parts} of small")
        };
        play(
            &mut allocator,
            &[
                (get("s1"), &of(0)),
                (get("s2"), &of(1)),
                (get("s3"), &of(2)),
                (get("s4"), &of(3)),
                (get("s5"), &ending),
                (get("s6"), &ending),
                (Free("s2"), &of(1)),
                (get("s5"), &of(1)),
                (get("s6"), &ending),
                // Sharing makes room: the only holder consents in place, the other joins.
                (A(ask("s5").of(families).key("k").ports(&[80])), &of(1)),
                (A(ask("s6").of(families).key("k").ports(&[80])), &ending),
                (A(ask("s6").of(families).key("k").ports(&[443])), &of(1)),
                (Free("s5"), &of(1)),
                (get("s2"), &ending),
                (Free("s6"), &of(1)),
                (get("s2"), &of(1)),
            ],
        );
    }
}

#[test]
fn a_named_pool_gives_even_if_it_is_manual_and_others_do_not() {
    let manual = Pool { auto_assign: false, ..pool("manual", &["10.1.0.0/31"]) };
    play(
        &mut with([manual, pool("open", &["10.2.0.0/32"])]),
        &[
            (A(ask("s1")), "10.2.0.0 of open"),
            (
                A(ask("s2")),
                &format!(
                    "{}; pool manual: autoAssign is false: ask for the pool or for one of its addresses",
                    exhausted("open", 1, "IPv4")
                ),
            ),
            (A(ask("s2").from("manual")), "10.1.0.0 of manual"),
            // It need not ask again to stay.
            (A(ask("s2")), "10.1.0.0 of manual"),
            (A(ask("s1").from("manual")), "10.1.0.1 of manual"),
            (A(ask("s3")), "10.2.0.0 of open"),
            (A(ask("s4").from("manual")), &exhausted("manual", 2, "IPv4")),
            (
                A(ask("s4").from("manual").of(V6)),
                "pool manual: it has no IPv6 addresses to give: add a range of that family",
            ),
            (A(ask("s4").from("none")), "there is no pool none: there are manual, open"),
            (A(ask("s3").from("none")), "there is no pool none: there are manual, open"),
        ],
    );
}

/// Six usable addresses in pools of eight, as two of them end in .0 and .255.
#[test]
fn avoided_addresses_are_never_given() {
    let avoiding = Pool { avoid_buggy: true, ..pool("b", &["10.7.4.0/31", "10.7.4.254/31"]) };
    let mut allocator = with([pool("a", &["10.7.3.0/31", "10.7.3.254/31"]), avoiding]);
    let given: Vec<_> = (0..6).map(|n| told(&allocator.allocate(&ask(&format!("s{n}")).0))).collect();
    assert_eq!(
        given,
        [
            "10.7.3.0 of a",
            "10.7.3.1 of a",
            "10.7.3.254 of a",
            "10.7.3.255 of a",
            "10.7.4.1 of b",
            "10.7.4.254 of b"
        ]
    );
    assert_eq!(
        told(&allocator.allocate(&ask("s6").0)),
        format!("{}; {}", exhausted("a", 4, "IPv4"), exhausted("b", 2, "IPv4"))
    );
}

#[test]
fn pools_are_used_by_priority_and_then_by_name() {
    let priority = |priority| ServiceAllocation { priority, ..namespaces(&["shop"]) };
    let mut allocator = with([
        pool("a-for-all", &["10.0.0.0/32"]),
        pool("b-for-all", &["10.0.1.0/32"]),
        pool_for("c-zero", &["10.0.2.0/32"], priority(0)),
        pool_for("d-twenty", &["10.0.3.0/32"], priority(20)),
        pool_for("e-ten", &["10.0.4.0/32"], priority(10)),
        pool_for("f-ten", &["10.0.5.0/32"], priority(10)),
        pool_for("g-other", &["10.0.6.0/32"], ServiceAllocation { priority: 1, ..namespaces(&["bar"]) }),
    ]);
    let given: Vec<_> = (0..6).map(|n| told(&allocator.allocate(&ask(&format!("s{n}")).0))).collect();
    assert_eq!(
        given,
        [
            "10.0.4.0 of e-ten",
            "10.0.5.0 of f-ten",
            "10.0.3.0 of d-twenty",
            "10.0.2.0 of c-zero",
            "10.0.0.0 of a-for-all",
            "10.0.1.0 of b-for-all"
        ]
    );
    let refused = allocator.allocate(&ask("s6").0).unwrap_err();
    assert_eq!(refused.reason(), "PoolExhausted");
    let AllocError::Refused(refusals) = refused else { panic!("{refused}") };
    let order: Vec<_> = refusals.iter().map(|refusal| refusal.pool.as_str()).collect();
    assert_eq!(order, ["g-other", "e-ten", "f-ten", "d-twenty", "c-zero", "a-for-all", "b-for-all"]);
}

#[test]
fn both_families_come_from_the_first_pool_that_has_both() {
    let prefer6 = Families::PreferDual { primary: Family::V6 };
    let pools = || {
        [
            pool("a4", &["10.0.0.0/31"]),
            pool("b6", &["fd01::/127"]),
            pool("c46", &["10.2.0.0/31", "fd02::/128"]),
        ]
    };
    let no = |pool: &str, family: &str| {
        format!("pool {pool}: it has no {family} addresses to give: add a range of that family")
    };
    play(
        &mut with(pools()),
        &[
            (A(ask("s1").of(PREFER)), "10.2.0.0, fd02:: of c46"),
            (
                A(ask("s2").of(REQUIRE)),
                &format!("{}; {}; {}", no("a4", "IPv6"), no("b6", "IPv4"), exhausted("c46", 1, "IPv6")),
            ),
            // No pool has both any more: the primary family decides.
            (A(ask("s2").of(PREFER)), "10.0.0.0 of a4"),
            (A(ask("s3").of(prefer6)), "fd01:: of b6"),
            (A(ask("s4").of(prefer6)), "fd01::1 of b6"),
            (A(ask("s5").of(prefer6)), "10.0.0.1 of a4"),
            (A(ask("s6").of(PREFER)), "10.2.0.1 of c46"),
            (
                A(ask("s7").of(prefer6)),
                &format!(
                    "{}; {}; {}; {}; {}; {}",
                    exhausted("a4", 2, "IPv4"),
                    no("a4", "IPv6"),
                    no("b6", "IPv4"),
                    exhausted("b6", 2, "IPv6"),
                    exhausted("c46", 2, "IPv4"),
                    exhausted("c46", 1, "IPv6")
                ),
            ),
            // One family is free again: whoever prefers both takes the other; whoever holds one in that pool gets
            // the second.
            (Free("s1"), "10.2.0.0, fd02:: of c46"),
            (A(ask("s2").of(PREFER)), "10.0.0.0 of a4"),
            (A(ask("s6").of(PREFER)), "10.2.0.1, fd02:: of c46"),
            // Whoever requires both moves to where both are.
            (Free("s6"), "10.2.0.1, fd02:: of c46"),
            (A(ask("s2").of(REQUIRE)), "10.2.0.0, fd02:: of c46"),
            // Whoever wants one again keeps that one.
            (A(ask("s2").of(V6)), "fd02:: of c46"),
            (A(ask("s2").of(V4)), "10.0.0.0 of a4"),
        ],
    );
    // One for everybody that has both comes before one for us that has not.
    let ours = pool_for("x4", &["10.9.0.0/31"], namespaces(&["shop"]));
    let mut allocator = with(pools().into_iter().chain([ours]));
    assert_eq!(told(&allocator.allocate(&ask("s1").of(PREFER).0)), "10.2.0.0, fd02:: of c46");
    assert_eq!(told(&allocator.allocate(&ask("s2").of(PREFER).0)), "10.9.0.0 of x4");
}

/// The second family comes from a pool that gives: not from one that drains; and it is shared only if that fits.
#[test]
fn the_second_family_obeys_the_rules_too() {
    let dual = |draining| Pool { draining, ..pool("p", &["10.0.0.0/31", "fd00::/128"]) };
    let mut allocator = with([dual(false)]);
    allocator.allocate(&ask("s1").of(V6).key("k").ports(&[80]).0).unwrap();
    play(
        &mut allocator,
        &[
            (A(ask("s2").of(PREFER).key("k").ports(&[80])), "10.0.0.0 of p"),
            (A(ask("s3").of(PREFER).key("k").ports(&[443])), "10.0.0.0, fd00:: of p"),
            (Free("s1"), "fd00:: of p"),
            (A(ask("s2").of(PREFER).key("k").ports(&[80])), "10.0.0.0, fd00:: of p"),
            (Free("s3"), "10.0.0.0, fd00:: of p"),
            (A(ask("s2").of(V4).key("k").ports(&[80])), "10.0.0.0 of p"),
        ],
    );
    assert_eq!(allocator.set_pools(&Pools::new([dual(true)]).unwrap()), []);
    play(
        &mut allocator,
        &[
            (A(ask("s2").of(PREFER)), "10.0.0.0 of p"),
            (A(ask("s2").of(REQUIRE)), "pool p: it is being drained and gives no new addresses"),
            (A(ask("s4").from("p")), "pool p: it is being drained and gives no new addresses"),
        ],
    );
    assert_eq!(allocator.set_pools(&Pools::new([dual(false)]).unwrap()), []);
    play(&mut allocator, &[(A(ask("s2").of(PREFER)), "10.0.0.0, fd00:: of p")]);
}

/// The first address that fits: free or shared, whichever comes first.
#[test]
fn a_key_allows_sharing_and_does_not_demand_it() {
    let mut allocator = with([pool("p", &["10.0.0.4/30", "10.0.0.0/30"])]);
    play(
        &mut allocator,
        &[
            (A(ask("s1").ports(&[80])), "10.0.0.4 of p"),
            (A(ask("s2").key("k").ports(&[80])), "10.0.0.5 of p"),
            (A(ask("s3").key("k").ports(&[443])), "10.0.0.5 of p"),
            // A free one before the shared one is taken.
            (Free("s1"), "10.0.0.4 of p"),
            (A(ask("s4").key("k").ports(&[8080])), "10.0.0.4 of p"),
            // No free one before: the first shared one that has room for all ports.
            (A(ask("s5").key("k").ports(&[8080])), "10.0.0.5 of p"),
            (A(ask("s6").key("k").ports(&[80, 8080])), "10.0.0.6 of p"),
            (A(ask("s7").key("k").ports(&[443])), "10.0.0.4 of p"),
            (A(ask("s8").key("k").ports(&[443, 9090])), "10.0.0.6 of p"),
            (A(ask("s9").key("k").local("x").ports(&[1])), "10.0.0.7 of p"),
            (A(ask("t0").key("l").ports(&[1])), "10.0.0.0 of p"),
            // No ports, no conflict.
            (A(ask("t1").key("l")), "10.0.0.0 of p"),
            (A(ask("t2").key("l")), "10.0.0.0 of p"),
        ],
    );
    assert_eq!(allocator.usage()["p"].assigned_v4.get(), 5);
}

#[test]
fn usage_counts_addresses_and_not_owners() {
    let mut allocator = with([
        Pool { avoid_buggy: true, ..pool("a", &["10.0.0.0/29", "fd00::/126"]) },
        Pool { draining: true, ..pool("b", &["10.1.0.0/30"]) },
    ]);
    let usage = |allocator: &PoolAllocator, name: &str| {
        let usage = allocator.usage()[name];
        [usage.assigned_v4, usage.available_v4, usage.assigned_v6, usage.available_v6].map(AddressCount::get)
    };
    assert_eq!(usage(&allocator, "a"), [0, 7, 0, 4]);
    assert_eq!(usage(&allocator, "b"), [0, 0, 0, 0]);
    for (name, port) in [("s1", 1), ("s2", 2), ("s3", 3)] {
        allocator.allocate(&ask(name).of(REQUIRE).key("k").ports(&[port]).0).unwrap();
        assert_eq!(usage(&allocator, "a"), [1, 6, 1, 3]);
    }
    allocator.allocate(&ask("s4").of(V6).0).unwrap();
    allocator.adopt(&ask("s5").0, &addresses(&["10.1.0.0"])).unwrap();
    assert_eq!(usage(&allocator, "a"), [1, 6, 2, 2]);
    assert_eq!(usage(&allocator, "b"), [1, 0, 0, 0]);
    for (name, left) in [("s1", 1), ("s2", 1), ("s3", 0)] {
        allocator.release(&owner(name)).unwrap();
        assert_eq!(usage(&allocator, "a"), [left, 7 - left, left + 1, 3 - left]);
    }
}

#[test]
fn capacities_are_exact_and_do_not_overflow() {
    for (ranges, avoid, v4, v6) in [
        (&["10.0.0.0/24"][..], false, 256, 0),
        (&["10.0.0.0/24", "10.0.1.0/25"], false, 384, 0),
        (&["10.0.0.0/24", "10.0.1.0/25"], true, 381, 0),
        (&["fd00::/64", "10.0.0.0/24", "10.0.1.0/25", "fd01::/64"], true, 381, 2 << 64),
        (&["10.0.0.0/31", "fd00::/127"], true, 1, 2),
        (&["::/1", "8000::/2", "c000::/3", "0.0.0.0/0"], false, 1 << 32, 7 << 125),
        (&["::/0"], false, 0, u128::MAX),
    ] {
        let allocator = with([Pool { avoid_buggy: avoid, ..pool("p", ranges) }]);
        let usage = allocator.usage()["p"];
        assert_eq!((usage.available_v4.get(), usage.available_v6.get()), (v4, v6), "{ranges:?}");
    }
}

#[test]
fn errors_say_in_one_word_what_is_wrong() {
    let refusal = |pool: &str, rule| Refusal::new(pool.into(), rule);
    let full = Rule::Exhausted { family: Family::V4, size: AddressCount::new(1) };
    for (rules, word) in [
        (vec![refusal("a", full.clone())], "PoolExhausted"),
        (vec![refusal("a", Rule::NoFamily(Family::V6)), refusal("a", full.clone())], "NoSuchFamily"),
        (vec![refusal("a", Rule::NotAutomatic), refusal("b", full)], "PoolExhausted"),
        (vec![refusal("a", Rule::NotAutomatic), refusal("b", Rule::Draining)], "NoPoolFits"),
        (vec![refusal("a", Rule::Draining)], "PoolDraining"),
    ] {
        assert_eq!(AllocError::Refused(rules).reason(), word);
    }
}
