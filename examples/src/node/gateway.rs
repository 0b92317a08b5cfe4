//! The Gateways of a node: their listeners, their routes and the proxy that serves them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use gateway_router::compile::{Compiled, Resources, compile};
use gateway_router::model::Backends;
use gateway_router::proxy::{self, Handle, Ingress, ListenerId, Proxy, World};
use lbcore::condition::Condition;
use lbcore::id::{ObjectName, OwnerKey};
use lbcore::manifest::Objects;
use lbcore::plan::Allocations;

use super::Stage;
use super::listen::listen;
use crate::routing;

/// Serves Gateways.
#[derive(Debug)]
pub struct Gateways {
    proxy: Handle,
    /// What the world in force was made of.
    source: Option<(Resources, Backends)>,
    compiled: Option<Compiled>,
    sockets: BTreeMap<SocketAddr, (Ingress, ListenerId)>,
}

/// What came of a [`Gateways::apply`].
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is not as wished, and about whom.
    pub conditions: Vec<(String, Condition)>,
    /// The Gateways that this node cannot serve.
    pub unready: BTreeSet<OwnerKey>,
}

impl Gateways {
    /// Starts the proxy, which has nothing to serve yet, for so many connections at once. Running requests get `grace`
    /// when it stops.
    pub(super) fn start(stage: &mut Stage, grace: Duration, connections: usize) -> Self {
        let mut config = proxy::Config::default();
        let connections = NonZeroUsize::new(connections).unwrap_or(NonZeroUsize::MIN);
        config.max_connections = config.max_connections.min(connections);
        config.drain_timeout = grace;
        let (proxy, driver) = Proxy::new(config);
        stage.spawn("serving gateways", |stop| async {
            driver.run(stop).await;
            Ok::<_, Infallible>(())
        });
        Self { proxy, source: None, compiled: None, sockets: BTreeMap::new() }
    }

    /// Serves what the documents say at the addresses that were allocated. A socket that stays open keeps its
    /// connections, and requests that are being served go on by the rules that they began with.
    pub fn apply(&mut self, objects: &Objects, allocations: &Allocations) -> Outcome {
        let source = routing::resources(objects, allocations);
        if self.source.as_ref() != Some(&source) {
            let (resources, backends) = &source;
            let compiled = compile(resources, backends);
            self.proxy.set(Arc::new(World::new(&compiled, backends)));
            self.compiled = Some(compiled);
            self.source = Some(source);
        }
        let mut outcome = Outcome::default();
        self.listen(&mut outcome);
        if let Some(compiled) = &self.compiled {
            outcome.conditions.extend(routing::unmet(compiled));
        }
        outcome
    }

    /// Lets the connections to each address end with their next answer, where `leaves` says that the address is or goes
    /// elsewhere.
    pub fn let_end(&self, leaves: impl Fn(IpAddr) -> bool) {
        for (socket, (_, id)) in &self.sockets {
            self.proxy.set_closing(*id, leaves(socket.ip()));
        }
    }

    /// Opens and closes sockets, so that each address of a Gateway listens on the ports of its listeners.
    fn listen(&mut self, outcome: &mut Outcome) {
        let mut wanted = BTreeMap::new();
        if let (Some((resources, _)), Some(compiled)) = (&self.source, &self.compiled) {
            for gateway in &resources.gateways {
                let name = &gateway.metadata.name;
                if !compiled.tables.contains_key(name) {
                    continue;
                }
                for address in addresses_of(resources, name) {
                    for listener in &gateway.listeners {
                        let ingress = Ingress::new(name.clone(), listener.port);
                        wanted.insert(SocketAddr::new(*address, listener.port), ingress);
                    }
                }
            }
        }
        self.sockets.retain(|socket, (ingress, id)| {
            let stays = wanted.get(socket) == Some(ingress);
            if !stays {
                self.proxy.close(*id);
            }
            stays
        });
        for (socket, ingress) in wanted {
            if self.sockets.contains_key(&socket) {
                continue;
            }
            let owner = OwnerKey::Gateway(ingress.gateway.clone());
            match listen(socket).and_then(|listener| self.proxy.listen(ingress.clone(), listener)) {
                Ok(id) => {
                    self.sockets.insert(socket, (ingress, id));
                }
                Err(error) => {
                    let why = format!(
                        "cannot listen on {socket}: {error}; the node is not eligible for this Gateway until it can"
                    );
                    outcome.conditions.push((owner.to_string(), Condition::no("Listening", "Refused", why)));
                    outcome.unready.insert(owner);
                }
            }
        }
    }
}

fn addresses_of<'r>(resources: &'r Resources, gateway: &ObjectName) -> &'r [IpAddr] {
    resources.addresses.get(gateway).map_or(&[], Vec::as_slice)
}
