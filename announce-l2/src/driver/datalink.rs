//! The driver's side on systems other than Linux: Ethernet channels by `pnet_datalink`. On Linux take
//! [`PacketIo`](super::PacketIo).
//!
//! **This project runs it on Linux only**, where its tests judge it; on the BSDs, macOS and Windows it is what the library
//! promises. What it lacks beside `PacketIo`:
//!
//! - There is no filter in the kernel: the process is woken for every frame on the interface.
//! - Frames have no time stamps. One is taken for as old as the last moment at which nothing waited, so that after a pause
//!   nothing old is answered; where the interface is never quiet, questions may go unanswered for a while instead.
//! - Interfaces are looked at once a second. Multicast groups are not joined, so that a switch that snoops on MLD may not
//!   deliver solicitations; gateways are not known, so that they are told by broadcast only.
//! - The tags of VLANs may be stripped by the system before they can be seen: work on the VLAN's own interface.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use lbcore::condition::Condition;
use lbcore::time::{Duration, Instant};
use pnet_datalink::{Channel, DataLinkReceiver, DataLinkSender, NetworkInterface};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::io::{Batch, FrameIo, Interest};
use super::select::InterfaceFilter;
use crate::machine::{IfIndex, Interface, Transmit};
use crate::wire::MacAddr;

/// How often the interfaces are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a reader waits before it looks whether it is to end.
const READ: Duration = Duration::from_millis(100);
/// A call that took longer has waited: nothing was there when it began.
const WAITED: Duration = Duration::from_micros(50);
/// A reader that did nothing for so long stood still.
const STOOD_STILL: Duration = Duration::from_millis(20);
/// Frames between the readers and the driver. What does not fit is lost: whoever asked will ask again.
const QUEUE: usize = 1024;

/// The machine's own interfaces, by `pnet_datalink`. See the [module](self).
#[derive(Debug)]
pub struct DatalinkIo {
    filter: InterfaceFilter,
    interfaces: Vec<Interface>,
    ports: BTreeMap<IfIndex, Port>,
    /// Why an interface has no channel.
    problems: BTreeMap<IfIndex, String>,
    queue: (mpsc::Sender<Received>, mpsc::Receiver<Received>),
    looks: Interval,
}

#[derive(Debug)]
struct Received {
    interface: IfIndex,
    received: Instant,
    bytes: Vec<u8>,
}

/// An open channel, and the thread that reads it.
struct Port {
    sender: Box<dyn DataLinkSender>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // One that panicked has nothing to say any more.
            let _ = reader.join();
        }
    }
}

impl DatalinkIo {
    /// Opens a channel on each interface that `filter` selects. To be called within a tokio runtime with time enabled.
    ///
    /// # Panics
    /// Outside of such a runtime.
    pub fn open(filter: InterfaceFilter) -> Self {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut io = Self {
            filter,
            interfaces: Vec::new(),
            ports: BTreeMap::new(),
            problems: BTreeMap::new(),
            queue: mpsc::channel(QUEUE),
            looks,
        };
        io.look();
        io
    }

    /// Follows the interfaces, and tells whether something changed.
    fn look(&mut self) -> bool {
        let known = pnet_datalink::interfaces();
        let usable = |interface: &NetworkInterface| {
            let mac = MacAddr(interface.mac?.octets());
            let mut usable = Interface::new(IfIndex(interface.index), interface.name.as_str(), mac);
            usable.up = interface.is_up() && is_running(interface);
            let speaks = !interface.is_loopback() && interface.is_broadcast() && mac.is_host();
            (speaks && self.filter.selects(&usable.name)).then_some(usable)
        };
        let interfaces: Vec<Interface> = known.iter().filter_map(usable).collect();
        let problems = self.problems.clone();
        let present = |index: IfIndex| interfaces.iter().any(|interface| interface.index == index);
        self.ports.retain(|index, port| {
            present(*index) && port.reader.as_ref().is_some_and(|reader| !reader.is_finished())
        });
        self.problems.retain(|index, _| present(*index));
        for interface in &interfaces {
            let index = interface.index;
            let theirs = known.iter().find(|theirs| theirs.index == index.0);
            if let Some(theirs) = theirs.filter(|_| !self.ports.contains_key(&index)) {
                match Port::open(theirs, self.queue.0.clone()) {
                    Ok(port) => {
                        self.problems.remove(&index);
                        self.ports.insert(index, port);
                    }
                    Err(error) => drop(self.problems.insert(index, error.to_string())),
                }
            }
        }
        let changed = interfaces != self.interfaces || problems != self.problems;
        self.interfaces = interfaces;
        changed
    }
}

