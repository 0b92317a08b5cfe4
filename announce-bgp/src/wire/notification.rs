//! NOTIFICATION (RFC 4271 §4.5): why a session ends.

use std::borrow::Cow;
use std::fmt;

use super::message::{MessageType, put_frame};
use super::reader::Reader;

/// Message header error (RFC 4271 §6.1).
pub const MESSAGE_HEADER_ERROR: u8 = 1;
/// OPEN message error (RFC 4271 §6.2).
pub const OPEN_ERROR: u8 = 2;
/// UPDATE message error (RFC 4271 §6.3).
pub const UPDATE_ERROR: u8 = 3;
/// Hold timer expired (RFC 4271 §6.5).
pub const HOLD_TIMER_EXPIRED: u8 = 4;
/// Finite state machine error (RFC 4271 §6.6, RFC 6608).
pub const FSM_ERROR: u8 = 5;
/// Cease (RFC 4271 §6.7, RFC 4486).
pub const CEASE: u8 = 6;
/// ROUTE-REFRESH message error (RFC 7313).
pub const ROUTE_REFRESH_ERROR: u8 = 7;
/// Send hold timer expired (RFC 9687).
pub const SEND_HOLD_TIMER_EXPIRED: u8 = 8;

/// Subcodes of [`MESSAGE_HEADER_ERROR`].
pub mod header {
    /// The marker is not all ones.
    pub const CONNECTION_NOT_SYNCHRONIZED: u8 = 1;
    /// The length is out of bounds for the type; the data is the length.
    pub const BAD_MESSAGE_LENGTH: u8 = 2;
    /// The type is unknown; the data is the type.
    pub const BAD_MESSAGE_TYPE: u8 = 3;
}

/// Subcodes of [`OPEN_ERROR`].
pub mod open {
    /// Nothing more specific.
    pub const UNSPECIFIC: u8 = 0;
    /// The version is not 4; the data is the one we speak, in two octets.
    pub const UNSUPPORTED_VERSION: u8 = 1;
    /// The AS number is not the expected one.
    pub const BAD_PEER_AS: u8 = 2;
    /// The BGP Identifier is zero, or our own within an AS (RFC 6286).
    pub const BAD_BGP_IDENTIFIER: u8 = 3;
    /// An optional parameter is unknown.
    pub const UNSUPPORTED_OPTIONAL_PARAMETER: u8 = 4;
    /// The hold time is 1 or 2 seconds.
    pub const UNACCEPTABLE_HOLD_TIME: u8 = 6;
    /// A capability that we need is missing; the data is that capability (RFC 5492).
    pub const UNSUPPORTED_CAPABILITY: u8 = 7;
}

/// Subcodes of [`UPDATE_ERROR`]; the data is the attribute, where not said otherwise.
pub mod update {
    /// The lengths contradict each other, or an attribute is there twice.
    pub const MALFORMED_ATTRIBUTE_LIST: u8 = 1;
    /// A well-known attribute is unknown.
    pub const UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE: u8 = 2;
    /// A mandatory attribute is missing; the data is its type.
    pub const MISSING_WELL_KNOWN_ATTRIBUTE: u8 = 3;
    /// The flags are not those of the attribute.
    pub const ATTRIBUTE_FLAGS_ERROR: u8 = 4;
    /// The length is not one that the attribute can have.
    pub const ATTRIBUTE_LENGTH_ERROR: u8 = 5;
    /// ORIGIN is undefined.
    pub const INVALID_ORIGIN: u8 = 6;
    /// NEXT_HOP is not the address of a host.
    pub const INVALID_NEXT_HOP: u8 = 8;
    /// An optional attribute is wrong.
    pub const OPTIONAL_ATTRIBUTE_ERROR: u8 = 9;
    /// A prefix is syntactically wrong; without data.
    pub const INVALID_NETWORK_FIELD: u8 = 10;
    /// AS_PATH is syntactically wrong; without data.
    pub const MALFORMED_AS_PATH: u8 = 11;
}

/// Subcodes of [`FSM_ERROR`] (RFC 6608).
pub mod fsm {
    /// An unexpected message in OpenSent.
    pub const UNEXPECTED_IN_OPEN_SENT: u8 = 1;
    /// An unexpected message in OpenConfirm.
    pub const UNEXPECTED_IN_OPEN_CONFIRM: u8 = 2;
    /// An unexpected message in Established.
    pub const UNEXPECTED_IN_ESTABLISHED: u8 = 3;
}

