//! The responder: a machine that answers for addresses and tells the segment about them, without I/O and without a
//! clock.
//!
//! # How to drive it
//! [`Responder`] has five verbs. Hand it whatever happens with [`handle`](Responder::handle); call
//! [`handle_timeout`](Responder::handle_timeout) when [`poll_timeout`](Responder::poll_timeout) says; after either,
//! send what [`poll_output`](Responder::poll_output) gives and join what [`poll_join`](Responder::poll_join) gives until
//! they give nothing, then take the events of [`poll_event`](Responder::poll_event). `now` never goes back.
//!
//! # What it promises
//! - It answers only for addresses of the desired set, on the interfaces that are chosen for them, while their lease
//!   holds. The lease is looked up for each frame; no timer has to fire for silence.
//! - A frame that waited longer than [`Config::max_age`] is not answered: after a pause, a queue full of old
//!   questions is not answered in the name of an owner that may have been replaced.
//! - An address that nobody of the cluster owned before ([`Term::FIRST`]) is probed for first (RFC 5227 §2.1, RFC 4862
//!   §5.4), and left alone if a stranger has it. A takeover never waits for that.
//! - An address whose owner has a newer term than ours ([`AnnounceSet::owners`]) is not spoken for.
//! - When a member appears ([`AnnounceSet::members`]), what is spoken for is announced again: it may come from a part of
//!   the network that was cut off, and whose hosts heard nothing of us.
//! - A frame that was made and not sent by its [`Transmit::deadline`] must not be sent. That is the driver's part.
//!
//! What remains is a process that stops after the driver's last look at the clock and before its `sendmmsg`: at most
//! that one batch escapes when it resumes.

mod askers;
mod counters;
mod detect;
mod interface;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod laws;
mod leases;
mod pace;
mod receive;
mod schedule;
mod status;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use lbcore::announce::{AnnounceSet, Announcement, Interfaces};
use lbcore::elect::{LeaseId, Owner, Term};
use lbcore::id::{InterfaceName, NodeName};
use lbcore::time::{Duration, Instant};

pub use counters::Counters;
pub use detect::Probing;
pub use interface::{IfIndex, Interface};
pub use pace::Pace;

use crate::wire::arp::Arp;
use crate::wire::ndp::{Advertisement, Message, Solicitation};
use crate::wire::{FrameBuf, MacAddr, ipv6};
use detect::{Check, Checks};
use interface::Port;
use leases::Leases;
use schedule::{Job, Tag};

/// Frames that may wait to be sent. What comes beyond is dropped and counted: a sender that cannot send for long
/// must not answer stale questions later.
const MAX_BACKLOG: usize = 1024;
/// Events that may wait to be polled.
const MAX_EVENTS: usize = 1 << 16;
/// How many of the hosts that asked for an address are told directly when it is gained.
const MAX_ASKERS: usize = 8;

/// How a [`Responder`] behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The limit on what is sent unasked, for each interface.
    pub pace: Pace,
    /// How to look for another host that has an address which this cluster takes for the first time; `None` takes it
    /// at once.
    pub probing: Option<Probing>,
    /// A received frame older than this is not answered.
    pub max_age: Duration,
    /// How often each interface shows the switches our hardware address, so that they do not forget the port (they do
    /// after 300 s by default) while gateways still remember the address. One frame an interface, not an address.
    pub refresh: Duration,
    /// How often a claim of an address of ours by a stranger is answered with an announcement (RFC 5227 §2.4 c:
    /// DEFEND_INTERVAL).
    pub defend_interval: Duration,
    /// The same for a claim by a member of the cluster, which is a late frame of a former owner: corrected soon.
    pub correct_interval: Duration,
    /// How long a claim stays in the status after it was last heard, and after how long an address that a stranger
    /// had when it was to be taken is tried again.
    pub conflict_memory: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pace: Pace::NORMAL,
            probing: Some(Probing::default()),
            max_age: Duration::from_millis(100),
            refresh: Duration::from_secs(100),
            defend_interval: Duration::from_secs(10),
            correct_interval: Duration::from_secs(1),
            conflict_memory: Duration::from_secs(60),
        }
    }
}

