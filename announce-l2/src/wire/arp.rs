//! ARP for IPv4 over Ethernet (RFC 826), with the probes and announcements of RFC 5227.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |      hardware type = 1        |    protocol type = 0x0800     |
//! +---------------+---------------+-------------------------------+
//! | hw length = 6 |proto length=4 |          operation            |
//! +---------------+---------------+-------------------------------+
//! |             sender hardware address (SHA), 6 octets           |
//! +                               +-------------------------------+
//! |                               |  sender protocol address (SPA)|
//! +-------------------------------+-------------------------------+
//! |           SPA, cont.          |   target hardware address     |
//! +-------------------------------+                               +
//! |                        (THA), 6 octets                        |
//! +---------------------------------------------------------------+
//! |                 target protocol address (TPA)                 |
//! +---------------------------------------------------------------+
//! ```

use std::net::Ipv4Addr;

use pnet::packet::arp::{ArpHardwareTypes, ArpOperation, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::EtherTypes;

use super::{FrameBuf, Invalid, MacAddr, ethernet};

/// The length of an ARP packet for IPv4 over Ethernet.
pub const LEN: usize = 28;

/// IEEE 802 networks; some senders use it on Ethernet, and Linux accepts it there (`net/ipv4/arp.c`).
const HARDWARE_IEEE802: u16 = 6;

/// What an ARP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Who has the target address?
    Request = 1,
    /// The sender has the sender address.
    Reply = 2,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// Sender hardware address (SHA).
    pub sender_mac: MacAddr,
    /// Sender protocol address (SPA); unspecified in a probe.
    pub sender: Ipv4Addr,
    /// Target hardware address (THA); means nothing in a request.
    pub target_mac: MacAddr,
    /// Target protocol address (TPA).
    pub target: Ipv4Addr,
}

