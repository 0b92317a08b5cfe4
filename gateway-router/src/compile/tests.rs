use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use lbcore::condition::Status;
use lbcore::labels::LabelSelector;
use lbcore::route::{Outcome, RequestHead, RouteMatcher};
use lbcore::time::Timestamp;

use super::*;
use crate::model::{
    AddressKind, BackendRef, FromNamespaces, GatewayAddress, GrantFrom, GrantTo, HeaderModifier, Hostname,
    HttpPath, HttpRouteFilter, HttpRouteMatch, HttpRouteRule, Listener, Metadata, ParentRef, PathMatch,
    PathModifier, Protocol, RequestRedirect, RouteKind, ServicePortSpec, UrlRewrite,
};
use crate::rule::{Action, RequestFilter};

const CONTROLLER: &str = "lbcore.io/gateway";

/// A Gateway `infra/gw` with `listeners`, with Services `infra/v1`, `infra/v2` and `web/v1` on port 8080.
fn resources(listeners: impl IntoIterator<Item = Listener>) -> Resources {
    let mut resources = Resources::new(CONTROLLER);
    resources.classes.push(GatewayClass::new("lb", CONTROLLER));
    resources.gateways.push(Gateway::new(Metadata::new("infra", "gw"), "lb", listeners));
    resources.addresses.insert(gw(), vec![[10, 0, 0, 1].into()]);
    resources
}

fn gw() -> ObjectName {
    ObjectName::new("infra", "gw")
}

fn backends() -> Backends {
    let endpoint: SocketAddr = ([127, 0, 0, 1], 3000).into();
    [("infra", "v1"), ("infra", "v2"), ("web", "v1")]
        .map(|(namespace, name)| {
            (ServicePort::new(ObjectName::new(namespace, name), 8080), ServicePortSpec::new([endpoint]))
        })
        .into_iter()
        .collect()
}

fn to_v1() -> HttpRouteRule {
    HttpRouteRule::to([BackendRef::service("v1", 8080)])
}

fn route(rules: impl IntoIterator<Item = HttpRouteRule>) -> HttpRoute {
    HttpRoute::new(Metadata::new("infra", "route"), [ParentRef::gateway("gw")], rules)
}

fn host(text: &str) -> Hostname {
    Hostname::new(text).unwrap()
}

fn prefix(path: &str) -> HttpRouteMatch {
    HttpRouteMatch::path(PathMatch::Prefix(HttpPath::new(path).unwrap()))
}

impl Resources {
    fn with(mut self, route: HttpRoute) -> Self {
        self.routes.push(route);
        self
    }

    fn compile(&self) -> Compiled {
        compile(self, &backends())
    }
}

/// `Kind=Status/Reason` of each.
fn short(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{}={}/{}", c.kind, c.status, c.reason)).collect()
}

impl Compiled {
    /// The conditions of the only route for its only parent.
    fn route(&self) -> Vec<String> {
        let [parent] = &self.statuses.routes[&ObjectName::new("infra", "route")].parents[..] else {
            panic!("{:?}", self.statuses.routes);
        };
        assert_eq!(&*parent.controller_name, CONTROLLER);
        short(&parent.conditions)
    }

    fn route_message(&self, at: usize) -> &str {
        &self.statuses.routes[&ObjectName::new("infra", "route")].parents[0].conditions[at].message
    }

    fn gateway(&self) -> Vec<String> {
        short(&self.statuses.gateways[&gw()].conditions)
    }

    fn listener(&self, at: usize) -> &ListenerStatus {
        &self.statuses.gateways[&gw()].listeners[at]
    }

    fn find(&self, host: &str, path: &str) -> Option<&crate::rule::Rule> {
        let headers = HeaderMap::new();
        let method = Method::GET;
        let head = RequestHead {
            port: 80,
            server_name: None,
            host,
            path,
            query: None,
            method: &method,
            headers: &headers,
        };
        match self.tables[&gw()].find(&head) {
            Outcome::Found(rule) => Some(rule),
            _ => None,
        }
    }
}

