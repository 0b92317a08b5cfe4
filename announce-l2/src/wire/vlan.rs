//! VLAN tags (IEEE 802.1Q).
//!
//! ```text
//!  0                   1
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5
//! +-----+-+-----------------------+-------------------------------+
//! | PCP |D|          VID          |   type of what follows        |
//! +-----+-+-----------------------+-------------------------------+
//! ```

use pnet::packet::vlan::VlanPacket;

use super::Invalid;
use super::ethernet::EtherType;

/// The tag of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanTag {
    /// The priority code point, 0 to 7.
    pub priority: u8,
    /// Whether the frame may be dropped first.
    pub drop_eligible: bool,
    /// The VLAN, 0 to 4095. Zero says that the tag carries only a priority: the frame belongs to no VLAN.
    pub id: u16,
}

impl VlanTag {
    /// Splits what follows the tag's own EtherType into the tag, the EtherType within, and the payload.
    pub fn parse(bytes: &[u8]) -> Result<(Self, EtherType, &[u8]), Invalid> {
        let packet = VlanPacket::new(bytes).ok_or(Invalid::Truncated)?;
        let tag = Self {
            priority: packet.get_priority_code_point().0,
            drop_eligible: packet.get_drop_eligible_indicator() != 0,
            id: packet.get_vlan_identifier(),
        };
        Ok((tag, EtherType(packet.get_ethertype().0), bytes.get(4..).unwrap_or_default()))
    }

    /// The tag control information.
    pub const fn emit(self) -> [u8; 2] {
        let tci = (self.priority as u16 & 7) << 13 | (self.drop_eligible as u16) << 12 | (self.id & 0xfff);
        tci.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testutil::hex;

    #[test]
    fn fields() {
        let bytes = hex("b064 86dd ff");
        let (tag, ethertype, rest) = VlanTag::parse(&bytes).unwrap();
        assert_eq!(tag, VlanTag { priority: 5, drop_eligible: true, id: 100 });
        assert_eq!((ethertype, rest), (EtherType::IPV6, &[0xff][..]));
        assert_eq!(tag.emit(), [0xb0, 0x64]);
        assert_eq!(VlanTag::parse(&bytes[..3]), Err(Invalid::Truncated));
    }
}
