//! Packet sockets: the only place that talks to the kernel without a safe wrapper.
//!
//! nix has `recvmmsg`, but its reusable headers keep the control length of the previous call, so that timestamps go
//! missing; and neither nix nor socket2 makes the address to bind a packet socket to.
#![expect(
    unsafe_code,
    reason = "packet sockets, their filters and message batches have no safe wrapper that is right"
)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use socket2::{SockFilter, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::filter::Insn;
use crate::driver::io::{BATCH, MAX_RECEIVED};
use crate::machine::{IfIndex, Transmit};
use crate::wire::ethernet::EtherType;

/// Room for one SCM_TIMESTAMPNS message.
const CONTROL: usize = 64;

/// A frame that was received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    pub(super) len: usize,
    /// When the kernel received it, on the wall clock, since 1970.
    pub(super) stamped: Option<Duration>,
    /// Whether it was for another host.
    pub(super) other_host: bool,
}

/// Watches a descriptor for readiness. Must be called in a tokio runtime.
pub(super) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is an open descriptor until it is dropped, always the same one, and it is moved into the
    // AsyncFd, which hands out only shared references to it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// A socket to send frames with. It receives none: its protocol is 0.
pub(super) fn sender() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?)
}

/// A socket that receives what `program` lets through of one protocol on one interface.
pub(super) fn receiver(
    interface: IfIndex,
    protocol: EtherType,
    program: &[Insn],
    buffer: usize,
) -> io::Result<OwnedFd> {
    // With protocol 0 nothing is received until it is bound, so that nothing passes by the filter.
    let fd = sender()?;
    attach(fd.as_fd(), program)?;
    // Beyond the system's limit with CAP_NET_ADMIN, up to it without.
    if setsockopt(&fd, sockopt::RcvBufForce, &buffer).is_err() {
        setsockopt(&fd, sockopt::RcvBuf, &buffer)?;
    }
    setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
    bind(fd.as_fd(), interface, protocol)?;
    Ok(fd)
}

/// Replaces the filter of a socket, atomically.
pub(super) fn attach(fd: BorrowedFd<'_>, program: &[Insn]) -> io::Result<()> {
    let program: Vec<SockFilter> =
        program.iter().map(|insn| SockFilter::new(insn.code, insn.jt, insn.jf, insn.k)).collect();
    SockRef::from(&fd).attach_filter(&program)
}

fn bind(fd: BorrowedFd<'_>, interface: IfIndex, protocol: EtherType) -> io::Result<()> {
    let address = link_layer(interface, protocol);
    // SAFETY: `address` is a sockaddr_ll that lives until the call returns, and the length given is its own.
    let result = unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), socklen(size_of::<libc::sockaddr_ll>()))
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn socklen(len: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(len).unwrap_or(0)
}

fn link_layer(interface: IfIndex, protocol: EtherType) -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is made of integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = protocol.0.to_be();
    address.sll_ifindex = i32::try_from(interface.0).unwrap_or_default();
    address
}

/// Receives up to [`BATCH`] frames into `buffers`, without waiting, and tells how many.
pub(super) fn receive(
    fd: BorrowedFd<'_>,
    buffers: &mut [[u8; MAX_RECEIVED]],
    received: &mut [Received; BATCH],
) -> io::Result<usize> {
    #[repr(C, align(8))]
    #[derive(Clone, Copy)]
    struct Control([u8; CONTROL]);

    let count = buffers.len().min(BATCH);
    let mut controls = [Control([0; CONTROL]); BATCH];
    // SAFETY: all three are made of integers and pointers, for which zero is a value.
    let (mut names, mut vectors, mut headers) = unsafe {
        (
            zeroed::<[libc::sockaddr_ll; BATCH]>(),
            zeroed::<[libc::iovec; BATCH]>(),
            zeroed::<[libc::mmsghdr; BATCH]>(),
        )
    };
    let parts = buffers.iter_mut().zip(&mut controls).zip(&mut names).zip(&mut vectors).zip(&mut headers);
    for ((((buffer, control), name), vector), header) in parts {
        vector.iov_base = buffer.as_mut_ptr().cast();
        vector.iov_len = MAX_RECEIVED;
        header.msg_hdr.msg_name = (&raw mut *name).cast();
        header.msg_hdr.msg_namelen = socklen(size_of::<libc::sockaddr_ll>());
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = CONTROL as _;
    }
    // SAFETY: the first `count` headers point to a name, a vector, a buffer and a control area of their own, each of
    // the length that is given, all alive and not otherwise used until the call returns.
    let result = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            libc::c_uint::try_from(count).unwrap_or(0),
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let count = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    for ((header, name), received) in headers.iter().zip(&names).zip(received.iter_mut()).take(count) {
        *received = Received {
            len: usize::try_from(header.msg_len).unwrap_or(0).min(MAX_RECEIVED),
            stamped: timestamp(&header.msg_hdr),
            other_host: name.sll_pkttype == libc::PACKET_OTHERHOST,
        };
    }
    Ok(count)
}

/// The time in the control messages of a received message.
fn timestamp(header: &libc::msghdr) -> Option<Duration> {
    // SAFETY: `header` was filled by recvmmsg, so that its control area holds well-formed control messages of the
    // length that it says; the macros stay within it. A message of this level and type has a timespec as its data,
    // which need not be aligned.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(control) = message.as_ref() {
            if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_TIMESTAMPNS {
                let time = libc::CMSG_DATA(message).cast::<libc::timespec>().read_unaligned();
                return Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?));
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// Sends up to [`BATCH`] frames, without waiting, and tells how many were taken. An error is about the first.
pub(super) fn send(fd: BorrowedFd<'_>, frames: &[Transmit]) -> io::Result<usize> {
    // SAFETY: all three are made of integers and pointers, for which zero is a value.
    let (mut names, mut vectors, mut headers) = unsafe {
        (
            zeroed::<[libc::sockaddr_ll; BATCH]>(),
            zeroed::<[libc::iovec; BATCH]>(),
            zeroed::<[libc::mmsghdr; BATCH]>(),
        )
    };
    let count = frames.len().min(BATCH);
    let parts = frames.iter().zip(&mut names).zip(&mut vectors).zip(&mut headers);
    for (((transmit, name), vector), header) in parts {
        let protocol = if transmit.address.is_ipv4() { EtherType::ARP } else { EtherType::IPV6 };
        *name = link_layer(transmit.interface, protocol);
        let bytes = transmit.frame.as_bytes();
        vector.iov_base = bytes.as_ptr().cast_mut().cast();
        vector.iov_len = bytes.len();
        header.msg_hdr.msg_name = (&raw mut *name).cast();
        header.msg_hdr.msg_namelen = socklen(size_of::<libc::sockaddr_ll>());
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the first `count` headers point to a name, a vector and the bytes of a frame, each of the length that is
    // given, all alive until the call returns; sendmmsg writes only to the headers.
    let result = unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            libc::c_uint::try_from(count).unwrap_or(0),
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
