//! A right fake, and the wrong ones that each clause must notice.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// What a fake gets wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    None,
    IgnoresPorts,
    KeepsCase,
    KeepsPort,
    WildcardIsOneLabel,
    WildcardIsTheApexToo,
    PathBeforeHost,
    ShortWildcardFirst,
    FirstHostAlone,
    ListenersShare,
    ExactIgnoresSlash,
    ExactIgnoresCase,
    PrefixByCharacter,
    PrefixKeepsSlash,
    PrefixBeforeExact,
    ShortPrefixFirst,
    FirstPathAlone,
    GetIsHead,
    AnyHeader,
    HeaderByPrefix,
    AnyQuery,
    QueryIgnoresCase,
    LastQueryCounts,
    MethodBeforePath,
    HeadersBeforeMethod,
    QueryBeforeHeaders,
    HeadersUncounted,
    QueryUncounted,
    IgnoresAge,
    AgelessFirst,
    IgnoresName,
    NamespaceFirst,
    IgnoresPlace,
    Allocates,
}

struct Fake {
    defect: Defect,
    listeners: Vec<&'static str>,
    rules: Vec<Rule>,
    places: Vec<usize>,
    allocations: Arc<AtomicU64>,
}

impl Fake {
    fn host(&self, host: &str) -> String {
        let host = if self.defect == Defect::KeepsCase { host.to_owned() } else { host.to_ascii_lowercase() };
        match host.rsplit_once(':') {
            Some((name, port))
                if self.defect != Defect::KeepsPort && port.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                name.to_owned()
            }
            _ => host,
        }
    }

    fn names(&self, hostname: &str, host: &str) -> bool {
        let Some(suffix) = hostname.strip_prefix("*.") else {
            return hostname.is_empty() || hostname == host;
        };
        if self.defect == Defect::WildcardIsTheApexToo && suffix == host {
            return true;
        }
        let rest = host.strip_suffix(suffix).and_then(|rest| rest.strip_suffix('.')).unwrap_or_default();
        let is_refused = self.defect == Defect::WildcardIsOneLabel && rest.contains('.');
        !rest.is_empty() && !is_refused
    }

    fn path(&self, rule: &Rule, path: &str) -> bool {
        match rule.path {
            Path::Exact(exact) => match self.defect {
                Defect::ExactIgnoresSlash => exact.trim_end_matches('/') == path.trim_end_matches('/'),
                Defect::ExactIgnoresCase => exact.eq_ignore_ascii_case(path),
                _ => exact == path,
            },
            Path::Prefix(prefix) => {
                let prefix = match self.defect {
                    Defect::PrefixKeepsSlash if prefix != "/" => prefix,
                    _ => prefix.trim_end_matches('/'),
                };
                path.strip_prefix(prefix).is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with('/') || self.defect == Defect::PrefixByCharacter
                })
            }
        }
    }

    fn holds(&self, rule: &Rule, head: &RequestHead<'_>) -> bool {
        let method = rule.method.as_ref().is_none_or(|method| {
            method == head.method || (self.defect == Defect::GetIsHead && head.method == Method::HEAD)
        });
        let header = |(name, value): &(&str, &str)| {
            head.headers.get(*name).is_some_and(|found| match self.defect {
                Defect::HeaderByPrefix => found.as_bytes().starts_with(value.as_bytes()),
                _ => found == *value,
            })
        };
        let headers = match self.defect {
            Defect::AnyHeader => rule.headers.is_empty() || rule.headers.iter().any(header),
            _ => rule.headers.iter().all(header),
        };
        let mut parameters: Vec<_> =
            head.query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        if self.defect == Defect::LastQueryCounts {
            parameters.reverse();
        }
        let parameter = |(name, value): &(&str, &str)| match self.defect {
            Defect::QueryIgnoresCase => parameters
                .iter()
                .any(|(other, found)| other.eq_ignore_ascii_case(name) && found.eq_ignore_ascii_case(value)),
            _ => parameters.iter().find(|(other, _)| other == name).is_some_and(|(_, found)| found == value),
        };
        let query = match self.defect {
            Defect::AnyQuery => rule.query_params.is_empty() || rule.query_params.iter().any(parameter),
            _ => rule.query_params.iter().all(parameter),
        };
        method && headers && query
    }

    /// The least comes first.
    fn rank(&self, rule: &Rule) -> impl Ord + use<> {
        let hostname = rule.hostname.len();
        let is_exact = !rule.hostname.starts_with("*.");
        let (exact, prefix) = match rule.path {
            Path::Exact(_) => (1, 0),
            Path::Prefix(prefix) => (0, prefix.trim_end_matches('/').len()),
        };
        let method = usize::from(rule.method.is_some());
        let (headers, query) = (rule.headers.len(), rule.query_params.len());
        let mut counts =
            [if is_exact { hostname } else { 0 }, hostname, exact, prefix, method, headers, query];
        match self.defect {
            Defect::PathBeforeHost => counts.rotate_left(2),
            Defect::ShortWildcardFirst => counts[1] = 1000 - hostname,
            Defect::PrefixBeforeExact => counts[2] = 0,
            Defect::ShortPrefixFirst => counts[3] = 1000 - prefix,
            Defect::MethodBeforePath => counts.swap(2, 4),
            Defect::HeadersBeforeMethod => counts.swap(4, 5),
            Defect::QueryBeforeHeaders => counts.swap(5, 6),
            Defect::HeadersUncounted => counts[5] = headers.min(1),
            Defect::QueryUncounted => counts[6] = query.min(1),
            _ => {}
        }
        let age = match self.defect {
            Defect::IgnoresAge => (false, None),
            Defect::AgelessFirst => (rule.created.is_some(), rule.created),
            _ => (rule.created.is_none(), rule.created),
        };
        let name = match self.defect {
            Defect::IgnoresName => String::new(),
            // Sorts as if it were compared before the name.
            Defect::NamespaceFirst => format!("{}\0{}", rule.namespace, rule.name),
            _ => format!("{}/{}", rule.namespace, rule.name),
        };
        let place = if self.defect == Defect::IgnoresPlace { 0 } else { rule.place };
        (counts.map(Reverse), age, name, place)
    }
}

