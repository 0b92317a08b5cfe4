//! A node's state on the wire: entries with the version at which each last changed.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::BufMut;
use lbcore::elect::{Bid, Term};
use lbcore::id::{InterfaceName, NodeName, Role};

use super::{Boot, MAX_BODY, Reader, WireError, put_name};

/// The longest name of a [`Role::Named`] that is elected, in bytes.
pub const MAX_ROLE_NAME: usize = 500;

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Key {
    /// The node itself.
    Meta,
    /// One of its interfaces.
    Hardware(InterfaceName),
    /// A role.
    Role(Role),
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// About the node.
    Meta(Meta),
    /// The hardware address of the interface; `None` if it is gone.
    Hardware(Option<[u8; 6]>),
    /// The node's word on the role; empty if it has none.
    Role(RoleEntry),
}

/// A node's word on itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// It knows the current terms, and may own.
    pub settled: bool,
    /// It is about to end, and owns nothing any more.
    pub leaving: bool,
    /// It gives everything away.
    pub draining: bool,
}

/// A node's word on a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleEntry {
    /// Its bid.
    pub bid: Option<Bid>,
    /// Its claim.
    pub claim: Claim,
}

impl RoleEntry {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.bid.is_none() && self.claim == Claim::None
    }
}

/// A node's claim on a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Claim {
    /// None.
    #[default]
    None,
    /// The node owns the role.
    Holds(Term),
    /// The role is free as of the end of this term, and `to` is to own it under the next one.
    Offered {
        /// The term that ended.
        term: Term,
        /// The successor.
        to: NodeName,
    },
    /// The role is free as of the end of this term.
    Free(Term),
}

impl Claim {
    /// The term it speaks of; zero for none.
    pub fn term(&self) -> Term {
        match self {
            Self::None => Term(0),
            Self::Holds(term) | Self::Offered { term, .. } | Self::Free(term) => *term,
        }
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The version at which it got its value.
    pub stamp: u64,
    /// What it is about.
    pub key: Key,
    /// What it says.
    pub value: Value,
}

/// A part of a node's state: all entries with a stamp above `from` and up to `to`, by stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// Whose state.
    pub origin: NodeName,
    /// Which run of it.
    pub boot: Boot,
    /// Applies to a receiver that has at least this version.
    pub from: u64,
    /// The version that the receiver has afterwards.
    pub to: u64,
    /// The version of the whole.
    pub latest: u64,
    /// Whether this begins anew, so that what the receiver has of earlier goes.
    pub anew: bool,
    /// Whether the sender now waits for a [`Fetch`](super::Fetch) before it sends the rest.
    pub pauses: bool,
    /// The entries.
    pub entries: Vec<Entry>,
}

mod bit {
    pub(super) const BID: u8 = 0x01;
    pub(super) const ELIGIBLE: u8 = 0x02;
    pub(super) const DRAINING: u8 = 0x04;
    /// Preference and weight follow: they are not the default ones.
    pub(super) const WEIGHED: u8 = 0x08;
    pub(super) const CLAIM: u8 = 0x30;
    pub(super) const HOLDS: u8 = 0x10;
    pub(super) const OFFERED: u8 = 0x20;
    pub(super) const FREE: u8 = 0x30;
    pub(super) const ALL: u8 = 0x3f;
}

mod tag {
    pub(super) const META: u8 = 0;
    pub(super) const HARDWARE: u8 = 1;
    pub(super) const V4: u8 = 4;
    pub(super) const V6: u8 = 6;
    pub(super) const NAMED: u8 = 7;
}

impl Entries {
    /// The room for entries about `origin` in a datagram that `sender` sends.
    pub(crate) fn room(sender: &NodeName, origin: &NodeName) -> usize {
        let sender = crate::MAX_NODE_NAME.saturating_sub(sender.as_str().len());
        let fixed = 1 + origin.as_str().len() + 16 + 8 + 8 + 8 + 1 + 2;
        (MAX_BODY + sender).saturating_sub(fixed)
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (origin, boot) = (reader.node()?, reader.boot()?);
        let (from, to, latest) = (reader.u64()?, reader.u64()?, reader.u64()?);
        if from > to || to > latest {
            return Err(WireError::Malformed("order of versions"));
        }
        let flags = reader.u8()?;
        if flags > 3 {
            return Err(WireError::Malformed("flags"));
        }
        let count = usize::from(reader.u16()?);
        // An entry has six bytes at least: a forged count reserves no more than what came.
        let mut entries = Vec::with_capacity(count.min(reader.left() / 6));
        let mut last = from;
        for _ in 0..count {
            let entry = Entry::parse(reader, from)?;
            if entry.stamp <= last || entry.stamp > to {
                return Err(WireError::Malformed("order of stamps"));
            }
            last = entry.stamp;
            entries.push(entry);
        }
        Ok(Self { origin, boot, from, to, latest, anew: flags & 1 != 0, pauses: flags & 2 != 0, entries })
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        put_name(out, self.origin.as_str());
        out.put_u128(self.boot.0);
        out.put_u64(self.from);
        out.put_u64(self.to);
        out.put_u64(self.latest);
        out.put_u8(u8::from(self.anew) | u8::from(self.pauses) << 1);
        out.put_u16(u16::try_from(self.entries.len()).unwrap_or(u16::MAX));
        for entry in &self.entries {
            entry.emit(out, self.from);
        }
    }
}

