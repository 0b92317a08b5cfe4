//! The resources of the Gateway API as plain values.
//!
//! A subset of the CRDs' fields, in their names and nesting, without Kubernetes types: a controller fills it from its
//! watches, the feature `manifest` fills it from documents. What is named here is checked when it is made
//! ([`Hostname::new`], [`HttpPath::new`]); what spans several resources is checked by
//! [`compile`](crate::compile::compile), which answers with conditions.
//!
//! A field of the CRD that has no counterpart here goes by name into the `unsupported` list of its struct, so
//! that it is answered with a condition and never dropped silently.

mod backend;
mod gateway;
mod name;
mod route;

pub use self::backend::{Backends, ServicePort, ServicePortSpec};
pub use self::gateway::{
    AddressKind, AllowedRoutes, FromNamespaces, Gateway, GatewayAddress, GatewayClass, Listener, Protocol,
    RouteKind,
};
pub(crate) use self::name::strip_port;
pub use self::name::{Hostname, HostnameError, HttpPath, HttpPathError};
pub use self::route::{
    BackendRef, GrantFrom, GrantTo, HeaderMatch, HeaderModifier, HttpRoute, HttpRouteFilter, HttpRouteMatch,
    HttpRouteRule, ParentRef, PathMatch, PathModifier, QueryParamMatch, RedirectScheme, ReferenceGrant,
    RequestRedirect, UrlRewrite, ValueMatch,
};

use lbcore::id::ObjectName;
use lbcore::time::Timestamp;

/// The API group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// What every namespaced resource has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.generation`; a status says which one it is about.
    pub generation: i64,
    /// `metadata.creationTimestamp`: of two rivals the older wins. One without it counts as the newest.
    pub created: Option<Timestamp>,
}

impl Metadata {
    /// `namespace/name` of generation 1, of unknown age.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { name: ObjectName::new(namespace, name), generation: 1, created: None }
    }

    /// The same, created at `created`.
    #[must_use]
    pub fn created(mut self, created: Timestamp) -> Self {
        self.created = Some(created);
        self
    }
}
