//! The interfaces, as the kernel tells of them by netlink events. Nothing is polled.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::{Context, Poll};

use ipnet::IpNet;
use lbcore::id::InterfaceName;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{
    BondMode, InfoBond, InfoData, InfoPortKind, LinkAttribute, LinkEvent, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::{MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::socket;
use crate::driver::select::InterfaceFilter;
use crate::machine::{IfIndex, Interface};
use crate::wire::MacAddr;

/// `1 << (RTNLGRP_x - 1)` of `linux/rtnetlink.h`, with x = LINK, IPV4_ROUTE and IPV6_ROUTE.
const GROUPS: u32 = 1 | 1 << 6 | 1 << 10;
/// The kernel's largest answer to a dump fits.
const BUFFER: usize = 64 * 1024;

/// An interface of the machine, of whatever kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    name: InterfaceName,
    mac: Option<MacAddr>,
    /// Whether it is Ethernet and speaks ARP: no loopback, no tunnel.
    resolves: bool,
    up: bool,
    /// Whether it is a port of a bridge, bond or team. What arrives on it is the upper interface's: answered here as
    /// well, an address would have several hardware addresses.
    member: bool,
    /// Whether it is a bond that puts the hardware addresses of its ports into ARP (`bond_alb.c`).
    rewrites: bool,
}

/// What a message of the kernel changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// The table of interfaces changed, or may have.
    pub(super) table: bool,
    /// Whether the kernel takes these addresses as its own changed.
    pub(super) local: Option<IpNet>,
    /// On this interface the network should be told anew.
    pub(super) notify: Option<IfIndex>,
}

/// What several messages changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The table of interfaces changed, or all was read anew.
    pub(super) table: bool,
    /// What the kernel takes as its own since then, or no more.
    pub(super) local: Vec<IpNet>,
    /// On these interfaces the network should be told anew.
    pub(super) notify: Vec<IfIndex>,
}

/// All interfaces and gateways that the kernel told of.
#[derive(Clone, Debug, Default)]
pub(super) struct LinkTable {
    links: BTreeMap<u32, Link>,
    gateways: BTreeMap<u32, BTreeSet<Ipv4Addr>>,
    /// What the kernel takes as its own, and on which interfaces that is configured: addresses, and prefixes that somebody
    /// made to catch many at once.
    local: [BTreeMap<IpNet, BTreeSet<u32>>; 2],
}

