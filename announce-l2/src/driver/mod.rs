//! The driver: the thin loop between a [`Responder`] and a segment, on tokio.

#[cfg(feature = "datalink")]
#[cfg_attr(docsrs, doc(cfg(feature = "datalink")))]
pub mod datalink;
mod io;
pub mod segment;
#[cfg_attr(
    not(any(target_os = "linux", feature = "datalink")),
    expect(dead_code, reason = "selects among interfaces that only those know")
)]
mod select;

#[cfg(target_os = "linux")]
mod linux;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use lbcore::announce::{AnnounceSet, AnnounceStatus, Announcer, AnnouncerCapabilities, Stop};
use lbcore::elect::LeaseId;
use lbcore::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

pub use self::io::{BATCH, Batch, FrameIo, Interest, IoCounters, MAX_RECEIVED};
pub use self::select::InterfaceFilter;
#[cfg(target_os = "linux")]
pub use linux::{BuildError, Config, KernelAnswer, PacketIo, check_permission, kernel_answers};

use crate::machine::{self, Claimant, Counters, Event, Input, Interface, Responder, Transmit};

/// What the announcer and its driver have in common.
#[derive(Debug)]
struct Shared {
    mailbox: Mutex<Mailbox>,
    news: Notify,
    status: watch::Sender<Arc<AnnounceStatus>>,
    interfaces: watch::Sender<Arc<[Interface]>>,
    counters: watch::Sender<Counters>,
    io_counters: watch::Sender<IoCounters>,
}

/// What the announcer was told and the driver has not taken yet: of each kind the latest only, so it does not grow
/// with the number of calls.
#[derive(Debug, Default)]
struct Mailbox {
    desired: Option<Arc<AnnounceSet>>,
    renewals: BTreeMap<LeaseId, Instant>,
    closed: bool,
}

impl Shared {
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        // Nothing panics while it is held, and a value half written would still be a value.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, tell: impl FnOnce(&mut Mailbox)) {
        let mut mailbox = self.mailbox();
        if !mailbox.closed {
            tell(&mut mailbox);
            drop(mailbox);
            self.news.notify_one();
        }
    }
}

/// Announces addresses on a segment: the handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct L2Announcer {
    shared: Arc<Shared>,
}

impl L2Announcer {
    /// An announcer on the machine's own interfaces, and the driver that does its work. To be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`BuildError`] tells what the process lacks: CAP_NET_RAW, or a tokio runtime.
    #[cfg(target_os = "linux")]
    pub fn new(config: Config) -> Result<(Self, Driver<PacketIo>), BuildError> {
        let io = PacketIo::open(&config)?;
        Ok(Self::with_io(config.machine, io))
    }

    /// An announcer on any segment.
    pub fn with_io<IO: FrameIo>(config: machine::Config, io: IO) -> (Self, Driver<IO>) {
        let (status, _) = watch::channel(Arc::default());
        let (interfaces, _) = watch::channel(Arc::from(io.interfaces()));
        let (counters, _) = watch::channel(Counters::default());
        let (io_counters, _) = watch::channel(io.counters());
        let mailbox = Mutex::default();
        let shared =
            Arc::new(Shared { mailbox, news: Notify::new(), status, interfaces, counters, io_counters });
        let driver = Driver { shared: shared.clone(), machine: Responder::new(config), io };
        (Self { shared }, driver)
    }

    /// The interfaces that are worked on, with their hardware addresses and whether they are up: what a node tells
    /// the others of itself, and what it takes into account when it says that it is eligible.
    pub fn interfaces(&self) -> watch::Receiver<Arc<[Interface]>> {
        self.shared.interfaces.subscribe()
    }

    /// What happened to frames, by reason. Published at most once a second, and at the end.
    pub fn counters(&self) -> watch::Receiver<Counters> {
        self.shared.counters.subscribe()
    }

    /// What happened at the sockets. Published together with [`counters`](Self::counters).
    pub fn io_counters(&self) -> watch::Receiver<IoCounters> {
        self.shared.io_counters.subscribe()
    }
}

impl Announcer for L2Announcer {
    fn set_desired(&self, desired: Arc<AnnounceSet>) {
        self.shared.tell(|mailbox| {
            if mailbox.desired.as_ref().is_none_or(|known| known.generation <= desired.generation) {
                mailbox.desired = Some(desired);
            }
        });
    }

