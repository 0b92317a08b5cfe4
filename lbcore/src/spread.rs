//! Who should own what: the one pure function that every elector calls.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::elect::Bid;
use crate::id::{NodeName, Role};

#[cfg(test)]
mod tests;

/// The bids of all live nodes, for each role.
pub type Bids = BTreeMap<Role, BTreeMap<NodeName, Bid>>;

/// Assigns each role to a node: even, sticky, by preference and weight.
///
/// Pure: the same bids and the same current owners give the same answer on every node and platform. A role
/// that nobody may own is missing from the answer. The rules, the first one that applies wins:
///
/// 1. **Candidates** of a role are the nodes that bid [`eligible`](Bid::eligible) and not
///    [`draining`](Bid::draining), of those the ones with the highest [`preference`](Bid::preference). So a
///    strictly higher preference attracts a role, and takes it back when the preferred node returns.
///    If there are none, an owner that is eligible and drains keeps the role; a draining node never gets one.
/// 2. **Sticky**: a role stays with its owner while the owner is a candidate and carries no more than its share.
/// 3. **Even**: no single move of a role to another of its candidates would make the loads more even, relative to
///    the nodes' [`weight`](Bid::weight)s. This is Webster's rule of apportionment: with equal weights and equal
///    candidates the loads differ by one at most, and otherwise each load is its exact share, rounded. Where
///    the bids of one node differ in weight, the largest counts.
/// 4. Roles without an owner go to the least loaded candidate; among equals a hash of role and node decides,
///    so that no node is the favourite.
///
/// Addresses and named roles are spread apart from each other: a role that carries no traffic is no reason for
/// a node to carry fewer addresses.
///
/// # What moves
/// `spread(bids, &spread(bids, current))` changes nothing. Where all roles have the same candidates, a node that
/// leaves moves its own roles and no other, and one that joins gets its share and moves nothing else. Where the
/// candidates differ, a role may move to make room for one that has nowhere else to go.
///
/// # Cost
/// About linear in the number of bids.
pub fn spread(bids: &Bids, current: &BTreeMap<Role, NodeName>) -> BTreeMap<Role, NodeName> {
    let nodes = nodes(bids);
    let mut assigned = BTreeMap::new();
    for address in [true, false] {
        let class = bids.iter().filter(|(role, _)| matches!(role, Role::Address(_)) == address);
        let mut board = Board::new(&nodes, class, current);
        board.place_orphans();
        board.even_out();
        board.collect_into(&mut assigned);
    }
    assigned
}

/// All nodes that bid, in order.
fn nodes(bids: &Bids) -> Vec<&NodeName> {
    let mut nodes: Vec<&NodeName> = Vec::new();
    for bidders in bids.values() {
        let mut at = 0;
        for node in bidders.keys() {
            // Most roles have the same bidders: walk along.
            while nodes.get(at).is_some_and(|known| *known < node) {
                at += 1;
            }
            if nodes.get(at) != Some(&node) {
                nodes.insert(at, node);
            }
            at += 1;
        }
    }
    nodes
}

/// One class of roles while they are being assigned. Nodes, roles and groups are indices.
struct Board<'b> {
    nodes: Vec<Node<'b>>,
    roles: Vec<RoleState<'b>>,
    groups: Vec<Group>,
    orphans: Vec<usize>,
}

struct Node<'b> {
    name: &'b NodeName,
    hash: u64,
    weight: u32,
    load: u64,
}

struct RoleState<'b> {
    role: &'b Role,
    hash: u64,
    group: usize,
    owner: Option<usize>,
}

/// The roles that have the same candidates.
struct Group {
    /// Nodes, ascending.
    candidates: Vec<usize>,
    /// For each candidate its roles of this group; what may go first is last.
    held: Vec<Vec<usize>>,
}

