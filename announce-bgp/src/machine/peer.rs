//! One neighbour: when to dial, which of two connections stays, and what it is told.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use lbcore::addr::Family;
use lbcore::condition::Condition;
use lbcore::id::PeerName;
use lbcore::time::Instant;

use super::adj_rib_out::{AdjRibOut, Export, Unsendable};
use super::fsm::State;
use super::session::{Cause, Counters, Effect, LocalEnd, Negotiated, Session};
use super::speaker::ConnectionId;
use crate::config::PeerConfig;
use crate::wire::notification::cease::{CONNECTION_COLLISION_RESOLUTION as COLLISION, CONNECTION_REJECTED};
use crate::wire::{Message, Notification, Open};

/// The first pause between two attempts; each further one takes twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// A session that lasted this long was a good one: the next attempt follows quickly again. A shorter one was not,
/// or a peer that ends each session at once would have us spin.
const STABLE: Duration = Duration::from_secs(10);

/// A peer and its session, for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Its address.
    pub address: IpAddr,
    /// The state of the session; of two connections, the one that got further.
    pub state: State,
    /// Its AS, once the session is established.
    pub remote_as: Option<u32>,
    /// Its BGP Identifier, once the session is established.
    pub remote_id: Option<Ipv4Addr>,
    /// The negotiated hold time; zero for none.
    pub hold_time: Option<Duration>,
    /// Since when the session is established.
    pub established_since: Option<Instant>,
    /// How many prefixes it was told.
    pub prefixes_sent: usize,
    /// How many changes wait for the connection to take them.
    pub pending: usize,
    /// Why the last session, or the last attempt at one, ended.
    pub last_error: Option<String>,
    /// What came from it.
    pub counters: Counters,
}

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The one that we asked for.
    Dialled,
    /// The one that it asked for.
    Accepted,
}

/// One neighbour, with the connection that we ask for and the one that it asks for. At most one of the two is
/// ever past OpenSent for longer than it takes to tell them apart.
#[derive(Debug)]
pub(crate) struct Peer {
    config: Arc<PeerConfig>,
    local: LocalEnd,
    dialled: Session,
    accepted: Option<Session>,
    pub(crate) rib: AdjRibOut,
    /// When to start dialling again (IdleHoldTimer).
    idle_until: Option<Instant>,
    failures: u32,
    random: Random,
    stopped: bool,
    established_since: Option<Instant>,
    last_error: Option<Cause>,
    counters: Counters,
    effects: VecDeque<Effect>,
    /// Whether the status has changed since it was last looked at.
    pub(crate) dirty: bool,
}

impl Peer {
    /// A peer that starts dialling at once, or waits to be called.
    pub(crate) fn new(now: Instant, config: Arc<PeerConfig>, local: LocalEnd, seed: u64) -> Self {
        let local = LocalEnd {
            local_as: config.local_as.unwrap_or(local.local_as),
            router_id: config.router_id.unwrap_or(local.router_id),
        };
        let mut peer = Self {
            dialled: Session::new(config.clone(), local),
            config,
            local,
            accepted: None,
            rib: AdjRibOut::default(),
            idle_until: None,
            failures: 0,
            random: Random(seed),
            stopped: false,
            established_since: None,
            last_error: None,
            counters: Counters::default(),
            effects: VecDeque::new(),
            dirty: true,
        };
        peer.start(now);
        peer.settle(now);
        peer
    }

    pub(crate) fn config(&self) -> &Arc<PeerConfig> {
        &self.config
    }

    pub(crate) fn name(&self) -> &PeerName {
        &self.config.name
    }

    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The answer to [`Effect::Dial`]: the attempt has this name.
    pub(crate) fn dialling(&mut self, connection: ConnectionId) {
        self.dialled.dialling(connection);
    }

    /// What we asked for is there; our address on it is `local`.
    pub(crate) fn connected(&mut self, now: Instant, connection: ConnectionId, local: IpAddr) {
        if self.side(connection) == Some(Side::Dialled) {
            self.dialled.connected(now, connection, local);
            self.settle(now);
        }
    }

