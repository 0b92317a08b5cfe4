//! The driver's Linux side: packet sockets, netlink events, group memberships.

mod filter;
mod groups;
mod kernel;
mod links;
mod socket;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use ipnet::IpNet;
use lbcore::condition::Condition;
use lbcore::time::{Duration, Instant};
use nix::time::{ClockId, clock_gettime};
use tokio::io::Interest as Readiness;
use tokio::io::unix::AsyncFd;
use tokio::time::{Sleep, sleep};

pub use kernel::{KernelAnswer, kernel_answers};

use super::io::{BATCH, Batch, FrameIo, Interest, IoCounters};
use super::select::InterfaceFilter;
use crate::machine::{self, IfIndex, Interface, Transmit};
use crate::wire::ethernet::EtherType;
use filter::Insn;
use groups::Groups;
use links::Links;

/// How an announcer on the machine's interfaces behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The machine.
    pub machine: machine::Config,
    /// Which interfaces to work on. What is announced where is decided for each address, among these.
    pub interfaces: InterfaceFilter,
    /// The receive buffer of each socket, in bytes. It matters when tens of thousands of questions come in a second.
    pub receive_buffer: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            machine: machine::Config::default(),
            interfaces: InterfaceFilter::default(),
            receive_buffer: 4 << 20,
        }
    }
}

/// Why no announcer could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The process may not open packet sockets.
    #[error(
        "opening a packet socket needs CAP_NET_RAW: run as root, give the binary the capability (setcap \
         cap_net_raw+ep FILE), or in Kubernetes add NET_RAW to securityContext.capabilities"
    )]
    Permission(#[source] io::Error),
    /// It was not called in a tokio runtime with I/O enabled.
    #[error("an announcer has to be made within a tokio runtime")]
    NoRuntime,
    /// The kernel does not tell about its interfaces.
    #[error("the interfaces cannot be read by netlink")]
    Netlink(#[source] io::Error),
    /// The kernel gives no packet socket, for another reason than permission.
    #[error("a packet socket cannot be opened")]
    Socket(#[source] io::Error),
}

/// The machine's own interfaces.
#[derive(Debug)]
pub struct PacketIo {
    filter: InterfaceFilter,
    receive_buffer: usize,
    links: Links,
    interfaces: Vec<Interface>,
    sender: AsyncFd<OwnedFd>,
    receivers: Vec<Receiver>,
    /// Which receiver is read first, so that none is left waiting by a busy one.
    turn: usize,
    programs: [Vec<Insn>; 2],
    groups: Groups,
    /// Why an interface has no sockets.
    problems: BTreeMap<IfIndex, String>,
    /// When what failed is tried again.
    retry: Option<Pin<Box<Sleep>>>,
    /// Until then the queue of a device was full.
    congested: Option<Pin<Box<Sleep>>>,
    /// The addresses that are announced or may be.
    watched: Vec<IpAddr>,
    /// What the kernel itself answers for them.
    kernel: Vec<Condition>,
    counters: IoCounters,
}

#[derive(Debug)]
struct Receiver {
    interface: IfIndex,
    fd: AsyncFd<OwnedFd>,
    /// Which of the programs it has.
    program: usize,
    /// It could not be given the latest one.
    stale: bool,
}

/// After this time what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a device whose queue is full is left alone.
const CONGESTED: Duration = Duration::from_millis(1);

/// Both protocols, in the order of the programs.
const PROTOCOLS: [EtherType; 2] = [EtherType::ARP, EtherType::IPV6];

/// Whether this process may open packet sockets: the check to make before anything else is set up.
///
/// # Errors
/// [`BuildError::Permission`] or [`BuildError::Socket`].
pub fn check_permission() -> Result<(), BuildError> {
    socket::sender().map(drop).map_err(socket_error)
}

fn socket_error(error: io::Error) -> BuildError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => BuildError::Permission(error),
        _ => BuildError::Socket(error),
    }
}

