//! What the resources' statuses say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lbcore::condition::Condition;
use lbcore::id::ObjectName;

use crate::model::{ParentRef, RouteKind};

/// The types of conditions.
pub mod condition {
    /// The resource makes sense, and someone acts on it.
    pub const ACCEPTED: &str = "Accepted";
    /// Everything that it refers to is there and permitted.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// It is in force.
    pub const PROGRAMMED: &str = "Programmed";
    /// It is at odds with another listener.
    pub const CONFLICTED: &str = "Conflicted";
    /// Some of its rules are not in force.
    pub const PARTIALLY_INVALID: &str = "PartiallyInvalid";
}

/// The reasons of conditions.
pub mod reason {
    /// All is well (`Accepted`).
    pub const ACCEPTED: &str = "Accepted";
    /// All is well (`Programmed`).
    pub const PROGRAMMED: &str = "Programmed";
    /// All is well (`ResolvedRefs`).
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// All is well (`Conflicted`).
    pub const NO_CONFLICTS: &str = "NoConflicts";
    /// Something that a class or a Gateway refers to for parameters.
    pub const INVALID_PARAMETERS: &str = "InvalidParameters";
    /// Something else is wrong with it.
    pub const INVALID: &str = "Invalid";
    /// A Gateway some of whose listeners are not accepted.
    pub const LISTENERS_NOT_VALID: &str = "ListenersNotValid";
    /// An address of a type that is not supported.
    pub const UNSUPPORTED_ADDRESS: &str = "UnsupportedAddress";
    /// No address was given to it.
    pub const ADDRESS_NOT_ASSIGNED: &str = "AddressNotAssigned";
    /// The address that it asks for is not to be had.
    pub const ADDRESS_NOT_USABLE: &str = "AddressNotUsable";
    /// There is no room for it.
    pub const NO_RESOURCES: &str = "NoResources";
    /// A listener of a protocol that is not supported.
    pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    /// Listeners of one port whose protocols do not go together.
    pub const PROTOCOL_CONFLICT: &str = "ProtocolConflict";
    /// Listeners of one port with one hostname.
    pub const HOSTNAME_CONFLICT: &str = "HostnameConflict";
    /// A kind of route that the listener's protocol does not carry.
    pub const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";
    /// No listener has that name and port.
    pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    /// The listeners do not take routes of that kind or namespace.
    pub const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
    /// The hostnames of route and listener have none in common.
    pub const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
    /// A value or field that is not supported.
    pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
    /// Filters that do not go together.
    pub const INCOMPATIBLE_FILTERS: &str = "IncompatibleFilters";
    /// A reference to a kind that is not known.
    pub const INVALID_KIND: &str = "InvalidKind";
    /// A reference to a Service or port that is not there.
    pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";
    /// A reference into another namespace that no ReferenceGrant permits.
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
}

/// The statuses of all resources of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statuses {
    /// Of GatewayClasses.
    pub classes: BTreeMap<Arc<str>, ClassStatus>,
    /// Of Gateways.
    pub gateways: BTreeMap<ObjectName, GatewayStatus>,
    /// Of HTTPRoutes that name a Gateway of ours.
    pub routes: BTreeMap<ObjectName, RouteStatus>,
}

/// The status of a GatewayClass.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassStatus {
    /// Which generation the conditions are about.
    pub observed_generation: i64,
    /// `Accepted`.
    pub conditions: Vec<Condition>,
}

/// The status of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayStatus {
    /// Which generation the conditions are about, those of the listeners too.
    pub observed_generation: i64,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `Accepted` and `Programmed`.
    pub conditions: Vec<Condition>,
    /// Its listeners, in the Gateway's order.
    pub listeners: Vec<ListenerStatus>,
}

/// The status of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerStatus {
    /// The listener.
    pub name: Arc<str>,
    /// The kinds of routes that it takes.
    pub supported_kinds: Vec<RouteKind>,
    /// How many routes it has accepted, in force or not.
    pub attached_routes: u32,
    /// `Accepted`, `Conflicted`, `ResolvedRefs` and `Programmed`.
    pub conditions: Vec<Condition>,
}

/// The status of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteStatus {
    /// Which generation the conditions are about.
    pub observed_generation: i64,
    /// For each reference to a Gateway of ours, in the route's order. Entries of other controllers are theirs.
    pub parents: Vec<RouteParentStatus>,
}

/// What one parent says of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteParentStatus {
    /// The reference, as the route has it.
    pub parent: ParentRef,
    /// Who says it.
    pub controller_name: Arc<str>,
    /// `Accepted`, `ResolvedRefs`, and `PartiallyInvalid` if it holds.
    pub conditions: Vec<Condition>,
}
