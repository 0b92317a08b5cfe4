//! What a run does to its cluster: makes a fault, waits for the recovery, repairs it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lbcore::time::{Duration, Instant};
use serde_json::json;

use super::LabError;
use super::attempts::{self, Attempt, Gap};
use super::faults::FaultKind;
use super::observe::Observations;
use super::report::{FaultRecord, GAP_LIMIT, Part};
use super::run::{CLIENT, KNOWN_AFTER, Lab};
use super::story::tenths;
use crate::node::args::ElectorMode;

/// How long a node that was told to end may take: it lets its connections end first.
const END_LIMIT: Duration = Duration::from_secs(20);

/// What each address beside the client's may take to be announced by another node, of which 500 are in a second.
const MOVE_OF_ONE: Duration = Duration::from_millis(4);

/// How long a partition lasts at least: until the part without an owner has one.
const PARTITION: Duration = Duration::from_secs(1);

/// The same where one of its parts is to lose its owner by the end of a lease.
const LEASE_PARTITION: Duration = Duration::from_secs(6);

impl Lab<'_> {
    /// Makes a fault and repairs it. Also returns whether it was recovered from.
    pub(super) fn act(&mut self, kind: FaultKind) -> Result<(FaultRecord, bool), LabError> {
        match kind {
            FaultKind::Rolling => self.roll(),
            FaultKind::Partition => self.fall_apart(),
            kind => self.fault(kind),
        }
    }

    /// The owner of the address that the client asks.
    fn owner(&self) -> Result<String, LabError> {
        let address = self.scenario.target.ip();
        let owner = self.observer.lock().owner(address).map(str::to_owned);
        owner.ok_or(LabError::NoOwner(address))
    }

    /// What all addresses beside the client's may take to be announced by other nodes.
    fn time_of_many(&self) -> Duration {
        MOVE_OF_ONE * u32::try_from(self.scenario.allocations.len()).unwrap_or(u32::MAX).saturating_sub(1)
    }

    /// Watches what the repair brings about: where there are many addresses, those that the repaired node gets back.
    fn settle(&mut self) -> Result<(), LabError> {
        self.watch(Instant::now() + self.options.settle + self.time_of_many())
    }

    /// Restarts all nodes, one after the other, each when the one before is ready again.
    fn roll(&mut self) -> Result<(FaultRecord, bool), LabError> {
        let kind = FaultKind::Rolling;
        let address = self.scenario.target.ip();
        let owner = self.owner()?;
        let names: Vec<String> = self.scenario.nodes.iter().map(|node| node.name.clone()).collect();
        let all = names.join(",");
        let at = Instant::now();
        self.tell_fault(at, "fault", kind, &all, &kind.deed(&all));
        let mut restarts = Vec::new();
        for name in &names {
            restarts.push((name.clone(), Instant::now()));
            kind.make(&mut self.cluster, name)?;
            let give_up = Instant::now() + END_LIMIT;
            while !self.cluster.has_left(name)? {
                if Instant::now() >= give_up {
                    let last_words = self.observer.lock().last_words(name);
                    return Err(LabError::NotEnded { name: name.clone(), within: END_LIMIT, last_words });
                }
                self.watch(Instant::now() + Duration::from_millis(10))?;
            }
            kind.repair(&mut self.cluster, name)?;
            self.start_node(name)?;
            self.await_nodes()?;
            self.watch(Instant::now() + self.options.hold)?;
        }
        self.watch(Instant::now() + self.options.hold.max(KNOWN_AFTER))?;
        let repaired = Instant::now();
        let (gap, moved) = {
            let state = self.observer.lock();
            (worst_gap(&state, at, repaired), moved(&state, address, &owner, at).is_some())
        };
        let recovered = moved && !matches!(gap, Gap::Open { .. });
        self.tell_recovery(repaired, kind, &all, gap, recovered);
        self.tell_fault(repaired, "repair", kind, &all, &kind.remedy(&all));
        self.settle()?;
        let record =
            FaultRecord { fault: kind.name(), node: all, at, repaired, moved, parts: Vec::new(), restarts };
        Ok((record, recovered))
    }

    fn fault(&mut self, kind: FaultKind) -> Result<(FaultRecord, bool), LabError> {
        let address = self.scenario.target.ip();
        let node = self.owner()?;
        let owned = self.observer.lock().owned_by(&node);
        let at = Instant::now();
        self.tell_fault(at, "fault", kind, &node, &kind.deed(&node));
        kind.make(&mut self.cluster, &node)?;

        let give_up = at + GAP_LIMIT + KNOWN_AFTER + self.time_of_many();
        let hold = self.options.hold;
        let over = self.wait(give_up, |state| {
            let moved_at = moved(state, address, &node, at)?;
            let is_over = is_over(state, at, moved_at, hold, Instant::now());
            (is_over && have_all_moved(state, &owned, &node, at)).then_some(())
        })?;

        let repaired = Instant::now();
        let (gap, moved) = {
            let state = self.observer.lock();
            (worst_gap(&state, at, repaired), moved(&state, address, &node, at).is_some())
        };
        let recovered = over.is_some();
        self.tell_recovery(repaired, kind, &node, gap, recovered);

        self.tell_fault(repaired, "repair", kind, &node, &kind.remedy(&node));
        if kind.repair(&mut self.cluster, &node)? {
            self.start_node(&node)?;
        }
        self.await_nodes()?;
        self.settle()?;
        let (parts, restarts) = (Vec::new(), Vec::new());
        let record = FaultRecord { fault: kind.name(), node, at, repaired, moved, parts, restarts };
        Ok((record, recovered))
    }

    /// The network falls into two parts; on each that can elect somebody answers; then it grows together.
    fn fall_apart(&mut self) -> Result<(FaultRecord, bool), LabError> {
        let kind = FaultKind::Partition;
        let by_lease = self.options.elector == ElectorMode::LeaseEtcd;
        let parts = self.parts().into_iter().enumerate().map(|(client, nodes)| Part {
            nodes,
            // Without the store there is no lease, and so no owner.
            served: !by_lease || client == CLIENT,
        });
        let parts: Vec<Part> = parts.collect();
        let all = parts.iter().map(|part| part.nodes.join(",")).collect::<Vec<_>>().join(" | ");
        let at = Instant::now();
        self.tell_fault(at, "fault", kind, &all, &kind.deed(&all));
        let [_, far] = self.parts();
        self.observer.set_unheard(&far);
        kind.make(&mut self.cluster, &all)?;

        let lasts = self.options.hold.max(if by_lease { LEASE_PARTITION } else { PARTITION });
        let give_up = at + lasts.max(GAP_LIMIT) + KNOWN_AFTER;
        let is_served = |state: &Observations, now: Instant| {
            let served = parts.iter().enumerate().filter(|(_, part)| part.served);
            let mut gaps = served.map(|(client, _)| known_gap(state, client, at, now));
            gaps.all(|gap| !matches!(gap, Gap::Open { .. }))
        };
        let over = self.wait(give_up, |state| {
            let now = Instant::now();
            (now >= at + lasts && is_served(state, now)).then_some(())
        })?;
        let repaired = Instant::now();
        let gaps: Vec<Gap> = {
            let state = self.observer.lock();
            (0..parts.len()).map(|client| known_gap(&state, client, at, repaired)).collect()
        };
        let recovered = over.is_some();
        for (part, gap) in parts.iter().zip(gaps) {
            self.tell_recovery(repaired, kind, &part.nodes.join(","), gap, recovered || !part.served);
        }
        self.tell_fault(repaired, "repair", kind, &all, &kind.remedy(&all));
        kind.repair(&mut self.cluster, &all)?;
        self.observer.set_unheard(&[]);
        self.await_nodes()?;
        self.watch(Instant::now() + KNOWN_AFTER)?;
        self.settle()?;
        let restarts = Vec::new();
        let record =
            FaultRecord { fault: kind.name(), node: all, at, repaired, moved: true, parts, restarts };
        Ok((record, recovered))
    }

    fn tell_recovery(&self, at: Instant, kind: FaultKind, node: &str, gap: Gap, recovered: bool) {
        let noticed = match gap {
            Gap::None => "the client noticed nothing".to_owned(),
            Gap::Closed { .. } => format!("the client was without an answer for {:.1?}", gap.length(at)),
            Gap::Open { .. } => "the client still gets no answers".to_owned(),
        };
        let noticed = match kind {
            FaultKind::Partition => format!("where {node} is, {noticed}"),
            _ => noticed,
        };
        let millis = tenths(gap.length(at).as_micros());
        let fields = json!({"fault": kind.name(), "node": node, "gap_ms": millis, "recovered": recovered});
        self.story.tell(at, "recovery", fields, &noticed);
    }

    fn tell_fault(&self, at: Instant, event: &str, kind: FaultKind, node: &str, sentence: &str) {
        self.story.tell(at, event, json!({"fault": kind.name(), "node": node}), sentence);
    }
}

