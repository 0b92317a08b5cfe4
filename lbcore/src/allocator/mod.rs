//! Which address a Service or a Gateway gets: the [`IpAllocator`] trait and its types.
//!
//! [`PoolAllocator`] is the backend that this crate brings: MetalLB's rules, made deterministic.

mod free;
mod holders;
mod ledger;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod model;
mod numbering;
mod pool;
mod pool_allocator;
mod sharing;
mod stock;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use self::pool::{Pool, PoolError, PoolErrors, Pools, ServiceAllocation};
pub use self::pool_allocator::PoolAllocator;
use crate::addr::{AddressCount, Family};
use crate::id::{OwnerKey, PoolName};
use crate::labels::Labels;

/// Gives addresses to owners, out of pools.
///
/// Pure and deterministic: no I/O, no clock, no randomness. Equal sequences of calls give equal results, and
/// the choice for one request depends only on the pools and on what is allocated, never on the order of maps or
/// documents.
///
/// ```
/// use std::net::IpAddr;
/// use lbcore::allocator::{AllocRequest, IpAllocator, Pool, PoolAllocator, Pools};
/// use lbcore::id::OwnerKey;
///
/// let mut allocator: Box<dyn IpAllocator> = Box::new(PoolAllocator::new());
/// allocator.set_pools(&Pools::new([Pool::new("lan", ["192.0.2.10/31".parse()?])])?);
///
/// // What the world shows first, what is new then.
/// let web = AllocRequest::new(OwnerKey::service("shop", "web"));
/// allocator.adopt(&web, &["192.0.2.11".parse()?])?;
/// let api = AllocRequest::new(OwnerKey::service("shop", "api"));
/// assert_eq!(allocator.allocate(&api)?.addresses, [IpAddr::from([192, 0, 2, 10])]);
/// assert_eq!(allocator.allocate(&web)?.addresses, [IpAddr::from([192, 0, 2, 11])], "it stays");
///
/// // Why not, as a text for people and as a word for programs.
/// let mail = AllocRequest::new(OwnerKey::service("shop", "mail"));
/// let refused = allocator.allocate(&mail).unwrap_err();
/// assert_eq!(refused.reason(), "PoolExhausted", "{refused}");
///
/// allocator.release(&api.owner);
/// assert!(allocator.allocate(&mail).is_ok());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Contract
/// Binds implementors; [`conformance::allocator`](crate::conformance) asserts it.
/// - Every address of an allocation lies in the pool that it names, and the pool's rules permit it.
/// - An address has several owners only while all of them share it (see [`Sharing`]).
/// - A call that fails changes nothing.
/// - A call repeated with equal arguments gives an equal result and changes nothing.
/// - Only [`set_pools`](Self::set_pools) takes an address from an owner that did not ask for the change.
pub trait IpAllocator: fmt::Debug + Send {
    /// Replaces the configuration, and says which allocations it moves to another pool name or revokes, and why,
    /// ordered by owner.
    ///
    /// # Behavior
    /// - An allocation whose addresses still lie in one pool stays, even if that pool has another name now, no
    ///   longer allocates automatically or drains. `serviceAllocation` is judged when the owner asks next, since
    ///   labels come with the request.
    /// - An allocation that no pool permits any more is revoked whole.
    fn set_pools(&mut self, pools: &Pools) -> Vec<Change>;

    /// Takes over what the world already shows: the owner holds `held`, as its status says. To be called for
    /// every owner that shows an address, before the first [`allocate`](Self::allocate), so that a restart moves
    /// nothing.
    ///
    /// # Behavior
    /// - Where the request permits a second family and `held` has one, the one held is adopted; the next
    ///   `allocate` completes it.
    /// - A draining pool is adopted from.
    ///
    /// # Errors
    /// What stands against it: the request asks for something else, no pool has it, another owner holds it.
    fn adopt(&mut self, request: &AllocRequest, held: &[IpAddr]) -> Result<Allocation, AllocError>;

