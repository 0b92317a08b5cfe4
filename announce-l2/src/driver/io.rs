//! The seam between the driver and a segment.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll};

use lbcore::condition::Condition;
use lbcore::time::Instant;

use crate::machine::{Frame, IfIndex, Interface, Transmit};

/// Frames of and to a segment, and the interfaces by which it is reached.
///
/// [`PacketIo`](super::PacketIo) is Linux packet sockets; [`segment`](super::segment) is a segment in memory. Write
/// another one to run the driver on something else.
///
/// # Contract
/// - The `poll_*` methods register the task's waker before they return [`Poll::Pending`], and lose nothing when the
///   future that polls them is dropped.
/// - A frame is stamped with the time at which it arrived, not the time at which it was read. Where that is not
///   known, [`Instant::ZERO`]: such a frame is never answered.
pub trait FrameIo: Send {
    /// The clock by which frames are stamped and leases expire.
    fn now(&self) -> Instant;

    /// The interfaces, as they are now.
    fn interfaces(&self) -> Vec<Interface>;

    /// Tells which frames are wanted. Others may be delivered as well.
    fn attend(&mut self, interest: &Interest);

    /// Becomes a member of a group of the last [`Interest`]. One that cannot be joined is tried again, and a condition
    /// meanwhile; one that is no longer of interest is left.
    fn join(&mut self, _interface: IfIndex, _group: Ipv6Addr) {}

    /// Adds what arrived to `batch`: frames, and the news of changed interfaces.
    fn poll_receive(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>>;

    /// Sends some of `frames`, from the front, and tells how many are done with. A frame that cannot be sent (its
    /// interface is gone) is done with; only congestion is a reason to wait.
    fn poll_send(&mut self, cx: &mut Context<'_>, frames: &[Transmit]) -> Poll<io::Result<usize>>;

    /// What happened at the sockets so far.
    fn counters(&self) -> IoCounters {
        IoCounters::default()
    }

    /// What is wrong with the interfaces or sockets now, apart from interfaces that are down.
    fn conditions(&self) -> Vec<Condition> {
        Vec::new()
    }
}

/// What happened at the sockets, beyond what the machine counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoCounters {
    /// Frames dropped because they were for another host or another VLAN.
    pub other_host: u64,
    /// Frames that the kernel stamped with no time, or with a time to come: the wall clock was set.
    pub unstamped: u64,
    /// Frames that could not be sent: their interface is gone or down.
    pub send_failed: u64,
    /// Errors reported by a receiving socket: its interface went down.
    pub receive_failed: u64,
    /// How often the queue of a device was full, so that frames waited.
    pub congested: u64,
}

/// Which frames a driver wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interest {
    /// The addresses: frames that name one of them as sender or target are wanted. Ordered, without duplicates.
    pub addresses: Vec<IpAddr>,
    /// The multicast groups to be a member of, each from when it is [joined](FrameIo::join) on.
    pub groups: BTreeSet<(IfIndex, Ipv6Addr)>,
}

/// The length at which a received frame is cut. The longest that matters is a solicitation with some options; one
/// that is cut is dropped as such.
pub const MAX_RECEIVED: usize = 512;
/// How many frames a batch holds.
pub const BATCH: usize = 64;

/// What was received at once.
#[derive(Debug)]
pub struct Batch {
    pub(super) buffers: Box<[[u8; MAX_RECEIVED]]>,
    pub(super) frames: Vec<Received>,
    /// Whether [`FrameIo::interfaces`] or [`FrameIo::conditions`] changed.
    pub interfaces_changed: bool,
    /// Interfaces on which everything should be announced again, for example after a bond switched over.
    pub reannounce: Vec<IfIndex>,
}

/// A frame of a batch; its bytes are in the buffer of the same position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) interface: IfIndex,
    pub(super) received: Instant,
    pub(super) len: usize,
    /// It is for others.
    pub(super) skipped: bool,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self {
            buffers: vec![[0; MAX_RECEIVED]; BATCH].into_boxed_slice(),
            frames: Vec::with_capacity(BATCH),
            interfaces_changed: false,
            reannounce: Vec::new(),
        }
    }

    /// Whether there is no room for another frame.
    pub fn is_full(&self) -> bool {
        self.frames.len() >= self.buffers.len()
    }

    /// Whether nothing was received and nothing changed.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && !self.interfaces_changed && self.reannounce.is_empty()
    }

    /// Adds a frame, cut to [`MAX_RECEIVED`] bytes. In a full batch it is lost.
    pub fn push(&mut self, interface: IfIndex, received: Instant, bytes: &[u8]) {
        if let Some(buffer) = self.buffers.get_mut(self.frames.len()) {
            let len = bytes.len().min(MAX_RECEIVED);
            buffer[..len].copy_from_slice(&bytes[..len]);
            self.frames.push(Received { interface, received, len, skipped: false });
        }
    }

    /// The frames.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        let frames = self.frames.iter().zip(&self.buffers).filter(|(frame, _)| !frame.skipped);
        frames.map(|(frame, buffer)| Frame {
            interface: frame.interface,
            received: frame.received,
            bytes: &buffer[..frame.len.min(MAX_RECEIVED)],
        })
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.interfaces_changed = false;
        self.reannounce.clear();
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}
