//! `match`: what it costs to find the route of a request, and to hold all routes.

mod peers;

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use gateway_router::model::{Hostname, HttpPath};
use gateway_router::table::{Entry, EntryPath, ListenerKey, Origin, RouteTable};
use http::{HeaderMap, Method};
use lbcore::route::{Outcome, RequestHead, RouteMatcher};

use crate::counting;
use crate::figures::{Random, nanos, quantile};
use crate::table::{Bench, Table};

/// The table.
pub(crate) static TABLE: Table = Table {
    name: "match",
    about: "find the route of a request, hold all routes in memory",
    details: "",
    systems: &["lbcore", "matchit", "linear-scan", "hashmap", "hashmap-foldhash"],
    cases: &[
        "prefixes-1",
        "prefixes-100",
        "prefixes-10000",
        "prefixes-100000",
        "hosts-1",
        "hosts-100",
        "hosts-10000",
        "hosts-100000",
    ],
    runs: 5,
    needs_network: false,
    measure,
    alone: None,
};

/// Leads the requests for one host whose path has one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    host: String,
    prefix: String,
}

/// A request, and the number of the route that it is for.
#[derive(Clone, Copy, Debug)]
struct Request<'r> {
    host: &'r str,
    path: &'r str,
    /// By what routes differ, cut out of the request beforehand: that of its route.
    key: &'r str,
    route: u32,
}

/// What routes differ by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Prefix,
    Host,
}

/// A case by its name: what routes differ by, and how many there are.
fn parse(case: &str) -> Option<(Key, u32)> {
    let (key, count) = case.split_once('-')?;
    let key = match key {
        "prefixes" => Key::Prefix,
        "hosts" => Key::Host,
        _ => return None,
    };
    Some((key, count.parse().ok()?))
}

/// A way to find routes.
trait System: Sized {
    /// Finds the nth of `routes` as *n*.
    fn new(routes: &[Route], key: Key) -> Self;

