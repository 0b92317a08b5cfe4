//! Who owns what.
//!
//! A role's owner is the living member with the highest claim: by term, then by name. Whoever hears of a higher
//! claim than its own drops its own at once. A role moves in one of two ways:
//!
//! - Its owner gives it away: it falls silent, and a moment later says who is to own it next ([`Claim::Offered`]).
//! - Its owner is gone: the *dealer*, the first by name of the members that may own, offers it.
//!
//! Who is offered a role, and is sure itself that nobody owns it, claims it under the next term. That one member
//! deals keeps two others, whose views differ for a moment, from claiming one role. If the dealer fails to deal,
//! the one to whom [`spread`] gives the role claims it in the end by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lbcore::elect::{Bid, Candidacy, Member, Owner, Ownership, Term};
use lbcore::id::{NodeName, Role};
use lbcore::spread::{Bids, spread};
use lbcore::time::Instant;

use super::peer::Peer;
use super::table::Table;
use super::{Event, Machine, Notice, Phase};
use crate::wire::{Claim, Entry, Key, MAX_ROLE_NAME, Meta, Value};

#[derive(Debug)]
pub(super) struct Claims {
    /// The generation of the candidacy.
    candidacy: u64,
    bids: BTreeMap<Role, Bid>,
    held: BTreeMap<Role, Term>,
    /// Given up, but not told yet.
    releasing: BTreeMap<Role, Release>,
    /// The highest term ever heard of.
    terms: BTreeMap<Role, Term>,
    /// Roles that somebody could own and nobody does.
    orphans: BTreeMap<Role, Orphan>,
    /// As of the last evaluation.
    holders: Holders,
    /// When this node last saw a sign of something that it may hear of only later: it was offered a role, or one was taken
    /// over from a member that it still holds for alive.
    unrest: Instant,
    offers: BTreeMap<Role, Offer>,
    /// The roles of those offers that are waited for.
    standing: BTreeSet<Role>,
    /// The version of this node's state by which it told last that it may own.
    told_settled: u64,
    /// When to evaluate again though nothing was heard.
    pub(super) wake: Instant,
}

type Holders = BTreeMap<Role, (Term, NodeName)>;

#[derive(Clone, Debug)]
struct Release {
    told_at: Instant,
    term: Term,
    to: Option<NodeName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Offer {
    term: Term,
    to: NodeName,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Orphan {
    since: Instant,
    /// It had an owner a moment ago. Otherwise others may not have heard yet that somebody could own it.
    bereft: bool,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            candidacy: 0,
            bids: BTreeMap::new(),
            held: BTreeMap::new(),
            releasing: BTreeMap::new(),
            terms: BTreeMap::new(),
            orphans: BTreeMap::new(),
            holders: BTreeMap::new(),
            unrest: Instant::ZERO,
            offers: BTreeMap::new(),
            standing: BTreeSet::new(),
            told_settled: 0,
            wake: Instant::FAR_FUTURE,
        }
    }
}

impl Claims {
    /// Returns how many roles cannot be elected.
    pub(super) fn set_candidacy(&mut self, mine: &Candidacy, table: &mut Table) -> u64 {
        self.candidacy = mine.generation;
        let mut oversized = 0;
        let mut bids = BTreeMap::new();
        for (role, bid) in &mine.bids {
            match role {
                Role::Named(name) if name.len() > MAX_ROLE_NAME => oversized += 1,
                _ => {
                    bids.insert(role.clone(), *bid);
                }
            }
        }
        for role in self.bids.keys().filter(|role| !bids.contains_key(*role)) {
            table.set_bid(role, None);
        }
        for (role, bid) in &bids {
            table.set_bid(role, Some(*bid));
        }
        self.bids = bids;
        oversized
    }

    /// Nothing is owned any more, without a hand-over.
    pub(super) fn lose_all(&mut self, table: &mut Table) {
        // What is known of them is old.
        self.orphans.clear();
        for (role, term) in std::mem::take(&mut self.held) {
            table.set_claim(&role, Claim::Free(term));
        }
        for (role, release) in std::mem::take(&mut self.releasing) {
            table.set_claim(&role, Claim::Free(release.term));
        }
    }

    /// Remembers the terms that another node speaks of.
    pub(super) fn hear_terms(&mut self, entries: &[Entry]) {
        for entry in entries {
            if let (Key::Role(role), Value::Role(said)) = (&entry.key, &entry.value)
                && said.claim != Claim::None
            {
                self.hear_term(role, said.claim.term());
            }
        }
    }

