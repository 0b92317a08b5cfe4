//! Who holds which number of a line.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::Id;

/// The holders of numbers.
///
/// Numbers are given lowest first, so neighbours are held and looked for together: pages of them cost one cache line
/// where a hash table costs one, and a page of the address space, each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holders {
    /// The holders of numbers that one owner holds, by the number without its last four bits.
    pages: BTreeMap<u128, Page>,
    /// The holders of numbers that several hold. A number is here or in `pages`.
    shared: BTreeMap<u128, BTreeSet<Id>>,
}

/// Holders, by the last four bits of the number. Never empty.
type Page = [Option<Id>; 16];

impl Holders {
    /// `id` holds `number` from now on. Returns whether nobody did before.
    pub(super) fn add(&mut self, number: u128, id: Id) -> bool {
        if !self.shared.is_empty()
            && let Some(holders) = self.shared.get_mut(&number)
        {
            holders.insert(id);
            return false;
        }
        let (page, place) = split(number);
        match self.pages.entry(page).or_default()[place].replace(id) {
            None => true,
            Some(other) => {
                self.clear(number);
                self.shared.insert(number, BTreeSet::from([other, id]));
                false
            }
        }
    }

    /// `id` no longer holds `number`. Returns whether nobody does now.
    pub(super) fn remove(&mut self, number: u128, id: Id) -> bool {
        let Some(holders) = self.shared.get_mut(&number) else {
            self.clear(number);
            return true;
        };
        holders.remove(&id);
        if let (Some(&last), 1) = (holders.first(), holders.len()) {
            self.shared.remove(&number);
            let (page, place) = split(number);
            self.pages.entry(page).or_default()[place] = Some(last);
        }
        false
    }

    /// Those who hold `number`.
    pub(super) fn of(&self, number: u128) -> impl Iterator<Item = Id> {
        let (page, place) = split(number);
        let sole = self.pages.get(&page).and_then(|page| page[place]);
        sole.into_iter().chain(self.shared.get(&number).into_iter().flatten().copied())
    }

    fn clear(&mut self, number: u128) {
        let (page, place) = split(number);
        if let Some(holders) = self.pages.get_mut(&page) {
            holders[place] = None;
            if *holders == Page::default() {
                self.pages.remove(&page);
            }
        }
    }
}

fn split(number: u128) -> (u128, usize) {
    (number >> 4, (number & 15) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_a_map_to_sets(steps in proptest::collection::vec((0_u128..40, 0_usize..4, any::<bool>()), 0..80)) {
            let mut model: BTreeMap<u128, BTreeSet<Id>> = BTreeMap::new();
            let mut holders = Holders::default();
            for (number, id, add) in steps {
                let id = Id::of_index(id);
                let entry = model.entry(number).or_default();
                if add && !entry.contains(&id) {
                    prop_assert_eq!(holders.add(number, id), entry.is_empty());
                    entry.insert(id);
                } else if !add && entry.remove(&id) {
                    prop_assert_eq!(holders.remove(number, id), entry.is_empty());
                }
                for number in 0..40 {
                    let expected = model.get(&number).cloned().unwrap_or_default();
                    prop_assert_eq!(holders.of(number).collect::<BTreeSet<_>>(), expected);
                }
            }
            for (number, ids) in &model {
                for id in ids {
                    holders.remove(*number, *id);
                }
            }
            prop_assert_eq!(holders, Holders::default());
        }
    }
}
