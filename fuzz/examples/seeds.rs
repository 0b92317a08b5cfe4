//! Writes the hand-made seeds of the targets whose inputs are binary: `cargo run --example seeds`. The seeds of the
//! others are texts, and edited in place.

use std::fs;
use std::path::Path;

use announce_bgp::wire as bgp;
use announce_l2::wire::arp::Arp;
use announce_l2::wire::ndp::{Advertisement, Message, Solicitation};
use announce_l2::wire::{FrameBuf, MacAddr, ipv6};
use elect_gossip::{ClusterKey, Keyring, wire as gossip};

fn main() -> std::io::Result<()> {
    let seeds = [
        ("arp", arp()),
        ("ndp", ndp()),
        ("l2_responder", l2_responder()),
        ("bgp_message", bgp_message()),
        ("bgp_session", bgp_session()),
        ("gossip_datagram", gossip_datagram()),
        ("gossip_member", gossip_member()),
        ("route_match", route_match()),
    ];
    for (target, seeds) in seeds {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// Bytes from a hex dump; blanks are ignored.
fn hex(dump: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        dump.chars().filter(|c| !c.is_whitespace()).filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).expect("two digits")).collect()
}

const US: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);
const CLIENT: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0xcc]);

fn bytes(frame: FrameBuf) -> Vec<u8> {
    frame.as_bytes().to_vec()
}

/// Frames from the Ethernet header on.
fn arp() -> Seeds {
    let (vip, host) = ([192, 0, 2, 2].into(), [192, 0, 2, 200].into());
    let request = bytes(Arp::directed(CLIENT, host, vip).to_frame(MacAddr::BROADCAST));
    let with = |at: usize, value: u8| {
        let mut changed = request.clone();
        changed[at] = value;
        changed
    };
    let tagged = [&request[..12], &hex("8100 2005"), &request[12..]].concat();
    vec![
        ("request", request.clone()),
        ("request-padded-to-60-octets", [&request[..], &[0; 18]].concat()),
        ("request-in-vlan-5", tagged.clone()),
        ("request-behind-two-tags", [&tagged[..12], &hex("88a8 0007"), &tagged[12..]].concat()),
        ("reply", bytes(Arp::directed(CLIENT, host, vip).reply(US).to_frame(CLIENT))),
        ("probe", bytes(Arp::probe(CLIENT, vip).to_frame(MacAddr::BROADCAST))),
        ("announcement", bytes(Arp::announcement(CLIENT, vip).to_frame(MacAddr::BROADCAST))),
        ("hardware-type-ieee802", with(15, 6)),
        ("hardware-type-unknown", with(15, 7)),
        ("protocol-ipv6", with(16, 0x86)),
        ("hardware-length-eight", with(18, 8)),
        ("operation-rarp", with(21, 3)),
        ("sender-mac-is-a-group", with(22, 0x01)),
        ("sender-is-multicast", with(28, 224)),
        ("sender-is-loopback", with(28, 127)),
        ("cut-after-spa", request[..32].to_vec()),
        ("cut-in-ethernet-header", request[..13].to_vec()),
        ("cut-in-vlan-tag", tagged[..16].to_vec()),
    ]
}

