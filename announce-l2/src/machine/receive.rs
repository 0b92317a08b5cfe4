//! What a received frame does to the machine.

use std::net::{IpAddr, Ipv6Addr};

use lbcore::time::Instant;

use super::schedule::{Job, Tag};
use super::{Conflict, Entry, Event, Frame, IfIndex, MAX_BACKLOG, Responder, Transmit};
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::{self, EtherType};
use crate::wire::ndp::{Advertisement, Message, Solicitation};
use crate::wire::{FrameBuf, MacAddr, ipv6};

/// Why an address is not spoken for.
enum Mute {
    Foreign,
    Elsewhere,
    Unleased,
}

impl Responder {
    pub(super) fn receive(&mut self, now: Instant, frame: Frame<'_>) {
        self.counters.received += 1;
        let Some(port) = self.ports.get(&frame.interface).filter(|port| port.interface.up) else {
            self.counters.dropped_interface += 1;
            return;
        };
        let mac = port.interface.mac;
        // A time to come can only be a mistake, and no reason for trust.
        if frame.received > now || now.saturating_since(frame.received) > self.config.max_age {
            self.counters.dropped_stale += 1;
            return;
        }
        let (header, payload) = match ethernet::Header::parse(frame.bytes) {
            Ok(parsed) => parsed,
            Err(why) => return self.counters.drop_invalid(why),
        };
        if self.own.contains(&header.source) {
            self.counters.dropped_own += 1;
            return;
        }
        if header.vlan.is_some_and(|tag| tag.id != 0) {
            self.counters.dropped_vlan += 1;
            return;
        }
        match header.ethertype {
            EtherType::ARP => match Arp::parse(payload) {
                _ if header.destination != mac && header.destination != MacAddr::BROADCAST => {
                    self.counters.dropped_destination += 1;
                }
                Ok(arp) => self.receive_arp(now, frame.interface, mac, &arp),
                Err(why) => self.counters.drop_invalid(why),
            },
            EtherType::IPV6 => self.receive_ipv6(now, frame.interface, mac, &header, payload),
            _ => self.counters.dropped_other += 1,
        }
    }

    fn receive_arp(&mut self, now: Instant, interface: IfIndex, mac: MacAddr, arp: &Arp) {
        if self.own.contains(&arp.sender_mac) {
            self.counters.dropped_own += 1;
            return;
        }
        // RFC 5227 §2.1.1: who names it as its sender has it, and who probes for it too is about to take it.
        for (address, claims) in [(arp.sender, true), (arp.target, arp.is_probe())] {
            if claims && self.is_checking(interface, address.into()) {
                self.found_taken(now, interface, address.into(), arp.sender_mac);
                return;
            }
        }
        // RFC 5227 §2.4: any packet that names our address as its sender is a claim.
        if self.speaks_for(now, interface, arp.sender.into()).is_ok() {
            self.claimed(now, interface, arp.sender.into(), arp.sender_mac);
            return;
        }
        let target = IpAddr::from(arp.target);
        if arp.operation == Operation::Reply {
            if self.entries.contains_key(&target) {
                self.counters.noted_replies += 1;
            } else {
                self.counters.dropped_foreign += 1;
            }
            return;
        }
        if !arp.is_probe()
            && arp.sender != arp.target
            && (self.entries.contains_key(&target) || self.standby.contains_key(&target))
            && let Some(port) = self.ports.get_mut(&interface)
        {
            port.askers.note(now, arp.sender, arp.sender_mac, arp.target);
        }
        match self.speaks_for(now, interface, target) {
            Ok((deadline, gain)) => {
                let frame = arp.reply(mac).to_frame(arp.sender_mac);
                if self.answer(Transmit { interface, address: target, deadline, frame, gain }) {
                    self.counters.answered_arp += 1;
                }
            }
            Err(mute) => self.drop_mute(&mute),
        }
    }

    fn receive_ipv6(
        &mut self,
        now: Instant,
        interface: IfIndex,
        mac: MacAddr,
        ethernet: &ethernet::Header,
        payload: &[u8],
    ) {
        let (header, message) = match ipv6::Header::parse(payload) {
            Ok(parsed) => parsed,
            Err(why) => return self.counters.drop_invalid(why),
        };
        let to_group = header.destination.is_multicast();
        let destined = match to_group {
            true => [MacAddr::of_ipv6_group(header.destination), mac].contains(&ethernet.destination),
            false => ethernet.destination == mac,
        };
        if !destined {
            self.counters.dropped_destination += 1;
            return;
        }
        if header.next_header != ipv6::ICMPV6 {
            self.counters.dropped_other += 1;
            return;
        }
        if header.source.is_multicast() || !ethernet.source.is_host() {
            self.counters.dropped_invalid += 1;
            return;
        }
        match Message::parse(&header, message) {
            Err(why) => self.counters.drop_invalid(why),
            Ok(None) => self.counters.dropped_other += 1,
            Ok(Some(Message::Solicitation(ns))) => {
                self.receive_solicitation(now, interface, mac, ethernet, &header, &ns);
            }
            Ok(Some(Message::Advertisement(na))) => {
                let claimant = na.target_mac.unwrap_or(ethernet.source);
                if self.own.contains(&claimant) {
                    self.counters.dropped_own += 1;
                } else if self.is_checking(interface, na.target.into()) {
                    self.found_taken(now, interface, na.target.into(), claimant);
                } else if self.speaks_for(now, interface, na.target.into()).is_ok() {
                    self.claimed(now, interface, na.target.into(), claimant);
                } else {
                    self.counters.dropped_foreign += 1;
                }
            }
        }
    }

