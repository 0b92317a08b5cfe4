//! MetalLB's kinds: `IPAddressPool`, `L2Advertisement`, `BGPAdvertisement`, `Community` (all v1beta1), and the
//! rules between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::sync::Arc;

use super::field::Field;
use super::kubernetes::Node;
use super::suggest;
use super::{Findings, Kind, Kinds, Mapping, Object, ObjectId, Objects};
use crate::addr::{AddressRange, Family};
use crate::allocator::{Pool, Pools, ServiceAllocation};
use crate::id::{AdvertisementName, InterfaceName, ObjectName, PeerName, PoolName};
use crate::plan::{Advertisement, BgpTerms, L2Terms, Means, Preference};

/// The API group.
pub const GROUP: &str = "metallb.io";

/// An annotation of our own on an `IPAddressPool`: with `"true"` the pool gives no new addresses, while those
/// held stay.
pub const DRAIN: &str = "lbcore.io/drain";

/// Registers MetalLB's kinds that this crate reads, and their rules. Other kinds of the group are errors.
pub(super) fn kinds(kinds: Kinds) -> Kinds {
    kinds
        .read::<IpAddressPool>()
        .read::<L2Advertisement>()
        .read::<BgpAdvertisement>()
        .read::<Community>()
        .closed_group(
            GROUP,
            &[
                ("BGPPeer", "only a BGP speaker reads it"),
                ("BFDProfile", "only a BGP speaker reads it"),
                ("ConfigurationState", "it is a status"),
                ("ServiceBGPStatus", "it is a status"),
                ("ServiceL2Status", "it is a status"),
                ("MetalLB", "it installs MetalLB"),
            ],
        )
        .check(unique_pool_names)
        .check(no_overlap)
        .check(no_address_of_a_node)
        .check(known_pools)
        .check(unique_aliases)
        .check(known_aliases)
        .check(aggregates_stay_within_pools)
        .check(no_twin_advertisements)
        .check(one_local_pref)
}

/// An `IPAddressPool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpAddressPool(pub Pool);

impl Kind for IpAddressPool {
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "IPAddressPool";
    const VERSIONS: &'static [&'static str] = &["v1beta1"];
    const NAMESPACED: bool = true;
    const STRICT: bool = true;

    fn read(object: &Object<'_>) -> Option<Self> {
        let drain = object.annotation(DRAIN).one_of(&[("true", true), ("false", false)]).unwrap_or(false);
        object.spec().required().mapping(|spec| {
            let addresses = spec.get("addresses").required();
            let ranges: Vec<AddressRange> = addresses.list().iter().filter_map(pool_range).collect();
            if addresses.is_present() && addresses.list().is_empty() {
                addresses.problem("the pool has no addresses: give it at least one range, as 192.0.2.0/28");
            }
            Self(Pool {
                name: (&*object.name.name).into(),
                ranges,
                auto_assign: spec.get("autoAssign").bool().unwrap_or(true),
                avoid_buggy: spec.get("avoidBuggyIPs").bool().unwrap_or(false),
                draining: drain,
                service_allocation: spec.get("serviceAllocation").mapping(service_allocation),
                labels: object.labels.clone(),
            })
        })
    }
}

fn pool_range(item: &Field<'_>) -> Option<AddressRange> {
    let range: AddressRange = item.clone().required().parse()?;
    if let Some((block, what)) = range.reserved() {
        item.problem(format!("has addresses of {block} ({what}), which no service can have: leave them out"));
    }
    Some(range)
}

fn service_allocation(fields: &Mapping<'_>) -> ServiceAllocation {
    ServiceAllocation {
        priority: fields.get("priority").int(0..=i32::MAX.unsigned_abs()).unwrap_or(0),
        namespaces: fields.get("namespaces").distinct().into_iter().map(Arc::from).collect(),
        namespace_selectors: fields.get("namespaceSelectors").label_selectors(),
        service_selectors: fields.get("serviceSelectors").label_selectors(),
    }
}

