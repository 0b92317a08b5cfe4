//! Reads MetalLB's `BGPPeer` (v1beta2, v1beta1) and `BFDProfile` (v1beta1).
//!
//! ```
//! use announce_bgp::manifest::{NodeFacts, peers_for};
//! use lbcore::manifest::{Corpus, Kinds, SourceFile};
//!
//! let kinds = announce_bgp::manifest::kinds(lbcore::manifest::kinds(Kinds::new()));
//! let mut corpus = Corpus::new(kinds);
//! let report = corpus.load(&[SourceFile::new("peers.yaml", "
//! apiVersion: metallb.io/v1beta2
//! kind: BGPPeer
//! metadata: {name: tor, namespace: metallb-system}
//! spec: {myASN: 65000, peerASN: 65001, peerAddress: 192.0.2.1, holdTime: 9s}
//! ")]);
//! assert!(report.problems.is_empty());
//! let here = peers_for(corpus.objects(), &NodeFacts::default());
//! assert_eq!(here.peers[0].name.as_str(), "tor");
//! assert!(here.conditions.is_empty());
//! ```
//!
//! What a document asks for and is not supported yet is never passed over in silence: it is a notice at its place, and
//! a condition of [`NodePeers`]. A peer that could not work without it is left out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use lbcore::addr::Family;
use lbcore::condition::Condition;
use lbcore::id::{ObjectName, PeerName};
use lbcore::labels::{LabelSelector, Labels};
use lbcore::manifest::metallb::{self, BgpAdvertisement};
use lbcore::manifest::{Field, Findings, Kind, Kinds, Mapping, Object, ObjectId, Objects};

use crate::config::{PORT, PeerConfig, RemoteAs, validate_peers};
use crate::wire::Families;

/// Registers `BGPPeer` and `BFDProfile`, and the rules between them.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds
        .read::<BgpPeer>()
        .read::<BfdProfile>()
        .check(unique_peer_names)
        .check(no_twins)
        .check(known_profiles)
        .check(advertised_to_somebody)
}

/// What a node is, for the peers that it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeFacts {
    /// Its labels, for `nodeSelectors`.
    pub labels: Labels,
    /// Its IPv4 address, the next hop of IPv4 routes on sessions over IPv6.
    pub address_v4: Option<Ipv4Addr>,
    /// Its global IPv6 address, the next hop of IPv6 routes on sessions over IPv4.
    pub address_v6: Option<Ipv6Addr>,
}

impl NodeFacts {
    /// A node with these labels and these addresses; of each family the first counts.
    pub fn new(labels: Labels, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut facts = Self { labels, ..Self::default() };
        for address in addresses {
            match address {
                IpAddr::V4(address) => facts.address_v4 = facts.address_v4.or(Some(address)),
                IpAddr::V6(address) if address.is_unicast_link_local() => (),
                IpAddr::V6(address) => facts.address_v6 = facts.address_v6.or(Some(address)),
            }
        }
        facts
    }
}

/// The peers of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodePeers {
    /// Those that can be spoken to, ordered by name; valid together.
    pub peers: Vec<PeerConfig>,
    /// What was asked for and cannot be had, of these and of those that were left out.
    pub conditions: Vec<Condition>,
}

/// The peers of the node that `node` describes.
pub fn peers_for(objects: &Objects, node: &NodeFacts) -> NodePeers {
    let mut here = NodePeers::default();
    let mut unsupported = |name: &PeerName, reason: &'static str, message: &str| {
        here.conditions.push(Condition::no("PeerSupported", reason, format!("peer {name}: {message}")));
    };
    // By name: what another namespace holds under the same name is reported by a rule.
    let selected: BTreeMap<_, _> = objects
        .iter::<BgpPeer>()
        .filter(|(_, peer)| peer.selects(&node.labels))
        .map(|(_, peer)| (&peer.config.name, peer))
        .collect();
    for (name, peer) in selected {
        let mut usable = true;
        for lack in &peer.lacks {
            unsupported(name, lack.reason(), lack.message());
            usable &= !lack.is_fatal();
        }
        if !usable {
            continue;
        }
        let mut config = peer.config.clone();
        match Family::of(config.address) {
            Family::V4 => config.next_hop_v6 = node.address_v6,
            Family::V6 => config.next_hop_v4 = node.address_v4,
        }
        let mut together = here.peers.clone();
        together.push(config);
        // Two peers of different nodes may both select this one, and have one address.
        match validate_peers(peer.my_as, &together) {
            Ok(()) => here.peers = together,
            Err(error) => {
                unsupported(name, "PeerRefused", &error.to_string());
            }
        }
    }
    here
}

