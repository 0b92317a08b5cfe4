//! Heartbeats: to whom, how often, and what is read from them.

use std::collections::BTreeSet;

use lbcore::id::NodeName;
use lbcore::time::Duration;
use rand::RngExt;

use super::claims::View;
use super::peer::Peer;
use super::{Machine, Phase, ROUNDS};
use crate::wire::{Claim, Heard, Heartbeat, Message};

/// How long a dead member is called as often as a living one, so that a partition heals fast; afterwards one round in so
/// many.
const CALL_FOR: Duration = Duration::from_secs(60);
const CALL_EVERY: u64 = 20;

/// How long it may take until a seed is met.
const SEED_ANSWERS: Duration = Duration::from_secs(5);

/// Those without a session are greeted, and streams looked after, every so many rounds.
const GREET_EVERY: u64 = 4;

/// The first so many by name of those that may own, besides an owner, act on its death: the dealer, and who deals if
/// both are gone.
const DEALERS: usize = 2;

impl Machine {
    /// Speaks to all whose turn it is.
    pub(super) fn run_round(&mut self) {
        let (now, timing) = (self.now, self.timing);
        let late = now.saturating_since(self.next_round);
        self.round += 1;
        if self.rounds.len() == ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back((self.round, now));
        self.unheard = if late <= timing.interval / 2 { self.unheard + 1 } else { 0 };
        let silence = self.peers.values().filter(|peer| peer.alive).map(|peer| peer.promise).max();
        let alone = silence
            .is_none_or(|promise| self.unheard >= timing.missed - 1 + u32::from(promise.saturating_sub(1)));
        if alone {
            self.renew(now + timing.lease());
        }
        self.next_round =
            if late > timing.interval { now + timing.interval } else { self.next_round + timing.interval };

        let missed = self.missed_owners(timing.interval * 2);
        let last_chance = !self.missed_owners(timing.interval).is_empty();
        let asked = self.asked_to_reply(!missed.is_empty(), last_chance);
        let names: Vec<_> = self.peers.keys().cloned().collect();
        for name in names {
            let asked = asked.contains(&name);
            if self.take_turn(&name) || asked {
                self.send_heartbeat_about(&name, asked, &missed);
            }
        }
        self.digest_at = self.digest_at.wrapping_add(1);
        let listening = matches!(self.phase, Phase::Listening { .. });
        if listening || self.round % GREET_EVERY == 1 {
            self.greet_all();
            self.doubt_seeds();
        }
        self.tend_streams();
        let forget = timing.forget_after;
        self.peers.retain(|_, peer| peer.alive || now < peer.since.max(peer.word()) + forget);
        self.dirty |= listening;
    }

    /// Whether it is the turn of `name` in this round.
    fn take_turn(&mut self, name: &NodeName) -> bool {
        let (now, round, slow) = (self.now, self.round, self.timing.slow_rounds());
        let everybody = self.leaving.is_some();
        let Some(peer) = self.peers.get_mut(name).filter(|peer| peer.session.is_some()) else { return false };
        if !peer.alive && now >= peer.since + CALL_FOR {
            return round.is_multiple_of(CALL_EVERY);
        }
        if peer.quick || everybody || peer.doubted.is_some() {
            return true;
        }
        if peer.hurry > 0 {
            peer.hurry -= 1;
            if peer.hurry == 0 {
                // Not all those who are spoken to rarely in the same round.
                peer.due = round + self.rng.random_range(1..=u64::from(slow));
            }
            return true;
        }
        peer.due <= round
    }

    /// Tells of the seeds that nobody was met at: their addresses may be wrong.
    fn doubt_seeds(&mut self) {
        let anybody = self.peers.values().any(|peer| peer.session.is_some());
        let unmet = self.seeds.iter().filter_map(|(seed, since)| Some((*seed, (*since)?)));
        for (seed, since) in unmet.collect::<Vec<_>>() {
            if self.has_met(seed) || (seed.ip().is_multicast() && anybody) {
                self.seeds.insert(seed, None);
            } else if since + SEED_ANSWERS <= self.now {
                self.troubles.silent_seed(self.now, seed);
            }
        }
    }

