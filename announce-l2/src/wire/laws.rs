//! What holds for all bytes and all values, beside other opinions: smoltcp's and etherparse's implementations of the
//! same formats.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire as other;

use super::arp::{Arp, Operation};
use super::ndp::{Advertisement, Message, Options, Solicitation};
use super::{Invalid, MacAddr, check, ethernet, ipv6};

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(|octets| {
        MacAddr([octets[0] & 0xfe | 2, octets[1], octets[2], octets[3], octets[4], octets[5]])
    })
}

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    (1u8..=223, any::<[u8; 3]>())
        .prop_filter("loopback", |(first, _)| *first != 127)
        .prop_map(|(first, [a, b, c])| Ipv4Addr::new(first, a, b, c))
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<[u8; 15]>().prop_map(|rest| {
        let mut octets = [0x20; 16];
        octets[1..].copy_from_slice(&rest);
        octets.into()
    })
}

fn arp() -> impl Strategy<Value = Arp> {
    let operation = prop_oneof![Just(Operation::Request), Just(Operation::Reply)];
    let sender = prop_oneof![4 => v4(), 1 => Just(Ipv4Addr::UNSPECIFIED)];
    (operation, mac(), sender, any::<[u8; 6]>(), any::<[u8; 4]>()).prop_map(
        |(operation, sender_mac, sender, target_mac, target)| Arp {
            operation,
            sender_mac,
            sender,
            target_mac: target_mac.into(),
            target: target.into(),
        },
    )
}

/// A message with a header that suits it.
fn message() -> impl Strategy<Value = (ipv6::Header, Message)> {
    let solicitation =
        (v6(), v6(), proptest::option::of(mac()), proptest::option::of(any::<[u8; 6]>()), any::<bool>())
            .prop_map(|(source, target, source_mac, nonce, group)| {
                let destination = if group { ipv6::solicited_node(target) } else { target };
                let message = Message::Solicitation(Solicitation { target, source_mac, nonce });
                (ipv6::Header::nd(source, destination), message)
            });
    let advertisement = (v6(), v6(), proptest::option::of(mac()), any::<[bool; 3]>()).prop_map(
        |(source, target, target_mac, [router, solicited, overriding])| {
            let destination = if solicited { source } else { ipv6::ALL_NODES };
            let na = Advertisement { router, solicited, overriding, target, target_mac };
            (ipv6::Header::nd(source, destination), Message::Advertisement(na))
        },
    );
    prop_oneof![solicitation, advertisement]
}

fn parse(frame: &[u8]) -> Result<Option<Message>, Invalid> {
    let (_, payload) = ethernet::Header::parse(frame)?;
    let (header, message) = ipv6::Header::parse(payload)?;
    Message::parse(&header, message)
}

