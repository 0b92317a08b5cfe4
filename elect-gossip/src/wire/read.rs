//! Reading, with every length checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lbcore::id::NodeName;

use super::Boot;

/// Why a datagram is dropped. All of them are dropped and counted; none is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Shorter than the header and the tag.
    #[error("too short for a datagram of this protocol")]
    Short,
    /// Not of this protocol or of another version of it.
    #[error("not of this protocol, or of another version")]
    Magic,
    /// No key opens it.
    #[error("sealed with an unknown key, or altered")]
    Unauthentic,
    /// A member sealed it, but it has no meaning.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

/// Reads from the front; an error leaves it where it was or further, and is final.
#[derive(Debug)]
pub(crate) struct Reader<'b> {
    left: &'b [u8],
}

const CUT: WireError = WireError::Malformed("it is cut");

impl<'b> Reader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self { left: bytes }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'b [u8], WireError> {
        let (taken, left) = self.left.split_at_checked(count).ok_or(CUT)?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, left) = self.left.split_first_chunk::<N>().ok_or(CUT)?;
        self.left = left;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn boot(&mut self) -> Result<Boot, WireError> {
        Ok(Boot(u128::from_be_bytes(self.array()?)))
    }

    pub(crate) fn mac(&mut self) -> Result<[u8; 6], WireError> {
        self.array()
    }

    pub(crate) fn flag(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Malformed("flag")),
        }
    }

    /// A number of intervals for which a node may be silent.
    pub(crate) fn promise(&mut self) -> Result<u8, WireError> {
        match self.u8()? {
            promise @ 1..=super::MAX_PROMISE => Ok(promise),
            _ => Err(WireError::Malformed("promise")),
        }
    }

    pub(crate) fn name(&mut self) -> Result<&'b str, WireError> {
        let length = self.u8()?;
        self.text(usize::from(length))
    }

    pub(crate) fn text(&mut self, length: usize) -> Result<&'b str, WireError> {
        std::str::from_utf8(self.bytes(length)?).map_err(|_| WireError::Malformed("text"))
    }

    /// The name of a node, which is never empty.
    pub(crate) fn node(&mut self) -> Result<NodeName, WireError> {
        match self.name()? {
            "" => Err(WireError::Malformed("name of a node")),
            name if name.len() > crate::MAX_NODE_NAME => Err(WireError::Malformed("name of a node")),
            name => Ok(NodeName::from(name)),
        }
    }

    pub(crate) fn v4(&mut self) -> Result<Ipv4Addr, WireError> {
        Ok(Ipv4Addr::from(self.array::<4>()?))
    }

    pub(crate) fn v6(&mut self) -> Result<Ipv6Addr, WireError> {
        Ok(Ipv6Addr::from(self.array::<16>()?))
    }

    pub(crate) fn address(&mut self) -> Result<SocketAddr, WireError> {
        let ip: IpAddr = match self.u8()? {
            4 => self.v4()?.into(),
            6 => self.v6()?.into(),
            _ => return Err(WireError::Malformed("address family")),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }

    pub(crate) fn rest(&mut self) -> &'b [u8] {
        std::mem::take(&mut self.left)
    }

    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), WireError> {
        if self.left.is_empty() { Ok(()) } else { Err(WireError::Malformed("trailing bytes")) }
    }
}
