//! The allocator's rules written down a second time, as plainly as possible, and a machine that plays random
//! operations on both. Used by the property tests and by the fuzz target `allocator`; not part of the API.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{
    AllocError, AllocRequest, Allocation, Change, Families, IpAllocator, Pool, PoolAllocator, Pools, Port,
    Protocol, Rule, ServiceAllocation, Sharing, Usage,
};
use crate::addr::{AddressCount, AddressRange, Family, from_bits, to_bits};
use crate::id::{OwnerKey, PoolName};
use crate::labels::{LabelSelector, Labels};

/// An allocator that goes through every address of every pool.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pools: Pools,
    held: BTreeMap<OwnerKey, Held>,
}

#[derive(Clone, Debug, PartialEq)]
struct Held {
    allocation: Allocation,
    sharing: Option<Sharing>,
    ports: BTreeSet<Port>,
}

type Outcome = Result<Allocation, ()>;

impl Model {
    /// All addresses of `pool` that it may give, in the order of giving.
    fn addresses(pool: &Pool, family: Family) -> Vec<IpAddr> {
        let of_range = |range: &AddressRange| {
            let bits = to_bits(range.first())..=to_bits(range.last());
            bits.map(|bits| from_bits(family, bits)).collect::<Vec<_>>()
        };
        let ranges = pool.ranges.iter().filter(|range| range.family() == family);
        let good = |address: &IpAddr| match address {
            IpAddr::V4(v4) if pool.avoid_buggy => !matches!(v4.octets()[3], 0 | 255),
            _ => true,
        };
        ranges.flat_map(of_range).filter(good).collect()
    }

    fn others(&self, address: IpAddr, me: &OwnerKey) -> impl Iterator<Item = &Held> {
        let me = me.clone();
        self.held
            .values()
            .filter(move |held| held.allocation.owner != me && held.allocation.addresses.contains(&address))
    }

    fn fits(&self, address: IpAddr, request: &AllocRequest) -> bool {
        let sharing = request.sharing.as_ref().filter(|sharing| !sharing.key.is_empty());
        self.others(address, &request.owner).all(|other| {
            sharing.is_some()
                && other.sharing.as_ref() == sharing
                && request.ports.iter().all(|port| !other.ports.contains(port))
        })
    }

    fn admits(pool: &Pool, request: &AllocRequest) -> bool {
        let Some(rule) = &pool.service_allocation else { return true };
        let namespace = rule.namespaces.is_empty() && rule.namespace_selectors.is_empty()
            || rule.namespaces.contains(&request.owner.object().namespace)
            || rule.namespace_selectors.iter().any(|s| s.matches(&request.namespace_labels));
        let labels = rule.service_selectors.is_empty()
            || rule.service_selectors.iter().any(|s| s.matches(&request.labels));
        namespace && labels
    }

    fn lowest(&self, pool: &Pool, family: Family, request: &AllocRequest) -> Option<IpAddr> {
        Self::addresses(pool, family).into_iter().find(|address| self.fits(*address, request))
    }

    /// The pool that may hold all of `addresses`.
    fn home(&self, addresses: &[IpAddr]) -> Option<&Pool> {
        self.pools.iter().find(|pool| {
            addresses.iter().all(|address| Self::addresses(pool, Family::of(*address)).contains(address))
        })
    }

    /// Whether the addresses named are none, or one of each family wanted.
    fn consistent(request: &AllocRequest) -> bool {
        let families: Vec<_> = request.addresses.iter().map(|address| Family::of(*address)).collect();
        let times = |family: Family| families.iter().filter(|other| **other == family).count();
        families.is_empty()
            || Family::ALL.iter().all(|f| times(*f) == usize::from(request.families.wants(*f)))
    }

    fn enter(&mut self, request: &AllocRequest, pool: PoolName, addresses: Vec<IpAddr>) -> Outcome {
        let allocation = Allocation::new(request.owner.clone(), pool, addresses);
        let held = Held {
            allocation: allocation.clone(),
            sharing: request.sharing.clone().filter(|sharing| !sharing.key.is_empty()),
            ports: request.ports.iter().copied().collect(),
        };
        self.held.insert(request.owner.clone(), held);
        Ok(allocation)
    }