    fn hear_term(&mut self, role: &Role, term: Term) {
        match self.terms.get_mut(role) {
            Some(known) => *known = (*known).max(term),
            None => {
                self.terms.insert(role.clone(), term);
            }
        }
    }

    fn term(&self, role: &Role) -> Term {
        self.terms.get(role).copied().unwrap_or_default()
    }

    /// What this node owns, or gives up but has not told so yet.
    pub(super) fn owned(&self) -> impl Iterator<Item = &Role> {
        self.held.keys().chain(self.releasing.keys())
    }

    pub(super) fn eligible(&self, role: &Role) -> bool {
        self.bids.get(role).is_some_and(|bid| bid.eligible)
    }
}

/// What a decision is made from.
pub(super) struct View {
    /// Whether this node may claim and give: it knows the current terms, and all that is said.
    ready: bool,
    /// The first by name of those that may own.
    dealer: Option<NodeName>,
    /// Who should own what.
    target: BTreeMap<Role, NodeName>,
}

impl Machine {
    /// Looks at everything that is known, and decides.
    pub(super) fn evaluate(&mut self) {
        self.claims.wake = Instant::FAR_FUTURE;
        self.settle();
        self.tell_releases();
        let (holders, offers, overtaken) = self.read_claims();
        self.yield_to(&holders);
        let before = std::mem::replace(&mut self.claims.holders, holders);
        self.reaffirm();
        let offered =
            |(role, offer): (&Role, &Offer)| offer.to == self.me && !self.claims.offers.contains_key(role);
        if overtaken || offers.iter().any(offered) {
            self.claims.unrest = self.now;
        }
        let made = std::mem::replace(&mut self.claims.offers, offers);
        let standing = self.claims.offers.iter().filter(|(_, offer)| self.stands(offer));
        let standing = standing.map(|(role, _)| role.clone()).collect();
        let mut failed = std::mem::replace(&mut self.claims.standing, standing);
        // One that was taken back though it stands was taken up: its maker has heard of the claim already.
        failed.retain(|role| made.get(role).is_some_and(|offer| !self.stands(offer)));
        let standing = self.claims.offers.values().filter(|offer| self.stands(offer));
        if let Some(next) = standing.map(|offer| offer.since).min() {
            self.wake_at(next + self.timing.takeover());
        }
        let view = self.view();
        self.count_orphans(&view, &before, &failed);
        self.get_time(&view);
        self.give(&view);
        self.take(&view);
        self.deal(&view);
        self.set_pace(&view);
        self.say_meta();
        self.pass_on();
        self.publish();
        self.finish_leaving();
    }

    fn wake_at(&mut self, at: Instant) {
        self.claims.wake = self.claims.wake.min(at);
    }

    pub(super) fn may_own(&self) -> bool {
        self.phase == Phase::Settled && self.leaving.is_none()
    }

    /// Ends the time of listening, once the current terms are known.
    fn settle(&mut self) {
        let (now, timing, takeover) = (self.now, self.timing, self.timing.takeover());
        for peer in self.peers.values_mut() {
            peer.behind_since = match peer.behind_since {
                _ if !peer.alive || peer.synced() => None,
                None => Some(now),
                since => since,
            };
        }
        let Phase::Listening { since, round } = self.phase else { return };
        // Another node of this name may own, or goes first.
        let rival = self.rival.filter(|rival| rival.is_there(now, &self.timing));
        if rival.is_some_and(|rival| rival.settled || rival.boot < self.boot) {
            self.wake_at(self.next_round);
            return;
        }
        let alive = || self.peers.values().filter(|peer| peer.alive);
        let known = alive().all(|peer| {
            let fresh = peer.echoed >= round || !peer.is_heard(now, &timing);
            peer.synced() && fresh
        });
        let count = alive().count();
        // Somebody who knows says so, after we began to listen, and knows of nobody whom we do not know.
        let told = alive().any(|peer| peer.is_heard(now, &timing) && peer.table.meta().settled)
            && alive().all(|peer| usize::from(peer.live) <= count);
        // Somebody who is there, but has not proved yet that it is there now.
        let knocking = self.peers.values().filter_map(|peer| peer.pending.as_ref());
        let met = knocking.map(|pending| pending.since + takeover).filter(|until| now < *until).max();
        let waited = met.unwrap_or(since).max(since + takeover);
        let in_vain = since + takeover * 4;
        if (known && (told || waited <= now)) || in_vain <= now {
            self.phase = Phase::Settled;
            self.members_since = now;
            // What it told to be free when it lost its lease is taken by others at this moment.
            self.claims.orphans.clear();
            self.events.push_back(Event::Notice(Notice::Settled));
            self.dirty = true;
        } else {
            self.wake_at(if now < waited { waited } else { in_vain });
        }
    }

