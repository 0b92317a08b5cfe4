use std::net::Ipv6Addr;

use lbcore::elect::{Bid, Term};
use lbcore::id::{InterfaceName, Role};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::config::{ClusterKey, Keyring};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn keyring(byte: u8) -> Keyring {
    Keyring::new(ClusterKey::new([byte; 32]))
}

fn role(last: u8) -> Role {
    Role::Address([192, 0, 2, last].into())
}

fn weighed() -> Bid {
    let mut bid = Bid::preferring(7).draining();
    bid.weight = 3;
    bid
}

/// Each message with its payload after the sender "n1" and token 0x0102030405060708.
fn samples() -> Vec<(&'static str, Message)> {
    let entry = |stamp, key, value| Entry { stamp, key, value };
    let said = |bid, claim| Value::Role(RoleEntry { bid, claim });
    vec![
        (
            "01 1112131415161718 01 00 04 c0000201 1f0a",
            Message::Hello(Hello {
                token: 0x1112_1314_1516_1718,
                accepted: true,
                settled: false,
                address: "192.0.2.1:7946".parse().unwrap(),
            }),
        ),
        (
            "02 0000000000000009 0000000000000007 0000000000000003 01 0a 0002 02
             02 6e32 000000000000000000000000000000aa 000061a8 01 0000000000000005
             02 6e33 000000000000000000000000000000bb ffffffff 64 0000000000000000",
            Message::Heartbeat(Heartbeat {
                round: 9,
                echo: 7,
                version: 3,
                wants_reply: true,
                promise: 10,
                live: 2,
                heard: vec![
                    Heard { node: "n2".into(), boot: Boot(0xaa), age: 25_000, promise: 1, version: 5 },
                    Heard {
                        node: "n3".into(),
                        boot: Boot(0xbb),
                        age: Heard::NEVER,
                        promise: 100,
                        version: 0,
                    },
                ],
            }),
        ),
        (
            "03 02 6e31 000000000000000000000000000000cc
             0000000000000010 000000000000001a 000000000000001b 02 0008
             00000001 00 05
             00000002 01 04 65746830 01 020000000001
             00000003 01 04 65746831 00
             00000004 04 c0000201 13 0000000000000006
             00000005 04 c0000202 2f 00000007 00000003 0000000000000002 02 6e32
             00000006 06 fd000000000000000000000000000001 30 0000000000000004
             00000007 07 0006 737461747573 01
             00000008 04 c0000203 00",
            Message::Entries(Entries {
                origin: "n1".into(),
                boot: Boot(0xcc),
                from: 0x10,
                to: 0x1a,
                latest: 0x1b,
                anew: false,
                pauses: true,
                entries: vec![
                    entry(
                        0x11,
                        Key::Meta,
                        Value::Meta(Meta { settled: true, leaving: false, draining: true }),
                    ),
                    entry(0x12, Key::Hardware("eth0".into()), Value::Hardware(Some([2, 0, 0, 0, 0, 1]))),
                    entry(0x13, Key::Hardware("eth1".into()), Value::Hardware(None)),
                    entry(0x14, Key::Role(role(1)), said(Some(Bid::default()), Claim::Holds(Term(6)))),
                    entry(
                        0x15,
                        Key::Role(role(2)),
                        said(Some(weighed()), Claim::Offered { term: Term(2), to: "n2".into() }),
                    ),
                    entry(
                        0x16,
                        Key::Role(Role::Address(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into())),
                        said(None, Claim::Free(Term(4))),
                    ),
                    entry(
                        0x17,
                        Key::Role(Role::named("status")),
                        said(Some(Bid::default().ineligible()), Claim::None),
                    ),
                    entry(0x18, Key::Role(role(3)), said(None, Claim::None)),
                ],
            }),
        ),
        (
            "04 02 6e33 000000000000000000000000000000dd 0000000000000011",
            Message::Fetch(Fetch { origin: "n3".into(), boot: Boot(0xdd), have: 0x11 }),
        ),
        ("05 deadbeef", Message::Membership(vec![0xde, 0xad, 0xbe, 0xef])),
    ]
}

const SENDER: &str = "02 6e31 0102030405060708";

#[test]
fn every_message_is_read_and_written_as_specified() {
    for (text, message) in samples() {
        let bytes = [hex(SENDER), hex(text)].concat();
        let packet = Packet::new("n1".into(), 0x0102_0304_0506_0708, message);
        assert_eq!(Packet::parse(&bytes).as_ref(), Ok(&packet), "{text}");
        let mut written = Vec::new();
        packet.emit(&mut written);
        assert_eq!(written, bytes, "{text}");
    }
}

