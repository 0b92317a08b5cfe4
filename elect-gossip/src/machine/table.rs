//! What one run of a node says of itself: entries, each with the version at which it last changed.
//!
//! A receiver that has version v is brought up to date by the entries with a stamp above v, in order of
//! their stamps. So any datagram that is lost is made good from where the receiver stands, nothing is put together
//! from parts, and 10 000 roles cost a heartbeat no more than a number.

use std::collections::BTreeMap;

use lbcore::elect::Bid;
use lbcore::id::{InterfaceName, NodeName, Role};

use crate::wire::{Boot, Claim, Entries, Entry, Key, Meta, RoleEntry, Value};

/// Entries without a value are kept, so that their removal is told, up to this many more than there are values.
const TOMBSTONES: usize = 1024;

/// How many datagrams are sent in one go; for more the receiver asks. About 70 KB, a third of Linux' default
/// socket buffer.
const BURST: usize = 60;

#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    version: u64,
    meta: Meta,
    hardware: BTreeMap<InterfaceName, [u8; 6]>,
    roles: BTreeMap<Role, RoleEntry>,
    stamps: BTreeMap<Key, u64>,
    order: BTreeMap<u64, Key>,
    /// Removals up to this version may be forgotten.
    horizon: u64,
}

/// What became of received entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// They changed something, or at least the version.
    Yes,
    /// They are known.
    Old,
    /// Something before them is missing.
    Gap,
}

impl Table {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn meta(&self) -> Meta {
        self.meta
    }

    pub(super) fn hardware(&self) -> &BTreeMap<InterfaceName, [u8; 6]> {
        &self.hardware
    }

    pub(super) fn roles(&self) -> &BTreeMap<Role, RoleEntry> {
        &self.roles
    }

    pub(super) fn set_meta(&mut self, meta: Meta) {
        if self.version == 0 || self.meta != meta {
            self.stamp(Key::Meta);
            self.meta = meta;
        }
    }

    pub(super) fn set_hardware(&mut self, hardware: BTreeMap<InterfaceName, [u8; 6]>) {
        let gone: Vec<_> =
            self.hardware.keys().filter(|name| !hardware.contains_key(*name)).cloned().collect();
        for name in gone {
            self.hardware.remove(&name);
            self.stamp(Key::Hardware(name));
        }
        for (name, mac) in hardware {
            if self.hardware.get(&name) != Some(&mac) {
                self.stamp(Key::Hardware(name.clone()));
                self.hardware.insert(name, mac);
            }
        }
        self.bury();
    }

    pub(super) fn set_bid(&mut self, role: &Role, bid: Option<Bid>) {
        let mut entry = self.roles.get(role).cloned().unwrap_or_default();
        entry.bid = bid;
        self.set_role(role, entry);
    }

    pub(super) fn set_claim(&mut self, role: &Role, claim: Claim) {
        let mut entry = self.roles.get(role).cloned().unwrap_or_default();
        entry.claim = claim;
        self.set_role(role, entry);
    }

    pub(super) fn claim(&self, role: &Role) -> &Claim {
        self.roles.get(role).map_or(&Claim::None, |entry| &entry.claim)
    }

    fn set_role(&mut self, role: &Role, entry: RoleEntry) {
        let known = self.roles.get(role);
        if known == Some(&entry) || (known.is_none() && entry.is_empty()) {
            return;
        }
        self.stamp(Key::Role(role.clone()));
        self.put_role(role.clone(), entry);
        self.bury();
    }

    fn put_role(&mut self, role: Role, entry: RoleEntry) {
        if entry.is_empty() {
            self.roles.remove(&role);
        } else {
            self.roles.insert(role, entry);
        }
    }

    fn stamp(&mut self, key: Key) {
        self.version += 1;
        self.mark(key, self.version);
    }

    fn mark(&mut self, key: Key, stamp: u64) {
        if let Some(old) = self.stamps.insert(key.clone(), stamp) {
            self.order.remove(&old);
        }
        self.order.insert(stamp, key);
    }

    fn value(&self, key: &Key) -> Value {
        match key {
            Key::Meta => Value::Meta(self.meta),
            Key::Hardware(name) => Value::Hardware(self.hardware.get(name).copied()),
            Key::Role(role) => Value::Role(self.roles.get(role).cloned().unwrap_or_default()),
        }
    }