/// Frames from the Ethernet header on. Options are appended by hand: the emitter writes none that are wrong.
fn ndp() -> Seeds {
    let vip = "2001:db8::1".parse().expect("an address");
    let host = "fe80::cc".parse().expect("an address");
    let group = ipv6::solicited_node(vip);
    let solicit = |source, source_mac, nonce| {
        let message = Message::Solicitation(Solicitation { target: vip, source_mac, nonce });
        bytes(message.to_frame(&ipv6::Header::nd(source, group), CLIENT, MacAddr::of_ipv6_group(group)))
    };
    let advertise = |na: Advertisement, destination| {
        let header = ipv6::Header::nd(vip, destination);
        bytes(Message::Advertisement(na).to_frame(&header, US, MacAddr::BROADCAST))
    };
    let plain = solicit(host, None, None);
    // The checksum is not right then; the target puts it right.
    let with_options = |options: &str| {
        let mut frame = [plain.clone(), hex(options)].concat();
        frame[19] = u8::try_from(frame.len() - 54).expect("a short frame");
        frame
    };
    let with = |mut frame: Vec<u8>, at: usize, value: u8| {
        frame[at] = value;
        frame
    };
    let unspecified = std::net::Ipv6Addr::UNSPECIFIED;
    let solicited_to_all = advertise(Advertisement::answer(vip, US), ipv6::ALL_NODES);
    vec![
        ("solicitation", solicit(host, Some(CLIENT), None)),
        ("solicitation-with-nonce", solicit(host, Some(CLIENT), Some([1, 2, 3, 4, 5, 6]))),
        ("dad-solicitation", solicit(unspecified, None, None)),
        ("dad-solicitation-with-source-option", solicit(unspecified, Some(CLIENT), None)),
        ("dad-solicitation-to-all-nodes", with(solicit(unspecified, None, None), 49, 0)),
        ("advertisement-unsolicited", advertise(Advertisement::unsolicited(vip, US), ipv6::ALL_NODES)),
        ("advertisement-answer", advertise(Advertisement::answer(vip, US), host)),
        ("advertisement-solicited-to-all-nodes", solicited_to_all),
        ("hop-limit-254", with(plain.clone(), 21, 254)),
        ("code-1", with(plain.clone(), 55, 1)),
        ("checksum-wrong", with(plain.clone(), 56, 0xaa)),
        ("target-multicast", with(plain.clone(), 62, 0xff)),
        ("router-solicitation", with(plain.clone(), 54, 133)),
        ("option-length-zero", with_options("0100 0200000000cc")),
        ("option-beyond-the-end", with_options("0102 0200000000cc")),
        ("option-of-one-octet", with_options("01")),
        ("option-of-255-units", with_options("01ff 0200000000cc")),
        ("option-unknown-then-source", with_options("fe01 000000000000 0101 0200000000cc")),
        ("source-option-twice", with_options("0101 0200000000cc 0101 0200000000dd")),
        ("source-option-of-two-units", with_options("0102 0200000000cc 0000000000000000")),
        ("payload-longer-than-the-frame", with(plain.clone(), 19, 99)),
        ("version-4", with(plain.clone(), 14, 0x45)),
        ("cut-in-target", plain[..70].to_vec()),
    ]
}

/// See `announce_l2::machine::laws::decode`.
fn l2_responder() -> Seeds {
    let wait = |ms: u16| step(0, 0, ms);
    let desired = |generation, owned, how| vec![2, generation, owned, how];
    let renew = |lease, ms: u16| step(3, lease, ms);
    let ask = |address, port, age_ms: u8| vec![4, address, port, age_ms / 2];
    let probe = |address, port: u8| vec![4, address, port | 2, 0];
    let claim = |address, port| vec![5, address, port, 0];
    let link = |port, up: bool| vec![6, port, u8::from(up), 0];
    let frame =
        |bytes: &[u8]| [&[8, u8::try_from(bytes.len()).expect("a short frame"), 0, 0], bytes].concat();
    let own = [desired(1, 0xff, 0), renew(0, 8000)].concat();
    let seed = |steps: &[Vec<u8>]| [own.clone(), steps.concat()].concat();
    let frames = arp().into_iter().chain(ndp()).map(|(_, bytes)| frame(&bytes)).collect::<Vec<_>>();
    vec![
        ("announced-and-asked", seed(&[wait(3000), ask(0, 0, 0), ask(1, 0, 0), probe(2, 1), probe(3, 1)])),
        ("asked-too-late", seed(&[ask(0, 0, 98), ask(0, 0, 102), ask(1, 0, 250)])),
        ("asked-after-the-lease", seed(&[wait(7999), ask(0, 0, 0), wait(1), ask(0, 0, 0), ask(1, 0, 0)])),
        ("renewed-in-time", seed(&[wait(7000), renew(0, 8000), wait(7000), ask(0, 0, 0)])),
        (
            "two-leases",
            seed(&[desired(2, 0x0f, 1), ask(0, 0, 0), renew(1, 100), ask(0, 0, 0), wait(100), ask(0, 0, 0)]),
        ),
        (
            "on-one-interface",
            seed(&[desired(2, 0xff, 2), ask(0, 0, 0), ask(0, 1, 0), desired(3, 0xff, 4), ask(0, 0, 0)]),
        ),
        (
            "older-set-is-ignored",
            seed(&[desired(5, 0x01, 0), desired(4, 0xff, 0), ask(2, 0, 0), ask(0, 0, 0)]),
        ),
        (
            "claimed-and-defended",
            seed(&[wait(5000), claim(0, 0), claim(0, 0), renew(0, 8000), wait(6000), claim(0, 1)]),
        ),
        (
            "link-lost-and-back",
            seed(&[link(0, false), ask(0, 0, 0), wait(500), link(0, true), wait(3000), ask(0, 0, 0)]),
        ),
        (
            "asked-while-standby-then-gained",
            [desired(1, 0xff, 0), ask(0, 0, 0), ask(2, 1, 0), renew(0, 3000), wait(2000)].concat(),
        ),
        ("withdrawn", seed(&[wait(10), vec![9, 0, 0, 0], ask(0, 0, 0), desired(2, 1, 0), ask(0, 0, 0)])),
        ("told-again", seed(&[wait(3000), vec![7, 0, 0, 0], wait(10), vec![7, 1, 0, 0], wait(3000)])),
        ("refresh", seed(&[[renew(0, 8191), wait(8000)].concat().repeat(16)])),
        ("every-seed-of-arp-and-ndp", seed(&frames)),
    ]
}