/// A `BGPPeer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    my_as: u32,
    config: PeerConfig,
    node_selectors: Vec<LabelSelector>,
    bfd_profile: Option<Arc<str>>,
    lacks: Vec<Lack>,
}

/// What a peer asks for that is not supported yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    Password,
    Vrf,
    Interface,
    Bfd,
    GracefulRestart,
}

impl Lack {
    /// Whether there would be no session, or one in the wrong place.
    fn is_fatal(self) -> bool {
        matches!(self, Self::Password | Self::Vrf | Self::Interface)
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Password => "PasswordUnsupported",
            Self::Vrf => "VrfUnsupported",
            Self::Interface => "InterfaceUnsupported",
            Self::Bfd => "BfdUnsupported",
            Self::GracefulRestart => "GracefulRestartUnsupported",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Password => {
                "TCP-MD5 passwords are not supported yet, so that this peer is left out; remove the password at both \
                 ends"
            }
            Self::Vrf => "VRFs are not supported yet, so that this peer is left out",
            Self::Interface => {
                "peers by interface are not supported yet, so that this peer is left out; give peerAddress"
            }
            Self::Bfd => {
                "BFD is not supported yet: a dead path is noticed when the hold time is over; shorten holdTime"
            }
            Self::GracefulRestart => {
                "graceful restart is not supported yet: a restart withdraws the routes until the session is back"
            }
        }
    }
}

impl BgpPeer {
    /// Whether it is a peer of a node with these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.node_selectors.is_empty() || self.node_selectors.iter().any(|selector| selector.matches(labels))
    }
}

impl Kind for BgpPeer {
    const GROUP: &'static str = metallb::GROUP;
    const KIND: &'static str = "BGPPeer";
    const VERSIONS: &'static [&'static str] = &["v1beta2", "v1beta1"];
    const NAMESPACED: bool = true;
    const STRICT: bool = true;

    fn read(object: &Object<'_>) -> Option<Self> {
        let old = object.version == "v1beta1";
        object.spec().required().mapping(|spec| read_peer(object, spec, old))?
    }
}

