//! Telling the network where an address is: the [`Announcer`] trait and its types.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use ipnet::IpNet;
use tokio::sync::watch;

use crate::condition::Condition;
use crate::elect::{LeaderElector, LeaseId, Member, Owner, Ownership, Term};
use crate::id::{InterfaceName, NodeName, PeerName, Role};
use crate::time::Instant;

/// Tells the network that addresses are reached through this node.
///
/// Level-triggered: it is given the whole set that should be announced, and reports what is. All methods are
/// synchronous, never block, and are safe to call from anywhere; there is nothing to cancel.
///
/// A controller works with any announcer; this one is there to be looked at. The page
/// [Write your own announcer](crate::manual::own_announcer) has one that keeps the contract.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use lbcore::announce::{AnnounceSet, AnnounceStatus, Announcer, AnnouncerCapabilities};
/// use lbcore::elect::{Bid, Candidacy, LeaderElector, LeaseId, Solo};
/// use lbcore::id::Role;
/// use lbcore::time::Instant;
/// use tokio::sync::watch;
///
/// /// Remembers what it is told, and tells nobody.
/// #[derive(Debug, Default)]
/// struct Recorder {
///     desired: Mutex<Arc<AnnounceSet>>,
///     leases: Mutex<Vec<(LeaseId, Instant)>>,
///     status: watch::Sender<Arc<AnnounceStatus>>,
/// }
///
/// impl Announcer for Recorder {
///     fn set_desired(&self, desired: Arc<AnnounceSet>) {
///         *self.desired.lock().unwrap() = desired;
///     }
///     fn renew(&self, lease: LeaseId, until: Instant) {
///         self.leases.lock().unwrap().push((lease, until));
///     }
///     fn status(&self) -> watch::Receiver<Arc<AnnounceStatus>> {
///         self.status.subscribe()
///     }
///     fn capabilities(&self) -> AnnouncerCapabilities {
///         AnnouncerCapabilities::new(false, false)
///     }
/// }
///
/// /// Hands on what this node owns, and until when.
/// fn announce(elector: &dyn LeaderElector, announcer: &dyn Announcer) {
///     announcer.set_desired(Arc::new(AnnounceSet::owned(&elector.ownership().borrow())));
///     elector.renewals().borrow().0.iter().for_each(|(lease, until)| announcer.renew(*lease, *until));
/// }
///
/// let elector = Solo::new("n1".into());
/// let address = "192.0.2.10".parse()?;
/// elector.set_candidacy(Arc::new(Candidacy::new(1, [(Role::Address(address), Bid::default())])));
/// let announcer = Recorder::default();
/// announce(&elector, &announcer);
///
/// let lease = announcer.desired.lock().unwrap().entries[&address].lease;
/// assert_eq!(lease, Some(announcer.leases.lock().unwrap()[0].0), "it is fenced by the lease that holds");
/// # Ok::<_, std::net::AddrParseError>(())
/// ```
///
/// # Contract
/// Binds implementors; [`conformance::announcer`](crate::conformance) asserts it.
/// - An announcement with a lease is made only while the lease holds: before the first renewal and from the
///   deadline on it is silent, whether or not anybody calls it.
/// - What leaves the desired set is withdrawn.
/// - A set that equals the one in force changes nothing on the network.
/// - When the driver stops with [`Stop::Withdraw`], everything is withdrawn and the last status is empty.
pub trait Announcer: fmt::Debug + Send + Sync {
    /// Replaces what should be announced. A set whose generation is lower than the last one's is ignored.
    fn set_desired(&self, desired: Arc<AnnounceSet>);

    /// The lease holds until `until`. Carries only time; an earlier deadline than the one known is ignored.
    fn renew(&self, lease: LeaseId, until: Instant);

    /// What the network is being told now. Wait on it with `wait_for` and a predicate on
    /// [`AnnounceStatus::generation`].
    fn status(&self) -> watch::Receiver<Arc<AnnounceStatus>>;

