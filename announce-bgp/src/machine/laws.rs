//! A speaker to which anything happens in any order, and what must hold all the same. Used by the property tests and
//! by the fuzz target `bgp_session`; not part of the API.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use lbcore::addr::Family;
use lbcore::announce::{AnnounceSet, Announcement, Route};
use lbcore::elect::{LeaseId, Term};
use lbcore::time::Instant;

use super::{ConnectionId, Event, Input, Speaker, State};
use crate::config::{BgpConfig, PeerConfig, RemoteAs};
use crate::wire::{
    AddressFamily, Capability, Context, Families, HEADER_LENGTH, Header, MAX_MESSAGE_LENGTH, Message, Open,
    Peering,
};

/// Something that happens, drawn from a small world so that things collide: two peers, eight addresses, two leases,
/// and the connections that there are or were.
#[derive(Clone, Debug)]
pub enum Step {
    /// Time passes, in units of 16 ms.
    Wait(u16),
    /// The oldest attempt to connect succeeds, or fails.
    Answer {
        /// Whether it succeeds.
        success: bool,
    },
    /// A peer calls.
    Call {
        /// Whether it is the second one.
        second: bool,
    },
    /// A good OPEN arrives: bits of `offer` are families, four-octet AS numbers, and the sender's identifier and AS.
    Open {
        /// On which connection.
        connection: u8,
        /// What it says.
        offer: u8,
        /// Its hold time.
        hold: u8,
    },
    /// A message of any type with any body arrives.
    Message {
        /// On which connection.
        connection: u8,
        /// Its type.
        kind: u8,
        /// Its body.
        body: Vec<u8>,
    },
    /// Any bytes arrive.
    Bytes {
        /// On which connection.
        connection: u8,
        /// They.
        bytes: Vec<u8>,
    },
    /// The connection is lost.
    Lose {
        /// Which.
        connection: u8,
    },
    /// The peer reads.
    Read {
        /// On which connection.
        connection: u8,
        /// About how many octets; all that there is if `None`.
        limit: Option<u16>,
    },
    /// A set arrives: bit *n* of `wanted` is address *n*.
    Desired {
        /// Its generation.
        generation: u64,
        /// Its addresses.
        wanted: u8,
        /// Their lease, if any, and their attributes.
        how: u8,
    },
    /// A lease is renewed.
    Renew {
        /// Which.
        lease: u8,
        /// For how long, in units of 16 ms.
        time: u16,
    },
    /// Other peers are configured.
    Peers(u8),
    /// It is to end.
    Stop,
}

/// The steps that `bytes` spell; what is missing at the end is zero.
pub fn decode(bytes: &[u8]) -> Vec<Step> {
    let mut rest = bytes;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let mut byte = || rest.split_off_first().copied().unwrap_or_default();
        let (kind, a, b, c) = (byte(), byte(), byte(), byte());
        let wide = u16::from(b) << 8 | u16::from(c);
        let mut take = |count: u8| {
            let (taken, after) = rest.split_at(usize::from(count).min(rest.len()));
            rest = after;
            taken.to_vec()
        };
        steps.push(match kind % 16 {
            0 => Step::Wait(wide),
            1 => Step::Wait(wide % 64),
            2 => Step::Answer { success: a % 4 != 3 },
            3 => Step::Call { second: a % 2 != 0 },
            4 | 5 => Step::Open { connection: a, offer: b, hold: c },
            6 => Step::Message { connection: a, kind: 4, body: Vec::new() },
            7 => Step::Message { connection: a, kind: b, body: take(c) },
            8 => Step::Bytes { connection: a, bytes: take(b) },
            9 => Step::Lose { connection: a },
            10 => Step::Read { connection: a, limit: None },
            11 => Step::Read { connection: a, limit: Some(wide) },
            12 => Step::Desired { generation: u64::from(a % 16), wanted: b, how: c },
            13 => Step::Renew { lease: a, time: wide },
            14 => Step::Peers(a),
            _ if a % 16 == 15 => Step::Stop,
            _ => Step::Wait(wide),
        });
    }
    steps
}

/// Lets `steps` happen. After each: whole messages came out, and no more of them than asked for; a route was announced
/// only while it may be, and withdrawn only after that; of one peer at most one session is up, and when it has
/// read all, it knows what is desired; no deadline has passed; and after the end there is silence.
///
/// # Panics
/// If not.
pub fn check(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.play(step);
        world.settle();
        world.check_timers();
        world.check_sessions();
    }
}

