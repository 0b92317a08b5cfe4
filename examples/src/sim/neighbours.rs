//! A client's neighbour cache, as Linux keeps it (`net/core/neighbour.c`, `net/ipv4/arp.c`, `net/ipv6/ndisc.c`).
//!
//! What a frame does to an entry, where "fresh" is one that was updated less than [`LOCKTIME`] ago:
//!
//! | frame | no entry | incomplete | not fresh | fresh |
//! | --- | --- | --- | --- | --- |
//! | gratuitous ARP request | – | replaces | replaces | replaces |
//! | ARP request for the client's own address | creates | replaces | replaces | replaces |
//! | ARP reply to the client | – | replaces, reachable | replaces, reachable | nothing |
//! | NA, O=1, unsolicited | – | replaces | replaces | replaces |
//! | NA, O=1, solicited | – | replaces, reachable | replaces, reachable | replaces, reachable |
//! | NA, O=0 | – | replaces | makes it doubted | makes it doubted |
//!
//! An entry that is replaced without being reachable is stale: it is used, and asked for anew a while later.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use announce_l2::wire::arp::{Arp, Operation};
use announce_l2::wire::ethernet::{self, EtherType};
use announce_l2::wire::ndp::{Advertisement, Message, Solicitation};
use announce_l2::wire::{FrameBuf, MacAddr, ipv6};
use lbcore::time::{Duration, Instant};

/// `net.ipv4.neigh.*.locktime`: so long after an update a reply does not override. IPv6 has none.
const LOCKTIME: Duration = Duration::from_secs(1);
/// `retrans_time`.
const RETRANS: Duration = Duration::from_secs(1);
/// `ucast_solicit` and `mcast_solicit`.
const PROBES: u8 = 3;

/// What a frame says of where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// The address.
    pub(crate) address: IpAddr,
    /// Where it is said to be.
    pub(crate) mac: MacAddr,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To all, unasked.
    Announcement,
    /// An ARP request for somebody's own address.
    Directed(Ipv4Addr),
    /// To who asked.
    Answer,
    /// An advertisement that does not override.
    Weak,
}

impl Word {
    /// What `frame` says, if it is of ARP or Neighbor Discovery and says anything.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let (header, payload) = ethernet::Header::parse(frame).ok()?;
        if header.ethertype == EtherType::ARP {
            let arp = Arp::parse(payload).ok()?;
            let kind = match arp.operation {
                _ if arp.is_probe() => return None,
                Operation::Request if arp.sender == arp.target => Kind::Announcement,
                Operation::Request => Kind::Directed(arp.target),
                Operation::Reply => Kind::Answer,
            };
            return Some(Self { address: arp.sender.into(), mac: arp.sender_mac, kind });
        }
        let (header, message) = ipv6::Header::parse(payload).ok()?;
        match Message::parse(&header, message).ok()?? {
            Message::Advertisement(Advertisement { target, target_mac, overriding, solicited, .. }) => {
                let kind = match (overriding, solicited) {
                    (false, _) => Kind::Weak,
                    (true, true) => Kind::Answer,
                    (true, false) => Kind::Announcement,
                };
                Some(Self { address: target.into(), mac: target_mac?, kind })
            }
            Message::Solicitation(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Incomplete { sent: u8 },
    Reachable,
    Stale,
    Delay,
    Probe { sent: u8 },
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    mac: MacAddr,
    updated: Instant,
    confirmed: Instant,
    /// When the state changes by itself.
    timer: Option<Instant>,
}

/// The cache of one client.
#[derive(Clone, Debug)]
pub(crate) struct Neighbours {
    mac: MacAddr,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    /// How long a confirmation is good for (`base_reachable_time`, randomised).
    reachable: Duration,
    /// `delay_first_probe_time`.
    delay: Duration,
    entries: BTreeMap<IpAddr, Entry>,
    outbox: Vec<FrameBuf>,
}

impl Neighbours {
    /// As a delay: what is learnt of an address holds for ever, as with `ip neigh replace … nud permanent`.
    pub(crate) const PERMANENT: Duration = Duration::MAX;

    pub(crate) fn new(
        mac: MacAddr,
        v4: Ipv4Addr,
        v6: Ipv6Addr,
        reachable: Duration,
        delay: Duration,
    ) -> Self {
        Self { mac, v4, v6, reachable, delay, entries: BTreeMap::new(), outbox: Vec::new() }
    }

    /// Where to send a packet for `address`; `None` if that is not known (yet), and asked for.
    pub(crate) fn resolve(&mut self, now: Instant, address: IpAddr) -> Option<MacAddr> {
        let (reachable, delay) = (self.reachable, self.delay);
        let fresh = Entry {
            state: State::Failed,
            mac: MacAddr::ZERO,
            updated: now,
            confirmed: Instant::ZERO,
            timer: None,
        };
        let entry = self.entries.entry(address).or_insert(fresh);
        if entry.state == State::Reachable && now >= entry.confirmed + reachable {
            entry.state = State::Stale;
        }
        match entry.state {
            State::Failed => {
                entry.state = State::Incomplete { sent: 1 };
                entry.timer = Some(now + RETRANS);
                self.solicit(address, None);
                None
            }
            State::Incomplete { .. } => None,
            State::Stale => {
                entry.state = State::Delay;
                entry.timer = Some(now + delay);
                Some(entry.mac)
            }
            State::Reachable | State::Delay | State::Probe { .. } => Some(entry.mac),
        }
    }

    /// A packet was answered: the layer above knows that the neighbour is there.
    pub(crate) fn confirm(&mut self, now: Instant, address: IpAddr) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.confirmed = now;
        }
    }

