use super::*;

fn link(index: u32, name: &str, flags: LinkFlags, more: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = flags;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, u8::try_from(index).unwrap()]),
    ];
    message.attributes.extend(more);
    message
}

fn up() -> LinkFlags {
    LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Broadcast | LinkFlags::Multicast
}

fn names(table: &LinkTable) -> Vec<String> {
    let interfaces = table.interfaces(&InterfaceFilter::default());
    interfaces.iter().map(|i| format!("{}{}", i.name, if i.up { "" } else { " down" })).collect()
}

#[test]
fn which_interfaces_can_be_announced_on() {
    let port =
        |kind| vec![LinkAttribute::Controller(9), LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(kind)])];
    let mut table = LinkTable::default();
    for message in [
        link(1, "lo", up() | LinkFlags::Loopback, vec![]),
        link(2, "eth0", up(), vec![]),
        link(3, "eth1", LinkFlags::Up, vec![]),
        link(4, "eth2", up(), port(InfoPortKind::Bridge)),
        link(5, "eth3", up(), port(InfoPortKind::Bond)),
        link(6, "eth4", up(), port(InfoPortKind::Vrf)),
        link(7, "eth5", up() | LinkFlags::Noarp, vec![]),
        link(9, "bond0", up(), vec![]),
        link(10, "eth0.5", up(), vec![LinkAttribute::Link(2)]),
    ] {
        assert!(table.apply(&RouteNetlinkMessage::NewLink(message)).table);
    }
    let mut tunnel = link(11, "wg0", up(), vec![]);
    tunnel.header.link_layer_type = LinkLayerType::None;
    table.apply(&RouteNetlinkMessage::NewLink(tunnel));
    assert_eq!(names(&table), ["eth0", "eth1 down", "eth4", "bond0", "eth0.5"]);
    assert_eq!(table.unusable("eth0"), None);
    for (name, why) in [("eth9", "not exist"), ("eth2", "port of a bridge"), ("wg0", "not an Ethernet")] {
        assert!(table.unusable(name).is_some_and(|text| text.contains(why)), "{name}");
    }
}

#[test]
fn changes_are_told_and_repetitions_are_not() {
    let mut table = LinkTable::default();
    let mut new = |flags, more| table.apply(&RouteNetlinkMessage::NewLink(link(2, "eth0", flags, more)));
    assert!(new(up(), vec![]).table);
    assert!(!new(up(), vec![]).table, "the same again, for example with new statistics");
    assert!(new(LinkFlags::Up, vec![]).table, "the carrier is lost");
    let event = |event| vec![LinkAttribute::Event(event)];
    assert_eq!(new(LinkFlags::Up, event(LinkEvent::NotifyPeers)).notify, Some(IfIndex(2)));
    assert_eq!(new(LinkFlags::Up, event(LinkEvent::BondingFailover)).notify, Some(IfIndex(2)));
    assert_eq!(new(LinkFlags::Up, event(LinkEvent::Features)), Change::default());
    assert!(
        table.apply(&RouteNetlinkMessage::NewLink(link(2, "lan0", LinkFlags::Up, vec![]))).table,
        "renamed"
    );
    let mut of_bridge = link(2, "lan0", up(), vec![]);
    of_bridge.header.interface_family = AddressFamily::Bridge;
    assert_eq!(table.apply(&RouteNetlinkMessage::DelLink(of_bridge)), Change::default(), "it left a bridge");
    assert!(table.apply(&RouteNetlinkMessage::DelLink(link(2, "lan0", up(), vec![]))).table);
    assert_eq!(names(&table), Vec::<String>::new());
}