proptest! {
    #[test]
    fn arp_is_parsed_as_it_was_emitted_by_us_and_by_smoltcp(arp in arp()) {
        let bytes = arp.emit();
        prop_assert_eq!(Arp::parse(&bytes), Ok(arp));
        let packet = other::ArpPacket::new_checked(&bytes[..]).unwrap();
        let theirs = other::ArpRepr::EthernetIpv4 {
            operation: match arp.operation {
                Operation::Request => other::ArpOperation::Request,
                Operation::Reply => other::ArpOperation::Reply,
            },
            source_hardware_addr: other::EthernetAddress(arp.sender_mac.0),
            source_protocol_addr: arp.sender,
            target_hardware_addr: other::EthernetAddress(arp.target_mac.0),
            target_protocol_addr: arp.target,
        };
        prop_assert_eq!(other::ArpRepr::parse(&packet).unwrap(), theirs);
        let mut emitted = [0; super::arp::LEN];
        theirs.emit(&mut other::ArpPacket::new_unchecked(&mut emitted[..]));
        prop_assert_eq!(emitted, bytes);
    }

    #[test]
    fn neighbor_messages_are_parsed_as_they_were_emitted_by_us_and_by_smoltcp((header, message) in message(), mac in mac()) {
        let frame = message.to_frame(&header, mac, MacAddr::BROADCAST);
        prop_assert_eq!(parse(frame.as_bytes()), Ok(Some(message)));

        let ethernet = other::EthernetFrame::new_checked(frame.as_bytes()).unwrap();
        prop_assert_eq!(ethernet.ethertype(), other::EthernetProtocol::Ipv6);
        let packet = other::Ipv6Packet::new_checked(ethernet.payload()).unwrap();
        let ip = other::Ipv6Repr::parse(&packet).unwrap();
        prop_assert_eq!((ip.src_addr, ip.dst_addr, ip.hop_limit), (header.source, header.destination, 255));
        let icmp = other::Icmpv6Packet::new_checked(packet.payload()).unwrap();
        // Its checksum is verified here by smoltcp. A nonce is an option that smoltcp does not know.
        let theirs = other::Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &icmp, &ChecksumCapabilities::default());
        let raw = |mac: MacAddr| other::RawHardwareAddress::from_bytes(&mac.0);
        let expected = match message {
            Message::Solicitation(ns) => other::NdiscRepr::NeighborSolicit { target_addr: ns.target, lladdr: ns.source_mac.map(raw) },
            Message::Advertisement(na) => {
                let mut flags = other::NdiscNeighborFlags::empty();
                flags.set(other::NdiscNeighborFlags::ROUTER, na.router);
                flags.set(other::NdiscNeighborFlags::SOLICITED, na.solicited);
                flags.set(other::NdiscNeighborFlags::OVERRIDE, na.overriding);
                other::NdiscRepr::NeighborAdvert { flags, target_addr: na.target, lladdr: na.target_mac.map(raw) }
            }
        };
        prop_assert_eq!(theirs, Ok(other::Icmpv6Repr::Ndisc(expected)));
    }

    #[test]
    fn etherparse_reads_the_frames_that_we_emit(arp in arp(), (header, message) in message(), mac in mac()) {
        let frame = arp.to_frame(MacAddr::BROADCAST);
        let sliced = SlicedPacket::from_ethernet(frame.as_bytes()).unwrap();
        let Some(NetSlice::Arp(packet)) = sliced.net else { panic!("{sliced:?}") };
        let theirs = packet.to_packet().try_eth_ipv4().unwrap();
        prop_assert_eq!(theirs.operation.0, arp.operation as u16);
        let said = (theirs.sender_mac, theirs.sender_ipv4, theirs.target_mac, theirs.target_ipv4);
        let meant = (arp.sender_mac.0, arp.sender.octets(), arp.target_mac.0, arp.target.octets());
        prop_assert_eq!(said, meant);

        let frame = message.to_frame(&header, mac, MacAddr::BROADCAST);
        let sliced = SlicedPacket::from_ethernet(frame.as_bytes()).unwrap();
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) = (&sliced.net, &sliced.transport) else {
            panic!("{sliced:?}")
        };
        let (source, destination) = (header.source.octets(), header.destination.octets());
        prop_assert_eq!((ip.header().source(), ip.header().destination(), ip.header().hop_limit()), (source, destination, 255));
        prop_assert!(icmp.is_checksum_valid(source, destination));
        let kind = if matches!(message, Message::Solicitation(_)) { 135 } else { 136 };
        prop_assert_eq!((icmp.type_u8(), icmp.code_u8()), (kind, 0));
    }

    /// What we accept, smoltcp accepts; it is laxer than we are, not stricter.
    #[test]
    fn what_we_accept_of_random_arp_so_does_smoltcp(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), likely in any::<bool>()) {
        if likely && bytes.len() > 8 {
            bytes[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        }
        if let Ok(arp) = Arp::parse(&bytes) {
            prop_assert_eq!(&arp.emit()[2..], &bytes[2..super::arp::LEN]);
            let hardware_type = bytes[1];
            let theirs = other::ArpPacket::new_checked(&bytes[..]).and_then(|packet| other::ArpRepr::parse(&packet));
            prop_assert!(theirs.is_ok() || hardware_type == 6);
        }
    }

    /// Whatever the bytes: nothing panics, and what is accepted is what the rules call valid.
    #[test]
    fn any_bytes_are_judged_by_the_rules(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check::arp(&bytes);
        check::ndp(&bytes);
    }

    /// The same for a valid frame of which a few bytes are changed, so that each rule is reached.
    #[test]
    fn frames_that_are_almost_right_are_judged_by_the_rules(
        arp in arp(),
        (header, message) in message(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let neighbor = message.to_frame(&header, arp.sender_mac, MacAddr::BROADCAST);
        for (judge, frame) in [(check::arp as fn(&[u8]), arp.to_frame(MacAddr::BROADCAST)), (check::ndp, neighbor)] {
            let mut bytes = frame.as_bytes().to_vec();
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            judge(&bytes);
        }
    }

    /// Behind fixed parts that are right, the options alone decide.
    #[test]
    fn options_cover_all_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 135_u8..=136) {
        let header = ipv6::Header::nd(Ipv6Addr::LOCALHOST, ipv6::ALL_NODES);
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(Ipv6Addr::LOCALHOST.octets());
        message.extend(&bytes);
        let checksum = header.icmpv6_checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let parsed = Message::parse(&header, &message);
        let walked: Result<Vec<_>, _> = Options::new(&bytes).collect();
        prop_assert_eq!(parsed.is_ok(), walked.is_ok());
        if let Ok(options) = walked {
            let length: usize = options.iter().map(|option| option.data.len() + 2).sum();
            prop_assert_eq!(length, bytes.len());
        }
    }
}
