//! Path attributes (RFC 4271 §4.3 and §5, RFC 4760, RFC 1997, RFC 8092, RFC 6793), one at a time. What follows
//! from an attribute in error is decided here; what follows from the whole list, in `update`.

use std::net::{Ipv4Addr, Ipv6Addr};

use lbcore::addr::Family;

use super::nlri::Prefixes;
use super::notification::update as subcode;
use super::reader::Reader;
use super::{AS_TRANS, AddressFamily, Context, Peering};

/// The attribute is not well-known.
const OPTIONAL: u8 = 0x80;
/// Passed on by those who do not know it.
const TRANSITIVE: u8 = 0x40;
/// Somebody on the way did not know it.
const PARTIAL: u8 = 0x20;
/// The length takes two octets.
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

pub(super) const ORIGIN: u8 = 1;
pub(super) const AS_PATH: u8 = 2;
pub(super) const NEXT_HOP: u8 = 3;
const MULTI_EXIT_DISC: u8 = 4;
const LOCAL_PREF: u8 = 5;
const ATOMIC_AGGREGATE: u8 = 6;
const AGGREGATOR: u8 = 7;
const COMMUNITIES: u8 = 8;
pub(super) const MP_REACH_NLRI: u8 = 14;
pub(super) const MP_UNREACH_NLRI: u8 = 15;
const AS4_PATH: u8 = 17;
const AS4_AGGREGATOR: u8 = 18;
const LARGE_COMMUNITY: u8 = 32;

/// The attributes that are known, with the Optional and Transitive flags that they must have.
const FLAGS: [(u8, u8); 13] = [
    (ORIGIN, TRANSITIVE),
    (AS_PATH, TRANSITIVE),
    (NEXT_HOP, TRANSITIVE),
    (MULTI_EXIT_DISC, OPTIONAL),
    (LOCAL_PREF, TRANSITIVE),
    (ATOMIC_AGGREGATE, TRANSITIVE),
    (AGGREGATOR, OPTIONAL | TRANSITIVE),
    (COMMUNITIES, OPTIONAL | TRANSITIVE),
    (MP_REACH_NLRI, OPTIONAL),
    (MP_UNREACH_NLRI, OPTIONAL),
    (AS4_PATH, OPTIONAL | TRANSITIVE),
    (AS4_AGGREGATOR, OPTIONAL | TRANSITIVE),
    (LARGE_COMMUNITY, OPTIONAL | TRANSITIVE),
];

/// A path attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attribute {
    /// ORIGIN (1).
    Origin(Origin),
    /// AS_PATH (2).
    AsPath(AsPath),
    /// NEXT_HOP (3), for the prefixes outside of MP_REACH_NLRI.
    NextHop(Ipv4Addr),
    /// MULTI_EXIT_DISC (4).
    MultiExitDisc(u32),
    /// LOCAL_PREF (5).
    LocalPref(u32),
    /// ATOMIC_AGGREGATE (6).
    AtomicAggregate,
    /// AGGREGATOR (7).
    Aggregator(Aggregator),
    /// COMMUNITIES (8), in order.
    Communities(Vec<u32>),
    /// MP_REACH_NLRI (14).
    MpReach(MpReach),
    /// MP_UNREACH_NLRI (15).
    MpUnreach(MpUnreach),
    /// AS4_PATH (17): the path in four octets, past a speaker that knows only two.
    As4Path(AsPath),
    /// AS4_AGGREGATOR (18), likewise.
    As4Aggregator(Aggregator),
    /// LARGE_COMMUNITY (32), in order.
    LargeCommunities(Vec<(u32, u32, u32)>),
    /// An optional transitive one that is not known, to be passed on as it is. Those that are not transitive are
    /// dropped on arrival (RFC 4271 §5).
    Unknown {
        /// Whether somebody before us did not know it either. Whoever passes it on sets it.
        partial: bool,
        /// Its type.
        code: u8,
        /// Its value.
        value: Vec<u8>,
    },
}

/// How a route came into BGP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Of the AS itself.
    Igp,
    /// By the EGP protocol.
    Egp,
    /// Otherwise.
    Incomplete,
}

/// The ASes that a route went through, the nearest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsPath(pub Vec<Segment>);

