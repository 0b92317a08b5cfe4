//! What the referee is told, and whom it may ask for what: by itself it knows only frames and answers.

use lbcore::time::Duration;

use super::World;
use crate::sim::neighbours::Kind;
use crate::sim::node::Node;
use crate::sim::referee::Heard;
use crate::sim::scenario::Mode;

impl World {
    /// Lets the referee know that things are not as before. `whose` state changed; `only` what that one owned is
    /// concerned.
    pub(super) fn disturb(&mut self, whose: Option<usize>, only: Option<usize>) {
        self.rewire();
        let scenario = &self.scenario;
        let listens = |node: &Node| {
            node.process.as_ref().is_some_and(|process| self.now < process.started + scenario.listening())
        };
        // Promise 2: a fresh process listens, and trusts a fresh link only after a while if it never heard anybody.
        let trusts = |node: &Node| {
            let process = node.process.as_ref().filter(|_| node.runs() && node.carrier);
            process.is_some_and(|process| process.trusts_a_link(self.now))
        };
        let ready = self.nodes.iter().any(trusts) && !self.nodes.iter().any(listens);
        let bound = match ready && self.splits.is_empty() {
            true => scenario.takeover(),
            false => scenario.alone(),
        };
        let (bound, calm) = (bound + scenario.healing(), scenario.calm() + scenario.healing());
        self.referee.disturbed(self.now, bound, calm, only);
        match whose {
            Some(node) => self.nodes[node].touched = self.now,
            None => self.nodes.iter_mut().for_each(|node| node.touched = self.now),
        }
    }

    pub(super) fn mislead(&mut self) {
        let torn = self.splits.iter().any(|split| split.gossip && (!split.segment || split.pair.is_some()));
        self.referee.mislead(torn && matches!(self.scenario.mode, Mode::Gossip(_)));
    }

    /// Whether two nodes must agree: leases hold everywhere; by gossip, those that hear each other.
    fn related(&self, a: usize, b: usize) -> bool {
        match self.scenario.mode {
            Mode::Lease(_) => true,
            Mode::Gossip(_) => {
                let there = |node: usize| self.nodes[node].runs() && self.nodes[node].carrier;
                let heard = !there(b) && self.splits.is_empty()
                    || self.gossip[a].is_some() && self.gossip[a] == self.gossip[b];
                heard && (self.reaches(a, b) || !there(b))
            }
        }
    }

    /// Whether somebody can own, whom `client` reaches, and who knows that: a cut that the nodes cannot notice is
    /// none that they could heal.
    pub(super) fn must_answer(&self, client: usize) -> bool {
        let port = self.nodes.len() + client;
        let there = |node: usize| self.nodes[node].runs() && self.nodes[node].carrier;
        let all_see = |node: usize| {
            (0..self.nodes.len()).filter(|other| there(*other)).all(|other| {
                let parted =
                    matches!(self.scenario.mode, Mode::Gossip(_)) && self.gossip[other] != self.gossip[node];
                parted || self.reaches(port, other)
            })
        };
        let whole = matches!(self.scenario.mode, Mode::Gossip(_)) || !self.outage;
        whole
            && (0..self.nodes.len())
                .any(|node| self.nodes[node].could_own() && self.reaches(port, node) && all_see(node))
    }

    pub(super) fn count_message(&mut self, node: usize) {
        let others = u64::try_from(self.nodes.len() - 1).unwrap_or(1);
        let limit = match self.scenario.mode {
            Mode::Gossip(timing) => {
                let rounds = 1_000_000_000 / u64::try_from(timing.interval.as_nanos()).unwrap_or(1).max(1);
                others * (rounds * 6 + 40)
            }
            Mode::Lease(_) => 20 * (others + 2),
        };
        self.referee.sent(self.now, node, limit);
    }

    pub(super) fn judge(&mut self, node: usize, address: usize, kind: Kind) {
        let name = self.referee.addresses[address];
        let term =
            self.nodes[node].process.as_ref().and_then(|process| process.term(name)).unwrap_or_default();
        let bits = |is: &dyn Fn(usize) -> bool| {
            (0..self.nodes.len()).filter(|other| is(*other)).fold(0_u32, |bits, other| bits | 1 << other)
        };
        let related = bits(&|other| self.related(node, other));
        let running = bits(&|other| self.nodes[other].runs() && self.nodes[other].carrier);
        self.referee.heard(self.now, Heard { node, address, kind, term, related, running });
        if kind != Kind::Answer {
            self.referee.unasked(self.now, node, &self.scenario);
        }
        if kind != Kind::Announcement {
            return;
        }
        let quiet = self.now > self.referee.quiet_at;
        let loads = (self.referee.speaker(address), self.referee.load(node));
        let Some(before) = self.referee.moved(address, node) else { return };
        // The count of `before` is without the address by now.
        let load = (self.referee.load(before) + 1, loads.1);
        if quiet {
            let calm = self.referee.quiet_at;
            self.referee.fail(|| {
                format!(
                    "{name} moves from n{} to n{}, though all was quiet from {calm:?} on",
                    before + 1,
                    node + 1
                )
            });
        }
        let untouched = |node: usize, span: Duration| self.now > self.nodes[node].touched + span;
        // One that stands still may have been given the address before it could say so.
        let settled = untouched(before, self.scenario.alone())
            && untouched(node, self.scenario.takeover())
            && !self.nodes.iter().any(|node| node.paused);
        let agrees = related >> before & 1 == 1 && self.splits.is_empty();
        let preferred = self.scenario.preferred == Some(node);
        if self.nodes[before].could_own() && settled && agrees && !preferred && load.0 < load.1 + 2 {
            self.referee.fail(|| {
                format!(
                    "{name} moves from n{}, which speaks for {} and is well, to n{}, which speaks for {}",
                    before + 1,
                    load.0,
                    node + 1,
                    load.1
                )
            });
        }
    }
}
