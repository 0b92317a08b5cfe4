//! Which interfaces this node may rely on.
//!
//! A link that has just come up may not carry frames yet: switches learn, bridges and the kernel's own link watch take
//! up to a second. A node that trusted it at once would hear nobody, think that it is alone, and claim what others
//! own. So a fresh link counts when it has been up for a while, or while other nodes are there, or for good once another
//! one has appeared: that it is still there says little, for it may be long before it is missed.

use std::collections::{BTreeMap, BTreeSet};

use announce_l2::machine::Interface;
use lbcore::id::{InterfaceName, NodeName};
use lbcore::time::{Duration, Instant};

/// How long a link must have been up to count while nobody is heard: longer than the kernel's link watch takes (1 s).
pub const SETTLED: Duration = Duration::from_millis(1500);

/// The links that are up.
#[derive(Debug, Default)]
pub struct Links {
    /// There are no other nodes to be heard.
    alone: bool,
    up: BTreeMap<InterfaceName, Up>,
    others: BTreeSet<NodeName>,
}

#[derive(Clone, Copy, Debug)]
struct Up {
    since: Instant,
    /// Another node has appeared since then: it carries frames, even when that one has gone again.
    proved: bool,
}

impl Up {
    fn settles_at(self) -> Instant {
        self.since + SETTLED
    }
}

impl Links {
    /// Of a node that is `alone` by its configuration each link counts at once.
    pub fn new(alone: bool) -> Self {
        Self { alone, ..Self::default() }
    }

    /// Takes note of the interfaces as they are at `now`.
    pub fn update(&mut self, now: Instant, interfaces: &[Interface]) {
        let up: BTreeSet<_> =
            interfaces.iter().filter(|link| link.up).map(|link| link.name.clone()).collect();
        self.up.retain(|name, _| up.contains(name));
        for name in up {
            self.up.entry(name).or_insert(Up { since: now, proved: false });
        }
    }

    /// Takes note of the other nodes that are there.
    pub fn set_others(&mut self, others: BTreeSet<NodeName>) {
        if !others.is_subset(&self.others) {
            self.up.values_mut().for_each(|up| up.proved = true);
        }
        self.others = others;
    }

    /// Those that count at `now`.
    pub fn reliable(&self, now: Instant) -> BTreeSet<InterfaceName> {
        let all = self.alone || !self.others.is_empty();
        let counts = |up: &Up| all || up.proved || now >= up.settles_at();
        self.up.iter().filter(|(_, up)| counts(up)).map(|(name, _)| name.clone()).collect()
    }

    /// When the next one counts by itself.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let waiting = self.up.values().filter(|up| !up.proved).map(|up| up.settles_at());
        waiting.filter(|settled| *settled > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use announce_l2::machine::IfIndex;
    use announce_l2::wire::MacAddr;

    fn link(name: &str, up: bool) -> Interface {
        let mut link = Interface::new(IfIndex(2), name, MacAddr([2, 0, 0, 0, 0, 1]));
        link.up = up;
        link
    }

    fn names(links: &Links, at: Instant) -> Vec<String> {
        links.reliable(at).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_fresh_link_counts_once_somebody_appeared_or_after_a_while() {
        let at = |millis: u64| Instant::from_millis(10_000 + millis);
        let others = |names: &[&str]| names.iter().map(|name| NodeName::from(*name)).collect();
        let none: [&str; 0] = [];
        let mut links = Links::default();
        links.update(at(0), &[link("eth0", true), link("eth1", false)]);
        assert_eq!(names(&links, at(0)), none);
        assert_eq!(links.next_change(at(0)), Some(at(1500)));
        assert_eq!(names(&links, at(1500)), ["eth0"]);
        assert_eq!(links.next_change(at(1500)), None);

        links.update(at(2000), &[link("eth0", false)]);
        links.set_others(others(&["n2"]));
        assert_eq!(names(&links, at(2000)), none, "no carrier, no candidate");
        links.update(at(3000), &[link("eth0", true)]);
        assert_eq!(names(&links, at(3000)), ["eth0"], "the others would know");
        links.set_others(others(&[]));
        assert_eq!(names(&links, at(3001)), none, "nobody was heard over it: they were only not missed yet");
        links.set_others(others(&["n3"]));
        links.set_others(others(&[]));
        links.update(at(4001), &[link("eth0", true), link("eth1", true)]);
        assert_eq!(names(&links, at(4001)), ["eth0"], "nobody has appeared since the other one came up");
        assert_eq!(links.next_change(at(4001)), Some(at(5501)));

        let mut links = Links::new(true);
        links.update(at(0), &[link("eth0", true)]);
        assert_eq!(names(&links, at(0)), ["eth0"], "there is nobody to be heard");
    }
}