/// What both kinds of advertisements say.
fn advertisement(object: &Object<'_>, spec: &Mapping<'_>, means: Means) -> Advertisement {
    Advertisement {
        name: AdvertisementName::new(&*object.name.name),
        pools: spec.get("ipAddressPools").distinct().into_iter().map(Into::into).collect(),
        pool_selectors: spec.get("ipAddressPoolSelectors").label_selectors(),
        node_selectors: spec.get("nodeSelectors").label_selectors(),
        service_selectors: spec.get("serviceSelectors").label_selectors(),
        means,
    }
}

fn listed(spec: &Mapping<'_>) -> Vec<PoolName> {
    spec.get("ipAddressPools").list().iter().filter_map(|item| item.str().map(PoolName::from)).collect()
}

/// An `L2Advertisement`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct L2Advertisement {
    /// What it says.
    pub advertisement: Advertisement,
    /// Its pools as they are written, to name the place of a wrong one.
    listed: Vec<PoolName>,
}

impl Kind for L2Advertisement {
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "L2Advertisement";
    const VERSIONS: &'static [&'static str] = &["v1beta1"];
    const NAMESPACED: bool = true;
    const STRICT: bool = true;

    fn read(object: &Object<'_>) -> Option<Self> {
        // An advertisement without a spec selects every pool.
        let read = |spec: &Mapping<'_>| {
            let interfaces = spec.get("interfaces").distinct().into_iter().map(InterfaceName::from).collect();
            let preferences =
                spec.get("preferredNodeSelectors").list().iter().filter_map(preference).collect();
            let advertisement = advertisement(object, spec, Means::L2(L2Terms { interfaces, preferences }));
            Self { advertisement, listed: listed(spec) }
        };
        Some(object.spec().mapping(read).unwrap_or_else(|| Self {
            advertisement: Advertisement::l2(&*object.name.name),
            listed: Vec::new(),
        }))
    }
}

fn preference(field: &Field<'_>) -> Option<Preference> {
    field.clone().required().mapping(|fields| {
        let weight = fields.get("weight").required().int(1..=100);
        let selector = fields.get("preference").required().label_selector();
        Some(Preference { weight: weight?, selector: selector? })
    })?
}

/// A `BGPAdvertisement`. Its communities may be aliases, which [`resolve`](Self::resolve) looks up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpAdvertisement {
    advertisement: Advertisement,
    /// Its pools as they are written, to name the place of a wrong one.
    listed: Vec<PoolName>,
    /// The aliases among its communities, each with its place in the list.
    aliases: Vec<(usize, Arc<str>)>,
}

impl Kind for BgpAdvertisement {
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "BGPAdvertisement";
    const VERSIONS: &'static [&'static str] = &["v1beta1"];
    const NAMESPACED: bool = true;
    const STRICT: bool = true;

    fn read(object: &Object<'_>) -> Option<Self> {
        let read = |spec: &Mapping<'_>| {
            let mut terms = BgpTerms::default();
            let mut aliases = Vec::new();
            let length = |name, bits: u8| {
                let field = spec.get(name);
                let length = field.int(1..=bits).unwrap_or(bits);
                (NonZeroU8::new(length), field, length < bits)
            };
            let (v4, v4_field, aggregates_v4) = length("aggregationLength", 32);
            let (v6, v6_field, aggregates_v6) = length("aggregationLengthV6", 128);
            terms.aggregation_v4 = v4.map_or(32, NonZeroU8::get);
            terms.aggregation_v6 = v6.map_or(128, NonZeroU8::get);
            terms.local_pref = spec.get("localPref").int(0..=u32::MAX);
            let communities = spec.get("communities");
            communities.distinct();
            for (index, item) in communities.list().iter().enumerate() {
                let Some(text) = item.str() else { continue };
                match CommunityValue::read(text) {
                    Some(Ok(value)) => value.add_to(&mut terms),
                    Some(Err(message)) => item.problem(message),
                    None => aliases.push((index, Arc::from(text))),
                }
            }
            terms.peers = spec.get("peers").distinct().into_iter().map(PeerName::from).collect();
            let advertisement = advertisement(object, spec, Means::Bgp(terms));
            if !advertisement.service_selectors.is_empty() {
                let message = "serviceSelectors need host routes: remove it, or the serviceSelectors";
                for (field, _) in
                    [(v4_field, aggregates_v4), (v6_field, aggregates_v6)].iter().filter(|(_, short)| *short)
                {
                    field.problem(message);
                }
            }
            Self { advertisement, listed: listed(spec), aliases }
        };
        Some(object.spec().mapping(read).unwrap_or_else(|| Self {
            advertisement: Advertisement::bgp(&*object.name.name),
            listed: Vec::new(),
            aliases: Vec::new(),
        }))
    }
}