    fn find(&self, request: &Request<'_>) -> Option<u32>;
}

/// A [`System`] whose loop is compiled for it, so that nothing is called indirectly in it.
trait Contender {
    /// How many of `requests` lead to their routes.
    fn right(&self, requests: &[Request<'_>]) -> u64;
}

impl<S: System> Contender for S {
    fn right(&self, requests: &[Request<'_>]) -> u64 {
        requests.iter().map(|request| u64::from(self.find(black_box(request)) == Some(request.route))).sum()
    }
}

fn build(system: &str, routes: &[Route], key: Key) -> Box<dyn Contender> {
    match system {
        "lbcore" => Box::new(Ours::new(routes, key)),
        "matchit" => Box::new(peers::Matchit::new(routes, key)),
        "linear-scan" => Box::new(peers::LinearScan::new(routes, key)),
        "hashmap" => Box::new(peers::HashMap::<std::hash::RandomState>::new(routes, key)),
        _ => Box::new(peers::HashMap::<foldhash::fast::RandomState>::new(routes, key)),
    }
}

/// So many requests are asked for in a run, or as many as there is time for: a linear scan does a few a second.
const REQUESTS: usize = 131_072;
const BUDGET: Duration = Duration::from_millis(500);
/// The clock is read after so many. They are fewer if these take longer than the second one.
const BATCH: usize = 1024;
const SLOW: Duration = Duration::from_millis(10);

/// A system being measured.
struct Candidate {
    name: &'static str,
    contender: Box<dyn Contender>,
    bytes: i64,
    /// Of each run.
    look_ups: Vec<f64>,
    allocations: Vec<f64>,
}

impl Candidate {
    fn new(name: &'static str, routes: &[Route], key: Key) -> Self {
        let (contender, counted) = counting::during(|| build(name, routes, key));
        Self { name, contender, bytes: counted.bytes, look_ups: Vec::new(), allocations: Vec::new() }
    }

    #[expect(clippy::cast_precision_loss, reason = "figures have three digits that count")]
    fn run(&mut self, requests: &[Request<'_>]) {
        let mut times = Vec::with_capacity(REQUESTS);
        let (asked, counted) = counting::during(|| pass(&*self.contender, requests, self.name, &mut times));
        self.look_ups.push(quantile(&mut times, 50));
        self.allocations.push(counted.allocations as f64 / asked as f64);
    }

    #[expect(clippy::cast_precision_loss, reason = "figures have three digits that count")]
    fn report(self, bench: &mut Bench<'_>) -> io::Result<()> {
        bench.row(self.name, "look-up", self.look_ups, "ns")?;
        bench.row(self.name, "allocations", self.allocations, "each")?;
        bench.row(self.name, "memory", vec![self.bytes as f64 / 1024.0], "KiB")
    }
}

/// Every system is asked the same requests, in each run one system after the other, so that a busy machine disturbs all
/// alike. `look-up` is the mean of a batch, of the median batch.
fn measure(bench: &mut Bench<'_>) -> io::Result<()> {
    let Some((key, count)) = parse(bench.case) else { return Ok(()) };
    let routes = routes(key, count);
    let (text, order) = draw(&routes, REQUESTS);
    let requests = requests(&text, &order, &routes, key);
    let mut candidates: Vec<_> =
        bench.systems.iter().map(|name| Candidate::new(name, &routes, key)).collect();
    for candidate in &mut candidates {
        // Warms up.
        candidate.run(&requests);
        candidate.look_ups.clear();
        candidate.allocations.clear();
    }
    for _ in 0..bench.runs {
        candidates.iter_mut().for_each(|candidate| candidate.run(&requests));
    }
    candidates.into_iter().try_for_each(|candidate| candidate.report(bench))
}

/// Asks for `requests`, and notes into `times`, which has room, how long one took in each batch. How many it was.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
#[expect(clippy::cast_precision_loss, reason = "figures have three digits that count")]
fn pass(contender: &dyn Contender, requests: &[Request<'_>], name: &str, times: &mut Vec<f64>) -> usize {
    let begun = Instant::now();
    let mut batch = 1;
    let mut left = requests;
    while !left.is_empty() && begun.elapsed() < BUDGET {
        let (now, later) = left.split_at(batch.min(left.len()));
        left = later;
        let started = Instant::now();
        let right = contender.right(now);
        let took = started.elapsed();
        assert_eq!(right, now.len() as u64, "{name} finds another route");
        times.push(nanos(took) / now.len() as f64);
        if batch < BATCH && took < SLOW {
            batch *= 2;
        }
    }
    requests.len() - left.len()
}

fn routes(key: Key, count: u32) -> Vec<Route> {
    let route = |number: u32| match key {
        // Each service has three, one in the other.
        Key::Prefix => Route {
            host: "www.example.com".to_owned(),
            prefix: format!("/service-{:05}{}", number / 3, ["", "/api", "/api/v1"][(number % 3) as usize]),
        },
        Key::Host => Route { host: format!("service-{number:05}.example.com"), prefix: "/".to_owned() },
    };
    (0..count).map(route).collect()
}

/// Requests for routes at random, one after the other: so they are at hand when they are asked for, as a request is
/// that has just been parsed. With the number of the route of each.
fn draw(routes: &[Route], count: usize) -> (String, Vec<u32>) {
    let mut random = Random::new();
    let mut text = String::new();
    let order = (0..count)
        .map(|_| {
            let number = random.below(routes.len() as u64) as u32;
            let route = &routes[number as usize];
            text.push_str(&route.host);
            text.push_str(route.prefix.trim_end_matches('/'));
            text.push_str(REST);
            number
        })
        .collect();
    (text, order)
}

const REST: &str = "/users/42";

/// What was drawn, taken apart.
fn requests<'r>(text: &'r str, order: &[u32], routes: &[Route], key: Key) -> Vec<Request<'r>> {
    let mut rest = text;
    let request = |number: &u32| {
        let route = &routes[*number as usize];
        let (host, after) = rest.split_at(route.host.len());
        let prefix = route.prefix.trim_end_matches('/').len();
        let (path, after) = after.split_at(prefix + REST.len());
        rest = after;
        let key = match key {
            Key::Prefix => &path[..prefix],
            Key::Host => host,
        };
        Request { host, path, key, route: *number }
    };
    order.iter().map(request).collect()
}

struct Ours {
    table: RouteTable<u32>,
    method: Method,
    headers: HeaderMap,
}

impl System for Ours {
    fn new(routes: &[Route], _key: Key) -> Self {
        let entry = |(route, number): (&Route, u32)| {
            let path = EntryPath::Prefix(HttpPath::new(&route.prefix).expect("a path"));
            let mut entry = Entry::new(ListenerKey::new(80, None), path, Origin::default(), number);
            entry.hostname = Some(Hostname::new(&route.host).expect("a hostname"));
            entry
        };
        let entries: Vec<_> = routes.iter().zip(0..).map(entry).collect();
        let targets = (0..).take(routes.len()).collect();
        let table = RouteTable::new([], &entries, targets).expect("all targets are there");
        Self { table, method: Method::GET, headers: HeaderMap::new() }
    }

    fn find(&self, request: &Request<'_>) -> Option<u32> {
        let head = RequestHead {
            port: 80,
            server_name: None,
            host: request.host,
            path: request.path,
            query: None,
            method: &self.method,
            headers: &self.headers,
        };
        match self.table.find(&head) {
            Outcome::Found(target) => Some(*target),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All systems do the same work: each finds the route of every request.
    #[test]
    fn the_systems_agree() {
        for (key, count) in [(Key::Prefix, 1), (Key::Prefix, 100), (Key::Host, 1), (Key::Host, 100)] {
            let routes = routes(key, count);
            let (text, order) = draw(&routes, 500);
            let requests = requests(&text, &order, &routes, key);
            for system in TABLE.systems {
                assert_eq!(build(system, &routes, key).right(&requests), 500, "{system}, {count} by {key:?}");
            }
        }
    }

    #[test]
    fn requests_are_drawn_from_all_routes() {
        let routes = routes(Key::Prefix, 7);
        let (text, order) = draw(&routes, 700);
        let requests = requests(&text, &order, &routes, Key::Prefix);
        for (route, number) in routes.iter().zip(0..) {
            let mine: Vec<_> = requests.iter().filter(|request| request.route == number).collect();
            assert!((60..140).contains(&mine.len()), "{} for {route:?}", mine.len());
            assert!(mine.iter().all(|request| request.path == format!("{}/users/42", route.prefix)));
            assert!(mine.iter().all(|request| request.key == route.prefix && request.host == route.host));
        }
    }

    #[test]
    fn our_look_up_allocates_nothing() {
        for case in TABLE.cases.iter().filter(|case| !case.ends_with("0000")) {
            let (key, count) = parse(case).unwrap();
            let routes = routes(key, count);
            let (text, order) = draw(&routes, 500);
            let requests = requests(&text, &order, &routes, key);
            let ours = build("lbcore", &routes, key);
            let ((), counted) = counting::during(|| assert_eq!(ours.right(&requests), 500));
            assert_eq!(counted.allocations, 0, "{case}");
        }
    }

    #[test]
    fn every_case_is_measured() {
        for case in TABLE.cases {
            assert!(parse(case).is_some_and(|(_, count)| count > 0), "{case}");
        }
    }
}
