//! The allocator that this crate brings.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::ledger::{Id, Ledger, Record};
use super::stock::{Spot, Stock, Stocks, slot};
use super::{
    AllocError, AllocRequest, Allocation, Change, Families, IpAllocator, Pool, Pools, Port, Refusal, Rule,
    Sharing, Usage,
};
use crate::addr::Family;
use crate::id::{OwnerKey, PoolName};

/// Gives addresses by MetalLB's rules, made deterministic.
///
/// # Which pool
/// The pool that the request names, or the one that the requested addresses lie in; `autoAssign: false` does not
/// stand against either. Else the pools with `autoAssign`, in this order: those with a `serviceAllocation` that
/// includes the owner, by priority (lower first, 0 last), then by name; then those for everybody, by name. A
/// `serviceAllocation` is enforced in every case, a draining pool gives nothing new in any.
///
/// Both addresses of a dual-stack request come from one pool, the first that has both. Where both are preferred
/// and no pool has them, the first pool that has the primary family gives that, else the first that has the other.
///
/// # Which address
/// The first, in the order in which the pool's ranges are written and from the lowest of each, that fits. An
/// address fits if it is free, or if its holders share it, under the same key and for the same backend, and serve
/// none of the requested ports. So a request with a sharing key may join a shared address, and does where that
/// comes first; but a free address that comes earlier is taken rather than a shared one that comes later, as in
/// MetalLB: the key allows sharing and does not demand it. Whoever needs a certain address requests it.
///
/// # What stays
/// What an owner holds stays as long as its request and the pools permit it, address by address: one that asks for
/// one family less keeps the other address, one that asks for one more gets it from the same pool if that has it.
/// An owner that prefers both and holds one gets the second once its pool has one.
///
/// Ports, sharing key and backend change in place where that disturbs nobody. If it would disturb another holder
/// of the address, it is refused and nothing changes: to move away, request another address, or release first.
///
/// # Cost
/// Neither the number of addresses in a pool nor how many of them are taken matters: an address is found at the
/// head of the free runs, and one to share by a binary search among those shared under the same key. What grows is
/// the logarithm of the number of free runs. [`set_pools`](IpAllocator::set_pools) with other pools than before and
/// [`allocations`](IpAllocator::allocations) cost the number of owners and its logarithm.
///
/// ```
/// use lbcore::allocator::{AllocRequest, IpAllocator, Pool, PoolAllocator, Pools};
/// use lbcore::id::OwnerKey;
///
/// let pools = Pools::new([Pool::new("office", ["192.0.2.0/30".parse()?])]).unwrap();
/// let mut allocator = PoolAllocator::new();
/// allocator.set_pools(&pools);
///
/// let web = allocator.allocate(&AllocRequest::new(OwnerKey::service("shop", "web")))?;
/// assert_eq!(web.addresses, ["192.0.2.0".parse::<std::net::IpAddr>()?]);
///
/// let mut request = AllocRequest::new(OwnerKey::gateway("shop", "front"));
/// request.addresses = web.addresses;
/// assert_eq!(
///     allocator.allocate(&request).unwrap_err().to_string(),
///     "pool office: 192.0.2.0 belongs to service shop/web, which does not share it: \
///      set the same metallb.io/allow-shared-ip on both"
/// );
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct PoolAllocator {
    pools: Pools,
    stocks: Stocks,
    ledger: Ledger,
}

impl PoolAllocator {
    /// An allocator without pools: it gives nothing until [`set_pools`](IpAllocator::set_pools).
    pub fn new() -> Self {
        Self::default()
    }

    /// The pools in use.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// The names that exist, if `wish` asks for one that does not.
    fn check_pool(&self, wish: &Wish<'_>) -> Result<(), AllocError> {
        if self.stocks.is_empty() {
            return Err(AllocError::NoPools);
        }
        match &wish.request.pool {
            Some(pool) if self.stocks.find(pool).is_none() => Err(AllocError::UnknownPool {
                pool: pool.clone(),
                known: self.pools.names().cloned().collect(),
            }),
            _ => Ok(()),
        }
    }

