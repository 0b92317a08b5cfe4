//! Links, addresses, routes and neighbours of the namespace that the calling thread is in, by rtnetlink.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoBridge, InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

/// Whether an interface is administratively up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It sends and receives.
    Up,
    /// It does not; the other end of a veth pair sees its carrier go.
    Down,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// One entry of the kernel's neighbour table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbour {
    /// Whose entry it is.
    pub address: IpAddr,
    /// The MAC address; `None` while it is being asked for, or when nobody answered.
    pub mac: Option<[u8; 6]>,
    /// The state in the kernel's words: `reachable`, `stale`, `failed` and so on.
    pub state: String,
}

/// Opens a netlink socket in the calling thread's namespace and runs `work` with it. Must not be called from
/// within a runtime.
pub(super) fn with_handle<T>(work: impl AsyncFnOnce(&Handle) -> io::Result<T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::select! {
            biased;
            done = work(&handle) => done,
            () = connection => Err(io::Error::other("the netlink socket closed")),
        }
    })
}

pub(super) async fn set(handle: &Handle, link: &str, state: LinkState) -> io::Result<()> {
    let index = index(handle, link).await?;
    let message = LinkUnspec::new_with_index(index);
    let message = match state {
        LinkState::Up => message.up(),
        LinkState::Down => message.down(),
    };
    handle.link().set(message.build()).execute().await.map_err(os_error)
}

pub(super) async fn get(handle: &Handle, link: &str) -> io::Result<(u32, [u8; 6])> {
    let message = handle.link().get().match_name(link).execute().try_next().await.map_err(os_error)?;
    let message = message.ok_or(io::ErrorKind::NotFound)?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    Ok((message.header.index, mac.unwrap_or_default()))
}

async fn index(handle: &Handle, link: &str) -> io::Result<u32> {
    Ok(get(handle, link).await?.0)
}

/// A bridge that forwards at once and floods multicast, and takes no part in anything itself.
pub(super) async fn add_bridge(handle: &Handle, name: &str) -> io::Result<()> {
    let bridge =
        LinkBridge::new(name).forward_delay(0).append_info_data(InfoBridge::MulticastSnooping(false)).build();
    handle.link().add(bridge).execute().await.map_err(os_error)
}

/// A cable: `port` on the bridge here, `peer` in the other namespace.
pub(super) async fn add_cable(
    handle: &Handle,
    bridge: &str,
    port: &str,
    peer: (&str, [u8; 6], BorrowedFd<'_>),
) -> io::Result<()> {
    let bridge = index(handle, bridge).await?;
    let (peer_name, mac, netns) = peer;
    let far = LinkMessageBuilder::<LinkUnspec>::new()
        .name(peer_name)
        .address(mac.to_vec())
        .setns_by_fd(netns.as_raw_fd())
        .build();
    let cable = LinkVeth::new(port, peer_name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .controller(bridge)
        .up()
        .build();
    handle.link().add(cable).execute().await.map_err(os_error)
}

/// A cable between two bridges of one namespace; each end is a pair of a bridge and the name of the port on it.
pub(super) async fn add_patch(handle: &Handle, one: (&str, &str), other: (&str, &str)) -> io::Result<()> {
    let (bridge, far_bridge) = (index(handle, one.0).await?, index(handle, other.0).await?);
    let far = LinkMessageBuilder::<LinkUnspec>::new().name(other.1).build();
    let cable = LinkVeth::new(one.1, other.1)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .controller(bridge)
        .up()
        .build();
    handle.link().add(cable).execute().await.map_err(os_error)?;
    let far = index(handle, other.1).await?;
    let message = LinkUnspec::new_with_index(far).controller(far_bridge).up().build();
    handle.link().set(message).execute().await.map_err(os_error)
}

/// Whether a bridge's port exchanges no frames with the other isolated ones.
pub(super) async fn set_isolated(handle: &Handle, port: &str, isolated: bool) -> io::Result<()> {
    let message = LinkBridgePort::new(index(handle, port).await?).isolated(isolated).build();
    handle.link().set_port(message).execute().await.map_err(os_error)
}

/// Takes all addresses away that are neither among `kept` nor of the host's own making (`127.0.0.1`, link-local).
pub(super) async fn keep_addresses(handle: &Handle, kept: &[IpAddr]) -> io::Result<()> {
    let mut addresses = handle.address().get().execute();
    let mut extra = Vec::new();
    while let Some(message) = addresses.try_next().await.map_err(os_error)? {
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let address = address.or_else(|| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        });
        let of_the_kernel = |address: IpAddr| match address {
            IpAddr::V4(address) => address.is_loopback(),
            IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
        };
        if address.is_some_and(|address| !kept.contains(&address) && !of_the_kernel(address)) {
            extra.push(message);
        }
    }
    for message in extra {
        handle.address().del(message).execute().await.map_err(os_error)?;
    }
    Ok(())
}

pub(super) async fn add_address(handle: &Handle, link: &str, address: IpNet) -> io::Result<()> {
    let index = index(handle, link).await?;
    let mut request = handle.address().add(index, address.addr(), address.prefix_len());
    if address.addr().is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request.execute().await.map_err(os_error)
}

pub(super) async fn remove_address(handle: &Handle, link: &str, address: IpNet) -> io::Result<()> {
    let index = index(handle, link).await?;
    let message = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .set_prefix_length_filter(address.prefix_len())
        .set_address_filter(address.addr())
        .execute()
        .try_next()
        .await
        .map_err(os_error)?
        .ok_or(io::ErrorKind::NotFound)?;
    handle.address().del(message).execute().await.map_err(os_error)
}

pub(super) async fn add_route(handle: &Handle, destination: IpNet, via: IpAddr) -> io::Result<()> {
    let message = match (destination, via) {
        (IpNet::V4(net), IpAddr::V4(via)) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .gateway(via)
            .build(),
        (IpNet::V6(net), IpAddr::V6(via)) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .gateway(via)
            .build(),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "the route mixes families")),
    };
    handle.route().add(message).execute().await.map_err(os_error)
}

pub(super) async fn neighbours(handle: &Handle) -> io::Result<Vec<Neighbour>> {
    let mut found = Vec::new();
    let mut messages = std::pin::pin!(handle.neighbours().get().execute());
    while let Some(message) = messages.try_next().await.map_err(os_error)? {
        if message.header.kind != RouteType::Unicast {
            continue;
        }
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
                }
                _ => {}
            }
        }
        let Some(address) = address else { continue };
        let state = match message.header.state {
            NeighbourState::Other(bits) => format!("{bits:#x}"),
            state => format!("{state:?}").to_lowercase(),
        };
        found.push(Neighbour { address, mac, state });
    }
    Ok(found)
}

fn os_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
