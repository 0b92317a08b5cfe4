//! Pools: which addresses there are, and for whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::addr::AddressRange;
use crate::id::PoolName;
use crate::labels::{LabelSelector, Labels};

/// A pool of addresses (MetalLB: `IPAddressPool`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Its addresses, in the order in which they are given away. Never empty, never overlapping.
    pub ranges: Vec<AddressRange>,
    /// Whether one gets an address of it without asking for it.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are never given: some old equipment drops them.
    pub avoid_buggy: bool,
    /// Whether it gives no new addresses while those held stay.
    pub draining: bool,
    /// For whom it is; for everybody if `None`.
    pub service_allocation: Option<ServiceAllocation>,
    /// Its own labels: advertisements select pools by them.
    pub labels: Labels,
}

impl Pool {
    /// A pool for everybody with these ranges.
    pub fn new(name: impl Into<PoolName>, ranges: impl IntoIterator<Item = AddressRange>) -> Self {
        Self {
            name: name.into(),
            ranges: ranges.into_iter().collect(),
            auto_assign: true,
            avoid_buggy: false,
            draining: false,
            service_allocation: None,
            labels: Labels::new(),
        }
    }
}

/// For whom a pool is (MetalLB: `serviceAllocation`): owners whose namespace is named or selected (every one
/// if neither is given), and whose labels match one of the service selectors (any if none is given).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAllocation {
    /// A lower number is used first; 0 is used last.
    pub priority: u32,
    /// The namespaces, by name.
    pub namespaces: BTreeSet<Arc<str>>,
    /// The namespaces, by their labels.
    pub namespace_selectors: Vec<LabelSelector>,
    /// The owners, by their labels.
    pub service_selectors: Vec<LabelSelector>,
}

/// A valid set of pools: names are unique, every pool has addresses, no address is in two places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools(BTreeMap<PoolName, Pool>);

impl Pools {
    /// Checks `pools` and takes them.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first thing.
    pub fn new(pools: impl IntoIterator<Item = Pool>) -> Result<Self, PoolErrors> {
        let mut errors = Vec::new();
        let mut by_name = BTreeMap::new();
        let mut ranges: Vec<(AddressRange, PoolName)> = Vec::new();
        for pool in pools {
            if pool.ranges.is_empty() {
                errors.push(PoolError::Empty { pool: pool.name.clone() });
            }
            ranges.extend(pool.ranges.iter().map(|range| (*range, pool.name.clone())));
            if let Some(first) = by_name.insert(pool.name.clone(), pool) {
                errors.push(PoolError::Duplicate { pool: first.name });
            }
        }
        // Sorted by first address, a range overlaps an earlier one exactly if it begins before the furthest end
        // so far.
        ranges.sort();
        let mut furthest: Option<&(AddressRange, PoolName)> = None;
        for entry in &ranges {
            if let Some((other, pool)) = furthest.filter(|(other, _)| other.overlaps(&entry.0)) {
                errors.push(PoolError::Overlap {
                    range: entry.0,
                    pool: entry.1.clone(),
                    other: *other,
                    other_pool: pool.clone(),
                });
            }
            let further = |(other, _): &&(AddressRange, PoolName)| {
                other.family() != entry.0.family() || other.last() < entry.0.last()
            };
            if furthest.as_ref().is_none_or(further) {
                furthest = Some(entry);
            }
        }
        if errors.is_empty() { Ok(Self(by_name)) } else { Err(PoolErrors(errors)) }
    }

    /// The pool of this name.
    pub fn get(&self, name: &PoolName) -> Option<&Pool> {
        self.0.get(name)
    }

    /// All of them, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.0.values()
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &PoolName> {
        self.0.keys()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Everything that is wrong with a set of pools; at least one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolErrors(Vec<PoolError>);

impl PoolErrors {
    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &PoolError> {
        self.0.iter()
    }
}

impl fmt::Display for PoolErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for PoolErrors {}

/// One thing that is wrong with a set of pools.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A pool has no addresses.
    #[error("pool {pool} has no addresses: give it at least one range")]
    Empty {
        /// The pool.
        pool: PoolName,
    },
    /// Two pools have one name.
    #[error("there are two pools named {pool}: rename one")]
    Duplicate {
        /// The name.
        pool: PoolName,
    },
    /// An address is in two ranges.
    #[error("range {range} of pool {pool} overlaps {other} of pool {other_pool}: an address has one place")]
    Overlap {
        /// The later range.
        range: AddressRange,
        /// Its pool.
        pool: PoolName,
        /// The range that it overlaps.
        other: AddressRange,
        /// The other's pool.
        other_pool: PoolName,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, ranges: &[&str]) -> Pool {
        Pool::new(name, ranges.iter().map(|range| range.parse().unwrap()))
    }

    #[test]
    fn says_everything_that_is_wrong_at_once() {
        let errors = Pools::new([
            pool("a", &["10.0.0.0/16"]),
            pool("b", &["10.0.9.0/24", "10.1.0.0/24"]),
            pool("c", &["10.0.200.0-10.1.0.3"]),
            pool("c", &[]),
        ])
        .unwrap_err();
        assert_eq!(errors.to_string().split("; ").count(), 5);
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "pool c has no addresses: give it at least one range",
                "there are two pools named c: rename one",
                "range 10.0.9.0/24 of pool b overlaps 10.0.0.0/16 of pool a: an address has one place",
                "range 10.0.200.0-10.1.0.3 of pool c overlaps 10.0.0.0/16 of pool a: an address has one place",
                "range 10.1.0.0/24 of pool b overlaps 10.0.200.0-10.1.0.3 of pool c: an address has one place",
            ]
        );
    }

    #[test]
    fn families_do_not_overlap_each_other() {
        assert!(Pools::new([pool("a", &["0.0.0.0/0"]), pool("b", &["::/0"])]).is_ok());
    }
}