/// A received frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Where it came in.
    pub interface: IfIndex,
    /// When the kernel received it; [`Instant::ZERO`] if that is not known, which counts as too old.
    pub received: Instant,
    /// Its bytes, from the Ethernet header on.
    pub bytes: &'a [u8],
}

/// What happens to a [`Responder`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A frame was received.
    Frame(Frame<'a>),
    /// Another set is desired. One of a lower generation than the last is ignored.
    Desired(Arc<AnnounceSet>),
    /// A lease holds until then. An earlier deadline than the one known is ignored.
    Renewed {
        /// The lease.
        lease: LeaseId,
        /// Its deadline.
        until: Instant,
    },
    /// These are the interfaces now, all of them.
    Interfaces(&'a [Interface]),
    /// The segment may have forgotten us: a bond switched over, the kernel was asked to notify peers.
    Reannounce(IfIndex),
    /// Say nothing more, for any address.
    Withdraw,
}

/// A frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where.
    pub interface: IfIndex,
    /// The address that it speaks for.
    pub address: IpAddr,
    /// At and after this time it must not be sent. Nor must it once [`Responder::may_send`] says so.
    pub deadline: Instant,
    /// The frame.
    pub frame: FrameBuf,
    /// Of which gain of the address it tells.
    gain: u64,
}

/// Something that a person or a log may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// This node speaks for the address from now on, wherever an interface is up.
    Gained {
        /// The address.
        address: IpAddr,
        /// The term of the ownership.
        term: Term,
    },
    /// This node is silent about the address from now on.
    Lost {
        /// The address.
        address: IpAddr,
        /// Why.
        why: Loss,
    },
    /// Another claims an address of ours, or has one that was to be taken. Not told more often than it is answered.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The interface on which the claim was heard.
        interface: InterfaceName,
        /// Who claims it.
        claimant: Claimant,
    },
}

/// Why an address was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It left the desired set, or now names a lease that does not hold.
    Withdrawn,
    /// The deadline of its lease passed.
    Expired,
    /// Another node owns it by a newer term.
    Outranked,
}

/// Who claims an address of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    /// The hardware address.
    pub mac: MacAddr,
    /// The member of the cluster that has it; `None` is a stranger.
    pub member: Option<NodeName>,
}

/// The interfaces of an address, resolved to numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Chosen {
    All,
    Only(Vec<IfIndex>),
}

impl Chosen {
    fn resolve(wanted: &Interfaces, ports: &BTreeMap<IfIndex, Port>) -> Self {
        match wanted {
            Interfaces::All => Self::All,
            Interfaces::Only(names) => Self::Only(
                ports
                    .values()
                    .filter(|port| names.contains(&port.interface.name))
                    .map(|port| port.interface.index)
                    .collect(),
            ),
        }
    }

    fn contains(&self, interface: IfIndex) -> bool {
        match self {
            Self::All => true,
            Self::Only(indexes) => indexes.contains(&interface),
        }
    }
}

/// A desired address.
#[derive(Clone, Debug)]
struct Entry {
    chosen: Chosen,
    lease: Option<LeaseId>,
    term: Term,
    /// The owner by a newer term.
    outranked: Option<Owner>,
    voice: Voice,
    /// Nobody of the cluster owned it before: where a stranger may have it, it is asked for first.
    unproven: bool,
    /// Where that was done, and what came of it.
    checks: BTreeMap<IfIndex, Check>,
    /// When the check goes on.
    check_at: Instant,
    /// Which gain of an address this is, counted over all addresses.
    gain: u64,
    defended: Option<Instant>,
}

impl Entry {
    fn speaks_on(&self, index: IfIndex) -> bool {
        self.voice == Voice::Speaking && self.chosen.contains(index) && self.is_clear_on(index)
    }

