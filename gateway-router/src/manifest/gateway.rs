//! `GatewayClass`, `Gateway` and `ReferenceGrant`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use lbcore::labels::Labels;
use lbcore::manifest::{Field, Kind, Mapping, Object, RequestAnnotations};

use super::{bounded, unsupported};
use crate::model::{
    AddressKind, AllowedRoutes, FromNamespaces, GROUP, Gateway, GatewayAddress, GatewayClass, GrantFrom,
    GrantTo, Listener, Metadata, Protocol, ReferenceGrant, RouteKind,
};

const VERSIONS: &[&str] = &["v1", "v1beta1"];

pub(super) fn metadata(object: &Object<'_>) -> Metadata {
    let mut metadata = Metadata::new(&object.name.namespace, &object.name.name);
    metadata.created = object.created;
    metadata
}

impl Kind for GatewayClass {
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "GatewayClass";
    const VERSIONS: &'static [&'static str] = VERSIONS;
    const NAMESPACED: bool = false;
    const STRICT: bool = true;

    fn read(object: &Object<'_>) -> Option<Self> {
        object.root().ignore(&["status"]);
        object.spec().required().mapping(|spec| {
            spec.ignore(&["description"]);
            let controller = spec.get("controllerName").required();
            let name = controller.non_empty();
            if let Some(name) = name
                && !is_controller(name)
            {
                controller
                    .problem(format!("{name:?} is no controller: write DOMAIN/PATH, as example.com/gateway"));
            }
            let unsupported = unsupported(spec, &["parametersRef"]);
            let mut class = Self::new(&object.name.name, name?);
            class.created = object.created;
            class.unsupported = unsupported;
            Some(class)
        })?
    }
}

/// Whether the CRD takes it: a DNS subdomain, of one label or more, and a path.
fn is_controller(name: &str) -> bool {
    let Some((domain, path)) = name.split_once('/') else { return false };
    let is_label = |label: &str| {
        let inner =
            label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    domain.split('.').all(is_label) && !path.is_empty() && path.bytes().all(allowed)
}

/// A `Gateway` with what its document says beyond routing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayDocument {
    /// The Gateway.
    pub gateway: Gateway,
    /// Its labels.
    pub labels: Labels,
    /// What MetalLB's annotations ask for.
    pub annotations: RequestAnnotations,
    /// The addresses of `status.addresses`.
    pub shown: Vec<IpAddr>,
}

impl Kind for GatewayDocument {
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "Gateway";
    const VERSIONS: &'static [&'static str] = VERSIONS;
    const NAMESPACED: bool = true;
    const STRICT: bool = true;

    fn read(object: &Object<'_>) -> Option<Self> {
        let shown = object.root().get("status").mapping(|status| {
            status.ignore(&["conditions", "listeners", "attachedListenerSets"]);
            let address = |item: &Field<'_>| {
                item.mapping(|fields| {
                    let is_ip = matches!(fields.get("type").str(), None | Some("IPAddress"));
                    let value = fields.get("value");
                    if is_ip { value.address() } else { None }
                })?
            };
            status.get("addresses").list().iter().filter_map(address).collect()
        });
        object.spec().required().mapping(|spec| {
            let class = spec.get("gatewayClassName").required().non_empty();
            let listeners = listeners(&spec.get("listeners").required());
            let addresses = spec.get("addresses");
            bounded(&addresses, 16);
            let addresses = addresses.list().iter().filter_map(address).collect();
            let mut unsupported = unsupported(spec, &["tls", "defaultScope"]);
            if spec.get("allowedListeners").is_present() {
                spec.get("allowedListeners").notice("is not supported: no ListenerSet is read");
            }
            // Labels and annotations are for what a controller creates for a Gateway; nothing is created here.
            spec.get("infrastructure").mapping(|infrastructure| {
                infrastructure.ignore(&["labels", "annotations"]);
                if infrastructure.get("parametersRef").is_present() {
                    unsupported.push("infrastructure.parametersRef".into());
                }
            });
            let mut gateway = Gateway::new(metadata(object), class?, listeners);
            gateway.addresses = addresses;
            gateway.unsupported = unsupported;
            Some(Self {
                gateway,
                labels: object.labels.clone(),
                annotations: RequestAnnotations::read(object),
                shown: shown.unwrap_or_default(),
            })
        })?
    }
}

fn address(item: &Field<'_>) -> Option<GatewayAddress> {
    item.clone().required().mapping(|fields| {
        let kind = match fields.get("type").non_empty() {
            None | Some("IPAddress") => AddressKind::IpAddress,
            Some(other) => AddressKind::Other(other.into()),
        };
        let value = fields.get("value");
        if kind == AddressKind::IpAddress && value.str().is_some_and(|text| !text.is_empty()) {
            value.address();
        }
        GatewayAddress::new(kind, value.str().filter(|text| !text.is_empty()))
    })
}