    /// Tells what was given up, after the announcers of this node have had time to fall silent.
    fn tell_releases(&mut self) {
        let now = self.now;
        let due: Vec<_> = self
            .claims
            .releasing
            .iter()
            .filter(|(_, release)| release.told_at <= now)
            .map(|(role, _)| role.clone())
            .collect();
        for role in due {
            if let Some(Release { term, to, .. }) = self.claims.releasing.remove(&role) {
                let claim = match to {
                    Some(to) => Claim::Offered { term, to },
                    None => Claim::Free(term),
                };
                self.table.set_claim(&role, claim);
            }
        }
        if let Some(next) = self.claims.releasing.values().map(|release| release.told_at).min() {
            self.wake_at(next);
        }
    }

    /// Who owns what, and what is offered to whom, by what the living say; and whether two of them say to own the same.
    fn read_claims(&self) -> (Holders, BTreeMap<Role, Offer>, bool) {
        let mut holders = Holders::new();
        let mut overtaken = false;
        let mut offers: BTreeMap<Role, Offer> = BTreeMap::new();
        let living = self.peers.iter().filter(|(_, peer)| peer.alive).map(|(name, peer)| (name, &peer.table));
        for (name, table) in living.chain([(&self.me, &self.table)]) {
            for (role, said) in table.roles() {
                match &said.claim {
                    Claim::Holds(term) => {
                        let known = holders.get(role);
                        overtaken |= known.is_some();
                        if known.is_none_or(|(at, by)| (*at, by) < (*term, name)) {
                            holders.insert(role.clone(), (*term, name.clone()));
                        }
                    }
                    Claim::Offered { term, to } => {
                        // One to a node that is gone does not hide the one that was made for this reason.
                        let rank = |term, to: &NodeName| (term, self.may_be_given(to), to.clone());
                        let higher =
                            offers.get(role).is_none_or(|it| rank(it.term, &it.to) < rank(*term, to));
                        if higher && *term >= self.claims.term(role) {
                            let since = self.now;
                            offers.insert(role.clone(), Offer { term: *term, to: to.clone(), since });
                        }
                    }
                    Claim::None | Claim::Free(_) => {}
                }
            }
        }
        offers.retain(|role, offer| {
            if let Some(known) = self.claims.offers.get(role)
                && (known.term, &known.to) == (offer.term, &offer.to)
            {
                offer.since = known.since;
            }
            !holders.contains_key(role)
        });
        (holders, offers, overtaken)
    }

    /// The offer of `role` that is waited for: the one to whom it was made is there, and has not had it for long.
    fn standing_offer(&self, role: &Role) -> Option<&Offer> {
        self.claims.offers.get(role).filter(|offer| self.stands(offer))
    }

    fn stands(&self, offer: &Offer) -> bool {
        self.may_be_given(&offer.to) && self.now < offer.since + self.timing.takeover()
    }

    fn may_be_given(&self, to: &NodeName) -> bool {
        if *to == self.me {
            return self.may_own();
        }
        self.peers.get(to).is_some_and(|peer| peer.alive && owns(peer.table.meta()))
    }

    /// Drops what somebody else has a higher claim to.
    fn yield_to(&mut self, holders: &Holders) {
        let claims = &mut self.claims;
        let mut lost = Vec::new();
        for (role, said) in self.table.roles() {
            if let Some((term, by)) = holders.get(role)
                && *by != self.me
            {
                match said.claim {
                    Claim::None => {}
                    // Until the other one has claimed it anew.
                    Claim::Free(free) if *term == free => {}
                    _ if *term >= said.claim.term() => lost.push((role.clone(), *term)),
                    _ => {}
                }
            }
        }
        for (role, term) in lost {
            let acted = claims.held.remove(&role).is_some() | claims.releasing.remove(&role).is_some();
            let claim = if acted { Claim::Free(term) } else { Claim::None };
            self.table.set_claim(&role, claim);
        }
    }

