//! Where the traffic of plain services goes: each address and port to endpoints, by the kernel or by a relay.

pub mod conntrack;
pub mod nft;
pub mod relay;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use lbcore::allocator::Protocol;

/// One port of one service address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// The service's address.
    pub address: IpAddr,
    /// TCP or UDP; anything else cannot be forwarded.
    pub protocol: Protocol,
    /// The service's port.
    pub port: u16,
}

impl Frontend {
    /// Address and port.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.socket())
    }
}

/// The endpoints of a frontend, of the frontend's family, in order. Without any, connections are refused.
pub type Forwarding = BTreeMap<Frontend, Vec<SocketAddr>>;

/// How plain services are forwarded.
#[derive(Debug)]
pub enum Forwarder {
    /// By the kernel.
    Nft(nft::Nft),
    /// By this process.
    Relay(relay::Relay),
}

impl Forwarder {
    /// By the kernel if it lets us, else by this process, so many connections at once; and why the kernel does not.
    pub async fn new(connections: usize) -> (Self, Option<nft::NftError>) {
        match nft::Nft::new().await {
            Ok(nft) => (Self::Nft(nft), None),
            Err(error) => (Self::Relay(relay::Relay::new(connections)), Some(error)),
        }
    }

    /// Forwards exactly this from now on; connections of frontends that stay are not cut. Gives what could not
    /// be done, each with its reason.
    pub async fn apply(&mut self, wanted: &Forwarding) -> Vec<(Frontend, String)> {
        match self {
            Self::Nft(nft) => match nft.apply(wanted).await {
                Ok(()) => Vec::new(),
                Err(error) => wanted.keys().map(|frontend| (*frontend, error.to_string())).collect(),
            },
            Self::Relay(relay) => relay.apply(wanted),
        }
    }

    /// How many TCP connections go through it now; `None` if that is not known.
    pub fn open(&self) -> Option<usize> {
        match self {
            Self::Nft(nft) => nft.open(),
            Self::Relay(relay) => Some(relay.open()),
        }
    }

    /// Stops forwarding, and leaves nothing behind.
    pub async fn undo(self) {
        match self {
            Self::Nft(nft) => nft.undo().await,
            Self::Relay(_) => {}
        }
    }
}
