//! A simulated machine with its process: the elector, the controller and the announcer of one node.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use announce_l2::machine::{self as l2, IfIndex, Interface, Responder, Transmit};
use announce_l2::wire::{FrameBuf, MacAddr};
use elect_gossip::machine as gossip;
use elect_lease::machine as lease;
use lbcore::announce::{AnnounceSet, AnnounceStatus};
use lbcore::elect::{Candidacy, LeaseId, Ownership, Renewals, Term};
use lbcore::id::{NodeName, Role};
use lbcore::plan::{self, Allocations, LocalHealth, World as Documents};
use lbcore::time::Instant;

use super::clock::Skewed;
use crate::node::intent::Intent;

/// The only interface of a node.
pub(crate) const INTERFACE: IfIndex = IfIndex(2);

/// A machine. It is there, or not; a process runs on it, or none.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) mac: MacAddr,
    pub(crate) address: SocketAddr,
    pub(crate) clock: Skewed,
    /// It has power.
    pub(crate) on: bool,
    pub(crate) carrier: bool,
    pub(crate) process: Option<Process>,
    /// Counts its processes, over all nodes.
    pub(crate) life: u64,
    pub(crate) paused: bool,
    /// When it last began to stand still.
    pub(crate) paused_at: Instant,
    /// The pause begins with the next batch of frames, after the last look at the clock.
    pub(crate) pause_within: Option<lbcore::time::Duration>,
    /// The batch within which it began.
    pub(crate) caught: Vec<Transmit>,
    /// What waits in the sockets of a process that stands still.
    pub(crate) datagrams: VecDeque<Arrival>,
    pub(crate) frames: VecDeque<(Instant, FrameBuf)>,
    /// Until then the kernel takes streams for a process that was killed.
    pub(crate) lingers: Instant,
    /// What was asked for from outside, and outlives the process.
    pub(crate) draining: bool,
    pub(crate) ready: bool,
    /// It is stopping, to be started again.
    pub(crate) restarting: bool,
    /// When its state last changed from outside.
    pub(crate) touched: Instant,
}

impl Node {
    /// Whether a process runs on it and is not held up.
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    /// Whether it could own an address, as far as it goes.
    pub(crate) fn could_own(&self) -> bool {
        self.runs() && self.carrier && self.ready && !self.draining && !self.restarting
    }
}

/// What arrives for an elector.
#[derive(Clone, Debug)]
pub(crate) enum Arrival {
    Datagram(SocketAddr, Arc<[u8]>),
    Stream(u64, gossip::StreamEvent),
    Answer(lease::RequestId, lease::Answer),
}

/// One of the electors.
#[derive(Debug)]
pub(crate) enum Brain {
    Gossip(Box<gossip::Machine>),
    Lease(Box<lease::Machine>),
}

/// What an elector wants done.
#[derive(Debug)]
pub(crate) enum Deed {
    Gossip(gossip::Output),
    Lease(lease::Request),
}

impl Brain {
    pub(crate) fn handle(&mut self, now: Instant, arrival: Arrival) {
        match (self, arrival) {
            (Self::Gossip(machine), Arrival::Datagram(from, bytes)) => {
                machine.handle(now, gossip::Input::Datagram { from, bytes: &bytes });
            }
            (Self::Gossip(machine), Arrival::Stream(stream, event)) => {
                machine.handle(now, gossip::Input::Stream { stream, event });
            }
            (Self::Lease(machine), Arrival::Answer(id, answer)) => {
                machine.handle(now, lease::Input::Answer { id, answer });
            }
            _ => {}
        }
    }

    fn bid(&mut self, now: Instant, candidacy: Arc<Candidacy>) {
        match self {
            Self::Gossip(machine) => machine.handle(now, gossip::Input::Candidacy(candidacy)),
            Self::Lease(machine) => machine.handle(now, lease::Input::Candidacy(candidacy)),
        }
    }