fn read_peer(object: &Object<'_>, spec: &Mapping<'_>, old: bool) -> Option<BgpPeer> {
    let mut lacks = Vec::new();
    // Of the fields that v1beta1 does not have, none is asked for, so that it is told as unknown there.
    let new = |name| (!old).then(|| spec.get(name));

    let my_as = spec.get("myASN").required().int(1..=u32::MAX);
    let remote_as = read_remote_as(spec, old);
    let local_as = new("localASN").and_then(|field| field.int(1..=u32::MAX));
    let address = read_address(spec, old, &mut lacks);
    let source_field = spec.get("sourceAddress");
    let source = source_field.address();
    let router_id = spec.get("routerID").parse::<Ipv4Addr>();
    let port = spec.get("peerPort").int(u16::from(!old)..=16384).filter(|port| *port != 0);
    let (hold, keepalive) = read_timers(spec);
    let connect_retry = new("connectTime").and_then(|field| {
        let time = field.duration()?;
        let whole = time.subsec_nanos() == 0 && (1..=65535).contains(&time.as_secs());
        if !whole {
            field.problem("must be from 1s to 65535s, in whole seconds");
        }
        whole.then_some(time)
    });
    let node_selectors = spec.get("nodeSelectors").label_selectors();

    let mut lack = |field: &Field<'_>, lack: Lack| {
        field.notice(lack.message());
        lacks.push(lack);
    };
    let password = spec.get("password");
    let has_password = password.str().is_some_and(|text| !text.is_empty());
    let secret = new("passwordSecret").filter(|field| read_secret(field));
    if has_password {
        lack(&password, Lack::Password);
    } else if let Some(secret) = &secret {
        lack(secret, Lack::Password);
    }
    if let (true, Some(secret)) = (has_password, &secret) {
        secret.problem("there is a password as well: keep one of them");
    }
    let bfd_field = spec.get("bfdProfile");
    let bfd_profile = bfd_field.str().filter(|name| !name.is_empty()).map(Arc::from);
    if bfd_profile.is_some() {
        lack(&bfd_field, Lack::Bfd);
    }
    if let Some(restart) = new("enableGracefulRestart")
        && restart.bool() == Some(true)
    {
        lack(&restart, Lack::GracefulRestart);
    }
    if let Some(vrf) = new("vrf")
        && vrf.str().is_some_and(|name| !name.is_empty())
    {
        lack(&vrf, Lack::Vrf);
    }
    lacks.sort();

    let multihop_field = spec.get("ebgpMultiHop");
    let multihop = multihop_field.bool().unwrap_or(false);
    let dual = new("dualStackAddressFamily").and_then(|field| field.bool()).unwrap_or(false);
    if let Some(field) = new("disableMP")
        && field.bool() == Some(true)
        && dual
    {
        field.problem("contradicts dualStackAddressFamily: remove one of the two");
    }

    let mut is_sound = true;
    if let (Some(source), Some(address)) = (source, address)
        && Family::of(source) != Family::of(address)
    {
        source_field.problem("is not of the family of peerAddress: give one that is");
        is_sound = false;
    }
    let (my_as, remote_as) = (my_as?, remote_as?);
    let local_as = local_as.unwrap_or(my_as);
    if multihop && remote_as.peering(local_as) == crate::wire::Peering::Internal {
        multihop_field.problem("is for peers of another AS, and this one is of ours: remove it");
        is_sound = false;
    }
    let address = address?;
    let name = PeerName::new(&*object.name.name);
    let mut config = PeerConfig::new(name, address, remote_as);
    config.local_as = Some(local_as);
    config.router_id = router_id;
    config.source = source;
    config.port = port.unwrap_or(PORT);
    config.hold_time = hold;
    config.keepalive_time = keepalive;
    config.connect_retry = connect_retry.unwrap_or(config.connect_retry);
    config.multihop = multihop;
    config.families = if dual { Families::ALL } else { Families::only(Family::of(address)) };
    // It would say the same once more.
    if is_sound
        && !lacks.contains(&Lack::Interface)
        && let Err(error) = validate_peers(my_as, std::slice::from_ref(&config))
    {
        object.problem(error);
    }
    Some(BgpPeer { my_as, config, node_selectors, bfd_profile, lacks })
}

fn read_remote_as(spec: &Mapping<'_>, old: bool) -> Option<RemoteAs> {
    let number = spec.get("peerASN");
    if old {
        return number.required().int(1..=u32::MAX).map(RemoteAs::Number);
    }
    // A zero is how Kubernetes writes that there is none.
    let value = number.int(0..=u32::MAX);
    let zero = value == Some(0);
    let dynamic = spec.get("dynamicASN");
    match (number.is_present() && !zero, dynamic.str().is_some_and(|word| !word.is_empty())) {
        (true, true) => {
            dynamic.problem("there is a peerASN as well: keep one of them");
            value.map(RemoteAs::Number)
        }
        (false, false) => {
            spec.problem("needs one of peerASN and dynamicASN: add it");
            None
        }
        (true, false) => value.map(RemoteAs::Number),
        (false, true) => {
            dynamic.one_of(&[("internal", RemoteAs::Internal), ("external", RemoteAs::External)])
        }
    }
}

