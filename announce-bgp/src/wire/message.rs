//! Messages: the fixed header (RFC 4271 §4.1) and what follows it.

use std::fmt;

use ipnet::IpNet;
use thiserror::Error;

use super::notification::{self, header as subcode};
use super::{Context, HEADER_LENGTH, MAX_MESSAGE_LENGTH, Notification, Open, RouteRefresh, Update, open};

/// The type of a message. Unknown ones are an error of the protocol, so that the number is all there is to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageType(pub u8);

impl MessageType {
    /// OPEN.
    pub const OPEN: Self = Self(1);
    /// UPDATE.
    pub const UPDATE: Self = Self(2);
    /// NOTIFICATION.
    pub const NOTIFICATION: Self = Self(3);
    /// KEEPALIVE.
    pub const KEEPALIVE: Self = Self(4);
    /// ROUTE-REFRESH (RFC 2918).
    pub const ROUTE_REFRESH: Self = Self(5);
}

/// The header of a message.
///
/// ```text
/// +---------------------------------------------------------------+
/// |                                                               |
/// |                      Marker (16 octets, all ones)             |
/// |                                                               |
/// +-------------------------------+---------------+---------------+
/// | Length                        | Type          |
/// +-------------------------------+---------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The length of the whole message; at least [`HEADER_LENGTH`] and at most [`MAX_MESSAGE_LENGTH`].
    pub length: usize,
    /// Its type, one of the known ones.
    pub kind: MessageType,
}

impl Header {
    /// Checks a header (RFC 4271 §6.1).
    ///
    /// # Errors
    /// The NOTIFICATION to send before the connection is closed.
    pub fn decode(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, Notification> {
        let (marker, rest) = bytes.split_at(16);
        let error =
            |subcode, data: &[u8]| Notification::with_data(notification::MESSAGE_HEADER_ERROR, subcode, data);
        if marker != [0xff; 16] {
            return Err(error(subcode::CONNECTION_NOT_SYNCHRONIZED, &[]));
        }
        let (length, kind) = (usize::from(u16::from_be_bytes([rest[0], rest[1]])), MessageType(rest[2]));
        let bad_length = || error(subcode::BAD_MESSAGE_LENGTH, &rest[..2]);
        if !(HEADER_LENGTH..=MAX_MESSAGE_LENGTH).contains(&length) {
            return Err(bad_length());
        }
        let body = length - HEADER_LENGTH;
        let fits = match kind {
            MessageType::OPEN => body >= open::MINIMUM,
            MessageType::UPDATE => body >= super::update::MINIMUM,
            MessageType::NOTIFICATION => body >= 2,
            MessageType::KEEPALIVE => body == 0,
            MessageType::ROUTE_REFRESH => body == RouteRefresh::LENGTH,
            _ => return Err(error(subcode::BAD_MESSAGE_TYPE, &rest[2..])),
        };
        if fits { Ok(Self { length, kind }) } else { Err(bad_length()) }
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// OPEN.
    Open(Open),
    /// UPDATE.
    Update(Update),
    /// NOTIFICATION.
    Notification(Notification),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH.
    RouteRefresh(RouteRefresh),
}

impl Message {
    /// Decodes one whole message, header included.
    ///
    /// # Errors
    /// See [`DecodeError`]: each variant is the action that the protocol calls for.
    pub fn decode(frame: &[u8], context: &Context) -> Result<Self, DecodeError> {
        let bad_length = || {
            let length = frame.get(16..18).unwrap_or_default();
            Notification::with_data(notification::MESSAGE_HEADER_ERROR, subcode::BAD_MESSAGE_LENGTH, length)
        };
        let Some((header, body)) = frame.split_first_chunk() else {
            return Err(DecodeError::SessionReset(bad_length()));
        };
        let header = Header::decode(header).map_err(DecodeError::SessionReset)?;
        if header.length != frame.len() {
            return Err(DecodeError::SessionReset(bad_length()));
        }
        let reset = |message: Option<Self>| message.ok_or_else(|| DecodeError::SessionReset(bad_length()));
        match header.kind {
            MessageType::OPEN => Open::decode(body).map(Self::Open).map_err(DecodeError::SessionReset),
            MessageType::UPDATE => Update::decode(body, context).map(Self::Update),
            MessageType::NOTIFICATION => reset(Notification::decode(body).map(Self::Notification)),
            MessageType::ROUTE_REFRESH => reset(RouteRefresh::decode(body).map(Self::RouteRefresh)),
            // Header::decode lets no other type through.
            _ => Ok(Self::Keepalive),
        }
    }

    /// Appends the message to `out`; leaves `out` as it is on an error.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode(&self, context: &Context, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Open(open) => open.encode(out)?,
            Self::Update(update) => update.encode(context, out)?,
            Self::Notification(notification) => notification.encode(out),
            Self::Keepalive => put_frame(out, MessageType::KEEPALIVE, |_| ()),
            Self::RouteRefresh(refresh) => refresh.encode(out),
        }
        Ok(())
    }

    /// Its type.
    pub fn kind(&self) -> MessageType {
        match self {
            Self::Open(_) => MessageType::OPEN,
            Self::Update(_) => MessageType::UPDATE,
            Self::Notification(_) => MessageType::NOTIFICATION,
            Self::Keepalive => MessageType::KEEPALIVE,
            Self::RouteRefresh(_) => MessageType::ROUTE_REFRESH,
        }
    }
}

/// Appends a header of `kind`, what `body` writes, and fills in the length, which the caller knows to fit.
pub(super) fn put_frame(out: &mut Vec<u8>, kind: MessageType, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0xff; 16]);
    out.extend([0, 0, kind.0]);
    body(out);
    let length = out.len() - start;
    debug_assert!(length <= MAX_MESSAGE_LENGTH, "a message of {length} octets");
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    out[start + 16..start + 18].copy_from_slice(&length);
}

/// A message that is not as it should be, by the action that the protocol calls for.
///
/// Of several errors in one UPDATE the strongest action counts (RFC 7606 §3h).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Send this, then close the connection.
    #[error("session reset: {0}")]
    SessionReset(Notification),
    /// Take all the routes of the UPDATE as withdrawn; the session goes on.
    #[error("treat as withdraw: {faults}")]
    TreatAsWithdraw {
        /// The routes that it announces or withdraws.
        withdrawn: Vec<IpNet>,
        /// What is wrong.
        faults: Faults,
    },
    /// Go on without the attributes in error.
    #[error("attribute discard: {faults}")]
    AttributeDiscard {
        /// The UPDATE without those attributes.
        update: Box<Update>,
        /// What is wrong.
        faults: Faults,
    },
}

/// One thing that is wrong with an UPDATE.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The [subcode](notification::update) of an UPDATE message error.
    pub subcode: u8,
    /// The type of the path attribute; `None` if it is not the matter of one.
    pub attribute: Option<u8>,
}

/// All that is wrong with an UPDATE; at most as many as it has attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let lead = if index == 0 { "" } else { "; " };
            write!(f, "{lead}{}", Notification::new(notification::UPDATE_ERROR, fault.subcode))?;
            if let Some(code) = fault.attribute {
                write!(f, " of attribute {code}")?;
            }
        }
        Ok(())
    }
}

/// A message that cannot be put into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// It would be longer than [`MAX_MESSAGE_LENGTH`].
    #[error("longer than a BGP message can be")]
    TooLong,
}