/// When another node than `former` first claimed the address after `fault`.
fn moved(state: &Observations, address: IpAddr, former: &str, fault: Instant) -> Option<Instant> {
    let mut claims = state.claims_since(fault).iter();
    claims.find(|claim| claim.address == address && claim.node != former).map(|claim| claim.at)
}

/// Whether other nodes than `former` claimed each of its addresses after `fault`.
fn have_all_moved(state: &Observations, owned: &BTreeSet<IpAddr>, former: &str, fault: Instant) -> bool {
    let others = state.claims_since(fault).iter().filter(|claim| claim.node != former);
    let claimed: BTreeSet<IpAddr> = others.map(|claim| claim.address).collect();
    owned.is_subset(&claimed)
}

/// Whether a fault need not last longer: another node took over `hold` ago, so that it is known what became of the
/// requests before that, and the client has answers again.
fn is_over(state: &Observations, fault: Instant, moved: Instant, hold: Duration, now: Instant) -> bool {
    now >= moved + hold.max(KNOWN_AFTER) && !matches!(worst_gap(state, fault, now), Gap::Open { .. })
}

/// The longest gap of all clients as far as it is known at `now`; one that is open is longer than any other.
fn worst_gap(state: &Observations, fault: Instant, now: Instant) -> Gap {
    let gaps = (0..state.logs.len()).map(|client| known_gap(state, client, fault, now));
    gaps.max_by_key(|gap| (matches!(gap, Gap::Open { .. }), gap.length(now))).unwrap_or(Gap::None)
}

