//! Conflict detection before an address is taken for the first time: RFC 5227 §2.1 for IPv4, RFC 4862 §5.4 for IPv6.
//!
//! The RFC's own timing takes 4 to 7 s; its §2.2 lets networks where answers come within milliseconds ask faster, which
//! every Ethernet segment is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lbcore::elect::Term;
use lbcore::time::{Duration, Instant};

use super::schedule::{Job, Tag};
use super::{Claimant, Conflict, Entry, Event, IfIndex, Loss, Responder, Voice};
use crate::wire::MacAddr;

/// How to ask whether another host has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// How many times (PROBE_NUM). At least 1.
    pub count: u8,
    /// From one time to the next, and from the last until the address is taken (PROBE_MIN, ANNOUNCE_WAIT).
    pub interval: Duration,
}

impl Default for Probing {
    /// Three times, 200 ms apart.
    fn default() -> Self {
        Self { count: 3, interval: Duration::from_millis(200) }
    }
}

/// When the next step of each check is due. What is not an address's [`Entry::check_at`](super::Entry) means nothing any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Checks(BTreeSet<(Instant, IpAddr)>);

impl Checks {
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    fn pop_due(&mut self, now: Instant) -> Option<(Instant, IpAddr)> {
        self.0.first().filter(|(at, _)| *at <= now)?;
        self.0.pop_first()
    }

    fn plan(&mut self, at: Instant, address: IpAddr, entry: &mut Entry) {
        entry.check_at = at;
        self.0.insert((at, address));
    }
}

impl Responder {
    /// The lease of `address` holds from now on: speaks for it, or first asks whether somebody has it.
    pub(super) fn take(&mut self, now: Instant, address: IpAddr) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        if self.config.probing.is_none() || entry.checked || entry.term > Term::FIRST {
            return self.speak(now, address);
        }
        self.gains += 1;
        entry.gain = self.gains;
        entry.voice = Voice::Checking(0);
        self.status_version += 1;
        self.checks.plan(now, address, entry);
    }

    /// Goes on with the checks that are due.
    pub(super) fn run_checks(&mut self, now: Instant) {
        let probing = self.config.probing.unwrap_or_default();
        while let Some((at, address)) = self.checks.pop_due(now) {
            let entry = self.entries.get_mut(&address).filter(|entry| entry.check_at == at);
            let Some(entry) = entry else { continue };
            let asked = match entry.voice {
                Voice::Checking(asked) => asked,
                // It is time to look again.
                Voice::Taken => 0,
                Voice::Silent | Voice::Speaking => continue,
            };
            let ports = self.ports.values_mut().filter(|port| port.interface.up);
            let mut ports = ports.filter(|port| entry.chosen.contains(port.interface.index));
            if asked < probing.count.max(1) {
                let tag = Tag { gain: entry.gain, since: now };
                ports.for_each(|port| port.schedule.add(Job::Probe(address), tag));
                entry.voice = Voice::Checking(asked + 1);
            } else if !ports.any(|port| port.schedule.waits(Job::Probe(address))) {
                entry.checked = true;
                self.speak(now, address);
                continue;
            }
            self.checks.plan(now + probing.interval, address, entry);
        }
    }

    /// Whether this node asks who has `address` on `interface`.
    pub(super) fn is_checking(&self, interface: IfIndex, address: IpAddr) -> bool {
        let entry = self.entries.get(&address);
        entry.is_some_and(|entry| {
            matches!(entry.voice, Voice::Checking(_)) && entry.chosen.contains(interface)
        })
    }

    /// Another has the address that was to be taken: it is left alone, unless the other is one of us. Then it is a late
    /// frame of a former owner, and the elector has settled whose it is.
    pub(super) fn found_taken(&mut self, now: Instant, interface: IfIndex, address: IpAddr, mac: MacAddr) {
        self.counters.conflicts += 1;
        let claimant = Claimant { mac, member: self.peers.get(&mac).cloned() };
        let (Some(port), Some(entry)) = (self.ports.get(&interface), self.entries.get_mut(&address)) else {
            return;
        };
        if claimant.member.is_some() {
            return;
        }
        let interface = port.interface.name.clone();
        let voice = std::mem::replace(&mut entry.voice, Voice::Taken);
        self.checks.plan(now + self.config.conflict_memory, address, entry);
        self.fall_silent(address, voice, Loss::Withdrawn);
        let conflict = Conflict { interface: interface.clone(), claimant: claimant.clone(), heard: now };
        self.conflicts.insert(address, conflict);
        self.sweep_at = self.sweep_at.or(Some(now + self.config.conflict_memory));
        self.event(Event::Conflict { address, interface, claimant });
    }
}

/// Tells a probe of ours from those of others when a switch sends it back to us (RFC 7527 §4.1). It must not repeat; that
/// nobody can guess it is not asked for.
pub(super) fn nonce(now: Instant, mac: MacAddr) -> [u8; 6] {
    let mixed = now.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    std::array::from_fn(|at| mixed[at] ^ mac.0[at])
}
