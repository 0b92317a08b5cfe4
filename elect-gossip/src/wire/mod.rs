//! Datagrams: bytes to values and back. No I/O, no time; no input panics.
//!
//! ```text
//!  0      4            20             28                      n-16     n
//! +------+------------+--------------+------------------------+--------+
//! | LBG1 | boot       | sequence     | payload, encrypted     | tag    |
//! +------+------------+--------------+------------------------+--------+
//! ```
//!
//! The nonce is boot and sequence: 128 random bits drawn when the process starts, and a count of what it has
//! sent, so that no nonce is ever used twice with a key. The payload is
//!
//! ```text
//! | from: name | token: u64 | kind: u8 | body |
//! ```
//!
//! Numbers are in network byte order; a name is its length in one byte and its UTF-8 text. The token is the one
//! that the receiver issued to the sender, zero if the sender has none: it proves that the datagram was made for
//! this run of the receiver.

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod check;
mod entry;
mod read;
mod seal;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::BufMut;
use lbcore::id::NodeName;

pub use entry::{Claim, Entries, Entry, Key, MAX_ROLE_NAME, Meta, RoleEntry, Value};
pub(crate) use read::Reader;
pub use read::WireError;
pub use seal::{HEADER_LEN, Sealer, TAG_LEN};

/// The first bytes of each datagram: a mark and the version of the format.
pub const MAGIC: [u8; 4] = *b"LBG1";

/// No datagram is longer: it passes unfragmented wherever IPv6 does (RFC 8200 §5: 1280 less its headers).
pub const MAX_DATAGRAM: usize = 1232;

/// The room for a body, whatever the name of the sender.
pub const MAX_BODY: usize = MAX_DATAGRAM - HEADER_LEN - TAG_LEN - (1 + crate::MAX_NODE_NAME) - 8 - 1;

/// The most intervals that a node may be silent for.
pub const MAX_PROMISE: u8 = 100;

/// One run of a node's process: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Boot(pub u128);

impl fmt::Debug for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}…", self.0 >> 96)
    }
}

/// What a datagram carries, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packet {
    /// The node that sent it.
    pub from: NodeName,
    /// What the receiver issued to it.
    pub token: u64,
    /// The rest.
    pub message: Message,
}

impl Packet {
    /// A packet of `from`.
    pub fn new(from: NodeName, token: u64, message: Message) -> Self {
        Self { from, token, message }
    }

    /// Reads the payload of a datagram.
    ///
    /// # Errors
    /// [`WireError::Malformed`] if it is cut, has trailing bytes or says something that has no meaning.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(payload);
        let from = reader.node()?;
        let token = reader.u64()?;
        let message = match reader.u8()? {
            kind::HELLO => Message::Hello(Hello {
                token: reader.u64()?,
                accepted: reader.flag()?,
                settled: reader.flag()?,
                address: reader.address()?,
            }),
            kind::HEARTBEAT => Message::Heartbeat(Heartbeat::parse(&mut reader)?),
            kind::ENTRIES => Message::Entries(Entries::parse(&mut reader)?),
            kind::FETCH => {
                Message::Fetch(Fetch { origin: reader.node()?, boot: reader.boot()?, have: reader.u64()? })
            }
            kind::MEMBERSHIP => Message::Membership(reader.rest().to_vec()),
            _ => return Err(WireError::Malformed("kind of message")),
        };
        reader.end()?;
        Ok(Self { from, token, message })
    }

    /// Writes the payload of a datagram.
    pub fn emit(&self, out: &mut Vec<u8>) {
        put_name(out, self.from.as_str());
        out.put_u64(self.token);
        match &self.message {
            Message::Hello(hello) => {
                out.put_u8(kind::HELLO);
                out.put_u64(hello.token);
                out.put_u8(u8::from(hello.accepted));
                out.put_u8(u8::from(hello.settled));
                put_address(out, hello.address);
            }
            Message::Heartbeat(heartbeat) => {
                out.put_u8(kind::HEARTBEAT);
                heartbeat.emit(out);
            }
            Message::Entries(entries) => {
                out.put_u8(kind::ENTRIES);
                entries.emit(out);
            }
            Message::Fetch(fetch) => {
                out.put_u8(kind::FETCH);
                put_name(out, fetch.origin.as_str());
                out.put_u128(fetch.boot.0);
                out.put_u64(fetch.have);
            }
            Message::Membership(bytes) => {
                out.put_u8(kind::MEMBERSHIP);
                out.put_slice(bytes);
            }
        }
    }
}

mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const HEARTBEAT: u8 = 0x02;
    pub(super) const ENTRIES: u8 = 0x03;
    pub(super) const FETCH: u8 = 0x04;
    pub(super) const MEMBERSHIP: u8 = 0x05;
}

