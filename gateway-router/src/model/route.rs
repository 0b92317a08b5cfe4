//! HTTPRoute and ReferenceGrant.

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{GROUP, Hostname, HttpPath, Metadata};

/// Rules that lead HTTP requests to backends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpRoute {
    /// Its name, generation and age.
    pub metadata: Metadata,
    /// `spec.parentRefs`: where it attaches.
    pub parents: Vec<ParentRef>,
    /// `spec.hostnames`; all hosts of the listener if empty.
    pub hostnames: Vec<Hostname>,
    /// `spec.rules`.
    pub rules: Vec<HttpRouteRule>,
    /// Fields that are set and have no counterpart here.
    pub unsupported: Vec<Arc<str>>,
}

impl HttpRoute {
    /// A route that attaches to `parents`, for all their hosts.
    pub fn new(
        metadata: Metadata,
        parents: impl IntoIterator<Item = ParentRef>,
        rules: impl IntoIterator<Item = HttpRouteRule>,
    ) -> Self {
        Self {
            metadata,
            parents: parents.into_iter().collect(),
            hostnames: Vec::new(),
            rules: rules.into_iter().collect(),
            unsupported: Vec::new(),
        }
    }

    /// The same for `hostnames` alone.
    #[must_use]
    pub fn hostnames(mut self, hostnames: impl IntoIterator<Item = Hostname>) -> Self {
        self.hostnames = hostnames.into_iter().collect();
        self
    }
}

/// What a route attaches to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ParentRef {
    /// The API group of the parent.
    pub group: Arc<str>,
    /// The kind of the parent.
    pub kind: Arc<str>,
    /// Its namespace; the route's own if `None`.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// The listener of that name alone.
    pub section: Option<Arc<str>>,
    /// The listeners on that port alone (GEP-957).
    pub port: Option<u16>,
}

impl ParentRef {
    /// The Gateway `name` in the route's own namespace.
    pub fn gateway(name: &str) -> Self {
        Self {
            group: GROUP.into(),
            kind: "Gateway".into(),
            namespace: None,
            name: name.into(),
            section: None,
            port: None,
        }
    }

    /// The same in `namespace`.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Its listener `section` alone.
    #[must_use]
    pub fn section(mut self, section: &str) -> Self {
        self.section = Some(section.into());
        self
    }

    /// Its listeners on `port` alone.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }
}

/// One rule of an [`HttpRoute`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpRouteRule {
    /// Its name (GEP-995).
    pub name: Option<Arc<str>>,
    /// It applies if one of these does; to every path if there is none.
    pub matches: Vec<HttpRouteMatch>,
    /// What is done to the request and its response, in this order.
    pub filters: Vec<HttpRouteFilter>,
    /// Where the request goes.
    pub backends: Vec<BackendRef>,
    /// Fields that are set and have no counterpart here (`timeouts`, `retry`, `sessionPersistence`).
    pub unsupported: Vec<Arc<str>>,
}

impl HttpRouteRule {
    /// A rule for every path that leads to `backends`.
    pub fn to(backends: impl IntoIterator<Item = BackendRef>) -> Self {
        Self { backends: backends.into_iter().collect(), ..Self::default() }
    }

    /// The same, for requests to which one of `matches` applies.
    #[must_use]
    pub fn matches(mut self, matches: impl IntoIterator<Item = HttpRouteMatch>) -> Self {
        self.matches = matches.into_iter().collect();
        self
    }

    /// The same with these filters.
    #[must_use]
    pub fn filters(mut self, filters: impl IntoIterator<Item = HttpRouteFilter>) -> Self {
        self.filters = filters.into_iter().collect();
        self
    }
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpRouteMatch {
    /// Of the path.
    pub path: PathMatch,
    /// Of the method.
    pub method: Option<Method>,
    /// Of the headers.
    pub headers: Vec<HeaderMatch>,
    /// Of the query parameters.
    pub query_params: Vec<QueryParamMatch>,
}

impl Default for HttpRouteMatch {
    /// Every request.
    fn default() -> Self {
        Self::path(PathMatch::Prefix(HttpPath::root()))
    }
}

impl HttpRouteMatch {
    /// The requests whose path `path` matches.
    pub fn path(path: PathMatch) -> Self {
        Self { path, method: None, headers: Vec::new(), query_params: Vec::new() }
    }

    /// The same, of `method` alone.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// The same, with header `name` equal to `value`.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push(HeaderMatch { name, value: ValueMatch::Exact(value) });
        self
    }

    /// The same, with query parameter `name` equal to `value`.
    #[must_use]
    pub fn query_param(mut self, name: &str, value: &str) -> Self {
        self.query_params.push(QueryParamMatch { name: name.into(), value: ValueMatch::Exact(value.into()) });
        self
    }
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathMatch {
    /// It is this one, byte for byte.
    Exact(HttpPath),
    /// Its first elements are these ones; a trailing slash is ignored.
    Prefix(HttpPath),
    /// It matches this expression.
    RegularExpression(Arc<str>),
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "Exact {path}"),
            Self::Prefix(path) => write!(f, "PathPrefix {path}"),
            Self::RegularExpression(text) => write!(f, "RegularExpression {text}"),
        }
    }
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueMatch<V> {
    /// It is this one.
    Exact(V),
    /// It matches this expression.
    RegularExpression(Arc<str>),
}

