//! The elector of one node as a state machine: no I/O, no clock, no randomness of its own.
//!
//! In go datagrams, the fate of streams, the node's candidacy and the time; out come datagrams, wishes for streams
//! and what the node now knows and owns. The verbs:
//!
//! - [`handle`](Machine::handle) and [`handle_timeout`](Machine::handle_timeout) take something in. Every call first
//!   looks at the time: a lease that ran out is dropped before anything else is looked at.
//! - [`poll_event`](Machine::poll_event) says what changed. It is to be drained **before**
//!   [`poll_output`](Machine::poll_output), so that this node is silent before another is told to speak.
//! - [`poll_timeout`](Machine::poll_timeout) says when to call [`handle_timeout`](Machine::handle_timeout) next.
//!
//! Take in all that has arrived before you poll: decisions are made once a batch, in the first `poll_event`.
//! And take in what has arrived before you call `handle_timeout`, so that a process that ran late does not hold
//! for dead whom it did not listen to.
//!
//! # Time
//! Let `lease` be `interval × missed`, and `takeover` a margin more.
//! - An owner may act until `lease` after the *start* of its last round of heartbeats that a member answered. If
//!   it heard from nobody at all for `missed - 1` rounds that ran on time, and for longer than any living member
//!   said it would be silent, it takes itself for the only one left, and each round counts as answered.
//! - Each heartbeat carries a *promise*: after how many intervals the next one follows at the latest. A node is dead
//!   `takeover + (promise - 1) × interval` after its last word that this node heard. The same holds for the last word
//!   that any other node says to have heard, with what was promised to that one; or just `takeover`, if this node
//!   is one of those that would act on the death.
//! - So an owner has fallen silent, by its own clock, before another one takes over, as long as those that answer
//!   the owner and those that take over hear each other. What happens where they do not is a partition:
//!   each side has its owner.
//!
//! ## In a large cluster
//! Of more than [`Timing::all_pairs`] members not all pairs speak each interval. Who *acts on the death* of an owner are
//! the members that bid eligibly for something that it owns or is about to own, and the first two by name of those that
//! may own: one of these deals. To them an owner speaks each interval, and promises so. To all others, and if it owns
//! nothing, a node speaks each [`Timing::slow_interval`].
//! - Who acts on a death hears the owner each interval, or it has been promised less and waits for longer: one
//!   that became a candidate a moment ago holds the old promise until the owner, which knows of it by then, replaces it
//!   with its next word. A promise is only ever broken by death: before a node speaks less often, it says
//!   so for `missed` rounds at the old rate.
//! - An answer comes at once, whatever the rate. So a lease is renewed within a round trip, by two of those that act on
//!   the owner's death, in turn. All are asked if too few answer.
//! - In a small cluster everybody hears each interval whom all others hear. In a large one, who misses an owner's words
//!   asks two others two intervals before it would hold the owner for dead, and all of them one interval before; those
//!   answer first of all what they heard of that owner. So here too it is enough that a third hears both.
//! - Who owns nothing is not answered each interval either: before it claims or deals something it asks.
//! - A member that speaks rarely is asked before something is given to it, and held for dead if it leaves that
//!   unanswered for the takeover time.
//! - Streams stand only from those that act on a death to the owner.

mod claims;
mod heartbeats;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod laws;
mod membership;
mod peer;
mod sessions;
mod table;
#[cfg(test)]
mod tests;
mod troubles;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use lbcore::condition::Condition;
use lbcore::elect::{Candidacy, LeaseId, Ownership, Renewals};
use lbcore::id::{InterfaceName, NodeName};
use lbcore::time::{Duration, Instant};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use self::claims::Claims;
use self::membership::{Id, Membership, Word};
use self::peer::{Peer, Rival, Stream};
use self::table::Table;
use self::troubles::Troubles;
use crate::config::{BuildError, Config, Keyring, Seed, Timing};
use crate::wire::{Boot, Entries, Message, Meta, Packet, Sealer};

