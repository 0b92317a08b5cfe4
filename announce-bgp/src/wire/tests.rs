//! Whole messages: hex tables by the clause, and round trips.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lbcore::addr::Family;
use proptest::prelude::*;

use super::test_util::{frame, hex, modern};
use super::*;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;

fn reset(message: &[u8], context: &Context) -> Notification {
    match Message::decode(message, context) {
        Err(DecodeError::SessionReset(notification)) => notification,
        other => panic!("{message:02x?}: no reset but {other:?}"),
    }
}

fn again(message: &Message, context: &Context) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(context, &mut bytes).unwrap();
    assert_eq!(Message::decode(&bytes, context).as_ref(), Ok(message), "{bytes:02x?}");
    bytes
}

mod header {
    use super::*;

    /// RFC 4271 §6.1: code, subcode and data.
    #[test]
    fn errors_have_their_notification() {
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut message = frame(4, &[]);
            change(&mut message);
            message
        };
        for (what, message, subcode, data) in [
            ("marker", with(&|m| m[7] = 0xfe), 1, ""),
            ("length 0", with(&|m| m[17] = 0), 2, "0000"),
            ("length 18", with(&|m| m[17] = 18), 2, "0012"),
            ("length 4097", with(&|m| (m[16], m[17]) = (0x10, 0x01)), 2, "1001"),
            ("length 65535", with(&|m| (m[16], m[17]) = (0xff, 0xff)), 2, "ffff"),
            ("KEEPALIVE of 20", frame(4, &[0]), 2, "0014"),
            ("OPEN of 28", frame(OPEN, &[0; 9]), 2, "001c"),
            ("UPDATE of 22", frame(UPDATE, &[0; 3]), 2, "0016"),
            ("NOTIFICATION of 20", frame(3, &[6]), 2, "0014"),
            ("ROUTE-REFRESH of 22", frame(5, &[0; 3]), 2, "0016"),
            ("ROUTE-REFRESH of 24", frame(5, &[0; 5]), 2, "0018"),
            ("type 0", with(&|m| m[18] = 0), 3, "00"),
            ("type 6", with(&|m| m[18] = 6), 3, "06"),
            ("type 255", with(&|m| m[18] = 255), 3, "ff"),
        ] {
            let expected = Notification::with_data(1, subcode, hex(data));
            assert_eq!(reset(&message, &modern(Peering::External)), expected, "{what}");
        }
    }

    #[test]
    fn a_frame_that_is_not_as_long_as_it_says_is_refused() {
        let keepalive = frame(4, &[]);
        for cut in 0..keepalive.len() {
            reset(&keepalive[..cut], &modern(Peering::External));
        }
        let mut longer = keepalive.clone();
        longer.push(0);
        assert_eq!(reset(&longer, &modern(Peering::External)).subcode, 2);
        assert_eq!(Message::decode(&keepalive, &modern(Peering::External)), Ok(Message::Keepalive));
    }
}

mod open {
    use super::*;

    fn decode(body: &str) -> Open {
        match Message::decode(&frame(OPEN, &hex(body)), &modern(Peering::External)) {
            Ok(Message::Open(open)) => open,
            other => panic!("{other:?}"),
        }
    }

    fn unknown(code: u8, value: &str) -> Capability {
        Capability::Unknown { code, value: hex(value) }
    }

    /// The shapes of OPENs that real routers send: one parameter with many capabilities, or a parameter for each; with
    /// families, graceful restart and add-path that we do not know; with AS_TRANS and without.
    #[test]
    fn shapes_from_the_field() {
        let v4 = Capability::Multiprotocol(AddressFamily::IPV4_UNICAST);
        let labelled = Capability::Multiprotocol(AddressFamily { afi: 1, safi: 4 });

        // Two families, route refresh, graceful restart of 300 s, four-octet AS 1, add-path.
        let open = decode(
            "04 0001 00b4 0a000001 28 0226 0104 0001 0001 0104 0001 0004 0200 4006 012c 0001 0180
             4104 00000001 4508 00010103 00010403",
        );
        assert_eq!((open.autonomous_system(), open.hold_time), (1, 180));
        assert_eq!(open.identifier, Ipv4Addr::new(10, 0, 0, 1));
        let expected = [
            v4.clone(),
            labelled,
            Capability::RouteRefresh,
            unknown(64, "012c 0001 01 80"),
            Capability::FourOctetAs(1),
            unknown(69, "00010103 00010403"),
        ];
        assert_eq!(open.capabilities, expected);
        assert_eq!(open.families(), Families::V4);
        again(&Message::Open(open), &modern(Peering::External));

        // Four-octet AS alone: IPv4 unicast goes without saying.
        let open = decode("04 fc1f 0028 0a000002 08 0206 4104 0000fc1f");
        assert_eq!((open.autonomous_system(), open.hold_time), (64543, 40));
        assert_eq!(open.families(), Families::V4);
        again(&Message::Open(open), &modern(Peering::External));

        // With enhanced route refresh.
        let open = decode("04 fc1f 0028 0a000003 16 0214 0104 0001 0001 0200 4002 0078 4104 0000fc1f 4600");
        assert!(open.offers(&Capability::RouteRefresh));
        assert!(open.offers(&unknown(70, "")));
        again(&Message::Open(open), &modern(Peering::External));

        // A parameter each, with the route refresh of old (128).
        let open =
            decode("04 fc1f 00b4 0a000004 18 0206 0104 0001 0001 0202 8000 0202 0200 0206 4104 0000fc1f");
        let expected = [v4, unknown(128, ""), Capability::RouteRefresh, Capability::FourOctetAs(64543)];
        assert_eq!(open.capabilities, expected);
        again(&Message::Open(open), &modern(Peering::External));

        // No capabilities at all, and one with AS_TRANS.
        assert_eq!(decode("04 fde9 005a 0a000005 00").autonomous_system(), 65001);
        let open = decode("04 5ba0 005a 0a000006 14 0212 0104 0002 0001 0104 0001 0001 4104 000186a0");
        assert_eq!((open.two_octet_as, open.autonomous_system()), (AS_TRANS, 100_000));
        assert_eq!(open.families(), Families::ALL);
    }