    /// Gives `request.owner` what it asks for.
    ///
    /// # Behavior
    /// - Idempotent per owner: what it holds stays as long as the request and the pools permit it.
    /// - Where the request no longer fits what is held (another address, pool or family asked for), a new choice
    ///   replaces it; if there is none, the error is returned and what is held stays. The caller decides whether
    ///   to [`release`](Self::release) it.
    ///
    /// # Errors
    /// Names the pool, the rule and the owner in the way.
    fn allocate(&mut self, request: &AllocRequest) -> Result<Allocation, AllocError>;

    /// Takes back what `owner` holds, and returns it.
    fn release(&mut self, owner: &OwnerKey) -> Option<Allocation>;

    /// What `owner` holds.
    fn allocation(&self, owner: &OwnerKey) -> Option<&Allocation>;

    /// Everything that is held, ordered by owner.
    fn allocations(&self) -> Box<dyn Iterator<Item = &Allocation> + '_>;

    /// How full each pool is.
    fn usage(&self) -> BTreeMap<PoolName, Usage>;
}

#[deny(clippy::missing_trait_methods)]
impl<A: IpAllocator + ?Sized> IpAllocator for Box<A> {
    fn set_pools(&mut self, pools: &Pools) -> Vec<Change> {
        (**self).set_pools(pools)
    }

    fn adopt(&mut self, request: &AllocRequest, held: &[IpAddr]) -> Result<Allocation, AllocError> {
        (**self).adopt(request, held)
    }

    fn allocate(&mut self, request: &AllocRequest) -> Result<Allocation, AllocError> {
        (**self).allocate(request)
    }

    fn release(&mut self, owner: &OwnerKey) -> Option<Allocation> {
        (**self).release(owner)
    }

    fn allocation(&self, owner: &OwnerKey) -> Option<&Allocation> {
        (**self).allocation(owner)
    }

    fn allocations(&self) -> Box<dyn Iterator<Item = &Allocation> + '_> {
        (**self).allocations()
    }

    fn usage(&self) -> BTreeMap<PoolName, Usage> {
        (**self).usage()
    }
}

/// What a Service or a Gateway asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocRequest {
    /// Who asks. Its namespace is matched against the pools' namespaces.
    pub owner: OwnerKey,
    /// Its labels, for the pools' service selectors.
    pub labels: Labels,
    /// Its namespace's labels, for the pools' namespace selectors.
    pub namespace_labels: Labels,
    /// The families that it wants.
    pub families: Families,
    /// The addresses that it wants, at most one a family; any if empty.
    pub addresses: Vec<IpAddr>,
    /// The pool that it wants; any that fits if `None`.
    pub pool: Option<PoolName>,
    /// The ports that it serves. Two owners of one address never serve the same one.
    pub ports: Vec<Port>,
    /// With whom it would share an address; with nobody if `None`.
    pub sharing: Option<Sharing>,
}

impl AllocRequest {
    /// A request for one address of any pool: IPv4, no ports, not shared.
    pub fn new(owner: OwnerKey) -> Self {
        Self {
            owner,
            labels: Labels::new(),
            namespace_labels: Labels::new(),
            families: Families::Single(Family::V4),
            addresses: Vec::new(),
            pool: None,
            ports: Vec::new(),
            sharing: None,
        }
    }
}

/// The address families that a request wants (Kubernetes: `ipFamilyPolicy` and `ipFamilies`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Families {
    /// One address of this family.
    Single(Family),
    /// One of each if a pool has both, else one, the primary family first.
    PreferDual {
        /// The family wanted if only one is to be had.
        primary: Family,
    },
    /// One of each, from one pool, or nothing.
    RequireDual,
}

impl Families {
    /// Whether an address of `family` is wanted.
    pub fn wants(self, family: Family) -> bool {
        match self {
            Self::Single(wanted) => wanted == family,
            Self::PreferDual { .. } | Self::RequireDual => true,
        }
    }
}

/// A transport port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.number)
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// With whom an owner shares an address: with those that give an equal value, and whose ports differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sharing {
    /// The sharing key (MetalLB: annotation `allow-shared-ip`); never empty.
    pub key: Arc<str>,
    /// Where the traffic goes: empty for `externalTrafficPolicy: Cluster`, the pod selector for `Local`. Owners
    /// with different backends cannot share, since a node without an endpoint of both would answer for both.
    pub backend: Arc<str>,
}

