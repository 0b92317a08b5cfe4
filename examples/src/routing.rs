//! What the documents of the Gateway API come to, with the addresses that were allocated.

use std::collections::BTreeMap;

use gateway_router::compile::{Compiled, Resources};
use gateway_router::manifest;
use gateway_router::model::Backends;
use lbcore::condition::{Condition, Status};
use lbcore::id::OwnerKey;
use lbcore::manifest::Objects;
use lbcore::plan::Allocations;

use crate::files::CONTROLLER;

/// Conditions that say of something bad whether it is so.
const BAD_IF_TRUE: &[&str] = &["Conflicted", "OverlappingTLSConfig", "PartiallyInvalid"];

/// What is to be compiled.
pub fn resources(objects: &Objects, allocations: &Allocations) -> (Resources, Backends) {
    let mut addresses = BTreeMap::new();
    for (owner, grant) in &allocations.grants {
        if let (OwnerKey::Gateway(name), Some(allocation)) = (owner, &grant.allocation) {
            addresses.insert(name.clone(), allocation.addresses.clone());
        }
    }
    (manifest::resources(objects, CONTROLLER, addresses), manifest::backends(objects))
}

/// The conditions of all Gateways, listeners and routes that are not as wished.
pub fn unmet(compiled: &Compiled) -> Vec<(String, Condition)> {
    let mut found = Vec::new();
    let mut look = |about: &dyn Fn() -> String, conditions: &[Condition]| {
        for condition in conditions {
            let wished = if BAD_IF_TRUE.contains(&&*condition.kind) { Status::False } else { Status::True };
            if condition.status != wished {
                found.push((about(), condition.clone()));
            }
        }
    };
    let statuses = &compiled.statuses;
    for (name, class) in &statuses.classes {
        look(&|| format!("gatewayclass {name}"), &class.conditions);
    }
    for (name, gateway) in &statuses.gateways {
        look(&|| format!("gateway {name}"), &gateway.conditions);
        for listener in &gateway.listeners {
            look(&|| format!("gateway {name} listener {}", listener.name), &listener.conditions);
        }
    }
    for (name, route) in &statuses.routes {
        for parent in &route.parents {
            look(&|| format!("httproute {name}"), &parent.conditions);
        }
    }
    found
}