impl Entry {
    fn parse(reader: &mut Reader<'_>, base: u64) -> Result<Self, WireError> {
        let stamp =
            base.checked_add(reader.u32()?.into()).ok_or(WireError::Malformed("stamp of an entry"))?;
        let role = match reader.u8()? {
            tag::META => {
                let flags = reader.u8()?;
                if flags > 7 {
                    return Err(WireError::Malformed("flags of a node"));
                }
                let meta =
                    Meta { settled: flags & 1 != 0, leaving: flags & 2 != 0, draining: flags & 4 != 0 };
                return Ok(Self { stamp, key: Key::Meta, value: Value::Meta(meta) });
            }
            tag::HARDWARE => {
                let interface = InterfaceName::from(reader.name()?);
                let mac = if reader.flag()? { Some(reader.mac()?) } else { None };
                return Ok(Self { stamp, key: Key::Hardware(interface), value: Value::Hardware(mac) });
            }
            tag::V4 => Role::Address(IpAddr::V4(reader.v4()?)),
            tag::V6 => Role::Address(IpAddr::V6(reader.v6()?)),
            tag::NAMED => {
                let length = usize::from(reader.u16()?);
                if length > MAX_ROLE_NAME {
                    return Err(WireError::Malformed("length of a role's name"));
                }
                Role::Named(Arc::from(reader.text(length)?))
            }
            _ => return Err(WireError::Malformed("kind of entry")),
        };
        Ok(Self { stamp, key: Key::Role(role), value: Value::Role(RoleEntry::parse(reader)?) })
    }

    fn emit(&self, out: &mut Vec<u8>, base: u64) {
        out.put_u32(u32::try_from(self.stamp.saturating_sub(base)).unwrap_or(u32::MAX));
        match &self.key {
            Key::Meta => out.put_u8(tag::META),
            Key::Hardware(interface) => {
                out.put_u8(tag::HARDWARE);
                put_name(out, interface.as_str());
            }
            Key::Role(Role::Address(IpAddr::V4(address))) => {
                out.put_u8(tag::V4);
                out.put_slice(&address.octets());
            }
            Key::Role(Role::Address(IpAddr::V6(address))) => {
                out.put_u8(tag::V6);
                out.put_slice(&address.octets());
            }
            Key::Role(role) => {
                let name = role.to_string();
                out.put_u8(tag::NAMED);
                out.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
                out.put_slice(name.as_bytes());
            }
        }
        match &self.value {
            Value::Meta(meta) => out
                .put_u8(u8::from(meta.settled) | u8::from(meta.leaving) << 1 | u8::from(meta.draining) << 2),
            Value::Hardware(mac) => {
                out.put_u8(u8::from(mac.is_some()));
                out.put_slice(mac.as_ref().map_or(&[], |mac| mac.as_slice()));
            }
            Value::Role(entry) => entry.emit(out),
        }
    }

    /// No less than the bytes that it takes.
    pub(crate) fn wire_len(&self) -> usize {
        let key = match &self.key {
            Key::Meta => 0,
            Key::Hardware(interface) => 1 + interface.as_str().len(),
            Key::Role(Role::Address(IpAddr::V4(_))) => 4,
            Key::Role(Role::Address(IpAddr::V6(_))) => 16,
            Key::Role(Role::Named(name)) => 2 + name.len(),
            Key::Role(_) => 2 + MAX_ROLE_NAME,
        };
        let value = match &self.value {
            Value::Meta(_) => 1,
            Value::Hardware(_) => 7,
            Value::Role(entry) => {
                let to = match &entry.claim {
                    Claim::Offered { to, .. } => 1 + to.as_str().len(),
                    _ => 0,
                };
                1 + 8 + 8 + to
            }
        };
        4 + 1 + key + value
    }
}

impl RoleEntry {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let flags = reader.u8()?;
        let bids = flags & bit::BID != 0;
        if flags & !bit::ALL != 0 || (!bids && flags & !bit::CLAIM != 0) {
            return Err(WireError::Malformed("flags of a role"));
        }
        let bid = if bids {
            let mut bid = Bid::default();
            bid.eligible = flags & bit::ELIGIBLE != 0;
            bid.draining = flags & bit::DRAINING != 0;
            if flags & bit::WEIGHED != 0 {
                bid.preference = reader.u32()?;
                bid.weight = reader.u32()?;
            }
            Some(bid)
        } else {
            None
        };
        let claim = match flags & bit::CLAIM {
            bit::HOLDS => Claim::Holds(Term(reader.u64()?)),
            bit::OFFERED => Claim::Offered { term: Term(reader.u64()?), to: reader.node()? },
            bit::FREE => Claim::Free(Term(reader.u64()?)),
            _ => Claim::None,
        };
        Ok(Self { bid, claim })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let mut flags = 0;
        let mut weighed = None;
        if let Some(bid) = self.bid {
            flags |= bit::BID;
            flags |= if bid.eligible { bit::ELIGIBLE } else { 0 };
            flags |= if bid.draining { bit::DRAINING } else { 0 };
            let plain = Bid::default();
            if (bid.preference, bid.weight) != (plain.preference, plain.weight) {
                flags |= bit::WEIGHED;
                weighed = Some(bid);
            }
        }
        flags |= match self.claim {
            Claim::None => 0,
            Claim::Holds(_) => bit::HOLDS,
            Claim::Offered { .. } => bit::OFFERED,
            Claim::Free(_) => bit::FREE,
        };
        out.put_u8(flags);
        if let Some(bid) = weighed {
            out.put_u32(bid.preference);
            out.put_u32(bid.weight);
        }
        if self.claim != Claim::None {
            out.put_u64(self.claim.term().0);
        }
        if let Claim::Offered { to, .. } = &self.claim {
            put_name(out, to.as_str());
        }
    }
}
