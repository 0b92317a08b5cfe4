//! The immutable table that finds the rule for a request.
//!
//! [`compile`](crate::compile::compile) makes one of resources. It can be used on its own, with whatever its entries should
//! lead to:
//!
//! ```
//! use gateway_router::model::HttpPath;
//! use gateway_router::table::{Entry, EntryPath, ListenerKey, Origin, RouteTable};
//! use http::{HeaderMap, Method};
//! use lbcore::route::{Outcome, RequestHead, RouteMatcher};
//!
//! let everything = EntryPath::Prefix(HttpPath::root());
//! let mut entries = vec![Entry::new(ListenerKey::new(80, None), everything, Origin::default(), 0)];
//! entries.push(Entry::new(ListenerKey::new(80, None), EntryPath::Prefix(HttpPath::new("/api")?), Origin::default(), 1));
//! entries[1].hostname = Some("*.example.com".parse()?);
//! let table = RouteTable::new([], &entries, vec!["pages", "api"])?;
//!
//! let head = RequestHead {
//!     port: 80,
//!     server_name: None,
//!     host: "www.example.com",
//!     path: "/api/items",
//!     query: None,
//!     method: &Method::GET,
//!     headers: &HeaderMap::new(),
//! };
//! assert_eq!(table.find(&head), Outcome::Found(&"api"));
//! assert_eq!(table.find(&RequestHead { path: "/apis", ..head }), Outcome::Found(&"pages"));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it finds
//! 1. The port leads to a map of hosts. One probe for the host as it is, then one for each length that a
//!    wildcard of that port has, longest first. Which listener takes a host is settled when the table is built, so a
//!    host leads straight to its *bucket*: the rules of one listener and one hostname of a route.
//! 2. In the bucket: one probe for the exact path, then one for each depth (number of path elements) that a prefix of
//!    the bucket has, deepest first. The hashes of all those prefixes come out of one pass over the path.
//! 3. A path that is found leads to its rules, best [`Precedence`] first; most often there is one, without further
//!    conditions, and nothing else is looked at.
//! 4. If none holds, the bucket of the next less specific hostname *of the same listener* is asked. Requests
//!    never fall through to another listener (GEP-1364: listener isolation).
//!
//! The cost depends on the number of wildcard lengths and prefix depths, not on the number of routes. Rules
//! with the *same* host and path are tried one after the other.
//!
//! # Untrusted input
//! Requests only probe, they never add a key. Keys come from the configuration, which tenants may write: the
//! table tries seeds until no probe is long, so that keys made to collide under one seed gain nothing.
//!
//! # Choices the specification leaves open
//! - The path is compared as received: nothing is decoded or normalised. One that does not begin with a slash
//!   (`OPTIONS *`) matches nothing.
//! - Prefixes that differ by a trailing slash are the same prefix.
//! - Query names and values are percent-decoded, `+` is a space, and the first of several values counts.
//! - Several fields of one header name are joined with a comma (RFC 9110 §5.3).
//! - Of several conditions on one header or query parameter in a match the first counts.
//! - A hostname of a route that is broader than its listener's keeps its own length for precedence.
//! - One trailing dot of the request's host is ignored.

mod build;
mod condition;
mod keys;
#[doc(hidden)]
pub mod oracle;
mod precedence;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use lbcore::route::{Outcome, RequestHead, RouteMatcher};

pub use self::build::BuildError;
use self::condition::Conditions;
use self::keys::{Boundaries, Keys};
pub use self::precedence::{Origin, Precedence};
use crate::model::{Hostname, HttpPath, strip_port};
use crate::rule::Rule;

/// A listener, as far as matching asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ListenerKey {
    /// Its port.
    pub port: u16,
    /// Its hostname; all hosts if `None`.
    pub hostname: Option<Hostname>,
}

impl ListenerKey {
    /// The listener for `hostname` on `port`.
    pub fn new(port: u16, hostname: Option<Hostname>) -> Self {
        Self { port, hostname }
    }
}

/// One match of one rule on one listener and for one hostname: what a table is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The listener.
    pub listener: ListenerKey,
    /// The hostname of the route; `None` if it has none.
    pub hostname: Option<Hostname>,
    /// The condition on the path.
    pub path: EntryPath,
    /// The condition on the method.
    pub method: Option<Method>,
    /// The conditions on headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The conditions on query parameters.
    pub query_params: Vec<(Arc<str>, Arc<str>)>,
    /// Whose it is: decides between equals.
    pub origin: Origin,
    /// Where it leads: an index into the targets.
    pub target: u32,
}

