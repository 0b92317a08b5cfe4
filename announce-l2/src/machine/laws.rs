//! The responder's rules written down a second time, as plainly as possible, and a machine to which anything happens
//! in any order. Used by the property tests and by the fuzz target `l2_responder`; not part of the API.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use lbcore::announce::{AnnounceSet, AnnounceState, Announcement, Interfaces};
use lbcore::elect::{LeaseId, Term};
use lbcore::time::{Duration, Instant};

use super::{Config, Event, Frame, IfIndex, Input, Interface, Responder, Transmit};
use crate::wire::arp::Arp;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::ndp::{Message, Solicitation};
use crate::wire::{MacAddr, ipv6};

/// Something that happens, drawn from a small world so that things collide: eight addresses, two leases and two
/// interfaces.
#[derive(Clone, Debug)]
pub enum Step {
    /// Time passes, in ms.
    Wait(u64),
    /// A set arrives: bit *n* of `owned` is address *n*.
    Desired {
        /// Its generation.
        generation: u64,
        /// Its addresses.
        owned: u8,
        /// Their lease.
        lease: u8,
        /// Their interfaces.
        chosen: u8,
        /// Whether nobody owned them before.
        first: bool,
    },
    /// A lease is renewed.
    Renew {
        /// Which.
        lease: u8,
        /// For how long, in ms.
        for_ms: u64,
    },
    /// Somebody asks for an address, by ARP if it is even, else by a neighbor solicitation.
    Ask {
        /// Which.
        address: u8,
        /// Whether it is a probe, or duplicate address detection.
        probe: bool,
        /// How old the frame is, in ms.
        age_ms: u64,
        /// Where it came in.
        port: u8,
    },
    /// Somebody else claims an address by ARP.
    Claim {
        /// Which.
        address: u8,
        /// Where.
        port: u8,
    },
    /// An interface comes or goes.
    Link {
        /// Which.
        port: u8,
        /// Whether it is up now.
        up: bool,
    },
    /// The segment may have forgotten us.
    Reannounce {
        /// Where.
        port: u8,
    },
    /// A frame of any bytes comes in.
    Frame {
        /// Its bytes.
        bytes: Vec<u8>,
        /// How old it is, in ms.
        age_ms: u64,
        /// Where it came in.
        port: u8,
    },
    /// All is to be withdrawn.
    Withdraw,
}

/// The steps that `bytes` spell; what is missing at the end is zero.
pub fn decode(bytes: &[u8]) -> Vec<Step> {
    let mut rest = bytes;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let mut byte = || rest.split_off_first().copied().unwrap_or_default();
        let (kind, a, b, c) = (byte(), byte(), byte(), byte());
        let wide = u64::from(b) << 8 | u64::from(c);
        // Ages around the limit of 100 ms.
        let age_ms = u64::from(c & 0x7f) * 2;
        steps.push(match kind % 10 {
            0 => Step::Wait(wide),
            1 => Step::Wait(wide % 500),
            2 => Step::Desired {
                generation: u64::from(a % 16),
                owned: b,
                lease: c % 2,
                chosen: c >> 1,
                first: c & 8 != 0,
            },
            3 => Step::Renew { lease: a, for_ms: wide % 8192 },
            4 => Step::Ask { address: a % 8, probe: b & 2 != 0, age_ms, port: b },
            5 => Step::Claim { address: a % 8, port: b },
            6 => Step::Link { port: a, up: b % 4 != 0 },
            7 => Step::Reannounce { port: a },
            8 => {
                let (bytes, after) = rest.split_at(usize::from(a).min(rest.len()));
                rest = after;
                Step::Frame { bytes: bytes.to_vec(), age_ms: if b & 2 == 0 { 0 } else { age_ms }, port: b }
            }
            _ => Step::Withdraw,
        });
    }
    steps
}

/// Lets `steps` happen. After each: nothing was sent that may not be said now, from the right hardware address and for
/// the right address; every fresh question about an address of ours was answered, and no old one; no deadline
/// lies in the past for long; events and status tell the truth; and each frame was counted once.
///
/// # Panics
/// If not.
pub fn check(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.play(step);
    }
    let counters = world.machine.counters();
    let outcomes = counters.iter().filter(|(name, _)| {
        ["answered_", "dropped_", "noted_"].iter().any(|prefix| name.starts_with(prefix))
            || *name == "conflicts"
    });
    assert_eq!(outcomes.map(|(_, count)| count).sum::<u64>(), counters.received, "each frame counts once");
}

