//! An elector among members that say anything, and what must hold all the same. Used by the property tests and by the
//! fuzz target `gossip_member`; not part of the API.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use lbcore::elect::{Bid, Candidacy, Ownership};
use lbcore::id::{NodeName, Role};
use lbcore::time::{Duration, Instant};

use super::{Event, Input, Machine, Output, StreamEvent};
use crate::config::Config;
use crate::wire::check::keyring;
use crate::wire::{Boot, Hello, MAX_DATAGRAM, Message, Packet, Sealer};

/// Something that happens, drawn from a small world so that things collide: two other members and four roles.
#[derive(Clone, Debug)]
pub enum Step {
    /// Time passes, in ms.
    Wait(u64),
    /// A member takes part in the exchange of tokens, as it should.
    Greet {
        /// Which.
        member: u8,
        /// Which run of it.
        boot: u8,
    },
    /// A member that has proved to be there says anything.
    Say {
        /// Which.
        member: u8,
        /// What: the kind and the body.
        message: Vec<u8>,
    },
    /// Any bytes arrive.
    Bytes(Vec<u8>),
    /// Something became of the newest stream.
    Stream(u8),
    /// This node bids for others: bit *n* is role *n*, and the upper half is what it says of them.
    Bid(u8),
    /// It is to leave.
    Leave,
}

/// The steps that `bytes` spell; what is missing at the end is zero.
pub fn decode(bytes: &[u8]) -> Vec<Step> {
    let mut rest = bytes;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let mut byte = || rest.split_off_first().copied().unwrap_or_default();
        let (kind, a, b) = (byte(), byte(), byte());
        let mut take = |count: u8| {
            let (taken, after) = rest.split_at(usize::from(count).min(rest.len()));
            rest = after;
            taken.to_vec()
        };
        steps.push(match kind % 8 {
            0 => Step::Wait(u64::from(a) << 8 | u64::from(b)),
            1 => Step::Wait(a.into()),
            2 => Step::Greet { member: a, boot: b },
            3 | 4 => Step::Say { member: a, message: take(b) },
            5 => Step::Bytes(take(b)),
            6 => Step::Stream(a),
            _ if a % 16 == 15 => Step::Leave,
            _ => Step::Bid(b),
        });
    }
    steps
}

/// Lets `steps` happen. After each: it says only what members can read, and not more than an answer is long; it owns
/// only what it bids for, under a lease that holds; and no deadline has passed.
///
/// # Panics
/// If not.
pub fn check(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.play(step);
        world.settle();
        world.check_truth();
    }
}

const US: &str = "a";
const OTHERS: [&str; 2] = ["b", "c"];
/// Datagrams and streams that follow from one thing that happens, at most.
const MOST_OUTPUTS: usize = 256;

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 7946))
}

fn address_of(member: usize) -> SocketAddr {
    address(if member == 0 { 2 } else { 3 })
}

fn role(number: u8) -> Role {
    Role::Address([198, 51, 100, number].into())
}

/// One of the others.
#[derive(Default)]
struct Other {
    boot: u8,
    sequence: u64,
    /// The token that it was issued.
    token: u64,
}

struct World {
    machine: Machine,
    sealer: Sealer,
    now: Instant,
    others: [Other; 2],
    streams: Vec<u64>,
    bids: BTreeSet<Role>,
    generation: u64,
    ownership: Arc<Ownership>,
    left: bool,
}

impl World {
    fn new() -> Self {
        let now = Instant::from_millis(1_000_000);
        let config = Config::new(US, address(1), keyring()).with_seeds([address(2)]);
        let mut world = Self {
            machine: Machine::new(&config, address(1), [1; 32], now).expect("a sound configuration"),
            sealer: Sealer::new(&keyring()),
            now,
            others: Default::default(),
            streams: Vec::new(),
            bids: BTreeSet::new(),
            generation: 0,
            ownership: Arc::default(),
            left: false,
        };
        world.settle();
        world
    }