    /// The peer has called; our address is `local`.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        local: IpAddr,
    ) -> Result<(), Notification> {
        if self.stopped {
            return Err(Notification::cease(CONNECTION_REJECTED));
        }
        // RFC 4271 §6.8: an established session stays.
        if self.state() == State::Established {
            return Err(Notification::cease(COLLISION));
        }
        // Called twice: the former call has most likely been forgotten at the other end.
        if let Some(mut former) = self.accepted.take() {
            former.dump(now);
            self.absorb(&mut former);
        }
        let mut session = Session::new(self.config.clone(), self.local);
        session.start_passive(now);
        session.connected(now, connection, local);
        self.accepted = Some(session);
        self.settle(now);
        Ok(())
    }

    /// The connection is gone, or could not be had.
    pub(crate) fn disconnected(&mut self, now: Instant, connection: ConnectionId, error: String) {
        if let Some(side) = self.side(connection)
            && let Some(session) = self.session(side)
        {
            session.disconnected(now, error);
            if self.dialled.state() == State::Active {
                self.failures = self.failures.saturating_add(1);
            }
            self.settle(now);
        }
    }

    /// Bytes came in.
    pub(crate) fn received(&mut self, now: Instant, connection: ConnectionId, bytes: &[u8]) {
        let Some(side) = self.side(connection) else { return };
        if let Some(session) = self.session(side) {
            session.push(bytes);
        }
        while let Some(message) = self.session(side).and_then(Session::next_message) {
            if let Ok(Message::Open(open)) = &message
                && self.session(side).is_some_and(|session| session.state() == State::OpenSent)
                && self.session(side).is_some_and(|session| session.check_open(open).is_ok())
                && let Some(loser) = self.collision(side, open)
            {
                if let Some(session) = self.session(loser) {
                    session.dump(now);
                }
                if loser == side {
                    break;
                }
            }
            if let Some(session) = self.session(side) {
                session.handle(now, message);
            }
            self.settle(now);
        }
        self.settle(now);
    }

    /// Which connection has to go, now that `open` has come in on `side` (RFC 4271 §6.8).
    fn collision(&mut self, side: Side, open: &Open) -> Option<Side> {
        let other = match side {
            Side::Dialled => Side::Accepted,
            Side::Accepted => Side::Dialled,
        };
        match self.session(other)?.state() {
            State::Established => Some(side),
            State::OpenConfirm => {
                // The connection that the one with the higher identifier asked for stays; with equal identifiers,
                // the higher AS number (RFC 6286 §2.3).
                let local = (self.local.router_id, self.local.local_as);
                let remote = (open.identifier, open.autonomous_system());
                Some(if local > remote { Side::Accepted } else { Side::Dialled })
            }
            _ => None,
        }
    }

    /// Ends everything for good, with the reason to give. With `withdraw`, an established peer is told before that
    /// nothing is reached through us any more.
    pub(crate) fn stop(&mut self, now: Instant, reason: &Notification, withdraw: bool) {
        self.stopped = true;
        self.idle_until = None;
        let mut messages = Vec::new();
        if withdraw {
            self.rib.withdraw_all(&mut messages);
        }
        for side in [Side::Dialled, Side::Accepted] {
            if let Some(session) = self.session(side) {
                let established = session.state() == State::Established;
                let messages = if established { std::mem::take(&mut messages) } else { Vec::new() };
                session.stop_after(now, messages, reason.clone());
            }
        }
        self.settle(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.idle_until.is_some_and(|deadline| deadline <= now) {
            self.idle_until = None;
            self.start(now);
        }
        self.dialled.handle_timeout(now);
        if let Some(session) = &mut self.accepted {
            session.handle_timeout(now);
        }
        self.settle(now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let accepted = self.accepted.as_ref().and_then(Session::poll_timeout);
        [self.idle_until, self.dialled.poll_timeout(), accepted].into_iter().flatten().min()
    }

    /// Appends what is to go out on `connection`, up to about `limit` octets.
    pub(crate) fn poll_output(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        out: &mut Vec<u8>,
        limit: usize,
    ) {
        let Some(side) = self.side(connection) else { return };
        let before = out.len();
        let Some(session) = self.session(side) else { return };
        session.poll_output(out);
        if session.state() == State::Established {
            let pending = self.rib.pending();
            self.rib.poll_output(out, limit);
            self.dirty |= pending > 0 && self.rib.pending() == 0;
        }
        self.progress(now, side, out.len() > before);
    }

    /// The routes have changed: the connection may have something to take.
    pub(crate) fn routes_changed(&mut self, now: Instant) {
        for side in [Side::Dialled, Side::Accepted] {
            self.progress(now, side, false);
        }
    }

    pub(crate) fn state(&self) -> State {
        let accepted = self.accepted.as_ref().map_or(State::Idle, Session::state);
        self.dialled.state().max(accepted)
    }

    pub(crate) fn status(&self) -> PeerStatus {
        let negotiated = self.established().and_then(Session::negotiated);
        PeerStatus {
            address: self.config.address,
            state: self.state(),
            remote_as: negotiated.map(|negotiated| negotiated.remote_as),
            remote_id: negotiated.map(|negotiated| negotiated.remote_id),
            hold_time: negotiated.map(|negotiated| negotiated.hold),
            established_since: self.established_since,
            prefixes_sent: self.rib.sent(),
            pending: self.rib.pending(),
            last_error: self.last_error.as_ref().map(Cause::to_string),
            counters: self.counters(),
        }
    }

    /// What is wrong with it.
    pub(crate) fn conditions(&self, out: &mut Vec<Condition>) {
        let name = &self.config.name;
        if self.state() != State::Established {
            out.push(Condition::no("PeerEstablished", self.reason(), self.describe()));
        }
        for ((hindrance, family), prefix) in self.rib.hindrances() {
            out.push(Condition::no(
                "RoutesAccepted",
                hindrance.reason(),
                format!(
                    "peer {name} is told no {family} routes, such as {prefix}: {}",
                    hindrance.message(family)
                ),
            ));
        }
    }

    /// In one word why it is not established.
    pub(crate) fn reason(&self) -> &'static str {
        self.last_error.as_ref().map_or("NotConnectedYet", Cause::reason)
    }

    /// In words why it is not established.
    pub(crate) fn describe(&self) -> String {
        let PeerConfig { name, address, port, .. } = &*self.config;
        let target = std::net::SocketAddr::new(*address, *port);
        match &self.last_error {
            Some(cause) => {
                format!("peer {name} at {target} is in state {}; last error: {cause}", self.state())
            }
            None => format!("peer {name} at {target} is in state {}", self.state()),
        }
    }

    fn counters(&self) -> Counters {
        let sessions = [Some(&self.dialled), self.accepted.as_ref()];
        sessions.into_iter().flatten().fold(self.counters, |sum, session| sum + session.counters)
    }

    fn side(&self, connection: ConnectionId) -> Option<Side> {
        if self.dialled.connection() == Some(connection) {
            return Some(Side::Dialled);
        }
        let accepted = self.accepted.as_ref()?;
        (accepted.connection() == Some(connection)).then_some(Side::Accepted)
    }

    fn session(&mut self, side: Side) -> Option<&mut Session> {
        match side {
            Side::Dialled => Some(&mut self.dialled),
            Side::Accepted => self.accepted.as_mut(),
        }
    }

    fn established(&self) -> Option<&Session> {
        let sessions = [Some(&self.dialled), self.accepted.as_ref()];
        sessions.into_iter().flatten().find(|session| session.state() == State::Established)
    }

    fn start(&mut self, now: Instant) {
        if self.config.passive {
            self.dialled.start_passive(now);
        } else {
            self.dialled.retry_pause = self.backoff();
            self.dialled.start(now);
        }
    }

    /// The pause before the next attempt: 75 to 100 % of what the number of failures calls for (RFC 4271 §10).
    fn backoff(&mut self) -> Duration {
        let doubled = FIRST_RETRY.saturating_mul(1 << self.failures.min(16));
        let whole = doubled.min(self.config.connect_retry);
        whole.mul_f64(0.75 + 0.25 * self.random.fraction())
    }

    /// After anything that could have changed a session: takes in what follows for the peer as a whole.
    fn settle(&mut self, now: Instant) {
        let was_up = self.rib.is_open();
        // The accepted one first: when it is up, the other one is dumped.
        for side in [Side::Accepted, Side::Dialled] {
            while let Some(effect) = self.session(side).and_then(Session::poll_effect) {
                if effect == Effect::Up {
                    self.went_up(now, side);
                }
                self.effects.push_back(effect);
            }
            match self.session(side).and_then(Session::take_cause) {
                // Losing a collision is no error.
                Some(Cause::Sent(reason)) if reason == Notification::cease(COLLISION) => (),
                Some(cause) => {
                    self.dirty = true;
                    self.last_error = Some(cause);
                }
                None => (),
            }
        }
        // A session that was accepted ends with its connection: the next call gets one of its own.
        if let Some(mut session) = self.accepted.take_if(|session| session.connection().is_none()) {
            self.absorb(&mut session);
        }
        if was_up && self.established().is_none() {
            self.went_down(now);
        }
        self.redial(now);
        for side in [Side::Dialled, Side::Accepted] {
            self.progress(now, side, false);
        }
    }

    fn went_up(&mut self, now: Instant, side: Side) {
        self.dirty = true;
        self.established_since = Some(now);
        let (config, local_as) = (self.config.clone(), self.local.local_as);
        if let Some(session) = self.session(side)
            && let (Some(Negotiated { context, .. }), Some(local)) =
                (session.negotiated().copied(), session.local_address)
        {
            let next_hop = |family| config.next_hop(family, local);
            self.rib.open(Export {
                context,
                local_as,
                next_hop_v4: next_hop(Family::V4),
                next_hop_v6: next_hop(Family::V6),
            });
        }
        // The other connection, if any, has lost (RFC 4271 §6.8: an established session stays).
        match side {
            Side::Dialled => {
                if let Some(mut session) = self.accepted.take() {
                    session.dump(now);
                    self.absorb(&mut session);
                }
            }
            Side::Accepted => self.dialled.dump(now),
        }
    }

    fn went_down(&mut self, now: Instant) {
        self.dirty = true;
        self.rib.close();
        let since = self.established_since.take();
        if since.is_some_and(|since| now.saturating_since(since) >= STABLE) {
            self.failures = 0;
        }
    }

    /// Sees to it that we dial when we should, and do not when we should not.
    fn redial(&mut self, now: Instant) {
        let answered = self.accepted.as_ref().is_some_and(|session| session.state() >= State::OpenConfirm);
        if answered && matches!(self.dialled.state(), State::Connect | State::Active) {
            self.dialled.dump(now);
            while let Some(effect) = self.dialled.poll_effect() {
                self.effects.push_back(effect);
            }
        }
        if self.stopped || answered {
            self.idle_until = None;
        } else if self.config.passive {
            self.dialled.start_passive(now);
        } else if self.dialled.state() == State::Idle && self.idle_until.is_none() {
            let pause = self.backoff();
            self.failures = self.failures.saturating_add(1);
            self.idle_until = Some(now + pause);
        }
    }

    fn progress(&mut self, now: Instant, side: Side, wrote: bool) {
        let routes = self.rib.pending() > 0;
        if let Some(session) = self.session(side) {
            let more = session.has_output() || (session.state() == State::Established && routes);
            session.progress(now, wrote, more);
        }
    }

    /// Takes over what a session that is no more has left.
    fn absorb(&mut self, session: &mut Session) {
        while let Some(effect) = session.poll_effect() {
            self.effects.push_back(effect);
        }
        self.counters = self.counters + session.counters;
    }
}

