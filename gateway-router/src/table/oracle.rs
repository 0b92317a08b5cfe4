//! A matcher that follows the specification word by word and looks at every entry: slow, and plain enough to be
//! believed. Tests and the fuzz target hold the table against it.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use lbcore::route::{Outcome, RequestHead, RouteMatcher};
use lbcore::time::Timestamp;

use super::{Entry, EntryPath, ListenerKey, Origin, Precedence, RouteTable};
use crate::model::{Hostname, HttpPath, Metadata};

/// Looks at every entry.
#[derive(Clone, Debug)]
pub struct Oracle<T> {
    listeners: Vec<ListenerKey>,
    entries: Vec<Entry>,
    targets: Vec<T>,
}

impl<T> Oracle<T> {
    /// Of the same parts as [`RouteTable::new`](super::RouteTable::new).
    pub fn new(listeners: impl IntoIterator<Item = ListenerKey>, entries: &[Entry], targets: Vec<T>) -> Self {
        let mut listeners: Vec<_> = listeners.into_iter().collect();
        listeners.extend(entries.iter().map(|entry| entry.listener.clone()));
        Self { listeners, entries: entries.to_vec(), targets }
    }

    /// The one listener that takes the request: the most specific that names its host.
    fn listener(&self, port: u16, host: &str) -> Option<&ListenerKey> {
        self.listeners
            .iter()
            .filter(|listener| listener.port == port && names(listener.hostname.as_ref(), host))
            .max_by_key(|listener| match &listener.hostname {
                None => (0, 0),
                Some(hostname) if hostname.is_wildcard() => (1, hostname.as_str().split('.').count()),
                Some(_) => (2, 0),
            })
    }
}

impl<T: Send + Sync> RouteMatcher for Oracle<T> {
    type Target = T;

    fn find<'t>(&'t self, head: &RequestHead<'_>) -> Outcome<'t, T> {
        let host = normal_host(head.host);
        let Some(listener) = self.listener(head.port, &host) else { return Outcome::NotFound };
        let best = self
            .entries
            .iter()
            .filter(|entry| entry.listener == *listener && names(entry.hostname.as_ref(), &host))
            .filter(|entry| applies(entry, head))
            .min_by_key(|entry| Precedence::of(entry));
        match best.and_then(|entry| self.targets.get(entry.target as usize)) {
            Some(target) => Outcome::Found(target),
            None => Outcome::NotFound,
        }
    }
}

fn normal_host(host: &str) -> String {
    let lower = host.to_ascii_lowercase();
    let name = match lower.rfind(':') {
        Some(colon) if lower[colon + 1..].chars().all(|digit| digit.is_ascii_digit()) => &lower[..colon],
        _ => &lower[..],
    };
    name.strip_suffix('.').unwrap_or(name).to_owned()
}

fn names(hostname: Option<&Hostname>, host: &str) -> bool {
    let Some(hostname) = hostname else { return true };
    if host.len() > Hostname::MAX_LEN {
        return false;
    }
    let mut pattern: Vec<&str> = hostname.as_str().split('.').collect();
    let labels: Vec<&str> = host.split('.').collect();
    if pattern.first() != Some(&"*") {
        return pattern == labels;
    }
    pattern.remove(0);
    // Whatever stands for the asterisk is not empty.
    labels.len() > pattern.len()
        && labels.ends_with(&pattern)
        && !labels[..labels.len() - pattern.len()].join(".").is_empty()
}

fn applies(entry: &Entry, head: &RequestHead<'_>) -> bool {
    let elements = |path: &str| -> Vec<String> { path.split('/').map(str::to_owned).collect() };
    let path = match &entry.path {
        EntryPath::Exact(path) => path.as_str() == head.path,
        EntryPath::Prefix(prefix) => elements(head.path).starts_with(&elements(prefix.as_prefix())),
    };
    let parameters: Vec<(Vec<u8>, Vec<u8>)> = head
        .query
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    head.path.starts_with('/')
        && path
        && entry.method.as_ref().is_none_or(|method| method == head.method)
        && entry.headers.iter().all(|(name, value)| {
            let fields: Vec<&[u8]> = head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            !fields.is_empty() && fields.join(&b","[..]) == value.as_bytes()
        })
        && entry.query_params.iter().all(|(name, value)| {
            let first = parameters.iter().find(|(key, _)| key == name.as_bytes());
            first.is_some_and(|(_, first)| first == value.as_bytes())
        })
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.replace('+', " ").into_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escape = digits.filter(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit()));
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

/// A table and a request out of a small world, read from any bytes: small, so that hosts, paths and conditions
/// collide all the time.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// All listeners.
    pub listeners: Vec<ListenerKey>,
    /// Entry *n* leads to target *n*.
    pub entries: Vec<Entry>,
    /// The requests.
    pub requests: Vec<Request>,
}

/// What a request says.
#[derive(Clone, Debug)]
pub struct Request {
    port: u16,
    host: String,
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
}

impl Request {
    /// As a matcher takes it.
    pub fn head(&self) -> RequestHead<'_> {
        RequestHead {
            port: self.port,
            server_name: None,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
        }
    }
}

