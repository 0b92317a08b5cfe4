//! The handle, and what ties it to a [`Machine`].

use std::sync::Arc;

use lbcore::condition::Condition;
use lbcore::elect::{Candidacy, ElectorCapabilities, Hardware, LeaderElector, Ownership, Renewals};
use lbcore::time::Instant;
use tokio::sync::watch;

use crate::config::Keyring;
use crate::machine::{Counters, Event, Input, Machine, Notice};

/// A [`LeaderElector`] that needs no server. See the [crate](crate).
///
/// Cheap to clone; all clones are one elector. It acts only while its driver runs: without one it owns nothing.
#[derive(Clone, Debug)]
pub struct GossipElector {
    shared: Arc<Shared>,
}

/// What the handle tells the machine, and the machine the handle.
#[derive(Debug)]
struct Shared {
    candidacy: watch::Sender<Arc<Candidacy>>,
    hardware: watch::Sender<Arc<Hardware>>,
    keys: watch::Sender<Option<Keyring>>,
    ownership: watch::Sender<Arc<Ownership>>,
    renewals: watch::Sender<Renewals>,
    conditions: watch::Sender<Vec<Condition>>,
    counters: watch::Sender<Counters>,
}

impl GossipElector {
    /// A handle, and the other end of it: for drivers of one's own. Everybody else takes
    /// [`GossipElector::new`](GossipElector::new), which needs the feature `tokio`.
    pub fn detached() -> (Self, Attachment) {
        let shared = Arc::new(Shared {
            candidacy: watch::Sender::default(),
            hardware: watch::Sender::default(),
            keys: watch::Sender::default(),
            ownership: watch::Sender::default(),
            renewals: watch::Sender::default(),
            conditions: watch::Sender::default(),
            counters: watch::Sender::default(),
        });
        let attachment = Attachment {
            candidacy: shared.candidacy.subscribe(),
            hardware: shared.hardware.subscribe(),
            keys: shared.keys.subscribe(),
            shared: shared.clone(),
        };
        (Self { shared }, attachment)
    }

    /// Replaces the keys. See [`Keyring`] on how to do that without an interruption.
    pub fn set_keys(&self, keys: Keyring) {
        self.shared.keys.send_replace(Some(keys));
    }

    /// What was received, sent and dropped, as of a heartbeat ago.
    pub fn counters(&self) -> Counters {
        *self.shared.counters.borrow()
    }
}

impl LeaderElector for GossipElector {
    fn set_candidacy(&self, mine: Arc<Candidacy>) {
        self.shared.candidacy.send_replace(mine);
    }

    /// Not to change with every packet: each change is told to all members.
    fn set_hardware(&self, hardware: Hardware) {
        self.shared.hardware.send_if_modified(|known| {
            let changed = **known != hardware;
            if changed {
                *known = Arc::new(hardware);
            }
            changed
        });
    }

    fn ownership(&self) -> watch::Receiver<Arc<Ownership>> {
        self.shared.ownership.subscribe()
    }

    fn renewals(&self) -> watch::Receiver<Renewals> {
        self.shared.renewals.subscribe()
    }

    /// `NodeNamesUnique` and `KeyShared`, while another node has a name that is taken, or another key; `SeedsReachable`,
    /// while nobody was ever met at a seed, or its name cannot be resolved.
    fn conditions(&self) -> watch::Receiver<Vec<Condition>> {
        self.shared.conditions.subscribe()
    }

    fn capabilities(&self) -> ElectorCapabilities {
        ElectorCapabilities::new(false, true)
    }
}

/// The driver's end of a [`GossipElector`]. When it is dropped, the elector owns nothing any more.
#[derive(Debug)]
pub struct Attachment {
    shared: Arc<Shared>,
    candidacy: watch::Receiver<Arc<Candidacy>>,
    hardware: watch::Receiver<Arc<Hardware>>,
    keys: watch::Receiver<Option<Keyring>>,
}

impl Attachment {
    /// Hands to `machine` what was set on the handle since the last call.
    pub fn feed(&mut self, machine: &mut Machine, now: Instant) {
        if self.candidacy.has_changed().unwrap_or(false) {
            let mine = self.candidacy.borrow_and_update().clone();
            machine.handle(now, Input::Candidacy(mine));
        }
        if self.hardware.has_changed().unwrap_or(false) {
            let hardware = self.hardware.borrow_and_update().clone();
            machine.handle(now, Input::Hardware((*hardware).clone()));
        }
        if self.keys.has_changed().unwrap_or(false) {
            let keys = self.keys.borrow_and_update().clone();
            if let Some(keys) = keys {
                machine.handle(now, Input::Keys(keys));
            }
        }
    }

    /// Passes on all events of `machine`; `notice` gets those for the log. True once the machine has
    /// [left](Event::Left). To be called before [`Machine::poll_output`].
    pub fn drain(&mut self, machine: &mut Machine, mut notice: impl FnMut(Notice)) -> bool {
        let mut left = false;
        while let Some(event) = machine.poll_event() {
            match event {
                Event::Ownership(ownership) => {
                    self.shared.ownership.send_replace(ownership);
                }
                Event::Renewals(renewals) => {
                    self.shared.renewals.send_replace(renewals);
                }
                Event::Conditions(conditions) => {
                    self.shared.conditions.send_replace(conditions);
                }
                Event::Notice(what) => notice(what),
                Event::Left => left = true,
            }
        }
        left
    }

    /// Lets the handle see the counters.
    pub fn count(&self, machine: &Machine) {
        self.shared.counters.send_replace(machine.counters());
    }

    /// Waits until something was set on the handle. Cancel safe.
    #[cfg(feature = "tokio")]
    pub(crate) async fn changed(&mut self) {
        // The senders live as long as `shared`.
        tokio::select! {
            _ = self.candidacy.changed() => self.candidacy.mark_changed(),
            _ = self.hardware.changed() => self.hardware.mark_changed(),
            _ = self.keys.changed() => self.keys.mark_changed(),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let empty = |known: &mut Arc<Ownership>| {
            let mut none = Ownership::default();
            none.generation = known.generation + 1;
            none.candidacy = known.candidacy;
            *known = Arc::new(none);
        };
        self.shared.ownership.send_modify(empty);
        self.shared.renewals.send_replace(Renewals::default());
    }
}
