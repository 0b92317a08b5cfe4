//! The bridge to foca (SWIM): who the members are and where, disseminated in the background. Whether a member is
//! alive *now* is not its business: that is decided by heartbeats, many times faster.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};

use bytes::{Buf, BufMut};
use foca::{
    Codec, Foca, Header, Identity, Member, Message, NoCustomBroadcast, PeriodicParams, Runtime, State,
};
use lbcore::id::NodeName;
use lbcore::time::{Duration, Instant};
use rand::rngs::ChaCha8Rng;

use crate::config::Timing;
use crate::wire::{Boot, MAX_BODY, Reader, WireError, put_address, put_name};

/// A run of a node, as foca knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) node: NodeName,
    pub(super) address: SocketAddr,
    pub(super) boot: Boot,
    /// Raised by the node itself when it hears that it is held for dead.
    pub(super) epoch: u16,
}

impl Identity for Id {
    type Addr = NodeName;

    fn renew(&self) -> Option<Self> {
        Some(Self { epoch: self.epoch.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> NodeName {
        self.node.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.epoch, self.boot) > (adversary.epoch, adversary.boot)
    }
}

/// What foca found out, or wants sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// There is such a member.
    Up(Id),
    /// To be sent to that member.
    Send(Id, Vec<u8>),
}

pub(super) struct Membership {
    foca: Foca<Id, IdCodec, ChaCha8Rng, NoCustomBroadcast>,
    /// What foca wants to be woken for. The number keeps those of one instant apart, and in order.
    timers: BTreeMap<(Instant, u64), foca::Timer<Id>>,
    serial: u64,
    me: Id,
    pub(super) errors: u64,
}

impl Membership {
    pub(super) fn new(me: Id, timing: &Timing, rng: ChaCha8Rng) -> Self {
        let every = |frequency, members: usize| {
            let num_members = NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN);
            Some(PeriodicParams { frequency, num_members })
        };
        let config = foca::Config {
            probe_period: Duration::from_secs(1),
            probe_rtt: Duration::from_millis(300),
            num_indirect_probes: NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN),
            max_transmissions: NonZeroU8::new(10).unwrap_or(NonZeroU8::MIN),
            suspect_to_down_after: Duration::from_secs(4),
            remove_down_after: Some(timing.forget_after),
            max_packet_size: NonZeroUsize::new(MAX_BODY).unwrap_or(NonZeroUsize::MIN),
            notify_down_members: true,
            periodic_announce: every(Duration::from_secs(30), 1),
            periodic_announce_to_down_members: every(Duration::from_secs(10), 2),
            periodic_gossip: every(Duration::from_secs(1), 3),
        };
        let foca = Foca::new(me.clone(), config, rng, IdCodec);
        Self { foca, timers: BTreeMap::new(), serial: 0, me, errors: 0 }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.keys().next().map(|(at, _)| *at)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, words: &mut Vec<Word>) {
        // A timer that is set for now by the ones that run waits for the next call, so that this ends.
        let due = self.timers.split_off(&(now + Duration::from_nanos(1), 0));
        let due = std::mem::replace(&mut self.timers, due);
        for (_, timer) in due {
            self.run(now, words, |foca, runtime| foca.handle_timer(timer, runtime));
        }
    }

    pub(super) fn handle_data(&mut self, now: Instant, data: &[u8], words: &mut Vec<Word>) {
        self.run(now, words, |foca, runtime| foca.handle_data(data, runtime));
    }

    /// Joins through a node that was met.
    pub(super) fn announce(&mut self, now: Instant, to: Id, words: &mut Vec<Word>) {
        self.run(now, words, |foca, runtime| foca.announce(to, runtime));
    }

    /// Spreads the word that this run of `node` is over.
    pub(super) fn died(&mut self, now: Instant, node: &NodeName, boot: Boot, words: &mut Vec<Word>) {
        let known = self.foca.iter_members().find(|member| member.id().node == *node).map(|m| m.id().clone());
        if let Some(id) = known
            && id.boot == boot
        {
            self.run(now, words, |foca, runtime| {
                foca.apply_many(std::iter::once(Member::down(id)), true, &mut *runtime)?;
                foca.gossip(runtime)
            });
        }
    }

    /// Says good-bye.
    pub(super) fn leave(&mut self, now: Instant, words: &mut Vec<Word>) {
        self.run(now, words, |foca, runtime| foca.leave_cluster(runtime));
    }

    fn run(
        &mut self,
        now: Instant,
        words: &mut Vec<Word>,
        action: impl FnOnce(
            &mut Foca<Id, IdCodec, ChaCha8Rng, NoCustomBroadcast>,
            &mut Bridge<'_>,
        ) -> Result<(), foca::Error>,
    ) {
        let mut bridge = Bridge { now, words, timers: &mut self.timers, serial: &mut self.serial };
        if action(&mut self.foca, &mut bridge).is_err() {
            // What foca cannot use it drops; late timers (after a pause) are among its errors.
            self.errors += 1;
        }
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("me", &self.me).finish_non_exhaustive()
    }
}

