use super::*;
use crate::wire::testutil::hex;

const US: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0a]);
const THEM: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x0b]);

fn vip() -> Ipv6Addr {
    "2001:db8::10".parse().unwrap()
}

fn host() -> Ipv6Addr {
    "fe80::1".parse().unwrap()
}

fn parse(frame: &[u8]) -> Result<Option<Message>, Invalid> {
    let (_, payload) = ethernet::Header::parse(frame)?;
    let (header, message) = ipv6::Header::parse(payload)?;
    Message::parse(&header, message)
}

/// A frame with this ICMPv6 message and a right checksum.
fn packet(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8, message: &str) -> Vec<u8> {
    let mut message = hex(message);
    let header = ipv6::Header { hop_limit, ..ipv6::Header::nd(source, destination) };
    let checksum = header.icmpv6_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = hex("3333ff000010 02000000000b 86dd 6000 0000");
    frame.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend([58, hop_limit]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(message);
    frame
}

#[test]
fn each_form_has_its_bytes() {
    let group = ipv6::solicited_node(vip());
    for (what, message, header, bytes) in [
        (
            "unsolicited NA: to ff02::1, S=0, O=1, target option",
            Message::Advertisement(Advertisement::unsolicited(vip(), US)),
            ipv6::Header::nd(vip(), ipv6::ALL_NODES),
            "333300000001 02000000000a 86dd 60000000 0020 3a ff
             20010db8000000000000000000000010 ff020000000000000000000000000001
             88 00 f903 20000000 20010db8000000000000000000000010 02 01 02000000000a",
        ),
        (
            "answer: to the asker, S=1, O=1, target option",
            Message::Advertisement(Advertisement::answer(vip(), US)),
            ipv6::Header::nd(vip(), host()),
            "333300000001 02000000000a 86dd 60000000 0020 3a ff
             20010db8000000000000000000000010 fe800000000000000000000000000001
             88 00 b985 60000000 20010db8000000000000000000000010 02 01 02000000000a",
        ),
        (
            "NS with the source option",
            Message::Solicitation(Solicitation { target: vip(), source_mac: Some(US), nonce: None }),
            ipv6::Header::nd(host(), group),
            "333300000001 02000000000a 86dd 60000000 0020 3a ff
             fe800000000000000000000000000001 ff0200000000000000000001ff000010
             87 00 4b3a 00000000 20010db8000000000000000000000010 01 01 02000000000a",
        ),
        (
            "NS for DAD with a nonce (RFC 7527)",
            Message::Solicitation(Solicitation {
                target: vip(),
                source_mac: None,
                nonce: Some([1, 2, 3, 4, 5, 6]),
            }),
            ipv6::Header::nd(Ipv6Addr::UNSPECIFIED, group),
            "333300000001 02000000000a 86dd 60000000 0020 3a ff
             00000000000000000000000000000000 ff0200000000000000000001ff000010
             87 00 35ba 00000000 20010db8000000000000000000000010 0e 01 010203040506",
        ),
    ] {
        let to = MacAddr::of_ipv6_group(ipv6::ALL_NODES);
        let frame = message.to_frame(&header, US, to);
        assert_eq!(frame.as_bytes(), hex(bytes), "{what}: {frame:?}");
        assert_eq!(parse(frame.as_bytes()), Ok(Some(message)), "{what}");
    }
}

#[test]
fn what_a_receiver_must_check() {
    const NS: &str = "87 00 0000 00000000 20010db8000000000000000000000010";
    const NA: &str = "88 00 0000 60000000 20010db8000000000000000000000010";
    let group = ipv6::solicited_node(vip());
    let none = Ipv6Addr::UNSPECIFIED;
    let all = ipv6::ALL_NODES;
    let with = |head: &str, options: &str| format!("{head} {options}");
    for (what, source, destination, hop_limit, message, expected) in [
        ("hop limit 64", host(), group, 64, NS.to_owned(), Invalid::HopLimit(64)),
        ("hop limit 254", host(), group, 254, NA.to_owned(), Invalid::HopLimit(254)),
        ("code 1", host(), group, 255, NS.replacen("87 00", "87 01", 1), Invalid::Code(1)),
        ("23 bytes", host(), group, 255, NS[..NS.len() - 2].to_owned(), Invalid::Truncated),
        (
            "a multicast target",
            host(),
            group,
            255,
            NS.replace("20010db8", "ff020db8"),
            Invalid::MulticastTarget,
        ),
        (
            "an option of length zero",
            host(),
            group,
            255,
            with(NS, "01 00 020000000b0b"),
            Invalid::OptionLength,
        ),
        (
            "a good option, then one of length zero",
            host(),
            group,
            255,
            with(NS, "01 01 02000000000b 0e 00 000000000000"),
            Invalid::OptionLength,
        ),
        (
            "an option beyond the end",
            host(),
            group,
            255,
            with(NS, "01 02 02000000000b"),
            Invalid::OptionLength,
        ),
        (
            "an option of 32 units, cut to 2 bytes",
            host(),
            group,
            255,
            with(NS, "01 20"),
            Invalid::OptionLength,
        ),
        (
            "an option of 255 units, cut",
            host(),
            group,
            255,
            with(NS, "03 ff 000000000000"),
            Invalid::OptionLength,
        ),
        ("one byte of an option", host(), group, 255, with(NS, "01"), Invalid::OptionLength),
        ("from :: to another group", none, all, 255, NS.to_owned(), Invalid::Unspecified),
        (
            "from :: with a source option",
            none,
            group,
            255,
            with(NS, "01 01 02000000000b"),
            Invalid::Unspecified,
        ),
        ("from :: to a host", none, vip(), 255, NS.to_owned(), Invalid::Unspecified),
        ("a solicited NA to a group", host(), all, 255, NA.to_owned(), Invalid::SolicitedMulticast),
        (
            "an NA with an option of length zero",
            host(),
            host(),
            255,
            with(NA, "02 00"),
            Invalid::OptionLength,
        ),
    ] {
        assert_eq!(parse(&packet(source, destination, hop_limit, &message)), Err(expected), "{what}");
    }
}

#[test]
fn what_a_receiver_must_accept() {
    const NS: &str = "87 00 0000 00000000 20010db8000000000000000000000010";
    let group = ipv6::solicited_node(vip());
    let long = format!("{NS} 03 20 {} 01 01 02000000000b", "00".repeat(254));
    for (what, source, destination, message, source_mac) in [
        ("unicast, without a source option (RFC 4861 §7.2.2)", host(), vip(), NS.to_owned(), None),
        ("multicast, without a source option", host(), group, NS.to_owned(), None),
        ("for DAD (RFC 4862 §5.4.3)", Ipv6Addr::UNSPECIFIED, group, NS.to_owned(), None),
        (
            "an unknown option first",
            host(),
            group,
            format!("{NS} fe 01 000000000000 01 01 02000000000b"),
            Some(THEM),
        ),
        ("an option of 32 units, whole", host(), group, long, Some(THEM)),
        ("reserved bits set", host(), group, NS.replacen("00000000", "ffffffff", 1), None),
        (
            "two source options: the first",
            host(),
            group,
            format!("{NS} 01 01 02000000000b 01 01 02000000000c"),
            Some(THEM),
        ),
    ] {
        let parsed = parse(&packet(source, destination, 255, &message));
        let expected = Solicitation { target: vip(), source_mac, nonce: None };
        assert_eq!(parsed, Ok(Some(Message::Solicitation(expected))), "{what}");
    }
}

#[test]
fn a_wrong_checksum_and_other_messages() {
    let mut bytes = packet(
        host(),
        ipv6::solicited_node(vip()),
        255,
        "87 00 0000 00000000 20010db8000000000000000000000010",
    );
    assert!(parse(&bytes).is_ok());
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(parse(&bytes), Err(Invalid::Checksum));
    let echo = packet(host(), vip(), 64, "80 00 0000 00010001");
    assert_eq!(parse(&echo), Ok(None), "an echo request is none of our business");
}
