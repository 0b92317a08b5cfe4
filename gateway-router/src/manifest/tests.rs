use lbcore::condition::Status;
use lbcore::manifest::{Corpus, Report, SourceFile};

use super::*;
use crate::compile::compile;
use crate::model::{HttpRouteFilter, PathMatch};

const CONTROLLER: &str = "lbcore.io/gateway-controller";

fn load(text: &str) -> (Corpus, Report) {
    let mut corpus = Corpus::new(kinds(lbcore::manifest::kinds(Kinds::new())));
    let report = corpus.load(&[SourceFile::new("a.yaml", text)]);
    (corpus, report)
}

fn problems(text: &str) -> Vec<String> {
    let problem = |problem: &lbcore::manifest::Problem| {
        let text = problem.to_string();
        let (_, message) = text.split_once("): ").unwrap();
        message.strip_prefix("HTTPRoute default/r: ").unwrap_or(message).to_owned()
    };
    load(text).1.problems.iter().map(problem).collect()
}

fn document(kind: &str, spec: &str) -> String {
    let name = &kind[..1].to_lowercase();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn route(spec: &str) -> String {
    document("HTTPRoute", spec).replace("name: h", "name: r")
}

/// The manifest of the lab, and what else it needs.
const LAB: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: lbcore}
spec: {controllerName: lbcore.io/gateway-controller, description: ours}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: www, namespace: default, labels: {team: web}, annotations: {metallb.io/address-pool: public}}
spec:
  gatewayClassName: lbcore
  listeners:
    - {name: http, protocol: HTTP, port: 80}
    - {name: alt, protocol: HTTP, port: 8080, hostname: '*.example.com', allowedRoutes: {namespaces: {from: All}, kinds: [{kind: HTTPRoute}]}}
status:
  addresses: [{type: IPAddress, value: 192.0.2.9}, {type: Hostname, value: a.b}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: www, namespace: default, creationTimestamp: '2026-01-01T00:00:00Z'}
spec:
  parentRefs: [{name: www, sectionName: http}]
  hostnames: [www.example.com]
  rules:
    - name: main
      matches:
        - path: {type: PathPrefix, value: /a}
          method: GET
          headers: [{name: X-One, value: '1'}]
          queryParams: [{type: Exact, name: q, value: '2'}]
        - path: {type: Exact, value: /b}
      filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}
      backendRefs:
        - {name: appv1, port: 80, weight: 50}
        - {name: appv2, port: 80, weight: 50}
    - filters:
        - type: RequestRedirect
          requestRedirect: {scheme: https, hostname: new.example.com, port: 8443, statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /x}}
---
apiVersion: v1
kind: Service
metadata: {name: appv1}
spec: {ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 80, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: appv1-1, labels: {kubernetes.io/service-name: appv1}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: metrics, port: 9090}]
endpoints:
  - addresses: [10.0.0.1]
  - {addresses: [10.0.0.2], conditions: {ready: false}}
  - {addresses: [10.0.0.3, 10.0.0.4]}
---
apiVersion: v1
kind: Service
metadata: {name: appv2}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: appv2-1, labels: {kubernetes.io/service-name: appv2}}
addressType: IPv6
ports: [{port: 81}]
endpoints: [{addresses: ['fd00::1']}]
";

