//! The data plane over loopback: what clients get, and what endpoints see.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test, under a virtual clock where it reads one"
)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway_router::compile::{Resources, compile};
use gateway_router::model::{
    BackendRef, Backends, Gateway, GatewayClass, HeaderModifier, Hostname, HttpPath, HttpRoute,
    HttpRouteFilter, HttpRouteMatch, HttpRouteRule, Listener, Metadata, ParentRef, PathMatch, PathModifier,
    RequestRedirect, ServicePort, ServicePortSpec, UrlRewrite,
};
use gateway_router::proxy::{Config, Handle, Ingress, Proxy, World};
use http::{HeaderName, HeaderValue};
use lbcore::announce::Stop;
use lbcore::id::ObjectName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// A proxy that runs, and where it listens.
struct Lab {
    handle: Handle,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    /// The driver and the endpoints.
    tasks: JoinSet<()>,
    driver: Option<tokio::task::AbortHandle>,
    over: oneshot::Receiver<()>,
}

fn gateway() -> ObjectName {
    ObjectName::new("ns", "gw")
}

impl Lab {
    fn new(config: Config) -> Self {
        let (handle, driver) = Proxy::new(config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        handle.listen(Ingress::new(gateway(), 80), listener).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (is_over, over) = oneshot::channel();
        let mut tasks = JoinSet::new();
        let driver = tasks.spawn(async move {
            driver
                .run(async {
                    let _ = stopped.await;
                    Stop::Withdraw
                })
                .await;
            let _ = is_over.send(());
        });
        Self { handle, address, stop: Some(stop), tasks, driver: Some(driver), over }
    }

    fn set(&self, rules: Vec<HttpRouteRule>, services: &[(&str, &[SocketAddr])]) {
        self.handle.set(world(rules, services));
    }

    async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), rest: Vec::new() }
    }

    /// One request on a connection of its own.
    async fn get(&self, path: &str) -> Answer {
        self.client().await.send(&format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")).await
    }

    /// An endpoint that answers each connection as `answer` does.
    async fn endpoint<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        answer: impl Fn(Client) -> F + Send + 'static,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(Client { stream, rest: Vec::new() }));
            }
        });
        address
    }

    /// An endpoint that answers with its name and what it was sent.
    async fn echo(&mut self, name: &'static str) -> SocketAddr {
        self.endpoint(move |mut client| async move {
            while let Some(request) = client.receive(false).await {
                let text = format!("{name}\n{}{}", request.head, String::from_utf8_lossy(&request.body));
                let body = if request.head.starts_with("HEAD ") { "" } else { &text };
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Name: {name}\r\n\r\n", text.len());
                client.write(format!("{head}{body}").as_bytes()).await;
            }
        })
        .await
    }

    fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.driver.take().unwrap().abort();
    }
}

fn world(rules: Vec<HttpRouteRule>, services: &[(&str, &[SocketAddr])]) -> Arc<World> {
    let backends: Backends = services
        .iter()
        .map(|(name, endpoints)| {
            (
                ServicePort::new(ObjectName::new("ns", *name), 80),
                ServicePortSpec::new(endpoints.iter().copied()),
            )
        })
        .collect();
    let mut resources = Resources::new("c");
    resources.classes.push(GatewayClass::new("class", "c"));
    resources.gateways.push(Gateway::new(Metadata::new("ns", "gw"), "class", [Listener::http("http", 80)]));
    resources.routes.push(HttpRoute::new(Metadata::new("ns", "r"), [ParentRef::gateway("gw")], rules));
    Arc::new(World::new(&compile(&resources, &backends), &backends))
}

fn to(name: &str) -> HttpRouteRule {
    HttpRouteRule::to([BackendRef::service(name, 80)])
}

fn at(path: &str, rule: HttpRouteRule) -> HttpRouteRule {
    rule.matches([HttpRouteMatch::path(PathMatch::Prefix(HttpPath::new(path).unwrap()))])
}

fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

/// One end of a connection that speaks HTTP/1.1 by hand.
struct Client {
    stream: TcpStream,
    rest: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// A header of the request that the echo saw.
    fn seen(&self, name: &str) -> Option<&str> {
        header(self.text(), name)
    }
}

