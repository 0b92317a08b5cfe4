//! Building a table out of entries.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::Keys;
use super::{
    Bucket, BucketId, Candidate, Entry, EntryPath, Found, Leaf, ListenerKey, Port, Precedence, RouteTable,
    Start, exact_host, exact_path, prefix_path, wildcard_host,
};
use crate::model::Hostname;

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An entry leads to a target that was not given.
    #[error("an entry leads to target {target} of {targets}")]
    NoSuchTarget {
        /// Where it leads.
        target: u32,
        /// How many there are.
        targets: usize,
    },
    /// More entries, or longer keys in sum, than 32-bit numbers can name.
    #[error("a table holds fewer than 2^30 entries, and 4 GiB of hosts and paths")]
    TooLarge,
}

/// The rules of one listener and one hostname of a route, on the way.
type BucketKey = (ListenerKey, Option<Hostname>);

impl<T> RouteTable<T> {
    /// A table of `entries` that lead to `targets`. `listeners` are all that there are, also those without an
    /// entry: they keep requests for their hosts from less specific listeners. The order of both is of no importance.
    ///
    /// # Errors
    /// An entry that leads nowhere; more than fits.
    pub fn new(
        listeners: impl IntoIterator<Item = ListenerKey>,
        entries: &[Entry],
        targets: Vec<T>,
    ) -> Result<Self, BuildError> {
        if let Some(entry) = entries.iter().find(|entry| entry.target as usize >= targets.len()) {
            return Err(BuildError::NoSuchTarget { target: entry.target, targets: targets.len() });
        }
        if entries.len() >= 1 << 30 || targets.len() >= 1 << 30 {
            return Err(BuildError::TooLarge);
        }
        let mut listeners: BTreeSet<ListenerKey> = listeners.into_iter().collect();
        let mut buckets: BTreeMap<BucketKey, Vec<&Entry>> = BTreeMap::new();
        for entry in entries {
            listeners.insert(entry.listener.clone());
            buckets.entry((entry.listener.clone(), entry.hostname.clone())).or_default().push(entry);
        }
        // Bucket 0 is never used, so that an id is never 0.
        let ids: BTreeMap<&BucketKey, BucketId> =
            buckets.keys().zip(1_u32..).filter_map(|(key, id)| Some((key, BucketId::new(id)?))).collect();
        let mut table =
            Self { buckets: vec![Bucket::default()], targets, entries: entries.len(), ..Self::default() };
        let hosts = Hosts { listeners: &listeners, buckets: &ids };
        let mut paths = Vec::new();
        for (key, entries) in &buckets {
            let id = ids.get(key).copied().ok_or(BuildError::TooLarge)?;
            let mut bucket = table.bucket(id, entries, &mut paths).ok_or(BuildError::TooLarge)?;
            bucket.next = key.1.as_ref().and_then(|hostname| hosts.less_specific(&key.0, hostname));
            table.buckets.push(bucket);
        }
        table.paths = Keys::new(paths).ok_or(BuildError::TooLarge)?;
        (table.ports, table.hosts) = hosts.resolve(&table.buckets).ok_or(BuildError::TooLarge)?;
        Ok(table)
    }

