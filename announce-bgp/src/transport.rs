//! Connections: the seam between the driver and TCP.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lbcore::addr::Family;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::config::PeerConfig;
use crate::wire::Peering;

/// Where connections come from. TCP, or pipes in tests.
pub(crate) trait Transport: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to `peer`; returns our own address as well. Cancelled by dropping it.
    fn connect(
        &self,
        peer: Arc<PeerConfig>,
    ) -> impl Future<Output = io::Result<(Self::Stream, IpAddr)>> + Send;

    /// The next one who calls. Cancel safe: a caller that was not returned is returned by the next call.
    fn accept(&self) -> impl Future<Output = io::Result<Caller<Self::Stream>>> + Send;

    /// Prepares a connection that was accepted from `peer`. `local_as` is ours.
    fn configure(&self, stream: &Self::Stream, peer: &PeerConfig) -> io::Result<()>;
}

/// Somebody who called.
#[derive(Debug)]
pub(crate) struct Caller<S> {
    pub(crate) stream: S,
    pub(crate) remote: SocketAddr,
    /// Our own address.
    pub(crate) local: IpAddr,
}

/// TCP.
pub(crate) struct Tcp {
    local_as: u32,
    listeners: Vec<TcpListener>,
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcp").field("listeners", &self.listeners.len()).finish_non_exhaustive()
    }
}

/// How many callers the kernel keeps waiting.
const BACKLOG: i32 = 128;

impl Tcp {
    /// Listens on `addresses`; on none, if there are none.
    ///
    /// # Errors
    /// The address that cannot be had, and why.
    pub(crate) fn bind(local_as: u32, addresses: &[SocketAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        let listen = |address: &SocketAddr| {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            if address.is_ipv6() {
                // Or it would take the IPv4 port as well.
                socket.set_only_v6(true)?;
            }
            // The connections of a former process may still linger.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&(*address).into())?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        };
        let listeners = addresses
            .iter()
            .map(|address| listen(address).map_err(|error| (*address, error)))
            .collect::<Result<_, _>>()?;
        Ok(Self { local_as, listeners })
    }

    /// Where it listens.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    fn options(&self, socket: &socket2::SockRef<'_>, peer: &PeerConfig) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        // The kernel's keepalives say at once that the other end has forgotten the connection.
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(30)))?;
        #[cfg(target_os = "linux")]
        if !peer.hold_time.is_zero() {
            // What the other end has not acknowledged by then, it never will; without this, a quarter of an hour.
            socket.set_tcp_user_timeout(Some(peer.hold_time))?;
        }
        let local_as = peer.local_as.unwrap_or(self.local_as);
        if peer.remote_as.peering(local_as) == Peering::External && !peer.multihop {
            match Family::of(peer.address) {
                Family::V4 => socket.set_ttl_v4(1)?,
                Family::V6 => socket.set_unicast_hops_v6(1)?,
            }
        }
        Ok(())
    }
}

impl Transport for Tcp {
    type Stream = TcpStream;

    async fn connect(&self, peer: Arc<PeerConfig>) -> io::Result<(TcpStream, IpAddr)> {
        let target = SocketAddr::new(peer.address, peer.port);
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        self.options(&(&socket).into(), &peer)?;
        if let Some(source) = peer.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        let stream = TcpSocket::from_std_stream(socket.into()).connect(target).await?;
        let local = stream.local_addr()?.ip();
        Ok((stream, local))
    }

    async fn accept(&self) -> io::Result<Caller<TcpStream>> {
        poll_fn(|context| {
            for listener in &self.listeners {
                if let Poll::Ready(accepted) = listener.poll_accept(context) {
                    return Poll::Ready(accepted.and_then(|(stream, remote)| {
                        let local = stream.local_addr()?.ip();
                        Ok(Caller { stream, remote, local })
                    }));
                }
            }
            // Without a listener: never.
            Poll::Pending
        })
        .await
    }

    fn configure(&self, stream: &TcpStream, peer: &PeerConfig) -> io::Result<()> {
        self.options(&stream.into(), peer)
    }
}
