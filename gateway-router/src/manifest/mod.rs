//! Reads Gateway API documents, through [`lbcore::manifest`].
//!
//! [`kinds`] registers the kinds; of a corpus read with them, [`resources`] and [`backends`] make what
//! [`compile`](crate::compile::compile) takes, and [`demands`] the Gateways' requests for addresses.
//!
//! Everything that the CRDs would refuse is a problem, with file, document, field and fix, and so is an unknown
//! field or kind. What the CRDs allow and this crate does not do is read, and answered with a condition. A rule
//! whose backend has no document is a problem too, since all documents are at hand; a Gateway or GatewayClass that is named
//! and has none is noticed, since it may be another controller's.
//!
//! ```
//! use gateway_router::manifest;
//! use lbcore::manifest::{Corpus, Kinds, SourceFile};
//!
//! let kinds = manifest::kinds(lbcore::manifest::kinds(Kinds::new()));
//! let mut corpus = Corpus::new(kinds);
//! let text = "
//! apiVersion: gateway.networking.k8s.io/v1
//! kind: HTTPRoute
//! metadata: {name: a}
//! spec:
//!   hostnames: [Example.com]
//!   rules: [{backendRef: []}]
//! ";
//! let report = corpus.load(&[SourceFile::new("a.yaml", text)]);
//! let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
//! assert_eq!(problems, [
//!     "a.yaml:6 (document 1): HTTPRoute default/a: spec.hostnames[0]: \"Example.com\" is no hostname: write it in lower case",
//!     "a.yaml:7 (document 1): HTTPRoute default/a: spec.rules[0].backendRef: unknown field: did you mean `backendRefs`?",
//! ]);
//! ```

mod gateway;
mod route;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lbcore::addr::Family;
use lbcore::allocator::{AllocError, Families, Port, Protocol};
use lbcore::id::{ObjectName, OwnerKey};
use lbcore::manifest::kubernetes::ServiceEndpoints;
use lbcore::manifest::{Field, Findings, Kinds, Mapping, Namespace, ObjectId, Objects, Service, ask};
use lbcore::plan::Demand;

pub use self::gateway::GatewayDocument;
use crate::compile::Resources;
use crate::model::{Backends, GROUP, GatewayClass, HttpRoute, ReferenceGrant, ServicePort, ServicePortSpec};

/// Registers `GatewayClass`, `Gateway`, `HTTPRoute` and `ReferenceGrant`. Other kinds of the group are errors, but for
/// those that exist and are not served, which are passed over with a notice.
pub fn kinds(kinds: Kinds) -> Kinds {
    kinds
        .read::<GatewayClass>()
        .read::<GatewayDocument>()
        .read::<HttpRoute>()
        .read::<ReferenceGrant>()
        .closed_group(
            GROUP,
            &[
                ("BackendTLSPolicy", "TLS to backends is not supported"),
                ("GRPCRoute", "gRPC routes are not supported"),
                ("ListenerSet", "listener sets are not supported"),
                ("TCPRoute", "TCP routes are not supported"),
                ("TLSRoute", "TLS routes are not supported"),
                ("UDPRoute", "UDP routes are not supported"),
            ],
        )
        .check(known_backends)
        .check(known_parents)
}

/// All valid resources, for the controller `controller_name`. The Gateways' addresses are `addresses`.
pub fn resources(
    objects: &Objects,
    controller_name: &str,
    addresses: BTreeMap<ObjectName, Vec<IpAddr>>,
) -> Resources {
    let mut resources = Resources::new(controller_name);
    resources.classes = objects.iter::<GatewayClass>().map(|(_, class)| class.clone()).collect();
    resources.gateways =
        objects.iter::<GatewayDocument>().map(|(_, document)| document.gateway.clone()).collect();
    resources.routes = objects.iter::<HttpRoute>().map(|(_, route)| route.clone()).collect();
    resources.grants = objects.iter::<ReferenceGrant>().map(|(_, grant)| grant.clone()).collect();
    resources.namespaces = objects
        .iter::<Namespace>()
        .map(|(name, namespace)| (name.name.clone(), namespace.labels.clone()))
        .collect();
    resources.addresses = addresses;
    resources
}

/// All Services with the endpoints of their EndpointSlices, whatever their type.
pub fn backends(objects: &Objects) -> Backends {
    let endpoints = ServiceEndpoints::new(objects);
    let mut backends = Backends::new();
    for (name, service) in objects.iter::<Service>() {
        for port in service.ports.iter().filter(|port| port.port.protocol == Protocol::Tcp) {
            let mut spec = ServicePortSpec::new(endpoints.addresses(name, port, None));
            spec.app_protocol.clone_from(&port.app_protocol);
            backends.insert(ServicePort::new(name.clone(), port.port.number), spec);
        }
    }
    backends
}