impl AsPath {
    /// One sequence; no segment at all if it is empty.
    pub fn sequence(numbers: impl Into<Vec<u32>>) -> Self {
        let numbers = numbers.into();
        if numbers.is_empty() {
            return Self::default();
        }
        Self(vec![Segment { kind: SegmentKind::Sequence, numbers }])
    }

    fn decode(bytes: &[u8], four_octets: bool, sets: bool) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut segments = Vec::new();
        while !reader.is_empty() {
            let kind = match reader.u8()? {
                1 if sets => SegmentKind::Set,
                2 => SegmentKind::Sequence,
                // The segments of a confederation (RFC 5065) have no business outside of one.
                _ => return None,
            };
            let count = reader.u8().filter(|count| *count > 0)?;
            let mut numbers = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                let number = if four_octets { reader.u32()? } else { u32::from(reader.u16()?) };
                // RFC 7607: AS 0 is malformed.
                numbers.push(Some(number).filter(|number| *number != 0)?);
            }
            segments.push(Segment { kind, numbers });
        }
        Some(Self(segments))
    }

    fn encode(&self, four_octets: bool, out: &mut Vec<u8>) {
        for segment in &self.0 {
            for part in segment.numbers.chunks(usize::from(u8::MAX)) {
                let kind = match segment.kind {
                    SegmentKind::Set => 1,
                    SegmentKind::Sequence => 2,
                };
                out.extend([kind, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
                part.iter().for_each(|number| put_as(out, *number, four_octets));
            }
        }
    }

    /// Whether every number fits two octets.
    pub(super) fn fits_two_octets(&self) -> bool {
        self.0.iter().flat_map(|segment| &segment.numbers).all(|number| u16::try_from(*number).is_ok())
    }
}

/// A part of an [`AsPath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Whether the order of the numbers means something.
    pub kind: SegmentKind,
    /// The AS numbers; never empty.
    pub numbers: Vec<u32>,
}

/// The kind of a [`Segment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// AS_SET: some of these, in no order.
    Set,
    /// AS_SEQUENCE: these, in order.
    Sequence,
}

/// Who aggregated a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregator {
    /// The AS.
    pub autonomous_system: u32,
    /// The speaker's BGP Identifier.
    pub identifier: Ipv4Addr,
}

impl Aggregator {
    fn decode(mut value: Reader<'_>, four_octets: bool) -> Option<Self> {
        let autonomous_system = if four_octets { value.u32()? } else { u32::from(value.u16()?) };
        let identifier = Ipv4Addr::from(value.u32()?);
        value.is_empty().then_some(Self { autonomous_system, identifier })
    }

    fn encode(self, four_octets: bool, out: &mut Vec<u8>) {
        put_as(out, self.autonomous_system, four_octets);
        out.extend(self.identifier.octets());
    }
}

/// MP_REACH_NLRI (RFC 4760 §3).
///
/// ```text
/// +-------------------------------+---------------+---------------+
/// | AFI                           | SAFI          | Length        |
/// +-------------------------------+---------------+---------------+
/// | Next Hop (variable) ...                                       |
/// +---------------+-----------------------------------------------+
/// | Reserved      | Prefixes (variable) ...                       |
/// +---------------+-----------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MpReach {
    /// Of a family in use on the session.
    Unicast {
        /// Where to send the packets.
        next_hop: NextHop,
        /// The prefixes.
        prefixes: Prefixes,
    },
    /// Of any other family: what follows AFI and SAFI, as it came. To be ignored.
    Other {
        /// The family.
        family: AddressFamily,
        /// The rest of the attribute.
        value: Vec<u8>,
    },
}

/// MP_UNREACH_NLRI (RFC 4760 §4).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MpUnreach {
    /// Of a family in use on the session.
    Unicast(Prefixes),
    /// Of any other family: what follows AFI and SAFI, as it came. To be ignored.
    Other {
        /// The family.
        family: AddressFamily,
        /// The rest of the attribute.
        value: Vec<u8>,
    },
}

