//! A client's connection that does not wait for ever for a client that does not read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// A wait that is limited: armed when it begins, disarmed when something moves.
#[derive(Debug)]
pub(super) struct Stall {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_armed: bool,
}

impl Stall {
    pub(super) const fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, is_armed: false }
    }

    /// Something moved.
    pub(super) const fn moved(&mut self) {
        self.is_armed = false;
    }

    /// Nothing moves. Ready when that has lasted too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.is_armed {
            let now = tokio_now();
            sleep.as_mut().reset(now.checked_add(limit).unwrap_or(now));
            self.is_armed = true;
        }
        sleep.as_mut().poll(cx)
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver: the timer wheel is tokio's, and so is its clock")]
fn tokio_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// A stream whose writes fail if the peer takes nothing for too long.
#[derive(Debug)]
pub(super) struct ClientStream {
    stream: TcpStream,
    writing: Stall,
}

impl ClientStream {
    pub(super) const fn new(stream: TcpStream, limit: Duration) -> Self {
        Self { stream, writing: Stall::new(limit) }
    }

    fn limited<T>(
        &mut self,
        cx: &mut Context<'_>,
        operation: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match operation(Pin::new(&mut self.stream), cx) {
            Poll::Ready(result) => {
                self.writing.moved();
                Poll::Ready(result)
            }
            Poll::Pending if self.writing.poll(cx).is_ready() => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.limited(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.limited(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limited(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limited(cx, AsyncWrite::poll_shutdown)
    }
}