    fn receive_solicitation(
        &mut self,
        now: Instant,
        interface: IfIndex,
        mac: MacAddr,
        ethernet: &ethernet::Header,
        header: &ipv6::Header,
        ns: &Solicitation,
    ) {
        let target = IpAddr::from(ns.target);
        let looped = ns.nonce.is_some_and(|nonce| self.is_looped(target, nonce));
        if looped || ns.source_mac.is_some_and(|mac| self.own.contains(&mac)) {
            self.counters.dropped_own += 1;
            return;
        }
        // RFC 4861 §7.2.3 leaves open where a solicitation is sent; it concerns the target if it is sent to it or to
        // its group.
        if header.destination != ns.target && header.destination != ipv6::solicited_node(ns.target) {
            self.counters.dropped_destination += 1;
            return;
        }
        // RFC 4862 §5.4.3: a solicitation from the unspecified address is another's probe.
        for (address, claims) in [(header.source, true), (ns.target, header.source.is_unspecified())] {
            if claims && self.is_checking(interface, address.into()) {
                let mac = ns.source_mac.unwrap_or(ethernet.source);
                self.found_taken(now, interface, address.into(), mac);
                return;
            }
        }
        if self.speaks_for(now, interface, header.source.into()).is_ok() {
            self.claimed(now, interface, header.source.into(), ns.source_mac.unwrap_or(ethernet.source));
            return;
        }
        let (deadline, gain) = match self.speaks_for(now, interface, target) {
            Ok(spoken_for) => spoken_for,
            Err(mute) => return self.drop_mute(&mute),
        };
        let frame = advertise(ns.target, mac, header.source, ethernet.source);
        if self.answer(Transmit { interface, address: target, deadline, frame, gain }) {
            self.counters.answered_ndp += 1;
        }
    }

    /// Until when this node speaks for `address` on `interface`, and by which gain, if it does at `now`.
    fn speaks_for(&self, now: Instant, interface: IfIndex, address: IpAddr) -> Result<(Instant, u64), Mute> {
        let entry: &Entry = self.entries.get(&address).ok_or(Mute::Foreign)?;
        if !entry.chosen.contains(interface) {
            return Err(Mute::Elsewhere);
        }
        let until = entry.lease.map_or(Instant::ZERO, |lease| self.leases.until(lease));
        if entry.speaks_on(interface) && now < until { Ok((until, entry.gain)) } else { Err(Mute::Unleased) }
    }

    fn drop_mute(&mut self, mute: &Mute) {
        match mute {
            Mute::Foreign => self.counters.dropped_foreign += 1,
            Mute::Elsewhere => self.counters.dropped_elsewhere += 1,
            Mute::Unleased => self.counters.dropped_unleased += 1,
        }
    }

    /// Queues an answer, if there is room.
    fn answer(&mut self, transmit: Transmit) -> bool {
        let room = self.outputs.len() < MAX_BACKLOG;
        if room {
            self.outputs.push_back(transmit);
        } else {
            self.counters.dropped_backlog += 1;
        }
        room
    }

    /// Another speaks for an address of ours. Our lease holds, so it is ours to defend (RFC 5227 §2.4 c), not more
    /// often than the interval allows.
    fn claimed(&mut self, now: Instant, interface: IfIndex, address: IpAddr, mac: MacAddr) {
        self.counters.conflicts += 1;
        let claimant = self.claimant(interface, mac);
        let (Some(port), Some(entry)) = (self.ports.get_mut(&interface), self.entries.get_mut(&address))
        else {
            return;
        };
        let name = port.interface.name.clone();
        let interval = match claimant.member {
            Some(_) => self.config.correct_interval,
            None => self.config.defend_interval,
        };
        let defend = entry.defended.is_none_or(|at| now.saturating_since(at) >= interval);
        if defend {
            entry.defended = Some(now);
            port.schedule.add(Job::Defend(address), Tag { gain: entry.gain, since: now });
        }
        self.sweep_at = self.sweep_at.or(Some(now + self.config.conflict_memory));
        // The status shows another claimant no more often than claims are answered: each change of it costs a pass
        // over all addresses, which a flood of forged claims must not command.
        match self.conflicts.get_mut(&address) {
            Some(known) if known.claimant == claimant => known.heard = now,
            Some(_) if !defend => {}
            _ => {
                let conflict = Conflict { interface: name.clone(), claimant: claimant.clone(), heard: now };
                self.conflicts.insert(address, conflict);
                self.status_version += 1;
            }
        }
        if defend {
            self.event(Event::Conflict { address, interface: name, claimant });
            self.run_schedules(now);
        }
    }

    pub(super) fn sweep_conflicts(&mut self, now: Instant) {
        if self.sweep_at.is_none_or(|at| at > now) {
            return;
        }
        let memory = self.config.conflict_memory;
        let before = self.conflicts.len();
        self.conflicts.retain(|_, conflict| now < conflict.heard + memory);
        if self.conflicts.len() != before {
            self.status_version += 1;
        }
        self.sweep_at = self.conflicts.values().map(|conflict| conflict.heard + memory).min();
    }
}

/// The answer to a solicitation (RFC 4861 §7.2.4): to the asker with S=1, or, for duplicate address detection, to all
/// nodes with S=0. O=1 in both: the asker may still hold the former owner's hardware address.
fn advertise(target: Ipv6Addr, mac: MacAddr, asker: Ipv6Addr, asker_mac: MacAddr) -> FrameBuf {
    let (destination, destination_mac, advertisement) = if asker.is_unspecified() {
        let group = ipv6::ALL_NODES;
        (group, MacAddr::of_ipv6_group(group), Advertisement::unsolicited(target, mac))
    } else {
        (asker, asker_mac, Advertisement::answer(target, mac))
    };
    let header = ipv6::Header::nd(target, destination);
    Message::Advertisement(advertisement).to_frame(&header, mac, destination_mac)
}