/// What the machine takes in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input<'i> {
    /// A datagram arrived.
    Datagram {
        /// Who sent it.
        from: SocketAddr,
        /// All of it.
        bytes: &'i [u8],
    },
    /// Something became of a stream that [`Output::Connect`] asked for.
    Stream {
        /// Its number.
        stream: u64,
        /// What.
        event: StreamEvent,
    },
    /// What this node could own; replaces what it could before.
    Candidacy(Arc<Candidacy>),
    /// The hardware addresses of this node's interfaces, for the others' [`Member`](lbcore::elect::Member).
    Hardware(BTreeMap<InterfaceName, [u8; 6]>),
    /// The keys to use from now on.
    Keys(Keyring),
    /// The addresses, of nodes and groups, at which to look for others from now on.
    Seeds(&'i [SocketAddr]),
    /// A seed's name could not be resolved.
    Unresolved {
        /// The seed.
        seed: &'i str,
        /// What the resolver says.
        why: &'i str,
    },
    /// Give everything away and say good-bye; [`Event::Left`] follows within a bound.
    Leave,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// It stands.
    Opened,
    /// It stood, and was closed or reset by the other side.
    Closed,
    /// The other host says that nobody listens there.
    Refused,
    /// It could not be made for another reason, or was lost for one.
    Failed,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Send this.
    Datagram {
        /// Whom to.
        to: SocketAddr,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// Open a stream to a member, tell what becomes of it, and keep it. Nothing is ever sent on it: that it
    /// stands is all that it says.
    Connect {
        /// Where.
        to: SocketAddr,
        /// Its number; never used again.
        stream: u64,
    },
    /// Close this stream and say nothing of it any more.
    Disconnect {
        /// Its number.
        stream: u64,
    },
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Who owns what.
    Ownership(Arc<Ownership>),
    /// Until when this node's leases hold.
    Renewals(Renewals),
    /// What stands in the way of the election, all of it.
    Conditions(Vec<Condition>),
    /// For the log.
    Notice(Notice),
    /// What [`Input::Leave`] asked for is done.
    Left,
}

/// For the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A member is there.
    Up(NodeName),
    /// A member is dead.
    Down(NodeName, Cause),
    /// This node's lease ran out: it was paused, or nobody answered it.
    LeaseLost,
    /// This node knows the current terms and may own from now on.
    Settled,
}

/// How the death of a member was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Nothing was heard of it for the takeover time.
    Silence,
    /// Its stream was closed, and its host refused a new one.
    Refused,
    /// It came back as another process.
    Restarted,
}

/// What was received and sent, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes sent, without the headers of UDP and IP.
    pub sent_bytes: u64,
    /// Dropped: not of this protocol, of another version of it, or cut.
    pub foreign: u64,
    /// Dropped: no key opens it.
    pub unauthentic: u64,
    /// Dropped: sealed by a member, but without meaning.
    pub malformed: u64,
    /// Dropped: accepted before, or too old to tell.
    pub replayed: u64,
    /// Not believed: the sender has not proved to be there now. It is asked to.
    pub unproven: u64,
    /// Dropped: our own.
    pub own: u64,
    /// Dropped: of another node with the same name as a living one.
    pub name_clash: u64,
    /// Roles that are not elected: their names are longer than
    /// [`MAX_ROLE_NAME`](crate::wire::MAX_ROLE_NAME).
    pub oversized_roles: u64,
    /// Messages and timers that the membership protocol could not use.
    pub membership_errors: u64,
    /// Leases of this node that ran out.
    pub leases_lost: u64,
}

