//! What the manifests describe: who is on the segment, and which address the client asks.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::LabError;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address on the segment.
    pub address: IpAddr,
}

/// A server of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its name, which is what it answers.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
}

/// A segment and what is on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Where the manifests are, for the nodes.
    pub manifests: PathBuf,
    /// The segment's subnet.
    pub segment: IpNet,
    /// The nodes, by name.
    pub nodes: Vec<Node>,
    /// The application's servers, by name.
    pub apps: Vec<App>,
    /// The client's address.
    pub client: IpAddr,
    /// Where the client connects to: an allocated address.
    pub target: SocketAddr,
    /// The host name that it asks for.
    pub host: String,
    /// Who was given which addresses.
    pub allocations: Vec<(String, IpAddr)>,
}

impl Scenario {
    /// The addresses to watch on the segment, in order.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.allocations.iter().map(|(_, address)| *address).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// An address as an interface on the segment has it.
    pub(super) fn on_segment(&self, address: IpAddr) -> IpNet {
        // A subnet's length fits an address of its family.
        IpNet::new(address, self.segment.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
    }

    /// Reads a folder of manifests and allocates as the nodes do.
    pub fn read(_manifests: &Path) -> Result<Self, LabError> {
        Err(LabError::Manifests("not read yet".to_owned()))
    }
}
