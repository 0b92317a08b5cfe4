//! The speaker: the desired set, the leases that fence it, the peers, and what they have been told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use lbcore::addr::Family;
use lbcore::announce::{AnnounceSet, AnnounceState, AnnounceStatus, Announcement};
use lbcore::condition::Condition;
use lbcore::elect::LeaseId;
use lbcore::id::PeerName;
use lbcore::time::Instant;

use super::fsm::State;
use super::peer::{Peer, PeerStatus, Random};
use super::session::{Effect, LocalEnd};
use super::table::Table;
use crate::config::{BgpConfig, BuildError, PeerConfig, validate_peers};
use crate::wire::notification::cease;
use crate::wire::{Context, Message, Notification, Peering};

/// Names a connection, or the attempt at one, for as long as the speaker lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// What happens to a speaker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// What should be announced. One of a lower generation than the last is ignored.
    Desired(Arc<AnnounceSet>),
    /// A lease holds until then; an earlier deadline than the one known is ignored.
    Renew(LeaseId, Instant),
    /// The peers, whole and [checked](Speaker::check_peers). One whose configuration is unchanged keeps its session.
    Peers(Arc<[PeerConfig]>),
    /// A connection that [`Event::Connect`] asked for is there.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// Our own address on it.
        local: IpAddr,
    },
    /// A connection is gone, or could not be had.
    Disconnected {
        /// Which.
        connection: ConnectionId,
        /// Why, for people.
        error: String,
    },
    /// Bytes came in.
    Received {
        /// On which connection.
        connection: ConnectionId,
        /// The bytes: as many or as few as there are.
        bytes: &'a [u8],
    },
    /// Withdraw everything, say farewell to all peers with these words (RFC 9003), and do no more.
    Stop(&'a str),
}

/// What the speaker wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Connect to a peer, and answer with [`Input::Connected`] or [`Input::Disconnected`].
    Connect {
        /// The name of the attempt, and of the connection.
        connection: ConnectionId,
        /// The peer.
        peer: Arc<PeerConfig>,
    },
    /// Send this if possible, then close the connection, or give up the attempt. There is no answer to it.
    Close {
        /// Which.
        connection: ConnectionId,
        /// The last messages, which follow all that was [handed out](Speaker::poll_output) before.
        farewell: Vec<u8>,
    },
}

/// A connection that is not wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// What to send before closing it.
    pub farewell: Vec<u8>,
}

/// A BGP speaker without I/O that announces what it is told to.
///
/// # Order
/// Hand in what happened with [`handle`](Self::handle) or [`accept`](Self::accept), and call
/// [`handle_timeout`](Self::handle_timeout) once [`poll_timeout`](Self::poll_timeout) has passed. After any of
/// these take all of [`poll_event`](Self::poll_event), then, for each connection that can take bytes,
/// [`poll_output`](Self::poll_output), then [`poll_status`](Self::poll_status).
#[derive(Debug)]
pub struct Speaker {
    local: LocalEnd,
    peers: BTreeMap<PeerName, Peer>,
    connections: BTreeMap<ConnectionId, PeerName>,
    next_connection: u64,
    random: Random,

    desired: Arc<AnnounceSet>,
    /// The addresses of `desired` that are announced now: those without a lease, or with one that holds.
    active: BTreeSet<IpAddr>,
    leases: BTreeMap<LeaseId, Instant>,
    /// The same by time.
    deadlines: BTreeSet<(Instant, LeaseId)>,
    by_lease: BTreeMap<LeaseId, BTreeSet<IpAddr>>,
    table: Table,

    stopped: bool,
    dirty: bool,
    events: VecDeque<Event>,
}

impl Speaker {
    /// A speaker that wants to connect to its peers from now on. `seed` spreads its attempts over time; two speakers
    /// should have different ones.
    ///
    /// # Errors
    /// The first thing that is wrong with the configuration.
    pub fn new(now: Instant, config: &BgpConfig, seed: u64) -> Result<Self, BuildError> {
        config.validate()?;
        let mut speaker = Self {
            local: LocalEnd { local_as: config.local_as, router_id: config.router_id },
            peers: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            random: Random(seed),
            desired: Arc::default(),
            active: BTreeSet::new(),
            leases: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            by_lease: BTreeMap::new(),
            table: Table::default(),
            stopped: false,
            dirty: true,
            events: VecDeque::new(),
        };
        speaker.set_peers(now, &config.peers);
        Ok(speaker)
    }