    /// Whether no stranger was found to have it there, or none needs to be looked for.
    fn is_clear_on(&self, index: IfIndex) -> bool {
        !self.unproven || self.checks.get(&index) == Some(&Check::Clear)
    }
}

/// What this node does about an address, as of the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    /// Nothing: its lease does not hold, or a newer term does.
    Silent,
    /// Asks whether a stranger has it.
    Checking,
    /// Leaves it to the stranger who has it.
    Taken,
    /// Speaks for it, wherever it was not found that a stranger has it.
    Speaking,
}

/// A claim of an address of ours.
#[derive(Clone, Debug)]
struct Conflict {
    interface: InterfaceName,
    claimant: Claimant,
    heard: Instant,
}

/// Answers ARP requests and neighbor solicitations for the addresses of an [`AnnounceSet`], and announces them.
///
/// See the [module](self) on how to drive it.
#[derive(Clone, Debug, Default)]
pub struct Responder {
    config: Config,
    ports: BTreeMap<IfIndex, Port>,
    /// The hardware addresses of our interfaces: what comes from them is an echo.
    own: BTreeSet<MacAddr>,
    desired: Arc<AnnounceSet>,
    entries: BTreeMap<IpAddr, Entry>,
    standby: BTreeMap<IpAddr, Chosen>,
    /// By hardware address, the member that has it, and on which of its interfaces.
    peers: BTreeMap<MacAddr, (NodeName, BTreeSet<InterfaceName>)>,
    leases: Leases,
    checks: Checks,
    conflicts: BTreeMap<IpAddr, Conflict>,
    sweep_at: Option<Instant>,
    gains: u64,
    groups: BTreeSet<(IfIndex, Ipv6Addr)>,
    outputs: VecDeque<Transmit>,
    joins: VecDeque<(IfIndex, Ipv6Addr)>,
    events: VecDeque<Event>,
    counters: Counters,
    status_version: u64,
    watch_version: u64,
}

impl Responder {
    /// A machine that knows no interface and desires nothing.
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        if let Input::Frame(frame) = input {
            self.receive(now, frame);
            return;
        }
        self.expire(now);
        let watched = self.watch_version;
        match input {
            Input::Frame(_) => {}
            Input::Desired(desired) => self.set_desired(now, desired),
            Input::Renewed { lease, until } => {
                if self.leases.renew(now, lease, until) {
                    let addresses: Vec<IpAddr> = self.leases.addresses(lease).collect();
                    for address in addresses {
                        self.settle(now, address, Loss::Withdrawn);
                    }
                }
            }
            Input::Interfaces(table) => self.set_interfaces(now, table),
            Input::Reannounce(index) => self.announce_all_on(now, index),
            Input::Withdraw => {
                self.set_desired(now, Arc::new(AnnounceSet::new(self.desired.generation, [])));
                self.outputs.clear();
            }
        }
        if watched != self.watch_version {
            self.follow_groups(now);
        }
        self.run_checks(now);
        self.run_schedules(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        self.sweep_conflicts(now);
        self.run_checks(now);
        for port in self.ports.values_mut().filter(|port| port.interface.up) {
            if port.refresh_at.is_some_and(|at| at <= now) {
                port.refresh_at = Some(now + self.config.refresh);
                let index = port.interface.index;
                let found = self.entries.iter().find(|(_, entry)| entry.speaks_on(index));
                if let Some((address, entry)) = found {
                    port.schedule.add(Job::Refresh(*address), Tag { gain: entry.gain, since: now });
                }
            }
        }
        self.run_schedules(now);
    }

    /// The next frame to send.
    pub fn poll_output(&mut self) -> Option<Transmit> {
        self.outputs.pop_front()
    }