    /// Exactly `addresses`, at least one, for `wish`, whose owner has the record `me`. When `adopting`, a draining
    /// pool gives too.
    fn claim(
        &self,
        wish: &Wish<'_>,
        addresses: [Option<IpAddr>; 2],
        me: Option<Id>,
        adopting: bool,
    ) -> Result<Choice, AllocError> {
        let mut home = None;
        for address in addresses.into_iter().flatten() {
            let pool = self.stocks.home(address).ok_or(AllocError::NotInAnyPool { address })?;
            if *home.get_or_insert(pool) != pool {
                return Err(AllocError::NotInOnePool {
                    addresses: addresses.into_iter().flatten().collect(),
                });
            }
            let name = &self.stocks[pool].pool.name;
            if let Some(asked) = wish.request.pool.as_ref().filter(|asked| *asked != name) {
                let rule = Rule::InOtherPool { address, pool: name.clone() };
                return Err(AllocError::Refused(vec![Refusal::new(asked.clone(), rule)]));
            }
        }
        let Some(pool) = home else {
            return Err(AllocError::BadRequest("no address is given".to_owned()));
        };
        let stock = &self.stocks[pool];
        let held =
            me.and_then(|id| self.ledger.get(id)).map_or(&[][..], |record| &record.allocation.addresses);
        let mut rules = Vec::new();
        rules.extend(admits(&stock.pool, wish.request).err());
        if stock.pool.draining
            && !adopting
            && addresses.iter().flatten().any(|address| !held.contains(address))
        {
            rules.push(Rule::Draining);
        }
        let mut choice = Choice { pool, spots: [None; 2] };
        for (spot, address) in choice.spots.iter_mut().zip(addresses) {
            let Some(address) = address else { continue };
            match stock.spot(address).and_then(|spot| self.room(stock, spot, wish, me).map(|()| spot)) {
                Ok(found) => *spot = Some(found),
                Err(rule) => rules.push(rule),
            }
        }
        if rules.is_empty() { Ok(choice) } else { Err(refused(&stock.pool.name, rules)) }
    }

    /// Whether those who hold the address, other than `me`, let `wish` join.
    fn room(&self, stock: &Stock, spot: Spot, wish: &Wish<'_>, me: Option<Id>) -> Result<(), Rule> {
        let address = spot.address;
        let Some(line) = stock.line(Family::of(address)) else { return Err(Rule::Buggy(address)) };
        let mut others =
            line.holders(spot.number).filter(|id| Some(*id) != me).filter_map(|id| self.ledger.get(id));
        let Some(other) = others.next() else { return Ok(()) };
        // All of them share alike, so that any will do for the question; for the answer, the first by name.
        let holder = |others: &mut dyn Iterator<Item = &Record>| {
            let first = others.map(|other| &other.allocation.owner).chain([&other.allocation.owner]).min();
            first.unwrap_or(&other.allocation.owner).clone()
        };
        let Some(theirs) = &other.sharing else {
            return Err(Rule::Taken { address, holder: holder(&mut others) });
        };
        match wish.sharing {
            Some(mine) if mine == theirs => {}
            Some(mine) if mine.key == theirs.key => {
                return Err(Rule::SharingBackend { address, holder: holder(&mut others) });
            }
            _ => {
                return Err(Rule::SharingKey {
                    address,
                    holder: holder(&mut others),
                    key: theirs.key.clone(),
                });
            }
        }
        let my_ports = me
            .and_then(|id| self.ledger.get(id))
            .filter(|record| record.allocation.addresses.contains(&address))
            .map_or(&[][..], |record| &record.ports);
        let is_taken =
            |port: &&Port| line.serves(theirs, spot.number, **port) && my_ports.binary_search(port).is_err();
        let Some(&port) = wish.ports.iter().find(is_taken) else { return Ok(()) };
        let server = [other].into_iter().chain(others).find(|other| other.ports.binary_search(&port).is_ok());
        let holder = server.unwrap_or(other).allocation.owner.clone();
        Err(Rule::PortTaken { address, port, holder })
    }

