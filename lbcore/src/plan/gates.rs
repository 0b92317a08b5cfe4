//! The gates between an allocated address and a node that announces it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::world::{Advertisement, BgpTerms, Demand, Endpoints, Means, Node, TrafficPolicy, World};
use crate::announce::Interfaces;
use crate::id::{InterfaceName, NodeName, OwnerKey, PoolName};
use crate::labels::Labels;

/// Whether, and how, one node may announce the addresses that one owner holds of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict<'w> {
    /// On the segment.
    pub l2: Result<L2Way, Obstacle>,
    /// By BGP: on these terms, at least one.
    pub bgp: Result<Vec<&'w BgpTerms>, Obstacle>,
}

/// How a node may announce on the segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct L2Way {
    /// On which interfaces.
    pub interfaces: Interfaces,
    /// How much the node is preferred.
    pub preference: u32,
}

/// Why a node may not announce. The gates are asked in the order of the variants, and the first that is closed
/// is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// The owner has the class of another controller.
    #[error("its loadBalancerClass is {theirs:?}, and {} served here", served(.ours))]
    OtherClass {
        /// The owner's class.
        theirs: Arc<str>,
        /// Ours.
        ours: Option<Arc<str>>,
    },
    /// The owner has no class, and only those with ours are served.
    #[error("it has no loadBalancerClass, and only {ours:?} is served here")]
    NoClass {
        /// Ours.
        ours: Arc<str>,
    },
    /// No endpoint takes traffic anywhere.
    #[error("no endpoint of {owner} is ready or serving: start one")]
    NoServingEndpoint {
        /// The owner.
        owner: OwnerKey,
    },
    /// No advertisement of this means selects the pool.
    #[error("no {kind} selects the pool {pool}: add one that names it")]
    NoAdvertisement {
        /// The kind of advertisement.
        kind: &'static str,
        /// The pool.
        pool: PoolName,
    },
    /// The advertisements of the pool have service selectors, and none matches.
    #[error("no serviceSelector of an {kind} of the pool {pool} matches the labels of {owner}")]
    ServiceNotSelected {
        /// The kind of advertisement.
        kind: &'static str,
        /// The pool.
        pool: PoolName,
        /// The owner.
        owner: OwnerKey,
    },
    /// The owner shares its address, and the advertisements of the pool have service selectors.
    #[error(
        "{owner} shares its address, and every {kind} of the pool {pool} has serviceSelectors: two sharers \
         must be announced alike, so add an {kind} without them"
    )]
    SharedWithServiceSelectors {
        /// The kind of advertisement.
        kind: &'static str,
        /// The pool.
        pool: PoolName,
        /// The owner.
        owner: OwnerKey,
    },
    /// No advertisement selects the node.
    #[error("no nodeSelector of an {kind} of the pool {pool} matches the node's labels")]
    NodeNotSelected {
        /// The kind of advertisement.
        kind: &'static str,
        /// The pool.
        pool: PoolName,
    },
    /// The node's network is not set up.
    #[error("the node's condition NetworkUnavailable is true")]
    NetworkUnavailable,
    /// The node is excluded.
    #[error("the node has the label node.kubernetes.io/exclude-from-external-load-balancers")]
    Excluded,
    /// The owner wants local endpoints, and the node has none that takes traffic.
    #[error(
        "externalTrafficPolicy is Local, and the node has no endpoint of {owner} that is ready or serving"
    )]
    NoLocalEndpoint {
        /// The owner.
        owner: OwnerKey,
    },
}

fn served(class: &Option<Arc<str>>) -> String {
    match class {
        Some(class) => format!("only {class:?} is"),
        None => "only services without one are".to_owned(),
    }
}

