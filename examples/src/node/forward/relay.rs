//! Forwarding by this process: TCP connections and UDP exchanges are relayed, from this node's own address.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use lbcore::allocator::Protocol;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use super::{Forwarding, Frontend};

/// An endpoint that does not answer within this is passed over for the next one.
const CONNECT: Duration = Duration::from_millis(500);
/// A UDP client that is silent for this long is forgotten.
const IDLE: Duration = Duration::from_secs(60);
/// UDP clients of one frontend; the oldest is forgotten for a new one.
const UDP_CLIENTS: usize = 4096;
/// The largest UDP datagram.
const DATAGRAM: usize = 65_535;

/// The relays, one task a frontend.
#[derive(Debug)]
pub struct Relay {
    frontends: BTreeMap<Frontend, Running>,
    tasks: JoinSet<()>,
    permits: Arc<Semaphore>,
    /// All permits that there are.
    connections: usize,
}

#[derive(Debug)]
struct Running {
    endpoints: watch::Sender<Arc<[SocketAddr]>>,
    task: tokio::task::AbortHandle,
}

impl Relay {
    /// Relays nothing yet, and so many TCP connections at once at most: more wait until one ends.
    pub fn new(connections: usize) -> Self {
        let connections = connections.min(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(connections));
        Self { frontends: BTreeMap::new(), tasks: JoinSet::new(), permits, connections }
    }

    /// How many TCP connections are relayed now.
    pub fn open(&self) -> usize {
        self.connections.saturating_sub(self.permits.available_permits())
    }

    /// Relays exactly this from now on. A frontend that goes takes its connections with it; one whose endpoints
    /// change keeps those that it has.
    pub fn apply(&mut self, wanted: &Forwarding) -> Vec<(Frontend, String)> {
        while self.tasks.try_join_next().is_some() {}
        let gone: Vec<_> =
            self.frontends.keys().filter(|known| !wanted.contains_key(known)).copied().collect();
        for frontend in gone {
            if let Some(running) = self.frontends.remove(&frontend) {
                running.task.abort();
            }
        }
        let mut failed = Vec::new();
        for (frontend, endpoints) in wanted {
            let endpoints: Arc<[SocketAddr]> = endpoints.as_slice().into();
            if let Some(running) = self.frontends.get(frontend) {
                running.endpoints.send_if_modified(|known| {
                    let changed = *known != endpoints;
                    *known = endpoints.clone();
                    changed
                });
                continue;
            }
            match self.start(frontend, endpoints) {
                Ok(running) => {
                    self.frontends.insert(*frontend, running);
                }
                Err(error) => failed.push((*frontend, format!("cannot listen on {frontend}: {error}"))),
            }
        }
        failed
    }

    fn start(&mut self, frontend: &Frontend, endpoints: Arc<[SocketAddr]>) -> io::Result<Running> {
        let (sender, receiver) = watch::channel(endpoints);
        let task = match frontend.protocol {
            Protocol::Tcp => {
                let listener = crate::node::listen::listen(frontend.socket())?;
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                self.tasks.spawn(relay_tcp(listener, receiver, self.permits.clone()))
            }
            Protocol::Udp => {
                let socket = std::net::UdpSocket::bind(frontend.socket())?;
                socket.set_nonblocking(true)?;
                let socket = UdpSocket::from_std(socket)?;
                self.tasks.spawn(relay_udp(Arc::new(socket), receiver))
            }
            other => {
                let why = format!("{other} is not relayed");
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
        };
        Ok(Running { endpoints: sender, task })
    }
}

async fn relay_tcp(
    listener: TcpListener,
    endpoints: watch::Receiver<Arc<[SocketAddr]>>,
    permits: Arc<Semaphore>,
) {
    let mut connections = JoinSet::new();
    let mut turn = 0_usize;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    // Nobody is accepted before there is room for this one. Not the other way around: a frontend
                    // that waits for its first client takes no room.
                    let permit = permits.clone().acquire_owned().await;
                    let endpoints = endpoints.borrow().clone();
                    turn = turn.wrapping_add(1);
                    connections.spawn(async move {
                        relay_connection(client, endpoints, turn).await;
                        drop(permit);
                    });
                }
                // Out of file handles: those that end make room.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay_connection(mut client: TcpStream, endpoints: Arc<[SocketAddr]>, turn: usize) {
    for attempt in 0..endpoints.len() {
        let endpoint = endpoints[(turn.wrapping_add(attempt)) % endpoints.len()];
        if let Ok(Ok(mut server)) = timeout(CONNECT, TcpStream::connect(endpoint)).await {
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            // An error here is one of the two ends breaking off, which the other end learns by the close.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
    // Nobody serves: a reset says so at once.
    let _ = client.set_zero_linger();
}

async fn relay_udp(socket: Arc<UdpSocket>, endpoints: watch::Receiver<Arc<[SocketAddr]>>) {
    let mut clients: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut by_age = VecDeque::new();
    let mut answers: JoinSet<SocketAddr> = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    let mut turn = 0_usize;
    loop {
        let (length, client) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error of an earlier answer.
                Err(_) => continue,
            },
            Some(ended) = answers.join_next() => {
                if let Ok(client) = ended {
                    clients.remove(&client);
                    by_age.retain(|known| *known != client);
                }
                continue;
            }
        };
        let upstream = match clients.get(&client) {
            Some(upstream) => upstream.clone(),
            None => {
                let endpoints = endpoints.borrow().clone();
                if endpoints.is_empty() {
                    continue;
                }
                turn = turn.wrapping_add(1);
                let Ok(upstream) = connect_udp(endpoints[turn % endpoints.len()]).await else { continue };
                let upstream = Arc::new(upstream);
                if clients.len() >= UDP_CLIENTS
                    && let Some(oldest) = by_age.pop_front()
                {
                    clients.remove(&oldest);
                }
                clients.insert(client, upstream.clone());
                by_age.push_back(client);
                answers.spawn(relay_answers(socket.clone(), upstream.clone(), client));
                upstream
            }
        };
        // Lost datagrams are the client's to repeat.
        let _ = upstream.send(&buffer[..length]).await;
    }
}