struct Bridge<'m> {
    now: Instant,
    words: &'m mut Vec<Word>,
    timers: &'m mut BTreeMap<(Instant, u64), foca::Timer<Id>>,
    serial: &'m mut u64,
}

impl Runtime<Id> for Bridge<'_> {
    fn notify(&mut self, notification: foca::Notification<'_, Id>) {
        match notification {
            foca::Notification::MemberUp(id) | foca::Notification::Rename(_, id) => {
                self.words.push(Word::Up(id.clone()));
            }
            _ => {}
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.words.push(Word::Send(to, data.to_vec()));
    }

    fn submit_after(&mut self, event: foca::Timer<Id>, after: Duration) {
        *self.serial += 1;
        self.timers.insert((self.now + after, *self.serial), event);
    }
}

/// foca's messages in bytes.
#[derive(Debug)]
pub(super) struct IdCodec;

mod kind {
    pub(super) const PING: u8 = 1;
    pub(super) const ACK: u8 = 2;
    pub(super) const PING_REQ: u8 = 3;
    pub(super) const INDIRECT_PING: u8 = 4;
    pub(super) const INDIRECT_ACK: u8 = 5;
    pub(super) const FORWARDED_ACK: u8 = 6;
    pub(super) const ANNOUNCE: u8 = 7;
    pub(super) const FEED: u8 = 8;
    pub(super) const GOSSIP: u8 = 9;
    pub(super) const BROADCAST: u8 = 10;
    pub(super) const TURN_UNDEAD: u8 = 11;
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("no room")]
    Full,
    #[error(transparent)]
    Wire(#[from] WireError),
}

fn put_id(out: &mut Vec<u8>, id: &Id) {
    put_name(out, id.node.as_str());
    put_address(out, id.address);
    out.put_u128(id.boot.0);
    out.put_u16(id.epoch);
}

fn read_id(reader: &mut Reader<'_>) -> Result<Id, WireError> {
    Ok(Id { node: reader.node()?, address: reader.address()?, boot: reader.boot()?, epoch: reader.u16()? })
}

/// Reads one item off the front of `buf`, which foca promises to be contiguous.
fn read<T>(
    mut buf: impl Buf,
    parse: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<T, CodecError> {
    let chunk = buf.chunk();
    let mut reader = Reader::new(chunk);
    let item = parse(&mut reader)?;
    let used = chunk.len() - reader.left();
    buf.advance(used);
    Ok(item)
}

/// All or nothing, as foca asks.
fn write(mut buf: impl BufMut, bytes: &[u8]) -> Result<(), CodecError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(CodecError::Full);
    }
    buf.put_slice(bytes);
    Ok(())
}

