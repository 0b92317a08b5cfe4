//! The other nodes, as this one knows them.

use std::collections::BTreeMap;

use lbcore::elect::lease::{Event, Goal, Holder, Input, Lease, Output, Revision, State, Ticket, Timing};
use lbcore::elect::{Bid, Member};
use lbcore::id::{NodeName, Role};
use lbcore::time::Instant;

use crate::record::{BidsRecord, NodeRecord, Note};
use crate::table::Session;

/// The other nodes: the lease of each, which is fenced when it falls silent, and its bids.
#[derive(Debug)]
pub(super) struct Peers {
    me: Holder,
    timing: Timing,
    nodes: BTreeMap<NodeName, Peer>,
}

#[derive(Debug)]
struct Peer {
    lease: Lease<Note>,
    bids: BidsRecord,
    /// Whether the bids that the lease speaks of are missing or unreadable.
    no_bids: bool,
    /// Whether they were asked for since the last list.
    asked: bool,
    /// What of the lease matters to others, to tell a change.
    shown: Option<(Session, Note)>,
}

impl Peer {
    /// The session that is on, with the note of its holder.
    fn session(&self) -> Option<(Session, &Note)> {
        let record = self.lease.record()??;
        match &record.state {
            State::Held(holder) => {
                Some((Session { holder: holder.clone(), term: record.term }, &record.note))
            }
            State::New | State::Free => None,
        }
    }

    /// The bids, if they are those of the session that is on.
    fn bids(&self) -> Option<&BTreeMap<Role, Bid>> {
        const NONE: &BTreeMap<Role, Bid> = &BTreeMap::new();
        let (session, note) = self.session()?;
        if note.bids == 0 || self.no_bids {
            return Some(NONE);
        }
        let current = self.bids.incarnation == session.holder.incarnation && self.bids.number >= note.bids;
        current.then_some(&self.bids.bids)
    }
}

impl Peers {
    pub(super) fn new(me: Holder, timing: Timing) -> Self {
        Self { me, timing, nodes: BTreeMap::new() }
    }

    pub(super) fn begin_read(&mut self, now: Instant) -> BTreeMap<NodeName, Ticket> {
        self.nodes.iter_mut().map(|(node, peer)| (node.clone(), peer.lease.begin_read(now))).collect()
    }

    /// Takes in the records of all nodes. A node that is not among them is forgotten; one of `None` has no record, but
    /// is still of interest. Answers whether something changed.
    pub(super) fn seen(
        &mut self,
        now: Instant,
        tickets: &BTreeMap<NodeName, Ticket>,
        records: BTreeMap<NodeName, Option<(Revision, NodeRecord)>>,
    ) -> bool {
        let known = self.nodes.len();
        // A node that was found since this read began is not expected to be in it.
        self.nodes.retain(|node, _| records.contains_key(node) || !tickets.contains_key(node));
        let mut changed = self.nodes.len() != known;
        for (node, found) in records {
            let Some(peer) = self.peer(&node) else { continue };
            let ticket = tickets.get(&node).copied().unwrap_or_else(|| peer.lease.begin_read(now));
            peer.asked = false;
            changed |= self.handle(now, &node, Input::Seen { ticket, found });
        }
        changed
    }

    fn peer(&mut self, node: &NodeName) -> Option<&mut Peer> {
        if !self.nodes.contains_key(node) {
            // The timing was checked.
            let lease = Lease::new(self.me.clone(), self.timing, Goal::Fence, Note::default()).ok()?;
            let peer = Peer { lease, bids: BidsRecord::default(), no_bids: false, asked: false, shown: None };
            self.nodes.insert(node.clone(), peer);
        }
        self.nodes.get_mut(node)
    }

    /// Tells a node's lease what happened. Answers whether something changed that matters.
    pub(super) fn handle(&mut self, now: Instant, node: &NodeName, input: Input<Note>) -> bool {
        let Some(peer) = self.nodes.get_mut(node) else { return false };
        peer.lease.handle(now, input);
        let shown = peer.session().map(|(session, note)| (session, note.clone()));
        let changed = shown != peer.shown;
        peer.shown = shown;
        changed
    }

