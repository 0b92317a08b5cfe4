//! UPDATE (RFC 4271 §4.3), with the error handling of RFC 7606.

use ipnet::{IpNet, Ipv4Net};
use lbcore::addr::Family;

use super::attribute::{self, Severity};
use super::message::{MessageType, put_frame};
use super::nlri::Prefixes;
use super::notification::{self, update as subcode};
use super::reader::Reader;
use super::{
    Attribute, Context, DecodeError, EncodeError, Fault, Faults, HEADER_LENGTH, MAX_MESSAGE_LENGTH, MpReach,
    MpUnreach, Notification,
};

/// The two lengths of an empty UPDATE.
pub(super) const MINIMUM: usize = 4;

/// Routes that are withdrawn, and routes that are announced with these attributes.
///
/// ```text
/// +-------------------------------+
/// | Withdrawn Routes Length       |
/// +-------------------------------+-------------------------------+
/// | Withdrawn Routes (variable) ...                               |
/// +-------------------------------+-------------------------------+
/// | Total Path Attribute Length   |
/// +-------------------------------+-------------------------------+
/// | Path Attributes (variable) ...                                |
/// +---------------------------------------------------------------+
/// | Network Layer Reachability Information (variable) ...         |
/// +---------------------------------------------------------------+
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// IPv4 routes that are withdrawn.
    pub withdrawn: Vec<Ipv4Net>,
    /// The attributes, ordered by type, each type at most once. Routes of other families are in
    /// [`Attribute::MpReach`] and [`Attribute::MpUnreach`].
    pub attributes: Vec<Attribute>,
    /// IPv4 routes that are announced.
    pub announced: Vec<Ipv4Net>,
}

impl Update {
    /// The mark that all routes of a family have been sent (RFC 4724 §2).
    pub fn end_of_rib(family: Family) -> Self {
        match family {
            Family::V4 => Self::default(),
            Family::V6 => {
                let empty = MpUnreach::Unicast(Prefixes::V6(Vec::new()));
                Self { attributes: vec![Attribute::MpUnreach(empty)], ..Self::default() }
            }
        }
    }

    /// The family whose [mark](Self::end_of_rib) this is.
    pub fn is_end_of_rib(&self) -> Option<Family> {
        if !self.withdrawn.is_empty() || !self.announced.is_empty() {
            return None;
        }
        match self.attributes.as_slice() {
            [] => Some(Family::V4),
            [Attribute::MpUnreach(MpUnreach::Unicast(prefixes))] if prefixes.is_empty() => {
                Some(prefixes.family())
            }
            _ => None,
        }
    }

    /// All routes that it announces.
    pub fn announced(&self) -> impl Iterator<Item = IpNet> {
        let reach = self.attributes.iter().filter_map(|attribute| match attribute {
            Attribute::MpReach(MpReach::Unicast { prefixes, .. }) => Some(prefixes.iter()),
            _ => None,
        });
        self.announced.iter().copied().map(IpNet::V4).chain(reach.flatten())
    }

    /// All routes that it withdraws.
    pub fn withdrawn(&self) -> impl Iterator<Item = IpNet> {
        let unreach = self.attributes.iter().filter_map(|attribute| match attribute {
            Attribute::MpUnreach(MpUnreach::Unicast(prefixes)) => Some(prefixes.iter()),
            _ => None,
        });
        self.withdrawn.iter().copied().map(IpNet::V4).chain(unreach.flatten())
    }