/// What an owner holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Allocation {
    /// The holder.
    pub owner: OwnerKey,
    /// The one pool that all its addresses are from.
    pub pool: PoolName,
    /// Its addresses: one, or one of each family with IPv4 first.
    pub addresses: Vec<IpAddr>,
}

impl Allocation {
    /// `owner` holds `addresses` of `pool`.
    pub fn new(owner: OwnerKey, pool: PoolName, mut addresses: Vec<IpAddr>) -> Self {
        addresses.sort_unstable();
        Self { owner, pool, addresses }
    }
}

/// What a new configuration did to an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The addresses stay; their pool has another name now.
    Renamed {
        /// Whose they are.
        owner: OwnerKey,
        /// The pool's former name.
        from: PoolName,
        /// Its name now.
        to: PoolName,
    },
    /// The addresses are no longer the owner's.
    Revoked {
        /// What was held.
        allocation: Allocation,
        /// Why.
        reason: AllocError,
    },
}

impl Change {
    /// Whom it concerns.
    pub fn owner(&self) -> &OwnerKey {
        match self {
            Self::Renamed { owner, .. } => owner,
            Self::Revoked { allocation, .. } => &allocation.owner,
        }
    }
}

/// How full a pool is. Counts addresses, not owners: one shared by three counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// IPv4 addresses held.
    pub assigned_v4: AddressCount,
    /// IPv6 addresses held.
    pub assigned_v6: AddressCount,
    /// IPv4 addresses that could still be given; none of a draining pool.
    pub available_v4: AddressCount,
    /// IPv6 addresses that could still be given; none of a draining pool.
    pub available_v6: AddressCount,
}

/// Why there is no address.
///
/// Its text names the pool, the rule and the owner in the way, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// There is no pool at all.
    #[error("there is no pool: add an IPAddressPool")]
    NoPools,
    /// The pool asked for does not exist.
    #[error("there is no pool {pool}: {}", known_pools(.known))]
    UnknownPool {
        /// The name asked for.
        pool: PoolName,
        /// Those that exist.
        known: Vec<PoolName>,
    },
    /// The request contradicts itself.
    #[error("{0}")]
    BadRequest(String),
    /// No pool has the address asked for.
    #[error("{address} is in no pool: ask for an address of a pool, or add it to one")]
    NotInAnyPool {
        /// The address asked for.
        address: IpAddr,
    },
    /// The addresses asked for are not all of one pool.
    #[error("{} are not all in one pool: ask for addresses of the same pool", list(.addresses))]
    NotInOnePool {
        /// The addresses asked for.
        addresses: Vec<IpAddr>,
    },
    /// The address to adopt is not what the request asks for.
    #[error("{address} cannot be kept: {wanted} is asked for")]
    NotRequested {
        /// The address that the owner shows.
        address: IpAddr,
        /// What the request asks for.
        wanted: String,
    },
    /// The address asked for, or every pool that was looked at, is refused by a rule.
    #[error("{}", refusals(.0))]
    Refused(Vec<Refusal>),
}

impl AllocError {
    /// Why, as one word for programs: the reason of a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoPools => "NoPools",
            Self::UnknownPool { .. } => "UnknownPool",
            Self::BadRequest(_) => "BadRequest",
            Self::NotInAnyPool { .. } | Self::NotInOnePool { .. } => "NotInPool",
            Self::NotRequested { .. } => "NotRequested",
            Self::Refused(refusals) => match refusals.as_slice() {
                // One pool was looked at: its first word counts.
                [first, rest @ ..] if rest.iter().all(|refusal| refusal.pool == first.pool) => {
                    first.rule.reason()
                }
                all if all.iter().any(|refusal| matches!(refusal.rule, Rule::Exhausted { .. })) => {
                    "PoolExhausted"
                }
                _ => "NoPoolFits",
            },
        }
    }
}

