//! HTTPRoutes: what their rules do, where they attach, and what their references lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lbcore::condition::Condition;
use lbcore::id::ObjectName;

use super::gateway::{GatewayBuild, Refusal};
use super::{Resources, RouteParentStatus, RouteStatus, Services, condition, reason};
use crate::balance::{Backend, Split};
use crate::filter::{HeaderChange, Redirect, Rewrite};
use crate::model::{
    BackendRef, Backends, GROUP, HttpPath, HttpRoute, HttpRouteFilter, HttpRouteMatch, HttpRouteRule,
    ParentRef, PathMatch, ServicePort, ValueMatch,
};
use crate::rule::{Action, RequestFilter, Rule};
use crate::table::{Entry, EntryPath, ListenerKey, Origin};

/// What a route is compiled in the light of.
pub(super) struct Context<'r> {
    pub(super) resources: &'r Resources,
    pub(super) backends: &'r Backends,
}

/// Attaches `route` to the Gateways of ours that it names. `None` if it names none.
pub(super) fn compile<'r>(
    context: &Context<'r>,
    route: &'r HttpRoute,
    gateways: &mut BTreeMap<ObjectName, GatewayBuild<'r>>,
    services: &mut Services,
    notices: &mut Vec<String>,
) -> Option<RouteStatus> {
    let name = &route.metadata.name;
    let mut parents = Vec::new();
    for parent in &route.parents {
        let gateway = ObjectName::new(
            parent.namespace.clone().unwrap_or_else(|| name.namespace.clone()),
            parent.name.clone(),
        );
        let is_gateway = &*parent.group == GROUP && &*parent.kind == "Gateway";
        if is_gateway && gateways.contains_key(&gateway) {
            parents.push((parent, gateway));
        } else {
            notices.push(format!(
                "HTTPRoute {name}: its parent {} {gateway} is none of ours, and is left to others",
                parent.kind
            ));
        }
    }
    if parents.is_empty() {
        return None;
    }

    let compiled = CompiledRoute::new(context, route, services);
    let mut attached = BTreeSet::new();
    let mut statuses = Vec::new();
    for (parent, gateway) in parents {
        let build = gateways.get_mut(&gateway)?;
        let listeners = build
            .attach(context.resources, route, parent)
            .and_then(|listeners| compiled.refused.clone().map_or(Ok(listeners), Err));
        let accepted = match listeners {
            Ok(listeners) => {
                for at in listeners {
                    // Several references may name one listener.
                    if attached.insert((gateway.clone(), at)) {
                        build.add(route, at, &compiled.rules, &compiled.entries);
                    }
                }
                Condition::yes(condition::ACCEPTED, reason::ACCEPTED, "")
            }
            Err((reason, message)) => Condition::no(condition::ACCEPTED, reason, message),
        };
        statuses.push(status(context.resources, parent, accepted, &compiled));
    }
    Some(RouteStatus { observed_generation: route.metadata.generation, parents: statuses })
}

fn status(
    resources: &Resources,
    parent: &ParentRef,
    accepted: Condition,
    compiled: &CompiledRoute,
) -> RouteParentStatus {
    let mut conditions = vec![accepted];
    conditions.push(match &compiled.unresolved[..] {
        [] => Condition::yes(condition::RESOLVED_REFS, reason::RESOLVED_REFS, ""),
        [(reason, _), ..] => Condition::no(condition::RESOLVED_REFS, *reason, messages(&compiled.unresolved)),
    });
    if let [(reason, _), ..] = &compiled.dropped[..]
        && compiled.refused.is_none()
    {
        // The specification wants the message to begin so.
        let message = format!("Dropped Rule {}", messages(&compiled.dropped));
        conditions.push(Condition::yes(condition::PARTIALLY_INVALID, *reason, message));
    }
    RouteParentStatus {
        parent: parent.clone(),
        controller_name: resources.controller_name.clone(),
        conditions,
    }
}

fn messages(refusals: &[Refusal]) -> String {
    refusals.iter().map(|(_, message)| message.as_str()).collect::<Vec<_>>().join("; ")
}