impl Obstacle {
    /// Why, as one word for programs: the reason of a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OtherClass { .. } | Self::NoClass { .. } => "OtherClass",
            Self::NoServingEndpoint { .. } => "NoServingEndpoint",
            Self::NoAdvertisement { .. } => "NoAdvertisement",
            Self::ServiceNotSelected { .. } => "ServiceNotSelected",
            Self::SharedWithServiceSelectors { .. } => "SharedWithServiceSelectors",
            Self::NodeNotSelected { .. } => "NodeNotSelected",
            Self::NetworkUnavailable => "NetworkUnavailable",
            Self::Excluded => "NodeExcluded",
            Self::NoLocalEndpoint { .. } => "NoLocalEndpoint",
        }
    }

    /// Whether it concerns the node, so that another one may do.
    pub fn is_of_node(&self) -> bool {
        matches!(
            self,
            Self::NodeNotSelected { .. }
                | Self::NetworkUnavailable
                | Self::Excluded
                | Self::NoLocalEndpoint { .. }
        )
    }
}

/// Whether and how `node` may announce what `demand`'s owner holds of `pool`.
///
/// Asks about the world alone: not who was elected, nor whether the node is well.
pub fn verdict<'w>(world: &'w World, demand: &Demand, pool: &PoolName, node: &NodeName) -> Verdict<'w> {
    let applying = applying(world, demand, pool);
    let known = world.nodes.get(node);
    let nameless = Node::with_labels([("kubernetes.io/hostname", node.as_str())].into_iter().collect());
    let known = known.unwrap_or(&nameless);
    Verdict {
        l2: applying.l2.and_then(|ads| {
            let ads = for_node(world, demand, pool, (node, known), ads, L2)?;
            Ok(l2_way(&ads, &known.labels))
        }),
        bgp: applying.bgp.and_then(|ads| {
            let ads = for_node(world, demand, pool, (node, known), ads, BGP)?;
            let terms = |ad: &'w Advertisement| match &ad.means {
                Means::Bgp(terms) => Some(terms),
                Means::L2(_) => None,
            };
            Ok(ads.into_iter().filter_map(terms).collect())
        }),
    }
}

const L2: &str = "L2Advertisement";
const BGP: &str = "BGPAdvertisement";

/// The advertisements that apply whatever the node.
pub(super) struct Applying<'w> {
    pub(super) l2: Result<Vec<&'w Advertisement>, Obstacle>,
    pub(super) bgp: Result<Vec<&'w Advertisement>, Obstacle>,
}

pub(super) fn applying<'w>(world: &'w World, demand: &Demand, pool: &PoolName) -> Applying<'w> {
    if let Some(obstacle) = class_obstacle(world, demand).or_else(|| serving_obstacle(world, demand)) {
        return Applying { l2: Err(obstacle.clone()), bgp: Err(obstacle) };
    }
    Applying { l2: selecting(world, demand, pool, L2), bgp: selecting(world, demand, pool, BGP) }
}

pub(super) fn class_obstacle(world: &World, demand: &Demand) -> Option<Obstacle> {
    if world.is_ours(demand) {
        return None;
    }
    Some(match (&demand.class, &world.class) {
        (Some(theirs), ours) => Obstacle::OtherClass { theirs: theirs.clone(), ours: ours.clone() },
        (None, ours) => Obstacle::NoClass { ours: ours.clone().unwrap_or_default() },
    })
}

/// A Gateway is served by the router of every node.
fn serving<'w>(world: &'w World, owner: &OwnerKey) -> ServedBy<'w> {
    match (&world.endpoints, owner) {
        (Endpoints::Everywhere, _) | (_, OwnerKey::Gateway(_)) => ServedBy::EveryNode,
        (Endpoints::Of(services), OwnerKey::Service(name)) => match services.get(name) {
            Some(serving) if serving.elsewhere || !serving.nodes.is_empty() => {
                ServedBy::Nodes(&serving.nodes)
            }
            _ => ServedBy::Nobody,
        },
    }
}

enum ServedBy<'w> {
    EveryNode,
    Nodes(&'w BTreeSet<NodeName>),
    Nobody,
}