    /// Claims anew, under a term of its own, what this node holds and another one dropped because of that, or spoke of
    /// under a higher term: clients on the other side of a partition were told so, and are told again.
    fn reaffirm(&mut self) {
        let living = self.peers.values().filter(|peer| peer.alive);
        let outdone = |(role, term): &(&Role, &Term)| {
            let dropped = |claim: &Claim| matches!(claim, Claim::Free(free) if free >= *term);
            self.claims.term(role) > **term || living.clone().any(|peer| dropped(peer.table.claim(role)))
        };
        let outdone: Vec<Role> =
            self.claims.held.iter().filter(outdone).map(|(role, _)| role.clone()).collect();
        for role in outdone {
            self.claim(role);
        }
    }

    fn view(&mut self) -> View {
        let mut bids = Bids::new();
        let mut current: BTreeMap<Role, NodeName> = BTreeMap::new();
        let mut dealer = None;
        let settled = self.peers.iter().filter(|(_, peer)| peer.alive && owns(peer.table.meta()));
        for (name, peer) in settled {
            dealer = dealer.or(Some(name));
            for (role, said) in peer.table.roles() {
                if let Some(bid) = said.bid {
                    bids.entry(role.clone()).or_default().insert(name.clone(), bid);
                }
            }
        }
        if self.may_own() {
            dealer = dealer.min(Some(&self.me)).or(Some(&self.me));
            for (role, bid) in &self.claims.bids {
                bids.entry(role.clone()).or_default().insert(self.me.clone(), *bid);
            }
        }
        let dealer = dealer.cloned();
        for role in bids.keys() {
            let releasing = self.claims.releasing.get(role).map(|release| release.to.as_ref());
            let owner = match releasing {
                Some(to) => to,
                None => match self.claims.holders.get(role) {
                    Some((_, owner)) => Some(owner),
                    None => self.standing_offer(role).map(|offer| &offer.to),
                },
            };
            if let Some(owner) = owner {
                current.insert(role.clone(), owner.clone());
            }
        }
        let (now, takeover) = (self.now, self.timing.takeover());
        let known = self.peers.values().all(|peer| peer.behind_since.is_none_or(|at| at + takeover <= now));
        if let Some(at) = self.peers.values().filter_map(|peer| peer.behind_since).min()
            && now < at + takeover
        {
            self.wake_at(at + takeover);
        }
        let ready = known && self.phase == Phase::Settled && self.has_time();
        View { ready, dealer, target: spread(&bids, &current) }
    }

    /// Whether there is something that this node is to claim or to deal.
    pub(super) fn has_to_act(&self, view: &View) -> bool {
        let to_me = |(role, offer): (&Role, &Offer)| {
            offer.to == self.me && self.stands(offer) && self.claims.eligible(role)
        };
        let deals = view.dealer.as_ref() == Some(&self.me);
        let falls_to_me = |role: &Role| deals || view.target.get(role) == Some(&self.me);
        self.may_own()
            && (self.claims.offers.iter().any(to_me) || self.claims.orphans.keys().any(falls_to_me))
    }

    /// Who is about to own what: it was offered to them, or falls to them.
    pub(super) fn acquired(&self, view: &View) -> Vec<(Role, NodeName)> {
        let offers = self.claims.offers.iter().filter(|(_, offer)| self.stands(offer));
        let offered = offers.map(|(role, offer)| (role.clone(), offer.to.clone()));
        let falls = |role: &Role| Some((role.clone(), view.target.get(role)?.clone()));
        offered.chain(self.claims.orphans.keys().filter_map(falls)).collect()
    }

