//! The table of who owns what: read, compared with what should be, and written.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use lbcore::elect::lease::Revision;
use lbcore::id::{NodeName, Role};
use lbcore::spread::{Bids, spread};
use lbcore::time::Instant;

#[cfg(test)]
use super::tests;
use super::{Leaving, Machine, Operation, Purpose, RequestId};
use crate::record;
use crate::store::Fetched;
use crate::table::{Changes, Session, Table};

/// The table as this node knows it.
#[derive(Debug, Default)]
pub(super) struct TableCopy {
    /// `None` until it was read. The inner one: there is none.
    pub(super) known: Option<Option<(Revision, Arc<Table>)>>,
    /// When it was seen to change.
    pub(super) since: Instant,
    /// When the last read was sent that confirmed it.
    pub(super) confirmed: Option<Instant>,
    /// Whether a write of unknown fate, or another's, may have changed it.
    pub(super) doubt: bool,
    pub(super) read_at: Instant,
    /// Reads that were sent before this one say nothing new.
    pub(super) floor: Option<RequestId>,
}

impl TableCopy {
    pub(super) fn table(&self) -> Option<&Arc<Table>> {
        self.known.as_ref()?.as_ref().map(|(_, table)| table)
    }

    pub(super) fn revision(&self) -> Option<&Revision> {
        self.known.as_ref()?.as_ref().map(|(revision, _)| revision)
    }

    /// A read that was sent then found it as it is known. One that may not be used yet confirms nothing.
    pub(super) fn confirm(&mut self, sent: Instant) {
        self.confirmed = self.table().is_some_and(|table| table.settled).then_some(sent);
    }
}

impl Machine {
    pub(super) fn table_read(&mut self, id: RequestId, sent: Instant, fetched: Fetched) {
        if self.table.floor.is_some_and(|floor| id < floor) {
            return;
        }
        self.table.floor = Some(id);
        let key = self.table_key();
        match fetched {
            Fetched::Unchanged => {
                self.table.confirm(sent);
                if self.table.doubt {
                    self.table.doubt = false;
                    self.dirty = true;
                }
            }
            Fetched::Absent => self.table_known(sent, None),
            Fetched::Found(found) => match record::decode_table(&found.value) {
                Ok(table) => {
                    self.bad_records.remove(&key);
                    self.table_known(sent, Some((found.revision, Arc::new(table))));
                }
                Err(error) => drop(self.bad_records.insert(key, error.to_string())),
            },
        }
    }

    pub(super) fn table_known(&mut self, sent: Instant, known: Option<(Revision, Arc<Table>)>) {
        let revision = known.as_ref().map(|(revision, _)| revision);
        if self.table.known.is_none() || self.table.revision() != revision {
            self.table.since = self.now;
            self.dirty = true;
        }
        self.dirty |= self.table.doubt;
        self.table.known = Some(known);
        self.table.confirm(sent);
        self.table.doubt = false;
    }

