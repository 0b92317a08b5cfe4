//! What befalls the cluster.

use lbcore::time::Duration;

use super::{LINKS, PLAN, World};
use crate::sim::node::Node;
use crate::sim::scenario::{Action, Mode};

/// How long the kernel takes to tell of a carrier.
const CARRIER: (u64, u64) = (1_000_000, 20_000_000);

impl World {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Kill(node) if self.nodes[node].process.is_some() => {
                self.tell(format!("n{} is killed", node + 1));
                self.kill(node);
                self.disturb(Some(node), Some(node));
            }
            Action::PowerOff(node) if self.nodes[node].on => {
                self.tell(format!("n{} loses its power", node + 1));
                let life = self.nodes[node].life;
                self.streams.retain(|(by, _), to| *by != node && *to != (node, life));
                self.nodes[node].on = false;
                self.end(node);
                self.disturb(Some(node), Some(node));
            }
            Action::Start(node) if self.nodes[node].process.is_none() => {
                self.tell(format!("n{} starts", node + 1));
                self.start(node);
                self.disturb(Some(node), None);
            }
            Action::Pause(node, span, within) if self.nodes[node].runs() => {
                if within {
                    self.tell(format!(
                        "n{} stands still for {span:?}, from its next batch of frames on",
                        node + 1
                    ));
                    self.nodes[node].pause_within = Some(span);
                } else {
                    self.tell(format!("n{} stands still for {span:?}", node + 1));
                    self.pause(node, span);
                }
            }
            Action::Resume(node) if self.nodes[node].paused => {
                self.tell(format!("n{} goes on", node + 1));
                // What was parted had not heard each other yet; and one that started meanwhile heard nothing of its terms.
                let healing = self.scenario.healing();
                let since = self.nodes[node].paused_at;
                let started =
                    |node: &Node| node.process.as_ref().is_some_and(|process| process.started >= since);
                if self.healed + healing >= since || self.nodes.iter().any(started) {
                    self.referee.lenient(self.now + healing);
                }
                self.resume(node);
                self.disturb(Some(node), None);
            }
            Action::Cable(node, carrier) if self.nodes[node].carrier != carrier => {
                self.tell(format!("the cable of n{} is {}", node + 1, if carrier { "in" } else { "out" }));
                self.nodes[node].carrier = carrier;
                let after = self.random(CARRIER);
                self.wish(node, LINKS, after);
                self.disturb(Some(node), if carrier { None } else { Some(node) });
                if carrier {
                    self.referee.lenient(self.now + self.scenario.healing());
                }
            }
            Action::Split(split) => {
                let what = match (split.gossip, split.segment) {
                    (true, true) => "",
                    (true, false) => ", for gossip",
                    _ => ", for ARP and NDP",
                };
                match split.pair {
                    Some((a, b)) => {
                        self.tell(format!("n{} and n{} do not hear each other{what}", a + 1, b + 1));
                    }
                    None => self.tell(format!("the network is cut{what}: {}", self.sides(split.side))),
                }
                if self.splits.is_empty() {
                    self.parted = self.now;
                }
                self.splits.push(split);
                self.disturb(None, None);
                self.mislead();
            }
            Action::Heal(number) => {
                if let Some(at) = self.splits.iter().position(|split| split.number == number) {
                    let split = self.splits.remove(at);
                    self.healed = self.now;
                    self.tell("the network is whole again".to_owned());
                    self.disturb(None, None);
                    let never_met = |node: &Node| {
                        node.process.as_ref().is_some_and(|process| process.started >= self.parted)
                    };
                    let greeting = if self.nodes.iter().any(never_met) {
                        self.scenario.greeting()
                    } else {
                        Duration::ZERO
                    };
                    self.referee.lenient(self.now + self.scenario.healing() + greeting);
                    if split.segment != split.gossip || matches!(self.scenario.mode, Mode::Lease(_)) {
                        self.mislead();
                    }
                }
            }
            Action::Drain(node, draining) => {
                self.tell(format!("n{} {}", node + 1, if draining { "drains" } else { "takes part again" }));
                self.nodes[node].draining = draining;
                self.wish(node, PLAN, Duration::ZERO);
                self.disturb(Some(node), draining.then_some(node));
            }
            Action::Ready(node, ready) => {
                self.tell(format!("the checks of n{} {}", node + 1, if ready { "succeed" } else { "fail" }));
                self.nodes[node].ready = ready;
                self.wish(node, PLAN, Duration::ZERO);
                self.disturb(Some(node), (!ready).then_some(node));
            }
            Action::Restart(node) if self.nodes[node].runs() => {
                self.tell(format!("n{} is to stop and start again", node + 1));
                self.nodes[node].restarting = true;
                let local = self.local(node);
                if let Some(process) = &mut self.nodes[node].process {
                    process.leaving = true;
                    process.brain.leave(local);
                }
                self.pump_elector(node);
                self.disturb(Some(node), Some(node));
            }
            Action::Outage(outage) if self.outage != outage => {
                self.tell(format!("the store {}", if outage { "is out of reach" } else { "is back" }));
                self.outage = outage;
                self.disturb(None, None);
            }
            // It cannot happen to one that is not there.
            _ => {}
        }
    }

    fn sides(&self, side: u32) -> String {
        let name = |port: usize| match port.checked_sub(self.nodes.len()) {
            Some(client) => format!("c{}", client + 1),
            None => format!("n{}", port + 1),
        };
        let ports = || 0..self.nodes.len() + self.clients.len();
        let of = |bit: u32| {
            ports().filter(|port| (side >> port) & 1 == bit).map(name).collect::<Vec<_>>().join(" ")
        };
        format!("{} | {}", of(1), of(0))
    }
}