const LOCAL_AS: u32 = 65000;
const REMOTE_AS: u32 = 65001;
const LOCAL_ID: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const REMOTES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))];

fn peers(choice: u8) -> Vec<PeerConfig> {
    let peer = |name: &str, address, remote_as| {
        let mut peer = PeerConfig::new(name, address, remote_as);
        peer.next_hop_v6 = "2001:db8::9".parse().ok();
        peer
    };
    let first = peer("a", REMOTES[0], RemoteAs::Number(REMOTE_AS));
    let quick = PeerConfig { hold_time: Duration::from_secs(3), ..first.clone() };
    let passive = PeerConfig { passive: true, families: Families::V4, ..first.clone() };
    let second = peer("b", REMOTES[1], RemoteAs::Internal);
    match choice % 6 {
        0 => vec![first],
        1 => vec![quick],
        2 => vec![passive, second],
        3 => vec![first, second],
        4 => vec![second],
        _ => vec![],
    }
}

fn lease(number: u8) -> LeaseId {
    if number.is_multiple_of(2) { LeaseId::FIRST } else { LeaseId::FIRST.next() }
}

/// Even addresses are IPv4, odd ones IPv6.
fn address(number: u8) -> IpAddr {
    match number.is_multiple_of(2) {
        true => IpAddr::from([198, 51, 100, number]),
        false => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)]),
    }
}

fn open(offer: u8, hold: u8) -> Message {
    let mut capabilities = vec![Capability::RouteRefresh];
    if offer & 1 != 0 {
        capabilities.push(Capability::Multiprotocol(AddressFamily::IPV4_UNICAST));
    }
    if offer & 2 != 0 {
        capabilities.push(Capability::Multiprotocol(AddressFamily::IPV6_UNICAST));
    }
    let remote_as = if offer & 4 == 0 { REMOTE_AS } else { LOCAL_AS };
    if offer & 8 != 0 {
        capabilities.push(Capability::FourOctetAs(remote_as));
    }
    // Below, above and equal to our own identifier.
    let identifier = Ipv4Addr::from([192, 0, 2, 8 + (offer >> 4) % 3]);
    let hold = if matches!(hold, 1 | 2) { 3 } else { u16::from(hold) };
    Message::Open(Open::new(remote_as, hold, identifier, capabilities))
}

/// A connection that is up, from the peer's side.
struct Wire {
    peer: Arc<PeerConfig>,
    /// All that was sent to the speaker.
    sent: Vec<u8>,
    /// Whether routes, or the end of them, came: the session is up.
    routed: bool,
    rib: BTreeSet<IpNet>,
}

impl Wire {
    /// What both ends agreed upon, by the first message that the peer sent.
    fn context(&self) -> Option<Context> {
        let header = Header::decode(self.sent.first_chunk()?).ok()?;
        let before = Context::new(Peering::External);
        let Ok(Message::Open(open)) = Message::decode(self.sent.get(..header.length)?, &before) else {
            return None;
        };
        let peering =
            if open.autonomous_system() == LOCAL_AS { Peering::Internal } else { Peering::External };
        let families = open.families().intersection(self.peer.families);
        Some(Context::new(peering).four_octet_as(open.four_octet_as().is_some()).families(families))
    }

    /// Takes in what the speaker said, and gives the routes that were announced in it.
    fn take(&mut self, bytes: &[u8]) -> Vec<IpNet> {
        let mut announced = Vec::new();
        // Before it knows the peer, a speaker sends what all understand.
        let context = self.context().unwrap_or(Context::new(Peering::External));
        for message in messages(bytes, &context) {
            let Message::Update(update) = message else { continue };
            self.routed = true;
            for prefix in update.withdrawn() {
                assert!(self.rib.remove(&prefix), "withdraws {prefix}, which was never announced");
            }
            announced.extend(update.announced());
            self.rib.extend(update.announced());
        }
        announced
    }
}

/// The messages in `bytes`, which must be whole and without fault.
fn messages(mut bytes: &[u8], context: &Context) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER_LENGTH>() {
        let header = Header::decode(header).expect("a good header");
        let (frame, rest) = bytes.split_at_checked(header.length).expect("a whole message");
        messages.push(Message::decode(frame, context).expect("a good message"));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a message was sent");
    messages
}