    /// Whether a frame that was polled may still be sent: its address is spoken for as it was, on an interface that is
    /// as it was. To be asked again, of what is not sent yet, after each call but one with a frame. (The deadline is the
    /// sender's to look at.)
    pub fn may_send(&self, transmit: &Transmit) -> bool {
        let Some(entry) = self.entries.get(&transmit.address) else { return false };
        let port = self.ports.get(&transmit.interface).filter(|port| port.interface.up);
        let from = transmit.frame.as_bytes().get(6..12);
        entry.gain == transmit.gain
            && matches!(entry.voice, Voice::Speaking | Voice::Checking)
            && entry.chosen.contains(transmit.interface)
            && port.is_some_and(|port| from == Some(&port.interface.mac.0[..]))
    }

    /// The next group to join: one of [`groups`](Self::groups) at its turn, by the pace of its interface. It is asked for
    /// once; who cannot join it tries again.
    pub fn poll_join(&mut self) -> Option<(IfIndex, Ipv6Addr)> {
        self.joins.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), at the latest. Ask again after each other call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ports = self.ports.values().filter(|port| port.interface.up);
        // With a full queue nothing more can be said; when it has been polled, this is asked again.
        let room = self.outputs.len() < MAX_BACKLOG;
        let ports = ports.flat_map(|port| {
            let schedule = if room { port.schedule.due() } else { None };
            schedule.into_iter().chain(port.refresh_at)
        });
        ports.chain(self.leases.next_deadline()).chain(self.checks.next()).chain(self.sweep_at).min()
    }

    /// What happened so far, by reason.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The sending side tells that it threw away a frame whose [`deadline`](Transmit::deadline) had passed, or that it
    /// [may](Self::may_send) not send any more.
    pub fn note_expired(&mut self) {
        self.counters.expired += 1;
    }

    /// Changes whenever [`status`](Self::status) would.
    pub fn status_version(&self) -> u64 {
        self.status_version
    }

    /// Changes whenever [`watched`](Self::watched) or [`groups`](Self::groups) may.
    pub fn watch_version(&self) -> u64 {
        self.watch_version
    }

    /// The addresses of which frames are wanted: those desired and those of which this node is a candidate.
    pub fn watched(&self) -> impl Iterator<Item = IpAddr> {
        self.entries.keys().chain(self.standby.keys()).copied()
    }

    /// The solicited-node groups to be a member of, once [`poll_join`](Self::poll_join) gave them: without that, a switch
    /// that snoops on MLD does not deliver the solicitations. Those of candidates are among them, so that a takeover needs
    /// no round of MLD.
    pub fn groups(&self) -> &BTreeSet<(IfIndex, Ipv6Addr)> {
        &self.groups
    }

    /// Plans to join the groups that are new.
    fn follow_groups(&mut self, now: Instant) {
        let entries = self.entries.iter().map(|(address, entry)| (address, &entry.chosen));
        let mut groups = BTreeSet::new();
        for (address, chosen) in entries.chain(&self.standby) {
            if let IpAddr::V6(address) = address {
                let ports = self.ports.keys().filter(|index| chosen.contains(**index));
                groups.extend(ports.map(|index| (*index, ipv6::solicited_node(*address))));
            }
        }
        let tag = Tag { gain: 0, since: now };
        for (index, group) in groups.difference(&self.groups) {
            if let Some(port) = self.ports.get_mut(index) {
                port.schedule.add(Job::Join(*group), tag);
            }
        }
        self.joins.retain(|group| groups.contains(group));
        self.groups = groups;
    }

    fn set_desired(&mut self, now: Instant, desired: Arc<AnnounceSet>) {
        if desired.generation < self.desired.generation {
            return;
        }
        let old = std::mem::replace(&mut self.desired, desired);
        let new = self.desired.clone();
        if old.generation != new.generation {
            self.status_version += 1;
        }
        if new.members != old.members {
            let known = std::mem::take(&mut self.peers);
            for (node, member) in &new.members {
                for (interface, mac) in &member.hardware {
                    let peer = self.peers.entry(MacAddr(*mac));
                    peer.or_insert_with(|| (node.clone(), BTreeSet::new())).1.insert(interface.clone());
                }
            }
            self.judge_conflicts();
            if self.peers.keys().any(|mac| !known.contains_key(mac)) {
                self.announce_again(now);
            }
        }
        if new.standby != old.standby {
            self.watch_version += 1;
            let resolve =
                |(address, wanted): (&IpAddr, &Interfaces)| (*address, Chosen::resolve(wanted, &self.ports));
            self.standby = new.standby.iter().map(resolve).collect();
        }
        if (&new.entries, &new.owners) == (&old.entries, &old.owners) {
            return;
        }
        self.status_version += 1;
        self.watch_version += u64::from(new.entries != old.entries);
        for address in old.entries.keys().filter(|address| !new.entries.contains_key(address)) {
            self.remove(*address);
        }
        for (address, wanted) in &new.entries {
            let outranked = outranking(&new, *address, wanted);
            let known = old.entries.get(address).map(|known| (known, outranking(&old, *address, known)));
            if known != Some((wanted, outranked)) {
                self.upsert(now, *address, wanted, outranked.cloned());
            }
        }
    }

    fn remove(&mut self, address: IpAddr) {
        let Some(entry) = self.entries.remove(&address) else { return };
        if let Some(lease) = entry.lease {
            self.leases.unbind(lease, address);
        }
        self.fall_silent(address, entry.voice, Loss::Withdrawn);
    }

    fn upsert(&mut self, now: Instant, address: IpAddr, wanted: &Announcement, outranked: Option<Owner>) {
        let chosen = Chosen::resolve(&wanted.interfaces, &self.ports);
        let usable = is_usable(address);
        let lease = wanted.lease.filter(|_| usable);
        let mut entry = self.entries.remove(&address).unwrap_or(Entry {
            chosen: Chosen::Only(Vec::new()),
            lease: None,
            term: wanted.term,
            outranked: None,
            voice: Voice::Silent,
            unproven: false,
            checks: BTreeMap::new(),
            check_at: Instant::ZERO,
            gain: 0,
            defended: None,
        });
        if entry.lease != lease {
            if let Some(old) = entry.lease {
                self.leases.unbind(old, address);
            }
            if let Some(new) = lease {
                self.leases.bind(new, address);
            }
        }
        let added: Vec<IfIndex> = self
            .ports
            .keys()
            .filter(|i| chosen.contains(**i) && !entry.chosen.contains(**i))
            .copied()
            .collect();
        // A new term means that the address may have been another's in between.
        let renewed = entry.term != wanted.term;
        let speaking = entry.voice == Voice::Speaking;
        let regained = renewed && speaking;
        if renewed && !speaking {
            entry.voice = Voice::Silent;
        }
        if regained {
            self.gains += 1;
            entry.gain = self.gains;
        }
        let tag = Tag { gain: entry.gain, since: now };
        let why = if outranked.is_some() { Loss::Outranked } else { Loss::Withdrawn };
        entry.chosen = chosen;
        entry.lease = lease;
        entry.term = wanted.term;
        let unproven = self.config.probing.is_some() && wanted.term <= Term::FIRST;
        let was_unproven = std::mem::replace(&mut entry.unproven, unproven);
        if unproven && speaking && !was_unproven {
            // What is spoken for is known to be nobody else's.
            let ports = self.ports.iter().filter(|(index, port)| {
                port.interface.up && entry.chosen.contains(**index) && !added.contains(index)
            });
            entry.checks = ports.map(|(index, _)| (*index, Check::Clear)).collect();
        }
        entry.outranked = outranked;
        self.entries.insert(address, entry);
        self.settle(now, address, why);
        self.check_anew(now, address);
        if regained {
            self.announce(address, tag);
        } else if speaking {
            for index in added {
                if let Some(port) = self.ports.get_mut(&index) {
                    port.schedule.add(Job::First(address), tag);
                }
            }
        }
    }

    /// Takes note of whether `address` may be spoken for.
    fn settle(&mut self, now: Instant, address: IpAddr, why: Loss) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        let holds = entry.lease.is_some_and(|lease| now < self.leases.until(lease));
        let may = holds && entry.outranked.is_none();
        if may == (entry.voice != Voice::Silent) {
            return;
        }
        if may {
            self.take(now, address);
        } else {
            let voice = std::mem::replace(&mut entry.voice, Voice::Silent);
            self.fall_silent(address, voice, why);
        }
    }

    /// Speaks for `address` from now on.
    fn speak(&mut self, now: Instant, address: IpAddr) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        self.gains += 1;
        entry.gain = self.gains;
        entry.voice = Voice::Speaking;
        let (tag, term) = (Tag { gain: entry.gain, since: now }, entry.term);
        self.status_version += 1;
        self.event(Event::Gained { address, term });
        self.announce(address, tag);
        // Where it was not asked for yet.
        self.check_anew(now, address);
    }

    /// Says no more of `address`, for which it had `voice`.
    fn fall_silent(&mut self, address: IpAddr, voice: Voice, why: Loss) {
        if voice == Voice::Silent {
            return;
        }
        self.status_version += 1;
        self.conflicts.remove(&address);
        self.outputs.retain(|transmit| transmit.address != address);
        if voice == Voice::Speaking {
            self.event(Event::Lost { address, why });
        }
    }

    fn event(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
            self.counters.events_lost += 1;
        }
        self.events.push_back(event);
    }

    /// Plans the first announcement of `address` wherever it is chosen.
    fn announce(&mut self, address: IpAddr, tag: Tag) {
        let Some(entry) = self.entries.get(&address) else { return };
        for port in self.ports.values_mut().filter(|port| entry.speaks_on(port.interface.index)) {
            port.schedule.add(Job::First(address), tag);
        }
    }

    fn announce_all_on(&mut self, now: Instant, index: IfIndex) {
        let Some(port) = self.ports.get_mut(&index) else { return };
        port.schedule.clear();
        for (address, entry) in &self.entries {
            if entry.speaks_on(index) {
                port.schedule.add(Job::First(*address), Tag { gain: entry.gain, since: now });
            }
        }
    }

    /// Plans an announcement of all that is spoken for, after what is more urgent.
    fn announce_again(&mut self, now: Instant) {
        for port in self.ports.values_mut() {
            let index = port.interface.index;
            for (address, entry) in self.entries.iter().filter(|(_, entry)| entry.speaks_on(index)) {
                port.schedule.add(Job::Again(0, *address), Tag { gain: entry.gain, since: now });
            }
        }
    }

    fn set_interfaces(&mut self, now: Instant, table: &[Interface]) {
        let mut old = std::mem::take(&mut self.ports);
        let mut changed = false;
        let mut appeared = Vec::new();
        for interface in table {
            let index = interface.index;
            let known = old.remove(&index);
            let same = known.as_ref().is_some_and(|port| {
                (&port.interface.name, port.interface.mac, port.interface.up)
                    == (&interface.name, interface.mac, interface.up)
            });
            changed |= !same;
            if interface.up && !same {
                appeared.push(index);
            }
            let mut port = known.unwrap_or_else(|| Port::new(interface.clone(), self.config.pace));
            port.refresh_at = port.refresh_at.or(Some(now + self.config.refresh));
            port.interface = interface.clone();
            self.ports.insert(index, port);
        }
        if !changed && old.is_empty() {
            return;
        }
        self.status_version += 1;
        self.watch_version += 1;
        self.own = self.ports.values().map(|port| port.interface.mac).collect();
        for (address, entry) in &mut self.entries {
            if let Some(wanted) = self.desired.entries.get(address) {
                entry.chosen = Chosen::resolve(&wanted.interfaces, &self.ports);
            }
        }
        for (address, chosen) in &mut self.standby {
            if let Some(wanted) = self.desired.standby.get(address) {
                *chosen = Chosen::resolve(wanted, &self.ports);
            }
        }
        for index in appeared {
            self.announce_all_on(now, index);
        }
        let unproven = self.entries.iter().filter(|(_, entry)| entry.unproven);
        let unproven: Vec<IpAddr> = unproven.map(|(address, _)| *address).collect();
        for address in unproven {
            self.check_anew(now, address);
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        outputs.retain(|transmit| self.may_send(transmit));
        self.outputs = outputs;
    }

    /// Who has this hardware address on the segment of `interface`. Interfaces may have other names on other nodes: one that
    /// has none of ours is known by any hardware address.
    fn claimant(&self, interface: IfIndex, mac: MacAddr) -> Claimant {
        let name = self.ports.get(&interface).map(|port| &port.interface.name);
        let member = self.peers.get(&mac).filter(|(node, interfaces)| {
            let hardware = self.desired.members.get(node).map(|member| &member.hardware);
            name.is_none_or(|name| {
                interfaces.contains(name) || hardware.is_none_or(|known| !known.contains_key(name))
            })
        });
        Claimant { mac, member: member.map(|(node, _)| node.clone()) }
    }

    /// The members are others now: who claimed an address may be one, or no more.
    fn judge_conflicts(&mut self) {
        let mut conflicts = std::mem::take(&mut self.conflicts);
        for conflict in conflicts.values_mut() {
            let port = self.ports.values().find(|port| port.interface.name == conflict.interface);
            let Some(index) = port.map(|port| port.interface.index) else { continue };
            let claimant = self.claimant(index, conflict.claimant.mac);
            if claimant != conflict.claimant {
                conflict.claimant = claimant;
                self.status_version += 1;
            }
        }
        self.conflicts = conflicts;
    }

    fn expire(&mut self, now: Instant) {
        while let Some(lease) = self.leases.expire(now) {
            let addresses: Vec<IpAddr> = self.leases.addresses(lease).collect();
            for address in addresses {
                self.settle(now, address, Loss::Expired);
            }
        }
    }

    /// Says what is due, as far as the pace allows.
    fn run_schedules(&mut self, now: Instant) {
        let Self { ports, entries, leases, groups, outputs, joins, counters, checks, config, .. } = self;
        let interval = config.probing.unwrap_or_default().interval;
        for port in ports.values_mut().filter(|port| port.interface.up) {
            let index = port.interface.index;
            while outputs.len() < MAX_BACKLOG {
                let wanted = |job: Job, tag: Tag| {
                    if let Job::Join(group) = job {
                        return groups.contains(&(index, group));
                    }
                    let Some(entry) = entries.get(&job.address()).filter(|entry| entry.gain == tag.gain)
                    else {
                        return false;
                    };
                    let speaks = matches!(entry.voice, Voice::Speaking | Voice::Checking);
                    let calls = match job {
                        Job::Probe(_) => {
                            speaks && matches!(entry.checks.get(&index), Some(Check::Asking { .. }))
                        }
                        _ => entry.speaks_on(index),
                    };
                    let holds = entry.lease.is_some_and(|lease| now < leases.until(lease));
                    calls && entry.chosen.contains(index) && holds
                };
                let Some((job, tag)) = port.schedule.next(now, wanted) else { break };
                if let Job::Join(group) = job {
                    joins.push_back((index, group));
                    continue;
                }
                let address = job.address();
                let Some(entry) = entries.get_mut(&address) else { continue };
                let deadline = entry.lease.map_or(Instant::ZERO, |lease| leases.until(lease));
                let tag = if matches!(job, Job::First(_) | Job::Again(0, _)) {
                    Tag { since: now, ..tag }
                } else {
                    tag
                };
                if let (Job::Probe(_), Some(Check::Asking { sent, last, nonce })) =
                    (job, entry.checks.get_mut(&index))
                {
                    (*sent, *last) = (sent.saturating_add(1), now);
                    *nonce = detect::nonce(now, port.interface.mac, counters.probed);
                    checks.plan(now, now + interval, address, entry);
                }
                let frame = say(port, now, job, tag, counters);
                outputs.push_back(Transmit { interface: index, address, deadline, frame, gain: tag.gain });
            }
        }
    }
}

