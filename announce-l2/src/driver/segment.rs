//! A segment in memory: for tests, simulations and dry runs.
//!
//! It does what a hub does: every frame reaches every other port whose link is up, at once. Its clock is tokio's, so
//! that a test with paused time runs in no time.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! use announce_l2::driver::{L2Announcer, segment::Segment};
//! use announce_l2::machine::Config;
//! use announce_l2::wire::MacAddr;
//!
//! let segment = Segment::new();
//! let port = segment.attach("eth0", MacAddr([2, 0, 0, 0, 0, 1]));
//! let (announcer, driver) = L2Announcer::with_io(Config::default(), port);
//! # drop((announcer, driver));
//! # }
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use lbcore::time::Instant;

use super::io::{Batch, FrameIo, Interest};
use crate::machine::{IfIndex, Interface, Transmit};
use crate::wire::MacAddr;

/// Frames that wait for a reader; more are lost, as in a socket.
const QUEUE: usize = 4096;

/// A segment. Cheap to clone; all clones are the same segment.
#[derive(Clone, Debug)]
pub struct Segment {
    hub: Arc<Mutex<Hub>>,
    epoch: tokio::time::Instant,
}

#[derive(Debug, Default)]
struct Hub {
    ports: BTreeMap<IfIndex, HubPort>,
    attached: u32,
}

#[derive(Debug)]
struct HubPort {
    interface: Interface,
    queue: VecDeque<(Instant, Vec<u8>)>,
    changed: bool,
    reader: Option<Waker>,
}

impl HubPort {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Segment {
    /// An empty segment.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock of the segment; under paused time it is virtual"
    )]
    pub fn new() -> Self {
        Self { hub: Arc::default(), epoch: tokio::time::Instant::now() }
    }

    /// The time of the segment. It begins at one second, so that [`Instant::ZERO`] stays special.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock of the segment; under paused time it is virtual"
    )]
    pub fn now(&self) -> Instant {
        Instant::from_millis(1000) + tokio::time::Instant::now().saturating_duration_since(self.epoch)
    }

    /// Plugs in a new interface.
    pub fn attach(&self, name: &str, mac: MacAddr) -> Port {
        let mut hub = self.hub();
        hub.attached += 1;
        let index = IfIndex(hub.attached);
        let interface = Interface::new(index, name, mac);
        hub.ports.insert(index, HubPort { interface, queue: VecDeque::new(), changed: false, reader: None });
        Port { segment: self.clone(), index }
    }

    /// Connects or cuts the cable of a port.
    pub fn set_link(&self, index: IfIndex, up: bool) {
        if let Some(port) = self.hub().ports.get_mut(&index) {
            port.interface.up = up;
            port.changed = true;
            port.wake();
        }
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, from: IfIndex, frame: &[u8]) {
        let now = self.now();
        let mut hub = self.hub();
        if !hub.ports.get(&from).is_some_and(|port| port.interface.up) {
            return;
        }
        for (_, port) in hub.ports.iter_mut().filter(|(index, port)| **index != from && port.interface.up) {
            if port.queue.len() < QUEUE {
                port.queue.push_back((now, frame.to_vec()));
                port.wake();
            }
        }
    }
}

impl Default for Segment {
    fn default() -> Self {
        Self::new()
    }
}

/// An interface on a [`Segment`]. Dropping it unplugs it.
#[derive(Debug)]
pub struct Port {
    segment: Segment,
    index: IfIndex,
}

impl Port {
    /// Its number on the segment.
    pub fn index(&self) -> IfIndex {
        self.index
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) {
        self.segment.send(self.index, frame);
    }

    /// The next frame that has arrived.
    pub fn try_receive(&self) -> Option<Vec<u8>> {
        self.segment.hub().ports.get_mut(&self.index)?.queue.pop_front().map(|(_, frame)| frame)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.segment.hub().ports.remove(&self.index);
    }
}

impl FrameIo for Port {
    fn now(&self) -> Instant {
        self.segment.now()
    }

    fn interfaces(&self) -> Vec<Interface> {
        self.segment.hub().ports.get(&self.index).map(|port| port.interface.clone()).into_iter().collect()
    }

    fn attend(&mut self, _interest: &Interest) {}

    fn poll_receive(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let mut hub = self.segment.hub();
        let Some(port) = hub.ports.get_mut(&self.index) else { return Poll::Pending };
        batch.interfaces_changed |= std::mem::take(&mut port.changed);
        while !batch.is_full()
            && let Some((received, frame)) = port.queue.pop_front()
        {
            batch.push(self.index, received, &frame);
        }
        if batch.is_empty() {
            port.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, _cx: &mut Context<'_>, frames: &[Transmit]) -> Poll<io::Result<usize>> {
        for transmit in frames {
            self.segment.send(self.index, transmit.frame.as_bytes());
        }
        Poll::Ready(Ok(frames.len()))
    }
}
