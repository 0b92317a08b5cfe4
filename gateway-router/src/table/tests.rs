use http::{HeaderMap, Method};
use proptest::prelude::*;

use super::oracle::{Oracle, Scenario};
use super::*;
use crate::model::Metadata;
use lbcore::time::Timestamp;

/// Rules in the order of their targets, on one listener for all hosts unless said otherwise.
struct Rules {
    listeners: Vec<ListenerKey>,
    entries: Vec<Entry>,
    count: u32,
}

fn rules() -> Rules {
    Rules { listeners: vec![], entries: vec![], count: 0 }
}

fn name(text: &str) -> Option<Hostname> {
    (!text.is_empty()).then(|| Hostname::new(text).unwrap())
}

fn prefix(path: &str) -> EntryPath {
    EntryPath::Prefix(HttpPath::new(path).unwrap())
}

fn exact(path: &str) -> EntryPath {
    EntryPath::Exact(HttpPath::new(path).unwrap())
}

impl Rules {
    fn rule(self, hostname: &str, path: EntryPath) -> Self {
        self.on("", hostname, path)
    }

    /// A rule on the listener for hostname `listener`.
    fn on(mut self, listener: &str, hostname: &str, path: EntryPath) -> Self {
        let origin = Origin::new(&Metadata::new("ns", "route"), self.entries.len(), 0);
        let mut entry = Entry::new(ListenerKey::new(80, name(listener)), path, origin, self.count);
        entry.hostname = name(hostname);
        self.entries.push(entry);
        self.count += 1;
        self
    }

    fn last(mut self, change: impl FnOnce(&mut Entry)) -> Self {
        change(self.entries.last_mut().unwrap());
        self
    }

    fn header(self, name: &'static str, value: &'static str) -> Self {
        self.last(|entry| entry.header(HeaderName::from_static(name), HeaderValue::from_static(value)))
    }

    fn query(self, name: &str, value: &str) -> Self {
        self.last(|entry| entry.query_param(name.into(), value.into()))
    }

    fn method(self, method: Method) -> Self {
        self.last(|entry| entry.method = Some(method))
    }

    /// The same rule has this match too.
    fn or(mut self, path: EntryPath) -> Self {
        let mut entry = self.entries.last().unwrap().clone();
        entry.path = path;
        entry.method = None;
        entry.headers.clear();
        entry.query_params.clear();
        self.entries.push(entry);
        self
    }

    fn listener(mut self, hostname: &str) -> Self {
        self.listeners.push(ListenerKey::new(80, name(hostname)));
        self
    }

    fn table(&self) -> RouteTable<u32> {
        RouteTable::new(self.listeners.clone(), &self.entries, (0..self.count).collect()).unwrap()
    }

    /// Each request and the rule expected for it, of the table and of the oracle.
    fn expect(self, cases: &[(Ask<'_>, Option<u32>)]) {
        let table = self.table();
        let oracle = Oracle::new(self.listeners.clone(), &self.entries, (0..self.count).collect());
        for (ask, expected) in cases {
            let headers: HeaderMap = ask
                .headers
                .iter()
                .map(|(name, value)| {
                    (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
                })
                .collect();
            let (path, query) = match ask.target.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (ask.target, None),
            };
            let head = RequestHead {
                port: ask.port,
                server_name: None,
                host: ask.host,
                path,
                query,
                method: &ask.method,
                headers: &headers,
            };
            let found = |outcome| match outcome {
                Outcome::Found(target) => Some(*target),
                _ => None,
            };
            assert_eq!(found(table.find(&head)), *expected, "table: {ask:?}");
            assert_eq!(found(oracle.find(&head)), *expected, "oracle: {ask:?}");
        }
    }
}

#[derive(Clone, Debug)]
struct Ask<'a> {
    port: u16,
    host: &'a str,
    target: &'a str,
    method: Method,
    headers: &'a [(&'a str, &'a str)],
}

fn get<'a>(host: &'a str, target: &'a str) -> Ask<'a> {
    Ask { port: 80, host, target, method: Method::GET, headers: &[] }
}

impl<'a> Ask<'a> {
    fn with(self, headers: &'a [(&'a str, &'a str)]) -> Self {
        Self { headers, ..self }
    }

