//! What the manifests describe: who is on the segment, and which address the client asks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use lbcore::allocator::{PoolAllocator, Protocol};
use lbcore::id::OwnerKey;
use lbcore::manifest::{self, EndpointSlice, Objects};
use lbcore::plan::{self, World};

use super::LabError;
use crate::files;

/// The lengths of the segment's subnet: the one that the first node is in.
const PREFIX_V4: u8 = 24;
/// The same for IPv6: what hosts on a link have (RFC 7421).
const PREFIX_V6: u8 = 64;

/// The machines that the lab adds are the first of these in its subnet whose addresses are free.
const EXTRA: std::ops::Range<u8> = 100..255;

/// The name of an interface has at most 15 characters, and a machine's name is that of its port on the bridge.
const LONGEST_NAME: usize = 15;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address on the segment.
    pub address: IpAddr,
}

/// A machine that serves the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its name, which is what it answers.
    pub name: String,
    /// Its address on the segment.
    pub address: IpAddr,
    /// The ports that it serves.
    pub ports: BTreeSet<u16>,
}

/// A segment and what is on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Where the manifests are, for the nodes.
    pub manifests: Vec<PathBuf>,
    /// The segment's subnet.
    pub segment: IpNet,
    /// The nodes, by name.
    pub nodes: Vec<Node>,
    /// The machines that serve the application, by address.
    pub apps: Vec<App>,
    /// The addresses of the machines that the lab adds: the client, one on the far part, the one that asks who has what,
    /// the one with the etcd.
    pub extra: [IpAddr; 4],
    /// Where the client connects to: an allocated address.
    pub target: SocketAddr,
    /// The host name that it asks for.
    pub host: String,
    /// Who was given which address.
    pub allocations: Vec<(String, IpAddr)>,
}

/// A machine that the lab adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    /// It asks.
    Client,
    /// It asks too, from the other part of a network that falls into two.
    FarClient,
    /// It asks who has which address.
    Witness,
    /// It has the nodes' etcd.
    Store,
}

impl Scenario {
    /// Reads manifests and allocates as the nodes do; the client asks the first Gateway on `port` for
    /// `host`, or the first Service where there is no Gateway.
    pub fn read(manifests: &[PathBuf], host: &str, port: Option<u16>) -> Result<Self, LabError> {
        let mut corpus = files::corpus();
        let report = corpus.load(&files::read(manifests));
        if !report.problems.is_empty() {
            let problems = report.problems.iter().map(|problem| format!("\n  {problem}"));
            return Err(LabError::Manifests(format!(
                "the manifests have problems:{}",
                problems.collect::<String>()
            )));
        }
        let world = files::world(corpus.objects());
        // The nodes run elsewhere in the file system's eyes: inside the sandbox, from the same working directory.
        let absolute = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let manifests = manifests.iter().map(absolute).collect();
        Self::describe(corpus.objects(), &world, manifests, host, port).map_err(LabError::Manifests)
    }

    fn describe(
        objects: &Objects,
        world: &World,
        manifests: Vec<PathBuf>,
        host: &str,
        port: Option<u16>,
    ) -> Result<Self, String> {
        let nodes = nodes(objects)?;
        let [first, _, ..] = nodes.as_slice() else {
            return Err("a lab needs two nodes or more: add Node documents with an InternalIP".to_owned());
        };
        let length = if first.address.is_ipv4() { PREFIX_V4 } else { PREFIX_V6 };
        let segment = IpNet::new(first.address, length).map_err(|error| error.to_string())?.trunc();

        let grants = plan::allocate(&mut PoolAllocator::default(), world).grants;
        let mut allocations = Vec::new();
        for (owner, grant) in &grants {
            for address in grant.allocation.iter().flat_map(|allocation| &allocation.addresses) {
                allocations.push((owner.to_string(), *address));
            }
        }
        let held = |owner: &OwnerKey| grants.get(owner)?.allocation.as_ref()?.addresses.first().copied();
        let (gateways, services): (Vec<&OwnerKey>, Vec<&OwnerKey>) =
            grants.keys().partition(|owner| matches!(owner, OwnerKey::Gateway(_)));
        let target = gateways.into_iter().chain(services).find_map(|owner| Some((owner, held(owner)?)));
        let Some((owner, address)) = target else {
            return Err("no Gateway and no Service of type LoadBalancer gets an address from the pools: \
                        `cargo run --release --example plan -- DIR` says why"
                .to_owned());
        };
        let target = SocketAddr::new(address, port.unwrap_or_else(|| default_port(objects, owner)));

        let apps = apps(objects, segment);
        let mut taken: BTreeSet<IpAddr> = allocations.iter().map(|(_, address)| *address).collect();
        taken.extend(nodes.iter().map(|node| node.address));
        taken.extend(apps.iter().map(|app| app.address));
        let outside =
            nodes.iter().map(|node| node.address).chain([address]).find(|address| !segment.contains(address));
        if let Some(outside) = outside {
            return Err(format!("{outside} is not in the segment of the first node, {segment}"));
        }
        let free = EXTRA.map(|number| machine(segment, number)).filter(|address| !taken.contains(address));
        let extra = <[IpAddr; 4]>::try_from(free.take(4).collect::<Vec<_>>()).map_err(|_| {
            format!("no four addresses of {segment} are left for the client and other machines")
        })?;
        Ok(Self { manifests, segment, nodes, apps, extra, target, host: host.to_owned(), allocations })
    }