/// The next hop of [`MpReach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, and a second one for the link where there is one (RFC 2545 §3).
    V6 {
        /// The first address, as a rule a global one.
        address: Ipv6Addr,
        /// The second one, as a rule the link-local one.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    fn decode(family: Family, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let next_hop = match family {
            Family::V4 => Self::V4(reader.u32()?.into()),
            Family::V6 => {
                let address = Ipv6Addr::from(reader.array::<16>()?);
                let second = if reader.is_empty() { None } else { Some(reader.array::<16>()?.into()) };
                Self::V6 { address, link_local: second }
            }
        };
        reader.is_empty().then_some(next_hop)
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::V4(address) => {
                out.push(4);
                out.extend(address.octets());
            }
            Self::V6 { address, link_local } => {
                out.push(if link_local.is_some() { 32 } else { 16 });
                out.extend(address.octets());
                out.extend(link_local.into_iter().flat_map(|address| address.octets()));
            }
        }
    }
}

/// What to do about an attribute in error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Go on without it.
    Discard,
    /// Take the routes as withdrawn.
    Withdraw,
    /// End the session.
    Reset,
}

/// An attribute in error: the action, and the subcode of an UPDATE message error.
pub(super) type Wrong = (Severity, u8);

/// Whether the flags are those of attribute `code`.
pub(super) fn check_flags(code: u8, flags: u8) -> Result<(), Wrong> {
    match FLAGS.iter().find(|(known, _)| *known == code) {
        // RFC 7606 §3c.
        Some((_, expected)) if flags & (OPTIONAL | TRANSITIVE) != *expected => {
            Err((Severity::Withdraw, subcode::ATTRIBUTE_FLAGS_ERROR))
        }
        // RFC 4271 §6.3; nothing in RFC 7606 revises it.
        None if flags & OPTIONAL == 0 => Err((Severity::Reset, subcode::UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE)),
        _ => Ok(()),
    }
}