impl Entry {
    /// An entry for every host of `listener` and every request whose path matches.
    pub fn new(listener: ListenerKey, path: EntryPath, origin: Origin, target: u32) -> Self {
        Self {
            listener,
            hostname: None,
            path,
            method: None,
            headers: Vec::new(),
            query_params: Vec::new(),
            origin,
            target,
        }
    }

    /// Adds a condition on a header, unless there is one on that name: the first counts.
    pub fn header(&mut self, name: HeaderName, value: HeaderValue) {
        if self.headers.iter().all(|(other, _)| *other != name) {
            self.headers.push((name, value));
        }
    }

    /// Adds a condition on a query parameter, unless there is one on that name: the first counts.
    pub fn query_param(&mut self, name: Arc<str>, value: Arc<str>) {
        if self.query_params.iter().all(|(other, _)| *other != name) {
            self.query_params.push((name, value));
        }
    }
}

/// The condition of an [`Entry`] on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryPath {
    /// It is this one.
    Exact(HttpPath),
    /// Its first elements are these ones.
    Prefix(HttpPath),
}

/// The rules of one Gateway, ready to be matched: its listeners on all ports.
///
/// Immutable and cheap to share. Made by [`compile`](crate::compile::compile), or from entries of one's own by
/// [`RouteTable::new`].
#[derive(PartialEq)]
pub struct RouteTable<T = Rule> {
    /// Ordered by port; a Gateway has few.
    ports: Vec<Port>,
    hosts: Keys,
    paths: Keys,
    buckets: Vec<Bucket>,
    /// Where a path leads if its rules have conditions.
    leaves: Vec<Leaf>,
    candidates: Vec<Candidate>,
    conditions: Conditions,
    targets: Vec<T>,
    entries: usize,
}

/// The hosts of one port.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Port {
    number: u16,
    /// Bit *n* is set if there is a wildcard whose suffix has *n* + 1 labels. A name has at most 127.
    wildcards: u128,
    /// Where hosts lead that no key names.
    other: Start,
}

/// The rules of one listener and one hostname.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bucket {
    /// Bit *d* is set if there is a prefix of *d* elements; from 1 to 63.
    depths: u64,
    /// Bit *n* mod 64 is set if there is an exact path of *n* bytes.
    exact_lengths: u64,
    /// The prefix `/`.
    root: Option<Found>,
    /// Prefixes of 64 elements and more, longest first: too rare to be worth more.
    deep: Vec<(HttpPath, Found)>,
    /// The bucket of the next less specific hostname of the same listener.
    next: Option<BucketId>,
}

/// An index into the buckets.
type BucketId = std::num::NonZeroU32;

/// Where a host leads, in 32 bits: nowhere, to a bucket, or, if that bucket has nothing but an unconditional rule for
/// every path, straight to its target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Start(u32);

impl Start {
    const TARGET: u32 = 1 << 31;

    fn target(self) -> Option<u32> {
        (self.0 & Self::TARGET != 0).then_some(self.0 & !Self::TARGET)
    }

    const fn bucket(self) -> Option<BucketId> {
        BucketId::new(self.0)
    }
}

/// Where a path leads, in 32 bits: to a target, or to a leaf if there are conditions to be asked.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Found(u32);

impl Found {
    const CONDITIONAL: u32 = 1 << 31;

    const fn target(target: u32) -> Self {
        Self(target)
    }

    const fn leaf(leaf: u32) -> Self {
        Self(leaf | Self::CONDITIONAL)
    }
}

/// The candidates of one path, best first.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Leaf {
    first: u32,
    end: u32,
}

/// One match of one rule: its conditions beyond host and path.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    method: Option<Method>,
    headers: (u32, u32),
    query_params: (u32, u32),
    target: u32,
}

impl<T> RouteTable<T> {
    /// How many listeners' matches it holds.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether it has no match, so that every request gets 404.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Where its entries lead.
    pub fn targets(&self) -> &[T] {
        &self.targets
    }

    /// The most slots that one look-up of a key may visit.
    #[doc(hidden)]
    pub fn longest_probe(&self) -> u32 {
        self.hosts.longest_probe().max(self.paths.longest_probe())
    }

    fn start(&self, port: &Port, host: &str) -> Start {
        // Nearly all hosts come as they are written in routes; only the others are worth a closer look.
        if let Some(start) = self.hosts.get(exact_host(port.number), host.as_bytes()) {
            return Start(start);
        }
        let name = strip_port(host);
        let name = name.strip_suffix('.').unwrap_or(name);
        let mut buffer = [0; Hostname::MAX_LEN];
        let Some(lower) = buffer.get_mut(..name.len()) else { return port.other };
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        self.normal_start(port, lower)
    }