struct World {
    speaker: Speaker,
    now: Instant,
    stopped: bool,
    attempts: BTreeMap<ConnectionId, Arc<PeerConfig>>,
    wires: BTreeMap<ConnectionId, Wire>,
    /// All connections that there ever were.
    known: Vec<ConnectionId>,
    generation: u64,
    wanted: BTreeMap<IpAddr, Option<LeaseId>>,
    until: BTreeMap<LeaseId, Instant>,
}

impl World {
    fn new() -> Self {
        let now = Instant::from_millis(1_000_000);
        let mut config = BgpConfig::new(LOCAL_AS, LOCAL_ID);
        config.peers = peers(0);
        let mut world = Self {
            speaker: Speaker::new(now, &config, 7).expect("a sound configuration"),
            now,
            stopped: false,
            attempts: BTreeMap::new(),
            wires: BTreeMap::new(),
            known: Vec::new(),
            generation: 0,
            wanted: BTreeMap::new(),
            until: BTreeMap::new(),
        };
        world.settle();
        world
    }

    fn play(&mut self, step: &Step) {
        match step {
            Step::Wait(time) => self.wait(Duration::from_millis(u64::from(*time) * 16)),
            Step::Answer { success } => {
                let Some((connection, peer)) = self.attempts.pop_first() else { return };
                if *success {
                    self.connect(connection, peer);
                    self.speaker.handle(self.now, Input::Connected { connection, local: LOCAL_ID.into() });
                } else {
                    let error = "no route to host".to_owned();
                    self.speaker.handle(self.now, Input::Disconnected { connection, error });
                }
            }
            Step::Call { second } => {
                let remote = SocketAddr::new(REMOTES[usize::from(*second)], 40000);
                match self.speaker.accept(self.now, remote, LOCAL_ID.into()) {
                    Ok(connection) => {
                        let peer = self.speaker.peer(connection).expect("the peer that called").clone();
                        assert_eq!(peer.address, remote.ip());
                        self.known.push(connection);
                        self.connect(connection, peer);
                    }
                    Err(refused) => {
                        let said = messages(&refused.farewell, &Context::new(Peering::External));
                        assert!(matches!(said[..], [Message::Notification(_)]), "{said:?}");
                    }
                }
            }
            Step::Open { connection, offer, hold } => self.send(*connection, &encode(&open(*offer, *hold))),
            Step::Message { connection, kind, body } => {
                let length = u16::try_from(HEADER_LENGTH + body.len()).unwrap_or(u16::MAX).to_be_bytes();
                self.send(*connection, &[&[0xff; 16][..], &length, &[*kind], body].concat());
            }
            Step::Bytes { connection, bytes } => self.send(*connection, bytes),
            Step::Lose { connection } => {
                let Some(connection) = self.chosen(*connection) else { return };
                self.wires.remove(&connection);
                self.attempts.remove(&connection);
                let error = "connection reset by peer".to_owned();
                self.speaker.handle(self.now, Input::Disconnected { connection, error });
            }
            Step::Read { connection, limit } => {
                if let Some(connection) = self.chosen(*connection) {
                    self.read(connection, limit.map_or(usize::MAX, usize::from));
                }
            }
            Step::Desired { generation, wanted, how } => {
                let lease = (how & 1 != 0).then(|| lease(how >> 1));
                let entries: BTreeMap<_, _> =
                    (0..8).filter(|bit| wanted & 1 << bit != 0).map(|bit| (address(bit), lease)).collect();
                let announcement = |address: IpAddr| {
                    let mut route = Route::new(address.into());
                    route.communities.extend((how & 4 != 0).then_some(u32::from(how >> 3)));
                    let announcement = Announcement::routes([route]);
                    if let Some(lease) = lease { announcement.fenced(lease, Term(1)) } else { announcement }
                };
                let set = entries.keys().map(|address| (*address, announcement(*address)));
                let set = Arc::new(AnnounceSet::new(*generation, set));
                self.speaker.handle(self.now, Input::Desired(set));
                // Who was told to stop wants nothing more.
                if *generation >= self.generation && !self.stopped {
                    self.generation = *generation;
                    self.wanted = entries;
                }
            }
            Step::Renew { lease: number, time } => {
                let (lease, until) =
                    (lease(*number), self.now + Duration::from_millis(u64::from(*time) * 16));
                self.speaker.handle(self.now, Input::Renew(lease, until));
                let known = self.until.entry(lease).or_default();
                *known = until.max(*known);
            }
            Step::Peers(choice) => self.speaker.handle(self.now, Input::Peers(peers(*choice).into())),
            Step::Stop => {
                self.speaker.handle(self.now, Input::Stop("until \u{7} noon"));
                self.stopped = true;
            }
        }
    }