fn header<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let mut fields = text.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

impl Client {
    async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    async fn send(&mut self, request: &str) -> Answer {
        self.write(request.as_bytes()).await;
        self.receive(request.starts_with("HEAD ")).await.expect("an answer")
    }

    async fn more(&mut self) -> bool {
        self.rest.reserve(16 * 1024);
        matches!(self.stream.read_buf(&mut self.rest).await, Ok(1..))
    }

    /// What comes up to the first occurrence of `end`, which is included.
    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(found) = self.rest.windows(end.len()).position(|window| window == end) {
                let tail = self.rest.split_off(found + end.len());
                return Some(std::mem::replace(&mut self.rest, tail));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.rest.len() < len {
            if !self.more().await {
                return None;
            }
        }
        let tail = self.rest.split_off(len);
        Some(std::mem::replace(&mut self.rest, tail))
    }

    /// The next message. `None` if the other end closes before.
    async fn receive(&mut self, is_answer_to_head: bool) -> Option<Answer> {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await?).unwrap();
        let mut body = Vec::new();
        let length = header(&head, "content-length").map(|length| length.parse().unwrap());
        if is_answer_to_head {
        } else if header(&head, "transfer-encoding").is_some() {
            loop {
                let size = String::from_utf8(self.until(b"\r\n").await?).unwrap();
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let chunk = self.exactly(size + 2).await?;
                body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = length {
            body = self.exactly(length).await?;
        }
        Some(Answer { head, body })
    }

    async fn is_closed(&mut self) -> bool {
        !self.more().await
    }
}

#[tokio::test]
async fn routes_and_keeps_connections() {
    let mut lab = Lab::new(Config::default());
    let (one, two) = (lab.echo("one").await, lab.echo("two").await);
    lab.set(vec![at("/one", to("one")), at("/two", to("two"))], &[("one", &[one]), ("two", &[two])]);
    let mut client = lab.client().await;
    for round in 0..5 {
        for name in ["one", "two"] {
            let answer = client
                .send(&format!("GET /{name}/{round}?q=%20 HTTP/1.1\r\nHost: a.example:80\r\n\r\n"))
                .await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.header("x-name"), Some(name));
            assert!(answer.text().contains(&format!("GET /{name}/{round}?q=%20 HTTP/1.1\r\n")), "{answer:?}");
            assert_eq!(answer.seen("host"), Some("a.example:80"));
        }
    }
    let answer = client.send("GET /three HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.status(), answer.text()), (404, "no route matches\n"));
    let counters = lab.handle.counters();
    assert_eq!((counters.accepted, counters.open, counters.requests), (1, 1, 11));
    assert_eq!((counters.connected, counters.reused, counters.forwarded), (2, 8, 10));
    assert_eq!((counters.not_found, counters.upstream_failed), (1, 0));
}

#[tokio::test]
async fn what_endpoints_see() {
    let mut lab = Lab::new(Config::default());
    let one = lab.echo("one").await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let mut client = lab.client().await;
    let answer = client
        .send(
            "POST /x HTTP/1.1\r\nHost: a\r\nConnection: x-secret\r\nX-Secret: 1\r\nX-Kept: 2\r\nTE: trailers\r\n\
             Upgrade: websocket\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\
             Content-Length: 5\r\n\r\nhello",
        )
        .await;
    assert_eq!(answer.status(), 200);
    assert!(answer.text().ends_with("hello"));
    for (name, value) in [
        ("x-kept", Some("2")),
        ("content-length", Some("5")),
        ("x-forwarded-for", Some("192.0.2.1, 127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-secret", None),
        ("connection", None),
        ("te", None),
        ("upgrade", None),
        ("transfer-encoding", None),
    ] {
        assert_eq!(answer.seen(name), value, "{name}: {answer:?}");
    }

    // An absolute target names the host, whatever the header says.
    let answer = client.send("GET http://b.example/y?z HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.text().contains("GET /y?z HTTP/1.1\r\n"));
    assert_eq!(answer.seen("host"), Some("b.example"));

    // HTTP/1.0 without a host.
    let mut old = lab.client().await;
    let answer = old.send("GET /old HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer.seen("host"), Some(&*one.to_string()));
    assert!(old.is_closed().await);
}

#[tokio::test]
async fn framing_is_not_ambiguous() {
    let mut lab = Lab::new(Config::default());
    let one = lab.echo("one").await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    // RFC 9112 §6.3: chunks win over a length, the length does not go on, and nothing follows.
    for fields in [
        "Content-Length: 30\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 30",
    ] {
        let mut client = lab.client().await;
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let answer = client.send(&request).await;
        assert!(answer.text().ends_with("abc"), "{answer:?}");
        assert_eq!(answer.seen("content-length"), None);
        assert_eq!(answer.seen("transfer-encoding"), Some("chunked"));
        assert!(client.is_closed().await);
    }
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: [fd00::1]:80\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a_b.c.:\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 200),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        ("nonsense\r\n\r\n", 400),
    ] {
        assert_eq!(lab.client().await.send(request).await.status(), status, "{request}");
    }
    // What follows a coding that is not known may be a part of its body.
    let mut client = lab.client().await;
    let foreign = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(client.send(foreign).await.status(), 501);
    assert!(client.is_closed().await);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(lab.client().await.send(&long).await.status(), 431);
}

#[tokio::test]
async fn head_has_a_length_and_no_body() {
    let mut lab = Lab::new(Config::default());
    let one = lab.echo("one").await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let mut client = lab.client().await;
    for _ in 0..3 {
        let answer = client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.status(), 200);
        assert!(answer.header("content-length").unwrap().parse::<usize>().unwrap() > 0);
    }
    assert_eq!(lab.handle.counters().connected, 1);
}

#[tokio::test]
async fn answers_of_its_own() {
    let mut lab = Lab::new(Config::default());
    assert_eq!(lab.get("/").await.status(), 503, "no world yet");
    let one = lab.echo("one").await;
    let mut redirect = RequestRedirect::default();
    redirect.path = Some(PathModifier::ReplaceFullPath("/new".into()));
    redirect.port = Some(8080);
    let half = HttpRouteRule::to([BackendRef::service("one", 80), BackendRef::service("absent", 80)]);
    lab.set(
        vec![
            at("/none", HttpRouteRule::to([])),
            at("/zero", HttpRouteRule::to([BackendRef::service("one", 80).weight(0)])),
            at("/absent", to("absent")),
            at("/idle", to("idle")),
            at("/half", half),
            at("/old", HttpRouteRule::to([]).filters([HttpRouteFilter::RequestRedirect(redirect)])),
        ],
        &[("one", &[one]), ("idle", &[])],
    );
    assert_eq!(lab.get("/none").await.status(), 500);
    assert_eq!(lab.get("/zero").await.status(), 500);
    assert_eq!(lab.get("/absent").await.status(), 500);
    assert_eq!(lab.get("/idle").await.status(), 503);
    let answer = lab.get("/old?q").await;
    assert_eq!((answer.status(), answer.header("location")), (302, Some("http://a.example:8080/new?q")));
    let mut bad = 0;
    for _ in 0..40 {
        bad += u32::from(lab.get("/half").await.status() == 500);
    }
    assert!((18..=22).contains(&bad), "{bad}");
    let counters = lab.handle.counters();
    assert_eq!((counters.redirected, counters.no_endpoint), (1, 2));
}

#[tokio::test]
async fn filters_work_on_both_ways() {
    let mut lab = Lab::new(Config::default());
    let one = lab.echo("one").await;
    let modify = |value| {
        let mut modifier = HeaderModifier::default();
        modifier.set.push(pair("x-rule", value));
        modifier
    };
    let mut add = HeaderModifier::default();
    add.add.push(pair("x-rule", "backend"));
    let mut backend = BackendRef::service("one", 80);
    backend.filters = vec![HttpRouteFilter::RequestHeaderModifier(add)];
    let mut rewrite = UrlRewrite::default();
    rewrite.hostname = Some(Hostname::new("inside.example").unwrap());
    rewrite.path = Some(PathModifier::ReplacePrefixMatch("/".into()));
    let mut response = modify("response");
    response.remove = vec![HeaderName::from_static("x-name")];
    let rule = HttpRouteRule::to([backend]).filters([
        HttpRouteFilter::RequestHeaderModifier(modify("request")),
        HttpRouteFilter::UrlRewrite(rewrite),
        HttpRouteFilter::ResponseHeaderModifier(response),
    ]);
    lab.set(vec![at("/strip", rule)], &[("one", &[one])]);
    let answer = lab.get("/strip/a?b=c").await;
    assert!(answer.text().contains("GET /a?b=c HTTP/1.1\r\n"), "{answer:?}");
    assert_eq!(answer.seen("host"), Some("inside.example"));
    assert_eq!(answer.text().matches("x-rule: ").count(), 2, "{answer:?}");
    assert_eq!(answer.header("x-rule"), Some("response"));
    assert_eq!(answer.header("x-name"), None);
}

#[tokio::test]
async fn splits_by_weight_and_takes_turns() {
    let mut lab = Lab::new(Config::default());
    let (one, two, three) = (lab.echo("one").await, lab.echo("two").await, lab.echo("three").await);
    let rule = HttpRouteRule::to([
        BackendRef::service("v1", 80).weight(70),
        BackendRef::service("v2", 80).weight(30),
        BackendRef::service("v3", 80).weight(0),
    ]);
    lab.set(vec![rule], &[("v1", &[one, two]), ("v2", &[three]), ("v3", &[one])]);
    let mut client = lab.client().await;
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..200 {
        let answer = client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        *seen.entry(answer.header("x-name").unwrap().to_owned()).or_insert(0_u32) += 1;
    }
    assert!(seen["one"].abs_diff(70) <= 2 && seen["two"].abs_diff(70) <= 2, "{seen:?}");
    assert!(seen["three"].abs_diff(60) <= 3, "{seen:?}");
}

#[tokio::test]
async fn short_lived_worlds_split_all_the_same() {
    let mut lab = Lab::new(Config::default());
    let (one, two) = (lab.echo("one").await, lab.echo("two").await);
    let mut ones = 0;
    for _ in 0..40 {
        let rule = HttpRouteRule::to([BackendRef::service("v1", 80), BackendRef::service("v2", 80)]);
        lab.set(vec![rule], &[("v1", &[one]), ("v2", &[two])]);
        ones += u32::from(lab.get("/").await.header("x-name") == Some("one"));
    }
    assert!(ones.abs_diff(20) <= 3, "{ones}");
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let mut lab = Lab::new(Config::default());
    let one = lab.echo("one").await;
    // Bound and not listening, so that nobody else takes the port.
    let dead = tokio::net::TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = dead.local_addr().unwrap();
    lab.set(
        vec![at("/some", to("some")), at("/all", to("all"))],
        &[("some", &[gone, one]), ("all", &[gone])],
    );
    for _ in 0..4 {
        assert_eq!(lab.get("/some").await.status(), 200);
    }
    assert_eq!(lab.get("/all").await.status(), 502);
    let counters = lab.handle.counters();
    assert_eq!((counters.connect_failed, counters.upstream_failed), (3, 1));
}

/// Answers one request on each connection, and closes it when the second comes.
async fn breaks_off(mut client: Client) {
    client.receive(false).await;
    client.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    client.receive(false).await;
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced() {
    let mut lab = Lab::new(Config::default());
    let one = lab.endpoint(breaks_off).await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let mut client = lab.client().await;
    for _ in 0..4 {
        assert_eq!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 200);
    }
    let counters = lab.handle.counters();
    assert_eq!((counters.reused, counters.resent, counters.connected), (3, 3, 4));
    // A request that was sent and may not be repeated fails.
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(client.send(post).await.status(), 502);
    assert_eq!(client.send(post).await.status(), 200);
    assert_eq!(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.status(), 502);
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let mut lab = Lab::new(Config::default());
    // Passes on each chunk as it comes, before the next is there.
    let one = lab
        .endpoint(|mut client| async move {
            client.until(b"\r\n\r\n").await;
            client.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while client.more().await {
                let chunk = std::mem::take(&mut client.rest);
                if chunk.ends_with(b"0\r\n\r\n") {
                    client.write(b"0\r\n\r\n").await;
                    break;
                }
                client.write(&chunk).await;
            }
        })
        .await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let mut client = lab.client().await;
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let head = client.until(b"\r\n\r\n").await.unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200"));
    for round in 0..3 {
        let chunk = format!("3\r\nab{round}\r\n");
        client.write(chunk.as_bytes()).await;
        assert_eq!(client.exactly(chunk.len()).await.unwrap(), chunk.as_bytes());
    }
    client.write(b"0\r\n\r\n").await;
    assert_eq!(client.until(b"0\r\n\r\n").await.unwrap(), b"0\r\n\r\n");
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let mut lab = Lab::new(Config::default());
    let one = lab
        .endpoint(|mut client| async move {
            while let Some(request) = client.receive(false).await {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
                client.write(head.as_bytes()).await;
                client.write(&request.body).await;
            }
        })
        .await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut client = lab.client().await;
    for _ in 0..2 {
        client
            .write(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes())
            .await;
        client.write(&body).await;
        let answer = client.receive(false).await.unwrap();
        assert!(answer.body == body, "{} of {} bytes", answer.body.len(), body.len());
    }
    assert_eq!(lab.handle.counters().connected, 1);
}

#[tokio::test]
async fn expectations_are_answered_here() {
    let mut lab = Lab::new(Config::default());
    let one = lab.echo("one").await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let mut client = lab.client().await;
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    let head = client.until(b"\r\n\r\n").await.unwrap();
    assert_eq!(head, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write(b"hi").await;
    let answer = client.receive(false).await.unwrap();
    assert!(answer.text().ends_with("hi"));
    assert_eq!(answer.seen("expect"), None);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_whole() {
    let mut lab = Lab::new(Config::default());
    let (release, released) = tokio::sync::watch::channel(false);
    let one = lab
        .endpoint(move |mut client| {
            let mut released = released.clone();
            async move {
                client.receive(false).await;
                client.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
                released.wait_for(|go| *go).await.unwrap();
            }
        })
        .await;
    let nonsense = lab
        .endpoint(|mut client| async move {
            client.receive(false).await;
            client.write(b"SSH-2.0-OpenSSH\r\n\r\n").await;
        })
        .await;
    let switch = lab
        .endpoint(|mut client| async move {
            client.receive(false).await;
            client
                .write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
                .await;
            client.more().await;
        })
        .await;
    lab.set(
        vec![at("/half", to("one")), at("/nonsense", to("nonsense")), at("/switch", to("switch"))],
        &[("one", &[one]), ("nonsense", &[nonsense]), ("switch", &[switch])],
    );
    let mut client = lab.client().await;
    client.write(b"GET /half HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.until(b"half").await.is_some());
    release.send(true).unwrap();
    assert!(client.is_closed().await);
    assert_eq!(lab.handle.counters().cut_short, 1);
    assert_eq!(lab.get("/nonsense").await.status(), 502);
    assert_eq!(lab.get("/switch").await.status(), 502);
}

#[tokio::test]
async fn an_answer_in_a_coding_that_is_not_known_is_not_passed_on() {
    let mut lab = Lab::new(Config::default());
    let one = lab
        .endpoint(|mut client| async move {
            client.receive(false).await;
            client
                .write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
                .await;
        })
        .await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    assert_eq!(lab.get("/").await.status(), 502);
}

#[tokio::test]
async fn clients_beyond_the_limit_wait_for_their_turn() {
    let mut config = Config::default();
    config.max_connections = std::num::NonZeroUsize::MIN;
    let mut lab = Lab::new(config);
    let one = lab.echo("one").await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut first = lab.client().await;
    for _ in 0..20 {
        let mut second = lab.client().await;
        second.write(ask.as_bytes()).await;
        assert_eq!(first.send(ask).await.status(), 200);
        assert_eq!(lab.handle.counters().open, 1);
        drop(first);
        assert_eq!(second.receive(false).await.expect("an answer").status(), 200);
        first = second;
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let mut lab = Lab::new(Config::default());
    let (seen, mut events) = mpsc::channel(4);
    let one = lab
        .endpoint(move |mut client| {
            let seen = seen.clone();
            async move {
                client.receive(false).await;
                seen.send("request").await.unwrap();
                assert!(client.is_closed().await);
                seen.send("closed").await.unwrap();
            }
        })
        .await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let mut client = lab.client().await;
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(events.recv().await, Some("request"));
    drop(client);
    assert_eq!(events.recv().await, Some("closed"));
}

#[tokio::test]
async fn a_request_keeps_the_world_it_began_with() {
    let mut lab = Lab::new(Config::default());
    let (seen, mut arrived) = mpsc::channel(1);
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = lab
        .endpoint(move |mut client| {
            let (seen, mut released) = (seen.clone(), released.clone());
            async move {
                client.receive(false).await;
                seen.send(()).await.unwrap();
                released.wait_for(|go| *go).await.unwrap();
                client.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await;
            }
        })
        .await;
    let fast = lab.echo("fast").await;
    lab.set(vec![to("one")], &[("one", &[slow])]);
    let mut early = lab.client().await;
    early.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    arrived.recv().await.unwrap();
    lab.set(vec![to("one")], &[("one", &[fast])]);
    assert_eq!(lab.get("/").await.header("x-name"), Some("fast"));
    release.send(true).unwrap();
    assert_eq!(early.receive(false).await.unwrap().text(), "slow");
}

#[tokio::test]
async fn sockets_come_and_go() {
    let mut lab = Lab::new(Config::default());
    let one = lab.echo("one").await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let [(first, _, _)] = lab.handle.listening()[..] else { panic!() };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let second = lab.handle.listen(Ingress::new(gateway(), 80), listener).unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let unknown = other.local_addr().unwrap();
    lab.handle.listen(Ingress::new(gateway(), 81), other).unwrap();
    assert_eq!(lab.handle.listening().len(), 3);

    let ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let connect =
        |address| async move { Client { stream: TcpStream::connect(address).await.unwrap(), rest: vec![] } };
    assert_eq!(connect(address).await.send(ask).await.status(), 200);
    // No listener of the Gateway has port 81.
    assert_eq!(connect(unknown).await.send(ask).await.status(), 404);

    let mut kept = lab.client().await;
    assert_eq!(kept.send(ask).await.status(), 200);
    assert!(lab.handle.close(first));
    assert!(!lab.handle.close(first));
    // An idle connection of a closed socket is closed, and then nobody listens.
    assert!(kept.is_closed().await);
    assert!(TcpStream::connect(lab.address).await.is_err());
    assert_eq!(connect(address).await.send(ask).await.status(), 200);
    assert!(lab.handle.close(second));
}

#[tokio::test]
async fn a_socket_that_closes_lets_each_connection_end_with_an_answer() {
    let mut lab = Lab::new(Config::default());
    let echo = lab.echo("one").await;
    lab.set(vec![to("a")], &[("a", &[echo])]);
    let (mut busy, mut idle) = (lab.client().await, lab.client().await);
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for client in [&mut busy, &mut idle] {
        assert_eq!(client.send(request).await.header("connection"), None);
    }
    let (id, _, _) = lab.handle.listening()[0];
    assert!(lab.handle.set_closing(id, true));
    let last = busy.send(request).await;
    assert_eq!((last.status(), last.header("connection")), (200, Some("close")));
    assert!(busy.is_closed().await);
    // The idle one was not cut: it ends when it asks, and not if the address is back by then.
    assert!(lab.handle.set_closing(id, false));
    assert_eq!(idle.send(request).await.header("connection"), None);
    assert_eq!(lab.get("/").await.status(), 200, "it has been listening all the time");
    assert!(lab.handle.close(id));
    assert!(!lab.handle.set_closing(id, true));
}

#[tokio::test]
async fn a_stop_drains() {
    let mut lab = Lab::new(Config::default());
    let (seen, mut arrived) = mpsc::channel(1);
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = lab
        .endpoint(move |mut client| {
            let (seen, mut released) = (seen.clone(), released.clone());
            async move {
                client.receive(false).await;
                seen.send(()).await.unwrap();
                released.wait_for(|go| *go).await.unwrap();
                client.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await;
            }
        })
        .await;
    lab.set(vec![to("one")], &[("one", &[slow])]);
    let mut busy = lab.client().await;
    busy.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    arrived.recv().await.unwrap();
    // Connected, and silent so far: closed without waiting for it.
    let mut silent = lab.client().await;
    lab.stop();
    assert!(silent.is_closed().await);
    release.send(true).unwrap();
    let answer = busy.receive(false).await.unwrap();
    assert_eq!((answer.text(), answer.header("connection")), ("slow", Some("close")));
    assert!(busy.is_closed().await);
    (&mut lab.over).await.unwrap();
    assert!(TcpStream::connect(lab.address).await.is_err());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(lab.handle.listen(Ingress::new(gateway(), 80), listener).is_err());
    assert_eq!(lab.handle.listening(), []);
}

// From here on time is virtual: it jumps ahead whenever everybody waits.

#[tokio::test(start_paused = true)]
async fn a_drain_has_an_end() {
    let mut lab = Lab::new(Config::default());
    let (seen, mut arrived) = mpsc::channel(1);
    let mute = lab
        .endpoint(move |mut client| {
            let seen = seen.clone();
            async move {
                client.receive(false).await;
                seen.send(()).await.unwrap();
                client.more().await;
            }
        })
        .await;
    lab.set(vec![to("one")], &[("one", &[mute])]);
    let mut client = lab.client().await;
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    arrived.recv().await.unwrap();
    let start = tokio::time::Instant::now();
    lab.stop();
    (&mut lab.over).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), Config::default().drain_timeout.as_secs());
    assert!(client.is_closed().await);
}

#[tokio::test(start_paused = true)]
async fn endpoints_have_a_limit() {
    let mut lab = Lab::new(Config::default());
    let mute = lab
        .endpoint(|mut client| async move {
            client.receive(false).await;
            client.more().await;
        })
        .await;
    lab.set(vec![to("one")], &[("one", &[mute])]);
    let start = tokio::time::Instant::now();
    assert_eq!(lab.get("/").await.status(), 504);
    let limit = Config::default().response_timeout;
    assert!(start.elapsed() >= limit && start.elapsed() < limit * 2, "{:?}", start.elapsed());
    assert_eq!(lab.handle.counters().upstream_timeout, 1);
}

#[tokio::test(start_paused = true)]
async fn slow_heads_and_idle_clients_are_closed() {
    let mut lab = Lab::new(Config::default());
    let one = lab.echo("one").await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let mut slow = lab.client().await;
    slow.write(b"GET / HTTP/1.1\r\nHo").await;
    assert!(slow.is_closed().await);
    let mut mute = lab.client().await;
    assert!(mute.is_closed().await);
    let start = tokio::time::Instant::now();
    let mut idle = lab.client().await;
    assert_eq!(idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(), 200);
    assert!(idle.is_closed().await);
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    assert_eq!(lab.handle.counters().open, 0);
}

#[tokio::test(start_paused = true)]
async fn transfers_that_stand_still_are_broken_off() {
    let mut lab = Lab::new(Config::default());
    let (seen, mut closed) = mpsc::channel(1);
    let one = lab
        .endpoint(move |mut client| {
            let seen = seen.clone();
            async move {
                client.receive(false).await;
                client.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
                while client.more().await {}
                seen.send(()).await.unwrap();
            }
        })
        .await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    // The client stops in the middle of its body.
    let mut client = lab.client().await;
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    while client.more().await {}
    closed.recv().await.unwrap();
    // The endpoint stops in the middle of its body.
    let mut client = lab.client().await;
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.until(b"half").await.is_some());
    assert!(client.is_closed().await);
    closed.recv().await.unwrap();
    assert_eq!(lab.handle.counters().cut_short, 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut() {
    let mut lab = Lab::new(Config::default());
    let (seen, mut closed) = mpsc::channel(1);
    let one = lab
        .endpoint(move |mut client| {
            let seen = seen.clone();
            async move {
                client.receive(false).await;
                client.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
                let chunk = vec![0; 64 * 1024];
                while client.stream.write_all(&chunk).await.is_ok() {}
                seen.send(()).await.unwrap();
            }
        })
        .await;
    lab.set(vec![to("one")], &[("one", &[one])]);
    let mut client = lab.client().await;
    client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    closed.recv().await.unwrap();
}
