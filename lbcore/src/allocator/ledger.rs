//! What each owner holds.

use std::hash::BuildHasher;
use std::num::NonZeroUsize;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::{Allocation, Port, Sharing};
use crate::id::OwnerKey;

/// Where a record is in the ledger, counted from 1: an `Option` of it takes no more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(NonZeroUsize);

impl Id {
    pub(super) fn of_index(index: usize) -> Self {
        Self(NonZeroUsize::MIN.saturating_add(index))
    }

    fn index(self) -> usize {
        self.0.get() - 1
    }
}

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

/// Records, by owner.
///
/// The index is a hash table, since a tree of a million names costs more cache misses than a whole allocation may.
/// Its seed is random, against names made to collide; nothing iterates over it, so that this shows nowhere.
#[derive(Clone, Default)]
pub(super) struct Ledger {
    records: Vec<Option<Record>>,
    vacant: Vec<Id>,
    by_owner: HashTable<Id>,
    hasher: RandomState,
}

impl Ledger {
    pub(super) fn find(&self, owner: &OwnerKey) -> Option<Id> {
        let is_owner = |id: &Id| self.get(*id).is_some_and(|record| record.allocation.owner == *owner);
        self.by_owner.find(self.hasher.hash_one(owner), is_owner).copied()
    }

    pub(super) fn get(&self, id: Id) -> Option<&Record> {
        self.records.get(id.index())?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Record> {
        self.records.get_mut(id.index())?.as_mut()
    }

    /// Every record, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &Record)> {
        let records = self.records.iter().enumerate();
        records.filter_map(|(index, record)| Some((Id::of_index(index), record.as_ref()?)))
    }

    /// Enters a record, whose owner has none yet. Its addresses are entered elsewhere.
    pub(super) fn insert(&mut self, record: Record) -> Id {
        let hash = self.hasher.hash_one(&record.allocation.owner);
        let id = match self.vacant.pop() {
            Some(id) => id,
            None => {
                self.records.push(None);
                Id::of_index(self.records.len() - 1)
            }
        };
        self.replace(id, record);
        let records = &self.records;
        let rehash = |id: &Id| match records.get(id.index()) {
            Some(Some(record)) => self.hasher.hash_one(&record.allocation.owner),
            _ => 0,
        };
        self.by_owner.insert_unique(hash, id, rehash);
        id
    }

    /// Enters `record`, of the same owner, in the place of the one there.
    pub(super) fn replace(&mut self, id: Id, record: Record) {
        if let Some(place) = self.records.get_mut(id.index()) {
            *place = Some(record);
        }
    }

    /// Strikes out a record whose addresses were let go of.
    pub(super) fn remove(&mut self, id: Id) -> Option<Record> {
        let record = self.records.get_mut(id.index())?.take()?;
        let hash = self.hasher.hash_one(&record.allocation.owner);
        if let Ok(entry) = self.by_owner.find_entry(hash, |entry| *entry == id) {
            entry.remove();
        }
        self.vacant.push(id);
        Some(record)
    }

    /// Recounts the indices from the records.
    #[cfg(any(test, fuzzing))]
    pub(super) fn audit(&self) {
        let mut count = 0;
        for (id, record) in self.iter() {
            count += 1;
            assert_eq!(self.find(&record.allocation.owner), Some(id));
        }
        assert_eq!(self.by_owner.len(), count);
        assert_eq!(self.records.len(), count + self.vacant.len());
    }
}
