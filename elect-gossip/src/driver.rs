//! The driver: sockets and the clock around a [`Machine`].

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket};
#[cfg(unix)]
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;

use lbcore::announce::Stop;
use lbcore::time::{Clock, Duration, SystemClock};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::config::{BuildError, Config};
use crate::elector::{Attachment, GossipElector};
use crate::joins::{Groups, Names, Resolve, SystemResolver};
use crate::machine::{Input, Machine, Notice, Output, StreamEvent};
use crate::wire::MAX_DATAGRAM;

/// So many datagrams are read before timers are looked at again, whoever floods the socket.
const BATCH: usize = 512;

/// So many streams are accepted; members need one each.
const ACCEPTED: usize = 1024;

/// So many of them from one address. Beyond that the oldest makes room: of a member that lost its power there may be
/// some left, and a stranger must not keep members out.
const ACCEPTED_FROM_ONE: usize = 64;

/// A socket that fails so often in a row is broken.
const FAILURES: u32 = 1000;

impl GossipElector {
    /// The elector of this node, and what makes it work: `driver.run(stop)`.
    ///
    /// Listens on `config.bind` from now on, by UDP and TCP, so that a port in use is told here.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn new(config: &Config) -> Result<(Self, Driver), BuildError> {
        Self::with_clock(config, Arc::new(SystemClock))
    }

    /// The same under a clock of the caller's, for tests under virtual time.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn with_clock(config: &Config, clock: Arc<dyn Clock>) -> Result<(Self, Driver), BuildError> {
        config.validate()?;
        let (socket, listener, bound) = bind(config.bind)?;
        let address = config.advertise.unwrap_or(bound);
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(BuildError::Advertise { bind: config.bind });
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| BuildError::Randomness { source: io::Error::other(error.to_string()) })?;
        let groups = Groups::join(&socket, bound, &config.seeds)?;
        let names = Names::new(&config.seeds, Arc::new(SystemResolver));
        let machine = Machine::new(config, address, seed, clock.now())?;
        let (elector, attachment) = Self::detached();
        Ok((elector, Driver { attachment, machine, socket, listener, groups, names, address, clock }))
    }
}

/// The same socket under a high number.
///
/// The kernel closes the files of a killed process one after the other, Linux those with the highest numbers first;
/// some take their time (a packet socket: tens of milliseconds). Others learn that the process is gone when these are
/// closed.
#[cfg(unix)]
fn closed_early<S: AsFd + From<OwnedFd>>(socket: S) -> S {
    // More than a controller opens besides, less than the usual limit of 1024.
    const ABOVE: i32 = 768;
    match rustix::io::fcntl_dupfd_cloexec(&socket, ABOVE) {
        Ok(high) => high.into(),
        // The limit is lower.
        Err(_) => socket,
    }
}

#[cfg(not(unix))]
fn closed_early<S>(socket: S) -> S {
    socket
}

/// Binds both protocols to one port.
fn bind(to: SocketAddr) -> Result<(StdSocket, StdListener, SocketAddr), BuildError> {
    let failed = |protocol| move |source| BuildError::Bind { bind: to, protocol, source };
    let attempt = || {
        let socket = StdSocket::bind(to).map_err(failed("UDP"))?;
        let bound = socket.local_addr().map_err(failed("UDP"))?;
        let listener = closed_early(StdListener::bind(bound).map_err(failed("TCP"))?);
        socket.set_nonblocking(true).map_err(failed("UDP"))?;
        listener.set_nonblocking(true).map_err(failed("TCP"))?;
        Ok((socket, listener, bound))
    };
    let mut tried = attempt();
    // A port that is free for one protocol may be taken for the other.
    for _ in 0..16 {
        if tried.is_ok() || to.port() != 0 {
            break;
        }
        tried = attempt();
    }
    tried
}

/// Makes a [`GossipElector`] work.
#[derive(Debug)]
pub struct Driver {
    // First, so that the elector owns nothing any more before the sockets tell the others that it is gone.
    attachment: Attachment,
    machine: Machine,
    socket: StdSocket,
    listener: StdListener,
    groups: Groups,
    names: Names,
    address: SocketAddr,
    clock: Arc<dyn Clock>,
}