    /// What to hold for `wish`, which names no addresses and whose owner has the record `id`: as much as possible of
    /// what it holds.
    fn keep(&self, wish: &Wish<'_>, id: Id) -> Result<Choice, AllocError> {
        let Some(record) = self.ledger.get(id) else { return self.choose(wish) };
        let stock = &self.stocks[record.pool];
        if wish.request.pool.as_ref().is_some_and(|pool| *pool != stock.pool.name)
            || admits(&stock.pool, wish.request).is_err()
        {
            return self.choose(wish);
        }
        let kept = by_family(record.allocation.addresses.iter().filter(|address| wish.wants(**address)));
        let missing = match (wish.request.families, kept) {
            (_, [None, None]) => return self.choose(wish),
            (Families::Single(_), _) | (_, [Some(_), Some(_)]) => None,
            (_, [Some(_), None]) => Some(Family::V6),
            (_, [None, Some(_)]) => Some(Family::V4),
        };
        let mut choice = self.claim(wish, kept, Some(id), false)?;
        if let Some(family) = missing {
            let spot = if stock.pool.draining { None } else { offer(stock, wish, family).ok() };
            if spot.is_none() && wish.request.families == Families::RequireDual {
                return self.choose(wish);
            }
            choice.spots[slot(family)] = spot;
        }
        Ok(choice)
    }

    /// What to hold for `wish`, which names no addresses and whose owner holds nothing that it could keep.
    fn choose(&self, wish: &Wish<'_>) -> Result<Choice, AllocError> {
        let named = wish.request.pool.as_ref().and_then(|pool| self.stocks.find(pool)).map(|pool| [pool]);
        let candidates = named.as_ref().map_or(self.stocks.automatic(), |pool| pool);
        let mut fallback = [None; 2];
        for &pool in candidates {
            let stock = &self.stocks[pool];
            if opens(&stock.pool, wish.request).is_err() {
                continue;
            }
            let families = wish.request.families;
            let spots = Family::ALL
                .map(|family| if families.wants(family) { offer(stock, wish, family).ok() } else { None });
            if Family::ALL.iter().all(|family| !families.wants(*family) || spots[slot(*family)].is_some()) {
                return Ok(Choice { pool, spots });
            }
            for family in Family::ALL {
                if let Some(spot) = spots[slot(family)] {
                    fallback[slot(family)].get_or_insert(Choice::of_one(pool, family, spot));
                }
            }
        }
        if let Families::PreferDual { primary } = wish.request.families
            && let Some(choice) = fallback[slot(primary)].or(fallback[slot(primary.other())])
        {
            return Ok(choice);
        }
        Err(AllocError::Refused(self.explain(wish, candidates)))
    }

    /// Why none of `candidates` gives what `wish` asks for, nor any of the pools that were not looked at.
    fn explain(&self, wish: &Wish<'_>, candidates: &[usize]) -> Vec<Refusal> {
        // The owner's own address is not in its way.
        let mine = self.ledger.find(&wish.request.owner).and_then(|id| self.ledger.get(id));
        let mut refusals = Vec::new();
        for &pool in candidates {
            let stock = &self.stocks[pool];
            let mut refuse = |rule| refusals.push(Refusal::new(stock.pool.name.clone(), rule));
            if let Err(rule) = opens(&stock.pool, wish.request) {
                refuse(rule);
                continue;
            }
            for family in Family::ALL.into_iter().filter(|family| wish.request.families.wants(*family)) {
                let has_one = mine.is_some_and(|mine| {
                    mine.pool == pool && mine.allocation.addresses.iter().any(|a| Family::of(*a) == family)
                });
                if !has_one && let Err(rule) = offer(stock, wish, family) {
                    refuse(rule);
                }
            }
        }
        if wish.request.pool.is_none() {
            let manual = self.stocks.iter().filter(|stock| !stock.pool.auto_assign);
            refusals.extend(manual.map(|stock| Refusal::new(stock.pool.name.clone(), Rule::NotAutomatic)));
        }
        refusals
    }