impl LinkTable {
    /// Takes in a message.
    pub(super) fn apply(&mut self, message: &RouteNetlinkMessage) -> Change {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(link),
            // A port that leaves its bridge is told of by a message of this type, in another family.
            RouteNetlinkMessage::DelLink(link) if link.header.interface_family == AddressFamily::Unspec => {
                self.gateways.remove(&link.header.index);
                Change { table: self.links.remove(&link.header.index).is_some(), ..Change::default() }
            }
            RouteNetlinkMessage::NewRoute(route) => self.route(route, true),
            RouteNetlinkMessage::DelRoute(route) => self.route(route, false),
            _ => Change::default(),
        }
    }

    fn new_link(&mut self, message: &LinkMessage) -> Change {
        let header = &message.header;
        if header.interface_family != AddressFamily::Unspec {
            return Change::default();
        }
        let (mut name, mut mac, mut upper, mut l3_only, mut notify) = (None, None, false, false, false);
        let mut rewrites = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(InterfaceName::from(text.as_str())),
                LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(MacAddr),
                LinkAttribute::Controller(index) => upper = *index != 0,
                LinkAttribute::LinkInfo(infos) => {
                    // The interfaces of a VRF are grouped for routing only.
                    l3_only |= infos.contains(&LinkInfo::PortKind(InfoPortKind::Vrf));
                    rewrites |= infos.iter().any(|info| match info {
                        LinkInfo::Data(InfoData::Bond(bond)) => {
                            bond.contains(&InfoBond::Mode(BondMode::BalanceAlb))
                        }
                        _ => false,
                    });
                }
                LinkAttribute::Event(LinkEvent::NotifyPeers | LinkEvent::BondingFailover) => notify = true,
                _ => {}
            }
        }
        let Some(name) = name else { return Change::default() };
        let resolves = header.link_layer_type == LinkLayerType::Ether
            && !header.flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp);
        let up = header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        let link = Link { name, mac, resolves, up, member: upper && !l3_only, rewrites };
        let old = self.links.insert(header.index, link.clone());
        let notify = notify.then_some(IfIndex(header.index));
        Change { table: old != Some(link), notify, ..Change::default() }
    }

    fn route(&mut self, message: &RouteMessage, added: bool) -> Change {
        let header = &message.header;
        if header.kind == RouteType::Local {
            let local = local_route(message).filter(|(prefix, index)| self.set_local(*prefix, *index, added));
            return Change { local: local.map(|(prefix, _)| prefix), ..Change::default() };
        }
        if header.destination_prefix_length != 0 || header.address_family != AddressFamily::Inet {
            return Change::default();
        }
        let mut hops = vec![hop(None, &message.attributes)];
        for attribute in &message.attributes {
            if let RouteAttribute::MultiPath(paths) = attribute {
                hops.extend(paths.iter().map(|path| hop(Some(path.interface_index), &path.attributes)));
            }
        }
        let mut changed = false;
        for (interface, gateway) in hops.into_iter().flatten() {
            let gateways = self.gateways.entry(interface).or_default();
            changed |= if added { gateways.insert(gateway) } else { gateways.remove(&gateway) };
        }
        Change { table: changed, ..Change::default() }
    }

    /// Whether that is news.
    fn set_local(&mut self, prefix: IpNet, interface: u32, added: bool) -> bool {
        let [addresses, prefixes] = &mut self.local;
        let known = if prefix.prefix_len() == prefix.max_prefix_len() { addresses } else { prefixes };
        if added {
            return known.entry(prefix).or_default().insert(interface);
        }
        let Some(interfaces) = known.get_mut(&prefix) else { return false };
        let removed = interfaces.remove(&interface);
        if interfaces.is_empty() {
            known.remove(&prefix);
        }
        removed
    }

    /// Whether the kernel takes `address` as its own, and if so, whether it is configured on `interface`.
    pub(super) fn local_on(&self, address: IpAddr, interface: IfIndex) -> Option<bool> {
        let [addresses, prefixes] = &self.local;
        let exact = addresses.get(&IpNet::from(address));
        let wider =
            || prefixes.iter().find(|(prefix, _)| prefix.contains(&address)).map(|(_, indexes)| indexes);
        Some(exact.or_else(wider)?.contains(&interface.0))
    }

    /// The bonds among `interfaces` that alter the ARP that passes them.
    pub(super) fn rewriting(&self, interfaces: &[Interface]) -> impl Iterator<Item = &InterfaceName> {
        let links = interfaces.iter().filter_map(|interface| self.links.get(&interface.index.0));
        links.filter(|link| link.rewrites).map(|link| &link.name)
    }

    /// The interfaces that `filter` selects and that can be announced on, up or down.
    pub(super) fn interfaces(&self, filter: &InterfaceFilter) -> Vec<Interface> {
        let usable = |(index, link): (&u32, &Link)| {
            let mac = link.mac.filter(|mac| mac.is_host())?;
            if !link.resolves || link.member || !filter.selects(&link.name) {
                return None;
            }
            let mut interface = Interface::new(IfIndex(*index), link.name.clone(), mac);
            interface.up = link.up;
            interface.gateways = self.gateways.get(index).into_iter().flatten().copied().collect();
            Some(interface)
        };
        self.links.iter().filter_map(usable).collect()
    }

    /// Why an interface that the configuration names cannot be announced on.
    pub(super) fn unusable(&self, name: &str) -> Option<&'static str> {
        let Some(link) = self.links.values().find(|link| link.name.as_str() == name) else {
            return Some("does not exist");
        };
        if !link.resolves {
            Some("is not an Ethernet interface that uses ARP")
        } else if link.member {
            Some("is a port of a bridge, bond or team: name that one instead")
        } else {
            None
        }
    }
}

/// The prefix and interface of a local route, but for loopback addresses.
fn local_route(message: &RouteMessage) -> Option<(IpNet, u32)> {
    let (mut destination, mut interface) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => destination = Some(IpAddr::from(*to)),
            RouteAttribute::Destination(RouteAddress::Inet6(to)) => destination = Some(IpAddr::from(*to)),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let prefix = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    if prefix.addr().is_loopback() { None } else { Some((prefix, interface?)) }
}

/// The interface and gateway in the attributes of a route or of one of its next hops.
fn hop(interface: Option<u32>, attributes: &[RouteAttribute]) -> Option<(u32, Ipv4Addr)> {
    let (mut interface, mut gateway) = (interface, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            _ => {}
        }
    }
    Some((interface?, gateway?))
}