const ALL_WELL: [&str; 2] = ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"];

#[test]
fn http_route_simple_same_namespace() {
    let compiled = resources([Listener::http("http", 80)]).with(route([to_v1()])).compile();
    assert_eq!(compiled.route(), ALL_WELL);
    assert_eq!(compiled.gateway(), ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    let listener = compiled.listener(0);
    let expected = [
        "Accepted=True/Accepted",
        "Conflicted=False/NoConflicts",
        "ResolvedRefs=True/ResolvedRefs",
        "Programmed=True/Programmed",
    ];
    assert_eq!(short(&listener.conditions), expected);
    assert_eq!(
        (listener.attached_routes, &listener.supported_kinds[..]),
        (1, &[RouteKind::http_route()][..])
    );
    assert_eq!(short(&compiled.statuses.classes["lb"].conditions), ["Accepted=True/Accepted"]);
    let rule = compiled.find("any", "/x").unwrap();
    let Action::Forward(split) = &rule.action else { panic!("{rule:?}") };
    let service = split.pick(0).unwrap().service.unwrap();
    assert_eq!(compiled.services[service as usize].to_string(), "infra/v1:8080");
    assert_eq!(compiled.notices, [""; 0]);
}

#[test]
fn what_is_not_ours_is_left_alone_and_named() {
    let mut all = resources([Listener::http("http", 80)]);
    all.classes.push(GatewayClass::new("other", "other.io/gateway"));
    all.gateways.push(Gateway::new(Metadata::new("infra", "theirs"), "other", [Listener::http("http", 80)]));
    let mut both = route([to_v1()]);
    both.parents.insert(0, ParentRef::gateway("theirs"));
    let compiled = all.with(both).compile();
    assert_eq!(compiled.route(), ALL_WELL);
    assert_eq!(compiled.tables.len(), 1);
    assert_eq!(compiled.statuses.classes.len(), 1);
    assert!(compiled.notices.iter().any(|notice| notice.contains("class other")), "{:?}", compiled.notices);
    assert!(compiled.notices.iter().any(|notice| notice.contains("infra/theirs")));

    let mut theirs = route([to_v1()]);
    theirs.parents = vec![ParentRef::gateway("theirs")];
    assert!(resources([Listener::http("http", 80)]).with(theirs).compile().statuses.routes.is_empty());
}

#[test]
fn http_route_invalid_parent_refs() {
    let all = || resources([Listener::http("http", 80), Listener::http("alt", 8080)]);
    for (parent, reason) in [
        (ParentRef::gateway("gw").section("https"), "NoMatchingParent"),
        (ParentRef::gateway("gw").port(81), "NoMatchingParent"),
        (ParentRef::gateway("gw").section("http").port(8080), "NoMatchingParent"),
        (ParentRef::gateway("gw").section("alt").port(8080), "Accepted"),
        (ParentRef::gateway("gw").port(8080), "Accepted"),
    ] {
        let mut route = route([to_v1()]);
        route.parents = vec![parent.clone()];
        let compiled = all().with(route).compile();
        let status = if reason == "Accepted" { "True" } else { "False" };
        assert_eq!(compiled.route()[0], format!("Accepted={status}/{reason}"), "{parent:?}");
        assert!(compiled.find("a", "/").is_none());
        assert_eq!(compiled.listener(0).attached_routes, 0);
        assert_eq!(compiled.listener(1).attached_routes, u32::from(reason == "Accepted"));
    }
}

#[test]
fn http_route_invalid_cross_namespace_parent_ref() {
    let cross = || {
        let mut route = route([HttpRouteRule::to([BackendRef::service("v1", 8080)])]);
        route.metadata = Metadata::new("web", "route");
        route.parents = vec![ParentRef::gateway("gw").namespace("infra")];
        route
    };
    let accepted = |listener: Listener| {
        let mut all = resources([listener]);
        all.namespaces.insert("web".into(), [("team", "web")].into_iter().collect());
        let compiled = all.with(cross()).compile();
        let status = &compiled.statuses.routes[&ObjectName::new("web", "route")].parents[0];
        short(&status.conditions)[0].clone()
    };
    let listener = || Listener::http("http", 80);
    let selector = |key: &str, value: &str| FromNamespaces::Selector(LabelSelector::label(key, value));
    assert_eq!(accepted(listener()), "Accepted=False/NotAllowedByListeners");
    assert_eq!(accepted(listener().allow(FromNamespaces::All)), "Accepted=True/Accepted");
    assert_eq!(accepted(listener().allow(selector("team", "web"))), "Accepted=True/Accepted");
    assert_eq!(accepted(listener().allow(selector("team", "app"))), "Accepted=False/NotAllowedByListeners");
    let by_name = selector("kubernetes.io/metadata.name", "web");
    assert_eq!(accepted(listener().allow(by_name)), "Accepted=True/Accepted");
}

#[test]
fn http_route_disallowed_kind() {
    let mut listener = Listener::http("http", 80);
    listener.allowed_routes.kinds = vec![RouteKind::new("gateway.networking.k8s.io", "GRPCRoute")];
    let compiled = resources([listener.clone()]).with(route([to_v1()])).compile();
    assert_eq!(compiled.route()[0], "Accepted=False/NotAllowedByListeners");
    assert_eq!(short(&compiled.listener(0).conditions)[2], "ResolvedRefs=False/InvalidRouteKinds");
    assert_eq!(short(&compiled.listener(0).conditions)[3], "Programmed=False/Invalid");
    assert_eq!(compiled.listener(0).supported_kinds, []);

    // GatewayInvalidRouteKind: the valid one of two is listed, and serves.
    listener.allowed_routes.kinds.push(RouteKind::http_route());
    let compiled = resources([listener]).with(route([to_v1()])).compile();
    assert_eq!(compiled.route(), ALL_WELL);
    assert_eq!(short(&compiled.listener(0).conditions)[2], "ResolvedRefs=False/InvalidRouteKinds");
    assert_eq!(compiled.listener(0).supported_kinds, [RouteKind::http_route()]);
    assert!(compiled.find("a", "/").is_some());
}

#[test]
fn http_route_hostname_intersection() {
    let listeners = || {
        [
            Listener::http("exact", 80).hostname(host("very.specific.com")),
            Listener::http("wild", 80).hostname(host("*.wildcard.io")),
        ]
    };
    let with = |names: &[&str]| {
        resources(listeners()).with(route([to_v1()]).hostnames(names.iter().map(|name| host(name)))).compile()
    };
    let compiled = with(&["specific.but.wrong.com", "wildcard.io"]);
    assert_eq!(compiled.route()[0], "Accepted=False/NoMatchingListenerHostname");
    assert_eq!((compiled.listener(0).attached_routes, compiled.listener(1).attached_routes), (0, 0));

    let compiled = with(&["*.specific.com", "foo.wildcard.io", "other.org"]);
    assert_eq!(compiled.route(), ALL_WELL);
    assert_eq!((compiled.listener(0).attached_routes, compiled.listener(1).attached_routes), (1, 1));
    for (host, found) in [
        ("very.specific.com", true),
        ("non.specific.com", false),
        ("foo.wildcard.io", true),
        ("bar.wildcard.io", false),
        ("other.org", false),
    ] {
        assert_eq!(compiled.find(host, "/").is_some(), found, "{host}");
    }
}

#[test]
fn gateway_listener_unsupported_protocol() {
    let https = || Listener { protocol: Protocol::Https, ..Listener::http("https", 443) };
    let compiled = resources([https()]).with(route([to_v1()])).compile();
    assert_eq!(compiled.gateway(), ["Accepted=False/ListenersNotValid", "Programmed=False/Invalid"]);
    assert_eq!(short(&compiled.listener(0).conditions)[0], "Accepted=False/UnsupportedProtocol");
    assert_eq!(compiled.listener(0).supported_kinds, []);
    assert_eq!(compiled.route()[0], "Accepted=False/NotAllowedByListeners");

    let compiled = resources([https(), Listener::http("http", 80)]).with(route([to_v1()])).compile();
    assert_eq!(compiled.gateway(), ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
    assert_eq!(compiled.route(), ALL_WELL);
}

#[test]
fn listeners_in_conflict_both_lose() {
    let name = |name: &str| Listener::http(name, 80).hostname(host("a.com"));
    let compiled =
        resources([name("one"), name("two"), Listener::http("rest", 80)]).with(route([to_v1()])).compile();
    for at in [0, 1] {
        let conditions = short(&compiled.listener(at).conditions);
        assert_eq!(conditions[0], "Accepted=False/HostnameConflict");
        assert_eq!(conditions[1], "Conflicted=True/HostnameConflict");
        assert_eq!(conditions[3], "Programmed=False/Invalid");
        // Counted all the same.
        assert_eq!(compiled.listener(at).attached_routes, 1);
    }
    assert_eq!(compiled.gateway()[0], "Accepted=True/ListenersNotValid");
    assert_eq!(short(&compiled.listener(2).conditions)[1], "Conflicted=False/NoConflicts");

    let tcp = Listener { protocol: Protocol::Tcp, ..Listener::http("tcp", 80) };
    let udp = Listener { protocol: Protocol::Udp, ..Listener::http("udp", 80) };
    let compiled = resources([Listener::http("http", 80), tcp, udp]).compile();
    assert_eq!(short(&compiled.listener(0).conditions)[1], "Conflicted=True/ProtocolConflict");
    assert_eq!(short(&compiled.listener(1).conditions)[1], "Conflicted=True/ProtocolConflict");
    assert_eq!(short(&compiled.listener(2).conditions)[1], "Conflicted=False/NoConflicts");
    assert_eq!(compiled.gateway()[0], "Accepted=False/ListenersNotValid");
}

#[test]
fn a_listener_keeps_its_hosts_though_no_route_is_on_it() {
    let listeners = [Listener::http("all", 80), Listener::http("one", 80).hostname(host("one.com"))];
    let mut on_all = route([to_v1()]);
    on_all.parents = vec![ParentRef::gateway("gw").section("all")];
    let compiled = resources(listeners).with(on_all).compile();
    assert!(compiled.find("other.com", "/").is_some());
    assert!(compiled.find("one.com", "/").is_none());
}

#[test]
fn gateway_addresses() {
    let mut all = resources([Listener::http("http", 80)]);
    all.addresses.clear();
    assert_eq!(all.compile().gateway(), ["Accepted=True/Accepted", "Programmed=False/AddressNotAssigned"]);
    all.gateways[0].addresses = vec![GatewayAddress::new(AddressKind::IpAddress, Some("10.9.9.9"))];
    assert_eq!(all.compile().gateway(), ["Accepted=True/Accepted", "Programmed=False/AddressNotUsable"]);
    all.gateways[0].addresses = vec![GatewayAddress::new(AddressKind::Other("Hostname".into()), Some("a.b"))];
    assert_eq!(all.compile().gateway()[0], "Accepted=False/UnsupportedAddress");
    all.gateways[0].addresses.clear();
    all.gateways[0].unsupported = vec!["spec.infrastructure.parametersRef".into()];
    let compiled = all.with(route([to_v1()])).compile();
    assert_eq!(compiled.gateway()[0], "Accepted=False/InvalidParameters");
    assert_eq!(short(&compiled.listener(0).conditions)[3], "Programmed=False/Invalid");
    assert!(compiled.find("a", "/").is_none());
}

#[test]
fn http_route_invalid_backend_refs() {
    let mut kind = BackendRef::service("v1", 8080);
    kind.kind = "Unknown".into();
    let mut portless = BackendRef::service("v1", 8080);
    portless.port = None;
    for (backend, reason) in [
        (kind, "InvalidKind"),
        (BackendRef::service("absent", 8080), "BackendNotFound"),
        (BackendRef::service("v1", 9), "BackendNotFound"),
        (portless, "BackendNotFound"),
        (BackendRef::service("v1", 8080).namespace("web"), "RefNotPermitted"),
        // Whether it exists is not told to whom it is not granted.
        (BackendRef::service("absent", 8080).namespace("web"), "RefNotPermitted"),
    ] {
        let rules = [HttpRouteRule::to([backend]).matches([prefix("/bad")]), to_v1()];
        let compiled = resources([Listener::http("http", 80)]).with(route(rules)).compile();
        assert_eq!(compiled.route(), ["Accepted=True/Accepted", &format!("ResolvedRefs=False/{reason}")]);
        assert!(compiled.route_message(1).starts_with("rules[0].backendRefs[0]: "));
        // HTTPRoutePartiallyInvalidViaInvalidReferenceGrant: the other rule serves.
        let Action::Forward(split) = &compiled.find("a", "/bad").unwrap().action else { panic!() };
        assert_eq!(split.pick(0).unwrap().service, None);
        let Action::Forward(split) = &compiled.find("a", "/good").unwrap().action else { panic!() };
        assert_eq!(split.pick(0).unwrap().service, Some(0));
    }
}

#[test]
fn an_application_protocol_that_is_not_spoken_is_not_resolved() {
    for (protocol, good) in
        [("http", true), ("kubernetes.io/h2c", false), ("https", false), ("my.own/one", true)]
    {
        let mut backends = backends();
        let mut spec = ServicePortSpec::new([]);
        spec.app_protocol = Some(protocol.into());
        backends.insert(ServicePort::new(ObjectName::new("infra", "v1"), 8080), spec);
        let compiled = compile(&resources([Listener::http("http", 80)]).with(route([to_v1()])), &backends);
        let expected =
            if good { "ResolvedRefs=True/ResolvedRefs" } else { "ResolvedRefs=False/UnsupportedProtocol" };
        assert_eq!(compiled.route()[1], expected, "{protocol}");
    }
}

#[test]
fn http_route_reference_grants() {
    let compiled = |from: GrantFrom, to: GrantTo, namespace: &str| {
        let rule = HttpRouteRule::to([BackendRef::service("v1", 8080).namespace("web")]);
        let mut all = resources([Listener::http("http", 80)]).with(route([rule]));
        all.grants.push(ReferenceGrant::new(Metadata::new(namespace, "grant"), [from], [to]));
        all.compile().route()[1].clone()
    };
    let from = |group: &str, kind: &str, namespace: &str| GrantFrom::new(group, kind, namespace);
    let good_from = || from("gateway.networking.k8s.io", "HTTPRoute", "infra");
    let good_to = || GrantTo::new("", "Service", Some("v1"));
    let good = "ResolvedRefs=True/ResolvedRefs";
    assert_eq!(compiled(good_from(), good_to(), "web"), good);
    assert_eq!(compiled(good_from(), GrantTo::new("", "Service", None), "web"), good);
    for (from, to, namespace) in [
        (good_from(), good_to(), "infra"),
        (from("not-the-group", "HTTPRoute", "infra"), good_to(), "web"),
        (from("gateway.networking.k8s.io", "GRPCRoute", "infra"), good_to(), "web"),
        (from("gateway.networking.k8s.io", "HTTPRoute", "other"), good_to(), "web"),
        (good_from(), GrantTo::new("not-the-group", "Service", Some("v1")), "web"),
        (good_from(), GrantTo::new("", "Secret", Some("v1")), "web"),
        (good_from(), GrantTo::new("", "Service", Some("not-v1")), "web"),
    ] {
        let why = format!("{from:?} {to:?} {namespace}");
        assert_eq!(compiled(from, to, namespace), "ResolvedRefs=False/RefNotPermitted", "{why}");
    }
}

#[test]
fn http_route_no_backend_refs() {
    let compiled = resources([Listener::http("http", 80)]).with(route([HttpRouteRule::to([])])).compile();
    assert_eq!(compiled.route(), ALL_WELL);
    let Action::Forward(split) = &compiled.find("a", "/").unwrap().action else { panic!() };
    assert_eq!(split.pick(0), None);
}

#[test]
fn a_rule_that_cannot_be_matched_is_dropped() {
    let regex = HttpRouteMatch::path(PathMatch::RegularExpression("/a.*".into()));
    let bad = || to_v1().matches([prefix("/b"), regex.clone()]);
    let compiled = resources([Listener::http("http", 80)]).with(route([bad()])).compile();
    assert_eq!(compiled.route()[0], "Accepted=False/UnsupportedValue");
    assert_eq!(compiled.listener(0).attached_routes, 0);

    let rules = [bad(), HttpRouteRule::to([BackendRef::service("v2", 8080)])];
    let compiled = resources([Listener::http("http", 80)]).with(route(rules)).compile();
    let expected = [ALL_WELL[0], ALL_WELL[1], "PartiallyInvalid=True/UnsupportedValue"];
    assert_eq!(compiled.route(), expected);
    let message = compiled.route_message(2);
    assert!(message.starts_with("Dropped Rule rules[0].matches[1].path"), "{message}");
    // Its requests go to the other rule.
    assert_eq!(compiled.find("a", "/b").unwrap().place, 1);
}

#[test]
fn a_filter_is_never_skipped() {
    let unsupported = HttpRouteFilter::Unsupported("RequestMirror".into());
    let rule = to_v1().matches([prefix("/b")]).filters([unsupported]);
    let compiled = resources([Listener::http("http", 80)]).with(route([rule.clone(), to_v1()])).compile();
    assert_eq!(compiled.route()[2], "PartiallyInvalid=True/UnsupportedValue");
    assert_eq!(compiled.find("a", "/b").unwrap().action, Action::Refuse);
    assert_eq!(compiled.find("a", "/").unwrap().place, 1);
    let compiled = resources([Listener::http("http", 80)]).with(route([rule])).compile();
    assert_eq!(compiled.route()[0], "Accepted=False/UnsupportedValue");

    let extension =
        HttpRouteFilter::ExtensionRef { group: "x.io".into(), kind: "Magic".into(), name: "m".into() };
    let rule = to_v1().filters([extension]);
    let compiled = resources([Listener::http("http", 80)]).with(route([rule])).compile();
    assert_eq!(compiled.route(), ["Accepted=True/Accepted", "ResolvedRefs=False/InvalidKind"]);
    assert_eq!(compiled.find("a", "/").unwrap().action, Action::Refuse);

    let mut timed = to_v1();
    timed.unsupported = vec!["retry".into()];
    let compiled = resources([Listener::http("http", 80)]).with(route([timed])).compile();
    assert_eq!(compiled.route()[0], "Accepted=False/UnsupportedValue");
    assert!(compiled.route_message(0).contains("rules[0].retry"));
}

#[test]
fn filters_that_do_not_go_together() {
    let redirect = || HttpRouteFilter::RequestRedirect(RequestRedirect::default());
    let rewrite = || HttpRouteFilter::UrlRewrite(UrlRewrite::default());
    let headers = || HttpRouteFilter::RequestHeaderModifier(HeaderModifier::default());
    let reason = |rule: HttpRouteRule| {
        resources([Listener::http("http", 80)]).with(route([rule])).compile().route()[0].clone()
    };
    let none = || HttpRouteRule::to([]);
    assert_eq!(reason(none().filters([redirect(), rewrite()])), "Accepted=False/IncompatibleFilters");
    assert_eq!(reason(none().filters([headers(), headers()])), "Accepted=False/IncompatibleFilters");
    assert_eq!(reason(to_v1().filters([redirect()])), "Accepted=False/IncompatibleFilters");
    assert_eq!(reason(none().filters([redirect(), headers()])), "Accepted=True/Accepted");
    assert_eq!(reason(to_v1().filters([rewrite(), headers()])), "Accepted=True/Accepted");
}

#[test]
fn filters_are_compiled() {
    let replace = RequestRedirect {
        path: Some(PathModifier::ReplacePrefixMatch("/new".into())),
        status: Some(StatusCode::MOVED_PERMANENTLY),
        ..RequestRedirect::default()
    };
    let filter = || HttpRouteFilter::RequestRedirect(replace.clone());
    let accepted = |matches: Vec<HttpRouteMatch>| {
        let rule = HttpRouteRule::to([]).matches(matches).filters([filter()]);
        resources([Listener::http("http", 80)]).with(route([rule])).compile()
    };
    let compiled = accepted(vec![prefix("/old")]);
    let Action::Redirect(redirect) = &compiled.find("a", "/old/x").unwrap().action else { panic!() };
    let scheme = crate::model::RedirectScheme::Http;
    assert_eq!(redirect.location("a", &"/old/x".parse().unwrap(), scheme, 80), "http://a/new/x");
    let two = accepted(vec![prefix("/old"), prefix("/older")]);
    assert_eq!(two.route()[0], "Accepted=False/UnsupportedValue");

    let modifier = HeaderModifier {
        set: vec![(HeaderName::from_static("x"), HeaderValue::from_static("1"))],
        ..HeaderModifier::default()
    };
    let mut backend = BackendRef::service("v1", 8080);
    backend.filters = vec![HttpRouteFilter::RequestHeaderModifier(modifier.clone())];
    let rule = HttpRouteRule::to([backend]).filters([
        HttpRouteFilter::RequestHeaderModifier(modifier.clone()),
        HttpRouteFilter::ResponseHeaderModifier(modifier),
    ]);
    let compiled = resources([Listener::http("http", 80)]).with(route([rule])).compile();
    let rule = compiled.find("a", "/").unwrap();
    assert!(matches!(rule.request[..], [RequestFilter::Headers(_)]));
    assert_eq!(rule.response.len(), 1);
    let Action::Forward(split) = &rule.action else { panic!() };
    assert_eq!(split.pick(0).unwrap().request.len(), 1);
}

#[test]
fn several_references_to_one_listener_count_once() {
    let mut twice = route([to_v1()]);
    twice.parents = vec![ParentRef::gateway("gw"), ParentRef::gateway("gw").section("http")];
    let compiled = resources([Listener::http("http", 80)]).with(twice).compile();
    assert_eq!(compiled.listener(0).attached_routes, 1);
    assert_eq!(compiled.tables[&gw()].len(), 1);
    assert_eq!(compiled.statuses.routes[&ObjectName::new("infra", "route")].parents.len(), 2);
}

#[test]
fn every_status_is_about_the_generation_that_was_read() {
    let mut all = resources([Listener::http("http", 80)]).with(route([to_v1()]));
    all.classes[0].generation = 3;
    all.gateways[0].metadata.generation = 5;
    all.routes[0].metadata.generation = 7;
    let statuses = all.compile().statuses;
    assert_eq!(statuses.classes["lb"].observed_generation, 3);
    assert_eq!(statuses.gateways[&gw()].observed_generation, 5);
    assert_eq!(statuses.routes[&ObjectName::new("infra", "route")].observed_generation, 7);
}

#[test]
fn the_order_of_the_resources_is_of_no_importance() {
    let mut other = route([HttpRouteRule::to([BackendRef::service("v2", 8080)]), to_v1()]);
    other.metadata = Metadata::new("infra", "other").created(Timestamp::from_unix(9));
    let mut all = resources([Listener::http("http", 80)]).with(route([to_v1()])).with(other);
    let compiled = all.compile();
    all.routes.reverse();
    assert_eq!(all.compile(), compiled);
    // Of two routes with equal matches the one with an age is the older.
    assert_eq!(&*compiled.find("a", "/").unwrap().route.name, "other");
    let statuses = compiled.statuses.routes.values().flat_map(|status| &status.parents);
    assert!(statuses.flat_map(|parent| &parent.conditions).all(|condition| condition.status == Status::True));
}