    /// What this announcer can do.
    fn capabilities(&self) -> AnnouncerCapabilities;
}

/// Everything that one announcer should announce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnnounceSet {
    /// Raised with each change.
    pub generation: u64,
    /// What to announce, for each address.
    pub entries: BTreeMap<IpAddr, Announcement>,
    /// Addresses that this node is a candidate for and may have to announce at any moment, with the interfaces. They
    /// are prepared for (a responder joins their multicast groups and learns who asks for them), never announced.
    pub standby: BTreeMap<IpAddr, Interfaces>,
    /// The nodes of the cluster, so that a peer that claims an address is told from a stranger.
    pub members: BTreeMap<NodeName, Member>,
    /// The owner of each address, as the elector knows it. To a member that claims an address of this node's and is
    /// its owner by a newer term than [`Announcement::term`] the announcer yields at once; to others it does not.
    pub owners: BTreeMap<IpAddr, Owner>,
}

impl AnnounceSet {
    /// These announcements and no others.
    pub fn new(generation: u64, entries: impl IntoIterator<Item = (IpAddr, Announcement)>) -> Self {
        Self { generation, entries: entries.into_iter().collect(), ..Self::default() }
    }

    /// The addresses that `ownership` gives to this node, each on all interfaces of the segment and fenced by its
    /// lease; those of others are stood by for. What advertisements say is not heeded: that is
    /// [`plan::announce`](crate::plan::announce).
    pub fn owned(ownership: &Ownership) -> Self {
        let entries = ownership.mine.iter().filter_map(|(role, lease)| {
            let (Role::Address(address), Some(owner)) = (role, ownership.roles.get(role)) else {
                return None;
            };
            Some((*address, Announcement::on_segment(*lease, owner.term, Interfaces::All)))
        });
        let mut set = Self::new(ownership.generation, entries);
        set.know(ownership);
        let others = ownership.roles.keys().filter(|role| !ownership.mine.contains_key(role));
        set.standby = others
            .filter_map(|role| match role {
                Role::Address(address) => Some((*address, Interfaces::All)),
                Role::Named(_) => None,
            })
            .collect();
        set
    }

    /// Takes over from `ownership` who the members are, and who owns which address.
    pub fn know(&mut self, ownership: &Ownership) {
        self.members.clone_from(&ownership.members);
        let owned = ownership.roles.iter().filter_map(|(role, owner)| match role {
            Role::Address(address) => Some((*address, owner.clone())),
            Role::Named(_) => None,
        });
        self.owners = owned.collect();
    }
}

