//! From documents to the [`World`] that is planned for.

use std::net::IpAddr;
use std::sync::Arc;

use super::kubernetes::{
    EXCLUDE, EndpointSlice, FamilyPolicy, Namespace, Node, Service, ServiceEndpoints, ServiceType,
};
use super::metallb::{self, BgpAdvertisement, Communities, L2Advertisement};
use super::{Objects, RequestAnnotations};
use crate::addr::Family;
use crate::allocator::{AllocError, AllocRequest, Families, Sharing};
use crate::id::{NodeName, ObjectName, OwnerKey};
use crate::labels::{LabelSelector, Labels};
use crate::plan::{self, Demand, Endpoints, Serving, TrafficPolicy, World};

/// The world of all valid objects: pools, advertisements, nodes, endpoints, and a demand for each Service of
/// type LoadBalancer. Gateways are added by the crate that reads them, as further demands.
pub fn world(objects: &Objects) -> World {
    let mut world =
        World { pools: metallb::pools(objects), endpoints: endpoints(objects), ..World::default() };
    let communities = Communities::of(objects);
    world.advertisements.extend(objects.iter::<L2Advertisement>().map(|(_, ad)| ad.advertisement.clone()));
    world.advertisements.extend(objects.iter::<BgpAdvertisement>().map(|(_, ad)| ad.resolve(&communities)));
    world.nodes = objects
        .iter::<Node>()
        .map(|(name, node)| (NodeName::new(name.name.clone()), plan_node(node)))
        .collect();
    for (name, service) in objects.iter::<Service>() {
        if service.service_type == ServiceType::LoadBalancer {
            let demand = demand(name, service, namespace_labels(objects, &name.namespace));
            world.demands.insert(demand.owner.clone(), demand);
        }
    }
    world
}

/// The labels of a namespace; those that every namespace has if it has no document.
pub fn namespace_labels(objects: &Objects, namespace: &str) -> Labels {
    match objects.get::<Namespace>(&ObjectName::new("", namespace)) {
        Some(namespace) => namespace.labels.clone(),
        None => Namespace::implied_labels(namespace),
    }
}

fn plan_node(node: &Node) -> plan::Node {
    let mut planned = plan::Node::with_labels(node.labels.clone());
    planned.network_unavailable = node.network_unavailable;
    planned.excluded = node.labels.get(EXCLUDE).is_some();
    planned
}

fn endpoints(objects: &Objects) -> Endpoints {
    if objects.count::<EndpointSlice>() == 0 {
        return Endpoints::Everywhere;
    }
    let services = ServiceEndpoints::new(objects);
    let services = services.nodes().map(|(service, nodes)| {
        let elsewhere = nodes.contains(&None);
        let nodes = nodes.into_iter().flatten().cloned().collect();
        (service.clone(), Serving { nodes, elsewhere })
    });
    Endpoints::Of(services.collect())
}

fn demand(name: &ObjectName, service: &Service, namespace_labels: Labels) -> Demand {
    let mut demand = Demand::new(OwnerKey::Service(name.clone()));
    demand.created = service.created;
    demand.class.clone_from(&service.class);
    demand.labels = service.labels.clone();
    demand.traffic = service.traffic;
    demand.shown.clone_from(&service.shown);
    demand.shares = service.annotations.sharing_key.is_some();
    let request = &mut demand.request;
    request.labels = service.labels.clone();
    request.namespace_labels = namespace_labels;
    request.ports = service.ports.iter().map(|port| port.port).collect();
    let selector = LabelSelector {
        match_labels: service.selector.iter().map(|(key, value)| (key.into(), value.into())).collect(),
        match_expressions: Vec::new(),
    };
    let backend = match service.traffic {
        TrafficPolicy::Cluster => String::new(),
        TrafficPolicy::Local => selector.to_string(),
    };
    let (families, no_families) = wanted_families(service);
    request.families = families;
    let asked = ask(request, &service.annotations, &backend, service.load_balancer_ip.as_deref());
    let faults: Vec<_> = asked.err().into_iter().chain(no_families).collect();
    demand.fault = (!faults.is_empty()).then(|| AllocError::BadRequest(faults.join("; ")));
    demand
}

/// Adds to `request` what the annotations ask for. `backend` is where the traffic goes (see
/// [`Sharing::backend`]); `field` is the address that the object's own spec asks for, as it is written.
///
/// # Errors
/// Everything that contradicts itself or is no address, and the fix.
pub fn ask(
    request: &mut AllocRequest,
    annotations: &RequestAnnotations,
    backend: &str,
    field: Option<&str>,
) -> Result<(), String> {
    request.pool = annotations.pool.as_deref().map(Into::into);
    request.sharing =
        annotations.sharing_key.as_ref().map(|key| Sharing { key: key.clone(), backend: Arc::from(backend) });
    let mut faults = Vec::new();
    let (text, source) = match (annotations.addresses.as_deref(), field) {
        (Some(text), other) => {
            if other.is_some() {
                faults.push(
                    "it asks for addresses by metallb.io/loadBalancerIPs and by spec.loadBalancerIP: remove the latter"
                        .to_owned(),
                );
            }
            (text, "metallb.io/loadBalancerIPs")
        }
        (None, Some(text)) => (text, "spec.loadBalancerIP"),
        (None, None) => return Ok(()),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let Ok(address) = part.parse::<IpAddr>() else {
            faults.push(format!(
                "{source}: {part:?} is no IP address: write one like 192.0.2.1 or 2001:db8::1"
            ));
            continue;
        };
        addresses.push(address);
    }
    for family in [Family::V4, Family::V6] {
        if addresses.iter().filter(|address| Family::of(**address) == family).nth(1).is_some() {
            faults.push(format!(
                "{source}: {text} has two {family} addresses: ask for one of each family at most"
            ));
        }
    }
    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    addresses.sort_unstable();
    request.addresses = addresses;
    Ok(())
}

/// The families are those of the cluster addresses where it has some: an external address of another family
/// leads nowhere.
fn wanted_families(service: &Service) -> (Families, Option<String>) {
    let cluster: Vec<Family> = service.cluster_ips.iter().copied().map(Family::of).collect();
    let listed = service.families.first().or_else(|| cluster.first());
    let primary = listed.copied().unwrap_or(Family::V4);
    // As the API server infers it.
    let two = service.families.len() > 1 || cluster.len() > 1;
    let inferred = if two { FamilyPolicy::RequireDualStack } else { FamilyPolicy::SingleStack };
    let policy = service.family_policy.unwrap_or(inferred);
    let families = match (policy, cluster.as_slice()) {
        (_, [one]) => Families::Single(*one),
        (FamilyPolicy::SingleStack, _) => Families::Single(primary),
        (FamilyPolicy::PreferDualStack, _) => Families::PreferDual { primary },
        (FamilyPolicy::RequireDualStack, _) => Families::RequireDual,
    };
    let fault = (policy == FamilyPolicy::RequireDualStack && cluster.len() == 1).then(|| {
        "ipFamilyPolicy is RequireDualStack, but it has one clusterIP: give the cluster both families, or use \
         PreferDualStack"
            .to_owned()
    });
    (families, fault)
}
