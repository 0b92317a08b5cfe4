//! Gateways and their listeners: which are in force, and which routes may attach.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lbcore::condition::Condition;
use lbcore::id::ObjectName;

use super::{GatewayStatus, ListenerStatus, Resources, condition, list, namespace_labels, reason};
use crate::model::{
    AddressKind, FromNamespaces, Gateway, GatewayClass, HttpRoute, Listener, ParentRef, Protocol, RouteKind,
};
use crate::rule::Rule;
use crate::table::{Entry, ListenerKey, RouteTable};

/// Why not: a reason and a message.
pub(super) type Refusal = (&'static str, String);

/// A Gateway on the way to its table.
#[derive(Debug)]
pub(super) struct GatewayBuild<'r> {
    gateway: &'r Gateway,
    /// What is wrong with the Gateway as a whole.
    refused: Option<Refusal>,
    listeners: Vec<ListenerBuild<'r>>,
    entries: Vec<Entry>,
    rules: Vec<Rule>,
    /// Where the rules of a route begin in `rules`.
    first_rules: BTreeMap<&'r ObjectName, u32>,
}

#[derive(Debug)]
struct ListenerBuild<'r> {
    listener: &'r Listener,
    refused: Option<Refusal>,
    conflict: Option<Refusal>,
    unresolved: Option<Refusal>,
    kinds: Vec<RouteKind>,
    attached: u32,
}

impl ListenerBuild<'_> {
    fn is_in_force(&self) -> bool {
        self.refused.is_none() && self.conflict.is_none() && !self.kinds.is_empty()
    }
}

impl<'r> GatewayBuild<'r> {
    pub(super) fn new(gateway: &'r Gateway, class: &GatewayClass) -> Self {
        let listeners = gateway.listeners.iter().map(|listener| listener_build(gateway, listener)).collect();
        Self {
            gateway,
            refused: refusal(gateway, class),
            listeners,
            entries: Vec::new(),
            rules: Vec::new(),
            first_rules: BTreeMap::new(),
        }
    }

