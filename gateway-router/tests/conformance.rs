//! The contract suite of `RouteMatcher`, run by the table, by what `compile` makes of resources, and by the oracle.

use std::sync::Arc;

use gateway_router::compile::{Resources, compile};
use gateway_router::model::{
    Backends, Gateway, GatewayClass, Hostname, HttpPath, HttpRoute, HttpRouteMatch, HttpRouteRule, Listener,
    Metadata, ParentRef, PathMatch,
};
use gateway_router::table::oracle::Oracle;
use gateway_router::table::{Entry, EntryPath, ListenerKey, Origin, RouteTable};
use http::{HeaderName, HeaderValue};
use lbcore::conformance::matcher::{CLAUSES, Harness, Path, Rule, run_all};
use lbcore::id::ObjectName;
use lbcore::route::{Outcome, RequestHead, RouteMatcher};
use lbcore::time::Timestamp;

type Matcher = Box<dyn RouteMatcher<Target = usize>>;

/// Makes a matcher of listeners and rules.
struct Maker(fn(&[&'static str], &[Rule]) -> Matcher);

impl Harness for Maker {
    fn build(&self, listeners: &[&'static str], rules: &[Rule]) -> Matcher {
        (self.0)(listeners, rules)
    }

    fn allocations(&self, run: &mut dyn FnMut()) -> u64 {
        allocation_counter::measure(run).count_total
    }
}

fn hostname(text: &str) -> Option<Hostname> {
    (!text.is_empty()).then(|| text.parse().expect("a hostname"))
}

fn path(text: &str) -> HttpPath {
    text.parse().expect("a path")
}

fn metadata(rule: &Rule) -> Metadata {
    let mut metadata = Metadata::new(rule.namespace, rule.name);
    metadata.created = rule.created.map(Timestamp::from_unix);
    metadata
}

fn parts(listeners: &[&'static str], rules: &[Rule]) -> (Vec<ListenerKey>, Vec<Entry>, Vec<usize>) {
    let key = |name: &str| ListenerKey::new(80, hostname(name));
    let entry = |(rule, target): (&Rule, u32)| {
        let path = match rule.path {
            Path::Exact(text) => EntryPath::Exact(path(text)),
            Path::Prefix(text) => EntryPath::Prefix(path(text)),
        };
        let mut entry =
            Entry::new(key(rule.listener), path, Origin::new(&metadata(rule), rule.place, 0), target);
        entry.hostname = hostname(rule.hostname);
        entry.method.clone_from(&rule.method);
        for (name, value) in &rule.headers {
            entry.header(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        for (name, value) in &rule.query_params {
            entry.query_param((*name).into(), (*value).into());
        }
        entry
    };
    let listeners = listeners.iter().copied().map(key).collect();
    (listeners, rules.iter().zip(0..).map(entry).collect(), (0..rules.len()).collect())
}

fn table(listeners: &[&'static str], rules: &[Rule]) -> Matcher {
    let (listeners, entries, targets) = parts(listeners, rules);
    Box::new(RouteTable::new(listeners, &entries, targets).expect("every target is there"))
}

fn oracle(listeners: &[&'static str], rules: &[Rule]) -> Matcher {
    let (listeners, entries, targets) = parts(listeners, rules);
    Box::new(Oracle::new(listeners, &entries, targets))
}

/// A table whose rules are known by their route and their place in it.
struct Compiled {
    table: Arc<RouteTable>,
    /// Each with its place in the suite's list.
    rules: Vec<(ObjectName, usize, usize)>,
}

impl RouteMatcher for Compiled {
    type Target = usize;

    fn find<'t>(&'t self, head: &RequestHead<'_>) -> Outcome<'t, usize> {
        match self.table.find(head) {
            Outcome::Found(found) => self
                .rules
                .iter()
                .find(|(route, place, _)| *route == found.route && *place == found.place)
                .map_or(Outcome::NotFound, |(.., number)| Outcome::Found(number)),
            Outcome::Misdirected => Outcome::Misdirected,
            _ => Outcome::NotFound,
        }
    }
}

/// Every rule on its listener and for its hostname is a route of its own, but for those of one route, one listener and
/// one hostname, whose places in it decide.
fn compiled(listeners: &[&'static str], rules: &[Rule]) -> Matcher {
    let mut names: Vec<_> = rules.iter().map(|rule| rule.listener).chain(listeners.iter().copied()).collect();
    names.sort_unstable();
    names.dedup();
    let listener = |name: &str| {
        let mut listener = Listener::http(if name.is_empty() { "all" } else { name }, 80)
            .allow(gateway_router::model::FromNamespaces::All);
        listener.hostname = hostname(name);
        listener
    };
    let mut resources = Resources::new("lbcore.io/test");
    resources.classes.push(GatewayClass::new("class", "lbcore.io/test"));
    let gateway = Metadata::new("gateways", "gateway");
    let name = gateway.name.clone();
    resources.gateways.push(Gateway::new(gateway, "class", names.into_iter().map(listener)));

    let mut numbers = Vec::new();
    let mut order: Vec<_> = (0..rules.len()).collect();
    order.sort_by_key(|number| (rules[*number].place, *number));
    let same = |a: &Rule, b: &Rule| {
        (a.namespace, a.name, a.listener, a.hostname) == (b.namespace, b.name, b.listener, b.hostname)
    };
    for number in order {
        let rule = &rules[number];
        let first = rules.iter().position(|other| same(other, rule)).unwrap_or(number);
        let mut metadata = metadata(rule);
        // What follows the name does not change the order of names that differ.
        metadata.name = ObjectName::new(rule.namespace, format!("{}.{first}", rule.name));
        let at = resources.routes.iter().position(|route| route.metadata.name == metadata.name);
        let at = at.unwrap_or_else(|| {
            let section = if rule.listener.is_empty() { "all" } else { rule.listener };
            let parent = ParentRef::gateway("gateway").namespace("gateways").section(section);
            let route = HttpRoute::new(metadata.clone(), [parent], []);
            resources.routes.push(route.hostnames(hostname(rule.hostname)));
            resources.routes.len() - 1
        });
        let route = &mut resources.routes[at];
        numbers.push((metadata.name, route.rules.len(), number));
        route.rules.push(to_rule(rule));
    }
    let table = compile(&resources, &Backends::new()).tables[&name].clone();
    Box::new(Compiled { table, rules: numbers })
}

fn to_rule(rule: &Rule) -> HttpRouteRule {
    let mut matching = HttpRouteMatch::path(match rule.path {
        Path::Exact(text) => PathMatch::Exact(path(text)),
        Path::Prefix(text) => PathMatch::Prefix(path(text)),
    });
    matching.method.clone_from(&rule.method);
    for (name, value) in &rule.headers {
        matching = matching.header(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    for (name, value) in &rule.query_params {
        matching = matching.query_param(name, value);
    }
    HttpRouteRule::to([]).matches([matching])
}

#[test]
fn the_table() {
    run_all(&Maker(table));
}

#[test]
fn what_is_compiled() {
    run_all(&Maker(compiled));
}

/// It makes copies, which the suite notices.
#[test]
fn the_oracle_but_for_its_allocations() {
    for (name, clause) in CLAUSES {
        let result = std::panic::catch_unwind(|| clause(&Maker(oracle)));
        assert_eq!(result.is_err(), *name == "a_look_up_allocates_nothing", "{name}");
    }
}