fn read_address(spec: &Mapping<'_>, old: bool, lacks: &mut Vec<Lack>) -> Option<IpAddr> {
    if old {
        return spec.get("peerAddress").required().address();
    }
    let (address, interface) = (spec.get("peerAddress"), spec.get("interface"));
    let has = |field: &Field<'_>| field.str().is_some_and(|text| !text.is_empty());
    match (has(&address), has(&interface)) {
        (true, true) => {
            interface.problem("there is a peerAddress as well: keep one of them");
            address.address()
        }
        (false, false) => {
            spec.problem("needs one of peerAddress and interface: add it");
            None
        }
        (true, false) => address.address(),
        (false, true) => {
            interface.notice(Lack::Interface.message());
            lacks.push(Lack::Interface);
            // Never used: the peer is left out.
            Some(Ipv6Addr::UNSPECIFIED.into())
        }
    }
}

/// MetalLB's rules: of the two times one gives the other; zero is for none.
fn read_timers(spec: &Mapping<'_>) -> (Duration, Option<Duration>) {
    let (hold_field, keepalive_field) = (spec.get("holdTime"), spec.get("keepaliveTime"));
    let (hold, keepalive) = (hold_field.duration(), keepalive_field.duration());
    let keepalive_set = keepalive.filter(|time| !time.is_zero());
    let hold = match (hold, keepalive_set) {
        (Some(hold), _) => hold,
        (None, Some(keepalive)) => keepalive * 3,
        (None, None) if keepalive.is_some() => Duration::ZERO,
        (None, None) => Duration::from_secs(90),
    };
    let at = if hold_field.is_present() { &hold_field } else { &keepalive_field };
    if hold.subsec_nanos() != 0 || matches!(hold.as_secs(), 1 | 2) || hold.as_secs() > 65535 {
        at.problem(format!("makes a hold time of {hold:?}: it must be 0s, or 3s to 65535s in whole seconds"));
        return (Duration::from_secs(90), None);
    }
    if keepalive_set.is_some_and(|keepalive| keepalive > hold) {
        keepalive_field.problem("is longer than holdTime: a third of it is usual");
        return (hold, None);
    }
    if keepalive.is_some_and(|keepalive| keepalive.is_zero()) && !hold.is_zero() {
        keepalive_field.problem("is zero while holdTime is not: remove it, or set both to 0s");
    }
    (hold, keepalive_set)
}

/// A `SecretReference`; one without a name is how Kubernetes writes that there is none.
fn read_secret(field: &Field<'_>) -> bool {
    let read = |secret: &Mapping<'_>| {
        secret.get("namespace").str();
        secret.get("name").str().is_some_and(|name| !name.is_empty())
    };
    field.mapping(read).unwrap_or(false)
}

/// A `BFDProfile`. It is read and checked; BFD itself is not supported yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BfdProfile {
    /// The least time between two packets that it takes.
    pub receive_interval: Duration,
    /// The least time between two packets that it sends.
    pub transmit_interval: Duration,
    /// How many packets may be lost.
    pub detect_multiplier: u8,
    /// The time between two echo packets, if they are to be used.
    pub echo_interval: Option<Duration>,
    /// Wait for the peer to begin.
    pub passive: bool,
    /// The lowest TTL of a packet over several hops.
    pub minimum_ttl: u8,
}

impl Kind for BfdProfile {
    const GROUP: &'static str = metallb::GROUP;
    const KIND: &'static str = "BFDProfile";
    const VERSIONS: &'static [&'static str] = &["v1beta1"];
    const NAMESPACED: bool = true;
    const STRICT: bool = true;

    fn read(object: &Object<'_>) -> Option<Self> {
        let millis =
            |field: Field<'_>, default| Duration::from_millis(field.int(10..=60000u64).unwrap_or(default));
        let read = |spec: Option<&Mapping<'_>>| {
            let millis_of = |name, default| {
                spec.map_or(Duration::from_millis(default), |spec| millis(spec.get(name), default))
            };
            let number =
                |name, range, default| spec.and_then(|spec| spec.get(name).int(range)).unwrap_or(default);
            let flag = |name| spec.and_then(|spec| spec.get(name).bool()).unwrap_or(false);
            let echo_interval = millis_of("echoInterval", 50);
            Self {
                receive_interval: millis_of("receiveInterval", 300),
                transmit_interval: millis_of("transmitInterval", 300),
                detect_multiplier: number("detectMultiplier", 2..=255, 3),
                echo_interval: flag("echoMode").then_some(echo_interval),
                passive: flag("passiveMode"),
                minimum_ttl: number("minimumTtl", 1..=254, 254),
            }
        };
        let spec = object.spec();
        // A profile without a spec is all defaults.
        Some(spec.mapping(|spec| read(Some(spec))).unwrap_or_else(|| read(None)))
    }
}