fn step(kind: u8, argument: u8, wide: u16) -> Vec<u8> {
    let [high, low] = wide.to_be_bytes();
    vec![kind, argument, high, low]
}

/// The context, then a message. 0x0e is an external session with both families and four-octet AS numbers.
fn bgp_message() -> Seeds {
    let message = |context: u8, kind: u8, body: &str| {
        let body = hex(body);
        let length = u16::try_from(bgp::HEADER_LENGTH + body.len()).expect("a short message").to_be_bytes();
        [&[context][..], &[0xff; 16], &length, &[kind], &body].concat()
    };
    let update = |context, withdrawn: &str, attributes: &str, announced: &str| {
        let part = |text: &str| {
            let bytes = hex(text).len();
            format!("{bytes:04x} {text}")
        };
        message(context, 2, &format!("{} {} {announced}", part(withdrawn), part(attributes)))
    };
    const ORIGIN: &str = "40 01 01 00";
    const PATH: &str = "40 02 06 02 01 0000fde9";
    const HOP: &str = "40 03 04 c0000201";
    let route = |more: &str| update(0x0e, "", &format!("{ORIGIN} {PATH} {HOP} {more}"), "20 c6336407");
    let open = |parameters: &str| message(0x0e, 1, &format!("04 fde9 005a c0000201 {parameters}"));
    vec![
        ("open-without-capabilities", open("00")),
        ("open-4-octet-as", open("08 02 06 41 04 0000fde9")),
        ("open-two-families-and-refresh", open("14 02 12 01 04 0001 00 01 01 04 0002 00 01 41 04 0000fde9")),
        ("open-a-parameter-each", open("10 02 06 01 04 0001 00 01 02 02 02 00 02 02 46 00")),
        ("open-extended-parameters", open("ff ff 0009 02 0006 41 04 0000fde9")),
        ("open-unknown-parameter", open("04 01 02 0000")),
        ("open-capability-cut", open("05 02 03 41 04 00")),
        ("open-version-3", message(0, 1, "03 fde9 005a c0000201 00")),
        ("open-as-zero", message(0, 1, "04 0000 005a c0000201 00")),
        ("open-hold-time-2", message(0, 1, "04 fde9 0002 c0000201 00")),
        ("keepalive", message(0, 4, "")),
        ("keepalive-with-a-body", message(0, 4, "00")),
        ("notification-hold-timer", message(0, 3, "04 00")),
        ("notification-shutdown-with-words", message(0, 3, "06 02 05 6e6f6f6e21")),
        ("notification-shutdown-words-too-long", message(0, 3, "06 02 ff 6e6f")),
        ("route-refresh-v6", message(0x0e, 5, "0002 00 01")),
        ("type-6", message(0, 6, "")),
        ("length-too-short", [&[0][..], &[0xff; 16], &hex("0012 04")].concat()),
        ("marker-wrong", [&[0][..], &[0; 16], &hex("0013 04")].concat()),
        ("update-end-of-rib-v4", update(0x0e, "", "", "")),
        ("update-end-of-rib-v6", update(0x0e, "", "80 0f 03 0002 01", "")),
        ("update-host-route", route("")),
        (
            "update-two-octet-as-with-as4-path",
            update(
                0x06,
                "",
                &format!("{ORIGIN} 40 02 04 02 01 5ba0 {HOP} c0 11 06 02 01 00010000"),
                "18 0a0000",
            ),
        ),
        ("update-withdraws", update(0x0e, "20 c6336407 00 09 0a80", "", "")),
        (
            "update-mp-reach-v6",
            update(
                0x0e,
                "",
                &format!(
                    "80 0e 26 0002 01 10 20010db8000000000000000000000001 00 80 20010db8000000000000000000000007 {ORIGIN} {PATH}"
                ),
                "",
            ),
        ),
        (
            "update-mp-reach-two-next-hops",
            update(
                0x0e,
                "",
                &format!(
                    "80 0e 25 0002 01 20 20010db8000000000000000000000001 fe800000000000000000000000000001 00 {ORIGIN} {PATH}"
                ),
                "",
            ),
        ),
        (
            "update-mp-unreach-v6",
            update(0x0e, "", "80 0f 14 0002 01 80 20010db8000000000000000000000007", ""),
        ),
        (
            "update-family-not-in-use",
            update(0x0a, "", &format!("80 0e 08 0002 80 00 00 010203 {ORIGIN} {PATH}"), ""),
        ),
        ("update-communities", route("c0 08 08 fde80001 ffffff01 c0 20 0c 00000001 00000002 00000003")),
        (
            "update-med-and-local-pref",
            update(
                0x0f,
                "",
                &format!("{ORIGIN} {PATH} {HOP} 80 04 04 00000001 40 05 04 00000064"),
                "20 c6336407",
            ),
        ),
        ("update-local-pref-from-outside", route("40 05 04 00000064")),
        ("update-aggregated", route("40 06 00 c0 07 08 0000fde9 c0000201")),
        ("update-aggregator-as-zero", route("c0 07 08 00000000 c0000201")),
        ("update-unknown-transitive", route("e0 63 03 010203")),
        ("update-unknown-well-known", route("40 63 00")),
        ("update-extended-length", route("d0 08 0004 fde80001")),
        (
            "update-as-set",
            update(0x1e, "", &format!("{ORIGIN} 40 02 06 01 01 0000fde9 {HOP}"), "20 c6336407"),
        ),
        (
            "update-as-set-refused",
            update(0x0e, "", &format!("{ORIGIN} 40 02 06 01 01 0000fde9 {HOP}"), "20 c6336407"),
        ),
        (
            "update-as-path-cut",
            update(0x0e, "", &format!("{ORIGIN} 40 02 04 02 02 0000 {HOP}"), "20 c6336407"),
        ),
        ("update-without-as-path", update(0x0e, "", &format!("{ORIGIN} {HOP}"), "20 c6336407")),
        ("update-origin-twice", route(ORIGIN)),
        ("update-mp-unreach-twice", update(0x0e, "", "80 0f 03 0002 01 80 0f 03 0002 01", "")),
        ("update-prefix-of-33-bits", update(0x0e, "21 c633640780", "", "")),
        ("update-attribute-longer-than-the-list", update(0x0e, "", "40 01 09 00", "20 c6336407")),
        ("update-flags-wrong", update(0x0e, "", &format!("c0 01 01 00 {PATH} {HOP}"), "20 c6336407")),
    ]
}