/// The elector of one node. See the [module](self).
#[derive(Debug)]
pub struct Machine {
    me: NodeName,
    boot: Boot,
    address: SocketAddr,
    /// Those that no member was met at yet have the time since which they are greeted.
    seeds: BTreeMap<SocketAddr, Option<Instant>>,
    /// When groups were last greeted.
    called: Instant,
    timing: Timing,
    sealer: Sealer,
    sequence: u64,
    rng: ChaCha8Rng,
    now: Instant,
    peers: BTreeMap<NodeName, Peer>,
    rival: Option<Rival>,
    troubles: Troubles,
    membership: Membership,
    /// What this node says of itself.
    table: Table,
    claims: Claims,
    phase: Phase,
    leaving: Option<Leaving>,
    round: u64,
    next_round: Instant,
    /// When the last rounds started.
    rounds: VecDeque<(u64, Instant)>,
    /// Rounds that ran on time since the last word from anybody.
    unheard: u32,
    /// Until when this node may act.
    deadline: Option<Instant>,
    /// The lease that holds until then, if this node owns something.
    lease: Option<LeaseId>,
    next_lease: LeaseId,
    /// When the set of living members, or what they may own, last changed.
    members_since: Instant,
    /// Whether this node needs a deadline because it is to claim or deal something, and when it last asked for that.
    needs_time: bool,
    time_asked: Instant,
    next_stream: u64,
    /// With which of many members the next heartbeat begins.
    digest_at: usize,
    dirty: bool,
    renewed: bool,
    ownership: Arc<Ownership>,
    outputs: VecDeque<Output>,
    events: VecDeque<Event>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Owns nothing until it has heard the current terms.
    Listening {
        since: Instant,
        /// The first round after that: what answers it was said afterwards.
        round: u64,
    },
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaving {
    until: Instant,
    left: bool,
}

/// How many starts of rounds are remembered: answers to older ones renew nothing.
const ROUNDS: usize = 64;

/// After a connection that was refused or failed, the next is tried no sooner.
const STREAM_REST: Duration = Duration::from_secs(1);

impl Machine {
    /// A machine that starts to listen at `now`. The others reach it at `address`. `seed` is 256 random bits, never
    /// used before: half of them name this run of the process.
    ///
    /// # Errors
    /// [`BuildError::NodeName`] and [`BuildError::Timing`].
    pub fn new(
        config: &Config,
        address: SocketAddr,
        seed: [u8; 32],
        now: Instant,
    ) -> Result<Self, BuildError> {
        config.validate()?;
        let (boot, _) = seed.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        let boot = Boot(u128::from_be_bytes(*boot));
        let mut rng = ChaCha8Rng::from_seed(seed);
        let id = Id { node: config.node.clone(), address, boot, epoch: 0 };
        let membership = Membership::new(id, &config.timing, ChaCha8Rng::from_seed(rng.random()));
        let mut table = Table::default();
        table.set_meta(Meta::default());
        let seeds = config.seeds.iter().filter_map(|seed| match seed {
            Seed::Address(address) => Some(*address),
            // The driver resolves it.
            Seed::Name { .. } => None,
        });
        let mut machine = Self {
            me: config.node.clone(),
            boot,
            address,
            seeds: BTreeMap::new(),
            called: Instant::ZERO,
            timing: config.timing,
            sealer: Sealer::new(&config.keys),
            sequence: 0,
            now,
            peers: BTreeMap::new(),
            rival: None,
            troubles: Troubles::default(),
            membership,
            table,
            claims: Claims::default(),
            phase: Phase::Listening { since: now, round: 1 },
            leaving: None,
            round: 0,
            next_round: now,
            rounds: VecDeque::with_capacity(ROUNDS),
            unheard: 0,
            deadline: None,
            lease: None,
            next_lease: LeaseId::FIRST,
            members_since: now,
            needs_time: false,
            time_asked: Instant::ZERO,
            next_stream: 0,
            // Not all begin with the same one: what one leaves out, another one tells.
            digest_at: rng.random::<u16>().into(),
            rng,
            dirty: true,
            renewed: false,
            ownership: Arc::default(),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        };
        machine.set_seeds(seeds);
        Ok(machine)
    }

    /// Takes `input` in, at `now`.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.advance(now);
        match input {
            Input::Datagram { from, bytes } => self.handle_datagram(from, bytes),
            Input::Stream { stream, event } => self.handle_stream(stream, event),
            Input::Candidacy(mine) => {
                self.counters.oversized_roles += self.claims.set_candidacy(&mine, &mut self.table);
                self.dirty = true;
            }
            Input::Hardware(hardware) => {
                self.table.set_hardware(hardware);
                self.dirty = true;
            }
            Input::Keys(keys) => self.sealer = Sealer::new(&keys),
            Input::Seeds(seeds) => self.set_seeds(seeds.iter().copied()),
            Input::Unresolved { seed, why } => self.troubles.unresolved(self.now, seed, why),
            Input::Leave => {
                if self.leaving.is_none() {
                    self.leaving = Some(Leaving { until: self.now + self.leave_bound(), left: false });
                    self.dirty = true;
                }
            }
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        let dead = |peer: &Peer| peer.alive && peer.dies_at(&self.timing) <= self.now;
        let dead: Vec<_> =
            self.peers.iter().filter(|(_, peer)| dead(peer)).map(|(name, _)| name.clone()).collect();
        for name in dead {
            self.bury(&name, Cause::Silence);
        }
        let refused = |peer: &Peer| peer.refused_at().is_some_and(|at| at <= self.now);
        let refused: Vec<_> =
            self.peers.iter().filter(|(_, peer)| refused(peer)).map(|(name, _)| name.clone()).collect();
        for name in refused {
            self.bury(&name, Cause::Refused);
        }
        if self.now >= self.next_round {
            self.run_round();
        } else if self.peers.values().any(|peer| peer.asks_at().is_some_and(|at| at <= self.now)) {
            self.tend_streams();
        }
        if self.membership.next_timeout().is_some_and(|at| at <= self.now) {
            let mut words = Vec::new();
            self.membership.handle_timeout(self.now, &mut words);
            self.spread_words(words);
        }
        if self.claims.wake <= self.now || self.leaving.is_some() {
            self.dirty = true;
        }
    }

