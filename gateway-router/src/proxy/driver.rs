//! Sockets and tasks.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderValue, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lbcore::announce::Stop;
use lbcore::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::io::ClientStream;
use super::{Ingress, ListenerId, Shared, forward};

/// How long to pause when `accept` fails, which it does while there is no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often idle connections to endpoints are looked through.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// Runs a proxy. Nothing outlives [`run`](Self::run).
#[derive(Debug)]
pub struct Driver {
    shared: Arc<Shared>,
}

impl Driver {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Serves until `stop` is ready, then drains: it accepts what had already connected, answers the requests that
    /// are there with `Connection: close`, and returns when all are done or after
    /// [`Config::drain_timeout`](super::Config::drain_timeout). Both kinds of [`Stop`] end the same way, since nothing
    /// can be left in place.
    ///
    /// Must be called on a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Dropping it cuts all connections at once.
    pub async fn run(self, stop: impl Future<Output = Stop>) {
        let shared = &self.shared;
        let _over = Over(shared);
        let mut stop = pin!(stop);
        let mut sockets = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut sweep = tokio::time::interval(SWEEP_PERIOD);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = &mut stop => break,
                () = shared.sockets_changed.notified() => reconcile(shared, &mut sockets, &mut tasks),
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                _ = sweep.tick() => shared.pool.sweep(Instant::now()),
            }
        }
        drop(sockets);
        while tasks.join_next().await.is_some() {}
    }
}

/// Marks the end, however it comes.
struct Over<'s>(&'s Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let mut sockets = self.0.sockets();
        sockets.is_over = true;
        sockets.wanted.clear();
        drop(sockets);
        self.0.pool.retain(|_| false);
    }
}

/// Starts sockets that are new; dropping a sender ends those that are no longer wanted.
fn reconcile(
    shared: &Arc<Shared>,
    running: &mut BTreeMap<ListenerId, watch::Sender<()>>,
    tasks: &mut JoinSet<()>,
) {
    let mut sockets = shared.sockets();
    running.retain(|id, _| sockets.wanted.contains_key(id));
    for (id, socket) in &mut sockets.wanted {
        let Some(listener) = socket.listener.take() else { continue };
        let Ok(listener) = TcpListener::from_std(listener) else {
            shared.counters.accept_errors.add();
            continue;
        };
        let (sender, stop) = watch::channel(());
        running.insert(*id, sender);
        let closing = Arc::clone(&socket.closing);
        tasks.spawn(listen(Arc::clone(shared), socket.ingress.clone(), closing, listener, stop));
    }
}

/// Waits until the sender is gone.
async fn stopped(stop: &mut watch::Receiver<()>) {
    while stop.changed().await.is_ok() {}
}

/// Accepts until stopped, then drains what was accepted.
async fn listen(
    shared: Arc<Shared>,
    ingress: Ingress,
    closing: Arc<AtomicBool>,
    listener: TcpListener,
    mut stop: watch::Receiver<()>,
) {
    let ingress = Arc::new(ingress);
    let mut connections = JoinSet::new();
    // Accepted, while there are as many as there may be. Kept here: `select!` drops what it does not choose.
    let mut waiting: Option<Accepted> = None;
    let start = |(stream, client): Accepted, stop: &watch::Receiver<()>| {
        serve(Arc::clone(&shared), Arc::clone(&ingress), Arc::clone(&closing), stream, client, stop.clone())
    };
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = accept(&shared, &listener), if waiting.is_none() => waiting = accepted,
            Ok(permit) = Arc::clone(&shared.permits).acquire_owned(), if waiting.is_some() => {
                if let Some(accepted) = waiting.take() {
                    let serving = start(accepted, &stop);
                    connections.spawn(async move {
                        serving.await;
                        drop(permit);
                    });
                }
            }
        }
    }
    // Whoever has connected before the socket closes is answered.
    if let Some(accepted) = waiting {
        connections.spawn(start(accepted, &stop));
    }
    while let Poll::Ready(Ok(accepted)) = listener.poll_accept(&mut Context::from_waker(Waker::noop())) {
        connections.spawn(start(accepted, &stop));
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is left is cut when the set is dropped.
    let _ = tokio::time::timeout(shared.config.drain_timeout, drained).await;
}

/// A client's connection and its address.
type Accepted = (TcpStream, SocketAddr);

/// The next connection; `None` after a pause if there cannot be one now.
async fn accept(shared: &Shared, listener: &TcpListener) -> Option<Accepted> {
    match poll_fn(|cx| listener.poll_accept(cx)).await {
        Ok(accepted) => Some(accepted),
        Err(_) => {
            shared.counters.accept_errors.add();
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Serves one connection until its client or `stop` ends it.
async fn serve(
    shared: Arc<Shared>,
    ingress: Arc<Ingress>,
    closing: Arc<AtomicBool>,
    stream: TcpStream,
    client: SocketAddr,
    mut stop: watch::Receiver<()>,
) {
    shared.counters.accepted.add();
    shared.counters.open.add();
    let _open = Open(&shared);
    let _ = stream.set_nodelay(true);
    let config = &shared.config;
    let io = TokioIo::new(ClientStream::new(stream, config.stall_timeout));
    let service = service_fn(|request| async {
        let mut response = forward::serve(&shared, &ingress, client.ip(), request).await;
        if closing.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, Infallible>(response)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_header_size(config.max_header_bytes)
            .max_buf_size(config.max_header_bytes.max(8 * 1024))
            .serve_connection(io, service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if result.is_err() {
        shared.counters.connection_errors.add();
    }
}

/// Counts a connection while it is open.
struct Open<'s>(&'s Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.counters.open.sub();
    }
}