impl RouteMatcher for Fake {
    type Target = usize;

    fn find<'t>(&'t self, head: &RequestHead<'_>) -> Outcome<'t, usize> {
        if self.defect == Defect::Allocates {
            self.allocations.fetch_add(1, Ordering::Relaxed);
        }
        if self.defect != Defect::IgnoresPorts && head.port != 80 {
            return Outcome::NotFound;
        }
        let host = self.host(head.host);
        let listener = self
            .listeners
            .iter()
            .filter(|listener| self.names(listener, &host))
            .max_by_key(|listener| (!listener.is_empty() && !listener.starts_with("*."), listener.len()));
        let mut candidates: Vec<_> = self
            .rules
            .iter()
            .zip(&self.places)
            .filter(|(rule, _)| match self.defect {
                Defect::ListenersShare => self.names(rule.listener, &host),
                _ => Some(&rule.listener) == listener,
            })
            .filter(|(rule, _)| self.names(rule.hostname, &host))
            .collect();
        candidates.sort_by_key(|(rule, _)| self.rank(rule));
        if let (Defect::FirstHostAlone, Some((best, _))) = (self.defect, candidates.first().copied()) {
            candidates.retain(|(rule, _)| rule.hostname == best.hostname);
        }
        candidates.retain(|(rule, _)| self.path(rule, head.path));
        if let (Defect::FirstPathAlone, Some((best, _))) = (self.defect, candidates.first().copied()) {
            candidates.retain(|(rule, _)| rule.path == best.path);
        }
        match candidates.into_iter().find(|(rule, _)| self.holds(rule, head)) {
            Some((_, place)) => Outcome::Found(place),
            None => Outcome::NotFound,
        }
    }
}