    /// The next change to pass on. Drain it before [`poll_output`](Self::poll_output).
    pub fn poll_event(&mut self) -> Option<Event> {
        while self.dirty {
            self.dirty = false;
            self.evaluate();
        }
        if let Some(conditions) = self.troubles.poll(self.now) {
            self.events.push_back(Event::Conditions(conditions));
        }
        if std::mem::take(&mut self.renewed) {
            self.events.push_back(Event::Renewals(self.renewals()));
        }
        self.events.pop_front()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    pub fn poll_timeout(&self) -> Instant {
        let living = self.peers.values().filter(|peer| peer.alive);
        let deaths = living.map(|peer| peer.dies_at(&self.timing)).min();
        let held = self.deadline.filter(|_| self.lease.is_some());
        let leaving = self.leaving.filter(|leaving| !leaving.left).map(|leaving| leaving.until);
        let asks = self.peers.values().filter_map(Peer::asks_at).min();
        [deaths, held, leaving, asks, self.membership.next_timeout()]
            .into_iter()
            .flatten()
            .fold(self.next_round.min(self.claims.wake), Instant::min)
    }

    /// How long after [`Input::Leave`], at most, [`Event::Left`] comes.
    pub fn leave_bound(&self) -> Duration {
        self.timing.takeover().max(Duration::from_millis(500))
    }

    /// What was received and sent.
    pub fn counters(&self) -> Counters {
        Counters { membership_errors: self.membership.errors, ..self.counters }
    }

    /// Whether a member is there whose address this is.
    pub fn has_met(&self, address: SocketAddr) -> bool {
        self.peers.values().any(|peer| peer.session.is_some() && peer.address == Some(address))
    }

    /// Who owns what, as last passed on.
    pub fn ownership(&self) -> &Arc<Ownership> {
        &self.ownership
    }

    /// Until when the leases of this node hold.
    pub fn renewals(&self) -> Renewals {
        Renewals(self.lease.zip(self.deadline).into_iter().collect())
    }

    /// Time passes; what it takes away goes first.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let stood_still = self.now > self.next_round + self.timing.interval;
        if self.deadline.is_some_and(|deadline| deadline <= self.now) {
            self.deadline = None;
            // Who owns nothing and has listened all the time knows the terms.
            if self.lease.is_some() || stood_still {
                self.lose_lease();
            }
        }
        if stood_still {
            // This process stood still, and heard nobody because it did not listen.
            for peer in self.peers.values_mut().filter(|peer| peer.alive) {
                peer.grace = self.now;
                if let Stream::Refused { at, .. } = &mut peer.stream {
                    *at = self.now + self.timing.last_word();
                }
            }
            self.unheard = 0;
        }
    }

    /// From here on this node must learn anew who owns what.
    fn lose_lease(&mut self) {
        if self.lease.take().is_some() {
            self.counters.leases_lost += 1;
            self.events.push_back(Event::Notice(Notice::LeaseLost));
            self.renewed = true;
        }
        self.claims.lose_all(&mut self.table);
        self.phase = Phase::Listening { since: self.now, round: self.round + 1 };
        self.next_round = self.next_round.min(self.now);
        self.dirty = true;
    }

    fn renew(&mut self, until: Instant) {
        if until <= self.now || self.deadline.is_some_and(|deadline| until <= deadline) {
            return;
        }
        // Whoever waited for a deadline to claim under may do so now.
        self.dirty |= !self.has_time();
        self.deadline = Some(until);
        self.renewed |= self.lease.is_some();
    }

