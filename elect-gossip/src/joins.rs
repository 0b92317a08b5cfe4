//! How a driver finds others: by names in the DNS, and in multicast groups.

use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use lbcore::time::{Duration, Instant};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::{self, JoinSet};

use crate::config::{BuildError, Seed};
use crate::machine::{Input, Machine};

/// How a name is resolved. Behind a trait so that tests need no DNS.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// All addresses of `host`, each with `port`.
    ///
    /// # Errors
    /// Whatever the resolver says. It is told to the operator, and the name is tried again.
    fn resolve(
        &self,
        host: &str,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
}

/// The system's resolver, by tokio.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(
        &self,
        host: &str,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Between two attempts while nobody was met at a name, and afterwards.
const SEARCH: Duration = Duration::from_secs(3);
const REFRESH: Duration = Duration::from_secs(60);

/// A resolver that has not answered after so long is asked anew.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many addresses of a name are taken.
const MOST_ADDRESSES: usize = 256;

/// The seeds that are names, and what they are resolved to.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) resolver: Arc<dyn Resolve>,
    /// The seeds that are addresses.
    fixed: Vec<SocketAddr>,
    names: Vec<Name>,
    lookups: JoinSet<(usize, io::Result<Vec<SocketAddr>>)>,
    /// What the lookups that ended say.
    answers: Vec<(usize, io::Result<Vec<SocketAddr>>)>,
}

#[derive(Debug)]
struct Name {
    host: String,
    port: u16,
    addresses: BTreeSet<SocketAddr>,
    /// When it is to be resolved next; `None` while it is.
    due: Option<Instant>,
    /// Who resolves it, or did last.
    asking: Option<task::Id>,
}

impl Names {
    pub(crate) fn new(seeds: &[Seed], resolver: Arc<dyn Resolve>) -> Self {
        let (mut fixed, mut names) = (Vec::new(), Vec::new());
        for seed in seeds {
            match seed {
                Seed::Address(address) => fixed.push(*address),
                Seed::Name { host, port } => names.push(Name {
                    host: host.clone(),
                    port: *port,
                    addresses: BTreeSet::new(),
                    due: Some(Instant::ZERO),
                    asking: None,
                }),
            }
        }
        Self { resolver, fixed, names, lookups: JoinSet::new(), answers: Vec::new() }
    }

    /// Asks for what is due, and tells `machine` what was answered.
    pub(crate) fn tend(&mut self, machine: &mut Machine, now: Instant) {
        let mut changed = false;
        for (number, answer) in std::mem::take(&mut self.answers) {
            let Some(name) = self.names.get_mut(number) else { continue };
            let seed = format!("{}:{}", name.host, name.port);
            match answer {
                Ok(addresses) if addresses.is_empty() => {
                    machine.handle(now, Input::Unresolved { seed: &seed, why: "it has no address" });
                }
                Ok(addresses) => {
                    let addresses = addresses.into_iter().filter(|address| !address.ip().is_multicast());
                    let addresses = addresses.take(MOST_ADDRESSES).collect();
                    changed |= name.addresses != addresses;
                    name.addresses = addresses;
                }
                // What was known before is kept.
                Err(error) => {
                    machine.handle(now, Input::Unresolved { seed: &seed, why: &error.to_string() });
                }
            }
            let met = name.addresses.iter().any(|address| machine.has_met(*address));
            name.due = Some(now + if met { REFRESH } else { SEARCH });
        }
        if changed {
            let resolved = self.names.iter().flat_map(|name| &name.addresses);
            let seeds: Vec<_> = self.fixed.iter().chain(resolved).copied().collect();
            machine.handle(now, Input::Seeds(&seeds));
        }
        for (number, name) in self.names.iter_mut().enumerate() {
            if name.due.is_some_and(|due| due <= now) {
                name.due = None;
                let (resolver, host, port) = (self.resolver.clone(), name.host.clone(), name.port);
                let task = self.lookups.spawn(async move {
                    let asked = resolver.resolve(&host, port);
                    let late =
                        |_| Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer"));
                    (number, tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(late))
                });
                name.asking = Some(task.id());
            }
        }
    }

    /// When [`tend`](Self::tend) is to be called next.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.names.iter().filter_map(|name| name.due).min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// Waits until a resolver has answered. Cancel safe.
    pub(crate) async fn answered(&mut self) {
        match self.lookups.join_next().await {
            Some(Ok(answer)) => self.answers.push(answer),
            Some(Err(panic)) => {
                let asking = self.names.iter().position(|name| name.asking == Some(panic.id()));
                if let Some(number) = asking {
                    self.answers.push((number, Err(io::Error::other("the resolver panicked"))));
                }
            }
            None => std::future::pending().await,
        }
    }
}

/// Sockets that listen to multicast groups.
#[derive(Debug)]
pub(crate) struct Groups<S = StdSocket>(Vec<S>);

impl Groups {
    /// Joins the groups among `seeds` on the interface of `bound`, and lets `socket` speak to them there.
    pub(crate) fn join(socket: &StdSocket, bound: SocketAddr, seeds: &[Seed]) -> Result<Self, BuildError> {
        let groups: BTreeSet<_> = seeds
            .iter()
            .filter_map(|seed| match seed {
                Seed::Address(address) => Some(*address).filter(|address| address.ip().is_multicast()),
                Seed::Name { .. } => None,
            })
            .collect();
        let joined = groups.into_iter().map(|group| {
            join(socket, bound, group).map_err(|source| BuildError::Join { group, bind: bound, source })
        });
        Ok(Self(joined.collect::<Result<_, _>>()?))
    }

    pub(crate) fn register(self) -> io::Result<Groups<UdpSocket>> {
        Ok(Groups(self.0.into_iter().map(UdpSocket::from_std).collect::<Result<_, _>>()?))
    }
}

impl Groups<UdpSocket> {
    /// Hands over up to `most` datagrams of each group.
    pub(crate) fn receive(&self, most: usize, buffer: &mut [u8], mut take: impl FnMut(SocketAddr, &[u8])) {
        for socket in &self.0 {
            for _ in 0..most {
                match socket.try_recv_from(buffer) {
                    Ok((length, from)) => take(from, buffer.get(..length).unwrap_or_default()),
                    // A group that is lost is told by nobody answering there.
                    Err(_) => break,
                }
            }
        }
    }

    /// Waits until something arrived in a group. Cancel safe.
    pub(crate) async fn readable(&self) {
        poll_fn(|context| {
            let ready = |socket: &UdpSocket| matches!(socket.poll_recv_ready(context), Poll::Ready(Ok(())));
            // All are asked, so that each wakes us.
            if self.0.iter().map(ready).fold(false, |any, one| any | one) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

fn join(speaker: &StdSocket, bound: SocketAddr, group: SocketAddr) -> io::Result<StdSocket> {
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    // Other nodes on this machine listen there too.
    socket.set_reuse_address(true)?;
    let speaker = SockRef::from(speaker);
    match (group, bound.ip()) {
        (SocketAddr::V4(group), IpAddr::V4(ours)) => {
            socket.join_multicast_v4(group.ip(), &ours)?;
            if ours != Ipv4Addr::UNSPECIFIED {
                speaker.set_multicast_if_v4(&ours)?;
            }
        }
        (SocketAddr::V6(group), IpAddr::V6(_)) => {
            socket.set_only_v6(true)?;
            socket.join_multicast_v6(group.ip(), group.scope_id())?;
            speaker.set_multicast_if_v6(group.scope_id())?;
        }
        _ => {
            let why = "the group and the address to listen at are not of one family";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
    }
    // To the group itself, so that nothing else arrives here.
    socket.bind(&group.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
