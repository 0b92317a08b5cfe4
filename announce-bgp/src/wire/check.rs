//! What must hold for any message in any context. Used by the property tests and by the fuzz target `bgp_message`;
//! not part of the API.

use super::{
    Context, DecodeError, Families, HEADER_LENGTH, Header, MAX_MESSAGE_LENGTH, Message, MessageType,
    Notification, Peering, notification,
};

/// The context that the bits of `bits` spell.
pub fn context(bits: u8) -> Context {
    let peering = if bits & 0x01 == 0 { Peering::External } else { Peering::Internal };
    let families = [Families::NONE, Families::V4, Families::V6, Families::ALL][usize::from(bits >> 1 & 3)];
    Context::new(peering).families(families).four_octet_as(bits & 0x08 != 0).as_sets(bits & 0x10 != 0)
}

/// Decodes `frame` as it is and with its marker and length put right. What is let through comes back as it was; what
/// is not calls for an action that fits it.
///
/// # Panics
/// If not.
pub fn message(context: &Context, frame: &[u8]) {
    decoded(context, frame);
    let mut right = frame.to_vec();
    if (HEADER_LENGTH..=MAX_MESSAGE_LENGTH).contains(&right.len()) {
        let length = u16::try_from(right.len()).unwrap_or(u16::MAX).to_be_bytes();
        right[..16].fill(0xff);
        right[16..18].copy_from_slice(&length);
        decoded(context, &right);
    }
}

fn decoded(context: &Context, frame: &[u8]) {
    let result = Message::decode(frame, context);
    let kind = frame.get(18).copied().map(MessageType);
    let header = frame.first_chunk().map(Header::decode);
    match result {
        Ok(message) => {
            assert_eq!(
                header.map(Result::ok),
                Some(Some(Header { length: frame.len(), kind: message.kind() }))
            );
            comes_back(&message, context, frame.len());
        }
        Err(DecodeError::SessionReset(notification)) => {
            let expected = match kind {
                _ if header.is_none_or(|header| header.map(|header| header.length) != Ok(frame.len())) => {
                    notification::MESSAGE_HEADER_ERROR
                }
                Some(MessageType::OPEN) => notification::OPEN_ERROR,
                _ => notification::UPDATE_ERROR,
            };
            assert_eq!(notification.code, expected, "{notification}");
            // The subcode of an OPEN message error may be unspecific.
            assert!(notification.subcode != 0 || expected == notification::OPEN_ERROR, "{notification}");
            can_be_said(&notification);
        }
        Err(DecodeError::TreatAsWithdraw { withdrawn, faults }) => {
            assert_eq!(kind, Some(MessageType::UPDATE));
            assert!(!faults.0.is_empty() && !faults.to_string().is_empty());
            assert!(withdrawn.iter().all(|prefix| *prefix == prefix.trunc()), "{withdrawn:?}");
            assert!(withdrawn.len() <= frame.len(), "a prefix takes an octet at least");
        }
        Err(DecodeError::AttributeDiscard { update, faults }) => {
            assert_eq!(kind, Some(MessageType::UPDATE));
            assert!(!faults.0.is_empty() && !faults.to_string().is_empty());
            comes_back(&Message::Update(*update), context, frame.len());
        }
    }
}

/// `message`, which was decoded from `length` octets, is encoded in no more of them, and decoded as it was.
fn comes_back(message: &Message, context: &Context, length: usize) {
    let mut bytes = Vec::new();
    message.encode(context, &mut bytes).expect("room enough");
    // Several parameters of an OPEN may become one whose length takes two octets.
    let longer = if message.kind() == MessageType::OPEN { 4 } else { 0 };
    assert!(bytes.len() <= length + longer, "{} octets became {}", length, bytes.len());
    assert_eq!(Message::decode(&bytes, context).as_ref(), Ok(message));
}

/// A NOTIFICATION arrives as it was made, and can be shown to a person.
fn can_be_said(notification: &Notification) {
    let context = Context::new(Peering::External);
    let message = Message::Notification(notification.clone());
    let mut bytes = Vec::new();
    message.encode(&context, &mut bytes).expect("room enough");
    assert_eq!(Message::decode(&bytes, &context), Ok(message));
    assert!(!notification.to_string().contains(char::is_control), "{notification:?}");
}