const PORTS: [IfIndex; 2] = [IfIndex(2), IfIndex(3)];
const NAMES: [&str; 2] = ["eth0", "eth1"];
const MACS: [MacAddr; 2] = [MacAddr([0x02, 0, 0, 0, 0, 0x01]), MacAddr([0x02, 0, 0, 0, 0, 0x02])];
const CLIENT: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0xcc]);
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xcc);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

/// Even addresses are IPv4, odd ones IPv6.
fn address(number: u8) -> IpAddr {
    match number.is_multiple_of(2) {
        true => Ipv4Addr::new(192, 0, 2, number).into(),
        false => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into(),
    }
}

fn lease(number: u8) -> LeaseId {
    if number.is_multiple_of(2) { LeaseId::FIRST } else { LeaseId::FIRST.next() }
}

/// The interfaces that `chosen` names: all, one of them, or one that is not there.
fn interfaces(chosen: u8) -> Interfaces {
    match chosen % 4 {
        0 => Interfaces::All,
        1 => Interfaces::Only([NAMES[0].into()].into()),
        2 => Interfaces::Only([NAMES[1].into()].into()),
        _ => Interfaces::Only(["eth9".into()].into()),
    }
}

/// What may be said.
#[derive(Debug, Default)]
struct Model {
    generation: u64,
    owned: BTreeMap<IpAddr, (LeaseId, Interfaces)>,
    /// Those of them that nobody owned before.
    first: BTreeSet<IpAddr>,
    until: BTreeMap<LeaseId, Instant>,
    up: [bool; 2],
    /// What the machine said that it speaks for.
    gained: BTreeSet<IpAddr>,
    /// Where it spoke for what at some time since it was first desired.
    clear: BTreeSet<(usize, IpAddr)>,
    /// When it asked where who has what.
    probes: BTreeMap<(usize, IpAddr), Vec<Instant>>,
}

/// From one probe to the next, and from the last until the address is spoken for.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

impl Model {
    /// Until when this node is the owner, if it is.
    fn owned_until(&self, now: Instant, address: IpAddr) -> Option<Instant> {
        let (lease, _) = self.owned.get(&address)?;
        self.until.get(lease).copied().filter(|until| now < *until)
    }

    /// Until when it may say so on the interface, where it does not have to look for strangers first.
    fn may_speak(&self, now: Instant, port: usize, address: IpAddr) -> Option<Instant> {
        let (_, interfaces) = self.owned.get(&address)?;
        let speaks = self.up[port] && interfaces.contains(&NAMES[port].into());
        self.owned_until(now, address).filter(|_| speaks)
    }

    /// Whether the machine may leave an address alone that it could speak for.
    fn is_probed(&self, address: IpAddr) -> bool {
        self.first.contains(&address) && !self.gained.contains(&address)
    }
}

