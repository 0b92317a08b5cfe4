//! What the pools have: their addresses, which of them are free, and which have room for a sharer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::free::FreeSet;
use super::holders::Holders;
use super::ledger::Id;
use super::numbering::Numbering;
use super::sharing::Group;
use super::{Pool, Pools, Port, Rule, Sharing, Usage};
use crate::addr::{AddressCount, Family, to_bits};
use crate::id::PoolName;

/// An address, with its number in its [`Line`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) address: IpAddr,
    pub(super) number: u128,
}

/// The addresses that a pool gives of one family; never none.
#[derive(Clone, Debug)]
pub(super) struct Line {
    numbering: Numbering,
    free: FreeSet,
    holders: Holders,
    /// The addresses whose holders share them.
    groups: BTreeMap<Sharing, Group>,
    /// How many addresses are held.
    assigned: u128,
}

impl Line {
    fn new(pool: &Pool, family: Family) -> Option<Self> {
        let numbering = Numbering::new(&pool.ranges, family, pool.avoid_buggy);
        let last = numbering.last()?;
        Some(Self {
            numbering,
            free: FreeSet::new(Some(last), std::iter::empty()),
            holders: Holders::default(),
            groups: BTreeMap::new(),
            assigned: 0,
        })
    }

    /// `id` holds `number` from now on, serves `ports` there, and shares it as `sharing` says.
    pub(super) fn hold(&mut self, number: u128, id: Id, sharing: Option<&Sharing>, ports: &[Port]) {
        if self.holders.add(number, id) {
            self.free.take(number);
            self.assigned += 1;
        }
        if let Some(sharing) = sharing {
            match self.groups.get_mut(sharing) {
                Some(group) => group.join(number, ports),
                None => self.groups.entry(sharing.clone()).or_default().join(number, ports),
            }
        }
    }

    /// `id` no longer holds `number`. What it served and shared is as it was told to [`Self::hold`].
    pub(super) fn let_go(&mut self, number: u128, id: Id, sharing: Option<&Sharing>, ports: &[Port]) {
        let free = self.holders.remove(number, id);
        if free {
            self.free.give(number);
            self.assigned -= 1;
        }
        if let Some(sharing) = sharing
            && let Some(group) = self.groups.get_mut(sharing)
        {
            group.leave(number, ports, free);
            if group.is_empty() {
                self.groups.remove(sharing);
            }
        }
    }

    /// How many addresses there are.
    pub(super) fn count(&self) -> AddressCount {
        self.numbering.count()
    }

    /// Those who hold `number`.
    pub(super) fn holders(&self, number: u128) -> impl Iterator<Item = Id> {
        self.holders.of(number)
    }

    /// Whether somebody who shares `number` as `sharing` says serves `port` there.
    pub(super) fn serves(&self, sharing: &Sharing, number: u128, port: Port) -> bool {
        self.groups.get(sharing).is_some_and(|group| group.serves(number, port))
    }

    /// The first address, in the order of giving, that is free or has room for a sharer that serves `ports`.
    pub(super) fn first_fit(&self, sharing: Option<&Sharing>, ports: &[Port]) -> Option<Spot> {
        let free = self.free.first();
        let group = sharing.and_then(|sharing| self.groups.get(sharing));
        let shared = group.and_then(|group| group.first_fit(ports, free));
        let number = shared.or(free)?;
        Some(Spot { address: self.numbering.address(number)?, number })
    }

    fn usage(&self, draining: bool) -> (AddressCount, AddressCount) {
        let assigned = AddressCount::new(self.assigned);
        let available =
            if draining { AddressCount::ZERO } else { self.numbering.count().saturating_sub(assigned) };
        (assigned, available)
    }
}

/// A pool and what it has.
#[derive(Clone, Debug)]
pub(super) struct Stock {
    pub(super) pool: Pool,
    /// By [`slot`].
    lines: [Option<Line>; 2],
}

impl Stock {
    fn new(pool: &Pool) -> Self {
        Self { pool: pool.clone(), lines: Family::ALL.map(|family| Line::new(pool, family)) }
    }

    pub(super) fn line(&self, family: Family) -> Option<&Line> {
        self.lines[slot(family)].as_ref()
    }

    pub(super) fn line_mut(&mut self, family: Family) -> Option<&mut Line> {
        self.lines[slot(family)].as_mut()
    }

