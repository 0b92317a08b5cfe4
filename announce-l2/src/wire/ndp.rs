//! Neighbor solicitations and advertisements (RFC 4861 §4.3, §4.4, §7.1).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! | type 135, 136 |   code = 0    |           checksum            |
//! +-+-+-+---------+---------------+-------------------------------+
//! |R|S|O|  reserved (the flags only in an advertisement)          |
//! +-+-+-+---------------------------------------------------------+
//! |                 target address, 16 octets                     |
//! +---------------------------------------------------------------+
//! |  options: type, length in units of 8 octets, data  ...
//! +---------------------------------------------------------------~
//! ```

use std::net::Ipv6Addr;

use pnet::packet::Packet as _;
use pnet::packet::icmpv6::{Icmpv6Packet, Icmpv6Types};

use super::{FrameBuf, Invalid, MacAddr, ethernet, ipv6};

/// The length of a message without options.
pub const MIN_LEN: usize = 24;
/// The longest message that this crate emits.
const MAX_LEN: usize = MIN_LEN + 8 + 8;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const NONCE: u8 = 14;

/// A message of address resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Who has the target?
    Solicitation(Solicitation),
    /// The target is here.
    Advertisement(Advertisement),
}

/// A neighbor solicitation (NS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Solicitation {
    /// The address asked for.
    pub target: Ipv6Addr,
    /// The asker's hardware address. A unicast solicitation may lack it (RFC 4861 §7.2.2).
    pub source_mac: Option<MacAddr>,
    /// Tells a sender its own solicitation when it is looped back (RFC 7527).
    pub nonce: Option<[u8; 6]>,
}

/// A neighbor advertisement (NA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Advertisement {
    /// R: the sender is a router.
    pub router: bool,
    /// S: answers a solicitation.
    pub solicited: bool,
    /// O: replaces what the receiver knows.
    pub overriding: bool,
    /// The address spoken of.
    pub target: Ipv6Addr,
    /// Where it is.
    pub target_mac: Option<MacAddr>,
}

impl Advertisement {
    /// What tells the segment that `target` is at `mac` now: O=1, S=0, with the target option. Without either of
    /// the two Linux keeps the old owner.
    pub const fn unsolicited(target: Ipv6Addr, mac: MacAddr) -> Self {
        Self { router: false, solicited: false, overriding: true, target, target_mac: Some(mac) }
    }

    /// The answer to a solicitation: O=1, S=1, with the target option (RFC 4861 §7.2.4).
    pub const fn answer(target: Ipv6Addr, mac: MacAddr) -> Self {
        Self { solicited: true, ..Self::unsolicited(target, mac) }
    }
}

/// An option of Neighbor Discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdOption<'a> {
    /// Its type.
    pub kind: u8,
    /// What follows type and length, padding included.
    pub data: &'a [u8],
}

/// Walks over options. After the first invalid one it ends.
#[derive(Clone, Debug)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Over the bytes that follow the target.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<NdOption<'a>, Invalid>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, rest) = self.0.split_first()?;
        // A length of zero would never end; the whole packet is to be dropped (RFC 4861 §4.6).
        let option = rest.first().filter(|units| **units > 0).and_then(|units| {
            let (option, rest) = self.0.split_at_checked(usize::from(*units) * 8)?;
            self.0 = rest;
            Some(NdOption { kind, data: option.get(2..)? })
        });
        if option.is_none() {
            self.0 = &[];
        }
        Some(option.ok_or(Invalid::OptionLength))
    }
}

impl NdOption<'_> {
    /// The link-layer address of an option that has one. Ethernet's is in an option of one unit (RFC 2464 §6).
    fn mac(&self) -> Option<MacAddr> {
        self.data.try_into().ok().map(MacAddr)
    }
}

