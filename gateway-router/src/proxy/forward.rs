//! One request from its head to the head of its answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use lbcore::route::{Outcome, RequestHead, RouteMatcher};
use lbcore::time::Instant;

use super::body::{RequestBody, ResponseBody, UpstreamBody};
use super::io::Stall;
use super::pool::{ExchangeError, Upstream};
use super::{Ingress, Shared, headers};
use crate::balance::Backend;
use crate::filter::host_of;
use crate::model::{RedirectScheme, strip_port};
use crate::rule::{Action, RequestFilter, Rule};

/// Answers one request of `client` that came in for `ingress`.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    ingress: &Ingress,
    client: IpAddr,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    shared.counters.requests.add();
    let (parts, incoming) = request.into_parts();
    match Exchange::new(shared, ingress, client).run(parts, incoming).await {
        Ok(response) => response,
        Err(refusal) => refusal.response(shared),
    }
}

/// Why the gateway answers by itself.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    BadHost,
    ForeignCoding,
    MethodNotAllowed,
    Misdirected,
    NotFound,
    NoBackend,
    NoEndpoint,
    UpstreamFailed,
    UpstreamTimeout,
}

impl Refusal {
    fn response(self, shared: &Shared) -> Response<ResponseBody> {
        let counters = &shared.counters;
        let (status, counter, text) = match self {
            Self::BadHost => (StatusCode::BAD_REQUEST, &counters.bad_request, "a request needs one Host\n"),
            Self::ForeignCoding => (
                StatusCode::NOT_IMPLEMENTED,
                &counters.not_implemented,
                "no transfer coding but chunked is known\n",
            ),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, &counters.method_not_allowed, "this is no forward proxy\n")
            }
            Self::Misdirected => (
                StatusCode::MISDIRECTED_REQUEST,
                &counters.misdirected,
                "this connection was made for another host\n",
            ),
            Self::NotFound => (StatusCode::NOT_FOUND, &counters.not_found, "no route matches\n"),
            Self::NoBackend => {
                (StatusCode::INTERNAL_SERVER_ERROR, &counters.no_backend, "the route has no valid backend\n")
            }
            Self::NoEndpoint => {
                (StatusCode::SERVICE_UNAVAILABLE, &counters.no_endpoint, "no endpoint is ready\n")
            }
            Self::UpstreamFailed => {
                (StatusCode::BAD_GATEWAY, &counters.upstream_failed, "the endpoint failed\n")
            }
            Self::UpstreamTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                &counters.upstream_timeout,
                "the endpoint did not answer in time\n",
            ),
        };
        counter.add();
        let mut response = Response::new(ResponseBody::Own(Some(Bytes::from_static(text.as_bytes()))));
        *response.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        if matches!(self, Self::ForeignCoding) {
            // RFC 9112 §9.6: where its body ends is not sure.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

struct Exchange<'s> {
    shared: &'s Arc<Shared>,
    ingress: &'s Ingress,
    client: IpAddr,
}

impl<'s> Exchange<'s> {
    const fn new(shared: &'s Arc<Shared>, ingress: &'s Ingress, client: IpAddr) -> Self {
        Self { shared, ingress, client }
    }

    async fn run(&self, mut parts: Parts, incoming: Incoming) -> Result<Response<ResponseBody>, Refusal> {
        if parts.method == Method::CONNECT {
            return Err(Refusal::MethodNotAllowed);
        }
        check_host(&parts)?;
        if headers::has_foreign_coding(&parts.headers) {
            return Err(Refusal::ForeignCoding);
        }
        // One world from the beginning to the end.
        let current = self.shared.current.load_full();
        let gateway = current.world.gateway(&self.ingress.gateway).ok_or(Refusal::NoEndpoint)?;
        let head = RequestHead {
            port: self.ingress.port,
            server_name: None,
            host: host_of(&parts),
            path: parts.uri.path(),
            query: parts.uri.query(),
            method: &parts.method,
            headers: &parts.headers,
        };
        let rule = match gateway.table.find(&head) {
            Outcome::Found(rule) => rule,
            Outcome::Misdirected => return Err(Refusal::Misdirected),
            _ => return Err(Refusal::NotFound),
        };
        let split = match &rule.action {
            Action::Forward(split) => split,
            Action::Redirect(redirect) => {
                self.shared.counters.redirected.add();
                let (scheme, port) = (RedirectScheme::Http, self.ingress.port);
                let response = redirect.response(head.host, &parts.uri, scheme, port);
                let mut response = response.map(|()| ResponseBody::Own(None));
                for change in &rule.response {
                    change.apply(response.headers_mut());
                }
                return Ok(response);
            }
            _ => return Err(Refusal::NoBackend),
        };
        let backend = gateway.pick(rule, split, current.first_ticket).ok_or(Refusal::NoBackend)?;
        let service = backend.service.ok_or(Refusal::NoBackend)?;
        let endpoints = current.world.endpoints(service, current.first_ticket);

        self.prepare(&mut parts, rule, backend)?;
        let mut response = self.forward(parts, incoming, endpoints).await?;
        // 101, for which nobody asked, or a coding that we cannot pass on.
        if response.status().is_informational() || headers::has_foreign_coding(response.headers()) {
            return Err(Refusal::UpstreamFailed);
        }
        headers::remove_hop_by_hop(response.headers_mut());
        for change in backend.response.iter().chain(&rule.response) {
            change.apply(response.headers_mut());
        }
        *response.version_mut() = Version::HTTP_11;
        self.shared.counters.forwarded.add();
        Ok(response)
    }

