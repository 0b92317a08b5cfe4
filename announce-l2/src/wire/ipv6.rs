//! The IPv6 header (RFC 8200 §3).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+---------------+---------------------------------------+
//! |version| traffic class |              flow label               |
//! +-------+---------------+-------+---------------+---------------+
//! |        payload length         |  next header  |   hop limit   |
//! +-------------------------------+---------------+---------------+
//! |                     source, 16 octets                         |
//! +---------------------------------------------------------------+
//! |                   destination, 16 octets                      |
//! +---------------------------------------------------------------+
//! ```

use std::net::Ipv6Addr;

use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet::util::ipv6_checksum;

use super::{FrameBuf, Invalid};

/// The length of the header.
pub const HEADER_LEN: usize = 40;
/// The number of ICMPv6 as a next header.
pub const ICMPV6: u8 = 58;
/// The hop limit of Neighbor Discovery, which shows that no router forwarded the packet.
pub const HOP_LIMIT_ND: u8 = 255;
/// All nodes on the link (RFC 4291 §2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// All routers on the segment.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// The protocol of the payload.
    pub next_header: u8,
    /// How many routers may still forward it.
    pub hop_limit: u8,
    /// The sender.
    pub source: Ipv6Addr,
    /// The receiver.
    pub destination: Ipv6Addr,
}

impl Header {
    /// A packet of Neighbor Discovery.
    pub const fn nd(source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self { next_header: ICMPV6, hop_limit: HOP_LIMIT_ND, source, destination }
    }

    /// Splits the payload of a frame into the header and its payload. Bytes after the packet are padding.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), Invalid> {
        let packet = Ipv6Packet::new(bytes).ok_or(Invalid::Truncated)?;
        if packet.get_version() != 6 {
            return Err(Invalid::Version);
        }
        let end = HEADER_LEN + usize::from(packet.get_payload_length());
        let payload = bytes.get(HEADER_LEN..end).ok_or(Invalid::Truncated)?;
        let header = Self {
            next_header: packet.get_next_header().0,
            hop_limit: packet.get_hop_limit(),
            source: packet.get_source().octets().into(),
            destination: packet.get_destination().octets().into(),
        };
        Ok((header, payload))
    }

    /// Appends the header of a packet with `payload_len` bytes of payload to `frame`.
    pub fn emit(&self, payload_len: u16, frame: &mut FrameBuf) {
        let mut bytes = [0; HEADER_LEN];
        if let Some(mut packet) = MutableIpv6Packet::new(&mut bytes) {
            packet.set_version(6);
            packet.set_payload_length(payload_len);
            packet.set_next_header(IpNextHeaderProtocol(self.next_header));
            packet.set_hop_limit(self.hop_limit);
            packet.set_source(self.source.octets().into());
            packet.set_destination(self.destination.octets().into());
        }
        frame.extend(&bytes);
    }

    /// The checksum of an ICMPv6 message (RFC 4443 §2.3); the checksum field within counts as zero.
    pub fn icmpv6_checksum(&self, message: &[u8]) -> u16 {
        let (source, destination) = (self.source.octets().into(), self.destination.octets().into());
        ipv6_checksum(message, 1, &[], &source, &destination, IpNextHeaderProtocols::Icmpv6)
    }
}

/// The solicited-node group of `address`: ff02::1:ff and its last three octets (RFC 4291 §2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, (b as u16) << 8 | c as u16)
}

/// Whether `address` is a solicited-node group.
pub const fn is_solicited_node(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    matches!(segments, [0xff02, 0, 0, 0, 0, 1, high, _] if high & 0xff00 == 0xff00)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testutil::hex;

    #[test]
    fn header_both_ways() {
        let bytes = hex("6000 0000 0004 3a ff
            20010db8000000000000000000000001
            ff020000000000000000000000000001 01020304 eeee");
        let (header, payload) = Header::parse(&bytes).unwrap();
        assert_eq!(header, Header::nd("2001:db8::1".parse().unwrap(), ALL_NODES));
        assert_eq!(payload, [1, 2, 3, 4], "the padding is left out");
        let mut frame = FrameBuf::new();
        header.emit(4, &mut frame);
        assert_eq!(frame.as_bytes(), &bytes[..40]);
    }

    #[test]
    fn what_is_refused() {
        let mut bytes = hex("6000 0000 0004 3a ff
            20010db8000000000000000000000001
            ff020000000000000000000000000001 01020304");
        for len in 0..bytes.len() {
            assert_eq!(Header::parse(&bytes[..len]), Err(Invalid::Truncated), "{len} bytes");
        }
        bytes[0] = 0x45;
        assert_eq!(Header::parse(&bytes), Err(Invalid::Version));
    }

    #[test]
    fn solicited_node_groups() {
        let group = solicited_node("2001:db8::12:3456:789a".parse().unwrap());
        assert_eq!(group, "ff02::1:ff56:789a".parse::<Ipv6Addr>().unwrap());
        assert!(is_solicited_node(group));
        for other in ["ff02::1", "ff02::1:fe56:789a", "ff05::1:ff56:789a", "2001:db8::1"] {
            assert!(!is_solicited_node(other.parse().unwrap()), "{other}");
        }
    }
}