    fn is_tombstone(&self, key: &Key) -> bool {
        match key {
            Key::Meta => false,
            Key::Hardware(name) => !self.hardware.contains_key(name),
            Key::Role(role) => !self.roles.contains_key(role),
        }
    }

    /// Forgets the oldest removals once there are many.
    fn bury(&mut self) {
        let values = 1 + self.hardware.len() + self.roles.len();
        if self.stamps.len() <= 2 * values + TOMBSTONES {
            return;
        }
        let dead: Vec<_> =
            self.order.iter().filter(|(_, key)| self.is_tombstone(key)).map(|(at, _)| *at).collect();
        for stamp in &dead[..dead.len() / 2] {
            if let Some(key) = self.order.remove(stamp) {
                self.stamps.remove(&key);
            }
            self.horizon = self.horizon.max(*stamp);
        }
    }

    /// What brings a receiver at version `have` up to date, in parts of a datagram each: a burst of them, the
    /// last marked if there is more.
    /// The room for entries in a datagram of that sender is `room` bytes.
    pub(super) fn since(&self, origin: &NodeName, boot: Boot, have: u64, room: usize) -> Vec<Entries> {
        let mut parts: Vec<Entries> = Vec::new();
        if have >= self.version {
            return parts;
        }
        // What was removed beyond the horizon can only be told by starting anew.
        let anew = have > 0 && have < self.horizon;
        let mut from = if anew { 0 } else { have };
        let mut changes = self.order.range(from + 1..).peekable();
        loop {
            let mut part = Entries {
                origin: origin.clone(),
                boot,
                from,
                to: self.version,
                latest: self.version,
                anew: anew && from == 0,
                pauses: false,
                entries: Vec::new(),
            };
            let mut room = room;
            while let Some((stamp, key)) = changes.peek() {
                let entry = Entry { stamp: **stamp, key: (*key).clone(), value: self.value(key) };
                if entry.wire_len() > room && !part.entries.is_empty() {
                    break;
                }
                room = room.saturating_sub(entry.wire_len());
                part.entries.push(entry);
                changes.next();
            }
            let done = changes.peek().is_none();
            if !done {
                part.to = part.entries.last().map_or(from, |entry| entry.stamp);
                part.pauses = parts.len() + 1 >= BURST;
            }
            from = part.to;
            let stop = done || part.pauses;
            parts.push(part);
            if stop {
                return parts;
            }
        }
    }

    /// Takes in what another node said.
    pub(super) fn apply(&mut self, part: &Entries) -> Applied {
        if part.to <= self.version {
            return Applied::Old;
        }
        if part.from > self.version {
            return Applied::Gap;
        }
        for entry in &part.entries {
            if entry.stamp <= self.version {
                continue;
            }
            match (&entry.key, &entry.value) {
                (Key::Meta, Value::Meta(meta)) => self.meta = *meta,
                (Key::Hardware(name), Value::Hardware(Some(mac))) => {
                    self.hardware.insert(name.clone(), *mac);
                }
                (Key::Hardware(name), Value::Hardware(None)) => {
                    self.hardware.remove(name);
                }
                (Key::Role(role), Value::Role(said)) => self.put_role(role.clone(), said.clone()),
                // The parser pairs them.
                _ => continue,
            }
            self.mark(entry.key.clone(), entry.stamp);
        }
        self.version = part.to;
        self.bury();
        Applied::Yes
    }
}

#[cfg(test)]
mod tests {
    use lbcore::elect::Term;
    use proptest::prelude::*;

    use super::*;

    const ROOM: usize = 600;

    fn role(n: u16) -> Role {
        let [high, low] = n.to_be_bytes();
        Role::Address([10, 0, high, low].into())
    }

    fn same(left: &Table, right: &Table) {
        assert_eq!(left.version, right.version);
        assert_eq!(left.meta, right.meta);
        assert_eq!(left.hardware, right.hardware);
        assert_eq!(left.roles, right.roles);
    }

    /// Brings `to` up to date as two nodes do, losing about every `lose`th part. Returns how many were sent.
    fn sync(from: &Table, to: &mut Table, lose: usize) -> usize {
        let (node, boot) = (NodeName::from("n1"), Boot(1));
        let mut sent = 0;
        let mut staged: Option<Table> = None;
        for _ in 0..1000 {
            let have = staged.as_ref().map_or(to.version, |staged| staged.version);
            if have == from.version {
                break;
            }
            for part in from.since(&node, boot, have, ROOM) {
                sent += 1;
                if lose > 0 && ((sent * 40_503) >> 5) % lose == 0 {
                    continue;
                }
                if part.anew {
                    staged = Some(Table::default());
                }
                staged.as_mut().unwrap_or(to).apply(&part);
            }
        }
        if let Some(staged) = staged {
            *to = staged;
        }
        sent
    }