impl PacketIo {
    /// Opens the sockets of all selected interfaces. To be called within a tokio runtime.
    pub(super) fn open(config: &Config) -> Result<Self, BuildError> {
        tokio::runtime::Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let sender = socket::sender().map_err(socket_error)?;
        let sender = socket::watch(sender, Readiness::WRITABLE).map_err(BuildError::Socket)?;
        let links = Links::open().map_err(BuildError::Netlink)?;
        let mut io = Self {
            filter: config.interfaces.clone(),
            receive_buffer: config.receive_buffer,
            links,
            interfaces: Vec::new(),
            sender,
            receivers: Vec::new(),
            turn: 0,
            programs: [filter::arp(&[]), filter::ndp(&[])],
            groups: Groups::default(),
            problems: BTreeMap::new(),
            retry: None,
            congested: None,
            watched: Vec::new(),
            kernel: Vec::new(),
            counters: IoCounters::default(),
        };
        io.follow_table();
        Ok(io)
    }

    /// Opens and closes sockets as interfaces come and go. One that is down keeps its sockets: they work again when it
    /// comes back.
    fn follow_table(&mut self) {
        self.interfaces = self.links.table.interfaces(&self.filter);
        let present = |index: IfIndex| self.interfaces.iter().any(|interface| interface.index == index);
        self.receivers.retain(|receiver| present(receiver.interface));
        self.problems.retain(|index, _| present(*index));
        for index in self.interfaces.iter().map(|interface| interface.index) {
            for (program, protocol) in PROTOCOLS.into_iter().enumerate() {
                let open = |receiver: &Receiver| receiver.interface == index && receiver.program == program;
                if self.receivers.iter().any(open) {
                    continue;
                }
                let Some(insns) = self.programs.get(program) else { continue };
                let fd = socket::receiver(index, protocol, insns, self.receive_buffer)
                    .and_then(|fd| socket::watch(fd, Readiness::READABLE));
                match fd {
                    Ok(fd) => {
                        self.problems.remove(&index);
                        self.receivers.push(Receiver { interface: index, fd, program, stale: false });
                    }
                    // It is gone already; the event follows.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {}
                    Err(error) => drop(self.problems.insert(index, error.to_string())),
                }
            }
        }
    }

    /// Gives the receivers that need it the latest program.
    fn attach(&mut self) {
        for receiver in self.receivers.iter_mut().filter(|receiver| receiver.stale) {
            let Some(program) = self.programs.get(receiver.program) else { continue };
            match socket::attach(receiver.fd.get_ref().as_fd(), program) {
                Ok(()) => receiver.stale = false,
                Err(error) => drop(self.problems.insert(receiver.interface, error.to_string())),
            }
        }
    }

    /// Tries again what failed: what it lacked may be there again (memory, files, IPv6), and nobody tells.
    fn try_again(&mut self) {
        self.problems.clear();
        self.follow_table();
        self.attach();
        self.groups.try_again();
    }

    fn name(&self, index: IfIndex) -> &str {
        let interface = self.interfaces.iter().find(|interface| interface.index == index);
        interface.map_or("?", |interface| interface.name.as_str())
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, batch: &mut Batch) {
        let clocks = Clocks::default();
        let count = self.receivers.len();
        for offset in 0..count {
            let Some(receiver) = self.receivers.get((self.turn + offset) % count) else { continue };
            let mut errors = 0;
            while !batch.is_full() {
                let Poll::Ready(Ok(mut guard)) = receiver.fd.poll_read_ready(cx) else { break };
                let mut received = [socket::Received::default(); BATCH];
                let start = batch.frames.len();
                let spare = batch.buffers.get_mut(start..).unwrap_or_default();
                let room = spare.len();
                match guard.try_io(|fd| socket::receive(fd.as_fd(), spare, &mut received)) {
                    Err(_would_block) => break,
                    Ok(Ok(got)) => {
                        for frame in received.iter().take(got) {
                            self.counters.other_host += u64::from(frame.other_host);
                            let stamp = frame.stamped.and_then(|stamped| clocks.received(stamped));
                            self.counters.unstamped += u64::from(stamp.is_none());
                            // The buffers are filled in place, so that a frame that is for others still takes its
                            // place in the batch.
                            batch.frames.push(super::io::Received {
                                interface: receiver.interface,
                                received: stamp.unwrap_or(Instant::ZERO),
                                len: frame.len,
                                skipped: frame.other_host,
                            });
                        }
                        if got < room {
                            // It stopped because there was no more, or because of an error that the next call tells.
                            guard.clear_ready();
                        }
                    }
                    // The error is consumed by the call that tells it (ENETDOWN: the interface went down). One that
                    // stays is left until the kernel reports readiness anew.
                    Ok(Err(_)) => {
                        self.counters.receive_failed += 1;
                        errors += 1;
                        if errors > 3 {
                            guard.clear_ready();
                            break;
                        }
                    }
                }
            }
        }
        self.turn = self.turn.wrapping_add(1);
    }
}

