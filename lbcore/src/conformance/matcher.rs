//! The contract of [`RouteMatcher`].

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::route::{Outcome, RequestHead, RouteMatcher};

/// What the suite needs of a backend's test environment.
pub trait Harness {
    /// A matcher of `rules`, each of which leads to its place in the list. There are the listeners of the rules, and
    /// `listeners` besides, all on port 80; each is named by its hostname, that for all hosts by an empty one.
    fn build(&self, listeners: &[&'static str], rules: &[Rule]) -> Box<dyn RouteMatcher<Target = usize>>;

    /// How often `run` allocates memory.
    fn allocations(&self, run: &mut dyn FnMut()) -> u64;
}

/// One rule of one route, with one match.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rule {
    /// The hostname of the listener that it is on; empty for the one for all hosts.
    pub listener: &'static str,
    /// The hostname of its route; empty for all hosts of the listener.
    pub hostname: &'static str,
    /// The condition on the path.
    pub path: Path,
    /// The condition on the method.
    pub method: Option<Method>,
    /// The conditions on headers.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The conditions on query parameters.
    pub query_params: Vec<(&'static str, &'static str)>,
    /// When its route was created, in seconds since 1970; not known if `None`, which makes it the newest.
    pub created: Option<i64>,
    /// The namespace of its route.
    pub namespace: &'static str,
    /// The name of its route.
    pub name: &'static str,
    /// Its place in its route.
    pub place: usize,
}

/// A condition on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// It is this one.
    Exact(&'static str),
    /// Its first elements are these ones.
    Prefix(&'static str),
}

const fn prefix(path: &'static str) -> Rule {
    rule(Path::Prefix(path))
}

const fn exact(path: &'static str) -> Rule {
    rule(Path::Exact(path))
}

const fn rule(path: Path) -> Rule {
    Rule {
        listener: "",
        hostname: "",
        path,
        method: None,
        headers: Vec::new(),
        query_params: Vec::new(),
        created: None,
        namespace: "a",
        name: "a",
        place: 0,
    }
}

impl Rule {
    const fn on(mut self, listener: &'static str) -> Self {
        self.listener = listener;
        self
    }

    const fn host(mut self, hostname: &'static str) -> Self {
        self.hostname = hostname;
        self
    }

    fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn query(mut self, name: &'static str, value: &'static str) -> Self {
        self.query_params.push((name, value));
        self
    }

    const fn of(mut self, created: Option<i64>, namespace: &'static str, name: &'static str) -> Self {
        (self.created, self.namespace, self.name) = (created, namespace, name);
        self
    }

    const fn at(mut self, place: usize) -> Self {
        self.place = place;
        self
    }
}

/// A request.
#[derive(Clone, Debug)]
struct Ask {
    port: u16,
    host: &'static str,
    target: &'static str,
    method: Method,
    headers: Vec<(&'static str, &'static str)>,
}

fn get(host: &'static str, target: &'static str) -> Ask {
    Ask { port: 80, host, target, method: Method::GET, headers: Vec::new() }
}

impl Ask {
    fn by(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Calls `run` with what it says.
    fn head<R>(&self, run: impl FnOnce(&RequestHead<'_>) -> R) -> R {
        let headers: HeaderMap = self
            .headers
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
                (name, HeaderValue::from_static(value))
            })
            .collect();
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target, None),
        };
        run(&RequestHead {
            port: self.port,
            server_name: None,
            host: self.host,
            path,
            query,
            method: &self.method,
            headers: &headers,
        })
    }
}