impl Attribute {
    /// Its type.
    pub fn code(&self) -> u8 {
        match self {
            Self::Origin(_) => ORIGIN,
            Self::AsPath(_) => AS_PATH,
            Self::NextHop(_) => NEXT_HOP,
            Self::MultiExitDisc(_) => MULTI_EXIT_DISC,
            Self::LocalPref(_) => LOCAL_PREF,
            Self::AtomicAggregate => ATOMIC_AGGREGATE,
            Self::Aggregator(_) => AGGREGATOR,
            Self::Communities(_) => COMMUNITIES,
            Self::MpReach(_) => MP_REACH_NLRI,
            Self::MpUnreach(_) => MP_UNREACH_NLRI,
            Self::As4Path(_) => AS4_PATH,
            Self::As4Aggregator(_) => AS4_AGGREGATOR,
            Self::LargeCommunities(_) => LARGE_COMMUNITY,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Decodes the value of one attribute; `None` for one to be ignored without a word.
    pub(super) fn decode(
        flags: u8,
        code: u8,
        value: &[u8],
        context: &Context,
    ) -> Result<Option<Self>, Wrong> {
        let mut reader = Reader::new(value);
        let withdraw = |subcode| (Severity::Withdraw, subcode);
        let length = || withdraw(subcode::ATTRIBUTE_LENGTH_ERROR);
        let attribute = match code {
            // RFC 7606 §7.1.
            ORIGIN => Self::Origin(match value {
                [0] => Origin::Igp,
                [1] => Origin::Egp,
                [2] => Origin::Incomplete,
                [_] => return Err(withdraw(subcode::INVALID_ORIGIN)),
                _ => return Err(length()),
            }),
            // RFC 7606 §7.2.
            AS_PATH => {
                let path = AsPath::decode(value, context.four_octet_as, context.as_sets);
                Self::AsPath(path.ok_or_else(|| withdraw(subcode::MALFORMED_AS_PATH))?)
            }
            // RFC 7606 §7.3; what is no host's address, RFC 4271 §6.3.
            NEXT_HOP => {
                let address = Ipv4Addr::from(<[u8; 4]>::try_from(value).map_err(|_| length())?);
                if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
                    return Err(withdraw(subcode::INVALID_NEXT_HOP));
                }
                Self::NextHop(address)
            }
            // RFC 7606 §7.4.
            MULTI_EXIT_DISC => Self::MultiExitDisc(number(value).ok_or_else(length)?),
            // RFC 7606 §7.5.
            LOCAL_PREF if context.peering == Peering::External => {
                return Err((Severity::Discard, subcode::MALFORMED_ATTRIBUTE_LIST));
            }
            LOCAL_PREF => Self::LocalPref(number(value).ok_or_else(length)?),
            // RFC 7606 §7.6.
            ATOMIC_AGGREGATE if value.is_empty() => Self::AtomicAggregate,
            ATOMIC_AGGREGATE => return Err((Severity::Discard, subcode::ATTRIBUTE_LENGTH_ERROR)),
            // RFC 7606 §7.7; AS 0, RFC 7607.
            AGGREGATOR => {
                let aggregator = Aggregator::decode(reader, context.four_octet_as)
                    .ok_or((Severity::Discard, subcode::ATTRIBUTE_LENGTH_ERROR))?;
                if aggregator.autonomous_system == 0 {
                    return Err((Severity::Discard, subcode::OPTIONAL_ATTRIBUTE_ERROR));
                }
                Self::Aggregator(aggregator)
            }
            // RFC 7606 §7.8.
            COMMUNITIES => Self::Communities(list(value, |[community]| community).ok_or_else(length)?),
            // RFC 8092 §5.
            LARGE_COMMUNITY => Self::LargeCommunities(
                list(value, |[global, one, two]| (global, one, two)).ok_or_else(length)?,
            ),
            MP_REACH_NLRI => Self::MpReach(decode_mp_reach(value, context)?),
            MP_UNREACH_NLRI => Self::MpUnreach(decode_mp_unreach(value, context)?),
            // RFC 6793 §4.1: one that speaks four octets itself must not send these. §6: in error, go on without.
            AS4_PATH | AS4_AGGREGATOR if context.four_octet_as => {
                return Err((Severity::Discard, subcode::OPTIONAL_ATTRIBUTE_ERROR));
            }
            AS4_PATH => {
                let path = AsPath::decode(value, true, context.as_sets).filter(|path| !path.0.is_empty());
                Self::As4Path(path.ok_or((Severity::Discard, subcode::OPTIONAL_ATTRIBUTE_ERROR))?)
            }
            AS4_AGGREGATOR => {
                let aggregator = Aggregator::decode(reader, true).filter(|by| by.autonomous_system != 0);
                Self::As4Aggregator(aggregator.ok_or((Severity::Discard, subcode::OPTIONAL_ATTRIBUTE_ERROR))?)
            }
            _ if flags & TRANSITIVE == 0 => return Ok(None),
            _ => Self::Unknown { partial: flags & PARTIAL != 0, code, value: reader.rest().to_vec() },
        };
        Ok(Some(attribute))
    }

    /// Appends it, header and all. With AS numbers of two octets, those that need four become [`AS_TRANS`].
    ///
    /// `None` if its value is longer than an attribute can be; `out` is then not to be used.
    pub(super) fn encode(&self, context: &Context, out: &mut Vec<u8>) -> Option<()> {
        let known = FLAGS.iter().find(|(code, _)| *code == self.code()).map(|(_, flags)| *flags);
        let flags = match self {
            Self::Unknown { partial: true, .. } => OPTIONAL | TRANSITIVE | PARTIAL,
            _ => known.unwrap_or(OPTIONAL | TRANSITIVE),
        };
        put_attribute(out, flags, self.code(), |out| match self {
            Self::Origin(origin) => out.push(match origin {
                Origin::Igp => 0,
                Origin::Egp => 1,
                Origin::Incomplete => 2,
            }),
            Self::AsPath(path) => path.encode(context.four_octet_as, out),
            Self::As4Path(path) => path.encode(true, out),
            Self::NextHop(address) => out.extend(address.octets()),
            Self::MultiExitDisc(value) | Self::LocalPref(value) => out.extend(value.to_be_bytes()),
            Self::AtomicAggregate => (),
            Self::Aggregator(aggregator) => aggregator.encode(context.four_octet_as, out),
            Self::As4Aggregator(aggregator) => aggregator.encode(true, out),
            Self::Communities(communities) => {
                out.extend(communities.iter().flat_map(|community| community.to_be_bytes()));
            }
            Self::LargeCommunities(communities) => {
                let numbers = communities.iter().flat_map(|(global, one, two)| [*global, *one, *two]);
                out.extend(numbers.flat_map(u32::to_be_bytes));
            }
            Self::MpReach(MpReach::Unicast { next_hop, prefixes }) => {
                put_family(out, prefixes.family().into());
                next_hop.encode(out);
                out.push(0);
                prefixes.encode(out);
            }
            Self::MpUnreach(MpUnreach::Unicast(prefixes)) => {
                put_family(out, prefixes.family().into());
                prefixes.encode(out);
            }
            Self::MpReach(MpReach::Other { family, value })
            | Self::MpUnreach(MpUnreach::Other { family, value }) => {
                put_family(out, *family);
                out.extend_from_slice(value);
            }
            Self::Unknown { value, .. } => out.extend_from_slice(value),
        })
    }
}

/// RFC 7606 §5.3 and §7.11: what cannot be told apart from its prefixes cannot be withdrawn either.
fn decode_mp_reach(value: &[u8], context: &Context) -> Result<MpReach, Wrong> {
    let reset = || (Severity::Reset, subcode::OPTIONAL_ATTRIBUTE_ERROR);
    let mut reader = Reader::new(value);
    let family = AddressFamily { afi: reader.u16().ok_or_else(reset)?, safi: reader.u8().ok_or_else(reset)? };
    let Some(unicast) = family.unicast().filter(|family| context.families.contains(*family)) else {
        return Ok(MpReach::Other { family, value: reader.rest().to_vec() });
    };
    let length = reader.u8().ok_or_else(reset)?;
    let next_hop = reader.take(usize::from(length)).ok_or_else(reset)?;
    let next_hop = NextHop::decode(unicast, next_hop).ok_or_else(reset)?;
    let _reserved = reader.u8().ok_or_else(reset)?;
    let prefixes = Prefixes::decode(unicast, reader.rest()).ok_or_else(reset)?;
    Ok(MpReach::Unicast { next_hop, prefixes })
}

fn decode_mp_unreach(value: &[u8], context: &Context) -> Result<MpUnreach, Wrong> {
    let reset = || (Severity::Reset, subcode::OPTIONAL_ATTRIBUTE_ERROR);
    let mut reader = Reader::new(value);
    let family = AddressFamily { afi: reader.u16().ok_or_else(reset)?, safi: reader.u8().ok_or_else(reset)? };
    let Some(unicast) = family.unicast().filter(|family| context.families.contains(*family)) else {
        return Ok(MpUnreach::Other { family, value: reader.rest().to_vec() });
    };
    Ok(MpUnreach::Unicast(Prefixes::decode(unicast, reader.rest()).ok_or_else(reset)?))
}

/// A value that is one number of four octets.
fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A value that is a list of items of `N` numbers of four octets, at least one of them.
fn list<const N: usize, T>(value: &[u8], item: impl Fn([u32; N]) -> T) -> Option<Vec<T>> {
    if value.is_empty() || !value.len().is_multiple_of(4 * N) {
        return None;
    }
    let mut reader = Reader::new(value);
    let mut items = Vec::with_capacity(value.len() / (4 * N));
    while !reader.is_empty() {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = reader.u32()?;
        }
        items.push(item(numbers));
    }
    Some(items)
}

fn put_as(out: &mut Vec<u8>, number: u32, four_octets: bool) {
    if four_octets {
        out.extend(number.to_be_bytes());
    } else {
        out.extend(u16::try_from(number).unwrap_or(AS_TRANS).to_be_bytes());
    }
}

pub(super) fn put_family(out: &mut Vec<u8>, family: AddressFamily) {
    out.extend(family.afi.to_be_bytes());
    out.push(family.safi);
}

/// Appends an attribute's header and what `value` writes; the length takes two octets only if it must.
fn put_attribute(out: &mut Vec<u8>, flags: u8, code: u8, value: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
    let start = out.len();
    out.extend([flags, code, 0]);
    value(out);
    let length = out.len() - start - 3;
    if let Ok(length) = u8::try_from(length) {
        out[start + 2] = length;
    } else {
        let [high, low] = u16::try_from(length).ok()?.to_be_bytes();
        out[start] |= EXTENDED_LENGTH;
        out[start + 2] = high;
        out.insert(start + 3, low);
    }
    Some(())
}