const HOSTNAMES: &[&str] = &["b", "a.b", "c.a.b", "*.b", "*.a.b", "*.c.a.b", "z"];
const HOSTS: &[&str] = &[
    "b", "a.b", "A.b:80", "a.b.", "c.a.b", "x.b", "x.a.B", "y.x.a.b", "z", "", ".b", ".a.b", "[::1]:80", "b:",
];
const ELEMENTS: &[&str] = &["a", "b", "ab", "a%20", "longer-than-sixteen-bytes"];
const QUERIES: &[&str] = &["q=1", "q=2", "q", "r=1", "Q=1", "%71=1", "q=%31", "r=+", "r=%zz", "=", ""];

impl Scenario {
    /// Reads one. Every text of bytes is one; missing bytes are zeros.
    pub fn read(bytes: &[u8]) -> Self {
        let mut input = Input(bytes);
        let mut listeners: Vec<_> = (0..1 + input.below(4)).map(|_| input.listener()).collect();
        listeners.dedup();
        let entries = (0..input.below(12)).map(|number| input.entry(&listeners, number)).collect();
        let requests = (0..1 + input.below(8)).map(|_| input.request()).collect();
        Self { listeners, entries, requests }
    }

    /// Whether table and oracle agree on every request.
    ///
    /// # Errors
    /// The first request on which they do not, and what each found.
    pub fn check(&self) -> Result<(), String> {
        let targets = || (0..self.entries.len()).collect::<Vec<_>>();
        let table = RouteTable::new(self.listeners.clone(), &self.entries, targets())
            .map_err(|error| error.to_string())?;
        let oracle = Oracle::new(self.listeners.clone(), &self.entries, targets());
        for request in &self.requests {
            let (found, expected) = (table.find(&request.head()), oracle.find(&request.head()));
            if found != expected {
                return Err(format!("{request:#?}\nfound {found:?} instead of {expected:?}"));
            }
        }
        Ok(())
    }
}

/// Bytes as a source of choices.
struct Input<'b>(&'b [u8]);

impl Input<'_> {
    fn below(&mut self, bound: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % bound
    }

    fn one<'l>(&mut self, list: &[&'l str]) -> &'l str {
        let place = self.below(list.len());
        list.get(place).copied().unwrap_or_default()
    }

    fn hostname(&mut self) -> Option<Hostname> {
        if self.below(3) == 0 { None } else { Hostname::new(self.one(HOSTNAMES)).ok() }
    }

    fn listener(&mut self) -> ListenerKey {
        let port = if self.below(4) == 3 { 81 } else { 80 };
        ListenerKey::new(port, self.hostname())
    }

    fn path(&mut self, elements: &[&str]) -> String {
        // Sometimes deeper than the table counts.
        let deep = if self.below(16) == 15 { 60 + self.below(6) } else { 0 };
        let mut path = "/x".repeat(deep);
        for _ in 0..self.below(5) {
            let _ = write!(path, "/{}", self.one(elements));
        }
        if path.is_empty() || self.below(4) == 3 {
            path.push('/');
        }
        path
    }

    fn entry(&mut self, listeners: &[ListenerKey], number: usize) -> Entry {
        let listener = listeners.get(self.below(listeners.len().max(1))).cloned();
        let path = self.path(ELEMENTS);
        let path = HttpPath::new(&path).unwrap_or_else(|_| HttpPath::root());
        let path = if self.below(3) == 0 { EntryPath::Exact(path) } else { EntryPath::Prefix(path) };
        let mut metadata = Metadata::new("n", self.one(&["a", "b"]));
        metadata.created =
            [None, Some(1), Some(2)].get(self.below(3)).copied().flatten().map(Timestamp::from_unix);
        // Places differ, so that there is always one best entry.
        let origin = Origin::new(&metadata, self.below(2), number);
        let target = u32::try_from(number).unwrap_or_default();
        let mut entry = Entry::new(listener.unwrap_or(ListenerKey::new(80, None)), path, origin, target);
        entry.hostname = self.hostname();
        entry.method =
            [None, None, Some(Method::GET), Some(Method::POST)].get(self.below(4)).cloned().flatten();
        for _ in 0..self.below(3) {
            entry.header(HeaderName::from_static(self.one(&["x", "y"])), self.value());
        }
        for _ in 0..self.below(3) {
            entry.query_param(self.one(&["q", "r"]).into(), self.one(&["1", "2", "", " "]).into());
        }
        entry
    }

    fn value(&mut self) -> HeaderValue {
        HeaderValue::from_static(self.one(&["1", "2", "1,2"]))
    }

    fn request(&mut self) -> Request {
        let mut elements = ELEMENTS.to_vec();
        elements.push("");
        let mut headers = HeaderMap::new();
        for _ in 0..self.below(4) {
            headers.append(HeaderName::from_static(self.one(&["x", "y"])), self.value());
        }
        let query: Vec<_> = (0..self.below(4)).map(|_| self.one(QUERIES)).collect();
        let (port, host) = (if self.below(4) == 3 { 81 } else { 80 }, self.one(HOSTS).to_owned());
        let method =
            [Method::GET, Method::POST, Method::HEAD].get(self.below(3)).cloned().unwrap_or_default();
        let path = if self.below(32) == 31 { "*".to_owned() } else { self.path(&elements) };
        let query = if query.is_empty() { None } else { Some(query.join("&")) };
        Request { port, host, path, query, method, headers }
    }
}
