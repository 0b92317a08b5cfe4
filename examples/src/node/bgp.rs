//! The BGP speaker of a node: what the documents say of it.

use std::net::{IpAddr, Ipv4Addr};

use announce_bgp::BgpConfig;
use announce_bgp::manifest::{NodeFacts, NodePeers, peers_for};
use lbcore::id::{NodeName, ObjectName};
use lbcore::manifest::{Node, Objects};

/// Our AS number as long as no peer says which one it is (RFC 6996: for private use).
const PRIVATE_AS: u32 = 64512;

/// The peers of the node `me`.
pub fn peers(objects: &Objects, me: &NodeName) -> NodePeers {
    let node = node(objects, me);
    let labels = node.map(|node| node.labels.clone()).unwrap_or_default();
    peers_for(objects, &NodeFacts::new(labels, node.map(|node| node.addresses.clone()).unwrap_or_default()))
}

/// The speaker of the node `me`. Its identifier is `router_id`, or the IPv4 address of the node's document.
///
/// # Errors
/// There is neither.
pub fn config(objects: &Objects, me: &NodeName, router_id: Option<Ipv4Addr>) -> Result<BgpConfig, String> {
    let documented = || {
        node(objects, me)?.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    };
    let router_id = router_id.or_else(documented).ok_or_else(|| {
        format!("BGP needs an identifier: give --router-id, or an IPv4 address in the status of Node {me}")
    })?;
    let peers = peers(objects, me).peers;
    let local_as = peers.iter().find_map(|peer| peer.local_as).unwrap_or(PRIVATE_AS);
    let mut config = BgpConfig::new(local_as, router_id);
    config.peers = peers;
    Ok(config)
}

fn node<'o>(objects: &'o Objects, me: &NodeName) -> Option<&'o Node> {
    objects.get::<Node>(&ObjectName::new("", me.as_str()))
}