    /// Takes in what a frame says; `mine` tells that it came to this host alone.
    pub(crate) fn hear(&mut self, now: Instant, word: Word, mine: bool) {
        let v4 = word.address.is_ipv4();
        let asks_us = word.kind == Kind::Directed(self.v4);
        let blank = Entry {
            state: State::Failed,
            mac: MacAddr::ZERO,
            updated: Instant::ZERO,
            confirmed: Instant::ZERO,
            timer: None,
        };
        let entry = match self.entries.get_mut(&word.address) {
            Some(entry) => entry,
            None if asks_us => self.entries.entry(word.address).or_insert(blank),
            None => return,
        };
        // ndisc_recv_na: nothing is learnt about a neighbour that was given up.
        if !v4 && entry.state == State::Failed {
            return;
        }
        let asserts = word.kind == Kind::Answer && mine;
        let overrides = match word.kind {
            Kind::Announcement => true,
            Kind::Directed(_) if asks_us => true,
            Kind::Answer | Kind::Directed(_) => !v4 || now > entry.updated + LOCKTIME,
            Kind::Weak => false,
        };
        let valid = !matches!(entry.state, State::Incomplete { .. } | State::Failed);
        if valid && self.delay == Self::PERMANENT {
            return;
        }
        if valid && word.mac != entry.mac && !overrides {
            if !v4 && entry.state == State::Reachable {
                entry.state = State::Stale;
                entry.timer = None;
            }
            return;
        }
        if valid && word.mac == entry.mac && !asserts {
            return;
        }
        if entry.state != State::Reachable || word.mac != entry.mac {
            entry.updated = now;
        }
        entry.mac = word.mac;
        entry.timer = None;
        entry.state = if asserts { State::Reachable } else { State::Stale };
        entry.confirmed = if asserts { now } else { Instant::ZERO };
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<IpAddr> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.timer.is_some_and(|at| at <= now))
            .map(|(address, _)| *address)
            .collect();
        for address in due {
            let (delay, Some(entry)) = (self.delay, self.entries.get_mut(&address)) else { continue };
            let again = Some(now + RETRANS);
            let mac = entry.mac;
            let ask = match entry.state {
                State::Incomplete { sent } if sent < PROBES => {
                    (entry.state, entry.timer) = (State::Incomplete { sent: sent + 1 }, again);
                    Some(None)
                }
                State::Delay if now <= entry.confirmed + delay => {
                    (entry.state, entry.timer) = (State::Reachable, None);
                    None
                }
                State::Delay => {
                    (entry.state, entry.timer) = (State::Probe { sent: 1 }, again);
                    Some(Some(mac))
                }
                State::Probe { sent } if sent < PROBES => {
                    (entry.state, entry.timer) = (State::Probe { sent: sent + 1 }, again);
                    Some(Some(mac))
                }
                State::Incomplete { .. } | State::Probe { .. } => {
                    (entry.state, entry.timer) = (State::Failed, None);
                    None
                }
                State::Reachable | State::Stale | State::Failed => {
                    entry.timer = None;
                    None
                }
            };
            if let Some(to) = ask {
                self.solicit(address, to);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.timer).min()
    }

    /// The next frame to send.
    pub(crate) fn poll_output(&mut self) -> Option<FrameBuf> {
        self.outbox.pop()
    }