/// Subcodes of [`CEASE`] (RFC 4486, RFC 8538, RFC 9384).
pub mod cease {
    /// The peer announced more prefixes than it may.
    pub const MAXIMUM_PREFIXES_REACHED: u8 = 1;
    /// Shut down on purpose (RFC 9003 adds words).
    pub const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
    /// The peer is no longer configured.
    pub const PEER_DE_CONFIGURED: u8 = 3;
    /// Reset on purpose (RFC 9003 adds words).
    pub const ADMINISTRATIVE_RESET: u8 = 4;
    /// The peer is not configured.
    pub const CONNECTION_REJECTED: u8 = 5;
    /// Another change of the configuration.
    pub const OTHER_CONFIGURATION_CHANGE: u8 = 6;
    /// The loser of a connection collision (RFC 4271 §6.8).
    pub const CONNECTION_COLLISION_RESOLUTION: u8 = 7;
    /// Out of resources.
    pub const OUT_OF_RESOURCES: u8 = 8;
    /// A reset that graceful restart does not cover (RFC 8538).
    pub const HARD_RESET: u8 = 9;
    /// BFD found the path down (RFC 9384).
    pub const BFD_DOWN: u8 = 10;
}

/// Why a session ends.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +---------------+---------------+-------------------------------+
/// | Error code    | Error subcode |   Data (variable) ...         |
/// +---------------+---------------+-------------------------------+
/// ```
///
/// Codes and subcodes are plain numbers: unknown ones are kept as they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Notification {
    /// The error code.
    pub code: u8,
    /// The error subcode; zero if the code has none or nothing more specific is known.
    pub subcode: u8,
    /// What is wrong, as the code and subcode say.
    pub data: Vec<u8>,
}

/// The longest text of a shutdown communication that we send. RFC 9003 allows 255 octets, older receivers 128.
const COMMUNICATION_LIMIT: usize = 128;

impl Notification {
    /// Without data.
    pub const fn new(code: u8, subcode: u8) -> Self {
        Self { code, subcode, data: Vec::new() }
    }

    /// With data.
    pub fn with_data(code: u8, subcode: u8, data: impl Into<Vec<u8>>) -> Self {
        Self { code, subcode, data: data.into() }
    }

    /// Cease with this [subcode](cease).
    pub const fn cease(subcode: u8) -> Self {
        Self::new(CEASE, subcode)
    }

    /// Cease, administrative shutdown, with words for the operator at the other end (RFC 9003), cut after 128
    /// octets. Without words if `text` is empty.
    pub fn shutdown(text: &str) -> Self {
        if text.is_empty() {
            return Self::cease(cease::ADMINISTRATIVE_SHUTDOWN);
        }
        let mut end = text.len().min(COMMUNICATION_LIMIT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut data = Vec::with_capacity(1 + end);
        data.push(u8::try_from(end).unwrap_or(0));
        data.extend_from_slice(&text.as_bytes()[..end]);
        Self::with_data(CEASE, cease::ADMINISTRATIVE_SHUTDOWN, data)
    }

    /// The words of a shutdown or reset (RFC 9003), if there are any and their length is sound. What is not UTF-8
    /// is replaced.
    pub fn communication(&self) -> Option<Cow<'_, str>> {
        let speaks = matches!(self.subcode, cease::ADMINISTRATIVE_SHUTDOWN | cease::ADMINISTRATIVE_RESET);
        if self.code != CEASE || !speaks {
            return None;
        }
        let (length, text) = self.data.split_first()?;
        let text = text.get(..usize::from(*length))?;
        (!text.is_empty()).then(|| String::from_utf8_lossy(text))
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        Some(Self { code: reader.u8()?, subcode: reader.u8()?, data: reader.rest().to_vec() })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        // The data is cut to what the message can hold: a reason cut short still is one.
        let room = super::MAX_MESSAGE_LENGTH - super::HEADER_LENGTH - 2;
        put_frame(out, MessageType::NOTIFICATION, |out| {
            out.extend([self.code, self.subcode]);
            out.extend(self.data.iter().take(room));
        });
    }

