//! Kubernetes' own kinds, as far as load balancing needs them: `Service`, `EndpointSlice`, `Node`, `Namespace`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::field::{Field, Scalar};
use super::suggest;
use super::{Kind, Kinds, Mapping, Object, Objects};
use crate::addr::Family;
use crate::allocator::{Port, Protocol};
use crate::id::{NodeName, ObjectName};
use crate::labels::Labels;
use crate::plan::TrafficPolicy;
use crate::time::Timestamp;

/// The label by which an `EndpointSlice` names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that keeps a node from announcing anything.
pub const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Registers the kinds.
pub(super) fn kinds(kinds: Kinds) -> Kinds {
    kinds.read::<Service>().read::<EndpointSlice>().read::<Node>().read::<Namespace>()
}

const PROTOCOLS: [(&str, Protocol); 3] =
    [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];

/// A `Service`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// Its labels.
    pub labels: Labels,
    /// When it was created; `None` if it is not yet.
    pub created: Option<Timestamp>,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.selector`.
    pub selector: Labels,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.clusterIPs`, or `spec.clusterIP`; empty if there are none yet, or it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ipFamilies`.
    pub families: Vec<Family>,
    /// `spec.ipFamilyPolicy`.
    pub family_policy: Option<FamilyPolicy>,
    /// `spec.externalTrafficPolicy`.
    pub traffic: TrafficPolicy,
    /// `spec.loadBalancerClass`.
    pub class: Option<Arc<str>>,
    /// `spec.loadBalancerIP`, as it is written.
    pub load_balancer_ip: Option<Arc<str>>,
    /// What MetalLB's annotations ask for.
    pub annotations: RequestAnnotations,
    /// The addresses of `status.loadBalancer.ingress`.
    pub shown: Vec<IpAddr>,
}

/// The type of a [`Service`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceType {
    /// Within the cluster.
    #[default]
    ClusterIp,
    /// On a port of every node.
    NodePort,
    /// At an external address.
    LoadBalancer,
    /// A name elsewhere.
    ExternalName,
}

/// `ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyPolicy {
    /// One family.
    SingleStack,
    /// Both if the cluster has both.
    PreferDualStack,
    /// Both.
    RequireDualStack,
}

/// A port of a [`Service`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServicePort {
    /// Its name; empty if it is the only one and has none.
    pub name: Arc<str>,
    /// The port that clients use.
    pub port: Port,
    /// The port of the endpoints, where no EndpointSlice says it.
    pub target: TargetPort,
    /// `appProtocol`, for example `"kubernetes.io/h2c"`.
    pub app_protocol: Option<Arc<str>>,
}

/// A port of the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name that the endpoints give it.
    Name(Arc<str>),
}

impl Kind for Service {
    const GROUP: &'static str = "";
    const KIND: &'static str = "Service";
    const VERSIONS: &'static [&'static str] = &["v1"];
    const NAMESPACED: bool = true;
    const STRICT: bool = false;

    fn read(object: &Object<'_>) -> Option<Self> {
        const TYPES: [(&str, ServiceType); 4] = [
            ("ClusterIP", ServiceType::ClusterIp),
            ("NodePort", ServiceType::NodePort),
            ("LoadBalancer", ServiceType::LoadBalancer),
            ("ExternalName", ServiceType::ExternalName),
        ];
        const POLICIES: [(&str, FamilyPolicy); 3] = [
            ("SingleStack", FamilyPolicy::SingleStack),
            ("PreferDualStack", FamilyPolicy::PreferDualStack),
            ("RequireDualStack", FamilyPolicy::RequireDualStack),
        ];
        const TRAFFIC: [(&str, TrafficPolicy); 2] =
            [("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local)];
        let shown = object.root().get("status").mapping(|status| {
            let ingress = status.get("loadBalancer").mapping(|balancer| balancer.get("ingress").list());
            // A hostname is somebody else's.
            ingress
                .unwrap_or_default()
                .iter()
                .filter_map(|item| item.mapping(|item| item.get("ip").address())?)
                .collect()
        });
        object.spec().required().mapping(|spec| Self {
            labels: object.labels.clone(),
            created: object.created,
            service_type: spec.get("type").one_of(&TYPES).unwrap_or_default(),
            selector: spec.get("selector").labels(),
            ports: service_ports(&spec.get("ports")),
            cluster_ips: cluster_ips(spec),
            families: families(&spec.get("ipFamilies")),
            family_policy: spec.get("ipFamilyPolicy").one_of(&POLICIES),
            traffic: spec.get("externalTrafficPolicy").one_of(&TRAFFIC).unwrap_or_default(),
            class: spec.get("loadBalancerClass").non_empty().map(Arc::from),
            load_balancer_ip: spec.get("loadBalancerIP").str().filter(|text| !text.is_empty()).map(Arc::from),
            annotations: RequestAnnotations::read(object),
            shown: shown.unwrap_or_default(),
        })
    }
}

fn service_ports(field: &Field<'_>) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for item in field.list() {
        let port = item.clone().required().mapping(|fields| {
            let number = fields.get("port").required().int(1..=u16::MAX);
            let protocol = fields.get("protocol").one_of(&PROTOCOLS).unwrap_or(Protocol::Tcp);
            let name = fields.get("name").str().unwrap_or_default();
            let target = fields.get("targetPort");
            let target = match target.scalar() {
                None => None,
                Some(Scalar::Text(name)) => Some(TargetPort::Name(name.into())),
                Some(_) => target.int(1..=u16::MAX).map(TargetPort::Number),
            };
            let app_protocol = fields.get("appProtocol").str().map(Arc::from);
            let number = number?;
            Some(ServicePort {
                name: name.into(),
                port: Port { protocol, number },
                target: target.unwrap_or(TargetPort::Number(number)),
                app_protocol,
            })
        });
        let Some(Some(port)) = port else { continue };
        if ports.iter().any(|other| other.port == port.port) {
            item.problem(format!("{} is there twice: remove one", port.port));
        }
        ports.push(port);
    }
    ports
}