    fn by(self, method: Method) -> Self {
        Self { method, ..self }
    }
}

#[test]
fn http_route_matching() {
    let rules = rules().rule("", prefix("/")).or(prefix("/")).header("version", "one");
    rules.rule("", prefix("/v2")).or(prefix("/")).header("version", "two").expect(&[
        (get("", "/"), Some(0)),
        (get("", "/example"), Some(0)),
        (get("", "/").with(&[("Version", "one")]), Some(0)),
        (get("", "/v2"), Some(1)),
        (get("", "/v2/example"), Some(1)),
        (get("", "/").with(&[("Version", "two")]), Some(1)),
        (get("", "/v2/"), Some(1)),
        // Not by element, and not by case.
        (get("", "/v2example"), Some(0)),
        (get("", "/foo/v2/example"), Some(0)),
        (get("", "/V2"), Some(0)),
    ]);
}

#[test]
fn http_route_path_match_order() {
    rules()
        .rule("", exact("/match/exact/one"))
        .rule("", exact("/match/exact"))
        .rule("", exact("/match"))
        .rule("", prefix("/match"))
        .rule("", prefix("/match/prefix/"))
        .rule("", prefix("/match/prefix/one"))
        .rule("", prefix("/"))
        .rule("", exact("/match/prefix/one/any"))
        .expect(&[
            (get("", "/match/exact/one"), Some(0)),
            (get("", "/match/exact"), Some(1)),
            (get("", "/match"), Some(2)),
            (get("", "/match/"), Some(3)),
            (get("", "/match/exact/"), Some(3)),
            (get("", "/match/exact/two"), Some(3)),
            (get("", "/match/prefix"), Some(4)),
            (get("", "/match/prefix/"), Some(4)),
            (get("", "/match/prefix/on"), Some(4)),
            (get("", "/match/prefix/one"), Some(5)),
            (get("", "/match/prefix/one/x"), Some(5)),
            (get("", "/match/prefix/one/any"), Some(7)),
            (get("", "/matchless"), Some(6)),
        ]);
}

#[test]
fn http_exact_path_matching() {
    rules().rule("", exact("/one")).rule("", exact("/two")).rule("", exact("/dir/")).expect(&[
        (get("", "/one"), Some(0)),
        (get("", "/two"), Some(1)),
        (get("", "/"), None),
        (get("", "/one/example"), None),
        (get("", "/two/"), None),
        (get("", "/Two"), None),
        (get("", "/dir/"), Some(2)),
        (get("", "/dir"), None),
    ]);
}

#[test]
fn http_route_header_matching() {
    rules()
        .rule("", prefix("/"))
        .header("version", "one")
        .rule("", prefix("/"))
        .header("version", "two")
        .rule("", prefix("/"))
        .header("version", "two")
        .header("color", "orange")
        .rule("", prefix("/"))
        .header("color", "blue")
        .expect(&[
            (get("", "/").with(&[("version", "one")]), Some(0)),
            (get("", "/").with(&[("VERSION", "two")]), Some(1)),
            (get("", "/").with(&[("version", "two"), ("color", "orange")]), Some(2)),
            (get("", "/").with(&[("color", "blue")]), Some(3)),
            (get("", "/").with(&[("color", "orange")]), None),
            (get("", "/").with(&[("some-other-header", "one")]), None),
            (get("", "/").with(&[("version", "One")]), None),
            (get("", "/"), None),
        ]);
}

#[test]
fn http_route_method_matching() {
    rules()
        .rule("", prefix("/"))
        .method(Method::POST)
        .rule("", prefix("/"))
        .method(Method::GET)
        .rule("", prefix("/"))
        .header("version", "four")
        .rule("", prefix("/path5"))
        .rule("", prefix("/"))
        .method(Method::PATCH)
        .expect(&[
            (get("", "/").by(Method::POST), Some(0)),
            (get("", "/"), Some(1)),
            // GET does not stand for HEAD.
            (get("", "/").by(Method::HEAD), None),
            // A method counts for more than headers, a longer path for more than a method.
            (get("", "/").by(Method::PATCH).with(&[("version", "four")]), Some(4)),
            (get("", "/").by(Method::PUT).with(&[("version", "four")]), Some(2)),
            (get("", "/path5").by(Method::PATCH).with(&[("version", "four")]), Some(3)),
            (get("", "/").by(Method::DELETE), None),
        ]);
}

#[test]
fn http_route_query_param_matching() {
    rules()
        .rule("", prefix("/"))
        .query("animal", "whale")
        .rule("", prefix("/"))
        .query("animal", "dolphin")
        .rule("", prefix("/"))
        .query("animal", "dolphin")
        .query("color", "blue")
        .rule("", prefix("/"))
        .query("ANIMAL", "Whale")
        .rule("", prefix("/"))
        .header("version", "one")
        .expect(&[
            (get("", "/?animal=whale"), Some(0)),
            (get("", "/?animal=dolphin"), Some(1)),
            (get("", "/?animal=whale&otherparam=irrelevant"), Some(0)),
            (get("", "/?animal=dolphin&color=blue"), Some(2)),
            (get("", "/?color=blue&animal=dolphin"), Some(2)),
            (get("", "/?ANIMAL=Whale"), Some(3)),
            (get("", "/?animal=Whale"), None),
            (get("", "/?color=blue"), None),
            (get("", "/?animal=whale&animal=dolphin"), Some(0)),
            (get("", "/"), None),
            // Headers count for more than query parameters.
            (get("", "/?animal=dolphin&color=blue").with(&[("version", "one")]), Some(4)),
        ]);
}

#[test]
fn http_route_listener_hostname_matching() {
    rules()
        .on("bar.com", "", prefix("/"))
        .on("*.bar.com", "", prefix("/"))
        .on("foo.bar.com", "", prefix("/"))
        .listener("empty.com")
        .expect(&[
            (get("bar.com", "/"), Some(0)),
            (get("foo.bar.com", "/"), Some(2)),
            (get("baz.bar.com", "/"), Some(1)),
            (get("boo.bar.com:80", "/"), Some(1)),
            (get("multiple.prefixes.bar.com", "/"), Some(1)),
            (get("multiple.prefixes.FOO.bar.com", "/"), Some(1)),
            (get("foo.com", "/"), None),
            (get("no.matching.host", "/"), None),
            (get("empty.com", "/"), None),
            (get("", "/"), None),
        ]);
}

#[test]
fn http_route_hostname_intersection() {
    rules()
        .on("very.specific.com", "very.specific.com", prefix("/s1"))
        .on("very.specific.com", "*.specific.com", prefix("/s2"))
        .on("very.specific.com", "", prefix("/s3"))
        .on("*.wildcard.io", "very.specific.wildcard.io", prefix("/s4"))
        .on("*.wildcard.io", "*.wildcard.io", prefix("/s5"))
        .on("*.wildcard.io", "*.io", prefix("/s6"))
        .expect(&[
            (get("very.specific.com", "/s1"), Some(0)),
            (get("very.specific.com:1234", "/s1"), Some(0)),
            (get("very.specific.com", "/s2"), Some(1)),
            (get("Very.Specific.com", "/s3"), Some(2)),
            (get("non.specific.com", "/s2"), None),
            (get("foo.specific.com", "/s3"), None),
            (get("very.specific.wildcard.io", "/s4"), Some(3)),
            (get("foo.wildcard.io", "/s4"), None),
            (get("foo.wildcard.io", "/s5"), Some(4)),
            (get("a.b.wildcard.io", "/s5"), Some(4)),
            (get("wildcard.io", "/s5"), None),
            (get("foo.wildcard.io", "/s6"), Some(5)),
            (get("foo.io", "/s6"), None),
        ]);
}

#[test]
fn gateway_http_listener_isolation() {
    let listeners = ["", "*.example.com", "*.foo.example.com", "abc.foo.example.com"];
    let paths =
        ["/empty-hostname", "/wildcard-example-com", "/wildcard-foo-example-com", "/abc-foo-example-com"];
    let hosts = ["bar.com", "bar.example.com", "bar.foo.example.com", "abc.foo.example.com"];
    let build = |hostnames: [&str; 4]| {
        let mut rules = rules();
        for ((listener, hostname), path) in listeners.iter().zip(hostnames).zip(paths) {
            rules = rules.on(listener, hostname, prefix(path));
        }
        rules
    };
    let mut cases = Vec::new();
    for (host, own) in hosts.iter().zip(0..) {
        for (path, at) in paths.iter().zip(0..) {
            cases.push((get(host, path), (own == at).then_some(at)));
        }
    }
    build(["", "", "", ""]).expect(&cases);
    // Routes whose hostnames intersect with several listeners change nothing.
    build(["*.com", "*.com", "*.example.com", "*.foo.example.com"]).expect(&cases);
}

#[test]
fn the_most_specific_hostname_wins_and_falls_through_within_a_listener() {
    rules()
        .rule("", prefix("/any"))
        .rule("*.com", prefix("/wild"))
        .rule("*.example.com", prefix("/"))
        .rule("a.example.com", prefix("/exact"))
        .rule("", prefix("/"))
        .expect(&[
            (get("a.example.com", "/exact"), Some(3)),
            // The longer hostname wins though the path of another is longer.
            (get("a.example.com", "/wild"), Some(2)),
            (get("b.example.com", "/any"), Some(2)),
            (get("b.com", "/wild"), Some(1)),
            (get("b.com", "/any"), Some(0)),
            (get("b.com", "/"), Some(4)),
            (get("example.org", "/exact"), Some(4)),
        ]);
}

#[test]
fn ties_go_to_the_oldest_then_the_name_then_the_first_rule() {
    let origin = |created: Option<i64>, namespace: &str, name: &str, rule, place| {
        let mut metadata = Metadata::new(namespace, name);
        metadata.created = created.map(Timestamp::from_unix);
        Origin::new(&metadata, rule, place)
    };
    let ordered = [
        origin(Some(1), "z", "z", 9, 9),
        origin(Some(2), "a", "a", 0, 0),
        // As text, so that '-' comes before '/'.
        origin(Some(2), "a-b", "x", 0, 0),
        origin(Some(2), "a0", "x", 0, 0),
        origin(Some(2), "a0", "x", 0, 1),
        origin(Some(2), "a0", "x", 1, 0),
        origin(None, "a", "a", 0, 0),
    ];
    let mut ordered = ordered.to_vec();
    ordered.swap(1, 2);
    for (better, worse) in ordered.iter().zip(&ordered[1..]) {
        assert!(better < worse, "{better:?} {worse:?}");
        for swap in [false, true] {
            let mut rules = rules().rule("", prefix("/")).rule("", prefix("/"));
            rules.entries[0].origin = better.clone();
            rules.entries[1].origin = worse.clone();
            if swap {
                rules.entries.reverse();
            }
            rules.expect(&[(get("", "/"), Some(0))]);
        }
    }
}

#[test]
fn the_first_condition_on_a_name_counts() {
    rules().rule("", prefix("/")).header("x", "1").header("x", "2").query("q", "1").query("q", "2").expect(
        &[
            (get("", "/?q=1").with(&[("x", "1")]), Some(0)),
            (get("", "/?q=2").with(&[("x", "1")]), None),
            (get("", "/?q=1").with(&[("x", "2")]), None),
        ],
    );
}

#[test]
fn other_ports_and_odd_targets_match_nothing() {
    let all = rules().rule("", prefix("/"));
    all.expect(&[
        (get("a", "/"), Some(0)),
        (Ask { port: 81, ..get("a", "/") }, None),
        (get("a", "*").by(Method::OPTIONS), None),
        (get("a", ""), None),
        (get("[::1]:80", "/"), Some(0)),
        (get(&"a".repeat(300), "/"), Some(0)),
        (get(&"a.".repeat(200), "/"), Some(0)),
    ]);
    rules().expect(&[(get("a", "/"), None)]);
}

#[test]
fn paths_deeper_than_the_table_counts() {
    let deep = |depth| "/x".repeat(depth);
    let paths: Vec<_> = [1, 62, 63, 64, 65, 100].map(deep).to_vec();
    let mut all = rules();
    for path in &paths {
        all = all.rule("", prefix(path));
    }
    let asked: Vec<_> = [1, 2, 62, 63, 64, 65, 99, 100, 200].map(deep).to_vec();
    let expected = [0, 0, 1, 2, 3, 4, 4, 5, 5];
    let cases: Vec<_> = asked.iter().zip(expected).map(|(path, rule)| (get("", path), Some(rule))).collect();
    all.expect(&cases);
}

#[test]
fn many_depths_take_several_passes() {
    let mut all = rules();
    for depth in 1..=40 {
        all = all.rule("", prefix(&"/x".repeat(depth))).header("x", if depth == 3 { "yes" } else { "no" });
    }
    let path = "/x".repeat(50);
    all.expect(&[(get("", &path).with(&[("x", "yes")]), Some(2)), (get("", &path), None)]);
}

#[test]
fn an_entry_leads_somewhere() {
    let rules = rules().rule("", prefix("/"));
    let error = RouteTable::<u32>::new([], &rules.entries, vec![]).unwrap_err();
    assert_eq!(error, BuildError::NoSuchTarget { target: 0, targets: 0 });
}

#[test]
fn equal_input_gives_an_equal_table_in_any_order() {
    let mut rules =
        rules().rule("a.b", prefix("/a")).rule("", exact("/a")).rule("*.b", prefix("/a")).header("x", "1");
    let table = rules.table();
    rules.entries.reverse();
    assert!(rules.table() == table);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_table_agrees_with_the_oracle(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let scenario = Scenario::read(&bytes);
        prop_assert_eq!(scenario.check(), Ok(()), "{:#?}", scenario.entries);
    }

    #[test]
    fn precedence_is_a_total_order(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let ranks: Vec<_> = Scenario::read(&bytes).entries.iter().map(Precedence::of).collect();
        for a in &ranks {
            for b in &ranks {
                prop_assert_eq!(a.cmp(b), b.cmp(a).reverse());
                prop_assert_eq!(a == b, std::ptr::eq(a, b));
            }
        }
    }
}
