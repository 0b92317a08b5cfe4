//! Sending frames as they are.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use super::{Error, Netns};

/// A socket that sends Ethernet frames out of one interface of a namespace. It receives nothing.
#[derive(Debug)]
pub struct RawSocket {
    fd: OwnedFd,
    interface: LinkAddr,
}

impl RawSocket {
    /// A socket of `netns`, which must have `interface`.
    pub fn open(netns: &Netns, interface: &str) -> Result<Self, Error> {
        let opened = netns.enter(|| {
            let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            let mut links = nix::ifaddrs::getifaddrs()?.filter(|link| link.interface_name == interface);
            let link = links.find_map(|link| link.address?.as_link_addr().copied());
            Ok::<_, io::Error>(Self { fd, interface: link.ok_or(io::ErrorKind::NotFound)? })
        });
        opened.map_err(|source| Error::new(format!("send frames by {interface} of {}", netns.name()), source))
    }

    /// Sends a frame, from its destination MAC address on.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let sent = sendto(self.fd.as_raw_fd(), frame, &self.interface, MsgFlags::empty())?;
        if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Where to send to, for who sends many at once.
    pub fn interface(&self) -> LinkAddr {
        self.interface
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