    fn claim(&mut self, request: &AllocRequest, addresses: &[IpAddr], adopting: bool) -> Outcome {
        let pool = self.home(addresses).ok_or(())?.clone();
        let mine = self.held.get(&request.owner).map_or(vec![], |held| held.allocation.addresses.clone());
        let allowed = request.pool.as_ref().is_none_or(|asked| *asked == pool.name)
            && Self::admits(&pool, request)
            && addresses.iter().all(|address| self.fits(*address, request))
            && (adopting || !pool.draining || addresses.iter().all(|address| mine.contains(address)));
        if !allowed {
            return Err(());
        }
        self.enter(request, pool.name, addresses.to_vec())
    }

    fn adopt(&mut self, request: &AllocRequest, shown: &[IpAddr]) -> Outcome {
        let families: BTreeSet<_> = shown.iter().map(|address| Family::of(*address)).collect();
        if families.len() != shown.len() || request.pool.as_ref().is_some_and(|p| self.pools.get(p).is_none())
        {
            return Err(());
        }
        let pinned = if Self::consistent(request) { &request.addresses[..] } else { &[] };
        let wanted = |address: &&IpAddr| {
            request.families.wants(Family::of(**address)) && (pinned.is_empty() || pinned.contains(address))
        };
        let mut target: Vec<_> = shown.iter().filter(wanted).copied().collect();
        if target.is_empty() {
            return Err(());
        }
        if let Some(held) = self.held.get(&request.owner)
            && target.iter().all(|address| held.allocation.addresses.contains(address))
        {
            target = held.allocation.addresses.iter().filter(wanted).copied().collect();
        }
        self.claim(request, &target, true)
    }

    fn allocate(&mut self, request: &AllocRequest) -> Outcome {
        if !Self::consistent(request) || request.pool.as_ref().is_some_and(|p| self.pools.get(p).is_none()) {
            return Err(());
        }
        if !request.addresses.is_empty() {
            return self.claim(request, &request.addresses, false);
        }
        if let Some(held) = self.held.get(&request.owner).cloned() {
            let pool = self.pools.get(&held.allocation.pool).ok_or(())?.clone();
            let mut kept = held.allocation.addresses;
            kept.retain(|address| request.families.wants(Family::of(*address)));
            let asked_here = request.pool.as_ref().is_none_or(|asked| *asked == pool.name);
            if asked_here && Self::admits(&pool, request) && !kept.is_empty() {
                if !kept.iter().all(|address| self.fits(*address, request)) {
                    return Err(());
                }
                let other = Family::of(kept[0]).other();
                if kept.len() == 2 || !request.families.wants(other) {
                    return self.enter(request, pool.name, kept);
                }
                let second = self.lowest(&pool, other, request).filter(|_| !pool.draining);
                if second.is_some() || request.families != Families::RequireDual {
                    kept.extend(second);
                    return self.enter(request, pool.name, kept);
                }
            }
        }
        self.choose(request)
    }

    fn choose(&mut self, request: &AllocRequest) -> Outcome {
        let mut candidates: Vec<_> = match &request.pool {
            Some(name) => self.pools.get(name).into_iter().cloned().collect(),
            None => self.pools.iter().filter(|pool| pool.auto_assign).cloned().collect(),
        };
        candidates.retain(|pool| !pool.draining && Self::admits(pool, request));
        candidates.sort_by_key(|pool| match &pool.service_allocation {
            Some(rule) if rule.priority > 0 => (0, rule.priority),
            Some(_) => (1, 0),
            None => (2, 0),
        });
        let find = |families: &[Family]| {
            candidates.iter().find_map(|pool| {
                let found: Vec<_> = families.iter().filter_map(|f| self.lowest(pool, *f, request)).collect();
                (found.len() == families.len()).then(|| (pool.name.clone(), found))
            })
        };
        let both = [Family::V4, Family::V6];
        let found = match request.families {
            Families::Single(family) => find(&[family]),
            Families::RequireDual => find(&both),
            Families::PreferDual { primary } => {
                find(&both).or_else(|| find(&[primary])).or_else(|| find(&[primary.other()]))
            }
        };
        let (pool, addresses) = found.ok_or(())?;
        self.enter(request, pool, addresses)
    }