    /// When a table that was written anew may be used.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        let table = self.table.table()?;
        #[cfg(test)]
        if self.mutant == Some(tests::Mutant::UseANewTableAtOnce) {
            return None;
        }
        (!table.settled).then(|| self.table.since + self.settings.timing.duration)
    }

    /// Until when this node may act: while its lease holds and the table was confirmed for as long as a lease holds.
    pub(super) fn cover(&self) -> Option<Instant> {
        let (_, until) = self.lease.held()?;
        let confirmed = self.table.confirmed? + self.settings.timing.hold();
        #[cfg(test)]
        let confirmed = self.mutated_confirmed(confirmed);
        Some(until.min(confirmed)).filter(|cover| *cover > self.now)
    }

    pub(super) fn renew(&mut self) {
        let cover = self.cover();
        self.dirty |= self.covered != cover.is_some();
        self.covered = cover.is_some();
        match cover {
            None => self.grants.lapse(),
            Some(cover) if self.now >= self.renew_at => {
                self.renew_at = self.now + self.settings.handover / 4;
                self.dirty |= self.grants.renew(self.now, cover);
            }
            Some(_) => {}
        }
    }

    /// Compares what is with what should be: takes what this node owns, gives up what it should not own, and
    /// changes the table.
    pub(super) fn reconcile(&mut self) {
        let me = self.session();
        let table = self.table.table().filter(|table| table.settled).cloned();
        let wanted = self.wanted(table.as_deref());
        if let (Some(session), Some(table), Some(cover)) = (&me, &table, self.cover()) {
            let own = table.entries.iter().filter(|(_, entry)| entry.session == *session);
            self.grants.own(&own.map(|(role, entry)| (role.clone(), entry.term)).collect());
            let node = self.me().clone();
            // A node whose record was not read since the table changed may be the one that the table was changed for,
            // dead by now: no room is made for it before it was.
            let unsure = Cell::new(false);
            let stays = |role: &Role| match wanted.as_ref().map(|wanted| wanted.get(role)) {
                Some(None) => false,
                Some(Some(heir)) if *heir != node => {
                    let unread = !self.peers.is_read_since(heir, self.table.since);
                    unsure.set(unsure.get() || unread);
                    unread
                }
                _ => true,
            };
            let keep = |role: &Role| {
                let eligible = self.candidacy.bids.get(role).is_some_and(|bid| bid.eligible);
                eligible && self.leaving == Leaving::No && stays(role)
            };
            self.grants.part(self.now, keep);
            // Once out of turn: a record that cannot be read must not make this node ask without pause.
            let was_unsure = std::mem::replace(&mut self.unsure, unsure.get());
            if self.unsure && !was_unsure && !self.is_asking(|purpose| matches!(purpose, Purpose::Leases(_)))
            {
                self.list_at = self.now;
            }
            self.grants.renew(self.now, cover);
        }
        self.write_table(me.as_ref(), table.as_deref(), wanted);
        self.observe(table.as_deref());
    }

    /// Who should own what; `None` while some node's bids are not known.
    pub(super) fn wanted(&self, table: Option<&Table>) -> Option<BTreeMap<Role, NodeName>> {
        let mut bids: Bids = BTreeMap::new();
        for (node, of_node) in self.peers.bids()? {
            for (role, bid) in of_node {
                bids.entry(role.clone()).or_default().insert(node.clone(), *bid);
            }
        }
        if self.leaving == Leaving::No && self.lease.held().is_some() {
            for (role, bid) in &self.candidacy.bids {
                bids.entry(role.clone()).or_default().insert(self.me().clone(), *bid);
            }
        }
        // A node keeps its roles even if its lease lapsed meanwhile and is a new one now.
        let entries = table.into_iter().flat_map(|table| &table.entries);
        let current = entries.map(|(role, entry)| (role.clone(), entry.session.holder.node.clone()));
        Some(spread(&bids, &current.collect()))
    }

    pub(super) fn write_table(
        &mut self,
        me: Option<&Session>,
        table: Option<&Table>,
        wanted: Option<BTreeMap<Role, NodeName>>,
    ) {
        let busy = self.is_asking(|purpose| matches!(purpose, Purpose::WriteTable(_)));
        let Some(known) = &self.table.known else { return };
        if busy || self.table.doubt {
            return;
        }
        let expected = known.as_ref().map(|(revision, _)| revision.clone());
        let next = match (known, me, wanted) {
            (None, _, _) => Some(Table::default()),
            (Some(_), Some(me), Some(wanted)) => {
                let waiting = self.settles_at().is_some_and(|due| due > self.now);
                (!waiting).then(|| self.next_table(me, table, &wanted)).flatten()
            }
            _ => None,
        };
        if let Some(next) = next {
            let value = record::encode_table(&next);
            let key = self.table_key();
            self.ask(Purpose::WriteTable(Arc::new(next)), Operation::Swap { key, expected, value });
        }
    }

    /// The table as it should be written, if it should.
    pub(super) fn next_table(
        &self,
        me: &Session,
        table: Option<&Table>,
        wanted: &BTreeMap<Role, NodeName>,
    ) -> Option<Table> {
        let mut live = self.peers.sessions();
        live.insert(self.me().clone(), me.clone());
        let over = |session: &Session| match session.holder.node == *self.me() {
            true => session != me,
            false => self.peers.is_over(session, self.table.since),
        };
        // Whoever takes it over decides by the bids what else is to move: it must not find one there that is past.
        let told = self.are_bids_told();
        let given_up = |role: &Role, term| told && self.grants.is_silent(role, term);
        #[cfg(test)]
        let (over, given_up) = (
            |session: &Session| over(session) || self.mutated_over(session),
            |role: &Role, term| given_up(role, term) || self.mutated_given_up(role),
        );
        let changes = Changes { me, live: &live, over: &over, wanted, given_up: &given_up };
        let next = table.cloned().unwrap_or_default().next(&changes);
        (table != Some(&next)).then_some(next)
    }
}

/// Ways to be wrong, each of which a property must notice.
#[cfg(test)]
mod mutants {
    use super::tests::Mutant;
    use super::*;

    impl Machine {
        pub(super) fn mutated_over(&self, session: &Session) -> bool {
            let other = session.holder.node != *self.me();
            match self.mutant {
                Some(Mutant::TakeFromWhoeverIsNotSeen) => {
                    other && !self.peers.sessions().contains_key(&session.holder.node)
                }
                Some(Mutant::TrustOldRecords) => other && self.peers.differs(session),
                _ => false,
            }
        }

        pub(super) fn mutated_given_up(&self, role: &Role) -> bool {
            self.mutant == Some(Mutant::HandOverAtOnce) && !self.grants.mine().contains_key(role)
        }

        pub(super) fn mutated_confirmed(&self, confirmed: Instant) -> Instant {
            if self.mutant == Some(Mutant::NeverConfirmTheTable) { Instant::FAR_FUTURE } else { confirmed }
        }
    }
}
