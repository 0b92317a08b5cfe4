//! What is planned for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::addr::Family;
use crate::allocator::{AllocError, AllocRequest, Pool, Pools};
use crate::id::{AdvertisementName, InterfaceName, NodeName, ObjectName, OwnerKey, PeerName, PoolName};
use crate::labels::{LabelSelector, Labels};
use crate::time::Timestamp;

/// Everything that a plan depends on, apart from what is allocated and who owns what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct World {
    /// The pools.
    pub pools: Pools,
    /// Who wants an address.
    pub demands: BTreeMap<OwnerKey, Demand>,
    /// How addresses are announced. Their order does not matter.
    pub advertisements: Vec<Advertisement>,
    /// The nodes. One that is not here is taken for a node without labels of its own.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Where the services are served.
    pub endpoints: Endpoints,
    /// The `loadBalancerClass` that is ours; `None` for demands without one. All other demands are left to
    /// their own controllers.
    pub class: Option<Arc<str>>,
    /// Whether nodes with the label `node.kubernetes.io/exclude-from-external-load-balancers` announce all the
    /// same.
    pub ignore_exclude_label: bool,
}

impl World {
    /// The demands that are ours, by their class.
    pub fn ours(&self) -> impl Iterator<Item = &Demand> {
        self.demands.values().filter(|demand| self.is_ours(demand))
    }

    /// Whether `demand` is ours, by its class. A Gateway's class was judged by the one who read it.
    pub fn is_ours(&self, demand: &Demand) -> bool {
        matches!(demand.owner, OwnerKey::Gateway(_)) || demand.class == self.class
    }
}

/// A Service or a Gateway that wants an address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Demand {
    /// Who.
    pub owner: OwnerKey,
    /// What it asks for, as far as that can be understood.
    pub request: AllocRequest,
    /// What cannot be understood: it then gets nothing new, while what it shows or holds stays.
    pub fault: Option<AllocError>,
    /// The addresses that its status shows: adopted after a restart.
    pub shown: Vec<IpAddr>,
    /// When it was created: the older one is served first. `None`, not created yet, comes last.
    pub created: Option<Timestamp>,
    /// Its `loadBalancerClass`.
    pub class: Option<Arc<str>>,
    /// Its labels, for the advertisements' service selectors.
    pub labels: Labels,
    /// Its `externalTrafficPolicy`.
    pub traffic: TrafficPolicy,
    /// Whether it would share an address. Advertisements with service selectors then do not apply: two sharers
    /// must be announced alike.
    pub shares: bool,
}

impl Demand {
    /// `owner` wants one IPv4 address.
    pub fn new(owner: OwnerKey) -> Self {
        Self {
            request: AllocRequest::new(owner.clone()),
            owner,
            fault: None,
            shown: Vec::new(),
            created: None,
            class: None,
            labels: Labels::new(),
            traffic: TrafficPolicy::default(),
            shares: false,
        }
    }

    /// The order in which demands are served: by age, then by name.
    pub(super) fn order(&self) -> (bool, Option<Timestamp>, &ObjectName, &OwnerKey) {
        (self.created.is_none(), self.created, self.owner.object(), &self.owner)
    }
}

/// `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// Any node takes the traffic, and passes it on.
    #[default]
    Cluster,
    /// Only a node with an endpoint of its own takes the traffic.
    Local,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Whether its network is not set up (condition `NetworkUnavailable`).
    pub network_unavailable: bool,
    /// Whether it has the label that keeps it from announcing anything.
    pub excluded: bool,
}

impl Node {
    /// A node with these labels.
    pub fn with_labels(labels: Labels) -> Self {
        Self { labels, ..Self::default() }
    }
}

/// Where the services are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Endpoints {
    /// Not known: every service is taken as served on every node.
    #[default]
    Everywhere,
    /// Each service with its endpoints; one that is not here has none.
    Of(BTreeMap<ObjectName, Serving>),
}