    /// The listeners to which `parent` attaches `route`.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn attach(
        &self,
        resources: &Resources,
        route: &HttpRoute,
        parent: &ParentRef,
    ) -> Result<Vec<usize>, Refusal> {
        let gateway = &self.gateway.metadata.name;
        let names = |which: &[usize]| {
            list(which.iter().filter_map(|at| self.listeners.get(*at)).map(|build| &*build.listener.name))
        };
        let pick = |from: &[usize], keep: &dyn Fn(&ListenerBuild<'_>) -> bool| -> Vec<usize> {
            from.iter().copied().filter(|at| self.listeners.get(*at).is_some_and(keep)).collect()
        };
        let all: Vec<usize> = (0..self.listeners.len()).collect();
        let named = pick(&all, &|build| {
            parent.section.as_ref().is_none_or(|section| *section == build.listener.name)
                && parent.port.is_none_or(|port| port == build.listener.port)
        });
        if named.is_empty() {
            let section =
                parent.section.as_ref().map(|section| format!(" named {section}")).unwrap_or_default();
            let port = parent.port.map(|port| format!(" on port {port}")).unwrap_or_default();
            let message = format!(
                "Gateway {gateway} has no listener{section}{port}: its listeners are {}",
                names(&all)
            );
            return Err((reason::NO_MATCHING_PARENT, message));
        }
        let namespace = &route.metadata.name.namespace;
        let takes = pick(&named, &|build| build.kinds.contains(&RouteKind::http_route()));
        if takes.is_empty() {
            let message = format!(
                "no listener of Gateway {gateway} among {} takes HTTPRoutes: see its protocol and its allowedRoutes.kinds",
                names(&named)
            );
            return Err((reason::NOT_ALLOWED_BY_LISTENERS, message));
        }
        let allowed = pick(&takes, &|build| match &build.listener.allowed_routes.namespaces {
            FromNamespaces::Same => *namespace == gateway.namespace,
            FromNamespaces::All => true,
            FromNamespaces::Selector(selector) => selector.matches(&namespace_labels(resources, namespace)),
        });
        if allowed.is_empty() {
            let message = format!(
                "no listener of Gateway {gateway} among {} takes HTTPRoutes of namespace {namespace}: see its allowedRoutes",
                names(&takes)
            );
            return Err((reason::NOT_ALLOWED_BY_LISTENERS, message));
        }
        let matching = pick(&allowed, &|build| hostnames(route, build.listener).next().is_some());
        if matching.is_empty() {
            let message = format!(
                "hostnames {} have none in common with the listeners {} of Gateway {gateway}",
                list(route.hostnames.iter().map(crate::model::Hostname::as_str)),
                names(&allowed)
            );
            return Err((reason::NO_MATCHING_LISTENER_HOSTNAME, message));
        }
        Ok(matching)
    }

    /// Puts `route`, compiled into `rules` with their `entries`, on the listener at `at`. Entries name rules by
    /// their place in `rules`.
    pub(super) fn add(&mut self, route: &'r HttpRoute, at: usize, rules: &[Rule], entries: &[Entry]) {
        let Some(build) = self.listeners.get_mut(at) else { return };
        build.attached += 1;
        if !build.is_in_force() || self.refused.is_some() {
            return;
        }
        let next = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        let first = *self.first_rules.entry(&route.metadata.name).or_insert(next);
        if first == next {
            self.rules.extend(rules.iter().zip(next..).map(|(rule, number)| Rule { number, ..rule.clone() }));
        }
        let listener = ListenerKey::new(build.listener.port, build.listener.hostname.clone());
        for hostname in hostnames(route, build.listener) {
            self.entries.extend(entries.iter().map(|entry| Entry {
                listener: listener.clone(),
                hostname: hostname.cloned(),
                target: first.saturating_add(entry.target),
                ..entry.clone()
            }));
        }
    }

    /// The table, and the status for a Gateway with these addresses.
    pub(super) fn finish(self, addresses: &[IpAddr]) -> (RouteTable, GatewayStatus) {
        let in_force = self.listeners.iter().filter(|build| self.refused.is_none() && build.is_in_force());
        let keys: Vec<_> = in_force
            .map(|build| ListenerKey::new(build.listener.port, build.listener.hostname.clone()))
            .collect();
        let is_programmed = !keys.is_empty();
        let (table, overflow) = match RouteTable::new(keys, &self.entries, self.rules) {
            Ok(table) => (table, None),
            Err(error) => (RouteTable::default(), Some(error)),
        };

        let refused_listeners: Vec<_> = self
            .listeners
            .iter()
            .filter(|build| build.refused.is_some() || build.conflict.is_some())
            .map(|build| &*build.listener.name)
            .collect();
        let accepted = match &self.refused {
            Some((reason, message)) => Condition::no(condition::ACCEPTED, *reason, message.clone()),
            None if refused_listeners.is_empty() => Condition::yes(condition::ACCEPTED, reason::ACCEPTED, ""),
            None => {
                let message = format!("not accepted: {}", list(refused_listeners.iter().copied()));
                if refused_listeners.len() < self.listeners.len() {
                    Condition::yes(condition::ACCEPTED, reason::LISTENERS_NOT_VALID, message)
                } else {
                    Condition::no(condition::ACCEPTED, reason::LISTENERS_NOT_VALID, message)
                }
            }
        };
        let not_programmed =
            |reason: &'static str, message: String| Condition::no(condition::PROGRAMMED, reason, message);
        let programmed = if let Some(error) = overflow {
            not_programmed(reason::NO_RESOURCES, error.to_string())
        } else if !is_programmed {
            not_programmed(reason::INVALID, "no listener is in force".to_owned())
        } else if !addresses.is_empty() {
            Condition::yes(condition::PROGRAMMED, reason::PROGRAMMED, "")
        } else if self.gateway.addresses.iter().any(|address| address.value.is_some()) {
            not_programmed(reason::ADDRESS_NOT_USABLE, "the address asked for was not assigned".to_owned())
        } else {
            not_programmed(reason::ADDRESS_NOT_ASSIGNED, "no address is assigned yet".to_owned())
        };
        let has_table = self.refused.is_none();
        let status = GatewayStatus {
            observed_generation: self.gateway.metadata.generation,
            addresses: addresses.to_vec(),
            conditions: vec![accepted, programmed],
            listeners: self.listeners.iter().map(|build| listener_status(build, has_table)).collect(),
        };
        (table, status)
    }
}

/// The hostnames under which `listener` takes the requests of `route`: those of the route that it has in common
/// with the listener, or `None` if the route has none of its own.
fn hostnames<'r>(
    route: &'r HttpRoute,
    listener: &'r Listener,
) -> impl Iterator<Item = Option<&'r crate::model::Hostname>> {
    let common = route
        .hostnames
        .iter()
        .filter(|hostname| listener.hostname.as_ref().is_none_or(|own| own.intersects(hostname)));
    common.map(Some).chain(route.hostnames.is_empty().then_some(None))
}