    /// Its name in the registry of the IANA, as far as known.
    fn name(&self) -> Option<&'static str> {
        Some(match (self.code, self.subcode) {
            (MESSAGE_HEADER_ERROR, header::CONNECTION_NOT_SYNCHRONIZED) => "Connection Not Synchronized",
            (MESSAGE_HEADER_ERROR, header::BAD_MESSAGE_LENGTH) => "Bad Message Length",
            (MESSAGE_HEADER_ERROR, header::BAD_MESSAGE_TYPE) => "Bad Message Type",
            (MESSAGE_HEADER_ERROR, _) => "Message Header Error",
            (OPEN_ERROR, open::UNSUPPORTED_VERSION) => "Unsupported Version Number",
            (OPEN_ERROR, open::BAD_PEER_AS) => "Bad Peer AS",
            (OPEN_ERROR, open::BAD_BGP_IDENTIFIER) => "Bad BGP Identifier",
            (OPEN_ERROR, open::UNSUPPORTED_OPTIONAL_PARAMETER) => "Unsupported Optional Parameter",
            (OPEN_ERROR, open::UNACCEPTABLE_HOLD_TIME) => "Unacceptable Hold Time",
            (OPEN_ERROR, open::UNSUPPORTED_CAPABILITY) => "Unsupported Capability",
            (OPEN_ERROR, _) => "OPEN Message Error",
            (UPDATE_ERROR, update::MALFORMED_ATTRIBUTE_LIST) => "Malformed Attribute List",
            (UPDATE_ERROR, update::UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE) => "Unrecognized Well-known Attribute",
            (UPDATE_ERROR, update::MISSING_WELL_KNOWN_ATTRIBUTE) => "Missing Well-known Attribute",
            (UPDATE_ERROR, update::ATTRIBUTE_FLAGS_ERROR) => "Attribute Flags Error",
            (UPDATE_ERROR, update::ATTRIBUTE_LENGTH_ERROR) => "Attribute Length Error",
            (UPDATE_ERROR, update::INVALID_ORIGIN) => "Invalid ORIGIN Attribute",
            (UPDATE_ERROR, update::INVALID_NEXT_HOP) => "Invalid NEXT_HOP Attribute",
            (UPDATE_ERROR, update::OPTIONAL_ATTRIBUTE_ERROR) => "Optional Attribute Error",
            (UPDATE_ERROR, update::INVALID_NETWORK_FIELD) => "Invalid Network Field",
            (UPDATE_ERROR, update::MALFORMED_AS_PATH) => "Malformed AS_PATH",
            (UPDATE_ERROR, _) => "UPDATE Message Error",
            (HOLD_TIMER_EXPIRED, _) => "Hold Timer Expired",
            (FSM_ERROR, fsm::UNEXPECTED_IN_OPEN_SENT) => "Unexpected Message in OpenSent",
            (FSM_ERROR, fsm::UNEXPECTED_IN_OPEN_CONFIRM) => "Unexpected Message in OpenConfirm",
            (FSM_ERROR, fsm::UNEXPECTED_IN_ESTABLISHED) => "Unexpected Message in Established",
            (FSM_ERROR, _) => "Finite State Machine Error",
            (CEASE, cease::MAXIMUM_PREFIXES_REACHED) => "Maximum Number of Prefixes Reached",
            (CEASE, cease::ADMINISTRATIVE_SHUTDOWN) => "Administrative Shutdown",
            (CEASE, cease::PEER_DE_CONFIGURED) => "Peer De-configured",
            (CEASE, cease::ADMINISTRATIVE_RESET) => "Administrative Reset",
            (CEASE, cease::CONNECTION_REJECTED) => "Connection Rejected",
            (CEASE, cease::OTHER_CONFIGURATION_CHANGE) => "Other Configuration Change",
            (CEASE, cease::CONNECTION_COLLISION_RESOLUTION) => "Connection Collision Resolution",
            (CEASE, cease::OUT_OF_RESOURCES) => "Out of Resources",
            (CEASE, cease::HARD_RESET) => "Hard Reset",
            (CEASE, cease::BFD_DOWN) => "BFD Down",
            (CEASE, _) => "Cease",
            (ROUTE_REFRESH_ERROR, _) => "ROUTE-REFRESH Message Error",
            (SEND_HOLD_TIMER_EXPIRED, _) => "Send Hold Timer Expired",
            _ => return None,
        })
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.name().unwrap_or("unknown error"), self.code, self.subcode)?;
        match self.communication() {
            // Debug escapes what a terminal would act on: the text is the peer's.
            Some(text) => write!(f, ": {text:?}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_communication_is_cut_at_a_character() {
        let long = "ä".repeat(100);
        let notification = Notification::shutdown(&long);
        assert_eq!(notification.data[0], 128);
        assert_eq!(notification.communication().unwrap(), "ä".repeat(64));
        assert_eq!(Notification::shutdown("").data, []);
        let odd = format!("a{long}");
        assert_eq!(Notification::shutdown(&odd).data[0], 127);
    }

    #[test]
    fn an_unsound_communication_is_no_text() {
        for data in [vec![], vec![0], vec![5, b'a'], vec![255]] {
            let notification = Notification::with_data(CEASE, cease::ADMINISTRATIVE_RESET, data);
            assert_eq!(notification.communication(), None, "{notification:?}");
        }
        let other = Notification::with_data(CEASE, cease::HARD_RESET, *b"\x01a");
        assert_eq!(other.communication(), None);
    }

    #[test]
    fn names_itself_and_escapes_the_peers_words() {
        let notification = Notification::shutdown("back at\x1b[31m noon");
        assert_eq!(notification.to_string(), "Administrative Shutdown (6/2): \"back at\\u{1b}[31m noon\"");
        assert_eq!(Notification::new(77, 1).to_string(), "unknown error (77/1)");
        assert_eq!(Notification::new(3, 200).to_string(), "UPDATE Message Error (3/200)");
    }
}
