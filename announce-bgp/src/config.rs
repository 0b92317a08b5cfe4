//! What the speaker is told once, and what it is told of each peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lbcore::addr::Family;
use lbcore::id::PeerName;
use thiserror::Error;

use crate::wire::{Families, Peering};

/// The port of BGP.
pub const PORT: u16 = 179;

/// The configuration of a speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BgpConfig {
    /// Our AS number.
    pub local_as: u32,
    /// Our BGP Identifier: unique in the AS, and not zero. By custom an IPv4 address of the node.
    pub router_id: Ipv4Addr,
    /// The peers.
    pub peers: Vec<PeerConfig>,
    /// Where to listen for peers that call us. Empty: nowhere, we do the calling.
    pub listen: Vec<SocketAddr>,
}

impl BgpConfig {
    /// No peers yet, and no listening.
    pub const fn new(local_as: u32, router_id: Ipv4Addr) -> Self {
        Self { local_as, router_id, peers: Vec::new(), listen: Vec::new() }
    }

    /// The same with one more peer.
    #[must_use]
    pub fn peer(mut self, peer: PeerConfig) -> Self {
        self.peers.push(peer);
        self
    }

    /// The same that also listens on `address`.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen.push(address);
        self
    }

    /// Checks everything, the peers included.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), BuildError> {
        if self.local_as == 0 {
            return Err(BuildError::LocalAsZero);
        }
        if self.router_id.is_unspecified() {
            return Err(BuildError::RouterIdZero);
        }
        validate_peers(self.local_as, &self.peers)
    }
}

/// Checks peers, each by itself and all together.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn validate_peers(local_as: u32, peers: &[PeerConfig]) -> Result<(), BuildError> {
    for (index, peer) in peers.iter().enumerate() {
        peer.validate(local_as)?;
        for other in &peers[..index] {
            if other.name == peer.name {
                return Err(BuildError::DuplicatePeer { peer: peer.name.clone() });
            }
            if (other.address, other.port) == (peer.address, peer.port) {
                return Err(BuildError::SamePeer { peer: peer.name.clone(), other: other.name.clone() });
            }
        }
    }
    Ok(())
}

/// The AS of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RemoteAs {
    /// This one.
    Number(u32),
    /// Our own, whatever it is.
    Internal,
    /// Any but our own.
    External,
}

impl RemoteAs {
    /// Whether a peer of AS `number` is the one that is meant.
    pub fn admits(self, local_as: u32, number: u32) -> bool {
        match self {
            Self::Number(expected) => expected == number,
            Self::Internal => number == local_as,
            Self::External => number != local_as,
        }
    }

    /// Whether such a peer is in our own AS.
    pub fn peering(self, local_as: u32) -> Peering {
        match self {
            Self::Number(number) if number != local_as => Peering::External,
            Self::External => Peering::External,
            Self::Number(_) | Self::Internal => Peering::Internal,
        }
    }
}

/// A peer. Two equal configurations are the same peer: handing one in again leaves its session alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerConfig {
    /// The name by which [`Route::peers`](lbcore::announce::Route::peers) chooses it.
    pub name: PeerName,
    /// Its address.
    pub address: IpAddr,
    /// The port on which it listens.
    pub port: u16,
    /// Its AS.
    pub remote_as: RemoteAs,
    /// Our AS number towards it, where it is not that of [`BgpConfig`].
    pub local_as: Option<u32>,
    /// Our BGP Identifier towards it, where it is not that of [`BgpConfig`].
    pub router_id: Option<Ipv4Addr>,
    /// Our address towards it; `None` leaves the choice to the kernel.
    pub source: Option<IpAddr>,
    /// The hold time that we propose, in whole seconds: 0 for none, otherwise 3 to 65535.
    pub hold_time: Duration,
    /// An upper bound of the time between two KEEPALIVEs; a third of the negotiated hold time is another.
    pub keepalive_time: Option<Duration>,
    /// The longest time between two attempts to connect. The first ones follow quicker: after 0.25 s, and each time
    /// after twice as long.
    pub connect_retry: Duration,
    /// Wait to be called.
    pub passive: bool,
    /// The peer is an external one and not on our own network. Without it packets to an external peer have a TTL of
    /// 1, as RFC 4271 has it.
    pub multihop: bool,
    /// The address families to offer.
    pub families: Families,
    /// The next hop of IPv4 routes, where it is not our address of the session.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// The next hop of IPv6 routes, where it is not our address of the session.
    pub next_hop_v6: Option<Ipv6Addr>,
}

