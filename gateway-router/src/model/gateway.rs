//! GatewayClass and Gateway.

use std::fmt;
use std::sync::Arc;

use lbcore::labels::LabelSelector;
use lbcore::time::Timestamp;

use super::{Hostname, Metadata};

/// A class of Gateways, and who implements it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayClass {
    /// Its name; the kind has no namespaces.
    pub name: Arc<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `spec.controllerName`: the controller that implements it.
    pub controller_name: Arc<str>,
    /// Fields that are set and have no counterpart here.
    pub unsupported: Vec<Arc<str>>,
}

impl GatewayClass {
    /// The class `name` of `controller_name`.
    pub fn new(name: &str, controller_name: &str) -> Self {
        Self {
            name: name.into(),
            generation: 1,
            created: None,
            controller_name: controller_name.into(),
            unsupported: Vec::new(),
        }
    }
}

/// Where traffic comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gateway {
    /// Its name, generation and age.
    pub metadata: Metadata,
    /// `spec.gatewayClassName`.
    pub class: Arc<str>,
    /// `spec.listeners`, 1 to 64.
    pub listeners: Vec<Listener>,
    /// `spec.addresses`: those that it asks for; any if empty.
    pub addresses: Vec<GatewayAddress>,
    /// Fields that are set and have no counterpart here.
    pub unsupported: Vec<Arc<str>>,
}

impl Gateway {
    /// A Gateway of `class` with these listeners, at any address.
    pub fn new(metadata: Metadata, class: &str, listeners: impl IntoIterator<Item = Listener>) -> Self {
        Self {
            metadata,
            class: class.into(),
            listeners: listeners.into_iter().collect(),
            addresses: Vec::new(),
            unsupported: Vec::new(),
        }
    }
}

/// An address that a Gateway asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayAddress {
    /// What `value` is.
    pub kind: AddressKind,
    /// The address; any of that kind if `None` (GEP-1651).
    pub value: Option<Arc<str>>,
}

impl GatewayAddress {
    /// The address `value` of kind `kind`.
    pub fn new(kind: AddressKind, value: Option<&str>) -> Self {
        Self { kind, value: value.map(Into::into) }
    }
}

/// The type of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressKind {
    /// `IPAddress`.
    IpAddress,
    /// `Hostname`, or a type of another implementation.
    Other(Arc<str>),
}

/// One port and host on which a Gateway takes traffic in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listener {
    /// Its name, unique in the Gateway.
    pub name: Arc<str>,
    /// The port that clients connect to.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The hosts that it takes; all if `None`.
    pub hostname: Option<Hostname>,
    /// The routes that may attach.
    pub allowed_routes: AllowedRoutes,
    /// Fields that are set and have no counterpart here.
    pub unsupported: Vec<Arc<str>>,
}

impl Listener {
    /// An HTTP listener for all hosts, open to the routes of its Gateway's namespace.
    pub fn http(name: &str, port: u16) -> Self {
        Self {
            name: name.into(),
            port,
            protocol: Protocol::Http,
            hostname: None,
            allowed_routes: AllowedRoutes::default(),
            unsupported: Vec::new(),
        }
    }

    /// The same for `hostname` alone.
    #[must_use]
    pub fn hostname(mut self, hostname: Hostname) -> Self {
        self.hostname = Some(hostname);
        self
    }

    /// The same, open to the routes of `namespaces`.
    #[must_use]
    pub fn allow(mut self, namespaces: FromNamespaces) -> Self {
        self.allowed_routes.namespaces = namespaces;
        self
    }
}

/// The protocol of a [`Listener`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS.
    Https,
    /// TLS.
    Tls,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// One of another implementation.
    Other(Arc<str>),
}

impl Protocol {
    /// The protocol of that name, as the CRD writes it.
    pub fn new(name: &str) -> Self {
        match name {
            "HTTP" => Self::Http,
            "HTTPS" => Self::Https,
            "TLS" => Self::Tls,
            "TCP" => Self::Tcp,
            "UDP" => Self::Udp,
            _ => Self::Other(name.into()),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Other(name) => name,
        })
    }
}

/// Which routes may attach to a [`Listener`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllowedRoutes {
    /// From which namespaces.
    pub namespaces: FromNamespaces,
    /// Of which kinds; those that the protocol implies if empty.
    pub kinds: Vec<RouteKind>,
}

/// From which namespaces routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FromNamespaces {
    /// From the Gateway's own.
    #[default]
    Same,
    /// From every one.
    All,
    /// From those whose labels match.
    Selector(LabelSelector),
}

/// A kind of route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct RouteKind {
    /// Its API group.
    pub group: Arc<str>,
    /// Its name.
    pub kind: Arc<str>,
}

impl RouteKind {
    /// The kind `kind` of `group`.
    pub fn new(group: &str, kind: &str) -> Self {
        Self { group: group.into(), kind: kind.into() }
    }

    /// HTTPRoute.
    pub fn http_route() -> Self {
        Self::new(super::GROUP, "HTTPRoute")
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.kind)
    }
}
