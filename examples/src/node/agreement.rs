//! Whether all nodes give the same addresses to the same owners, as they do if they have the same documents.
//!
//! Each node bids for a role that is named after its allocations. Nodes that agree bid for one role; where another is
//! owned as well, somebody has other documents.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lbcore::condition::Condition;
use lbcore::elect::Ownership;
use lbcore::id::Role;
use lbcore::plan::Allocations;
use lbcore::time::{Duration, Instant};

const PREFIX: &str = "allocations-";

/// How long documents may differ without a word: they reach one node after the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// The role of those that allocate like this.
fn role_of(allocations: &Allocations) -> Role {
    let mut text = String::new();
    for (address, owners) in allocations.by_address() {
        for owner in owners {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{address} {owner}");
        }
    }
    Role::named(format!("{PREFIX}{:016x}", fnv(text.as_bytes())))
}

/// FNV-1a, 64 bits: the same in every build.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// What this node allocates, and whether others do otherwise.
#[derive(Debug)]
pub struct Agreement {
    mine: Role,
    differs_since: Option<Instant>,
}

impl Default for Agreement {
    fn default() -> Self {
        Self { mine: role_of(&Allocations::default()), differs_since: None }
    }
}

impl Agreement {
    /// This node allocates like this from now on.
    pub fn update(&mut self, allocations: &Allocations) {
        self.mine = role_of(allocations);
    }

    /// The role to bid for.
    pub fn role(&self) -> &Role {
        &self.mine
    }

    /// What there is to say at `now` of nodes that own another role, if they have for a while.
    pub fn condition(&mut self, now: Instant, ownership: &Ownership) -> Option<Condition> {
        let others: BTreeSet<&str> = ownership
            .roles
            .iter()
            .filter(|(role, _)| **role != self.mine && is_agreement(role))
            .map(|(_, owner)| owner.node.as_str())
            .collect();
        if others.is_empty() {
            self.differs_since = None;
            return None;
        }
        let since = *self.differs_since.get_or_insert(now);
        (now >= since + PATIENCE).then(|| {
            let others = others.into_iter().collect::<Vec<_>>().join(", ");
            Condition::no(
                "NodesAgree",
                "DocumentsDiffer",
                format!(
                    "by the documents of {others} other addresses belong to other services than by ours: give every \
                     node the same files"
                ),
            )
        })
    }
}

fn is_agreement(role: &Role) -> bool {
    matches!(role, Role::Named(name) if name.starts_with(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lbcore::elect::{Owner, Term};

    #[test]
    fn those_that_differ_for_a_while_are_named() {
        let role = |digest: &str| Role::named(format!("{PREFIX}{digest}"));
        let mut ownership = Ownership::default();
        let mut own = |role: Role, node: &str| {
            ownership.roles.insert(role, Owner::new(node.into(), Term(1)));
            ownership.clone()
        };
        let (mut agreement, start) = (Agreement::default(), Instant::from_millis(1000));
        agreement.mine = role("1");
        own(Role::Address([192, 0, 2, 1].into()), "n3");
        let alike = own(role("1"), "n3");
        assert_eq!(agreement.condition(start, &alike), None);
        let differing = own(role("2"), "n2");
        assert_eq!(agreement.condition(start, &differing), None, "they may be about to agree");
        assert_eq!(agreement.condition(start + PATIENCE, &alike), None);
        let later = start + PATIENCE * 2;
        assert_eq!(agreement.condition(later, &differing), None);
        let told = agreement.condition(later + PATIENCE, &differing).unwrap();
        assert!(told.message.contains("of n2 other"), "{told}");
    }

    #[test]
    fn the_digest_is_that_of_all_builds() {
        assert_eq!(role_of(&Allocations::default()), Role::named("allocations-cbf29ce484222325"));
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