/// Hands each renewal of `elector` to `announcer` at once, without planning anything. Never ends; when the elector is
/// gone, leases run out by themselves.
///
/// # Cancel safety
/// Safe: a renewal that was not handed on is part of the next one.
pub async fn forward_renewals(elector: &dyn LeaderElector, announcer: &dyn Announcer) {
    let mut renewals = elector.renewals();
    loop {
        for (lease, until) in &renewals.borrow_and_update().0 {
            announcer.renew(*lease, *until);
        }
        if renewals.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// An announcer behind a fence: it says nothing for what its elector does not give to this node any more, from the moment
/// that the elector says so, whatever the controller is doing then.
///
/// A controller that plans takes its time; the next owner of an address that moves as planned waits some milliseconds.
/// What the controller wants announced is held against the ownership of now when it is set, and again at each change. Announcements
/// without a lease pass through.
#[derive(Debug)]
pub struct Fenced {
    elector: Arc<dyn LeaderElector>,
    announcer: Arc<dyn Announcer>,
    wanted: Mutex<Arc<AnnounceSet>>,
}

impl Fenced {
    /// Puts `announcer` behind the fence of `elector`. To work, it must [`run`](Self::run).
    pub fn new(elector: Arc<dyn LeaderElector>, announcer: Arc<dyn Announcer>) -> Self {
        Self { elector, announcer, wanted: Mutex::default() }
    }

    /// Hands on each renewal and each loss at once. Never ends; when the elector is gone, leases run out by themselves.
    ///
    /// # Cancel safety
    /// Safe: what was not handed on is with the next call.
    pub async fn run(&self) {
        let mut ownership = self.elector.ownership();
        let losses = async {
            loop {
                {
                    let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
                    let now = ownership.borrow_and_update().clone();
                    if !permits(&now, &wanted) {
                        self.announcer.set_desired(permitted(&now, &wanted));
                    }
                }
                if ownership.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let (mut losses, mut renewals) =
            (pin!(losses), pin!(forward_renewals(&*self.elector, &*self.announcer)));
        // Neither ever ends.
        poll_fn(|cx| {
            let _: Poll<()> = losses.as_mut().poll(cx);
            renewals.as_mut().poll(cx)
        })
        .await;
    }
}

impl Announcer for Fenced {
    fn set_desired(&self, desired: Arc<AnnounceSet>) {
        // Held until it is handed on, so that no older set comes after a loss.
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if desired.generation < wanted.generation {
            return;
        }
        wanted.clone_from(&desired);
        let now = self.elector.ownership().borrow().clone();
        self.announcer.set_desired(permitted(&now, &desired));
    }

    fn renew(&self, lease: LeaseId, until: Instant) {
        self.announcer.renew(lease, until);
    }

    fn status(&self) -> watch::Receiver<Arc<AnnounceStatus>> {
        self.announcer.status()
    }

    fn capabilities(&self) -> AnnouncerCapabilities {
        self.announcer.capabilities()
    }
}

/// Whether `ownership` gives this node the address by the lease that the announcement names, if it names one.
fn is_permitted(ownership: &Ownership, address: IpAddr, announcement: &Announcement) -> bool {
    announcement.lease.is_none_or(|lease| ownership.mine.get(&Role::Address(address)) == Some(&lease))
}

fn permits(ownership: &Ownership, set: &AnnounceSet) -> bool {
    set.entries.iter().all(|(address, entry)| is_permitted(ownership, *address, entry))
}

/// Of `set`, what `ownership` permits.
fn permitted(ownership: &Ownership, set: &Arc<AnnounceSet>) -> Arc<AnnounceSet> {
    if permits(ownership, set) {
        return set.clone();
    }
    let mut set = AnnounceSet::clone(set);
    set.entries.retain(|address, entry| is_permitted(ownership, *address, entry));
    Arc::new(set)
}

/// One address, and how to announce it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Announcement {
    /// The lease that must hold; `None` where several nodes announce the address at once (BGP multipath).
    pub lease: Option<LeaseId>,
    /// The term of this node's ownership; zero without a lease.
    pub term: Term,
    /// The interfaces on which to answer, for announcers that work on a segment.
    pub interfaces: Interfaces,
    /// The routes to announce, for announcers that speak a routing protocol. Ordered, without duplicates.
    pub routes: BTreeSet<Route>,
}

impl Announcement {
    /// Answer on the segment, on `interfaces`, while `lease` holds.
    pub fn on_segment(lease: LeaseId, term: Term, interfaces: Interfaces) -> Self {
        Self { lease: Some(lease), term, interfaces, routes: BTreeSet::new() }
    }

    /// Announce `routes`, for as long as this is in the set.
    pub fn routes(routes: impl IntoIterator<Item = Route>) -> Self {
        Self { routes: routes.into_iter().collect(), ..Self::default() }
    }

    /// The same announcement, fenced by `lease`.
    #[must_use]
    pub fn fenced(self, lease: LeaseId, term: Term) -> Self {
        Self { lease: Some(lease), term, ..self }
    }
}

/// A choice of interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interfaces {
    /// All that the announcer works on.
    #[default]
    All,
    /// Only these.
    Only(BTreeSet<InterfaceName>),
}

impl Interfaces {
    /// Whether `name` is chosen.
    pub fn contains(&self, name: &InterfaceName) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }

    /// What either chooses.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::Only(mut names), Self::Only(more)) => {
                names.extend(more);
                Self::Only(names)
            }
            _ => Self::All,
        }
    }
}