    /// The place of `address`, which lies in the pool's ranges.
    pub(super) fn spot(&self, address: IpAddr) -> Result<Spot, Rule> {
        let number = self.line(Family::of(address)).and_then(|line| line.numbering.number(address));
        // What is in the ranges and has no number is avoided.
        number.map(|number| Spot { address, number }).ok_or(Rule::Buggy(address))
    }

    pub(super) fn usage(&self) -> Usage {
        let [v4, v6] = &self.lines;
        let usage = |line: &Option<Line>| {
            line.as_ref().map_or_else(Default::default, |line| line.usage(self.pool.draining))
        };
        let ((assigned_v4, available_v4), (assigned_v6, available_v6)) = (usage(v4), usage(v6));
        Usage { assigned_v4, assigned_v6, available_v4, available_v6 }
    }
}

/// All pools and what they have.
#[derive(Clone, Debug, Default)]
pub(super) struct Stocks {
    /// Ordered by name.
    stocks: Vec<Stock>,
    /// Those that give without being asked for by name, in the order in which they are looked at.
    automatic: Vec<usize>,
    /// Every range, by [`slot`] of its family, ordered by its first address.
    homes: [Vec<Home>; 2],
}

/// A range, in bits, and the pool that it belongs to.
#[derive(Clone, Copy, Debug)]
struct Home {
    first: u128,
    last: u128,
    pool: usize,
}

impl Stocks {
    pub(super) fn new(pools: &Pools) -> Self {
        let stocks: Vec<_> = pools.iter().map(Stock::new).collect();
        let mut automatic: Vec<_> = (0..stocks.len()).filter(|&pool| stocks[pool].pool.auto_assign).collect();
        automatic.sort_by_key(|&pool| Precedence::of(&stocks[pool].pool, pool));
        let mut homes = [Vec::new(), Vec::new()];
        for (pool, stock) in stocks.iter().enumerate() {
            for range in &stock.pool.ranges {
                let (first, last) = (to_bits(range.first()), to_bits(range.last()));
                homes[slot(range.family())].push(Home { first, last, pool });
            }
        }
        for homes in &mut homes {
            homes.sort_unstable_by_key(|home| home.first);
        }
        Self { stocks, automatic, homes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stocks.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stock> {
        self.stocks.iter()
    }

    pub(super) fn automatic(&self) -> &[usize] {
        &self.automatic
    }

    /// The place of the pool of this name.
    pub(super) fn find(&self, name: &PoolName) -> Option<usize> {
        self.stocks.binary_search_by(|stock| stock.pool.name.cmp(name)).ok()
    }

    /// The pool in whose ranges `address` lies.
    pub(super) fn home(&self, address: IpAddr) -> Option<usize> {
        let bits = to_bits(address);
        let homes = &self.homes[slot(Family::of(address))];
        let home = homes[..homes.partition_point(|home| home.first <= bits)].last()?;
        (bits <= home.last).then_some(home.pool)
    }
}

impl std::ops::Index<usize> for Stocks {
    type Output = Stock;

    fn index(&self, pool: usize) -> &Stock {
        &self.stocks[pool]
    }
}

impl std::ops::IndexMut<usize> for Stocks {
    fn index_mut(&mut self, pool: usize) -> &mut Stock {
        &mut self.stocks[pool]
    }
}

/// In which order automatic pools are looked at: the field order is the rule.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Precedence {
    /// Pools for somebody come before pools for everybody.
    for_everybody: bool,
    /// 0, the default, comes last.
    without_priority: bool,
    /// Lower comes first.
    priority: u32,
    /// Places are ordered by name.
    place: usize,
}

impl Precedence {
    fn of(pool: &Pool, place: usize) -> Self {
        let priority = pool.service_allocation.as_ref().map_or(0, |allocation| allocation.priority);
        Self {
            for_everybody: pool.service_allocation.is_none(),
            without_priority: priority == 0,
            priority,
            place,
        }
    }
}

/// The index of `family` in an array of two.
pub(super) const fn slot(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

#[cfg(any(test, fuzzing))]
impl Line {
    /// Asserts that it is as `recount`, which was entered number by number.
    pub(super) fn audit(&self, recount: &Self) {
        assert_eq!(self.free, recount.free);
        assert_eq!(self.holders, recount.holders);
        assert_eq!(self.groups, recount.groups);
        assert_eq!(self.assigned, recount.assigned);
    }
}