    fn count_orphans(&mut self, view: &View, before: &Holders, failed: &BTreeSet<Role>) {
        let (now, takeover) = (self.now, self.timing.takeover());
        let timing = self.timing;
        // Who listens, or hears a living member through others only, may not have heard yet who has it now. And until the
        // others know that this node may own, one of them deals as well.
        let (told, version) = (self.table.meta().settled, self.claims.told_settled);
        let knows = |peer: &Peer| peer.acked >= version || !peer.table.meta().settled;
        let informed = told
            && self.phase == Phase::Settled
            && self.peers.values().all(|peer| !peer.alive || (peer.is_heard(now, &timing) && knows(peer)));
        // Its owner is gone, and did not drop it because of a higher claim that is still to be heard of.
        let left = |claims: &Claims, role: &Role| {
            before.get(role).is_some_and(|(term, _)| claims.term(role) <= *term)
        };
        let mut orphans = BTreeMap::new();
        for role in view.target.keys() {
            let claims = &self.claims;
            let owned = claims.holders.contains_key(role) || claims.releasing.contains_key(role);
            if !owned && self.standing_offer(role).is_none() {
                let orphan = claims.orphans.get(role).copied().unwrap_or_else(|| Orphan {
                    since: now,
                    bereft: informed && (left(claims, role) || failed.contains(role)),
                });
                orphans.insert(role.clone(), orphan);
            }
        }
        let claims = &mut self.claims;
        claims.orphans = orphans;
        // What nobody bids for any more need not be remembered for ever.
        if claims.terms.len() > 2 * (view.target.len() + claims.bids.len()) + 4096 {
            let target = &view.target;
            claims.terms.retain(|role, _| target.contains_key(role));
        }
        // A term that nobody speaks of any more is kept in mind for those that come later, and told at once to those
        // that listen: they may own in a moment.
        let settled = self.phase == Phase::Settled;
        let listened = self.peers.values().any(|peer| peer.alive && !peer.table.meta().settled);
        let mut wake = Instant::FAR_FUTURE;
        let mut free = Vec::new();
        for (role, term) in self.claims.terms.iter().filter(|_| settled) {
            let claims = &self.claims;
            let owned = claims.holders.contains_key(role) || claims.releasing.contains_key(role);
            if owned || self.standing_offer(role).is_some() || self.table.claim(role).term() >= *term {
                continue;
            }
            match claims.orphans.get(role) {
                Some(orphan) if !listened && now < orphan.since + takeover => {
                    wake = wake.min(orphan.since + takeover);
                }
                None if !listened => {}
                _ => free.push((role.clone(), *term)),
            }
        }
        for (role, term) in free {
            self.table.set_claim(&role, Claim::Free(term));
        }
        self.wake_at(wake);
    }

    /// Gives away what this node should not own.
    fn give(&mut self, view: &View) {
        let now = self.now;
        let calm = self.members_since.max(self.claims.unrest) + self.timing.rebalance_after;
        let mut given = Vec::new();
        let mut offered = Vec::new();
        let mut later = false;
        for role in self.claims.held.keys() {
            let to = view.target.get(role).filter(|to| **to != self.me);
            let bid = self.claims.bids.get(role).filter(|bid| bid.eligible && self.leaving.is_none());
            match (bid, to) {
                (None, to) => given.push((role.clone(), to.cloned())),
                (Some(_), None) => {}
                (Some(bid), Some(to)) => {
                    if view.ready && (bid.draining || calm <= now) {
                        offered.push((role.clone(), to.clone()));
                    } else {
                        later = true;
                    }
                }
            }
        }
        if later && now < calm {
            self.wake_at(calm);
        }
        for (role, to) in offered {
            if self.is_there(&to) {
                given.push((role, Some(to)));
            }
        }
        for (role, to) in given {
            if let Some(term) = self.claims.held.remove(&role) {
                let told_at = now + self.timing.handover_pause;
                self.claims.releasing.insert(role, Release { told_at, term, to });
                self.wake_at(told_at);
            }
        }
        if self.claims.held.is_empty() && self.lease.take().is_some() {
            self.renewed = true;
        }
    }

    /// Claims what is offered to this node.
    fn take(&mut self, view: &View) {
        if !self.may_own() || !self.has_time() {
            return;
        }
        let mine: Vec<_> = self
            .claims
            .offers
            .iter()
            .filter(|(role, offer)| offer.to == self.me && self.stands(offer) && self.claims.eligible(role))
            .map(|(role, _)| role.clone())
            .collect();
        for role in mine {
            self.claim(role);
        }
        if !view.ready {
            return;
        }
        // The dealer has had its time.
        let (now, patience) = (self.now, self.timing.takeover() * 2);
        let mut wake = Instant::FAR_FUTURE;
        let mut left = Vec::new();
        for (role, orphan) in &self.claims.orphans {
            if view.target.get(role) == Some(&self.me) {
                let at = self.due(orphan) + patience;
                if at <= now {
                    left.push(role.clone());
                } else {
                    wake = wake.min(at);
                }
            }
        }
        self.wake_at(wake);
        for role in left {
            self.claim(role);
        }
    }