impl BgpAdvertisement {
    /// The peers that it names; none if it is for all.
    pub fn peers(&self) -> impl Iterator<Item = &PeerName> {
        match &self.advertisement.means {
            Means::Bgp(terms) => Some(&terms.peers),
            Means::L2(_) => None,
        }
        .into_iter()
        .flatten()
    }

    /// The advertisement, its aliases looked up among `communities`. One that is not there adds nothing.
    pub fn resolve(&self, communities: &Communities) -> Advertisement {
        let mut advertisement = self.advertisement.clone();
        if let Means::Bgp(terms) = &mut advertisement.means {
            for value in self.aliases.iter().filter_map(|(_, alias)| communities.0.get(alias)) {
                value.add_to(terms);
            }
        }
        advertisement
    }

    fn terms(&self) -> Option<&BgpTerms> {
        match &self.advertisement.means {
            Means::Bgp(terms) => Some(terms),
            Means::L2(_) => None,
        }
    }
}

/// The value of a BGP community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommunityValue {
    /// `n:n` (RFC 1997).
    Standard(u32),
    /// `large:n:n:n` (RFC 8092).
    Large(u32, u32, u32),
}

impl CommunityValue {
    /// Reads a value; `None` if the text is meant as an alias.
    fn read(text: &str) -> Option<Result<Self, String>> {
        if let Some(numbers) = text.strip_prefix("large:") {
            let numbers: Vec<Option<u32>> = numbers.split(':').map(decimal).collect();
            return Some(match numbers.as_slice() {
                [Some(global), Some(first), Some(second)] => Ok(Self::Large(*global, *first, *second)),
                _ => {
                    Err(format!("{text:?} is no large community: write large:N:N:N, each at most 4294967295"))
                }
            });
        }
        let (high, low) = text.split_once(':')?;
        Some(match (decimal::<u16>(high), decimal::<u16>(low)) {
            (Some(high), Some(low)) => Ok(Self::Standard((u32::from(high) << 16) | u32::from(low))),
            _ => Err(format!(
                "{text:?} is no community: write N:N, each at most 65535, large:N:N:N, or an alias"
            )),
        })
    }

    fn add_to(self, terms: &mut BgpTerms) {
        match self {
            Self::Standard(value) => {
                terms.communities.insert(value);
            }
            Self::Large(global, first, second) => {
                terms.large_communities.insert((global, first, second));
            }
        }
    }
}

fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

/// A `Community`: names for values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Community {
    aliases: Vec<(Arc<str>, CommunityValue)>,
}

impl Kind for Community {
    const GROUP: &'static str = GROUP;
    const KIND: &'static str = "Community";
    const VERSIONS: &'static [&'static str] = &["v1beta1"];
    const NAMESPACED: bool = true;
    const STRICT: bool = true;

    fn read(object: &Object<'_>) -> Option<Self> {
        let alias = |field: &Field<'_>| {
            field.clone().required().mapping(|fields| {
                let name = fields.get("name").required().non_empty();
                let value_field = fields.get("value").required();
                let value = match value_field.non_empty().map(|text| (text, CommunityValue::read(text))) {
                    None => None,
                    Some((_, Some(Ok(value)))) => Some(value),
                    Some((_, Some(Err(message)))) => {
                        value_field.problem(message);
                        None
                    }
                    Some((text, None)) => {
                        value_field.problem(format!("{text:?} is no community: write N:N or large:N:N:N"));
                        None
                    }
                };
                Some((Arc::from(name?), value?))
            })?
        };
        let aliases =
            object.spec().mapping(|spec| spec.get("communities").list().iter().filter_map(alias).collect());
        Some(Self { aliases: aliases.unwrap_or_default() })
    }
}