async fn connect_udp(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if endpoint.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(endpoint).await?;
    Ok(socket)
}

async fn relay_answers(socket: Arc<UdpSocket>, upstream: Arc<UdpSocket>, client: SocketAddr) -> SocketAddr {
    let mut buffer = vec![0; DATAGRAM];
    while let Ok(Ok(length)) = timeout(IDLE, upstream.recv(&mut buffer)).await {
        if socket.send_to(&buffer[..length], client).await.is_err() {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn echo_server(name: &'static [u8]) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(name).await.unwrap();
            }
        });
        (address, tasks)
    }

    fn free_port(protocol: Protocol) -> Frontend {
        let address = "127.0.0.1:0";
        let socket = match protocol {
            Protocol::Udp => std::net::UdpSocket::bind(address).unwrap().local_addr().unwrap(),
            _ => std::net::TcpListener::bind(address).unwrap().local_addr().unwrap(),
        };
        Frontend { address: socket.ip(), protocol, port: socket.port() }
    }

    async fn ask(frontend: Frontend) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        let mut stream = TcpStream::connect(frontend.socket()).await?;
        // Whose last packet of the handshake meets a listener that is being closed may hear nothing.
        timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await??;
        Ok(answer)
    }

    #[tokio::test]
    async fn connections_take_turns_and_pass_over_the_dead() {
        let (first, _first) = echo_server(b"first").await;
        let (second, _second) = echo_server(b"second").await;
        let dead = free_port(Protocol::Tcp).socket();
        let frontend = free_port(Protocol::Tcp);
        let mut relay = Relay::new(100);
        assert_eq!(relay.apply(&Forwarding::from([(frontend, vec![first, dead, second])])), []);
        let mut answers = Vec::new();
        for _ in 0..6 {
            answers.push(ask(frontend).await.unwrap());
        }
        let count = |name: &[u8]| answers.iter().filter(|answer| *answer == name).count();
        assert_eq!((count(b"first"), count(b"second")), (2, 4));

        relay.apply(&Forwarding::from([(frontend, vec![])]));
        let refused = ask(frontend).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionReset, "nobody serves");

        relay.apply(&Forwarding::new());
        while ask(frontend).await.is_ok() {}
    }

    #[tokio::test]
    async fn more_connections_than_there_is_room_for_wait() {
        let (server, _server) = echo_server(b"served").await;
        let [first, second] = [free_port(Protocol::Tcp), free_port(Protocol::Tcp)];
        let mut relay = Relay::new(1);
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kept = (first, vec![silent.local_addr().unwrap()]);
        assert_eq!(relay.apply(&Forwarding::from([kept, (second, vec![server])])), []);
        let client = TcpStream::connect(first.socket()).await.unwrap();
        let upstream = silent.accept().await.unwrap();
        let patient = async {
            let mut answer = Vec::new();
            TcpStream::connect(second.socket()).await?.read_to_end(&mut answer).await.map(|_| answer)
        };
        let mut waiting = std::pin::pin!(patient);
        assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "there is no room");
        drop((client, upstream));
        assert_eq!(waiting.await.unwrap(), b"served");
    }

    #[tokio::test]
    async fn a_udp_client_keeps_its_endpoint() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let frontend = free_port(Protocol::Udp);
        let mut relay = Relay::new(100);
        relay.apply(&Forwarding::from([(frontend, vec![server.local_addr().unwrap()])]));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 16];
        let mut seen = Vec::new();
        for question in [b"one", b"two"] {
            client.send_to(question, frontend.socket()).await.unwrap();
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            seen.push(from);
            server.send_to(&buffer[..length], from).await.unwrap();
            let (length, from) = client.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..length], from), (&question[..], frontend.socket()));
        }
        assert_eq!(seen[0], seen[1]);
    }

    #[tokio::test]
    async fn a_port_in_use_is_said() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = listener.local_addr().unwrap();
        let frontend = Frontend { address: socket.ip(), protocol: Protocol::Tcp, port: socket.port() };
        let failed = Relay::new(100).apply(&Forwarding::from([(frontend, vec![taken])]));
        assert!(failed[0].1.starts_with(&format!("cannot listen on TCP {socket}: ")), "{failed:?}");
    }
}
