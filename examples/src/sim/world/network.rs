//! Who reaches whom, and the way of what is sent: messages of the electors, requests to the store, frames on the
//! segment.

use std::net::SocketAddr;
use std::sync::Arc;

use announce_l2::machine::{self as l2, Transmit};
use announce_l2::wire::{FrameBuf, MacAddr};
use elect_gossip::machine as gossip;
use elect_lease::machine as lease;
use elect_lease::{Fetched, Versioned};
use lbcore::elect::lease::Revision;
use lbcore::time::Duration;

use super::{Event, OBSERVER, SOCKET, World};
use crate::sim::neighbours::Word;
use crate::sim::node::{Arrival, INTERFACE};

impl World {
    /// Finds out anew who hears whom.
    pub(super) fn rewire(&mut self) {
        let count = self.nodes.len();
        let mut groups: Vec<Option<usize>> = (0..count)
            .map(|node| (self.nodes[node].runs() && self.nodes[node].carrier).then_some(node))
            .collect();
        for _ in 0..count {
            for a in 0..count {
                for b in 0..count {
                    if let (Some(left), Some(right)) = (groups[a], groups[b])
                        && self.hears(a, b)
                    {
                        let both = Some(left.min(right));
                        (groups[a], groups[b]) = (both, both);
                    }
                }
            }
        }
        let before = std::mem::replace(&mut self.gossip, groups);
        let joined = (0..count).any(|a| {
            (0..a).any(|b| {
                let parted = before[a].zip(before[b]).is_some_and(|(a, b)| a != b);
                parted && self.gossip[a].is_some() && self.gossip[a] == self.gossip[b]
            })
        });
        if joined {
            self.referee.lenient(self.now + self.scenario.healing());
        }
    }

    /// Whether what one node sends to the other for the elector arrives.
    pub(super) fn hears(&self, a: usize, b: usize) -> bool {
        let cut = self.splits.iter().any(|split| split.gossip && split.parts(a, b));
        !cut && self.nodes[a].carrier && self.nodes[b].carrier
    }

    /// Whether frames go from one port of the segment to the other. Ports are nodes, then clients.
    pub(super) fn reaches(&self, a: usize, b: usize) -> bool {
        let plugged = |port: usize| self.nodes.get(port).is_none_or(|node| node.carrier);
        let cut = self.splits.iter().any(|split| split.segment && split.parts(a, b));
        !cut && plugged(a) && plugged(b)
    }

    pub(super) fn gossip(&mut self, node: usize, output: gossip::Output) {
        match output {
            gossip::Output::Datagram { to, bytes } => {
                self.count_message(node);
                let Some(to) = self.nodes.iter().position(|node| node.address == to) else { return };
                if !self.hears(node, to) || self.happens(self.scenario.net.loss) {
                    return;
                }
                let (from, bytes) = (self.nodes[node].address, Arc::<[u8]>::from(bytes));
                let copies = if self.happens(self.scenario.net.duplication) { 2 } else { 1 };
                for _ in 0..copies {
                    let at = self.now + self.delay();
                    let (arrival, life) = (Arrival::Datagram(from, bytes.clone()), self.nodes[to].life);
                    self.push(at, Event::Arrive { to, life, arrival });
                }
            }
            gossip::Output::Connect { to, stream } => self.connect(node, to, stream),
            gossip::Output::Disconnect { stream } => {
                self.streams.remove(&(node, stream));
            }
            _ => {}
        }
    }

    fn connect(&mut self, node: usize, to: SocketAddr, stream: u64) {
        let Some(target) = self.nodes.iter().position(|node| node.address == to) else { return };
        let (life, round_trip) = (self.nodes[target].life, self.scenario.net.delay.1 * 2);
        let up = self.nodes[target].process.is_some();
        let (event, after) = if !self.hears(node, target) || !self.nodes[target].on {
            (gossip::StreamEvent::Failed, Duration::from_secs(1))
        } else if up || self.now < self.nodes[target].lingers {
            (gossip::StreamEvent::Opened, round_trip)
        } else {
            (gossip::StreamEvent::Refused, round_trip)
        };
        let mine = self.nodes[node].life;
        let arrival = Arrival::Stream(stream, event);
        self.push(self.now + after, Event::Arrive { to: node, life: mine, arrival });
        if event == gossip::StreamEvent::Opened {
            if up {
                self.streams.insert((node, stream), (target, life));
            } else {
                let after = after.max(self.nodes[target].lingers.saturating_since(self.now));
                let arrival = Arrival::Stream(stream, gossip::StreamEvent::Closed);
                self.push(self.now + after, Event::Arrive { to: node, life: mine, arrival });
            }
        }
    }

    /// A request sets out for the store.
    pub(super) fn inquire(&mut self, node: usize, request: lease::Request) {
        self.count_message(node);
        if self.outage || !self.nodes[node].carrier || self.happens(self.scenario.net.loss) {
            return;
        }
        let (at, life) = (self.now + self.delay() + Duration::from_millis(1), self.nodes[node].life);
        self.push(at, Event::Store { node, life, request });
    }