fn cluster_ips(spec: &Mapping<'_>) -> Vec<IpAddr> {
    let (several, one) = (spec.get("clusterIPs"), spec.get("clusterIP"));
    let fields = if several.is_present() { several.list() } else { vec![one] };
    let address = |field: &Field<'_>| match field.str() {
        None | Some("" | "None") => None,
        Some(_) => field.address(),
    };
    fields.iter().filter_map(address).collect()
}

fn families(field: &Field<'_>) -> Vec<Family> {
    let mut families = Vec::new();
    for item in field.list() {
        match item.one_of(&[("IPv4", Family::V4), ("IPv6", Family::V6)]) {
            Some(family) if families.contains(&family) => {
                item.problem(format!("{family} is there twice: remove one"));
            }
            Some(family) => families.push(family),
            None => {}
        }
    }
    families
}

/// What MetalLB's annotations on a Service or a Gateway ask for. The former prefix `metallb.universe.tf/` is read
/// too, with a notice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestAnnotations {
    /// `metallb.io/address-pool`.
    pub pool: Option<Arc<str>>,
    /// `metallb.io/loadBalancerIPs`, as it is written.
    pub addresses: Option<Arc<str>>,
    /// `metallb.io/allow-shared-ip`.
    pub sharing_key: Option<Arc<str>>,
}

impl RequestAnnotations {
    /// Reads the annotations of `object`. Another one with MetalLB's prefix is told of, unless MetalLB itself wrote it.
    pub fn read(object: &Object<'_>) -> Self {
        const WRITTEN: &str = "ip-allocated-from-pool";
        const POOL: &str = "address-pool";
        const ADDRESSES: &str = "loadBalancerIPs";
        const SHARING_KEY: &str = "allow-shared-ip";
        const READ: [&str; 3] = [POOL, ADDRESSES, SHARING_KEY];
        for key in object.annotations.keys() {
            let name = key.strip_prefix("metallb.io/").or_else(|| key.strip_prefix("metallb.universe.tf/"));
            let Some(name) = name.filter(|name| *name != WRITTEN && !READ.contains(name)) else { continue };
            object.notice(match suggest::closest(name, &READ) {
                Some(meant) => {
                    format!("nothing reads the annotation {key}: did you mean metallb.io/{meant}?")
                }
                None => {
                    let all = READ.map(|name| format!("metallb.io/{name}"));
                    format!("nothing reads the annotation {key}: there are {}", all.join(", "))
                }
            });
        }
        let value = |name: &str| {
            let text = |key: &str| object.annotations.get(key).filter(|text| !text.is_empty()).cloned();
            let (current, former) = (format!("metallb.io/{name}"), format!("metallb.universe.tf/{name}"));
            let value = text(&current).or_else(|| text(&former));
            if object.annotations.contains_key(&*former) {
                object.notice(format!("the annotation {former} is deprecated: write {current}"));
            }
            value
        };
        Self { pool: value(POOL), addresses: value(ADDRESSES), sharing_key: value(SHARING_KEY) }
    }
}