/// What the Gateways of `controller_name` ask the allocator for: the addresses in their specs, or those that MetalLB's
/// annotations ask for; else one of each family that a pool has. Gateways that cannot be served ask for nothing.
pub fn demands(objects: &Objects, controller_name: &str) -> Vec<Demand> {
    let ours = |class: &Arc<str>| {
        objects
            .get::<GatewayClass>(&ObjectName::new("", class.clone()))
            .is_some_and(|class| &*class.controller_name == controller_name)
    };
    objects
        .iter::<GatewayDocument>()
        .filter(|(_, document)| ours(&document.gateway.class))
        .map(|(name, document)| demand(objects, name, document))
        .collect()
}

fn demand(objects: &Objects, name: &ObjectName, document: &GatewayDocument) -> Demand {
    let gateway = &document.gateway;
    let mut demand = Demand::new(OwnerKey::Gateway(name.clone()));
    demand.created = gateway.metadata.created;
    demand.labels = document.labels.clone();
    demand.shown.clone_from(&document.shown);
    demand.shares = document.annotations.sharing_key.is_some();
    let request = &mut demand.request;
    request.labels = document.labels.clone();
    request.namespace_labels = lbcore::manifest::namespace_labels(objects, &name.namespace);
    request.families = Families::PreferDual { primary: Family::V4 };
    let mut ports: Vec<_> = gateway.listeners.iter().map(|listener| listener.port).collect();
    ports.sort_unstable();
    ports.dedup();
    request.ports = ports.into_iter().map(|number| Port { protocol: Protocol::Tcp, number }).collect();
    let asked: Vec<_> = gateway.addresses.iter().filter_map(|address| address.value.as_deref()).collect();
    let asked = (!asked.is_empty()).then(|| asked.join(","));
    // Any node answers for a Gateway, as with externalTrafficPolicy Cluster.
    let result = ask(request, &document.annotations, "", asked.as_deref());
    if let [one] = request.addresses[..] {
        request.families = Families::Single(Family::of(one));
    }
    demand.fault = result.err().map(AllocError::BadRequest);
    demand
}

/// The fields of `names` that are there, by their path: what the model has no counterpart for.
fn unsupported(fields: &Mapping<'_>, names: &[&'static str]) -> Vec<Arc<str>> {
    names.iter().filter(|name| fields.get(name).is_present()).map(|name| Arc::from(*name)).collect()
}

/// At most `max` items.
fn bounded(field: &Field<'_>, max: usize) {
    let count = field.list().len();
    if count > max {
        field.problem(format!("has {count} items, and {max} are the most: split it"));
    }
}

/// Every rule leads to Services and ports that have a document.
fn known_backends(objects: &Objects, findings: &mut Findings<'_>) {
    for (name, route) in objects.iter::<HttpRoute>() {
        for (rule_at, rule) in route.rules.iter().enumerate() {
            for (at, backend) in rule.backends.iter().enumerate() {
                if !backend.group.is_empty() || &*backend.kind != "Service" {
                    continue;
                }
                let namespace = backend.namespace.as_ref().unwrap_or(&name.namespace);
                let service = ObjectName::new(namespace.clone(), backend.name.clone());
                let id = || ObjectId::of::<HttpRoute>(name.clone());
                let path = format!("spec.rules[{rule_at}].backendRefs[{at}]");
                if !objects.may_exist::<Service>(&service) {
                    let message = format!("there is no Service {service}: add it, or name another");
                    findings.report(id(), format!("{path}.name"), message);
                } else if let (Some(service_object), Some(port)) =
                    (objects.get::<Service>(&service), backend.port)
                    && !service_object
                        .ports
                        .iter()
                        .any(|known| known.port == Port { protocol: Protocol::Tcp, number: port })
                {
                    let known: Vec<_> =
                        service_object.ports.iter().map(|known| known.port.to_string()).collect();
                    let message = format!(
                        "Service {service} has no port TCP/{port}: its ports are {}",
                        known.join(", ")
                    );
                    findings.report(id(), format!("{path}.port"), message);
                }
            }
        }
    }
}

/// Routes lead from Gateways, and Gateways are of classes, that have a document: otherwise nobody serves them, which no
/// status says.
fn known_parents(objects: &Objects, findings: &mut Findings<'_>) {
    for (name, route) in objects.iter::<HttpRoute>() {
        for (at, parent) in route.parents.iter().enumerate() {
            let namespace = parent.namespace.as_ref().unwrap_or(&name.namespace);
            let gateway = ObjectName::new(namespace.clone(), parent.name.clone());
            let is_gateway = &*parent.group == GROUP && &*parent.kind == "Gateway";
            if is_gateway && !objects.may_exist::<GatewayDocument>(&gateway) {
                let message = format!(
                    "there is no Gateway {gateway}, so that nobody serves the route there: add it, or name another"
                );
                let id = ObjectId::of::<HttpRoute>(name.clone());
                findings.notice(id, format!("spec.parentRefs[{at}].name"), message);
            }
        }
    }
    for (name, document) in objects.iter::<GatewayDocument>() {
        let class = &document.gateway.class;
        if !objects.may_exist::<GatewayClass>(&ObjectName::new("", class.clone())) {
            let message = format!(
                "there is no GatewayClass {class}, so that nobody serves the Gateway: add it, or name another"
            );
            let id = ObjectId::of::<GatewayDocument>(name.clone());
            findings.notice(id, "spec.gatewayClassName", message);
        }
    }
}
