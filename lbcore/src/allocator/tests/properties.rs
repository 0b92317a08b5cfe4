//! Against the model, and laws that hold for every sequence of calls.

use proptest::prelude::*;

use super::super::model::{Op, check};
use super::*;

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(800), ..default }
}

fn op() -> impl Strategy<Value = Op> {
    any::<[u8; Op::BYTES]>().prop_map(Op::decode)
}

/// Pools to begin with: without any, nothing happens.
fn pools() -> impl Strategy<Value = Op> {
    any::<[u8; Op::BYTES]>().prop_map(|[_, rest @ ..]| {
        let mut bytes = [0; Op::BYTES];
        bytes[1..].copy_from_slice(&rest);
        Op::decode(bytes)
    })
}

fn apply(allocator: &mut PoolAllocator, op: &Op) {
    // Refusals are part of the game.
    match op {
        Op::SetPools(pools) => drop(allocator.set_pools(pools)),
        Op::Adopt(request, held) => drop(allocator.adopt(request, held)),
        Op::Allocate(request) => drop(allocator.allocate(request)),
        Op::Release(owner) => drop(allocator.release(owner)),
    }
}

fn state(allocator: &PoolAllocator) -> (Vec<Allocation>, BTreeMap<PoolName, Usage>) {
    (allocator.allocations().cloned().collect(), allocator.usage())
}

proptest! {
    #![proptest_config(config())]

    /// Results, what is held, usage, truth of explanations, fixed point, failure atomicity and the books: all of it
    /// after every call (see `model::check`).
    #[test]
    fn does_what_the_model_does(first in pools(), rest in proptest::collection::vec(op(), 1..50)) {
        let mut ops = vec![first];
        ops.extend(rest);
        check(&ops);
    }

    /// The choice depends on what is held, not on how that came about: an allocator that adopts the same holdings
    /// in any order answers every request alike.
    #[test]
    fn history_does_not_matter(
        first in pools(),
        rest in proptest::collection::vec(op(), 1..30),
        probe in proptest::collection::vec(op(), 1..8),
        seed: u64,
    ) {
        let mut old = PoolAllocator::new();
        let mut requests: BTreeMap<OwnerKey, AllocRequest> = BTreeMap::new();
        let mut last_pools = None;
        for op in std::iter::once(&first).chain(&rest) {
            match op {
                Op::SetPools(pools) => last_pools = Some(pools.clone()),
                // Adopted without names: the addresses say it all.
                Op::Adopt(request, _) | Op::Allocate(request) => {
                    let mut twin = old.clone();
                    let result = match op {
                        Op::Adopt(_, held) => twin.adopt(request, held),
                        _ => twin.allocate(request),
                    };
                    if result.is_ok() {
                        let request = AllocRequest { addresses: vec![], pool: None, ..request.clone() };
                        requests.insert(request.owner.clone(), request);
                    }
                }
                Op::Release(_) => {}
            }
            apply(&mut old, op);
        }
        let mut held: Vec<_> = old.allocations().cloned().collect();
        // Any order will do; labels may have changed since, which only matters to those who ask.
        held.sort_by_key(|held| {
            let name: u64 = held.owner.object().name.bytes().map(u64::from).sum();
            name.wrapping_mul(seed | 1)
        });
        let mut new = PoolAllocator::new();
        let Some(pools) = last_pools else { return Ok(()) };
        let mut open: Vec<_> = pools.iter().cloned().collect();
        for pool in &mut open {
            pool.service_allocation = None;
        }
        new.set_pools(&Pools::new(open.into_iter().rev()).unwrap());
        for held in &held {
            new.adopt(&requests[&held.owner], &held.addresses).unwrap();
        }
        new.set_pools(&pools);
        prop_assert_eq!(state(&new), state(&old));
        for op in &probe {
            match op {
                Op::Adopt(request, held) => prop_assert_eq!(new.adopt(request, held), old.adopt(request, held)),
                Op::Allocate(request) => prop_assert_eq!(new.allocate(request), old.allocate(request)),
                op => {
                    apply(&mut new, op);
                    apply(&mut old, op);
                }
            }
            prop_assert_eq!(state(&new), state(&old));
        }
    }

    /// A whole reconcile, done twice, moves nothing the second time, though owners disturb each other in the first.
    #[test]
    fn two_successive_reconciles_are_a_fixed_point(
        first in pools(),
        before in proptest::collection::vec(op(), 0..20),
        services in proptest::collection::vec(op(), 1..12),
    ) {
        let mut allocator = PoolAllocator::new();
        for op in before.iter().chain([&first]) {
            apply(&mut allocator, op);
        }
        let requests: BTreeMap<_, _> = services.into_iter().filter_map(|op| match op {
            Op::Allocate(request) | Op::Adopt(request, _) => Some((request.owner.clone(), request)),
            _ => None,
        }).collect();
        // Refusals are not compared: who is refused first may be told of one who came after.
        let reconcile = |allocator: &mut PoolAllocator| {
            let results: Vec<_> = requests.values().map(|request| allocator.allocate(request).ok()).collect();
            (results, state(allocator))
        };
        // What one gives up another may get: rounds go on while something moves, each for the better, so they end.
        let mut last = reconcile(&mut allocator);
        for _ in 0..requests.len() + 1 {
            let next = reconcile(&mut allocator);
            if next == last {
                break;
            }
            last = next;
        }
        let settled = reconcile(&mut allocator);
        prop_assert_eq!(&settled, &last);
        // Nobody disturbs anybody: then one round is enough.
        let mut fresh = PoolAllocator::new();
        apply(&mut fresh, &first);
        let once = reconcile(&mut fresh);
        prop_assert_eq!(reconcile(&mut fresh), once);
    }
}
