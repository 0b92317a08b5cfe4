//! The elector without I/O.

mod assignment;
mod bids;
mod peers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lbcore::condition::Condition;
use lbcore::elect::lease::{
    Event as LeaseEvent, Goal, Holder, Input as LeaseInput, Lease, Output as LeaseOutput, Revision, State,
    Ticket, Timing, TimingError, WriteFailure,
};
use lbcore::elect::{Candidacy, Hardware, Member, Owner, Ownership, Renewals};
use lbcore::id::NodeName;
use lbcore::time::Instant;

use self::assignment::TableCopy;
use self::bids::{CHECK_BIDS, OwnBids};
use self::peers::Peers;
use crate::grants::Grants;
use crate::record::{self, NodeRecord, Note};
use crate::store::{Fetched, Versioned};
use crate::table::{Session, Table};

/// What a [`Machine`] is built from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// This node, and this run of the process on it.
    pub me: Holder,
    /// What the keys of all records begin with, without the final `/`. Nodes with the same prefix elect together.
    pub prefix: String,
    /// The lease of each node.
    pub timing: Timing,
    /// How long announcers act on after the last word from the elector, at most. It is the time for which nobody
    /// answers when a role moves as planned.
    pub handover: Duration,
}

impl Settings {
    /// Leases of three seconds and hand-overs of 200 ms, under the prefix `lbcore`.
    pub fn new(me: Holder) -> Self {
        Self {
            me,
            prefix: "lbcore".to_owned(),
            timing: Timing::of(Duration::from_secs(3)),
            handover: Duration::from_millis(200),
        }
    }
}

/// Why there can be no elector with these settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The timing does not work out.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// A hand-over cannot be that long or short.
    #[error(
        "a hand-over of {handover:?} must be at least 4 ms and at most half of the {hold:?} for which a renewal holds"
    )]
    Handover {
        /// The hand-over.
        handover: Duration,
        /// What a renewal is good for.
        hold: Duration,
    },
    /// The node has no name.
    #[error("the node's name is empty")]
    Nameless,
}

/// Names a request, to tell its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(u64);

/// What the store is to be asked, with [`LeaseStore`](crate::LeaseStore)'s method of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// To be given back with the answer.
    pub id: RequestId,
    /// What is asked.
    pub operation: Operation,
}

/// A call of a [`LeaseStore`](crate::LeaseStore).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`LeaseStore::list`](crate::LeaseStore::list).
    List {
        /// The prefix.
        prefix: String,
    },
    /// [`LeaseStore::get`](crate::LeaseStore::get).
    Get {
        /// The key.
        key: String,
        /// The revision that is known.
        unless: Option<Revision>,
    },
    /// [`LeaseStore::compare_and_swap`](crate::LeaseStore::compare_and_swap).
    Swap {
        /// The key.
        key: String,
        /// The revision that it must be at.
        expected: Option<Revision>,
        /// What to write.
        value: Bytes,
    },
}

/// What a store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a list.
    Listed(BTreeMap<String, Versioned>),
    /// To a get.
    Fetched(Fetched),
    /// To a swap that was applied.
    Swapped(Revision),
    /// To a swap that was not: the record has changed.
    Conflict,
    /// An error, or no answer in time. A swap may have been applied or may yet be.
    Failed {
        /// What went wrong, for a person.
        message: String,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// What this node could own, from now on.
    Candidacy(Arc<Candidacy>),
    /// This node's hardware addresses, from now on.
    Hardware(Hardware),
    /// The answer to a request. Late and repeated ones do no harm.
    Answer {
        /// The request.
        id: RequestId,
        /// What the store said.
        answer: Answer,
    },
    /// Hand everything over and release the lease.
    Leave,
}

/// What is new.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Who owns what.
    Ownership(Arc<Ownership>),
    /// Until when.
    Renewals(Renewals),
    /// How the elector is doing.
    Conditions(Vec<Condition>),
    /// Everything was handed over and released.
    Left,
}

