//! What rules do to requests and responses: pure functions on the parts of `http`.
//!
//! ```
//! use gateway_router::filter::Redirect;
//! use gateway_router::model::{PathModifier, RedirectScheme, RequestRedirect};
//!
//! let mut redirect = RequestRedirect::default();
//! redirect.scheme = Some(RedirectScheme::Https);
//! redirect.path = Some(PathModifier::ReplacePrefixMatch("/new".into()));
//! let redirect = Redirect::new(&redirect, Some("/old"))?;
//! let to = redirect.location("a.example:8080", &"/old/page?q".parse()?, RedirectScheme::Http, 8080);
//! assert_eq!(to, "https://a.example/new/page?q");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;

use http::header::{HOST, LOCATION};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::model::{
    HeaderModifier, Hostname, PathModifier, RedirectScheme, RequestRedirect, UrlRewrite, strip_port,
};

/// Sets, adds and removes headers, in that order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderChange(HeaderModifier);

impl HeaderChange {
    /// Checks `modifier`.
    ///
    /// # Errors
    /// It names a header that frames the message or belongs to one connection: to change such a one would break
    /// the message. The host is changed by a URL rewrite.
    pub fn new(modifier: HeaderModifier) -> Result<Self, FilterError> {
        let changed = modifier.set.iter().chain(&modifier.add).map(|(name, _)| name);
        match changed.chain(&modifier.remove).find(|name| is_fixed(name)) {
            Some(name) => Err(FilterError::FixedHeader { name: name.clone() }),
            None => Ok(Self(modifier)),
        }
    }

    /// Changes `headers`.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.0.add {
            headers.append(name, value.clone());
        }
        for name in &self.0.remove {
            headers.remove(name);
        }
    }
}

fn is_fixed(name: &HeaderName) -> bool {
    // RFC 9112 §6 and RFC 9110 §7.6.1.
    ["host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade"]
        .contains(&name.as_str())
}

/// Answers with another URL.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    scheme: Option<RedirectScheme>,
    hostname: Option<Hostname>,
    port: Option<u16>,
    path: Option<PathChange>,
    status: StatusCode,
}

impl Redirect {
    /// Checks `redirect`. `prefix` is the prefix that the rule matches, if it has one match and that is one.
    ///
    /// # Errors
    /// A status that is no redirect, a path that is none, a prefix to be replaced that is not there.
    pub fn new(redirect: &RequestRedirect, prefix: Option<&str>) -> Result<Self, FilterError> {
        let status = redirect.status.unwrap_or(StatusCode::FOUND);
        if ![301, 302, 303, 307, 308].contains(&status.as_u16()) {
            return Err(FilterError::NoRedirect { status });
        }
        Ok(Self {
            scheme: redirect.scheme,
            hostname: redirect.hostname.clone(),
            port: redirect.port,
            path: redirect.path.as_ref().map(|path| PathChange::new(path, prefix)).transpose()?,
            status,
        })
    }

    /// The URL for a request for `uri` of `host` that came in by `scheme` on `port`.
    ///
    /// The port is the one given; else that of the scheme given; else the one on which the request came. One
    /// that the scheme implies is left out.
    pub fn location(&self, host: &str, uri: &Uri, scheme: RedirectScheme, port: u16) -> String {
        let path = match &self.path {
            Some(change) => change.apply(uri.path()),
            None => uri.path().to_owned(),
        };
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let host = self.hostname.as_ref().map_or(strip_port(host), Hostname::as_str);
        if host.is_empty() {
            // RFC 9110 §10.2.2 allows a relative reference. One that begins with two slashes names a host.
            return format!("/{}{query}", path.trim_start_matches('/'));
        }
        let to = self.scheme.unwrap_or(scheme);
        let port = self.port.or(self.scheme.map(RedirectScheme::port)).unwrap_or(port);
        let port = if port == to.port() { String::new() } else { format!(":{port}") };
        format!("{}://{host}{port}{path}{query}", to.as_str())
    }