/// The kinds of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// Begins, or takes part in, the exchange of tokens.
    Hello(Hello),
    /// I am alive, and this is how far I know.
    Heartbeat(Heartbeat),
    /// A part of a node's state.
    Entries(Entries),
    /// Asks for a part of a node's state.
    Fetch(Fetch),
    /// A message of the membership protocol.
    Membership(Vec<u8>),
}

/// Exchanges tokens. Two runs of two nodes believe each other only after each has shown the other's token, so
/// that nothing recorded earlier is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// To be shown by the receiver in what it sends to this run of the sender.
    pub token: u64,
    /// Whether the sender has seen its token from this run of the receiver.
    pub accepted: bool,
    /// Whether the sender may own. Matters to another node of the same name only.
    pub settled: bool,
    /// Where the sender is reached: where a datagram came from is not under its seal.
    pub address: SocketAddr,
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The sender's own round, counted from 1.
    pub round: u64,
    /// The last round of the receiver that the sender has heard; zero for none.
    pub echo: u64,
    /// The version of the sender's own state.
    pub version: u64,
    /// Whether the receiver should answer at once, with a heartbeat.
    pub wants_reply: bool,
    /// After how many of the sender's intervals its next heartbeat to the receiver follows at the latest: 1 to
    /// [`MAX_PROMISE`].
    pub promise: u8,
    /// How many others the sender holds for alive.
    pub live: u16,
    /// What the sender has heard of others; of many only a part, the next part next time.
    pub heard: Vec<Heard>,
}

/// What a node has heard of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The other.
    pub node: NodeName,
    /// Which run of it.
    pub boot: Boot,
    /// How long ago its last own word arrived, in µs; [`Heard::NEVER`] if it was never heard directly.
    pub age: u32,
    /// What it promised then: see [`Heartbeat::promise`].
    pub promise: u8,
    /// The version of its state that is known here.
    pub version: u64,
}

impl Heard {
    /// An age that is none.
    pub const NEVER: u32 = u32::MAX;

    fn wire_len(&self) -> usize {
        1 + self.node.as_str().len() + 16 + 4 + 1 + 8
    }
}

impl Default for Heartbeat {
    /// The first word of a node that knows nobody.
    fn default() -> Self {
        Self { round: 0, echo: 0, version: 0, wants_reply: false, promise: 1, live: 0, heard: Vec::new() }
    }
}

impl Heartbeat {
    const FIXED: usize = 8 + 8 + 8 + 1 + 1 + 2 + 1;

    /// Those of `heard` that fit into one heartbeat, from the first on.
    pub(crate) fn fitting(heard: impl IntoIterator<Item = Heard>) -> Vec<Heard> {
        let mut left = MAX_BODY - Self::FIXED;
        let fits = |heard: &Heard| {
            let fits = heard.wire_len() <= left;
            left = left.saturating_sub(heard.wire_len());
            fits
        };
        heard.into_iter().take(255).take_while(fits).collect()
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (round, echo, version) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (wants_reply, promise) = (reader.flag()?, reader.promise()?);
        let live = reader.u16()?;
        let count = reader.u8()?;
        let mut heard = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            heard.push(Heard {
                node: reader.node()?,
                boot: reader.boot()?,
                age: reader.u32()?,
                promise: reader.promise()?,
                version: reader.u64()?,
            });
        }
        Ok(Self { round, echo, version, wants_reply, promise, live, heard })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.put_u64(self.round);
        out.put_u64(self.echo);
        out.put_u64(self.version);
        out.put_u8(u8::from(self.wants_reply));
        out.put_u8(self.promise);
        out.put_u16(self.live);
        let count = u8::try_from(self.heard.len()).unwrap_or(u8::MAX);
        out.put_u8(count);
        for heard in self.heard.iter().take(usize::from(count)) {
            put_name(out, heard.node.as_str());
            out.put_u128(heard.boot.0);
            out.put_u32(heard.age);
            out.put_u8(heard.promise);
            out.put_u64(heard.version);
        }
    }
}

/// Asks for what changed in a node's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Whose state; not always the receiver's own.
    pub origin: NodeName,
    /// Which run of it.
    pub boot: Boot,
    /// The version that the sender has.
    pub have: u64,
}

/// Writes `text` with its length; what exceeds 255 bytes is cut (names are checked where they come in).
pub(crate) fn put_name(out: &mut impl BufMut, text: &str) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.put_u8(length);
    out.put_slice(&text.as_bytes()[..usize::from(length)]);
}

pub(crate) fn put_address(out: &mut impl BufMut, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(address.port());
}

#[cfg(test)]
mod tests;