    /// Makes of the client's request what the endpoint gets.
    fn prepare(&self, parts: &mut Parts, rule: &Rule, backend: &Backend) -> Result<(), Refusal> {
        if parts.uri.authority().is_some() {
            // RFC 9112 §3.2.2: the host of an absolute target replaces the one of the header.
            let host = HeaderValue::from_str(host_of(parts)).map_err(|_| Refusal::BadHost)?;
            parts.headers.insert(HOST, host);
        }
        let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
        headers::prepare_request(&mut parts.headers, self.client, RedirectScheme::Http);
        for filter in &rule.request {
            match filter {
                RequestFilter::Headers(change) => change.apply(&mut parts.headers),
                RequestFilter::Rewrite(rewrite) => rewrite.apply(parts),
            }
        }
        for change in &backend.request {
            change.apply(&mut parts.headers);
        }
        Ok(())
    }

    async fn forward(
        &self,
        parts: Parts,
        incoming: Incoming,
        endpoints: impl Iterator<Item = SocketAddr>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let has_moved = Arc::new(AtomicBool::new(false));
        let body = if incoming.is_end_stream() {
            RequestBody::Empty
        } else {
            let stall = Stall::new(self.shared.config.stall_timeout);
            RequestBody::Stream { incoming, stall, has_moved: Arc::clone(&has_moved) }
        };
        let mut request = Request::from_parts(parts, body);
        let mut refusal = Refusal::NoEndpoint;
        for endpoint in endpoints.take(self.shared.config.connect_attempts.get() as usize) {
            request = with_host(request, endpoint);
            if let Some(upstream) = self.shared.pool.take(endpoint, Instant::now()) {
                self.shared.counters.reused.add();
                let again = resendable(&request);
                match self.exchange(upstream, request, &has_moved).await {
                    Ok(response) => return Ok(response),
                    Err(ExchangeError::TimedOut) => return Err(Refusal::UpstreamTimeout),
                    Err(ExchangeError::Failed(mut error)) => {
                        let Some(unsent) = error.take_message().or(again) else {
                            return Err(Refusal::UpstreamFailed);
                        };
                        self.shared.counters.resent.add();
                        request = unsent;
                    }
                }
            }
            let connecting = Upstream::connect(endpoint);
            match tokio::time::timeout(self.shared.config.connect_timeout, connecting).await {
                Ok(Ok(upstream)) => {
                    self.shared.counters.connected.add();
                    return self.exchange(upstream, request, &has_moved).await.map_err(|error| match error {
                        ExchangeError::Failed(_) => Refusal::UpstreamFailed,
                        ExchangeError::TimedOut => Refusal::UpstreamTimeout,
                    });
                }
                Ok(Err(_)) => refusal = Refusal::UpstreamFailed,
                Err(_) => refusal = Refusal::UpstreamTimeout,
            }
            self.shared.counters.connect_failed.add();
        }
        Err(refusal)
    }

    async fn exchange(
        &self,
        mut upstream: Upstream,
        request: Request<RequestBody>,
        has_moved: &AtomicBool,
    ) -> Result<Response<ResponseBody>, ExchangeError> {
        let mut stall = Stall::new(self.shared.config.response_timeout);
        let response = upstream
            .exchange(request, |cx| {
                if has_moved.swap(false, Ordering::Relaxed) {
                    stall.moved();
                }
                stall.poll(cx)
            })
            .await?;
        let shared = Arc::clone(self.shared);
        Ok(response
            .map(|incoming| ResponseBody::Upstream(Box::new(UpstreamBody::new(incoming, upstream, shared)))))
    }
}

/// RFC 9112 §3.2: a request of HTTP/1.1 has exactly one Host, an older one at most one, and it is a host.
fn check_host(parts: &Parts) -> Result<(), Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let is_good = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_host),
        (None, _) => parts.version < Version::HTTP_11,
        (Some(_), Some(_)) => false,
    };
    if is_good { Ok(()) } else { Err(Refusal::BadHost) }
}

/// RFC 9110 §7.2: `uri-host [ ":" port ]`, of which the host may be empty.
fn is_host(text: &str) -> bool {
    let name = strip_port(text);
    let has_no_other_colon = name.starts_with('[') || !name.contains(':');
    name.is_empty() || (has_no_other_colon && !name.contains('@') && Authority::try_from(name).is_ok())
}

/// HTTP/1.0 knows requests without Host, HTTP/1.1 does not.
fn with_host(mut request: Request<RequestBody>, endpoint: SocketAddr) -> Request<RequestBody> {
    if !request.headers().contains_key(HOST)
        && let Ok(host) = HeaderValue::try_from(endpoint.to_string())
    {
        request.headers_mut().insert(HOST, host);
    }
    request
}

/// A copy of `request`, if it may be sent twice: no body, idempotent (RFC 9110 §9.2.2).
fn resendable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.body().is_empty() || !request.method().is_idempotent() {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