    /// Enters `choice` for the owner of `wish`, whose record is `me`, in place of what it held.
    fn commit(&mut self, wish: &Wish<'_>, choice: Choice, me: Option<Id>) -> Allocation {
        let spots = choice.spots.into_iter().flatten();
        let mut addresses = Vec::with_capacity(spots.clone().count());
        addresses.extend(spots.clone().map(|spot| spot.address));
        let allocation = Allocation {
            owner: wish.request.owner.clone(),
            pool: self.stocks[choice.pool].pool.name.clone(),
            addresses,
        };
        let record = Record {
            allocation: allocation.clone(),
            pool: choice.pool,
            sharing: wish.sharing.cloned(),
            ports: wish.ports.as_ref().into(),
        };
        let id = match me {
            Some(id) => {
                self.let_go(id);
                self.ledger.replace(id, record);
                id
            }
            None => self.ledger.insert(record),
        };
        for spot in spots {
            if let Some(line) = self.stocks[choice.pool].line_mut(Family::of(spot.address)) {
                line.hold(spot.number, id, wish.sharing, &wish.ports);
            }
        }
        allocation
    }

    /// Strikes out everything that `id` holds; its record stays as it was.
    fn let_go(&mut self, id: Id) {
        let Some(record) = self.ledger.get(id) else { return };
        let stock = &mut self.stocks[record.pool];
        for &address in &record.allocation.addresses {
            if let Ok(spot) = stock.spot(address)
                && let Some(line) = stock.line_mut(Family::of(address))
            {
                line.let_go(spot.number, id, record.sharing.as_ref(), &record.ports);
            }
        }
    }

    /// Whether `choice` is what `id` holds already, on the terms of `wish`.
    fn is_held(&self, id: Id, choice: &Choice, wish: &Wish<'_>) -> Option<&Allocation> {
        let record = self.ledger.get(id)?;
        let addresses = choice.spots.iter().flatten().map(|spot| &spot.address);
        let same = addresses.eq(&record.allocation.addresses)
            && record.sharing.as_ref() == wish.sharing
            && *record.ports == *wish.ports;
        same.then_some(&record.allocation)
    }

    fn settle(&mut self, wish: &Wish<'_>, choice: Choice, me: Option<Id>) -> Allocation {
        if let Some(held) = me.and_then(|id| self.is_held(id, &choice, wish)) {
            return held.clone();
        }
        self.commit(wish, choice, me)
    }
}

impl IpAllocator for PoolAllocator {
    fn set_pools(&mut self, pools: &Pools) -> Vec<Change> {
        if *pools == self.pools {
            return Vec::new();
        }
        self.pools = pools.clone();
        self.stocks = Stocks::new(pools);
        let mut changes = Vec::new();
        let mut revoked = Vec::new();
        let mut stays = Vec::new();
        for (id, record) in self.ledger.iter() {
            match home(&self.stocks, &record.allocation.addresses) {
                Ok(choice) => {
                    let to = &self.stocks[choice.pool].pool.name;
                    if *to != record.allocation.pool {
                        changes.push(Change::Renamed {
                            owner: record.allocation.owner.clone(),
                            from: record.allocation.pool.clone(),
                            to: to.clone(),
                        });
                    }
                    stays.extend(choice.spots.into_iter().flatten().map(|spot| (choice.pool, spot, id)));
                }
                Err(reason) => revoked.push((id, reason)),
            }
        }
        for (id, reason) in revoked {
            let Some(record) = self.ledger.remove(id) else { continue };
            changes.push(Change::Revoked { allocation: record.allocation, reason });
        }
        self.restock(stays);
        changes.sort_by(|a, b| a.owner().cmp(b.owner()));
        changes
    }