    fn play(&mut self, step: &Step) {
        match step {
            Step::Wait(ms) => self.wait(Duration::from_millis(*ms)),
            Step::Greet { member, boot } => {
                let member = usize::from(member % 2);
                let other = &mut self.others[member];
                if other.boot != *boot {
                    *other = Other { boot: *boot, ..Other::default() };
                }
                // The first word gets a token, the second one shows it.
                for accepted in [false, true] {
                    let (address, settled) = (address_of(member), boot & 1 == 0);
                    let hello = Message::Hello(Hello { token: 0x5e11, accepted, settled, address });
                    let mut payload = Vec::new();
                    Packet::new(OTHERS[member].into(), self.others[member].token, hello).emit(&mut payload);
                    self.hear(member, &payload);
                    self.settle();
                }
            }
            Step::Say { member, message } => {
                let member = usize::from(member % 2);
                let mut payload = Vec::new();
                let address = address_of(member);
                let hello = Message::Hello(Hello { token: 0, accepted: false, settled: true, address });
                Packet::new(OTHERS[member].into(), self.others[member].token, hello).emit(&mut payload);
                // What comes before kind and body is the same in every message.
                payload.truncate(1 + OTHERS[member].len() + 8);
                payload.extend(message);
                self.hear(member, &payload);
            }
            Step::Bytes(bytes) => self.machine.handle(self.now, Input::Datagram { from: address(9), bytes }),
            Step::Stream(what) => {
                let Some(stream) = self.streams.last().copied() else { return };
                let event = match what % 4 {
                    0 => StreamEvent::Opened,
                    1 => StreamEvent::Closed,
                    2 => StreamEvent::Refused,
                    _ => StreamEvent::Failed,
                };
                self.machine.handle(self.now, Input::Stream { stream, event });
            }
            Step::Bid(bits) => {
                let mut bid = Bid::preferring(u32::from(bits >> 6));
                (bid.eligible, bid.draining) = (bits & 0x10 == 0, bits & 0x20 != 0);
                self.bids = (0..4).filter(|bit| bits & 1 << bit != 0).map(role).collect();
                self.generation += 1;
                let bids = self.bids.iter().map(|role| (role.clone(), bid));
                let mine = Arc::new(Candidacy::new(self.generation, bids));
                self.machine.handle(self.now, Input::Candidacy(mine));
            }
            Step::Leave => self.machine.handle(self.now, Input::Leave),
        }
    }

    /// `member` sends this payload.
    fn hear(&mut self, member: usize, payload: &[u8]) {
        let other = &mut self.others[member];
        other.sequence += 1;
        let boot = Boot((u128::from(other.boot) << 8) | (0xb0 + member as u128));
        if let Some(bytes) = self.sealer.seal(boot, other.sequence, payload) {
            let from = address_of(member);
            self.machine.handle(self.now, Input::Datagram { from, bytes: &bytes });
        }
    }

    /// Goes on, deadline by deadline.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.machine.poll_timeout() <= end {
            self.now = self.now.max(self.machine.poll_timeout());
            self.machine.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// Takes all that it has to say and wants done.
    fn settle(&mut self) {
        // What one deadline does may set another one for now, but not for ever.
        for turn in 0.. {
            self.take_events();
            self.take_outputs();
            if self.machine.poll_timeout() > self.now {
                return;
            }
            assert!(turn < 8, "a timer that fires for ever");
            self.machine.handle_timeout(self.now);
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Ownership(ownership) => {
                    assert!(ownership.generation > self.ownership.generation, "a generation came twice");
                    self.ownership = ownership;
                }
                Event::Left => self.left = true,
                Event::Renewals(_) | Event::Conditions(_) | Event::Notice(_) => {}
            }
        }
    }

    fn take_outputs(&mut self) {
        let mut count = 0;
        while let Some(output) = self.machine.poll_output() {
            count += 1;
            match output {
                Output::Datagram { to, bytes } => self.read(to, &bytes),
                Output::Connect { stream, .. } => {
                    assert!(!self.streams.contains(&stream), "stream {stream} is used again");
                    self.streams.push(stream);
                }
                Output::Disconnect { stream } => assert!(self.streams.contains(&stream)),
            }
        }
        assert!(count <= MOST_OUTPUTS, "{count} things to do at once");
    }

    /// A datagram for `to`.
    fn read(&mut self, to: SocketAddr, bytes: &[u8]) {
        assert!(bytes.len() <= MAX_DATAGRAM);
        let (_, _, payload) = self.sealer.open(bytes).expect("sealed with the key of the cluster");
        let packet = Packet::parse(&payload).expect("a message with a meaning");
        assert_eq!(packet.from, NodeName::from(US));
        let member = match to {
            to if to == address(2) => 0,
            to if to == address(3) => 1,
            // Members spread addresses of others, which need not be right.
            _ => return,
        };
        if let Message::Hello(hello) = packet.message
            && hello.token != 0
        {
            self.others[member].token = hello.token;
        }
    }

    fn check_truth(&self) {
        let renewals: BTreeMap<_, _> = self.machine.renewals().0;
        for (role, lease) in &self.ownership.mine {
            assert!(self.bids.contains(role), "owns {role}, for which it does not bid");
            let until = renewals.get(lease).copied().unwrap_or_default();
            assert!(self.now < until, "owns {role} under {lease}, which ran out at {until:?}");
        }
        assert!(!self.left || self.ownership.mine.is_empty(), "owns {:?} after it left", self.ownership.mine);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn nothing_that_members_say_breaks_the_elector(steps in prop::collection::vec(any::<[u8; 3]>(), 0..40)) {
            let begin = [[7, 0, 0x0f], [2, 0, 1], [2, 1, 1], [0, 1, 0]].concat();
            check(&decode(&[begin, steps.concat()].concat()));
        }
    }
}
