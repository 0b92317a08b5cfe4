//! Peers of the route table.

use std::hash::BuildHasher;

use super::{Key, Request, Route, System};

/// The crate `matchit`, path only, as its users route: a prefix is three patterns, as in axum's `nest`; hosts are a map
/// of routers, with a fast hash function. It knows no methods, headers or query parameters, and no precedence beyond the path's.
pub(super) struct Matchit(Hosts);

enum Hosts {
    One(matchit::Router<u32>),
    Many(hashbrown::HashMap<String, matchit::Router<u32>, foldhash::fast::RandomState>),
}

impl System for Matchit {
    fn new(routes: &[Route], key: Key) -> Self {
        fn insert(router: &mut matchit::Router<u32>, prefix: &str, number: u32) {
            let prefix = prefix.trim_end_matches('/');
            let patterns = [prefix.to_owned(), format!("{prefix}/"), format!("{prefix}/{{*rest}}")];
            for pattern in patterns.into_iter().filter(|pattern| !pattern.is_empty()) {
                router.insert(pattern, number).expect("prefixes differ");
            }
        }
        let routes = routes.iter().zip(0..);
        Self(match key {
            Key::Prefix => {
                let mut router = matchit::Router::new();
                routes.for_each(|(route, number)| insert(&mut router, &route.prefix, number));
                Hosts::One(router)
            }
            Key::Host => Hosts::Many(
                routes
                    .map(|(route, number)| {
                        let mut router = matchit::Router::new();
                        insert(&mut router, &route.prefix, number);
                        (route.host.clone(), router)
                    })
                    .collect(),
            ),
        })
    }

    fn find(&self, request: &Request<'_>) -> Option<u32> {
        let router = match &self.0 {
            Hosts::One(router) => router,
            Hosts::Many(routers) => routers.get(request.host)?,
        };
        router.at(request.path).ok().map(|found| *found.value)
    }
}

/// All routes, the longest prefix first, looked at one by one: what gateways do that keep a list.
pub(super) struct LinearScan(Vec<(Route, u32)>);

impl System for LinearScan {
    fn new(routes: &[Route], _key: Key) -> Self {
        let route =
            |route: &Route| Route { prefix: route.prefix.trim_end_matches('/').to_owned(), ..route.clone() };
        let mut routes: Vec<_> = routes.iter().map(route).zip(0..).collect();
        routes.sort_by_key(|(route, _)| std::cmp::Reverse(route.prefix.len()));
        Self(routes)
    }

    fn find(&self, request: &Request<'_>) -> Option<u32> {
        let applies = |route: &Route| {
            let rest = request.path.strip_prefix(&*route.prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && route.host == request.host
        };
        self.0.iter().find(|(route, _)| applies(route)).map(|(_, number)| *number)
    }
}

/// The bound: one look-up of a key that somebody else has cut out of the request.
#[expect(
    clippy::disallowed_types,
    reason = "it is what others are measured by, and its order is never asked for"
)]
pub(super) struct HashMap<S>(std::collections::HashMap<String, u32, S>);

impl<S: BuildHasher + Default> System for HashMap<S> {
    fn new(routes: &[Route], key: Key) -> Self {
        let key = |route: &Route| match key {
            Key::Prefix => route.prefix.clone(),
            Key::Host => route.host.clone(),
        };
        Self(routes.iter().map(key).zip(0..).collect())
    }

    fn find(&self, request: &Request<'_>) -> Option<u32> {
        self.0.get(request.key).copied()
    }
}