    #[test]
    fn of_several_four_octet_numbers_the_last_counts() {
        let open = decode("04 5ba0 005a 0a000001 0e 020c 4104 00000001 4104 00000002");
        assert_eq!(open.autonomous_system(), 2);
    }

    #[test]
    fn only_unknown_families_are_no_family() {
        let open = decode("04 fde9 005a 0a000001 08 0206 0104 0019 0046");
        assert_eq!(open.families(), Families::NONE);
    }

    /// RFC 9072, as used only when needed.
    #[test]
    fn extended_parameters() {
        let open = decode("04 fde9 005a 0a000001 ff ff 0009 02 0006 4104 0000fde9");
        assert_eq!(open.capabilities, [Capability::FourOctetAs(65001)]);
        assert_eq!(decode("04 fde9 005a 0a000001 01 ff 0009 02 0006 4104 0000fde9"), open);
        for (count, extended) in [(9, false), (10, true), (140, true)] {
            let capabilities = vec![unknown(200, &"00".repeat(26)); count];
            let open = Message::Open(Open::new(65001, 90, Ipv4Addr::LOCALHOST, capabilities));
            let bytes = again(&open, &modern(Peering::External));
            assert_eq!(bytes[28..30] == [255, 255], extended, "{count}");
        }
        let capabilities = vec![unknown(200, &"00".repeat(26)); 150];
        let open = Message::Open(Open::new(65001, 90, Ipv4Addr::LOCALHOST, capabilities));
        let mut out = vec![7];
        assert_eq!(open.encode(&modern(Peering::External), &mut out), Err(EncodeError::TooLong));
        assert_eq!(out, [7]);
    }

    /// RFC 4271 §6.2, RFC 6286, RFC 7607.
    #[test]
    fn errors_have_their_notification() {
        for (what, body, subcode, data) in [
            ("version 3", "03 fde9 005a 0a000001 00", 1, "0004"),
            ("version 5", "05 fde9 005a 0a000001 00", 1, "0004"),
            ("AS 0", "04 0000 005a 0a000001 00", 2, ""),
            ("four-octet AS 0", "04 5ba0 005a 0a000001 08 0206 4104 00000000", 2, ""),
            ("identifier 0", "04 fde9 005a 00000000 00", 3, ""),
            ("authentication parameter", "04 fde9 005a 0a000001 03 0101 00", 4, ""),
            ("hold time 1", "04 fde9 0001 0a000001 00", 6, ""),
            ("hold time 2", "04 fde9 0002 0a000001 00", 6, ""),
            ("parameters too short", "04 fde9 005a 0a000001 05 0202 0200 00", 0, ""),
            ("parameters too long", "04 fde9 005a 0a000001 05 0202 0200", 0, ""),
            ("parameter cut at its length", "04 fde9 005a 0a000001 01 02", 0, ""),
            ("parameter beyond the end", "04 fde9 005a 0a000001 03 0204 02", 0, ""),
            ("capability beyond its parameter", "04 fde9 005a 0a000001 04 0202 4104", 0, ""),
            ("capability cut at its code", "04 fde9 005a 0a000001 03 0201 41", 0, ""),
            ("four-octet AS of 2", "04 fde9 005a 0a000001 06 0204 4102 fde9", 0, ""),
            ("multiprotocol of 5", "04 fde9 005a 0a000001 09 0207 0105 0001000100", 0, ""),
            ("extended and cut", "04 fde9 005a 0a000001 ff ff 00", 0, ""),
            ("extended and too long", "04 fde9 005a 0a000001 ff ff 0009 02 0006 4104 0000fd", 0, ""),
        ] {
            let notification = reset(&frame(OPEN, &hex(body)), &modern(Peering::External));
            assert_eq!(notification, Notification::with_data(2, subcode, hex(data)), "{what}");
        }
        assert_eq!(decode("04 fde9 0000 0a000001 00").hold_time, 0);
        assert_eq!(decode("04 fde9 0003 e0000001 00").hold_time, 3);
    }
}

