//! The clients, and the observer that asks on their behalf.

use std::net::IpAddr;

use announce_l2::wire::MacAddr;
use lbcore::time::Duration;

use super::{Event, OBSERVER, OBSERVER_V4, OBSERVER_V6, World};
use crate::sim::neighbours::Neighbours;

/// How often it is asked on behalf of the clients who answers; longer than a frame is under way.
const QUESTIONS: Duration = Duration::from_millis(16);
/// How many questions at once.
const AT_ONCE: usize = 6;

impl World {
    pub(super) fn request(&mut self, client: usize) {
        let now = self.now;
        let it = &mut self.clients[client];
        let address = it.watched[it.next % it.watched.len()];
        it.next += 1;
        let rounds = u32::try_from(it.watched.len()).unwrap_or(1);
        let name = self.referee.addresses[address];
        let mac = it.cache.resolve(now, name);
        let success = mac.is_some_and(|mac| self.answers(client, mac, name));
        if success && self.scenario.caches.confirms {
            self.clients[client].cache.confirm(now, name);
        }
        let must = self.must_answer(client);
        let bound = self.scenario.handover()
            + self.scenario.paced()
            + self.scenario.net.delay.1 * 2
            + self.scenario.period * rounds
            + Duration::from_millis(5);
        self.referee.requested(now, client, address, success, (must, bound));
        self.pump_cache(client);
        self.push(now + self.scenario.period, Event::Request { client });
    }

    /// Whether the one whom a packet for `address` reaches answers it.
    fn answers(&self, client: usize, mac: MacAddr, address: IpAddr) -> bool {
        let Some(node) = self.nodes.iter().position(|node| node.mac == mac) else { return false };
        let it = &self.nodes[node];
        let Some(process) = it.process.as_ref().filter(|_| !it.paused) else { return false };
        let serves = process.owns(self.local(node), address) || it.draining || process.leaving;
        serves && self.reaches(self.nodes.len() + client, node)
    }

    pub(super) fn pump_cache(&mut self, client: usize) {
        let port = self.nodes.len() + client;
        while let Some(frame) = self.clients[client].cache.poll_output() {
            self.deliver(port, frame);
        }
        let it = &mut self.clients[client];
        let due = it.cache.poll_timeout();
        if let Some(due) = due
            && it.timer.is_none_or(|timer| due < timer)
        {
            it.timer = Some(due);
            self.push(due, Event::Cache { client });
        }
    }

    /// Asks who answers, on behalf of the clients. No such question is lost.
    pub(super) fn ask(&mut self) {
        for (address, (client, asked)) in std::mem::take(&mut self.asked) {
            let must = self.must_answer(client);
            self.referee.unanswered(asked, client, address, must, self.scenario.handover());
        }
        let (clients, count) = (self.clients.len(), self.referee.addresses.len());
        let unanswered =
            |(client, address): &(usize, usize)| self.referee.clients[*client][*address].unanswered.is_some();
        let all = (0..clients).flat_map(|client| (0..count).map(move |address| (client, address)));
        let mut pairs: Vec<(usize, usize)> = all.filter(unanswered).collect();
        pairs.truncate(AT_ONCE);
        for _ in 0..2 {
            pairs.push((self.turn % clients, self.turn / clients % count));
            self.turn += 1;
        }
        for (client, address) in pairs {
            if self.asked.contains_key(&address) {
                continue;
            }
            self.asked.insert(address, (client, self.now));
            let name = self.referee.addresses[address];
            let frame = Neighbours::question(OBSERVER, OBSERVER_V4, OBSERVER_V6, name, None);
            for to in 0..self.nodes.len() {
                if self.reaches(self.nodes.len() + client, to) {
                    let (at, life) = (self.now + self.delay(), self.nodes[to].life);
                    self.push(at, Event::Frame { to, from: usize::MAX, life, frame });
                }
            }
        }
        self.push(self.now + QUESTIONS, Event::Questions);
    }
}
