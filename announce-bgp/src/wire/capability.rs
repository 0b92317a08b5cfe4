//! Capabilities (RFC 5492), as OPEN carries them.

use super::AddressFamily;
use super::reader::Reader;

/// What a speaker can do.
///
/// ```text
/// +---------------+---------------+-------------------------------+
/// | Code          | Length        | Value (variable) ...          |
/// +---------------+---------------+-------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// Multiprotocol extensions for a family (RFC 4760), code 1.
    Multiprotocol(AddressFamily),
    /// Route refresh (RFC 2918), code 2.
    RouteRefresh,
    /// AS numbers of four octets, with the sender's own (RFC 6793), code 65.
    FourOctetAs(u32),
    /// Any other, as it came.
    Unknown {
        /// Its code.
        code: u8,
        /// Its value, at most 255 octets.
        value: Vec<u8>,
    },
}

impl Capability {
    const MULTIPROTOCOL: u8 = 1;
    const ROUTE_REFRESH: u8 = 2;
    const FOUR_OCTET_AS: u8 = 65;

    /// Its code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => Self::MULTIPROTOCOL,
            Self::RouteRefresh => Self::ROUTE_REFRESH,
            Self::FourOctetAs(_) => Self::FOUR_OCTET_AS,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Reads the next one; `None` if it is cut short or has a length that its code cannot have.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let code = reader.u8()?;
        let length = reader.u8()?;
        let mut value = Reader::new(reader.take(usize::from(length))?);
        let capability = match code {
            Self::MULTIPROTOCOL => {
                let (afi, _reserved, safi) = (value.u16()?, value.u8()?, value.u8()?);
                Self::Multiprotocol(AddressFamily { afi, safi })
            }
            Self::ROUTE_REFRESH => Self::RouteRefresh,
            Self::FOUR_OCTET_AS => Self::FourOctetAs(value.u32()?),
            _ => Self::Unknown { code, value: value.rest().to_vec() },
        };
        value.is_empty().then_some(capability)
    }

    /// Appends it. The value of an unknown one is cut after 255 octets.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut put = |value: &[u8]| {
            let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
            out.extend([self.code(), length]);
            out.extend_from_slice(&value[..usize::from(length)]);
        };
        match self {
            Self::Multiprotocol(family) => {
                let [high, low] = family.afi.to_be_bytes();
                put(&[high, low, 0, family.safi]);
            }
            Self::RouteRefresh => put(&[]),
            Self::FourOctetAs(number) => put(&number.to_be_bytes()),
            Self::Unknown { value, .. } => put(value),
        }
    }
}
