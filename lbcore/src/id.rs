//! Names of the things that the toolkit talks about.
//!
//! Every name is a newtype over a cheaply cloned string, so that a pool cannot be passed where a node is
//! meant. All of them order by their text; machines and plans iterate in that order.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps `text` as it is; nothing is validated.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// A node: a machine that can answer for addresses.
    NodeName
}
name! {
    /// A pool of addresses (MetalLB: `IPAddressPool`).
    PoolName
}
name! {
    /// An advertisement (MetalLB: `L2Advertisement` or `BGPAdvertisement`).
    AdvertisementName
}
name! {
    /// A network interface, by the name that the kernel gives it.
    InterfaceName
}
name! {
    /// A BGP peer, by the name of its configuration (MetalLB: `BGPPeer`).
    PeerName
}

/// `namespace/name`, as Kubernetes identifies an object of a known kind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace; never empty for the kinds used here.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl ObjectName {
    /// `namespace/name`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who holds an address: a Service or a Gateway. Both come through the same door.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OwnerKey {
    /// A Service of type LoadBalancer.
    Service(ObjectName),
    /// A Gateway (Gateway API).
    Gateway(ObjectName),
}

impl OwnerKey {
    /// The Service `namespace/name`.
    pub fn service(namespace: &str, name: &str) -> Self {
        Self::Service(ObjectName::new(namespace, name))
    }

    /// The Gateway `namespace/name`.
    pub fn gateway(namespace: &str, name: &str) -> Self {
        Self::Gateway(ObjectName::new(namespace, name))
    }

    /// The object's name, whatever its kind.
    pub fn object(&self) -> &ObjectName {
        match self {
            Self::Service(name) | Self::Gateway(name) => name,
        }
    }
}

impl fmt::Display for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service {name}"),
            Self::Gateway(name) => write!(f, "gateway {name}"),
        }
    }
}

/// What is elected: one owner each. An address is elected on its own, never through the service that uses
/// it, so that two services that share an address always have one owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Answers for this address.
    Address(IpAddr),
    /// A role of the embedding controller's own, for example `"status-writer"`.
    Named(Arc<str>),
}

impl Role {
    /// A role of the embedder's own.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self::Named(name.into())
    }
}

impl From<IpAddr> for Role {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}