#[test]
fn what_is_cut_or_has_a_tail_is_refused() {
    for (text, message) in samples() {
        let bytes = [hex(SENDER), hex(text)].concat();
        // A membership message has no length of its own; the seal protects it.
        let shortest = if matches!(message, Message::Membership(_)) { 12 } else { bytes.len() };
        for length in 0..shortest {
            assert!(Packet::parse(&bytes[..length]).is_err(), "{length} bytes of {text}");
        }
        if !matches!(message, Message::Membership(_)) {
            let tail = [bytes.as_slice(), &[0]].concat();
            assert_eq!(Packet::parse(&tail), Err(WireError::Malformed("trailing bytes")), "{text}");
        }
    }
}

#[test]
fn what_has_no_meaning_is_refused() {
    for (text, why) in [
        ("09", "kind of message"),
        ("01 1112131415161718 02 00", "flag"),
        ("01 1112131415161718 00 02", "flag"),
        ("02 0000000000000009 0000000000000007 0000000000000003 01 00 0000 00", "promise"),
        ("02 0000000000000009 0000000000000007 0000000000000003 01 65 0000 00", "promise"),
        ("04 00 000000000000000000000000000000dd 0000000000000011", "name of a node"),
        ("04 01 ff 000000000000000000000000000000dd 0000000000000011", "text"),
        // from > to, to > latest, unknown flags
        ("03 02 6e31 000000000000000000000000000000cc 0000000000000002 0000000000000001 0000000000000003 00 0000",
            "order of versions"),
        ("03 02 6e31 000000000000000000000000000000cc 0000000000000001 0000000000000004 0000000000000003 00 0000",
            "order of versions"),
        ("03 02 6e31 000000000000000000000000000000cc 0000000000000001 0000000000000002 0000000000000003 04 0000",
            "flags"),
        // a stamp that stands still, one beyond `to`
        ("03 02 6e31 000000000000000000000000000000cc 0000000000000001 0000000000000002 0000000000000003 00 0001
          00000000 00 00", "order of stamps"),
        ("03 02 6e31 000000000000000000000000000000cc 0000000000000001 0000000000000002 0000000000000003 00 0001
          00000002 00 00", "order of stamps"),
        // flags of a node, kind of entry, a bid's flags without a bid, unknown flags of a role
        ("03 02 6e31 000000000000000000000000000000cc 0000000000000001 0000000000000002 0000000000000003 00 0001
          00000001 00 08", "flags of a node"),
        ("03 02 6e31 000000000000000000000000000000cc 0000000000000001 0000000000000002 0000000000000003 00 0001
          00000001 02 00", "kind of entry"),
        ("03 02 6e31 000000000000000000000000000000cc 0000000000000001 0000000000000002 0000000000000003 00 0001
          00000001 04 c0000201 02", "flags of a role"),
        ("03 02 6e31 000000000000000000000000000000cc 0000000000000001 0000000000000002 0000000000000003 00 0001
          00000001 04 c0000201 41", "flags of a role"),
        ("03 02 6e31 000000000000000000000000000000cc 0000000000000001 0000000000000002 0000000000000003 00 0001
          00000001 07 01f5", "length of a role's name"),
    ] {
        let bytes = [hex(SENDER), hex(text)].concat();
        assert_eq!(Packet::parse(&bytes), Err(WireError::Malformed(why)), "{text}");
    }
}

#[test]
fn a_sealed_datagram_is_pinned() {
    // Made once by this code; a change of the format must change the version.
    let sealed = Sealer::new(&keyring(0x42)).seal(Boot(1), 2, b"payload").unwrap();
    assert_eq!(sealed[..HEADER_LEN], hex("4c424731 00000000000000000000000000000001 0000000000000002"));
    assert_eq!(sealed.len(), HEADER_LEN + 7 + TAG_LEN);
    let (boot, sequence, payload) = Sealer::new(&keyring(0x42)).open(&sealed).unwrap();
    assert_eq!((boot, sequence, payload.as_slice()), (Boot(1), 2, b"payload".as_slice()));
}

#[test]
fn only_whole_datagrams_of_members_open() {
    let sealer = Sealer::new(&keyring(1));
    let sealed = sealer.seal(Boot(1), 2, b"payload").unwrap();
    for length in 0..sealed.len() {
        assert!(sealer.open(&sealed[..length]).is_err(), "{length} bytes");
    }
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        let expected = if at < 4 { WireError::Magic } else { WireError::Unauthentic };
        assert_eq!(sealer.open(&altered), Err(expected), "byte {at}");
    }
    assert_eq!(Sealer::new(&keyring(2)).open(&sealed), Err(WireError::Unauthentic));
    assert_eq!(sealer.seal(Boot(1), 3, &[0; MAX_DATAGRAM]), None);
}

#[test]
fn two_keys_are_valid_during_a_rotation() {
    let (old, new) = (ClusterKey::new([1; 32]), ClusterKey::new([2; 32]));
    let before = Sealer::new(&Keyring::new(old.clone()).accepting(new.clone()));
    let after = Sealer::new(&Keyring::new(new.clone()).accepting(old));
    let done = Sealer::new(&Keyring::new(new));
    let by_old = before.seal(Boot(1), 1, b"old").unwrap();
    let by_new = after.seal(Boot(1), 1, b"new").unwrap();
    assert!(after.open(&by_old).is_ok() && before.open(&by_new).is_ok());
    assert!(done.open(&by_new).is_ok());
    assert_eq!(done.open(&by_old), Err(WireError::Unauthentic));
}

#[test]
fn a_heartbeat_takes_as_many_as_fit() {
    let heard = |name: String| Heard { node: name.into(), boot: Boot(1), age: 0, promise: 1, version: 0 };
    let many: Vec<_> = (0..300).map(|n| heard(format!("{n:0>253}"))).collect();
    let fitting = Heartbeat::fitting(many);
    assert!(fitting.len() >= 2);
    let message = Message::Heartbeat(Heartbeat { heard: fitting, ..Heartbeat::default() });
    let mut payload = Vec::new();
    Packet::new("n".repeat(crate::MAX_NODE_NAME).into(), 0, message).emit(&mut payload);
    assert!(Sealer::new(&keyring(1)).seal(Boot(1), 1, &payload).is_some());
    let short: Vec<_> = (0..300).map(|n| heard(format!("{n}"))).collect();
    assert!(Heartbeat::fitting(short).len() < 256);
}

fn roles() -> impl Strategy<Value = Role> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| Role::Address(octets.into())),
        any::<[u8; 16]>().prop_map(|octets| Role::Address(octets.into())),
        "[a-zä]{0,250}".prop_map(Role::named),
    ]
}

fn claims() -> impl Strategy<Value = Claim> {
    prop_oneof![
        Just(Claim::None),
        any::<u64>().prop_map(|term| Claim::Holds(Term(term))),
        any::<u64>().prop_map(|term| Claim::Free(Term(term))),
        (any::<u64>(), "[a-z]{1,20}")
            .prop_map(|(term, to)| Claim::Offered { term: Term(term), to: to.into() }),
    ]
}

fn bids() -> impl Strategy<Value = Bid> {
    any::<(u32, u32, bool, bool)>().prop_map(|(preference, weight, eligible, draining)| {
        let mut bid = Bid::preferring(preference);
        (bid.weight, bid.eligible, bid.draining) = (weight, eligible, draining);
        bid
    })
}

fn said() -> impl Strategy<Value = (Key, Value)> {
    prop_oneof![
        any::<(bool, bool, bool)>().prop_map(|(settled, leaving, draining)| (
            Key::Meta,
            Value::Meta(Meta { settled, leaving, draining })
        )),
        ("[a-z0-9]{0,15}", option::of(any::<[u8; 6]>()))
            .prop_map(|(name, mac)| (Key::Hardware(InterfaceName::from(name)), Value::Hardware(mac))),
        (roles(), option::of(bids()), claims())
            .prop_map(|(role, bid, claim)| (Key::Role(role), Value::Role(RoleEntry { bid, claim }))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn entries_come_back_and_their_length_is_not_underrated(said in vec(said(), 0..8), from in 0..u64::MAX / 2) {
        let entries: Vec<_> = (from + 1..)
            .zip(said)
            .map(|(stamp, (key, value))| Entry { stamp, key, value })
            .collect();
        let to = from + entries.len() as u64;
        let lengths: usize = entries.iter().map(Entry::wire_len).sum();
        let empty = Entries {
            origin: "n1".into(), boot: Boot(5), from, to, latest: to, anew: true, pauses: false, entries: vec![],
        };
        let packet = |entries| Packet::new("n2".into(), 1, Message::Entries(entries));
        let (mut bare, mut bytes) = (Vec::new(), Vec::new());
        packet(empty.clone()).emit(&mut bare);
        let packet = packet(Entries { entries, ..empty });
        packet.emit(&mut bytes);
        prop_assert!(bytes.len() - bare.len() <= lengths);
        prop_assert_eq!(Packet::parse(&bytes), Ok(packet));
    }

    #[test]
    fn any_payload_is_refused_or_comes_back(bytes in vec(any::<u8>(), 0..200)) {
        check::datagram(&bytes);
    }

    #[test]
    fn so_does_an_altered_message(which in 0_usize..5, at in 0_usize..220, value: u8) {
        let mut bytes = [hex(SENDER), hex(samples()[which].0)].concat();
        let at = at % bytes.len();
        bytes[at] = value;
        check::datagram(&bytes);
    }
}