fn refusal(gateway: &Gateway, class: &GatewayClass) -> Option<Refusal> {
    if !class.unsupported.is_empty() {
        let message = format!("its class {} is not accepted", class.name);
        return Some((reason::INVALID_PARAMETERS, message));
    }
    if !gateway.unsupported.is_empty() {
        let is_parameter = gateway.unsupported.iter().any(|field| field.contains("parametersRef"));
        let reason = if is_parameter { reason::INVALID_PARAMETERS } else { reason::INVALID };
        return Some((reason, format!("{} is not supported: leave it out", gateway.unsupported.join(", "))));
    }
    gateway.addresses.iter().find_map(|address| match &address.kind {
        AddressKind::IpAddress => None,
        AddressKind::Other(kind) => Some((
            reason::UNSUPPORTED_ADDRESS,
            format!("addresses of type {kind} are not supported: write type IPAddress"),
        )),
    })
}

fn listener_build<'r>(gateway: &Gateway, listener: &'r Listener) -> ListenerBuild<'r> {
    let own: &[RouteKind] = match listener.protocol {
        Protocol::Http => &[RouteKind::http_route()],
        _ => &[],
    };
    let asked = &listener.allowed_routes.kinds;
    let invalid: Vec<_> = asked.iter().filter(|kind| !own.contains(kind)).map(ToString::to_string).collect();
    let kinds = own.iter().filter(|kind| asked.is_empty() || asked.contains(kind)).cloned().collect();
    let refused = if listener.protocol != Protocol::Http {
        let message = format!("protocol {} is not supported: write HTTP", listener.protocol);
        Some((reason::UNSUPPORTED_PROTOCOL, message))
    } else if !listener.unsupported.is_empty() {
        let message = format!("{} is not supported: leave it out", listener.unsupported.join(", "));
        Some((reason::UNSUPPORTED_VALUE, message))
    } else {
        None
    };
    let unresolved = (!invalid.is_empty()).then(|| {
        let message = format!("it takes no routes of kind {}", list(invalid.iter().map(String::as_str)));
        (reason::INVALID_ROUTE_KINDS, message)
    });
    let conflict = gateway.listeners.iter().find_map(|other| conflict(listener, other));
    ListenerBuild { listener, refused, conflict, unresolved, kinds, attached: 0 }
}

/// Why `listener` and `other` cannot both be (GEP-1364: neither wins).
fn conflict(listener: &Listener, other: &Listener) -> Option<Refusal> {
    // Listeners of one transport and one port share a socket, so what they speak must be told apart: by Host
    // or by SNI.
    let is_datagram = |listener: &Listener| listener.protocol == Protocol::Udp;
    let shares_socket = listener.port == other.port && is_datagram(listener) == is_datagram(other);
    if !shares_socket || std::ptr::eq(listener, other) {
        return None;
    }
    let family = |protocol: &Protocol| match protocol {
        Protocol::Tls => Protocol::Https,
        other => other.clone(),
    };
    let message =
        |what: &str| format!("listener {} on port {} has {what} too: change one", other.name, other.port);
    if family(&listener.protocol) != family(&other.protocol) {
        let what = format!("protocol {}, which does not go with {}", other.protocol, listener.protocol);
        let message = format!("listener {} on port {} has {what}: use another port", other.name, other.port);
        return Some((reason::PROTOCOL_CONFLICT, message));
    }
    let has_hosts = matches!(family(&listener.protocol), Protocol::Http | Protocol::Https);
    if !has_hosts {
        return Some((reason::PROTOCOL_CONFLICT, message("the same protocol")));
    }
    (listener.hostname == other.hostname).then(|| {
        let hostname = listener.hostname.as_ref().map_or("all hosts", |hostname| hostname.as_str());
        (reason::HOSTNAME_CONFLICT, message(hostname))
    })
}

fn listener_status(build: &ListenerBuild<'_>, has_table: bool) -> ListenerStatus {
    let accepted = match build.refused.as_ref().or(build.conflict.as_ref()) {
        Some((reason, message)) => Condition::no(condition::ACCEPTED, *reason, message.clone()),
        None => Condition::yes(condition::ACCEPTED, reason::ACCEPTED, ""),
    };
    let conflicted = match &build.conflict {
        Some((reason, message)) => Condition::yes(condition::CONFLICTED, *reason, message.clone()),
        None => Condition::no(condition::CONFLICTED, reason::NO_CONFLICTS, ""),
    };
    let resolved = match &build.unresolved {
        Some((reason, message)) => Condition::no(condition::RESOLVED_REFS, *reason, message.clone()),
        None => Condition::yes(condition::RESOLVED_REFS, reason::RESOLVED_REFS, ""),
    };
    let programmed = if build.is_in_force() && has_table {
        Condition::yes(condition::PROGRAMMED, reason::PROGRAMMED, "")
    } else {
        Condition::no(condition::PROGRAMMED, reason::INVALID, "see the other conditions")
    };
    ListenerStatus {
        name: Arc::clone(&build.listener.name),
        supported_kinds: build.kinds.clone(),
        attached_routes: build.attached,
        conditions: vec![accepted, conflicted, resolved, programmed],
    }
}
