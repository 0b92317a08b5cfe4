//! The kernel's table of connections, as it tells of them by netlink (`nfnetlink_conntrack.h`). The file in `/proc` with
//! the same is missing on many kernels.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use netlink_packet_core::{NLA_TYPE_MASK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer};
use nix::sys::socket::{MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: an entry of the table.
const ENTRY: u16 = 1 << 8;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Length of `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 16 + 4;
/// The kernel fills 32 KiB at most.
const BUFFER: usize = 64 * 1024;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_PROTOINFO: u16 = 4;
const CTA_MARK: u16 = 8;
const CTA_MARK_MASK: u16 = 21;

/// A TCP connection that the kernel follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Who opened it.
    pub client: SocketAddr,
    /// Where to, before its destination was changed.
    pub to: SocketAddr,
    /// As the kernel sees it.
    pub state: State,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not opened yet, or all over.
    Apart,
    /// Open both ways.
    Established,
    /// One side has opened it or ended it, the other not yet.
    Between,
}

/// The TCP connections with this mark (`ct mark`), of IPv4 and IPv6.
///
/// # Errors
/// The kernel has no such table (`CONFIG_NF_CT_NETLINK`), or does not let us look at it.
pub fn marked(mark: u32) -> io::Result<Vec<Tracked>> {
    let netlink = socket(
        nix::sys::socket::AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    send(netlink.as_raw_fd(), &request(mark), MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let mut found = Vec::new();
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if read(&buffer[..length], &mut found)? == Rest::None {
            return Ok(found);
        }
    }
}

/// Asks for all entries with the mark.
fn request(mark: u32) -> Vec<u8> {
    let attributes = [(CTA_MARK, mark), (CTA_MARK_MASK, u32::MAX)];
    let length = u32::try_from(HEADERS + 8 * attributes.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(GET.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence and port; then any family, version 0, no resource.
    message.extend([0; 12]);
    for (kind, value) in attributes {
        message.extend(8_u16.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value.to_be_bytes());
    }
    message
}

#[derive(Debug, PartialEq, Eq)]
enum Rest {
    Follows,
    None,
}

/// Reads the messages of one answer, and whether more follow. Entries that are no TCP connections are passed over.
fn read(mut messages: &[u8], found: &mut Vec<Tracked>) -> io::Result<Rest> {
    while let Ok(message) = NetlinkBuffer::new_checked(messages) {
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        match message.message_type() {
            ENTRY => found.extend(messages.get(HEADERS..length).and_then(entry)),
            ERROR => {
                let code =
                    messages.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
                return match code {
                    Some(0) => Ok(Rest::None),
                    code => Err(io::Error::from_raw_os_error(-code.unwrap_or(-libc::EBADMSG))),
                };
            }
            DONE => return Ok(Rest::None),
            _ => {}
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Rest::Follows)
}

fn entry(attributes: &[u8]) -> Option<Tracked> {
    let original = attribute(attributes, CTA_TUPLE_ORIG)?;
    let (addresses, protocol) = (attribute(original, 1)?, attribute(original, 2)?);
    if attribute(protocol, 1)? != [6] {
        return None;
    }
    let port = |kind| Some(u16::from_be_bytes(attribute(protocol, kind)?.try_into().ok()?));
    let tcp = attribute(attribute(attributes, CTA_PROTOINFO)?, 1)?;
    // `enum tcp_conntrack`.
    let state = match attribute(tcp, 1)? {
        [3] => State::Established,
        [2 | 4..=6] => State::Between,
        _ => State::Apart,
    };
    Some(Tracked {
        client: SocketAddr::new(address(addresses, 1, 3)?, port(2)?),
        to: SocketAddr::new(address(addresses, 2, 4)?, port(3)?),
        state,
    })
}

/// An address, which stands in either attribute.
fn address(attributes: &[u8], v4: u16, v6: u16) -> Option<IpAddr> {
    let short =
        attribute(attributes, v4).and_then(|octets| <[u8; 4]>::try_from(octets).ok()).map(IpAddr::from);
    short.or_else(|| Some(IpAddr::from(<[u8; 16]>::try_from(attribute(attributes, v6)?).ok()?)))
}

/// The value of the first attribute of this kind.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let header: [u8; 4] = attributes.get(..4)?.try_into().ok()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn nest(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
        nla(kind | 0x8000, &parts.concat())
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn tcp_entry(addresses: &[Vec<u8>], protocol: u8, state: u8) -> Vec<u8> {
        let ports = [nla(1, &[protocol]), nla(2, &40_000_u16.to_be_bytes()), nla(3, &80_u16.to_be_bytes())];
        let tuple = nest(CTA_TUPLE_ORIG, &[nest(1, addresses), nest(2, &ports)]);
        let info = nest(CTA_PROTOINFO, &[nest(1, &[nla(1, &[state]), nla(2, &[0])])]);
        message(ENTRY, &[vec![2, 0, 0, 0], tuple, info].concat())
    }

    #[test]
    fn entries_are_read_until_the_end() {
        let v4 = [nla(1, &[192, 0, 2, 100]), nla(2, &[192, 0, 2, 200])];
        let v6 = [nla(3, &[0xfd; 16]), nla(4, &[0xfe; 16])];
        let answer =
            [tcp_entry(&v4, 6, 3), tcp_entry(&v4, 17, 3), tcp_entry(&v6, 6, 5), tcp_entry(&v4, 6, 7)]
                .concat();
        let mut found = Vec::new();
        assert_eq!(read(&answer, &mut found).unwrap(), Rest::Follows);
        let states: Vec<_> = found.iter().map(|it| it.state).collect();
        assert_eq!(
            states,
            [State::Established, State::Between, State::Apart],
            "the datagrams are passed over"
        );
        assert_eq!(found[0].client, "192.0.2.100:40000".parse().unwrap());
        assert_eq!(found[0].to, "192.0.2.200:80".parse().unwrap());
        assert_eq!(found[1].to.ip(), IpAddr::from([0xfe; 16]));
        assert_eq!(read(&message(DONE, &[0; 4]), &mut found).unwrap(), Rest::None);
        let refused = message(ERROR, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(read(&refused, &mut found).unwrap_err().raw_os_error(), Some(libc::EPERM));
        // Cut anywhere, it gives what it has.
        for length in 0..answer.len() {
            let _ = read(&answer[..length], &mut Vec::new());
        }
    }
}