    /// The addresses to watch on the segment.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.allocations.iter().map(|(_, address)| *address).collect()
    }

    /// The address of a machine that the lab adds.
    pub(super) fn address(&self, machine: Extra) -> IpAddr {
        self.extra[machine as usize]
    }

    /// An address as an interface on the segment has it.
    pub(super) fn on_segment(&self, address: IpAddr) -> IpNet {
        // A subnet's length fits an address of its family.
        IpNet::new(address, self.segment.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
    }
}

/// The address of a machine by its number, which is the last byte: the subnet leaves at least that free.
fn machine(segment: IpNet, number: u8) -> IpAddr {
    match segment {
        IpNet::V4(net) => (net.network() | std::net::Ipv4Addr::from(u32::from(number))).into(),
        IpNet::V6(net) => (net.network() | std::net::Ipv6Addr::from(u128::from(number))).into(),
    }
}

fn nodes(objects: &Objects) -> Result<Vec<Node>, String> {
    let nodes = objects.iter::<manifest::Node>().map(|(name, node)| {
        let name = name.name.to_string();
        let address = node.addresses.first().copied();
        let address = address.ok_or_else(|| format!("Node {name}: status.addresses has no InternalIP"))?;
        if name.len() > LONGEST_NAME {
            return Err(format!("Node {name}: its name is longer than {LONGEST_NAME} characters"));
        }
        Ok(Node { name, address })
    });
    nodes.collect()
}

/// A machine for each endpoint on the segment, with the name of the first Service that it serves.
fn apps(objects: &Objects, segment: IpNet) -> Vec<App> {
    let mut names: BTreeMap<IpAddr, String> = BTreeMap::new();
    let mut ports: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    let mut slices: Vec<&EndpointSlice> = objects.iter::<EndpointSlice>().map(|(_, slice)| slice).collect();
    slices.sort_by_key(|slice| &slice.service);
    for slice in slices {
        let Some(service) = &slice.service else { continue };
        let addresses = slice.endpoints.iter().filter_map(|endpoint| endpoint.addresses.first());
        for (index, address) in addresses.filter(|address| segment.contains(*address)).enumerate() {
            let unique =
                if index == 0 { service.name.to_string() } else { format!("{}-{index}", service.name) };
            names.entry(*address).or_insert(unique);
            let tcp = slice.ports.iter().filter(|port| port.port.protocol == Protocol::Tcp);
            ports.entry(*address).or_default().extend(tcp.map(|port| port.port.number));
        }
    }
    let mut seen = BTreeSet::new();
    let apps = names.into_iter().zip(ports.into_values()).map(|((address, mut name), ports)| {
        // Two Services of one name in different namespaces, or a long name: the machine's number tells them apart.
        if name.len() > LONGEST_NAME || !seen.insert(name.clone()) {
            name = format!("app{}", seen.len());
            seen.insert(name.clone());
        }
        App { name, address, ports }
    });
    apps.collect()
}

fn default_port(objects: &Objects, owner: &OwnerKey) -> u16 {
    const HTTP: u16 = 80;
    match owner {
        OwnerKey::Service(name) => {
            let service = objects.get::<manifest::Service>(name);
            service.and_then(|service| service.ports.first()).map_or(HTTP, |port| port.port.number)
        }
        _ => HTTP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbcore::manifest::SourceFile;

    const DOCUMENTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.0.2.12}]}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: lan, namespace: metallb-system}