/// See `announce_bgp::machine::laws::decode`. Connection 0 is the newest.
fn bgp_session() -> Seeds {
    let wait = |units: u16| step(0, 0, units);
    let answer = |success: bool| vec![2, if success { 0 } else { 3 }, 0, 0];
    let call = |second: bool| vec![3, u8::from(second), 0, 0];
    let open = |connection, offer, hold| vec![4, connection, offer, hold];
    let keepalive = |connection| vec![6, connection, 0, 0];
    let message = |kind, body: &str| {
        let body = hex(body);
        [vec![7, 0, kind, u8::try_from(body.len()).expect("a short body")], body].concat()
    };
    let raw =
        |bytes: &[u8]| [&[8, 0, u8::try_from(bytes.len()).expect("a short message"), 0], bytes].concat();
    let lose = |connection| vec![9, connection, 0, 0];
    let read = |connection| vec![10, connection, 0, 0];
    let read_some = |limit: u16| step(11, 0, limit);
    let desired = |generation, wanted, how| vec![12, generation, wanted, how];
    let renew = |lease, units: u16| step(13, lease, units);
    let peers = |choice| vec![14, choice, 0, 0];
    let stop = vec![15, 15, 0, 0];
    // Both families, four-octet AS numbers, an identifier below ours.
    const MODERN: u8 = 0x0b;
    let up = [answer(true), open(0, MODERN, 90), keepalive(0)].concat();
    let established = |steps: &[Vec<u8>]| [up.clone(), steps.concat()].concat();
    let messages = bgp_message().into_iter().map(|(_, bytes)| raw(&bytes[1..])).collect::<Vec<_>>();
    let mut seeds = vec![
        (
            "all-routes-and-a-change",
            established(&[
                desired(1, 0xff, 0),
                read(0),
                desired(2, 0x0f, 4),
                read(0),
                desired(3, 0, 0),
                read(0),
            ]),
        ),
        (
            "read-a-little-at-a-time",
            established(&[
                desired(1, 0xff, 0),
                read_some(1),
                read_some(100),
                desired(2, 0xf0, 12),
                read_some(1),
                read_some(1),
                read(0),
            ]),
        ),
        (
            "lease-runs-out",
            established(&[
                desired(1, 0xff, 1),
                read(0),
                renew(0, 100),
                read(0),
                wait(99),
                read(0),
                wait(1),
                read(0),
            ]),
        ),
        (
            "lease-changes",
            established(&[
                desired(1, 0xff, 1),
                renew(0, 100),
                read(0),
                desired(2, 0xff, 3),
                read(0),
                renew(1, 50),
                read(0),
            ]),
        ),
        (
            "two-octet-as",
            [answer(true), open(0, 0x03, 90), keepalive(0), desired(1, 0xff, 0), read(0)].concat(),
        ),
        ("v4-alone", [answer(true), open(0, 0x09, 90), keepalive(0), desired(1, 0xff, 0), read(0)].concat()),
        (
            "no-hold-time",
            [answer(true), open(0, MODERN, 0), keepalive(0), desired(1, 1, 0), wait(60000), read(0)].concat(),
        ),
        (
            "hold-time-expires",
            established(&[
                read(0),
                wait(5000),
                read(0),
                wait(5000),
                answer(true),
                open(0, MODERN, 3),
                keepalive(0),
                wait(200),
            ]),
        ),
        (
            "refused-open",
            [answer(true), open(0, 0x0f, 90), wait(100), answer(true), open(0, 0x08, 90)].concat(),
        ),
        (
            "attempts-fail",
            [answer(false), wait(30), answer(false), wait(60), answer(false), wait(2000), answer(true)]
                .concat(),
        ),
        (
            "collision-we-are-lower",
            [
                answer(true),
                call(false),
                open(1, 0x2b, 90),
                open(0, 0x2b, 90),
                keepalive(0),
                keepalive(1),
                read(0),
                read(1),
            ]
            .concat(),
        ),
        (
            "collision-we-are-higher",
            [
                answer(true),
                call(false),
                open(1, MODERN, 90),
                open(0, MODERN, 90),
                keepalive(0),
                keepalive(1),
                read(0),
                read(1),
            ]
            .concat(),
        ),
        (
            "called-twice",
            [call(false), call(false), open(0, MODERN, 90), keepalive(0), desired(1, 3, 0), read(0)].concat(),
        ),
        ("stranger-calls", [call(true), wait(10)].concat()),
        (
            "peer-says-goodbye",
            established(&[message(3, "06 02 05 6e6f6f6e21"), wait(1000), answer(true), open(0, MODERN, 90)]),
        ),
        (
            "lost-and-found",
            established(&[
                desired(1, 0xff, 0),
                read(0),
                lose(0),
                wait(100),
                answer(true),
                open(0, MODERN, 90),
                keepalive(0),
                read(0),
            ]),
        ),
        (
            "asked-for-all-again",
            established(&[
                desired(1, 0xff, 0),
                read(0),
                message(5, "0001 00 01"),
                read(0),
                message(5, "0002 00 01"),
                read(0),
            ]),
        ),
        ("wrong-header", established(&[raw(&[0; 19])])),
        ("message-out-of-place", [answer(true), keepalive(0), wait(10)].concat()),
        (
            "peers-change",
            established(&[
                desired(1, 0xff, 0),
                read(0),
                peers(3),
                answer(true),
                open(0, 0x0f, 9),
                keepalive(0),
                read(0),
                peers(2),
                call(false),
                peers(5),
                peers(0),
            ]),
        ),
        ("stopped", established(&[desired(1, 0xff, 0), read(0), stop.clone(), wait(1000), call(false)])),
        ("stopped-before-it-was-up", [answer(true), stop].concat()),
    ];
    seeds.extend([(
        "every-seed-of-messages",
        messages.into_iter().flat_map(|raw| [up.clone(), raw, lose(0), wait(700)].concat()).collect(),
    )]);
    seeds
}