mod update {
    use super::*;

    /// ORIGIN IGP, AS_PATH 65001, NEXT_HOP 192.0.2.1.
    const BASE: &str = "40010100 40020602 01 0000fde9 400304 c0000201";
    /// ORIGIN IGP and an empty AS_PATH.
    const BARE: &str = "40010100 400200";
    /// 198.51.100.7/32.
    const NLRI: &str = "20 c6336407";
    /// MP_REACH_NLRI of 2001:db8::7/128 by 2001:db8::1.
    const REACH: &str = "800e26 0002 01 10 20010db8000000000000000000000001 00
                         80 20010db8000000000000000000000007";

    fn body(withdrawn: &str, attributes: &str, announced: &str) -> Vec<u8> {
        let (withdrawn, attributes, announced) = (hex(withdrawn), hex(attributes), hex(announced));
        let mut body = Vec::new();
        body.extend((withdrawn.len() as u16).to_be_bytes());
        body.extend(withdrawn);
        body.extend((attributes.len() as u16).to_be_bytes());
        body.extend(attributes);
        body.extend(announced);
        frame(UPDATE, &body)
    }

    fn decode(withdrawn: &str, attributes: &str, announced: &str, peering: Peering) -> Update {
        match Message::decode(&body(withdrawn, attributes, announced), &modern(peering)) {
            Ok(Message::Update(update)) => update,
            other => panic!("{attributes}: {other:?}"),
        }
    }

    /// Each attribute, as bytes and as a value, there and back.
    #[test]
    fn attributes_by_the_book() {
        use Attribute as A;
        let segment = |kind, numbers: &[u32]| Segment { kind, numbers: numbers.to_vec() };
        let aggregator = Aggregator { autonomous_system: 65001, identifier: Ipv4Addr::new(192, 0, 2, 1) };
        let unknown = |partial| A::Unknown { partial, code: 40, value: vec![1, 2, 3] };
        for (bytes, expected) in [
            ("400101 01", A::Origin(Origin::Egp)),
            ("400101 02", A::Origin(Origin::Incomplete)),
            ("400200", A::AsPath(AsPath::default())),
            ("40020e 0203 00000001 00000002 000186a0", A::AsPath(AsPath::sequence([1, 2, 100_000]))),
            (
                "40020c 0201 00000001 0101 00000002",
                A::AsPath(AsPath(vec![
                    segment(SegmentKind::Sequence, &[1]),
                    segment(SegmentKind::Set, &[2]),
                ])),
            ),
            ("400304 c0000201", A::NextHop(Ipv4Addr::new(192, 0, 2, 1))),
            ("800404 00000032", A::MultiExitDisc(50)),
            ("400504 000000c8", A::LocalPref(200)),
            ("400600", A::AtomicAggregate),
            ("c00708 0000fde9 c0000201", A::Aggregator(aggregator)),
            ("c00808 fde90064 ffffff01", A::Communities(vec![0xfde9_0064, 0xffff_ff01])),
            ("c0200c 0000fde9 00000001 00000002", A::LargeCommunities(vec![(65001, 1, 2)])),
            ("c02803 010203", unknown(false)),
            ("e02803 010203", unknown(true)),
        ] {
            let context = modern(Peering::Internal).as_sets(true);
            let message = body("", bytes, "");
            let Ok(Message::Update(update)) = Message::decode(&message, &context) else { panic!("{bytes}") };
            assert_eq!(update.attributes, [expected], "{bytes}");
            assert_eq!(again(&Message::Update(update), &context), message, "{bytes}");
        }
    }

    #[test]
    fn two_octet_numbers_where_four_were_not_negotiated() {
        let old = Context::new(Peering::External);
        let message = body("", "40010100 40020602 02 fde9 0001 400304 c0000201 c00706 fde9 c0000201", NLRI);
        let Ok(Message::Update(update)) = Message::decode(&message, &old) else { panic!() };
        assert!(update.attributes.contains(&Attribute::AsPath(AsPath::sequence([65001, 1]))));
        assert_eq!(again(&Message::Update(update), &old), message);

        // What does not fit goes as AS_TRANS, with the truth beside it (RFC 6793 §4.2.2).
        let update =
            Update { attributes: vec![Attribute::AsPath(AsPath::sequence([100_000]))], ..Update::default() };
        let mut bytes = Vec::new();
        Message::Update(update).encode(&old, &mut bytes).unwrap();
        assert_eq!(bytes, body("", "400204 0201 5ba0 c01106 0201 000186a0", ""));
        let Ok(Message::Update(update)) = Message::decode(&bytes, &old) else { panic!() };
        assert!(update.attributes.contains(&Attribute::As4Path(AsPath::sequence([100_000]))));
    }