    fn normal_start(&self, port: &Port, host: &[u8]) -> Start {
        if let Some(start) = self.hosts.get(exact_host(port.number), host) {
            return Start(start);
        }
        if port.wildcards != 0 {
            // Dots from the left: the longest suffix first. `left` is how many labels the suffix has, less one.
            let mut left = host.iter().filter(|byte| **byte == b'.').count();
            for (at, _) in host.iter().enumerate().filter(|(_, byte)| **byte == b'.') {
                left -= 1;
                let known = left < 128 && port.wildcards & (1 << left) != 0;
                if known
                    && at > 0
                    && let Some(suffix) = host.get(at + 1..)
                    && let Some(start) = self.hosts.get(wildcard_host(port.number), suffix)
                {
                    return Start(start);
                }
            }
        }
        port.other
    }

    fn find_in(&self, id: BucketId, bucket: &Bucket, head: &RequestHead<'_>) -> Option<u32> {
        let path = head.path.as_bytes();
        if bucket.exact_lengths & (1 << (path.len() % 64)) != 0
            && let Some(found) = self.paths.get(exact_path(id), path)
            && let Some(target) = self.settle(Found(found), head)
        {
            return Some(target);
        }
        for (prefix, found) in &bucket.deep {
            if is_prefix(prefix.as_prefix(), head.path)
                && let Some(target) = self.settle(*found, head)
            {
                return Some(target);
            }
        }
        let mut depths = bucket.depths;
        let mut boundaries = Boundaries::default();
        while depths != 0 {
            self.paths.boundaries(prefix_path(id), path, depths, &mut boundaries);
            for boundary in boundaries.deepest_first() {
                if let Some(prefix) = path.get(..boundary.end())
                    && let Some(found) = self.paths.get_hashed(boundary.hash, prefix_path(id), prefix)
                    && let Some(target) = self.settle(Found(found), head)
                {
                    return Some(target);
                }
            }
            depths &= boundaries.not_asked();
        }
        bucket.root.and_then(|found| self.settle(found, head))
    }

    fn settle(&self, found: Found, head: &RequestHead<'_>) -> Option<u32> {
        if found.0 & Found::CONDITIONAL == 0 {
            return Some(found.0);
        }
        let leaf = self.leaves.get((found.0 & !Found::CONDITIONAL) as usize)?;
        let candidates = self.candidates.get(leaf.first as usize..leaf.end as usize)?;
        let candidate = candidates.iter().find(|candidate| {
            candidate.method.as_ref().is_none_or(|method| method == head.method)
                && self.conditions.hold(candidate.headers, candidate.query_params, head)
        })?;
        Some(candidate.target)
    }
}

impl<T> Default for RouteTable<T> {
    /// A table that finds nothing.
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            hosts: Keys::default(),
            paths: Keys::default(),
            buckets: Vec::new(),
            leaves: Vec::new(),
            candidates: Vec::new(),
            conditions: Conditions::default(),
            targets: Vec::new(),
            entries: 0,
        }
    }
}

impl<T: Send + Sync> RouteMatcher for RouteTable<T> {
    type Target = T;

    fn find<'t>(&'t self, head: &RequestHead<'_>) -> Outcome<'t, T> {
        if !head.path.starts_with('/') {
            return Outcome::NotFound;
        }
        let Some(port) = self.ports.iter().find(|port| port.number == head.port) else {
            return Outcome::NotFound;
        };
        let start = self.start(port, head.host);
        if let Some(target) = start.target().and_then(|target| self.targets.get(target as usize)) {
            return Outcome::Found(target);
        }
        let mut next = start.bucket();
        while let Some(id) = next
            && let Some(bucket) = self.buckets.get(id.get() as usize)
        {
            if let Some(target) = self.find_in(id, bucket, head)
                && let Some(target) = self.targets.get(target as usize)
            {
                return Outcome::Found(target);
            }
            next = bucket.next;
        }
        Outcome::NotFound
    }
}

impl<T> fmt::Debug for RouteTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable")
            .field("ports", &self.ports.iter().map(|port| port.number).collect::<Vec<_>>())
            .field("hosts", &self.hosts.len())
            .field("paths", &self.paths.len())
            .field("entries", &self.entries)
            .field("targets", &self.targets.len())
            .finish()
    }
}

/// Whether the elements of `prefix` (without trailing slash) are the first of `path`.
fn is_prefix(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

// What a key belongs to: keys of different scopes never meet.

const fn exact_host(port: u16) -> u32 {
    (port as u32) << 1
}

const fn wildcard_host(port: u16) -> u32 {
    (port as u32) << 1 | 1
}

const fn exact_path(bucket: BucketId) -> u32 {
    bucket.get() << 1
}

const fn prefix_path(bucket: BucketId) -> u32 {
    bucket.get() << 1 | 1
}
