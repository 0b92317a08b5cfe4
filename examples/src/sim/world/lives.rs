//! Processes: how they begin, end, stand still and go on.

use std::collections::BTreeMap;

use announce_l2::machine as l2;
use elect_gossip::machine as gossip;
use elect_gossip::{ClusterKey, Keyring, Timing};
use elect_lease::machine as lease;
use lbcore::elect::lease::Holder;
use lbcore::time::{Duration, Instant};
use rand::RngExt;

use super::{ANNOUNCER, BATCH, ELECTOR, Event, LINKS, MAIL, PLAN, World};
use crate::sim::node::{Arrival, Brain, INTERFACE, Process};
use crate::sim::scenario::{Action, Fake, Mode};

impl World {
    pub(super) fn start(&mut self, node: usize) {
        self.lives += 1;
        let (life, local) = (self.lives, self.local(node));
        let mut config = l2::Config::default();
        config.pace = self.scenario.pace;
        // There are no strangers here who could have an address.
        config.probing = None;
        let faked = node == 0;
        if faked && self.scenario.fake == Fake::Storms {
            config.pace.burst *= 10;
            config.pace.per_second *= 10;
        }
        let me = &self.nodes[node];
        let brain = match self.scenario.mode {
            Mode::Gossip(timing) => {
                let keys = Keyring::new(ClusterKey::new([7; 32]));
                let seeds = self.nodes.iter().map(|node| node.address);
                let timing = match faked && self.scenario.fake == Fake::TakesOverEarly {
                    true => Timing::new(timing.interval / 3, 3),
                    false => timing,
                };
                let config = elect_gossip::Config::new(me.name.clone(), me.address, keys)
                    .with_seeds(seeds)
                    .with_timing(timing);
                let seed = self.rng.random();
                match gossip::Machine::new(&config, me.address, seed, local) {
                    Ok(mut machine) => {
                        let hardware = BTreeMap::from([("eth0".into(), me.mac.0)]);
                        machine.handle(local, gossip::Input::Hardware(hardware));
                        Brain::Gossip(Box::new(machine))
                    }
                    Err(error) => return self.referee.fail(|| format!("no elector: {error}")),
                }
            }
            Mode::Lease(duration) => {
                let mut settings = lease::Settings::new(Holder::new(me.name.clone(), self.rng.random()));
                settings.timing = lbcore::elect::lease::Timing::of(duration);
                if faked && self.scenario.fake == Fake::TakesOverEarly {
                    settings.timing = lbcore::elect::lease::Timing::of(duration / 4);
                    settings.handover /= 2;
                }
                match lease::Machine::new(settings) {
                    Ok(mut machine) => {
                        let hardware = BTreeMap::from([("eth0".into(), me.mac.0)]);
                        machine.handle(local, lease::Input::Hardware(hardware));
                        Brain::Lease(Box::new(machine))
                    }
                    Err(error) => return self.referee.fail(|| format!("no elector: {error}")),
                }
            }
        };
        let me = &mut self.nodes[node];
        let mut process = Process::new(self.now, brain, config);
        if faked && self.scenario.fake == Fake::AnswersAfterLease {
            process.overstay = Duration::from_secs(20);
        }
        process.forgets_terms = faked && self.scenario.fake == Fake::ForgetsTerms;
        process.set_links(local, me.mac, me.carrier);
        me.on = true;
        me.process = Some(process);
        me.life = life;
        me.restarting = false;
        me.lingers = Instant::ZERO;
        self.referee.started(node);
        if let Some(process) = &mut self.nodes[node].process {
            process.brain.timeout(local);
        }
        self.wish(node, PLAN, Duration::ZERO);
        self.pump_elector(node);
        self.pump_announcer(node);
    }