/// Why a driver cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The runtime does not take the sockets.
    #[error("the runtime does not take the sockets (does it have I/O enabled?)")]
    Register {
        /// What it says.
        source: io::Error,
    },
    /// The socket is broken.
    #[error("the socket is broken")]
    Socket {
        /// What the system says.
        source: io::Error,
    },
}

impl Driver {
    /// The address at which the others reach this node.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, with another way to resolve the names of seeds than the system's.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolve>) -> Self {
        self.names.resolver = resolver;
        self
    }

    /// Takes part in the election until `stop` resolves.
    ///
    /// With [`Stop::Withdraw`] it gives every role away, tells the others, and returns as soon as they know, within
    /// a second or so (twice the takeover time, if that is longer). With [`Stop::Preserve`] it returns at once; the
    /// others take over as from a process that died, so the handle owns nothing any more in either case.
    ///
    /// # Errors
    /// [`DriverError`]; the handle owns nothing any more.
    ///
    /// # Cancel safety
    /// Dropping the future is like a crash of the process: the handle owns nothing from that moment, and the others
    /// notice at once.
    pub async fn run(self, stop: impl Future<Output = Stop>) -> Result<(), DriverError> {
        let Self { attachment, mut machine, socket, listener, groups, mut names, clock, .. } = self;
        let register = |source| DriverError::Register { source };
        let socket = UdpSocket::from_std(socket).map_err(register)?;
        let listener = TcpListener::from_std(listener).map_err(register)?;
        let groups = groups.register().map_err(register)?;
        let mut streams = Streams::default();
        // Last, so that it is dropped first.
        let mut attachment = attachment;
        let mut stop = pin!(stop);
        let mut bound = None;
        let mut failures = 0;
        let mut buffer = [0; MAX_DATAGRAM + 1];
        loop {
            let now = clock.now();
            groups.receive(BATCH, &mut buffer, |from, bytes| {
                machine.handle(now, Input::Datagram { from, bytes });
            });
            for _ in 0..BATCH {
                match socket.try_recv_from(&mut buffer) {
                    Ok((length, from)) => {
                        failures = 0;
                        let bytes = buffer.get(..length).unwrap_or_default();
                        machine.handle(now, Input::Datagram { from, bytes });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(source) => {
                        failures += 1;
                        if failures > FAILURES {
                            return Err(DriverError::Socket { source });
                        }
                    }
                }
            }
            while let Ok((stream, event)) = streams.events.try_recv() {
                machine.handle(now, Input::Stream { stream, event });
            }
            attachment.feed(&mut machine, now);
            names.tend(&mut machine, now);
            // What has arrived is known: now it can be said who was not heard.
            if machine.poll_timeout() <= now {
                machine.handle_timeout(now);
                attachment.count(&machine);
            }
            let left = attachment.drain(&mut machine, log);
            while let Some(output) = machine.poll_output() {
                match output {
                    // What the socket does not take is lost, like anything else on the way.
                    Output::Datagram { to, bytes } => {
                        let _ = socket.try_send_to(&bytes, to);
                    }
                    Output::Connect { to, stream } => streams.connect(to, stream),
                    Output::Disconnect { stream } => streams.disconnect(stream),
                }
            }
            if left || bound.is_some_and(|bound| bound <= now) {
                attachment.count(&machine);
                return Ok(());
            }
            let until = machine.poll_timeout().min(names.poll_timeout());
            let until = bound.map_or(until, |bound| until.min(bound));
            tokio::select! {
                how = &mut stop, if bound.is_none() => {
                    if how == Stop::Preserve {
                        return Ok(());
                    }
                    let now = clock.now();
                    bound = Some(now + machine.leave_bound() * 2);
                    machine.handle(now, Input::Leave);
                }
                () = groups.readable() => {}
                () = names.answered() => {}
                ready = socket.readable() => ready.map_err(|source| DriverError::Socket { source })?,
                accepted = listener.accept() => {
                    match accepted {
                        Ok((stream, from)) => streams.hold(stream, from.ip()),
                        // Out of descriptors, for example: those that wait go on waiting.
                        Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                }
                Some(event) = streams.events.recv() => {
                    machine.handle(clock.now(), Input::Stream { stream: event.0, event: event.1 });
                }
                () = attachment.changed() => {}
                Some(_) = streams.tasks.join_next() => {}
                () = tokio::time::sleep(until.saturating_since(now)) => {}
            }
        }
    }
}

fn log(notice: Notice) {
    match notice {
        Notice::Up(node) => tracing::info!(%node, "member is there"),
        Notice::Down(node, cause) => tracing::warn!(%node, ?cause, "member is gone"),
        Notice::LeaseLost => tracing::warn!("the lease ran out: paused, or answered by nobody"),
        Notice::Settled => tracing::info!("the current terms are known"),
    }
}

/// The streams that stand, each watched by a task.
struct Streams {
    tasks: JoinSet<()>,
    asked: BTreeMap<u64, AbortHandle>,
    /// Oldest first.
    accepted: VecDeque<(IpAddr, AbortHandle)>,
    sender: mpsc::Sender<(u64, StreamEvent)>,
    events: mpsc::Receiver<(u64, StreamEvent)>,
}

impl Default for Streams {
    fn default() -> Self {
        let (sender, events) = mpsc::channel(64);
        let (asked, accepted) = (BTreeMap::new(), VecDeque::new());
        Self { tasks: JoinSet::new(), asked, accepted, sender, events }
    }
}

impl Streams {
    fn connect(&mut self, to: SocketAddr, stream: u64) {
        let sender = self.sender.clone();
        let task = self.tasks.spawn(async move {
            let connected = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(to)).await;
            let event = match connected {
                Ok(Ok(connection)) => {
                    if sender.send((stream, StreamEvent::Opened)).await.is_err() {
                        return;
                    }
                    end_of(connection).await
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => StreamEvent::Refused,
                _ => StreamEvent::Failed,
            };
            // The other end is gone only if the driver is.
            let _ = sender.send((stream, event)).await;
        });
        self.asked.retain(|_, task| !task.is_finished());
        self.asked.insert(stream, task);
    }

    fn disconnect(&mut self, stream: u64) {
        if let Some(task) = self.asked.remove(&stream) {
            task.abort();
        }
    }

    /// Keeps a stream that somebody opened, so that it tells when this process ends.
    fn hold(&mut self, connection: TcpStream, from: IpAddr) {
        self.accepted.retain(|(_, task)| !task.is_finished());
        if self.accepted.iter().filter(|(address, _)| *address == from).count() >= ACCEPTED_FROM_ONE {
            let oldest = self.accepted.iter().position(|(address, _)| *address == from);
            if let Some((_, task)) = oldest.and_then(|at| self.accepted.remove(at)) {
                task.abort();
            }
        }
        let Ok(connection) = connection.into_std().map(closed_early).and_then(TcpStream::from_std) else {
            return;
        };
        if self.accepted.len() < ACCEPTED {
            let task = self.tasks.spawn(async move {
                end_of(connection).await;
            });
            self.accepted.push_back((from, task));
        }
    }
}

/// Waits for the end of a stream on which nothing is ever said.
async fn end_of(mut connection: TcpStream) -> StreamEvent {
    let mut nothing = [0; 1];
    match connection.read(&mut nothing).await {
        Ok(0) => StreamEvent::Closed,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => StreamEvent::Closed,
        _ => StreamEvent::Failed,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_kernel_closes_the_listener_before_what_takes_its_time() {
        let earlier = StdSocket::bind("127.0.0.1:0").unwrap();
        let (_, listener, _) = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let later: Vec<_> = (0..100).map(|_| StdSocket::bind("127.0.0.1:0").unwrap()).collect();
        for other in later.iter().chain([&earlier]) {
            assert!(listener.as_raw_fd() > other.as_raw_fd());
        }
    }
}