impl<'b> Board<'b> {
    fn new(
        names: &[&'b NodeName],
        class: impl Iterator<Item = (&'b Role, &'b BTreeMap<NodeName, Bid>)>,
        current: &BTreeMap<Role, NodeName>,
    ) -> Self {
        let nodes = names
            .iter()
            .map(|name| Node { name, hash: hash_bytes(0, name.as_str().as_bytes()), weight: 1, load: 0 })
            .collect();
        let mut board = Self { nodes, roles: Vec::new(), groups: Vec::new(), orphans: Vec::new() };
        let mut group_of: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        let mut candidates = Vec::new();
        for (role, bidders) in class {
            let holder = current.get(role);
            board.candidates(bidders, holder, &mut candidates);
            if candidates.is_empty() {
                continue;
            }
            let group = group_of.get(candidates.as_slice()).copied().unwrap_or_else(|| {
                let held = vec![Vec::new(); candidates.len()];
                board.groups.push(Group { candidates: candidates.clone(), held });
                group_of.insert(candidates.clone(), board.groups.len() - 1);
                board.groups.len() - 1
            });
            let index = board.roles.len();
            board.roles.push(RoleState { role, hash: hash_role(role), group, owner: None });
            let seat = holder.and_then(|holder| {
                candidates.binary_search_by(|&node| board.nodes[node].name.cmp(holder)).ok()
            });
            match seat {
                Some(seat) => board.give(index, seat),
                None => board.orphans.push(index),
            }
        }
        // A node parts first with the roles that it is the least fit for, by the hash.
        for group in &mut board.groups {
            for (&node, held) in group.candidates.iter().zip(&mut group.held) {
                let node = board.nodes[node].hash;
                held.sort_by_cached_key(|&role| Reverse(mix(board.roles[role].hash, node)));
            }
        }
        board
    }

    /// The nodes that may own a role (rule 1), in order. Notes their weights.
    fn candidates(
        &mut self,
        bidders: &BTreeMap<NodeName, Bid>,
        holder: Option<&NodeName>,
        into: &mut Vec<usize>,
    ) {
        into.clear();
        let best =
            bidders.values().filter(|bid| bid.eligible && !bid.draining).map(|bid| bid.preference).max();
        let mut at = 0;
        for (name, bid) in bidders {
            while self.nodes[at].name != name {
                at += 1;
            }
            let candidate = bid.eligible
                && match best {
                    Some(best) => !bid.draining && bid.preference == best,
                    None => holder == Some(name),
                };
            if candidate {
                into.push(at);
                self.nodes[at].weight = self.nodes[at].weight.max(bid.weight);
            }
        }
    }

    /// Gives `role`, which nobody owns, to the candidate number `seat` of its group.
    fn give(&mut self, role: usize, seat: usize) {
        let group = &mut self.groups[self.roles[role].group];
        let node = group.candidates[seat];
        group.held[seat].push(role);
        self.roles[role].owner = Some(node);
        self.nodes[node].load += 1;
    }

    /// What a node's load would come to, relative to its weight, halfway to one role more.
    fn with_one_more(&self, node: usize) -> Ratio {
        Ratio { over: 2 * self.nodes[node].load + 1, under: self.nodes[node].weight }
    }

    /// What a node's load would come to, relative to its weight, halfway to one role less.
    fn with_one_less(&self, node: usize) -> Ratio {
        Ratio { over: (2 * self.nodes[node].load).saturating_sub(1), under: self.nodes[node].weight }
    }

    /// The candidate of the role's group that should get it.
    fn receiver(&self, role: usize) -> Option<usize> {
        let role = &self.roles[role];
        let candidates = self.groups[role.group].candidates.iter().enumerate();
        let lowest = candidates.clone().map(|(_, &node)| self.with_one_more(node)).min()?;
        candidates
            .filter(|&(_, &node)| self.with_one_more(node) == lowest)
            .max_by_key(|&(_, &node)| (mix(role.hash, self.nodes[node].hash), Reverse(node)))
            .map(|(seat, _)| seat)
    }

    /// The candidate that should part with a role of this group, if any.
    fn giver(&self, group: &Group) -> Option<(usize, usize)> {
        let held = group.candidates.iter().zip(&group.held).enumerate();
        held.filter_map(|(seat, (&node, held))| {
            let role = *held.last()?;
            let fit = mix(self.roles[role].hash, self.nodes[node].hash);
            Some(((self.with_one_less(node), Reverse(fit), Reverse(seat)), (seat, role)))
        })
        .max_by_key(|(key, _)| *key)
        .map(|(_, giver)| giver)
    }

    /// Roles without an owner go to the least loaded candidate; those with the least choice first.
    fn place_orphans(&mut self) {
        let mut orphans = std::mem::take(&mut self.orphans);
        orphans.sort_by_key(|&role| self.groups[self.roles[role].group].candidates.len());
        for role in orphans {
            if let Some(seat) = self.receiver(role) {
                self.give(role, seat);
            }
        }
    }

    /// Moves roles while that makes the loads more even. Ends, as each move lowers the sum of load²/weight.
    fn even_out(&mut self) {
        loop {
            let mut moved = false;
            for group in 0..self.groups.len() {
                while self.move_one(group) {
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
    }

    fn move_one(&mut self, index: usize) -> bool {
        let group = &self.groups[index];
        if group.candidates.len() < 2 {
            return false;
        }
        let Some((from, role)) = self.giver(group) else { return false };
        let Some(to) = self.receiver(role) else { return false };
        let giver = group.candidates[from];
        if self.with_one_more(group.candidates[to]) >= self.with_one_less(giver) {
            return false;
        }
        self.groups[index].held[from].pop();
        self.nodes[giver].load -= 1;
        self.give(role, to);
        true
    }

    fn collect_into(self, assigned: &mut BTreeMap<Role, NodeName>) {
        assigned.extend(self.roles.iter().filter_map(|role| {
            let owner = role.owner?;
            Some((role.role.clone(), self.nodes[owner].name.clone()))
        }));
    }
}

/// A fraction, compared exactly.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    over: u64,
    /// Not zero.
    under: u32,
}

impl Ord for Ratio {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = u128::from(self.over) * u128::from(other.under);
        left.cmp(&(u128::from(other.over) * u128::from(self.under)))
    }
}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ratio {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ratio {}

/// FNV-1a, 64 bits: fixed for good, as all nodes of a cluster must agree on it whatever their version.
fn hash_bytes(seed: u8, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(step(0xcbf2_9ce4_8422_2325, &seed), step)
}

fn hash_role(role: &Role) -> u64 {
    match role {
        Role::Address(IpAddr::V4(address)) => hash_bytes(4, &address.octets()),
        Role::Address(IpAddr::V6(address)) => hash_bytes(6, &address.octets()),
        Role::Named(name) => hash_bytes(1, name.as_bytes()),
    }
}

/// How fit a node is for a role (rendezvous hashing): the finalizer of SplitMix64 over both hashes.
fn mix(role: u64, node: u64) -> u64 {
    let mut z = role.rotate_left(29) ^ node;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
