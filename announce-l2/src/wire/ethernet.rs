//! Ethernet II frames (IEEE 802.3).
//!
//! ```text
//! 0         6        12      14
//! +---------+---------+-------+---------~
//! | dst MAC | src MAC | type  | payload
//! +---------+---------+-------+---------~
//! ```

use std::fmt;
use std::net::Ipv6Addr;

use pnet::packet::Packet as _;
use pnet::packet::ethernet::EthernetPacket;

use super::vlan::VlanTag;
use super::{FrameBuf, Invalid};

/// The length of the header, without a VLAN tag.
pub const HEADER_LEN: usize = 14;

/// A hardware address of Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All zero: no address.
    pub const ZERO: Self = Self([0; 6]);
    /// Everybody on the segment.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether this is a group: multicast or broadcast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether a host can have it: neither zero nor a group.
    pub const fn is_host(self) -> bool {
        !self.is_group() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// The group address for an IPv6 multicast address: 33:33 and its last four octets (RFC 2464 §7).
    pub const fn of_ipv6_group(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl From<pnet::util::MacAddr> for MacAddr {
    fn from(mac: pnet::util::MacAddr) -> Self {
        Self(mac.octets())
    }
}

impl From<MacAddr> for pnet::util::MacAddr {
    fn from(MacAddr([a, b, c, d, e, f]): MacAddr) -> Self {
        Self(a, b, c, d, e, f)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a frame carries (IANA "EtherType").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// Address Resolution Protocol.
    pub const ARP: Self = Self(0x0806);
    /// A customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: Self = Self(0x8100);
    /// A service VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: Self = Self(0x88a8);
    /// Internet Protocol, version 6.
    pub const IPV6: Self = Self(0x86dd);
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04x}", self.0)
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who is to receive it.
    pub destination: MacAddr,
    /// Who sent it.
    pub source: MacAddr,
    /// The outermost VLAN tag, if the frame has one.
    pub vlan: Option<VlanTag>,
    /// What the payload is.
    pub ethertype: EtherType,
}

impl Header {
    /// A header without a VLAN tag.
    pub const fn new(destination: MacAddr, source: MacAddr, ethertype: EtherType) -> Self {
        Self { destination, source, vlan: None, ethertype }
    }

    /// Splits a frame into its header and its payload. One VLAN tag is taken off; a second one shows as the
    /// [`ethertype`](Self::ethertype).
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), Invalid> {
        let packet = EthernetPacket::new(frame).ok_or(Invalid::Truncated)?;
        let mut header = Self {
            destination: packet.get_destination().into(),
            source: packet.get_source().into(),
            vlan: None,
            ethertype: EtherType(packet.get_ethertype().0),
        };
        let mut payload = frame.get(HEADER_LEN..).unwrap_or_default();
        if matches!(header.ethertype, EtherType::VLAN | EtherType::SERVICE_VLAN) {
            let (tag, ethertype, rest) = VlanTag::parse(payload)?;
            header.vlan = Some(tag);
            header.ethertype = ethertype;
            payload = rest;
        }
        debug_assert!(packet.payload().len() >= payload.len());
        Ok((header, payload))
    }

    /// Appends the header to `frame`.
    pub fn emit(&self, frame: &mut FrameBuf) {
        frame.extend(&self.destination.0);
        frame.extend(&self.source.0);
        if let Some(tag) = self.vlan {
            frame.extend(&EtherType::VLAN.0.to_be_bytes());
            frame.extend(&tag.emit());
        }
        frame.extend(&self.ethertype.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testutil::hex;

    #[test]
    fn a_plain_header() {
        let bytes = hex("ffffffffffff 020000000001 0806 c0ffee");
        let (header, payload) = Header::parse(&bytes).unwrap();
        assert_eq!(header, Header::new(MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 0, 1]), EtherType::ARP));
        assert_eq!(payload, hex("c0ffee"));
        let mut frame = FrameBuf::new();
        header.emit(&mut frame);
        assert_eq!(frame.as_bytes(), &bytes[..14]);
    }

    #[test]
    fn one_tag_is_taken_off_and_a_second_one_is_not() {
        let bytes = hex("ffffffffffff 020000000001 8100 6005 0806 c0ffee");
        let (header, payload) = Header::parse(&bytes).unwrap();
        assert_eq!(header.vlan.map(|tag| (tag.priority, tag.id)), Some((3, 5)));
        assert_eq!((header.ethertype, payload), (EtherType::ARP, &hex("c0ffee")[..]));
        let mut frame = FrameBuf::new();
        header.emit(&mut frame);
        assert_eq!(frame.as_bytes(), &bytes[..18]);

        let twice = hex("ffffffffffff 020000000001 88a8 0007 8100 0005 0806");
        let (header, _) = Header::parse(&twice).unwrap();
        assert_eq!((header.vlan.map(|tag| tag.id), header.ethertype), (Some(7), EtherType::VLAN));
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = hex("ffffffffffff 020000000001 8100 6005 0806");
        for len in 0..bytes.len() {
            assert_eq!(Header::parse(&bytes[..len]), Err(Invalid::Truncated), "{len} bytes");
        }
        assert!(Header::parse(&bytes).is_ok());
    }

    #[test]
    fn kinds_of_addresses() {
        assert!(MacAddr::BROADCAST.is_group() && !MacAddr::BROADCAST.is_host());
        assert!(!MacAddr::ZERO.is_host() && !MacAddr::ZERO.is_group());
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).is_host());
        let group = MacAddr::of_ipv6_group("ff02::1:ff00:abcd".parse().unwrap());
        assert_eq!(group.to_string(), "33:33:ff:00:ab:cd");
    }
}