/// A route apart from where it attaches.
struct CompiledRoute {
    rules: Vec<Rule>,
    /// On no listener yet; their targets are places in `rules`.
    entries: Vec<Entry>,
    /// Why none of it is in force.
    refused: Option<Refusal>,
    /// Why some of it is not.
    dropped: Vec<Refusal>,
    /// References that lead nowhere.
    unresolved: Vec<Refusal>,
}

impl CompiledRoute {
    fn new(context: &Context<'_>, route: &HttpRoute, services: &mut Services) -> Self {
        let mut compiled =
            Self { rules: vec![], entries: vec![], refused: None, dropped: vec![], unresolved: vec![] };
        let mut good = 0;
        for (place, rule) in route.rules.iter().enumerate() {
            let mut work = RuleWork { context, route, place, dropped: vec![], unresolved: vec![] };
            compiled.add(&mut work, rule, services);
            good += usize::from(work.dropped.is_empty());
            compiled.dropped.append(&mut work.dropped);
            compiled.unresolved.append(&mut work.unresolved);
        }
        if !route.unsupported.is_empty() {
            let message = format!("{} is not supported: leave it out", route.unsupported.join(", "));
            compiled.refused = Some((reason::UNSUPPORTED_VALUE, message));
        } else if good == 0
            && let [(reason, _), ..] = &compiled.dropped[..]
        {
            compiled.refused = Some((reason, messages(&compiled.dropped)));
        }
        compiled
    }

    fn add(&mut self, work: &mut RuleWork<'_>, rule: &HttpRouteRule, services: &mut Services) {
        let Some(matches) = work.matches(rule) else { return };
        let target = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        self.rules.push(work.rule(rule, services));
        let origin = Origin::new(&work.route.metadata, work.place, 0);
        for (place, mut entry) in matches.into_iter().enumerate() {
            entry.origin = origin.at(work.place, place);
            entry.target = target;
            self.entries.push(entry);
        }
    }
}

/// One rule at work.
struct RuleWork<'r> {
    context: &'r Context<'r>,
    route: &'r HttpRoute,
    place: usize,
    dropped: Vec<Refusal>,
    unresolved: Vec<Refusal>,
}