/// The gap of a client as far as it is known at `now`.
fn known_gap(state: &Observations, client: usize, fault: Instant, now: Instant) -> Gap {
    let log: Vec<Attempt> = state.attempts_since(client, fault - KNOWN_AFTER);
    let known = log.partition_point(|attempt| attempt.start + KNOWN_AFTER <= now);
    match attempts::gap(&log[..known], fault, now) {
        // Of later attempts some are under way and missing in the log: only those that failed say something.
        Gap::None => attempts::gap(&log, fault, now),
        gap => gap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::attempts::{Connection, Outcome};

    fn at(millis: u64) -> Instant {
        Instant::from_millis(1000 + millis)
    }

    #[test]
    fn a_fault_lasts_until_its_victims_are_known() {
        // A request a millisecond. Those of 20 to 100 get no answer, which is known 200 ms later.
        let fate = |start: u64| match start {
            20..100 => (start + 200, Outcome::Silent),
            _ => (start, Outcome::Answered("appv1".to_owned())),
        };
        let mut attempts: Vec<Attempt> = (0..1000)
            .map(|start| (start, fate(start)))
            .map(|(start, (end, outcome))| Attempt {
                start: at(start),
                end: at(end),
                connection: Connection::Fresh,
                outcome,
            })
            .collect();
        attempts.sort_by_key(|attempt| attempt.end);
        let seen = |now: u64| {
            let mut state = Observations::default();
            state.logs.push(attempts.iter().filter(|attempt| attempt.end <= at(now)).cloned().collect());
            state
        };
        let (fault, moved) = (at(10), at(100));
        let over = |now| is_over(&seen(now), fault, moved, Duration::ZERO, at(now));
        assert_eq!([100, 200, 349].map(over), [false; 3]);
        let first = (100..1000).find(|now| over(*now)).unwrap();
        assert_eq!(
            known_gap(&seen(first), CLIENT, fault, at(first)),
            Gap::Closed { from: at(19), to: at(100) }
        );
        let held = |now| is_over(&seen(now), fault, moved, Duration::from_millis(500), at(now));
        assert_eq!([599, 600].map(held), [false, true]);
        // What failed a moment ago counts, too.
        assert_ne!(known_gap(&seen(230), CLIENT, fault, at(230)), Gap::None);
    }
}
