//! The Adj-RIB-Out of one peer (RFC 4271 §3.2): what it was told, and what it is yet to be told.
//!
//! Nothing is put into bytes before the connection can take it. Until then a newer wish replaces an older one, so
//! that a peer that does not read costs memory for each route once, and gets the latest of each when it does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use lbcore::addr::Family;

use super::table::RouteAttributes;
use crate::wire::{
    self, AsPath, Attribute, Context, Families, Message, NextHop, Origin, Peering, Template, Update,
};

/// LOCAL_PREF for internal peers where none is given: RFC 4271 §5.1.5 wants one in each UPDATE, and 100 is what
/// everybody takes.
const DEFAULT_LOCAL_PREF: u32 = 100;

/// How the routes look to this peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    pub(crate) context: Context,
    pub(crate) local_as: u32,
    pub(crate) next_hop_v4: Option<IpAddr>,
    pub(crate) next_hop_v6: Option<IpAddr>,
}

impl Export {
    fn next_hop(&self, family: Family) -> Option<NextHop> {
        let address = match family {
            Family::V4 => self.next_hop_v4?,
            Family::V6 => self.next_hop_v6?,
        };
        Some(match address {
            IpAddr::V4(address) => NextHop::V4(address),
            IpAddr::V6(address) => NextHop::V6 { address, link_local: None },
        })
    }

    fn template(&self, family: Family, route: &RouteAttributes) -> Result<Template, Unsendable> {
        let next_hop = self.next_hop(family).ok_or(Unsendable::NoNextHop)?;
        let mut attributes = vec![Attribute::Origin(Origin::Igp)];
        match self.context.peering {
            // RFC 4271 §5.1.2 and §5.1.5: LOCAL_PREF stays within the AS.
            Peering::Internal => {
                attributes.push(Attribute::AsPath(AsPath::default()));
                attributes.push(Attribute::LocalPref(route.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)));
            }
            Peering::External => attributes.push(Attribute::AsPath(AsPath::sequence([self.local_as]))),
        }
        if !route.communities.is_empty() {
            attributes.push(Attribute::Communities(route.communities.clone()));
        }
        if !route.large_communities.is_empty() {
            attributes.push(Attribute::LargeCommunities(route.large_communities.clone()));
        }
        Template::new(family, next_hop, attributes, &self.context).map_err(|_| Unsendable::TooLong)
    }
}

/// Why a route cannot be told to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unsendable {
    /// The peer does not take routes of the family.
    NotNegotiated,
    /// There is no next hop of the family.
    NoNextHop,
    /// Its attributes leave no room for a prefix.
    TooLong,
}

/// What one peer was told and is to be told.
#[derive(Debug, Default)]
pub(crate) struct AdjRibOut {
    /// Set while the session is established.
    export: Option<Export>,
    sent: BTreeMap<IpNet, Arc<RouteAttributes>>,
    withdraw: BTreeSet<IpNet>,
    /// What is to be announced, by what shares a message.
    announce: BTreeMap<(Family, Arc<RouteAttributes>), BTreeSet<IpNet>>,
    /// The same by prefix.
    queued: BTreeMap<IpNet, Arc<RouteAttributes>>,
    unsendable: BTreeMap<IpNet, Unsendable>,
    /// The families of which the peer wants everything once more (RFC 2918).
    again: Families,
    /// The families whose End-of-RIB is to follow.
    end_of_rib: Families,
}

impl AdjRibOut {
    /// The session is up: nothing was told yet, and an End-of-RIB is due for each family once all was.
    pub(crate) fn open(&mut self, export: Export) {
        *self = Self { export: Some(export), end_of_rib: export.context.families, ..Self::default() };
    }

    /// The session is down: the peer has forgotten everything.
    pub(crate) fn close(&mut self) {
        *self = Self::default();
    }

    /// Whether the session is up.
    pub(crate) fn is_open(&self) -> bool {
        self.export.is_some()
    }

    /// What the peer should be told of `prefix`; `None` for nothing.
    pub(crate) fn want(&mut self, prefix: IpNet, attributes: Option<Arc<RouteAttributes>>) {
        let Some(export) = self.export else { return };
        let family = Family::of(prefix.addr());
        self.unqueue(prefix);
        self.withdraw.remove(&prefix);
        self.unsendable.remove(&prefix);
        let hindrance = if !export.context.families.contains(family) {
            Some(Unsendable::NotNegotiated)
        } else if export.next_hop(family).is_none() {
            Some(Unsendable::NoNextHop)
        } else {
            None
        };
        let attributes = match (attributes, hindrance) {
            (Some(_), Some(hindrance)) => {
                self.unsendable.insert(prefix, hindrance);
                None
            }
            (attributes, _) => attributes,
        };
        match (attributes, self.sent.get(&prefix)) {
            (Some(wanted), Some(sent)) if wanted == *sent => (),
            (Some(wanted), _) => self.enqueue(prefix, wanted),
            (None, Some(_)) => {
                self.withdraw.insert(prefix);
            }
            (None, None) => (),
        }
    }

    /// The peer wants what it was told of `family` once more (RFC 2918). Only noted here, so that a flood of requests
    /// costs no more than one.
    pub(crate) fn refresh(&mut self, family: Family) {
        // Ordered by family: the first and the last tell which there are.
        let ends = [self.sent.first_key_value(), self.sent.last_key_value()];
        if ends.into_iter().flatten().any(|(prefix, _)| Family::of(prefix.addr()) == family) {
            self.again = self.again.union(Families::only(family));
        }
    }