/// Where a service has endpoints that take traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// The nodes with at least one.
    pub nodes: BTreeSet<NodeName>,
    /// Whether one is on no known node.
    pub elsewhere: bool,
}

/// How the addresses of pools are announced, and by which nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Its name.
    pub name: AdvertisementName,
    /// The pools that it selects by name. It selects every pool if there are no names and no selectors.
    pub pools: BTreeSet<PoolName>,
    /// The pools that it selects by their labels.
    pub pool_selectors: Vec<LabelSelector>,
    /// The nodes that announce; all if empty.
    pub node_selectors: Vec<LabelSelector>,
    /// The owners whose addresses are announced; all if empty.
    pub service_selectors: Vec<LabelSelector>,
    /// On the segment, or to routers.
    pub means: Means,
}

impl Advertisement {
    /// All pools on all segments.
    pub fn l2(name: impl Into<AdvertisementName>) -> Self {
        Self::new(name, Means::L2(L2Terms::default()))
    }

    /// All pools to all BGP peers.
    pub fn bgp(name: impl Into<AdvertisementName>) -> Self {
        Self::new(name, Means::Bgp(BgpTerms::default()))
    }

    /// All pools by `means`.
    pub fn new(name: impl Into<AdvertisementName>, means: Means) -> Self {
        Self {
            name: name.into(),
            pools: BTreeSet::new(),
            pool_selectors: Vec::new(),
            node_selectors: Vec::new(),
            service_selectors: Vec::new(),
            means,
        }
    }

    /// Whether it announces the addresses of `pool`.
    pub fn selects_pool(&self, pool: &Pool) -> bool {
        (self.pools.is_empty() && self.pool_selectors.is_empty())
            || self.pools.contains(&pool.name)
            || self.pool_selectors.iter().any(|selector| selector.matches(&pool.labels))
    }

    /// Whether a node with these labels announces.
    pub fn selects_node(&self, labels: &Labels) -> bool {
        any(&self.node_selectors, labels)
    }

    /// Whether it announces the addresses of an owner with these labels.
    pub fn selects_service(&self, labels: &Labels) -> bool {
        any(&self.service_selectors, labels)
    }
}

fn any(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
}

/// How an [`Advertisement`] announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// ARP and NDP: one node answers for each address.
    L2(L2Terms),
    /// BGP: every node that may announces a route.
    Bgp(BgpTerms),
}

/// The terms of an `L2Advertisement`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L2Terms {
    /// The interfaces on which to answer; all if empty.
    pub interfaces: BTreeSet<InterfaceName>,
    /// The nodes that are preferred.
    pub preferences: Vec<Preference>,
}

/// A preference for some nodes over others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// How much: 1 to 100. A node's weights are summed up.
    pub weight: u32,
    /// For which nodes.
    pub selector: LabelSelector,
}

/// The terms of a `BGPAdvertisement`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpTerms {
    /// The length of the prefixes announced for IPv4 addresses; 32 announces each address.
    pub aggregation_v4: u8,
    /// The same for IPv6; 128 announces each address.
    pub aggregation_v6: u8,
    /// LOCAL_PREF, for internal peers.
    pub local_pref: Option<u32>,
    /// COMMUNITIES (RFC 1997).
    pub communities: BTreeSet<u32>,
    /// Large communities (RFC 8092).
    pub large_communities: BTreeSet<(u32, u32, u32)>,
    /// The peers to tell; all if empty.
    pub peers: BTreeSet<PeerName>,
}

impl BgpTerms {
    /// The length of the prefix announced for an address of `family`, never longer than the address.
    pub fn aggregation(&self, family: Family) -> u8 {
        match family {
            Family::V4 => self.aggregation_v4.min(32),
            Family::V6 => self.aggregation_v6.min(128),
        }
    }
}

impl Default for BgpTerms {
    fn default() -> Self {
        Self {
            aggregation_v4: 32,
            aggregation_v6: 128,
            local_pref: None,
            communities: BTreeSet::new(),
            large_communities: BTreeSet::new(),
            peers: BTreeSet::new(),
        }
    }
}
