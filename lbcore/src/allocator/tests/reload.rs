//! New pools under existing allocations.

use super::*;

/// Two services with both families hold .0 and .1; `pools` come. What is said, and what is held then.
fn after(pools: impl IntoIterator<Item = Pool>) -> (Vec<String>, Vec<String>) {
    let mut allocator = with([pool("main", &["10.0.0.0/31", "fd00::/127"])]);
    for name in ["s1", "s2"] {
        allocator.allocate(&ask(name).of(REQUIRE).0).unwrap();
    }
    let pools = Pools::new(pools).unwrap();
    let changes = allocator.set_pools(&pools);
    allocator.audit();
    assert_eq!(allocator.set_pools(&pools), [], "the same pools again change nothing");
    let say = |change: &Change| match change {
        Change::Renamed { owner, from, to } => format!("{owner}: {from} is {to}"),
        Change::Revoked { allocation, reason } => format!("{} lost it: {reason}", allocation.owner),
    };
    let held = |held: &Allocation| format!("{}: {}", held.owner.object().name, told(&Ok(held.clone())));
    (changes.iter().map(say).collect(), allocator.allocations().map(held).collect())
}

const BOTH: [&str; 2] = ["s1: 10.0.0.0, fd00:: of main", "s2: 10.0.0.1, fd00::1 of main"];

#[test]
fn the_same_pool_changes_nothing() {
    let (changes, held) = after([pool("main", &["10.0.0.0/31", "fd00::/127"])]);
    assert_eq!((changes, held), (vec![], BOTH.map(String::from).to_vec()));
}

#[test]
fn a_larger_pool_changes_nothing() {
    let (changes, held) = after([pool("main", &["fd00::/64", "10.0.0.128/25", "10.0.0.0/25"])]);
    assert_eq!((changes, held), (vec![], BOTH.map(String::from).to_vec()));
}

#[test]
fn a_smaller_pool_revokes_what_it_lost() {
    let (changes, held) = after([pool("main", &["10.0.0.0/32", "fd00::/128"])]);
    assert_eq!(
        changes,
        ["service shop/s2 lost it: 10.0.0.1 is in no pool: ask for an address of a pool, or add it to one"]
    );
    assert_eq!(held, BOTH[..1]);
}

#[test]
fn an_allocation_is_revoked_whole() {
    let (changes, held) = after([pool("main", &["10.0.0.1/32", "fd00::/127"])]);
    assert_eq!(
        changes,
        ["service shop/s1 lost it: 10.0.0.0 is in no pool: ask for an address of a pool, or add it to one"]
    );
    assert_eq!(held, BOTH[1..]);
    let (changes, held) = after([pool("main", &["10.0.0.0/31", "fd00::/128"])]);
    assert_eq!(
        changes,
        ["service shop/s2 lost it: fd00::1 is in no pool: ask for an address of a pool, or add it to one"]
    );
    assert_eq!(held, BOTH[..1]);
}

#[test]
fn a_renamed_pool_keeps_its_allocations() {
    let (changes, held) = after([pool("new", &["10.0.0.0/31", "fd00::/127"])]);
    assert_eq!(changes, ["service shop/s1: main is new", "service shop/s2: main is new"]);
    assert_eq!(held, ["s1: 10.0.0.0, fd00:: of new", "s2: 10.0.0.1, fd00::1 of new"]);
}

#[test]
fn a_split_pool_keeps_its_allocations_each_in_its_half() {
    let (changes, held) = after([
        pool("main", &["10.0.0.0/32", "fd00::/128"]),
        pool("second", &["10.0.0.1/32", "fd00::1/128"]),
    ]);
    assert_eq!(changes, ["service shop/s2: main is second"]);
    assert_eq!(held, [BOTH[0], "s2: 10.0.0.1, fd00::1 of second"]);
}

#[test]
fn a_split_between_the_families_revokes() {
    let (changes, held) = after([pool("four", &["10.0.0.0/31"]), pool("six", &["fd00::/127"])]);
    assert_eq!(
        changes,
        [
            "service shop/s1 lost it: 10.0.0.0, fd00:: are not all in one pool: ask for addresses of the same pool",
            "service shop/s2 lost it: 10.0.0.1, fd00::1 are not all in one pool: ask for addresses of the same pool",
        ]
    );
    assert_eq!(held, [""; 0]);
}

#[test]
fn avoiding_revokes_what_is_avoided() {
    let (changes, held) = after([Pool { avoid_buggy: true, ..pool("main", &["10.0.0.0/31", "fd00::/127"]) }]);
    assert_eq!(
        changes,
        ["service shop/s1 lost it: pool main: 10.0.0.0 ends in .0 or .255 and avoidBuggyIPs is set"]
    );
    assert_eq!(held, BOTH[1..]);
}

#[test]
fn draining_closing_and_narrowing_take_nothing_away() {
    for change in [
        (|pool: &mut Pool| pool.draining = true) as fn(&mut Pool),
        |pool| pool.auto_assign = false,
        |pool| pool.service_allocation = Some(namespaces(&["elsewhere"])),
    ] {
        let mut narrowed = pool("main", &["10.0.0.0/31", "fd00::/127"]);
        change(&mut narrowed);
        assert_eq!(after([narrowed]), (vec![], BOTH.map(String::from).to_vec()));
    }
}

#[test]
fn without_pools_everything_is_revoked() {
    let (changes, held) = after([]);
    assert_eq!(changes.len(), 2);
    assert_eq!(held, [""; 0]);
}

#[test]
fn sharers_stay_together_and_their_ports_are_still_known() {
    let mut allocator = with([pool("main", &["10.0.0.0/30"])]);
    for (name, port) in [("s1", 80), ("s2", 443), ("s3", 80), ("s4", 443)] {
        allocator.allocate(&ask(name).key("k").ports(&[port]).0).unwrap();
    }
    let held = ["s1: 10.0.0.0", "s2: 10.0.0.0", "s3: 10.0.0.1", "s4: 10.0.0.1"];
    assert_eq!(texts(&allocator), held);
    let pools = [pool("new", &["10.0.0.1/32"]), pool("old", &["10.0.0.2-10.0.0.9", "10.0.0.0/32"])];
    let changes = allocator.set_pools(&Pools::new(pools).unwrap());
    assert_eq!(changes.len(), 4);
    assert_eq!(texts(&allocator), held);
    allocator.audit();
    let mut request = ask("s5").at(&["10.0.0.1"]).key("k").ports(&[443]);
    assert_eq!(
        told(&allocator.allocate(&request.0)),
        "pool new: port TCP/443 of 10.0.0.1 belongs to service shop/s4"
    );
    request = request.ports(&[8080]);
    assert_eq!(told(&allocator.allocate(&request.0)), "10.0.0.1 of new");
}
