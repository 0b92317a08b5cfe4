//! The free ones of a line of numbers.

use std::collections::BTreeMap;

/// Which of the numbers 0 to `last` are free, as maximal runs. Every operation costs the logarithm of the number
/// of runs, however long they are and however many numbers are taken; taking the lowest only edits the first run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FreeSet {
    /// The last number of a run → its first: keyed by the end that stays when the lowest is taken.
    runs: BTreeMap<u128, u128>,
}

impl FreeSet {
    /// Everything up to `last` but what `taken` yields, in ascending order.
    pub(super) fn new(last: Option<u128>, taken: impl Iterator<Item = u128>) -> Self {
        let mut runs = Vec::new();
        // The first number not decided yet; `None` once all are.
        let mut next = last.map(|_| 0);
        for number in taken {
            let Some(first) = next.filter(|first| *first <= number) else { continue };
            if first < number {
                runs.push((number - 1, first));
            }
            next = number.checked_add(1).filter(|next| last.is_some_and(|last| *next <= last));
        }
        if let (Some(first), Some(last)) = (next, last) {
            runs.push((last, first));
        }
        Self { runs: runs.into_iter().collect() }
    }

    /// The lowest free number.
    pub(super) fn first(&self) -> Option<u128> {
        self.runs.first_key_value().map(|(_, first)| *first)
    }

    /// Takes `number`; `false` if it is not free.
    pub(super) fn take(&mut self, number: u128) -> bool {
        let Some((&last, run)) = self.runs.range_mut(number..).next() else { return false };
        let first = *run;
        if number < first {
            return false;
        }
        if number < last {
            *run = number + 1;
        } else {
            self.runs.remove(&last);
        }
        if first < number {
            self.runs.insert(number - 1, first);
        }
        true
    }

    /// Gives `number`, which is not free, back.
    pub(super) fn give(&mut self, number: u128) {
        let first = match number.checked_sub(1) {
            Some(below) => self.runs.remove(&below).unwrap_or(number),
            None => number,
        };
        match self.runs.range_mut(number..).next() {
            Some((_, run)) if number.checked_add(1) == Some(*run) => *run = first,
            _ => {
                self.runs.insert(number, first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn naive(free: &BTreeSet<u128>) -> BTreeMap<u128, u128> {
        let mut runs = BTreeMap::new();
        let mut first = None;
        for &number in free {
            let start = *first.get_or_insert(number);
            if !free.contains(&(number + 1)) {
                runs.insert(number, start);
                first = None;
            }
        }
        runs
    }

    #[test]
    fn the_ends_of_the_line() {
        let mut all = FreeSet::new(Some(u128::MAX), [].into_iter());
        assert!(all.take(u128::MAX) && all.take(0) && !all.take(0));
        assert_eq!(all.first(), Some(1));
        all.give(u128::MAX);
        all.give(0);
        assert_eq!(all, FreeSet::new(Some(u128::MAX), [].into_iter()));
        assert_eq!(FreeSet::new(None, [].into_iter()).first(), None);
        assert_eq!(FreeSet::new(Some(u128::MAX), [u128::MAX].into_iter()).runs, [(u128::MAX - 1, 0)].into());
        assert_eq!(FreeSet::new(Some(0), [0].into_iter()), FreeSet::default());
    }

    proptest! {
        #[test]
        fn is_a_set_of_maximal_runs(
            last in 0_u128..20,
            taken in proptest::collection::btree_set(0_u128..20, 0..20),
            steps in proptest::collection::vec((0_u128..24, any::<bool>()), 0..60),
        ) {
            let mut model: BTreeSet<u128> = (0..=last).filter(|number| !taken.contains(number)).collect();
            let mut free = FreeSet::new(Some(last), taken.range(..=last).copied());
            for (number, take) in steps {
                if take {
                    prop_assert_eq!(free.take(number), model.remove(&number));
                } else if number <= last && model.insert(number) {
                    free.give(number);
                }
                prop_assert_eq!(&free.runs, &naive(&model));
                prop_assert_eq!(free.first(), model.first().copied());
            }
        }
    }
}