    fn adopt(&mut self, request: &AllocRequest, held: &[IpAddr]) -> Result<Allocation, AllocError> {
        // Addresses that contradict each other or the families ask for nothing in particular: a mistake in a request
        // costs nobody the address that works.
        let wish = Wish::new(request).unwrap_or_else(|_| Wish::unpinned(request));
        self.check_pool(&wish)?;
        let shown = one_a_family("shows", &request.owner, held)?;
        let me = self.ledger.find(&request.owner);
        let wanted = |address: &&IpAddr| wish.wants(**address) && wish.allows(**address);
        let mut target = by_family(shown.iter().flatten().filter(wanted));
        if target == [None; 2] {
            return Err(match held.first() {
                Some(address) => AllocError::NotRequested { address: *address, wanted: wish.to_string() },
                None => AllocError::BadRequest(format!("{} shows no address to adopt", request.owner)),
            });
        }
        // What it was given on top of what the world shows yet is not taken away again.
        if let Some(record) = me.and_then(|id| self.ledger.get(id))
            && target.iter().flatten().all(|address| record.allocation.addresses.contains(address))
        {
            target = by_family(record.allocation.addresses.iter().filter(wanted));
        }
        let choice = self.claim(&wish, target, me, true)?;
        Ok(self.settle(&wish, choice, me))
    }

    fn allocate(&mut self, request: &AllocRequest) -> Result<Allocation, AllocError> {
        let wish = Wish::new(request)?;
        self.check_pool(&wish)?;
        let me = self.ledger.find(&request.owner);
        let choice = match me {
            _ if wish.pinned != [None; 2] => self.claim(&wish, wish.pinned, me, false)?,
            Some(id) => self.keep(&wish, id)?,
            None => self.choose(&wish)?,
        };
        Ok(self.settle(&wish, choice, me))
    }

    fn release(&mut self, owner: &OwnerKey) -> Option<Allocation> {
        let id = self.ledger.find(owner)?;
        self.let_go(id);
        self.ledger.remove(id).map(|record| record.allocation)
    }

    fn allocation(&self, owner: &OwnerKey) -> Option<&Allocation> {
        Some(&self.ledger.get(self.ledger.find(owner)?)?.allocation)
    }

    fn allocations(&self) -> Box<dyn Iterator<Item = &Allocation> + '_> {
        let mut all: Vec<_> = self.ledger.iter().map(|(_, record)| &record.allocation).collect();
        all.sort_unstable_by(|a, b| a.owner.cmp(&b.owner));
        Box::new(all.into_iter())
    }

    fn usage(&self) -> BTreeMap<PoolName, Usage> {
        self.stocks.iter().map(|stock| (stock.pool.name.clone(), stock.usage())).collect()
    }
}

impl PoolAllocator {
    /// Enters holdings into new stocks; in ascending order, so that everything sorted grows at its end.
    fn restock(&mut self, mut stays: Vec<(usize, Spot, Id)>) {
        let line_of = |(pool, spot, _): &(usize, Spot, Id)| (*pool, slot(Family::of(spot.address)));
        stays.sort_unstable_by_key(|stay| (line_of(stay), stay.1.number));
        for (pool, spot, id) in stays {
            let Some(record) = self.ledger.get_mut(id) else { continue };
            let stock = &mut self.stocks[pool];
            if record.allocation.pool != stock.pool.name {
                record.allocation.pool = stock.pool.name.clone();
            }
            record.pool = pool;
            if let Some(line) = stock.line_mut(Family::of(spot.address)) {
                line.hold(spot.number, id, record.sharing.as_ref(), &record.ports);
            }
        }
    }
}