/// All aliases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Communities(BTreeMap<Arc<str>, CommunityValue>);

impl Communities {
    /// Those of all [`Community`] objects.
    pub fn of(objects: &Objects) -> Self {
        let communities = objects.iter::<Community>();
        Self(communities.flat_map(|(_, community)| community.aliases.iter().cloned()).collect())
    }
}

fn pool_id(name: &ObjectName) -> ObjectId {
    ObjectId::of::<IpAddressPool>(name.clone())
}

/// Pools are known by name alone, whatever their namespace.
fn unique_pool_names(objects: &Objects, findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<&str, ObjectId> = BTreeMap::new();
    for (name, _) in objects.iter::<IpAddressPool>() {
        let id = pool_id(name);
        let Some(other) = seen.get(&*name.name) else {
            seen.insert(&name.name, id);
            continue;
        };
        let blamed = objects.to_blame(&id, other).clone();
        let other = if blamed == id { other } else { &id };
        let message = format!(
            "there is another pool of this name, {} at {}: rename one",
            other.name,
            findings.place(other)
        );
        findings.report(blamed, "metadata.name", message);
    }
}

/// An address has one place.
fn no_overlap(objects: &Objects, findings: &mut Findings<'_>) {
    struct Part {
        range: AddressRange,
        id: ObjectId,
        index: usize,
    }
    let mut parts: Vec<Part> = Vec::new();
    for (name, IpAddressPool(pool)) in objects.iter::<IpAddressPool>() {
        let ranges = pool.ranges.iter().enumerate();
        parts.extend(ranges.map(|(index, range)| Part { range: *range, id: pool_id(name), index }));
    }
    parts.sort_by(|a, b| (a.range, &a.id, a.index).cmp(&(b.range, &b.id, b.index)));
    let mut furthest: Option<&Part> = None;
    for part in &parts {
        if let Some(other) = furthest.filter(|other| other.range.overlaps(&part.range)) {
            let part_is_to_blame = if part.id == other.id {
                part.index > other.index
            } else {
                *objects.to_blame(&part.id, &other.id) == part.id
            };
            let (blamed, other) = if part_is_to_blame { (part, other) } else { (other, part) };
            let message = if blamed.id == other.id {
                format!(
                    "{} overlaps {} of the same pool: remove one, or shorten it",
                    blamed.range, other.range
                )
            } else {
                format!(
                    "{} overlaps {} of pool {} at {}: an address has one place, shorten one of the ranges",
                    blamed.range,
                    other.range,
                    other.id.name.name,
                    findings.place(&other.id)
                )
            };
            findings.report(blamed.id.clone(), format!("spec.addresses[{}]", blamed.index), message);
        }
        let further = |other: &&Part| {
            other.range.family() != part.range.family() || other.range.last() < part.range.last()
        };
        if furthest.as_ref().is_none_or(further) {
            furthest = Some(part);
        }
    }
}

/// What a node is reached at is given to nobody.
fn no_address_of_a_node(objects: &Objects, findings: &mut Findings<'_>) {
    for (name, IpAddressPool(pool)) in objects.iter::<IpAddressPool>() {
        for (index, range) in pool.ranges.iter().enumerate() {
            for (node, address) in node_addresses(objects).filter(|(_, address)| range.contains(*address)) {
                let message = format!(
                    "{range} has {address}, the address of node {}, which no service gets: leave it out",
                    node.name
                );
                findings.notice(pool_id(name), format!("spec.addresses[{index}]"), message);
            }
        }
    }
}

