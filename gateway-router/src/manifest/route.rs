//! `HTTPRoute`.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use lbcore::manifest::{Field, Kind, Mapping, Object};

use super::gateway::metadata;
use super::{bounded, unsupported};
use crate::model::{
    BackendRef, GROUP, HeaderMatch, HeaderModifier, Hostname, HttpPath, HttpRoute, HttpRouteFilter,
    HttpRouteMatch, HttpRouteRule, ParentRef, PathMatch, PathModifier, QueryParamMatch, RedirectScheme,
    RequestRedirect, UrlRewrite, ValueMatch,
};

impl Kind for HttpRoute {
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "HTTPRoute";
    const VERSIONS: &'static [&'static str] = &["v1", "v1beta1"];
    const NAMESPACED: bool = true;
    const STRICT: bool = true;

    fn read(object: &Object<'_>) -> Option<Self> {
        object.root().ignore(&["status"]);
        object.spec().required().mapping(|spec| {
            let (parents, hostnames, rules) =
                (spec.get("parentRefs"), spec.get("hostnames"), spec.get("rules"));
            bounded(&parents, 32);
            bounded(&hostnames, 16);
            bounded(&rules, 16);
            let parents: Vec<_> = parents.list().iter().filter_map(parent).collect();
            let hostnames: Vec<_> = hostnames.list().iter().filter_map(Field::parse).collect();
            let read: Vec<_> =
                rules.list().into_iter().filter_map(|item| item.required().mapping(rule)).collect();
            if rules.is_present() && rules.list().is_empty() {
                rules.problem("is empty: add a rule, or remove it to match everything");
            }
            let matches: usize = read.iter().map(|rule| rule.matches.len()).sum();
            if matches > 128 {
                rules.problem(format!("has {matches} matches in sum, and 128 are the most: split the route"));
            }
            // The CRD's default.
            let rules = if rules.is_present() { read } else { vec![HttpRouteRule::default()] };
            let mut route = Self::new(metadata(object), parents, rules).hostnames(hostnames);
            route.unsupported = unsupported(spec, &["useDefaultGateways"]);
            route
        })
    }
}

fn parent(item: &Field<'_>) -> Option<ParentRef> {
    item.clone().required().mapping(|fields| {
        let name = fields.get("name").required().non_empty();
        let group = fields.get("group").str();
        let kind = fields.get("kind").non_empty();
        let namespace = fields.get("namespace").non_empty();
        let section = fields.get("sectionName").non_empty();
        let port = fields.get("port").int(1..=u16::MAX);
        let mut parent = ParentRef::gateway(name?);
        parent.group = group.unwrap_or(GROUP).into();
        parent.kind = kind.unwrap_or("Gateway").into();
        parent.namespace = namespace.map(Arc::from);
        parent.section = section.map(Arc::from);
        parent.port = port;
        Some(parent)
    })?
}