#[cfg(any(test, fuzzing))]
impl PoolAllocator {
    /// Recounts the books from the records.
    ///
    /// # Panics
    /// If an index disagrees.
    pub(super) fn audit(&self) {
        self.ledger.audit();
        let mut recount = self.clone();
        recount.stocks = Stocks::new(&self.pools);
        for (id, record) in self.ledger.iter() {
            assert!(!record.allocation.addresses.is_empty());
            assert_eq!(record.allocation.pool, self.stocks[record.pool].pool.name);
            let choice = home(&self.stocks, &record.allocation.addresses).expect("it is held");
            assert_eq!(choice.pool, record.pool);
            for spot in choice.spots.into_iter().flatten() {
                let line =
                    recount.stocks[record.pool].line_mut(Family::of(spot.address)).expect("it has some");
                let mut others = line.holders(spot.number).filter_map(|other| self.ledger.get(other));
                assert!(others.all(|other| {
                    record.sharing.is_some()
                        && record.sharing == other.sharing
                        && record.ports.iter().all(|port| !other.ports.contains(port))
                }));
                drop(others);
                line.hold(spot.number, id, record.sharing.as_ref(), &record.ports);
            }
        }
        for (stock, recount) in self.stocks.iter().zip(recount.stocks.iter()) {
            for family in Family::ALL {
                match (stock.line(family), recount.line(family)) {
                    (None, None) => {}
                    (Some(line), Some(recount)) => line.audit(recount),
                    _ => panic!("{} has lines in one count and none in the other", stock.pool.name),
                }
            }
        }
    }
}

/// What is owned and free is not listed: there may be millions.
impl fmt::Debug for PoolAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolAllocator").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

/// A request, checked.
struct Wish<'r> {
    request: &'r AllocRequest,
    /// The addresses that it names, by family: none, or one of each family that it wants.
    pinned: [Option<IpAddr>; 2],
    /// `None` if the key is empty.
    sharing: Option<&'r Sharing>,
    /// Ascending, each once.
    ports: Cow<'r, [Port]>,
}

impl<'r> Wish<'r> {
    fn new(request: &'r AllocRequest) -> Result<Self, AllocError> {
        let mut wish = Self::unpinned(request);
        if request.addresses.is_empty() {
            return Ok(wish);
        }
        let owner = &request.owner;
        wish.pinned = one_a_family("asks for", owner, &request.addresses)?;
        for family in Family::ALL {
            match wish.pinned[slot(family)] {
                Some(address) if !request.families.wants(family) => {
                    return Err(AllocError::BadRequest(format!(
                        "{owner} asks for {address} but its family is {}: ask for an address of that family",
                        family.other()
                    )));
                }
                None if request.families.wants(family) => {
                    let asked = request.addresses[0];
                    return Err(AllocError::BadRequest(format!(
                        "{owner} wants both families but asks for {asked} only: ask for an {family} address of \
                         the same pool too, or for none"
                    )));
                }
                _ => {}
            }
        }
        Ok(wish)
    }

    /// The wish without the addresses that it names.
    fn unpinned(request: &'r AllocRequest) -> Self {
        let ports = if request.ports.is_sorted_by(|a, b| a < b) {
            Cow::Borrowed(request.ports.as_slice())
        } else {
            let mut ports = request.ports.clone();
            ports.sort_unstable();
            ports.dedup();
            Cow::Owned(ports)
        };
        let sharing = request.sharing.as_ref().filter(|sharing| !sharing.key.is_empty());
        Self { request, pinned: [None; 2], sharing, ports }
    }

    /// Whether it wants an address of this one's family.
    fn wants(&self, address: IpAddr) -> bool {
        self.request.families.wants(Family::of(address))
    }

    /// Whether it names this address, or none.
    fn allows(&self, address: IpAddr) -> bool {
        self.pinned == [None; 2] || self.pinned.contains(&Some(address))
    }
}