struct World {
    machine: Responder,
    model: Model,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (machine, now) = (Responder::new(Config::default()), Instant::from_millis(1000));
        let mut world = Self { machine, model: Model::default(), now };
        world.model.up = [true; 2];
        world.set_links();
        world
    }

    /// Where the machine says that it speaks for `address`.
    fn says(&self, address: IpAddr) -> BTreeSet<usize> {
        let status = self.machine.status();
        let Some(AnnounceState::Announced { to }) = status.entries.get(&address) else {
            return BTreeSet::new();
        };
        (0..2).filter(|port| to.iter().any(|name| **name == *NAMES[*port])).collect()
    }

    /// Until when it speaks for `address` on the interface. Of those that nobody owned before its own word counts, which
    /// is judged by its probes.
    fn speaks(&self, port: usize, address: IpAddr) -> Option<Instant> {
        let may = self.model.may_speak(self.now, port, address);
        may.filter(|_| !self.model.first.contains(&address) || self.says(address).contains(&port))
    }

    fn set_links(&mut self) {
        let table: Vec<Interface> = (0..2)
            .map(|port| Interface {
                up: self.model.up[port],
                gateways: vec![GATEWAY],
                ..Interface::new(PORTS[port], NAMES[port], MACS[port])
            })
            .collect();
        self.machine.handle(self.now, Input::Interfaces(&table));
    }

    fn play(&mut self, step: &Step) {
        let now = self.now;
        match step {
            Step::Wait(ms) => self.wait(Duration::from_millis(*ms)),
            Step::Desired { generation, owned, lease: number, chosen, first } => {
                let addresses = (0..8).filter(|bit| owned & 1 << bit != 0).map(address);
                let (lease, interfaces) = (lease(*number), interfaces(*chosen));
                let term = if *first { Term::FIRST } else { Term(2) };
                let entries = addresses
                    .clone()
                    .map(|address| (address, Announcement::on_segment(lease, term, interfaces.clone())));
                let set = Arc::new(AnnounceSet::new(*generation, entries));
                self.machine.handle(now, Input::Desired(set));
                if *generation >= self.model.generation {
                    self.model.generation = *generation;
                    self.model.first = if *first { addresses.clone().collect() } else { BTreeSet::new() };
                    self.model.owned =
                        addresses.map(|address| (address, (lease, interfaces.clone()))).collect();
                    let owned = &self.model.owned;
                    self.model.clear.retain(|(_, address)| owned.contains_key(address));
                }
            }
            Step::Renew { lease: number, for_ms } => {
                let (lease, until) = (lease(*number), now + Duration::from_millis(*for_ms));
                self.machine.handle(now, Input::Renewed { lease, until });
                let known = self.model.until.entry(lease).or_default();
                *known = until.max(*known);
            }
            Step::Ask { address: number, probe, age_ms, port } => {
                let (address, port) = (address(*number), usize::from(port % 2));
                let expected = *age_ms <= 100 && self.speaks(port, address).is_some();
                let sent = self.receive(&question(address, *probe), *age_ms, port);
                let answered = sent.iter().any(|transmit| transmit.address == address);
                assert_eq!(answered, expected, "{address} on {}", NAMES[port]);
            }
            Step::Claim { address: number, port } => {
                if let IpAddr::V4(claimed) = address(*number) {
                    let frame = Arp::announcement(CLIENT, claimed).to_frame(MacAddr::BROADCAST);
                    self.receive(frame.as_bytes(), 0, usize::from(port % 2));
                }
            }
            Step::Link { port, up } => {
                self.model.up[usize::from(port % 2)] = *up;
                self.set_links();
            }
            Step::Reannounce { port } => {
                self.machine.handle(now, Input::Reannounce(PORTS[usize::from(port % 2)]));
            }
            Step::Frame { bytes, age_ms, port } => {
                self.receive(bytes, *age_ms, usize::from(port % 2));
            }
            Step::Withdraw => {
                self.machine.handle(now, Input::Withdraw);
                self.model.owned.clear();
                self.model.first.clear();
                self.model.clear.clear();
            }
        }
        self.drain();
        self.machine.handle_timeout(self.now);
        self.drain();
        self.check_truth();
    }

    /// Goes on, deadline by deadline.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.machine.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.machine.handle_timeout(self.now);
            self.drain();
            let next = self.machine.poll_timeout();
            assert!(next != Some(due) || next > Some(self.now), "a timer that fires for ever, at {next:?}");
        }
        self.now = end;
    }

    fn receive(&mut self, bytes: &[u8], age_ms: u64, port: usize) -> Vec<Transmit> {
        self.drain();
        let received = self.now - Duration::from_millis(age_ms);
        self.machine.handle(self.now, Input::Frame(Frame { interface: PORTS[port], received, bytes }));
        let sent = self.drain();
        assert!(
            sent.is_empty() || (age_ms <= 100 && self.model.up[port]),
            "{sent:?} for an old or unseen frame"
        );
        sent
    }

    fn drain(&mut self) -> Vec<Transmit> {
        self.check_events();
        let sent: Vec<Transmit> = std::iter::from_fn(|| self.machine.poll_output()).collect();
        for transmit in &sent {
            self.check_transmit(transmit);
        }
        self.check_clear();
        sent
    }

    /// Where it begins to speak for what nobody owned before it has asked often enough.
    fn check_clear(&mut self) {
        for address in (0..8).map(address) {
            for port in self.says(address) {
                if !self.model.clear.insert((port, address)) || !self.model.first.contains(&address) {
                    continue;
                }
                let probes = self.model.probes.get(&(port, address)).map_or(&[][..], Vec::as_slice);
                let last = probes.len().checked_sub(3).map(|first| &probes[first..]);
                let Some(last) = last else { panic!("{address} was not asked for on {}", NAMES[port]) };
                let times = last.iter().chain([&self.now]);
                let apart =
                    times.clone().zip(times.skip(1)).all(|(one, next)| *next >= *one + PROBE_INTERVAL);
                assert!(apart, "{address} on {}: asked at {last:?}, and it is {:?}", NAMES[port], self.now);
            }
        }
    }

    fn check_transmit(&mut self, transmit: &Transmit) {
        let Transmit { interface, address, deadline, .. } = *transmit;
        let port = PORTS.iter().position(|known| *known == interface).expect("a known interface");
        let may = self.speaks(port, address);
        let (header, payload) = ethernet::Header::parse(transmit.frame.as_bytes()).expect("a whole frame");
        assert_eq!((header.source, header.vlan), (MACS[port], None));
        assert!(!MACS.contains(&header.destination), "{transmit:?} is for ourselves");
        let probes = match (header.ethertype, address) {
            (EtherType::ARP, IpAddr::V4(address)) => {
                let arp = Arp::parse(payload).expect("a valid packet");
                assert_eq!(arp.sender_mac, MACS[port]);
                assert!(arp.sender == address || (arp.is_probe() && arp.target == address), "{arp:?}");
                arp.is_probe()
            }
            (EtherType::IPV6, IpAddr::V6(address)) => {
                let (ip, message) = ipv6::Header::parse(payload).expect("a whole packet");
                match Message::parse(&ip, message) {
                    Ok(Some(Message::Advertisement(na))) => {
                        let said = (ip.source, na.target, na.target_mac, na.overriding);
                        assert_eq!(said, (address, address, Some(MACS[port]), true));
                        false
                    }
                    Ok(Some(Message::Solicitation(ns))) => {
                        assert_eq!((ip.source, ns.target), (Ipv6Addr::UNSPECIFIED, address));
                        true
                    }
                    other => panic!("{other:?} in {transmit:?}"),
                }
            }
            _ => panic!("{transmit:?} is of the wrong family"),
        };
        if probes {
            let is_needed = self.model.first.contains(&address) && !self.says(address).contains(&port);
            assert!(is_needed, "{address} is probed for where it is spoken for");
            self.model.probes.entry((port, address)).or_default().push(self.now);
            assert_eq!(Some(deadline), self.model.owned_until(self.now, address), "{transmit:?}");
        } else {
            assert_eq!(Some(deadline), may, "{transmit:?} at {:?}", self.now);
        }
    }

    /// Events agree with the model.
    fn check_events(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Gained { address, .. } => {
                    assert!(self.model.gained.insert(address), "{address} gained twice");
                }
                Event::Lost { address, .. } => {
                    assert!(self.model.gained.remove(&address), "{address} lost in vain");
                }
                Event::Conflict { address, .. } => {
                    let concerns = self.model.gained.contains(&address) || self.model.is_probed(address);
                    assert!(concerns, "{address}");
                    if self.model.is_probed(address) {
                        self.model.clear.retain(|(_, known)| *known != address);
                    }
                }
            }
        }
    }

    /// Events and status agree with the model.
    fn check_truth(&mut self) {
        self.check_events();
        let (model, now) = (&mut self.model, self.now);
        for address in (0..8).map(address) {
            let (owned, gained) =
                (model.owned_until(now, address).is_some(), model.gained.contains(&address));
            assert!(gained == owned || (owned && model.first.contains(&address)), "{address}: {gained}");
        }
        for (address, state) in &self.machine.status().entries {
            let speaks = (0..2).any(|port| self.speaks(port, *address).is_some());
            assert_eq!(state.is_announced(), speaks, "{address}");
        }
    }
}

fn question(address: IpAddr, probe: bool) -> Vec<u8> {
    let frame = match address {
        IpAddr::V4(target) => {
            let packet =
                if probe { Arp::probe(CLIENT, target) } else { Arp::directed(CLIENT, CLIENT_V4, target) };
            packet.to_frame(MacAddr::BROADCAST)
        }
        IpAddr::V6(target) => {
            let group = ipv6::solicited_node(target);
            let source = if probe { Ipv6Addr::UNSPECIFIED } else { CLIENT_V6 };
            let message = Message::Solicitation(Solicitation { target, source_mac: None, nonce: None });
            message.to_frame(&ipv6::Header::nd(source, group), CLIENT, MacAddr::of_ipv6_group(group))
        }
    };
    frame.as_bytes().to_vec()
}