    pub(crate) fn leave(&mut self, now: Instant) {
        match self {
            Self::Gossip(machine) => machine.handle(now, gossip::Input::Leave),
            Self::Lease(machine) => machine.handle(now, lease::Input::Leave),
        }
    }

    pub(crate) fn timeout(&mut self, now: Instant) {
        match self {
            Self::Gossip(machine) => machine.handle_timeout(now),
            Self::Lease(machine) => machine.handle_timeout(now),
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        match self {
            Self::Gossip(machine) => Some(machine.poll_timeout()),
            Self::Lease(machine) => machine.poll_timeout(),
        }
    }

    /// The next thing to do. To be asked once the events are drained.
    pub(crate) fn deed(&mut self) -> Option<Deed> {
        match self {
            Self::Gossip(machine) => machine.poll_output().map(Deed::Gossip),
            Self::Lease(machine) => machine.poll_output().map(Deed::Lease),
        }
    }
}

/// What the elector said since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) ownership: bool,
    pub(crate) renewals: bool,
    pub(crate) left: bool,
    pub(crate) notices: Vec<String>,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) started: Instant,
    pub(crate) brain: Brain,
    pub(crate) responder: Responder,
    pub(crate) ownership: Arc<Ownership>,
    pub(crate) renewals: Renewals,
    intent: Intent,
    health: LocalHealth,
    /// The last set that the controller made, for as long as the announcer has not taken it.
    mailbox: Option<Arc<AnnounceSet>>,
    /// The set that the announcer has taken last.
    pub(crate) set: Arc<AnnounceSet>,
    pub(crate) status: AnnounceStatus,
    status_version: Option<u64>,
    watch_version: Option<u64>,
    /// The groups that it has joined.
    pub(crate) groups: Vec<Ipv6Addr>,
    pub(crate) leaving: bool,
    /// Turns of its tasks that have been asked for.
    pub(crate) turns: [bool; 3],
    /// When the timers of the elector and of the announcer are set to.
    pub(crate) timers: [Option<Instant>; 2],
    /// A broken announcer holds leases for so much longer.
    pub(crate) overstay: lbcore::time::Duration,
    /// A broken announcer holds every term for the first one.
    pub(crate) forgets_terms: bool,
}

impl Process {
    pub(crate) fn new(started: Instant, brain: Brain, config: l2::Config) -> Self {
        Self {
            started,
            brain,
            responder: Responder::new(config),
            ownership: Arc::default(),
            renewals: Renewals::default(),
            intent: Intent::default(),
            health: LocalHealth::default(),
            mailbox: None,
            set: Arc::default(),
            status: AnnounceStatus::default(),
            status_version: None,
            watch_version: None,
            groups: Vec::new(),
            leaving: false,
            turns: [false; 3],
            timers: [None; 2],
            overstay: lbcore::time::Duration::ZERO,
            forgets_terms: false,
        }
    }

    /// What the elector has to say.
    pub(crate) fn listen(&mut self) -> Said {
        let mut said = Said::default();
        loop {
            match &mut self.brain {
                Brain::Gossip(machine) => match machine.poll_event() {
                    Some(gossip::Event::Ownership(ownership)) => {
                        self.ownership = ownership;
                        said.ownership = true;
                    }
                    Some(gossip::Event::Renewals(renewals)) => {
                        self.renewals = renewals;
                        said.renewals = true;
                    }
                    Some(gossip::Event::Notice(notice)) => said.notices.push(format!("{notice:?}")),
                    Some(gossip::Event::Left) => said.left = true,
                    Some(_) => {}
                    None => return said,
                },
                Brain::Lease(machine) => match machine.poll_event() {
                    Some(lease::Event::Ownership(ownership)) => {
                        self.ownership = ownership;
                        said.ownership = true;
                    }
                    Some(lease::Event::Renewals(renewals)) => {
                        self.renewals = renewals;
                        said.renewals = true;
                    }
                    Some(lease::Event::Left) => said.left = true,
                    Some(_) => {}
                    None => return said,
                },
            }
        }
    }