    #[test]
    fn both_families_in_one_message() {
        let update = decode("18 cb0071", &format!("{REACH} {BASE}"), NLRI, Peering::External);
        let all = |prefixes: Vec<IpNet>| prefixes.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(all(update.announced().collect()), ["198.51.100.7/32", "2001:db8::7/128"]);
        assert_eq!(all(update.withdrawn().collect()), ["203.0.113.0/24"]);
        let bytes = again(&Message::Update(update), &modern(Peering::External));
        // MP_REACH_NLRI comes first (RFC 7606 §5.1).
        assert_eq!(bytes[19 + 2 + 4 + 2..][..2], [0x80, 14]);
    }

    #[test]
    fn end_of_rib_of_each_family() {
        for (family, bytes) in [(Family::V4, body("", "", "")), (Family::V6, body("", "800f03 0002 01", ""))]
        {
            let mark = Update::end_of_rib(family);
            assert_eq!(mark.is_end_of_rib(), Some(family));
            assert_eq!(again(&Message::Update(mark), &modern(Peering::External)), bytes);
        }
        assert_eq!(decode("18 cb0071", "", "", Peering::External).is_end_of_rib(), None);
        assert_eq!(decode("", BASE, NLRI, Peering::External).is_end_of_rib(), None);
        assert_eq!(decode("", "800f04 0002 01 00", "", Peering::External).is_end_of_rib(), None);
    }

    #[test]
    fn next_hops_of_ipv6() {
        let both = "800e2a 0002 01 20 20010db8000000000000000000000001 fe800000000000000000000000000001 00
                    2020010db8";
        let update = decode("", &format!("{both} {BARE}"), "", Peering::Internal);
        let Some(Attribute::MpReach(MpReach::Unicast { next_hop, .. })) = update.attributes.last() else {
            panic!("{update:?}")
        };
        let expected = NextHop::V6 {
            address: "2001:db8::1".parse().unwrap(),
            link_local: Some("fe80::1".parse().unwrap()),
        };
        assert_eq!(*next_hop, expected);
        again(&Message::Update(update), &modern(Peering::Internal));
    }

    #[test]
    fn families_that_are_not_in_use_are_kept_apart() {
        let v4 = Context::new(Peering::External).four_octet_as(true);
        let Ok(Message::Update(update)) = Message::decode(&body("", &format!("{REACH} {BASE}"), NLRI), &v4)
        else {
            panic!()
        };
        assert_eq!(update.announced().count(), 1);
        again(&Message::Update(update), &v4);
        // A flow specification: whatever is in it, it is not looked at.
        let update = decode("", &format!("800e06 0001 85 000000 {BARE}"), "", Peering::Internal);
        assert_eq!(update.announced().count(), 0);
    }