    /// The owners on whose death this node acts, and that would be dead `within` that time. In a small cluster everybody says
    /// in time what it heard of them; in a large one it is asked.
    fn missed_owners(&self, within: Duration) -> Vec<NodeName> {
        if !self.is_large() {
            return Vec::new();
        }
        let soon = self.now + within;
        let missed = |peer: &Peer| peer.alive && peer.watched && peer.dies_at(&self.timing) <= soon;
        self.peers.iter().filter(|(_, peer)| missed(peer)).map(|(name, _)| name.clone()).collect()
    }

    /// Who is asked to answer this round at once. An owner needs an answer to keep its lease: two of many are
    /// enough, in turn; all, if it has had none for a while, or if it has to learn the terms.
    fn asked_to_reply(&self, misses_owners: bool, last_chance: bool) -> BTreeSet<NodeName> {
        let names = |wanted: &dyn Fn(&Peer) -> bool| {
            let wanted = self.peers.iter().filter(|(_, peer)| wanted(peer));
            wanted.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let heard = |peer: &Peer| peer.is_heard(self.now, &self.timing);
        let short = self.deadline.is_none_or(|deadline| deadline < self.now + self.timing.lease() / 2);
        let needs = self.lease.is_some() || self.needs_time;
        if self.leaving.is_some() || (needs && short) || last_chance {
            return names(&heard).into_iter().collect();
        }
        let mut asked: BTreeSet<_> = names(&|peer| peer.doubted.is_some()).into_iter().collect();
        if let Phase::Listening { round, .. } = self.phase {
            // In a large cluster once is enough: many may begin at the same time.
            asked.extend(names(&|peer| heard(peer) && (peer.quick || peer.echoed < round)));
        }
        if needs || misses_owners {
            // Those that act on our death.
            let mut able = names(&|peer| heard(peer) && peer.quick);
            if able.len() < 2 {
                able = names(&heard);
            }
            let turn = self.round.wrapping_mul(2).checked_rem(able.len() as u64).unwrap_or_default();
            let turn = usize::try_from(turn).unwrap_or_default();
            asked.extend(able.iter().cycle().skip(turn).take(able.len().min(2)).cloned());
        }
        asked
    }

    pub(super) fn send_heartbeat(&mut self, to: &NodeName, wants_reply: bool) {
        self.send_heartbeat_about(to, wants_reply, &[]);
    }

    /// A heartbeat that says of those in `first` what was heard of them, whoever else has to wait for the next one.
    fn send_heartbeat_about(&mut self, to: &NodeName, wants_reply: bool, first: &[NodeName]) {
        let (round, slow) = (self.round, self.timing.slow_rounds());
        let Some(receiver) = self.peers.get_mut(to) else { return };
        // Who leaves speaks to all until the end, and is not missed for long.
        receiver.promised = if receiver.quick || self.leaving.is_some() { 1 } else { slow };
        // The end of its hurry says when the next turn comes.
        if receiver.hurry == 0 && receiver.due <= round {
            receiver.due = round + u64::from(slow);
        }
        let (echo, promise) = (receiver.round, receiver.promised);
        let alive = || self.peers.iter().filter(|(_, peer)| peer.alive);
        let live = alive().count();
        // The receiver first: it learns how much of its state is known here.
        let front = || std::iter::once(to).chain(first);
        let named = front().filter_map(|name| self.peers.get_key_value(name).filter(|(_, peer)| peer.alive));
        let turn = alive().cycle().skip(self.digest_at % live.max(1)).take(live);
        let rest = turn.filter(|(name, _)| !front().any(|named| named == *name));
        let heard = named.chain(rest).filter_map(|(name, peer)| {
            let age = peer.heard.map_or(Heard::NEVER, |heard| {
                let age = self.now.saturating_since(heard).as_micros();
                u32::try_from(age).unwrap_or(Heard::NEVER)
            });
            let (version, promise) = (peer.table.version(), peer.promise.max(1));
            Some(Heard { node: name.clone(), boot: peer.boot?, age, promise, version })
        });
        let heartbeat = Heartbeat {
            round,
            echo,
            version: self.table.version(),
            wants_reply,
            promise,
            live: u16::try_from(live).unwrap_or(u16::MAX),
            heard: Heartbeat::fitting(heard),
        };
        self.send(to, Message::Heartbeat(heartbeat));
    }

    pub(super) fn handle_heartbeat(&mut self, from: &NodeName, heartbeat: Heartbeat) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        if heartbeat.round >= peer.round {
            peer.promise = heartbeat.promise;
        }
        peer.round = peer.round.max(heartbeat.round);
        peer.latest = peer.latest.max(heartbeat.version);
        peer.live = heartbeat.live;
        if heartbeat.echo > peer.echoed {
            peer.echoed = heartbeat.echo;
            // An owner's time runs from when the round began that was answered.
            let start =
                self.rounds.iter().find(|(round, _)| *round == heartbeat.echo).map(|(_, start)| *start);
            if let Some(start) = start {
                self.renew(start + self.timing.lease());
            }
            self.dirty |= matches!(self.phase, Phase::Listening { .. });
        }
        let mut newer = Vec::new();
        for heard in heartbeat.heard {
            if heartbeat.wants_reply && self.knows_newer(&heard) {
                newer.push(heard.node.clone());
            }
            self.hear_of(from, &heard);
        }
        self.catch_up(from, from);
        if heartbeat.wants_reply {
            self.send_heartbeat_about(from, false, &newer);
        }
    }