impl RuleWork<'_> {
    fn drop_rule(&mut self, reason: &'static str, what: impl AsRef<str>) {
        self.dropped.push((reason, format!("rules[{}].{}", self.place, what.as_ref())));
    }

    fn unresolved(&mut self, reason: &'static str, what: impl AsRef<str>) {
        self.unresolved.push((reason, format!("rules[{}].{}", self.place, what.as_ref())));
    }

    /// The rule's matches; `None` if one cannot be done.
    fn matches(&mut self, rule: &HttpRouteRule) -> Option<Vec<Entry>> {
        if rule.matches.is_empty() {
            return Some(vec![entry(EntryPath::Prefix(HttpPath::root()))]);
        }
        let mut entries = Vec::new();
        for (place, matching) in rule.matches.iter().enumerate() {
            match to_entry(matching) {
                Ok(entry) => entries.push(entry),
                Err(field) => self.drop_rule(
                    reason::UNSUPPORTED_VALUE,
                    format!("matches[{place}].{field}: type RegularExpression is not supported"),
                ),
            }
        }
        self.dropped.is_empty().then_some(entries)
    }

    fn rule(&mut self, rule: &HttpRouteRule, services: &mut Services) -> Rule {
        let mut compiled = Rule {
            route: self.route.metadata.name.clone(),
            place: self.place,
            name: rule.name.clone(),
            number: 0,
            request: Vec::new(),
            response: Vec::new(),
            action: Action::Refuse,
        };
        for field in &rule.unsupported {
            self.drop_rule(reason::UNSUPPORTED_VALUE, format!("{field} is not supported: leave it out"));
        }
        let redirect = self.filters(rule, &mut compiled);
        let backends: Vec<_> = rule
            .backends
            .iter()
            .enumerate()
            .map(|(place, backend)| (backend.weight, self.backend(place, backend, services)))
            .collect();
        // A filter is never skipped: what cannot be done is answered with an error.
        let is_whole = self.dropped.is_empty() && !rule.filters.iter().any(is_extension);
        compiled.action = match redirect {
            _ if !is_whole => Action::Refuse,
            Some(redirect) => Action::Redirect(redirect),
            None => Action::Forward(Split::new(backends)),
        };
        compiled
    }

    fn filters(&mut self, rule: &HttpRouteRule, compiled: &mut Rule) -> Option<Redirect> {
        let prefix = match &rule.matches[..] {
            [] => Some("/"),
            [HttpRouteMatch { path: PathMatch::Prefix(path), .. }] => Some(path.as_str()),
            _ => None,
        };
        let mut redirect = None;
        for (place, filter) in rule.filters.iter().enumerate() {
            let made = match filter {
                HttpRouteFilter::RequestHeaderModifier(modifier) => HeaderChange::new(modifier.clone())
                    .map(|change| compiled.request.push(RequestFilter::Headers(change))),
                HttpRouteFilter::ResponseHeaderModifier(modifier) => {
                    HeaderChange::new(modifier.clone()).map(|change| compiled.response.push(change))
                }
                HttpRouteFilter::RequestRedirect(given) => {
                    Redirect::new(given, prefix).map(|made| redirect = Some(made))
                }
                HttpRouteFilter::UrlRewrite(rewrite) => Rewrite::new(rewrite, prefix)
                    .map(|rewrite| compiled.request.push(RequestFilter::Rewrite(rewrite))),
                HttpRouteFilter::ExtensionRef { group, kind, name } => {
                    let what = format!("filters[{place}]: no filter {group}/{kind} {name} is known");
                    self.unresolved(reason::INVALID_KIND, what);
                    Ok(())
                }
                HttpRouteFilter::Unsupported(kind) => {
                    let what = format!("filters[{place}]: type {kind} is not supported");
                    self.drop_rule(reason::UNSUPPORTED_VALUE, what);
                    Ok(())
                }
            };
            if let Err(error) = made {
                self.drop_rule(reason::UNSUPPORTED_VALUE, format!("filters[{place}]: {error}"));
            }
        }
        self.compatible(rule);
        redirect
    }

    fn compatible(&mut self, rule: &HttpRouteRule) {
        let is_extension = |kind: &str| kind == "ExtensionRef";
        let kinds: Vec<_> = rule.filters.iter().map(HttpRouteFilter::kind).collect();
        let twice = kinds.iter().enumerate().find(|(place, kind)| {
            !is_extension(kind) && kinds.iter().take(*place).any(|other| other == *kind)
        });
        if let Some((_, kind)) = twice {
            self.drop_rule(reason::INCOMPATIBLE_FILTERS, format!("filters: {kind} is there twice"));
        }
        let redirects = kinds.contains(&"RequestRedirect");
        if redirects && kinds.contains(&"URLRewrite") {
            let what = "filters: RequestRedirect and URLRewrite do not go together";
            self.drop_rule(reason::INCOMPATIBLE_FILTERS, what);
        }
        if redirects && !rule.backends.is_empty() {
            let what = "filters: RequestRedirect does not go with backendRefs";
            self.drop_rule(reason::INCOMPATIBLE_FILTERS, what);
        }
    }

    fn backend(&mut self, place: usize, backend: &BackendRef, services: &mut Services) -> Backend {
        let mut compiled = Backend::new(None);
        match self.resolve(backend) {
            Ok(port) => compiled.service = Some(services.number(port)),
            Err((reason, message)) => self.unresolved(reason, format!("backendRefs[{place}]: {message}")),
        }
        for filter in &backend.filters {
            let made = match filter {
                HttpRouteFilter::RequestHeaderModifier(modifier) => {
                    HeaderChange::new(modifier.clone()).map(|change| compiled.request.push(change))
                }
                HttpRouteFilter::ResponseHeaderModifier(modifier) => {
                    HeaderChange::new(modifier.clone()).map(|change| compiled.response.push(change))
                }
                other => {
                    let what =
                        format!("backendRefs[{place}].filters: type {} is not supported", other.kind());
                    self.drop_rule(reason::UNSUPPORTED_VALUE, what);
                    Ok(())
                }
            };
            if let Err(error) = made {
                self.drop_rule(reason::UNSUPPORTED_VALUE, format!("backendRefs[{place}].filters: {error}"));
            }
        }
        compiled
    }

    /// The Service port that `backend` names. Whether it may be named comes before whether it is there.
    fn resolve(&self, backend: &BackendRef) -> Result<ServicePort, Refusal> {
        if !backend.group.is_empty() || &*backend.kind != "Service" {
            let kind = format!("{}/{}", backend.group, backend.kind);
            let message = format!("kind {} is not supported: write Service", kind.trim_start_matches('/'));
            return Err((reason::INVALID_KIND, message));
        }
        let own = &self.route.metadata.name.namespace;
        let namespace = backend.namespace.as_ref().unwrap_or(own);
        let service = ObjectName::new(namespace.clone(), backend.name.clone());
        if namespace != own && !self.is_granted(&service) {
            let message = format!(
                "Service {service} is in another namespace, and no ReferenceGrant there permits HTTPRoutes of namespace {own} to refer to it"
            );
            return Err((reason::REF_NOT_PERMITTED, message));
        }
        let not_found = |message: String| Err((reason::BACKEND_NOT_FOUND, message));
        if !self.context.backends.has_service(&service) {
            return not_found(format!("Service {service} does not exist"));
        }
        let Some(port) = backend.port else {
            return not_found(format!("which port of Service {service}? Write port"));
        };
        let port = ServicePort::new(service, port);
        let Some(spec) = self.context.backends.get(&port) else {
            return not_found(format!("Service {} has no port {}", port.service, port.port));
        };
        match &spec.app_protocol {
            Some(protocol) if !is_plain_http(protocol) => {
                let message = format!("appProtocol {protocol} of Service {port} is not supported");
                Err((reason::UNSUPPORTED_PROTOCOL, message))
            }
            _ => Ok(port),
        }
    }

    fn is_granted(&self, service: &ObjectName) -> bool {
        self.context.resources.grants.iter().any(|grant| {
            grant.metadata.name.namespace == service.namespace
                && grant.from.iter().any(|from| {
                    &*from.group == GROUP
                        && &*from.kind == "HTTPRoute"
                        && from.namespace == self.route.metadata.name.namespace
                })
                && grant.to.iter().any(|to| {
                    to.group.is_empty()
                        && &*to.kind == "Service"
                        && to.name.as_ref().is_none_or(|name| *name == service.name)
                })
        })
    }
}