/// A route to announce, with its attributes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Route {
    /// The prefix: the address itself, or an aggregate that holds it. An aggregate is announced with its first
    /// member and withdrawn with its last.
    pub prefix: IpNet,
    /// LOCAL_PREF, for internal peers.
    pub local_pref: Option<u32>,
    /// COMMUNITIES (RFC 1997).
    pub communities: BTreeSet<u32>,
    /// Large communities (RFC 8092).
    pub large_communities: BTreeSet<(u32, u32, u32)>,
    /// The peers to tell.
    pub peers: Peers,
}

impl Route {
    /// `prefix` to all peers, without attributes of its own.
    pub fn new(prefix: IpNet) -> Self {
        Self {
            prefix,
            local_pref: None,
            communities: BTreeSet::new(),
            large_communities: BTreeSet::new(),
            peers: Peers::All,
        }
    }
}

/// A choice of peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    /// All of them.
    #[default]
    All,
    /// Only these.
    Only(BTreeSet<PeerName>),
}

impl Peers {
    /// Whether `name` is chosen.
    pub fn contains(&self, name: &PeerName) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

/// What the network is being told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnnounceStatus {
    /// The generation of the [`AnnounceSet`] that this reflects.
    pub generation: u64,
    /// The addresses of that set, each with what is said of it.
    pub entries: BTreeMap<IpAddr, AnnounceState>,
    /// What is wrong that concerns more than one address: a peer that does not answer, an interface that is gone.
    pub conditions: Vec<Condition>,
}

/// For a log: the conditions, then each address with its state, a line each.
impl fmt::Display for AnnounceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions = self.conditions.iter().map(ToString::to_string);
        let entries = self.entries.iter().map(|(address, state)| format!("{address}: {state}"));
        f.write_str(&conditions.chain(entries).collect::<Vec<_>>().join("\n"))
    }
}

/// What is said of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnnounceState {
    /// The network is told.
    Announced {
        /// Where: the interfaces, or the peers, by name and in order.
        to: Vec<Arc<str>>,
    },
    /// Nothing is said, and why.
    Silent(Condition),
}

impl AnnounceState {
    /// Whether the network is told.
    pub fn is_announced(&self) -> bool {
        matches!(self, Self::Announced { .. })
    }
}

impl fmt::Display for AnnounceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announced { to } => write!(f, "announced to {}", to.join(", ")),
            Self::Silent(condition) => write!(f, "{condition}"),
        }
    }
}

/// What an announcer can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnnouncerCapabilities {
    /// Several nodes may announce one address at once (multipath); otherwise every announcement needs a lease.
    pub shared: bool,
    /// [`Stop::Preserve`] leaves in place what was announced.
    pub preserve: bool,
}

impl AnnouncerCapabilities {
    /// What it can do.
    pub const fn new(shared: bool, preserve: bool) -> Self {
        Self { shared, preserve }
    }
}

