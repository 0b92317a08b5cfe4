//! Conflict detection before an address is taken for the first time: RFC 5227 §2.1 for IPv4, RFC 4862 §5.4 for IPv6.
//!
//! The RFC's own timing takes 4 to 7 s; its §2.2 lets networks where answers come within milliseconds ask faster, which
//! every Ethernet segment is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lbcore::time::{Duration, Instant};

use super::schedule::{Job, Tag};
use super::{Conflict, Entry, Event, IfIndex, Loss, Responder, Voice};
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

/// How far it is known that nobody has an address on the segment of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// So many probes were sent, the last one then, with that nonce.
    Asking { sent: u8, last: Instant, nonce: [u8; 6] },
    /// A stranger has it; to be asked again then.
    Taken { until: Instant },
    /// Nobody had it.
    Clear,
}

impl Check {
    const BEGIN: Self = Self::Asking { sent: 0, last: Instant::ZERO, nonce: [0; 6] };
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

    /// Has the check of `address` gone on with at `at`, if not before.
    pub(super) fn plan(&mut self, now: Instant, at: Instant, address: IpAddr, entry: &mut Entry) {
        if (now..=at).contains(&entry.check_at) && self.0.contains(&(entry.check_at, address)) {
            return;
        }
        entry.check_at = at;
        self.0.insert((at, address));
    }
}

impl Responder {
    /// The lease of `address` holds from now on: speaks for it, or first asks whether somebody has it.
    pub(super) fn take(&mut self, now: Instant, address: IpAddr) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        if !entry.unproven || entry.checks.values().any(|check| *check == Check::Clear) {
            return self.speak(now, address);
        }
        // Half a check of an earlier time says nothing.
        entry.checks.clear();
        self.gains += 1;
        entry.gain = self.gains;
        entry.voice = Voice::Checking;
        self.status_version += 1;
        self.checks.plan(now, now, address, entry);
    }

    /// Goes on with the checks that are due. Only what was sent counts: an interface without a carrier is asked when it has
    /// one, and what the pace holds back is waited for.
    pub(super) fn run_checks(&mut self, now: Instant) {
        let Some(probing) = self.config.probing else { return };
        while let Some((at, address)) = self.checks.pop_due(now) {
            let entry = self.entries.get_mut(&address).filter(|entry| entry.check_at == at && entry.unproven);
            let Some(entry) = entry.filter(|entry| entry.voice != Voice::Silent) else { continue };
            if entry.voice == Voice::Taken {
                // It is time to look again.
                entry.voice = Voice::Checking;
                self.status_version += 1;
            }
            let tag = Tag { gain: entry.gain, since: now };
            let (mut next, mut cleared, mut asking) = (None, Vec::new(), false);
            for (index, port) in self.ports.iter_mut().filter(|(_, port)| port.interface.up) {
                if !entry.chosen.contains(*index) {
                    continue;
                }
                let check = entry.checks.entry(*index).or_insert(Check::BEGIN);
                if matches!(check, Check::Taken { until } if *until <= now) {
                    *check = Check::BEGIN;
                }
                let due = match *check {
                    Check::Clear => continue,
                    Check::Taken { until } => until,
                    // Its sending tells when to go on.
                    Check::Asking { .. } if port.schedule.waits(Job::Probe(address)) => {
                        asking = true;
                        continue;
                    }
                    Check::Asking { sent, last, .. } if sent > 0 && now < last + probing.interval => {
                        asking = true;
                        last + probing.interval
                    }
                    Check::Asking { sent, .. } if sent < probing.count.max(1) => {
                        port.schedule.add(Job::Probe(address), tag);
                        asking = true;
                        continue;
                    }
                    Check::Asking { .. } => {
                        *check = Check::Clear;
                        cleared.push(*index);
                        continue;
                    }
                };
                next = Some(next.map_or(due, |known: Instant| known.min(due)));
            }
            if let Some(next) = next {
                self.checks.plan(now, next, address, entry);
            }
            let clear = entry.checks.values().any(|check| *check == Check::Clear);
            if entry.voice == Voice::Checking && clear && !asking {
                self.speak(now, address);
            } else if entry.voice == Voice::Speaking && !cleared.is_empty() {
                self.status_version += 1;
                for index in cleared {
                    if let Some(port) = self.ports.get_mut(&index) {
                        port.schedule.add(Job::First(address), tag);
                    }
                }
            }
        }
    }

    /// Interfaces came or went, or others are chosen: those that were not asked yet are.
    pub(super) fn check_anew(&mut self, now: Instant, address: IpAddr) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        let ports = &self.ports;
        entry.checks.retain(|index, _| ports.contains_key(index));
        if entry.unproven && matches!(entry.voice, Voice::Checking | Voice::Speaking) {
            self.checks.plan(now, now, address, entry);
        }
    }

    /// Whether this node asks who has `address` on `interface`.
    pub(super) fn is_checking(&self, interface: IfIndex, address: IpAddr) -> bool {
        let entry = self.entries.get(&address).filter(|entry| entry.chosen.contains(interface));
        entry.is_some_and(|entry| match entry.voice {
            Voice::Checking => true,
            Voice::Speaking => {
                entry.unproven && matches!(entry.checks.get(&interface), Some(Check::Asking { .. }))
            }
            Voice::Silent | Voice::Taken => false,
        })
    }

    /// Whether this nonce is that of a probe of ours for `address`, which somebody sends back (RFC 7527 §4.2).
    pub(super) fn is_looped(&self, address: IpAddr, nonce: [u8; 6]) -> bool {
        let is_ours =
            |check: &Check| matches!(check, Check::Asking { sent: 1.., nonce: ours, .. } if *ours == nonce);
        self.entries.get(&address).is_some_and(|entry| entry.checks.values().any(is_ours))
    }

    /// Another has the address that was to be taken: it is left alone, unless the other is one of us. Then it is a late
    /// frame of a former owner, and the elector has settled whose it is.
    pub(super) fn found_taken(&mut self, now: Instant, interface: IfIndex, address: IpAddr, mac: MacAddr) {
        self.counters.conflicts += 1;
        let claimant = self.claimant(interface, mac);
        let (Some(port), Some(entry)) = (self.ports.get(&interface), self.entries.get_mut(&address)) else {
            return;
        };
        if claimant.member.is_some() {
            return;
        }
        let until = now + self.config.conflict_memory;
        let name = port.interface.name.clone();
        if entry.voice == Voice::Speaking {
            // On other interfaces it is ours.
            entry.checks.insert(interface, Check::Taken { until });
            self.status_version += 1;
            self.checks.plan(now, until, address, entry);
        } else {
            let voice = std::mem::replace(&mut entry.voice, Voice::Taken);
            entry.checks.clear();
            entry.check_at = until;
            self.checks.0.insert((until, address));
            self.fall_silent(address, voice, Loss::Withdrawn);
        }
        let interface = name;
        let conflict = Conflict { interface: interface.clone(), claimant: claimant.clone(), heard: now };
        self.conflicts.insert(address, conflict);
        self.sweep_at = self.sweep_at.or(Some(now + self.config.conflict_memory));
        self.event(Event::Conflict { address, interface, claimant });
    }
}

/// Tells a probe of ours from those of others when a switch sends it back to us (RFC 7527 §4.1): `number` is another one for
/// each probe. That nobody can guess it is not asked for.
pub(super) fn nonce(now: Instant, mac: MacAddr, number: u64) -> [u8; 6] {
    let mixed = (now.as_nanos() ^ number.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    std::array::from_fn(|at| mixed[at] ^ mac.0[at])
}