#[test]
fn gateways_are_those_of_default_routes() {
    let mut table = LinkTable::default();
    table.apply(&RouteNetlinkMessage::NewLink(link(2, "eth0", up(), vec![])));
    let route = |prefix_len, attributes| {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = prefix_len;
        message.attributes = attributes;
        message
    };
    let gateway = |last| RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, last)));
    let default = route(0, vec![gateway(254), RouteAttribute::Oif(2)]);
    assert!(table.apply(&RouteNetlinkMessage::NewRoute(default.clone())).table);
    let other = route(24, vec![gateway(253), RouteAttribute::Oif(2)]);
    assert!(!table.apply(&RouteNetlinkMessage::NewRoute(other)).table);
    let path = |last| {
        let mut path = netlink_packet_route::route::RouteNextHop::default();
        path.interface_index = 2;
        path.attributes = vec![gateway(last)];
        path
    };
    let several = route(0, vec![RouteAttribute::MultiPath(vec![path(1), path(2)])]);
    assert!(table.apply(&RouteNetlinkMessage::NewRoute(several)).table);
    let gateways = |table: &LinkTable| -> Vec<u8> {
        table.interfaces(&InterfaceFilter::default())[0]
            .gateways
            .iter()
            .map(|gateway| gateway.octets()[3])
            .collect()
    };
    assert_eq!(gateways(&table), [1, 2, 254]);
    assert!(table.apply(&RouteNetlinkMessage::DelRoute(default)).table);
    assert_eq!(gateways(&table), [1, 2]);
}

#[test]
fn local_routes_tell_what_the_kernel_takes_as_its_own() {
    let mut table = LinkTable::default();
    let local = |address: IpAddr, length, interface| {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = length;
        message.header.kind = RouteType::Local;
        let to = match address {
            IpAddr::V4(address) => RouteAddress::Inet(address),
            IpAddr::V6(address) => RouteAddress::Inet6(address),
        };
        message.attributes = vec![RouteAttribute::Destination(to), RouteAttribute::Oif(interface)];
        message
    };
    let [a, b, c] = ["192.0.2.10", "fd00::10", "198.51.100.7"].map(|text| text.parse::<IpAddr>().unwrap());
    for message in [local(a, 32, 1), local(b, 128, 2), local("198.51.100.0".parse().unwrap(), 24, 1)] {
        assert!(table.apply(&RouteNetlinkMessage::NewRoute(message.clone())).local.is_some());
        assert_eq!(table.apply(&RouteNetlinkMessage::NewRoute(message)), Change::default(), "known");
    }
    let on = |table: &LinkTable, index| [a, b, c].map(|address| table.local_on(address, IfIndex(index)));
    assert_eq!(on(&table, 2), [Some(false), Some(true), Some(false)]);
    let gone = table.apply(&RouteNetlinkMessage::DelRoute(local(a, 32, 1)));
    assert_eq!(gone, Change { local: Some(a.into()), ..Change::default() });
    assert_eq!(on(&table, 2), [None, Some(true), Some(false)]);
    let loopback = local(Ipv4Addr::new(127, 0, 0, 0).into(), 8, 1);
    assert_eq!(table.apply(&RouteNetlinkMessage::NewRoute(loopback)), Change::default());
}

#[test]
fn a_bond_that_rewrites_arp_is_known() {
    let bond = |mode| {
        let data = InfoData::Bond(vec![InfoBond::Mode(mode)]);
        vec![LinkAttribute::LinkInfo(vec![LinkInfo::Data(data)])]
    };
    let mut table = LinkTable::default();
    for (index, name, mode) in [
        (2, "bond0", BondMode::ActiveBackup),
        (3, "bond1", BondMode::BalanceAlb),
        (4, "bond2", BondMode::BalanceTlb),
    ] {
        table.apply(&RouteNetlinkMessage::NewLink(link(index, name, up(), bond(mode))));
    }
    let interfaces = table.interfaces(&InterfaceFilter::default());
    assert_eq!(table.rewriting(&interfaces).map(InterfaceName::as_str).collect::<Vec<_>>(), ["bond1"]);
    assert_eq!(table.rewriting(&interfaces[..1]).count(), 0);
}

#[test]
fn datagrams_that_are_cut_or_forged_are_passed_over() {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(link(2, "eth0", up(), vec![])));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    for cut in 0..bytes.len() {
        assert!(matches!(each_message(&bytes[..cut], is_irrelevant, |_| panic!("cut to {cut}")), Ok(false)));
    }
    let mut seen = 0;
    let twice = [bytes.clone(), bytes.clone()].concat();
    each_message(&twice, is_irrelevant, |_| seen += 1).unwrap();
    assert_eq!(seen, 2);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            let _ = each_message(&changed, is_irrelevant, |message| {
                LinkTable::default().apply(message);
            });
        }
    }
}

#[test]
fn this_machine_has_a_loopback_that_is_local() {
    assert!(is_local(Ipv4Addr::LOCALHOST.into()).unwrap());
    assert!(!is_local(Ipv4Addr::new(192, 0, 2, 77).into()).unwrap());
}