    /// RFC 4271 §6.3 and RFC 7606: what ends the session, with code, subcode and data.
    #[test]
    fn resets() {
        let external = Peering::External;
        let lengths = |withdrawn: u16, attributes: u16| {
            let mut message = body("", "", "");
            message[19..21].copy_from_slice(&withdrawn.to_be_bytes());
            message[21..23].copy_from_slice(&attributes.to_be_bytes());
            message
        };
        for (what, message, subcode, data) in [
            // RFC 7606 §3b.
            ("withdrawn beyond the end", lengths(1, 0), 1, ""),
            ("withdrawn over the attribute length", lengths(2, 0), 1, ""),
            ("attributes beyond the end", lengths(0, 1), 1, ""),
            ("length of 65535", lengths(0xffff, 0xffff), 1, ""),
            // RFC 7606 §3g.
            ("MP_REACH_NLRI twice", body("", &format!("{REACH} {REACH} {BASE}"), NLRI), 1, ""),
            ("MP_UNREACH_NLRI twice", body("", "800f03 000201 800f03 000201", ""), 1, ""),
            // RFC 7606 §5.3.
            ("prefix of 33", body("", BASE, "21 c633640700"), 10, ""),
            ("prefix cut short", body("", BASE, "20 c63364"), 10, ""),
            ("withdrawn prefix of 33", body("21 c633640700", "", ""), 10, ""),
            ("MP prefix of 129", body("", "800f05 0002 01 81 00", ""), 9, "800f05 0002018100"),
            ("MP_UNREACH_NLRI of 2", body("", "800f02 0002", ""), 9, "800f02 0002"),
            ("MP_REACH_NLRI of 2", body("", "800e02 0002", ""), 9, "800e02 0002"),
            // RFC 7606 §7.11.
            ("next hop of 15", body("", "800e05 0002 01 0f 00", ""), 9, "800e05 0002010f00"),
            (
                "next hop of 4 for IPv6",
                body("", "800e09 0002 01 04 c0000201 00", ""),
                9,
                "800e09 000201 04 c0000201 00",
            ),
            ("no reserved octet", body("", "800e08 0001 01 04 c0000201", ""), 9, "800e08 000101 04 c0000201"),
            // RFC 4271 §6.3.
            ("unknown well-known attribute", body("", &format!("{BASE} 406301 07"), NLRI), 2, "406301 07"),
            // RFC 7606 §5.2: nothing to withdraw, so that the error may hide routes.
            ("no route and ORIGIN of 2", body("", "400102 0000", ""), 5, "400102 0000"),
            ("no route and COMMUNITIES of 3", body("18 cb0071", "c00803 000000", ""), 5, "c00803 000000"),
            ("no route and a truncated list", body("", "4001", ""), 1, ""),
            // The prefixes of an MP attribute that is cut short are lost.
            ("MP_REACH_NLRI beyond the list", body("", &format!("{BASE} 800e10 0002"), NLRI), 1, ""),
        ] {
            let expected = Notification::with_data(3, subcode, hex(data));
            assert_eq!(reset(&message, &modern(external)), expected, "{what}");
        }
    }