impl PeerConfig {
    /// A peer with the defaults: port 179, a hold time of 90 s, retries up to 10 s apart, both families.
    pub fn new(name: impl Into<PeerName>, address: IpAddr, remote_as: RemoteAs) -> Self {
        Self {
            name: name.into(),
            address,
            port: PORT,
            remote_as,
            local_as: None,
            router_id: None,
            source: None,
            hold_time: Duration::from_secs(90),
            keepalive_time: None,
            connect_retry: Duration::from_secs(10),
            passive: false,
            multihop: false,
            families: Families::ALL,
            next_hop_v4: None,
            next_hop_v6: None,
        }
    }

    /// The hold time in the seconds of an OPEN.
    pub(crate) fn hold_seconds(&self) -> u16 {
        u16::try_from(self.hold_time.as_secs()).unwrap_or(u16::MAX)
    }

    /// The next hop of routes of `family` on a session on which our address is `local`.
    pub(crate) fn next_hop(&self, family: Family, local: IpAddr) -> Option<IpAddr> {
        match (family, local) {
            (Family::V4, IpAddr::V4(local)) => Some(self.next_hop_v4.unwrap_or(local).into()),
            (Family::V4, IpAddr::V6(_)) => self.next_hop_v4.map(IpAddr::V4),
            // RFC 2545 §3 wants a global address; what is on the link alone cannot stand for one.
            (Family::V6, IpAddr::V6(local)) if !local.is_unicast_link_local() => {
                Some(self.next_hop_v6.unwrap_or(local).into())
            }
            (Family::V6, _) => self.next_hop_v6.map(IpAddr::V6),
        }
    }