impl Unsendable {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotNegotiated => "FamilyNotNegotiated",
            Self::NoNextHop => "NoNextHop",
            Self::TooLong => "AttributesTooLong",
        }
    }

    pub(crate) fn message(self, family: Family) -> String {
        match self {
            Self::NotNegotiated => {
                format!("it does not take {family} unicast on this session; enable the family on both ends")
            }
            Self::NoNextHop => format!(
                "the session runs over {}, and no {family} next hop is configured; set one, or peer over {family}",
                family.other()
            ),
            Self::TooLong => {
                "its communities do not fit into a message of 4096 octets; use fewer of them".to_owned()
            }
        }
    }
}

impl std::ops::Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            established: self.established + other.established,
            updates_received: self.updates_received + other.updates_received,
            prefixes_dropped: self.prefixes_dropped + other.prefixes_dropped,
            treated_as_withdraw: self.treated_as_withdraw + other.treated_as_withdraw,
            attributes_discarded: self.attributes_discarded + other.attributes_discarded,
            refreshes_answered: self.refreshes_answered + other.refreshes_answered,
            notifications_sent: self.notifications_sent + other.notifications_sent,
            notifications_received: self.notifications_received + other.notifications_received,
            connections_failed: self.connections_failed + other.connections_failed,
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): enough to keep two speakers from dialling in step.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// From 0 up to, but not including, 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
