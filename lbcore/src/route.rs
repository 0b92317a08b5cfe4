//! Which backend an HTTP request goes to: the [`RouteMatcher`] trait and its types.

use http::{HeaderMap, Method};

/// Finds the rule that an HTTP request matches.
///
/// ```
/// use http::{HeaderMap, Method};
/// use lbcore::route::{Outcome, RequestHead, RouteMatcher};
///
/// /// Knows paths only. The crate `gateway-router` has a matcher that keeps the contract.
/// struct ByPath(Vec<(&'static str, &'static str)>);
///
/// impl RouteMatcher for ByPath {
///     type Target = &'static str;
///
///     fn find<'t>(&'t self, head: &RequestHead<'_>) -> Outcome<'t, &'static str> {
///         let matching = self.0.iter().filter(|(prefix, _)| head.path.starts_with(prefix));
///         let longest = matching.max_by_key(|(prefix, _)| prefix.len());
///         longest.map_or(Outcome::NotFound, |(_, backend)| Outcome::Found(backend))
///     }
/// }
///
/// let routes = ByPath(vec![("/", "web"), ("/api/", "api")]);
/// let (method, headers) = (Method::GET, HeaderMap::new());
/// let head = RequestHead {
///     port: 80,
///     server_name: None,
///     host: "www.example.com",
///     path: "/api/carts",
///     query: None,
///     method: &method,
///     headers: &headers,
/// };
/// assert_eq!(routes.find(&head), Outcome::Found(&"api"));
/// assert_eq!(routes.find(&RequestHead { path: "/", ..head }), Outcome::Found(&"web"));
/// ```
///
/// # Contract
/// Binds implementors; [`conformance::matcher`](crate::conformance) asserts it.
/// - The precedence is the one of the Gateway API (`HTTPRouteRule.matches`): host, then exact path, longest
///   prefix, method, most headers, most query parameters, oldest route, name, first rule. A rule whose other
///   conditions do not hold leaves the request to the next one in that order.
/// - Only the rules of the most specific listener for the host are asked (GEP-1364, listener isolation).
/// - [`find`](Self::find) allocates nothing and takes no lock.
pub trait RouteMatcher: Send + Sync {
    /// What a rule leads to.
    type Target;

    /// The rule for `head`.
    fn find<'t>(&'t self, head: &RequestHead<'_>) -> Outcome<'t, Self::Target>;
}

/// What a request says before its body.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'r> {
    /// The port on which it arrived.
    pub port: u16,
    /// The server name of the TLS handshake; `None` without TLS or without one.
    pub server_name: Option<&'r str>,
    /// The host of the target or of the Host header, with or without a port, in any case.
    pub host: &'r str,
    /// The path, as received; begins with a slash.
    pub path: &'r str,
    /// What follows the question mark, as received.
    pub query: Option<&'r str>,
    /// The method.
    pub method: &'r Method,
    /// The headers.
    pub headers: &'r HeaderMap,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome<'t, T> {
    /// A rule matches.
    Found(&'t T),
    /// The connection was made for another host: 421 Misdirected Request (GEP-3567).
    Misdirected,
    /// No rule matches: 404 Not Found.
    NotFound,
}

// By hand, since a reference is copied whatever its target.
impl<T> Clone for Outcome<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Outcome<'_, T> {}