    /// Whether this node heard another one much later than somebody else did.
    fn knows_newer(&self, than: &Heard) -> bool {
        let ours = self.peers.get(&than.node).filter(|peer| peer.boot == Some(than.boot));
        ours.and_then(|peer| peer.heard).is_some_and(|heard| {
            let theirs = Duration::from_micros(than.age.into());
            than.age == Heard::NEVER || self.now.saturating_since(heard) + self.timing.interval / 2 < theirs
        })
    }

    /// Another member says what it knows of a third.
    fn hear_of(&mut self, from: &NodeName, heard: &Heard) {
        if heard.node == self.me {
            if heard.boot == self.boot
                && let Some(peer) = self.peers.get_mut(from)
            {
                peer.acked = peer.acked.max(heard.version);
                self.dirty |= self.leaving.is_some();
            }
            return;
        }
        let (now, timing) = (self.now, self.timing);
        if heard.age == Heard::NEVER {
            return;
        }
        let word = now - Duration::from_micros(u64::from(heard.age));
        let peer =
            self.peers.entry(heard.node.clone()).or_insert_with(|| Peer { since: now, ..Peer::default() });
        let patience = if peer.watched { timing.takeover() } else { timing.patience(heard.promise) };
        if peer.gone == Some(heard.boot) || word + patience <= now {
            return;
        }
        if peer.boot != Some(heard.boot) {
            // Of two runs of a node that is there its own word decides. One that fell silent may have come back where
            // only others hear it.
            if peer.alive {
                return;
            }
            peer.reborn(heard.boot);
        }
        peer.indirect = peer.indirect.max(Some(word));
        peer.vouched = peer.vouched.max(word + timing.patience(heard.promise));
        peer.latest = peer.latest.max(heard.version);
        if !peer.alive {
            self.revive(&heard.node);
        }
        let direct = self.peers.get(&heard.node).is_some_and(|peer| peer.is_heard(now, &timing));
        if !direct {
            self.catch_up(&heard.node, from);
        }
    }

    /// Whether there are so many members that not all pairs speak each interval.
    fn is_large(&self) -> bool {
        1 + self.peers.values().filter(|peer| peer.alive).count() > self.timing.all_pairs
    }

