//! Bodies on their way through. Nothing is buffered; a transfer that stands still for too long is broken off.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use lbcore::time::Instant;

use super::Shared;
use super::io::Stall;
use super::pool::Upstream;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The connection that it came from failed.
    #[error("the connection broke off")]
    Broken(#[source] hyper::Error),
    /// Nothing came for too long.
    #[error("the transfer stood still for too long")]
    Stalled,
}

/// The body of a request, from the client to the endpoint.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// There is none.
    Empty,
    /// As it comes in.
    Stream {
        /// From the client.
        incoming: Incoming,
        /// How long the client may pause.
        stall: Stall,
        /// Set whenever something was passed on.
        has_moved: Arc<AtomicBool>,
    },
}

impl RequestBody {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self::Stream { incoming, stall, has_moved } = &mut *self else { return Poll::Ready(None) };
        has_moved.store(true, Ordering::Relaxed);
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                stall.moved();
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
            }
            Poll::Pending => stall.poll(cx).map(|()| Some(Err(BodyError::Stalled))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum ResponseBody {
    /// The gateway's own.
    Own(Option<Bytes>),
    /// An endpoint's. Boxed, since the gateway's own are small.
    Upstream(Box<UpstreamBody>),
}

/// An endpoint's body with the connection that it comes from.
#[derive(Debug)]
pub(super) struct UpstreamBody {
    incoming: Incoming,
    stall: Stall,
    /// Driven by whoever asks for the body; goes back to the pool at the body's end. Whoever drops the body
    /// before closes the connection.
    upstream: Option<Upstream>,
    shared: Arc<Shared>,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, upstream: Upstream, shared: Arc<Shared>) -> Self {
        let stall = Stall::new(shared.config.stall_timeout);
        let mut body = Self { incoming, stall, upstream: Some(upstream), shared };
        body.release_at_end();
        body
    }

    /// Gives the connection back once the body has ended.
    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        // It only has to notice that the exchange is over, which takes no waiting.
        if let Some(mut upstream) = self.upstream.take()
            && upstream.is_ready(&mut Context::from_waker(Waker::noop()))
        {
            self.shared.pool.put(upstream, Instant::now());
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if let Some(upstream) = &mut self.upstream {
            upstream.drive(cx);
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = match &mut *self {
            Self::Own(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Upstream(body) => body,
        };
        let Poll::Ready(frame) = body.poll_incoming(cx) else {
            ready!(body.stall.poll(cx));
            body.upstream = None;
            body.shared.counters.cut_short.add();
            return Poll::Ready(Some(Err(BodyError::Stalled)));
        };
        body.stall.moved();
        match frame {
            Some(Ok(frame)) => {
                body.release_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                body.upstream = None;
                body.shared.counters.cut_short.add();
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
            None => {
                body.release();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_none(),
            Self::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