    /// As the dealer: finds owners for what has none.
    fn deal(&mut self, view: &View) {
        if view.dealer.as_ref() != Some(&self.me) || !view.ready {
            return;
        }
        let mut wake = Instant::FAR_FUTURE;
        let mut dealt = Vec::new();
        for (role, orphan) in &self.claims.orphans {
            let due = self.due(orphan);
            if self.now < due {
                wake = wake.min(due);
            } else if let Some(to) = view.target.get(role) {
                dealt.push((role.clone(), to.clone()));
            }
        }
        self.wake_at(wake);
        for (role, to) in dealt {
            if to == self.me {
                self.claim(role);
                continue;
            }
            if !self.is_there(&to) {
                continue;
            }
            let term = self.claims.term(&role);
            self.table.set_claim(&role, Claim::Offered { term, to: to.clone() });
            self.claims.orphans.remove(&role);
            self.claims.offers.insert(role, Offer { term, to, since: self.now });
        }
    }

    /// A role that had no owner before may be one that others do not know of yet, and this node may just have come
    /// back into a network where it has one.
    fn due(&self, orphan: &Orphan) -> Instant {
        if orphan.bereft { orphan.since } else { orphan.since + self.timing.takeover() }
    }

    fn claim(&mut self, role: Role) {
        let term = Term(self.claims.term(&role).0.saturating_add(1));
        if self.lease.is_none() {
            self.lease = Some(self.next_lease);
            self.next_lease = self.next_lease.next();
            self.renewed = true;
        }
        self.table.set_claim(&role, Claim::Holds(term));
        self.claims.hear_term(&role, term);
        self.claims.orphans.remove(&role);
        self.claims.offers.remove(&role);
        self.claims.holders.insert(role.clone(), (term, self.me.clone()));
        self.claims.held.insert(role, term);
    }

    fn say_meta(&mut self) {
        let bids = &self.claims.bids;
        let (settled, leaving) = (self.phase == Phase::Settled, self.leaving.is_some());
        let draining = leaving || (!bids.is_empty() && bids.values().all(|bid| bid.draining));
        let news = settled && !self.table.meta().settled;
        self.table.set_meta(Meta { settled, leaving, draining });
        if news {
            self.claims.told_settled = self.table.version();
        }
    }

    /// Passes on who owns what, if that has changed.
    fn pass_on(&mut self) {
        let member = |table: &Table| {
            let mut member = Member::default();
            member.draining = table.meta().draining;
            member.hardware = table.hardware().clone();
            member
        };
        let alive = self.peers.iter().filter(|(_, peer)| peer.alive);
        let mut next = Ownership::default();
        next.generation = self.ownership.generation;
        next.candidacy = self.claims.candidacy;
        next.members = alive.map(|(name, peer)| (name.clone(), member(&peer.table))).collect();
        next.members.insert(self.me.clone(), member(&self.table));
        let owner = |(role, (term, node)): (&Role, &(Term, NodeName))| {
            (role.clone(), Owner::new(node.clone(), *term))
        };
        next.roles = self.claims.holders.iter().map(owner).collect();
        if let Some(lease) = self.lease {
            next.mine = self.claims.held.keys().map(|role| (role.clone(), lease)).collect();
        }
        if next != *self.ownership {
            next.generation += 1;
            self.ownership = Arc::new(next);
            self.events.push_back(Event::Ownership(self.ownership.clone()));
        }
    }

    /// Once everybody knows that nothing is owned here any more, or the time for that is over.
    fn finish_leaving(&mut self) {
        let Some(leaving) = self.leaving.filter(|leaving| !leaving.left) else { return };
        let version = self.table.version();
        let owns = !self.claims.held.is_empty() || !self.claims.releasing.is_empty();
        let told = self
            .peers
            .values()
            .filter(|peer| peer.is_heard(self.now, &self.timing))
            .all(|peer| peer.acked >= version);
        if (told && !owns) || leaving.until <= self.now {
            self.leaving = Some(super::Leaving { left: true, ..leaving });
            let mut words = Vec::new();
            self.membership.leave(self.now, &mut words);
            self.spread_words(words);
            self.events.push_back(Event::Left);
        }
    }
}

fn owns(meta: Meta) -> bool {
    meta.settled && !meta.leaving
}