fn node_addresses(objects: &Objects) -> impl Iterator<Item = (&ObjectName, IpAddr)> {
    objects.iter::<Node>().flat_map(|(name, node)| node.addresses.iter().map(move |address| (name, *address)))
}

/// The pools of `objects`, without the addresses of their nodes.
pub(super) fn pools(objects: &Objects) -> Pools {
    let taken: BTreeSet<IpAddr> = node_addresses(objects).map(|(_, address)| address).collect();
    let pools = objects.iter::<IpAddressPool>().map(|(_, pool)| {
        let mut pool = pool.0.clone();
        pool.ranges = pool.ranges.iter().flat_map(|range| range.without(&taken)).collect();
        pool
    });
    // The rules between objects have settled what else `Pools` would refuse.
    Pools::new(pools.filter(|pool| !pool.ranges.is_empty())).unwrap_or_default()
}

/// The pools that each advertisement names.
fn named_pools(objects: &Objects) -> impl Iterator<Item = (ObjectId, &[PoolName])> {
    let l2 = objects
        .iter::<L2Advertisement>()
        .map(|(name, ad)| (ObjectId::of::<L2Advertisement>(name.clone()), &*ad.listed));
    l2.chain(bgp_advertisements(objects).map(|(id, ad)| (id, &*ad.listed)))
}

fn bgp_advertisements(objects: &Objects) -> impl Iterator<Item = (ObjectId, &BgpAdvertisement)> {
    objects.iter::<BgpAdvertisement>().map(|(name, ad)| (ObjectId::of::<BgpAdvertisement>(name.clone()), ad))
}

fn known_pools(objects: &Objects, findings: &mut Findings<'_>) {
    let known: Vec<&str> = objects.iter::<IpAddressPool>().map(|(name, _)| &*name.name).collect();
    let known: BTreeSet<&str> = known.into_iter().collect();
    for (id, pools) in named_pools(objects) {
        for (index, pool) in pools.iter().enumerate() {
            if known.contains(pool.as_str()) || objects.may_exist_anywhere::<IpAddressPool>(pool.as_str()) {
                continue;
            }
            let names: Vec<&str> = known.iter().copied().collect();
            let message = match suggest::closest(pool.as_str(), &names) {
                Some(name) => format!("there is no IPAddressPool {pool}: did you mean {name}?"),
                None if names.is_empty() => format!("there is no IPAddressPool {pool}: add it"),
                None => {
                    format!("there is no IPAddressPool {pool}: add it, or name one of {}", names.join(", "))
                }
            };
            findings.report(id.clone(), format!("spec.ipAddressPools[{index}]"), message);
        }
    }
}

fn unique_aliases(objects: &Objects, findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<&str, (ObjectId, usize)> = BTreeMap::new();
    for (name, community) in objects.iter::<Community>() {
        let id = ObjectId::of::<Community>(name.clone());
        for (index, (alias, _)) in community.aliases.iter().enumerate() {
            let Some((other, other_index)) = seen.get(&**alias) else {
                seen.insert(alias, (id.clone(), index));
                continue;
            };
            let mine = id == *other || *objects.to_blame(&id, other) == id;
            let (blamed, index, other) = if mine { (&id, index, other) } else { (other, *other_index, &id) };
            let message =
                format!("the alias {alias} is there twice, also at {}: rename one", findings.place(other));
            findings.report(blamed.clone(), format!("spec.communities[{index}].name"), message);
        }
    }
}

fn known_aliases(objects: &Objects, findings: &mut Findings<'_>) {
    let known = Communities::of(objects);
    for (id, ad) in bgp_advertisements(objects) {
        for (index, alias) in ad.aliases.iter().filter(|(_, alias)| !known.0.contains_key(alias)) {
            // A Community that is invalid may hold it.
            if !objects.all_valid::<Community>() {
                continue;
            }
            let names: Vec<&str> = known.0.keys().map(|alias| &**alias).collect();
            let message = match suggest::closest(alias, &names) {
                Some(name) => format!("no Community has the alias {alias}: did you mean {name}?"),
                None => format!("no Community has the alias {alias}: add it, or write N:N or large:N:N:N"),
            };
            findings.report(id.clone(), format!("spec.communities[{index}]"), message);
        }
    }
}

