//! Services, as far as routing asks: which ports they have, and who serves them now.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use lbcore::id::ObjectName;

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ServicePort {
    /// The Service.
    pub service: ObjectName,
    /// The port: that of the Service, not the target's.
    pub port: u16,
}

impl ServicePort {
    /// Port `port` of `service`.
    pub fn new(service: ObjectName, port: u16) -> Self {
        Self { service, port }
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// What is known of a [`ServicePort`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServicePortSpec {
    /// `appProtocol` of the port (GEP-1911).
    pub app_protocol: Option<Arc<str>>,
    /// The ready endpoints, at their target ports: from the EndpointSlices, whatever the Service's type.
    pub endpoints: Vec<SocketAddr>,
}

impl ServicePortSpec {
    /// A port of plain HTTP/1.1 served by `endpoints`.
    pub fn new(endpoints: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { app_protocol: None, endpoints: endpoints.into_iter().collect() }
    }
}

/// All Services that are known, with who serves them. A Service that is here without an endpoint answers 503;
/// one that is not here does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends(BTreeMap<ObjectName, BTreeMap<u16, ServicePortSpec>>);

impl Backends {
    /// No Service.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds or replaces `port`.
    pub fn insert(&mut self, port: ServicePort, spec: ServicePortSpec) {
        self.0.entry(port.service).or_default().insert(port.port, spec);
    }

    /// Whether `service` is known.
    pub fn has_service(&self, service: &ObjectName) -> bool {
        self.0.contains_key(service)
    }

    /// What is known of `port`.
    pub fn get(&self, port: &ServicePort) -> Option<&ServicePortSpec> {
        self.0.get(&port.service)?.get(&port.port)
    }

    /// Everything, ordered by Service and port.
    pub fn iter(&self) -> impl Iterator<Item = (ServicePort, &ServicePortSpec)> {
        self.0.iter().flat_map(|(service, ports)| {
            ports.iter().map(|(port, spec)| (ServicePort::new(service.clone(), *port), spec))
        })
    }
}

impl FromIterator<(ServicePort, ServicePortSpec)> for Backends {
    fn from_iter<I: IntoIterator<Item = (ServicePort, ServicePortSpec)>>(ports: I) -> Self {
        let mut backends = Self::new();
        for (port, spec) in ports {
            backends.insert(port, spec);
        }
        backends
    }
}