    /// The question where `address` is, to all or to one.
    pub(crate) fn question(
        mac: MacAddr,
        v4: Ipv4Addr,
        v6: Ipv6Addr,
        address: IpAddr,
        to: Option<MacAddr>,
    ) -> FrameBuf {
        match address {
            IpAddr::V4(address) => Arp::directed(mac, v4, address).to_frame(to.unwrap_or(MacAddr::BROADCAST)),
            IpAddr::V6(target) => {
                let group = ipv6::solicited_node(target);
                let (destination, destination_mac) = match to {
                    Some(to) => (target, to),
                    None => (group, MacAddr::of_ipv6_group(group)),
                };
                let solicitation = Solicitation { target, source_mac: Some(mac), nonce: None };
                let header = ipv6::Header::nd(v6, destination);
                Message::Solicitation(solicitation).to_frame(&header, mac, destination_mac)
            }
        }
    }

    fn solicit(&mut self, address: IpAddr, to: Option<MacAddr>) {
        self.outbox.push(Self::question(self.mac, self.v4, self.v6, address, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
    const OLD: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const NEW: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);

    fn at(millis: u64) -> Instant {
        Instant::from_millis(100_000 + millis)
    }

    /// A cache that has learnt at 0 that `address` is at OLD.
    fn knows(address: IpAddr) -> Neighbours {
        let second = Duration::from_secs(1);
        let mut cache = Neighbours::new(ME, HOST, "fe80::1".parse().unwrap(), second * 30, second * 5);
        assert_eq!(cache.resolve(at(0), address), None);
        assert!(cache.poll_output().is_some(), "it asks");
        cache.hear(at(0), Word { address, mac: OLD, kind: Kind::Answer }, true);
        assert_eq!(cache.resolve(at(0), address), Some(OLD));
        cache
    }

    /// What Linux 6.18 was seen to do, frame by frame.
    #[test]
    fn a_frame_replaces_what_linux_lets_it_replace() {
        let v4: IpAddr = [192, 0, 2, 1].into();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        for (address, kind, after, now_at) in [
            (v4, Kind::Announcement, 10, NEW),
            (v4, Kind::Directed(HOST), 10, NEW),
            (v4, Kind::Answer, 10, OLD),
            (v4, Kind::Answer, 1010, NEW),
            (v6, Kind::Announcement, 10, NEW),
            (v6, Kind::Answer, 10, NEW),
            (v6, Kind::Weak, 10, OLD),
            (v6, Kind::Weak, 2000, OLD),
        ] {
            let mut cache = knows(address);
            cache.hear(at(after), Word { address, mac: NEW, kind }, kind == Kind::Answer);
            assert_eq!(
                cache.resolve(at(after), address),
                Some(now_at),
                "{address} {kind:?} after {after} ms"
            );
        }
        for (address, kind, created) in [
            (v4, Kind::Announcement, false),
            (v4, Kind::Directed(HOST), true),
            (v6, Kind::Announcement, false),
        ] {
            let second = Duration::from_secs(1);
            let mut cache = Neighbours::new(ME, HOST, "fe80::1".parse().unwrap(), second, second);
            cache.hear(at(0), Word { address, mac: NEW, kind }, false);
            assert_eq!(cache.resolve(at(0), address).is_some(), created, "{address} {kind:?}");
        }
    }

    #[test]
    fn a_neighbour_that_is_silent_is_given_up_and_asked_for_anew() {
        let address: IpAddr = [192, 0, 2, 1].into();
        let mut cache = knows(address);
        assert_eq!(cache.resolve(at(31_000), address), Some(OLD), "stale, and used");
        let mut asked = Vec::new();
        while let Some(due) = cache.poll_timeout() {
            cache.handle_timeout(due);
            asked.extend(cache.poll_output().map(|_| due.saturating_since(at(31_000)).as_secs()));
        }
        assert_eq!(asked, [5, 6, 7], "each second, after the delay");
        assert_eq!(cache.resolve(at(40_000), address), None, "given up");
        assert!(cache.poll_output().is_some(), "asked for again");
    }

    #[test]
    fn one_whose_answers_arrive_is_not_asked() {
        let address: IpAddr = [192, 0, 2, 1].into();
        let mut cache = knows(address);
        cache.resolve(at(31_000), address);
        cache.confirm(at(33_000), address);
        cache.handle_timeout(at(36_000));
        assert_eq!((cache.poll_output(), cache.resolve(at(36_000), address)), (None, Some(OLD)));
    }
}