    pub(super) fn serve(&mut self, node: usize, life: u64, request: lease::Request) {
        let lease::Request { id, operation } = request;
        let answer = match operation {
            lease::Operation::List { prefix } => {
                let listed = self.store.iter().filter(|(key, _)| key.starts_with(&prefix));
                lease::Answer::Listed(listed.map(|(key, value)| (key.clone(), value.clone())).collect())
            }
            lease::Operation::Get { key, unless } => lease::Answer::Fetched(match self.store.get(&key) {
                None => Fetched::Absent,
                Some(found) if Some(&found.revision) == unless.as_ref() => Fetched::Unchanged,
                Some(found) => Fetched::Found(found.clone()),
            }),
            lease::Operation::Swap { key, expected, value } => {
                if self.store.get(&key).map(|stored| &stored.revision) == expected.as_ref() {
                    self.revision += 1;
                    let revision = Revision::from(self.revision);
                    self.store.insert(key, Versioned { revision: revision.clone(), value });
                    lease::Answer::Swapped(revision)
                } else {
                    lease::Answer::Conflict
                }
            }
        };
        if self.outage || !self.nodes[node].carrier || self.happens(self.scenario.net.loss) {
            return;
        }
        let at = self.now + self.delay();
        self.push(at, Event::Arrive { to: node, life, arrival: Arrival::Answer(id, answer) });
    }

    /// A frame of a node goes out. `escaped`: it belongs to the batch within which its process stood still.
    pub(super) fn transmit(&mut self, node: usize, transmit: &Transmit, escaped: bool) {
        let frame = transmit.frame;
        let Some(word) = Word::parse(frame.as_bytes()) else { return };
        let Some(address) = self.referee.index(word.address) else { return };
        if self.trace {
            let note = if escaped { " (escaped)" } else { "" };
            crate::sim::trace(format_args!(
                "{:?} n{} says {} is at {}: {:?}{note}",
                self.now,
                node + 1,
                word.address,
                word.mac,
                word.kind
            ));
        }
        if !self.nodes[node].carrier {
            return;
        }
        if escaped {
            self.referee.figures.escaped += 1;
        } else {
            self.judge(node, address, word.kind);
        }
        self.deliver(node, frame);
    }

    pub(super) fn deliver(&mut self, from: usize, frame: FrameBuf) {
        let bytes = frame.as_bytes();
        let Some(destination) = bytes.first_chunk::<6>().map(|mac| MacAddr(*mac)) else { return };
        let count = self.nodes.len();
        if destination == OBSERVER {
            if let Some(word) = Word::parse(bytes) {
                let at = self.now + self.delay();
                let client = self.referee.index(word.address).and_then(|address| self.asked.get(&address));
                if client.is_some_and(|(client, _)| self.reaches(from, count + client)) {
                    self.push(at, Event::Answered { word });
                }
            }
            return;
        }
        for to in 0..count + self.clients.len() {
            let mac = if to < count { self.nodes[to].mac } else { self.clients[to - count].mac };
            let wanted = destination == mac || destination.is_group();
            if to != from && wanted && self.reaches(from, to) && self.is_member(to, destination) {
                self.send(from, to, frame);
            }
        }
    }

    /// Whether the switch delivers frames for that group there.
    fn is_member(&self, to: usize, destination: MacAddr) -> bool {
        let solicited = destination.0.starts_with(&[0x33, 0x33, 0xff]);
        if !self.scenario.snooping || !solicited {
            return true;
        }
        let process = self.nodes.get(to).and_then(|node| node.process.as_ref());
        process.is_some_and(|process| {
            process.groups.iter().any(|group| MacAddr::of_ipv6_group(*group) == destination)
        })
    }

    fn send(&mut self, from: usize, to: usize, frame: FrameBuf) {
        let count = self.nodes.len();
        if self.happens(self.scenario.net.loss) {
            let client = [from, to].into_iter().find_map(|port| port.checked_sub(count));
            if let Some(client) = client {
                let about = match Word::parse(frame.as_bytes()) {
                    Some(word) => self.referee.index(word.address),
                    None => None,
                };
                let about = about.map_or(0..self.referee.addresses.len(), |address| address..address + 1);
                for address in about {
                    self.referee.lost(self.now, client, address);
                }
            }
            return;
        }
        let life = self.nodes.get(to).map_or(0, |node| node.life);
        let copies = if self.happens(self.scenario.net.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            let at = self.now + self.delay();
            self.push(at, Event::Frame { to, from, life, frame });
        }
    }

    pub(super) fn frame(&mut self, to: usize, from: usize, life: u64, frame: FrameBuf) {
        let local = if to < self.nodes.len() { self.local(to) } else { self.now };
        if let Some(client) = to.checked_sub(self.nodes.len()) {
            return self.tell_client(client, from, frame);
        }
        let it = &mut self.nodes[to];
        let Some(process) = it.process.as_mut().filter(|_| it.life == life) else { return };
        if it.paused {
            if it.frames.len() < SOCKET {
                it.frames.push_back((local, frame));
            }
            return;
        }
        let frame = l2::Frame { interface: INTERFACE, received: local, bytes: frame.as_bytes() };
        process.responder.handle(local, l2::Input::Frame(frame));
        if process.responder.poll_timeout().is_some_and(|due| due <= local) {
            process.responder.handle_timeout(local);
        }
        self.pump_announcer(to);
    }

    fn tell_client(&mut self, client: usize, from: usize, frame: FrameBuf) {
        let Some(word) = Word::parse(frame.as_bytes()) else { return };
        let mine = frame.as_bytes().starts_with(&self.clients[client].mac.0);
        self.clients[client].cache.hear(self.now, word, mine);
        if from < self.nodes.len()
            && let Some(address) = self.referee.index(word.address)
        {
            self.referee.told(client, address, from);
        }
    }
}
