//! Bytes to values and back: the messages of RFC 4271 and what extends them.
//!
//! Nothing here does I/O, knows the time, keeps state or panics, whatever the input; a decoded value is never
//! larger than a small multiple of the message that it came from. What a message means may depend on what was
//! negotiated: that is the [`Context`]. A decoder's error says which action the protocol calls for, with the
//! NOTIFICATION to send where that is a reset of the session.
//!
//! To add a path attribute: a variant in [`Attribute`], its line in `attribute::FLAGS`, an arm each in its
//! decoder and encoder.

mod attribute;
mod capability;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod check;
mod message;
mod nlri;
pub mod notification;
mod open;
mod pack;
mod reader;
mod refresh;
#[cfg(test)]
mod tests;
mod update;

use std::fmt;

use lbcore::addr::Family;

pub use attribute::{
    Aggregator, AsPath, Attribute, MpReach, MpUnreach, NextHop, Origin, Segment, SegmentKind,
};
pub use capability::Capability;
pub use message::{DecodeError, EncodeError, Fault, Faults, Header, Message, MessageType};
pub use nlri::Prefixes;
pub use notification::Notification;
pub use open::Open;
pub use pack::{Template, withdraw};
pub use refresh::RouteRefresh;
pub use update::Update;

/// The length of the fixed header (RFC 4271 §4.1).
pub const HEADER_LENGTH: usize = 19;
/// The length of the longest message (RFC 4271 §4.1).
pub const MAX_MESSAGE_LENGTH: usize = 4096;
/// Stands for an AS number that two octets cannot hold (RFC 6793).
pub const AS_TRANS: u16 = 23456;

/// What decoding and encoding depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// Whether AS numbers in AS_PATH and AGGREGATOR take four octets (RFC 6793).
    pub four_octet_as: bool,
    /// Whether the peer is in our own AS.
    pub peering: Peering,
    /// The address families in use on the session.
    pub families: Families,
    /// Whether AS_SETs are let through; RFC 9774 has them treated as withdrawn.
    pub as_sets: bool,
}

impl Context {
    /// A session before anything is negotiated: IPv4 unicast and AS numbers of two octets.
    pub const fn new(peering: Peering) -> Self {
        Self { four_octet_as: false, peering, families: Families::V4, as_sets: false }
    }

    /// The same with AS numbers of four octets.
    #[must_use]
    pub const fn four_octet_as(self, four_octet_as: bool) -> Self {
        Self { four_octet_as, ..self }
    }

    /// The same with these address families.
    #[must_use]
    pub const fn families(self, families: Families) -> Self {
        Self { families, ..self }
    }

    /// The same that lets AS_SETs through, or not.
    #[must_use]
    pub const fn as_sets(self, as_sets: bool) -> Self {
        Self { as_sets, ..self }
    }
}

/// Whether a peer is in our own AS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peering {
    /// It is (iBGP).
    Internal,
    /// It is not (eBGP).
    External,
}

/// A set of address families, each for unicast.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Families(u8);

impl Families {
    /// None.
    pub const NONE: Self = Self(0);
    /// IPv4 alone.
    pub const V4: Self = Self(1);
    /// IPv6 alone.
    pub const V6: Self = Self(2);
    /// Both.
    pub const ALL: Self = Self(3);

    /// The one family.
    pub const fn only(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4,
            Family::V6 => Self::V6,
        }
    }

    /// Whether `family` is in it.
    pub const fn contains(self, family: Family) -> bool {
        self.0 & Self::only(family).0 != 0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The families, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        families.into_iter().fold(Self::NONE, |set, family| set.union(Self::only(family)))
    }
}

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// An AFI and a SAFI (RFC 4760), known or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressFamily {
    /// Address Family Identifier.
    pub afi: u16,
    /// Subsequent Address Family Identifier.
    pub safi: u8,
}

impl AddressFamily {
    /// IPv4 unicast.
    pub const IPV4_UNICAST: Self = Self { afi: 1, safi: 1 };
    /// IPv6 unicast.
    pub const IPV6_UNICAST: Self = Self { afi: 2, safi: 1 };

    /// The unicast family that it names, if it is one of the two.
    pub fn unicast(self) -> Option<Family> {
        match self {
            Self::IPV4_UNICAST => Some(Family::V4),
            Self::IPV6_UNICAST => Some(Family::V6),
            _ => None,
        }
    }
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::IPV4_UNICAST,
            Family::V6 => Self::IPV6_UNICAST,
        }
    }
}

#[cfg(test)]
pub(crate) mod test_util {
    use super::*;

    /// Bytes from hex; blanks are ignored.
    pub(crate) fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap() as u8).collect();
        assert!(digits.len().is_multiple_of(2), "odd number of digits");
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// A message of this type with this body.
    pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xff; 16];
        frame.extend(u16::try_from(HEADER_LENGTH + body.len()).unwrap().to_be_bytes());
        frame.push(kind);
        frame.extend(body);
        frame
    }

    /// A session with everything negotiated.
    pub(crate) fn modern(peering: Peering) -> Context {
        Context::new(peering).four_octet_as(true).families(Families::ALL)
    }
}
