//! What the machine says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lbcore::announce::{AnnounceState, AnnounceStatus, Announcement, Interfaces};
use lbcore::condition::Condition;
use lbcore::elect::Owner;
use lbcore::id::InterfaceName;

use super::detect::Check;
use super::interface::Port;
use super::{Conflict, Responder, Voice, is_usable};

impl Responder {
    /// What the network is being told. Costs a pass over all addresses; ask when
    /// [`status_version`](Self::status_version) changed.
    pub fn status(&self) -> AnnounceStatus {
        let mut status = AnnounceStatus::default();
        status.generation = self.desired.generation;
        let entries = self.desired.entries.iter();
        status.entries = entries.map(|(address, wanted)| (*address, self.state(*address, wanted))).collect();
        status.conditions = self.interface_conditions();
        status
            .conditions
            .extend(self.conflicts.iter().map(|(address, conflict)| duplicate(*address, conflict)));
        status
    }

    fn state(&self, address: IpAddr, wanted: &Announcement) -> AnnounceState {
        let silent = |reason, message| AnnounceState::Silent(Condition::no("Announced", reason, message));
        let Some(entry) = self.entries.get(&address).filter(|_| is_usable(address)) else {
            return silent("UnusableAddress", format!("no host on a segment can have the address {address}"));
        };
        let Some(lease) = wanted.lease else {
            let message = "only one node may answer for an address on a segment: give it a lease".to_owned();
            return silent("LeaseRequired", message);
        };
        match entry.voice {
            Voice::Speaking | Voice::Checking => {}
            Voice::Taken => return silent("AddressInUse", self.who_has(address)),
            Voice::Silent => {
                return match &entry.outranked {
                    Some(Owner { node, term, .. }) => silent(
                        "Outranked",
                        format!("node {node} owns it by {term}, this one by {}", entry.term),
                    ),
                    None => silent("LeaseNotHeld", format!("{lease} was not renewed, or has run out")),
                };
            }
        }
        let ports = self.ports.values().filter(|port| port.interface.up);
        let ports = ports.filter(|port| entry.chosen.contains(port.interface.index));
        let (to, others): (Vec<&Port>, Vec<&Port>) =
            ports.partition(|port| entry.speaks_on(port.interface.index));
        if !to.is_empty() {
            let names = to.iter().map(|port| Arc::from(port.interface.name.as_str()));
            return AnnounceState::Announced { to: names.collect() };
        }
        let is_taken =
            |port: &&Port| matches!(entry.checks.get(&port.interface.index), Some(Check::Taken { .. }));
        if others.iter().any(is_taken) {
            return silent("AddressInUse", self.who_has(address));
        }
        if !others.is_empty() {
            let message = "asking on the segment whether another host has it".to_owned();
            return silent("Probing", message);
        }
        let message = match &wanted.interfaces {
            Interfaces::All => "no interface is up".to_owned(),
            Interfaces::Only(names) => format!("none of its interfaces is up: {}", list(names)),
        };
        silent("NoInterface", message)
    }

    fn who_has(&self, address: IpAddr) -> String {
        match self.conflicts.get(&address) {
            Some(Conflict { interface, claimant, .. }) => {
                format!("{} has it already, on {interface}", claimant.mac)
            }
            None => "another host had it when it was to be taken".to_owned(),
        }
    }

    /// What is wrong with the interfaces that addresses ask for by name.
    fn interface_conditions(&self) -> Vec<Condition> {
        let known: BTreeMap<&InterfaceName, bool> =
            self.ports.values().map(|port| (&port.interface.name, port.interface.up)).collect();
        let mut conditions = Vec::new();
        if known.is_empty() && !self.desired.entries.is_empty() {
            let message = "there is no interface to announce on; check which ones the configuration selects";
            conditions.push(Condition::no("InterfaceReady", "NoInterface", message));
        }
        for (name, up) in &known {
            if !up {
                let message = format!("interface {name} is down or has no carrier");
                conditions.push(Condition::no("InterfaceReady", "InterfaceDown", message));
            }
        }
        let wanted = self.desired.entries.values().map(|entry| &entry.interfaces);
        let named: BTreeSet<&InterfaceName> = wanted
            .chain(self.desired.standby.values())
            .filter_map(|interfaces| match interfaces {
                Interfaces::Only(names) => Some(names),
                Interfaces::All => None,
            })
            .flatten()
            .collect();
        for name in named.into_iter().filter(|name| !known.contains_key(name)) {
            let message =
                format!("interface {name} does not exist, is not selected, or cannot be announced on");
            conditions.push(Condition::no("InterfaceReady", "InterfaceMissing", message));
        }
        conditions
    }
}

fn list(names: &BTreeSet<InterfaceName>) -> String {
    let names: Vec<&str> = names.iter().map(InterfaceName::as_str).collect();
    names.join(", ")
}

fn duplicate(address: IpAddr, conflict: &Conflict) -> Condition {
    let Conflict { interface, claimant, .. } = conflict;
    match &claimant.member {
        Some(node) => Condition::yes(
            "DuplicateAddress",
            "ClaimedByMember",
            format!("node {node} ({}) also claims {address} on {interface}", claimant.mac),
        ),
        None => Condition::yes(
            "DuplicateAddress",
            "ClaimedByStranger",
            format!(
                "{} also claims {address} on {interface}: find the host with that hardware address and give it \
                 another address, or take {address} out of the pool; if it is a node of ours, let it elect with us",
                claimant.mac
            ),
        ),
    }
}