/// A datagram that is sealed, and payloads.
fn gossip_datagram() -> Seeds {
    let payload = |body: &str| [hex("01 62 0102030405060708"), hex(body)].concat();
    let heartbeat = payload(
        "02 0000000000000009 0000000000000007 0000000000000003 01 0a 0002 01 01 63 000000000000000000000000000000aa 000061a8 01 0000000000000005",
    );
    let sealed =
        gossip::Sealer::new(&Keyring::new(ClusterKey::new([7; 32]))).seal(gossip::Boot(1), 2, &heartbeat);
    let mut seeds = vec![("sealed-heartbeat", sealed.expect("a short payload"))];
    seeds.extend(gossip_bodies().into_iter().map(|(name, body)| (name, payload(&body))));
    seeds
}

/// The kind and the body of messages of member "b".
fn gossip_bodies() -> Vec<(&'static str, String)> {
    let entries = |rest: &str| format!("03 01 62 000000000000000000000000000001b0 {rest}");
    vec![
        ("hello", "01 1112131415161718 01 01".into()),
        ("hello-flag-2", "01 1112131415161718 01 02".into()),
        ("heartbeat", "02 0000000000000009 0000000000000007 0000000000000003 01 01 0002 00".into()),
        ("heartbeat-that-promises-much", "02 0000000000000009 0000000000000007 0000000000000003 01 64 0002 00".into()),
        ("heartbeat-promise-0", "02 0000000000000009 0000000000000007 0000000000000003 01 00 0002 00".into()),
        ("heartbeat-that-heard", "02 0000000000000009 0000000000000001 0000000000000003 01 05 0002 02 01 61 01010101010101010101010101010101 000061a8 01 0000000000000005 01 63 000000000000000000000000000001b1 ffffffff 0a 0000000000000000".into()),
        ("entries-of-each-kind", entries("0000000000000000 0000000000000007 0000000000000007 00 0007 00000001 00 05 00000002 01 04 65746830 01 020000000001 00000003 01 04 65746831 00 00000004 04 c6336400 13 0000000000000006 00000005 04 c6336401 2f 00000007 00000003 0000000000000002 01 61 00000006 06 fd000000000000000000000000000001 30 0000000000000004 00000007 07 0006 737461747573 01")),
        ("entries-anew", entries("0000000000000000 0000000000000001 0000000000000001 01 0001 00000001 00 01")),
        ("entries-that-pause", entries("0000000000000000 0000000000000001 0000000000000009 02 0001 00000001 04 c6336400 13 0000000000000006")),
        ("entries-count-forged", entries("0000000000000000 0000000000000001 0000000000000001 00 ffff 00000001 00 01")),
        ("entries-order-of-stamps", entries("0000000000000000 0000000000000002 0000000000000002 00 0002 00000002 00 01 00000001 04 c6336400 00")),
        ("entries-at-the-end-of-versions", entries("fffffffffffffff0 ffffffffffffffff ffffffffffffffff 00 0001 000000ff 00 01")),
        ("entries-of-the-last-term", entries("0000000000000000 0000000000000001 0000000000000001 00 0001 00000001 04 c6336400 13 ffffffffffffffff")),
        ("fetch", "04 01 61 01010101010101010101010101010101 0000000000000000".into()),
        ("membership", "05 deadbeef".into()),
        ("unknown-kind", "09".into()),
    ]
}

