//! Which node owns what: the [`LeaderElector`] trait and its types.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use tokio::sync::watch;

use crate::condition::Condition;
use crate::id::{InterfaceName, NodeName, Role};
use crate::time::Instant;

pub mod lease;
mod solo;

pub use solo::Solo;

/// Elects an owner for each [`Role`] among the nodes that are candidates for it.
///
/// Level-triggered: a node says what it could own, and watches what it does own. All methods are synchronous,
/// never block, and are safe to call from anywhere; there is nothing to cancel.
///
/// ```
/// use std::net::IpAddr;
/// use std::sync::Arc;
/// use lbcore::elect::{Bid, Candidacy, LeaderElector, Solo};
/// use lbcore::id::Role;
///
/// /// Waits until this node owns `role`, by whatever elector.
/// async fn owned(elector: &dyn LeaderElector, role: &Role) -> bool {
///     let mut ownership = elector.ownership();
///     ownership.wait_for(|now| now.mine.contains_key(role)).await.is_ok()
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let elector = Solo::new("n1".into()); // alone: what it bids for it owns
/// let address = Role::Address(IpAddr::from([192, 0, 2, 10]));
/// elector.set_candidacy(Arc::new(Candidacy::new(1, [(address.clone(), Bid::default())])));
/// assert!(owned(&elector, &address).await);
///
/// // To hand it over: the same bid, but draining. To give it up: no bid.
/// elector.set_candidacy(Arc::new(Candidacy::new(2, [])));
/// assert!(elector.ownership().borrow().roles.is_empty());
/// # }
/// ```
///
/// # Contract
/// Binds implementors; [`conformance::elector`](crate::conformance) asserts it.
/// - At any moment at most one node holds an unexpired lease for a role, within the bounds that
///   [`capabilities`](Self::capabilities) state.
/// - A role whose owner died, drained or became ineligible gets a new owner among the eligible candidates.
/// - A role moves only if it must: its owner is gone, drains or is no longer eligible, or it carries more than
///   its even share (see [`spread`](crate::spread)).
/// - Each change of a role's owner raises its term.
/// - A lease that ran out, or that a node let go with the last role under it, is never used again: the same node gets
///   a new [`LeaseId`].
/// - What is published is whole: each change has a higher generation, and each role of [`Ownership::mine`] is among
///   [`Ownership::roles`] under this node's name, its lease among the renewals.
pub trait LeaderElector: fmt::Debug + Send + Sync {
    /// Replaces what this node is a candidate for. Roles that are missing are given up.
    fn set_candidacy(&self, mine: Arc<Candidacy>);

    /// Replaces this node's hardware addresses on the interfaces on which it announces: the others learn them by
    /// [`Member::hardware`], and tell this node's frames from a stranger's by them. Nothing moves by it.
    fn set_hardware(&self, hardware: Hardware);

    /// Who owns what, as this node knows it. The value is always complete; wait on it with
    /// `wait_for` and a predicate.
    fn ownership(&self) -> watch::Receiver<Arc<Ownership>>;

    /// Until when this node's own leases hold. Changes with every renewal, many times a second, and carries only
    /// time, so that nothing is planned anew: hand it to [`Announcer::renew`](crate::announce::Announcer::renew).
    fn renewals(&self) -> watch::Receiver<Renewals>;

    /// What stands in the way of the election and what would help: a store that cannot be reached, a name that two
    /// nodes have, a key that differs. Empty, or only of conditions that hold, if all is well.
    fn conditions(&self) -> watch::Receiver<Vec<Condition>>;

    /// What this elector can promise.
    fn capabilities(&self) -> ElectorCapabilities;
}

/// What this node could own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidacy {
    /// Raised by the caller with each change; [`Ownership::candidacy`] tells which one is in force.
    pub generation: u64,
    /// The bids, each for a role.
    pub bids: BTreeMap<Role, Bid>,
}

impl Candidacy {
    /// Bids for these roles.
    pub fn new(generation: u64, bids: impl IntoIterator<Item = (Role, Bid)>) -> Self {
        Self { generation, bids: bids.into_iter().collect() }
    }
}

/// A node's bid for a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Bid {
    /// How much this node is preferred for the role over others (MetalLB: the sum of the matching
    /// `preferredNodeSelectors`). The candidates with the highest preference are considered first.
    pub preference: u32,
    /// How much of the whole this node should carry, relative to the others' weights. At least 1.
    pub weight: u32,
    /// Whether the node could serve now. An ineligible node says so to give the role away at once.
    pub eligible: bool,
    /// Whether the node is about to leave: it keeps the role only until another one has it.
    pub draining: bool,
}

impl Default for Bid {
    fn default() -> Self {
        Self { preference: 0, weight: 1, eligible: true, draining: false }
    }
}

impl Bid {
    /// A plain bid with this preference.
    pub fn preferring(preference: u32) -> Self {
        Self { preference, ..Self::default() }
    }

    /// The same bid of a node that drains.
    #[must_use]
    pub fn draining(self) -> Self {
        Self { draining: true, ..self }
    }

    /// The same bid of a node that cannot serve now.
    #[must_use]
    pub fn ineligible(self) -> Self {
        Self { eligible: false, ..self }
    }
}

/// Counts the owners of a role: each new owner has a higher term than the one before. Fences a stale owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Term {
    /// The term of a role's first owner: as far as anybody knows, nobody owned it before.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}", self.0)
    }
}

/// One grant of time to this node. Never used again after it ran out, within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(NonZeroU64);

impl LeaseId {
    /// The first one; the others follow by [`next`](Self::next).
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("2^64 leases outlive the machine"))
    }

    /// Its number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {}", self.0)
    }
}

/// Who owns what, as one node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ownership {
    /// Raised with each change of this value.
    pub generation: u64,
    /// The generation of the [`Candidacy`] that this value takes into account.
    pub candidacy: u64,
    /// The nodes that are alive, with this one.
    pub members: BTreeMap<NodeName, Member>,
    /// The owned roles.
    pub roles: BTreeMap<Role, Owner>,
    /// The roles that this node owns, each with the lease that fences it. A role of [`roles`](Self::roles) that
    /// names this node but is not here is not (or no longer) to be acted upon.
    pub mine: BTreeMap<Role, LeaseId>,
}

/// A live node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Whether it is leaving.
    pub draining: bool,
    /// Its hardware address on each interface on which it announces, so that an announcer can tell a peer from a
    /// stranger.
    pub hardware: Hardware,
}

/// The hardware address of each interface.
pub type Hardware = BTreeMap<InterfaceName, [u8; 6]>;

/// The owner of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Owner {
    /// The node.
    pub node: NodeName,
    /// Its term.
    pub term: Term,
}

impl Owner {
    /// `node` owns the role since `term` began.
    pub fn new(node: NodeName, term: Term) -> Self {
        Self { node, term }
    }
}

/// Until when the leases of this node hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewals(pub BTreeMap<LeaseId, Instant>);

/// What an elector can promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElectorCapabilities {
    /// Whether a role has at most one owner even while the network is partitioned. Where it is `false`, each side
    /// of a partition has an owner.
    pub partition_safe: bool,
    /// Whether roles are spread over several nodes; a lone node owns everything.
    pub spreads: bool,
}

impl ElectorCapabilities {
    /// What is promised.
    pub const fn new(partition_safe: bool, spreads: bool) -> Self {
        Self { partition_safe, spreads }
    }
}
