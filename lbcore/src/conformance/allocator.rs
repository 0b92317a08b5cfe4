//! The contract of [`IpAllocator`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::addr::{AddressCount, Family};
use crate::allocator::{
    AllocError, AllocRequest, Allocation, Change, Families, IpAllocator, Pool, Pools, Port, Protocol, Rule,
    ServiceAllocation, Sharing, Usage,
};
use crate::id::{OwnerKey, PoolName};
use crate::labels::LabelSelector;

/// Makes the allocator under test: each time a new one, without pools.
pub type Build<'a> = &'a dyn Fn() -> Box<dyn IpAllocator>;

/// A clause of the contract: asserts one promise, and panics if it is broken.
pub type Clause = fn(Build<'_>);

/// Runs every clause.
pub fn run_all(build: Build<'_>) {
    for (_, clause) in CLAUSES {
        clause(build);
    }
}

/// The clauses, by name.
pub const CLAUSES: &[(&str, Clause)] = &[
    ("addresses_lie_in_the_pool_named", addresses_lie_in_the_pool_named),
    ("no_address_has_two_owners", no_address_has_two_owners),
    ("what_is_reported_is_what_is_held", what_is_reported_is_what_is_held),
    ("a_pool_gives_all_it_has", a_pool_gives_all_it_has),
    ("selectors_are_enforced", selectors_are_enforced),
    ("a_manual_pool_gives_only_to_those_who_ask", a_manual_pool_gives_only_to_those_who_ask),
    ("avoided_addresses_are_not_given", avoided_addresses_are_not_given),
    ("a_draining_pool_gives_nothing_new", a_draining_pool_gives_nothing_new),
    ("priority_comes_before_name", priority_comes_before_name),
    ("a_requested_pool_or_address_is_given_or_refused", a_requested_pool_or_address_is_given_or_refused),
    ("sharing_needs_equal_keys", sharing_needs_equal_keys),
    ("sharing_needs_equal_backends", sharing_needs_equal_backends),
    ("sharers_serve_different_ports", sharers_serve_different_ports),
    ("a_sole_user_changes_its_terms_in_place", a_sole_user_changes_its_terms_in_place),
    ("both_families_come_from_one_pool", both_families_come_from_one_pool),
    ("the_preferred_second_family_comes_late", the_preferred_second_family_comes_late),
    ("a_failed_call_changes_nothing", a_failed_call_changes_nothing),
    ("a_repeated_call_changes_nothing", a_repeated_call_changes_nothing),
    ("a_changed_request_is_followed", a_changed_request_is_followed),
    ("others_take_nothing_away", others_take_nothing_away),
    ("a_release_frees", a_release_frees),
    ("new_pools_keep_what_fits", new_pools_keep_what_fits),
    ("new_pools_revoke_what_does_not_fit", new_pools_revoke_what_does_not_fit),
    ("what_is_shown_is_adopted", what_is_shown_is_adopted),
    ("a_draining_pool_is_adopted_from", a_draining_pool_is_adopted_from),
    ("adoption_obeys_request_and_rules", adoption_obeys_request_and_rules),
    ("one_family_held_is_adopted_and_completed", one_family_held_is_adopted_and_completed),
    ("equal_states_choose_alike", equal_states_choose_alike),
    ("refusals_explain", refusals_explain),
    ("usage_counts_addresses", usage_counts_addresses),
    ("gateways_are_owners_too", gateways_are_owners_too),
];

fn pool(name: &str, ranges: &[&str]) -> Pool {
    Pool::new(name, ranges.iter().map(|range| range.parse().expect("a range")))
}

fn set(allocator: &mut dyn IpAllocator, pools: impl IntoIterator<Item = Pool>) -> Vec<Change> {
    allocator.set_pools(&Pools::new(pools).expect("the suite's pools are valid"))
}

fn with(build: Build<'_>, pools: impl IntoIterator<Item = Pool>) -> Box<dyn IpAllocator> {
    let mut allocator = build();
    let changes = set(&mut *allocator, pools);
    assert!(changes.is_empty(), "the first pools change allocations that cannot be: {changes:?}");
    allocator
}

fn owner(name: &str) -> OwnerKey {
    OwnerKey::service("shop", name)
}

fn request(name: &str) -> AllocRequest {
    AllocRequest::new(owner(name))
}

fn of(families: Families, name: &str) -> AllocRequest {
    AllocRequest { families, ..request(name) }
}

fn at(name: &str, addresses: &[&str]) -> AllocRequest {
    let addresses = ips(addresses);
    let families = match addresses.as_slice() {
        [one] => Families::Single(Family::of(*one)),
        _ => Families::RequireDual,
    };
    AllocRequest { addresses, families, ..request(name) }
}

fn from(name: &str, pool: &str) -> AllocRequest {
    AllocRequest { pool: Some(pool.into()), ..request(name) }
}

fn sharing(request: AllocRequest, key: &str, backend: &str, ports: &[u16]) -> AllocRequest {
    let port = |number: &u16| Port { protocol: Protocol::Tcp, number: *number };
    AllocRequest {
        sharing: Some(Sharing { key: key.into(), backend: backend.into() }),
        ports: ports.iter().map(port).collect(),
        ..request
    }
}

const PREFER: Families = Families::PreferDual { primary: Family::V4 };
const V6: Families = Families::Single(Family::V6);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

/// Everything that can be seen of an allocator.
fn state(allocator: &dyn IpAllocator) -> (Vec<Allocation>, Vec<(PoolName, Usage)>) {
    (allocator.allocations().cloned().collect(), allocator.usage().into_iter().collect())
}

fn get(allocator: &mut dyn IpAllocator, request: &AllocRequest) -> Allocation {
    let result = allocator.allocate(request);
    result.unwrap_or_else(|error| panic!("{} is refused: {error}", request.owner))
}

fn refuse(allocator: &mut dyn IpAllocator, request: &AllocRequest, why: &str) -> AllocError {
    match allocator.allocate(request) {
        Err(error) => error,
        Ok(held) => panic!("{} is given {:?} of {}, though {why}", request.owner, held.addresses, held.pool),
    }
}

fn assert_held(allocator: &dyn IpAllocator, name: &str, addresses: &[&str], why: &str) {
    let held = allocator.allocation(&owner(name)).map(|held| held.addresses.clone());
    assert_eq!(held.unwrap_or_default(), ips(addresses), "what {name} holds: {why}");
}

/// Every address of an allocation lies in the pool that it names; it has one of each family wanted, IPv4 first.
pub fn addresses_lie_in_the_pool_named(build: Build<'_>) {
    let pools = [pool("a", &["192.0.2.0/30"]), pool("b", &["2001:db8::/126", "198.51.100.0/30"])];
    let mut allocator = with(build, pools.clone());
    let wishes = [Families::Single(Family::V4), V6, PREFER, Families::RequireDual];
    for (number, families) in wishes.into_iter().enumerate() {
        let request = of(families, &format!("s{number}"));
        let held = get(&mut *allocator, &request);
        assert_eq!(held.owner, request.owner, "the allocation names its owner");
        let pool = pools.iter().find(|pool| pool.name == held.pool).expect("the pool named exists");
        for address in &held.addresses {
            let inside = pool.ranges.iter().any(|range| range.contains(*address));
            assert!(inside, "{address} of {} does not lie in pool {}", held.owner, held.pool);
        }
        let families: Vec<_> = held.addresses.iter().map(|address| Family::of(*address)).collect();
        let wanted: Vec<_> = Family::ALL.into_iter().filter(|f| request.families.wants(*f)).collect();
        assert_eq!(families, wanted, "the families of {held:?}");
    }
}

/// Without a sharing key, every owner has its own.
pub fn no_address_has_two_owners(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/29", "2001:db8::/125"])]);
    let mut seen = BTreeSet::new();
    for number in 0..8 {
        let families = [Families::Single(Family::V4), Families::RequireDual, V6][number % 3];
        for address in get(&mut *allocator, &of(families, &format!("s{number}"))).addresses {
            assert!(seen.insert(address), "{address} has two owners");
        }
    }
    refuse(&mut *allocator, &at("thief", &["192.0.2.0"]), "somebody else holds it");
}

/// `allocation` and `allocations` show what the calls returned, ordered by owner.
pub fn what_is_reported_is_what_is_held(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/28"])]);
    let names = ["m", "z", "a", "k", "b"];
    let mut held: Vec<_> = names.iter().map(|name| get(&mut *allocator, &request(name))).collect();
    for held in &held {
        assert_eq!(allocator.allocation(&held.owner), Some(held));
    }
    held.sort_by(|a, b| a.owner.cmp(&b.owner));
    assert_eq!(allocator.allocations().cloned().collect::<Vec<_>>(), held, "everything, ordered by owner");
    assert_eq!(allocator.allocation(&owner("nobody")), None);
}

/// Every address of every range can be given, and then no more.
pub fn a_pool_gives_all_it_has(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.9/32", "192.0.2.254-192.0.3.1", "192.0.2.0/31"])]);
    let given: BTreeSet<_> =
        (0..7).map(|n| get(&mut *allocator, &request(&format!("s{n}"))).addresses).collect();
    assert_eq!(given.len(), 7, "seven services get the seven addresses");
    let error = refuse(&mut *allocator, &request("late"), "all are taken");
    assert_eq!(error.reason(), "PoolExhausted");
}

/// `serviceAllocation` binds everybody, however they ask.
pub fn selectors_are_enforced(build: Build<'_>) {
    let mut red = pool("red", &["192.0.2.0/28"]);
    red.service_allocation =
        Some(ServiceAllocation { namespaces: BTreeSet::from(["red".into()]), ..Default::default() });
    let mut labelled = pool("labelled", &["198.51.100.0/28"]);
    labelled.service_allocation = Some(ServiceAllocation {
        namespace_selectors: vec![LabelSelector::label("team", "x")],
        service_selectors: vec![LabelSelector::label("app", "web"), LabelSelector::label("app", "api")],
        ..Default::default()
    });
    let mut allocator = with(build, [red, labelled]);
    for outsider in [request("s1"), from("s1", "red"), at("s1", &["192.0.2.1"])] {
        refuse(&mut *allocator, &outsider, "the pool is for another namespace");
    }
    for (team, app) in [("x", "db"), ("y", "web")] {
        let mut request = from("s1", "labelled");
        request.namespace_labels.insert("team", team);
        request.labels.insert("app", app);
        refuse(&mut *allocator, &request, "namespace and labels must both be selected");
    }
    let mut inside = request("s1");
    inside.namespace_labels.insert("team", "x");
    inside.labels.insert("app", "api");
    assert_eq!(get(&mut *allocator, &inside).pool.as_str(), "labelled");
    let red = AllocRequest::new(OwnerKey::service("red", "s1"));
    assert_eq!(get(&mut *allocator, &red).pool.as_str(), "red");
    // Labels that no longer fit: what is held cannot be kept, but there is nothing else.
    refuse(&mut *allocator, &request("s1"), "its labels are gone");
}

/// `autoAssign: false`: only for those who ask for the pool or an address of it.
pub fn a_manual_pool_gives_only_to_those_who_ask(build: Build<'_>) {
    let manual = Pool { auto_assign: false, ..pool("a", &["192.0.2.0/30"]) };
    let mut allocator = with(build, [manual]);
    refuse(&mut *allocator, &request("s1"), "the pool is manual");
    get(&mut *allocator, &from("s1", "a"));
    get(&mut *allocator, &at("s2", &["192.0.2.3"]));
    // Whoever holds one keeps it without asking again.
    assert_eq!(get(&mut *allocator, &request("s2")).addresses, ips(&["192.0.2.3"]));
}

/// `avoidBuggyIPs`: nothing that ends in .0 or .255, not even by request; IPv6 is not concerned.
pub fn avoided_addresses_are_not_given(build: Build<'_>) {
    let avoiding =
        Pool { avoid_buggy: true, ..pool("a", &["192.0.2.254-192.0.3.1", "2001:db8::/128", "192.0.4.0/32"]) };
    let mut allocator = with(build, [avoiding]);
    for buggy in ["192.0.2.255", "192.0.3.0", "192.0.4.0"] {
        refuse(&mut *allocator, &at("s1", &[buggy]), "its pool avoids it");
    }
    let given: Vec<_> =
        ["s1", "s2"].iter().flat_map(|name| get(&mut *allocator, &request(name)).addresses).collect();
    assert_eq!(BTreeSet::from_iter(given), BTreeSet::from_iter(ips(&["192.0.2.254", "192.0.3.1"])));
    refuse(&mut *allocator, &request("s3"), "the others are avoided");
    get(&mut *allocator, &of(V6, "s4"));
}

/// A draining pool gives nothing new, however one asks; what is held stays.
pub fn a_draining_pool_gives_nothing_new(build: Build<'_>) {
    let open = pool("a", &["192.0.2.0/30", "2001:db8::/126"]);
    let mut allocator = with(build, [open.clone()]);
    let held = get(&mut *allocator, &request("s1"));
    let changes = set(&mut *allocator, [Pool { draining: true, ..open }]);
    assert!(changes.is_empty(), "draining takes nothing away: {changes:?}");
    for newcomer in [request("s2"), from("s2", "a"), at("s2", &["192.0.2.3"])] {
        refuse(&mut *allocator, &newcomer, "the pool is being drained");
    }
    assert_eq!(get(&mut *allocator, &request("s1")), held);
    assert_eq!(get(&mut *allocator, &of(PREFER, "s1")), held, "a second family would be new");
    assert_eq!(allocator.usage()["a"].available_v4, AddressCount::ZERO, "nothing can be had of it");
}

/// Pools for the owner by priority, 0 last; then those for everybody; equal ones by name.
pub fn priority_comes_before_name(build: Build<'_>) {
    let with_priority = |name: &str, range: &str, priority: u32| Pool {
        service_allocation: Some(ServiceAllocation { priority, ..Default::default() }),
        ..pool(name, &[range])
    };
    let mut allocator = with(
        build,
        [
            pool("a", &["192.0.2.0/32"]),
            pool("b", &["192.0.2.1/32"]),
            with_priority("c", "192.0.2.2/32", 0),
            with_priority("d", "192.0.2.3/32", 20),
            with_priority("f", "192.0.2.4/32", 3),
            with_priority("e", "192.0.2.5/32", 3),
        ],
    );
    let order: Vec<_> =
        (0..6).map(|n| get(&mut *allocator, &request(&format!("s{n}"))).pool.as_str().to_owned()).collect();
    assert_eq!(order, ["e", "f", "d", "c", "a", "b"]);
}

/// The pool and the address that are asked for, or an error.
pub fn a_requested_pool_or_address_is_given_or_refused(build: Build<'_>) {
    let mut allocator =
        with(build, [pool("a", &["192.0.2.0/30"]), pool("b", &["198.51.100.0/30", "2001:db8::/126"])]);
    assert_eq!(get(&mut *allocator, &from("s1", "b")).pool.as_str(), "b");
    assert_eq!(get(&mut *allocator, &at("s2", &["192.0.2.3"])).addresses, ips(&["192.0.2.3"]));
    let both = at("s3", &["2001:db8::2", "198.51.100.2"]);
    assert_eq!(get(&mut *allocator, &both).addresses, ips(&["198.51.100.2", "2001:db8::2"]), "IPv4 first");
    let unknown = refuse(&mut *allocator, &from("s4", "nowhere"), "there is no such pool");
    assert!(matches!(unknown, AllocError::UnknownPool { .. }), "{unknown:?}");
    let outside = refuse(&mut *allocator, &at("s4", &["203.0.113.1"]), "no pool has it");
    assert!(matches!(outside, AllocError::NotInAnyPool { .. }), "{outside:?}");
    refuse(&mut *allocator, &at("s4", &["192.0.2.1", "2001:db8::1"]), "they are of two pools");
    refuse(&mut *allocator, &at("s4", &["192.0.2.1", "192.0.2.2"]), "they are of one family");
    let elsewhere = AllocRequest { pool: Some("b".into()), ..at("s4", &["192.0.2.1"]) };
    refuse(&mut *allocator, &elsewhere, "the address is not of that pool");
    refuse(&mut *allocator, &AllocRequest { families: V6, ..at("s4", &["192.0.2.1"]) }, "it wants IPv6");
    let half = AllocRequest { families: Families::RequireDual, ..at("s4", &["198.51.100.1"]) };
    refuse(&mut *allocator, &half, "it wants both families and names one");
}

/// Owners share an address while both have a key, and the same.
pub fn sharing_needs_equal_keys(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/32"])]);
    get(&mut *allocator, &sharing(request("s1"), "k", "", &[80]));
    for stranger in [
        AllocRequest { sharing: None, ..sharing(request("s2"), "", "", &[443]) },
        sharing(request("s2"), "other", "", &[443]),
        AllocRequest { sharing: None, ..sharing(at("s2", &["192.0.2.0"]), "", "", &[443]) },
        sharing(at("s2", &["192.0.2.0"]), "other", "", &[443]),
    ] {
        refuse(&mut *allocator, &stranger, "it has not the same key");
    }
    let held = get(&mut *allocator, &sharing(request("s2"), "k", "", &[443]));
    assert_eq!(held.addresses, ips(&["192.0.2.0"]));
    refuse(&mut *allocator, &sharing(request("s1"), "other", "", &[80]), "another one uses the address");
    assert_held(&*allocator, "s1", &["192.0.2.0"], "it was refused another key");
    allocator.release(&owner("s2"));
    get(&mut *allocator, &sharing(request("s2"), "k", "", &[8080]));
}

/// Owners share an address only if their traffic goes to the same backend.
pub fn sharing_needs_equal_backends(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/32"])]);
    get(&mut *allocator, &sharing(request("s1"), "k", "app=x", &[80]));
    for backend in ["", "app=y"] {
        refuse(&mut *allocator, &sharing(request("s2"), "k", backend, &[443]), "its backend is another");
        refuse(
            &mut *allocator,
            &sharing(at("s2", &["192.0.2.0"]), "k", backend, &[443]),
            "its backend is another",
        );
    }
    get(&mut *allocator, &sharing(request("s2"), "k", "app=x", &[443]));
}

/// No two sharers of an address serve the same port, not even by a later change.
pub fn sharers_serve_different_ports(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/31"])]);
    get(&mut *allocator, &sharing(request("s1"), "k", "", &[80, 81]));
    refuse(&mut *allocator, &sharing(at("s2", &["192.0.2.0"]), "k", "", &[443, 81]), "port 81 is taken");
    get(&mut *allocator, &sharing(request("s2"), "k", "", &[443]));
    assert_held(&*allocator, "s2", &["192.0.2.0"], "its port is free there");
    get(&mut *allocator, &sharing(request("s3"), "k", "", &[443]));
    assert_held(&*allocator, "s3", &["192.0.2.1"], "its port is taken on the first address");
    refuse(&mut *allocator, &sharing(request("s2"), "k", "", &[443, 80]), "port 80 is another's");
    let mut udp = sharing(at("s4", &["192.0.2.0"]), "k", "", &[80]);
    udp.ports[0].protocol = Protocol::Udp;
    get(&mut *allocator, &udp);
    get(&mut *allocator, &sharing(request("s1"), "k", "", &[81]));
    get(&mut *allocator, &sharing(request("s2"), "k", "", &[443, 80]));
}

/// The only user of an address changes key, backend and ports in place, and others are judged by the new ones.
pub fn a_sole_user_changes_its_terms_in_place(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/30"])]);
    get(&mut *allocator, &at("s1", &["192.0.2.2"]));
    for (key, backend, port) in [("k", "", 80), ("l", "app=x", 80), ("l", "", 443)] {
        let held = get(&mut *allocator, &sharing(request("s1"), key, backend, &[port]));
        assert_eq!(held.addresses, ips(&["192.0.2.2"]), "it stays where it is");
    }
    refuse(&mut *allocator, &sharing(at("s2", &["192.0.2.2"]), "k", "", &[8080]), "the key is l now");
    get(&mut *allocator, &sharing(at("s2", &["192.0.2.2"]), "l", "", &[80]));
}

/// One pool gives both families; required both are given whole or not at all.
pub fn both_families_come_from_one_pool(build: Build<'_>) {
    let pools = [
        pool("a", &["192.0.2.0/30"]),
        pool("b", &["2001:db8::/126"]),
        pool("c", &["198.51.100.0/32", "2001:db8:1::/126"]),
    ];
    let mut allocator = with(build, pools);
    let held = get(&mut *allocator, &of(PREFER, "s1"));
    assert_eq!((held.pool.as_str(), held.addresses.len()), ("c", 2), "the pool that has both");
    refuse(&mut *allocator, &of(Families::RequireDual, "s2"), "no pool has both any more");
    let held = get(&mut *allocator, &of(PREFER, "s3"));
    assert_eq!(held.addresses, ips(&["192.0.2.0"]), "one of the primary family");
    let primary = Families::PreferDual { primary: Family::V6 };
    let held = get(&mut *allocator, &of(primary, "s4"));
    assert_eq!(held.addresses, ips(&["2001:db8::"]), "one of the primary family");
}

/// Who prefers both and holds one gets the second from the same pool once that has one, and keeps the first.
pub fn the_preferred_second_family_comes_late(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/30", "2001:db8::/128"])]);
    get(&mut *allocator, &of(V6, "s1"));
    assert_eq!(get(&mut *allocator, &of(PREFER, "s2")).addresses, ips(&["192.0.2.0"]));
    assert_eq!(
        get(&mut *allocator, &of(PREFER, "s2")).addresses,
        ips(&["192.0.2.0"]),
        "none is to be had yet"
    );
    allocator.release(&owner("s1"));
    for time in ["at once", "and stays so"] {
        let held = get(&mut *allocator, &of(PREFER, "s2"));
        assert_eq!(held.addresses, ips(&["192.0.2.0", "2001:db8::"]), "the second family comes {time}");
    }
}

/// A call that fails changes nothing, neither for its owner nor for anybody else.
pub fn a_failed_call_changes_nothing(build: Build<'_>) {
    let mut allocator =
        with(build, [pool("a", &["192.0.2.0/31", "2001:db8::/127"]), pool("b", &["198.51.100.0/32"])]);
    get(&mut *allocator, &of(Families::RequireDual, "s1"));
    get(&mut *allocator, &sharing(request("s2"), "k", "", &[80]));
    get(&mut *allocator, &sharing(at("s3", &["192.0.2.1"]), "k", "", &[443]));
    let before = state(&*allocator);
    let failing = [
        at("s1", &["192.0.2.1", "2001:db8::1"]),
        at("s1", &["203.0.113.1"]),
        from("s1", "b"),
        from("s1", "nowhere"),
        sharing(request("s2"), "l", "", &[80]),
        sharing(request("s2"), "k", "", &[443]),
        of(Families::RequireDual, "s9"),
        AllocRequest { families: V6, ..from("s9", "b") },
    ];
    get(&mut *allocator, &at("filler", &["198.51.100.0"]));
    get(&mut *allocator, &of(V6, "filler6"));
    for request in &failing {
        let before = state(&*allocator);
        refuse(&mut *allocator, request, "it must fail for this clause");
        assert_eq!(state(&*allocator), before, "a failed allocation of {} changed something", request.owner);
    }
    for (request, held) in
        [(request("s9"), "192.0.2.0"), (request("s1"), "203.0.113.1"), (of(V6, "s2"), "192.0.2.1")]
    {
        let before = state(&*allocator);
        let result = allocator.adopt(&request, &[ip(held)]);
        assert!(result.is_err(), "{} must not adopt {held}: {result:?}", request.owner);
        assert_eq!(state(&*allocator), before, "a failed adoption of {} changed something", request.owner);
    }
    for name in ["filler", "filler6"] {
        allocator.release(&owner(name));
    }
    assert_eq!(state(&*allocator), before, "the fillers left nothing behind");
}

/// The same call again gives the same, and changes nothing.
pub fn a_repeated_call_changes_nothing(build: Build<'_>) {
    let pools = [pool("a", &["192.0.2.0/29", "2001:db8::/126"]), pool("b", &["198.51.100.0/30"])];
    let mut allocator = with(build, pools.clone());
    get(&mut *allocator, &request("hole"));
    let requests = [
        request("s1"),
        of(PREFER, "s2"),
        of(Families::RequireDual, "s3"),
        from("s4", "b"),
        at("s5", &["192.0.2.6"]),
        sharing(request("s6"), "k", "", &[80]),
        sharing(request("s7"), "k", "", &[443]),
        of(V6, "s8"),
    ];
    let first: Vec<_> = requests.iter().map(|request| get(&mut *allocator, request)).collect();
    // A lower address that is free now moves nobody.
    allocator.release(&owner("hole"));
    let before = state(&*allocator);
    for _ in 0..2 {
        for (request, first) in requests.iter().zip(&first) {
            assert_eq!(get(&mut *allocator, request), *first, "the same request gives the same");
            let adopted = allocator.adopt(request, &first.addresses);
            assert_eq!(adopted.as_ref(), Ok(first), "to adopt what is held gives the same");
            assert_eq!(state(&*allocator), before);
        }
        let changes = set(&mut *allocator, pools.clone());
        assert!(changes.is_empty(), "the same pools change nothing: {changes:?}");
        assert_eq!(state(&*allocator), before);
    }
    assert!(allocator.release(&owner("s1")).is_some());
    let before = state(&*allocator);
    assert_eq!(allocator.release(&owner("s1")), None, "what is released is released");
    assert_eq!(state(&*allocator), before);
}

/// A request for another address, pool or family replaces what is held; what still fits stays.
pub fn a_changed_request_is_followed(build: Build<'_>) {
    let mut allocator =
        with(build, [pool("a", &["192.0.2.0/30", "2001:db8::/126"]), pool("b", &["198.51.100.0/30"])]);
    get(&mut *allocator, &at("s1", &["192.0.2.2"]));
    assert_eq!(get(&mut *allocator, &at("s1", &["192.0.2.3"])).addresses, ips(&["192.0.2.3"]));
    assert_eq!(
        get(&mut *allocator, &of(PREFER, "s1")).addresses,
        ips(&["192.0.2.3", "2001:db8::"]),
        "it grows"
    );
    assert_eq!(get(&mut *allocator, &of(V6, "s1")).addresses, ips(&["2001:db8::"]), "it shrinks");
    assert_eq!(get(&mut *allocator, &from("s1", "b")).pool.as_str(), "b");
    assert_eq!(allocator.allocations().count(), 1, "an owner has one allocation");
    let usage = allocator.usage();
    assert_eq!(usage["a"].assigned_v4, AddressCount::ZERO, "what was left is free");
    assert_eq!(usage["a"].assigned_v6, AddressCount::ZERO, "what was left is free");
    get(&mut *allocator, &at("s2", &["192.0.2.3", "2001:db8::"]));
}

/// No call of one owner takes anything from another.
pub fn others_take_nothing_away(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/31", "2001:db8::/127"])]);
    let held = get(&mut *allocator, &of(Families::RequireDual, "s1"));
    let check = |allocator: &dyn IpAllocator, what: &str| {
        assert_eq!(
            allocator.allocation(&owner("s1")),
            Some(&held),
            "{what} took something from another owner"
        );
    };
    for rival in [
        of(Families::RequireDual, "s2"),
        at("s2", &["192.0.2.0"]),
        at("s2", &["192.0.2.0", "2001:db8::"]),
        sharing(at("s2", &["2001:db8::"]), "k", "", &[80]),
        of(PREFER, "s3"),
        request("s4"),
    ] {
        let _ = allocator.allocate(&rival);
        check(&*allocator, "an allocation");
        let _ = allocator.adopt(&rival, &ips(&["192.0.2.0", "2001:db8::"]));
        check(&*allocator, "an adoption");
        allocator.release(&rival.owner);
        check(&*allocator, "a release");
    }
}

/// What is released is given again, and a shared address when its last user leaves.
pub fn a_release_frees(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/32", "2001:db8::/128"])]);
    let held = get(&mut *allocator, &of(Families::RequireDual, "s1"));
    assert_eq!(allocator.release(&owner("s1")), Some(held), "what was held is returned");
    assert_eq!(allocator.allocation(&owner("s1")), None);
    let shared = |name: &str, port| sharing(of(Families::RequireDual, name), "k", "", &[port]);
    get(&mut *allocator, &shared("s2", 80));
    get(&mut *allocator, &shared("s3", 443));
    allocator.release(&owner("s2"));
    refuse(&mut *allocator, &of(Families::RequireDual, "s4"), "one sharer is left");
    get(&mut *allocator, &shared("s4", 80));
    allocator.release(&owner("s3"));
    allocator.release(&owner("s4"));
    get(&mut *allocator, &of(Families::RequireDual, "s5"));
}

/// Addresses that still lie in one pool stay, whatever else changed; a new name is told.
pub fn new_pools_keep_what_fits(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/30", "2001:db8::/126"])]);
    get(&mut *allocator, &at("s1", &["192.0.2.1", "2001:db8::1"]));
    get(&mut *allocator, &sharing(at("s2", &["192.0.2.3"]), "k", "", &[80]));
    get(&mut *allocator, &sharing(at("s3", &["192.0.2.3"]), "k", "", &[443]));
    let addresses = |allocator: &dyn IpAllocator| -> Vec<_> {
        allocator.allocations().map(|held| (held.owner.clone(), held.addresses.clone())).collect()
    };
    let before = addresses(&*allocator);
    // Larger, in another order, manual, draining, for others only: all of that concerns the next who asks.
    for change in [
        (|pool: &mut Pool| pool.ranges.reverse()) as fn(&mut Pool),
        |pool| pool.auto_assign = false,
        |pool| pool.draining = true,
        |pool| {
            pool.service_allocation =
                Some(ServiceAllocation { namespaces: BTreeSet::from(["none".into()]), ..Default::default() });
        },
    ] {
        let mut changed = pool("a", &["2001:db8::/64", "192.0.2.0/24"]);
        change(&mut changed);
        let changes = set(&mut *allocator, [changed]);
        assert!(changes.is_empty(), "nothing of it concerns what is held: {changes:?}");
        assert_eq!(addresses(&*allocator), before);
    }
    // Renamed and split.
    let changes = set(
        &mut *allocator,
        [pool("b", &["192.0.2.0-192.0.2.1", "2001:db8::/127"]), pool("c", &["192.0.2.2/31"])],
    );
    let renamed =
        |name: &str, to: &str| Change::Renamed { owner: owner(name), from: "a".into(), to: to.into() };
    assert_eq!(changes, [renamed("s1", "b"), renamed("s2", "c"), renamed("s3", "c")]);
    assert_eq!(addresses(&*allocator), before);
    let pools: Vec<_> = allocator.allocations().map(|held| held.pool.as_str().to_owned()).collect();
    assert_eq!(pools, ["b", "c", "c"], "allocations name their new pools");
    assert_eq!(allocator.usage()["c"].assigned_v4, AddressCount::new(1), "and are counted there");
}

/// Addresses that no pool permits any more are taken back, the allocation whole, and it is told, ordered by owner.
pub fn new_pools_revoke_what_does_not_fit(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/29", "2001:db8::/125"])]);
    for (name, last) in [("s5", 0), ("s1", 1), ("s4", 4), ("s2", 5), ("s3", 3)] {
        get(&mut *allocator, &at(name, &[&format!("192.0.2.{last}"), &format!("2001:db8::{last}")]));
    }
    let avoiding = Pool { avoid_buggy: true, ..pool("a", &["192.0.2.0-192.0.2.3", "2001:db8::/125"]) };
    // .0 is avoided, .4 and .5 are gone; s3 stays.
    let changes = set(&mut *allocator, [avoiding]);
    let revoked: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Revoked { allocation, reason } => {
                assert_eq!(allocation.addresses.len(), 2, "what was held is told whole");
                assert!(!reason.to_string().is_empty());
                allocation.owner.object().name.to_string()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(revoked, ["s2", "s4", "s5"], "ordered by owner");
    assert_held(&*allocator, "s1", &["192.0.2.1", "2001:db8::1"], "it still fits");
    assert_held(&*allocator, "s3", &["192.0.2.3", "2001:db8::3"], "it still fits");
    for name in ["s2", "s4", "s5"] {
        assert_eq!(allocator.allocation(&owner(name)), None, "{name} holds nothing any more");
    }
    get(&mut *allocator, &at("s6", &["2001:db8::4"]));
    // A split between the families leaves no pool that has both.
    let changes = set(&mut *allocator, [pool("a", &["192.0.2.0/24"]), pool("b", &["2001:db8::/64"])]);
    assert_eq!(changes.len(), 3, "two are revoked and one is renamed: {changes:?}");
    assert_eq!(allocator.allocations().count(), 1);
}

/// What the world shows is kept, wherever it lies and in whatever order it is told, and comes before new choices.
pub fn what_is_shown_is_adopted(build: Build<'_>) {
    let pools = || {
        [
            pool("a", &["192.0.2.0/29", "2001:db8::/126"]),
            Pool { auto_assign: false, ..pool("b", &["198.51.100.0/30"]) },
        ]
    };
    let shown = [
        (request("s1"), ips(&["192.0.2.3"])),
        (of(PREFER, "s2"), ips(&["192.0.2.0", "2001:db8::3"])),
        (from("s3", "b"), ips(&["198.51.100.2"])),
        (request("s4"), ips(&["198.51.100.1"])),
        (sharing(request("s5"), "k", "", &[80]), ips(&["192.0.2.5"])),
        (sharing(request("s6"), "k", "", &[443]), ips(&["192.0.2.5"])),
    ];
    let mut forwards = with(build, pools());
    let mut backwards = with(build, pools());
    for (request, addresses) in &shown {
        let held = forwards.adopt(request, addresses).expect("nothing stands against it");
        assert_eq!(held.addresses, *addresses);
    }
    for (request, addresses) in shown.iter().rev() {
        backwards.adopt(request, addresses).expect("nothing stands against it");
    }
    assert_eq!(state(&*forwards), state(&*backwards), "the order of adoptions does not matter");
    for (request, addresses) in &shown {
        assert_eq!(get(&mut *forwards, request).addresses, *addresses, "the next request keeps it");
    }
    assert_eq!(get(&mut *forwards, &request("new")).addresses, ips(&["192.0.2.1"]));
}

/// What a draining pool gave is adopted after a restart.
pub fn a_draining_pool_is_adopted_from(build: Build<'_>) {
    let mut allocator = with(build, [Pool { draining: true, ..pool("a", &["192.0.2.0/29"]) }]);
    let held = allocator.adopt(&request("s1"), &[ip("192.0.2.4")]);
    assert!(held.is_ok(), "a draining pool keeps what it gave: {held:?}");
    assert_eq!(get(&mut *allocator, &request("s1")).addresses, ips(&["192.0.2.4"]));
}

/// What the request does not ask for, or the rules forbid, is not adopted.
pub fn adoption_obeys_request_and_rules(build: Build<'_>) {
    let mut red = pool("red", &["203.0.113.0/30"]);
    red.service_allocation =
        Some(ServiceAllocation { namespaces: BTreeSet::from(["red".into()]), ..Default::default() });
    let mut allocator = with(
        build,
        [
            pool("a", &["192.0.2.0/29", "2001:db8::/126"]),
            Pool { avoid_buggy: true, ..pool("b", &["198.51.100.0/30"]) },
            red,
        ],
    );
    get(&mut *allocator, &sharing(at("rival", &["192.0.2.1"]), "k", "", &[80]));
    for (request, held, why) in [
        (request("s1"), &["192.0.2.1"][..], "somebody else holds it"),
        (sharing(request("s1"), "k", "", &[80]), &["192.0.2.1"], "somebody else has the port"),
        (request("s1"), &["100.64.0.1"], "no pool has it"),
        (request("s1"), &["198.51.100.0"], "its pool avoids it"),
        (request("s1"), &["203.0.113.1"], "its pool is for others"),
        (at("s1", &["192.0.2.2"]), &["192.0.2.3"], "another address is asked for"),
        (from("s1", "b"), &["192.0.2.3"], "another pool is asked for"),
        (from("s1", "nowhere"), &["192.0.2.3"], "that pool does not exist"),
        (of(V6, "s1"), &["192.0.2.3"], "another family is asked for"),
        (of(PREFER, "s1"), &["198.51.100.1", "2001:db8::1"], "the two are not of one pool"),
        (request("s1"), &["192.0.2.3", "192.0.2.4"], "two of a family are too many"),
        (request("s1"), &[], "nothing is nothing"),
    ] {
        let result = allocator.adopt(&request, &ips(held));
        assert!(result.is_err(), "{held:?} is adopted, though {why}");
        assert_eq!(allocator.allocation(&owner("s1")), None);
    }
    let sharer = allocator.adopt(&sharing(request("s1"), "k", "", &[443]), &[ip("192.0.2.1")]);
    assert!(sharer.is_ok(), "sharers are adopted together: {sharer:?}");
}

/// Of two families permitted, the one that is shown is adopted, and the next request completes it.
pub fn one_family_held_is_adopted_and_completed(build: Build<'_>) {
    for families in [PREFER, Families::PreferDual { primary: Family::V6 }, Families::RequireDual] {
        for (shown, both) in
            [("192.0.2.2", ["192.0.2.2", "2001:db8::"]), ("2001:db8::2", ["192.0.2.0", "2001:db8::2"])]
        {
            let mut allocator = with(build, [pool("a", &["192.0.2.0/30", "2001:db8::/126"])]);
            let held = allocator.adopt(&of(families, "s1"), &[ip(shown)]).expect("it is permitted");
            assert_eq!(held.addresses, [ip(shown)], "what is shown is adopted, no more");
            assert_eq!(get(&mut *allocator, &of(families, "s1")).addresses, ips(&both));
        }
    }
}

/// Equal pools and holdings make equal choices, however they came about.
pub fn equal_states_choose_alike(build: Build<'_>) {
    let pools = || {
        [
            pool("b", &["198.51.100.0/30", "2001:db8:1::/126"]),
            pool("a", &["192.0.2.4/30", "192.0.2.0/30"]),
            pool("c", &["203.0.113.0/30", "2001:db8:2::/126"]),
        ]
    };
    let mut straight = with(build, pools());
    for name in ["s1", "s2", "s3"] {
        get(&mut *straight, &request(name));
    }
    get(&mut *straight, &of(PREFER, "s4"));
    // The same end by a detour: documents in another order, others who come and go, adoptions in another order.
    let mut detour = with(build, pools().into_iter().rev());
    for number in 0..7 {
        get(&mut *detour, &of(PREFER, &format!("t{number}")));
    }
    for number in [3, 0, 5, 6, 1, 4, 2] {
        detour.release(&owner(&format!("t{number}")));
    }
    let held: Vec<_> = straight.allocations().cloned().collect();
    for held in held.iter().rev() {
        let families = if held.addresses.len() == 2 { PREFER } else { request("").families };
        detour
            .adopt(&AllocRequest { families, ..AllocRequest::new(held.owner.clone()) }, &held.addresses)
            .expect("it is free");
    }
    assert_eq!(state(&*detour), state(&*straight));
    for number in 0..12 {
        let families = [Families::Single(Family::V4), PREFER, V6][number % 3];
        let request = of(families, &format!("u{number}"));
        assert_eq!(detour.allocate(&request), straight.allocate(&request), "equal states choose alike");
        if number % 4 == 3 {
            let leaver = owner(&format!("u{}", number - 2));
            assert_eq!(detour.release(&leaver), straight.release(&leaver));
        }
    }
    assert_eq!(state(&*detour), state(&*straight));
}

/// A refusal names the pool, the rule, and the owner in the way.
pub fn refusals_explain(build: Build<'_>) {
    let mut allocator = with(
        build,
        [
            pool("a", &["192.0.2.0/32"]),
            Pool { auto_assign: false, ..pool("manual", &["198.51.100.0/30"]) },
            Pool { draining: true, ..pool("old", &["203.0.113.0/30"]) },
        ],
    );
    get(&mut *allocator, &sharing(request("s1"), "k", "", &[80]));
    let rules = |error: AllocError| -> Vec<(String, Rule)> {
        match error {
            AllocError::Refused(refusals) => {
                refusals.into_iter().map(|refusal| (refusal.pool.as_str().to_owned(), refusal.rule)).collect()
            }
            other => panic!("{other:?} does not name the pools that refuse"),
        }
    };
    let full = rules(refuse(&mut *allocator, &request("s2"), "no pool gives"));
    for (pool, rule) in [
        ("a", Rule::Exhausted { family: Family::V4, size: AddressCount::new(1) }),
        ("manual", Rule::NotAutomatic),
        ("old", Rule::Draining),
    ] {
        assert!(full.contains(&(pool.to_owned(), rule.clone())), "{rule:?} of {pool} is missing in {full:?}");
    }
    let address = ip("192.0.2.0");
    let pinned = at("s2", &["192.0.2.0"]);
    let key = rules(refuse(&mut *allocator, &pinned, "it is shared under a key"));
    assert_eq!(key, [("a".to_owned(), Rule::SharingKey { address, holder: owner("s1"), key: "k".into() })]);
    let backend =
        rules(refuse(&mut *allocator, &sharing(pinned.clone(), "k", "x", &[443]), "backends differ"));
    assert_eq!(backend, [("a".to_owned(), Rule::SharingBackend { address, holder: owner("s1") })]);
    let port = rules(refuse(&mut *allocator, &sharing(pinned.clone(), "k", "", &[80]), "the port is taken"));
    let taken = Port { protocol: Protocol::Tcp, number: 80 };
    assert_eq!(port, [("a".to_owned(), Rule::PortTaken { address, port: taken, holder: owner("s1") })]);
    get(&mut *allocator, &request("s1"));
    let held = rules(refuse(&mut *allocator, &pinned, "it is not shared any more"));
    assert_eq!(held, [("a".to_owned(), Rule::Taken { address, holder: owner("s1") })]);
}

/// Usage counts addresses, not owners, and every pool is in it.
pub fn usage_counts_addresses(build: Build<'_>) {
    let huge = ["2001:db8::/32", "192.0.2.0/30"];
    let mut allocator = with(build, [pool("a", &huge), pool("idle", &["198.51.100.0/30"])]);
    for (name, port) in [("s1", 80), ("s2", 443), ("s3", 8080)] {
        get(&mut *allocator, &sharing(of(Families::RequireDual, name), "k", "", &[port]));
    }
    get(&mut *allocator, &request("s4"));
    let count = AddressCount::new;
    let usage = |v4: u128, v6: u128| Usage {
        assigned_v4: count(v4),
        assigned_v6: count(v6),
        available_v4: count(4 - v4),
        available_v6: count((1 << 96) - v6),
    };
    assert_eq!(allocator.usage()["a"], usage(2, 1));
    let names: Vec<_> = allocator.usage().into_keys().map(|name| name.as_str().to_owned()).collect();
    assert_eq!(names, ["a", "idle"]);
    for (name, left) in [("s1", usage(2, 1)), ("s2", usage(2, 1)), ("s3", usage(1, 0)), ("s4", usage(0, 0))] {
        allocator.release(&owner(name));
        assert_eq!(allocator.usage()["a"], left, "after {name} left");
    }
}

/// A Gateway gets an address as a Service does, and is somebody else than a Service of its name.
pub fn gateways_are_owners_too(build: Build<'_>) {
    let mut allocator = with(build, [pool("a", &["192.0.2.0/30"])]);
    let gateway = AllocRequest::new(OwnerKey::gateway("shop", "front"));
    let one = get(&mut *allocator, &gateway);
    let other = get(&mut *allocator, &request("front"));
    assert_ne!(one.addresses, other.addresses);
    assert_eq!(allocator.allocation(&gateway.owner), Some(&one));
    assert_eq!(allocator.release(&gateway.owner), Some(one));
    assert_eq!(allocator.allocation(&other.owner), Some(&other));
}

#[cfg(test)]
mod tests;
