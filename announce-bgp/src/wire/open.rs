//! OPEN (RFC 4271 §4.2).

use std::net::Ipv4Addr;

use lbcore::addr::Family;

use super::message::{MessageType, put_frame};
use super::notification::{self, open as subcode};
use super::reader::Reader;
use super::{AS_TRANS, Capability, EncodeError, Families, Notification};

/// The first message on a connection: who speaks, and what they can do.
///
/// ```text
/// +---------------+
/// | Version       |
/// +---------------+---------------+
/// | My Autonomous System          |
/// +-------------------------------+
/// | Hold Time                     |
/// +-------------------------------+-------------------------------+
/// | BGP Identifier                                                |
/// +---------------+-----------------------------------------------+
/// | Opt Parm Len  | Optional Parameters (variable) ...            |
/// +---------------+-----------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The AS number in two octets; [`AS_TRANS`] for one that needs four.
    pub two_octet_as: u16,
    /// The proposed hold time in seconds: 0, or at least 3.
    pub hold_time: u16,
    /// The BGP Identifier.
    pub identifier: Ipv4Addr,
    /// The capabilities of all its optional parameters, in order.
    pub capabilities: Vec<Capability>,
}

const VERSION: u8 = 4;
/// The fixed part of the body.
pub(super) const MINIMUM: usize = 10;
/// The only optional parameter in use (RFC 5492).
const CAPABILITIES: u8 = 2;
/// As a parameter's type right after a length that is not zero: the lengths that follow take two octets (RFC 9072).
const EXTENDED: u8 = 255;

impl Open {
    /// An OPEN of AS `local_as`, which announces its number in four octets.
    pub fn new(local_as: u32, hold_time: u16, identifier: Ipv4Addr, capabilities: Vec<Capability>) -> Self {
        Self {
            two_octet_as: u16::try_from(local_as).unwrap_or(AS_TRANS),
            hold_time,
            identifier,
            capabilities,
        }
    }

    /// The sender's AS number: the one in four octets, if there is one.
    pub fn autonomous_system(&self) -> u32 {
        self.four_octet_as().unwrap_or(u32::from(self.two_octet_as))
    }

    /// The AS number in four octets. Of several, the last one counts.
    pub fn four_octet_as(&self) -> Option<u32> {
        self.capabilities.iter().rev().find_map(|capability| match capability {
            Capability::FourOctetAs(number) => Some(*number),
            _ => None,
        })
    }

    /// The families that it names; IPv4 unicast if it names none at all (RFC 4760 §8 makes the capability a must
    /// for any other).
    pub fn families(&self) -> Families {
        let mut named = self.capabilities.iter().filter_map(|capability| match capability {
            Capability::Multiprotocol(family) => Some(family.unicast()),
            _ => None,
        });
        let Some(first) = named.next() else { return Families::only(Family::V4) };
        std::iter::once(first).chain(named).flatten().collect()
    }

    /// Whether it offers `capability`.
    pub fn offers(&self, capability: &Capability) -> bool {
        self.capabilities.contains(capability)
    }

    /// Checks all that does not depend on who is expected to speak (RFC 4271 §6.2, RFC 6286, RFC 7607).
    pub(super) fn decode(body: &[u8]) -> Result<Self, Notification> {
        let error = |subcode| Notification::new(notification::OPEN_ERROR, subcode);
        let malformed = || error(subcode::UNSPECIFIC);
        let mut reader = Reader::new(body);
        if reader.u8().ok_or_else(malformed)? != VERSION {
            let data = u16::from(VERSION).to_be_bytes();
            return Err(Notification::with_data(
                notification::OPEN_ERROR,
                subcode::UNSUPPORTED_VERSION,
                data,
            ));
        }
        let two_octet_as = reader.u16().ok_or_else(malformed)?;
        let hold_time = reader.u16().ok_or_else(malformed)?;
        let identifier = Ipv4Addr::from(reader.u32().ok_or_else(malformed)?);
        let capabilities = decode_parameters(&mut reader)?;
        let open = Self { two_octet_as, hold_time, identifier, capabilities };
        if open.two_octet_as == 0 || open.four_octet_as() == Some(0) {
            return Err(error(subcode::BAD_PEER_AS));
        }
        if matches!(open.hold_time, 1 | 2) {
            return Err(error(subcode::UNACCEPTABLE_HOLD_TIME));
        }
        // RFC 6286 §2.1: any number but zero; it need not be a valid unicast address.
        if open.identifier.is_unspecified() {
            return Err(error(subcode::BAD_BGP_IDENTIFIER));
        }
        Ok(open)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities);
        }
        let length = u16::try_from(capabilities.len()).map_err(|_| EncodeError::TooLong)?;
        // Type, length and value of the one parameter must fit into a length of one octet.
        let short = u8::try_from(length.saturating_add(2)).ok();
        if super::HEADER_LENGTH + MINIMUM + 6 + capabilities.len() > super::MAX_MESSAGE_LENGTH {
            return Err(EncodeError::TooLong);
        }
        put_frame(out, MessageType::OPEN, |out| {
            out.push(VERSION);
            out.extend(self.two_octet_as.to_be_bytes());
            out.extend(self.hold_time.to_be_bytes());
            out.extend(self.identifier.octets());
            match short {
                _ if capabilities.is_empty() => out.push(0),
                Some(parameters) if parameters < EXTENDED => {
                    out.extend([parameters, CAPABILITIES, parameters - 2]);
                }
                _ => {
                    out.extend([EXTENDED, EXTENDED]);
                    out.extend((length + 3).to_be_bytes());
                    out.push(CAPABILITIES);
                    out.extend(length.to_be_bytes());
                }
            }
            out.extend_from_slice(&capabilities);
        });
        Ok(())
    }
}

fn decode_parameters(reader: &mut Reader<'_>) -> Result<Vec<Capability>, Notification> {
    let malformed = || Notification::new(notification::OPEN_ERROR, subcode::UNSPECIFIC);
    let mut length = usize::from(reader.u8().ok_or_else(malformed)?);
    // RFC 9072 §2: the first octet need not be 255 for this, only not zero.
    let extended = length != 0 && reader.as_slice().first() == Some(&EXTENDED);
    if extended {
        reader.u8();
        length = usize::from(reader.u16().ok_or_else(malformed)?);
    }
    if length != reader.len() {
        return Err(malformed());
    }
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u8().ok_or_else(malformed)?;
        let length = if extended { reader.u16() } else { reader.u8().map(u16::from) };
        let value = reader.take(usize::from(length.ok_or_else(malformed)?)).ok_or_else(malformed)?;
        if kind != CAPABILITIES {
            return Err(Notification::new(notification::OPEN_ERROR, subcode::UNSUPPORTED_OPTIONAL_PARAMETER));
        }
        let mut value = Reader::new(value);
        while !value.is_empty() {
            capabilities.push(Capability::decode(&mut value).ok_or_else(malformed)?);
        }
    }
    Ok(capabilities)
}
