//! What must hold for any frame, with the receiver's rules written down a second time. Used by the property tests
//! and by the fuzz targets `arp` and `ndp`; not part of the API.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::arp::{self, Arp};
use super::ethernet::{self, EtherType};
use super::ndp::{self, Message};
use super::{FrameBuf, Invalid, MacAddr, ipv6};

const SOMEBODY: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x5b]);

/// Takes `frame` for one of ARP: it is accepted if and only if it is valid, and what is accepted comes back as it was.
///
/// # Panics
/// If not.
pub fn arp(frame: &[u8]) {
    let Some(payload) = payload(frame) else { return };
    let parsed = Arp::parse(payload);
    assert_eq!(parsed.is_ok(), is_valid_arp(payload), "{parsed:?}");
    let Ok(arp) = parsed else { return };
    let emitted = arp.emit();
    assert_eq!(Arp::parse(&emitted), Ok(arp));
    assert_eq!(
        emitted[2..],
        payload[2..arp::LEN],
        "all but the hardware type, of which two are taken for one"
    );
    let frame = arp.to_frame(SOMEBODY);
    let expected = ethernet::Header::new(SOMEBODY, arp.sender_mac, EtherType::ARP);
    assert_eq!(ethernet::Header::parse(frame.as_bytes()), Ok((expected, &emitted[..])));
}

fn is_valid_arp(packet: &[u8]) -> bool {
    let Some(packet) = packet.first_chunk::<{ arp::LEN }>() else { return false };
    let [_, hardware, rest @ ..] = packet;
    let (sender_mac, sender) = (&packet[8..14], [packet[14], packet[15], packet[16], packet[17]]);
    packet[0] == 0
        && [1, 6].contains(hardware)
        && rest[..4] == [8, 0, 6, 4]
        && [[0, 1], [0, 2]].contains(&[packet[6], packet[7]])
        && sender_mac[0] & 1 == 0
        && sender_mac != [0; 6]
        && sender[0] != 127
        && sender[0] >> 4 != 0xe
        && Ipv4Addr::from(sender) != Ipv4Addr::BROADCAST
}

/// Takes `frame` for one of Neighbor Discovery, as it is and with its checksum put right: a message is accepted if
/// and only if RFC 4861 §7.1 calls it valid, and what is accepted comes back as it was.
///
/// # Panics
/// If not.
pub fn ndp(frame: &[u8]) {
    let Some(payload) = payload(frame) else { return };
    let Ok((header, message)) = ipv6::Header::parse(payload) else { return };
    neighbor_message(&header, message);
    let mut right = message.to_vec();
    if let Some(field) = right.get_mut(2..4) {
        field.fill(0);
        let checksum = checksum(&header, &right);
        right[2..4].copy_from_slice(&checksum.to_be_bytes());
        neighbor_message(&header, &right);
    }
}

fn neighbor_message(header: &ipv6::Header, bytes: &[u8]) {
    let parsed = Message::parse(header, bytes);
    let Some(kind) = bytes.first().filter(|_| bytes.len() >= 4) else {
        return assert_eq!(parsed, Err(Invalid::Truncated));
    };
    if ![135, 136].contains(kind) {
        return assert_eq!(parsed, Ok(None));
    }
    assert_eq!(parsed.is_ok(), is_valid_neighbor_message(header, bytes), "{parsed:?}");
    let Ok(Some(message)) = parsed else { return };
    let frame = message.to_frame(header, SOMEBODY, MacAddr::BROADCAST);
    let (_, payload) = ethernet::Header::parse(frame.as_bytes()).expect("our own header");
    let (again, bytes) = ipv6::Header::parse(payload).expect("our own packet");
    assert_eq!((again, Message::parse(&again, bytes)), (*header, Ok(Some(message))));
}

/// RFC 4861 §7.1.1 and §7.1.2, line by line.
fn is_valid_neighbor_message(header: &ipv6::Header, message: &[u8]) -> bool {
    if header.hop_limit != 255 || message.len() < ndp::MIN_LEN || message[1] != 0 {
        return false;
    }
    let mut zeroed = message.to_vec();
    zeroed[2..4].fill(0);
    if message[2..4] != checksum(header, &zeroed).to_be_bytes() {
        return false;
    }
    let is_solicitation = message[0] == 135;
    let (is_target_group, mut names_source, mut options) =
        (message[8] == 0xff, false, &message[ndp::MIN_LEN..]);
    while !options.is_empty() {
        let length = options.get(1).map_or(0, |units| usize::from(*units) * 8);
        if length == 0 || length > options.len() {
            return false;
        }
        names_source |= options[0] == 1;
        options = &options[length..];
    }
    let destination = header.destination.octets();
    let to_solicited_node = destination[..13] == [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
    let is_unspecified = header.source == Ipv6Addr::UNSPECIFIED;
    !is_target_group
        && if is_solicitation {
            !is_unspecified || (to_solicited_node && !names_source)
        } else {
            destination[0] != 0xff || message[4] & 0x40 == 0
        }
}

/// RFC 1071 and RFC 8200 §8.1, for a message whose checksum field is zero.
fn checksum(header: &ipv6::Header, message: &[u8]) -> u16 {
    let mut bytes = [header.source.octets(), header.destination.octets()].concat();
    bytes.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend([0, 0, 0, ipv6::ICMPV6]);
    bytes.extend(message);
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// What `frame` carries; its header comes back as it was.
fn payload(frame: &[u8]) -> Option<&[u8]> {
    let Ok((header, payload)) = ethernet::Header::parse(frame) else {
        assert!(frame.len() < ethernet::HEADER_LEN + 4, "only what is cut is refused");
        return None;
    };
    let mut again = FrameBuf::new();
    header.emit(&mut again);
    assert_eq!(ethernet::Header::parse(again.as_bytes()), Ok((header, &[][..])));
    assert_eq!(again.as_bytes().len() + payload.len(), frame.len());
    Some(payload)
}