/// One node's part in the election, without I/O.
///
/// Give it inputs with [`handle`](Self::handle), and call [`handle_timeout`](Self::handle_timeout) when the time of
/// [`poll_timeout`](Self::poll_timeout) has come; the first call starts it. After each of both take all of
/// [`poll_output`](Self::poll_output), to be sent after `now`, and of [`poll_event`](Self::poll_event). `now` is read
/// before each call and never goes back.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    /// This node's hardware addresses, for the others' announcers.
    hardware: Hardware,
    now: Instant,
    lease: Lease<Note>,
    peers: Peers,
    table: TableCopy,
    candidacy: Arc<Candidacy>,
    bids: OwnBids,
    grants: Grants,
    /// Whether this node could act when it last looked.
    covered: bool,
    renew_at: Instant,
    list_at: Instant,
    in_flight: BTreeMap<RequestId, InFlight>,
    next_request: RequestId,
    /// Whether something has changed that may change who owns what.
    dirty: bool,
    /// Whether a role is kept only until the record of another node is read.
    unsure: bool,
    leaving: Leaving,
    ownership: Arc<Ownership>,
    renewals: Renewals,
    /// What the last read and the last write failed by.
    read_error: Option<String>,
    write_error: Option<String>,
    bad_records: BTreeMap<String, String>,
    conditions: Vec<Condition>,
    outputs: VecDeque<Request>,
    events: VecDeque<Event>,
    #[cfg(test)]
    mutant: Option<tests::Mutant>,
}

#[derive(Debug)]
struct InFlight {
    sent: Instant,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    /// Read the leases of all nodes; the tickets of those that wait for it.
    Leases(BTreeMap<NodeName, Ticket>),
    /// Write the lease of a node.
    Lease(NodeName, Ticket),
    ReadTable,
    WriteTable(Arc<Table>),
    /// Read the bids of a node.
    Bids(NodeName),
    ReadOwnBids,
    WriteOwnBids(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    HandingOver,
    Releasing,
    Left,
}

impl Machine {
    /// A node that knows nothing yet.
    ///
    /// # Errors
    /// If the settings cannot work.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let timing = settings.timing;
        let lease = Lease::new(settings.me.clone(), timing, Goal::Hold, Note::default())?;
        let (handover, hold) = (settings.handover, timing.hold());
        if handover < Duration::from_millis(4) || handover > hold / 2 {
            return Err(SettingsError::Handover { handover, hold });
        }
        if settings.me.node.as_str().is_empty() {
            return Err(SettingsError::Nameless);
        }
        let members = BTreeMap::from([(settings.me.node.clone(), Member::default())]);
        let mut ownership = Ownership::default();
        ownership.members = members;
        Ok(Self {
            peers: Peers::new(settings.me.clone(), timing),
            grants: Grants::new(handover, timing.margin),
            settings,
            hardware: Hardware::new(),
            now: Instant::ZERO,
            lease,
            table: TableCopy::default(),
            candidacy: Arc::default(),
            bids: OwnBids::default(),
            covered: false,
            renew_at: Instant::ZERO,
            list_at: Instant::ZERO,
            in_flight: BTreeMap::new(),
            next_request: RequestId(0),
            dirty: true,
            unsure: false,
            leaving: Leaving::No,
            ownership: Arc::new(ownership),
            renewals: Renewals::default(),
            read_error: None,
            write_error: None,
            bad_records: BTreeMap::new(),
            conditions: Vec::new(),
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            #[cfg(test)]
            mutant: None,
        })
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.advance(now);
        match input {
            // Who leaves bids for nothing any more.
            Input::Candidacy(candidacy) if self.leaving == Leaving::No => self.bid(candidacy),
            Input::Candidacy(_) => {}
            Input::Hardware(hardware) => {
                if self.hardware != hardware {
                    self.hardware = hardware;
                    self.note();
                    self.dirty = true;
                }
            }
            Input::Answer { id, answer } => self.answer(id, answer),
            Input::Leave => {
                if self.leaving == Leaving::No {
                    self.leaving = Leaving::HandingOver;
                    let mut candidacy = (*self.candidacy).clone();
                    candidacy.bids.clear();
                    self.bid(Arc::new(candidacy));
                    self.note();
                    self.dirty = true;
                }
            }
        }
        self.settle();
    }