fn listeners(field: &Field<'_>) -> Vec<Listener> {
    let items = field.list();
    if field.is_present() && items.is_empty() {
        field.problem("is empty: add a listener");
    }
    bounded(field, 64);
    let mut names = BTreeSet::new();
    let mut listeners = Vec::new();
    for item in items {
        let Some(Some(listener)) = item.clone().required().mapping(listener) else { continue };
        if !names.insert(listener.name.clone()) {
            item.problem(format!("the name {} is there twice: rename one", listener.name));
        }
        listeners.push(listener);
    }
    listeners
}

fn listener(fields: &Mapping<'_>) -> Option<Listener> {
    let name = fields.get("name").required().non_empty();
    let port = fields.get("port").required().int(1..=u16::MAX);
    let protocol = fields.get("protocol").required();
    let name_of_protocol = protocol.non_empty();
    if let Some(name) = name_of_protocol
        && let Protocol::Other(_) = Protocol::new(name)
        && !name.contains('/')
    {
        protocol.problem(format!(
            "{name:?} is no protocol: write HTTP, HTTPS, TLS, TCP, UDP or one of an implementation, as example.com/bar"
        ));
    }
    let hostname = fields.get("hostname");
    // An empty one is none.
    let hostname = if hostname.str() == Some("") { None } else { hostname.parse() };
    let allowed = fields.get("allowedRoutes").mapping(allowed_routes).unwrap_or_default();
    let tls = fields.get("tls");
    let protocol = name_of_protocol.map(Protocol::new);
    if tls.is_present() && protocol == Some(Protocol::Http) {
        tls.problem("does not go with protocol HTTP: remove it, or write HTTPS");
    }
    let mut listener = Listener::http(name?, port?);
    listener.protocol = protocol?;
    listener.hostname = hostname;
    listener.allowed_routes = allowed;
    Some(listener)
}

fn allowed_routes(fields: &Mapping<'_>) -> AllowedRoutes {
    #[derive(Clone, Copy)]
    enum From {
        Same,
        All,
        Selector,
    }
    let namespaces = fields.get("namespaces").mapping(|namespaces| {
        let selector = namespaces.get("selector");
        let words = [("Same", From::Same), ("All", From::All), ("Selector", From::Selector)];
        match namespaces.get("from").one_of(&words).unwrap_or(From::Same) {
            From::Same => FromNamespaces::Same,
            From::All => FromNamespaces::All,
            From::Selector => {
                FromNamespaces::Selector(selector.required().label_selector().unwrap_or_default())
            }
        }
    });
    let kinds = fields.get("kinds");
    bounded(&kinds, 8);
    let kind = |item: &Field<'_>| {
        item.clone().required().mapping(|fields| {
            let kind = fields.get("kind").required().non_empty();
            Some(RouteKind::new(fields.get("group").str().unwrap_or(GROUP), kind?))
        })?
    };
    AllowedRoutes {
        namespaces: namespaces.unwrap_or_default(),
        kinds: kinds.list().iter().filter_map(kind).collect(),
    }
}

impl Kind for ReferenceGrant {
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "ReferenceGrant";
    const VERSIONS: &'static [&'static str] = VERSIONS;
    const NAMESPACED: bool = true;
    const STRICT: bool = true;

    fn read(object: &Object<'_>) -> Option<Self> {
        object.spec().required().mapping(|spec| {
            let (from, to) = (spec.get("from").required(), spec.get("to").required());
            for field in [&from, &to] {
                if field.is_present() && field.list().is_empty() {
                    field.problem("is empty: add an item");
                }
                bounded(field, 16);
            }
            let group_and_kind = |fields: &Mapping<'_>| -> Option<(Arc<str>, Arc<str>)> {
                let (group, kind) =
                    (fields.get("group").required().str(), fields.get("kind").required().non_empty());
                Some((group?.into(), kind?.into()))
            };
            let from = from.list().into_iter().filter_map(|item| {
                item.required().mapping(|fields| {
                    let kind = group_and_kind(fields);
                    let namespace = fields.get("namespace").required().non_empty();
                    let (group, kind) = kind?;
                    Some(GrantFrom::new(&group, &kind, namespace?))
                })?
            });
            let to = to.list().into_iter().filter_map(|item| {
                item.required().mapping(|fields| {
                    let name = fields.get("name").non_empty();
                    let (group, kind) = group_and_kind(fields)?;
                    Some(GrantTo::new(&group, &kind, name))
                })?
            });
            Self::new(metadata(object), from.collect::<Vec<_>>(), to.collect::<Vec<_>>())
        })
    }
}