    fn validate(&self, local_as: u32) -> Result<(), BuildError> {
        let refuse = |problem| Err(BuildError::Peer { peer: self.name.clone(), problem });
        let local_as = self.local_as.unwrap_or(local_as);
        if local_as == 0 || self.remote_as == RemoteAs::Number(0) {
            return refuse("an AS number is zero (RFC 7607); give the real one");
        }
        if self.router_id.is_some_and(|id| id.is_unspecified()) {
            return refuse("the router ID is zero; give an address of the node");
        }
        if self.address.is_unspecified() || self.address.is_multicast() {
            return refuse("its address is not that of a host; give the address of the router");
        }
        if matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local()) {
            return refuse("link-local peers are not supported yet; give its global address");
        }
        if self.source.is_some_and(|source| Family::of(source) != Family::of(self.address)) {
            return refuse(
                "its source address is of the other family; give one of the family of its address",
            );
        }
        if self.port == 0 {
            return refuse("its port is zero; BGP has 179");
        }
        let seconds = self.hold_time.as_secs();
        if self.hold_time.subsec_nanos() != 0 || matches!(seconds, 1 | 2) || seconds > u64::from(u16::MAX) {
            return refuse("its hold time is neither 0 nor 3 to 65535 whole seconds");
        }
        if self.keepalive_time.is_some_and(|time| time.is_zero() || time > self.hold_time) {
            return refuse("its keepalive time is zero or longer than the hold time; a third of it is usual");
        }
        if self.connect_retry < Duration::from_millis(250) {
            return refuse("its connect retry time is less than 0.25 s; the first retries are quick anyway");
        }
        if self.multihop && self.remote_as.peering(local_as) == Peering::Internal {
            return refuse("multihop is for external peers; an internal one needs no such setting");
        }
        if self.families.is_empty() {
            return refuse("it has no address family; give at least one");
        }
        Ok(())
    }
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The local AS number is zero.
    #[error("the local AS number is zero (RFC 7607); give the real one")]
    LocalAsZero,
    /// The router ID is zero.
    #[error("the router ID is zero; give an IPv4 address of the node")]
    RouterIdZero,
    /// Two peers have the same name.
    #[error("peer {peer}: there is another one of that name; rename one")]
    DuplicatePeer {
        /// The second one.
        peer: PeerName,
    },
    /// Two peers have the same address and port.
    #[error("peer {peer}: has the same address and port as peer {other}; remove one")]
    SamePeer {
        /// The second one.
        peer: PeerName,
        /// The first one.
        other: PeerName,
    },
    /// Something is wrong with a peer.
    #[error("peer {peer}: {problem}")]
    Peer {
        /// Which.
        peer: PeerName,
        /// What is wrong, and the fix.
        problem: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerConfig {
        PeerConfig::new("tor", "192.0.2.1".parse().unwrap(), RemoteAs::Number(65001))
    }

    fn refused(change: impl Fn(&mut PeerConfig)) -> String {
        let mut peer = peer();
        change(&mut peer);
        let config = BgpConfig::new(65000, Ipv4Addr::new(192, 0, 2, 9)).peer(peer);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_sound() {
        let config = BgpConfig::new(65000, Ipv4Addr::new(192, 0, 2, 9)).peer(peer());
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn what_metallb_refuses_is_refused_with_the_peer_and_the_fix() {
        type Change = fn(&mut PeerConfig);
        let cases: [(Change, &str); 13] = [
            (|p| p.remote_as = RemoteAs::Number(0), "AS number is zero"),
            (|p| p.local_as = Some(0), "AS number is zero"),
            (|p| p.router_id = Some(Ipv4Addr::UNSPECIFIED), "router ID"),
            (|p| p.address = IpAddr::V4(Ipv4Addr::UNSPECIFIED), "not that of a host"),
            (|p| p.address = "fe80::1".parse().unwrap(), "link-local"),
            (|p| p.source = Some(IpAddr::V6(Ipv6Addr::LOCALHOST)), "other family"),
            (|p| p.port = 0, "port is zero"),
            (|p| p.hold_time = Duration::from_secs(2), "hold time"),
            (|p| p.hold_time = Duration::from_millis(3500), "hold time"),
            (|p| p.hold_time = Duration::from_secs(70_000), "hold time"),
            (|p| p.keepalive_time = Some(Duration::from_secs(91)), "keepalive time"),
            (|p| (p.remote_as, p.multihop) = (RemoteAs::Internal, true), "multihop"),
            (|p| p.families = Families::NONE, "no address family"),
        ];
        for (change, expected) in cases {
            let message = refused(change);
            assert!(message.starts_with("peer tor: ") && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn peers_are_told_apart_by_name_and_by_address() {
        let config = |second: PeerConfig| {
            BgpConfig::new(65000, Ipv4Addr::new(192, 0, 2, 9)).peer(peer()).peer(second).validate()
        };
        assert!(matches!(config(peer()), Err(BuildError::DuplicatePeer { .. })));
        let renamed = PeerConfig { name: "other".into(), ..peer() };
        assert!(matches!(config(renamed.clone()), Err(BuildError::SamePeer { .. })));
        assert_eq!(config(PeerConfig { port: 1179, ..renamed }), Ok(()));
        let config = BgpConfig::new(0, Ipv4Addr::new(192, 0, 2, 9));
        assert_eq!(config.validate(), Err(BuildError::LocalAsZero));
        let config = BgpConfig::new(1, Ipv4Addr::UNSPECIFIED);
        assert_eq!(config.validate(), Err(BuildError::RouterIdZero));
    }

    #[test]
    fn the_next_hop_is_our_address_of_the_session_of_that_family() {
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap());
        let link_local: IpAddr = "fe80::9".parse().unwrap();
        let plain = peer();
        assert_eq!(plain.next_hop(Family::V4, v4), Some(v4));
        assert_eq!(plain.next_hop(Family::V6, v6), Some(v6));
        assert_eq!(plain.next_hop(Family::V6, v4), None);
        assert_eq!(plain.next_hop(Family::V4, v6), None);
        assert_eq!(plain.next_hop(Family::V6, link_local), None);
        let set = PeerConfig { next_hop_v6: Some("2001:db8::1".parse().unwrap()), ..peer() };
        for local in [v4, v6, link_local] {
            assert_eq!(set.next_hop(Family::V6, local), Some("2001:db8::1".parse().unwrap()), "{local}");
        }
    }
}