/// An `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointSlice {
    /// The Service that it belongs to; `None` if it belongs to none.
    pub service: Option<ObjectName>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The ports that every one of them serves.
    pub ports: Vec<EndpointPort>,
}

/// An endpoint of an [`EndpointSlice`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its addresses, which all lead to the same place. Empty where the slice holds names.
    pub addresses: Vec<IpAddr>,
    /// The node where it runs.
    pub node: Option<NodeName>,
    /// Whether it may take traffic.
    pub state: EndpointState,
}

/// Whether an [`Endpoint`] may take traffic: see [`ServiceEndpoints`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointState {
    /// It takes none.
    Down,
    /// It terminates but still serves, for where nobody else does.
    Terminating,
    /// It takes traffic.
    Ready,
}

/// A port of an [`EndpointSlice`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointPort {
    /// Its name, which is the one of the Service's port.
    pub name: Arc<str>,
    /// The port; its number is 0 where the slice means all ports.
    pub port: Port,
}

impl Kind for EndpointSlice {
    const GROUP: &'static str = "discovery.k8s.io";
    const KIND: &'static str = "EndpointSlice";
    const VERSIONS: &'static [&'static str] = &["v1"];
    const NAMESPACED: bool = true;
    const STRICT: bool = false;

    fn read(object: &Object<'_>) -> Option<Self> {
        let root = object.root();
        const TYPES: [(&str, bool); 3] = [("IPv4", true), ("IPv6", true), ("FQDN", false)];
        let holds_addresses = root.get("addressType").required().one_of(&TYPES).unwrap_or(false);
        let endpoint = |field: &Field<'_>| {
            field.clone().required().mapping(|fields| {
                let addresses = fields.get("addresses").required();
                let condition = |name| {
                    fields.get("conditions").mapping(|conditions| conditions.get(name).bool()).flatten()
                };
                Endpoint {
                    addresses: if holds_addresses {
                        addresses.list().iter().filter_map(Field::address).collect()
                    } else {
                        Vec::new()
                    },
                    node: fields.get("nodeName").non_empty().map(NodeName::from),
                    // Unknown counts as ready, as serving and as not terminating (EndpointConditions). Who is not
                    // ready and yet serves can only be terminating.
                    state: match (condition("ready"), condition("serving"), condition("terminating")) {
                        (None | Some(true), ..) => EndpointState::Ready,
                        (_, Some(true), _) | (_, None, Some(true)) => EndpointState::Terminating,
                        _ => EndpointState::Down,
                    },
                }
            })
        };
        let port = |field: &Field<'_>| {
            field.clone().required().mapping(|fields| EndpointPort {
                name: fields.get("name").str().unwrap_or_default().into(),
                port: Port {
                    protocol: fields.get("protocol").one_of(&PROTOCOLS).unwrap_or(Protocol::Tcp),
                    number: fields.get("port").int(1..=u16::MAX).unwrap_or(0),
                },
            })
        };
        let service = object.labels.get(SERVICE_NAME);
        Some(Self {
            service: service.map(|name| ObjectName::new(object.name.namespace.clone(), name)),
            endpoints: root.get("endpoints").list().iter().filter_map(endpoint).collect(),
            ports: root.get("ports").list().iter().filter_map(port).collect(),
        })
    }
}

impl EndpointSlice {
    /// The number by which its endpoints serve `port`.
    fn number_of(&self, port: &ServicePort) -> Option<u16> {
        let is_same = |own: &&EndpointPort| own.name == port.name && own.port.protocol == port.port.protocol;
        match (self.ports.iter().find(is_same)?.port.number, &port.target) {
            // All ports of the endpoints.
            (0, TargetPort::Number(number)) => Some(*number),
            (0, TargetPort::Name(_)) => None,
            (number, _) => Some(number),
        }
    }
}

/// The endpoints of each Service, and which of them take traffic: those that are ready or, where none is, those that
/// terminate and still serve. So kube-proxy chooses, among the endpoints of one port and family and, where traffic
/// stays on its node, of that node (KEP-1669).
#[derive(Debug)]
pub struct ServiceEndpoints<'o>(BTreeMap<&'o ObjectName, Vec<&'o EndpointSlice>>);