/// Asserts where each request leads.
fn expect(harness: &dyn Harness, listeners: &[&'static str], rules: &[Rule], cases: &[(Ask, Option<usize>)]) {
    let matcher = harness.build(listeners, rules);
    for (ask, expected) in cases {
        let found = ask.head(|head| match matcher.find(head) {
            Outcome::Found(place) => Some(*place),
            Outcome::NotFound => None,
            Outcome::Misdirected => panic!("{ask:?} is misdirected, though it came without TLS"),
        });
        assert_eq!(found, *expected, "{ask:?} of {rules:#?}");
    }
}

/// Runs every clause.
pub fn run_all(harness: &dyn Harness) {
    for (_, clause) in CLAUSES {
        clause(harness);
    }
}

/// A clause of the contract: asserts one promise, and panics if it is broken.
pub type Clause = fn(&dyn Harness);

/// The clauses by name.
pub const CLAUSES: &[(&str, Clause)] = &[
    ("what_no_rule_matches_is_not_found", what_no_rule_matches_is_not_found),
    ("a_host_has_neither_case_nor_port", a_host_has_neither_case_nor_port),
    ("a_wildcard_is_one_label_or_more", a_wildcard_is_one_label_or_more),
    ("the_most_specific_host_comes_first", the_most_specific_host_comes_first),
    ("a_host_without_a_match_leaves_it_to_the_next", a_host_without_a_match_leaves_it_to_the_next),
    ("a_listener_leaves_nothing_to_others", a_listener_leaves_nothing_to_others),
    ("an_exact_path_is_exact", an_exact_path_is_exact),
    ("a_prefix_is_whole_elements", a_prefix_is_whole_elements),
    ("an_exact_path_comes_before_prefixes", an_exact_path_comes_before_prefixes),
    ("the_longest_prefix_comes_first", the_longest_prefix_comes_first),
    (
        "a_prefix_that_does_not_hold_leaves_it_to_a_shorter_one",
        a_prefix_that_does_not_hold_leaves_it_to_a_shorter_one,
    ),
    ("a_method_is_exact", a_method_is_exact),
    ("all_headers_are_there", all_headers_are_there),
    ("all_query_parameters_are_there", all_query_parameters_are_there),
    ("a_path_counts_for_more_than_a_method", a_path_counts_for_more_than_a_method),
    ("a_method_counts_for_more_than_headers", a_method_counts_for_more_than_headers),
    ("headers_count_for_more_than_query_parameters", headers_count_for_more_than_query_parameters),
    ("more_conditions_come_first", more_conditions_come_first),
    ("the_oldest_route_comes_first", the_oldest_route_comes_first),
    ("then_the_name_decides", then_the_name_decides),
    ("then_the_first_rule", then_the_first_rule),
    ("a_look_up_allocates_nothing", a_look_up_allocates_nothing),
];

/// A matcher without rules, a port without a listener, a path that none has.
pub fn what_no_rule_matches_is_not_found(harness: &dyn Harness) {
    expect(harness, &[], &[], &[(get("a.com", "/"), None)]);
    let rules = [prefix("/a").host("a.com")];
    let other_port = Ask { port: 81, ..get("a.com", "/a") };
    expect(
        harness,
        &[],
        &rules,
        &[
            (get("a.com", "/a"), Some(0)),
            (get("a.com", "/b"), None),
            (get("b.com", "/a"), None),
            (get("", "/a"), None),
            (other_port, None),
            // OPTIONS * (RFC 9112 §3.2.4).
            (get("a.com", "*").by(Method::OPTIONS), None),
        ],
    );
}

/// Hosts are compared without case (RFC 9110 §4.2.3) and without the port that the request names.
pub fn a_host_has_neither_case_nor_port(harness: &dyn Harness) {
    let rules = [prefix("/").host("a.com"), prefix("/").host("*.b.com")];
    expect(
        harness,
        &[],
        &rules,
        &[
            (get("a.com", "/"), Some(0)),
            (get("A.Com", "/"), Some(0)),
            (get("a.com:1234", "/"), Some(0)),
            (get("X.B.COM:80", "/"), Some(1)),
            (get("[fd00::1]:80", "/"), None),
        ],
    );
}

/// `*.a.com` stands for `x.a.com` and `x.y.a.com`, but not for `a.com`.
pub fn a_wildcard_is_one_label_or_more(harness: &dyn Harness) {
    expect(
        harness,
        &[],
        &[prefix("/").host("*.a.com")],
        &[
            (get("x.a.com", "/"), Some(0)),
            (get("x.y.a.com", "/"), Some(0)),
            (get("a.com", "/"), None),
            (get(".a.com", "/"), None),
            (get("xa.com", "/"), None),
        ],
    );
}

/// A hostname without wildcard, then the longest, whatever the paths are.
pub fn the_most_specific_host_comes_first(harness: &dyn Harness) {
    let rules = [
        exact("/a"),
        exact("/a").host("*.com"),
        exact("/a").host("*.a.com"),
        prefix("/").host("x.a.com"),
        prefix("/").host("*.y.a.com"),
    ];
    expect(
        harness,
        &[],
        &rules,
        &[
            (get("x.a.com", "/a"), Some(3)),
            (get("x.y.a.com", "/a"), Some(4)),
            (get("y.a.com", "/a"), Some(2)),
            (get("b.com", "/a"), Some(1)),
            (get("b.org", "/a"), Some(0)),
        ],
    );
}

/// The list is one of precedence: if the rules of the most specific hostname do not match, those of the next may.
pub fn a_host_without_a_match_leaves_it_to_the_next(harness: &dyn Harness) {
    let rules = [prefix("/any"), prefix("/wild").host("*.a.com"), prefix("/one").host("x.a.com")];
    expect(
        harness,
        &[],
        &rules,
        &[
            (get("x.a.com", "/one"), Some(2)),
            (get("x.a.com", "/wild"), Some(1)),
            (get("x.a.com", "/any"), Some(0)),
            (get("x.a.com", "/none"), None),
        ],
    );
}

/// The most specific listener of a host has it alone, with a rule or without (GEP-1364, listener isolation).
pub fn a_listener_leaves_nothing_to_others(harness: &dyn Harness) {
    let rules = [
        prefix("/"),
        prefix("/wild").on("*.a.com"),
        prefix("/one").on("x.a.com"),
        // Wider than its listener.
        prefix("/wide").on("x.a.com").host("*.com"),
    ];
    expect(
        harness,
        &["silent.com"],
        &rules,
        &[
            (get("b.com", "/wide"), Some(0)),
            (get("y.a.com", "/wild"), Some(1)),
            (get("y.a.com", "/one"), None),
            (get("x.a.com", "/one"), Some(2)),
            (get("x.a.com", "/wide"), Some(3)),
            (get("x.a.com", "/wild"), None),
            (get("silent.com", "/"), None),
        ],
    );
}

/// By case and by its trailing slash.
pub fn an_exact_path_is_exact(harness: &dyn Harness) {
    expect(
        harness,
        &[],
        &[exact("/one"), exact("/dir/")],
        &[
            (get("a", "/one"), Some(0)),
            (get("a", "/one?q"), Some(0)),
            (get("a", "/One"), None),
            (get("a", "/one/"), None),
            (get("a", "/one/two"), None),
            (get("a", "/dir/"), Some(1)),
            (get("a", "/dir"), None),
        ],
    );
}

/// A prefix is compared element by element, by case; its trailing slash is ignored.
pub fn a_prefix_is_whole_elements(harness: &dyn Harness) {
    expect(
        harness,
        &[],
        &[prefix("/one"), prefix("/dir/")],
        &[
            (get("a", "/one"), Some(0)),
            (get("a", "/one/"), Some(0)),
            (get("a", "/one/two"), Some(0)),
            (get("a", "/onetwo"), None),
            (get("a", "/One"), None),
            (get("a", "/two/one"), None),
            (get("a", "/dir"), Some(1)),
            (get("a", "/dir/x"), Some(1)),
        ],
    );
}

/// However long they are.
pub fn an_exact_path_comes_before_prefixes(harness: &dyn Harness) {
    let rules = [prefix("/a/b/"), exact("/a/b")];
    expect(harness, &[], &rules, &[(get("a", "/a/b"), Some(1)), (get("a", "/a/b/c"), Some(0))]);
}

/// By its characters.
pub fn the_longest_prefix_comes_first(harness: &dyn Harness) {
    let rules = [prefix("/"), prefix("/a/b/c"), prefix("/a"), prefix("/a/b")];
    expect(
        harness,
        &[],
        &rules,
        &[
            (get("a", "/a/b/c/d"), Some(1)),
            (get("a", "/a/b/d"), Some(3)),
            (get("a", "/a/x"), Some(2)),
            (get("a", "/x"), Some(0)),
        ],
    );
}

/// A path that matches while its other conditions do not hides nothing.
pub fn a_prefix_that_does_not_hold_leaves_it_to_a_shorter_one(harness: &dyn Harness) {
    let rules = [
        prefix("/"),
        prefix("/a").header("x", "1"),
        exact("/a/b").method(Method::POST),
        prefix("/").host("h").query("q", "1"),
    ];
    expect(
        harness,
        &[],
        &rules,
        &[
            (get("a", "/a/b").by(Method::POST), Some(2)),
            (get("a", "/a/b").with("x", "1"), Some(1)),
            (get("a", "/a/b"), Some(0)),
            (get("h", "/a/b?q=1"), Some(3)),
            (get("h", "/a/b"), Some(0)),
        ],
    );
}

/// GET does not stand for HEAD.
pub fn a_method_is_exact(harness: &dyn Harness) {
    expect(
        harness,
        &[],
        &[prefix("/").method(Method::GET)],
        &[
            (get("a", "/"), Some(0)),
            (get("a", "/").by(Method::HEAD), None),
            (get("a", "/").by(Method::POST), None),
        ],
    );
}

/// Names without case, values with it and as a whole; others do not matter.
pub fn all_headers_are_there(harness: &dyn Harness) {
    expect(
        harness,
        &[],
        &[prefix("/").header("x-one", "a").header("x-two", "b")],
        &[
            (get("a", "/").with("x-one", "a").with("x-two", "b"), Some(0)),
            (get("a", "/").with("X-TWO", "b").with("X-One", "a").with("x-three", "c"), Some(0)),
            (get("a", "/").with("x-one", "a"), None),
            (get("a", "/").with("x-one", "A").with("x-two", "b"), None),
            (get("a", "/").with("x-one", "ab").with("x-two", "b"), None),
        ],
    );
}

/// Names and values with case, in any order; others do not matter, and neither do repetitions.
pub fn all_query_parameters_are_there(harness: &dyn Harness) {
    expect(
        harness,
        &[],
        &[prefix("/").query("one", "a").query("two", "b")],
        &[
            (get("a", "/?one=a&two=b"), Some(0)),
            (get("a", "/?two=b&three=c&one=a&one=x"), Some(0)),
            (get("a", "/?one=a"), None),
            (get("a", "/"), None),
            (get("a", "/?one=A&two=b"), None),
            (get("a", "/?One=a&two=b"), None),
            (get("a", "/?one=x&one=a&two=b"), None),
        ],
    );
}

/// A longer prefix wins over a method.
pub fn a_path_counts_for_more_than_a_method(harness: &dyn Harness) {
    let rules = [prefix("/").method(Method::GET), prefix("/a")];
    expect(harness, &[], &rules, &[(get("a", "/a"), Some(1)), (get("a", "/"), Some(0))]);
}

/// However many they are.
pub fn a_method_counts_for_more_than_headers(harness: &dyn Harness) {
    let rules = [prefix("/").header("x", "1").header("y", "1"), prefix("/").method(Method::GET)];
    let ask = || get("a", "/").with("x", "1").with("y", "1");
    expect(harness, &[], &rules, &[(ask(), Some(1)), (ask().by(Method::POST), Some(0))]);
}

/// However many they are.
pub fn headers_count_for_more_than_query_parameters(harness: &dyn Harness) {
    let rules = [prefix("/").query("p", "1").query("q", "1"), prefix("/").header("x", "1")];
    expect(
        harness,
        &[],
        &rules,
        &[(get("a", "/?p=1&q=1").with("x", "1"), Some(1)), (get("a", "/?p=1&q=1"), Some(0))],
    );
}

/// Most headers, then most query parameters.
pub fn more_conditions_come_first(harness: &dyn Harness) {
    let rules = [
        prefix("/").header("x", "1"),
        prefix("/").header("x", "1").header("y", "1"),
        prefix("/").query("p", "1"),
        prefix("/").query("p", "1").query("q", "1"),
    ];
    expect(
        harness,
        &[],
        &rules,
        &[
            (get("a", "/").with("x", "1").with("y", "1"), Some(1)),
            (get("a", "/").with("x", "1"), Some(0)),
            (get("a", "/?p=1&q=1"), Some(3)),
            (get("a", "/?p=1"), Some(2)),
        ],
    );
}

/// Whatever its name; a route whose age is not known is the newest.
pub fn the_oldest_route_comes_first(harness: &dyn Harness) {
    let rules = [
        prefix("/").of(None, "a", "a"),
        prefix("/").of(Some(2), "b", "b"),
        prefix("/").of(Some(1), "c", "c").at(1),
    ];
    every_order(harness, &rules, 2);
    every_order(harness, &rules[..2], 1);
}

/// `namespace/name` as one text, in which `-` comes before `/`.
pub fn then_the_name_decides(harness: &dyn Harness) {
    let rules = [prefix("/").of(Some(1), "a", "b"), prefix("/").of(Some(1), "a", "c")];
    every_order(harness, &rules, 0);
    let rules = [prefix("/").of(Some(1), "a", "x"), prefix("/").of(Some(1), "a-b", "x").at(1)];
    every_order(harness, &rules, 1);
}

/// In the order of the route.
pub fn then_the_first_rule(harness: &dyn Harness) {
    every_order(harness, &[prefix("/").at(1), prefix("/").at(0), prefix("/").at(2)], 1);
}

/// Whatever the order in which a matcher is told of them, the same one of `rules` is `best`.
fn every_order(harness: &dyn Harness, rules: &[Rule], best: usize) {
    for first in 0..rules.len() {
        let mut rules = rules.to_vec();
        rules.rotate_left(first);
        let place = (best + rules.len() - first) % rules.len();
        expect(harness, &[], &rules, &[(get("a", "/x"), Some(place))]);
        rules.reverse();
        expect(harness, &[], &rules, &[(get("a", "/x"), Some(rules.len() - 1 - place))]);
    }
}

/// Whatever is asked, and whether it is found or not.
pub fn a_look_up_allocates_nothing(harness: &dyn Harness) {
    let rules = [
        exact("/exact").host("a.com"),
        prefix("/a/b").host("*.com").header("x", "1").query("q", "1 2"),
        prefix("/a").host("*.x.com").method(Method::POST),
        prefix("/a/b/c/d/e/f/g/h/i/j/k").header("x", "1"),
        prefix("/z"),
    ];
    let matcher = harness.build(&["*.org"], &rules);
    for (host, target) in [
        ("a.com", "/exact"),
        ("A.COM:80", "/exact"),
        ("b.com.", "/a/b/c?p=1&q=1+2"),
        ("w.x.com", "/a"),
        ("[fd00::1]", "/a/b/c/d/e/f/g/h/i/j/k/l/m"),
        ("b.org", "/z"),
        ("", "/"),
    ] {
        for ask in [get(host, target), get(host, target).with("x", "1"), get(host, target).by(Method::POST)] {
            let count = ask.head(|head| {
                let mut run = || {
                    matcher.find(head);
                };
                // What is made once is no cost of a look-up.
                run();
                harness.allocations(&mut run)
            });
            assert_eq!(count, 0, "allocations for {ask:?}");
        }
    }
}

#[cfg(test)]
mod tests;
