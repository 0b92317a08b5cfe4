//! Which shared addresses still have room for given ports.

use std::collections::BTreeMap;

use super::Port;

/// The addresses of one pool and family (as numbers of their [`Numbering`](super::numbering::Numbering)) whose
/// holders share them under one key and backend, with the ports that they serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    /// Ascending.
    members: Vec<u128>,
    /// The members on which somebody serves this port, ascending: a subset of `members`, never empty.
    used: BTreeMap<Port, Vec<u128>>,
}

impl Group {
    /// A holder of `number` serves `ports`, which nobody serves there yet.
    pub(super) fn join(&mut self, number: u128, ports: &[Port]) {
        insert(&mut self.members, number);
        for port in ports {
            insert(self.used.entry(*port).or_default(), number);
        }
    }

    /// A holder of `number` no longer serves `ports`; nobody holds it any more if it was the `last_holder`.
    pub(super) fn leave(&mut self, number: u128, ports: &[Port], last_holder: bool) {
        if last_holder {
            remove(&mut self.members, number);
        }
        for port in ports {
            if let Some(used) = self.used.get_mut(port) {
                remove(used, number);
                if used.is_empty() {
                    self.used.remove(port);
                }
            }
        }
    }

    /// Whether no address is left in it.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether somebody serves `port` on `number`.
    pub(super) fn serves(&self, number: u128, port: Port) -> bool {
        self.used.get(&port).is_some_and(|used| used.binary_search(&number).is_ok())
    }

    /// The lowest address on which nobody serves any of `ports`, if it is below `end`.
    ///
    /// Where a port is served on a stretch of successive members, the stretch is leapt over at once: since `used`
    /// is a subset of `members` and both are sorted, "the next i of both are equal" is monotone in i, and a binary
    /// search finds its end.
    pub(super) fn first_fit(&self, ports: &[Port], end: Option<u128>) -> Option<u128> {
        let mut members = self.members.as_slice();
        let in_reach = |member: &&u128| end.is_none_or(|end| **member < end);
        'leap: while let Some(&candidate) = members.first().filter(in_reach) {
            for port in ports {
                let Some(used) = self.used.get(port) else { continue };
                let used = &used[used.partition_point(|number| *number < candidate)..];
                let stretch = common_prefix(used, members);
                if stretch > 0 {
                    members = &members[stretch..];
                    continue 'leap;
                }
            }
            return Some(candidate);
        }
        None
    }
}

/// How many first elements are equal, where the rest of `subset` differs from `set` everywhere.
fn common_prefix(subset: &[u128], set: &[u128]) -> usize {
    let (mut low, mut high) = (0, subset.len().min(set.len()));
    while low < high {
        let middle = low + (high - low) / 2;
        if subset[middle] == set[middle] { low = middle + 1 } else { high = middle }
    }
    low
}

fn insert(sorted: &mut Vec<u128>, number: u128) {
    if let Err(at) = sorted.binary_search(&number) {
        sorted.insert(at, number);
    }
}

fn remove(sorted: &mut Vec<u128>, number: u128) {
    if let Ok(at) = sorted.binary_search(&number) {
        sorted.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Protocol;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ports(mask: u8) -> Vec<Port> {
        let port = |number: u16| Port { protocol: Protocol::Tcp, number };
        (0..4).filter(|bit| mask >> bit & 1 == 1).map(port).collect()
    }

    proptest! {
        #[test]
        fn finds_what_a_scan_finds(
            holders in proptest::collection::vec((0_u128..12, 0_u8..16), 0..40),
            leaves in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
            wanted in 0_u8..16,
            end in proptest::option::of(0_u128..14),
        ) {
            let mut group = Group::default();
            let mut model: Vec<(u128, u8)> = Vec::new();
            for (number, mask) in holders {
                let mask = model.iter().filter(|(at, _)| *at == number).fold(mask, |mask, (_, m)| mask & !m);
                group.join(number, &ports(mask));
                model.push((number, mask));
            }
            for leave in leaves {
                if !model.is_empty() {
                    let (number, mask) = model.swap_remove(leave.index(model.len()));
                    let last = model.iter().all(|(at, _)| *at != number);
                    group.leave(number, &ports(mask), last);
                }
            }
            let members: BTreeSet<u128> = model.iter().map(|(at, _)| *at).collect();
            prop_assert_eq!(&group.members.iter().copied().collect::<BTreeSet<_>>(), &members);
            prop_assert_eq!(group.is_empty(), members.is_empty());
            let served = |at: u128| model.iter().filter(|(n, _)| *n == at).fold(0, |all, (_, mask)| all | mask);
            let scanned = members.iter().copied().find(|at| end.is_none_or(|end| *at < end) && served(*at) & wanted == 0);
            prop_assert_eq!(group.first_fit(&ports(wanted), end), scanned);
            for at in 0..12 {
                for (bit, port) in ports(15).into_iter().enumerate() {
                    prop_assert_eq!(group.serves(at, port), served(at) >> bit & 1 == 1);
                }
            }
        }
    }
}
