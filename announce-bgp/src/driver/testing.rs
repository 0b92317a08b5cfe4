//! A network of pipes, and routers at its other end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use lbcore::announce::Stop;
use lbcore::id::PeerName;
use lbcore::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::engine::Engine;
use super::{BgpAnnouncer, Shared};
use crate::config::{BgpConfig, PeerConfig};
use crate::machine::Speaker;
use crate::transport::{Caller, Transport};
use crate::wire::{
    AddressFamily, Attribute, Capability, Context, Families, Header, Message, Open, Peering, Update,
};

pub(crate) const LOCAL_AS: u32 = 65000;
pub(crate) const REMOTE_AS: u32 = 65001;
pub(crate) const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

thread_local! {
    static START: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
}

/// The virtual time of this thread's runtime, as the speaker's clock.
#[expect(clippy::disallowed_methods, reason = "this is the clock of the tests")]
pub(crate) fn clock() -> Instant {
    let now = tokio::time::Instant::now();
    let start = START.get().unwrap_or(now);
    START.set(Some(start));
    Instant::from_millis(1_000_000) + now.saturating_duration_since(start)
}

/// Connections are pipes that hold `capacity` octets in each direction.
#[derive(Debug)]
pub(crate) struct Pipes {
    capacity: usize,
    /// Who is called. Nobody listens: connection refused.
    dialled: mpsc::Sender<(PeerName, DuplexStream)>,
    callers: tokio::sync::Mutex<mpsc::Receiver<Caller<DuplexStream>>>,
}

impl Transport for Pipes {
    type Stream = DuplexStream;

    async fn connect(&self, peer: Arc<PeerConfig>) -> io::Result<(DuplexStream, IpAddr)> {
        let (ours, theirs) = duplex(self.capacity);
        let refused = |_| io::ErrorKind::ConnectionRefused;
        self.dialled.send((peer.name.clone(), theirs)).await.map_err(refused)?;
        Ok((ours, LOCAL))
    }

    async fn accept(&self) -> io::Result<Caller<DuplexStream>> {
        match self.callers.lock().await.recv().await {
            Some(caller) => Ok(caller),
            None => std::future::pending().await,
        }
    }

    fn configure(&self, _: &DuplexStream, _: &PeerConfig) -> io::Result<()> {
        Ok(())
    }
}

/// A speaker whose driver runs, and the network around it.
pub(crate) struct World {
    pub(crate) announcer: BgpAnnouncer,
    pub(crate) dialled: mpsc::Receiver<(PeerName, DuplexStream)>,
    callers: mpsc::Sender<Caller<DuplexStream>>,
    stop: Option<oneshot::Sender<Stop>>,
    pub(crate) tasks: JoinSet<()>,
    capacity: usize,
}

impl World {
    pub(crate) fn new(config: &BgpConfig, capacity: usize) -> Self {
        Self::at(clock, config, capacity)
    }

    /// The same by another clock.
    pub(crate) fn at(clock: fn() -> Instant, config: &BgpConfig, capacity: usize) -> Self {
        let (dialled, calls) = mpsc::channel(16);
        let (callers, arriving) = mpsc::channel(16);
        let pipes = Pipes { capacity, dialled, callers: tokio::sync::Mutex::new(arriving) };
        let shared = Arc::new(Shared::new(config.local_as));
        let speaker = Speaker::new(clock(), config, 7).unwrap();
        let engine = Engine::new(pipes, speaker, shared.clone(), clock);
        let (stop, stopped) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(engine.run(async { stopped.await.unwrap_or_default() }));
        Self {
            announcer: BgpAnnouncer { shared },
            dialled: calls,
            callers,
            stop: Some(stop),
            tasks,
            capacity,
        }
    }

    pub(crate) fn with(peer: PeerConfig) -> Self {
        Self::new(&BgpConfig::new(LOCAL_AS, Ipv4Addr::new(192, 0, 2, 9)).peer(peer), 64 * 1024)
    }