spec: {addresses: [192.0.2.100-192.0.2.110]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: LoadBalancer, ports: [{name: http, port: 8000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [192.0.2.21]}, {addresses: [192.0.2.22]}, {addresses: [10.0.0.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-1, namespace: default, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{name: other, port: 9090}]
endpoints: [{addresses: [192.0.2.22]}]
";

    fn describe(documents: &str) -> Result<Scenario, String> {
        let mut corpus = files::corpus();
        let report = corpus.load(&[SourceFile::new("lab.yaml", documents)]);
        assert_eq!(report.problems, []);
        let world = files::world(corpus.objects());
        Scenario::describe(corpus.objects(), &world, vec!["here".into()], "www.example.com", None)
    }

    #[test]
    fn machines_and_target_come_from_the_documents() {
        let scenario = describe(DOCUMENTS).unwrap();
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let app = |name: &str, last, ports: &[u16]| App {
            name: name.to_owned(),
            address: address(last),
            ports: ports.iter().copied().collect(),
        };
        assert_eq!(scenario.segment, "192.0.2.0/24".parse().unwrap());
        assert_eq!(scenario.nodes[1], Node { name: "n2".to_owned(), address: address(12) });
        assert_eq!(scenario.apps, [app("web", 21, &[8080]), app("a", 22, &[8080, 9090])]);
        assert_eq!(scenario.target, SocketAddr::new(address(100), 8000));
        assert_eq!(scenario.address(Extra::Client), address(101), "100 is allocated");
        assert_eq!(scenario.address(Extra::Store), address(104));
        assert_eq!(scenario.addresses(), BTreeSet::from([address(100)]));
        assert_eq!(scenario.on_segment(address(7)), "192.0.2.7/24".parse().unwrap());
    }

    #[test]
    fn a_segment_may_be_ipv6() {
        let documents = DOCUMENTS
            .replace("192.0.2.100-192.0.2.110", "2001:db8::64-2001:db8::6e")
            .replace("192.0.2.", "2001:db8::")
            .replace("10.0.0.1", "2001:db8:1::1")
            .replace("addressType: IPv4", "addressType: IPv6")
            .replace("type: LoadBalancer,", "type: LoadBalancer, ipFamilies: [IPv6],");
        let scenario = describe(&documents).unwrap();
        assert_eq!(scenario.segment, "2001:db8::/64".parse().unwrap());
        assert_eq!(scenario.target, "[2001:db8::64]:8000".parse().unwrap());
        assert_eq!(
            scenario.address(Extra::Client),
            "2001:db8::65".parse::<IpAddr>().unwrap(),
            "::64 is allocated"
        );
        assert_eq!(scenario.apps.len(), 2, "2001:db8:1::1 is not on the segment");
        // A node of the other family is not on the segment.
        let error = describe(&documents.replace("2001:db8::12", "192.0.2.12")).unwrap_err();
        assert!(
            error.contains("192.0.2.12 is not in the segment of the first node, 2001:db8::/64"),
            "{error}"
        );
    }

    #[test]
    fn documents_that_are_no_lab_are_refused_with_the_fix() {
        for (from, to, expected) in [
            (
                "InternalIP, address: 192.0.2.12",
                "Hostname, address: n2",
                "Node n2: status.addresses has no InternalIP",
            ),
            ("name: n2", "name: a-node-with-a-long-name", "its name is longer than 15 characters"),
            (
                "192.0.2.12",
                "198.51.100.12",
                "198.51.100.12 is not in the segment of the first node, 192.0.2.0/24",
            ),
            ("[192.0.2.100-192.0.2.110]", "[203.0.113.0/24]", "is not in the segment"),
            (
                "type: LoadBalancer",
                "type: ClusterIP",
                "no Gateway and no Service of type LoadBalancer gets an address",
            ),
            (
                "kind: Node\nmetadata: {name: n2}",
                "kind: Unread\nmetadata: {name: n2}",
                "a lab needs two nodes or more",
            ),
        ] {
            assert!(DOCUMENTS.contains(from), "{from}");
            let error = describe(&DOCUMENTS.replace(from, to)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
