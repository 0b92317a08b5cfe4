//! The data plane: HTTP/1.1 on hyper.
//!
//! [`Proxy::new`] gives a [`Handle`] and a [`Driver`]. The handle takes a whole [`World`] (tables and endpoints) and
//! swaps it in one store: each request is served by one world from its beginning to its end. The handle also adds
//! and removes listening sockets at run time. The driver runs until it is told to stop, then drains.
//!
//! ```
//! use std::net::TcpListener;
//! use std::sync::Arc;
//!
//! use gateway_router::compile::{Resources, compile};
//! use gateway_router::model::{
//!     BackendRef, Backends, Gateway, GatewayClass, HttpRoute, HttpRouteRule, Listener, Metadata, ParentRef,
//!     ServicePort, ServicePortSpec,
//! };
//! use gateway_router::proxy::{Config, Ingress, Proxy, World};
//! use lbcore::announce::Stop;
//! use lbcore::id::ObjectName;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // An endpoint of Service ns/web.
//! let endpoint = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let port = ServicePort::new(ObjectName::new("ns", "web"), 80);
//! let backends: Backends = [(port, ServicePortSpec::new([endpoint.local_addr()?]))].into_iter().collect();
//!
//! let mut resources = Resources::new("example.com/controller");
//! resources.classes.push(GatewayClass::new("class", "example.com/controller"));
//! resources.gateways.push(Gateway::new(Metadata::new("ns", "gw"), "class", [Listener::http("http", 80)]));
//! let to_web = HttpRouteRule::to([BackendRef::service("web", 80)]);
//! resources.routes.push(HttpRoute::new(Metadata::new("ns", "web"), [ParentRef::gateway("gw")], [to_web]));
//!
//! // The world may be replaced at any time, and sockets may come and go.
//! let (handle, driver) = Proxy::new(Config::default());
//! handle.set(Arc::new(World::new(&compile(&resources, &backends), &backends)));
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let address = listener.local_addr()?;
//! handle.listen(Ingress::new(ObjectName::new("ns", "gw"), 80), listener)?;
//!
//! let serve = async {
//!     let (mut stream, _) = endpoint.accept().await?;
//!     stream.read(&mut [0; 1024]).await?;
//!     stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await
//! };
//! let ask = async {
//!     let mut stream = tokio::net::TcpStream::connect(address).await?;
//!     stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").await?;
//!     let mut answer = String::new();
//!     stream.read_to_string(&mut answer).await?;
//!     Ok::<_, std::io::Error>(answer)
//! };
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let run = driver.run(async {
//!     let _ = stopped.await;
//!     Stop::Withdraw
//! });
//! let test = async {
//!     let (served, answer) = tokio::join!(serve, ask);
//!     drop(stop);
//!     served.and(answer)
//! };
//! let ((), answer) = tokio::join!(run, test);
//! assert!(answer?.ends_with("hello"));
//! assert_eq!(handle.counters().forwarded, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does to a request
//! 1. It looks for the rule. None: 404. No Host header, two, or one that is no host: 400 (RFC 9112 §3.2); a transfer
//!    coding other than `chunked`: 501 (RFC 9112 §6.1). `CONNECT`: 405.
//! 2. It removes the headers of one connection (RFC 9110 §7.6.1) and `Expect`, which it answers itself. It appends
//!    the client's address to `X-Forwarded-For` and sets `X-Forwarded-Proto`. The Host stays as it is, unless a filter
//!    rewrites it. It adds no `Via`: RFC 9110 §7.6.3 wants one, but origin servers take it for a cache's and stop
//!    compressing, which is why no common gateway sends it.
//! 3. It applies the filters of the rule and of the backend, and picks by weight: no or no valid backend is 500, no ready
//!    endpoint 503.
//! 4. It sends the request on a kept connection to the endpoint or a new one. If a new one is not to be had, it tries
//!    the next endpoint, up to [`Config::connect_attempts`]; then 502, or 504 if it took too long. A request that fails on
//!    a kept connection is sent again on a new one if nothing of it was sent, or if it has no body and its
//!    method is idempotent (RFC 9110 §9.2.2), since the endpoint may have closed the connection in that moment.
//! 5. Bodies stream in both directions and are not buffered. An endpoint's answer that does not come is 504.
//!
//! # What it does not do yet
//! TLS, HTTP/2, upgrades (WebSocket): `Upgrade` is removed like every header of one connection, so that the
//! endpoint answers as to a plain request.

mod body;
mod counters;
mod driver;
mod forward;
mod headers;
mod io;
mod pool;
mod world;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use lbcore::id::ObjectName;
use tokio::sync::{Notify, Semaphore};

use self::counters::CounterCells;
pub use self::counters::Counters;
pub use self::driver::Driver;
use self::pool::Pool;
pub use self::world::World;

/// Limits of a [`Proxy`]. Each has a default that suits a gateway on the open Internet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How many client connections are served at once; further ones wait, all but one of each socket in the kernel.
    /// 10 000.
    pub max_connections: NonZeroUsize,
    /// How long a client may take to send the head of a request, and how long a connection may be idle between
    /// requests. 30 s.
    pub header_timeout: Duration,
    /// How many bytes the head of a request may have, beyond which it is answered with 431. 64 KiB; at least 8 KiB.
    pub max_header_bytes: usize,
    /// How long a transfer in either direction may stand still. 60 s.
    pub stall_timeout: Duration,
    /// How long one attempt to connect to an endpoint may take. 2 s.
    pub connect_timeout: Duration,
    /// How many endpoints are tried for one request. 3.
    pub connect_attempts: NonZeroU32,
    /// How long an endpoint may take from the end of the request to the head of its answer. 60 s.
    pub response_timeout: Duration,
    /// How many connections to one endpoint are kept while idle. 64.
    pub max_idle: usize,
    /// How long a connection to an endpoint is kept while idle. 30 s, less than what servers commonly allow.
    pub idle_timeout: Duration,
    /// How long requests may go on after the stop, or after their socket was closed. 10 s.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: NonZeroUsize::new(10_000).unwrap_or(NonZeroUsize::MIN),
            header_timeout: Duration::from_secs(30),
            max_header_bytes: 64 * 1024,
            stall_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(2),
            connect_attempts: NonZeroU32::new(3).unwrap_or(NonZeroU32::MIN),
            response_timeout: Duration::from_secs(60),
            max_idle: 64,
            idle_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// For whom a socket listens. The socket's own port may differ from the listener's, behind a port forwarder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Ingress {
    /// The Gateway.
    pub gateway: ObjectName,
    /// The port of its listeners.
    pub port: u16,
}

impl Ingress {
    /// The listeners of `gateway` on `port`.
    pub const fn new(gateway: ObjectName, port: u16) -> Self {
        Self { gateway, port }
    }
}

/// Names a listening socket of a [`Handle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(u64);

/// The data plane. See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Proxy;

impl Proxy {
    /// A data plane without world and sockets: every request gets 503 until [`Handle::set`].
    #[expect(clippy::new_ret_no_self, reason = "every driver of the workspace is made this way")]
    pub fn new(config: Config) -> (Handle, Driver) {
        let permits = config.max_connections.get().min(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            current: ArcSwap::from_pointee(Current { world: Arc::new(World::default()), first_ticket: 0 }),
            pool: Pool::new(config.max_idle, config.idle_timeout),
            permits: Arc::new(Semaphore::new(permits)),
            counters: CounterCells::default(),
            sockets: Mutex::default(),
            sockets_changed: Notify::new(),
            config,
        });
        (Handle { shared: Arc::clone(&shared) }, Driver::new(shared))
    }
}