/// A condition on a header.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderMatch {
    /// The header.
    pub name: HeaderName,
    /// What it must be. Several fields of one name are taken as joined with commas (RFC 9110 §5.3).
    pub value: ValueMatch<HeaderValue>,
}

impl HeaderMatch {
    /// Header `name` must be `value`.
    pub fn new(name: HeaderName, value: ValueMatch<HeaderValue>) -> Self {
        Self { name, value }
    }
}

/// A condition on a query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueryParamMatch {
    /// Its name, in this case.
    pub name: Arc<str>,
    /// What it must be; the first counts if it occurs several times.
    pub value: ValueMatch<Arc<str>>,
}

impl QueryParamMatch {
    /// Parameter `name` must be `value`.
    pub fn new(name: &str, value: ValueMatch<Arc<str>>) -> Self {
        Self { name: name.into(), value }
    }
}

/// What is done to a request or its response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpRouteFilter {
    /// Changes the request's headers.
    RequestHeaderModifier(HeaderModifier),
    /// Changes the response's headers.
    ResponseHeaderModifier(HeaderModifier),
    /// Answers with a redirect.
    RequestRedirect(RequestRedirect),
    /// Changes the host and the path of the request.
    UrlRewrite(UrlRewrite),
    /// A filter of another API.
    ExtensionRef {
        /// Its API group.
        group: Arc<str>,
        /// Its kind.
        kind: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A filter that has no counterpart here, by its type.
    Unsupported(Arc<str>),
}

impl HttpRouteFilter {
    /// Its type, as the CRD writes it.
    pub fn kind(&self) -> &str {
        match self {
            Self::RequestHeaderModifier(_) => "RequestHeaderModifier",
            Self::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
            Self::RequestRedirect(_) => "RequestRedirect",
            Self::UrlRewrite(_) => "URLRewrite",
            Self::ExtensionRef { .. } => "ExtensionRef",
            Self::Unsupported(kind) => kind,
        }
    }
}

/// Sets, adds and removes headers, in that order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderModifier {
    /// These replace what is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// These come after what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// These are taken away.
    pub remove: Vec<HeaderName>,
}

/// Sends the client elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestRedirect {
    /// The scheme; the request's own if `None`.
    pub scheme: Option<RedirectScheme>,
    /// The host; the request's own if `None`.
    pub hostname: Option<Hostname>,
    /// The path; the request's own if `None`.
    pub path: Option<PathModifier>,
    /// The port; that of the scheme given, else the listener's if `None`.
    pub port: Option<u16>,
    /// The status; 302 Found if `None`.
    pub status: Option<StatusCode>,
}

/// The scheme of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectScheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl RedirectScheme {
    /// As it is written in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL of this scheme leaves out.
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Changes where the request goes before it is forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UrlRewrite {
    /// The host; the request's own if `None`.
    pub hostname: Option<Hostname>,
    /// The path; the request's own if `None`.
    pub path: Option<PathModifier>,
}

/// How a path is changed. The query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathModifier {
    /// It becomes this one.
    ReplaceFullPath(Arc<str>),
    /// The prefix that matched becomes this one.
    ReplacePrefixMatch(Arc<str>),
}

/// Where requests go, and which share of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendRef {
    /// The API group; empty for Kubernetes' own.
    pub group: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
    /// The namespace; the route's own if `None`.
    pub namespace: Option<Arc<str>>,
    /// The name.
    pub name: Arc<str>,
    /// The port of the Service.
    pub port: Option<u16>,
    /// Its share, of the sum of all weights in the rule; 0 to 1 000 000.
    pub weight: u32,
    /// What is done to the requests that go there.
    pub filters: Vec<HttpRouteFilter>,
}

impl BackendRef {
    /// Port `port` of Service `name` in the route's own namespace, with weight 1.
    pub fn service(name: &str, port: u16) -> Self {
        Self {
            group: "".into(),
            kind: "Service".into(),
            namespace: None,
            name: name.into(),
            port: Some(port),
            weight: 1,
            filters: Vec::new(),
        }
    }

    /// The same with `weight`.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The same in `namespace`.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.into());
        self
    }
}

/// Permits references from other namespaces into its own (GEP-709).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReferenceGrant {
    /// Its name; its namespace is the one that may be referred to.
    pub metadata: Metadata,
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

impl ReferenceGrant {
    /// Each of `from` may refer to each of `to`.
    pub fn new(
        metadata: Metadata,
        from: impl IntoIterator<Item = GrantFrom>,
        to: impl IntoIterator<Item = GrantTo>,
    ) -> Self {
        Self { metadata, from: from.into_iter().collect(), to: to.into_iter().collect() }
    }
}

/// Who may refer, by a [`ReferenceGrant`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrantFrom {
    /// The API group.
    pub group: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
    /// The namespace.
    pub namespace: Arc<str>,
}

impl GrantFrom {
    /// Objects of `group` and `kind` in `namespace`.
    pub fn new(group: &str, kind: &str, namespace: &str) -> Self {
        Self { group: group.into(), kind: kind.into(), namespace: namespace.into() }
    }
}

/// What may be referred to, by a [`ReferenceGrant`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrantTo {
    /// The API group.
    pub group: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
    /// The object of that name alone; all if `None`.
    pub name: Option<Arc<str>>,
}

impl GrantTo {
    /// Objects of `group` and `kind`, the one of `name` or all.
    pub fn new(group: &str, kind: &str, name: Option<&str>) -> Self {
        Self { group: group.into(), kind: kind.into(), name: name.map(Into::into) }
    }
}
