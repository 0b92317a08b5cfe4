//! The handle, and the loop that connects the [`Speaker`] with the clock and with TCP.

mod engine;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lbcore::announce::{AnnounceSet, AnnounceStatus, Announcer, AnnouncerCapabilities, Stop};
use lbcore::elect::LeaseId;
use lbcore::id::PeerName;
use lbcore::time::Instant;
use thiserror::Error;
use tokio::sync::{Notify, watch};

use crate::config::{BgpConfig, BuildError, PeerConfig};
use crate::machine::{PeerStatus, Speaker};
use crate::transport::Tcp;
use engine::Engine;

/// Announces routes to BGP peers. Clones are the same announcer.
#[derive(Clone, Debug)]
pub struct BgpAnnouncer {
    shared: Arc<Shared>,
}

/// What the handle and the driver share.
struct Shared {
    local_as: u32,
    inbox: Mutex<Inbox>,
    /// Something is in the inbox.
    wake: Notify,
    status: watch::Sender<Arc<AnnounceStatus>>,
    peers: watch::Sender<Arc<BTreeMap<PeerName, PeerStatus>>>,
}

/// What was set and not taken in yet: the newest of each, so that it does not grow.
#[derive(Debug, Default)]
struct Inbox {
    desired: Option<Arc<AnnounceSet>>,
    renewals: BTreeMap<LeaseId, Instant>,
    peers: Option<Arc<[PeerConfig]>>,
}

impl Shared {
    fn new(local_as: u32) -> Self {
        Self {
            local_as,
            inbox: Mutex::default(),
            wake: Notify::new(),
            status: watch::Sender::default(),
            peers: watch::Sender::default(),
        }
    }

    /// No code panics while it holds the lock, so that a poisoned one cannot be.
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("local_as", &self.local_as).finish_non_exhaustive()
    }
}

impl BgpAnnouncer {
    /// A handle, and the driver to [run](Driver::run).
    ///
    /// # Errors
    /// The first thing that is wrong with the configuration.
    pub fn new(config: BgpConfig) -> Result<(Self, Driver), BuildError> {
        let speaker = Speaker::new(Instant::now(), &config, RandomState::new().build_hasher().finish())?;
        let shared = Arc::new(Shared::new(config.local_as));
        Ok((Self { shared: shared.clone() }, Driver { speaker, listen: config.listen, shared }))
    }

    /// Replaces the peers. One whose configuration is unchanged keeps its session; one that changed is told so and
    /// connected to again; one that is missing is parted with. Never blocks.
    ///
    /// # Errors
    /// The first thing that is wrong with them; then nothing changes.
    pub fn set_peers(&self, peers: Arc<[PeerConfig]>) -> Result<(), BuildError> {
        Speaker::check_peers(self.shared.local_as, &peers)?;
        self.shared.inbox().peers = Some(peers);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// The sessions, for people to look at.
    pub fn peers(&self) -> watch::Receiver<Arc<BTreeMap<PeerName, PeerStatus>>> {
        self.shared.peers.subscribe()
    }
}

impl Announcer for BgpAnnouncer {
    fn set_desired(&self, desired: Arc<AnnounceSet>) {
        let mut inbox = self.shared.inbox();
        if inbox.desired.as_ref().is_none_or(|waiting| waiting.generation <= desired.generation) {
            inbox.desired = Some(desired);
        }
        drop(inbox);
        self.shared.wake.notify_one();
    }

    fn renew(&self, lease: LeaseId, until: Instant) {
        let mut inbox = self.shared.inbox();
        let known = inbox.renewals.entry(lease).or_default();
        *known = until.max(*known);
        drop(inbox);
        self.shared.wake.notify_one();
    }

    fn status(&self) -> watch::Receiver<Arc<AnnounceStatus>> {
        self.shared.status.subscribe()
    }

    /// Many nodes may announce an address at once. [`Stop::Preserve`] is not supported yet: it needs graceful restart
    /// (RFC 4724) at both ends.
    fn capabilities(&self) -> AnnouncerCapabilities {
        AnnouncerCapabilities::new(true, false)
    }
}

/// The loop of a [`BgpAnnouncer`].
#[must_use = "nothing is announced unless the driver runs"]
#[derive(Debug)]
pub struct Driver {
    speaker: Speaker,
    listen: Vec<SocketAddr>,
    shared: Arc<Shared>,
}

impl Driver {
    /// Runs until `stop` resolves. Then it withdraws every route, sends each peer a Cease (administrative shutdown),
    /// publishes a status without entries, and returns: within three seconds, whoever answers. [`Stop::Preserve`] is
    /// not supported (see [`capabilities`](Announcer::capabilities)) and does the same.
    ///
    /// # Errors
    /// [`DriverError::Listen`], before anything was said to anybody.
    ///
    /// # Cancel safety
    /// If it is dropped, all connections are closed without a farewell. Peers withdraw the routes by themselves, as
    /// they do when the process dies.
    pub async fn run(self, stop: impl Future<Output = Stop>) -> Result<(), DriverError> {
        let tcp = Tcp::bind(self.shared.local_as, &self.listen)
            .map_err(|(address, source)| DriverError::Listen { address, source })?;
        Engine::new(tcp, self.speaker, self.shared, Instant::now).run(stop).await;
        Ok(())
    }
}

/// Why a driver could not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DriverError {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}; another BGP speaker may hold it (then choose another address, or none), or the \
         process may not bind ports below 1024"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}