/// What handle and driver have in common.
#[derive(Debug)]
struct Shared {
    config: Config,
    current: ArcSwap<Current>,
    pool: Pool,
    permits: Arc<Semaphore>,
    counters: CounterCells,
    sockets: Mutex<Sockets>,
    sockets_changed: Notify,
}

/// The world in force.
#[derive(Debug)]
struct Current {
    world: Arc<World>,
    /// Tickets of this world begin here, so that many short-lived worlds do not each begin with the first
    /// backend.
    first_ticket: u64,
}

/// The sockets that should listen.
#[derive(Debug, Default)]
struct Sockets {
    next: u64,
    wanted: BTreeMap<ListenerId, Socket>,
    /// The driver has ended.
    is_over: bool,
}

#[derive(Debug)]
struct Socket {
    ingress: Ingress,
    address: SocketAddr,
    /// Until the driver takes it.
    listener: Option<TcpListener>,
    /// Whether each answer is the last of its connection.
    closing: Arc<AtomicBool>,
}

impl Shared {
    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Controls a [`Driver`]. Cheap to clone; nothing here blocks.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Replaces the world. Requests that are being served keep the one that they began with.
    pub fn set(&self, world: Arc<World>) {
        self.shared.pool.retain(|endpoint| world.has_endpoint(endpoint));
        let first_ticket = self.shared.counters.requests();
        self.shared.current.store(Arc::new(Current { world, first_ticket }));
    }

    /// The world in force.
    pub fn world(&self) -> Arc<World> {
        self.shared.current.load().world.clone()
    }

    /// Accepts connections on `listener`, a bound and listening socket, for `ingress`.
    ///
    /// # Errors
    /// The socket cannot be asked for its address or be made non-blocking; the driver has ended.
    pub fn listen(&self, ingress: Ingress, listener: TcpListener) -> std::io::Result<ListenerId> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let mut sockets = self.shared.sockets();
        if sockets.is_over {
            return Err(std::io::Error::new(std::io::ErrorKind::NotConnected, "the proxy has stopped"));
        }
        let id = ListenerId(sockets.next);
        sockets.next += 1;
        let closing = Arc::default();
        sockets.wanted.insert(id, Socket { ingress, address, listener: Some(listener), closing });
        drop(sockets);
        self.shared.sockets_changed.notify_one();
        Ok(id)
    }

    /// Whether each answer tells its client to close the connection (`Connection: close`, RFC 9112 §9.6), as when the
    /// address has moved to another node: clients come back there with their next request, and none is cut. Goes on
    /// accepting. Says whether it is listening.
    pub fn set_closing(&self, id: ListenerId, closing: bool) -> bool {
        let sockets = self.shared.sockets();
        let socket = sockets.wanted.get(&id);
        socket.iter().for_each(|socket| socket.closing.store(closing, Ordering::Relaxed));
        socket.is_some()
    }

    /// Stops listening. What was accepted is drained as after a stop. Says whether it was listening.
    pub fn close(&self, id: ListenerId) -> bool {
        let known = self.shared.sockets().wanted.remove(&id).is_some();
        self.shared.sockets_changed.notify_one();
        known
    }

    /// The sockets that listen, and for whom.
    pub fn listening(&self) -> Vec<(ListenerId, Ingress, SocketAddr)> {
        let sockets = self.shared.sockets();
        sockets.wanted.iter().map(|(id, socket)| (*id, socket.ingress.clone(), socket.address)).collect()
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.shared.counters.read()
    }
}
