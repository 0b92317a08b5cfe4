//! Bytes to values and back, one file for each protocol.
//!
//! No function here does I/O, knows the time, allocates, or panics on any input. Parsing checks everything that the
//! protocol tells a receiver to check, so that a value that was parsed needs no second look; what fails is an
//! [`Invalid`], which always means the same protocol action: drop the frame, silently (RFC 826, RFC 4861 §7.1).
//!
//! The field access and the checksums are those of `pnet`'s packet types. Lengths are checked here before a packet
//! type sees the bytes, and the options of Neighbor Discovery are walked by code of our own: pnet 0.35 accepts an
//! option of length zero and overflows on one of 32 units or more.

pub mod arp;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod check;
pub mod ethernet;
pub mod ipv6;
pub mod ndp;
pub mod vlan;

pub use ethernet::MacAddr;

use std::fmt;

/// Why bytes are not a valid packet. The frame is to be dropped without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// Fewer bytes than the header needs, or than it says there are.
    #[error("the packet is cut short")]
    Truncated,
    /// ARP for another hardware or protocol than IPv4 over Ethernet, or with other address lengths.
    #[error("not ARP for IPv4 over Ethernet")]
    NotEthernetIpv4,
    /// An ARP operation that is neither request nor reply.
    #[error("ARP operation {0} is neither request nor reply")]
    Operation(u16),
    /// An ARP sender whose hardware address is a group, or whose protocol address no host can have.
    #[error("the ARP sender is not an address of a host")]
    Sender,
    /// The IP version is not 6.
    #[error("the IP version is not 6")]
    Version,
    /// A hop limit other than 255: the packet has been forwarded, so it cannot come from a neighbour.
    #[error("the hop limit is {0}, not 255")]
    HopLimit(u8),
    /// The ICMPv6 checksum is wrong.
    #[error("the checksum is wrong")]
    Checksum,
    /// The ICMPv6 code is not zero.
    #[error("the ICMPv6 code is {0}, not 0")]
    Code(u8),
    /// An option of length zero, or one that reaches beyond the packet.
    #[error("an option's length is zero or too long")]
    OptionLength,
    /// The target is a multicast address.
    #[error("the target is a multicast address")]
    MulticastTarget,
    /// A solicitation from the unspecified address that is not sent to a solicited-node group, or that names a
    /// source link-layer address.
    #[error("a solicitation without a source must go to a solicited-node group and have no source option")]
    Unspecified,
    /// A solicited advertisement sent to a group.
    #[error("a solicited advertisement to a group")]
    SolicitedMulticast,
}

/// The longest frame that this crate sends: an NS with a link-layer address and a nonce.
pub const MAX_FRAME: usize = 96;

/// A frame to send, held in place.
#[derive(Clone, Copy)]
pub struct FrameBuf {
    len: u8,
    bytes: [u8; MAX_FRAME],
}

impl FrameBuf {
    /// An empty frame.
    pub const fn new() -> Self {
        Self { len: 0, bytes: [0; MAX_FRAME] }
    }

    /// Appends `bytes`; what does not fit is cut off, which nothing that this crate emits can reach.
    pub fn extend(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        let taken = bytes.len().min(MAX_FRAME - start);
        debug_assert_eq!(taken, bytes.len(), "a frame longer than MAX_FRAME");
        self.bytes[start..start + taken].copy_from_slice(&bytes[..taken]);
        self.len = u8::try_from(start + taken).unwrap_or(u8::MAX);
    }

    /// The bytes of the frame.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Default for FrameBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for FrameBuf {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for FrameBuf {}

impl fmt::Debug for FrameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl AsRef<[u8]> for FrameBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

#[cfg(test)]
mod laws;

#[cfg(test)]
pub(crate) mod testutil {
    /// Bytes from a hex dump; blanks and line ends are ignored.
    pub(crate) fn hex(dump: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            dump.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
        assert!(digits.len().is_multiple_of(2), "an odd number of hex digits");
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }
}
