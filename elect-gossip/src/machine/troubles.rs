//! What stands in the way of the election, for the operator.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lbcore::condition::Condition;
use lbcore::id::NodeName;
use lbcore::time::{Duration, Instant};

/// For how long a trouble is told after it was last seen: those that last are seen many times a second.
const LAST: Duration = Duration::from_secs(5);

/// How many of a kind are told: whoever sends rubbish from ever new addresses fills no memory.
const MOST: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    NameClash(NodeName, SocketAddr),
    ForeignKey(SocketAddr),
    SilentSeed(SocketAddr),
    /// The seed, and why.
    UnresolvedSeed(String, String),
}

impl Trouble {
    fn condition(&self) -> Condition {
        match self {
            Self::NameClash(node, address) => Condition::no(
                "NodeNamesUnique",
                "NameClash",
                format!(
                    "another node has the name {node}, at {address}: give each node a name of its own; until then \
                     one of the two owns nothing"
                ),
            ),
            Self::ForeignKey(address) => Condition::no(
                "KeyShared",
                "ForeignKey",
                format!(
                    "what {address} sends is sealed with a key that is not ours: give all nodes of the cluster the \
                     same key; until then it elects without us"
                ),
            ),
            Self::SilentSeed(address) => Condition::no(
                "SeedsReachable",
                "NoAnswer",
                format!(
                    "no node answers at the seed {address}: see that the address is right, that a node listens there \
                     and that UDP gets through; those that cannot be heard may own what this node owns"
                ),
            ),
            Self::UnresolvedSeed(seed, why) => Condition::no(
                "SeedsReachable",
                "NotResolved",
                format!(
                    "the name of the seed {seed} cannot be resolved ({why}): see that it is right and that the DNS \
                     answers; it is tried again"
                ),
            ),
        }
    }
}

/// The troubles of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    seen: BTreeMap<Trouble, Instant>,
    changed: bool,
}

impl Troubles {
    pub(super) fn name_clash(&mut self, now: Instant, node: NodeName, at: SocketAddr) {
        self.see(now, Trouble::NameClash(node, at));
    }

    pub(super) fn foreign_key(&mut self, now: Instant, from: SocketAddr) {
        self.see(now, Trouble::ForeignKey(from));
    }

    pub(super) fn silent_seed(&mut self, now: Instant, seed: SocketAddr) {
        self.see(now, Trouble::SilentSeed(seed));
    }

    pub(super) fn unresolved(&mut self, now: Instant, seed: &str, why: &str) {
        self.see(now, Trouble::UnresolvedSeed(seed.to_owned(), why.to_owned()));
    }

    fn see(&mut self, now: Instant, trouble: Trouble) {
        let kind = std::mem::discriminant(&trouble);
        if let Some(at) = self.seen.get_mut(&trouble) {
            *at = now;
        } else if self.seen.keys().filter(|seen| std::mem::discriminant(*seen) == kind).count() < MOST {
            self.seen.insert(trouble, now);
            self.changed = true;
        }
    }

    /// The conditions, if they are others than the last time.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Vec<Condition>> {
        let before = self.seen.len();
        self.seen.retain(|_, at| now < *at + LAST);
        self.changed |= self.seen.len() != before;
        std::mem::take(&mut self.changed).then(|| self.seen.keys().map(Trouble::condition).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_and_taken_back_when_it_is_over() {
        let (mut troubles, now) = (Troubles::default(), Instant::ZERO + Duration::from_secs(100));
        let [first, second] = ["192.0.2.1:7946", "192.0.2.2:7946"].map(|it| it.parse().unwrap());
        assert_eq!(troubles.poll(now), None);
        troubles.foreign_key(now, first);
        let told = troubles.poll(now).unwrap();
        assert_eq!(told.len(), 1);
        assert!(told[0].message.contains("192.0.2.1:7946"), "{}", told[0]);
        troubles.foreign_key(now + LAST / 2, first);
        assert_eq!(troubles.poll(now + LAST), None, "it lasts");
        troubles.name_clash(now + LAST, "n1".into(), second);
        assert_eq!(troubles.poll(now + LAST).unwrap().len(), 2);
        assert_eq!(troubles.poll(now + LAST + LAST / 2).unwrap()[0].reason, "NameClash");
        assert_eq!(troubles.poll(now + LAST * 2), Some(Vec::new()));
    }

    #[test]
    fn many_strangers_fill_no_memory() {
        let mut troubles = Troubles::default();
        for port in 1..1000 {
            troubles.foreign_key(Instant::ZERO, SocketAddr::from(([192, 0, 2, 1], port)));
        }
        troubles.name_clash(Instant::ZERO, "n1".into(), SocketAddr::from(([192, 0, 2, 1], 1)));
        assert_eq!(
            troubles.poll(Instant::ZERO).unwrap().len(),
            MOST + 1,
            "other troubles are told all the same"
        );
    }
}
