//! ROUTE-REFRESH (RFC 2918, RFC 7313).

use super::AddressFamily;
use super::message::{MessageType, put_frame};
use super::reader::Reader;

/// Asks for all routes of a family once more.
///
/// ```text
/// +-------------------------------+---------------+---------------+
/// | AFI                           | Subtype       | SAFI          |
/// +-------------------------------+---------------+---------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// The family.
    pub family: AddressFamily,
    /// 0 is the request itself; 1 and 2 are the marks of RFC 7313, the rest is unassigned.
    pub subtype: u8,
}

impl RouteRefresh {
    pub(super) const LENGTH: usize = 4;

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let (afi, subtype, safi) = (reader.u16()?, reader.u8()?, reader.u8()?);
        reader.is_empty().then_some(Self { family: AddressFamily { afi, safi }, subtype })
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        put_frame(out, MessageType::ROUTE_REFRESH, |out| {
            out.extend(self.family.afi.to_be_bytes());
            out.extend([self.subtype, self.family.safi]);
        });
    }
}