/// A pool that does not give, and the rule that forbids it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The pool.
    pub pool: PoolName,
    /// The rule.
    pub rule: Rule,
}

impl Refusal {
    /// `pool` refuses by `rule`.
    pub fn new(pool: PoolName, rule: Rule) -> Self {
        Self { pool, rule }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}: {}", self.pool, self.rule)
    }
}

/// The rules by which a pool refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rule {
    /// Every address of the family is taken.
    #[error("all {size} {family} addresses are taken: add a range, or release one")]
    Exhausted {
        /// The family wanted.
        family: Family,
        /// How many the pool has.
        size: AddressCount,
    },
    /// The pool has no address of the family to give.
    #[error("it has no {0} addresses to give: add a range of that family")]
    NoFamily(Family),
    /// The address asked for belongs to another pool than the one asked for.
    #[error("{address} is an address of pool {pool}: ask for that pool, or for an address of this one")]
    InOtherPool {
        /// The address.
        address: IpAddr,
        /// The pool that has it.
        pool: PoolName,
    },
    /// Nobody gets an address of it without asking for the pool or the address.
    #[error("autoAssign is false: ask for the pool or for one of its addresses")]
    NotAutomatic,
    /// It gives no new addresses.
    #[error("it is being drained and gives no new addresses")]
    Draining,
    /// Its namespaces do not include the owner's.
    #[error("namespace {0} is not among those that it serves (serviceAllocation.namespaces)")]
    Namespace(Arc<str>),
    /// None of its service selectors matches the owner.
    #[error("none of its serviceAllocation.serviceSelectors matches the labels of {0}")]
    ServiceLabels(OwnerKey),
    /// The address ends in .0 or .255 and the pool avoids those.
    #[error("{0} ends in .0 or .255 and avoidBuggyIPs is set")]
    Buggy(IpAddr),
    /// Somebody else holds the address, and does not share it.
    #[error(
        "{address} belongs to {holder}, which does not share it: set the same metallb.io/allow-shared-ip on both"
    )]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who holds it.
        holder: OwnerKey,
    },
    /// Somebody else holds the address and shares it under another key.
    #[error("{address} belongs to {holder}, which shares it under the key {key:?}")]
    SharingKey {
        /// The address.
        address: IpAddr,
        /// Who holds it.
        holder: OwnerKey,
        /// The key of the holder.
        key: Arc<str>,
    },
    /// Somebody else holds the address and its traffic goes elsewhere.
    #[error(
        "{address} belongs to {holder}, and with externalTrafficPolicy: Local only services with equal \
         selectors can share it"
    )]
    SharingBackend {
        /// The address.
        address: IpAddr,
        /// Who holds it.
        holder: OwnerKey,
    },
    /// A sharer of the address serves the same port.
    #[error("port {port} of {address} belongs to {holder}")]
    PortTaken {
        /// The address.
        address: IpAddr,
        /// The port.
        port: Port,
        /// Who serves it.
        holder: OwnerKey,
    },
}

impl Rule {
    /// The rule as one word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Exhausted { .. } => "PoolExhausted",
            Self::NoFamily(_) => "NoSuchFamily",
            Self::InOtherPool { .. } => "NotInPool",
            Self::NotAutomatic => "NotAutomatic",
            Self::Draining => "PoolDraining",
            Self::Namespace(_) => "NamespaceNotServed",
            Self::ServiceLabels(_) => "ServiceNotSelected",
            Self::Buggy(_) => "BuggyAddress",
            Self::Taken { .. } => "AddressTaken",
            Self::SharingKey { .. } => "SharingKeyDiffers",
            Self::SharingBackend { .. } => "SharingBackendDiffers",
            Self::PortTaken { .. } => "PortTaken",
        }
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn known_pools(known: &[PoolName]) -> String {
    if known.is_empty() { "add it".to_owned() } else { format!("there are {}", list(known)) }
}

fn refusals(refusals: &[Refusal]) -> String {
    match refusals {
        [] => "no pool may be used: every one needs to be asked for".to_owned(),
        refusals => refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}