    fn bid(&mut self, candidacy: Arc<Candidacy>) {
        if self.candidacy == candidacy {
            return;
        }
        if self.candidacy.bids != candidacy.bids {
            self.bids.number += 1;
            self.bids.try_at = self.now;
        }
        self.candidacy = candidacy;
        self.dirty = true;
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.settle();
    }

    /// What to ask of the store next.
    pub fn poll_output(&mut self) -> Option<Request> {
        self.outputs.pop_front()
    }

    /// What happened next, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` once it has left.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.leaving == Leaving::Left {
            return None;
        }
        let timeout = self.settings.timing.timeout;
        let answers = self.in_flight.values().map(|flight| flight.sent + timeout).min();
        let list = (!self.is_asking(|purpose| matches!(purpose, Purpose::Leases(_)))).then_some(self.list_at);
        let table =
            (!self.is_asking(|purpose| matches!(purpose, Purpose::ReadTable))).then_some(self.table.read_at);
        let renew = (!self.grants.is_empty()).then_some(self.renew_at);
        // These were seen to if they are past: what they wait for comes with an answer.
        let later = [self.settles_at(), self.bids_due()].into_iter().flatten().filter(|due| *due > self.now);
        [
            self.lease.poll_timeout(),
            self.peers.poll_timeout(),
            answers,
            list,
            table,
            renew,
            self.grants.next_silence(),
        ]
        .into_iter()
        .flatten()
        .chain(later)
        .min()
    }

    fn me(&self) -> &NodeName {
        &self.settings.me.node
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let timeout = self.settings.timing.timeout;
        let late: Vec<RequestId> = self
            .in_flight
            .iter()
            .filter(|(_, flight)| self.now >= flight.sent + timeout)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.answer(id, Answer::Failed { message: format!("no answer within {timeout:?}") });
        }
        if self.grants.advance(self.now) {
            self.dirty = true;
        }
        if self.settles_at().is_some_and(|due| due <= self.now) {
            self.dirty = true;
        }
    }

    /// Brings everything in line after an input.
    fn settle(&mut self) {
        if self.leaving == Leaving::Left {
            return;
        }
        self.drive_leases();
        self.read();
        self.write_own_bids();
        self.renew();
        if std::mem::take(&mut self.dirty) {
            self.reconcile();
        }
        self.leave();
        self.drive_leases();
        if std::mem::take(&mut self.dirty) {
            self.reconcile();
        }
        self.publish();
    }

    // ---- Requests.

    fn key(&self, kind: &str, node: &NodeName) -> String {
        format!("{}/{kind}/{node}", self.settings.prefix)
    }

    fn table_key(&self) -> String {
        format!("{}/assignment", self.settings.prefix)
    }

    fn ask(&mut self, purpose: Purpose, operation: Operation) {
        let id = self.next_request;
        self.next_request.0 += 1;
        self.in_flight.insert(id, InFlight { sent: self.now, purpose });
        self.outputs.push_back(Request { id, operation });
    }

    fn is_asking(&self, what: impl Fn(&Purpose) -> bool) -> bool {
        self.in_flight.values().any(|flight| what(&flight.purpose))
    }

    /// When to try again what failed.
    fn again(&self) -> Instant {
        self.now + self.settings.timing.renew / 4
    }

    fn answer(&mut self, id: RequestId, answer: Answer) {
        let Some(InFlight { sent, purpose }) = self.in_flight.remove(&id) else { return };
        let error = match &answer {
            Answer::Failed { message } => Some(message.clone()),
            _ => None,
        };
        // A store that is full still answers reads.
        match purpose {
            Purpose::Lease(..) | Purpose::WriteTable(_) | Purpose::WriteOwnBids(_) => {
                self.write_error = error;
            }
            Purpose::Leases(_) | Purpose::ReadTable | Purpose::Bids(_) | Purpose::ReadOwnBids => {
                self.read_error = error;
            }
        }
        match (purpose, answer) {
            (Purpose::Leases(tickets), Answer::Listed(found)) => self.leases_read(&tickets, found),
            (Purpose::Leases(tickets), _) => {
                self.list_at = self.list_at.min(self.again());
                for (node, ticket) in tickets {
                    self.tell_lease(&node, LeaseInput::ReadFailed { ticket });
                }
            }
            (Purpose::Lease(node, ticket), answer) => {
                let outcome = match answer {
                    Answer::Swapped(revision) => Ok(revision),
                    Answer::Conflict => Err(WriteFailure::Conflict),
                    _ => Err(WriteFailure::Unknown),
                };
                self.tell_lease(&node, LeaseInput::Written { ticket, outcome });
            }
            (Purpose::ReadTable, Answer::Fetched(fetched)) => self.table_read(id, sent, fetched),
            (Purpose::ReadTable, _) => self.table.read_at = self.table.read_at.min(self.again()),
            (Purpose::WriteTable(table), Answer::Swapped(revision)) => {
                self.table.floor = Some(self.next_request);
                self.table_known(sent, Some((revision, table)));
            }
            (Purpose::WriteTable(_), answer) => {
                self.table.doubt = true;
                self.table.read_at = if answer == Answer::Conflict { self.now } else { self.again() };
            }
            (Purpose::Bids(node), answer) => self.bids_read(&node, answer),
            (Purpose::ReadOwnBids, Answer::Fetched(fetched)) => self.own_bids_read(fetched),
            (Purpose::WriteOwnBids(number), Answer::Swapped(revision)) => {
                self.bids.revision = Some(Some(revision));
                self.bids.stored = number;
                self.bids.try_at = self.now + self.settings.timing.renew * CHECK_BIDS;
                self.note();
            }
            (Purpose::WriteOwnBids(_), answer) => {
                self.bids.revision = None;
                self.bids.try_at = if answer == Answer::Conflict { self.now } else { self.again() };
            }
            (Purpose::ReadOwnBids, _) => self.bids.try_at = self.again(),
        }
    }

    /// Reads what is due to be read.
    fn read(&mut self) {
        let timing = self.settings.timing;
        if self.now >= self.list_at && !self.is_asking(|purpose| matches!(purpose, Purpose::Leases(_))) {
            self.list_at = self.now + timing.renew;
            let mut tickets = self.peers.begin_read(self.now);
            tickets.insert(self.me().clone(), self.lease.begin_read(self.now));
            let prefix = format!("{}/node/", self.settings.prefix);
            self.ask(Purpose::Leases(tickets), Operation::List { prefix });
        }
        if self.now >= self.table.read_at && !self.is_asking(|purpose| matches!(purpose, Purpose::ReadTable))
        {
            self.table.read_at = self.now + timing.renew;
            let unless = self.table.revision().cloned();
            let key = self.table_key();
            self.ask(Purpose::ReadTable, Operation::Get { key, unless });
        }
        for node in self.peers.without_bids() {
            if !self.is_asking(|purpose| matches!(purpose, Purpose::Bids(of) if *of == node)) {
                let key = self.key("bids", &node);
                self.ask(Purpose::Bids(node), Operation::Get { key, unless: None });
            }
        }
    }

    // ---- The nodes' leases.

    fn leases_read(&mut self, tickets: &BTreeMap<NodeName, Ticket>, found: BTreeMap<String, Versioned>) {
        let prefix = format!("{}/node/", self.settings.prefix);
        self.bad_records.retain(|key, _| !key.starts_with(&prefix));
        let mut seen: BTreeMap<NodeName, Option<(Revision, NodeRecord)>> = BTreeMap::new();
        for (key, Versioned { revision, value }) in found {
            let Some(name) = key.strip_prefix(&prefix) else { continue };
            let node = NodeName::from(name);
            match record::decode_node(&node, &value) {
                Ok(record) => drop(seen.insert(node, Some((revision, record)))),
                Err(error) => drop(self.bad_records.insert(key, error.to_string())),
            }
        }
        // Who has no record any more, but owned something, is fenced like a node that is silent. Of a record that
        // cannot be read nothing is known.
        let owners = self.table.table().into_iter().flat_map(|table| table.entries.values());
        for node in owners.map(|entry| &entry.session.holder.node).chain([self.me()]) {
            if !self.bad_records.contains_key(&format!("{prefix}{node}")) {
                seen.entry(node.clone()).or_insert(None);
            }
        }
        if let Some(own) = seen.remove(&self.settings.me.node)
            && let Some(ticket) = tickets.get(self.me()).copied()
        {
            let node = self.me().clone();
            self.tell_lease(&node, LeaseInput::Seen { ticket, found: own });
        }
        self.dirty |= self.peers.seen(self.now, tickets, seen) || self.unsure;
        // A session that is over may be replaced once its record was read after the table: this read may be that one,
        // though it changed nothing.
        self.dirty |= self
            .table
            .table()
            .is_some_and(|table| table.entries.values().any(|entry| self.peers.differs(&entry.session)));
    }

    fn tell_lease(&mut self, node: &NodeName, input: LeaseInput<Note>) {
        if node == self.me() {
            let told = self.are_bids_told();
            self.lease.handle(self.now, input);
            self.dirty |= told != self.are_bids_told();
        } else if self.peers.handle(self.now, node, input) {
            self.dirty = true;
        }
    }

    /// Lets the leases do what is due, and carries out what they want.
    fn drive_leases(&mut self) {
        self.lease.handle_timeout(self.now);
        let mut writes = Vec::new();
        while let Some(output) = self.lease.poll_output() {
            writes.push((self.me().clone(), output));
        }
        while let Some(event) = self.lease.poll_event() {
            match event {
                LeaseEvent::Acquired { .. } => self.dirty = true,
                LeaseEvent::Lost(_) => {
                    self.grants.lapse();
                    self.dirty = true;
                }
                _ => {}
            }
        }
        if self.peers.drive(self.now, &mut writes) {
            self.dirty = true;
        }
        for (node, output) in writes {
            match output {
                // All are read at once.
                LeaseOutput::Read { .. } => self.list_at = self.list_at.min(self.now),
                LeaseOutput::Write { ticket, expected, record } => {
                    let key = self.key("node", &node);
                    let value = record::encode_node(&node, &record);
                    self.ask(Purpose::Lease(node, ticket), Operation::Swap { key, expected, value });
                }
                _ => {}
            }
        }
    }

    /// Puts what the others must know into this node's lease.
    fn note(&mut self) {
        let note =
            Note { bids: self.bids.stored, draining: self.is_draining(), hardware: self.hardware.clone() };
        self.lease.handle(self.now, LeaseInput::Note(note));
    }

    fn is_draining(&self) -> bool {
        let mut bids = self.candidacy.bids.values();
        self.leaving != Leaving::No || (!self.candidacy.bids.is_empty() && bids.all(|bid| bid.draining))
    }

    fn session(&self) -> Option<Session> {
        let (term, _) = self.lease.held()?;
        Some(Session { holder: self.settings.me.clone(), term })
    }

    // ---- Leaving.

    fn leave(&mut self) {
        if self.leaving == Leaving::HandingOver {
            let session = self.session();
            let entries = self.table.table().into_iter().flat_map(|table| table.entries.values());
            if !entries.into_iter().any(|entry| Some(&entry.session) == session.as_ref()) {
                self.leaving = Leaving::Releasing;
                self.lease.handle(self.now, LeaseInput::Goal(Goal::Observe));
            }
        }
        if self.leaving == Leaving::Releasing {
            let mine = matches!(
                self.lease.record(),
                Some(Some(record)) if matches!(&record.state, State::Held(holder) if *holder == self.settings.me)
            );
            let writing =
                self.is_asking(|purpose| matches!(purpose, Purpose::Lease(node, _) if node == self.me()));
            if !mine && !writing {
                self.leaving = Leaving::Left;
                self.events.push_back(Event::Left);
            }
        }
    }

    // ---- What is told.

    fn observe(&mut self, table: Option<&Table>) {
        let mut next = Ownership::default();
        next.candidacy = self.candidacy.generation;
        next.members = self.peers.members();
        let mut member = Member::default();
        member.draining = self.is_draining();
        member.hardware.clone_from(&self.hardware);
        next.members.insert(self.me().clone(), member);
        let mut live = self.peers.sessions();
        live.extend(self.session().map(|session| (self.me().clone(), session)));
        for (role, entry) in table.into_iter().flat_map(|table| &table.entries) {
            let node = &entry.session.holder.node;
            if live.get(node) == Some(&entry.session) {
                next.roles.insert(role.clone(), Owner::new(node.clone(), entry.term));
            }
        }
        next.mine = self.grants.mine();
        next.generation = self.ownership.generation;
        if *self.ownership != next {
            next.generation += 1;
            self.ownership = Arc::new(next);
            // The leases first: whoever reads of a role finds it covered.
            self.publish_renewals();
            self.events.push_back(Event::Ownership(self.ownership.clone()));
        }
    }

    fn publish_renewals(&mut self) {
        let renewals = self.grants.renewals();
        if renewals != self.renewals {
            self.renewals = renewals.clone();
            self.events.push_back(Event::Renewals(renewals));
        }
    }

    fn publish(&mut self) {
        self.publish_renewals();
        let conditions = self.condition_list();
        if conditions != self.conditions {
            self.conditions = conditions.clone();
            self.events.push_back(Event::Conditions(conditions));
        }
    }

    fn condition_list(&self) -> Vec<Condition> {
        let unavailable = |reason, error: &str| {
            let message = format!("{error}; this node falls silent when its lease runs out");
            Condition::no("StoreAvailable", reason, message)
        };
        let store = match (&self.read_error, &self.write_error) {
            (None, None) => Condition::yes("StoreAvailable", "Answers", "the store answers"),
            (Some(error), _) => unavailable("NoAnswer", error),
            (None, Some(error)) => unavailable("NotWritten", error),
        };
        let held = match (self.cover(), self.lease.record()) {
            (Some(_), _) => Condition::yes("LeaseHeld", "Renewed", "this node may own roles"),
            (None, None) => Condition::no("LeaseHeld", "Unread", "the store has not been read yet"),
            (None, Some(_)) if self.is_taken() => Condition::no(
                "LeaseHeld",
                "HeldByAnother",
                format!(
                    "another process holds the lease of {}: the last one of this node, whose lease will run out, or \
                     another node of the same name, which must be given one of its own",
                    self.me()
                ),
            ),
            (None, Some(_)) => {
                Condition::no("LeaseHeld", "NotHeld", "this node owns nothing until it holds its lease")
            }
        };
        let records = match self.bad_records.first_key_value() {
            None => Condition::yes("RecordsValid", "Valid", "all records are readable"),
            Some((key, error)) => Condition::no(
                "RecordsValid",
                "Unreadable",
                format!(
                    "the record {key} is unreadable: {error}; delete it, or give this cluster a prefix of its own"
                ),
            ),
        };
        vec![store, held, records]
    }
}