    /// Lets the leases do what is due and collects what they want. Answers whether a node was fenced.
    pub(super) fn drive(&mut self, now: Instant, outputs: &mut Vec<(NodeName, Output<Note>)>) -> bool {
        let mut fenced = false;
        for (node, peer) in &mut self.nodes {
            if peer.lease.poll_timeout().is_some_and(|due| due <= now) {
                peer.lease.handle_timeout(now);
            }
            while let Some(output) = peer.lease.poll_output() {
                outputs.push((node.clone(), output));
            }
            while let Some(event) = peer.lease.poll_event() {
                fenced |= event == Event::Fenced;
            }
        }
        fenced
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.nodes.values().filter_map(|peer| peer.lease.poll_timeout()).min()
    }

    /// The nodes whose bids must be read.
    pub(super) fn without_bids(&self) -> Vec<NodeName> {
        let missing =
            |peer: &Peer| !peer.asked && peer.session().is_some() && (peer.bids().is_none() || peer.no_bids);
        self.nodes.iter().filter(|(_, peer)| missing(peer)).map(|(node, _)| node.clone()).collect()
    }

    /// Takes in a node's bids. `None`: there are none that could be read, so that it is taken to bid for nothing until
    /// there are.
    pub(super) fn bids_read(&mut self, node: &NodeName, bids: Option<BidsRecord>) {
        let Some(peer) = self.nodes.get_mut(node) else { return };
        peer.asked = true;
        peer.no_bids = bids.is_none();
        peer.bids = bids.unwrap_or_default();
    }

    /// The bids could not be read: again after the next list.
    pub(super) fn bids_unread(&mut self, node: &NodeName) {
        if let Some(peer) = self.nodes.get_mut(node) {
            peer.asked = true;
        }
    }

    /// The bids of all nodes that are alive; `None` while some of them have not been read.
    pub(super) fn bids(&self) -> Option<Vec<(&NodeName, &BTreeMap<Role, Bid>)>> {
        let live = self.nodes.iter().filter(|(_, peer)| peer.session().is_some());
        live.map(|(node, peer)| Some((node, peer.bids()?))).collect()
    }

    /// The sessions that are on.
    pub(super) fn sessions(&self) -> BTreeMap<NodeName, Session> {
        let session = |(node, peer): (&NodeName, &Peer)| Some((node.clone(), peer.session()?.0));
        self.nodes.iter().filter_map(session).collect()
    }

    /// Whether a session is over that was known to exist at `known`: its node's record, read since, says otherwise. (One
    /// that was read before may be older than the session.)
    pub(super) fn is_over(&self, session: &Session, known: Instant) -> bool {
        self.is_read_since(&session.holder.node, known) && self.differs(session)
    }

    /// Whether the record of a node was read after `known`.
    pub(super) fn is_read_since(&self, node: &NodeName, known: Instant) -> bool {
        let as_of = self.nodes.get(node).and_then(|peer| peer.lease.as_of());
        as_of.is_some_and(|as_of| as_of > known)
    }

    /// Whether its node's record says that a session is not the one that is on.
    pub(super) fn differs(&self, session: &Session) -> bool {
        let record = self.nodes.get(&session.holder.node).and_then(|peer| peer.lease.record());
        match record {
            // A record that is missing, or was written anew, says nothing of the session.
            None | Some(None) => false,
            Some(Some(record)) => match &record.state {
                State::New => false,
                State::Free => true,
                State::Held(holder) => *holder != session.holder || record.term != session.term,
            },
        }
    }

    /// The nodes that are alive.
    pub(super) fn members(&self) -> BTreeMap<NodeName, Member> {
        let member = |(node, peer): (&NodeName, &Peer)| {
            let (_, note) = peer.session()?;
            let mut member = Member::default();
            member.draining = note.draining;
            member.hardware = note.hardware.clone();
            Some((node.clone(), member))
        };
        self.nodes.iter().filter_map(member).collect()
    }
}