fn rule(fields: &Mapping<'_>) -> HttpRouteRule {
    let matches = fields.get("matches");
    bounded(&matches, 64);
    let backends = fields.get("backendRefs");
    bounded(&backends, 16);
    HttpRouteRule {
        name: fields.get("name").non_empty().map(Arc::from),
        matches: matches.list().iter().filter_map(matching).collect(),
        filters: filters(&fields.get("filters")),
        backends: backends.list().iter().filter_map(backend).collect(),
        unsupported: unsupported(fields, &["timeouts", "retry", "sessionPersistence"]),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum MatchType {
    Exact,
    PathPrefix,
    RegularExpression,
}

const VALUE_TYPES: [(&str, MatchType); 2] =
    [("Exact", MatchType::Exact), ("RegularExpression", MatchType::RegularExpression)];

fn matching(item: &Field<'_>) -> Option<HttpRouteMatch> {
    item.clone().required().mapping(|fields| {
        let path = fields.get("path").mapping(path_match).flatten();
        let mut matching = HttpRouteMatch::path(path.unwrap_or(PathMatch::Prefix(HttpPath::root())));
        matching.method = method(&fields.get("method"));
        let headers = fields.get("headers");
        bounded(&headers, 16);
        for item in headers.list() {
            let header = item.required().mapping(|fields| {
                let kind = fields.get("type").one_of(&VALUE_TYPES).unwrap_or(MatchType::Exact);
                let name = header_name(&fields.get("name").required());
                let value = fields.get("value").required();
                let value = match kind {
                    MatchType::RegularExpression => ValueMatch::RegularExpression(value.non_empty()?.into()),
                    _ => ValueMatch::Exact(header_value(&value)?),
                };
                Some(HeaderMatch::new(name?, value))
            });
            matching.headers.extend(header.flatten());
        }
        let params = fields.get("queryParams");
        bounded(&params, 16);
        for item in params.list() {
            let param = item.required().mapping(|fields| {
                let kind = fields.get("type").one_of(&VALUE_TYPES).unwrap_or(MatchType::Exact);
                let name = fields.get("name").required().non_empty();
                let value = fields.get("value").required().non_empty()?;
                let value = match kind {
                    MatchType::RegularExpression => ValueMatch::RegularExpression(value.into()),
                    _ => ValueMatch::Exact(value.into()),
                };
                Some(QueryParamMatch::new(name?, value))
            });
            matching.query_params.extend(param.flatten());
        }
        matching
    })
}

fn path_match(fields: &Mapping<'_>) -> Option<PathMatch> {
    let types = [
        ("Exact", MatchType::Exact),
        ("PathPrefix", MatchType::PathPrefix),
        ("RegularExpression", MatchType::RegularExpression),
    ];
    let value = fields.get("value");
    let path = || if value.is_present() { value.parse() } else { Some(HttpPath::root()) };
    match fields.get("type").one_of(&types).unwrap_or(MatchType::PathPrefix) {
        MatchType::Exact => path().map(PathMatch::Exact),
        MatchType::PathPrefix => path().map(PathMatch::Prefix),
        MatchType::RegularExpression => value.str().map(|text| PathMatch::RegularExpression(text.into())),
    }
}

fn method(field: &Field<'_>) -> Option<Method> {
    const WORDS: [(&str, &str); 9] = [
        ("GET", "GET"),
        ("HEAD", "HEAD"),
        ("POST", "POST"),
        ("PUT", "PUT"),
        ("DELETE", "DELETE"),
        ("CONNECT", "CONNECT"),
        ("OPTIONS", "OPTIONS"),
        ("TRACE", "TRACE"),
        ("PATCH", "PATCH"),
    ];
    field.one_of(&WORDS).and_then(|name| name.parse().ok())
}

fn header_name(field: &Field<'_>) -> Option<HeaderName> {
    let text = field.non_empty()?;
    let name = HeaderName::from_bytes(text.as_bytes()).ok().filter(|_| text.len() <= 256);
    if name.is_none() {
        field.problem(format!("{text:?} is no header name: write letters, digits and -, at most 256"));
    }
    name
}

fn header_value(field: &Field<'_>) -> Option<HeaderValue> {
    let text = field.non_empty()?;
    let value = HeaderValue::from_str(text).ok().filter(|_| text.len() <= 4096);
    if value.is_none() {
        field.problem("is no header value: write at most 4096 visible characters");
    }
    value
}

fn filters(field: &Field<'_>) -> Vec<HttpRouteFilter> {
    bounded(field, 16);
    field.list().into_iter().filter_map(|item| item.required().mapping(filter)?).collect()
}

/// The types of filters with the fields that hold what they need.
const FILTERS: [(&str, &str); 8] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("CORS", "cors"),
    ("ExternalAuth", "externalAuth"),
    ("ExtensionRef", "extensionRef"),
];

fn filter(fields: &Mapping<'_>) -> Option<HttpRouteFilter> {
    let chosen = fields.get("type").required().one_of(&FILTERS.map(|(kind, _)| (kind, kind)));
    let mut filter = None;
    for (kind, name) in FILTERS {
        let field = of_type(kind, fields.get(name), chosen);
        // Read even if it is of another type, for what else is wrong.
        let read = filter_of(kind, &field);
        if chosen == Some(kind) {
            filter = read;
        }
    }
    filter
}

/// The field that goes with the type `kind`, which must be there if that is chosen, and not if another is.
fn of_type<'d>(kind: &str, field: Field<'d>, chosen: Option<&str>) -> Field<'d> {
    match chosen {
        Some(chosen) if chosen == kind => return field.required(),
        Some(chosen) if field.is_present() => {
            field.problem(format!("does not go with type {chosen}: remove it"));
        }
        _ => {}
    }
    field
}