/// GEP-1911: HTTP/1.1 in the clear is the default; TLS, HTTP/2 and WebSocket are asked for by name. Other names are
/// informational, as Kubernetes has it.
fn is_plain_http(protocol: &Arc<str>) -> bool {
    !["kubernetes.io/h2c", "kubernetes.io/ws", "kubernetes.io/wss", "h2c", "http2", "grpc", "https", "tls"]
        .contains(&&**protocol)
}

const fn is_extension(filter: &HttpRouteFilter) -> bool {
    matches!(filter, HttpRouteFilter::ExtensionRef { .. })
}

/// On no listener, and leading nowhere yet.
fn entry(path: EntryPath) -> Entry {
    Entry::new(ListenerKey::new(0, None), path, Origin::default(), 0)
}

/// # Errors
/// The field that has a regular expression.
fn to_entry(matching: &HttpRouteMatch) -> Result<Entry, &'static str> {
    let mut entry = entry(match &matching.path {
        PathMatch::Exact(path) => EntryPath::Exact(path.clone()),
        PathMatch::Prefix(path) => EntryPath::Prefix(path.clone()),
        PathMatch::RegularExpression(_) => return Err("path"),
    });
    entry.method = matching.method.clone();
    for header in &matching.headers {
        match &header.value {
            ValueMatch::Exact(value) => entry.header(header.name.clone(), value.clone()),
            ValueMatch::RegularExpression(_) => return Err("headers"),
        }
    }
    for param in &matching.query_params {
        match &param.value {
            ValueMatch::Exact(value) => entry.query_param(param.name.clone(), value.clone()),
            ValueMatch::RegularExpression(_) => return Err("queryParams"),
        }
    }
    Ok(entry)
}
