//! Many prefixes into as few UPDATEs as they fit, without a value in between.

use std::iter::Peekable;

use ipnet::IpNet;
use lbcore::addr::Family;

use super::attribute::{EXTENDED_LENGTH, MP_REACH_NLRI, MP_UNREACH_NLRI, put_family};
use super::message::{MessageType, put_frame};
use super::nlri::{prefix_length, put_prefix};
use super::update::{MINIMUM, encode_attributes};
use super::{Attribute, Context, EncodeError, HEADER_LENGTH, MAX_MESSAGE_LENGTH, NextHop};

/// Optional, not transitive, with a length of two octets.
const MP_FLAGS: u8 = 0x80 | EXTENDED_LENGTH;
/// Flags, type and length of an attribute with [`MP_FLAGS`].
const MP_HEADER: usize = 4;
/// The longest prefix: its length and an IPv6 address.
const LONGEST_PREFIX: usize = 17;

/// Writes one UPDATE that withdraws as many of `prefixes` as fit, all of `family`, and says how many. Writes
/// nothing if there are none.
pub fn withdraw(
    family: Family,
    prefixes: &mut Peekable<impl Iterator<Item = IpNet>>,
    out: &mut Vec<u8>,
) -> usize {
    if prefixes.peek().is_none() {
        return 0;
    }
    let fixed = HEADER_LENGTH + MINIMUM;
    let mut count = 0;
    put_frame(out, MessageType::UPDATE, |out| match family {
        Family::V4 => {
            let length = out.len();
            out.extend([0, 0]);
            count = fill(prefixes, MAX_MESSAGE_LENGTH - fixed, out);
            patch(out, length);
            out.extend([0, 0]);
        }
        Family::V6 => {
            out.extend([0, 0]);
            let length = out.len();
            out.extend([0, 0, MP_FLAGS, MP_UNREACH_NLRI]);
            let value = out.len();
            out.extend([0, 0]);
            put_family(out, family.into());
            count = fill(prefixes, MAX_MESSAGE_LENGTH - fixed - MP_HEADER - 3, out);
            patch(out, value);
            patch(out, length);
        }
    });
    count
}

/// The attributes of a group of routes, encoded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    family: Family,
    /// What comes first in MP_REACH_NLRI: the family, the next hop, the reserved octet. Empty for IPv4.
    reach: Vec<u8>,
    /// All other attributes.
    attributes: Vec<u8>,
}

impl Template {
    /// For routes with this next hop and these further attributes, without NEXT_HOP and MP_REACH_NLRI. IPv4
    /// routes with an IPv4 next hop go outside of MP_REACH_NLRI, as every speaker understands them.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] if there would be no room for a single prefix.
    pub fn new(
        family: Family,
        next_hop: NextHop,
        mut attributes: Vec<Attribute>,
        context: &Context,
    ) -> Result<Self, EncodeError> {
        let mut reach = Vec::new();
        match (family, next_hop) {
            (Family::V4, NextHop::V4(address)) => attributes.push(Attribute::NextHop(address)),
            _ => {
                put_family(&mut reach, family.into());
                next_hop.encode(&mut reach);
                reach.push(0);
            }
        }
        attributes.sort_by_key(Attribute::code);
        let mut encoded = Vec::new();
        encode_attributes(&attributes, context, &mut encoded).ok_or(EncodeError::TooLong)?;
        let template = Self { family, reach, attributes: encoded };
        let fixed = template.fixed();
        if fixed + LONGEST_PREFIX > MAX_MESSAGE_LENGTH { Err(EncodeError::TooLong) } else { Ok(template) }
    }

    /// The length of an UPDATE with these attributes and no prefix.
    fn fixed(&self) -> usize {
        let header = if self.reach.is_empty() { 0 } else { MP_HEADER };
        HEADER_LENGTH + MINIMUM + header + self.reach.len() + self.attributes.len()
    }

    /// Writes one UPDATE that announces as many of `prefixes` as fit, and says how many. Writes nothing if there
    /// are none.
    pub fn announce(&self, prefixes: &mut Peekable<impl Iterator<Item = IpNet>>, out: &mut Vec<u8>) -> usize {
        if prefixes.peek().is_none() {
            return 0;
        }
        let room = MAX_MESSAGE_LENGTH.saturating_sub(self.fixed());
        let mut count = 0;
        put_frame(out, MessageType::UPDATE, |out| {
            out.extend([0, 0]);
            let length = out.len();
            out.extend([0, 0]);
            if !self.reach.is_empty() {
                out.extend([MP_FLAGS, MP_REACH_NLRI]);
                let value = out.len();
                out.extend([0, 0]);
                out.extend_from_slice(&self.reach);
                count = fill(prefixes, room, out);
                patch(out, value);
            }
            out.extend_from_slice(&self.attributes);
            patch(out, length);
            if self.reach.is_empty() {
                count = fill(prefixes, room, out);
            }
        });
        debug_assert!(count > 0, "{:?} took no prefix", self.family);
        count
    }
}

/// Appends prefixes while they fit into `room`, and says how many.
fn fill(prefixes: &mut Peekable<impl Iterator<Item = IpNet>>, room: usize, out: &mut Vec<u8>) -> usize {
    let end = out.len() + room;
    let mut count = 0;
    while let Some(prefix) = prefixes.next_if(|prefix| out.len() + prefix_length(*prefix) <= end) {
        put_prefix(out, prefix);
        count += 1;
    }
    count
}

/// Writes the length of all that follows the two octets at `at` into them.
fn patch(out: &mut [u8], at: usize) {
    let length = u16::try_from(out.len() - at - 2).unwrap_or(u16::MAX).to_be_bytes();
    out[at..at + 2].copy_from_slice(&length);
}