#[test]
fn from_documents_to_tables() {
    let (corpus, report) = load(LAB);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let objects = corpus.objects();
    let backends = backends(objects);
    let all: Vec<_> = backends.iter().map(|(port, spec)| format!("{port} {:?}", spec.endpoints)).collect();
    assert_eq!(all, ["default/appv1:80 [10.0.0.1:8080, 10.0.0.3:8080]", "default/appv2:80 [[fd00::1]:81]"]);

    let www = ObjectName::new("default", "www");
    let addresses = BTreeMap::from([(www.clone(), vec![[192, 0, 2, 9].into()])]);
    let resources = resources(objects, CONTROLLER, addresses);
    let route = &resources.routes[0];
    assert_eq!(route.metadata.created, Some("2026-01-01T00:00:00Z".parse().unwrap()));
    let rule = &route.rules[0];
    assert_eq!(rule.name.as_deref(), Some("main"));
    assert_eq!(rule.matches[0].path.to_string(), "PathPrefix /a");
    assert_eq!((rule.matches[0].headers.len(), rule.matches[0].query_params.len()), (1, 1));
    assert!(matches!(rule.matches[1].path, PathMatch::Exact(_)));
    assert!(matches!(rule.filters[..], [HttpRouteFilter::RequestHeaderModifier(_)]));
    assert_eq!(rule.backends[0].weight, 50);

    let compiled = compile(&resources, &backends);
    assert_eq!(compiled.notices, [""; 0]);
    assert_eq!(compiled.tables[&www].len(), 3);
    let conditions = compiled.statuses.routes[&www].parents.iter().flat_map(|parent| &parent.conditions);
    assert!(conditions.into_iter().all(|condition| condition.status == Status::True));
    assert!(compiled.statuses.gateways[&www].conditions.iter().all(|c| c.status == Status::True));

    let [demand] = &demands(objects, CONTROLLER)[..] else { panic!() };
    assert_eq!(demand.owner, OwnerKey::Gateway(www));
    assert_eq!(demand.shown, [IpAddr::from([192, 0, 2, 9])]);
    assert_eq!(demand.request.pool, Some("public".into()));
    assert_eq!(
        demand.request.ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["TCP/80", "TCP/8080"]
    );
    assert_eq!(demand.request.labels.get("team"), Some("web"));
    assert!(demands(objects, "other.io/controller").is_empty());
}

#[test]
fn a_gateway_asks_for_the_addresses_of_its_spec() {
    let text = |addresses: &str| {
        document("GatewayClass", "{controllerName: lbcore.io/gateway-controller}")
            + &document(
                "Gateway",
                &format!(
                    "{{gatewayClassName: g, listeners: [{{name: a, port: 80, protocol: HTTP}}], addresses: {addresses}}}"
                ),
            )
    };
    let demand = |addresses: &str| demands(load(&text(addresses)).0.objects(), CONTROLLER).pop().unwrap();
    let one = demand("[{value: 192.0.2.9}]");
    assert_eq!(one.request.addresses, [IpAddr::from([192, 0, 2, 9])]);
    assert_eq!(one.request.families, Families::Single(Family::V4));
    let two = demand("[{type: IPAddress, value: 'fd00::1'}, {value: 192.0.2.9}]");
    assert_eq!(two.request.addresses.len(), 2);
    assert_eq!(two.request.families, Families::PreferDual { primary: Family::V4 });
    let any = demand("[{type: IPAddress}]");
    assert_eq!((any.request.addresses.len(), any.fault), (0, None));
    assert!(demand("[{value: 192.0.2.9}, {value: 192.0.2.8}]").fault.is_some());
    assert_eq!(problems(&text("[{value: ten}]")).len(), 1);
}