struct FakeHarness {
    defect: Defect,
    allocations: Arc<AtomicU64>,
}

impl FakeHarness {
    fn new(defect: Defect) -> Self {
        Self { defect, allocations: Arc::default() }
    }
}

impl Harness for FakeHarness {
    fn build(&self, listeners: &[&'static str], rules: &[Rule]) -> Box<dyn RouteMatcher<Target = usize>> {
        let listeners = listeners.iter().copied().chain(rules.iter().map(|rule| rule.listener)).collect();
        Box::new(Fake {
            defect: self.defect,
            listeners,
            rules: rules.to_vec(),
            places: (0..rules.len()).collect(),
            allocations: self.allocations.clone(),
        })
    }

    /// What the fake owns up to: it is no model of an allocator.
    fn allocations(&self, run: &mut dyn FnMut()) -> u64 {
        let before = self.allocations.load(Ordering::Relaxed);
        run();
        self.allocations.load(Ordering::Relaxed) - before
    }
}

#[test]
fn a_right_one_passes() {
    run_all(&FakeHarness::new(Defect::None));
}

#[test]
fn each_clause_fails_against_its_broken_fakes() {
    let broken = [
        ("what_no_rule_matches_is_not_found", &[Defect::IgnoresPorts][..]),
        ("a_host_has_neither_case_nor_port", &[Defect::KeepsCase, Defect::KeepsPort]),
        ("a_wildcard_is_one_label_or_more", &[Defect::WildcardIsOneLabel, Defect::WildcardIsTheApexToo]),
        ("the_most_specific_host_comes_first", &[Defect::PathBeforeHost, Defect::ShortWildcardFirst]),
        ("a_host_without_a_match_leaves_it_to_the_next", &[Defect::FirstHostAlone]),
        ("a_listener_leaves_nothing_to_others", &[Defect::ListenersShare]),
        ("an_exact_path_is_exact", &[Defect::ExactIgnoresSlash, Defect::ExactIgnoresCase]),
        ("a_prefix_is_whole_elements", &[Defect::PrefixByCharacter, Defect::PrefixKeepsSlash]),
        ("an_exact_path_comes_before_prefixes", &[Defect::PrefixBeforeExact]),
        ("the_longest_prefix_comes_first", &[Defect::ShortPrefixFirst]),
        ("a_prefix_that_does_not_hold_leaves_it_to_a_shorter_one", &[Defect::FirstPathAlone]),
        ("a_method_is_exact", &[Defect::GetIsHead]),
        ("all_headers_are_there", &[Defect::AnyHeader, Defect::HeaderByPrefix]),
        (
            "all_query_parameters_are_there",
            &[Defect::AnyQuery, Defect::QueryIgnoresCase, Defect::LastQueryCounts],
        ),
        ("a_path_counts_for_more_than_a_method", &[Defect::MethodBeforePath]),
        ("a_method_counts_for_more_than_headers", &[Defect::HeadersBeforeMethod]),
        ("headers_count_for_more_than_query_parameters", &[Defect::QueryBeforeHeaders]),
        ("more_conditions_come_first", &[Defect::HeadersUncounted, Defect::QueryUncounted]),
        ("the_oldest_route_comes_first", &[Defect::IgnoresAge, Defect::AgelessFirst]),
        ("then_the_name_decides", &[Defect::IgnoresName, Defect::NamespaceFirst]),
        ("then_the_first_rule", &[Defect::IgnoresPlace]),
        ("a_look_up_allocates_nothing", &[Defect::Allocates]),
    ];
    assert_eq!(broken.map(|(name, _)| name)[..], CLAUSES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for ((clause, run), (_, defects)) in CLAUSES.iter().zip(broken) {
        for defect in defects {
            let failed = std::panic::catch_unwind(|| run(&FakeHarness::new(*defect)));
            assert!(failed.is_err(), "{clause} does not notice {defect:?}");
        }
    }
}
