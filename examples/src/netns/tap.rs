//! Reading what enters a bridge.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use lbcore::time::Instant;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::segment::Ports;
use super::{Error, Netns};

/// Which frames a [`Tap`] hears; the kernel drops the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapFilter {
    /// All.
    All,
    /// ARP, and NDP (ICMPv6 types 133 to 137 with no extension header before them).
    Neighbour,
}

/// A frame as it entered the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When the kernel took it in.
    pub at: Instant,
    /// The host that sent it, by its cable: a forged source address does not hide it.
    pub host: String,
    /// The frame from its destination MAC address on.
    pub bytes: Vec<u8>,
}

/// A listener on every port of a segment. It keeps listening while nobody reads, up to its buffer: 4 MiB, or without
/// root what the system gives (`net.core.rmem_max`). What it could not hear is an error, and no silence.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    ports: Ports,
    buffer: Vec<u8>,
    control: Vec<u8>,
}

impl Tap {
    pub(super) fn open(switch: &Netns, ports: Ports, filter: TapFilter) -> Result<Self, Error> {
        let socket = switch
            .enter(|| {
                // Bound to no interface: frames are heard at each port, before the bridge decides about them.
                let socket = socket(
                    AddressFamily::Packet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                    SockProtocol::EthAll,
                )?;
                socket2::SockRef::from(&socket).attach_filter(&program(filter))?;
                setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
                setsockopt(&socket, sockopt::RxqOvfl, &1)?;
                setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20))
                    .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &(4 << 20)))?;
                // What came in before the filter was there.
                while nix::sys::socket::recv(socket.as_raw_fd(), &mut [0; 1], MsgFlags::empty()).is_ok() {}
                Ok::<_, io::Error>(socket)
            })
            .map_err(|source| Error::new(format!("tap {}", switch.name()), source))?;
        Ok(Self { socket, ports, buffer: vec![0; 65_536], control: nix::cmsg_space!(TimeSpec, u32) })
    }

    /// The next frame, or `None` if none came within `timeout`.
    pub fn next(&mut self, timeout: Duration) -> io::Result<Option<Frame>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(frame) = self.try_next()? {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let left = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], left) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The first frame within `timeout` that `wanted` accepts; those before it are dropped.
    pub fn find(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&Frame) -> bool,
    ) -> io::Result<Option<Frame>> {
        let deadline = Instant::now() + timeout;
        while let Some(frame) = self.next(deadline.saturating_since(Instant::now()))? {
            if wanted(&frame) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    fn try_next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let received = recvmsg::<LinkAddr>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut self.control),
                MsgFlags::empty(),
            );
            let message = match received {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(None),
                // A port went down: the tap goes on with the others.
                Err(Errno::EINTR | Errno::ENETDOWN) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let mut at = Instant::now();
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::ScmTimestampns(stamp) => at = at - wall_clock_age(stamp),
                    // It is not sent along while nothing was lost.
                    ControlMessageOwned::RxqOvfl(lost) => {
                        let why = format!("{lost} frames came faster than they were read, and are lost");
                        return Err(io::Error::other(why));
                    }
                    _ => {}
                }
            }
            let index =
                message.address.and_then(|address| u32::try_from(address.ifindex()).ok()).unwrap_or(0);
            let length = message.bytes;
            let ports = self.ports.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Not a port: the bridge's own interface.
            let Some(host) = ports.get(&index) else { continue };
            return Ok(Some(Frame {
                at,
                host: host.clone(),
                bytes: self.buffer.get(..length).unwrap_or_default().to_vec(),
            }));
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The kernel stamps packets by the wall clock. Only the stamp's age is taken from it, so a step of that clock
/// can falsify no more than the frames that wait at that moment.
fn wall_clock_age(stamp: TimeSpec) -> Duration {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).map(Duration::from).unwrap_or_default();
    now.saturating_sub(Duration::from(stamp))
}

/// A classic BPF program over the frame. Frames on their way out of a port are the copies that the bridge makes:
/// they were seen on their way in.
fn program(filter: TapFilter) -> Vec<socket2::SockFilter> {
    use libc::{BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
    let instruction = |code: u32, yes: u8, no: u8, k: u32| {
        socket2::SockFilter::new(u16::try_from(code).unwrap_or_default(), yes, no, k)
    };
    let packet_type = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
    let mut program = vec![
        instruction(BPF_LD | BPF_B | BPF_ABS, 0, 0, packet_type),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, libc::PACKET_OUTGOING.into()),
        instruction(BPF_RET | BPF_K, 0, 0, 0),
    ];
    if filter == TapFilter::Neighbour {
        program.extend([
            instruction(BPF_LD | BPF_H | BPF_ABS, 0, 0, 12),
            instruction(BPF_JMP | BPF_JEQ | BPF_K, 8, 0, 0x0806),
            instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 4, 0x86dd),
            instruction(BPF_LD | BPF_B | BPF_ABS, 0, 0, 14 + 6),
            instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 58),
            instruction(BPF_LD | BPF_B | BPF_ABS, 0, 0, 14 + 40),
            instruction(BPF_JMP | BPF_JGE | BPF_K, 1, 0, 133),
            instruction(BPF_RET | BPF_K, 0, 0, 0),
            instruction(BPF_JMP | BPF_JGT | BPF_K, 0, 1, 137),
            instruction(BPF_RET | BPF_K, 0, 0, 0),
        ]);
    }
    program.push(instruction(BPF_RET | BPF_K, 0, 0, u32::MAX));
    program
}