    pub(super) fn kill(&mut self, node: usize) {
        let lag = self.rng.random_range(0..3_000_000_u64).saturating_sub(1_000_000);
        self.nodes[node].lingers = self.now + Duration::from_nanos(lag);
        let (life, streams) = (self.nodes[node].life, self.streams.clone());
        self.streams.retain(|(by, _), to| *by != node && *to != (node, life));
        for ((by, stream), to) in streams {
            if to == (node, life) && by != node && self.hears(node, by) {
                let life = self.nodes[by].life;
                let at = self.now + self.delay();
                let arrival = Arrival::Stream(stream, gossip::StreamEvent::Closed);
                self.push(at, Event::Arrive { to: by, life, arrival });
            }
        }
        self.end(node);
    }

    pub(super) fn end(&mut self, node: usize) {
        let group = self.gossip[node];
        let it = &mut self.nodes[node];
        it.process = None;
        it.paused = false;
        it.pause_within = None;
        it.caught.clear();
        it.datagrams.clear();
        it.frames.clear();
        // Whom it has told where it is on its side of a cut, nobody else knows.
        if !self.splits.is_empty() {
            self.mislead();
        }
        // Terms live in those that run and have been told them.
        let knows = |other: &usize| {
            let process = self.nodes[*other].process.as_ref().filter(|_| *other != node);
            process.is_some_and(|process| !process.ownership.roles.is_empty())
        };
        let known = (0..self.nodes.len())
            .any(|other| knows(&other) && self.gossip[other] == group && group.is_some());
        if !known && matches!(self.scenario.mode, Mode::Gossip(_)) {
            let gone: Vec<usize> = (0..self.nodes.len()).filter(|other| !self.nodes[*other].runs()).collect();
            self.referee.forget(&gone);
        }
    }

    pub(super) fn pause(&mut self, node: usize, span: Duration) {
        self.nodes[node].paused = true;
        self.nodes[node].paused_at = self.now;
        self.push(self.now + span, Event::Act(Action::Resume(node)));
        self.disturb(Some(node), Some(node));
    }

    /// Everything that has waited is done at once, the tasks in any order.
    pub(super) fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        let caught = std::mem::take(&mut self.nodes[node].caught);
        for transmit in caught {
            self.transmit(node, &transmit, true);
        }
        if self.rng.random() {
            self.resume_announcer(node);
            self.resume_elector(node);
        } else {
            self.resume_elector(node);
            self.resume_announcer(node);
        }
        for task in [PLAN, LINKS] {
            if self.nodes[node].process.as_ref().is_some_and(|process| process.turns[task]) {
                self.wish_anew(node, task);
            }
        }
    }

    fn resume_elector(&mut self, node: usize) {
        let local = self.local(node);
        let arrivals = std::mem::take(&mut self.nodes[node].datagrams);
        let Some(process) = &mut self.nodes[node].process else { return };
        for arrival in arrivals {
            process.brain.handle(local, arrival);
        }
        process.timers[ELECTOR] = None;
        if process.brain.due().is_some_and(|due| due <= local) {
            process.brain.timeout(local);
        }
        self.pump_elector(node);
    }

    fn resume_announcer(&mut self, node: usize) {
        let local = self.local(node);
        let Some(process) = &mut self.nodes[node].process else { return };
        if std::mem::take(&mut process.turns[MAIL]) {
            process.take_mail(local);
        }
        process.timers[ANNOUNCER] = None;
        if process.responder.poll_timeout().is_some_and(|due| due <= local) {
            process.responder.handle_timeout(local);
        }
        self.pump_announcer(node);
        loop {
            let frames = &mut self.nodes[node].frames;
            let batch: Vec<_> = frames.drain(..frames.len().min(BATCH)).collect();
            if batch.is_empty() || self.nodes[node].paused {
                return;
            }
            let Some(process) = &mut self.nodes[node].process else { return };
            for (received, frame) in batch {
                let frame = l2::Frame { interface: INTERFACE, received, bytes: frame.as_bytes() };
                process.responder.handle(local, l2::Input::Frame(frame));
            }
            self.pump_announcer(node);
        }
    }
}