impl Arp {
    /// The announcement of RFC 5227 §2.3: a request with SPA = TPA and THA = 0. Of the gratuitous forms this is the
    /// one that Linux honours at once, whatever the age of its entry; a reply whose THA is not SHA is ignored for a
    /// second after the last update.
    pub const fn announcement(mac: MacAddr, address: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Request,
            sender_mac: mac,
            sender: address,
            target_mac: MacAddr::ZERO,
            target: address,
        }
    }

    /// A request for `target` that names `address` as its sender: by RFC 826's merge rule its receiver learns where
    /// `address` is, even one that ignores gratuitous ARP.
    pub const fn directed(mac: MacAddr, address: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Request,
            sender_mac: mac,
            sender: address,
            target_mac: MacAddr::ZERO,
            target,
        }
    }

    /// The probe of RFC 5227 §2.1.1: a request for `address` without a sender.
    pub const fn probe(mac: MacAddr, address: Ipv4Addr) -> Self {
        Self::directed(mac, Ipv4Addr::UNSPECIFIED, address)
    }

    /// The answer to this request: its target is at `mac`.
    #[must_use]
    pub const fn reply(&self, mac: MacAddr) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
        }
    }

    /// Whether this asks whether an address is free (RFC 5227 §1.1).
    pub fn is_probe(&self) -> bool {
        self.operation == Operation::Request && self.sender.is_unspecified()
    }

    /// Parses the payload of a frame. Bytes after the packet are padding.
    pub fn parse(payload: &[u8]) -> Result<Self, Invalid> {
        let packet = ArpPacket::new(payload).ok_or(Invalid::Truncated)?;
        let hardware = packet.get_hardware_type();
        if (hardware != ArpHardwareTypes::Ethernet && hardware.0 != HARDWARE_IEEE802)
            || packet.get_protocol_type() != EtherTypes::Ipv4
            || packet.get_hw_addr_len() != 6
            || packet.get_proto_addr_len() != 4
        {
            return Err(Invalid::NotEthernetIpv4);
        }
        let operation = match packet.get_operation().0 {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => return Err(Invalid::Operation(other)),
        };
        let arp = Self {
            operation,
            sender_mac: packet.get_sender_hw_addr().into(),
            sender: packet.get_sender_proto_addr().octets().into(),
            target_mac: packet.get_target_hw_addr().into(),
            target: packet.get_target_proto_addr().octets().into(),
        };
        if !arp.sender_mac.is_host()
            || arp.sender.is_multicast()
            || arp.sender.is_broadcast()
            || arp.sender.is_loopback()
        {
            return Err(Invalid::Sender);
        }
        Ok(arp)
    }

    /// The bytes of the packet.
    pub fn emit(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        if let Some(mut packet) = MutableArpPacket::new(&mut bytes) {
            packet.set_hardware_type(ArpHardwareTypes::Ethernet);
            packet.set_protocol_type(EtherTypes::Ipv4);
            packet.set_hw_addr_len(6);
            packet.set_proto_addr_len(4);
            packet.set_operation(ArpOperation(self.operation as u16));
            packet.set_sender_hw_addr(self.sender_mac.into());
            packet.set_sender_proto_addr(self.sender.octets().into());
            packet.set_target_hw_addr(self.target_mac.into());
            packet.set_target_proto_addr(self.target.octets().into());
        }
        bytes
    }

    /// The whole frame, to `destination`.
    pub fn to_frame(&self, destination: MacAddr) -> FrameBuf {
        let mut frame = FrameBuf::new();
        ethernet::Header::new(destination, self.sender_mac, ethernet::EtherType::ARP).emit(&mut frame);
        frame.extend(&self.emit());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testutil::hex;

    const US: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0a]);
    const THEM: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0b]);
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    #[test]
    fn each_form_has_its_bytes() {
        let request = Arp::directed(THEM, HOST, VIP);
        for (what, packet, bytes) in [
            (
                "announcement (RFC 5227): request, SPA = TPA, THA = 0",
                Arp::announcement(US, VIP),
                "0001 0800 06 04 0001 02000000000a c000020a 000000000000 c000020a",
            ),
            (
                "directed request: SPA = ours, TPA = the receiver's",
                Arp::directed(US, VIP, HOST),
                "0001 0800 06 04 0001 02000000000a c000020a 000000000000 c0000201",
            ),
            (
                "probe (RFC 5227): SPA = 0, THA = 0",
                Arp::probe(US, VIP),
                "0001 0800 06 04 0001 02000000000a 00000000 000000000000 c000020a",
            ),
            (
                "reply (RFC 826): SPA = the requested TPA, THA and TPA = the requester's",
                request.reply(US),
                "0001 0800 06 04 0002 02000000000a c000020a 02000000000b c0000201",
            ),
            (
                "reply to a probe: TPA = 0.0.0.0",
                Arp::probe(THEM, VIP).reply(US),
                "0001 0800 06 04 0002 02000000000a c000020a 02000000000b 00000000",
            ),
        ] {
            let bytes = hex(bytes);
            assert_eq!(packet.emit()[..], bytes[..], "{what}");
            assert_eq!(Arp::parse(&bytes), Ok(packet), "{what}");
        }
    }

    #[test]
    fn the_frame_carries_the_sender_and_the_destination() {
        let frame = Arp::announcement(US, VIP).to_frame(MacAddr::BROADCAST);
        let expected = hex("ffffffffffff 02000000000a 0806
             0001 0800 06 04 0001 02000000000a c000020a 000000000000 c000020a");
        assert_eq!(frame.as_bytes(), expected);
    }

    #[test]
    fn what_is_refused_and_why() {
        let good = Arp::directed(THEM, HOST, VIP).emit();
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = good;
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            Arp::parse(&changed)
        };
        for (what, result, expected) in [
            ("hardware type 7", with(0, &[0, 7]), Err(Invalid::NotEthernetIpv4)),
            ("protocol IPv6", with(2, &[0x86, 0xdd]), Err(Invalid::NotEthernetIpv4)),
            ("hardware length 8", with(4, &[8]), Err(Invalid::NotEthernetIpv4)),
            ("protocol length 16", with(5, &[16]), Err(Invalid::NotEthernetIpv4)),
            ("operation 3 (RARP)", with(6, &[0, 3]), Err(Invalid::Operation(3))),
            ("operation 0", with(6, &[0, 0]), Err(Invalid::Operation(0))),
            ("operation 0x0101", with(6, &[1, 1]), Err(Invalid::Operation(0x101))),
            ("SHA a group", with(8, &[0x01]), Err(Invalid::Sender)),
            ("SHA zero", with(8, &[0; 6]), Err(Invalid::Sender)),
            ("SPA multicast", with(14, &[224, 0, 0, 18]), Err(Invalid::Sender)),
            ("SPA broadcast", with(14, &[255; 4]), Err(Invalid::Sender)),
            ("SPA loopback", with(14, &[127, 0, 0, 1]), Err(Invalid::Sender)),
        ] {
            assert_eq!(result, expected, "{what}");
        }
        assert_eq!(with(0, &[0, 6]), Arp::parse(&good), "hardware type 6 is taken for Ethernet");
        for len in 0..LEN {
            assert_eq!(Arp::parse(&good[..len]), Err(Invalid::Truncated), "{len} bytes");
        }
        let mut padded = good.to_vec();
        padded.resize(46, 0xee);
        assert_eq!(Arp::parse(&padded), Arp::parse(&good), "padding is no part of the packet");
    }
}
