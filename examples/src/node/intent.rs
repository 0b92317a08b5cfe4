//! What a node last asked of its elector and its announcers, so that only what differs is asked anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use announce_l2::machine::Interface;
use lbcore::announce::{AnnounceSet, Announcement, Interfaces};
use lbcore::elect::{Bid, Candidacy, Ownership};
use lbcore::id::{InterfaceName, NodeName, Role};
use lbcore::time::Instant;

use super::links::Links;

/// The last candidacy and the last sets.
#[derive(Debug, Default)]
pub struct Intent {
    links: Links,
    /// Of the last candidacy or set; raised with each that differs from the one before.
    generation: u64,
    bids: BTreeMap<Role, Bid>,
    sets: BTreeMap<&'static str, Arc<AnnounceSet>>,
}

impl Intent {
    /// Nothing was asked yet. Who is `alone` by its configuration has no other nodes to hear.
    pub fn new(alone: bool) -> Self {
        Self { links: Links::new(alone), ..Self::default() }
    }

    /// Takes note of the interfaces as they are at `now`.
    pub fn set_interfaces(&mut self, now: Instant, interfaces: &[Interface]) {
        self.links.update(now, interfaces);
    }

    /// Takes note of the other nodes that are there.
    pub fn set_members(&mut self, me: &NodeName, ownership: &Ownership) {
        self.links.set_others(ownership.members.keys().filter(|name| *name != me).cloned().collect());
    }

    /// The interfaces that this node may rely on at `now`.
    pub fn reliable_links(&self, now: Instant) -> BTreeSet<InterfaceName> {
        self.links.reliable(now)
    }

    /// When there will be more of them though nothing happens.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.links.next_change(now)
    }

    /// What the announcer of that name is to be told, if it is not what it was told last.
    pub fn announce(
        &mut self,
        name: &'static str,
        entries: BTreeMap<IpAddr, Announcement>,
        standby: BTreeMap<IpAddr, Interfaces>,
        ownership: &Ownership,
    ) -> Option<Arc<AnnounceSet>> {
        let mut set = AnnounceSet::new(self.generation + 1, entries);
        set.standby = standby;
        set.know(ownership);
        let same = |last: &Arc<AnnounceSet>| {
            let known = (&last.entries, &last.standby, &last.members, &last.owners);
            known == (&set.entries, &set.standby, &set.members, &set.owners)
        };
        if self.sets.get(name).is_some_and(same) {
            return None;
        }
        self.generation += 1;
        let set = Arc::new(set);
        self.sets.insert(name, set.clone());
        Some(set)
    }

    /// What the elector is to be told, if it is not what it was told last.
    pub fn bid(&mut self, bids: BTreeMap<Role, Bid>) -> Option<Arc<Candidacy>> {
        if bids == self.bids {
            return None;
        }
        self.generation += 1;
        self.bids.clone_from(&bids);
        Some(Arc::new(Candidacy::new(self.generation, bids)))
    }

    /// What the announcer of that name was told last.
    pub fn set(&self, name: &str) -> Option<&Arc<AnnounceSet>> {
        self.sets.get(name)
    }
}