    pub(super) fn decode(body: &[u8], context: &Context) -> Result<Self, DecodeError> {
        let reset =
            |subcode| DecodeError::SessionReset(Notification::new(notification::UPDATE_ERROR, subcode));
        // RFC 7606 §3b: with lengths that contradict each other nothing can be told apart.
        let malformed = || reset(subcode::MALFORMED_ATTRIBUTE_LIST);
        let mut reader = Reader::new(body);
        let length = reader.u16().ok_or_else(malformed)?;
        let withdrawn = reader.take(usize::from(length)).ok_or_else(malformed)?;
        let length = reader.u16().ok_or_else(malformed)?;
        let attributes = reader.take(usize::from(length)).ok_or_else(malformed)?;
        let announced = reader.rest();

        // RFC 7606 §5.3: a prefix in error hides all that follow it.
        let prefixes = |bytes| match Prefixes::decode(Family::V4, bytes) {
            Some(Prefixes::V4(prefixes)) => Ok(prefixes),
            _ => Err(reset(subcode::INVALID_NETWORK_FIELD)),
        };
        let mut update =
            Self { withdrawn: prefixes(withdrawn)?, attributes: Vec::new(), announced: prefixes(announced)? };
        let mut verdict = Verdict::default();
        update.decode_attributes(attributes, context, &mut verdict);
        update.check_mandatory(&mut verdict);
        verdict.pass_on(update)
    }

    fn decode_attributes(&mut self, bytes: &[u8], context: &Context, verdict: &mut Verdict) {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let start = reader.as_slice();
            let Some((flags, code, value)) = split_attribute(&mut reader) else {
                // RFC 7606 §4: the rest is lost, but the prefixes after it are not. Those of an MP attribute are.
                let code = start.get(1).copied();
                let severity = match code {
                    Some(attribute::MP_REACH_NLRI | attribute::MP_UNREACH_NLRI) => Severity::Reset,
                    _ => Severity::Withdraw,
                };
                verdict.fault((severity, subcode::MALFORMED_ATTRIBUTE_LIST), code, &[]);
                return;
            };
            let whole = &start[..start.len() - reader.len()];
            if self.attributes.iter().any(|attribute| attribute.code() == code) {
                // RFC 7606 §3g: twice an MP attribute is beyond repair; of any other, the first one counts.
                if matches!(code, attribute::MP_REACH_NLRI | attribute::MP_UNREACH_NLRI) {
                    verdict.fault((Severity::Reset, subcode::MALFORMED_ATTRIBUTE_LIST), Some(code), &[]);
                }
                continue;
            }
            if let Err(wrong) = attribute::check_flags(code, flags) {
                verdict.fault(wrong, Some(code), whole);
                // Its prefixes are needed all the same, to be withdrawn.
                if !matches!(code, attribute::MP_REACH_NLRI | attribute::MP_UNREACH_NLRI) {
                    continue;
                }
            }
            match Attribute::decode(flags, code, value, context) {
                Ok(attribute) => self.attributes.extend(attribute),
                Err(wrong) => verdict.fault(wrong, Some(code), whole),
            }
        }
        self.attributes.sort_by_key(Attribute::code);
    }

    /// RFC 7606 §3d: what announces a route has an ORIGIN and an AS_PATH, and outside of MP_REACH_NLRI a NEXT_HOP.
    fn check_mandatory(&self, verdict: &mut Verdict) {
        let has = |code| self.attributes.iter().any(|attribute| attribute.code() == code);
        verdict.reachable = !self.announced.is_empty() || has(attribute::MP_REACH_NLRI);
        if !verdict.reachable {
            return;
        }
        for code in [attribute::ORIGIN, attribute::AS_PATH, attribute::NEXT_HOP] {
            let needed = code != attribute::NEXT_HOP || !self.announced.is_empty();
            let faulty = verdict.faults.0.iter().any(|fault| fault.attribute == Some(code));
            if needed && !has(code) && !faulty {
                let wrong = (Severity::Withdraw, subcode::MISSING_WELL_KNOWN_ATTRIBUTE);
                verdict.fault(wrong, Some(code), &[code]);
            }
        }
    }

    /// Appends it with MP_REACH_NLRI as the first attribute (RFC 7606 §5.1) and the others by type. An AS_PATH that
    /// does not fit two octets, where those were negotiated, is sent as AS4_PATH as well (RFC 6793 §4.2.2).
    pub(super) fn encode(&self, context: &Context, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let mut attributes = Vec::new();
        encode_attributes(&self.attributes, context, &mut attributes).ok_or(EncodeError::TooLong)?;
        let (mut withdrawn, mut announced) = (Vec::new(), Vec::new());
        Prefixes::V4(self.withdrawn.clone()).encode(&mut withdrawn);
        Prefixes::V4(self.announced.clone()).encode(&mut announced);
        let length = HEADER_LENGTH + MINIMUM + withdrawn.len() + attributes.len() + announced.len();
        if length > MAX_MESSAGE_LENGTH {
            return Err(EncodeError::TooLong);
        }
        put_frame(out, MessageType::UPDATE, |out| {
            for part in [&withdrawn, &attributes] {
                out.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
                out.extend_from_slice(part);
            }
            out.extend_from_slice(&announced);
        });
        debug_assert_eq!(out.len() - start, length);
        Ok(())
    }
}