    /// Decides who acts on whose death: see the module's part on large clusters.
    pub(super) fn set_pace(&mut self, view: &View) {
        let large = self.is_large();
        // All acquire what they are to own: they may own it before their next word.
        let acquired = if large { self.acquired(view) } else { Vec::new() };
        let mine: Vec<_> = self
            .claims
            .owned()
            .chain(acquired.iter().filter(|(_, by)| *by == self.me).map(|(role, _)| role))
            .collect();
        let settled = self.peers.iter().filter(|(_, peer)| peer.alive && peer.table.meta().settled);
        let mut dealers: Vec<_> =
            settled.map(|(name, _)| name).chain(self.may_own().then_some(&self.me)).collect();
        dealers.sort_unstable();
        dealers.truncate(DEALERS + 1);
        let deals = |node: &NodeName, owner: &NodeName| {
            dealers.iter().filter(|dealer| **dealer != owner).take(DEALERS).any(|dealer| *dealer == node)
        };
        let pace = |name: &NodeName, peer: &Peer| {
            let bids = |role| peer.table.roles().get(role).and_then(|said| said.bid);
            let quick = mine.iter().any(|role| bids(*role).is_some_and(|bid| bid.eligible));
            let quick = quick || (!mine.is_empty() && deals(name, &self.me));
            // What a dead one said counts too: it is not to be believed alive again on older words.
            let said = peer.table.roles().iter();
            let owned = said.filter(|(_, said)| matches!(said.claim, Claim::Holds(_))).map(|(role, _)| role);
            let taken = acquired.iter().filter(|(_, by)| by == name).map(|(role, _)| role);
            let we_deal = deals(&self.me, name);
            let watched = owned.chain(taken).any(|role| we_deal || self.claims.eligible(role));
            (quick, watched)
        };
        let paces: Vec<_> = self
            .peers
            .iter()
            .map(|(name, peer)| (name.clone(), if large { pace(name, peer) } else { (true, true) }))
            .collect();
        for (name, (quick, watched)) in paces {
            let Some(peer) = self.peers.get_mut(&name) else { continue };
            peer.watched = watched;
            if peer.quick && !quick {
                peer.hurry = self.timing.missed;
            }
            peer.quick = quick;
            // It waits for longer than it should until it knows.
            if quick && peer.promised > 1 && peer.alive {
                self.send_heartbeat(&name, false);
            }
        }
    }

    /// Whether what this node claims now would be held until the next round is answered.
    pub(super) fn has_time(&self) -> bool {
        let least = if self.is_large() { self.now + self.timing.lease() / 2 } else { self.now };
        self.deadline.is_some_and(|deadline| least <= deadline)
    }

    /// Asks some for an answer now, not with the next round, if this node has to act and no time to.
    pub(super) fn get_time(&mut self, view: &View) {
        self.needs_time = self.has_to_act(view);
        if !self.needs_time || self.has_time() || self.now < self.time_asked + self.timing.interval / 2 {
            return;
        }
        self.time_asked = self.now;
        let heard = self.peers.iter().filter(|(_, peer)| peer.is_heard(self.now, &self.timing));
        let mut heard: Vec<_> = heard.map(|(name, peer)| (peer.heard, name.clone())).collect();
        // Those that spoke last are there most likely.
        heard.sort_unstable_by(|one, other| other.cmp(one));
        for (_, name) in heard.into_iter().take(3) {
            self.send_heartbeat(&name, true);
        }
    }

    /// Whether `to` is there for certain, and may be given something. One that speaks rarely is asked, and what is
    /// decided here is decided anew once it has answered or is held for dead.
    pub(super) fn is_there(&mut self, to: &NodeName) -> bool {
        let (now, timing) = (self.now, self.timing);
        let Some(peer) = self.peers.get_mut(to).filter(|peer| peer.promise > 1) else { return true };
        if peer.heard.is_some_and(|heard| now < heard + timing.interval * 2) {
            return true;
        }
        if peer.doubted.is_none() {
            peer.doubted = Some(now);
            self.send_heartbeat(to, true);
        }
        false
    }
}