    /// The answer to a request for `uri` of `host` that came in by `scheme` on `port`.
    pub fn response(&self, host: &str, uri: &Uri, scheme: RedirectScheme, port: u16) -> Response<()> {
        let mut response = Response::new(());
        match HeaderValue::try_from(self.location(host, uri, scheme, port)) {
            Ok(location) => {
                *response.status_mut() = self.status;
                response.headers_mut().insert(LOCATION, location);
            }
            // A host out of a header that is no text.
            Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
        }
        response
    }
}

/// Changes the host and the path of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    hostname: Option<HeaderValue>,
    path: Option<PathChange>,
}

impl Rewrite {
    /// Checks `rewrite`. `prefix` is the prefix that the rule matches, if it has one match and that is one.
    ///
    /// # Errors
    /// A path that is none, a prefix to be replaced that is not there.
    pub fn new(rewrite: &UrlRewrite, prefix: Option<&str>) -> Result<Self, FilterError> {
        let hostname = rewrite.hostname.as_ref().map(|hostname| HeaderValue::from_str(hostname.as_str()));
        Ok(Self {
            hostname: hostname.transpose().map_err(|_| FilterError::NotAPath { path: "".into() })?,
            path: rewrite.path.as_ref().map(|path| PathChange::new(path, prefix)).transpose()?,
        })
    }

    /// Changes `request`, whose URI is in origin form. The query stays.
    pub fn apply(&self, request: &mut Parts) {
        if let Some(hostname) = &self.hostname {
            request.headers.insert(HOST, hostname.clone());
        }
        if let Some(change) = &self.path {
            let mut path = change.apply(request.uri.path());
            if let Some(query) = request.uri.query() {
                path.push('?');
                path.push_str(query);
            }
            // Both parts were checked on their own; a path that is none after all stays as it was.
            if let Ok(path) = PathAndQuery::try_from(path) {
                request.uri = Uri::from(path);
            }
        }
    }
}

/// Changes a path.
#[derive(Clone, Debug, PartialEq)]
enum PathChange {
    Full(Arc<str>),
    /// The first `matched` bytes become `with`, which has no trailing slash.
    Prefix {
        matched: usize,
        with: Arc<str>,
    },
}

impl PathChange {
    fn new(modifier: &PathModifier, prefix: Option<&str>) -> Result<Self, FilterError> {
        let (PathModifier::ReplaceFullPath(text) | PathModifier::ReplacePrefixMatch(text)) = modifier;
        let is_path = text.is_empty()
            || (text.starts_with('/')
                && !text.contains(['?', '#'])
                && PathAndQuery::try_from(&**text).is_ok());
        if !is_path {
            return Err(FilterError::NotAPath { path: text.clone() });
        }
        match modifier {
            PathModifier::ReplaceFullPath(_) if text.is_empty() => Ok(Self::Full("/".into())),
            PathModifier::ReplaceFullPath(_) => Ok(Self::Full(text.clone())),
            PathModifier::ReplacePrefixMatch(_) => {
                let matched = prefix.ok_or(FilterError::NoPrefix)?.trim_end_matches('/').len();
                Ok(Self::Prefix { matched, with: text.trim_end_matches('/').into() })
            }
        }
    }

    fn apply(&self, path: &str) -> String {
        match self {
            Self::Full(to) => to.to_string(),
            Self::Prefix { matched, with } => {
                let rest = path.get(*matched..).unwrap_or_default();
                let changed = format!("{with}{rest}");
                if changed.is_empty() { "/".to_owned() } else { changed }
            }
        }
    }
}