    /// A member is there (again).
    fn revive(&mut self, name: &NodeName) {
        let Some(peer) = self.peers.get_mut(name) else { return };
        peer.alive = true;
        peer.since = self.now;
        peer.sent = peer.acked;
        peer.told = 0;
        peer.hurry = self.timing.missed;
        self.members_since = self.now;
        self.events.push_back(Event::Notice(Notice::Up(name.clone())));
        self.dirty = true;
    }

    /// A member is dead.
    fn bury(&mut self, name: &NodeName, cause: Cause) {
        let Some(peer) = self.peers.get_mut(name) else { return };
        if !peer.alive {
            return;
        }
        peer.alive = false;
        peer.since = self.now;
        peer.behind_since = None;
        peer.doubted = None;
        let boot = peer.boot;
        let stream = std::mem::take(&mut peer.stream);
        if cause != Cause::Silence {
            peer.gone = boot;
            peer.session = None;
        }
        if let Stream::Open { id } | Stream::Connecting { id } | Stream::Asking { id, .. } = stream {
            self.outputs.push_back(Output::Disconnect { stream: id });
        }
        self.members_since = self.now;
        self.events.push_back(Event::Notice(Notice::Down(name.clone(), cause)));
        self.dirty = true;
        if cause != Cause::Silence
            && let Some(boot) = boot
        {
            let mut words = Vec::new();
            self.membership.died(self.now, name, boot, &mut words);
            self.spread_words(words);
        }
    }

    /// Does what the membership protocol asks for.
    fn spread_words(&mut self, words: Vec<Word>) {
        for word in words {
            match word {
                Word::Up(id) if id.node != self.me => {
                    let peer = self.peers.entry(id.node.clone()).or_default();
                    if peer.address.is_none() {
                        let address = on_link_of(self.address, id.address);
                        peer.address = Some(address);
                        peer.since = self.now;
                        self.greet(address, &id.node);
                    }
                }
                Word::Up(_) => {}
                Word::Send(id, data) => {
                    let session = self.peers.get(&id.node).is_some_and(|peer| peer.session.is_some());
                    if session {
                        self.send(&id.node, Message::Membership(data));
                    }
                }
            }
        }
    }

    /// Sends what changed in our state to those that do not have it.
    fn publish(&mut self) {
        let version = self.table.version();
        let behind: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.alive && peer.session.is_some() && peer.told < version)
            .map(|(name, peer)| (name.clone(), peer.sent))
            .collect();
        for (name, sent) in behind {
            self.send_state(&name, sent);
            if self.leaving.is_some() {
                self.send_heartbeat(&name, true);
            }
        }
    }

    fn send_state(&mut self, to: &NodeName, have: u64) {
        let room = Entries::room(&self.me, &self.me);
        let parts = self.table.since(&self.me, self.boot, have, room);
        if let Some(peer) = self.peers.get_mut(to) {
            peer.told = self.table.version();
            peer.sent = parts.last().map_or(have, |part| part.to);
        }
        for part in parts {
            self.send(to, Message::Entries(part));
        }
    }

    fn send(&mut self, to: &NodeName, message: Message) {
        let Some(session) = self.peers.get(to).and_then(|peer| peer.session.as_ref()) else { return };
        let (address, token) = (session.address, session.shown);
        self.send_to(address, token, message);
    }

    fn send_to(&mut self, to: SocketAddr, token: u64, message: Message) {
        let mut payload = Vec::with_capacity(256);
        Packet::new(self.me.clone(), token, message).emit(&mut payload);
        self.sequence += 1;
        if let Some(bytes) = self.sealer.seal(self.boot, self.sequence, &payload) {
            self.counters.sent += 1;
            self.counters.sent_bytes += bytes.len() as u64;
            self.outputs.push_back(Output::Datagram { to, bytes });
        }
    }
}

/// An address as it is reached from here: a link-local one has another scope on each host, which nobody is told.
fn on_link_of(ours: SocketAddr, mut address: SocketAddr) -> SocketAddr {
    if let (SocketAddr::V6(ours), SocketAddr::V6(theirs)) = (ours, &mut address)
        && theirs.ip().is_unicast_link_local()
        && theirs.scope_id() == 0
    {
        theirs.set_scope_id(ours.scope_id());
    }
    address
}
