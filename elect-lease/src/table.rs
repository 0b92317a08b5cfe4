//! The table of who owns what, and the one rule by which it changes.

use std::collections::{BTreeMap, BTreeSet};

use lbcore::elect::Term;
use lbcore::elect::lease::Holder;
use lbcore::id::{NodeName, Role};

/// One holding of a node's lease, from its acquisition to its end. Once over it never comes back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Session {
    pub(crate) holder: Holder,
    /// The term of the lease.
    pub(crate) term: Term,
}

/// The owner of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// It owns the role for as long as this session lasts.
    pub(crate) session: Session,
    /// The term of the ownership; no two entries ever have the same.
    pub(crate) term: Term,
}

/// Who owns what. One record of the store, changed by compare-and-swap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Whether it may be used. One that was written where there was none must be left alone for a lease's duration
    /// first: the old one may have been deleted while nodes acted on it.
    pub(crate) settled: bool,
    /// The highest term given out.
    pub(crate) last_term: Term,
    pub(crate) entries: BTreeMap<Role, Entry>,
}

/// What a node knows when it changes the table.
pub(crate) struct Changes<'a> {
    /// Its own session.
    pub(crate) me: &'a Session,
    /// The sessions that are on, as far as it knows, this node's own among them.
    pub(crate) live: &'a BTreeMap<NodeName, Session>,
    /// Whether a session is over, for certain. Once it is it remains so; this makes it right to act upon it in a
    /// swap that may be applied much later.
    pub(crate) over: &'a dyn Fn(&Session) -> bool,
    /// Who should own what; live nodes only.
    pub(crate) wanted: &'a BTreeMap<Role, NodeName>,
    /// Entries of its own that it has given up and that nobody acts on any more.
    pub(crate) given_up: &'a dyn Fn(&Role, Term) -> bool,
}

impl Table {
    /// The table as this node may change it, towards what is wanted.
    ///
    /// The rule that keeps a role from having two owners: an entry whose session may still be on is changed only by
    /// the node of that session, after it stopped acting on it. An entry whose session is over may be changed
    /// by anybody, in anybody's favour.
    pub(crate) fn next(&self, changes: &Changes<'_>) -> Self {
        let mut next = Self { settled: true, last_term: self.last_term, entries: BTreeMap::new() };
        let roles: BTreeSet<&Role> = self.entries.keys().chain(changes.wanted.keys()).collect();
        for role in roles {
            let entry = self.entries.get(role);
            let movable = entry.is_none_or(|entry| {
                if entry.session == *changes.me {
                    (changes.given_up)(role, entry.term)
                } else {
                    (changes.over)(&entry.session)
                }
            });
            let owner = if movable {
                let session = changes.wanted.get(role).and_then(|node| changes.live.get(node));
                session.map(|session| {
                    next.last_term.0 = next.last_term.0.saturating_add(1);
                    Entry { session: session.clone(), term: next.last_term }
                })
            } else {
                entry.cloned()
            };
            next.entries.extend(owner.map(|owner| (role.clone(), owner)));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(node: &str, term: u64) -> Session {
        Session { holder: Holder::new(node.into(), 1), term: Term(term) }
    }

    fn role(name: &str) -> Role {
        Role::named(name)
    }

    #[test]
    fn only_what_nobody_can_act_on_is_moved() {
        let (me, peer, dead) = (session("me", 3), session("peer", 1), session("dead", 1));
        let entry = |session: &Session, term| Entry { session: session.clone(), term: Term(term) };
        let table = Table {
            settled: true,
            last_term: Term(20),
            entries: [
                (role("mine"), entry(&me, 1)),
                (role("mine, given up"), entry(&me, 2)),
                (role("mine, given up in an older term"), entry(&me, 3)),
                (role("mine, given up, nobody's"), entry(&me, 4)),
                (role("my last session's"), entry(&session("me", 2), 5)),
                (role("the peer's"), entry(&peer, 6)),
                (role("the peer's last session's"), entry(&session("peer", 0), 7)),
                (role("a dead node's"), entry(&dead, 8)),
                (role("a dead node's, nobody's"), entry(&dead, 9)),
                (role("a stranger's"), entry(&session("stranger", 1), 10)),
            ]
            .into(),
        };
        let wanted_of_peer = [
            "mine",
            "mine, given up",
            "mine, given up in an older term",
            "my last session's",
            "the peer's last session's",
            "a dead node's",
            "a stranger's",
            "nobody's yet",
        ];
        let mut wanted: BTreeMap<_, _> =
            wanted_of_peer.map(|name| (role(name), NodeName::from("peer"))).into();
        wanted.insert(role("the peer's"), "me".into());
        wanted.insert(role("of a node that has gone since"), "gone".into());
        let given_up = |given: &Role, term: Term| {
            [("mine, given up", 2), ("mine, given up in an older term", 2), ("mine, given up, nobody's", 4)]
                .iter()
                .any(|(name, at)| *given == role(name) && term == Term(*at))
        };
        let over =
            |other: &Session| [session("me", 2), session("peer", 0), session("dead", 1)].contains(other);
        let live = BTreeMap::from([("me".into(), me.clone()), ("peer".into(), peer.clone())]);
        let next =
            table.next(&Changes { me: &me, live: &live, over: &over, wanted: &wanted, given_up: &given_up });
        let expected = [
            ("a dead node's", entry(&peer, 21)),
            ("a stranger's", entry(&session("stranger", 1), 10)),
            ("mine", entry(&me, 1)),
            ("mine, given up", entry(&peer, 22)),
            ("mine, given up in an older term", entry(&me, 3)),
            ("my last session's", entry(&peer, 23)),
            ("nobody's yet", entry(&peer, 24)),
            ("the peer's", entry(&peer, 6)),
            ("the peer's last session's", entry(&peer, 25)),
        ];
        assert_eq!(next.entries, expected.map(|(name, entry)| (role(name), entry)).into());
        assert_eq!(next.last_term, Term(25));
    }
}