/// The host that a request is for: that of its target, else its Host header (RFC 9112 §3.2.2). Empty if it
/// has neither.
pub fn host_of(request: &Parts) -> &str {
    match request.uri.authority() {
        Some(authority) => host_and_port(authority),
        None => request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

/// Without user information.
fn host_and_port(authority: &Authority) -> &str {
    authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host)
}

/// Why a filter cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// It changes a header that frames the message or belongs to one connection.
    #[error("header {name} frames the message or belongs to one connection, and cannot be changed")]
    FixedHeader {
        /// The header.
        name: HeaderName,
    },
    /// The status of a redirect is none of 301, 302, 303, 307 and 308.
    #[error("status {status} is no redirect: write 301, 302, 303, 307 or 308")]
    NoRedirect {
        /// The status.
        status: StatusCode,
    },
    /// A path to be put in is none.
    #[error("{path:?} is no path: begin it with '/', without query")]
    NotAPath {
        /// The text.
        path: Arc<str>,
    },
    /// A prefix is to be replaced where none matches.
    #[error("replacePrefixMatch needs a rule with exactly one match, of type PathPrefix")]
    NoPrefix,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        list.iter().map(field).collect()
    }

    fn pairs(list: &[(&'static str, &'static str)]) -> Vec<(HeaderName, HeaderValue)> {
        list.iter()
            .map(|(name, value)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn headers_are_set_added_and_removed() {
        let change = HeaderChange::new(HeaderModifier {
            set: pairs(&[("X-Set", "set-overwrites")]),
            add: pairs(&[("X-Add", "add-appends"), ("x-new", "1")]),
            remove: vec![HeaderName::from_static("x-remove")],
        })
        .unwrap();
        let mut map = headers(&[
            ("x-set", "some-other-value"),
            ("x-set", "twice"),
            ("x-add", "some-other-value"),
            ("x-remove", "val"),
            ("x-keep", "k"),
        ]);
        change.apply(&mut map);
        let expected = headers(&[
            ("x-set", "set-overwrites"),
            ("x-add", "some-other-value"),
            ("x-add", "add-appends"),
            ("x-new", "1"),
            ("x-keep", "k"),
        ]);
        assert_eq!(map, expected);
    }

    #[test]
    fn headers_that_frame_the_message_stay() {
        for name in ["host", "content-length", "transfer-encoding", "connection"] {
            let name = HeaderName::from_static(name);
            let modifier = HeaderModifier { remove: vec![name.clone()], ..HeaderModifier::default() };
            assert_eq!(HeaderChange::new(modifier), Err(FilterError::FixedHeader { name: name.clone() }));
            let modifier = HeaderModifier {
                add: vec![(name, HeaderValue::from_static("1"))],
                ..HeaderModifier::default()
            };
            assert!(HeaderChange::new(modifier).is_err());
        }
    }

    /// The cases of HTTPRouteRedirect* in the conformance suite, and those of the port in the field's comment.
    #[test]
    fn redirects_as_the_specification_says() {
        use RedirectScheme::{Http, Https};
        struct Case {
            redirect: RequestRedirect,
            prefix: Option<&'static str>,
            request: (&'static str, &'static str, RedirectScheme, u16),
            location: &'static str,
        }
        let redirect = RequestRedirect::default;
        let name = |text: &str| Some(Hostname::new(text).unwrap());
        let full = |text: &str| Some(PathModifier::ReplaceFullPath(text.into()));
        let prefix = |text: &str| Some(PathModifier::ReplacePrefixMatch(text.into()));
        let cases = [
            Case {
                redirect: RequestRedirect { hostname: name("example.org"), ..redirect() },
                prefix: None,
                request: ("example.com:80", "/hostname-redirect?a=b", Http, 80),
                location: "http://example.org/hostname-redirect?a=b",
            },
            Case {
                redirect: RequestRedirect { port: Some(8083), ..redirect() },
                prefix: None,
                request: ("example.com", "/port", Http, 80),
                location: "http://example.com:8083/port",
            },
            Case {
                redirect: RequestRedirect { scheme: Some(Https), ..redirect() },
                prefix: None,
                request: ("example.com:8080", "/scheme", Http, 8080),
                location: "https://example.com/scheme",
            },
            Case {
                redirect: RequestRedirect { scheme: Some(Https), port: Some(8443), ..redirect() },
                prefix: None,
                request: ("example.com", "/both", Http, 80),
                location: "https://example.com:8443/both",
            },
            Case {
                redirect: RequestRedirect { scheme: Some(Http), port: Some(443), ..redirect() },
                prefix: None,
                request: ("example.com", "/", Https, 443),
                location: "http://example.com:443/",
            },
            Case {
                redirect: RequestRedirect { hostname: name("example.org"), ..redirect() },
                prefix: None,
                request: ("example.com", "/", Http, 8080),
                location: "http://example.org:8080/",
            },
            Case {
                redirect: RequestRedirect { port: Some(80), ..redirect() },
                prefix: None,
                request: ("example.com:8080", "/", Http, 8080),
                location: "http://example.com/",
            },
            Case {
                redirect: RequestRedirect { path: prefix("/replacement-prefix"), ..redirect() },
                prefix: Some("/original-prefix"),
                request: ("example.com", "/original-prefix/lemon?x", Http, 80),
                location: "http://example.com/replacement-prefix/lemon?x",
            },
            Case {
                redirect: RequestRedirect { path: full("/full-path-replacement"), ..redirect() },
                prefix: None,
                request: ("example.com", "/full/path/original", Http, 80),
                location: "http://example.com/full-path-replacement",
            },
            Case {
                redirect: RequestRedirect::default(),
                prefix: None,
                request: ("[fd00::1]:81", "/", Http, 81),
                location: "http://[fd00::1]:81/",
            },
            Case {
                redirect: RequestRedirect::default(),
                prefix: None,
                request: ("", "/old", Http, 81),
                location: "/old",
            },
            Case {
                redirect: RequestRedirect::default(),
                prefix: None,
                request: ("", "//evil.example/?q", Http, 81),
                location: "/evil.example/?q",
            },
        ];
        for case in cases {
            let (host, uri, scheme, port) = case.request;
            let redirect = Redirect::new(&case.redirect, case.prefix).unwrap();
            let response = redirect.response(host, &uri.parse().unwrap(), scheme, port);
            assert_eq!(response.status(), StatusCode::FOUND);
            assert_eq!(response.headers()[LOCATION], case.location);
        }
    }

    #[test]
    fn redirects_have_a_redirects_status() {
        for status in [301, 302, 303, 307, 308, 200, 304, 404] {
            let status = StatusCode::from_u16(status).unwrap();
            let made = Redirect::new(&RequestRedirect { status: Some(status), ..Default::default() }, None);
            assert_eq!(
                made.is_ok(),
                status.is_redirection() && status != StatusCode::NOT_MODIFIED,
                "{status}"
            );
        }
    }

    /// The table in the comment of `HTTPPathModifier.replacePrefixMatch`.
    #[test]
    fn prefixes_are_replaced_as_the_specification_says() {
        for (path, prefix, with, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
        ] {
            let change =
                PathChange::new(&PathModifier::ReplacePrefixMatch(with.into()), Some(prefix)).unwrap();
            assert_eq!(change.apply(path), expected, "{path} {prefix} {with}");
        }
        let modifier = PathModifier::ReplacePrefixMatch("/xyz".into());
        assert_eq!(PathChange::new(&modifier, None), Err(FilterError::NoPrefix));
        for text in ["xyz", "/a?b", "/a#b", "/a b", "http://a/"] {
            assert!(PathChange::new(&PathModifier::ReplaceFullPath(text.into()), None).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rewrite_keeps_the_query() {
        let rewrite = UrlRewrite {
            hostname: Some(Hostname::new("one.example.org").unwrap()),
            path: Some(PathModifier::ReplacePrefixMatch("/one".into())),
        };
        let rewrite = Rewrite::new(&rewrite, Some("/prefix")).unwrap();
        let request = http::Request::get("/prefix/a?x=%20").header(HOST, "example.com").body(()).unwrap();
        let mut parts = request.into_parts().0;
        rewrite.apply(&mut parts);
        assert_eq!(parts.uri, "/one/a?x=%20");
        assert_eq!(parts.headers[HOST], "one.example.org");
    }

    #[test]
    fn the_target_names_the_host_before_the_header_does() {
        for (target, header, host) in [
            ("/a", Some("b:80"), "b:80"),
            ("http://a:81/x", Some("b"), "a:81"),
            ("http://user@a/x", None, "a"),
            ("/a", None, ""),
        ] {
            let mut request = http::Request::get(target);
            if let Some(header) = header {
                request = request.header(HOST, header);
            }
            assert_eq!(host_of(&request.body(()).unwrap().into_parts().0), host);
        }
    }
}