/// Appends attributes, which are ordered by type, with MP_REACH_NLRI first; `None` if one is too long.
pub(super) fn encode_attributes(
    attributes: &[Attribute],
    context: &Context,
    out: &mut Vec<u8>,
) -> Option<()> {
    let first = |attribute: &&Attribute| attribute.code() == attribute::MP_REACH_NLRI;
    let has_as4_path = attributes.iter().any(|attribute| matches!(attribute, Attribute::As4Path(_)));
    for attribute in attributes.iter().filter(first).chain(attributes.iter().filter(|one| !first(one))) {
        attribute.encode(context, out)?;
        if let Attribute::AsPath(path) = attribute
            && !context.four_octet_as
            && !has_as4_path
            && !path.fits_two_octets()
        {
            Attribute::As4Path(path.clone()).encode(context, out)?;
        }
    }
    Some(())
}

/// Flags, type and value of the next attribute; `None` if it is cut short.
fn split_attribute<'a>(reader: &mut Reader<'a>) -> Option<(u8, u8, &'a [u8])> {
    let (flags, code) = (reader.u8()?, reader.u8()?);
    let length =
        if flags & attribute::EXTENDED_LENGTH != 0 { reader.u16()? } else { u16::from(reader.u8()?) };
    Some((flags, code, reader.take(usize::from(length))?))
}

/// What is wrong so far, and the strongest action that follows from it.
#[derive(Debug, Default)]
struct Verdict {
    faults: Faults,
    /// The first of the strongest faults, with its data.
    worst: Option<(Severity, Notification)>,
    /// Whether there are routes to take as withdrawn.
    reachable: bool,
}

impl Verdict {
    fn fault(&mut self, (severity, subcode): attribute::Wrong, code: Option<u8>, data: &[u8]) {
        self.faults.0.push(Fault { subcode, attribute: code });
        if self.worst.as_ref().is_none_or(|(worst, _)| *worst < severity) {
            // RFC 4271 §6.3 has no data for a malformed AS_PATH.
            let data = if subcode == subcode::MALFORMED_AS_PATH { &[] } else { data };
            let notification = Notification::with_data(notification::UPDATE_ERROR, subcode, data);
            self.worst = Some((severity, notification));
        }
    }

    fn pass_on(self, update: Update) -> Result<Update, DecodeError> {
        let faults = self.faults;
        match self.worst {
            None => Ok(update),
            Some((Severity::Discard, _)) => {
                Err(DecodeError::AttributeDiscard { update: Box::new(update), faults })
            }
            Some((Severity::Withdraw, _)) if self.reachable => {
                let withdrawn = update.withdrawn().chain(update.announced()).collect();
                Err(DecodeError::TreatAsWithdraw { withdrawn, faults })
            }
            // RFC 7606 §5.2: with no route to withdraw, the error may hide some.
            Some((_, notification)) => Err(DecodeError::SessionReset(notification)),
        }
    }
}
