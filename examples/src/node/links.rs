//! Which interfaces this node may rely on.
//!
//! A link that has just come up may not carry frames yet: switches learn, bridges and the kernel's own link watch take
//! up to a second. A node that trusted it at once would hear nobody, think that it is alone, and claim what others
//! own. So a fresh link counts when it has been up for a while, or as soon as another node is heard.

use std::collections::{BTreeMap, BTreeSet};

use announce_l2::machine::Interface;
use lbcore::id::InterfaceName;
use lbcore::time::{Duration, Instant};

/// How long a link must have been up to count while nobody is heard: longer than the kernel's link watch takes (1 s).
pub const SETTLED: Duration = Duration::from_millis(1500);

/// The links that are up, and since when.
#[derive(Debug, Default)]
pub struct Links(BTreeMap<InterfaceName, Instant>);

impl Links {
    /// Takes note of the interfaces as they are at `now`.
    pub fn update(&mut self, now: Instant, interfaces: &[Interface]) {
        let up: BTreeSet<_> =
            interfaces.iter().filter(|link| link.up).map(|link| link.name.clone()).collect();
        self.0.retain(|name, _| up.contains(name));
        for name in up {
            self.0.entry(name).or_insert(now);
        }
    }

    /// Those that count at `now`, where `heard` says whether another node is heard.
    pub fn reliable(&self, now: Instant, heard: bool) -> BTreeSet<InterfaceName> {
        let counts = |since: Instant| heard || now >= since + SETTLED;
        self.0.iter().filter(|(_, since)| counts(**since)).map(|(name, _)| name.clone()).collect()
    }

    /// When the next one counts by itself.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|since| *since + SETTLED).filter(|settled| *settled > now).min()
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

    fn names(links: &Links, at: Instant, heard: bool) -> Vec<String> {
        links.reliable(at, heard).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_fresh_link_counts_when_somebody_is_heard_or_after_a_while() {
        let at = |millis: u64| Instant::from_millis(10_000 + millis);
        let mut links = Links::default();
        links.update(at(0), &[link("eth0", true), link("eth1", false)]);
        assert_eq!(names(&links, at(0), false), [] as [&str; 0]);
        assert_eq!(names(&links, at(0), true), ["eth0"]);
        assert_eq!(links.next_change(at(0)), Some(at(1500)));
        assert_eq!(names(&links, at(1500), false), ["eth0"]);
        assert_eq!(links.next_change(at(1500)), None);

        links.update(at(2000), &[link("eth0", false)]);
        assert_eq!(names(&links, at(2000), true), [] as [&str; 0], "no carrier, no candidate");
        links.update(at(3000), &[link("eth0", true)]);
        assert_eq!(names(&links, at(4000), false), [] as [&str; 0], "it begins anew");
    }
}