/// The table, kept up to date.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) table: LinkTable,
    events: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl Links {
    /// Subscribes to events, then reads the table, so that nothing is missed in between.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(
            nix::sys::socket::AddressFamily::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkRoute,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        let events = socket::watch(fd, Interest::READABLE)?;
        let mut links = Self { table: LinkTable::default(), events, buffer: vec![0; BUFFER] };
        links.reload()?;
        Ok(links)
    }

    fn reload(&mut self) -> io::Result<()> {
        let mut table = LinkTable::default();
        let routes = |family| {
            let mut route = RouteMessage::default();
            route.header.address_family = family;
            RouteNetlinkMessage::GetRoute(route)
        };
        for what in [
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            routes(AddressFamily::Inet),
            routes(AddressFamily::Inet6),
        ] {
            request(what, NLM_F_REQUEST | NLM_F_DUMP, |message| {
                table.apply(message);
            })?;
        }
        self.table = table;
        Ok(())
    }

    /// The next changes.
    pub(super) fn poll_changes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Changes>> {
        let mut changes = Changes::default();
        while let Poll::Ready(guard) = self.events.poll_read_ready(cx) {
            let mut guard = guard?;
            let buffer = &mut self.buffer;
            let read = guard.try_io(|fd| Ok(recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?));
            match read {
                Err(_would_block) => {}
                Ok(Ok(len)) => {
                    let (table, bytes) = (&mut self.table, self.buffer.get(..len).unwrap_or_default());
                    each_message(bytes, is_irrelevant, |message| {
                        let one = table.apply(message);
                        changes.table |= one.table;
                        changes.local.extend(one.local);
                        changes.notify.extend(one.notify);
                    })?;
                }
                // Events were lost: all is read anew.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.reload()?;
                    changes.table = true;
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        if changes == Changes::default() { Poll::Pending } else { Poll::Ready(Ok(changes)) }
    }
}

/// Asks the kernel for a copy of something, and waits for it: it answers at once.
fn request(
    what: RouteNetlinkMessage,
    flags: u16,
    mut each: impl FnMut(&RouteNetlinkMessage),
) -> io::Result<()> {
    let fd = socket(
        nix::sys::socket::AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(what));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    send(fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let is_dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let skip = if is_dump { is_irrelevant } else { |_: &[u8]| false };
        let done = each_message(buffer.get(..len).unwrap_or_default(), skip, &mut each)?;
        if done || !is_dump {
            return Ok(());
        }
    }
}

/// The length of a netlink header.
const HEADER: usize = 16;

/// Whether a message is about a route that is neither a default one nor local. A router has many routes and changes
/// them often; the others are not worth parsing.
fn is_irrelevant(message: &[u8]) -> bool {
    const RTM_NEWROUTE: u16 = 24;
    const RTM_DELROUTE: u16 = 25;
    const RTN_LOCAL: u8 = 2;
    let kind = message.get(4..6).and_then(|kind| kind.try_into().ok()).map_or(0, u16::from_ne_bytes);
    // Of `struct rtmsg` the second byte is the length of the destination's prefix and the eighth the type.
    let (length, route) = (message.get(HEADER + 1), message.get(HEADER + 7));
    [RTM_NEWROUTE, RTM_DELROUTE].contains(&kind) && length != Some(&0) && route != Some(&RTN_LOCAL)
}

/// Hands each message of a datagram to `each`, and tells whether it was the end of a dump. What does not parse (a
/// newer kernel's) is passed over, and so is what `skip` says.
fn each_message(
    mut bytes: &[u8],
    skip: fn(&[u8]) -> bool,
    mut each: impl FnMut(&RouteNetlinkMessage),
) -> io::Result<bool> {
    while let Some(len) = bytes.first_chunk::<4>().map(|len| u32::from_ne_bytes(*len)) {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let Some(one) = bytes.get(..len).filter(|_| len >= HEADER) else { break };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        if skip(one) {
            continue;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(one).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(message)) => each(&message),
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(error)) if error.code.is_some() => return Err(error.to_io()),
            _ => {}
        }
    }
    Ok(false)
}

/// Whether the kernel takes packets for `address` as its own.
pub(super) fn is_local(address: IpAddr) -> io::Result<bool> {
    let mut message = RouteMessage::default();
    let (family, prefix_len, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
    };
    message.header = RouteHeader {
        address_family: family,
        destination_prefix_length: prefix_len,
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Destination(destination));
    let mut local = false;
    let asked = request(RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST, |message| {
        if let RouteNetlinkMessage::NewRoute(route) = message {
            local |= route.header.kind == RouteType::Local;
        }
    });
    match asked {
        // No route at all is no local route.
        Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => Ok(false),
        other => other.map(|()| local),
    }
}

#[cfg(test)]
mod tests;