/// What it wants, for explanations.
impl fmt::Display for Wish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pinned, self.request.families) {
            ([Some(one), None] | [None, Some(one)], _) => write!(f, "{one}"),
            ([Some(v4), Some(v6)], _) => write!(f, "{v4} and {v6}"),
            (_, Families::Single(family)) => write!(f, "an {family} address"),
            _ => f.write_str("an address of each family"),
        }
    }
}

/// What to hold: addresses of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    pool: usize,
    spots: [Option<Spot>; 2],
}

impl Choice {
    fn of_one(pool: usize, family: Family, spot: Spot) -> Self {
        let mut spots = [None; 2];
        spots[slot(family)] = Some(spot);
        Self { pool, spots }
    }
}

/// Where `addresses`, which are held, belong now.
fn home(stocks: &Stocks, addresses: &[IpAddr]) -> Result<Choice, AllocError> {
    let mut choice: Option<Choice> = None;
    for &address in addresses {
        let pool = stocks.home(address).ok_or(AllocError::NotInAnyPool { address })?;
        let choice = choice.get_or_insert(Choice { pool, spots: [None; 2] });
        if choice.pool != pool {
            return Err(AllocError::NotInOnePool { addresses: addresses.to_vec() });
        }
        let stock = &stocks[pool];
        let spot = stock.spot(address).map_err(|rule| refused(&stock.pool.name, vec![rule]))?;
        choice.spots[slot(Family::of(address))] = Some(spot);
    }
    choice.ok_or_else(|| AllocError::BadRequest("nothing is held".to_owned()))
}

/// Whether the pool is for the one who asks.
fn admits(pool: &Pool, request: &AllocRequest) -> Result<(), Rule> {
    let Some(allocation) = &pool.service_allocation else { return Ok(()) };
    let namespace = &request.owner.object().namespace;
    let any_namespace = allocation.namespaces.is_empty() && allocation.namespace_selectors.is_empty();
    if !any_namespace
        && !allocation.namespaces.contains(namespace)
        && !allocation.namespace_selectors.iter().any(|selector| selector.matches(&request.namespace_labels))
    {
        return Err(Rule::Namespace(namespace.clone()));
    }
    let selectors = &allocation.service_selectors;
    if !selectors.is_empty() && !selectors.iter().any(|selector| selector.matches(&request.labels)) {
        return Err(Rule::ServiceLabels(request.owner.clone()));
    }
    Ok(())
}

/// Whether the pool gives the one who asks anything new.
fn opens(pool: &Pool, request: &AllocRequest) -> Result<(), Rule> {
    if pool.draining { Err(Rule::Draining) } else { admits(pool, request) }
}

/// The first address of `family` that fits.
fn offer(stock: &Stock, wish: &Wish<'_>, family: Family) -> Result<Spot, Rule> {
    let line = stock.line(family).ok_or(Rule::NoFamily(family))?;
    let spot = line.first_fit(wish.sharing, &wish.ports);
    spot.ok_or_else(|| Rule::Exhausted { family, size: line.count() })
}

fn refused(pool: &PoolName, rules: Vec<Rule>) -> AllocError {
    AllocError::Refused(rules.into_iter().map(|rule| Refusal::new(pool.clone(), rule)).collect())
}

/// `addresses`, of which no two are of one family, by [`slot`].
fn by_family<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> [Option<IpAddr>; 2] {
    let mut slots = [None; 2];
    for address in addresses {
        slots[slot(Family::of(*address))] = Some(*address);
    }
    slots
}

/// `addresses` by [`slot`], or the error that `owner` asks for two of one family (or shows them).
fn one_a_family(
    verb: &str,
    owner: &OwnerKey,
    addresses: &[IpAddr],
) -> Result<[Option<IpAddr>; 2], AllocError> {
    let mut slots = [None; 2];
    for &address in addresses {
        let family = Family::of(address);
        if let Some(other) = slots[slot(family)].replace(address) {
            return Err(AllocError::BadRequest(format!(
                "{owner} {verb} {other} and {address}: at most one {family} address is possible"
            )));
        }
    }
    Ok(slots)
}