fn filter_of(kind: &str, content: &Field<'_>) -> Option<HttpRouteFilter> {
    match kind {
        "RequestHeaderModifier" => content.mapping(modifier).map(HttpRouteFilter::RequestHeaderModifier),
        "ResponseHeaderModifier" => content.mapping(modifier).map(HttpRouteFilter::ResponseHeaderModifier),
        "RequestRedirect" => content.mapping(redirect).map(HttpRouteFilter::RequestRedirect),
        "URLRewrite" => content.mapping(|fields| {
            HttpRouteFilter::UrlRewrite(UrlRewrite {
                hostname: precise(&fields.get("hostname")),
                path: fields.get("path").mapping(path_modifier).flatten(),
            })
        }),
        "ExtensionRef" => content.mapping(|fields| {
            let group = fields.get("group").required().str();
            let kind = fields.get("kind").required().non_empty();
            let name = fields.get("name").required().non_empty();
            Some(HttpRouteFilter::ExtensionRef {
                group: group?.into(),
                kind: kind?.into(),
                name: name?.into(),
            })
        })?,
        other => Some(HttpRouteFilter::Unsupported(other.into())),
    }
}

fn modifier(fields: &Mapping<'_>) -> HeaderModifier {
    let pairs = |name| {
        let field = fields.get(name);
        bounded(&field, 16);
        let mut pairs: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for item in field.list() {
            let pair = item.clone().required().mapping(|fields| {
                let name = header_name(&fields.get("name").required());
                let value = header_value(&fields.get("value").required());
                Some((name?, value?))
            });
            let Some(Some((name, value))) = pair else { continue };
            if pairs.iter().any(|(other, _)| *other == name) {
                item.problem(format!("header {name} is there twice: remove one"));
            }
            pairs.push((name, value));
        }
        pairs
    };
    let remove = fields.get("remove");
    bounded(&remove, 16);
    HeaderModifier {
        set: pairs("set"),
        add: pairs("add"),
        remove: remove.list().iter().filter_map(header_name).collect(),
    }
}

fn redirect(fields: &Mapping<'_>) -> RequestRedirect {
    let schemes = [("http", RedirectScheme::Http), ("https", RedirectScheme::Https)];
    let status = fields.get("statusCode");
    let code = status.int(0..=u16::MAX);
    if code.is_some_and(|code| ![301, 302, 303, 307, 308].contains(&code)) {
        status.problem("is no redirect: write 301, 302, 303, 307 or 308");
    }
    RequestRedirect {
        scheme: fields.get("scheme").one_of(&schemes),
        hostname: precise(&fields.get("hostname")),
        path: fields.get("path").mapping(path_modifier).flatten(),
        port: fields.get("port").int(1..=u16::MAX),
        status: code.and_then(|code| StatusCode::from_u16(code).ok()),
    }
}

fn path_modifier(fields: &Mapping<'_>) -> Option<PathModifier> {
    type New = fn(Arc<str>) -> PathModifier;
    const TYPES: [(&str, &str, New); 2] = [
        ("ReplaceFullPath", "replaceFullPath", PathModifier::ReplaceFullPath),
        ("ReplacePrefixMatch", "replacePrefixMatch", PathModifier::ReplacePrefixMatch),
    ];
    let chosen = fields.get("type").required().one_of(&TYPES.map(|(kind, ..)| (kind, kind)));
    let mut modifier = None;
    for (kind, name, new) in TYPES {
        let text = of_type(kind, fields.get(name), chosen).str();
        if chosen == Some(kind) {
            modifier = text.map(|text| new(text.into()));
        }
    }
    modifier
}

/// A hostname without wildcard.
fn precise(field: &Field<'_>) -> Option<Hostname> {
    let hostname: Hostname = field.parse()?;
    if hostname.is_wildcard() {
        field.problem(format!("{hostname} is a wildcard: write one host"));
    }
    Some(hostname)
}

fn backend(item: &Field<'_>) -> Option<BackendRef> {
    item.clone().required().mapping(|fields| {
        let name = fields.get("name").required().non_empty();
        let group = fields.get("group").str().unwrap_or_default();
        let kind = fields.get("kind").non_empty().unwrap_or("Service");
        let namespace = fields.get("namespace").non_empty();
        let port = fields.get("port");
        let number = port.int(1..=u16::MAX);
        if group.is_empty() && kind == "Service" && !port.is_present() {
            port.problem("is missing: add it");
        }
        let weight = fields.get("weight").int(0..=1_000_000).unwrap_or(1);
        let filters = filters(&fields.get("filters"));
        let mut backend = BackendRef::service(name?, number.unwrap_or_default()).weight(weight);
        backend.group = group.into();
        backend.kind = kind.into();
        backend.namespace = namespace.map(Arc::from);
        backend.port = number;
        backend.filters = filters;
        Some(backend)
    })?
}