impl Codec<Id> for IdCodec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Id>, buf: impl BufMut) -> Result<(), CodecError> {
        let mut out = Vec::with_capacity(128);
        put_id(&mut out, &header.src);
        out.put_u16(header.src_incarnation);
        put_id(&mut out, &header.dst);
        let mut about = |kind: u8, id: Option<&Id>, number: Option<u8>| {
            out.put_u8(kind);
            if let Some(id) = id {
                put_id(&mut out, id);
            }
            if let Some(number) = number {
                out.put_u8(number);
            }
        };
        match &header.message {
            Message::Ping(number) => about(kind::PING, None, Some(*number)),
            Message::Ack(number) => about(kind::ACK, None, Some(*number)),
            Message::PingReq { target, probe_number } => {
                about(kind::PING_REQ, Some(target), Some(*probe_number));
            }
            Message::IndirectPing { origin, probe_number } => {
                about(kind::INDIRECT_PING, Some(origin), Some(*probe_number));
            }
            Message::IndirectAck { target, probe_number } => {
                about(kind::INDIRECT_ACK, Some(target), Some(*probe_number));
            }
            Message::ForwardedAck { origin, probe_number } => {
                about(kind::FORWARDED_ACK, Some(origin), Some(*probe_number));
            }
            Message::Announce => about(kind::ANNOUNCE, None, None),
            Message::Feed => about(kind::FEED, None, None),
            Message::Gossip => about(kind::GOSSIP, None, None),
            Message::Broadcast => about(kind::BROADCAST, None, None),
            Message::TurnUndead => about(kind::TURN_UNDEAD, None, None),
        }
        write(buf, &out)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Id>, CodecError> {
        read(buf, |reader| {
            let (src, src_incarnation, dst) = (read_id(reader)?, reader.u16()?, read_id(reader)?);
            let message = match reader.u8()? {
                kind::PING => Message::Ping(reader.u8()?),
                kind::ACK => Message::Ack(reader.u8()?),
                kind::PING_REQ => Message::PingReq { target: read_id(reader)?, probe_number: reader.u8()? },
                kind::INDIRECT_PING => {
                    Message::IndirectPing { origin: read_id(reader)?, probe_number: reader.u8()? }
                }
                kind::INDIRECT_ACK => {
                    Message::IndirectAck { target: read_id(reader)?, probe_number: reader.u8()? }
                }
                kind::FORWARDED_ACK => {
                    Message::ForwardedAck { origin: read_id(reader)?, probe_number: reader.u8()? }
                }
                kind::ANNOUNCE => Message::Announce,
                kind::FEED => Message::Feed,
                kind::GOSSIP => Message::Gossip,
                kind::BROADCAST => Message::Broadcast,
                kind::TURN_UNDEAD => Message::TurnUndead,
                _ => return Err(WireError::Malformed("kind of membership message")),
            };
            Ok(Header { src, src_incarnation, dst, message })
        })
    }

    fn encode_member(&mut self, member: &Member<Id>, buf: impl BufMut) -> Result<(), CodecError> {
        let mut out = Vec::with_capacity(64);
        put_id(&mut out, member.id());
        out.put_u16(member.incarnation());
        out.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        write(buf, &out)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Id>, CodecError> {
        read(buf, |reader| {
            let (id, incarnation) = (read_id(reader)?, reader.u16()?);
            let state = match reader.u8()? {
                0 => State::Alive,
                1 => State::Suspect,
                2 => State::Down,
                _ => return Err(WireError::Malformed("state of a member")),
            };
            Ok(Member::new(id, incarnation, state))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, epoch: u16, boot: u128) -> Id {
        Id { node: name.into(), address: "[2001:db8::1]:7946".parse().unwrap(), boot: Boot(boot), epoch }
    }

    #[test]
    fn every_message_comes_back() {
        let (a, b, c) = (id("a", 0, 1), id("b", 1, 2), id("c", 2, 3));
        for message in [
            Message::Ping(7),
            Message::Ack(8),
            Message::PingReq { target: c.clone(), probe_number: 9 },
            Message::IndirectPing { origin: c.clone(), probe_number: 9 },
            Message::IndirectAck { target: c.clone(), probe_number: 9 },
            Message::ForwardedAck { origin: c, probe_number: 9 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ] {
            let header = Header { src: a.clone(), src_incarnation: 513, dst: b.clone(), message };
            let mut bytes = Vec::new();
            IdCodec.encode_header(&header, &mut bytes).unwrap();
            bytes.push(0xee);
            let mut left = bytes.as_slice();
            assert_eq!(IdCodec.decode_header(&mut left).unwrap(), header);
            assert_eq!(left, [0xee]);
            for length in 0..bytes.len() - 1 {
                assert!(IdCodec.decode_header(&bytes[..length]).is_err());
            }
        }
        for state in [State::Alive, State::Suspect, State::Down] {
            let member = Member::new(a.clone(), 3, state);
            let mut bytes = Vec::new();
            IdCodec.encode_member(&member, &mut bytes).unwrap();
            assert_eq!(IdCodec.decode_member(bytes.as_slice()).unwrap(), member);
            let mut little = [0; 10];
            assert_eq!(IdCodec.encode_member(&member, little.as_mut_slice()), Err(CodecError::Full));
            assert_eq!(little, [0; 10], "nothing is left behind where there is no room");
        }
    }

    #[test]
    fn a_renewed_identity_wins() {
        let old = id("a", 0, u128::MAX);
        let new = old.renew().unwrap();
        assert!(new.win_addr_conflict(&old) && !old.win_addr_conflict(&new));
        assert!(id("a", 0, 2).win_addr_conflict(&id("a", 0, 1)));
        assert_eq!(id("a", u16::MAX, 1).renew(), None);
    }
}