#[test]
fn problems_name_the_field_and_the_fix() {
    let rule = |rule: &str| route(&format!("{{rules: [{rule}]}}"));
    let matching = |matching: &str| rule(&format!("{{matches: [{matching}]}}"));
    let filter = |filter: &str| rule(&format!("{{filters: [{filter}]}}"));
    let cases: &[(String, &[&str])] = &[
        (
            route("{hostnames: [Example.com, 10.0.0.1, '*.ok.com'], parentRefs: [{}]}"),
            &[
                "spec.hostnames[0]: \"Example.com\" is no hostname: write it in lower case",
                "spec.hostnames[1]: \"10.0.0.1\" is no hostname: an IP address names no host; write a DNS name, or leave the field out to match all",
                "spec.parentRefs[0].name: is missing: add it",
            ],
        ),
        (
            matching("{path: {value: a}}, {path: {type: Exact, value: /a//b}}, {path: {type: Prefix}}"),
            &[
                "spec.rules[0].matches[0].path.value: \"a\" is no path to match: it must begin with '/'",
                "spec.rules[0].matches[1].path.value: \"/a//b\" is no path to match: it must not contain \"//\"",
                "spec.rules[0].matches[2].path.type: \"Prefix\" is not known here: use Exact, PathPrefix, RegularExpression",
            ],
        ),
        (
            matching(
                "{method: get, headers: [{name: 'a b', value: x}, {name: a}], queryParams: [{name: q, value: 1}]}",
            ),
            &[
                "spec.rules[0].matches[0].headers[0].name: \"a b\" is no header name: write letters, digits and -, at most 256",
                "spec.rules[0].matches[0].headers[1].value: is missing: add it",
                "spec.rules[0].matches[0].method: \"get\" is not known here: did you mean \"GET\"?",
                "spec.rules[0].matches[0].queryParams[0].value: must be text, which 1 is not: put it in quotes, \"1\"",
            ],
        ),
        (
            filter(
                "{type: RequestRedirect, requestRedirect: {statusCode: 200, scheme: ftp}, urlRewrite: {}}, {type: Magic}, {type: URLRewrite}",
            ),
            &[
                "spec.rules[0].filters[0].requestRedirect.scheme: \"ftp\" is not known here: use http, https",
                "spec.rules[0].filters[0].requestRedirect.statusCode: is no redirect: write 301, 302, 303, 307 or 308",
                "spec.rules[0].filters[0].urlRewrite: does not go with type RequestRedirect: remove it",
                "spec.rules[0].filters[1].type: \"Magic\" is not known here: use RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, RequestRedirect, URLRewrite, CORS, ExternalAuth, ExtensionRef",
                "spec.rules[0].filters[2].urlRewrite: is missing: add it",
            ],
        ),
        (
            filter(
                "{type: URLRewrite, urlRewrite: {hostname: '*.a.b', path: {type: ReplaceFullPath, replacePrefixMatch: /}}}",
            ),
            &[
                "spec.rules[0].filters[0].urlRewrite.hostname: *.a.b is a wildcard: write one host",
                "spec.rules[0].filters[0].urlRewrite.path.replaceFullPath: is missing: add it",
                "spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch: does not go with type ReplaceFullPath: remove it",
            ],
        ),
        (
            rule(
                "{backendRefs: [{name: s, port: 0}, {name: s}, {name: s, port: 80, weight: 1000001, weigth: 1}]}",
            ),
            &[
                "spec.rules[0].backendRefs[0].port: must be a whole number from 1 to 65535, not 0",
                "spec.rules[0].backendRefs[1].port: is missing: add it",
                "spec.rules[0].backendRefs[2].weight: must be a whole number from 0 to 1000000, not 1000001",
                "spec.rules[0].backendRefs[2].weigth: unknown field: did you mean `weight`?",
            ],
        ),
        (
            rule("{backendRefs: [{name: s, port: 80}, {name: other, port: 80}]}")
                + "---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 81}]}\n",
            &[
                "spec.rules[0].backendRefs[0].port: Service default/s has no port TCP/80: its ports are TCP/81",
                "spec.rules[0].backendRefs[1].name: there is no Service default/other: add it, or name another",
            ],
        ),
        (route("{rules: []}"), &["spec.rules: is empty: add a rule, or remove it to match everything"]),
        (
            route(&format!("{{hostnames: [{}]}}", vec!["a.b"; 17].join(","))),
            &["spec.hostnames: has 17 items, and 16 are the most: split it"],
        ),
        (
            document(
                "Gateway",
                "{listeners: [{name: a, port: 80, protocol: HTP, hostname: a_b}, {name: b, port: 80, protocol: HTTP, tls: {}}, {name: b, port: 81, protocol: x.io/y}]}",
            ),
            &[
                "Gateway default/g: spec.gatewayClassName: is missing: add it",
                "Gateway default/g: spec.listeners[0].hostname: \"a_b\" is no hostname: write labels of a-z, 0-9 and '-' (not first or last), separated by dots",
                "Gateway default/g: spec.listeners[0].protocol: \"HTP\" is no protocol: write HTTP, HTTPS, TLS, TCP, UDP or one of an implementation, as example.com/bar",
                "Gateway default/g: spec.listeners[1].tls: does not go with protocol HTTP: remove it, or write HTTPS",
                "Gateway default/g: spec.listeners[2]: the name b is there twice: rename one",
            ],
        ),
        (
            document(
                "Gateway",
                "{gatewayClassName: g, listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}]}",
            ),
            &["Gateway default/g: spec.listeners[0].allowedRoutes.namespaces.selector: is missing: add it"],
        ),
        (
            document("GatewayClass", "{controllerName: lbcore}"),
            &[
                "GatewayClass g: spec.controllerName: \"lbcore\" is no controller: write DOMAIN/PATH, as example.com/gateway",
            ],
        ),
        (
            document("ReferenceGrant", "{from: [{kind: HTTPRoute, namespace: a}], to: []}"),
            &[
                "ReferenceGrant default/r: spec.from[0].group: is missing: add it",
                "ReferenceGrant default/r: spec.to: is empty: add an item",
            ],
        ),
        (
            document("HttpRoute", "{}"),
            &["kind: gateway.networking.k8s.io has no kind HttpRoute: did you mean HTTPRoute?"],
        ),
    ];
    for (text, expected) in cases {
        let mut found = problems(text);
        found.sort();
        assert_eq!(found, *expected, "{text}");
    }
}

