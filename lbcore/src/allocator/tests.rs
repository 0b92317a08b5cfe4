//! The topics of MetalLB's allocator tests, told anew, and the laws that no table can cover.

mod assignment;
mod choice;
mod properties;
mod reload;
mod scale;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::labels::LabelSelector;

/// A pool for everybody.
fn pool(name: &str, ranges: &[&str]) -> Pool {
    Pool::new(name, ranges.iter().map(|range| range.parse().unwrap()))
}

fn pool_for(name: &str, ranges: &[&str], allocation: ServiceAllocation) -> Pool {
    Pool { service_allocation: Some(allocation), ..pool(name, ranges) }
}

fn namespaces(names: &[&str]) -> ServiceAllocation {
    let namespaces: BTreeSet<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
    ServiceAllocation { namespaces, ..Default::default() }
}

fn with(pools: impl IntoIterator<Item = Pool>) -> PoolAllocator {
    let mut allocator = PoolAllocator::new();
    assert_eq!(allocator.set_pools(&Pools::new(pools).unwrap()), []);
    allocator
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

/// A request of service `namespace/name`.
#[derive(Clone)]
struct Ask(AllocRequest);

fn owner(name: &str) -> OwnerKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    OwnerKey::service(namespace, name)
}

fn ask(name: &str) -> Ask {
    Ask(AllocRequest::new(owner(name)))
}

const PREFER: Families = Families::PreferDual { primary: Family::V4 };
const REQUIRE: Families = Families::RequireDual;
const V4: Families = Families::Single(Family::V4);
const V6: Families = Families::Single(Family::V6);

impl Ask {
    fn of(mut self, families: Families) -> Self {
        self.0.families = families;
        self
    }

    /// Names addresses, and wants just their families.
    fn at(mut self, list: &[&str]) -> Self {
        self.0.addresses = addresses(list);
        self.0.families = match self.0.addresses.as_slice() {
            [one] => Families::Single(Family::of(*one)),
            _ => REQUIRE,
        };
        self
    }

    fn from(mut self, pool: &str) -> Self {
        self.0.pool = Some(pool.into());
        self
    }

    fn key(mut self, key: &str) -> Self {
        self.0.sharing = Some(Sharing { key: key.into(), backend: "".into() });
        self
    }

    /// `externalTrafficPolicy: Local` with this selector.
    fn local(mut self, selector: &str) -> Self {
        self.0.sharing.as_mut().unwrap().backend = selector.into();
        self
    }

    fn ports(mut self, numbers: &[u16]) -> Self {
        let port = |number: &u16| Port { protocol: Protocol::Tcp, number: *number };
        self.0.ports = numbers.iter().map(port).collect();
        self
    }

    fn label(mut self, key: &str, value: &str) -> Self {
        self.0.labels.insert(key, value);
        self
    }

    fn namespace_label(mut self, key: &str, value: &str) -> Self {
        self.0.namespace_labels.insert(key, value);
        self
    }
}

fn told(result: &Result<Allocation, AllocError>) -> String {
    match result {
        Ok(held) => format!("{} of {}", list(&held.addresses), held.pool),
        Err(error) => error.to_string(),
    }
}

fn texts(allocator: &PoolAllocator) -> Vec<String> {
    let text = |held: &Allocation| format!("{}: {}", held.owner.object().name, list(&held.addresses));
    allocator.allocations().map(text).collect()
}

/// A step of a story, and how it ends: `ADDRESS, … of POOL`, or the whole refusal.
type Step<'a> = (Do, &'a str);

enum Do {
    Ask(Ask),
    Adopt(Ask, &'static [&'static str]),
    Free(&'static str),
}

/// Plays a story. A step that is refused must leave everything as it was; each is done twice with the same end.
fn play(allocator: &mut PoolAllocator, steps: &[Step<'_>]) {
    for (number, (step, expected)) in steps.iter().enumerate() {
        for time in ["", ", done again"] {
            let before = (texts(allocator), allocator.usage());
            let end = match step {
                Do::Ask(ask) => told(&allocator.allocate(&ask.0)),
                Do::Adopt(ask, held) => told(&allocator.adopt(&ask.0, &addresses(held))),
                Do::Free(name) => match allocator.release(&owner(name)) {
                    Some(held) => told(&Ok(held)),
                    None => "nothing".to_owned(),
                },
            };
            let again_freed = matches!(step, Do::Free(_)) && !time.is_empty();
            assert_eq!(end, if again_freed { "nothing" } else { *expected }, "step {number}{time}");
            if !end.contains(" of ") || !time.is_empty() {
                assert_eq!(
                    (texts(allocator), allocator.usage()),
                    before,
                    "step {number}{time} changes things"
                );
            }
            allocator.audit();
        }
    }
}

fn selector(key: &str, value: &str) -> Vec<LabelSelector> {
    vec![LabelSelector::label(key, value)]
}
