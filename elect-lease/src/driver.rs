//! The elector on tokio.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use lbcore::announce::Stop;
use lbcore::condition::Condition;
use lbcore::elect::lease::{Holder, Timing};
use lbcore::elect::{Candidacy, ElectorCapabilities, Hardware, LeaderElector, Ownership, Renewals};
use lbcore::id::NodeName;
use lbcore::time::{Clock, Instant, SystemClock};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::machine::{Answer, Event, Input, Machine, Operation, Request, RequestId, Settings, SettingsError};
use crate::store::{LeaseStore, StoreError};

/// How an elector is set up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// This node's name; no two running nodes have the same.
    pub node: NodeName,
    /// What the keys of all records begin with, without the final `/`. Nodes with the same prefix elect together.
    pub prefix: String,
    /// The lease of each node. Its duration is how long a dead node's roles stay without an owner, and how long an
    /// outage of the store may last before all owners fall silent. The same on all nodes.
    pub timing: Timing,
    /// How long announcers act on after the last word from the elector, at most: the time for which nobody answers
    /// when a role moves as planned. [`LeaderElector::renewals`] changes four times within it.
    pub handover: Duration,
    /// How long handing over and releasing may take when the driver stops.
    pub farewell: Duration,
    /// Where the time is read.
    pub clock: Arc<dyn Clock>,
}

impl Config {
    /// Leases of three seconds, hand-overs of 200 ms, three seconds to say farewell, under the prefix `lbcore`.
    pub fn new(node: impl Into<NodeName>) -> Self {
        Self {
            node: node.into(),
            prefix: "lbcore".to_owned(),
            timing: Timing::of(Duration::from_secs(3)),
            handover: Duration::from_millis(200),
            farewell: Duration::from_secs(3),
            clock: Arc::new(SystemClock),
        }
    }
}

/// Why an elector could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The configuration cannot work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// Why a driver could not end as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The others were not told in time.
    #[error(
        "the store did not take this node's farewell within {within:?}: its roles have no owner until its lease, \
         of {duration:?}, runs out"
    )]
    Farewell {
        /// How long was tried.
        within: Duration,
        /// The duration of the lease.
        duration: Duration,
    },
}

/// A [`LeaderElector`] over a [`LeaseStore`].
///
/// Lives as long as its [`Driver`] runs. After that it owns nothing.
#[derive(Debug)]
pub struct LeaseElector {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    candidacy: watch::Sender<Arc<Candidacy>>,
    hardware: watch::Sender<Arc<Hardware>>,
    ownership: watch::Sender<Arc<Ownership>>,
    renewals: watch::Sender<Renewals>,
    conditions: watch::Sender<Vec<Condition>>,
}

impl LeaseElector {
    /// An elector and the driver that must run for it.
    ///
    /// # Errors
    /// If the configuration cannot work.
    pub fn new(config: Config, store: Arc<dyn LeaseStore>) -> Result<(Self, Driver), BuildError> {
        let Config { node, prefix, timing, handover, farewell, clock } = config;
        // Random, as each process hashes with keys of its own.
        let incarnation = RandomState::new().build_hasher().finish();
        let mut settings = Settings::new(Holder::new(node, incarnation));
        (settings.prefix, settings.timing) = (prefix, timing);
        settings.handover = handover;
        let machine = Machine::new(settings)?;
        let shared = Arc::new(Shared {
            candidacy: watch::Sender::new(Arc::default()),
            hardware: watch::Sender::new(Arc::default()),
            ownership: watch::Sender::new(Arc::default()),
            renewals: watch::Sender::new(Renewals::default()),
            conditions: watch::Sender::new(Vec::new()),
        });
        let driver = Driver {
            shared: shared.clone(),
            machine,
            store,
            clock,
            farewell,
            duration: timing.duration,
            timeout: timing.timeout,
        };
        Ok((Self { shared }, driver))
    }
}

impl LeaderElector for LeaseElector {
    fn set_candidacy(&self, mine: Arc<Candidacy>) {
        self.shared.candidacy.send_replace(mine);
    }

    /// They are in this node's record, and reach the others with its next renewal.
    fn set_hardware(&self, hardware: Hardware) {
        self.shared.hardware.send_replace(Arc::new(hardware));
    }

    fn ownership(&self) -> watch::Receiver<Arc<Ownership>> {
        self.shared.ownership.subscribe()
    }

    fn renewals(&self) -> watch::Receiver<Renewals> {
        self.shared.renewals.subscribe()
    }

    /// `StoreAvailable`, `LeaseHeld` and `RecordsValid`, each with a reason and what it means.
    fn conditions(&self) -> watch::Receiver<Vec<Condition>> {
        self.shared.conditions.subscribe()
    }

    /// At most one owner even in a partition, and roles are spread.
    fn capabilities(&self) -> ElectorCapabilities {
        ElectorCapabilities::new(true, true)
    }
}

