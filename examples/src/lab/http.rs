//! The two ends of the HTTP that the lab speaks: the demonstration application, and what the probe reads.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use futures_util::{StreamExt, stream};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lbcore::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The path of the long answer.
pub(super) const LONG_ANSWER: &str = "/long";
/// It comes in so many pieces of one byte,
const PIECES: u8 = 20;
/// one at the end of each of these spans.
pub(super) const PIECE_INTERVAL: Duration = Duration::from_millis(50);

/// Serves the application: answers each request with its version's name, and one for [`LONG_ANSWER`] for a second.
///
/// Prints `ready` when it listens. Ends only on an error.
pub(super) async fn serve(listen: Vec<SocketAddr>, version: String) -> io::Result<()> {
    let version = Bytes::from(version);
    let mut listeners = JoinSet::new();
    for address in listen {
        listeners.spawn(accept(TcpListener::bind(address).await?, version.clone()));
    }
    println!("ready");
    match listeners.join_next().await {
        Some(ended) => ended.map_err(io::Error::other)?,
        None => Ok(()),
    }
}

async fn accept(listener: TcpListener, version: Bytes) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let version = version.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    let version = version.clone();
                    async move {
                        Ok::<_, Infallible>(match request.uri().path() {
                            LONG_ANSWER => long_answer(),
                            _ => Response::new(Either::Left(Full::new(version))),
                        })
                    }
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// An answer in pieces. Its length is told first, so that a cut is seen.
fn long_answer<B: Body>() -> Response<Either<B, impl Body<Data = Bytes, Error = Infallible>>> {
    let pieces = stream::iter(0..PIECES).then(|_| async {
        tokio::time::sleep(PIECE_INTERVAL).await;
        Ok(Frame::data(Bytes::from_static(b".")))
    });
    let mut response = Response::new(Either::Right(StreamBody::new(Box::pin(pieces))));
    response.headers_mut().insert(CONTENT_LENGTH, u16::from(PIECES).into());
    response
}

/// What the bytes received so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// More bytes must come.
    Partial,
    /// A complete answer.
    Complete {
        /// The HTTP status.
        status: u16,
        /// The body, without the white space around it.
        body: String,
        /// Whether the server will close the connection.
        close: bool,
    },
    /// Not an answer that the probe understands.
    Malformed,
}

/// Reads an HTTP/1.1 answer with a `Content-Length`.
pub(super) fn parse(bytes: &[u8]) -> Answer {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Answer::Partial;
    };
    let Some(head) = bytes.get(..end).and_then(|head| std::str::from_utf8(head).ok()) else {
        return Answer::Malformed;
    };
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let mut length = None;
    let mut close = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            close = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let (Some(status), Some(length)) = (status, length) else { return Answer::Malformed };
    let body = bytes.get(end + 4..).unwrap_or_default();
    match body.get(..length) {
        None => Answer::Partial,
        Some(body) => {
            Answer::Complete { status, body: String::from_utf8_lossy(body).trim().to_owned(), close }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let complete = |status, body: &str, close| Answer::Complete { status, body: body.to_owned(), close };
        for (bytes, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nappv1", complete(200, "appv1", false)),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n appv1\n",
                complete(200, "appv1", true),
            ),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", complete(404, "", false)),
            ("", Answer::Partial),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nappv", Answer::Partial),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n", Answer::Partial),
            ("HTTP/1.1 200 OK\r\n\r\n", Answer::Malformed),
            ("SSH-2.0\r\n\r\n", Answer::Malformed),
            ("HTTP/1.1 x\r\ncontent-length: 0\r\n\r\n", Answer::Malformed),
        ] {
            assert_eq!(parse(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }
}