    /// Makes a bucket, and adds its paths to `paths`.
    fn bucket<'e>(
        &mut self,
        id: BucketId,
        entries: &[&'e Entry],
        paths: &mut Vec<(u32, &'e [u8], u32)>,
    ) -> Option<Bucket> {
        let mut by_path: BTreeMap<(bool, &'e str), Vec<&Entry>> = BTreeMap::new();
        for entry in entries {
            let key = match &entry.path {
                EntryPath::Exact(path) => (true, path.as_str()),
                EntryPath::Prefix(path) => (false, path.as_prefix()),
            };
            by_path.entry(key).or_default().push(entry);
        }
        let mut bucket = Bucket::default();
        for ((is_exact, path), mut entries) in by_path {
            let found = self.leaf(&mut entries)?;
            let depth = path.bytes().filter(|byte| *byte == b'/').count();
            if is_exact {
                bucket.exact_lengths |= 1 << (path.len() % 64);
                paths.push((exact_path(id), path.as_bytes(), found.0));
            } else if depth == 0 {
                bucket.root = Some(found);
            } else if depth < 64 {
                bucket.depths |= 1 << depth;
                paths.push((prefix_path(id), path.as_bytes(), found.0));
            } else if let [first, ..] = &entries[..]
                && let EntryPath::Prefix(path) = &first.path
            {
                bucket.deep.push((path.clone(), found));
            }
        }
        bucket.deep.sort_by_key(|(path, _)| std::cmp::Reverse(path.as_prefix().len()));
        Some(bucket)
    }

    /// Where one path of one bucket leads.
    fn leaf(&mut self, entries: &mut [&Entry]) -> Option<Found> {
        entries.sort_by_cached_key(|entry| Precedence::of(entry));
        let first = self.candidates.len();
        for entry in &*entries {
            let unconditional =
                entry.method.is_none() && entry.headers.is_empty() && entry.query_params.is_empty();
            if unconditional && self.candidates.len() == first {
                return Some(Found::target(entry.target));
            }
            let (headers, query_params) = self.conditions.push(&entry.headers, &entry.query_params)?;
            let method = entry.method.clone();
            self.candidates.push(Candidate { method, headers, query_params, target: entry.target });
            // What comes after it is never reached.
            if unconditional {
                break;
            }
        }
        let leaf =
            Leaf { first: u32::try_from(first).ok()?, end: u32::try_from(self.candidates.len()).ok()? };
        self.leaves.push(leaf);
        Some(Found::leaf(u32::try_from(self.leaves.len() - 1).ok()?))
    }
}

/// Settles which bucket each host begins with.
struct Hosts<'b> {
    listeners: &'b BTreeSet<ListenerKey>,
    buckets: &'b BTreeMap<&'b BucketKey, BucketId>,
}

impl Hosts<'_> {
    /// The ports, and the map from hosts to where they lead.
    fn resolve(&self, buckets: &[Bucket]) -> Option<(Vec<Port>, Keys)> {
        let mut ports: BTreeMap<u16, Port> = BTreeMap::new();
        let mut names: BTreeSet<(u16, &Hostname)> = BTreeSet::new();
        for listener in self.listeners {
            let other = match &listener.hostname {
                Some(hostname) => {
                    names.insert((listener.port, hostname));
                    Start::default()
                }
                None => start(self.bucket(listener, None), buckets),
            };
            let port = ports.entry(listener.port).or_insert(Port {
                number: listener.port,
                wildcards: 0,
                other: Start::default(),
            });
            if other != Start::default() {
                port.other = other;
            }
        }
        for (listener, hostname) in self.buckets.keys().copied() {
            names.extend(hostname.as_ref().map(|hostname| (listener.port, hostname)));
        }
        let mut keys = Vec::with_capacity(names.len());
        for (port, hostname) in names {
            let bucket = self.listener_of(port, hostname).and_then(|listener| self.first(listener, hostname));
            let (scope, key) = match hostname.suffix() {
                None => (exact_host(port), hostname.as_str()),
                Some(suffix) => {
                    let dots = suffix.bytes().filter(|byte| *byte == b'.').count();
                    if let Some(port) = ports.get_mut(&port) {
                        port.wildcards |= 1_u128.checked_shl(u32::try_from(dots).ok()?)?;
                    }
                    (wildcard_host(port), suffix)
                }
            };
            keys.push((scope, key.as_bytes(), start(bucket, buckets).0));
        }
        Some((ports.into_values().collect(), Keys::new(keys)?))
    }

    /// The most specific listener on `port` that takes every host of `hostname`. Hosts that a more specific one
    /// takes have a longer key, or one without wildcard.
    fn listener_of(&self, port: u16, hostname: &Hostname) -> Option<&ListenerKey> {
        let mut names =
            std::iter::once(Some(hostname.clone())).chain(wider(hostname).map(Some)).chain([None]);
        names.find_map(|hostname| self.listeners.get(&ListenerKey { port, hostname }))
    }

    /// The bucket that a host of key `hostname` is looked up in first.
    fn first(&self, listener: &ListenerKey, hostname: &Hostname) -> Option<BucketId> {
        self.bucket(listener, Some(hostname.clone())).or_else(|| self.less_specific(listener, hostname))
    }

    /// The next bucket after the one of `hostname`.
    fn less_specific(&self, listener: &ListenerKey, hostname: &Hostname) -> Option<BucketId> {
        wider(hostname)
            .find_map(|hostname| self.bucket(listener, Some(hostname)))
            .or_else(|| self.bucket(listener, None))
    }

    fn bucket(&self, listener: &ListenerKey, hostname: Option<Hostname>) -> Option<BucketId> {
        self.buckets.get(&(listener.clone(), hostname)).copied()
    }
}

/// Where a host leads whose first bucket is `id`.
fn start(id: Option<BucketId>, buckets: &[Bucket]) -> Start {
    let Some(id) = id else { return Start::default() };
    match buckets.get(id.get() as usize) {
        Some(Bucket { depths: 0, exact_lengths: 0, root: Some(found), deep, .. })
            if deep.is_empty() && found.0 & Found::CONDITIONAL == 0 =>
        {
            Start(found.0 | Start::TARGET)
        }
        _ => Start(id.get()),
    }
}

/// The wildcards that cover `hostname` and are not it, most labels first.
fn wider(hostname: &Hostname) -> impl Iterator<Item = Hostname> {
    let name = hostname.suffix().unwrap_or(hostname.as_str()).to_owned();
    let dots: Vec<_> = name.match_indices('.').map(|(at, _)| at).collect();
    dots.into_iter().filter_map(move |at| Hostname::new(&format!("*.{}", name.get(at + 1..)?)).ok())
}