fn peer_id(name: &ObjectName) -> ObjectId {
    ObjectId::of::<BgpPeer>(name.clone())
}

/// Advertisements choose peers by name alone, whatever their namespace.
fn unique_peer_names(objects: &Objects, findings: &mut Findings<'_>) {
    pairs(
        objects,
        findings,
        "metadata.name",
        |name, _| name.name.to_string(),
        |other, place| format!("there is another peer of this name, {other} at {place}: rename one"),
    );
}

/// MetalLB refuses a peer that is there twice; for us already the address and the port make it the same one.
fn no_twins(objects: &Objects, findings: &mut Findings<'_>) {
    let key = |name: &ObjectName, peer: &BgpPeer| {
        // Peers by interface have no address to compare.
        let BgpPeer { config, node_selectors, lacks, .. } = peer;
        let unnumbered = lacks.contains(&Lack::Interface).then(|| name.clone());
        let vrf = lacks.contains(&Lack::Vrf).then(|| name.clone());
        (config.address, config.port, node_selectors.clone(), unnumbered, vrf)
    };
    pairs(objects, findings, "spec.peerAddress", key, |other, place| {
        format!("peer {other} at {place} has the same address, port and nodes: remove one")
    });
}

/// Reports the later of two peers with the same key.
fn pairs<K: Ord>(
    objects: &Objects,
    findings: &mut Findings<'_>,
    path: &str,
    key: impl Fn(&ObjectName, &BgpPeer) -> K,
    message: impl Fn(&ObjectName, String) -> String,
) {
    let mut seen: BTreeMap<K, ObjectId> = BTreeMap::new();
    for (name, peer) in objects.iter::<BgpPeer>() {
        let id = peer_id(name);
        let Some(other) = seen.get(&key(name, peer)) else {
            seen.insert(key(name, peer), id);
            continue;
        };
        let blamed = objects.to_blame(&id, other).clone();
        let other = if blamed == id { other } else { &id };
        let message = message(&other.name, findings.place(other));
        findings.report(blamed, path, message);
    }
}

fn known_profiles(objects: &Objects, findings: &mut Findings<'_>) {
    for (name, peer) in objects.iter::<BgpPeer>() {
        let Some(profile) = &peer.bfd_profile else { continue };
        let known = objects.iter::<BfdProfile>().any(|(name, _)| name.name == *profile);
        if !known && !objects.may_exist_anywhere::<BfdProfile>(profile) {
            let message = format!("there is no BFDProfile {profile}: add it, or remove this line");
            findings.report(peer_id(name), "spec.bfdProfile", message);
        }
    }
}

/// Advertisements that reach nobody are no mistakes: their peers may come later.
fn advertised_to_somebody(objects: &Objects, findings: &mut Findings<'_>) {
    let known: Vec<&str> = objects.iter::<BgpPeer>().map(|(name, _)| &*name.name).collect();
    for (name, advertisement) in objects.iter::<BgpAdvertisement>() {
        let id = ObjectId::of::<BgpAdvertisement>(name.clone());
        if known.is_empty() {
            findings.notice(id, "", "there is no BGPPeer, so that no router is told: add one");
            continue;
        }
        for peer in advertisement.peers().filter(|peer| !known.contains(&peer.as_str())) {
            let message = format!("there is no BGPPeer {peer}, but {}", known.join(", "));
            findings.notice(id.clone(), "spec.peers", message);
        }
    }
}

#[cfg(test)]
mod tests;
