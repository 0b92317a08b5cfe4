//! All routes of the desired set, merged by prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use lbcore::announce::{AnnounceSet, Announcement};
use lbcore::id::PeerName;

/// The attributes of a route that differ from route to route. Ordered, so that routes with equal ones share a
/// message.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteAttributes {
    pub(crate) local_pref: Option<u32>,
    pub(crate) communities: Vec<u32>,
    pub(crate) large_communities: Vec<(u32, u32, u32)>,
}

/// Which addresses ask for which prefix. The routes themselves stay in the [`AnnounceSet`].
#[derive(Debug, Default)]
pub(crate) struct Table {
    members: BTreeMap<IpNet, BTreeSet<IpAddr>>,
    interned: BTreeSet<Arc<RouteAttributes>>,
}

impl Table {
    /// `address` asks for its routes; says which prefixes that touches.
    pub(crate) fn add(&mut self, address: IpAddr, announcement: &Announcement, dirty: &mut BTreeSet<IpNet>) {
        for route in &announcement.routes {
            let prefix = route.prefix.trunc();
            self.members.entry(prefix).or_default().insert(address);
            dirty.insert(prefix);
        }
    }

    /// `address` no longer asks for them.
    pub(crate) fn remove(
        &mut self,
        address: IpAddr,
        announcement: &Announcement,
        dirty: &mut BTreeSet<IpNet>,
    ) {
        for route in &announcement.routes {
            let prefix = route.prefix.trunc();
            if let Some(members) = self.members.get_mut(&prefix) {
                members.remove(&address);
                if members.is_empty() {
                    self.members.remove(&prefix);
                }
            }
            dirty.insert(prefix);
        }
    }

    /// Whether any address asks for `prefix`.
    pub(crate) fn contains(&self, prefix: IpNet) -> bool {
        self.members.contains_key(&prefix)
    }

    /// All prefixes that are asked for.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.members.keys().copied()
    }

    /// What to tell `peer` of `prefix`; `None` for nothing. Where several addresses ask for it, their communities
    /// are joined, and the highest local preference counts.
    pub(crate) fn attributes(
        &mut self,
        prefix: IpNet,
        peer: &PeerName,
        set: &AnnounceSet,
    ) -> Option<Arc<RouteAttributes>> {
        let members = self.members.get(&prefix)?;
        let routes = members
            .iter()
            .filter_map(|address| set.entries.get(address))
            .flat_map(|announcement| &announcement.routes)
            .filter(|route| route.prefix.trunc() == prefix && route.peers.contains(peer));
        let (mut communities, mut large_communities) = (BTreeSet::new(), BTreeSet::new());
        let (mut local_pref, mut any) = (None, false);
        for route in routes {
            any = true;
            local_pref = local_pref.max(route.local_pref);
            communities.extend(&route.communities);
            large_communities.extend(&route.large_communities);
        }
        if !any {
            return None;
        }
        let attributes = RouteAttributes {
            local_pref,
            communities: communities.into_iter().collect(),
            large_communities: large_communities.into_iter().collect(),
        };
        Some(match self.interned.get(&attributes) {
            Some(known) => known.clone(),
            None => {
                let attributes = Arc::new(attributes);
                self.interned.insert(attributes.clone());
                attributes
            }
        })
    }

    /// Forgets attributes that no route has any more.
    pub(crate) fn tidy(&mut self) {
        self.interned.retain(|attributes| Arc::strong_count(attributes) > 1);
    }
}
