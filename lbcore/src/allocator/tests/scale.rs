//! Sizes at which a scan would never end. No timing is asserted: a test that hangs has failed.

use super::*;

#[test]
fn the_last_address_of_a_slash_64_is_found_at_once() {
    let mut allocator = with([pool("p", &["fd00::/64", "fd01::5/128"])]);
    // All but the very last of the /64 cannot be taken one by one, but its neighbourhood can.
    allocator.adopt(&ask("last").of(V6).0, &addresses(&["fd00::ffff:ffff:ffff:ffff"])).unwrap();
    for n in 0..3000_u32 {
        let held = allocator.allocate(&ask(&format!("s{n}")).of(V6).0).unwrap();
        assert_eq!(
            held.addresses,
            [IpAddr::from(std::net::Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(n)))]
        );
    }
    allocator.release(&owner("s1234")).unwrap();
    assert_eq!(told(&allocator.allocate(&ask("next").of(V6).0)), "fd00::4d2 of p");
    allocator.audit();
}

#[test]
fn avoiding_costs_nothing_in_the_largest_pool() {
    let mut allocator = with([Pool { avoid_buggy: true, ..pool("p", &["0.0.0.0/0"]) }]);
    for n in 0..1000 {
        allocator.allocate(&ask(&format!("s{n}")).0).unwrap();
    }
    assert_eq!(told(&allocator.allocate(&ask("next").0)), "0.0.3.239 of p");
}

/// Every one has the same key and port: each gets an address of its own, past all that are shared but full.
#[test]
fn sharers_that_collide_do_not_scan_each_other() {
    let mut allocator = with([pool("p", &["10.0.0.0/16"])]);
    for n in 0..3000 {
        allocator.allocate(&ask(&format!("s{n:04}")).key("k").ports(&[80, 443]).0).unwrap();
    }
    assert_eq!(allocator.usage()["p"].assigned_v4.get(), 3000);
    assert_eq!(told(&allocator.allocate(&ask("other").key("k").ports(&[8080]).0)), "10.0.0.0 of p");
    allocator.release(&owner("s2222")).unwrap();
    allocator.allocate(&ask("s9").key("k").ports(&[443]).0).unwrap();
    assert_eq!(told(&allocator.allocate(&ask("t9").key("k").ports(&[80]).0)), "10.0.8.174 of p");
    allocator.audit();
}