impl Message {
    /// Parses an ICMPv6 message; `None` if it is valid and of another type.
    ///
    /// Checks all that RFC 4861 §7.1.1 and §7.1.2 tell a receiver to check. Options that are not known are passed
    /// over, and of two of a kind the first counts.
    pub fn parse(header: &ipv6::Header, message: &[u8]) -> Result<Option<Self>, Invalid> {
        let packet = Icmpv6Packet::new(message).ok_or(Invalid::Truncated)?;
        let kind = packet.get_icmpv6_type();
        if kind != Icmpv6Types::NeighborSolicit && kind != Icmpv6Types::NeighborAdvert {
            return Ok(None);
        }
        debug_assert_eq!(packet.packet().len(), message.len());
        if header.hop_limit != ipv6::HOP_LIMIT_ND {
            return Err(Invalid::HopLimit(header.hop_limit));
        }
        let code = packet.get_icmpv6_code().0;
        if code != 0 {
            return Err(Invalid::Code(code));
        }
        let (Some(&flags), Some(target), Some(options)) = (
            message.get(4),
            message.get(8..MIN_LEN).and_then(|octets| <[u8; 16]>::try_from(octets).ok()),
            message.get(MIN_LEN..),
        ) else {
            return Err(Invalid::Truncated);
        };
        if packet.get_checksum() != header.icmpv6_checksum(message) {
            return Err(Invalid::Checksum);
        }
        let target = Ipv6Addr::from(target);
        if target.is_multicast() {
            return Err(Invalid::MulticastTarget);
        }
        let (mut source_mac, mut target_mac, mut nonce) = (None, None, None);
        let mut source_named = false;
        for option in Options::new(options) {
            let option = option?;
            match option.kind {
                SOURCE_LINK_LAYER => {
                    source_named = true;
                    source_mac = source_mac.or(option.mac());
                }
                TARGET_LINK_LAYER => target_mac = target_mac.or(option.mac()),
                NONCE => nonce = nonce.or(option.data.try_into().ok()),
                _ => {}
            }
        }
        if kind == Icmpv6Types::NeighborSolicit {
            if header.source.is_unspecified()
                && (source_named || !ipv6::is_solicited_node(header.destination))
            {
                return Err(Invalid::Unspecified);
            }
            return Ok(Some(Self::Solicitation(Solicitation { target, source_mac, nonce })));
        }
        let solicited = flags & SOLICITED != 0;
        if solicited && header.destination.is_multicast() {
            return Err(Invalid::SolicitedMulticast);
        }
        Ok(Some(Self::Advertisement(Advertisement {
            router: flags & ROUTER != 0,
            solicited,
            overriding: flags & OVERRIDE != 0,
            target,
            target_mac,
        })))
    }

    /// The whole frame, from `source_mac` to `destination_mac`.
    pub fn to_frame(&self, header: &ipv6::Header, source_mac: MacAddr, destination_mac: MacAddr) -> FrameBuf {
        let mut message = [0; MAX_LEN];
        let len = self.fill(&mut message);
        let message = &mut message[..len];
        let checksum = header.icmpv6_checksum(message).to_be_bytes();
        message[2..4].copy_from_slice(&checksum);

        let mut frame = FrameBuf::new();
        ethernet::Header::new(destination_mac, source_mac, ethernet::EtherType::IPV6).emit(&mut frame);
        header.emit(u16::try_from(len).unwrap_or(u16::MAX), &mut frame);
        frame.extend(message);
        frame
    }

    /// Writes the message without its checksum, and tells its length.
    fn fill(&self, message: &mut [u8; MAX_LEN]) -> usize {
        let (kind, flags, target) = match self {
            Self::Solicitation(ns) => (Icmpv6Types::NeighborSolicit, 0, ns.target),
            Self::Advertisement(na) => {
                let flag = |set: bool, bit: u8| if set { bit } else { 0 };
                let flags =
                    flag(na.router, ROUTER) | flag(na.solicited, SOLICITED) | flag(na.overriding, OVERRIDE);
                (Icmpv6Types::NeighborAdvert, flags, na.target)
            }
        };
        message[0] = kind.0;
        message[4] = flags;
        message[8..MIN_LEN].copy_from_slice(&target.octets());
        let mut len = MIN_LEN;
        let mut option = |kind: u8, data: Option<[u8; 6]>| {
            if let Some(data) = data {
                message[len..len + 2].copy_from_slice(&[kind, 1]);
                message[len + 2..len + 8].copy_from_slice(&data);
                len += 8;
            }
        };
        match self {
            Self::Solicitation(ns) => {
                option(SOURCE_LINK_LAYER, ns.source_mac.map(|mac| mac.0));
                option(NONCE, ns.nonce);
            }
            Self::Advertisement(na) => option(TARGET_LINK_LAYER, na.target_mac.map(|mac| mac.0)),
        }
        len
    }
}

#[cfg(test)]
mod tests;
