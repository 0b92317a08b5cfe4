//! Compiles resources into route tables and statuses. The [crate's page](crate) begins with an example.
//!
//! [`compile`] is a pure function of the whole: equal resources give equal tables and statuses, whatever their
//! order. A table is made for each Gateway, since two of them may listen on one port at different addresses; swap
//! all of them at once ([`World`](crate::proxy::World)), and no request sees half of a change.
//!
//! What is not supported is answered with a condition:
//! - A rule with a match that cannot be done (regular expressions) is dropped: its requests go to other rules.
//! - A rule with a filter or field that cannot be done answers 500, since a filter is never skipped.
//! - A route of which no rule can be done is not accepted; one of which some can has `PartiallyInvalid`.
//! - A listener whose protocol is not HTTP is not accepted.

mod gateway;
mod route;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lbcore::condition::Condition;
use lbcore::id::ObjectName;
use lbcore::labels::Labels;

use self::gateway::GatewayBuild;
pub use self::status::{
    ClassStatus, GatewayStatus, ListenerStatus, RouteParentStatus, RouteStatus, Statuses, condition, reason,
};
use crate::model::{Backends, Gateway, GatewayClass, HttpRoute, ReferenceGrant, ServicePort};
use crate::table::RouteTable;

/// Everything that routing depends on, but the [`Backends`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resources {
    /// The name of the controller: classes that bear it are ours.
    pub controller_name: Arc<str>,
    /// All GatewayClasses.
    pub classes: Vec<GatewayClass>,
    /// All Gateways, also those of others.
    pub gateways: Vec<Gateway>,
    /// All HTTPRoutes.
    pub routes: Vec<HttpRoute>,
    /// All ReferenceGrants.
    pub grants: Vec<ReferenceGrant>,
    /// The labels of namespaces. Each namespace has `kubernetes.io/metadata.name` besides.
    pub namespaces: BTreeMap<Arc<str>, Labels>,
    /// The addresses that Gateways have been given.
    pub addresses: BTreeMap<ObjectName, Vec<IpAddr>>,
}

impl Resources {
    /// No resources yet, for the controller `controller_name`.
    pub fn new(controller_name: &str) -> Self {
        Self {
            controller_name: controller_name.into(),
            classes: Vec::new(),
            gateways: Vec::new(),
            routes: Vec::new(),
            grants: Vec::new(),
            namespaces: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }
}

/// What [`compile`] makes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Compiled {
    /// The table of each Gateway of ours.
    pub tables: BTreeMap<ObjectName, Arc<RouteTable>>,
    /// The Service ports that rules refer to; a [`Backend`](crate::balance::Backend) names one by its place.
    pub services: Vec<ServicePort>,
    /// What to write into the resources' statuses.
    pub statuses: Statuses,
    /// What was passed over because it is somebody else's, or seems so: for a tool that has all resources at
    /// hand, and no other controller beside it, these are likely mistakes.
    pub notices: Vec<String>,
}

/// Compiles `resources`. Of `backends` it asks which Services and ports there are, not who serves them: when only
/// endpoints change, what was compiled stays good.
pub fn compile(resources: &Resources, backends: &Backends) -> Compiled {
    let mut statuses = Statuses::default();
    let mut notices = Vec::new();
    let mut ours = BTreeMap::new();
    for class in &resources.classes {
        if class.controller_name == resources.controller_name {
            ours.insert(class.name.clone(), class);
            statuses.classes.insert(class.name.clone(), class_status(class));
        }
    }

    let mut gateways = BTreeMap::new();
    for gateway in &resources.gateways {
        match ours.get(&gateway.class) {
            Some(class) => {
                gateways.insert(gateway.metadata.name.clone(), GatewayBuild::new(gateway, class));
            }
            None => notices.push(format!(
                "Gateway {} is passed over: its class {} is none of controller {}",
                gateway.metadata.name, gateway.class, resources.controller_name
            )),
        }
    }

    let mut services = Services::default();
    let mut routes: Vec<_> = resources.routes.iter().collect();
    routes.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    // The API has one object of a name; of several documents the first counts.
    routes.dedup_by(|later, first| later.metadata.name == first.metadata.name);
    for route in routes {
        let context = route::Context { resources, backends };
        if let Some(status) = route::compile(&context, route, &mut gateways, &mut services, &mut notices) {
            statuses.routes.insert(route.metadata.name.clone(), status);
        }
    }

    let mut tables = BTreeMap::new();
    for (name, build) in gateways {
        let addresses = resources.addresses.get(&name).map_or(&[][..], |addresses| addresses);
        let (table, status) = build.finish(addresses);
        tables.insert(name.clone(), Arc::new(table));
        statuses.gateways.insert(name, status);
    }
    Compiled { tables, services: services.list, statuses, notices }
}

fn class_status(class: &GatewayClass) -> ClassStatus {
    let accepted = if class.unsupported.is_empty() {
        Condition::yes(condition::ACCEPTED, reason::ACCEPTED, "")
    } else {
        let fields = class.unsupported.join(", ");
        Condition::no(
            condition::ACCEPTED,
            reason::INVALID_PARAMETERS,
            format!("{fields} is not supported: leave it out"),
        )
    };
    ClassStatus { observed_generation: class.generation, conditions: vec![accepted] }
}

/// Numbers Service ports in the order in which they are first referred to.
#[derive(Debug, Default)]
struct Services {
    list: Vec<ServicePort>,
    numbers: BTreeMap<ServicePort, u32>,
}

impl Services {
    fn number(&mut self, port: ServicePort) -> u32 {
        let next = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(port).or_insert_with_key(|port| {
            self.list.push(port.clone());
            next
        })
    }
}

/// The labels of `namespace`, with the one that every namespace has.
fn namespace_labels(resources: &Resources, namespace: &Arc<str>) -> Labels {
    let mut labels = resources.namespaces.get(namespace).cloned().unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name", namespace.clone());
    labels
}

/// A list for a message.
fn list<'s>(names: impl IntoIterator<Item = &'s str>) -> String {
    let names: BTreeSet<_> = names.into_iter().collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}
