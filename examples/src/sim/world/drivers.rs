//! What the drivers of a process's machines do: turns of tasks, timers, what goes in and what comes out.

use std::collections::BTreeSet;

use lbcore::time::{Duration, Instant};
use rand::RngExt;

use super::{ANNOUNCER, BATCH, ELECTOR, Event, LINKS, MAIL, PLAN, SOCKET, World};
use crate::sim::node::{Arrival, Deed};
use crate::sim::scenario::{Action, Fake};

/// How long a task waits for its turn, at most. Three of them lie between an elector's word and its announcer's
/// silence, within the pause of a hand-over.
const TURN: (u64, u64) = (10_000, 300_000);

impl World {
    /// Asks for a turn of a task, soon.
    pub(super) fn wish(&mut self, node: usize, task: usize, after: Duration) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if task != LINKS && std::mem::replace(&mut process.turns[task], true) {
            return;
        }
        process.turns[task] = true;
        let life = self.nodes[node].life;
        let at = self.now + after + self.random(TURN);
        self.push(at, Event::Turn { node, life, task });
    }

    pub(super) fn wish_anew(&mut self, node: usize, task: usize) {
        if let Some(process) = &mut self.nodes[node].process {
            process.turns[task] = false;
        }
        self.wish(node, task, Duration::ZERO);
    }

    pub(super) fn turn(&mut self, node: usize, life: u64, task: usize) {
        let local = self.local(node);
        let it = &mut self.nodes[node];
        if it.life != life || it.paused {
            return;
        }
        let Some(process) = &mut it.process else { return };
        // A turn that was taken in the meantime. (Of the interfaces each change is told.)
        if !std::mem::take(&mut process.turns[task]) && task != LINKS {
            return;
        }
        match task {
            LINKS => {
                process.set_links(local, it.mac, it.carrier);
                self.wish(node, PLAN, Duration::ZERO);
                self.pump_announcer(node);
            }
            MAIL => {
                process.take_mail(local);
                self.pump_announcer(node);
            }
            _ => self.plan(node, local),
        }
    }

    fn plan(&mut self, node: usize, local: Instant) {
        let restless = node == 0 && self.scenario.fake == Fake::Restless;
        let it = &mut self.nodes[node];
        let Some(process) = &mut it.process else { return };
        let mut how = (it.ready, it.draining);
        if restless {
            how.1 = (self.now.as_nanos() / 700_000_000).is_multiple_of(2);
        }
        let (mail, told, again) = process.plan(&it.name, local, &self.documents, &self.allocations, how);
        let life = it.life;
        let clock = it.clock;
        if mail {
            self.wish(node, MAIL, Duration::ZERO);
        }
        if told {
            self.pump_elector(node);
        }
        if let Some(again) = again {
            let after = clock.reaches(again).saturating_since(self.now);
            self.push(self.now + after, Event::Due { node, life });
        }
        if restless {
            self.wish(node, PLAN, Duration::from_millis(100));
        }
    }

    pub(super) fn timer(&mut self, node: usize, life: u64, which: usize) {
        let local = self.local(node);
        let now = self.now;
        let it = &mut self.nodes[node];
        let Some(process) = it.process.as_mut().filter(|_| it.life == life && !it.paused) else { return };
        if process.timers[which] != Some(now) {
            return;
        }
        process.timers[which] = None;
        if which == ELECTOR {
            if process.brain.due().is_some_and(|due| due <= local) {
                process.brain.timeout(local);
            }
            self.pump_elector(node);
        } else {
            if process.responder.poll_timeout().is_some_and(|due| due <= local) {
                process.responder.handle_timeout(local);
            }
            self.pump_announcer(node);
        }
    }

    /// Sets a timer anew, if what it is for has moved.
    fn set_timer(&mut self, node: usize, which: usize) {
        let lag = u64::try_from(self.scenario.net.lag.as_nanos()).unwrap_or(0);
        let it = &self.nodes[node];
        let Some(process) = &it.process else { return };
        let due = match which {
            ELECTOR => process.brain.due(),
            _ => process.responder.poll_timeout(),
        };
        let Some(due) = due.filter(|due| *due != Instant::FAR_FUTURE) else { return };
        let due = it.clock.reaches(due).max(self.now);
        let set = process.timers[which];
        if set.is_some_and(|set| set <= due) {
            return;
        }
        let life = it.life;
        let at = due + self.random((0, lag));
        // One that is set for a moment later, within the lag, will do.
        if set.is_some_and(|set| set <= at) {
            return;
        }
        let at = at.max(self.now + Duration::from_nanos(1));
        if let Some(process) = &mut self.nodes[node].process {
            process.timers[which] = Some(at);
        }
        self.push(at, Event::Timer { node, life, which });
    }

    pub(super) fn arrive(&mut self, to: usize, life: u64, arrival: Arrival) {
        let local = self.local(to);
        let it = &mut self.nodes[to];
        // A datagram reaches whoever has the address; the rest is for one process.
        if it.life != life && !matches!(arrival, Arrival::Datagram(..)) {
            return;
        }
        let Some(process) = &mut it.process else { return };
        if it.paused {
            if it.datagrams.len() < SOCKET {
                it.datagrams.push_back(arrival);
            }
            return;
        }
        process.brain.handle(local, arrival);
        if process.brain.due().is_some_and(|due| due <= local) {
            process.brain.timeout(local);
        }
        self.pump_elector(to);
    }

    /// As the elector's driver: what it has to say first, then what it wants sent.
    pub(super) fn pump_elector(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let said = process.listen();
        let mut deeds = Vec::new();
        while let Some(deed) = process.brain.deed() {
            deeds.push(deed);
        }
        if self.trace {
            for notice in &said.notices {
                self.say(|| format!("n{} elector: {notice}", node + 1));
            }
            if said.ownership
                && let Some(process) = &self.nodes[node].process
            {
                let (mine, members) = (&process.ownership.mine, process.ownership.members.len());
                let mine: Vec<_> = mine.keys().map(ToString::to_string).collect();
                self.say(|| format!("n{} owns {mine:?}, {members} members", node + 1));
            }
        }
        if said.notices.iter().any(|notice| notice == "LeaseLost") {
            self.lease_lost(node);
        }
        if said.ownership {
            self.wish(node, PLAN, Duration::ZERO);
        }
        if said.renewals {
            self.wish(node, MAIL, Duration::ZERO);
        }
        for deed in deeds {
            match deed {
                Deed::Gossip(output) => self.gossip(node, output),
                Deed::Lease(request) => self.inquire(node, request),
            }
        }
        if said.left {
            self.tell(format!("n{} has left", node + 1));
            self.kill(node);
            let at = self.now + Duration::from_millis(self.rng.random_range(20..200));
            self.push(at, Event::Act(Action::Start(node)));
            self.disturb(Some(node), Some(node));
            return;
        }
        self.set_timer(node, ELECTOR);
    }

    /// Without a fault that happens only if all answers of a lease's time are lost.
    fn lease_lost(&mut self, node: usize) {
        if self.now > self.referee.quiet_at && self.scenario.net.loss == 0 {
            self.referee.fail(|| format!("n{} loses its lease, and nothing is wrong", node + 1));
        }
        self.tell(format!("n{} loses its lease", node + 1));
        self.disturb(Some(node), Some(node));
    }

    /// As the announcer's driver: frames whose time has passed are not sent.
    pub(super) fn pump_announcer(&mut self, node: usize) {
        let local = self.local(node);
        let silent = node == 0 && self.scenario.fake == Fake::NeverAnnounces;
        let mut sent = BTreeSet::new();
        loop {
            let it = &mut self.nodes[node];
            let Some(process) = &mut it.process else { return };
            let mut unsent = Vec::new();
            while unsent.len() < BATCH
                && let Some(transmit) = process.responder.poll_output()
            {
                unsent.push(transmit);
            }
            while let Some(event) = process.responder.poll_event() {
                if self.trace {
                    crate::sim::trace(format_args!("{:?} n{} announcer: {event:?}", self.now, node + 1));
                }
            }
            if unsent.is_empty() {
                break;
            }
            let before = unsent.len();
            unsent.retain(|transmit| local < transmit.deadline);
            (unsent.len()..before).for_each(|_| process.responder.note_expired());
            if !unsent.is_empty()
                && let Some(span) = it.pause_within.take()
            {
                it.caught = unsent;
                self.tell(format!("n{} stands still within a batch", node + 1));
                return self.pause(node, span);
            }
            for transmit in unsent.iter().filter(|_| !silent) {
                sent.insert(transmit.address);
                self.transmit(node, transmit, false);
            }
        }
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.publish() && process.responder.counters().events_lost > 0 {
            self.referee.fail(|| format!("n{}: events are lost", node + 1));
        }
        if node == 0 && self.scenario.fake == Fake::Denies {
            process.status.entries.clear();
        }
        for address in sent {
            if !process.says_announced(address) {
                self.referee.fail(|| format!("n{} speaks for {address}, and its status denies it", node + 1));
            }
        }
        self.set_timer(node, ANNOUNCER);
    }
}