    fn renew(&self, lease: LeaseId, until: Instant) {
        self.shared.tell(|mailbox| {
            let known = mailbox.renewals.entry(lease).or_default();
            *known = until.max(*known);
        });
    }

    fn status(&self) -> watch::Receiver<Arc<AnnounceStatus>> {
        self.shared.status.subscribe()
    }

    /// Every announcement needs a lease, since one node at a time may answer for an address on a segment; and nobody
    /// answers when the process is gone, so nothing can be preserved.
    fn capabilities(&self) -> AnnouncerCapabilities {
        AnnouncerCapabilities::new(false, false)
    }
}

/// Why [`Driver::run`] ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The segment cannot be read any more. A single interface that fails is a condition, not an error.
    #[error("reading from the segment failed")]
    Receive(#[source] std::io::Error),
    /// The segment cannot be written to any more.
    #[error("writing to the segment failed")]
    Send(#[source] std::io::Error),
}

/// Does the work of an [`L2Announcer`] while it [runs](Self::run).
#[derive(Debug)]
pub struct Driver<IO> {
    shared: Arc<Shared>,
    machine: Responder,
    io: IO,
}

/// What woke the driver.
enum Wake {
    Told,
    Received,
    Sent(usize),
    Due,
    Stopped,
}

/// How often counters are published at most.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);

impl<IO: FrameIo> Driver<IO> {
    /// Announces until `stop` is ready, then goes silent, publishes the empty status and returns, at once: there is
    /// nothing to withdraw on a segment but one's own voice. [`Stop::Preserve`] cannot preserve anything.
    ///
    /// # Cancel safety
    /// Dropping the future silences the announcer and publishes the empty status as well.
    ///
    /// # Errors
    /// [`RunError`] if the sockets fail as a whole; the announcer is silent then.
    pub async fn run(self, stop: impl Future<Output = Stop>) -> Result<(), RunError> {
        let Self { shared, mut machine, mut io } = self;
        // Whatever ends this future, the status is empty afterwards.
        let _silence = Silence(shared.clone());
        let mut stop = pin!(stop);
        let mut batch = Batch::new();
        let mut unsent: Vec<Transmit> = Vec::with_capacity(BATCH);
        let (mut status_version, mut watch_version) = (None, None);
        let mut interest = None;
        let mut counters_at = Instant::ZERO;

        machine.handle(io.now(), Input::Interfaces(&io.interfaces()));
        loop {
            // What is wanted is attended to before it is announced, so that no question is missed.
            if watch_version.replace(machine.watch_version()) != Some(machine.watch_version()) {
                let mut addresses: Vec<_> = machine.watched().collect();
                addresses.sort_unstable();
                addresses.dedup();
                let wanted = Some(Interest { addresses, groups: machine.groups().clone() });
                // A takeover by a prepared candidate changes nothing here.
                if wanted != interest {
                    wanted.iter().for_each(|wanted| io.attend(wanted));
                    interest = wanted;
                }
            }
            while let Some((interface, group)) = machine.poll_join() {
                io.join(interface, group);
            }
            while unsent.len() < BATCH
                && let Some(transmit) = machine.poll_output()
            {
                unsent.push(transmit);
            }
            while let Some(event) = machine.poll_event() {
                report(&event);
            }
            if unsent.is_empty()
                && status_version.replace(machine.status_version()) != Some(machine.status_version())
            {
                publish(&shared, &machine, &io);
            }
            let now = io.now();
            let mut due = machine.poll_timeout();
            let counted = *machine.counters() != *shared.counters.borrow()
                || io.counters() != *shared.io_counters.borrow();
            if counted {
                if now >= counters_at {
                    counters_at = now + COUNTERS_EVERY;
                    shared.counters.send_replace(*machine.counters());
                    shared.io_counters.send_replace(io.counters());
                } else {
                    due = Some(due.map_or(counters_at, |due| due.min(counters_at)));
                }
            }
            let timeout = due.map(|due| due.saturating_since(now));
            let wake = poll_fn(|cx| {
                // Of a frame whose time has passed while the segment was congested nothing is sent.
                if !unsent.is_empty() {
                    let now = io.now();
                    let before = unsent.len();
                    unsent.retain(|transmit| now < transmit.deadline);
                    (unsent.len()..before).for_each(|_| machine.note_expired());
                    if unsent.is_empty() {
                        return Poll::Ready(Ok(Wake::Sent(0)));
                    }
                    if let Poll::Ready(sent) = io.poll_send(cx, &unsent) {
                        return Poll::Ready(sent.map(Wake::Sent).map_err(RunError::Send));
                    }
                }
                match io.poll_receive(cx, &mut batch) {
                    Poll::Ready(received) => {
                        Poll::Ready(received.map(|()| Wake::Received).map_err(RunError::Receive))
                    }
                    Poll::Pending => Poll::Pending,
                }
            });
            let sleep = async {
                match timeout {
                    Some(span) => tokio::time::sleep(span).await,
                    None => std::future::pending().await,
                }
            };
            let wake = tokio::select! {
                biased;
                _ = &mut stop => Wake::Stopped,
                () = shared.news.notified() => Wake::Told,
                () = sleep => Wake::Due,
                wake = wake => wake?,
            };
            let only_frames = match &wake {
                Wake::Received => !batch.interfaces_changed,
                Wake::Sent(_) => true,
                Wake::Told | Wake::Due | Wake::Stopped => false,
            };
            match wake {
                Wake::Stopped => {
                    machine.handle(io.now(), Input::Withdraw);
                    shared.counters.send_replace(*machine.counters());
                    shared.io_counters.send_replace(io.counters());
                    return Ok(());
                }
                Wake::Told => take_mail(&shared, &mut machine, &io),
                Wake::Due => machine.handle_timeout(io.now()),
                Wake::Sent(sent) => drop(unsent.drain(..sent.min(unsent.len()))),
                Wake::Received => {
                    if batch.interfaces_changed {
                        status_version = None;
                    }
                    take_batch(&shared, &mut machine, &io, &mut batch);
                }
            }
            if !only_frames {
                // What is not spoken for any more is not said late.
                let before = unsent.len();
                unsent.retain(|transmit| machine.may_send(transmit));
                (unsent.len()..before).for_each(|_| machine.note_expired());
            }
        }
    }
}

fn take_mail<IO: FrameIo>(shared: &Shared, machine: &mut Responder, io: &IO) {
    let (desired, renewals) = {
        let mut mailbox = shared.mailbox();
        (mailbox.desired.take(), std::mem::take(&mut mailbox.renewals))
    };
    let now = io.now();
    if let Some(desired) = desired {
        machine.handle(now, Input::Desired(desired));
    }
    for (lease, until) in renewals {
        machine.handle(now, Input::Renewed { lease, until });
    }
}

fn take_batch<IO: FrameIo>(shared: &Shared, machine: &mut Responder, io: &IO, batch: &mut Batch) {
    let now = io.now();
    if batch.interfaces_changed {
        let interfaces = io.interfaces();
        machine.handle(now, Input::Interfaces(&interfaces));
        if *interfaces != **shared.interfaces.borrow() {
            shared.interfaces.send_replace(interfaces.into());
        }
    }
    for interface in &batch.reannounce {
        machine.handle(now, Input::Reannounce(*interface));
    }
    for frame in batch.frames() {
        machine.handle(now, Input::Frame(frame));
    }
    // What fell due meanwhile is not left waiting by a segment that is never quiet.
    if machine.poll_timeout().is_some_and(|due| due <= now) {
        machine.handle_timeout(now);
    }
    batch.clear();
}

fn publish<IO: FrameIo>(shared: &Shared, machine: &Responder, io: &IO) {
    let mut status = machine.status();
    status.conditions.extend(io.conditions());
    shared.status.send_if_modified(|known| {
        let changed = **known != status;
        if changed {
            *known = Arc::new(status);
        }
        changed
    });
}

fn report(event: &Event) {
    match event {
        Event::Gained { address, term } => tracing::info!(%address, %term, "announcing"),
        Event::Lost { address, why } => tracing::info!(%address, ?why, "silent"),
        Event::Conflict { address, interface, claimant: Claimant { mac, member: Some(node) } } => {
            tracing::info!(%address, %interface, %mac, %node, "a member of the cluster claims the address too");
        }
        Event::Conflict { address, interface, claimant: Claimant { mac, member: None } } => {
            tracing::warn!(%address, %interface, %mac, "a stranger claims the address too");
        }
    }
}

/// Publishes the empty status when it is dropped.
struct Silence(Arc<Shared>);

impl Drop for Silence {
    fn drop(&mut self) {
        *self.0.mailbox() = Mailbox { closed: true, ..Mailbox::default() };
        self.0.status.send_modify(|known| {
            let mut empty = AnnounceStatus::default();
            empty.generation = known.generation;
            *known = Arc::new(empty);
        });
    }
}

#[cfg(test)]
mod tests;