fn serving_obstacle(world: &World, demand: &Demand) -> Option<Obstacle> {
    match serving(world, &demand.owner) {
        ServedBy::Nobody => Some(Obstacle::NoServingEndpoint { owner: demand.owner.clone() }),
        ServedBy::EveryNode | ServedBy::Nodes(_) => None,
    }
}

/// The advertisements of one kind that announce what `demand`'s owner holds of `pool`.
fn selecting<'w>(
    world: &'w World,
    demand: &Demand,
    pool: &PoolName,
    kind: &'static str,
) -> Result<Vec<&'w Advertisement>, Obstacle> {
    let of_pool: Vec<_> = match world.pools.get(pool) {
        Some(pool) => {
            let of_kind = |ad: &&Advertisement| matches!(ad.means, Means::L2(_)) == (kind == L2);
            world.advertisements.iter().filter(of_kind).filter(|ad| ad.selects_pool(pool)).collect()
        }
        None => Vec::new(),
    };
    let (pool, owner) = (pool.clone(), demand.owner.clone());
    if of_pool.is_empty() {
        return Err(Obstacle::NoAdvertisement { kind, pool });
    }
    let selected: Vec<_> = if demand.shares {
        of_pool.into_iter().filter(|ad| ad.service_selectors.is_empty()).collect()
    } else {
        of_pool.into_iter().filter(|ad| ad.selects_service(&demand.labels)).collect()
    };
    match (selected.is_empty(), demand.shares) {
        (false, _) => Ok(selected),
        (true, true) => Err(Obstacle::SharedWithServiceSelectors { kind, pool, owner }),
        (true, false) => Err(Obstacle::ServiceNotSelected { kind, pool, owner }),
    }
}

/// Those of `ads` by which this node may announce.
fn for_node<'w>(
    world: &World,
    demand: &Demand,
    pool: &PoolName,
    (name, node): (&NodeName, &Node),
    ads: Vec<&'w Advertisement>,
    kind: &'static str,
) -> Result<Vec<&'w Advertisement>, Obstacle> {
    let ads: Vec<_> = ads.into_iter().filter(|ad| ad.selects_node(&node.labels)).collect();
    if ads.is_empty() {
        return Err(Obstacle::NodeNotSelected { kind, pool: pool.clone() });
    }
    if node.network_unavailable {
        return Err(Obstacle::NetworkUnavailable);
    }
    if node.excluded && !world.ignore_exclude_label {
        return Err(Obstacle::Excluded);
    }
    if demand.traffic == TrafficPolicy::Local
        && let ServedBy::Nodes(nodes) = serving(world, &demand.owner)
        && !nodes.contains(name)
    {
        return Err(Obstacle::NoLocalEndpoint { owner: demand.owner.clone() });
    }
    Ok(ads)
}

/// All of the advertisements together: any interface that one names, and the sum of what they prefer.
fn l2_way(ads: &[&Advertisement], labels: &Labels) -> L2Way {
    let mut way: Option<L2Way> = None;
    for ad in ads {
        let Means::L2(terms) = &ad.means else { continue };
        let interfaces = match terms.interfaces.is_empty() {
            true => Interfaces::All,
            false => Interfaces::Only(terms.interfaces.clone()),
        };
        let preferred = terms.preferences.iter().filter(|preference| preference.selector.matches(labels));
        let preference = preferred.fold(0_u32, |sum, preference| sum.saturating_add(preference.weight));
        way = Some(match way {
            None => L2Way { interfaces, preference },
            Some(way) => L2Way {
                interfaces: way.interfaces.union(interfaces),
                preference: way.preference.saturating_add(preference),
            },
        });
    }
    way.unwrap_or_default()
}

impl fmt::Display for L2Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interfaces {
            Interfaces::All => f.write_str("on every interface")?,
            Interfaces::Only(names) => {
                let names: Vec<_> = names.iter().map(InterfaceName::as_str).collect();
                write!(f, "on {}", names.join(", "))?;
            }
        }
        match self.preference {
            0 => Ok(()),
            preference => write!(f, ", preferred by {preference}"),
        }
    }
}