    /// Owners renamed (with the new pool) and revoked (`None`), by owner.
    fn set_pools(&mut self, pools: &Pools) -> Vec<(OwnerKey, Option<PoolName>)> {
        self.pools = pools.clone();
        let mut changes = Vec::new();
        for (owner, held) in std::mem::take(&mut self.held) {
            match self.home(&held.allocation.addresses).map(|pool| pool.name.clone()) {
                None => changes.push((owner, None)),
                Some(pool) => {
                    if pool != held.allocation.pool {
                        changes.push((owner.clone(), Some(pool.clone())));
                    }
                    let allocation = Allocation { pool, ..held.allocation };
                    self.held.insert(owner, Held { allocation, ..held });
                }
            }
        }
        changes
    }

    fn usage(&self) -> BTreeMap<PoolName, Usage> {
        let usage = |pool: &Pool| {
            let [(assigned_v4, available_v4), (assigned_v6, available_v6)] = Family::ALL.map(|family| {
                let all = Self::addresses(pool, family);
                let mut free = all.clone();
                free.retain(|a| self.held.values().all(|held| !held.allocation.addresses.contains(a)));
                let available = if pool.draining { 0 } else { free.len() };
                let count = |count: usize| AddressCount::new(count as u128);
                (count(all.len() - free.len()), count(available))
            });
            Usage { assigned_v4, assigned_v6, available_v4, available_v6 }
        };
        self.pools.iter().map(|pool| (pool.name.clone(), usage(pool))).collect()
    }

    /// Whether what the error says is so.
    fn check_truth(&self, request: &AllocRequest, error: &AllocError) {
        let holds = |holder: &OwnerKey, address: &IpAddr| {
            assert_ne!(holder, &request.owner);
            let held = self.held.get(holder).expect("the owner in the way exists");
            assert!(held.allocation.addresses.contains(address), "{holder} does not hold {address}");
            held
        };
        match error {
            AllocError::NoPools => assert!(self.pools.is_empty()),
            AllocError::UnknownPool { pool, .. } => assert!(self.pools.get(pool).is_none()),
            AllocError::NotInAnyPool { address } => {
                assert!(self.pools.iter().all(|pool| pool.ranges.iter().all(|r| !r.contains(*address))));
            }
            AllocError::NotInOnePool { addresses } => assert!(self.home(addresses).is_none()),
            AllocError::NotRequested { .. } => {}
            AllocError::BadRequest(text) => assert!(!text.is_empty()),
            AllocError::Refused(refusals) => {
                assert!(!refusals.is_empty(), "no explanation");
                for refusal in refusals {
                    let pool = self.pools.get(&refusal.pool).expect("the pool that refuses exists");
                    match &refusal.rule {
                        Rule::Exhausted { family, size } => {
                            assert_eq!(Self::addresses(pool, *family).len() as u128, size.get());
                            assert!(size.get() > 0 && self.lowest(pool, *family, request).is_none());
                        }
                        Rule::NoFamily(family) => assert!(Self::addresses(pool, *family).is_empty()),
                        Rule::InOtherPool { address, pool: other } => {
                            assert_ne!(other, &refusal.pool);
                            let other = self.pools.get(other).expect("it exists");
                            assert!(other.ranges.iter().any(|range| range.contains(*address)));
                        }
                        Rule::NotAutomatic => assert!(!pool.auto_assign && request.pool.is_none()),
                        Rule::Draining => assert!(pool.draining),
                        Rule::Namespace(namespace) => {
                            assert_eq!(namespace, &request.owner.object().namespace);
                            assert!(!Self::admits(pool, request));
                        }
                        Rule::ServiceLabels(_) => assert!(!Self::admits(pool, request)),
                        Rule::Buggy(address) => {
                            assert!(pool.avoid_buggy && self.home(&[*address]).is_none());
                        }
                        Rule::Taken { address, holder } => {
                            assert!(holds(holder, address).sharing.is_none());
                        }
                        Rule::SharingKey { address, holder, key } => {
                            let theirs = holds(holder, address).sharing.as_ref().expect("it shares");
                            assert_eq!(&theirs.key, key);
                            assert!(request.sharing.as_ref().is_none_or(|mine| mine.key != *key));
                        }
                        Rule::SharingBackend { address, holder } => {
                            let theirs = holds(holder, address).sharing.as_ref().expect("it shares");
                            let mine = request.sharing.as_ref().expect("the keys are equal");
                            assert!(mine.key == theirs.key && mine.backend != theirs.backend);
                        }
                        Rule::PortTaken { address, port, holder } => {
                            assert!(holds(holder, address).ports.contains(port));
                            assert!(request.ports.contains(port));
                        }
                    }
                }
            }
        }
    }
}

