//! Connections to endpoints, kept while they are idle.
//!
//! An endpoint's connection is not a task of its own: whoever uses it drives it, and while it is idle nobody does. That
//! it was closed meanwhile is seen when it is taken out.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use lbcore::time::Instant;
use tokio::net::TcpStream;

use super::body::RequestBody;

type BoxedConnection = Pin<Box<Connection<TokioIo<TcpStream>, RequestBody>>>;

/// An open connection to an endpoint.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) endpoint: SocketAddr,
    sender: SendRequest<RequestBody>,
    /// `None` once it has ended.
    connection: Option<BoxedConnection>,
}

impl Upstream {
    /// Connects.
    pub(super) async fn connect(endpoint: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        Ok(Self { endpoint, sender, connection: Some(Box::pin(connection)) })
    }

    /// Lets the connection read and write.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Whether the next request can be sent now.
    pub(super) fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.connection.is_some() && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }

    /// Sends `request`, and waits for the head of the answer or until `give_up` is ready.
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        mut give_up: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let mut response = pin!(self.sender.try_send_request(request));
        let connection = &mut self.connection;
        poll_fn(|cx| {
            if let Some(open) = connection
                && open.as_mut().poll(cx).is_ready()
            {
                *connection = None;
            }
            match response.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    Poll::Ready(result.map_err(|error| ExchangeError::Failed(Box::new(error))))
                }
                Poll::Pending => give_up(cx).map(|()| Err(ExchangeError::TimedOut)),
            }
        })
        .await
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// The connection failed. The request is in it if nothing of it was sent.
    Failed(Box<TrySendError<Request<RequestBody>>>),
    /// The endpoint took too long.
    TimedOut,
}

/// Idle connections by endpoint.
#[derive(Debug)]
pub(super) struct Pool {
    max_idle: usize,
    idle_timeout: Duration,
    idle: Mutex<BTreeMap<SocketAddr, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    upstream: Upstream,
    since: Instant,
}

impl Pool {
    pub(super) fn new(max_idle: usize, idle_timeout: Duration) -> Self {
        Self { max_idle, idle_timeout, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to `endpoint` that was not closed so far. The one used last comes first, so that the others
    /// can age.
    pub(super) fn take(&self, endpoint: SocketAddr, now: Instant) -> Option<Upstream> {
        loop {
            // The lock is held for a moment only, not while the connection is looked at.
            let idle = self.idle().get_mut(&endpoint)?.pop()?;
            let mut upstream = idle.upstream;
            if now.saturating_since(idle.since) < self.idle_timeout
                && upstream.is_ready(&mut Context::from_waker(Waker::noop()))
            {
                return Some(upstream);
            }
        }
    }

    /// Keeps `upstream` for the next request, if there is room.
    pub(super) fn put(&self, upstream: Upstream, now: Instant) {
        if self.max_idle == 0 {
            return;
        }
        let mut all = self.idle();
        let idle = all.entry(upstream.endpoint).or_default();
        if idle.len() >= self.max_idle {
            idle.remove(0);
        }
        idle.push(Idle { upstream, since: now });
    }

    /// Closes what was idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        let is_young = |idle: &Idle| now.saturating_since(idle.since) < self.idle_timeout;
        self.idle().retain(|_, idle| {
            idle.retain(is_young);
            !idle.is_empty()
        });
    }

    /// Closes what leads to other endpoints.
    pub(super) fn retain(&self, keep: impl Fn(&SocketAddr) -> bool) {
        self.idle().retain(|endpoint, _| keep(endpoint));
    }
}