    /// The controller's turn, as in `node`: what is announced, then what is bid for. Tells whether the announcer has
    /// mail, whether the elector was told something, and when to have another turn though nothing happened.
    pub(crate) fn plan(
        &mut self,
        me: &NodeName,
        now: Instant,
        documents: &Documents,
        allocations: &Allocations,
        (ready, draining): (bool, bool),
    ) -> (bool, bool, Option<Instant>) {
        self.intent.set_members(me, &self.ownership);
        self.health.interfaces = Some(self.intent.reliable_links(now));
        self.health.ready = ready;
        self.health.draining = draining;
        let bids = plan::candidacy(documents, allocations, me, &self.health);
        let announcements = plan::announce(documents, allocations, &self.ownership, me, &self.health);
        let set = self.intent.announce("l2", announcements.l2, announcements.standby, &self.ownership);
        let mail = set.is_some();
        if mail {
            self.mailbox = set;
        }
        let candidacy = self.intent.bid(bids);
        let told = candidacy.is_some();
        if let Some(candidacy) = candidacy {
            self.brain.bid(now, candidacy);
        }
        (mail, told, self.intent.next_change(now))
    }

    /// Whether it may own by one of its links, as far as the link goes.
    pub(crate) fn trusts_a_link(&self, now: Instant) -> bool {
        !self.intent.reliable_links(now).is_empty()
    }

    /// The announcer takes its mail.
    pub(crate) fn take_mail(&mut self, now: Instant) {
        if let Some(mut desired) = self.mailbox.take() {
            if self.forgets_terms {
                let set = Arc::make_mut(&mut desired);
                set.entries.values_mut().for_each(|entry| entry.term = Term(1));
                set.owners.values_mut().for_each(|owner| owner.term = Term(1));
            }
            self.set = desired.clone();
            self.responder.handle(now, l2::Input::Desired(desired));
        }
        for (lease, until) in &self.renewals.0 {
            let until = *until + self.overstay;
            self.responder.handle(now, l2::Input::Renewed { lease: *lease, until });
        }
    }

    /// The interfaces are these now.
    pub(crate) fn set_links(&mut self, now: Instant, mac: MacAddr, up: bool) {
        let mut interface = Interface::new(INTERFACE, "eth0", mac);
        interface.up = up;
        let interfaces = [interface];
        self.intent.set_interfaces(now, &interfaces);
        self.responder.handle(now, l2::Input::Interfaces(&interfaces));
    }

    /// Publishes the status as the driver does, and joins groups. Tells whether the status changed.
    pub(crate) fn publish(&mut self) -> bool {
        let watch = self.responder.watch_version();
        if self.watch_version.replace(watch) != Some(watch) {
            self.groups.retain(|group| self.responder.groups().contains(&(INTERFACE, *group)));
        }
        while let Some((_, group)) = self.responder.poll_join() {
            self.groups.push(group);
        }
        let version = self.responder.status_version();
        let changed = self.status_version.replace(version) != Some(version);
        if changed {
            self.status = self.responder.status();
        }
        changed
    }

    /// Whether the status says that `address` is announced.
    pub(crate) fn says_announced(&self, address: IpAddr) -> bool {
        self.status.entries.get(&address).is_some_and(lbcore::announce::AnnounceState::is_announced)
    }

    /// Under which term the announcer speaks for `address`.
    pub(crate) fn term(&self, address: IpAddr) -> Option<Term> {
        self.set.entries.get(&address).map(|entry| entry.term)
    }

    /// Whether this node owns `address` now, as the elector has it.
    pub(crate) fn owns(&self, now: Instant, address: IpAddr) -> bool {
        let holds = |lease: &LeaseId| self.renewals.0.get(lease).is_some_and(|until| now < *until);
        self.ownership.mine.get(&Role::Address(address)).is_some_and(holds)
    }
}