/// The wall clock, by which the kernel stamps frames, beside our own.
#[derive(Default)]
struct Clocks(std::cell::OnceCell<Option<(Duration, Instant)>>);

impl Clocks {
    /// When a frame was received by our clock; `None` if its stamp lies in the future, because the wall clock was set
    /// back meanwhile and nothing can be said.
    fn received(&self, stamped: Duration) -> Option<Instant> {
        let now = self.0.get_or_init(|| {
            let wall = clock_gettime(ClockId::CLOCK_REALTIME).ok()?;
            let wall = Duration::new(wall.tv_sec().try_into().ok()?, wall.tv_nsec().try_into().ok()?);
            Some((wall, Instant::now()))
        });
        let (wall, ours) = (*now)?;
        // Frames that come in while a batch is read are younger than the reading of the clocks.
        let slack = Duration::from_millis(50);
        match wall.checked_sub(stamped) {
            Some(age) => Some(ours - age),
            None => (stamped - wall <= slack).then_some(ours),
        }
    }
}

impl FrameIo for PacketIo {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn interfaces(&self) -> Vec<Interface> {
        self.interfaces.clone()
    }

    fn attend(&mut self, interest: &Interest) {
        let programs = [filter::arp(&interest.addresses), filter::ndp(&interest.addresses)];
        for (index, program) in programs.into_iter().enumerate() {
            let Some(known) = self.programs.get_mut(index).filter(|known| **known != program) else {
                continue;
            };
            *known = program;
            self.receivers.iter_mut().for_each(|receiver| receiver.stale |= receiver.program == index);
        }
        self.attach();
        self.watched.clone_from(&interest.addresses);
        self.kernel = kernel::answers(&self.links.table, &self.watched, &self.interfaces);
        self.groups.keep(&interest.groups);
    }