/// Runs a [`LeaseElector`].
#[derive(Debug)]
#[must_use = "an elector owns nothing unless its driver runs"]
pub struct Driver {
    shared: Arc<Shared>,
    machine: Machine,
    store: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    farewell: Duration,
    duration: Duration,
    timeout: Duration,
}

impl Driver {
    /// Runs until `stop` is ready. With [`Stop::Withdraw`] this node then stops acting on its roles, hands them to the others
    /// and releases its lease, within [`Config::farewell`]. With [`Stop::Preserve`] it ends at once and leaves
    /// its roles to whoever is there when its lease has run out. Nothing outlives the call.
    ///
    /// # Errors
    /// If the store did not take the farewell in time. This node has stopped acting all the same.
    ///
    /// # Cancel safety
    /// Dropping it ends it as [`Stop::Preserve`] does.
    pub async fn run(mut self, stop: impl Future<Output = Stop>) -> Result<(), RunError> {
        let _silence = Silence(self.shared.clone());
        let mut candidacy = self.shared.candidacy.subscribe();
        candidacy.mark_changed();
        let mut hardware = self.shared.hardware.subscribe();
        hardware.mark_changed();
        let mut calls: JoinSet<(RequestId, Answer)> = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        let mut leave_by: Option<Instant> = None;
        self.machine.handle_timeout(self.clock.now());
        loop {
            while let Some(request) = self.machine.poll_output() {
                calls.spawn(call(self.store.clone(), request, self.timeout));
            }
            while let Some(event) = self.machine.poll_event() {
                if self.publish(event) {
                    return Ok(());
                }
            }
            let now = self.clock.now();
            if leave_by.is_some_and(|by| now >= by) {
                return Err(RunError::Farewell { within: self.farewell, duration: self.duration });
            }
            let due = [self.machine.poll_timeout(), leave_by].into_iter().flatten().min();
            let due = due.map_or(Duration::MAX, |due| due.saturating_since(now));
            // `Instant`s are finer than the timer: a little late is as good as never early.
            let sleep = tokio::time::sleep(due.min(Duration::from_secs(3600)));
            tokio::select! {
                biased;
                how = &mut stop, if leave_by.is_none() => match how {
                    Stop::Preserve => return Ok(()),
                    Stop::Withdraw => {
                        let now = self.clock.now();
                        leave_by = Some(now + self.farewell);
                        self.machine.handle(now, Input::Leave);
                    }
                },
                Ok(()) = candidacy.changed() => {
                    let mine = candidacy.borrow_and_update().clone();
                    self.machine.handle(self.clock.now(), Input::Candidacy(mine));
                }
                Ok(()) = hardware.changed() => {
                    let hardware = Hardware::clone(&hardware.borrow_and_update());
                    self.machine.handle(self.clock.now(), Input::Hardware(hardware));
                }
                Some(done) = calls.join_next() => {
                    // A store that panics has given no answer; the machine waits for it no longer than for any other.
                    if let Ok((id, answer)) = done {
                        self.machine.handle(self.clock.now(), Input::Answer { id, answer });
                    }
                }
                () = sleep => self.machine.handle_timeout(self.clock.now()),
            }
        }
    }

    /// Tells what is new. Answers whether the end has come.
    fn publish(&self, event: Event) -> bool {
        match event {
            Event::Ownership(ownership) => drop(self.shared.ownership.send_replace(ownership)),
            Event::Renewals(renewals) => drop(self.shared.renewals.send_replace(renewals)),
            Event::Conditions(conditions) => drop(self.shared.conditions.send_replace(conditions)),
            Event::Left => return true,
        }
        false
    }
}

/// Whose driver does not run owns nothing.
struct Silence(Arc<Shared>);

impl Drop for Silence {
    fn drop(&mut self) {
        self.0.ownership.send_if_modified(|ownership| {
            let owned = !ownership.mine.is_empty();
            if owned {
                let silent = Arc::make_mut(ownership);
                silent.mine.clear();
                silent.generation += 1;
            }
            owned
        });
        self.0.renewals.send_replace(Renewals::default());
    }
}

/// Asks the store, and waits for its answer no longer than the machine does.
async fn call(store: Arc<dyn LeaseStore>, request: Request, timeout: Duration) -> (RequestId, Answer) {
    let Request { id, operation } = request;
    let answer = async {
        match operation {
            Operation::List { prefix } => store.list(&prefix).await.map(Answer::Listed),
            Operation::Get { key, unless } => store.get(&key, unless.as_ref()).await.map(Answer::Fetched),
            Operation::Swap { key, expected, value } => {
                store.compare_and_swap(&key, expected.as_ref(), value).await.map(Answer::Swapped)
            }
        }
    };
    let answer = match tokio::time::timeout(timeout, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(StoreError::Conflict)) => Answer::Conflict,
        Ok(Err(error)) => Answer::Failed { message: chain(&error) },
        Err(_) => Answer::Failed { message: format!("no answer within {timeout:?}") },
    };
    (id, answer)
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