#[test]
fn one_mistake_hides_no_other() {
    let cases: &[(String, &[&str])] = &[
        (
            document("GatewayClass", "{parametersRef: {}, more: 1}"),
            &[
                "spec.controllerName: is missing: add it",
                "spec.more: unknown field: remove it, or use one of",
            ],
        ),
        (
            document(
                "Gateway",
                "{listeners: [{port: 0, protocol: HTTP, tls: {}}], addresses: [{value: ten}], tls: {}, \
                 infrastructure: {labels: {}, more: 1}}",
            ),
            &[
                "spec.addresses[0].value: \"ten\" is no IP address",
                "spec.gatewayClassName: is missing: add it",
                "spec.infrastructure.more: unknown field",
                "spec.listeners[0].name: is missing: add it",
                "spec.listeners[0].port: must be a whole number from 1 to 65535, not 0",
                "spec.listeners[0].tls: does not go with protocol HTTP",
            ],
        ),
        (
            route(
                "{rules: [{filters: [{type: Rewrite, urlRewrite: {hostname: A, path: {type: Full, replaceFullPath: 1}}}, \
                 {requestHeaderModifier: {remove: [a b]}}]}]}",
            ),
            &[
                "spec.rules[0].filters[0].type: \"Rewrite\" is not known here",
                "spec.rules[0].filters[0].urlRewrite.hostname: \"A\" is no hostname",
                "spec.rules[0].filters[0].urlRewrite.path.replaceFullPath: must be text",
                "spec.rules[0].filters[0].urlRewrite.path.type: \"Full\" is not known here",
                "spec.rules[0].filters[1].requestHeaderModifier.remove[0]: \"a b\" is no header name",
                "spec.rules[0].filters[1].type: is missing: add it",
            ],
        ),
    ];
    for (text, expected) in cases {
        let found = problems(text);
        let fits = found.iter().zip(*expected).all(|(found, expected)| found.contains(expected));
        assert!(fits && found.len() == expected.len(), "{text}\n{found:#?}");
    }
}