    /// The other end of the next connection that the speaker asks for.
    pub(crate) async fn dialled(&mut self) -> Remote {
        Remote::new(self.dialled.recv().await.unwrap().1)
    }

    /// Calls the speaker from `address`.
    pub(crate) async fn call(&self, address: IpAddr) -> Remote {
        let (ours, theirs) = duplex(self.capacity);
        let caller = Caller { stream: ours, remote: SocketAddr::new(address, 40000), local: LOCAL };
        self.callers.send(caller).await.unwrap();
        Remote::new(theirs)
    }

    /// Asks the driver to stop.
    pub(crate) fn ask_to_stop(&mut self, how: Stop) {
        let _ = self.stop.take().unwrap().send(how);
    }

    /// Waits until the driver has stopped.
    pub(crate) async fn stopped(&mut self) {
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

/// The other end of a connection.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) stream: DuplexStream,
    input: Vec<u8>,
}

impl Remote {
    pub(crate) fn new(stream: DuplexStream) -> Self {
        Self { stream, input: Vec::new() }
    }

    /// The next message; `None` at the end.
    pub(crate) async fn recv(&mut self) -> Option<Message> {
        // As an internal peer, to be shown a LOCAL_PREF that should not be there.
        let context = Context::new(Peering::Internal).four_octet_as(true).families(Families::ALL);
        loop {
            if let Some(header) = self.input.first_chunk() {
                let length = Header::decode(header).unwrap().length;
                if self.input.len() >= length {
                    let frame: Vec<u8> = self.input.drain(..length).collect();
                    return Some(Message::decode(&frame, &context).unwrap());
                }
            }
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// The next UPDATE; passes over KEEPALIVEs.
    pub(crate) async fn update(&mut self) -> Update {
        loop {
            match self.recv().await {
                Some(Message::Update(update)) => return update,
                Some(Message::Keepalive) => (),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn send(&mut self, message: Message) -> io::Result<()> {
        let mut bytes = Vec::new();
        message.encode(&Context::new(Peering::External), &mut bytes).unwrap();
        self.stream.write_all(&bytes).await
    }

    pub(crate) fn open(hold: u16) -> Message {
        let capabilities = vec![
            Capability::Multiprotocol(AddressFamily::IPV4_UNICAST),
            Capability::Multiprotocol(AddressFamily::IPV6_UNICAST),
            Capability::FourOctetAs(REMOTE_AS),
        ];
        Message::Open(Open::new(REMOTE_AS, hold, Ipv4Addr::new(192, 0, 2, 1), capabilities))
    }

    /// Goes through to Established.
    pub(crate) async fn establish(&mut self, hold: u16) {
        assert!(matches!(self.recv().await, Some(Message::Open(_))));
        self.send(Self::open(hold)).await.unwrap();
        assert_eq!(self.recv().await, Some(Message::Keepalive));
        self.send(Message::Keepalive).await.unwrap();
    }
}

/// What a router was told, and how often.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rib {
    pub(crate) routes: Arc<Mutex<BTreeMap<IpNet, Vec<Attribute>>>>,
    pub(crate) changes: Arc<AtomicU64>,
}

impl Rib {
    /// Is a router: keeps the session up and what it is told, and forgets it when the session ends.
    pub(crate) async fn serve(self, mut remote: Remote) {
        remote.establish(90).await;
        let mut keepalive = tokio::time::interval(Duration::from_secs(30));
        loop {
            let message = tokio::select! {
                message = remote.recv() => message,
                _ = keepalive.tick() => {
                    let _ = remote.send(Message::Keepalive).await;
                    continue;
                }
            };
            let mut routes = self.routes.lock().unwrap();
            match message {
                Some(Message::Update(update)) => {
                    for prefix in update.withdrawn() {
                        assert!(routes.remove(&prefix).is_some(), "{prefix} was never announced");
                        self.changes.fetch_add(1, Ordering::Relaxed);
                    }
                    for prefix in update.announced() {
                        routes.insert(prefix, update.attributes.clone());
                        self.changes.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Some(Message::Keepalive) => (),
                _ => return routes.clear(),
            }
        }
    }
}