/// One call of the allocator.
#[derive(Clone, Debug)]
pub enum Op {
    /// `set_pools`
    SetPools(Pools),
    /// `adopt`
    Adopt(AllocRequest, Vec<IpAddr>),
    /// `allocate`
    Allocate(AllocRequest),
    /// `release`
    Release(OwnerKey),
}

impl Op {
    /// As many bytes decode to one operation: a fixed number, so that a fuzzer can cut and splice operations.
    pub const BYTES: usize = 8;

    /// Any bytes mean something, in a world small enough for collisions: 8 owners in 2 namespaces, 3 pool names, 12
    /// addresses and 3 ports.
    pub fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let [kind, owner, ..] = bytes;
        let owner = match owner % 8 {
            n @ 0..3 => OwnerKey::service("red", &n.to_string()),
            n @ 3..6 => OwnerKey::service("blue", &n.to_string()),
            n => OwnerKey::gateway("blue", &n.to_string()),
        };
        match kind % 16 {
            0..=1 => Self::SetPools(pools(bytes)),
            2..=3 => Self::Release(owner),
            4..=6 => {
                let mut shown = vec![address(bytes[6])];
                shown.extend((bytes[6] > 127).then(|| address(bytes[6] / 16)));
                Self::Adopt(request(owner, bytes), shown)
            }
            _ => Self::Allocate(request(owner, bytes)),
        }
    }
}

const V4: [&str; 3] = ["10.0.0.4-10.0.0.5", "10.0.0.6/31", "10.0.1.254-10.0.2.1"];
const V6: [&str; 2] = ["fd00::/127", "fd00::2-fd00::3"];

fn address(byte: u8) -> IpAddr {
    // The last one is in no pool.
    let all = [
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.6",
        "10.0.0.7",
        "10.0.1.254",
        "10.0.1.255",
        "10.0.2.0",
        "10.0.2.1",
        "fd00::",
        "fd00::1",
        "fd00::2",
        "fd00::3",
        "fd00::4",
    ];
    all[usize::from(byte) % all.len()].parse().expect("an address")
}

fn pools([_, a, b, c, d, e, f, _]: [u8; Op::BYTES]) -> Pools {
    let mut pools = Vec::new();
    for (index, flags) in [d, e, f].into_iter().enumerate() {
        let in_pool = |(at, _): &(usize, &&str)| {
            // Two bits say which pool a range is in; the value 3: in none.
            let owner = (u32::from(a) | u32::from(b) << 8) >> (2 * at) & 3;
            owner as usize == index
        };
        let mut ranges: Vec<AddressRange> = V4
            .iter()
            .chain(&V6)
            .enumerate()
            .filter(in_pool)
            .map(|(_, range)| range.parse().expect("a range"))
            .collect();
        if ranges.is_empty() {
            continue;
        }
        if c >> index & 1 == 1 {
            ranges.reverse();
        }
        let mut pool = Pool::new(["a", "b", "c"][index], ranges);
        pool.auto_assign = flags & 3 != 0;
        pool.avoid_buggy = flags >> 2 & 1 == 1;
        pool.draining = flags >> 3 & 3 == 3;
        let mut rule = ServiceAllocation { priority: u32::from(flags >> 5 & 1) * 10, ..Default::default() };
        match flags >> 5 {
            0..=3 => {}
            4 | 5 => {
                rule.namespaces = BTreeSet::from([Arc::from("red")]);
                pool.service_allocation = Some(rule);
            }
            6 => {
                rule.namespace_selectors = vec![LabelSelector::label("team", "x")];
                rule.service_selectors = vec![LabelSelector::label("app", "web")];
                pool.service_allocation = Some(rule);
            }
            _ => {
                rule.service_selectors = vec![LabelSelector::label("app", "web")];
                pool.service_allocation = Some(rule);
            }
        }
        pools.push(pool);
    }
    Pools::new(pools).expect("the ranges are disjoint")
}