/// Whether it has a carrier, where the system tells.
fn is_running(interface: &NetworkInterface) -> bool {
    cfg!(windows) || interface.is_running()
}

impl Port {
    fn open(interface: &NetworkInterface, queue: mpsc::Sender<Received>) -> io::Result<Self> {
        let config = pnet_datalink::Config {
            read_timeout: Some(READ),
            promiscuous: false,
            ..pnet_datalink::Config::default()
        };
        let Channel::Ethernet(sender, receiver) = pnet_datalink::channel(interface, config)? else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it is no Ethernet interface"));
        };
        let over = Arc::new(AtomicBool::new(false));
        let (index, ended) = (IfIndex(interface.index), over.clone());
        let reader = std::thread::Builder::new()
            .name(format!("l2-{}", interface.name))
            .spawn(move || read(index, receiver, &queue, &ended))?;
        Ok(Self { sender, over, reader: Some(reader) })
    }
}

/// Reads frames until it is over or the interface fails.
fn read(
    interface: IfIndex,
    mut receiver: Box<dyn DataLinkReceiver>,
    queue: &mpsc::Sender<Received>,
    over: &AtomicBool,
) {
    let mut quiet = Instant::now();
    let mut last = quiet;
    // After it stood still, what it reads is as old as that until it has waited for something again.
    let mut behind = false;
    let mut failures = 0;
    while !over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        behind |= begin.saturating_since(last) > STOOD_STILL;
        let frame = receiver.next();
        let end = Instant::now();
        let waited = end.saturating_since(begin) > WAITED;
        last = end;
        match frame {
            Ok(bytes) => {
                failures = 0;
                if waited && !behind {
                    quiet = begin;
                }
                // It waited: from now on nothing is behind. This very frame may be what ended a pause in the call.
                behind &= !waited;
                if concerns_neighbours(bytes) && !queue.is_closed() {
                    let _ = queue.try_send(Received { interface, received: quiet, bytes: bytes.to_vec() });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                failures = 0;
                (quiet, behind) = (end, false);
            }
            Err(_) => {
                // It is down, or gone: the next look opens it anew.
                failures += 1;
                if failures > 100 {
                    return;
                }
                std::thread::park_timeout(READ);
                last = Instant::now();
            }
        }
    }
}

/// ARP, or ICMPv6; of the rest there is too much to hand on.
fn concerns_neighbours(frame: &[u8]) -> bool {
    const ICMPV6: u8 = 58;
    match frame.get(12..14) {
        Some([0x08, 0x06]) => true,
        Some([0x86, 0xdd]) => frame.get(20) == Some(&ICMPV6),
        _ => false,
    }
}

impl FrameIo for DatalinkIo {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn interfaces(&self) -> Vec<Interface> {
        self.interfaces.clone()
    }

    fn attend(&mut self, _: &Interest) {}

    fn poll_receive(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        while self.looks.poll_tick(cx).is_ready() {
            batch.interfaces_changed |= self.look();
        }
        while !batch.is_full()
            && let Poll::Ready(Some(frame)) = self.queue.1.poll_recv(cx)
        {
            batch.push(frame.interface, frame.received, &frame.bytes);
        }
        if batch.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Waits for no congestion: what the system does not take is lost.
    fn poll_send(&mut self, _: &mut Context<'_>, frames: &[Transmit]) -> Poll<io::Result<usize>> {
        for transmit in frames {
            if let Some(port) = self.ports.get_mut(&transmit.interface) {
                let _ = port.sender.send_to(transmit.frame.as_bytes(), None);
            }
        }
        Poll::Ready(Ok(frames.len()))
    }

    fn conditions(&self) -> Vec<Condition> {
        let problem = |(index, why): (&IfIndex, &String)| {
            let interface = self.interfaces.iter().find(|interface| interface.index == *index);
            let name = interface.map_or("?", |interface| interface.name.as_str());
            let message = format!("no channel on interface {name}: {why}");
            Condition::no("InterfaceReady", "SocketFailed", message)
        };
        self.problems.iter().map(problem).collect()
    }
}