impl<'o> ServiceEndpoints<'o> {
    /// Those of the EndpointSlices of `objects`.
    pub fn new(objects: &'o Objects) -> Self {
        let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (_, slice) in objects.iter::<EndpointSlice>() {
            if let Some(service) = &slice.service {
                slices.entry(service).or_default().push(slice);
            }
        }
        Self(slices)
    }

    /// Where traffic for `port` of `service` goes; of traffic that stays on the node `local_to`, if it is given.
    pub fn addresses(
        &self,
        service: &ObjectName,
        port: &ServicePort,
        local_to: Option<&NodeName>,
    ) -> BTreeSet<SocketAddr> {
        let mut found = Vec::new();
        for slice in self.0.get(service).into_iter().flatten() {
            let Some(number) = slice.number_of(port) else { continue };
            for end in &slice.endpoints {
                // All addresses of an endpoint lead to the same place: the first is enough.
                if let Some(address) = end.addresses.first()
                    && local_to.is_none_or(|node| end.node.as_ref() == Some(node))
                {
                    found.push((end.state, SocketAddr::new(*address, number)));
                }
            }
        }
        let best = |family| {
            let of_family = found.iter().filter(move |(_, address)| Family::of(address.ip()) == family);
            let best = of_family.clone().map(|(state, _)| *state).max();
            let takes_traffic = move |state| state > EndpointState::Down && Some(state) == best;
            of_family.filter(move |(state, _)| takes_traffic(*state)).map(|(_, address)| *address)
        };
        best(Family::V4).chain(best(Family::V6)).collect()
    }

    /// Each Service that has an EndpointSlice, with the nodes where traffic for it can stay; `None` stands for endpoints
    /// on no known node.
    pub fn nodes(&self) -> impl Iterator<Item = (&'o ObjectName, BTreeSet<Option<&'o NodeName>>)> {
        self.0.iter().map(|(service, slices)| {
            let ends = slices.iter().flat_map(|slice| &slice.endpoints);
            // On a node where none is ready, those that terminate take the traffic.
            let serving = ends.filter(|end| end.state > EndpointState::Down);
            (*service, serving.map(|end| end.node.as_ref()).collect())
        })
    }
}

/// A `Node`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Whether its condition `NetworkUnavailable` is true.
    pub network_unavailable: bool,
    /// Its addresses of the types `InternalIP` and `ExternalIP`.
    pub addresses: Vec<IpAddr>,
}

impl Kind for Node {
    const GROUP: &'static str = "";
    const KIND: &'static str = "Node";
    const VERSIONS: &'static [&'static str] = &["v1"];
    const NAMESPACED: bool = false;
    const STRICT: bool = false;

    fn read(object: &Object<'_>) -> Option<Self> {
        let mut node =
            Self { labels: object.labels.clone(), network_unavailable: false, addresses: Vec::new() };
        object.root().get("status").mapping(|status| {
            for condition in status.get("conditions").list() {
                let is = |fields: &Mapping<'_>, name, value| fields.get(name).str() == Some(value);
                node.network_unavailable |= condition
                    .mapping(|fields| {
                        is(fields, "type", "NetworkUnavailable") && is(fields, "status", "True")
                    })
                    .unwrap_or(false);
            }
            for address in status.get("addresses").list() {
                address.mapping(|fields| {
                    if matches!(fields.get("type").str(), Some("InternalIP" | "ExternalIP")) {
                        node.addresses.extend(fields.get("address").required().address());
                    }
                });
            }
        });
        Some(node)
    }
}

/// A `Namespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Namespace {
    /// Its labels, with the one that Kubernetes sets on each: `kubernetes.io/metadata.name`.
    pub labels: Labels,
}

impl Namespace {
    /// The labels that every namespace has.
    pub fn implied_labels(name: &str) -> Labels {
        [("kubernetes.io/metadata.name", name)].into_iter().collect()
    }
}

impl Kind for Namespace {
    const GROUP: &'static str = "";
    const KIND: &'static str = "Namespace";
    const VERSIONS: &'static [&'static str] = &["v1"];
    const NAMESPACED: bool = false;
    const STRICT: bool = false;

    fn read(object: &Object<'_>) -> Option<Self> {
        let own = object.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let implied: BTreeMap<String, String> =
            [("kubernetes.io/metadata.name".to_owned(), object.name.name.to_string())].into();
        Some(Self { labels: own.chain(implied).collect() })
    }
}