    #[test]
    fn ten_thousand_roles_arrive_in_bursts_whatever_is_lost() {
        let mut from = Table::default();
        for n in 0..10_000 {
            from.set_bid(&role(n), Some(Bid::default()));
            from.set_claim(&role(n), Claim::Holds(Term(1)));
        }
        let burst = from.since(&"n1".into(), Boot(1), 0, ROOM);
        assert_eq!(burst.len(), BURST);
        assert!(burst.iter().rev().skip(1).all(|part| !part.pauses) && burst[BURST - 1].pauses);
        for lose in [0, 2, 7] {
            let mut to = Table::default();
            sync(&from, &mut to, lose);
            same(&from, &to);
        }
        let mut to = from.clone();
        from.set_claim(&role(77), Claim::None);
        assert_eq!(sync(&from, &mut to, 0), 1, "one change is one datagram");
        same(&from, &to);
    }

    #[test]
    fn a_gap_is_noticed_and_the_known_ignored() {
        let mut from = Table::default();
        let mut to = Table::default();
        from.set_meta(Meta::default());
        sync(&from, &mut to, 0);
        from.set_bid(&role(1), Some(Bid::default()));
        let first = from.since(&"n1".into(), Boot(1), 1, ROOM);
        from.set_bid(&role(2), Some(Bid::default()));
        let second = from.since(&"n1".into(), Boot(1), 2, ROOM);
        assert_eq!(to.apply(&second[0]), Applied::Gap);
        assert_eq!(to.apply(&first[0]), Applied::Yes);
        assert_eq!(to.apply(&first[0]), Applied::Old);
        assert_eq!(to.apply(&second[0]), Applied::Yes);
        same(&from, &to);
    }

    #[test]
    fn what_is_said_twice_is_no_change() {
        let mut table = Table::default();
        table.set_meta(Meta::default());
        table.set_bid(&role(1), Some(Bid::default()));
        table.set_hardware(BTreeMap::from([("eth0".into(), [1; 6])]));
        let version = table.version();
        table.set_meta(Meta::default());
        table.set_bid(&role(1), Some(Bid::default()));
        table.set_bid(&role(2), None);
        table.set_claim(&role(1), Claim::None);
        table.set_hardware(BTreeMap::from([("eth0".into(), [1; 6])]));
        assert_eq!(table.version(), version);
    }

    #[test]
    fn removals_are_told_and_in_the_end_forgotten() {
        let mut from = Table::default();
        let mut behind = Table::default();
        from.set_meta(Meta::default());
        from.set_bid(&role(0), Some(Bid::default()));
        sync(&from, &mut behind, 0);
        let mut near = behind.clone();
        for n in 0..6000 {
            from.set_bid(&role(n), Some(Bid::default()));
            from.set_bid(&role(n), None);
            if n % 100 == 0 {
                sync(&from, &mut near, 0);
                same(&from, &near);
            }
        }
        assert!(from.stamps.len() < 2 * TOMBSTONES, "{} stamps of nothing", from.stamps.len());
        assert!(behind.roles.contains_key(&role(0)));
        assert!(from.since(&"n1".into(), Boot(1), behind.version, ROOM)[0].anew);
        sync(&from, &mut behind, 0);
        same(&from, &behind);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn receivers_converge(changes in prop::collection::vec((0_u16..20, 0_u8..5), 1..200), lose in 0_usize..5) {
            let mut from = Table::default();
            let mut to = Table::default();
            from.set_meta(Meta::default());
            for (n, what) in changes {
                match what {
                    0 => from.set_bid(&role(n), Some(Bid::default())),
                    1 => from.set_bid(&role(n), None),
                    2 => from.set_claim(&role(n), Claim::Free(Term(u64::from(n)))),
                    3 => from.set_claim(&role(n), Claim::None),
                    _ => {
                        sync(&from, &mut to, if lose == 1 { 0 } else { lose });
                        same(&from, &to);
                    }
                }
            }
        }
    }
}