/// How a driver ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// Withdraw everything first.
    #[default]
    Withdraw,
    /// Leave in place what the network was told, for a forwarding plane that outlives the process.
    Preserve,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elect::{Bid, Candidacy, Solo};

    #[test]
    fn a_status_is_a_line_for_each_condition_and_address() {
        let mut status = AnnounceStatus::default();
        assert_eq!(status.to_string(), "");
        status.conditions.push(Condition::no("InterfaceReady", "InterfaceDown", "v1 is down"));
        let to = vec!["v0".into(), "v2".into()];
        status.entries.insert([192, 0, 2, 1].into(), AnnounceState::Announced { to });
        let why = Condition::no("Announced", "NoInterface", "no interface is up");
        status.entries.insert([192, 0, 2, 2].into(), AnnounceState::Silent(why));
        assert_eq!(
            status.to_string(),
            "InterfaceReady=False (InterfaceDown): v1 is down\n192.0.2.1: announced to v0, v2\n\
             192.0.2.2: Announced=False (NoInterface): no interface is up"
        );
    }

    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<(LeaseId, Instant)>>, watch::Sender<Arc<AnnounceSet>>);

    impl Announcer for Recorder {
        fn set_desired(&self, desired: Arc<AnnounceSet>) {
            self.1.send_replace(desired);
        }
        fn renew(&self, lease: LeaseId, until: Instant) {
            self.0.lock().unwrap().push((lease, until));
        }
        fn status(&self) -> watch::Receiver<Arc<AnnounceStatus>> {
            watch::channel(Arc::default()).1
        }
        fn capabilities(&self) -> AnnouncerCapabilities {
            AnnouncerCapabilities::new(false, false)
        }
    }

    fn owner_of(roles: impl IntoIterator<Item = Role>) -> Solo {
        let elector = Solo::new("n1".into());
        let bids = roles.into_iter().map(|role| (role, Bid::default()));
        elector.set_candidacy(Arc::new(Candidacy::new(1, bids)));
        elector
    }

    #[test]
    fn what_is_owned_is_announced_and_other_roles_are_not() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let ownership = owner_of([address.into(), Role::named("writer")]).ownership().borrow().clone();
        let set = AnnounceSet::owned(&ownership);
        let (role, lease) = (Role::from(address), ownership.mine[&Role::from(address)]);
        let term = ownership.roles[&role].term;
        assert_eq!(set.entries, [(address, Announcement::on_segment(lease, term, Interfaces::All))].into());
        assert_eq!((set.generation, &set.members), (ownership.generation, &ownership.members));
        assert_eq!(set.owners, [(address, ownership.roles[&role].clone())].into());
    }

    #[tokio::test]
    async fn what_is_lost_is_not_announced_whatever_the_controller_does() {
        let [kept, lost] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        let elector = Arc::new(owner_of([kept.into(), lost.into()]));
        let recorder = Arc::new(Recorder::default());
        let fenced = Fenced::new(elector.clone(), recorder.clone());
        let mut planned = AnnounceSet::owned(&elector.ownership().borrow());
        let shared = IpAddr::from([192, 0, 2, 3]);
        planned.entries.insert(shared, Announcement::default());
        let planned = Arc::new(planned);
        fenced.set_desired(planned.clone());
        assert_eq!(*recorder.1.borrow(), planned);

        let mut said = recorder.1.subscribe();
        let silent = async {
            elector.set_candidacy(Arc::new(Candidacy::new(2, [(kept.into(), Bid::default())])));
            said.wait_for(|set| set.entries.keys().eq([&kept, &shared])).await.unwrap();
        };
        tokio::select! {
            () = silent => {}
            () = fenced.run() => {}
        }
        // A controller that was planning meanwhile does not bring it back, nor does an older set.
        fenced.set_desired(planned.clone());
        assert!(recorder.1.borrow().entries.keys().eq([&kept, &shared]));
        fenced.set_desired(Arc::new(AnnounceSet::new(0, [])));
        assert!(recorder.1.borrow().entries.keys().eq([&kept, &shared]));
    }

    #[tokio::test]
    async fn renewals_reach_the_announcer() {
        let elector = owner_of([IpAddr::from([192, 0, 2, 1]).into()]);
        let announcer = Recorder::default();
        tokio::select! {
            biased;
            () = forward_renewals(&elector, &announcer) => unreachable!("it never ends"),
            () = tokio::task::yield_now() => {}
        }
        let renewals: Vec<_> = elector.renewals().borrow().0.clone().into_iter().collect();
        assert_eq!(renewals.len(), 1);
        assert_eq!(*announcer.0.lock().unwrap(), renewals);
    }
}