fn request(
    owner: OwnerKey,
    [kind, _, families, ports, sharing, labels, _, pins]: [u8; Op::BYTES],
) -> AllocRequest {
    let mut request = AllocRequest::new(owner);
    request.families = match families % 5 {
        0 => Families::Single(Family::V4),
        1 => Families::Single(Family::V6),
        2 => Families::PreferDual { primary: Family::V4 },
        3 => Families::PreferDual { primary: Family::V6 },
        _ => Families::RequireDual,
    };
    let port = |bit: u16| Port {
        protocol: if bit == 2 { Protocol::Udp } else { Protocol::Tcp },
        number: 80 + bit % 2,
    };
    // Backwards, and the first one twice: order and repetition mean nothing.
    request.ports = (0..3).rev().filter(|bit| ports >> bit & 1 == 1).map(port).collect();
    request.ports.extend((ports & 9 == 9).then(|| port(0)));
    let share = |key: &str, backend: &str| Some(Sharing { key: key.into(), backend: backend.into() });
    request.sharing = match sharing % 8 {
        0 | 1 => None,
        2 => share("", "app"),
        3..=5 => share("k", ""),
        6 => share("k", "app"),
        _ => share("l", ""),
    };
    let labels_of = |key: &str, value: &str, set: bool| {
        if set { Labels::from_iter([(key, value)]) } else { Labels::new() }
    };
    request.labels = labels_of("app", "web", labels & 1 == 1);
    request.namespace_labels = labels_of("team", "x", labels & 2 == 2);
    request.pool = match labels >> 2 & 15 {
        0 => Some("a".into()),
        1 => Some("b".into()),
        2 => Some("nowhere".into()),
        _ => None,
    };
    if kind >= 128 {
        request.addresses.push(address(pins));
        request.addresses.extend((pins > 127).then(|| address(pins / 16)));
    }
    request
}

/// The operations that `bytes` spell; the bytes left over at the end mean nothing.
pub fn decode(bytes: &[u8]) -> Vec<Op> {
    bytes.as_chunks::<{ Op::BYTES }>().0.iter().map(|chunk| Op::decode(*chunk)).collect()
}

/// Plays `ops` on the allocator and on the model. After each, they must agree on the result and on everything that
/// is held, the allocator's books must be in order, the same call again must change nothing, and what an error
/// says must be true.
///
/// # Panics
/// If they do not.
pub fn check(ops: &[Op]) {
    let mut ours = PoolAllocator::new();
    let mut model = Model::default();
    for op in ops {
        let before = model.clone();
        match op {
            Op::SetPools(pools) => check_set_pools(&mut ours, &mut model, pools),
            Op::Adopt(request, shown) => {
                let expected = model.adopt(request, shown);
                for _ in 0..2 {
                    let result = ours.adopt(request, shown);
                    check_result(&before, request, &result, &expected);
                }
            }
            Op::Allocate(request) => {
                let expected = model.allocate(request);
                for _ in 0..2 {
                    let result = ours.allocate(request);
                    check_result(&before, request, &result, &expected);
                }
            }
            Op::Release(owner) => {
                let expected = model.held.remove(owner).map(|held| held.allocation);
                assert_eq!(ours.release(owner), expected);
                assert_eq!(ours.release(owner), None);
            }
        }
        let held = model.held.values().map(|held| &held.allocation);
        assert!(ours.allocations().eq(held.clone()), "{:?}", ours.allocations().collect::<Vec<_>>());
        assert!(held.clone().all(|allocation| ours.allocation(&allocation.owner) == Some(allocation)));
        assert_eq!(ours.usage(), model.usage());
        ours.audit();
    }
}

fn check_set_pools(ours: &mut PoolAllocator, model: &mut Model, pools: &Pools) {
    let expected = model.set_pools(pools);
    let changes = ours.set_pools(pools);
    let summary = |change: &Change| match change {
        Change::Renamed { owner, to, .. } => (owner.clone(), Some(to.clone())),
        Change::Revoked { allocation, reason } => {
            model.check_truth(&AllocRequest::new(allocation.owner.clone()), reason);
            (allocation.owner.clone(), None)
        }
    };
    assert_eq!(changes.iter().map(summary).collect::<Vec<_>>(), expected);
    assert_eq!(ours.set_pools(pools), []);
}

fn check_result(
    before: &Model,
    request: &AllocRequest,
    result: &Result<Allocation, AllocError>,
    expected: &Outcome,
) {
    match (result, expected) {
        (Ok(allocation), Ok(expected)) => assert_eq!(allocation, expected),
        (Err(error), Err(())) => before.check_truth(request, error),
        _ => panic!("{request:?}: {result:?}, and the model says {expected:?}"),
    }
}