    fn join(&mut self, interface: IfIndex, group: Ipv6Addr) {
        self.groups.join((interface, group));
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        if let Poll::Ready(changes) = self.links.poll_changes(cx) {
            let changes = changes?;
            if changes.table {
                let before = std::mem::take(&mut self.interfaces);
                self.follow_table();
                batch.interfaces_changed |= self.interfaces != before;
            }
            let watched = |prefix: &IpNet| match self.watched.binary_search(&prefix.addr()) {
                Ok(_) => true,
                Err(at) => self.watched.get(at).is_some_and(|next| prefix.contains(next)),
            };
            if changes.table || changes.local.iter().any(watched) {
                let kernel = kernel::answers(&self.links.table, &self.watched, &self.interfaces);
                batch.interfaces_changed |= self.kernel != kernel;
                self.kernel = kernel;
            }
            batch.reannounce.extend(changes.notify);
        }
        self.poll_frames(cx, batch);
        if self.problems.is_empty() && self.groups.failed().is_empty() {
            self.retry = None;
        } else {
            let retry = self.retry.get_or_insert_with(|| Box::pin(sleep(RETRY)));
            if retry.as_mut().poll(cx).is_ready() {
                self.retry = None;
                let before = self.problems.clone();
                self.try_again();
                batch.interfaces_changed |= self.problems != before;
                cx.waker().wake_by_ref();
            }
        }
        let failed = self.groups.failed().len();
        if self.groups.step() {
            cx.waker().wake_by_ref();
        }
        batch.interfaces_changed |= self.groups.failed().len() != failed;
        if batch.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frames: &[Transmit]) -> Poll<io::Result<usize>> {
        if self.congested.as_mut().is_some_and(|until| until.as_mut().poll(cx).is_pending()) {
            return Poll::Pending;
        }
        self.congested = None;
        loop {
            let Poll::Ready(guard) = self.sender.poll_write_ready(cx) else { return Poll::Pending };
            let mut guard = guard?;
            match guard.try_io(|fd| socket::send(fd.as_fd(), frames)) {
                Err(_would_block) => {}
                Ok(Ok(sent)) => return Poll::Ready(Ok(sent)),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // The queue of the device is full. The socket does not tell when it has room.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.counters.congested += 1;
                    let until = self.congested.insert(Box::pin(sleep(CONGESTED)));
                    if until.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                // The first frame cannot be sent: its interface is gone or down.
                Ok(Err(_)) => {
                    self.counters.send_failed += 1;
                    return Poll::Ready(Ok(1));
                }
            }
        }
    }

    fn counters(&self) -> IoCounters {
        self.counters
    }

    fn conditions(&self) -> Vec<Condition> {
        let mut conditions = Vec::new();
        for name in self.filter.named() {
            if let Some(why) = self.links.table.unusable(name) {
                let message = format!("interface {name} {why}");
                conditions.push(Condition::no("InterfaceReady", "InterfaceUnusable", message));
            }
        }
        for (index, why) in &self.problems {
            let message = format!("no packet socket on interface {}: {why}", self.name(*index));
            conditions.push(Condition::no("InterfaceReady", "SocketFailed", message));
        }
        for name in self.links.table.rewriting(&self.interfaces) {
            let message = format!(
                "{name} is a bond in mode balance-alb, which puts its ports' hardware addresses into ARP answers: \
                 clients see the owner change all the time; use another mode, such as active-backup or 802.3ad"
            );
            conditions.push(Condition::yes("FramesRewritten", "BondBalanceAlb", message));
        }
        conditions.extend(self.kernel.iter().cloned());
        for (index, why) in self.groups.failed() {
            let message = format!(
                "interface {} cannot join multicast groups ({why}): switches that snoop on MLD will not deliver \
                 neighbor solicitations; is IPv6 disabled on it?",
                self.name(*index)
            );
            conditions.push(Condition::no("InterfaceReady", "MulticastFailed", message));
        }
        conditions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run as root and as an ordinary user, this covers both.
    #[test]
    fn the_permission_that_is_missing_is_named() {
        match check_permission() {
            Ok(()) => {}
            Err(error @ BuildError::Permission(_)) => {
                assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn without_a_runtime_it_is_an_error_and_no_panic() {
        let made = PacketIo::open(&Config::default()).map(drop);
        assert!(matches!(made, Err(BuildError::NoRuntime)), "{made:?}");
    }

    #[test]
    fn a_stamp_is_turned_into_our_time_or_distrusted() {
        let (wall, ours) = (Duration::from_secs(1000), Instant::from_millis(50_000));
        let clocks = Clocks(std::cell::OnceCell::from(Some((wall, ours))));
        let stamp = |millis| clocks.received(Duration::from_millis(millis));
        assert_eq!(stamp(1_000_000), Some(ours));
        assert_eq!(stamp(999_900), Some(Instant::from_millis(49_900)), "100 ms old");
        assert_eq!(stamp(1_000_010), Some(ours), "it came while the batch was read");
        assert_eq!(stamp(1_000_100), None, "the wall clock was set back");
    }
}