/// See `elect_gossip::machine::laws::decode`.
fn gossip_member() -> Seeds {
    let wait = |ms: u16| [&[0][..], &ms.to_be_bytes()].concat();
    let bid = |bits| vec![7, 0, bits];
    let greet = |member, boot| vec![2, member, boot];
    let say = |member, body: &str| {
        let body = hex(body);
        [vec![3, member, u8::try_from(body.len()).expect("a short body")], body].concat()
    };
    let stream = |what| vec![6, what, 0];
    let leave = vec![7, 15, 0];
    let met = [bid(0x0f), greet(0, 1), greet(1, 1), wait(50)].concat();
    let mut seeds = vec![
        ("alone", [bid(0x0f), wait(3000), bid(0x01), wait(500)].concat()),
        ("alone-then-leaves", [bid(0x0f), wait(3000), leave.clone(), wait(1000)].concat()),
        ("two-come-and-are-silent", [met.clone(), wait(3000)].concat()),
        ("stream-refused", [met.clone(), stream(0), stream(1), stream(2), wait(500)].concat()),
        ("comes-back-as-another", [met.clone(), greet(0, 2), wait(300), greet(0, 1), wait(300)].concat()),
        ("drains", [bid(0x0f), wait(3000), greet(0, 1), bid(0x2f), wait(3000)].concat()),
        ("leaves-among-others", [met.clone(), wait(1000), leave, wait(1000)].concat()),
        ("any-bytes", [met.clone(), vec![5, 0, 5], b"LBG1\0".to_vec()].concat()),
    ];
    let said = |body: &str| [met.clone(), say(0, body), wait(100), say(0, body), wait(2000)].concat();
    seeds.extend(gossip_bodies().into_iter().map(|(name, body)| (name, said(&body))));
    seeds
}

/// See `gateway_router::table::oracle::Scenario::read`, which makes a world of any bytes.
fn route_match() -> Seeds {
    let random = |seed: u32, length: usize| {
        // A linear congruential generator (Numerical Recipes): all that matters is that the bytes differ.
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u8::try_from(state >> 24).expect("eight bits")
        };
        (0..length).map(|_| next()).collect::<Vec<_>>()
    };
    // One listener for all hosts, then entries and requests.
    vec![
        ("nothing", vec![]),
        ("no-entry", vec![0, 0, 0, 0]),
        ("one-prefix", vec![0, 0, 0, 1, 0, 0, 1, 0, 0, 1]),
        ("all-zero", vec![0; 64]),
        ("all-ones", vec![0xff; 256]),
        ("counting", (0..=255).collect()),
        ("any-world-1", random(1, 200)),
        ("any-world-2", random(2, 300)),
        ("any-world-3", random(3, 400)),
        ("any-world-4", random(4, 400)),
    ]
}
