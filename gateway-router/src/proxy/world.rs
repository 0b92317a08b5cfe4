//! Everything that a request is served by, in one immutable value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lbcore::id::ObjectName;

use crate::balance::{Backend, Endpoints, Split};
use crate::compile::Compiled;
use crate::model::Backends;
use crate::rule::Rule;
use crate::table::RouteTable;

/// The tables of all Gateways and the endpoints of all their backends: one snapshot.
#[derive(Debug, Default)]
pub struct World {
    gateways: BTreeMap<ObjectName, GatewayWorld>,
    services: Vec<ServiceWorld>,
    addresses: BTreeSet<SocketAddr>,
}

#[derive(Debug)]
pub(super) struct GatewayWorld {
    pub(super) table: Arc<RouteTable>,
    /// The next ticket of each rule, by its number.
    turns: Box<[AtomicU64]>,
}

#[derive(Debug)]
struct ServiceWorld {
    endpoints: Endpoints,
    turn: AtomicU64,
}

impl World {
    /// The world of `compiled` while `backends` are as they are. When only endpoints change, make another of the same
    /// `compiled`.
    pub fn new(compiled: &Compiled, backends: &Backends) -> Self {
        let gateways = compiled.tables.iter().map(|(name, table)| {
            let turns = table.targets().iter().map(|_| AtomicU64::new(0)).collect();
            (name.clone(), GatewayWorld { table: Arc::clone(table), turns })
        });
        let services: Vec<_> = compiled
            .services
            .iter()
            .map(|port| {
                let endpoints = backends.get(port).map(|spec| spec.endpoints.clone()).unwrap_or_default();
                ServiceWorld { endpoints: Endpoints::new(port.clone(), endpoints), turn: AtomicU64::new(0) }
            })
            .collect();
        let addresses = services.iter().flat_map(|service| service.endpoints.addresses()).copied().collect();
        Self { gateways: gateways.collect(), services, addresses }
    }

    pub(super) fn gateway(&self, name: &ObjectName) -> Option<&GatewayWorld> {
        self.gateways.get(name)
    }

    pub(super) fn has_endpoint(&self, address: &SocketAddr) -> bool {
        self.addresses.contains(address)
    }

    /// The endpoints of service `number`, from the one whose turn it is.
    pub(super) fn endpoints(&self, number: u32, first_ticket: u64) -> impl Iterator<Item = SocketAddr> {
        let service = self.services.get(number as usize);
        let ticket = service.map_or(0, |service| service.turn.fetch_add(1, Ordering::Relaxed));
        let count = service.map_or(0, |service| service.endpoints.addresses().len() as u64);
        let ticket = ticket.wrapping_add(first_ticket);
        (0..count).filter_map(move |more| service?.endpoints.pick(ticket.wrapping_add(more)))
    }
}

impl GatewayWorld {
    /// The backend of `rule` whose turn it is.
    pub(super) fn pick<'s>(&self, rule: &Rule, split: &'s Split, first_ticket: u64) -> Option<&'s Backend> {
        let turn = self.turns.get(rule.number as usize)?.fetch_add(1, Ordering::Relaxed);
        split.pick(turn.wrapping_add(first_ticket))
    }
}