    /// RFC 7606 §7 and what refers to it: the routes are taken as withdrawn.
    #[test]
    fn treat_as_withdraw() {
        let path = "40020602 01 0000fde9";
        let next_hop = "400304 c0000201";
        for (what, attributes, subcode, code) in [
            ("ORIGIN of 0", format!("400100 {path} {next_hop}"), 5, 1),
            ("ORIGIN of 2", format!("400102 0000 {path} {next_hop}"), 5, 1),
            ("ORIGIN undefined", format!("400101 03 {path} {next_hop}"), 6, 1),
            ("ORIGIN optional", format!("c00101 00 {path} {next_hop}"), 4, 1),
            ("ORIGIN not transitive", format!("000101 00 {path} {next_hop}"), 4, 1),
            ("ORIGIN missing", format!("{path} {next_hop}"), 3, 1),
            ("AS_PATH missing", format!("40010100 {next_hop}"), 3, 2),
            ("NEXT_HOP missing", format!("40010100 {path}"), 3, 3),
            ("AS_PATH segment of type 5", format!("40010100 {next_hop} 40020605 01 0000fde9"), 11, 2),
            (
                "AS_PATH segment of a confederation",
                format!("40010100 {next_hop} 40020603 01 0000fde9"),
                11,
                2,
            ),
            ("AS_PATH segment empty", format!("40010100 {next_hop} 400202 0200"), 11, 2),
            ("AS_PATH segment overrun", format!("40010100 {next_hop} 40020602 02 0000fde9"), 11, 2),
            ("AS_PATH stray octet", format!("40010100 {next_hop} 40020702 01 0000fde9 02"), 11, 2),
            ("AS_PATH with AS 0", format!("40010100 {next_hop} 40020602 01 00000000"), 11, 2),
            ("AS_SET", format!("40010100 {next_hop} 40020601 01 0000fde9"), 11, 2),
            ("NEXT_HOP of 3", format!("40010100 {path} 400303 c00002"), 5, 3),
            ("NEXT_HOP of 16", format!("40010100 {path} 400310 {}", "00".repeat(16)), 5, 3),
            ("NEXT_HOP unspecified", format!("40010100 {path} 400304 00000000"), 8, 3),
            ("NEXT_HOP multicast", format!("40010100 {path} 400304 e0000001"), 8, 3),
            ("MULTI_EXIT_DISC of 3", format!("{BASE} 800403 000000"), 5, 4),
            ("MULTI_EXIT_DISC transitive", format!("{BASE} c00404 00000000"), 4, 4),
            ("COMMUNITIES of 0", format!("{BASE} c00800"), 5, 8),
            ("COMMUNITIES of 5", format!("{BASE} c00805 0000000000"), 5, 8),
            ("COMMUNITIES well-known", format!("{BASE} 400804 00000000"), 4, 8),
            ("LARGE_COMMUNITY of 8", format!("{BASE} c02008 {}", "00".repeat(8)), 5, 32),
            ("LARGE_COMMUNITY of 0", format!("{BASE} c02000"), 5, 32),
            ("list ends in a type", format!("{BASE} 40"), 1, 0),
            ("list ends before a length", format!("{BASE} c008"), 1, 8),
            ("list ends in a long length", format!("{BASE} d00800"), 1, 8),
            ("attribute beyond the list", format!("{BASE} c00808 00000000"), 1, 8),
        ] {
            match Message::decode(&body("", &attributes, NLRI), &modern(Peering::External)) {
                Err(DecodeError::TreatAsWithdraw { withdrawn, faults }) => {
                    assert_eq!(withdrawn, ["198.51.100.7/32".parse::<IpNet>().unwrap()], "{what}");
                    let fault = &faults.0[0];
                    assert_eq!((fault.subcode, fault.attribute.unwrap_or(0)), (subcode, code), "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    }

    #[test]
    fn withdraws_every_route_of_the_message() {
        let attributes = format!("{REACH} 400101 09");
        match Message::decode(&body("18 cb0071", &attributes, NLRI), &modern(Peering::External)) {
            Err(DecodeError::TreatAsWithdraw { withdrawn, faults }) => {
                let withdrawn: Vec<_> = withdrawn.iter().map(ToString::to_string).collect();
                assert_eq!(withdrawn, ["203.0.113.0/24", "198.51.100.7/32", "2001:db8::7/128"]);
                assert_eq!(
                    faults.to_string(),
                    "Invalid ORIGIN Attribute (3/6) of attribute 1; \
                     Missing Well-known Attribute (3/3) of attribute 2; \
                     Missing Well-known Attribute (3/3) of attribute 3"
                );
            }
            other => panic!("{other:?}"),
        }
        // Wrong flags of MP_REACH_NLRI: its prefixes are needed all the same.
        let attributes = format!("{} {BARE}", REACH.replacen("80", "c0", 1));
        match Message::decode(&body("", &attributes, ""), &modern(Peering::External)) {
            Err(DecodeError::TreatAsWithdraw { withdrawn, .. }) => assert_eq!(withdrawn.len(), 1),
            other => panic!("{other:?}"),
        }
    }

    /// RFC 7606 §7.5 to §7.7, RFC 6793 §6: the routes stay, the attribute goes.
    #[test]
    fn attribute_discard() {
        for (what, attribute, code) in [
            ("LOCAL_PREF of an external peer", "400504 00000064", 5),
            ("LOCAL_PREF of an external peer, of 3", "400503 000000", 5),
            ("ATOMIC_AGGREGATE of 1", "400601 00", 6),
            ("AGGREGATOR of 6", "c00706 fde9 c0000201", 7),
            ("AGGREGATOR with AS 0", "c00708 00000000 c0000201", 7),
            ("AS4_PATH of a new speaker", "c01106 0201 000186a0", 17),
            ("AS4_AGGREGATOR of a new speaker", "c01208 000186a0 c0000201", 18),
        ] {
            let attributes = format!("{BASE} {attribute}");
            match Message::decode(&body("", &attributes, NLRI), &modern(Peering::External)) {
                Err(DecodeError::AttributeDiscard { update, faults }) => {
                    assert_eq!(update.announced().count(), 1, "{what}");
                    assert!(update.attributes.iter().all(|attribute| attribute.code() != code), "{what}");
                    assert_eq!(faults.0[0].attribute, Some(code), "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
        }
        // Within an AS the same LOCAL_PREF is fine, and a wrong one costs the routes.
        let good = format!("{BARE} 400304 c0000201 400504 00000064");
        decode("", &good, NLRI, Peering::Internal);
        let bad = format!("{BARE} 400304 c0000201 400503 000000");
        assert!(matches!(
            Message::decode(&body("", &bad, NLRI), &modern(Peering::Internal)),
            Err(DecodeError::TreatAsWithdraw { .. })
        ));
    }

    /// RFC 7606 §3g: of an attribute that is there twice, the first counts.
    #[test]
    fn the_first_of_two_counts() {
        let update =
            decode("", &format!("{BASE} 400101 02 800404 00000001 800404 00000002"), NLRI, Peering::External);
        assert!(update.attributes.contains(&Attribute::Origin(Origin::Igp)));
        assert!(update.attributes.contains(&Attribute::MultiExitDisc(1)));
    }

    /// RFC 7606 §3h.
    #[test]
    fn the_strongest_action_counts() {
        let attributes = format!("400601 00 400101 09 {BASE} {REACH} {REACH}");
        assert_eq!(reset(&body("", &attributes, NLRI), &modern(Peering::External)).subcode, 1);
    }

    /// CVE-2019-5892, CVE-2023-38802, FRR 19336 and their kin: attributes that somebody far away may have put in.
    #[test]
    fn what_others_fell_over() {
        for attribute in [
            "c0ff00",                                    // attribute 255, empty
            "c01704 00000000",                           // tunnel encapsulation, corrupt
            "c02800",                                    // prefix SID, empty
            "c0280a 00000000000000000000",               // prefix SID, all zero
            "801c04 00000000",                           // optional, not transitive, unknown
            "c01106 0201 000186a0 c01106 0201 000186a0", // AS4_PATH from a new speaker, twice
        ] {
            let message = body("", &format!("{attribute} {BASE}"), NLRI);
            match Message::decode(&message, &modern(Peering::External)) {
                Ok(Message::Update(update)) => assert_eq!(update.announced().count(), 1, "{attribute}"),
                Err(DecodeError::AttributeDiscard { update, .. }) => {
                    assert_eq!(update.announced().count(), 1, "{attribute}");
                }
                other => panic!("{attribute}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_too_long_is_refused_and_leaves_nothing_behind() {
        let many = vec!["192.0.2.1/32".parse::<Ipv4Net>().unwrap(); 815];
        let mut out = vec![7];
        for update in [
            Update { withdrawn: many.clone(), ..Update::default() },
            Update { announced: many.clone(), ..Update::default() },
            Update { attributes: vec![Attribute::Communities(vec![0; 20_000])], ..Update::default() },
        ] {
            let message = Message::Update(update);
            assert_eq!(message.encode(&modern(Peering::External), &mut out), Err(EncodeError::TooLong));
            assert_eq!(out, [7]);
        }
        let fits = Update { withdrawn: many[..814].to_vec(), ..Update::default() };
        assert_eq!(again(&Message::Update(fits), &modern(Peering::External)).len(), 23 + 814 * 5);
    }
}

mod pack {
    use super::*;

    fn hosts(family: Family, count: u32) -> Vec<IpNet> {
        (0..count)
            .map(|index| match family {
                Family::V4 => IpNet::V4(Ipv4Net::from(Ipv4Addr::from(0x0a00_0000 + index))),
                Family::V6 => IpNet::V6(Ipv6Net::from(std::net::Ipv6Addr::from(
                    0x2001_0db8_u128 << 96 | u128::from(index),
                ))),
            })
            .collect()
    }

    fn messages(mut bytes: &[u8], context: &Context) -> Vec<Update> {
        let mut updates = Vec::new();
        while let Some(header) = bytes.first_chunk() {
            let header = Header::decode(header).unwrap();
            match Message::decode(&bytes[..header.length], context) {
                Ok(Message::Update(update)) => updates.push(update),
                other => panic!("{other:?}"),
            }
            bytes = &bytes[header.length..];
        }
        assert!(bytes.is_empty());
        updates
    }

    #[test]
    fn as_few_messages_as_they_fit() {
        let context = modern(Peering::External);
        let attributes = vec![Attribute::Origin(Origin::Igp), Attribute::AsPath(AsPath::sequence([65001]))];
        // Attributes: ORIGIN 4, AS_PATH 9, NEXT_HOP 7; MP_REACH_NLRI without prefixes 25.
        for (family, next_hop, per_message) in [
            (Family::V4, NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)), (4096 - 23 - 20) / 5),
            (
                Family::V6,
                NextHop::V6 { address: "2001:db8::1".parse().unwrap(), link_local: None },
                (4096 - 23 - 13 - 25) / 17,
            ),
        ] {
            let template = Template::new(family, next_hop, attributes.clone(), &context).unwrap();
            for count in [0, 1, per_message, per_message + 1, 5000] {
                let routes = hosts(family, count);
                let mut bytes = Vec::new();
                let mut left = routes.iter().copied().peekable();
                while template.announce(&mut left, &mut bytes) > 0 {}
                let updates = messages(&bytes, &context);
                assert_eq!(updates.len() as u32, count.div_ceil(per_message), "{family} {count}");
                let announced: Vec<_> = updates.iter().flat_map(Update::announced).collect();
                assert_eq!(announced, routes, "{family} {count}");
                for update in &updates {
                    assert!(update.attributes.contains(&attributes[1]));
                    assert_eq!(update.withdrawn().count(), 0);
                }
            }
        }
    }

    #[test]
    fn withdrawals_are_split() {
        let context = modern(Peering::External);
        for (family, per_message) in [(Family::V4, (4096 - 23) / 5), (Family::V6, (4096 - 23 - 7) / 17)] {
            for count in [0, 1, per_message, per_message + 1, 5000] {
                let routes = hosts(family, count);
                let mut bytes = Vec::new();
                let mut left = routes.iter().copied().peekable();
                while withdraw(family, &mut left, &mut bytes) > 0 {}
                let updates = messages(&bytes, &context);
                assert_eq!(updates.len() as u32, count.div_ceil(per_message), "{family} {count}");
                let withdrawn: Vec<_> = updates.iter().flat_map(Update::withdrawn).collect();
                assert_eq!(withdrawn, routes, "{family} {count}");
            }
        }
    }

    #[test]
    fn attributes_that_leave_no_room_are_refused() {
        let template = |communities| {
            let attributes = vec![Attribute::Communities(vec![0; communities])];
            Template::new(
                Family::V4,
                NextHop::V4(Ipv4Addr::LOCALHOST),
                attributes,
                &modern(Peering::External),
            )
        };
        // 23 for the message, 7 for NEXT_HOP, 4 for the header of COMMUNITIES, 17 for a prefix.
        assert!(template((4096 - 23 - 7 - 4 - 17) / 4).is_ok());
        assert_eq!(template((4096 - 23 - 7 - 4 - 17) / 4 + 1), Err(EncodeError::TooLong));
        assert_eq!(template(70_000), Err(EncodeError::TooLong));
    }
}

fn contexts() -> impl Strategy<Value = Context> {
    any::<u8>().prop_map(check::context)
}

fn prefixes4() -> impl Strategy<Value = Vec<Ipv4Net>> {
    let prefix = (any::<u32>(), 0u8..=32)
        .prop_map(|(bits, length)| Ipv4Net::new(bits.into(), length).unwrap().trunc());
    prop::collection::vec(prefix, 0..8)
}

fn prefixes6() -> impl Strategy<Value = Vec<Ipv6Net>> {
    let prefix = (any::<u128>(), 0u8..=128)
        .prop_map(|(bits, length)| Ipv6Net::new(bits.into(), length).unwrap().trunc());
    prop::collection::vec(prefix, 0..8)
}

fn as_paths() -> impl Strategy<Value = AsPath> {
    let segment = (any::<bool>(), prop::collection::vec(1u32.., 1..300)).prop_map(|(set, numbers)| {
        let kind = if set { SegmentKind::Set } else { SegmentKind::Sequence };
        Segment { kind, numbers }
    });
    // Of one segment, since a long one comes back as two.
    prop::collection::vec(segment, 0..2).prop_map(|mut segments| {
        for segment in &mut segments {
            segment.numbers.truncate(255);
        }
        AsPath(segments)
    })
}

fn updates() -> impl Strategy<Value = Update> {
    let reach = (any::<u128>(), proptest::option::of(any::<u128>()), prefixes6()).prop_map(
        |(address, link_local, prefixes)| {
            Attribute::MpReach(MpReach::Unicast {
                next_hop: NextHop::V6 { address: address.into(), link_local: link_local.map(Into::into) },
                prefixes: Prefixes::V6(prefixes),
            })
        },
    );
    let unknown = (any::<bool>(), 40u8..60, prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(partial, code, value)| Attribute::Unknown { partial, code, value });
    let optional = (
        proptest::option::of(any::<u32>().prop_map(Attribute::MultiExitDisc)),
        proptest::option::of(prop::collection::vec(any::<u32>(), 1..100).prop_map(Attribute::Communities)),
        proptest::option::of(
            prop::collection::vec(any::<(u32, u32, u32)>(), 1..30).prop_map(Attribute::LargeCommunities),
        ),
        proptest::option::of(reach),
        proptest::option::of(
            prefixes6().prop_map(|p| Attribute::MpUnreach(MpUnreach::Unicast(Prefixes::V6(p)))),
        ),
        proptest::option::of(unknown),
        any::<bool>(),
    );
    (prefixes4(), prefixes4(), as_paths(), optional).prop_map(|(withdrawn, announced, path, optional)| {
        let (med, communities, large, reach, unreach, unknown, atomic) = optional;
        let mut attributes = vec![
            Attribute::Origin(Origin::Egp),
            Attribute::AsPath(path),
            Attribute::NextHop(Ipv4Addr::new(192, 0, 2, 1)),
        ];
        attributes.extend([med, communities, large, reach, unreach, unknown].into_iter().flatten());
        attributes.extend(atomic.then_some(Attribute::AtomicAggregate));
        attributes.sort_by_key(Attribute::code);
        Update { withdrawn, attributes, announced }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_update_comes_back_as_it_was(update in updates()) {
        let context = modern(Peering::External).as_sets(true);
        let message = Message::Update(update);
        let mut bytes = Vec::new();
        message.encode(&context, &mut bytes).unwrap();
        prop_assert_eq!(Message::decode(&bytes, &context), Ok(message));
    }

    #[test]
    fn any_message_is_let_through_or_calls_for_an_action(
        context in contexts(),
        kind in 0u8..7,
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        check::message(&context, &frame(kind, &body));
    }

    /// Any octet of a good message changed.
    #[test]
    fn so_is_one_that_is_almost_right(
        update in updates(),
        context in contexts(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = Vec::new();
        Message::Update(update).encode(&context, &mut bytes).unwrap();
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        check::message(&context, &bytes);
    }
}