    /// Whether the peer was told that `prefix` is reached through us.
    pub(crate) fn is_sent(&self, prefix: IpNet) -> bool {
        self.sent.contains_key(&prefix)
    }

    /// How many prefixes the peer was told.
    pub(crate) fn sent(&self) -> usize {
        self.sent.len()
    }

    /// How many changes wait for the connection.
    pub(crate) fn pending(&self) -> usize {
        self.withdraw.len() + self.queued.len() + self.again.iter().count() + self.end_of_rib.iter().count()
    }

    /// Why `prefix` cannot be told to this peer, if so.
    pub(crate) fn unsendable(&self, prefix: IpNet) -> Option<Unsendable> {
        self.unsendable.get(&prefix).copied()
    }

    /// The different hindrances, each with one prefix that it concerns.
    pub(crate) fn hindrances(&self) -> BTreeMap<(Unsendable, Family), IpNet> {
        let mut hindrances = BTreeMap::new();
        for (prefix, hindrance) in &self.unsendable {
            hindrances.entry((*hindrance, Family::of(prefix.addr()))).or_insert(*prefix);
        }
        hindrances
    }

    /// Appends whole messages until there is nothing more to say or `out` holds `limit` octets: withdrawals, then
    /// announcements, then End-of-RIB.
    pub(crate) fn poll_output(&mut self, out: &mut Vec<u8>, limit: usize) {
        let Some(export) = self.export else { return };
        for family in std::mem::take(&mut self.again).iter() {
            self.enqueue_again(family);
        }
        while out.len() < limit {
            if !self.withdraw.is_empty() {
                self.send_withdrawals(out);
            } else if let Some(((family, attributes), _)) = self.announce.first_key_value() {
                let (family, attributes) = (*family, attributes.clone());
                self.send_announcements(&export, family, attributes, out);
            } else if let Some(family) = self.end_of_rib.iter().next() {
                self.end_of_rib = self.end_of_rib.intersection(Families::only(family.other()));
                // It always fits.
                let _ = Message::Update(Update::end_of_rib(family)).encode(&export.context, out);
            } else {
                return;
            }
        }
    }

    /// Appends the withdrawal of everything that the peer was told, and forgets the rest.
    pub(crate) fn withdraw_all(&mut self, out: &mut Vec<u8>) {
        self.announce.clear();
        self.queued.clear();
        self.again = Families::NONE;
        self.withdraw = self.sent.keys().copied().collect();
        while !self.withdraw.is_empty() {
            self.send_withdrawals(out);
        }
    }

    fn send_withdrawals(&mut self, out: &mut Vec<u8>) {
        let Some(family) = self.withdraw.first().map(|prefix| Family::of(prefix.addr())) else { return };
        let same = |prefix: &IpNet| Family::of(prefix.addr()) == family;
        let mut prefixes = self.withdraw.iter().copied().take_while(same).peekable();
        for _ in 0..wire::withdraw(family, &mut prefixes, out) {
            if let Some(prefix) = self.withdraw.pop_first() {
                self.sent.remove(&prefix);
            }
        }
    }

    fn send_announcements(
        &mut self,
        export: &Export,
        family: Family,
        attributes: Arc<RouteAttributes>,
        out: &mut Vec<u8>,
    ) {
        let key = (family, attributes);
        let Some(mut bucket) = self.announce.remove(&key) else { return };
        match export.template(family, &key.1) {
            Ok(template) => {
                let count = template.announce(&mut bucket.iter().copied().peekable(), out);
                for _ in 0..count {
                    if let Some(prefix) = bucket.pop_first() {
                        self.queued.remove(&prefix);
                        self.sent.insert(prefix, key.1.clone());
                    }
                }
                if !bucket.is_empty() {
                    self.announce.insert(key, bucket);
                }
            }
            Err(hindrance) => {
                for prefix in bucket {
                    self.queued.remove(&prefix);
                    self.unsendable.insert(prefix, hindrance);
                    // What it was told before is no longer wanted.
                    if self.sent.contains_key(&prefix) {
                        self.withdraw.insert(prefix);
                    }
                }
            }
        }
    }

    fn enqueue_again(&mut self, family: Family) {
        let stays = |prefix: &IpNet| !self.withdraw.contains(prefix) && !self.queued.contains_key(prefix);
        let again: Vec<_> = self
            .sent
            .iter()
            .filter(|(prefix, _)| Family::of(prefix.addr()) == family && stays(prefix))
            .map(|(prefix, attributes)| (*prefix, attributes.clone()))
            .collect();
        for (prefix, attributes) in again {
            self.enqueue(prefix, attributes);
        }
    }

    fn enqueue(&mut self, prefix: IpNet, attributes: Arc<RouteAttributes>) {
        let key = (Family::of(prefix.addr()), attributes.clone());
        self.announce.entry(key).or_default().insert(prefix);
        self.queued.insert(prefix, attributes);
    }

    fn unqueue(&mut self, prefix: IpNet) {
        let Some(attributes) = self.queued.remove(&prefix) else { return };
        let key = (Family::of(prefix.addr()), attributes);
        if let Some(bucket) = self.announce.get_mut(&key) {
            bucket.remove(&prefix);
            if bucket.is_empty() {
                self.announce.remove(&key);
            }
        }
    }
}