    /// Checks peers for [`Input::Peers`].
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn check_peers(local_as: u32, peers: &[PeerConfig]) -> Result<(), BuildError> {
        validate_peers(local_as, peers)
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Desired(set) => self.set_desired(now, &set),
            Input::Renew(lease, until) => self.renew(now, lease, until),
            Input::Peers(peers) => self.set_peers(now, &peers),
            Input::Connected { connection, local } => {
                self.with_peer(now, connection, |peer| peer.connected(now, connection, local));
            }
            Input::Disconnected { connection, error } => {
                self.with_peer(now, connection, |peer| peer.disconnected(now, connection, error));
                self.connections.remove(&connection);
            }
            Input::Received { connection, bytes } => {
                self.with_peer(now, connection, |peer| peer.received(now, connection, bytes));
            }
            Input::Stop(words) => self.stop(now, words),
        }
    }

    /// Somebody called.
    ///
    /// # Errors
    /// Nobody of that address is a peer, or it has a session already; the connection is to be closed.
    pub fn accept(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local: IpAddr,
    ) -> Result<ConnectionId, Refused> {
        let remote = remote.ip().to_canonical();
        let connection = self.next_id();
        // Two peers may share an address and differ by port; who of them calls, nobody can tell.
        let mut callers = self.peers.values_mut().filter(|peer| peer.config().address == remote);
        let refusal = match (callers.next(), callers.next()) {
            (Some(peer), None) => match peer.accept(now, connection, local) {
                Ok(()) => {
                    let name = peer.name().clone();
                    self.connections.insert(connection, name.clone());
                    self.collect(now, &name);
                    return Ok(connection);
                }
                Err(reason) => reason,
            },
            _ => Notification::cease(cease::CONNECTION_REJECTED),
        };
        let mut farewell = Vec::new();
        // It always fits.
        let _ = Message::Notification(refusal).encode(&Context::new(Peering::External), &mut farewell);
        Err(Refused { farewell })
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire_leases(now);
        let due = |peer: &Peer| peer.poll_timeout().is_some_and(|deadline| deadline <= now);
        let names: Vec<_> =
            self.peers.iter().filter(|(_, peer)| due(peer)).map(|(name, _)| name.clone()).collect();
        for name in names {
            if let Some(peer) = self.peers.get_mut(&name) {
                peer.handle_timeout(now);
            }
            self.collect(now, &name);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let leases = self.deadlines.first().map(|(deadline, _)| *deadline);
        self.peers.values().filter_map(Peer::poll_timeout).chain(leases).min()
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Appends what is to go out on `connection`: whole messages, until `out` holds `limit` octets or there is nothing
    /// more. Ask only when the connection can take it: what waits here is replaced by what is newer.
    pub fn poll_output(&mut self, now: Instant, connection: ConnectionId, out: &mut Vec<u8>, limit: usize) {
        // A lease is looked at for each packet, not only when its timer has fired.
        self.expire_leases(now);
        if let Some(peer) = self.connections.get(&connection).and_then(|name| self.peers.get_mut(name)) {
            peer.poll_output(now, connection, out, limit);
            self.dirty |= peer.dirty;
        }
    }

    /// Whose connection it is.
    pub fn peer(&self, connection: ConnectionId) -> Option<&Arc<PeerConfig>> {
        Some(self.peers.get(self.connections.get(&connection)?)?.config())
    }

    /// Whether it knows of a lease that holds. Then time must be looked at now and then even if the process's timers
    /// stand still, as they do while the machine sleeps.
    pub fn has_leases(&self) -> bool {
        !self.leases.is_empty()
    }

    /// The status, if it may have changed since the last call.
    pub fn poll_status(&mut self) -> Option<AnnounceStatus> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        for peer in self.peers.values_mut() {
            peer.dirty = false;
        }
        self.table.tidy();
        Some(self.status())
    }

    /// What each peer's session is like.
    pub fn peers(&self) -> BTreeMap<PeerName, PeerStatus> {
        self.peers.iter().map(|(name, peer)| (name.clone(), peer.status())).collect()
    }

    fn status(&self) -> AnnounceStatus {
        let mut status = AnnounceStatus::default();
        status.generation = self.desired.generation;
        if self.stopped {
            return status;
        }
        for (address, announcement) in &self.desired.entries {
            status.entries.insert(*address, self.announce_state(*address, announcement));
        }
        for peer in self.peers.values() {
            peer.conditions(&mut status.conditions);
        }
        status
    }

    fn announce_state(&self, address: IpAddr, announcement: &Announcement) -> AnnounceState {
        let active = self.active.contains(&address);
        let told = |peer: &Peer| {
            announcement.routes.iter().any(|route| {
                let prefix = route.prefix.trunc();
                // Where the lease has run out but the connection has not taken the withdrawal, it is still told.
                let meant =
                    if active { route.peers.contains(peer.name()) } else { !self.table.contains(prefix) };
                meant && peer.rib.is_sent(prefix)
            })
        };
        let to: Vec<_> = self
            .peers
            .values()
            .filter(|peer| told(peer))
            .map(|peer| Arc::from(peer.name().as_str()))
            .collect();
        if to.is_empty() {
            AnnounceState::Silent(self.why_silent(active, announcement))
        } else {
            AnnounceState::Announced { to }
        }
    }

    fn why_silent(&self, active: bool, announcement: &Announcement) -> Condition {
        let because = |reason: &'static str, message: String| Condition::no("Announced", reason, message);
        if let (false, Some(lease)) = (active, announcement.lease) {
            return because("LeaseNotHeld", format!("{lease} is not held"));
        }
        if announcement.routes.is_empty() {
            return because("NoRoutes", "no route is to be announced for it over BGP".to_owned());
        }
        if self.peers.is_empty() {
            return because("NoPeer", "no BGP peer is configured for this node; add one".to_owned());
        }
        let mut first = None;
        let mut messages = Vec::new();
        for peer in self.peers.values() {
            let Some(route) = announcement.routes.iter().find(|route| route.peers.contains(peer.name()))
            else {
                continue;
            };
            let prefix = route.prefix.trunc();
            let (reason, message) = if peer.state() != State::Established {
                ("PeerNotEstablished", peer.describe())
            } else if let Some(hindrance) = peer.rib.unsendable(prefix) {
                let family = Family::of(prefix.addr());
                (hindrance.reason(), format!("peer {}: {}", peer.name(), hindrance.message(family)))
            } else {
                ("Queued", format!("peer {} has not taken it yet", peer.name()))
            };
            first.get_or_insert(reason);
            messages.push(message);
        }
        match first {
            Some(reason) => because(reason, messages.join("; ")),
            None => because("NoPeer", "none of the peers that its routes name is configured here".to_owned()),
        }
    }

    fn set_desired(&mut self, now: Instant, set: &Arc<AnnounceSet>) {
        if set.generation < self.desired.generation || self.stopped {
            return;
        }
        self.dirty = true;
        let former = std::mem::replace(&mut self.desired, set.clone());
        let mut dirty = BTreeSet::new();
        for change in differences(&former.entries, &set.entries) {
            let address = change.address;
            if let Some(old) = change.old {
                if self.active.remove(&address) {
                    self.table.remove(address, old, &mut dirty);
                }
                if let Some(lease) = old.lease
                    && let Some(addresses) = self.by_lease.get_mut(&lease)
                {
                    addresses.remove(&address);
                    if addresses.is_empty() {
                        self.by_lease.remove(&lease);
                    }
                }
            }
            if let Some(new) = change.new {
                if let Some(lease) = new.lease {
                    self.by_lease.entry(lease).or_default().insert(address);
                }
                if new.lease.is_none_or(|lease| self.holds(now, lease)) {
                    self.active.insert(address);
                    self.table.add(address, new, &mut dirty);
                }
            }
        }
        self.tell(now, &dirty);
    }

    fn holds(&self, now: Instant, lease: LeaseId) -> bool {
        self.leases.get(&lease).is_some_and(|until| now < *until)
    }

    fn renew(&mut self, now: Instant, lease: LeaseId, until: Instant) {
        let known = self.leases.get(&lease).copied().unwrap_or_default();
        if until <= known || until <= now {
            return;
        }
        self.leases.insert(lease, until);
        self.deadlines.remove(&(known, lease));
        self.deadlines.insert((until, lease));
        let mut dirty = BTreeSet::new();
        for address in self.by_lease.get(&lease).into_iter().flatten() {
            if let Some(announcement) = self.desired.entries.get(address)
                && self.active.insert(*address)
            {
                self.table.add(*address, announcement, &mut dirty);
                self.dirty = true;
            }
        }
        self.tell(now, &dirty);
    }

    fn expire_leases(&mut self, now: Instant) {
        let mut dirty = BTreeSet::new();
        while let Some((deadline, lease)) = self.deadlines.pop_first() {
            if now < deadline {
                self.deadlines.insert((deadline, lease));
                break;
            }
            self.leases.remove(&lease);
            for address in self.by_lease.get(&lease).into_iter().flatten() {
                if let Some(announcement) = self.desired.entries.get(address)
                    && self.active.remove(address)
                {
                    self.table.remove(*address, announcement, &mut dirty);
                    self.dirty = true;
                }
            }
        }
        self.tell(now, &dirty);
    }

    /// Tells the peers what has become of these prefixes.
    fn tell(&mut self, now: Instant, prefixes: &BTreeSet<IpNet>) {
        if prefixes.is_empty() {
            return;
        }
        for (name, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.rib.is_open()) {
            for prefix in prefixes {
                peer.rib.want(*prefix, self.table.attributes(*prefix, name, &self.desired));
            }
            peer.routes_changed(now);
        }
    }

    fn set_peers(&mut self, now: Instant, peers: &[PeerConfig]) {
        if self.stopped {
            return;
        }
        self.dirty = true;
        let mut former = std::mem::take(&mut self.peers);
        let mut fresh = Vec::new();
        for config in peers {
            match former.remove(&config.name) {
                Some(peer) if **peer.config() == *config => {
                    self.peers.insert(config.name.clone(), peer);
                }
                Some(mut peer) => {
                    self.dismiss(now, &mut peer, cease::OTHER_CONFIGURATION_CHANGE);
                    fresh.push(config);
                }
                None => fresh.push(config),
            }
        }
        for peer in former.values_mut() {
            self.dismiss(now, peer, cease::PEER_DE_CONFIGURED);
        }
        for config in fresh {
            let peer = Peer::new(now, Arc::new(config.clone()), self.local, self.random.next());
            self.peers.insert(config.name.clone(), peer);
            self.collect(now, &config.name);
        }
    }

    /// Parts with a peer.
    fn dismiss(&mut self, now: Instant, peer: &mut Peer, subcode: u8) {
        peer.stop(now, &Notification::cease(subcode), false);
        while let Some(effect) = peer.poll_effect() {
            if let Effect::Close { connection, farewell } = effect {
                self.connections.remove(&connection);
                self.events.push_back(Event::Close { connection, farewell });
            }
        }
    }

    fn stop(&mut self, now: Instant, words: &str) {
        self.stopped = true;
        self.dirty = true;
        let names: Vec<_> = self.peers.keys().cloned().collect();
        for name in names {
            if let Some(peer) = self.peers.get_mut(&name) {
                peer.stop(now, &Notification::shutdown(words), true);
            }
            self.collect(now, &name);
        }
    }

    fn with_peer(&mut self, now: Instant, connection: ConnectionId, act: impl FnOnce(&mut Peer)) {
        let Some(name) = self.connections.get(&connection).cloned() else { return };
        if let Some(peer) = self.peers.get_mut(&name) {
            act(peer);
        }
        self.collect(now, &name);
    }

    /// Takes in what a peer wants.
    fn collect(&mut self, now: Instant, name: &PeerName) {
        while let Some(effect) = self.peers.get_mut(name).and_then(Peer::poll_effect) {
            match effect {
                Effect::Dial => {
                    let connection = self.next_id();
                    if let Some(peer) = self.peers.get_mut(name) {
                        peer.dialling(connection);
                        self.connections.insert(connection, name.clone());
                        let peer = peer.config().clone();
                        self.events.push_back(Event::Connect { connection, peer });
                    }
                }
                Effect::Close { connection, farewell } => {
                    self.connections.remove(&connection);
                    self.events.push_back(Event::Close { connection, farewell });
                }
                Effect::Up => {
                    if let Some(peer) = self.peers.get_mut(name) {
                        let prefixes: Vec<_> = self.table.prefixes().collect();
                        for prefix in prefixes {
                            peer.rib.want(prefix, self.table.attributes(prefix, name, &self.desired));
                        }
                        peer.routes_changed(now);
                    }
                }
                Effect::Refresh(family) => {
                    if let (Some(peer), Some(family)) = (self.peers.get_mut(name), family.unicast()) {
                        peer.rib.refresh(family);
                        peer.routes_changed(now);
                    }
                }
            }
        }
        self.dirty |= self.peers.get(name).is_some_and(|peer| peer.dirty);
    }

    fn next_id(&mut self) -> ConnectionId {
        self.next_connection += 1;
        ConnectionId(self.next_connection)
    }
}

/// An address whose announcement is not what it was.
struct Change<'a> {
    address: IpAddr,
    old: Option<&'a Announcement>,
    new: Option<&'a Announcement>,
}

/// What differs between two maps, ordered by address, in one pass over both.
fn differences<'a>(
    old: &'a BTreeMap<IpAddr, Announcement>,
    new: &'a BTreeMap<IpAddr, Announcement>,
) -> impl Iterator<Item = Change<'a>> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let address = match (old.peek(), new.peek()) {
                (Some((old, _)), Some((new, _))) => **old.min(new),
                (Some((address, _)), None) | (None, Some((address, _))) => **address,
                (None, None) => return None,
            };
            let old = old.next_if(|(other, _)| **other == address).map(|(_, announcement)| announcement);
            let new = new.next_if(|(other, _)| **other == address).map(|(_, announcement)| announcement);
            if old != new {
                return Some(Change { address, old, new });
            }
        }
    })
}