/// Makes the frame of a job, and plans what follows from it.
fn say(port: &mut Port, now: Instant, job: Job, tag: Tag, counters: &mut Counters) -> FrameBuf {
    let mac = port.interface.mac;
    let probed = counters.probed;
    port.schedule.repeat(job, tag);
    match job {
        Job::Probe(_) => counters.probed += 1,
        Job::Defend(_) => counters.defended += 1,
        Job::Refresh(_) => counters.refreshed += 1,
        Job::Gateway(..) | Job::Routers(_) | Job::Asker(..) => counters.directed += 1,
        Job::First(_) | Job::Again(..) => counters.announced += 1,
        Job::Join(_) => {}
    }
    match (job, job.address()) {
        (Job::Probe(_), IpAddr::V4(address)) => Arp::probe(mac, address).to_frame(MacAddr::BROADCAST),
        (Job::Probe(_), IpAddr::V6(target)) => {
            let group = ipv6::solicited_node(target);
            let probe =
                Solicitation { target, source_mac: None, nonce: Some(detect::nonce(now, mac, probed)) };
            let header = ipv6::Header::nd(Ipv6Addr::UNSPECIFIED, group);
            Message::Solicitation(probe).to_frame(&header, mac, MacAddr::of_ipv6_group(group))
        }
        (Job::Gateway(_, gateway), IpAddr::V4(address)) => {
            Arp::directed(mac, address, gateway).to_frame(MacAddr::BROADCAST)
        }
        (Job::Asker(_, host, host_mac), IpAddr::V4(address)) => {
            Arp::directed(mac, address, host).to_frame(host_mac)
        }
        (_, IpAddr::V4(address)) => {
            // The directed form is for those who ignore gratuitous ARP: gateways, twice in case one is lost, and
            // hosts that asked, with the hardware address that they had.
            if matches!(job, Job::First(_) | Job::Again(2, _)) {
                for gateway in port.interface.gateways.iter().filter(|gateway| **gateway != address) {
                    port.schedule.add(Job::Gateway(address.into(), *gateway), tag);
                }
            }
            if matches!(job, Job::First(_)) {
                for asker in port.askers.of(now, address, MAX_ASKERS) {
                    port.schedule.add(Job::Asker(address.into(), asker.host, asker.mac), tag);
                }
            }
            Arp::announcement(mac, address).to_frame(MacAddr::BROADCAST)
        }
        (_, IpAddr::V6(address)) => {
            // Routers make an entry of what is sent to their own group, where they had none (RFC 9131 §4.2). Hosts that
            // asked need no frame of their own: one to all nodes that overrides is honoured by all that have an entry.
            if matches!(job, Job::First(_) | Job::Again(1, _)) {
                port.schedule.add(Job::Routers(address.into()), tag);
            }
            let group = if matches!(job, Job::Routers(_)) { ipv6::ALL_ROUTERS } else { ipv6::ALL_NODES };
            let header = ipv6::Header::nd(address, group);
            let message = Message::Advertisement(Advertisement::unsolicited(address, mac));
            message.to_frame(&header, mac, MacAddr::of_ipv6_group(group))
        }
    }
}

/// The owner of `address` by a newer term than that of `wanted`.
fn outranking<'s>(set: &'s AnnounceSet, address: IpAddr, wanted: &Announcement) -> Option<&'s Owner> {
    set.owners.get(&address).filter(|owner| owner.term > wanted.term)
}

/// Whether a host can have this address on a segment.
fn is_usable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !broadcast
}