/// An aggregate that is shorter than the pool's own prefix would draw in addresses that are not ours.
fn aggregates_stay_within_pools(objects: &Objects, findings: &mut Findings<'_>) {
    for (id, ad) in bgp_advertisements(objects) {
        let Some(terms) = ad.terms() else { continue };
        let mut reported = BTreeSet::new();
        for (_, IpAddressPool(pool)) in objects.iter::<IpAddressPool>() {
            if !ad.advertisement.selects_pool(pool) {
                continue;
            }
            for range in &pool.ranges {
                let (path, length) = match range.family() {
                    Family::V4 => ("spec.aggregationLength", terms.aggregation_v4),
                    Family::V6 => ("spec.aggregationLengthV6", terms.aggregation_v6),
                };
                let shortest = range.prefixes().map(|prefix| prefix.prefix_len()).min();
                if let Some(shortest) = shortest.filter(|shortest| length < *shortest)
                    && reported.insert((path, &pool.name))
                {
                    let message = format!(
                        "an aggregate of /{length} is larger than {range} of pool {}: use {shortest} or more",
                        pool.name
                    );
                    findings.report(id.clone(), path, message);
                }
            }
        }
    }
}

fn no_twin_advertisements(objects: &Objects, findings: &mut Findings<'_>) {
    let mut seen: Vec<(ObjectId, &BgpAdvertisement)> = Vec::new();
    for (id, ad) in bgp_advertisements(objects) {
        let twin = seen.iter().find(|(_, other)| {
            let unnamed =
                Advertisement { name: other.advertisement.name.clone(), ..ad.advertisement.clone() };
            unnamed == other.advertisement && ad.aliases == other.aliases
        });
        if let Some((other, _)) = twin {
            let blamed = objects.to_blame(&id, other).clone();
            let other = if blamed == id { other } else { &id };
            let message = format!("says the same as {other} at {}: remove one", findings.place(other));
            findings.report(blamed, "spec", message);
        } else {
            seen.push((id, ad));
        }
    }
}

/// A route has one LOCAL_PREF for each peer.
fn one_local_pref(objects: &Objects, findings: &mut Findings<'_>) {
    let ads: Vec<_> = bgp_advertisements(objects).collect();
    let nodes: Vec<&Node> = objects.iter::<Node>().map(|(_, node)| node).collect();
    let pools: Vec<&Pool> = objects.iter::<IpAddressPool>().map(|(_, pool)| &pool.0).collect();
    let share = |a: &Advertisement, b: &Advertisement| {
        let pool = pools.iter().any(|pool| a.selects_pool(pool) && b.selects_pool(pool));
        let node = |node: &&Node| a.selects_node(&node.labels) && b.selects_node(&node.labels);
        pool && (nodes.is_empty() || nodes.iter().any(node))
    };
    for (index, (id, ad)) in ads.iter().enumerate() {
        for (other_id, other) in &ads[..index] {
            let (Some(a), Some(b)) = (ad.terms(), other.terms()) else { continue };
            let same_prefixes = a.aggregation_v4 == b.aggregation_v4 || a.aggregation_v6 == b.aggregation_v6;
            let same_peers = a.peers.is_empty() || b.peers.is_empty() || !a.peers.is_disjoint(&b.peers);
            if a.local_pref == b.local_pref
                || !same_prefixes
                || !same_peers
                || !share(&ad.advertisement, &other.advertisement)
            {
                continue;
            }
            let blamed = objects.to_blame(id, other_id);
            let other = if blamed == id { other_id } else { id };
            let message = format!(
                "{other} at {} gives the same routes to the same peers another localPref: use one value, or let \
                 them differ in pools, peers, nodes or aggregation",
                findings.place(other)
            );
            findings.report(blamed.clone(), "spec.localPref", message);
        }
    }
}
