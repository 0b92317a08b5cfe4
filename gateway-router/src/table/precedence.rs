//! Which of several rules that match a request wins.

use std::cmp::Reverse;
use std::sync::Arc;

use lbcore::time::Timestamp;

use super::{Entry, EntryPath};
use crate::model::Metadata;

/// Whose an entry is: decides between matches that are equal otherwise.
///
/// The order of the fields is the specification's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Origin {
    /// Whether its age is not known, which makes it the newest.
    is_ageless: bool,
    created: Option<Timestamp>,
    /// `namespace/name`, compared as text.
    name: Arc<str>,
    /// The rule's place in the route.
    rule: usize,
    /// The match's place in the rule.
    place: usize,
}

impl Default for Origin {
    /// Of no route: yields to every other.
    fn default() -> Self {
        Self { is_ageless: true, created: None, name: "".into(), rule: 0, place: 0 }
    }
}

impl Origin {
    /// Match `place` of rule `rule` of the route with `metadata`.
    pub fn new(metadata: &Metadata, rule: usize, place: usize) -> Self {
        Self {
            is_ageless: metadata.created.is_none(),
            created: metadata.created,
            name: metadata.name.to_string().into(),
            rule,
            place,
        }
    }

    /// The same route, match `place` of rule `rule`.
    #[must_use]
    pub fn at(&self, rule: usize, place: usize) -> Self {
        Self { rule, place, ..self.clone() }
    }
}

/// Which match wins: the least. The order of the fields is the order of the list in the specification (Gateway API,
/// `HTTPRouteSpec.hostnames` and `HTTPRouteRule.matches`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Precedence {
    /// Most characters in a matching hostname without wildcard.
    exact_host: Reverse<usize>,
    /// Most characters in a matching hostname.
    host: Reverse<usize>,
    /// An exact path.
    exact_path: Reverse<bool>,
    /// The prefix with most characters.
    prefix: Reverse<usize>,
    /// A method.
    method: Reverse<bool>,
    /// Most headers.
    headers: Reverse<usize>,
    /// Most query parameters.
    query_params: Reverse<usize>,
    /// The oldest route, then by name, then the first rule.
    origin: Origin,
}

impl Precedence {
    /// That of `entry`.
    pub fn of(entry: &Entry) -> Self {
        let host = entry.hostname.as_ref().map_or(0, |hostname| hostname.as_str().len());
        let is_exact = entry.hostname.as_ref().is_some_and(|hostname| !hostname.is_wildcard());
        let (exact_path, prefix) = match &entry.path {
            EntryPath::Exact(_) => (true, 0),
            EntryPath::Prefix(path) => (false, path.as_prefix().len()),
        };
        Self {
            exact_host: Reverse(if is_exact { host } else { 0 }),
            host: Reverse(host),
            exact_path: Reverse(exact_path),
            prefix: Reverse(prefix),
            method: Reverse(entry.method.is_some()),
            headers: Reverse(entry.headers.len()),
            query_params: Reverse(entry.query_params.len()),
            origin: entry.origin.clone(),
        }
    }
}
