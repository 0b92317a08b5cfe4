//! Who holds what: the books of [`PoolAllocator`](super::PoolAllocator).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashTable};

use super::{Allocation, Port, Sharing};
use crate::id::OwnerKey;

/// Where a record is in the ledger.
pub(super) type Id = usize;

/// What is known of an owner.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) allocation: Allocation,
    /// The pool, by its place among the stocks.
    pub(super) pool: usize,
    pub(super) sharing: Option<Sharing>,
    /// Ascending, each once.
    pub(super) ports: Box<[Port]>,
}

/// Records by owner and by address.
///
/// Both tables are hash tables, since a tree of a million names costs more cache misses than the whole allocation
/// may. Their seed is random, against names made to collide; nothing iterates over them, so that it shows nowhere.
#[derive(Clone, Default)]
pub(super) struct Ledger {
    records: Vec<Option<Record>>,
    vacant: Vec<Id>,
    by_owner: HashTable<Id>,
    /// The holders of addresses that one owner holds.
    sole: HashMap<IpAddr, Id, RandomState>,
    /// The holders of addresses that several hold. An address is here or in `sole`.
    shared: BTreeMap<IpAddr, BTreeSet<Id>>,
    hasher: RandomState,
}

/// How many hold an address now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holders {
    None,
    One,
    Several,
}

impl Ledger {
    pub(super) fn find(&self, owner: &OwnerKey) -> Option<Id> {
        let is_owner = |id: &Id| self.get(*id).is_some_and(|record| record.allocation.owner == *owner);
        self.by_owner.find(self.hasher.hash_one(owner), is_owner).copied()
    }

    pub(super) fn get(&self, id: Id) -> Option<&Record> {
        self.records.get(id)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Record> {
        self.records.get_mut(id)?.as_mut()
    }

    /// Every record, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &Record)> {
        self.records.iter().enumerate().filter_map(|(id, record)| Some((id, record.as_ref()?)))
    }

    /// Enters a record, whose owner has none yet. Says nothing of its addresses: see [`Self::hold`].
    pub(super) fn insert(&mut self, record: Record) -> Id {
        let hash = self.hasher.hash_one(&record.allocation.owner);
        let id = match self.vacant.pop() {
            Some(id) => id,
            None => {
                self.records.push(None);
                self.records.len() - 1
            }
        };
        self.records[id] = Some(record);
        let (records, hasher) = (&self.records, &self.hasher);
        self.by_owner.insert_unique(hash, id, |id| {
            records[*id].as_ref().map_or(0, |record| hasher.hash_one(&record.allocation.owner))
        });
        id
    }

    /// Enters `record`, of the same owner, in the place of the one there.
    pub(super) fn replace(&mut self, id: Id, record: Record) {
        if let Some(place) = self.records.get_mut(id) {
            *place = Some(record);
        }
    }

    /// Strikes out a record whose addresses were let go of.
    pub(super) fn remove(&mut self, id: Id) -> Option<Record> {
        let record = self.records.get_mut(id)?.take()?;
        let hash = self.hasher.hash_one(&record.allocation.owner);
        if let Ok(entry) = self.by_owner.find_entry(hash, |entry| *entry == id) {
            entry.remove();
        }
        self.vacant.push(id);
        Some(record)
    }

    /// `id` holds `address` from now on. Returns who held it before.
    pub(super) fn hold(&mut self, address: IpAddr, id: Id) -> Holders {
        if let Some(holders) = self.shared.get_mut(&address) {
            holders.insert(id);
            return Holders::Several;
        }
        match self.sole.insert(address, id) {
            None => Holders::None,
            Some(other) => {
                self.sole.remove(&address);
                self.shared.insert(address, BTreeSet::from([other, id]));
                Holders::One
            }
        }
    }

    /// `id` no longer holds `address`. Returns who holds it now.
    pub(super) fn let_go(&mut self, address: IpAddr, id: Id) -> Holders {
        let Some(holders) = self.shared.get_mut(&address) else {
            self.sole.remove(&address);
            return Holders::None;
        };
        holders.remove(&id);
        match (holders.first(), holders.len()) {
            (Some(&other), 1) => {
                self.shared.remove(&address);
                self.sole.insert(address, other);
                Holders::One
            }
            _ => Holders::Several,
        }
    }

    /// Whoever holds `address` but `me`: one of them, `None` if there is nobody.
    pub(super) fn other_holder(&self, address: IpAddr, me: Option<Id>) -> Option<&Record> {
        let is_other = |id: &&Id| Some(**id) != me;
        let id = match self.sole.get(&address) {
            Some(id) => Some(id).filter(is_other),
            None => self.shared.get(&address)?.iter().find(is_other),
        };
        self.get(*id?)
    }

    /// Everyone who holds `address` but `me`, ordered by owner. Costs their number: for explanations.
    pub(super) fn other_holders(&self, address: IpAddr, me: Option<Id>) -> Vec<&Record> {
        let sole = self.sole.get(&address).into_iter();
        let shared = self.shared.get(&address).into_iter().flatten();
        let mut records: Vec<_> =
            sole.chain(shared).filter(|id| Some(**id) != me).filter_map(|id| self.get(*id)).collect();
        records.sort_unstable_by(|a, b| a.allocation.owner.cmp(&b.allocation.owner));
        records
    }

    /// Recounts the indices from the records.
    #[cfg(any(test, fuzzing))]
    pub(super) fn audit(&self) {
        let mut holders: BTreeMap<IpAddr, BTreeSet<Id>> = BTreeMap::new();
        let mut count = 0;
        for (id, record) in self.iter() {
            count += 1;
            assert_eq!(self.find(&record.allocation.owner), Some(id));
            for address in &record.allocation.addresses {
                assert!(holders.entry(*address).or_default().insert(id));
            }
        }
        assert_eq!(self.by_owner.len(), count);
        assert_eq!(self.records.len(), count + self.vacant.len());
        assert_eq!(self.sole.len() + self.shared.len(), holders.len());
        for (address, holders) in holders {
            match self.sole.get(&address) {
                Some(id) => assert_eq!(holders, BTreeSet::from([*id])),
                None => assert_eq!(self.shared.get(&address), Some(&holders).filter(|all| all.len() > 1)),
            }
        }
    }
}
