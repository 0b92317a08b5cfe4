//! From Services and EndpointSlices to what is forwarded: pure functions.

use lbcore::addr::Family;
use lbcore::allocator::Protocol;
use lbcore::id::{NodeName, OwnerKey};
use lbcore::manifest::kubernetes::ServiceEndpoints;
use lbcore::manifest::{Objects, Service};
use lbcore::plan::{Allocations, TrafficPolicy};

use super::forward::{Forwarding, Frontend};

/// What this node forwards for plain services, and the ports that it cannot forward.
pub fn forwarding(
    objects: &Objects,
    allocations: &Allocations,
    me: &NodeName,
) -> (Forwarding, Vec<(OwnerKey, String)>) {
    let mut forwarding = Forwarding::new();
    let mut refused = Vec::new();
    let endpoints = ServiceEndpoints::new(objects);
    for (owner, grant) in &allocations.grants {
        let (OwnerKey::Service(name), Some(allocation)) = (owner, &grant.allocation) else { continue };
        let Some(service) = objects.get::<Service>(name) else { continue };
        for port in &service.ports {
            if !matches!(port.port.protocol, Protocol::Tcp | Protocol::Udp) {
                let why = format!("port {} is not forwarded: only TCP and UDP are", port.port);
                refused.push((owner.clone(), why));
                continue;
            }
            let local_to = (service.traffic == TrafficPolicy::Local).then_some(me);
            let ends = endpoints.addresses(name, port, local_to);
            for address in &allocation.addresses {
                let frontend =
                    Frontend { address: *address, protocol: port.port.protocol, port: port.port.number };
                let family = Family::of(*address);
                let of_family = ends.iter().filter(|end| Family::of(end.ip()) == family).copied();
                forwarding.insert(frontend, of_family.collect());
            }
        }
    }
    (forwarding, refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbcore::allocator::{IpAllocator, PoolAllocator};
    use lbcore::manifest::{Corpus, Kinds, SourceFile, kinds, world};
    use lbcore::plan;

    const DOCUMENTS: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: lan, namespace: metallb-system}
spec: {addresses: [192.0.2.200-192.0.2.210]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  externalTrafficPolicy: POLICY
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP}
  - {name: signal, port: 99, protocol: SCTP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}]
endpoints:
- {addresses: [10.0.0.2], nodeName: n2, conditions: {ready: true}}
- {addresses: [10.0.0.1], nodeName: n1}
- {addresses: [10.0.0.3], nodeName: n1, conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other-1, namespace: default, labels: {kubernetes.io/service-name: other}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.9]}]
";

    fn plan_of(policy: &str) -> (Forwarding, Vec<(OwnerKey, String)>) {
        let mut corpus = Corpus::new(kinds(Kinds::new()));
        let report = corpus.load(&[SourceFile::new("all.yaml", DOCUMENTS.replace("POLICY", policy))]);
        assert_eq!(report.problems, []);
        let world = world(corpus.objects());
        let mut allocator = PoolAllocator::default();
        allocator.set_pools(&world.pools);
        let allocations = plan::allocate(&mut allocator, &world);
        forwarding(corpus.objects(), &allocations, &"n1".into())
    }

    fn lines(forwarding: &Forwarding) -> Vec<String> {
        forwarding.iter().map(|(frontend, ends)| format!("{frontend} -> {ends:?}")).collect()
    }

    #[test]
    fn each_port_goes_to_the_serving_endpoints_of_its_name() {
        let (forwarding, refused) = plan_of("Cluster");
        assert_eq!(
            lines(&forwarding),
            [
                "TCP 192.0.2.200:80 -> [10.0.0.1:8080, 10.0.0.2:8080]",
                "UDP 192.0.2.200:53 -> [10.0.0.1:5353, 10.0.0.2:5353]",
            ]
        );
        let why = "port SCTP/99 is not forwarded: only TCP and UDP are".to_owned();
        assert_eq!(refused, [(OwnerKey::service("default", "web"), why)]);
    }

    #[test]
    fn local_traffic_stays_on_the_node() {
        let (forwarding, _) = plan_of("Local");
        assert_eq!(
            lines(&forwarding),
            ["TCP 192.0.2.200:80 -> [10.0.0.1:8080]", "UDP 192.0.2.200:53 -> [10.0.0.1:5353]"]
        );
    }
}
