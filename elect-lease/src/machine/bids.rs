//! What nodes bid: this one stores its own record and reads those of the others.

use lbcore::elect::lease::{Revision, State};
use lbcore::id::NodeName;
use lbcore::time::Instant;

use super::{Answer, Machine, Operation, Purpose};
use crate::record::{self, BidsRecord, NodeRecord};
use crate::store::Fetched;

/// After how many renewals of its lease a node looks whether its bids are still stored.
pub(super) const CHECK_BIDS: u32 = 10;

/// The record of this node's own bids.
#[derive(Debug, Default)]
pub(super) struct OwnBids {
    /// Raised with each candidacy.
    pub(super) number: u64,
    /// The number that is stored.
    pub(super) stored: u64,
    /// The record's revision, once read. The inner `None`: there is no record.
    pub(super) revision: Option<Option<Revision>>,
    /// When to store it, or to look whether it is still there.
    pub(super) try_at: Instant,
}

impl Machine {
    pub(super) fn bids_read(&mut self, node: &NodeName, answer: Answer) {
        let key = self.key("bids", node);
        self.bad_records.remove(&key);
        let bids = match answer {
            Answer::Fetched(Fetched::Found(found)) => match record::decode_bids(&found.value) {
                Ok(bids) => Some(bids),
                Err(error) => {
                    self.bad_records.insert(key, error.to_string());
                    None
                }
            },
            Answer::Fetched(_) => None,
            _ => return self.peers.bids_unread(node),
        };
        self.peers.bids_read(node, bids);
        self.dirty = true;
    }

    pub(super) fn own_bids_read(&mut self, fetched: Fetched) {
        let found = match fetched {
            Fetched::Unchanged => self.bids.revision.clone(),
            Fetched::Absent => Some(None),
            Fetched::Found(found) => Some(Some(found.revision)),
        };
        if self.bids.stored == self.bids.number {
            if found == self.bids.revision {
                self.bids.try_at = self.now + self.settings.timing.renew * CHECK_BIDS;
                return;
            }
            // Somebody has removed or changed it: store it again.
            self.bids.number += 1;
        }
        self.bids.revision = found;
    }

    /// Whether the others can know what this node bids now.
    pub(super) fn are_bids_told(&self) -> bool {
        let told = |record: &NodeRecord| record.note.bids == self.bids.number;
        self.lease.record().flatten().is_some_and(told)
    }

    /// When this node's bids are to be stored, or to be looked after. Never while another process has this node's lease:
    /// the record says what that one bids.
    pub(super) fn bids_due(&self) -> Option<Instant> {
        let busy =
            self.is_asking(|purpose| matches!(purpose, Purpose::ReadOwnBids | Purpose::WriteOwnBids(_)));
        (self.bids.number > 0 && !busy && !self.is_taken()).then_some(self.bids.try_at)
    }

    /// Whether another process holds the lease of this node: the one that this one replaces, or one that was given
    /// the same name by mistake.
    pub(super) fn is_taken(&self) -> bool {
        let taken =
            |record: &NodeRecord| matches!(&record.state, State::Held(holder) if *holder != self.settings.me);
        self.lease.record().flatten().is_some_and(taken)
    }

    pub(super) fn write_own_bids(&mut self) {
        if self.bids_due().is_none_or(|due| due > self.now) {
            return;
        }
        let key = self.key("bids", self.me());
        let number = self.bids.number;
        match self.bids.revision.clone() {
            Some(expected) if self.bids.stored != number => {
                let incarnation = self.settings.me.incarnation;
                let record = BidsRecord { incarnation, number, bids: self.candidacy.bids.clone() };
                let value = record::encode_bids(&record);
                self.ask(Purpose::WriteOwnBids(number), Operation::Swap { key, expected, value });
            }
            known => {
                let unless = known.flatten();
                self.ask(Purpose::ReadOwnBids, Operation::Get { key, unless });
            }
        }
    }
}