#[test]
fn what_is_not_done_is_read_and_answered_with_a_condition() {
    let text = route(
        "{rules: [{timeouts: {request: 1s}, retry: {attempts: 2}}, {filters: [{type: CORS, cors: {allowOrigins: ['*']}}]}], useDefaultGateways: All}",
    ) + &document(
        "Gateway",
        "{gatewayClassName: g, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {mode: Terminate}}], tls: {}, infrastructure: {labels: {a: b}, parametersRef: {}}}",
    ) + &document("GRPCRoute", "{}");
    let (corpus, report) = load(&text);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.notices.iter().any(|notice| notice.to_string().contains("gRPC routes are not supported")));
    let resources = resources(corpus.objects(), CONTROLLER, BTreeMap::new());
    let names = |list: &[Arc<str>]| list.join(" ");
    assert_eq!(names(&resources.routes[0].unsupported), "useDefaultGateways");
    assert_eq!(names(&resources.routes[0].rules[0].unsupported), "timeouts retry");
    assert_eq!(resources.routes[0].rules[1].filters, [HttpRouteFilter::Unsupported("CORS".into())]);
    assert_eq!(names(&resources.gateways[0].unsupported), "tls infrastructure.parametersRef");
}

#[test]
fn a_route_that_became_invalid_keeps_its_last_valid_version() {
    let mut corpus = Corpus::new(kinds(lbcore::manifest::kinds(Kinds::new())));
    let file = |text: String| [SourceFile::new("a.yaml", text)];
    assert!(corpus.load(&file(route("{hostnames: [a.b]}"))).problems.is_empty());
    assert_eq!(corpus.load(&file(route("{hostnames: [A.b]}"))).problems.len(), 1);
    let name = ObjectName::new("default", "r");
    let kept = corpus.objects().get::<HttpRoute>(&name).map(|route| route.hostnames[0].to_string());
    assert_eq!(kept.as_deref(), Some("a.b"));
    corpus.load(&file(String::new()));
    assert!(corpus.objects().get::<HttpRoute>(&name).is_none());
}

#[test]
fn parents_that_are_not_there_are_told_of() {
    let class = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: c}\nspec: {controllerName: a.b/c}\n";
    let gateway =
        document("Gateway", "{gatewayClassName: c, listeners: [{name: http, protocol: HTTP, port: 80}]}");
    let parents =
        "{parentRefs: [{name: g}, {name: g, namespace: else}, {name: s, kind: Service, group: ''}]}";
    let notices = |text: &str| -> Vec<String> {
        let (_, report) = load(text);
        assert_eq!(report.problems, []);
        let message = |notice: &lbcore::manifest::Notice| {
            notice.to_string().split_once("): ").map(|(_, message)| message.to_owned()).unwrap()
        };
        report.notices.iter().map(message).collect()
    };
    let elsewhere = "HTTPRoute default/r: spec.parentRefs[1].name: there is no Gateway else/g, so that nobody serves the \
                     route there: add it, or name another";
    assert_eq!(notices(&format!("{class}{gateway}{}", route(parents))), [elsewhere]);
    assert_eq!(
        notices(&gateway),
        [
            "Gateway default/g: spec.gatewayClassName: there is no GatewayClass c, so that nobody serves the Gateway: add it, or \
          name another"
        ]
    );
    assert_eq!(notices(&route(parents)).len(), 2);
}

#[test]
fn controllers_are_named_as_the_crd_has_it() {
    let problems = |controller: &str| {
        let class = document("GatewayClass", &format!("{{controllerName: {controller:?}}}"));
        load(&class).1.problems.len()
    };
    for good in ["lbcore.io/gateway-controller", "other/x", "a-1.b/x/y~(z)"] {
        assert_eq!(problems(good), 0, "{good}");
    }
    for bad in ["", "lbcore", "a.b/", "/x", "A.b/x", "a..b/x", "-a/x", "a-/x", "a.b/x y", "a.b/\u{e4}"] {
        assert_eq!(problems(bad), 1, "{bad}");
    }
}