    fn chosen(&self, number: u8) -> Option<ConnectionId> {
        // The newest first, so that most steps concern those that are there.
        let count = self.known.len();
        self.known.get(count.checked_sub(1 + usize::from(number) % count.max(1))?).copied()
    }

    fn connect(&mut self, connection: ConnectionId, peer: Arc<PeerConfig>) {
        let wire = Wire { peer, sent: Vec::new(), routed: false, rib: BTreeSet::new() };
        self.wires.insert(connection, wire);
    }

    fn send(&mut self, connection: u8, bytes: &[u8]) {
        let there = |connection: &ConnectionId| !self.attempts.contains_key(connection);
        let Some(connection) = self.chosen(connection).filter(there) else { return };
        if let Some(wire) = self.wires.get_mut(&connection) {
            wire.sent.extend_from_slice(bytes);
        }
        self.speaker.handle(self.now, Input::Received { connection, bytes });
    }

    /// What may be announced now.
    fn announced(&self) -> BTreeSet<IpNet> {
        let holds = |lease: &LeaseId| self.until.get(lease).is_some_and(|until| self.now < *until);
        let wanted = self.wanted.iter().filter(|(_, lease)| lease.as_ref().is_none_or(holds));
        wanted.map(|(address, _)| IpNet::from(*address)).collect()
    }

    fn read(&mut self, connection: ConnectionId, limit: usize) {
        let mut out = Vec::new();
        self.speaker.poll_output(self.now, connection, &mut out, limit);
        assert!(
            out.len() <= limit.saturating_add(2 * MAX_MESSAGE_LENGTH),
            "{} octets for {limit}",
            out.len()
        );
        let may = self.announced();
        let Some(wire) = self.wires.get_mut(&connection) else {
            return assert!(out.is_empty(), "speaks on a connection that is not there");
        };
        let announced = wire.take(&out);
        assert!(announced.iter().all(|prefix| may.contains(prefix)), "announces {announced:?} of {may:?}");
        if limit == usize::MAX && wire.routed {
            let families = wire.context().map_or(Families::NONE, |context| context.families);
            let expected = may.into_iter().filter(|prefix| families.contains(Family::of(prefix.addr())));
            assert!(wire.rib.iter().copied().eq(expected), "the peer knows {:?}", wire.rib);
        }
    }

    /// Goes on, deadline by deadline.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.speaker.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.speaker.handle_timeout(self.now);
            self.settle();
            self.check_timers();
        }
        self.now = end;
    }

    /// Does what the speaker asks for.
    fn settle(&mut self) {
        while let Some(event) = self.speaker.poll_event() {
            match event {
                Event::Connect { connection, peer } => {
                    assert!(!self.stopped && !peer.passive, "dials {peer:?}");
                    self.attempts.insert(connection, peer);
                    self.known.push(connection);
                }
                Event::Close { connection, farewell } => {
                    assert!(self.known.contains(&connection), "closes what never was");
                    self.attempts.remove(&connection);
                    // One that was lost in the meantime takes no farewell.
                    if let Some(mut wire) = self.wires.remove(&connection) {
                        let announced = wire.take(&farewell);
                        assert!(announced.is_empty(), "announces {announced:?} in a farewell");
                    }
                }
            }
        }
        if let Some(status) = self.speaker.poll_status() {
            assert_eq!(status.generation, self.generation);
            assert!(!self.stopped || status.entries.is_empty());
        }
    }

    fn check_timers(&mut self) {
        self.speaker.handle_timeout(self.now);
        self.settle();
        let next = self.speaker.poll_timeout();
        assert!(next.is_none_or(|next| next > self.now), "a timer that fires for ever");
    }

    fn check_sessions(&self) {
        for (name, status) in self.speaker.peers() {
            let of_peer = || self.wires.values().filter(|wire| wire.peer.name == name);
            let up = of_peer().filter(|wire| wire.routed).count();
            assert!(
                up <= usize::from(status.state == State::Established),
                "{up} sessions of peer {name} are up"
            );
            assert!(of_peer().count() <= 2, "more connections than two of peer {name}");
        }
        assert!(
            !self.stopped || (self.wires.is_empty() && self.attempts.is_empty()),
            "still there after the end"
        );
    }
}

fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&Context::new(Peering::External), &mut bytes).expect("a short message");
    bytes
}
